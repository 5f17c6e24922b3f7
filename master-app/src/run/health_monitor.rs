//! Looks every few seconds for what the person at the host should know of and cannot see: no relay,
//! no network, no room, a door that is full, a clock that jumped. What it finds it raises as a
//! problem, and takes back when it is over.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lanyard_hub::authority::Authority;
use lanyard_protocol::HubInfo;
use lanyard_protocol::message::RelayStatus;
use lanyard_system::clock::now_ms;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::authority::driver::DriverHandle;
use crate::net::addresses;
use crate::operator::actions::{self, ListUsage};
use crate::output::text;
use crate::problems::ActiveProblem;

/// A problem is on the screen within three seconds of its beginning.
const EVERY: Duration = Duration::from_secs(2);
/// A relay that is away for less is only being started anew.
const RELAY_MAY_BE_AWAY: Duration = Duration::from_secs(2);
/// Less room than this, and what the host decides can soon not be written down.
const LOW_DISK_BYTES: u64 = 256 << 20;
/// A clock that is set does not move by less in one step; a machine that slept moves both clocks.
const CLOCK_STEP: Duration = Duration::from_secs(60);
/// How long a jump is shown.
const CLOCK_SHOWN: Duration = Duration::from_secs(600);

/// From this part of the list's bound on, in percent, devices that list much are refused
/// (`RESERVED_FOR_SMALL_DEVICES`).
const LIST_FULL_PERCENT: u64 = 85;

const CODES: [&str; 6] =
    ["relay_away", "no_network", "little_room", "door_full", "list_full", "clock_jumped"];

/// Where to look.
pub(crate) struct HealthMonitor {
    pub driver: DriverHandle,
    /// The address that this process itself listens on, if its relay is here.
    pub listen: Option<SocketAddr>,
    pub data_dir: PathBuf,
}

/// The findings of one check.
#[derive(Debug, Default)]
struct Observation {
    relay_away_for: Option<Duration>,
    has_network: Option<bool>,
    free_bytes: Option<u64>,
    relay: Option<RelayStatus>,
    list: ListUsage,
    /// By how much the clock was moved, forward or back, if it was of late.
    clock_jump_s: Option<i64>,
}

impl HealthMonitor {
    /// Until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut clock = Clock::new();
        let mut away_since = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            let look = |authority: &Authority, _: Option<&HubInfo>| {
                (
                    authority.is_relay_ready(),
                    actions::usage(authority),
                    authority.relay_status().cloned(),
                )
            };
            let Ok((relay_ready, list, relay)) = self.driver.query(look).await else { return };
            away_since = if relay_ready { None } else { away_since.or(Some(Instant::now())) };
            let seen = Observation {
                relay_away_for: away_since.map(|since| since.elapsed()),
                has_network: self.listen.map(addresses::reaches_others),
                free_bytes: free_bytes(self.data_dir.clone()).await,
                relay,
                list,
                clock_jump_s: clock.look(now_ms(), Instant::now()),
            };
            let (found, all) = (seen.problems(now_ms()), self.driver.problems());
            for code in
                CODES.iter().filter(|code| found.iter().all(|problem| problem.code != **code))
            {
                all.clear(code);
            }
            found.into_iter().for_each(|problem| all.raise(problem));
        }
    }
}

impl Observation {
    fn problems(&self, since_ms: u64) -> Vec<ActiveProblem> {
        let mut found = Vec::new();
        let mut say = |code, what: String, advice: &str| {
            found.push(ActiveProblem { code, what, advice: advice.into(), since_ms });
        };
        if self.relay_away_for.is_some_and(|away| away >= RELAY_MAY_BE_AWAY) {
            let advice = "Lanyard keeps trying. If you run `lanyard relay` yourself, check it.";
            say(
                "relay_away",
                "Lanyard can't be reached from the network right now. Nobody can join or download."
                    .into(),
                advice,
            );
        }
        if self.has_network == Some(false) {
            let what =
                "This computer is not connected to a network. Only this computer can open the hub.";
            say(
                "no_network",
                what.into(),
                "Connect it to the network of the other devices. The hub's addresses will change.",
            );
        }
        if let Some(free) = self.free_bytes.filter(|free| *free < LOW_DISK_BYTES) {
            let what = format!(
                "Only {} are left on the disk that holds the hub's folder.",
                text::size(free)
            );
            say(
                "little_room",
                what,
                "Free some space. Without space, no device can be approved or turned away.",
            );
        }
        if let Some(relay) = self.relay.as_ref().filter(|relay| relay.is_door_full()) {
            let what = format!("{} devices are waiting, and no more can knock.", relay.pending);
            say("door_full", what, "Approve them or turn them away; then others can knock.");
        }
        if self.list.limit_bytes > 0
            && self.list.bytes >= self.list.limit_bytes / 100 * LIST_FULL_PERCENT
        {
            let most = self.list.devices.first();
            let by = most.map_or_else(String::new, |row| {
                format!(
                    "; {} takes the most of it, {}",
                    text::visible(&row.name),
                    text::size(row.bytes)
                )
            });
            let bytes = text::size(self.list.bytes);
            let limit = text::size(self.list.limit_bytes);
            let what = format!(
                "The list of files and links is almost full: {bytes} of {limit}{by}. Some devices can't add more."
            );
            say(
                "list_full",
                what,
                "Ask people to share fewer files, or a folder as one archive. Or turn a device away.",
            );
        }
        if let Some(seconds) = self.clock_jump_s {
            let way = if seconds > 0 { "forward" } else { "back" };
            let minutes = seconds.unsigned_abs().div_ceil(60);
            let what = format!("This computer's clock was moved {way} by about {minutes} minutes.");
            say(
                "clock_jumped",
                what,
                "Who may stay for a time stays by the new clock. Look whether that is what you meant.",
            );
        }
        found
    }
}

/// Compares the clock on the wall with one that nobody sets.
struct Clock {
    before: (u64, Instant),
    jumped: Option<(i64, Instant)>,
}

impl Clock {
    fn new() -> Self {
        Self { before: (now_ms(), Instant::now()), jumped: None }
    }

    /// Seconds of a jump that is still worth telling.
    fn look(&mut self, wall_ms: u64, now: Instant) -> Option<i64> {
        let (wall_before, before) = std::mem::replace(&mut self.before, (wall_ms, now));
        let wall = wall_ms as i64 - wall_before as i64;
        let apart = wall - now.duration_since(before).as_millis() as i64;
        if apart.unsigned_abs() >= CLOCK_STEP.as_millis() as u64 {
            self.jumped = Some((apart / 1_000, now));
        }
        self.jumped = self.jumped.filter(|(_, at)| now.duration_since(*at) < CLOCK_SHOWN);
        self.jumped.map(|(seconds, _)| seconds)
    }
}

/// What this account may still write there. A disk that hangs holds up one thread, not the hub.
#[cfg(unix)]
async fn free_bytes(dir: PathBuf) -> Option<u64> {
    let stat = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&dir)).await.ok()?.ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(not(unix))]
async fn free_bytes(_dir: PathBuf) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(seen: Observation) -> Vec<&'static str> {
        seen.problems(1).into_iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn a_hub_that_is_well_has_no_problem() {
        let relay = RelayStatus { pending: 3, pending_limit: 64, ..Default::default() };
        let seen = Observation {
            has_network: Some(true),
            free_bytes: Some(1 << 40),
            relay: Some(relay),
            ..Observation::default()
        };
        assert!(codes(seen).is_empty());
        assert!(
            codes(Observation {
                relay_away_for: Some(Duration::from_millis(500)),
                ..Observation::default()
            })
            .is_empty()
        );
    }

    #[test]
    fn each_trouble_has_its_own_words_and_something_to_do() {
        let relay = RelayStatus { pending: 64, pending_limit: 64, ..Default::default() };
        let seen = Observation {
            relay_away_for: Some(Duration::from_secs(3)),
            has_network: Some(false),
            free_bytes: Some(1 << 20),
            relay: Some(relay),
            list: ListUsage { bytes: 230 << 20, limit_bytes: 256 << 20, ..Default::default() },
            clock_jump_s: Some(-7_200),
        };
        let problems = seen.problems(1);
        assert!(
            problems
                .iter()
                .all(|problem| problem.what.ends_with('.') && problem.advice.ends_with('.'))
        );
        assert!(problems.iter().any(|problem| problem.what.contains("back by about 120 minutes")));
        assert_eq!(codes(seen), CODES);
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_and_one_that_runs_or_sleeps_is_not() {
        let (start, wall) = (Instant::now(), 1_000_000_000);
        let mut clock = Clock { before: (wall, start), jumped: None };
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(clock.look(wall + 2_000, at(2)), None);
        assert_eq!(
            clock.look(wall + 3_602_000, at(3_602)),
            None,
            "both went on while the machine slept"
        );
        assert_eq!(clock.look(wall + 2_000, at(3_604)), Some(-3_602));
        assert_eq!(clock.look(wall + 4_000, at(3_606)), Some(-3_602), "it is shown for a while");
        assert_eq!(clock.look(wall + 704_000, at(4_306)), None);
    }
}
