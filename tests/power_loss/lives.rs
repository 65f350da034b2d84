//! Several lives over one device: what one process has only half done, the next one must not take
//! for done.

use super::claims::{Book, Contents, Held, contents, fits};
use super::device::{self, Capture, Cut, Device, Honesty, Image};
use super::dice::Dice;
use super::judge::{Judge, Tally};
use super::life::{self, Writer};
use std::os::unix::fs::FileExt;
use std::path::Path;
use stratalog::Options;
use stratalog::internals::format::header::{DIRECTORY_AT, FLUSH_AT};
use stratalog::internals::format::manifest::Manifest;
use stratalog::internals::format::slot::SLOT_BYTES;

fn forget_flush_notes(store: &Path) {
    let segments = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    for path in segments.filter(|path| path.extension().is_some_and(|ending| ending == "seg")) {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&[0; 8], FLUSH_AT as u64).unwrap();
    }
}

/// A kill at any moment of a compaction, then an opening under the same boot that compacts again,
/// then power loss: copies that were put in force by the first process are on the device before
/// their sources are dropped by the second.
#[test]
fn a_kill_in_a_compaction_another_one_and_power_loss_lose_nothing_durable() {
    let place = super::scratch();
    let device = Device::new(place.path(), Honesty::Honest, 1);
    let book = Book::default();
    device.watch(1, Some(std::thread::current().id()));
    let store = life::open(&place.path().join("store")).unwrap();
    let mut writer = Writer::new(&device, &book, b'a', Dice(1), false);
    for n in (0..6).chain(0..3) {
        writer.put_small(&store, n);
    }
    store.sync().unwrap();
    store.sync().unwrap();
    writer.promised(&store);
    drop(device.take());
    store.compact().unwrap();
    device.capture();
    let kills = device.stop();
    drop(store);
    let history = book.history.lock().unwrap().clone();
    assert!(kills.len() > 3, "{} moments", kills.len());
    // The moments are those of the calls that order, which the flush's note precedes: without it, a
    // moment before.
    let moments =
        kills.iter().enumerate().flat_map(|(n, kill)| [(n, kill, true), (n, kill, false)]);
    for (n, kill, noted) in moments {
        let root = super::scratch();
        let device = kill.go_on_at(root.path(), 7);
        if !noted {
            forget_flush_notes(&root.path().join("store"));
        }
        *device.claims.lock().unwrap() = kill.claims;
        device.watch(1, Some(std::thread::current().id()));
        let store = life::open(&root.path().join("store")).unwrap();
        store.compact().unwrap();
        device.capture();
        let power_losses = device.stop();
        drop(store);
        for (m, capture) in power_losses.iter().enumerate() {
            for (new, unit) in [(0, 512), (50, 512), (50, 64)] {
                let image = capture.cut(Cut { seed: 3, unit, new });
                let (mut tally, dice, place) = (Tally::default(), Dice(2), super::scratch());
                let mut judge = Judge::new(&book, &mut tally, dice);
                let judged = judge.open(&image, place.path(), &capture.claims, &history, false);
                match judged {
                    Ok(Some(opened)) => drop(opened.device.stop()),
                    Ok(None) => {}
                    Err(error) => {
                        panic!("killed at {n}, power lost at {m}, {new} % new by {unit}: {error}")
                    }
                }
            }
        }
    }
}

/// A kill at any moment of a compaction, the one after two manifests have exchanged their names
/// among them; another process that replaces the manifest; then power loss: the device has a whole
/// manifest under its name, be the first exchange undone.
#[test]
fn a_kill_while_a_manifest_is_replaced_another_process_and_power_loss_leave_a_whole_one() {
    let place = super::scratch();
    let device = Device::new(place.path(), Honesty::Honest, 1);
    let me = Some(std::thread::current().id());
    device.watch(1, me);
    let fill_and_compact = |root: &Path| {
        let store = life::open(&root.join("store")).unwrap();
        for n in 0..4u32 {
            store.put(b"a", &[1.0; 16], n.to_le_bytes()).unwrap();
        }
        store.compact().unwrap();
        device.capture();
    };
    fill_and_compact(place.path());
    drop(device.take());
    fill_and_compact(place.path());
    let mut checked = 0;
    for (n, kill) in device.stop().iter().enumerate() {
        let root = super::scratch();
        let again = kill.go_on_at(root.path(), 7);
        again.watch(1, me);
        fill_and_compact(root.path());
        for (m, capture) in again.stop().iter().enumerate() {
            for seed in 0..16 {
                let image = capture.cut(Cut { seed, unit: 64, new: 50 });
                let manifest = image[Path::new("store/MANIFEST")].as_ref().unwrap();
                let decoded = Manifest::decode(manifest);
                assert!(decoded.is_ok(), "killed at {n}, power lost at {m}: {decoded:?}");
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "{checked}");
}

/// Three full segments and one record of a fourth, of which only the first record was flushed, all
/// of them named by the manifest.
fn mostly_unflushed() -> Capture {
    let place = super::scratch();
    let device = Device::new(place.path(), Honesty::Honest, 1);
    let (book, path) = (Book::default(), place.path().join("store"));
    device.watch(0, Some(std::thread::current().id()));
    let store = life::open(&path).unwrap();
    let mut writer = Writer::new(&device, &book, b'a', Dice(1), true);
    writer.put_small(&store, 0);
    store.sync().unwrap();
    store.sync().unwrap();
    writer.put_small(&store, 1);
    while store.stats().segments < 4 {
        writer.roll(&store);
    }
    writer.put_small(&store, 2);
    let named = || Manifest::decode(&std::fs::read(path.join("MANIFEST")).unwrap()).unwrap();
    while named().segments.len() < 4 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    device.capture();
    device.stop().pop().unwrap()
}

/// Opens an image as it is after power loss. What is there, and the moments of its flushes.
fn reopened(image: &Image) -> (Contents, Vec<Capture>) {
    let place = super::scratch();
    device::write(image, place.path());
    let device = Device::new(place.path(), Honesty::Honest, 2);
    device.watch(1, Some(std::thread::current().id()));
    let store = life::open(&place.path().join("store")).unwrap();
    let found = contents(&store).unwrap();
    assert_eq!(store.recovery().foreign_files, 0, "a segment that is nobody's stays for good");
    (found, device.stop())
}

/// Power is lost, the opening after it is killed at any of its flushes, the next one goes on and
/// makes writes durable, and power is lost again: they are there, and what the first opening gave
/// up is not. A seal that only the page cache had was taken for one that is on the device.
#[test]
fn an_opening_killed_between_two_power_losses_costs_nothing_durable_and_brings_nothing_back() {
    let capture = mostly_unflushed();
    for (segment, slot) in [(0, 1), (1, 0), (2, 1)] {
        let mut image = capture.present();
        device::reboot(&mut image);
        let is_segment = |path: &Path| path.extension().is_some_and(|ending| ending == "seg");
        let files = image.iter_mut().filter(|(path, _)| is_segment(path));
        let file = files.map(|(_, bytes)| bytes.as_mut().unwrap()).nth(segment).unwrap();
        let at = DIRECTORY_AT + SLOT_BYTES * slot;
        file[at..at + SLOT_BYTES].fill(0);
        let (expected, kills) = reopened(&image);
        for (n, kill) in kills.iter().enumerate() {
            let place = super::scratch();
            let device = kill.go_on_at(place.path(), 3);
            device.watch(0, None);
            let store = life::open(&place.path().join("store")).unwrap();
            assert!(fits(&contents(&store).unwrap(), &expected), "killed at {n}");
            let lsn = super::claims::shape(1).put(&store, b"later", 1);
            store.sync().unwrap();
            device.capture();
            let promised = device.stop().pop().unwrap();
            drop(store);
            let mut expected = expected.clone();
            expected.insert(b"later".to_vec(), Held { lsn: Some(lsn), version: 1 });
            let (found, _) = reopened(&promised.cut(Cut { seed: 1, unit: 512, new: 0 }));
            let lost = format!("slot {slot} of segment {segment}, killed at {n}");
            assert!(fits(&found, &expected), "{lost}: {found:?} for {expected:?}");
        }
    }
}

/// The process that made the store's directory was killed before that was on the device. The next
/// one found the directory and took it for one that is.
#[test]
fn a_kill_while_a_store_is_created_another_process_and_power_loss_lose_nothing_durable() {
    let place = super::scratch();
    let device = Device::new(place.path(), Honesty::Honest, 1);
    device.watch(1, Some(std::thread::current().id()));
    drop(life::open(&place.path().join("parent/store")).unwrap());
    let kills = device.stop();
    assert!(kills.len() > 3, "{} moments", kills.len());
    let twice = kills.iter().enumerate().flat_map(|(n, kill)| [(n, kill, true), (n, kill, false)]);
    for (n, kill, puts) in twice {
        let place = super::scratch();
        let device = kill.go_on_at(place.path(), 2);
        device.watch(0, None);
        let store = life::open(&place.path().join("parent/store")).unwrap();
        if puts {
            store.put("kept", &[1.0; 16], "durable").unwrap();
            store.sync().unwrap();
        }
        device.capture();
        let promised = device.stop().pop().unwrap();
        drop(store);
        let place = super::scratch();
        device::write(&promised.cut(Cut { seed: 1, unit: 512, new: 0 }), place.path());
        let store = Options::new().create(false).open(place.path().join("parent/store"));
        let store = store.unwrap_or_else(|error| panic!("killed at {n}, puts: {puts}: {error}"));
        assert_eq!(store.contains("kept"), puts, "killed at {n}: {:?}", store.recovery());
    }
}

/// A kill at any moment of a compaction that gives a segment up, another process that removes what
/// the manifest says is dropped, then power loss: no manifest that the device may have under its
/// name misses a file.
#[test]
fn a_kill_while_a_segment_is_dropped_another_process_and_power_loss_leave_none_missing() {
    let place = super::scratch();
    let device = Device::new(place.path(), Honesty::Honest, 1);
    device.watch(0, None);
    let store = life::open(&place.path().join("store")).unwrap();
    for content in ["overwritten", "moved to a segment that stays"] {
        store.put("b", &[1.0; 16], content).unwrap();
    }
    store.compact().unwrap();
    store.put("a", &[1.0; 16], "removed").unwrap();
    store.remove("a").unwrap();
    // The manifest names all of it.
    store.close().unwrap();
    let store = life::open(&place.path().join("store")).unwrap();
    device.remember_one_in(1);
    store.compact().unwrap();
    let kills = device.stop();
    drop(store);
    assert!(kills.len() > 3, "{} moments", kills.len());
    for (n, kill) in kills.iter().enumerate() {
        let place = super::scratch();
        let device = kill.go_on_at(place.path(), 2);
        device.watch(1, None);
        // Closing waits for what opening left to do.
        life::open(&place.path().join("store")).unwrap().close().unwrap();
        device.capture();
        for (m, capture) in device.stop().iter().enumerate() {
            for seed in 0..16 {
                let place = super::scratch();
                device::write(&capture.cut(Cut { seed, unit: 512, new: 50 }), place.path());
                let found = Options::new().read_only(true).open(place.path().join("store"));
                let missing = found.unwrap().recovery().missing_segments;
                assert_eq!(missing, 0, "killed at {n}, power lost at {m}, seed {seed}");
            }
        }
    }
}

/// A backup is killed at any moment, the last one after it has its name, which is not on the device
/// yet; another process opens the copy and makes a write durable; then power is lost.
#[test]
fn a_kill_while_a_backup_ends_a_write_to_the_copy_and_power_loss_lose_nothing_durable() {
    let place = super::scratch();
    let device = Device::new(place.path(), Honesty::Honest, 1);
    device.watch(0, None);
    let store = life::open(&place.path().join("store")).unwrap();
    store.put("a", &[1.0; 16], "copied").unwrap();
    device.remember_one_in(1);
    store.backup(place.path().join("copy")).unwrap();
    let kills = device.stop();
    drop(store);
    let is_there = |kill: &&Capture| kill.present().contains_key(Path::new("copy"));
    let kills: Vec<_> = kills.iter().filter(is_there).collect();
    assert!(!kills.is_empty(), "no moment between a name and its sync");
    for kill in kills {
        let place = super::scratch();
        let device = kill.go_on_at(place.path(), 2);
        device.watch(0, None);
        let copy = life::open(&place.path().join("copy")).unwrap();
        copy.put("kept", &[1.0; 16], "durable").unwrap();
        copy.sync().unwrap();
        device.capture();
        let promised = device.stop().pop().unwrap();
        drop(copy);
        let place = super::scratch();
        device::write(&promised.cut(Cut { seed: 1, unit: 512, new: 0 }), place.path());
        let copy = Options::new().create(false).open(place.path().join("copy")).unwrap();
        assert!(copy.contains("a") && copy.contains("kept"));
    }
}
