//! Hostile files, by families: each member of a family is a small store with its files changed,
//! looked at in one way of opening after the other. A look ends in a typed error or in answers that
//! are right; never in a panic, a signal, a hang, or memory beyond a bound.
//!
//! Each family runs in a process of its own, under limits of address space, processor time and
//! heap; the last line that it said names the case which broke it. The short form takes some
//! members of each family, and one way of opening each; all of them:
//!
//! `STRATALOG_HOSTILE=long cargo test --release --test hostile`
#![cfg(test)]

#[path = "hostile/cases.rs"]
mod cases;
#[path = "../fuzz/src/forge.rs"]
mod forge;
#[path = "hostile/lsns.rs"]
mod lsns;
#[path = "hostile/places.rs"]
mod places;
#[path = "../fuzz/src/victim.rs"]
mod victim;

use cap::Cap;
use cases::Case;
use std::alloc::System;
use std::path::Path;
use std::process::Command;
use victim::{Look, Outcome, Victim};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// Heap that a look may take beyond what the family holds: a store of a few MiB.
const HEAP_BYTES: usize = 48 << 20;
/// Limits of a family's process: kilobytes of address space, seconds of processor time.
const SPACE: u32 = 3_000_000;
const SECONDS: u32 = 3_000;
/// Members of a family in the short form.
const SHORT: usize = 60;
/// Ways of opening.
const LOOKS: u8 = 12;
const FAMILY: &str = "STRATALOG_HOSTILE_FAMILY";

fn is_long() -> bool {
    std::env::var("STRATALOG_HOSTILE").is_ok_and(|form| form == "long")
}

/// A directory in memory where there is such a place.
fn place() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap()
}

/// Says something to the parent.
fn say(what: impl std::fmt::Display) {
    println!("@@{what}");
}

/// Runs a family in a process of its own, and fails with its last words.
fn assert_survived(family: &str) {
    let script = format!("ulimit -v {SPACE} && ulimit -t {SECONDS} && exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "roles", "--nocapture", "--test-threads=1"]).env(FAMILY, family);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().rev().find(|line| line.contains("@@")).unwrap_or("nothing");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{family}: {}, after {last}\n{errors}", output.status);
    assert!(last.contains("looks, ") && !last.contains("@@0 looks"), "{family}: {last}");
    println!("{family}: {last}");
}

/// In the process of a family.
#[test]
fn roles() {
    let Ok(family) = std::env::var(FAMILY) else { return };
    let place = place();
    let victim = Victim::make(place.path()).unwrap();
    let cases = cases::of(&family, &victim);
    let stride = if is_long() { 1 } else { cases.len().div_ceil(SHORT).max(1) };
    HEAP.set_limit(HEAP.allocated() + HEAP_BYTES).unwrap();
    let (mut looks, mut opened) = (0, 0);
    for (n, case) in cases.iter().enumerate().filter(|(n, _)| n % stride == n / stride % stride) {
        let ways = if is_long() { 0..LOOKS } else { n as u8 % LOOKS..n as u8 % LOOKS + 1 };
        for way in ways {
            let how = Look::of(way, case.genuine);
            say(format!("{} ({how:?})", case.name));
            opened += u32::from(look_at(&victim, case, place.path(), how) == Outcome::Opened);
            looks += 1;
        }
    }
    assert!(looks > 0);
    say(format!("{looks} looks, {opened} opened"));
}

fn look_at(victim: &Victim, case: &Case, place: &Path, how: Look) -> Outcome {
    let mut changed = victim.clone();
    (case.change)(&mut changed.files);
    changed.write(place).unwrap();
    drop(changed);
    victim::look(place, how)
}

#[test]
fn files_cut_at_any_length() {
    assert_survived("cut");
}

#[test]
fn files_with_more_behind_their_end() {
    assert_survived("extended");
}

#[test]
fn files_that_changed_places_or_names_or_are_gone() {
    assert_survived("moved");
}

#[test]
fn flipped_bits() {
    assert_survived("flipped");
}

#[test]
fn zeroed_stretches() {
    assert_survived("zeroed");
}

#[test]
fn strangers_files_in_place_of_the_stores() {
    assert_survived("foreign");
}

#[test]
fn slots_with_any_numbers_under_right_sums() {
    assert_survived("forged slots");
}

#[test]
fn frames_with_any_numbers_under_right_sums() {
    assert_survived("forged frames");
}

#[test]
fn headers_and_manifests_with_any_numbers_under_right_sums() {
    assert_survived("forged headers");
}

#[test]
fn a_sealed_count_sizes_nothing_beyond_a_segment() {
    assert_survived("sealed counts");
}
