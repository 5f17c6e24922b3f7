//! Ten thousand decisions, each with a crash at some instant around it: of the master, of the
//! relay, of the device, of two of them. Whatever died when, a device is in or it is not, on the
//! disk, at the relay and in its own eyes alike; what the host was told is done stays done; and a
//! refusal that was told is not lifted by anything.

use lanyard_hub::authority::{OperatorCommand, Verdict};
use lanyard_hub::peer::EndReason;
use lanyard_tests::sim::actors::device::DeviceIndex;
use lanyard_tests::sim::random::Random;
use lanyard_tests::sim::{Simulation, SimulationConfig};

const DECISIONS: u64 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    LetIn,
    TurnAway,
    /// Somebody who was let in before.
    TurnOut,
}

#[derive(Debug, Default)]
struct SeenDecisions {
    decided: u64,
    never_was: u64,
    told_before_the_crash: u64,
}

#[test]
fn a_decision_is_made_or_it_is_not_whoever_dies_when() {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
    let seen: Vec<SeenDecisions> = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                scope.spawn(move || {
                    let mut seen = SeenDecisions::default();
                    (part..DECISIONS)
                        .step_by(threads as usize)
                        .for_each(|seed| play(seed, &mut seen));
                    seen
                })
            })
            .collect();
        parts.into_iter().map(|part| part.join().unwrap()).collect()
    });
    let sum = |of: fn(&SeenDecisions) -> u64| seen.iter().map(of).sum::<u64>();
    let (decided, never_was, told) =
        (sum(|s| s.decided), sum(|s| s.never_was), sum(|s| s.told_before_the_crash));
    println!(
        "{decided} decisions held, {never_was} never were, {told} had been told before the crash"
    );
    assert!(
        decided > 1_000 && never_was > 1_000 && told > 100,
        "crashes on both sides of the decision"
    );
}

fn play(seed: u64, seen: &mut SeenDecisions) {
    let mut random = Random::new(seed.wrapping_mul(77));
    let latency_ms = *random.pick(&[1, 5, 20]).unwrap();
    let mut world =
        Simulation::new(seed, SimulationConfig { latency_ms, ..SimulationConfig::default() });
    world.run_for(500);
    let decision = *random.pick(&[Decision::LetIn, Decision::TurnAway, Decision::TurnOut]).unwrap();
    let device = if decision == Decision::TurnOut {
        world.joins(0, "Alice")
    } else {
        world.knocks(0, "Alice")
    };
    let before = world.verdict(device);

    let public_id = world.device(device).public_id;
    match decision {
        Decision::LetIn => {
            let code = world.device(device).code().unwrap().to_owned();
            world.approve(public_id, &code);
        }
        Decision::TurnAway | Decision::TurnOut => {
            world.operator(OperatorCommand::Refuse { public_id }, "refuse")
        }
    }
    world.run_for(random.below(4 * latency_ms + 12));
    let told = world.master.as_ref().is_some_and(|master| master.unanswered.is_empty());
    crash(&mut world, &mut random, device);
    world.run_for(random.below(2_000));
    world.start_relay();
    world.start_master();
    world.start_device(device);
    world.run_for(40_000);

    let after = world.verdict(device);
    let wanted = if decision == Decision::LetIn { Verdict::Approved } else { Verdict::Refused };
    let is_decided = after == Some(wanted);
    assert!(
        is_decided || after == before,
        "seed {seed}: {decision:?} made {before:?} to {after:?}"
    );
    assert!(is_decided || !told, "seed {seed}: {decision:?} was told and is lost");
    let eyes = world.device(device);
    match after {
        Some(Verdict::Approved) => {
            assert!(eyes.is_approved(), "seed {seed}: let in, and sees {:?}", eyes.phase)
        }
        Some(Verdict::Refused) => {
            assert_eq!(
                eyes.ended(),
                Some(EndReason::Refused),
                "seed {seed}: turned away, and sees {:?}",
                eyes.phase
            );
        }
        None => {
            assert!(eyes.code().is_some(), "seed {seed}: at the door, and sees {:?}", eyes.phase);
            // With the digits that it shows now: those are the ones that the host's next master
            // knows.
            world.let_in(device);
            assert!(
                world.device(device).is_approved(),
                "seed {seed}: the digits of a device at the door open nothing"
            );
        }
    }
    world.settle();
    seen.decided += u64::from(is_decided);
    seen.never_was += u64::from(!is_decided);
    seen.told_before_the_crash += u64::from(told);
}

fn crash(world: &mut Simulation, random: &mut Random, device: DeviceIndex) {
    let roll = random.below(10);
    if roll <= 6 {
        world.kill_master();
    }
    if matches!(roll, 5..=8) {
        world.kill_relay();
    }
    if roll >= 8 {
        world.kill_device(device);
    }
}
