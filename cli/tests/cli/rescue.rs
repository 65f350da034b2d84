//! `backup` and `salvage`: what arrives, what is named, and that the source stays as it was.

use crate::damage::{damage, segments};
use crate::{expect, json, sample_embedding, sample_records, sample_store, words};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use stratalog::{Compaction, NewRecord, Options, Store};

fn open(path: &Path) -> Store {
    Options::new().read_only(true).open(path).unwrap()
}

fn files(store: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// The store has exactly the sample but for these ids.
#[track_caller]
fn assert_sample(path: &Path, without: &[&str]) {
    let store = open(path);
    for (n, (id, content)) in sample_records().iter().enumerate() {
        let record = store.get_owned(id).unwrap();
        if without.contains(&id.as_str()) {
            assert!(record.is_none(), "{id} was damaged");
            continue;
        }
        let record = record.unwrap();
        assert_eq!(record.content, content.as_bytes());
        assert_eq!(record.embedding, sample_embedding(n));
    }
    assert_eq!(store.len(), 500 - without.len());
    assert!(store.verify().unwrap().is_clean());
}

/// Nothing but these is in the directory: nothing unfinished is left.
#[track_caller]
fn assert_only(dir: &Path, names: &[&str]) {
    let found: BTreeSet<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(found, names.iter().map(Into::into).collect());
}

#[test]
fn a_backup_opens_as_a_store_and_is_the_same() {
    let (dir, store) = sample_store();
    let copy = dir.path().join("copy");
    let (out, _) = expect(0, words(&store, "backup", &[copy.to_str().unwrap()]));
    assert!(out.starts_with("copied 500 records up to LSN "), "{out}");
    assert_sample(&copy, &[]);
    let again = dir.path().join("again");
    fs::create_dir(&again).unwrap();
    let report = json(0, words(&store, "backup", &[again.to_str().unwrap(), "--json"]));
    assert_eq!(report["live_records"], 500);
    assert_eq!(report["lsn"], open(&store).durable_lsn().as_u64());
    assert_sample(&again, &[]);
    assert_only(dir.path(), &["store", "copy", "again"]);
}

#[test]
fn a_backup_overwrites_nothing_and_says_what_is_in_its_way() {
    let (dir, store) = sample_store();
    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("thesis.tex"), "years of work").unwrap();
    let taken = taken.to_str().unwrap();
    for command in ["backup", "salvage"] {
        let (out, err) = expect(1, words(&store, command, &[taken]));
        assert!(out.is_empty() && err.contains(taken), "{command}: {err}");
        let (_, err) = expect(1, words(&store, command, &[store.to_str().unwrap()]));
        assert!(err.contains(store.to_str().unwrap()), "{command}: {err}");
        let missing = dir.path().join("missing");
        let (_, err) = expect(1, words(&missing, command, &["/tmp/never/made"]));
        assert!(err.contains("no store at"), "{command}: {err}");
        expect(2, words(&store, command, &[]));
    }
    let writer = Options::new().open(&store).unwrap();
    let (_, err) = expect(1, words(&store, "backup", &[dir.path().join("c").to_str().unwrap()]));
    assert!(err.contains("is open for writing") && err.contains("(process"), "{err}");
    drop(writer);
    assert_sample(&store, &[]);
    assert_only(dir.path(), &["store", "taken"]);
    assert!(!Path::new("/tmp/never").exists());
}

/// Compaction in the background took away what had expired, which the copy still counted.
#[test]
fn a_backup_counts_what_has_expired_like_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let options = Options::new().dimension(1).segment_size(1 << 20);
    let store = options.compaction(Compaction::Manual).open(&path).unwrap();
    for n in 0..3_000_u32 {
        let (id, content) = (n.to_le_bytes(), [0; 2_000]);
        let record = NewRecord::new(&id, &[0.0], &content).expires_in(Duration::ZERO);
        store.put_record(record).unwrap();
    }
    store.put("kept", &[0.0], "").unwrap();
    store.close().unwrap();
    let (out, _) = expect(0, words(&path, "backup", &[copy.to_str().unwrap()]));
    assert!(out.starts_with("copied 3,001 records"), "{out}");
}

#[test]
fn a_backup_of_a_store_that_has_lost_something_is_made_and_says_so() {
    let (dir, store) = sample_store();
    fs::remove_file(&segments(&store)[0]).unwrap();
    let copy = dir.path().join("copy");
    let report = json(3, words(&store, "backup", &[copy.to_str().unwrap(), "--json"]));
    assert!(report["lost"][0]["reason"].as_str().unwrap().contains("not there"), "{report}");
    assert_eq!(report["live_records"], open(&copy).len());
}

/// The opening cannot read the removal, but its slot says which id it removed. In the copy the
/// removal counts like any other. That was an error, and the copy not to be relied on.
#[test]
fn a_backup_of_a_store_that_has_lost_a_removal_is_made_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let options = Options::new().dimension(1).segment_size(1 << 20);
    let store = options.compaction(Compaction::Manual).open(&path).unwrap();
    store.put("removed", &[0.0], "").unwrap();
    for n in 0..3 {
        store.put([n], &[0.0], [0; 450_000]).unwrap();
    }
    store.remove("removed").unwrap();
    store.close().unwrap();
    let second = fs::File::options().write(true).open(&segments(&path)[1]).unwrap();
    second.set_len(512 << 10).unwrap();
    let report = json(3, words(&path, "backup", &[copy.to_str().unwrap(), "--json"]));
    assert_eq!(report["lost"].as_array().unwrap().len(), 3, "{report}");
    assert!(!open(&path).contains("removed") && !open(&copy).contains("removed"));
    expect(3, words(&copy, "verify", &[]));
}

#[test]
fn a_salvage_of_a_whole_store_loses_nothing() {
    let (dir, store) = sample_store();
    let new = dir.path().join("new");
    let before = files(&store);
    let (out, err) = expect(0, words(&store, "salvage", &[new.to_str().unwrap()]));
    assert!(out.starts_with("salvaged 500 records"), "{out}");
    assert!(out.ends_with("nothing is lost\n"), "{out}");
    assert_eq!(err, "", "progress is for terminals");
    assert!(files(&store) == before, "the source was changed");
    assert_sample(&new, &[]);
    assert_eq!(open(&new).segment_size(), 1 << 20);
    assert_only(dir.path(), &["store", "new"]);
}

#[test]
fn a_salvage_keeps_tags_expiry_and_creation_times_and_leaves_out_what_has_expired() {
    let (dir, path) = sample_store();
    let store = Options::new().open(&path).unwrap();
    let embedding = sample_embedding(0);
    let put = |id: &str, expiry: Duration| {
        let record = NewRecord::new(id, &embedding, "for a while").expires_in(expiry);
        store.put_record(record).unwrap();
    };
    (0..3).for_each(|n| put(&format!("expired {n}"), Duration::ZERO));
    put("expiring", Duration::from_secs(3600));
    let tagged = &sample_records()[7].0;
    store.update_tag(tagged, |_| 77).unwrap();
    store.update_tag("expiring", |_| 78).unwrap();
    store.close().unwrap();
    let new = dir.path().join("new");
    let report = json(0, words(&path, "salvage", &[new.to_str().unwrap(), "--json"]));
    assert_eq!((&report["live_records"], &report["expired_records"]), (&501.into(), &3.into()));
    let (old, new) = (open(&path), open(&new));
    let (old, new) = (old.pin(), new.pin());
    let mut seen = 0;
    for record in &old {
        let record = record.unwrap();
        let copy = new.get(record.id()).unwrap().expect("it was copied");
        assert_eq!((copy.tag(), copy.created_at()), (record.tag(), record.created_at()));
        assert_eq!((copy.expires_at(), copy.content()), (record.expires_at(), record.content()));
        seen += 1;
    }
    assert_eq!((seen, new.iter().count()), (501, 501));
    assert_eq!(new.get(tagged).unwrap().map(|record| record.tag()), Some(77));
    assert!(new.get("expiring").unwrap().is_some_and(|record| record.expires_at().is_some()));

    let again = dir.path().join("again");
    let (out, _) = expect(0, words(&path, "salvage", &[again.to_str().unwrap()]));
    assert!(out.contains("\n3 records had expired and were left out\n"), "{out}");
}

#[test]
fn a_salvage_without_a_manifest_saves_all_but_the_damaged_record_and_names_it() {
    let (dir, store) = sample_store();
    let (id, content) = &sample_records()[42];
    let path = damage(&store, content.as_bytes());
    fs::remove_file(store.join("MANIFEST")).unwrap();
    let before = files(&store);
    let new = dir.path().join("new");
    let (out, _) = expect(3, words(&store, "salvage", &[new.to_str().unwrap()]));
    let named = |line: &str| {
        line.starts_with(path.to_str().unwrap()) && line.contains(&format!("id {id}: "))
    };
    assert!(out.lines().any(named), "{out}");
    assert!(out.contains("MANIFEST: byte 0: "), "{out}");
    assert!(out.ends_with("LOST: 2 places, named above\n"), "{out}");
    assert_sample(&new, &[id]);

    let again = dir.path().join("again");
    let report = json(3, words(&store, "salvage", &[again.to_str().unwrap(), "--json"]));
    assert_eq!(report["live_records"], 499);
    assert_eq!(report["lost"].as_array().unwrap().len(), 2);
    assert!(report["lost"].as_array().unwrap().iter().any(|lost| lost["id"] == **id));
    assert!(files(&store) == before, "the source was changed");
    let inside = store.join("inside");
    let (_, err) = expect(1, words(&store, "salvage", &[inside.to_str().unwrap()]));
    assert!(err.contains("must not change"), "{err}");
    assert!(files(&store) == before, "the source was changed");
}

#[test]
fn a_salvage_of_nothing_readable_is_an_error_and_leaves_nothing() {
    let (dir, store) = sample_store();
    fs::write(store.join("MANIFEST"), b"").unwrap();
    for path in segments(&store) {
        let mut bytes = fs::read(&path).unwrap();
        bytes[..64].fill(0);
        fs::write(path, bytes).unwrap();
    }
    let new = dir.path().join("new");
    let (_, err) = expect(1, words(&store, "salvage", &[new.to_str().unwrap()]));
    assert!(err.contains("no segment's header can be read"), "{err}");
    assert!(!err.contains("`stratalog salvage`"), "it was tried: {err}");
    assert_only(dir.path(), &["store"]);
}

#[test]
fn stat_shows_what_would_not_survive_power_loss() {
    let (dir, store) = sample_store();
    let report = json(0, words(&store, "stat", &["--json"]));
    assert_eq!(report["stats"]["unflushed_slots"], 0);
    let (text, _) = expect(0, words(&store, "stat", &[]));
    assert!(text.contains("all that was written survives power loss"), "{text}");
    let (tail, durable) = (&report["stats"]["tail"], &report["stats"]["durable"]);
    assert!(tail.as_u64() > durable.as_u64());
    // A writer that has not flushed: what it writes is above the durable end.
    let live = dir.path().join("live");
    let writer = Options::new().dimension(1).flush_interval(None).open(&live).unwrap();
    for n in 0..7u32 {
        writer.put(n.to_le_bytes(), &[0.0], "").unwrap();
    }
    let report = json(0, words(&live, "stat", &["--json"]));
    assert_eq!(
        (&report["stats"]["unflushed_slots"], &report["stats"]["durable"]),
        (&7.into(), &0.into())
    );
    let (text, _) = expect(0, words(&live, "stat", &[]));
    assert!(text.contains("slots that may not survive power loss"), "{text}");
    assert_eq!(writer.stats().unflushed_slots, 7);
    writer.sync().unwrap();
    assert_eq!(writer.stats().unflushed_slots, 0);
    assert_eq!(json(0, words(&live, "stat", &["--json"]))["stats"]["unflushed_slots"], 0);
}
