//! Kills at a step: `strace` ends the child as one of its threads makes a certain system call, the
//! so-manieth of that thread's, before the kernel has done anything about it.

use super::event::Event;
use super::tally::doing;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// The calls by which a store changes what others see of it, and what it holds of the kernel; and
/// how often a thread makes one in the time that it has, about: few come to a much later one.
const CALLS: &[(&str, u32)] = &[
    ("fallocate", 6),
    ("fdatasync", 4),
    ("flock", 3),
    ("fsync", 8),
    ("ftruncate", 3),
    ("madvise", 24),
    ("mkdirat", 3),
    ("mmap", 60),
    ("msync", 4),
    ("munmap", 24),
    ("openat", 60),
    ("pwrite64", 4),
    ("renameat", 8),
    ("renameat2", 8),
    ("unlinkat", 8),
];

/// A system call of one thread.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    call: &'static str,
    nth: u32,
}

/// How many children were killed where: of each step, by what the thread was at that came to it.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Steps(BTreeMap<String, BTreeMap<&'static str, u64>>);

/// Returns whether there is a tracer here that may trace.
pub fn can_be_chosen() -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=none", "true"]);
    strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    strace.status().is_ok_and(|status| status.success())
}

impl Step {
    pub fn choose(rng: &mut fastrand::Rng) -> Self {
        let (call, often) = CALLS[rng.usize(..CALLS.len())];
        // Early ones more often: a child may not get to a later one.
        let most = rng.u32(1..=often);
        Self { call, nth: rng.u32(1..=most) }
    }

    /// A process that runs this and is killed at the step, if it comes to it. The tracer is not its
    /// parent, so it can be killed and waited for as any other.
    pub fn command(self, trace: &Path, program: OsString) -> Command {
        let Self { call, nth } = self;
        let mut strace = Command::new("strace");
        strace
            .args(["-D", "-f", "--seccomp-bpf", "-qq", "-y", "-e", "signal=none", "-o"])
            .arg(trace);
        strace.args(["-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:signal=SIGKILL:when={nth}")]);
        strace.arg("--").arg(program);
        strace
    }
}

impl Steps {
    /// Reads what the tracer wrote, which is complete: at which call the child was killed. Nothing
    /// if it did not come to the step.
    pub fn note(&mut self, trace: &Path, events: &[Event]) -> anyhow::Result<()> {
        let text = match fs::read_to_string(trace) {
            // Killed before the tracer had begun.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text?,
        };
        fs::remove_file(trace)?;
        if let Some((thread, step)) = text.lines().find_map(step_of) {
            *self.0.entry(step).or_default().entry(doing(events, thread)).or_default() += 1;
        }
        Ok(())
    }

    pub fn kills(&self) -> u64 {
        self.0.values().flat_map(BTreeMap::values).sum()
    }

    pub fn add(&mut self, other: &Self) {
        for (step, kills) in &other.0 {
            let sums = self.0.entry(step.clone()).or_default();
            for (doing, kills) in kills {
                *sums.entry(doing).or_default() += kills;
            }
        }
    }

    /// A line for each step: its name, and how many kills while what.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{:<32}{:>6}  while", "killed at", "kills")];
        for (step, kills) in &self.0 {
            let while_ = kills.iter().map(|(doing, kills)| format!("{doing} {kills}"));
            let while_ = while_.collect::<Vec<_>>().join(", ");
            lines.push(format!("{step:<32}{:>6}  {while_}", kills.values().sum::<u64>()));
        }
        lines
    }
}

/// The thread and the call of a line, if the call never returned: what it is done to decides its
/// name.
fn step_of(line: &str) -> Option<(u64, String)> {
    let (thread, rest) = line.split_once(char::is_whitespace)?;
    let (call, arguments) = rest.trim_start().strip_suffix(" = ?")?.split_once('(')?;
    let step = CALLS
        .iter()
        .any(|(known, _)| *known == call)
        .then(|| format!("{call} {}", object_of(call, arguments)))?;
    Some((thread.parse().ok()?, step))
}

fn object_of(call: &str, arguments: &str) -> String {
    let words = ["PUNCH_HOLE", "POPULATE_WRITE", "DONTNEED"];
    let how = words.iter().find(|word| arguments.contains(**word));
    let how = how.map_or(String::new(), |word| format!(", {}", word.replace('_', " ")));
    // The descriptor's path; of a call that names one itself, that.
    let described = arguments.split(['<', '>']).nth(1).unwrap_or("");
    let path = Path::new(described).join(arguments.split('"').nth(1).unwrap_or(""));
    let Some(path) = path.to_str().filter(|path| path.contains('/')) else {
        let memory =
            if matches!(call, "mmap" | "munmap" | "madvise" | "msync") { "memory" } else { "?" };
        return format!("{memory}{}", how.to_lowercase());
    };
    let backup = if path.contains("/backup") { ", backup" } else { "" };
    let path = path.trim_end_matches('/');
    let name = Path::new(path).file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
    let kind = match name.as_str() {
        name if name.ends_with(".seg.tmp") => "new segment",
        name if name.ends_with(".seg") => "segment",
        name if name.ends_with("MANIFEST.tmp") => "new manifest",
        "MANIFEST.next" => "next manifest",
        "MANIFEST" => "manifest",
        "LOCK" => "lock",
        name if name.starts_with("spare") => "spare",
        name if name.starts_with("store") || name.starts_with("backup") => "directory",
        _ => "other",
    };
    format!("{kind}{}{backup}", how.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torture::event::{UPKEEP, What};
    use crate::torture::value::{Key, Version};

    fn named(call: &str) -> Option<String> {
        step_of(&format!("16880 {call}")).map(|(thread, step)| {
            assert_eq!(thread, 16880);
            step
        })
    }

    #[test]
    fn a_step_is_a_call_that_never_returned_and_what_it_was_done_to() {
        for (call, step) in [
            ("fsync(13</tmp/w/store>)   = ?", "fsync directory"),
            ("fsync(13</tmp/w>)   = ?", "fsync other"),
            (
                "fallocate(7</tmp/w/store/05-e5.seg.tmp>, 0, 0, 1048576) = ?",
                "fallocate new segment",
            ),
            (
                "fallocate(7</w/store/05-e5.seg>, FALLOC_FL_PUNCH_HOLE, 0, 9) = ?",
                "fallocate segment, punch hole",
            ),
            (
                "renameat(5</w/store>, \"MANIFEST.tmp\", 5</w/store>, \"MANIFEST\") = ?",
                "renameat new manifest",
            ),
            (
                "renameat2(5</w/store>, \"MANIFEST.next\", 5</w/store>, \"MANIFEST\", 2) = ?",
                "renameat2 next manifest",
            ),
            ("msync(0x7f7304d2c000, 1048576, MS_SYNC) = ?", "msync memory"),
            ("openat(AT_FDCWD</w>, \"/w/store/LOCK\", O_RDWR|O_CLOEXEC) = ?", "openat lock"),
            ("unlinkat(5</w/backup.03.tmp>, \"05-e5.seg\", 0) = ?", "unlinkat segment, backup"),
            ("unlinkat(5</w/backup.old>, \"LOCK\", 0) = ?", "unlinkat lock, backup"),
            ("munmap(0x7f7304d2c000, 1048576) = ?", "munmap memory"),
            ("madvise(0x7f, 207, MADV_POPULATE_WRITE) = ?", "madvise memory, populate write"),
        ] {
            assert_eq!(named(call).as_deref(), Some(step));
        }
        for other in ["fsync(5</w/store>) = 0", "<... fsync resumed>) = ?", "+++ killed +++"] {
            assert_eq!(named(other), None);
        }
    }

    #[test]
    fn kills_are_counted_by_step_and_by_what_its_thread_was_at() {
        let dir = tempfile::tempdir().unwrap();
        let (trace, mut steps) = (dir.path().join("trace"), Steps::default());
        let version = Version::first(1, 2);
        let begin = Event::Begin { version, key: Key(5), what: What::Put, expires: 0 };
        let thread = |thread, number| Event::Thread { thread, number };
        let writing = vec![thread(UPKEEP, 1), Event::Opened, thread(2, 2), begin];
        let backing = [&writing[..], &[Event::Compacting, Event::BackingUp(1)]].concat();
        let batch = [Event::Batch { first: version, count: 2 }];
        for (number, events, doing) in [
            (2, writing.clone(), "put"),
            (1, writing.clone(), "between"),
            (9, writing.clone(), "a thread of the engine's"),
            (1, writing[..1].to_vec(), "opening"),
            (1, backing.clone(), "backup"),
            (2, backing, "put"),
            (2, [&writing[..3], &batch[..], &writing[3..]].concat(), "batch"),
            (1, [&writing[..], &[Event::Closing]].concat(), "closing"),
        ] {
            let unlink = "unlinkat(5</w/store>, \"1.seg\", 0) = ?";
            let of = format!("1 fsync(5</w/store>) = 0\n{number} {unlink}\n");
            fs::write(&trace, of).unwrap();
            let mut steps = Steps::default();
            steps.note(&trace, &events).unwrap();
            assert_eq!((steps.kills(), trace.exists()), (1, false));
            assert!(steps.lines()[1].ends_with(&format!("1  {doing} 1")), "{:?}", steps.lines());
        }
        fs::write(&trace, "1 fsync(5</w/store>) = 0\n").unwrap();
        steps.note(&trace, &writing).unwrap();
        assert_eq!(steps.kills(), 0);
        steps.note(&trace, &writing).unwrap();
        assert_eq!(steps.kills(), 0, "there is no trace");
    }
}
