//! A native device that a test steers, and what it told.

use std::path::Path;

use lanyard_device::{
    Device, DeviceConfig, DeviceEvent, DeviceHandle, MembershipPhase, RateLimits, SavedFile,
    ShareState, WantedDownload, new_instance,
};
use lanyard_hub::authority::{Approval, OperatorCommand};
use lanyard_protocol::identity::Keypair;
use lanyard_protocol::{DeviceKind, FailureCode};
use tokio::sync::mpsc;

use super::{NEVER, TestHub};

/// A native device and what it told.
pub struct Native {
    pub handle: DeviceHandle,
    events: mpsc::Receiver<DeviceEvent>,
}

pub fn config(hub: &TestHub, seed: u8) -> DeviceConfig {
    DeviceConfig {
        hub: hub.url.clone(),
        keypair: Keypair::from_seed(&[seed; 32]),
        name: format!("native {seed}"),
        kind: DeviceKind::Native,
        host_secret: None,
        platform: "test".into(),
        instance: new_instance().unwrap(),
        pinned_hub: None,
        invitation: None,
        reveals: Default::default(),
        limits: RateLimits::default(),
        content_dir: None,
    }
}

impl Native {
    pub fn start(config: DeviceConfig) -> Self {
        let (handle, events) = Device::start(config).unwrap();
        Self { handle, events }
    }

    /// Knocks, is let in by the digits it shows, and knows the list.
    pub async fn inside(hub: &TestHub, seed: u8) -> Self {
        Self::inside_as(hub, config(hub, seed)).await
    }

    pub async fn inside_as(hub: &TestHub, config: DeviceConfig) -> Self {
        let mut native = Self::start(config);
        let code = native
            .until(|event| match event {
                DeviceEvent::Phase(MembershipPhase::Waiting { code }) => code,
                _ => None,
            })
            .await;
        let public_id = native.handle.public_id();
        assert_eq!(hub.code_of(public_id).await, code, "both screens show the same digits");
        hub.operator(OperatorCommand::Approve {
            public_id,
            request_id: None,
            word: Approval::Typed(code),
            for_ms: None,
        })
        .await;
        native.approved().await;
        native
    }

    pub async fn approved(&mut self) {
        self.until(|event| {
            matches!(event, DeviceEvent::Phase(MembershipPhase::Approved { .. })).then_some(())
        })
        .await;
    }

    pub async fn until<T>(&mut self, wanted: impl Fn(DeviceEvent) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let event = self.events.recv().await.expect("the device lives");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(NEVER, waiting).await.expect("it comes")
    }

    /// Shares, and waits until all is listed.
    pub async fn shares(&mut self, path: &Path) -> usize {
        let offered = self.handle.share(vec![path.into()]).await.unwrap();
        assert_eq!(offered.skipped, []);
        let mut left = offered.files.len();
        while left > 0 {
            left -= self
                .until(|event| match event {
                    DeviceEvent::SharesChanged { file_ids, state: ShareState::Shared } => {
                        Some(file_ids.len())
                    }
                    _ => None,
                })
                .await;
        }
        offered.files.len()
    }

    /// Waits until so many files are listed, and gives them.
    pub async fn sees(&mut self, count: usize) -> Vec<WantedDownload> {
        loop {
            let catalogue = self.handle.catalogue().await.unwrap();
            if catalogue.files.len() == count {
                let wanted = |entry: &lanyard_protocol::FileEntry| WantedDownload {
                    entry: entry.clone(),
                    as_path: entry.path.clone(),
                };
                return catalogue.files.values().map(wanted).collect();
            }
            self.until(|event| (event == DeviceEvent::CatalogueChanged).then_some(())).await;
        }
    }

    /// Fetches and waits for the end: what was saved, and what failed.
    pub async fn fetches(
        &mut self,
        wanted: Vec<WantedDownload>,
        to: &Path,
    ) -> (Vec<SavedFile>, Vec<FailureCode>) {
        let started = self.handle.start_transfer(wanted, to.into()).await.unwrap();
        let (mut saved, mut failed) = (started.already, Vec::new());
        let mut running = started.transfers.len();
        while running > 0 {
            match self.until(Some).await {
                DeviceEvent::FileDone { file, .. } => saved.push(file),
                DeviceEvent::FileFailed { code, .. } => failed.push(code),
                DeviceEvent::TransferEnded { .. } => running -= 1,
                _ => {}
            }
        }
        (saved, failed)
    }
}
