//! One socket from its opening to its end: texts out of an outbox, texts into reports.

use tokio::sync::mpsc;

use super::report::TaskReport;
use crate::connection::{
    ConnectionError, DEVICE_PATH, FrameReceiver, FrameSender, HubUrl, ReceivedFrame,
    RelayConnection,
};

pub(super) struct ConnectionTask {
    pub number: u64,
    pub hub: HubUrl,
    pub reports: mpsc::Sender<TaskReport>,
}

impl ConnectionTask {
    /// Ends when the socket ends, or says goodbye when the outbox is gone.
    pub(super) async fn run(self, outbox: mpsc::Receiver<String>) {
        let link = self.number;
        let (code, error) = match RelayConnection::open(&self.hub, DEVICE_PATH, None).await {
            Ok(open) => {
                let channel = open.channel;
                let (sender, receiver) = open.split();
                if self.reports.send(TaskReport::ConnectionOpened { link, channel }).await.is_err()
                {
                    return;
                }
                tokio::select! {
                    () = write(sender, outbox) => (None, None),
                    code = self.read(receiver) => (code, None),
                }
            }
            Err(error) => (None, Some(error)),
        };
        let _ = self.reports.send(TaskReport::ConnectionClosed { link, code, error }).await;
    }

    async fn read(&self, mut receiver: FrameReceiver) -> Option<u16> {
        loop {
            match receiver.receive().await {
                Ok(ReceivedFrame::Text(text)) => {
                    let report = TaskReport::Text { link: self.number, text };
                    if self.reports.send(report).await.is_err() {
                        return None;
                    }
                }
                Ok(ReceivedFrame::Closed(code)) => return code,
                Err(error) => {
                    tracing::debug!(%error, "the link broke");
                    return None;
                }
            }
        }
    }
}

async fn write(sender: FrameSender, mut outbox: mpsc::Receiver<String>) {
    let sent: Result<(), ConnectionError> = async {
        while let Some(text) = outbox.recv().await {
            sender.send(text).await?;
        }
        sender.close(None).await
    }
    .await;
    if let Err(error) = sent {
        tracing::debug!(%error, "the link broke");
    }
}
