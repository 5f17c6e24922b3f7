//! The thread of a transfer that hashes and writes. One is enough: writers of one file only wait for each other in the kernel,
//! and a thread that goes from block to block is not woken for each.

use tokio::sync::{mpsc, oneshot};

/// Blocks that may wait for it: one for each run on its way.
const WAITING: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

/// Towards the thread, which ends when this is gone.
pub struct WriterThread(mpsc::Sender<Job>);

impl WriterThread {
    /// A thread of its own, not one of the runtime's: those are few, and a transfer keeps this one as long as it lasts.
    pub fn start() -> Self {
        let (sender, mut jobs) = mpsc::channel::<Job>(WAITING);
        let work = move || {
            while let Some(job) = jobs.blocking_recv() {
                job();
            }
        };
        if let Err(error) = std::thread::Builder::new().name("writer".into()).spawn(work) {
            tracing::error!(%error, "the system has no thread to write with"); // each run says that it failed
        }
        Self(sender)
    }

    /// Queues work in order and gives what tells its result; waits while too much is queued.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (reply, result) = oneshot::channel();
        let job = Box::new(move || {
            let _ = reply.send(work()); // who asked may be gone
        });
        // Without its thread the reply is dropped, which its receiver sees.
        let _ = self.0.send(job).await;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_in_the_order_of_asking_and_a_panic_is_told() {
        let writer = WriterThread::start();
        let first = writer.run(|| 1).await;
        let second = writer.run(|| panic!("as a test")).await;
        assert_eq!(first.await, Ok(1));
        let told: Result<u8, _> = second.await;
        assert!(told.is_err());
        assert!(writer.run(|| 3).await.await.is_err(), "nothing is written after a panic");
    }
}
