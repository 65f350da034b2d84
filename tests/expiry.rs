//! Records with a time to live: nothing sees them once it is over, and nothing older comes back.

#![cfg(test)]

#[path = "common/tree.rs"]
mod tree;

use std::time::{Duration, SystemTime};
use stratalog::{Batch, Compaction, Condition, Error, Metric, NewRecord, Options, Store};

const SECOND: Duration = Duration::from_secs(1);
const E: [f32; 2] = [1.0, 0.5];

fn options() -> Options {
    let options = Options::new().dimension(2).segment_size(1 << 20).flush_interval(None);
    options.compaction(Compaction::Manual)
}

fn wait_for(moment: SystemTime) {
    while SystemTime::now() <= moment {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Nothing answers as if the id were there.
fn assert_gone(store: &Store, id: &str) {
    assert!(!store.contains(id));
    assert!(store.get_owned(id).unwrap().is_none() && store.get_shared(id).unwrap().is_none());
    let pinned = store.pin();
    assert!(pinned.get(id).unwrap().is_none());
    assert!(pinned.iter().all(|record| record.unwrap().id() != id.as_bytes()));
    let hits = pinned.search(&E, usize::MAX, Metric::Dot).unwrap();
    assert!(hits.iter().all(|hit| hit.record.id() != id.as_bytes()));
    assert_eq!(store.update_tag(id, |tag| tag + 1).unwrap(), None);
    let refused = store.put_if(id, &E, "", Condition::Present);
    assert!(matches!(refused, Err(Error::ConditionFailed { current: None })));
    assert!(store.remove(id).unwrap().is_none(), "there is nothing to remove");
}

#[test]
fn a_record_is_there_until_its_time_is_over_and_a_held_one_beyond() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    let moment = SystemTime::now() + SECOND / 2;
    store.put_record(NewRecord::new("short", &E, "x").expires_at(moment)).unwrap();
    store.put_record(NewRecord::new("long", &E, "y").expires_in(3600 * SECOND)).unwrap();
    store.put("ever", &E, "z").unwrap();
    let pinned = store.pin();
    let held = pinned.get("short").unwrap().expect("it is not over yet");
    let shared = store.get_shared("short").unwrap().unwrap();
    let expires = held.expires_at().unwrap();
    let off = expires.duration_since(moment).unwrap_or_else(|early| early.duration());
    assert!(off < Duration::from_micros(1));
    assert_eq!(store.get_owned("short").unwrap().unwrap().expires_at, Some(expires));
    assert_eq!(pinned.get("ever").unwrap().unwrap().expires_at(), None);
    wait_for(moment);
    assert_gone(&store, "short");
    assert_eq!((held.content(), shared.content()), (&b"x"[..], &b"x"[..]));
    drop(pinned);
    store.put_if("short", &E, "again", Condition::Absent).unwrap();
    assert_eq!(store.get_owned("short").unwrap().unwrap().content, b"again");
    assert!(store.contains("long") && store.contains("ever"));
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert!(store.contains("short") && store.contains("long") && store.contains("ever"));
    assert!(store.pin().get("long").unwrap().unwrap().expires_at().is_some());
    let copy = dir.path().join("copy");
    store.backup(&copy).unwrap();
    let copy = Options::new().read_only(true).open(&copy).unwrap();
    let kept = copy.pin().get("long").unwrap().unwrap().expires_at();
    assert_eq!(kept, store.pin().get("long").unwrap().unwrap().expires_at());
}

#[test]
fn the_options_say_for_all_what_a_record_does_not_say_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().time_to_live(Duration::ZERO).open(&path).unwrap();
    store.put("default", &E, "").unwrap();
    store.put_if("conditional", &E, "", Condition::Absent).unwrap();
    store.put_record(NewRecord::new("stays", &E, "").never_expires()).unwrap();
    let mut batch = Batch::new();
    batch.put("in a batch", &E, "").remove("nobody");
    batch.put_record(NewRecord::new("stays, too", &E, "").expires_in(60 * SECOND));
    store.write(batch).unwrap();
    for id in ["default", "conditional", "in a batch"] {
        assert_gone(&store, id);
    }
    assert!(store.contains("stays") && store.contains("stays, too"));
    store.compact().unwrap();
    assert_eq!(store.len(), 2);
    let far = NewRecord::new("far", &E, "").expires_in(Duration::MAX);
    store.put_record(far).unwrap();
    let past = NewRecord::new("past", &E, "").expires_at(SystemTime::UNIX_EPOCH);
    store.put_record(past).unwrap();
    assert!(store.contains("far") && !store.contains("past"));
}

#[test]
fn what_has_expired_gives_its_space_back_and_whole_segments_without_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    let secret = b"the-secret-that-expires";
    for n in 0..4_000u32 {
        let id = n.to_le_bytes();
        let content = [&secret[..], &[7; 900]].concat();
        store.put_record(NewRecord::new(&id, &E, &content).expires_in(Duration::ZERO)).unwrap();
    }
    assert!(store.stats().segments > 3);
    let report = store.compact().unwrap();
    assert!(report.segments_removed > 3 && report.moved_records == 0, "{report:?}");
    assert_eq!((store.len(), store.stats().live_bytes, store.stats().dead_bytes), (0, 0, 0));
    store.put("one", &E, "1").unwrap();
    store.close().unwrap();
    for entry in std::fs::read_dir(&path).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
    assert_eq!(options().open(&path).unwrap().len(), 1);
}

#[test]
fn the_background_gives_back_what_has_expired() {
    let dir = tempfile::tempdir().unwrap();
    let options = options().compaction(Compaction::Auto).time_to_live(SECOND / 4);
    let store = options.open(dir.path().join("s")).unwrap();
    for n in 0..8_000u32 {
        store.put(n.to_le_bytes(), &E, [7; 900]).unwrap();
    }
    let since = std::time::Instant::now();
    while store.stats().segments > 2 || store.len() > 2_000 {
        assert!(since.elapsed() < 60 * SECOND, "{:?}", store.stats());
        std::thread::sleep(SECOND / 50);
    }
    assert!(!store.contains(5u32.to_le_bytes()));
}

#[test]
fn nothing_older_comes_back_when_an_expired_version_is_compacted_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut store = options().open(&path).unwrap();
    for round in 0..3u32 {
        // The older version lies in a segment that is mostly live, the expired one does not.
        for n in 0..900u32 {
            store.put(format!("old {n}"), &E, [round as u8; 900]).unwrap();
        }
        for n in 0..900u32 {
            let id = format!("old {n}");
            if n % 2 == 0 {
                let over = NewRecord::new(&id, &E, &[9; 900]).expires_in(Duration::ZERO);
                store.put_record(over).unwrap();
            }
        }
        for part in 0..3 {
            if part == 1 {
                store.compact().unwrap();
            }
            for n in 0..900u32 {
                assert_eq!(store.contains(format!("old {n}")), n % 2 == 1, "{n}, round {round}");
            }
            assert!(store.verify().unwrap().is_clean());
            store.close().unwrap();
            store = options().open(&path).unwrap();
        }
        assert_eq!(store.len(), 450);
    }
}

/// A manifest that could not be written once had a group stay, when the index had let go of what
/// had expired in it. What that hid was in the group, too; the next time it was not, and nothing
/// was kept that hid it.
#[test]
fn nothing_older_comes_back_when_a_group_that_stayed_is_taken_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (path, killed) = (dir.path().join("s"), dir.path().join("killed"));
    let store = options().open(&path).unwrap();
    let put = |id: &str| _ = store.put(id, &E, vec![1; 10_000]).unwrap();
    store.put("id", &E, "old").unwrap();
    while store.segments().len() < 2 {
        put("dead");
    }
    (0..30).for_each(|n| put(&format!("dead-{n}")));
    // The copy of the old version is to have a higher number than what is made ahead.
    while tree::segments(&path).len() < 3 {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(store.compact().unwrap().moved_records, 1);
    let over = NewRecord::new("id", &E, "new").expires_in(Duration::ZERO);
    store.put_record(over).unwrap();
    store.remove("dead").unwrap();
    (0..30).for_each(|n| assert!(store.remove(format!("dead-{n}")).unwrap().is_some()));
    let in_the_way = ["MANIFEST.next", "MANIFEST.tmp"].map(|name| path.join(name));
    std::fs::remove_file(&in_the_way[0]).unwrap();
    in_the_way.iter().for_each(|name| std::fs::create_dir(name).unwrap());
    assert!(matches!(store.compact(), Err(Error::Io { .. })));
    in_the_way.iter().for_each(|name| std::fs::remove_dir(name).unwrap());
    // Between the two of the group comes one that is mostly live.
    (0..90).for_each(|n| put(&format!("live-{n}")));
    put("live-0");
    let mut groups = 0;
    let progress = |_, _| {
        groups += 1;
        if groups == 1 {
            // Killed before the next one.
            tree::copy(&path, &killed);
        }
    };
    store.compact_with(progress).unwrap();
    assert!(groups > 1, "it was not taken apart");
    assert_gone(&store, "id");
    store.close().unwrap();
    for path in [killed, path] {
        let store = options().open(path).unwrap();
        assert_gone(&store, "id");
        assert_eq!(store.len(), 90);
    }
}

#[test]
fn a_deep_check_finds_nothing_wrong_with_an_older_version_of_what_has_expired() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    store.put("both", &E, "hidden by what has expired").unwrap();
    store.put("other", &E, "").unwrap();
    store.put_record(NewRecord::new("both", &E, "over").expires_in(Duration::ZERO)).unwrap();
    // Their older versions, too, have an end, which is far.
    let long = NewRecord::new("two ends", &E, "").expires_in(3600 * SECOND);
    store.put_record(long).unwrap();
    store.put_record(NewRecord::new("two ends", &E, "").expires_in(Duration::ZERO)).unwrap();
    store.close().unwrap();
    let store = options().read_only(true).open(&path).unwrap();
    let report = store.verify_deep(|_, _| ()).unwrap();
    assert!(report.is_clean(), "{:?}", report.damaged);
    assert_eq!(report.compared, 3, "what has not expired");
    assert!(!store.contains("both") && store.contains("other"));
}

/// Whoever looked a moment ago does not look again for a second; what has expired in the segment
/// that takes records stayed where it was then.
#[test]
fn what_expires_right_after_a_look_goes_with_the_next_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    let secret = b"the-secret-that-expires";
    let moment = SystemTime::now() + SECOND / 4;
    store.put_record(NewRecord::new("short", &E, secret).expires_at(moment)).unwrap();
    // It looks, and nothing has expired (unless this took very long).
    store.compact().unwrap();
    wait_for(moment);
    store.compact().unwrap();
    assert_eq!((store.len(), store.stats().live_bytes, store.stats().dead_bytes), (0, 0, 0));
    store.close().unwrap();
    for entry in std::fs::read_dir(&path).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
}

/// As the documentation says: nothing happens when its time is over.
#[test]
fn what_has_expired_is_counted_until_compaction_comes_by() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().open(&path).unwrap();
    store.put_record(NewRecord::new("over", &E, "").expires_in(Duration::ZERO)).unwrap();
    store.put("stays", &E, "").unwrap();
    assert_eq!((store.len(), store.stats().live_records), (2, 2));
    store.close().unwrap();
    let store = options().open(&path).unwrap();
    assert_eq!((store.len(), store.recovery().records), (2, 2));
    assert_eq!(store.pin().iter().count(), 1, "who needs to know can walk");
    store.compact().unwrap();
    assert_eq!((store.len(), store.stats().live_records), (1, 1));
}

/// Overwrites every id during a walk and before its first version expires; the index grows, so the
/// walk holds entries of chunks that were replaced. The ids that the walk did not return exactly
/// once, or `None` if the machine was too slow and some id did expire.
fn ids_missed_by_a_walk(lifetime: Duration) -> Option<Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let store = options().segment_size(16 << 20).open(dir.path().join("s")).unwrap();
    let moment = SystemTime::now() + lifetime;
    let ids: Vec<String> = (0..2000).map(|n| format!("id-{n}")).collect();
    for id in &ids {
        store.put_record(NewRecord::new(id, &E, "first").expires_at(moment)).unwrap();
    }
    let pinned = store.pin();
    let mut walk = pinned.iter();
    let mut seen = vec![walk.next()?.unwrap().id().to_vec()];
    for id in &ids {
        store.put(id, &E, "second").unwrap();
    }
    if SystemTime::now() >= moment {
        return None;
    }
    for n in 0..20_000 {
        store.put(format!("other-{n}"), &E, "").unwrap();
    }
    wait_for(moment);
    seen.extend(walk.map(|record| record.unwrap().id().to_vec()));
    seen.sort();
    let times = |id: &String| {
        let from = seen.partition_point(|seen| &seen[..] < id.as_bytes());
        seen[from..].iter().take_while(|seen| &seen[..] == id.as_bytes()).count()
    };
    Some(ids.into_iter().filter(|id| times(id) != 1).collect())
}

#[test]
fn a_walk_returns_an_id_whose_first_version_expires_after_it_was_overwritten() {
    let lifetimes = (0..6).map(|n| SECOND * (1 << n));
    let missed = lifetimes.filter_map(ids_missed_by_a_walk).next();
    assert_eq!(missed, Some(Vec::new()), "live throughout and not seen exactly once");
}
