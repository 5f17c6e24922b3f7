//! One socket from its opening to its end: texts out of an outbox, texts into reports.

use tokio::sync::mpsc;

use super::Report;
use crate::link::{DEVICE_PATH, HubUrl, Incoming, Link, LinkError, LinkReceiver, LinkSender};

pub(super) struct LinkTask {
    pub number: u64,
    pub hub: HubUrl,
    pub reports: mpsc::Sender<Report>,
}

impl LinkTask {
    /// Ends when the socket ends, or says goodbye when the outbox is gone.
    pub(super) async fn run(self, outbox: mpsc::Receiver<String>) {
        let link = self.number;
        let (code, error) = match Link::open(&self.hub, DEVICE_PATH, None).await {
            Ok(open) => {
                let channel = open.channel;
                let (sender, receiver) = open.split();
                if self.reports.send(Report::LinkOpened { link, channel }).await.is_err() {
                    return;
                }
                tokio::select! {
                    () = write(sender, outbox) => (None, None),
                    code = self.read(receiver) => (code, None),
                }
            }
            Err(error) => (None, Some(error)),
        };
        let _ = self.reports.send(Report::LinkClosed { link, code, error }).await;
    }

    async fn read(&self, mut receiver: LinkReceiver) -> Option<u16> {
        loop {
            match receiver.receive().await {
                Ok(Incoming::Text(text)) => {
                    let report = Report::Text { link: self.number, text };
                    if self.reports.send(report).await.is_err() {
                        return None;
                    }
                }
                Ok(Incoming::Closed(code)) => return code,
                Err(error) => {
                    tracing::debug!(%error, "the link broke");
                    return None;
                }
            }
        }
    }
}

async fn write(sender: LinkSender, mut outbox: mpsc::Receiver<String>) {
    let sent: Result<(), LinkError> = async {
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
