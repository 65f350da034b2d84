//! The corpus of the fuzz targets, replayed, and some thousand inputs that say nothing: what a
//! fuzzer once found stays found, without one. `fuzz/run.sh` is the fuzzer.
#![cfg(test)]

#[path = "../fuzz/src/calls.rs"]
mod calls;
#[path = "../fuzz/src/forge.rs"]
mod forge;
#[path = "../fuzz/src/mirror.rs"]
mod mirror;
#[path = "../fuzz/src/parsers.rs"]
mod parsers;
#[path = "../fuzz/src/script.rs"]
mod script;
#[path = "../fuzz/src/store.rs"]
mod store;
#[path = "../fuzz/src/victim.rs"]
mod victim;

use std::path::Path;
use store::{Attacker, Place};
use victim::{Outcome, mix};

type Parser = fn(&[u8]);

/// Bytes that say nothing.
fn noise(seed: u64) -> Vec<u8> {
    let len = mix(seed) % 96;
    (0..len).map(|n| mix(seed.wrapping_mul(1_000_003) ^ n) as u8).collect()
}

/// The inputs that a folder keeps for a target.
fn kept(folder: &Path, target: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = std::fs::read_dir(folder.join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// The kept inputs of a target, and so many others.
fn inputs(target: &str, others: u64) -> Vec<Vec<u8>> {
    let mut inputs = kept(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus"), target);
    assert!(!inputs.is_empty());
    let from = std::env::var("STRATALOG_SEED").map_or(0, |n| n.parse().unwrap());
    inputs.extend((from..from + others).map(noise));
    inputs
}

const PARSERS: [(&str, Parser); 5] = [
    ("slot", parsers::slot),
    ("frame", parsers::frame),
    ("segment_header", parsers::segment_header),
    ("manifest", parsers::manifest),
    ("segment", parsers::segment),
];

#[test]
fn decoders_of_any_bytes_neither_panic_nor_go_beyond_their_bounds() {
    let mut runs = 0;
    for (target, parser) in PARSERS {
        for input in inputs(target, 2_000) {
            parser(&input);
            runs += 1;
        }
    }
    assert!(runs > 10_000, "{runs}");
}

#[test]
fn changed_stores_are_refused_or_answer_rightly() {
    let others = std::env::var("STRATALOG_RUNS").map_or(100, |n| n.parse().unwrap());
    let (mut attacker, inputs) = (Attacker::new("corpus"), inputs("store", others));
    let mut opened = 0;
    for (n, input) in inputs.iter().enumerate() {
        println!("{n}: {}", input.escape_ascii());
        opened += usize::from(attacker.run(input) == Outcome::Opened);
    }
    assert!(opened > inputs.len() / 10 && opened < inputs.len(), "{opened} of {}", inputs.len());
}

/// The directory of an attack is not written anew each time, only what differs from the last one.
#[test]
fn a_mirror_shows_the_files_that_it_is_told_to() {
    let place = Place::new("corpus-mirror").unwrap();
    let victim = victim::Victim::make(place.path()).unwrap();
    let files = victim.files.clone().into_iter();
    let usual: script::Files = files.map(|(name, file)| (name, file.into())).collect();
    let mut mirror = mirror::Mirror::new(place, &usual);
    for (n, input) in inputs("store", 100).iter().enumerate() {
        let mut files = usual.clone();
        script::apply(&mut files, &mut script::Reader(input));
        if n % 7 == 0 {
            victim.write(mirror.path()).unwrap();
            mirror.doubt();
        }
        mirror.show(&files).unwrap();
        let shown = victim::read(mirror.path()).unwrap();
        assert!(shown.iter().eq(files.iter().map(|(name, file)| (name, &**file))), "{n}");
    }
}

#[test]
fn any_sequence_of_calls_does_what_a_map_would_do() {
    let place = Place::new("corpus-calls").unwrap();
    let inputs = inputs("calls", 60);
    for (n, input) in inputs.iter().enumerate() {
        println!("{n}: {}", input.escape_ascii());
        victim::clear(place.path()).unwrap();
        calls::run(place.path(), input);
    }
    assert!(inputs.len() > 60);
}

/// For `fuzz/coverage.sh`: what lies in the folder `STRATALOG_CORPUS`, if it names one, and nothing
/// else.
#[test]
fn a_folder_that_is_named_is_replayed() {
    let Some(folder) = std::env::var_os("STRATALOG_CORPUS") else { return };
    let folder = Path::new(&folder);
    assert!(folder.is_dir(), "no folder {}", folder.display());
    for (target, parser) in PARSERS {
        kept(folder, target).iter().for_each(|input| parser(input));
    }
    let mut attacker = Attacker::new("replay");
    for input in kept(folder, "store") {
        attacker.run(&input);
    }
    let place = Place::new("replay-calls").unwrap();
    for input in kept(folder, "calls") {
        victim::clear(place.path()).unwrap();
        calls::run(place.path(), &input);
    }
}
