//! The filter of the log: as much as LANYARD_LOG says, and never a frame.

use tracing_subscriber::EnvFilter;

/// At their finest these print whole frames, with the proofs and tokens that are in them.
const SILENT: [&str; 2] = ["tungstenite=error", "tokio_tungstenite=error"];

/// At a terminal a person is told what matters by what is printed, so that the log holds warnings
/// only.
pub(crate) fn filter(terminal: bool) -> EnvFilter {
    let usual = if terminal { "warn" } else { "info" };
    without_frames(EnvFilter::try_from_env("LANYARD_LOG").unwrap_or_else(|_| EnvFilter::new(usual)))
}

fn without_frames(filter: EnvFilter) -> EnvFilter {
    let directives = SILENT.iter().filter_map(|directive| directive.parse().ok());
    directives.fold(filter, EnvFilter::add_directive)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct LogWriter(Arc<Mutex<Vec<u8>>>);

    impl Write for LogWriter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A51: a token travels in a frame, and frames are not logged, however much else is.
    #[test]
    fn not_even_the_finest_log_holds_a_frame() {
        let written = LogWriter::default();
        let out = written.clone();
        let log = tracing_subscriber::fmt()
            .with_env_filter(without_frames(EnvFilter::new("trace")))
            .with_writer(move || out.clone())
            .finish();
        tracing::subscriber::with_default(log, || {
            tracing::trace!(target: "tungstenite::protocol", "Received message secret");
            tracing::debug!(target: "tokio_tungstenite", "secret");
            tracing::trace!(target: "lanyard_relay::ws::device", "opened");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("opened") && !text.contains("secret"), "{text}");
    }
}
