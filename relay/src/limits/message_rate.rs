//! How fast a device is listened to: 200 messages a second, 400 at once, all its sessions together,
//! so that more tabs say no more. A ticket that was used gives one back: runs of 1 MiB at a
//! gigabyte a second are a thousand requests, and bytes have bounds of their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use lanyard_protocol::DeviceId;
use lanyard_protocol::limits::{MESSAGE_BURST, MESSAGES_A_SECOND};
use parking_lot::Mutex;

/// The message rates of all devices that have a session.
#[derive(Debug, Default)]
pub(crate) struct MessageRateLimiter {
    live: DashMap<DeviceId, Arc<Mutex<Tokens>>>,
}

/// One session's hold on the message rate of its device.
#[derive(Debug)]
pub(crate) struct MessageRate<'a> {
    limiter: &'a MessageRateLimiter,
    device: DeviceId,
    tokens: Arc<Mutex<Tokens>>,
}

impl MessageRateLimiter {
    pub(crate) fn of(&self, device: DeviceId) -> MessageRate<'_> {
        let tokens = self
            .live
            .entry(device)
            .or_insert_with(|| Arc::new(Mutex::new(Tokens::new(Instant::now()))))
            .clone();
        MessageRate { limiter: self, device, tokens }
    }
}

impl MessageRate<'_> {
    /// Before each message; `earned` are the tickets used since the last.
    pub(crate) async fn wait(&self, earned: u64) {
        let debt = self.tokens.lock().take(earned, Instant::now());
        if let Some(debt) = debt {
            tokio::time::sleep(debt).await;
        }
    }
}

impl Drop for MessageRate<'_> {
    fn drop(&mut self) {
        // The map's and this one.
        self.limiter.live.remove_if(&self.device, |_, tokens| Arc::strong_count(tokens) <= 2);
    }
}

#[derive(Debug)]
struct Tokens {
    left: f64,
    at: Instant,
}

impl Tokens {
    fn new(now: Instant) -> Self {
        Self { left: f64::from(MESSAGE_BURST), at: now }
    }

    /// For one message; how long it has to wait if there are none.
    fn take(&mut self, earned: u64, now: Instant) -> Option<Duration> {
        let rate = f64::from(MESSAGES_A_SECOND);
        let earned = earned as f64 + now.saturating_duration_since(self.at).as_secs_f64() * rate;
        self.at = now;
        self.left = (self.left + earned).min(f64::from(MESSAGE_BURST)) - 1.0;
        (self.left < 0.0).then(|| Duration::from_secs_f64(-self.left / rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(n: u8) -> DeviceId {
        format!("00000000-0000-8000-8000-0000000000{n:02x}").parse().unwrap()
    }

    #[test]
    fn a_session_that_sends_more_than_its_share_is_read_more_slowly() {
        let now = Instant::now();
        let mut tokens = Tokens::new(now);
        assert!((0..MESSAGE_BURST).all(|_| tokens.take(0, now).is_none()));
        assert_eq!(tokens.take(0, now), Some(Duration::from_millis(5)));
        assert_eq!(
            tokens.take(0, now + Duration::from_millis(10)),
            None,
            "two messages' time has passed"
        );
    }

    #[test]
    fn a_request_that_led_to_bytes_costs_nothing() {
        let now = Instant::now();
        let mut tokens = Tokens::new(now);
        assert!((0..10 * MESSAGE_BURST).all(|_| tokens.take(1, now).is_none()));
    }

    #[test]
    fn the_tabs_of_a_device_share_its_pace_and_others_do_not() {
        let paces = MessageRateLimiter::default();
        let (first, second, other) =
            (paces.of(device(1)), paces.of(device(1)), paces.of(device(2)));
        let now = first.tokens.lock().at;
        (0..MESSAGE_BURST).for_each(|_| assert!(first.tokens.lock().take(0, now).is_none()));
        assert!(second.tokens.lock().take(0, now).is_some());
        assert!(other.tokens.lock().take(0, now).is_none());
        drop(first);
        assert_eq!(paces.live.len(), 2, "a tab is left");
        drop((second, other));
        assert!(paces.live.is_empty());
    }
}
