//! A device's rate limits hold for the sum of its transfers, from the first byte, and change while
//! bytes flow.

use std::time::Instant;

use lanyard_device::{DeviceEvent, Rate};

use lanyard_tests::harness::native_device::{Native, config};
use lanyard_tests::harness::{TestHub, content};

const MIB: u64 = 1 << 20;

fn limits(up: u64, down: u64) -> lanyard_device::RateLimits {
    lanyard_device::RateLimits {
        up: Rate::try_from(up).unwrap(),
        down: Rate::try_from(down).unwrap(),
    }
}

/// Two owners with a file each, and one who fetches both at once; no more than `rate` may have come
/// at any moment.
async fn fetches_at(rate: u64, up: u64, down: u64) {
    let hub = TestHub::start().await;
    let mut ana = Native::inside_as(
        &hub,
        lanyard_device::DeviceConfig { limits: limits(up, 0), ..config(&hub, 1) },
    )
    .await;
    let mut bo = Native::inside_as(
        &hub,
        lanyard_device::DeviceConfig { limits: limits(0, down), ..config(&hub, 2) },
    )
    .await;
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (name, size) in [("a", 3 * MIB), ("b", MIB)] {
        std::fs::write(from.path().join(name), content(size)).unwrap();
        ana.shares(&from.path().join(name)).await;
    }
    let wanted = bo.sees(2).await;
    let start = Instant::now();
    let mut running = 0;
    for one in wanted {
        running +=
            bo.handle.start_transfer(vec![one], to.path().into()).await.unwrap().transfers.len();
    }
    let mut done = std::collections::BTreeMap::new();
    while running > 0 {
        match bo.until(Some).await {
            DeviceEvent::Progress { transfer_id, done: bytes, .. } => {
                done.insert(transfer_id, bytes);
                let (sum, allowed) = (
                    done.values().sum::<u64>(),
                    rate as f64 * (start.elapsed().as_secs_f64() + 0.2),
                );
                assert!(sum as f64 <= allowed, "{sum} bytes in {:?}", start.elapsed());
            }
            DeviceEvent::TransferEnded { done, failed, .. } => {
                assert_eq!((done, failed), (1, 0));
                running -= 1;
            }
            _ => {}
        }
    }
    assert!(
        start.elapsed().as_secs_f64() >= 4.0 * MIB as f64 / rate as f64 - 0.2,
        "{:?}",
        start.elapsed()
    );
    assert!(std::fs::read(to.path().join("a")).unwrap() == content(3 * MIB));
    assert!(std::fs::read(to.path().join("b")).unwrap() == content(MIB));
}

#[tokio::test]
async fn no_more_comes_than_the_limit_down_allows() {
    fetches_at(2 * MIB, 0, 2 * MIB).await;
}

#[tokio::test]
async fn no_more_goes_than_the_limit_up_allows() {
    fetches_at(2 * MIB, 2 * MIB, 0).await;
}

#[tokio::test]
async fn a_limit_that_is_lifted_holds_no_body_back() {
    let hub = TestHub::start().await;
    let mut ana = Native::inside(&hub, 1).await;
    let slow = lanyard_device::DeviceConfig { limits: limits(0, 128 << 10), ..config(&hub, 2) };
    let mut bo = Native::inside_as(&hub, slow).await;
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(from.path().join("a"), content(20 * MIB)).unwrap();
    ana.shares(&from.path().join("a")).await;
    let wanted = bo.sees(1).await;
    bo.handle.start_transfer(wanted, to.path().into()).await.unwrap();
    // A byte has come, so a body is on its way and waits for the bucket.
    bo.until(|event| matches!(event, DeviceEvent::Progress { done, .. } if done > 0).then_some(()))
        .await;
    let limits = bo.handle.limit(None, Some(Rate::UNLIMITED)).await.unwrap();
    assert_eq!(limits, lanyard_device::RateLimits::default());
    // At 128 KiB/s this would take longer than the test waits.
    bo.until(|event| matches!(event, DeviceEvent::TransferEnded { done: 1, .. }).then_some(()))
        .await;
    assert!(std::fs::read(to.path().join("a")).unwrap() == content(20 * MIB));
}
