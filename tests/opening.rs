//! What `open` does with whatever it finds at a path. Invariants: an error names what is wrong and
//! has touched nothing; one writer at a time; a read-only handle changes no file.
#![cfg(test)]

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "opening/format.rs"]
mod format;
#[path = "opening/read_only.rs"]
mod read_only;
#[path = "common/torn.rs"]
mod torn;
#[path = "common/tree.rs"]
mod tree;

use child::{Role, role, say, wait};
use common::{Records, SEGMENT, assert_same, open, reopen, state};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use stratalog::internals::format::manifest::Manifest;
use stratalog::{Error, Options, Store};

const RECORDS: Records = Records { dimension: 8, content_max: 200 };

fn options() -> Options {
    Options::new().dimension(RECORDS.dimension).segment_size(SEGMENT)
}

fn filled(path: &Path, records: u32) -> Store {
    let store = options().open(path).unwrap();
    for n in 0..records {
        RECORDS.put(&store, format!("id {n}").as_bytes(), n);
    }
    store
}

/// What the other processes of these tests do.
#[test]
fn roles() {
    let Some((role, place)) = role() else { return };
    match role.as_str() {
        // Holds a store open for writing until told to go on; then puts some more.
        "writer" => {
            // Without a flush in the background, which notes the durable end in the headers.
            drop(filled(&place, 100));
            let store = Options::new().flush_interval(None).open(&place).unwrap();
            say("ready");
            wait();
            for n in 100..200 {
                RECORDS.put(&store, format!("id {n}").as_bytes(), n);
            }
            assert!(store.remove("id 0").unwrap().is_some());
            say("more");
            wait();
            store.close().unwrap();
            say("closed");
        }
        "try to open" => match Options::new().open(&place) {
            Err(Error::Locked { path, .. }) => say(format!("locked {}", path.display())),
            other => say(format!("{other:?}")),
        },
        "create" => {
            // Two processes at once: one wins, the other finds the store locked.
            let made = options().open(&place);
            say(if made.is_ok() { "created" } else { "refused" });
            wait();
        }
        other => panic!("no role {other}"),
    }
}

#[test]
fn a_store_is_created_where_nothing_was_with_files_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("below/and/below");
    let store = filled(&path, 10);
    assert_eq!((store.dimension(), store.path()), (RECORDS.dimension, &*path));
    store.close().unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let files: Vec<_> = tree::look(&path).into_keys().collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    assert_eq!(reopen(open(&path)).len(), 10);
}

#[test]
fn an_empty_directory_becomes_a_store_and_a_relative_path_will_do() {
    let dir = tempfile::tempdir().unwrap();
    reopen(filled(dir.path(), 5));
    let relative = pathdiff(dir.path());
    assert_eq!(state(&open(&relative)).len(), 5);
}

/// The same place, named from the working directory.
fn pathdiff(path: &Path) -> std::path::PathBuf {
    let up = std::env::current_dir().unwrap().components().count() - 1;
    Path::new(&"../".repeat(up)).join(path.strip_prefix("/").unwrap())
}

#[test]
fn where_no_store_is_and_none_may_be_created_nothing_is() {
    let dir = tempfile::tempdir().unwrap();
    for options in [Options::new().create(false), Options::new().read_only(true)] {
        let missing = dir.path().join("missing");
        let error = options.open(&missing).unwrap_err();
        assert!(matches!(&error, Error::NotFound(path) if *path == missing), "{error:?}");
        assert!(error.to_string().contains("missing") && !missing.exists());
        let empty = dir.path().join("empty");
        std::fs::create_dir_all(&empty).unwrap();
        assert!(matches!(options.open(&empty), Err(Error::NotFound(path)) if path == empty));
        assert!(tree::look(&empty).is_empty());
    }
}

#[test]
fn what_is_no_store_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "a stranger's").unwrap();
    let directory = dir.path().join("directory");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("thesis.tex"), "years of work").unwrap();
    std::fs::create_dir(directory.join("figures")).unwrap();
    for options in [options(), options().create(false), options().read_only(true)] {
        for place in [&file, &directory, &file.join("below")] {
            let before = (tree::look(dir.path()), tree::look(&directory));
            let error = options.open(place).unwrap_err();
            assert!(matches!(&error, Error::NotAStore(path) if path == place), "{error:?}");
            assert!(error.to_string().contains("nothing was touched"), "{error}");
            assert_eq!((tree::look(dir.path()), tree::look(&directory)), before);
        }
    }
    std::fs::remove_dir_all(&directory).unwrap();
    reopen(filled(&directory, 3));
}

/// `MANIFEST` is a common name: Python's and Java's packagers write one too.
#[test]
fn a_directory_with_a_strangers_manifest_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("MANIFEST"), "# written by distutils\nsetup.py\n").unwrap();
    std::fs::write(dir.path().join("LOCK"), "a stranger's lock").unwrap();
    for options in [options(), options().create(false), options().read_only(true)] {
        let before = tree::look(dir.path());
        assert!(options.open(dir.path()).is_err());
        assert_eq!(tree::look(dir.path()), before, "{options:?}");
    }
}

#[test]
fn options_out_of_range_are_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let sized = |bytes| Options::new().dimension(1).segment_size(bytes);
    let bad = [
        Options::new(),
        Options::new().dimension(0),
        Options::new().dimension(65_537),
        sized(0),
        sized(SEGMENT / 2),
        sized(SEGMENT + 1),
        sized(3 * SEGMENT),
        sized(2 << 30),
        sized(u64::MAX),
    ];
    for options in bad {
        let error = options.open(&path).unwrap_err();
        assert!(matches!(error, Error::InvalidOption(_)), "{error:?}");
        assert!(!path.exists(), "{error}");
    }
    reopen(filled(&path, 1));
}

#[test]
fn what_is_given_on_opening_must_be_the_stores_own_and_both_values_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 20);
    let before = state(&store);
    store.close().unwrap();
    let error = Options::new().dimension(9).open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::DimensionMismatch { expected: 8, actual: 9 }), "{error:?}");
    assert!(error.to_string().contains('8') && error.to_string().contains('9'), "{error}");
    let error = Options::new().segment_size(2 * SEGMENT).open(dir.path()).unwrap_err();
    let Error::InvalidOption(text) = error else { panic!("{error:?}") };
    assert!(text.contains("1048576") && text.contains("2097152"), "{text}");
    for options in [Options::new(), options(), options().create(false)] {
        assert_same(&state(&options.open(dir.path()).unwrap()), &before);
    }
}

#[test]
fn another_format_version_is_named_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 3);
    let before = state(&store);
    store.close().unwrap();
    let path = dir.path().join("MANIFEST");
    let whole = std::fs::read(&path).unwrap();
    let mut newer = whole.clone();
    // Its checksum does not hold: where another version has its checksum is not known.
    for version in [1, 3] {
        newer[8..12].copy_from_slice(&u32::to_le_bytes(version));
        std::fs::write(&path, &newer).unwrap();
        for options in [options(), Options::new().read_only(true)] {
            let error = options.open(dir.path()).unwrap_err();
            let Error::UnsupportedVersion { found, supported: 2 } = error else {
                panic!("{error:?}")
            };
            assert_eq!(found, version);
            assert_eq!(std::fs::read(&path).unwrap(), newer);
        }
    }
    std::fs::write(&path, &whole).unwrap();
    assert_same(&state(&open(dir.path())), &before);
}

/// What a refused opening says about the process that holds the lock.
fn holder_of(error: Error) -> String {
    let Error::Locked { holder: Some(holder), .. } = error else { panic!("{error:?}") };
    holder
}

#[test]
fn one_handle_writes_at_a_time_in_this_process_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 10);
    for options in [options(), Options::new()] {
        let error = options.open(dir.path()).unwrap_err();
        assert!(matches!(&error, Error::Locked { path, .. } if path == dir.path()), "{error:?}");
        assert!(error.to_string().contains("read_only"), "{error}");
        let holder = holder_of(error);
        assert!(holder.contains(&std::process::id().to_string()), "{holder}");
        assert!(!holder.contains('\n'), "one line: {holder:?}");
    }
    RECORDS.put(&store, b"after", 1);
    let store = reopen(store);
    assert_eq!(store.len(), 11);
    drop(store);
    reopen(open(dir.path()));
}

/// Between fork and exec a new process has every file of the old one open, the lock's too; a lock
/// that is only given up by closing the file would outlive the store for that long.
#[test]
fn a_closed_store_is_not_locked_while_this_process_starts_another_one() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 3).close().unwrap();
    let stop = AtomicBool::new(false);
    let (mut locked, mut after_refusal) = (0, 0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert!(Command::new("true").status().unwrap().success());
                }
            });
        }
        for _ in 0..150 {
            match Options::new().open(dir.path()) {
                Ok(store) => assert!(store.close().is_ok()),
                Err(Error::Locked { .. }) => locked += 1,
                Err(error) => panic!("{error:?}"),
            }
            // An opening that was refused gives the lock back, too.
            match Options::new().dimension(9).open(dir.path()) {
                Err(Error::DimensionMismatch { .. }) => {}
                Err(Error::Locked { .. }) => after_refusal += 1,
                other => panic!("{other:?}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!((locked, after_refusal), (0, 0), "times of 150");
    assert_eq!(reopen(open(dir.path())).len(), 3);
}

#[test]
fn a_store_that_another_process_writes_is_locked_and_its_holder_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Role::play("writer", dir.path(), 1000);
    assert_eq!(writer.hear().as_deref(), Some("ready"));
    let error = Options::new().open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::Locked { path, .. } if path == dir.path()), "{error:?}");
    let holder = holder_of(error);
    assert!(!holder.contains(&std::process::id().to_string()), "not this process: {holder}");
    assert!(holder.contains("opening"), "the program is named: {holder}");
    drop(writer.kill());
    // The lock died with the process; the file's text may stay.
    let store = open(dir.path());
    let holder = holder_of(Options::new().open(dir.path()).unwrap_err());
    assert!(holder.contains(&std::process::id().to_string()), "{holder}");
    let mut other = Role::play("try to open", dir.path(), 1000);
    assert_eq!(other.hear(), Some(format!("locked {}", dir.path().display())));
    assert_eq!(reopen(store).len(), 100);
}

#[test]
fn of_two_processes_that_create_one_store_both_or_one_succeed_and_none_breaks_it() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let mut creators = [Role::play("create", &path, 1000), Role::play("create", &path, 1000)];
        let said: Vec<_> = creators.iter_mut().map(|c| c.hear().unwrap()).collect();
        assert!(said.contains(&"created".to_owned()), "{said:?}");
        assert_eq!(said.iter().filter(|word| *word == "created").count(), 1, "{said:?}");
        drop(creators.map(Role::kill));
        reopen(filled(&path, 5));
    }
}

/// A creation that was interrupted leaves any of these behind.
#[test]
fn an_interrupted_creation_is_completed() {
    for left in [&["LOCK"][..], &["MANIFEST.tmp"], &["LOCK", "MANIFEST.tmp"]] {
        let dir = tempfile::tempdir().unwrap();
        for name in left {
            std::fs::write(dir.path().join(name), "unfin").unwrap();
        }
        assert!(matches!(Options::new().read_only(true).open(dir.path()), Err(Error::NotFound(_))));
        assert!(matches!(Options::new().create(false).open(dir.path()), Err(Error::NotFound(_))));
        reopen(filled(dir.path(), 5)).close().unwrap();
        assert!(!dir.path().join("MANIFEST.tmp").exists());
    }
}

/// What an interrupted run leaves in a store is cleared away, a stranger's file is not.
#[test]
fn unfinished_files_of_the_store_are_removed_and_a_strangers_stay() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 5).close().unwrap();
    let ours = ["MANIFEST.tmp", "0000000009-00c0ffee.seg.tmp"];
    let strangers = ["notes.tmp", "notes.txt", "9.seg.tmp"];
    for name in ours.iter().chain(&strangers) {
        std::fs::write(dir.path().join(name), "text").unwrap();
    }
    let store = reopen(open(dir.path()));
    assert_eq!(store.len(), 5);
    store.close().unwrap();
    assert!(ours.iter().all(|name| !dir.path().join(name).exists()));
    assert!(strangers.iter().all(|name| dir.path().join(name).exists()));
}

/// Until a segment is in the manifest its header is the only witness of its salt, and its absence
/// goes unnoticed; a store that was closed has no such segment.
#[test]
fn after_a_close_the_manifest_names_every_segment() {
    for records in [1; 30].into_iter().chain([4_000, 20_000]) {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), records).close().unwrap();
        let manifest = Manifest::decode(&std::fs::read(dir.path().join("MANIFEST")).unwrap());
        let named = manifest.unwrap().segments.len();
        assert_eq!(named, tree::segments(dir.path()).len(), "of {records} records");
        assert_eq!(open(dir.path()).len(), records as usize);
    }
}

#[test]
fn a_closed_store_can_be_moved_and_copied() {
    let dir = tempfile::tempdir().unwrap();
    let (home, copy, moved) =
        (dir.path().join("home"), dir.path().join("copy"), dir.path().join("moved"));
    let store = filled(&home, 5_000);
    let before = state(&store);
    store.close().unwrap();
    tree::copy(&home, &copy);
    std::fs::rename(&home, &moved).unwrap();
    let stores = [open(&copy), open(&moved)];
    for store in stores {
        assert_same(&state(&store), &before);
        RECORDS.put(&store, b"each goes its own way", 1);
        reopen(store);
    }
}
