//! The slowest input of a decoder: `slowest NAME FOLDER…` reads what the fuzzer has learned, times
//! each input and each repeated to 4 KiB, and prints the worst beside the usual, which three
//! quarters stay below. Ends with 1 if one is more than 20 times the usual on a rerun, too. Without
//! arguments it does so for the seeds of all decoders.
//!
//! Times are by length, a fixed part for each call included, so that an input is not slow for being
//! long: what grows faster than its input is.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use lanyard_tests::decoders::{ALL, Decoder};

/// The cost of a call beside its bytes, counted in bytes.
const A_CALL: usize = 512;
/// As long as what the fuzzer tries.
const LONGEST: usize = 4_096;
const TOO_SLOW: f64 = 20.0;
/// A pause of the machine hits one run, not all.
const RERUNS: usize = 9;

fn time(decoder: Decoder, input: &[u8]) -> Duration {
    let started = Instant::now();
    decoder(input);
    started.elapsed()
}

/// Nanoseconds for each byte, those of the call included.
fn rate(decoder: Decoder, input: &[u8], runs: usize) -> f64 {
    let best = (0..runs).map(|_| time(decoder, input)).min().unwrap_or_default();
    best.as_nanos() as f64 / (input.len() + A_CALL) as f64
}

fn stretched(input: &[u8]) -> Vec<u8> {
    input.iter().copied().cycle().take(if input.is_empty() { 0 } else { LONGEST }).collect()
}

/// Prints the row of one decoder; whether it passed.
fn judge(name: &str, decoder: Decoder, inputs: Vec<Vec<u8>>) -> bool {
    let inputs: Vec<Vec<u8>> =
        inputs.iter().map(|input| stretched(input)).chain(inputs.iter().cloned()).collect();
    inputs.iter().for_each(|input| decoder(input)); // what is made at the first call is no input's fault
    let mut rates: Vec<(f64, &Vec<u8>)> =
        inputs.iter().map(|input| (rate(decoder, input, 3), input)).collect();
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Half of all inputs are refused at their first byte: what is read whole is the measure.
    let usual = rates[rates.len() * 3 / 4].0.max(f64::MIN_POSITIVE);
    let (first, worst) = *rates.last().unwrap();
    let again =
        if first / usual > TOO_SLOW { rate(decoder, worst, RERUNS).min(first) } else { first };
    let factor = again / usual;
    let micros = again * (worst.len() + A_CALL) as f64 / 1_000.0;
    println!(
        "| `{name}` | {} | {usual:.1} | {factor:.1} | {micros:.0} µs, {} bytes |",
        rates.len(),
        worst.len()
    );
    if factor > TOO_SLOW {
        println!(
            "{name} is slow for {:?}",
            String::from_utf8_lossy(&worst[..worst.len().min(200)])
        );
    }
    factor <= TOO_SLOW
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let only = arguments.next();
    let mut learned = Vec::new();
    for folder in arguments {
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        learned.extend(files.filter_map(|file| std::fs::read(file.path()).ok()));
    }
    let chosen = ALL.iter().filter(|(name, ..)| only.as_ref().is_none_or(|only| only == name));
    let passed: Vec<bool> = chosen
        .map(|(name, decoder, seeds)| {
            let seeds = seeds.iter().map(|seed| seed.to_vec());
            judge(
                name,
                *decoder,
                seeds.chain(learned.iter().cloned()).chain([Vec::new()]).collect(),
            )
        })
        .collect();
    assert!(!passed.is_empty(), "no such decoder");
    std::process::exit(i32::from(passed.contains(&false)));
}
