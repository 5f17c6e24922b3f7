//! Transfers that are looked at, paused, resumed and cancelled while bytes flow.

use lanyard_device::{
    DeviceConfig, DeviceEvent, Rate, RateLimits, TransferDirection, TransferInfo, TransferStatus,
    WantedDownload,
};
use lanyard_protocol::TransferId;

use lanyard_tests::harness::native_device::{Native, config};
use lanyard_tests::harness::{TestHub, content};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 6 * MIB;

/// Two who are in; one shares `film` and `other`, the other takes no more than 1 MiB a second.
struct SteeringStage {
    _hub: TestHub,
    ana: Native,
    bo: Native,
    _from: tempfile::TempDir,
    to: tempfile::TempDir,
    film: WantedDownload,
    other: WantedDownload,
}

impl SteeringStage {
    async fn set() -> Self {
        let hub = TestHub::start().await;
        let mut ana = Native::inside(&hub, 1).await;
        let limits = RateLimits { up: Rate::UNLIMITED, down: Rate::try_from(MIB).unwrap() };
        let mut bo = Native::inside_as(&hub, DeviceConfig { limits, ..config(&hub, 2) }).await;
        let from = tempfile::tempdir().unwrap();
        for (name, size) in [("film", SIZE), ("other", 3 * MIB)] {
            std::fs::write(from.path().join(name), content(size)).unwrap();
            ana.shares(&from.path().join(name)).await;
        }
        let mut wanted = bo.sees(2).await;
        wanted.sort_by(|a, b| a.as_path.cmp(&b.as_path));
        let [film, other] = wanted.try_into().unwrap();
        Self { _hub: hub, ana, bo, _from: from, to: tempfile::tempdir().unwrap(), film, other }
    }

    /// Starts to fetch the film; some of it is there.
    async fn begin(&mut self) -> TransferId {
        let to = self.to.path().to_path_buf();
        let id =
            self.bo.handle.start_transfer(vec![self.film.clone()], to).await.unwrap().transfers[0];
        self.bo
            .until(|e| matches!(e, DeviceEvent::Progress { done, .. } if done >= MIB).then_some(()))
            .await;
        id
    }

    async fn info(&self, id: TransferId) -> Option<TransferInfo> {
        let mut list = self.bo.handle.transfers().await.unwrap().into_iter();
        list.find(|info| info.transfer_id == Some(id))
    }

    async fn lift_the_limit(&self) {
        self.bo.handle.limit(None, Some(Rate::UNLIMITED)).await.unwrap();
    }
}

#[tokio::test]
async fn a_paused_transfer_takes_nothing_and_resumed_it_is_what_was_shared() {
    let mut stage = SteeringStage::set().await;
    let id = stage.begin().await;
    stage.bo.handle.pause(id).await.unwrap();
    stage
        .bo
        .until(|event| matches!(event, DeviceEvent::Transfer { paused: true, .. }).then_some(()))
        .await;
    stage.lift_the_limit().await;
    // Another file comes whole meanwhile: there was time for the first.
    let to = tempfile::tempdir().unwrap();
    let (saved, _) = stage.bo.fetches(vec![stage.other.clone()], to.path()).await;
    assert_eq!(saved.len(), 1);
    let before = stage.info(id).await.unwrap();
    assert_eq!(
        (before.state, before.direction, before.files),
        (TransferStatus::Paused, TransferDirection::Down, 1)
    );
    assert!((MIB / 2..SIZE).contains(&before.done), "{before:?}");
    let (saved, _) = stage.bo.fetches(vec![stage.other.clone()], &to.path().join("again")).await;
    assert_eq!(saved.len(), 1);
    assert_eq!(stage.info(id).await.unwrap().done, before.done, "not a byte came");
    stage.bo.handle.resume(id).await.unwrap();
    stage
        .bo
        .until(|event| matches!(event, DeviceEvent::TransferEnded { done: 1, .. }).then_some(()))
        .await;
    assert!(std::fs::read(stage.to.path().join("film")).unwrap() == content(SIZE));
    assert_eq!(stage.info(id).await, None);
}

#[tokio::test]
async fn a_cancelled_transfer_says_so_and_the_next_one_goes_on_from_its_bytes() {
    let mut stage = SteeringStage::set().await;
    let id = stage.begin().await;
    stage.bo.handle.cancel(id).await.unwrap();
    let ended = |event| match event {
        DeviceEvent::TransferEnded { done, failed, cancelled, .. } => {
            Some((done, failed, cancelled))
        }
        _ => None,
    };
    assert_eq!(stage.bo.until(ended).await, (0, 0, 1));
    assert!(!stage.to.path().join("film").exists());
    let to = stage.to.path().to_path_buf();
    let again =
        stage.bo.handle.start_transfer(vec![stage.film.clone()], to).await.unwrap().transfers[0];
    assert!(stage.info(again).await.unwrap().done >= MIB / 2, "what came is there");
    stage.lift_the_limit().await;
    assert_eq!(stage.bo.until(ended).await, (1, 0, 0));
    assert!(std::fs::read(stage.to.path().join("film")).unwrap() == content(SIZE));
}

#[tokio::test]
async fn an_owner_sees_who_fetches_from_it() {
    let mut stage = SteeringStage::set().await;
    let id = stage.begin().await;
    stage.ana.until(|event| matches!(event, DeviceEvent::RelayProgress(_)).then_some(())).await;
    let up = stage.ana.handle.transfers().await.unwrap().remove(0);
    assert_eq!((up.direction, up.transfer_id, up.total), (TransferDirection::Up, Some(id), SIZE));
    assert_eq!((up.owner_name.as_str(), up.asker_name.as_str()), ("native 1", "native 2"));
    let down = stage.info(id).await.unwrap();
    assert_eq!((down.owner, down.asker, down.total), (up.owner, up.asker, up.total));
}
