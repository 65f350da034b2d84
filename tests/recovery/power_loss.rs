//! Power loss, simulated: of each 512-byte sector written since the last flush the device has the
//! old bytes or the new ones, as it likes. Invariants: what was synced is there; of the rest a
//! prefix in LSN order; nothing that was cut comes back later, and no LSN is given again.

use super::common::{SEGMENT, State, mix, open, reopen, state};
use super::{RECORDS, create, id, tree};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use stratalog::internals::format::header::{BOOT_AT, DURABLE_AT};
use stratalog::{Lsn, Store};
use tempfile::TempDir;

const SECTOR: usize = 512;

/// The writes of a test, in LSN order: id, and version (none: removed).
type History = BTreeMap<Lsn, (Vec<u8>, u32)>;

fn write(store: &Store, history: &mut History, from: u32, to: u32) {
    for version in from..to {
        let id = id(mix(u64::from(version)) % 50);
        history.insert(RECORDS.put(store, &id, version), (id, version));
    }
}

/// What a store holds after the writes up to an LSN.
fn state_at(history: &History, last: Lsn) -> BTreeMap<Vec<u8>, (Lsn, u32)> {
    let upto = history.range(..=last);
    upto.map(|(lsn, (id, version))| (id.clone(), (*lsn, *version))).collect()
}

fn versions(state: &State) -> BTreeMap<Vec<u8>, (Lsn, u32)> {
    let version = |r: &stratalog::OwnedRecord| RECORDS.version_of(&r.id, &r.embedding, &r.content);
    state.iter().map(|(id, record)| (id.clone(), (record.lsn, version(record)))).collect()
}

/// Of every sector the bytes before or after, by chance; the header's are of a boot long ago.
fn lose_power(old: &Path, new: &Path, to: &Path, seed: u64, chance_of_new: u64) {
    std::fs::create_dir(to).unwrap();
    let before: BTreeMap<PathBuf, Vec<u8>> = tree::look(old)
        .into_iter()
        .map(|(path, seen)| (path.file_name().unwrap().into(), seen.bytes))
        .collect();
    for (path, seen) in tree::look(new) {
        let name = PathBuf::from(path.file_name().unwrap());
        let mut bytes = seen.bytes;
        if path.extension().is_some_and(|ending| ending == "seg") {
            // A file that is in the manifest was synced when it was blank but for its identity.
            let blank = || [&bytes[..64], &vec![0; bytes.len() - 64]].concat();
            let was = before.get(&name).cloned().unwrap_or_else(blank);
            for n in 0..bytes.len() / SECTOR {
                let range = n * SECTOR..(n + 1) * SECTOR;
                if mix(seed ^ (n as u64) << 20) % 100 >= chance_of_new {
                    bytes[range.clone()].copy_from_slice(&was[range]);
                }
            }
            bytes[BOOT_AT..BOOT_AT + 16].fill(0xB0);
        }
        std::fs::write(to.join(name), bytes).unwrap();
    }
}

/// A store opened after a power loss.
struct Lost {
    _dir: TempDir,
    store: Store,
    /// Everything that was written before.
    history: History,
    /// The last LSN that was synced, and the last one that is still there.
    durable: Lsn,
    last: Lsn,
}

/// A power loss when so much was synced and so much more was written. Of the sectors written since,
/// so many in a hundred have reached the device.
fn lose(seed: u64, synced: u32, more: u32, chance_of_new: u64) -> Lost {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (mut history, store) = (History::new(), create(&at("store")));
    write(&store, &mut history, 0, synced);
    store.sync().unwrap();
    let durable = history.last_key_value().map_or(Lsn::default(), |(lsn, _)| *lsn);
    assert!(store.stats().durable >= durable);
    tree::copy(store.path(), &at("old"));
    if seed.is_multiple_of(2) {
        // The durable end is stored after the flush it speaks of: on the device it may be behind.
        for path in tree::segments(&at("old")) {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[DURABLE_AT..DURABLE_AT + 8].fill(0);
            std::fs::write(path, bytes).unwrap();
        }
    }
    write(&store, &mut history, synced, synced + more);
    tree::copy(store.path(), &at("new"));
    drop(store);
    lose_power(&at("old"), &at("new"), &at("lost"), seed, chance_of_new);
    // A reader, which can repair nothing, shows the same, and calls nothing of it damage.
    let reader = stratalog::Options::new().read_only(true).open(at("lost")).unwrap();
    let shown = versions(&state(&reader));
    assert!(reader.verify().unwrap().is_clean(), "seed {seed}: {:?}", reader.verify());
    drop(reader);
    let store = open(&at("lost"));
    assert_eq!(versions(&state(&store)), shown, "seed {seed}");
    let last = versions(&state(&store)).values().map(|&(lsn, _)| lsn).max();
    Lost { _dir: dir, store, history, durable, last: last.unwrap_or_default() }
}

/// Power losses of many kinds: within a segment, across segments, little and much written back.
fn losses() -> impl Iterator<Item = (u64, Lost)> {
    let few = (0..24).map(|seed| {
        let (synced, more) = (mix(seed) % 200, mix(!seed) % 200);
        (seed, lose(seed, synced as u32, more as u32, [50, 90, 99, 10][seed as usize % 4]))
    });
    let segment = (SEGMENT / 500) as u32;
    let many = (100..106).map(move |seed| {
        let chance_of_new = [97, 99, 30, 100][seed as usize % 4];
        (
            seed,
            lose(seed, segment / 2 + 2 * segment * (seed as u32 % 2), 2 * segment, chance_of_new),
        )
    });
    few.chain(many)
}

#[test]
fn what_was_synced_is_there_and_of_the_rest_a_prefix() {
    let mut taken = 0;
    for (seed, Lost { _dir, store, history, durable, last }) in losses() {
        assert!(last >= durable, "a synced record is gone: {last} < {durable}, seed {seed}");
        let mut expected = state_at(&history, last);
        assert_eq!(versions(&state(&store)), expected, "no prefix, seed {seed}");
        taken += history.range(last..).skip(1).count();

        // What was cut stays cut, whatever is written behind it and however often it is opened.
        let store = reopen(reopen(store));
        expected.insert(b"later".to_vec(), (RECORDS.put(&store, b"later", 1), 1));
        let store = reopen(store);
        assert_eq!(versions(&state(&store)), expected, "seed {seed}");
        assert!(store.verify().unwrap().is_clean(), "seed {seed}: {:?}", store.verify());
    }
    assert!(taken > 100, "the simulation takes nothing away");
}

/// What has seen an LSN, on another machine perhaps, must never meet it again for another write.
#[test]
fn no_lsn_from_before_a_power_loss_is_given_again() {
    let mut again = Vec::new();
    for (seed, Lost { _dir, store, history, .. }) in losses() {
        let tail = store.stats().tail;
        let store = reopen(store);
        assert!(store.stats().tail >= tail, "{} after {tail}, seed {seed}", store.stats().tail);
        let lsn = RECORDS.put(&store, b"later", 1);
        if let Some((id, _)) = history.get(&lsn) {
            again.push(format!("seed {seed}: {lsn}, {} before", id.escape_ascii()));
        }
        reopen(store);
    }
    assert!(again.is_empty(), "{} of 30: {again:#?}", again.len());
}
