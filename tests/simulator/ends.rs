//! How a life is interrupted: closing, dropping, kills, power loss, calls that fail.

use super::device::{self, Capture, Cut, Device, Honesty};
use super::model;
use super::witness::{EIO, ENOSPC, FLUSHES_FAIL, NOW, RENAMES_FAIL};
use super::world::{World, assert_same, found, nanoseconds, now, scratch, watched};
use std::sync::atomic::Ordering;
use stratalog::{Error, Metric, Options, Store};
use tempfile::TempDir;

/// The present, seen twice without a change: what was read one after the other was there at once.
fn at_rest(device: &Device) -> Capture {
    let look = || {
        device.capture();
        device.take().pop().expect("the one just made")
    };
    let mut before = look();
    loop {
        let now = look();
        if now.present() == before.present() {
            return now;
        }
        before = now;
    }
}

impl World {
    /// Closes or drops the store, and opens it again.
    pub fn reopen(&mut self) {
        let store = self.store.take().expect("it is open");
        let closed = self.dice.one_in(2);
        if closed {
            store.close().expect("the store closes")
        } else {
            drop(store)
        }
        self.store = Some(self.profile.open(&self.path()));
        if closed {
            assert!(self.model.at_stake() == 0 || self.store().durable_lsn() >= self.model.given);
        }
        self.model.promised(self.store().durable_lsn());
        let report = self.store().recovery();
        assert_eq!((report.corrupt, report.torn, report.missing_segments), (0, 0, 0), "{report:?}");
        assert_same(self.store(), &self.model, &self.profile, "after reopening");
    }

    fn go_on_with(&mut self, place: TempDir, store: Store) {
        // First the store, whose end flushes, then the directory.
        self.store = Some(store);
        self.place = place;
        self.crashes += 1;
        let tail = self.store().stats().tail;
        assert!(tail > self.model.given, "{tail} comes again after {}", self.model.given);
        let report = self.store().recovery();
        let damage = (report.corrupt, report.missing_segments, report.foreign_files);
        assert_eq!(damage, (0, 0, 0), "{report:?}");
        let report = self.store().verify().expect("a look");
        assert!(report.is_clean(), "{:?}", report.damaged);
    }

    /// What a kill leaves is what is there. Life goes on in the image, or here.
    pub fn kill(&mut self) {
        let place = scratch();
        let unwatched = || Device::new(self.place.path(), Honesty::Honest, 1);
        let device = self.device.clone().unwrap_or_else(unwatched);
        let device = at_rest(&device).go_on_at(place.path(), self.dice.roll());
        let device = self.profile.power.then_some(device);
        let device = device.inspect(|device| {
            device.watch(0, Some(std::thread::current().id()));
        });
        let store = self.profile.open(&place.path().join("store"));
        assert_same(&store, &self.model, &self.profile, "after a kill");
        if self.dice.one_in(2) {
            let before = std::mem::replace(&mut self.device, device);
            before.iter().for_each(|device| drop(device.stop()));
            self.go_on_with(place, store);
            self.model.promised(self.store().durable_lsn());
        } else {
            drop(store);
            device.iter().for_each(|device| drop(device.stop()));
        }
    }

    fn any_cut(&mut self) -> Cut {
        let unit = [64, 512, 4096][self.dice.below(3) as usize];
        let new = [50, 90, 97, 10, 0, 100][self.dice.below(6) as usize];
        Cut { seed: self.dice.roll(), unit, new }
    }

    /// Power is lost, quietly or while something goes on; then perhaps again while it is opened.
    pub fn power_loss(&mut self) {
        let Some(device) = self.device.clone() else { return self.kill() };
        let capture = self.moment(&device);
        drop(device.stop());
        self.device = None;
        // What it flushes at its end nobody sees.
        drop(self.store.take());
        let (place, cut) = (scratch(), self.any_cut());
        let image = capture.cut(cut);
        device::write(&image, place.path());
        let path = place.path().join("store");
        let reader = match Options::new().read_only(true).open(&path) {
            Ok(reader) => reader,
            Err(error) => panic!("{cut:?}: a reader says {error}"),
        };
        let shown = found(&reader);
        let model = self.model.after_power_loss(&shown, now());
        self.model = model.unwrap_or_else(|error| panic!("{cut:?}: {error}"));
        drop(reader);
        let device = watched(place.path(), self.dice.roll());
        device.remember_one_in(3);
        let store = self.profile.open(&path);
        device.remember_one_in(0);
        assert_same(&store, &self.model, &self.profile, "opened after power loss");
        device.capture();
        let moments = device.take();
        if self.dice.one_in(3) {
            // Again, at some moment of that opening: nothing is lost any more.
            drop(device.stop());
            drop(store);
            let place = scratch();
            let moment = &moments[self.dice.below(moments.len() as u64) as usize];
            let cut = self.any_cut();
            device::write(&moment.cut(cut), place.path());
            let device = watched(place.path(), self.dice.roll());
            let store = self.profile.open(&place.path().join("store"));
            let what = format!("power lost again while opening, {cut:?}");
            assert_same(&store, &self.model, &self.profile, &what);
            self.device = Some(device);
            self.go_on_with(place, store);
        } else {
            self.device = Some(device);
            self.go_on_with(place, store);
        }
    }

    /// A moment at which power may be lost. What goes on meanwhile changes no record.
    fn moment(&mut self, device: &Device) -> Capture {
        drop(device.take());
        device.remember_one_in(2);
        match self.dice.below(6) {
            0 => drop(self.store().compact().expect("a compaction")),
            1 => self.store().sync().expect("a flush"),
            2 => {
                let store = self.store.take().expect("it is open");
                store.close().expect("the store closes");
                device.capture();
                self.store = Some(self.profile.open(&self.path()));
            }
            3 => {
                let copy = self.place.path().join(format!("copy {}", self.dice.roll()));
                self.store().backup(copy).expect("a backup");
            }
            _ => {}
        }
        device.capture();
        device.remember_one_in(0);
        let mut moments = device.take();
        let n = self.dice.below(moments.len() as u64);
        moments.swap_remove(n as usize)
    }

    /// A flush fails: from then on writes are refused and reads go on, until it is opened again.
    pub fn failing_flush(&mut self) {
        // Something to flush.
        self.put_small();
        FLUSHES_FAIL.store(true, Ordering::SeqCst);
        let refused = |result: Result<(), Error>| {
            assert!(matches!(result, Err(Error::FlushFailed(_))), "{result:?}");
        };
        if !self.profile.synced {
            refused(self.store().sync());
            let e = model::embedding(b"id 1", 1);
            refused(self.store().put("id 1", &e, "").map(drop));
            refused(self.store().remove("id 1").map(drop));
            refused(self.store().update_tag("id 1", |tag| tag + 1).map(drop));
            refused(self.store().sync());
            refused(self.store().backup(self.place.path().join("none")).map(drop));
            assert_same(self.store(), &self.model, &self.profile, "after a failed flush");
            let store = self.store.take().expect("it is open");
            refused(store.close());
        } else {
            drop(self.store.take());
        }
        FLUSHES_FAIL.store(false, Ordering::SeqCst);
        self.store = Some(self.profile.open(&self.path()));
        self.model.promised(self.store().durable_lsn());
        assert_same(self.store(), &self.model, &self.profile, "opened after a failed flush");
    }

    /// No file gets its name: what needs a new segment fails, and changes nothing.
    pub fn failing_renames(&mut self) {
        let error = if self.dice.one_in(2) { EIO } else { ENOSPC };
        RENAMES_FAIL.store(error, Ordering::SeqCst);
        for _ in 0..self.dice.below(40) {
            match self.try_put_large() {
                Ok(()) => {}
                Err(Error::StorageFull) if error == ENOSPC => break,
                Err(Error::Io { source: found, .. }) if found.raw_os_error() == Some(error) => {
                    break;
                }
                Err(other) => panic!("renames fail with {error}, and a put with {other:?}"),
            }
        }
        assert_same(self.store(), &self.model, &self.profile, "while renames fail");
        let copied = self.store().backup(self.place.path().join("none"));
        assert!(copied.is_err(), "a backup got its name");
        RENAMES_FAIL.store(0, Ordering::SeqCst);
        self.model.promised(self.store().durable_lsn());
        self.put();
        self.everything();
    }

    pub fn back_up(&mut self) {
        let copy = self.place.path().join("copy");
        if copy.exists() {
            assert!(matches!(self.store().backup(&copy), Err(Error::Io { .. })), "it is not empty");
            std::fs::remove_dir_all(&copy).expect("it goes");
        }
        self.store().backup(&copy).expect("a backup");
        self.model.promised(self.store().durable_lsn());
        let opened = self.profile.open(&copy);
        assert_same(&opened, &self.model, &self.profile, "the backup");
        assert!(opened.verify().expect("a look").is_clean());
        opened.put("only in the copy", &model::embedding(b"x", 1), "").expect("a put");
        drop(opened);
        std::fs::remove_dir_all(&copy).expect("it goes");
        assert!(!self.store().contains("only in the copy"));
    }

    pub fn later(&mut self) {
        let by = [1, 1_000, 1_000_000_000, 3_600_000_000_000][self.dice.below(4) as usize];
        NOW.fetch_add(by, Ordering::SeqCst);
        assert_eq!(nanoseconds(std::time::SystemTime::now()), now(), "the clock is not ours");
    }

    pub fn search(&mut self) {
        let live = self.live();
        let (metric, k) = (self.dice.below(3), self.dice.below(40) as usize);
        let metric = [Metric::Cosine, Metric::Dot, Metric::L2][metric as usize];
        let query = model::embedding(b"query", 1 + self.dice.below(1 << 20) as u32);
        let pinned = self.store().pin();
        let hits = pinned.search(&query, k, metric).expect("a search");
        assert_eq!(hits.len(), k.min(live.len()));
        let nearness = |embedding: &[f32]| {
            let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
                query.iter().zip(embedding).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum()
            };
            let dot = sum(&|a, b| a * b);
            match metric {
                Metric::Dot => dot,
                Metric::L2 => -sum(&|a, b| (a - b) * (a - b)).sqrt(),
                _ => dot / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt(),
            }
        };
        let all = live.iter().map(|(id, v)| (nearness(&model::embedding(id, v.number)), v.lsn, id));
        let mut all: Vec<_> = all.collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (hit, (expected, _, id)) in hits.iter().zip(&all) {
            let near = nearness(hit.record.embedding());
            let off = (near - expected).abs() / expected.abs().max(1e-9);
            assert!(off < 1e-9, "{:?} for {}", hit, id.escape_ascii());
            let held = live.get(hit.record.id()).map(|version| version.lsn);
            assert_eq!(held, Some(hit.record.lsn()), "a hit that is not live");
        }
    }
}
