//! What is no file, or not the store's alone, at the names of the store's files.

use super::victim::{self, Look, Outcome, Victim};
use super::{LOOKS, place};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use stratalog::{Error, Options};

const NAMES: [&str; 3] = ["MANIFEST", "LOCK", "MANIFEST.tmp"];

fn names(victim: &Victim) -> Vec<String> {
    let mut names: Vec<String> = victim.files.keys().cloned().collect();
    names.extend(NAMES.map(String::from));
    names.sort();
    names.dedup();
    names
}

type Maker = fn(&Path, &Path);

const MAKERS: [(&str, Maker); 6] = [
    ("a symbolic link", |path, aside| symlink(aside, path).unwrap()),
    ("a link to nowhere", |path, _| symlink("nowhere", path).unwrap()),
    ("a link to itself", |path, _| symlink(path, path).unwrap()),
    ("a link to a device", |path, _| symlink("/dev/zero", path).unwrap()),
    ("a directory", |path, _| std::fs::create_dir(path).unwrap()),
    ("a pipe", |path, _| {
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    }),
];

/// Nobody waits for a pipe's other end; nothing is written through a link; what is there stays.
#[test]
fn what_is_no_file_waits_for_nobody_and_stays() {
    let (place, beside) = (place(), place());
    let victim = Victim::make(place.path()).unwrap();
    let aside = beside.path().join("aside");
    let (mut refused, mut opened) = (0, 0);
    for (n, name) in names(&victim).iter().enumerate() {
        for (m, (what, make)) in MAKERS.iter().enumerate() {
            victim.write(place.path()).unwrap();
            let path = place.path().join(name);
            drop(std::fs::remove_file(&path));
            let bytes = victim.files.get(name).cloned().unwrap_or_default();
            std::fs::write(&aside, &bytes).unwrap();
            make(&path, &aside);
            let kind = path.symlink_metadata().unwrap().file_type();
            // One who may write and one who may not.
            for look in [m as u8 % 3, m as u8 % 3 + 3 + n as u8 % 2 * 6] {
                match victim::look(place.path(), Look::of(look % LOOKS, true)) {
                    Outcome::Opened => opened += 1,
                    Outcome::Refused => refused += 1,
                }
            }
            assert_eq!(std::fs::read(&aside).unwrap(), bytes, "written through {what} {name}");
            if name != "MANIFEST.tmp" {
                let now = path.symlink_metadata().map(|there| there.file_type());
                let replaced = name == "MANIFEST" && now.as_ref().is_ok_and(|now| now.is_file());
                assert!(replaced || now.ok() == Some(kind), "{what} {name} was removed");
            }
        }
    }
    assert!(refused > 5 && opened > 5, "{refused} refused, {opened} opened");
}

/// A lock that is a pipe locks nobody out.
#[test]
fn a_lock_that_is_no_file_is_refused() {
    let place = place();
    let victim = Victim::make(place.path()).unwrap();
    let lock = place.path().join("LOCK");
    for (what, make) in MAKERS {
        victim.write(place.path()).unwrap();
        std::fs::remove_file(&lock).unwrap();
        make(&lock, Path::new("/nowhere/else"));
        let refused = Options::new().open(place.path());
        assert!(matches!(refused, Err(Error::Io { .. })), "{what}: {refused:?}");
        assert!(Options::new().read_only(true).open(place.path()).is_ok(), "{what}");
    }
}

/// By its other name a file may be anybody's, or of a copy that must not change.
#[test]
fn files_with_other_names_are_not_written_to() {
    let (place, beside) = (place(), place());
    let victim = Victim::make(place.path()).unwrap();
    for (name, bytes) in &victim.files {
        victim.write(place.path()).unwrap();
        let other = beside.path().join(name);
        std::fs::hard_link(place.path().join(name), &other).unwrap();
        for way in 0..LOOKS {
            let outcome = victim::look(place.path(), Look::of(way, true));
            let is_segment = name.ends_with(".seg");
            let refused = is_segment && way / 3 % 2 == 1;
            assert_eq!(outcome == Outcome::Refused, refused, "{name}, way {way}");
        }
        assert_eq!(&std::fs::read(&other).unwrap(), bytes, "{name} was written to");
    }
}

/// Root may read everything, so this needs a user who is not.
#[test]
fn files_that_cannot_be_read_are_refused_or_reported() {
    const ALONE: &str = "STRATALOG_HOSTILE_ALONE";
    let ours = std::env::var_os(ALONE);
    let (place, program) = (place(), std::env::current_exe().unwrap());
    let probe = place.path().join("probe");
    std::fs::write(&probe, "x").unwrap();
    std::fs::set_permissions(&probe, PermissionsExt::from_mode(0o000)).unwrap();
    if std::fs::read(&probe).is_ok() {
        assert!(ours.is_none(), "nobody may read everything, too");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
        command.args(["--exact", "places::files_that_cannot_be_read_are_refused_or_reported"]);
        match command.env(ALONE, "1").env("TMPDIR", "/tmp").output() {
            Ok(output) if output.status.success() => {}
            Ok(output) if !output.stdout.is_empty() => {
                panic!("{}", String::from_utf8_lossy(&output.stdout))
            }
            other => println!("skipped, no other user can run this: {other:?}"),
        }
        return;
    }
    std::fs::remove_file(&probe).unwrap();
    let victim = Victim::make(place.path()).unwrap();
    for name in victim.files.keys() {
        for way in 0..LOOKS {
            for mode in [0, 0o400] {
                victim.write(place.path()).unwrap();
                let path = place.path().join(name);
                std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
                let outcome = victim::look(place.path(), Look::of(way, true));
                let tolerant_writer = way % 3 == 0 && way / 3 % 2 == 1;
                let needed = !name.starts_with("MANIFEST") && tolerant_writer;
                if name == "MANIFEST" && mode == 0 || needed {
                    assert_eq!(outcome, Outcome::Refused, "{name}, way {way}, mode {mode:o}");
                }
            }
        }
    }
}
