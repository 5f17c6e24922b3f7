//! The signals that stop a hub.

use serde_json::json;

/// Tells the person who stops the hub, or reads its log, that it is stopping.
pub(super) fn say_stopping(json: bool) {
    match json {
        true => println!("{}", json!({ "event": "stopping" })),
        false => {
            eprintln!("stopping; transfers wait, and go on by themselves when the hub is back")
        }
    }
}

/// Ctrl-C, or the system's wish that we end.
pub(super) async fn stop_signal() {
    let interrupted = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::warn!(%error, "Ctrl-C is not heard");
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(error) => {
                tracing::warn!(%error, "SIGTERM is not heard");
                std::future::pending::<()>().await;
            }
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        () = interrupted => {}
        () = terminated => {}
    }
}
