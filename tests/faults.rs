//! Every system call of a fixed script fails in turn, once or from there on. Invariants: the
//! process lives; every failure is an error of the crate, an interruption is none; a call that
//! failed has changed nothing, and works again if the fault has passed; after a failed flush
//! nothing is written any more, and reading goes on; and the next opening finds exactly what was
//! acknowledged, whether it takes what happened for a kill or for power loss.
//!
//! Faults are planted by `strace`; without it, or where it may not trace, the test says that it
//! skips. Forty faults in `cargo test`; `STRATALOG_FAULTS=all` for all of them,
//! `STRATALOG_FAULTS=fsync` for one call's, `STRATALOG_FAULTS_SEED=n` for another choice.
#![cfg(test)]

mod common;
#[path = "faults/script.rs"]
mod script;
#[path = "faults/tracer.rs"]
mod tracer;

use common::{State, assert_same, mix, open, reopen, state};
use script::Fault;
use std::collections::BTreeMap;
use std::path::Path;
use stratalog::internals::format::header::BOOT_AT;
use stratalog::{Options, Store};
use tempfile::TempDir;
use tracer::{Case, Played};

const CASES: usize = 40;

/// What the process of its own does.
#[test]
fn script() {
    if let Some((place, fault)) = tracer::script() {
        assert!(place.is_dir());
        script::play(&place, fault);
    }
}

fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("stratalog-faults-").tempdir_in(place).unwrap()
}

type Model = BTreeMap<Vec<u8>, u32>;

/// What was acknowledged, at the end and when each backup was begun.
#[derive(Default)]
struct Acknowledged {
    model: Model,
    /// With whether it was acknowledged.
    backups: BTreeMap<u32, (Model, bool)>,
    errors: u64,
    opened: bool,
}

fn acknowledged(said: &str) -> Acknowledged {
    let mut all = Acknowledged::default();
    for line in said.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let id = |text: &str| text.as_bytes().to_vec();
        match &words[..] {
            ["error", ..] => all.errors += 1,
            ["backup", n] => {
                all.backups.insert(n.parse().unwrap(), (all.model.clone(), false));
            }
            ["ok", "backup", n] => all.backups.get_mut(&n.parse().unwrap()).unwrap().1 = true,
            ["ok", "open"] => all.opened = true,
            ["ok", "remove", name] => drop(all.model.remove(&id(name))),
            ["ok", "put", name @ .., version] => {
                all.model.insert(id(&name.join(" ")), version.parse().unwrap());
            }
            ["ok", "batch", version, added @ .., "-", removed] => {
                let version = version.parse().unwrap();
                all.model.extend(added.iter().map(|name| (id(name), version)));
                all.model.remove(&id(removed));
            }
            _ => {}
        }
    }
    all
}

fn versions(state: &State) -> Model {
    let version = |r: &stratalog::OwnedRecord| script::version_of(&r.id, &r.embedding, &r.content);
    state.iter().map(|(id, record)| (id.clone(), version(record))).collect()
}

/// Lets the next opening take what happened for power loss, in which nothing was lost.
fn reboot(store: &Path) {
    for entry in std::fs::read_dir(store).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "seg") {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[0xB0; 16], BOOT_AT as u64).unwrap();
        }
    }
}

fn sound(store: &Store) -> bool {
    let report = store.recovery();
    let (corrupt, missing) = (report.corrupt, report.missing_segments);
    let counted = (corrupt, missing, report.foreign_files) == (0, 0, 0);
    counted && store.verify().unwrap().is_clean()
}

/// Everything that must hold after a script was played. Panics with what does not.
fn judge(place: &Path, played: &Played, rebooted: bool) -> Acknowledged {
    let Played { status, said, output, .. } = played;
    let wrong = said.lines().filter(|line| !line.starts_with("ok"));
    let wrong = wrong.take(12).collect::<Vec<_>>().join("\n");
    assert_eq!(*status, Some(0), "the script ended so; it said\n{wrong}\nand\n{output}");
    assert!(said.ends_with("end\n"), "it went away silently: {said}");
    let all = acknowledged(said);
    let store = place.join("store");
    if !all.opened {
        // Creating it failed; then it can be created now.
        let again = Options::new().dimension(8).segment_size(common::SEGMENT).open(&store);
        assert!(again.is_ok_and(|store| store.is_empty()));
        return all;
    }
    if rebooted {
        reboot(&store);
    }
    let store = open(&store);
    let before = state(&store);
    assert_eq!(versions(&before), all.model, "other than what was acknowledged\n{wrong}");
    assert!(sound(&store), "{:?} {:?}", store.recovery(), store.verify());
    script::RECORDS.put(&store, b"works again", 1);
    let store = reopen(store);
    assert!(sound(&store), "{:?} {:?}", store.recovery(), store.verify());
    assert!(store.remove("works again").unwrap().is_some());
    assert_same(&state(&reopen(store)), &before);
    for (n, (expected, done)) in &all.backups {
        let copy = place.join(format!("copy-{n}"));
        if *done || copy.exists() {
            let copy = Options::new().read_only(true).open(copy).unwrap();
            assert_eq!(versions(&state(&copy)), *expected, "backup {n}");
            assert!(sound(&copy));
        }
    }
    all
}

/// One case; what is wrong with it.
fn run(case: Case, n: usize) -> Result<Acknowledged, String> {
    let place = scratch();
    let played = tracer::play_with(place.path(), case);
    let judged = std::panic::catch_unwind(|| {
        let all = judge(place.path(), &played, n.is_multiple_of(2));
        if case.call == "fsync" {
            // What was begun can still be removed.
            let names = std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name());
            let left: Vec<_> =
                names.filter(|name| name.as_encoded_bytes().ends_with(b".tmp")).collect();
            assert!(left.is_empty(), "left behind: {left:?}");
        }
        all
    });
    judged.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let kept = place.keep();
        format!("{case}: {}\nkept in {}", text.unwrap_or_else(|| "?".into()), kept.display())
    })
}

/// The cases of this run: all, those of one call, or a choice.
fn chosen(all: Vec<Case>) -> Vec<Case> {
    match std::env::var("STRATALOG_FAULTS") {
        Ok(which) if which == "all" => all,
        Ok(call) => all.into_iter().filter(|case| case.call == call).collect(),
        Err(_) => {
            let seed = std::env::var("STRATALOG_FAULTS_SEED").map_or(1, |n| n.parse().unwrap());
            // The same number of each call's, as far as it goes.
            let mut all: Vec<_> = all.into_iter().enumerate().collect();
            all.sort_by_key(|(n, _)| mix(mix(seed) ^ *n as u64));
            let mut seen = BTreeMap::new();
            let round = |case: Case| {
                let count = seen.entry(case.call).or_insert(0);
                *count += 1;
                (*count, case)
            };
            let mut all: Vec<_> = all.into_iter().map(|(_, case)| case).map(round).collect();
            all.sort_by_key(|(round, _)| *round);
            all.into_iter().take(CASES).map(|(_, case)| case).collect()
        }
    }
}

#[test]
fn whatever_call_fails_the_process_lives_and_nothing_acknowledged_is_lost() {
    if !tracer::is_there() {
        println!("skipped: there is no strace here that may trace (apt-get install strace)");
        return;
    }
    let place = scratch();
    let (played, sites) = tracer::count(place.path());
    let undisturbed = judge(place.path(), &played, false);
    assert_eq!(undisturbed.errors, 0, "{}", played.said);
    for (call, nths) in &sites {
        println!("{call}: {} sites", nths.len());
    }
    let cases = tracer::cases(&sites);
    println!("{} cases in all", cases.len());
    assert!(cases.len() > 100, "strace sees nothing");
    let (mut felt, mut failed, mut opened) = (0, Vec::new(), 0);
    let cases = chosen(cases);
    let started = std::time::Instant::now();
    for (n, case) in cases.iter().enumerate() {
        match run(*case, n) {
            Ok(all) => {
                felt += u64::from(all.errors > 0);
                opened += u64::from(all.opened);
            }
            Err(error) => failed.push(error),
        }
    }
    let stays = cases.iter().filter(|case| case.fault == Fault::Stays).count();
    println!(
        "{} cases ({stays} that stay) in {:?}: {felt} came through as errors, {opened} had a store",
        cases.len(),
        started.elapsed()
    );
    assert!(felt > cases.len() as u64 / 20, "no fault was felt");
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n\n"));
}
