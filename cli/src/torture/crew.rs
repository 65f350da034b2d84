//! Several stores at once, each with a rig of its own and of another shape.

use super::rig::{Plan, Rig};
use super::tally::Tally;
use super::value::Keys;
use crate::output::{self, count, size};
use anyhow::{Context, anyhow};
use indicatif::ProgressBar;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A store is removed and begun again when it has grown past this: compaction should see to it
/// that it never does.
const DISK_BYTES_MAX: u64 = 1 << 30;

/// What all rigs do together.
pub struct Crew<'a> {
    pub directory: &'a Path,
    pub stores: u32,
    pub kills: u64,
    pub deadline: Option<Instant>,
    pub seed: u64,
    pub threads: u8,
    /// Whether some kills are at a step.
    pub steps: bool,
    pub bar: &'a ProgressBar,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Sums {
    pub tally: Tally,
    pub wiped: u64,
    pub violations: Vec<String>,
}

/// How many kills there are still to be, among all rigs.
struct Left {
    begun: AtomicU64,
    over: AtomicBool,
}

/// The shape of a store: the first is of middling size; of the others some are tiny, so that each
/// of a few keys sees a great deal, and some have large embeddings.
fn plan_of(nth: u32, threads: u8, steps: bool) -> Plan {
    let (own, shared, dimension, session) = match nth % 4 {
        0 => (400, 48, 24, 150),
        1 => (12, 6, 3, 40),
        2 => (100, 16, 700, 80),
        _ => (60, 100, 1, 60),
    };
    Plan {
        keys: Keys { threads, own, shared },
        dimension,
        segment_bytes: Some(1 << 20),
        upkeep: true,
        steps,
        session: Duration::from_millis(session),
    }
}

impl Crew<'_> {
    /// The directory of a store and its backups.
    pub fn place(&self, nth: u32) -> PathBuf {
        self.directory.join(nth.to_string())
    }

    /// Runs until there were so many kills, time is up, or something is wrong.
    pub fn run(&self) -> anyhow::Result<Sums> {
        let left = Left { begun: AtomicU64::new(0), over: AtomicBool::new(false) };
        let mut all = Sums::default();
        thread::scope(|scope| {
            let rigs: Vec<_> = (0..self.stores)
                .map(|nth| {
                    let left = &left;
                    scope.spawn(move || {
                        let done = self.run_one(nth, left);
                        if !done.as_ref().is_ok_and(|sums| sums.violations.is_empty()) {
                            // Relaxed: a flag.
                            left.over.store(true, Ordering::Relaxed);
                        }
                        done
                    })
                })
                .collect();
            for rig in rigs {
                let sums = rig.join().map_err(|_panic| anyhow!("a rig panicked"))??;
                all.tally.add(&sums.tally);
                all.wiped += sums.wiped;
                all.violations.extend(sums.violations);
            }
            Ok(all)
        })
    }

    fn run_one(&self, nth: u32, left: &Left) -> anyhow::Result<Sums> {
        let place = self.place(nth);
        fs::create_dir_all(&place)?;
        let store = place.join("store");
        let seed = self.seed ^ u64::from(nth) << 32;
        let mut rig = Rig::new(&store, plan_of(nth, self.threads, self.steps), seed);
        let mut wiped = 0;
        // Relaxed: a flag, and a count.
        while !left.over.load(Ordering::Relaxed)
            && self.deadline.is_none_or(|deadline| Instant::now() < deadline)
            && left.begun.fetch_add(1, Ordering::Relaxed) < self.kills
        {
            if disk_bytes(&store)? > DISK_BYTES_MAX {
                self.bar.suspend(|| {
                    let (kills, passed) = (count(rig.tally.kills), size(DISK_BYTES_MAX));
                    let text = format!(
                        "after {kills} kills: store {nth} has passed {passed}, begun again"
                    );
                    output::complain(&text);
                });
                fs::remove_dir_all(&store)?;
                rig.begin_again();
                wiped += 1;
            }
            rig.round().with_context(|| format!("store {nth}, seed {}", self.seed))?;
            self.bar.inc(1);
            if rig.tally.violations() > 0 {
                break;
            }
        }
        let violations = rig.violations.iter().map(|what| format!("store {nth}: {what}")).collect();
        Ok(Sums { tally: rig.tally, wiped, violations })
    }
}

/// Sizes of the files in a directory; 0 if there is none.
fn disk_bytes(directory: &Path) -> anyhow::Result<u64> {
    if !directory.exists() {
        return Ok(0);
    }
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
