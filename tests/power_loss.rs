//! Power loss, simulated: of everything written since the last flush of its file or directory the
//! device has some, at random, in units of 64, 512 or 4,096 bytes; a name that was created, renamed
//! or removed since may be there or not. Invariants: what was promised to be durable is there with
//! its bytes; of the rest a prefix in LSN order, batches whole; nothing is there that was never
//! written or that was removed for good; no LSN is given again; a recovery that is cut itself ends
//! where an uncut one does.
//!
//! A reader looks at many more states of each moment, in which units may be torn, and at those of
//! every short workload, cut at each call that orders: all subsets of what was not flushed where
//! they are few.
//!
//!     STRATALOG_POWER_LOSS_STATES=10000000 cargo test --release --test power_loss -- \
//!         --nocapture many_states                                      # the long forms
//!     STRATALOG_POWER_LOSS_WORKLOADS=all cargo test --release --test power_loss -- \
//!         --nocapture short_workload
//!
//! Each life of a store follows from a number, which a failure names. A hundred images in
//! `cargo test`; `STRATALOG_POWER_LOSS_IMAGES=2500` for so many, `STRATALOG_POWER_LOSS_SEED=n`
//! begins with another life.
#![cfg(test)]

#[path = "power_loss/again.rs"]
mod again;
#[path = "power_loss/again_tests.rs"]
mod again_tests;
#[path = "power_loss/claims.rs"]
mod claims;
mod common;
#[path = "power_loss/device.rs"]
mod device;
#[path = "common/dice.rs"]
mod dice;
#[path = "power_loss/failing.rs"]
mod failing;
#[path = "power_loss/gaps.rs"]
mod gaps;
#[path = "power_loss/judge.rs"]
mod judge;
#[path = "power_loss/life.rs"]
mod life;
#[path = "power_loss/lives.rs"]
mod lives;
#[path = "power_loss/rewritten.rs"]
mod rewritten;
#[path = "stopped/signal.rs"]
mod signal;
#[path = "power_loss/states.rs"]
mod states;
#[path = "power_loss/witness.rs"]
mod witness;
#[path = "power_loss/workloads.rs"]
mod workloads;

use claims::{Book, History};
use common::mix;
use device::{Capture, Cut, Device, Honesty, Image};
use dice::Dice;
use judge::{Judge, Opened, Tally};
use life::Writer;
use states::{Known, Viewer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use stratalog::Store;
use tempfile::TempDir;

const IMAGES: u64 = 120;
const STATES: u64 = 1_500;
/// Of one moment.
const STATES_A_MOMENT: u64 = 2_000;
/// Power losses or kills in a life, one after the other.
const GENERATIONS: u64 = 3;

/// A directory in memory, if there is such a thing: thousands of images are written.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("stratalog-power-").tempdir_in(place).unwrap()
}

/// Keeps an image for a look at it; says where.
fn keep(image: &Image) -> String {
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let kept = tempfile::Builder::new().prefix("power-loss-").tempdir_in(place).unwrap().keep();
    device::write(image, &kept);
    kept.display().to_string()
}

fn any_cut(dice: &mut Dice) -> Cut {
    let unit = [64, 512, 512, 4096][dice.below(4) as usize];
    let new = [50, 90, 97, 99, 10, 0, 100][dice.below(7) as usize];
    Cut { seed: dice.roll(), unit, new }
}

/// One store from its creation on, through several ends.
struct Life<'a> {
    seed: u64,
    dice: Dice,
    honesty: Honesty,
    book: Book,
    tally: &'a mut Tally,
    /// States of each moment that a reader looks at.
    states: u64,
    known: Known,
}

impl Life<'_> {
    fn run(&mut self) -> Result<(), String> {
        self.tally.lives += 1;
        let mut place = scratch();
        let mut device = Device::new(place.path(), self.honesty, self.dice.roll());
        for generation in 0..GENERATIONS {
            let captures = self.generation(&device, place.path());
            self.tally.captures += captures.len() as u64;
            let history = self.book.history.lock().unwrap().clone();
            for capture in &captures {
                self.judge(capture, &history)?;
            }
            if generation + 1 < GENERATIONS {
                let last = captures.last().expect("one at the end");
                let next = scratch();
                device = self.end(last, &history, next.path())?;
                place = next;
            }
        }
        drop(place);
        Ok(())
    }

    /// Runs a store until its power is lost. The moments at which that may be.
    fn generation(&mut self, device: &Arc<Device>, root: &Path) -> Vec<Capture> {
        let threads = if self.dice.one_in(4) { 3 } else { 1 };
        let (large, lazy) = (self.dice.one_in(2), self.dice.one_in(4));
        let writer = (threads == 1).then(|| std::thread::current().id());
        device.watch(if large { 16 } else { 8 }, writer);
        let path = root.join("store");
        let mut store = life::open(&path).unwrap();
        let steps = 10 + self.dice.below(if large { 160 } else { 60 });
        let mut writers: Vec<_> = (b'a'..b'a' + threads)
            .map(|name| {
                let dice = Dice(self.dice.roll());
                let mut writer = Writer::new(device, &self.book, name, dice, large);
                (writer.among_others, writer.lazy) = (threads > 1, lazy);
                writer
            })
            .collect();
        writers[0].promised(&store);
        if let [writer] = &mut writers[..] {
            for _ in 0..steps {
                writer.step(&store);
                if writer.dice.one_in(60) {
                    store = closed_and_opened(store, &path, writer);
                } else if writer.dice.one_in(400) {
                    writer.back_up(&store, root);
                }
            }
        } else {
            std::thread::scope(|scope| {
                for writer in &mut writers {
                    let store = &store;
                    scope.spawn(move || (0..steps).for_each(|_| writer.step(store)));
                }
            });
        }
        device.capture();
        let captures = device.stop();
        // Nothing is watching any more: it ends without a trace.
        drop(store);
        captures
    }

    fn judge(&mut self, capture: &Capture, history: &History) -> Result<(), String> {
        if self.states > 0 {
            let mut viewer = Viewer::new(capture, history, &mut self.known);
            let seen = viewer.sample(self.states, &mut self.dice)?;
            self.tally.states += seen.states;
            self.tally.painted += seen.painted;
            if !self.dice.one_in(20) {
                return Ok(());
            }
        }
        for _ in 0..2 {
            let cut = any_cut(&mut self.dice);
            let dice = Dice(self.dice.roll());
            let mut judge = Judge::new(&self.book, self.tally, dice);
            judge.cut(capture, history, cut, 0)?;
        }
        if capture.exact {
            self.tally.kills += 1;
            let (scratch, dice) = (scratch(), Dice(self.dice.roll()));
            let mut judge = Judge::new(&self.book, self.tally, dice);
            let image = capture.present();
            let opened = judge.open(&image, scratch.path(), &capture.claims, history, true);
            let opened = opened.map_err(|error| format!("killed: {error}, {}", keep(&image)))?;
            opened.iter().for_each(|opened| drop(opened.device.stop()));
        }
        Ok(())
    }

    /// Ends a generation at a moment: power is lost, or the process is killed and the device goes
    /// on. Where the next one begins.
    fn end(
        &mut self,
        capture: &Capture,
        history: &History,
        root: &Path,
    ) -> Result<Arc<Device>, String> {
        if capture.exact && self.dice.one_in(2) {
            let device = capture.go_on_at(root, self.dice.roll());
            *device.claims.lock().unwrap() = capture.claims;
            self.book.history.lock().unwrap().retain(|lsn, _| *lsn <= capture.claims.given);
            return Ok(device);
        }
        let (cut, dice) = (any_cut(&mut self.dice), Dice(self.dice.roll()));
        let mut judge = Judge::new(&self.book, self.tally, dice);
        let image = capture.cut(cut);
        self.book.backups.lock().unwrap().truncate(capture.claims.backups);
        let mut claims = capture.claims;
        let opened = judge.open(&image, root, &capture.claims, history, false);
        let kept = |error| format!("{error}\n{cut:?} at the end of a life: {}", keep(&image));
        if let Some(Opened { store, history, device }) = opened.map_err(kept)? {
            claims = *device.claims.lock().unwrap();
            *self.book.history.lock().unwrap() = history;
            // The power goes at once, and nothing that the recovery did was flushed but what it
            // flushed itself.
            let captures = device.stop();
            drop(store);
            let again = captures.last().expect("one after the opening").cut(Cut { new: 0, ..cut });
            std::fs::remove_dir_all(root).unwrap();
            device::write(&again, root);
        } else {
            self.book.history.lock().unwrap().clear();
        }
        let device = Device::new(root, self.honesty, self.dice.roll());
        *device.claims.lock().unwrap() = claims;
        Ok(device)
    }
}

fn closed_and_opened(store: Store, path: &Path, writer: &Writer<'_>) -> Store {
    store.close().unwrap();
    // Everything is durable once it is closed.
    let mut claims = writer.device.claims.lock().unwrap();
    claims.durable = claims.given;
    drop(claims);
    let store = life::open(path).unwrap();
    writer.promised(&store);
    store
}

fn number(variable: &str, otherwise: u64) -> u64 {
    let text = std::env::var(variable).unwrap_or_else(|_| otherwise.to_string());
    text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}"))
}

/// Says which life it was if a check inside it panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("STRATALOG_POWER_LOSS_SEED={} is the life that failed", self.0);
        }
    }
}

fn live(seed: u64, honesty: Honesty, states: u64, tally: &mut Tally) -> Result<(), String> {
    let (dice, book, known) = (Dice(mix(seed)), Book::default(), Known::default());
    let mut life = Life { seed, dice, honesty, book, tally, states, known };
    life.run().map_err(|error| format!("STRATALOG_POWER_LOSS_SEED={}: {error}", life.seed))
}

#[test]
fn after_power_loss_what_was_promised_is_there_and_of_the_rest_a_prefix() {
    let images = number("STRATALOG_POWER_LOSS_IMAGES", IMAGES);
    let first = number("STRATALOG_POWER_LOSS_SEED", 1);
    let (mut tally, started) = (Tally::default(), std::time::Instant::now());
    for seed in first.. {
        let _named = Named(seed);
        live(seed, Honesty::Honest, 0, &mut tally).unwrap_or_else(|error| panic!("{error}"));
        if tally.images >= images {
            break;
        }
    }
    println!("{tally:?} in {:?}", started.elapsed());
    assert!(tally.gone > tally.at_stake / 10, "the simulation takes nothing away: {tally:?}");
    assert!(tally.gone < tally.at_stake, "the simulation leaves nothing: {tally:?}");
}

#[test]
fn many_states_of_each_moment_are_prefixes() {
    let most = number("STRATALOG_POWER_LOSS_STATES", STATES);
    let next = AtomicU64::new(number("STRATALOG_POWER_LOSS_SEED", 1));
    let first = next.load(Ordering::SeqCst);
    let (seen, painted) = (AtomicU64::new(0), AtomicU64::new(0));
    let a_moment = if most > STATES { STATES_A_MOMENT } else { STATES_A_MOMENT / 40 };
    let (started, threads) = (std::time::Instant::now(), std::thread::available_parallelism());
    std::thread::scope(|scope| {
        for _ in 0..threads.map_or(1, usize::from) {
            scope.spawn(|| {
                while painted.load(Ordering::SeqCst) < most {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    let (_named, mut tally) = (Named(seed), Tally::default());
                    live(seed, Honesty::Honest, a_moment, &mut tally)
                        .unwrap_or_else(|error| panic!("{error}"));
                    let all = painted.fetch_add(tally.painted, Ordering::SeqCst) + tally.painted;
                    seen.fetch_add(tally.states, Ordering::SeqCst);
                    let lived = seed + 1 - first;
                    if lived.is_multiple_of(10) || all >= most {
                        let new = seen.load(Ordering::SeqCst);
                        let elapsed = started.elapsed();
                        println!("{all} states, {new} of them new, {lived} lives, {elapsed:?}");
                    }
                }
            });
        }
    });
    assert!(painted.load(Ordering::SeqCst) >= most, "a thread gave up");
}

/// Three segments of which nothing was flushed but the first record; of the first one a slot in the
/// middle is lost. Whether power goes or the process is killed, at any flush of the opening, the
/// next one ends where that one would have: nothing beyond the cut counts again.
#[test]
fn an_opening_that_is_cut_at_any_of_its_flushes_ends_where_an_uncut_one_does() {
    let place = scratch();
    let device = Device::new(place.path(), Honesty::Honest, 1);
    let book = Book::default();
    device.watch(1, Some(std::thread::current().id()));
    let store = life::open(&place.path().join("store")).unwrap();
    let mut writer = Writer::new(&device, &book, b'a', Dice(1), true);
    writer.put(&store);
    store.sync().unwrap();
    writer.promised(&store);
    while store.stats().segments < 3 {
        writer.put(&store);
    }
    device.capture();
    let capture = device.stop().pop().unwrap();
    drop(store);
    let history = book.history.lock().unwrap().clone();
    let (first, lost) = (*history.keys().next().unwrap(), history.keys().nth(4).unwrap().as_u64());
    assert_eq!(first.as_u64() >> 24, lost >> 24, "of one segment");

    let mut image = capture.present();
    device::reboot(&mut image);
    let of_first = image.iter_mut().find(|(path, _)| path.extension().is_some_and(|e| e == "seg"));
    let bytes = of_first.unwrap().1.as_mut().unwrap();
    let slot = 4096 + 32 * (lost & 0xFF_FFFF) as usize;
    bytes[slot..slot + 32].fill(0);
    let (mut tally, dice, place) = (Tally::default(), Dice(2), scratch());
    let mut judge = Judge::new(&book, &mut tally, dice);
    judge.every_flush = true;
    let opened = judge.open(&image, place.path(), &capture.claims, &history, false);
    let Opened { store, history, device } = opened.unwrap().unwrap();
    assert_eq!(history.len(), 4);
    let claims = *device.claims.lock().unwrap();
    let captures = device.stop();
    assert!(captures.len() > 6, "{} flushes", captures.len());
    for (n, capture) in captures.iter().enumerate() {
        let cuts = [0, 50, 100].map(|new| capture.cut(Cut { seed: n as u64, unit: 512, new }));
        for (image, kind) in
            cuts.iter().chain([&capture.present()]).zip(["old", "some", "new", "kill"])
        {
            let place = scratch();
            let opened = judge.open(image, place.path(), &claims, &history, false);
            let opened = opened.unwrap_or_else(|error| panic!("flush {n}, {kind}: {error}"));
            opened.unwrap().device.stop();
        }
    }
    // What was lost as a whole is not there for ever.
    let lsn = claims::shape(1).put(&store, b"later", 1);
    assert!(lsn > capture.claims.given);
    let store = common::reopen(store);
    assert_eq!(store.recovery().foreign_files, 0);
    assert_eq!(store.stats().segments, 2, "of one only the sequence number is left");
}

/// The judges' own proof: each flush that the store relies on is missed if it is not made, by who
/// opens images and by who looks at states.
#[test]
fn a_device_that_lies_is_found_out() {
    for honesty in [Honesty::DropsData, Honesty::DropsNames] {
        for states in [0, 50] {
            let found = (1..40).find_map(|seed| {
                let mut tally = Tally::default();
                live(seed, honesty, states, &mut tally).err()
            });
            assert!(found.is_some(), "{honesty:?} goes unnoticed, {states} states a moment");
            println!("{honesty:?}: {}", found.unwrap());
        }
    }
}
