//! The judgement of an image: what was promised is there, and nothing that must not be.

use super::claims::{Book, Call, Contents, History, Write, contents, contents_at, fits, prefix_of};
use super::device::{self, Capture, Claims, Cut, Device, Honesty, Image};
use super::{Dice, common};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use stratalog::{Compaction, Error, Options, Store};

/// What was judged.
#[derive(Debug, Default)]
pub struct Tally {
    pub lives: u64,
    pub captures: u64,
    /// Images of power losses, and how many of them were of a power loss during a recovery.
    pub images: u64,
    pub of_recovery: u64,
    /// States that a reader looked at, and how many were painted: some more than once.
    pub states: u64,
    pub painted: u64,
    /// Images of kills.
    pub kills: u64,
    /// Writes that were not flushed when power was lost, and how many of them were gone.
    pub at_stake: u64,
    pub gone: u64,
    /// Images in which not even the store was there yet.
    pub blank: u64,
    pub backups: u64,
    pub segments: u64,
}

/// An image that was opened and found right: the store as it is open now.
pub struct Opened {
    pub store: Store,
    /// The writes that are there.
    pub history: History,
    pub device: Arc<Device>,
}

pub struct Judge<'a> {
    pub book: &'a Book,
    pub tally: &'a mut Tally,
    pub dice: Dice,
    /// Whether each flush of an opening is a moment to capture.
    pub every_flush: bool,
}

/// `Err` unless it holds.
fn must(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn reader(path: &Path) -> Result<Store, Error> {
    Options::new().read_only(true).open(path)
}

fn assert_sound(store: &Store) -> Result<(), String> {
    let found = store.recovery();
    let (corrupt, missing) = (found.corrupt, found.missing_segments);
    must(corrupt == 0 && missing == 0 && found.foreign_files == 0, || format!("{found:?}"))?;
    let report = store.verify().map_err(|error| error.to_string())?;
    must(report.is_clean(), || format!("{:?}", report.damaged))
}

impl<'a> Judge<'a> {
    pub fn new(book: &'a Book, tally: &'a mut Tally, dice: Dice) -> Self {
        Self { book, tally, dice, every_flush: false }
    }

    /// Opens an image under a directory and looks at all of it. `None`: there is no store yet, and
    /// need not be.
    pub fn open(
        &mut self,
        image: &Image,
        root: &Path,
        claims: &Claims,
        history: &History,
        killed: bool,
    ) -> Result<Option<Opened>, String> {
        device::write(image, root);
        self.assert_backups(image, root, claims)?;
        let path = root.join("store");
        // A reader, which can repair nothing, shows the same, and calls none of it damage.
        let shown = match reader(&path) {
            Err(Error::NotFound(_)) if !claims.exists => {
                self.tally.blank += 1;
                return Ok(None);
            }
            Err(error) => return Err(format!("a reader says: {error}")),
            Ok(reader) => {
                assert_sound(&reader)?;
                contents(&reader)?
            }
        };
        let last = if killed { claims.given } else { claims.durable };
        let (last, explained) =
            prefix_of(history, last, &shown).ok_or_else(|| difference(&shown, history, claims))?;
        must(!killed || last == claims.given, || "a kill has taken something".to_owned())?;
        let given = history.keys().filter(|lsn| **lsn <= claims.given);
        let at_stake = given.clone().filter(|lsn| **lsn > claims.durable).count();
        self.tally.at_stake += at_stake as u64;
        self.tally.gone += given.filter(|lsn| **lsn > last).count() as u64;

        // From here on nothing that is there now may be lost, whatever happens to the recovery.
        let device = Device::new(root, Honesty::Honest, self.dice.roll());
        *device.claims.lock().unwrap() = Claims { durable: last, exists: true, ..*claims };
        device.watch(if self.every_flush { 1 } else { 4 }, None);
        let opened = self.open_for_writing(&path, &shown, claims);
        let store = match opened {
            Ok(store) => store,
            Err(error) => {
                device.stop();
                return Err(error);
            }
        };
        device.capture();
        Ok(Some(Opened { store, history: explained, device }))
    }

    fn open_for_writing(
        &mut self,
        path: &Path,
        shown: &Contents,
        claims: &Claims,
    ) -> Result<Store, String> {
        let options = Options::new().create(false).flush_interval(None);
        let store = options.compaction(Compaction::Manual).open(path);
        let store = store.map_err(|error| format!("opening says: {error}"))?;
        assert_sound(&store)?;
        self.tally.segments += store.stats().segments;
        let found = contents(&store)?;
        must(fits(&found, shown), || "a reader saw something else".to_owned())?;
        let tail = store.stats().tail;
        must(tail > claims.given, || format!("{tail} comes again after {}", claims.given))?;
        Ok(store)
    }

    /// A backup that has returned is there; one that is there is whole.
    fn assert_backups(
        &mut self,
        image: &Image,
        root: &Path,
        claims: &Claims,
    ) -> Result<(), String> {
        let backups = self.book.backups.lock().unwrap_or_else(PoisonError::into_inner);
        for (n, expected) in backups.iter().enumerate() {
            let name = format!("copy-{n}");
            if !image.contains_key(Path::new(&name)) {
                must(n >= claims.backups, || format!("{name} is gone"))?;
                continue;
            }
            let copy = reader(&root.join(&name)).map_err(|error| format!("{name}: {error}"))?;
            assert_sound(&copy)?;
            must(fits(&contents(&copy)?, expected), || format!("{name} is something else"))?;
            self.tally.backups += 1;
        }
        Ok(())
    }

    /// Cuts a capture and judges what is left; then, now and then, cuts the recovery itself, twice
    /// at most.
    pub fn cut(
        &mut self,
        capture: &Capture,
        history: &History,
        cut: Cut,
        depth: u32,
    ) -> Result<(), String> {
        let scratch = super::scratch();
        let image = capture.cut(cut);
        self.tally.images += 1;
        self.tally.of_recovery += u64::from(depth > 0);
        let judged = self.open(&image, scratch.path(), &capture.claims, history, false);
        let judged = judged.map_err(|error| {
            let kept = super::keep(&image);
            format!("{error}\n{cut:?}, depth {depth}, {:?}\nthe image: {kept}", capture.claims)
        });
        let Some(Opened { store, mut history, device }) = judged? else { return Ok(()) };
        // What was cut stays cut, whatever is written behind it.
        let (id, given) = (b"later".to_vec(), capture.claims.given);
        let lsn = super::claims::shape(1).put(&store, &id, 1);
        must(lsn > given, || format!("{lsn} comes again after {given}"))?;
        let write = Write { id, lsn: Some(lsn), version: Some(1) };
        history.insert(lsn, Call::alone(vec![write], lsn));
        device.claims.lock().unwrap().given = lsn;
        device.capture();
        store.close().map_err(|error| error.to_string())?;
        device.claims.lock().unwrap().durable = lsn;
        device.capture();
        let captures = device.stop();
        let store = common::open(&scratch.path().join("store"));
        let expected = contents_at(&history, lsn);
        must(fits(&contents(&store)?, &expected), || format!("it changes when reopened: {cut:?}"))?;
        assert_sound(&store).map_err(|e| {
            let kept = super::keep(&device.stop_and_see());
            format!(
                "after a reopening: {e}\n{cut:?}, depth {depth}\nthe image before: {}, now: {kept}",
                super::keep(&image)
            )
        })?;
        if self.dice.one_in(8) {
            drop(common::reopen(store));
        }
        if depth < 2 && self.dice.one_in(2) {
            let capture = &captures[self.dice.below(captures.len() as u64) as usize];
            let cut = super::any_cut(&mut self.dice);
            self.cut(capture, &history, cut, depth + 1)?;
        }
        Ok(())
    }
}

/// The first id that is not what it is after what was durable, or is older than that.
fn difference(found: &Contents, history: &History, claims: &Claims) -> String {
    let last = found.values().filter_map(|held| held.lsn).max().unwrap_or_default();
    let expected = contents_at(history, last.max(claims.durable));
    let ids = expected.keys().chain(found.keys());
    let wrong = ids.filter(|id| found.get(*id) != expected.get(*id));
    let wrong: Vec<_> = wrong
        .map(|id| {
            let (is, should) = (found.get(id), expected.get(id));
            format!("{}: {is:?} for {should:?}", id.escape_ascii())
        })
        .collect();
    format!("no prefix up to {last}, durable {}: {wrong:?}", claims.durable)
}
