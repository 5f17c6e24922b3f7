//! Watches running bodies: reports stalled readers to the broker, ends slow bodies, and drops used
//! tickets and group hashes that nobody needs.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lanyard_hub::broker::{Input, MasterInput, ReaderId, ReaderInput, SlotId};
use lanyard_protocol::limits::{MIN_BODY_RATE, MIN_BODY_WINDOW_MS, STANDING_STILL_MS};
use lanyard_protocol::{FailureCode, FileRef};
use tokio_util::sync::CancellationToken;

use crate::chunks::slot::{ReaderMeter, SlotBuffer};
use crate::state::RelayState;

/// How often the broker may report to the master. With the two seconds of the master app's own look
/// a full door is on its screen within three seconds.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How often what is old is looked for: it walks over all sessions and slots.
const FORGET_EVERY: Duration = Duration::from_secs(5);

/// How one reader did at the last look.
struct ReaderProgress {
    delivered: u64,
    moved: Instant,
    still: bool,
    window: (Instant, u64),
}

/// Looks at running bodies twice a second: tells the broker how far they have come and who stands
/// still, ends who is too slow, forgets used tickets and group hashes that nobody needs.
pub(crate) async fn run(state: Arc<RelayState>, stop: CancellationToken) {
    let mut forgotten = Instant::now();
    let mut reported = Instant::now();
    let mut looks: std::collections::HashMap<(SlotId, ReaderId), ReaderProgress> =
        std::collections::HashMap::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let now = Instant::now();
        let slots: Vec<Arc<SlotBuffer>> =
            state.slots.iter().map(|entry| entry.value().clone()).collect();
        let mut seen = std::collections::HashSet::new();
        let mut moved = Vec::new();
        for slot in slots {
            for (reader, meter) in slot.readers() {
                seen.insert((slot.id, reader));
                moved.push((slot.id, reader, meter.delivered.load(Ordering::Relaxed)));
                let look = looks.entry((slot.id, reader)).or_insert_with(|| ReaderProgress {
                    delivered: 0,
                    moved: now,
                    still: false,
                    window: (now, 0),
                });
                if let Some(input) = observe(&slot, reader, &meter, look, now) {
                    state.send(input).await;
                }
            }
        }
        looks.retain(|key, _| seen.contains(key));
        if !moved.is_empty() {
            state.send(Input::Reader(ReaderInput::Moved { moved })).await;
        }
        if now.duration_since(reported) >= REPORT_EVERY {
            reported = now;
            state
                .send(Input::Master(MasterInput::RejectionsCounted(state.rejections.counts())))
                .await;
        }
        if now.duration_since(forgotten) >= FORGET_EVERY {
            forgotten = now;
            sweep(&state, now);
        }
    }
}

fn observe(
    slot: &SlotBuffer,
    reader: ReaderId,
    meter: &ReaderMeter,
    look: &mut ReaderProgress,
    now: Instant,
) -> Option<Input> {
    let delivered = meter.delivered.load(Ordering::Relaxed);
    let waits = meter.starved.load(Ordering::Relaxed) && !meter.held.load(Ordering::Relaxed);
    if waits || delivered != look.delivered {
        (look.delivered, look.moved) = (delivered, now);
    }
    let window = Duration::from_millis(MIN_BODY_WINDOW_MS);
    if meter.starved.load(Ordering::Relaxed) {
        look.window = (now, delivered);
    } else if now.duration_since(look.window.0) >= window {
        if delivered - look.window.1 < MIN_BODY_RATE * MIN_BODY_WINDOW_MS / 1_000 {
            slot.cut_reader(reader, FailureCode::TimedOut);
        }
        look.window = (now, delivered);
    }
    let still = now.duration_since(look.moved) >= Duration::from_millis(STANDING_STILL_MS);
    (still != look.still).then(|| {
        look.still = still;
        Input::Reader(ReaderInput::Still { slot: slot.id, reader, still })
    })
}

fn sweep(state: &RelayState, now: Instant) {
    state.tickets.sweep(now);
    // An asker that waits has no body here, but is no reason to keep a table: the owner's return
    // begins it anew.
    let owners = state.sessions.devices();
    let moving: HashSet<FileRef> = state
        .slots
        .iter()
        .flat_map(|slot| slot.pieces.iter().map(|piece| piece.file).collect::<Vec<_>>())
        .collect();
    let lost =
        state.hashes.sweep(now, |file| owners.contains(&file.public_id) || moving.contains(file));
    state.lists_lost(lost);
}
