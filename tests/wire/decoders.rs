//! Every decoder with some thousand mutants of its seeds: the same functions that `tests/deep/fuzz`
//! runs for hours.

use lanyard_tests::decoders::ALL;
use lanyard_tests::sim::random::Random;

const MUTANTS: u64 = 1_000;
/// With `LANYARD_FULL=1`.
const FULL_MUTANTS: u64 = 5_000;

fn mutant(seeds: &[&[u8]], random: &mut Random) -> Vec<u8> {
    let mut bytes = random.pick(seeds).unwrap().to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        match random.below(5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => bytes.truncate(at),
            2 => bytes.insert(at, *random.pick(b"./\\:%\"\n\0 -{}[],0e~").unwrap()),
            3 => bytes.insert(at, random.number() as u8),
            _ => {
                let part = bytes[at..(at + random.below(40) as usize).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

#[test]
fn no_decoder_panics_or_says_what_cannot_be() {
    let mut random = Random::new(0xdec0de);
    let mutants = if lanyard_tests::full() { FULL_MUTANTS } else { MUTANTS };
    for (_, decoder, seeds) in ALL {
        seeds.iter().for_each(|seed| decoder(seed));
        decoder(&[]);
        (0..mutants).for_each(|_| decoder(&mutant(seeds, &mut random)));
    }
}

#[test]
fn every_sample_of_the_wire_is_read() {
    let samples =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/vectors/messages");
    for sample in std::fs::read_dir(samples).unwrap() {
        let text = std::fs::read(sample.unwrap().path()).unwrap();
        for direction in b'0'..=b'3' {
            let data = [&[direction], text.as_slice()].concat();
            lanyard_tests::decoders::frames(&data);
            lanyard_tests::decoders::master_frames(&data);
        }
    }
}
