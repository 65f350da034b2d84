//! Kills at a step: `strace` ends the child as one of its threads makes a certain system call, the
//! so-manieth of that thread's, before the kernel has done anything about it.

use super::tally::Place;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// The calls by which a store changes what others see of it, and what it holds of the kernel.
const CALLS: &[&str] = &[
    "fallocate",
    "fdatasync",
    "flock",
    "fsync",
    "ftruncate",
    "madvise",
    "mkdir",
    "mmap",
    "munmap",
    "openat",
    "pwrite64",
    "rename",
    "unlink",
    "unlinkat",
];
/// Where a call is made at most; half of the time below 4.
const NTH_BITS_MAX: u32 = 6;

/// A system call of one thread.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    call: &'static str,
    nth: u32,
}

/// How many children were killed where: of each step, by what they were at.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Steps(BTreeMap<String, BTreeMap<Place, u64>>);

/// Whether there is a tracer here that may trace.
pub fn can_be_chosen() -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-o", "/dev/null", "-e", "trace=none", "true"]);
    strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    strace.status().is_ok_and(|status| status.success())
}

impl Step {
    pub fn choose(rng: &mut fastrand::Rng) -> Self {
        let call = CALLS[rng.usize(..CALLS.len())];
        let below = 2_u32 << rng.u32(..NTH_BITS_MAX);
        Self { call, nth: rng.u32(1..=below) }
    }

    /// A process that runs this and is killed at the step, if it comes to it. The tracer is not its
    /// parent, so it can be killed and waited for as any other.
    pub fn command(self, trace: &Path, program: OsString) -> Command {
        let Self { call, nth } = self;
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "-qq", "-y", "-e", "signal=none", "-o"]).arg(trace);
        strace.args(["-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:signal=SIGKILL:when={nth}")]);
        strace.arg("--").arg(program);
        strace
    }
}

impl Steps {
    /// Reads what the tracer wrote, which is complete: at which call the child was killed. Nothing
    /// if it did not come to the step.
    pub fn note(&mut self, trace: &Path, place: Place) -> anyhow::Result<()> {
        let text = match fs::read_to_string(trace) {
            // Killed before the tracer had begun.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text?,
        };
        fs::remove_file(trace)?;
        if let Some(step) = text.lines().find_map(step_of) {
            *self.0.entry(step).or_default().entry(place).or_default() += 1;
        }
        Ok(())
    }

    pub fn kills(&self) -> u64 {
        self.0.values().flat_map(BTreeMap::values).sum()
    }

    /// A line for each step: its name, and the kills at each place.
    pub fn lines(&self) -> Vec<String> {
        let head = Place::ALL.map(|place| format!("{:>11}", place.to_string())).concat();
        let mut lines = vec![format!("{:<36}{head}", "killed at, while")];
        for (step, kills) in &self.0 {
            let of = |place: &Place| format!("{:>11}", kills.get(place).copied().unwrap_or(0));
            lines.push(format!("{step:<36}{}", Place::ALL.each_ref().map(of).concat()));
        }
        lines
    }
}

/// The call of a line, if the call never returned: what it is done to decides its name.
fn step_of(line: &str) -> Option<String> {
    let (_thread, rest) = line.split_once(char::is_whitespace)?;
    let (call, arguments) = rest.trim_start().strip_suffix(" = ?")?.split_once('(')?;
    CALLS.contains(&call).then(|| format!("{call} {}", object_of(call, arguments)))
}

fn object_of(call: &str, arguments: &str) -> String {
    let words = ["PUNCH_HOLE", "POPULATE_WRITE", "DONTNEED"];
    let how = words.iter().find(|word| arguments.contains(**word));
    let how = how.map_or(String::new(), |word| format!(", {}", word.replace('_', " ")));
    // The descriptor's path; of a call that names one itself, that.
    let described = arguments.split(['<', '>']).nth(1).unwrap_or("");
    let path = Path::new(described).join(arguments.split('"').nth(1).unwrap_or(""));
    let Some(path) = path.to_str().filter(|path| path.contains('/')) else {
        let memory = if matches!(call, "mmap" | "munmap" | "madvise") { "memory" } else { "?" };
        return format!("{memory}{}", how.to_lowercase());
    };
    let backup = if path.contains("/backup") { ", backup" } else { "" };
    let path = path.trim_end_matches('/');
    let name = Path::new(path).file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
    let kind = match name.as_str() {
        name if name.ends_with(".seg.tmp") => "new segment",
        name if name.ends_with(".seg") => "segment",
        name if name.ends_with("MANIFEST.tmp") => "new manifest",
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

    fn named(call: &str) -> Option<String> {
        step_of(&format!("16880 {call}"))
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
            ("rename(\"/w/store/MANIFEST.tmp\", \"/w/store/MANIFEST\") = ?", "rename new manifest"),
            ("openat(AT_FDCWD</w>, \"/w/store/LOCK\", O_RDWR|O_CLOEXEC) = ?", "openat lock"),
            ("unlink(\"/w/backup.03.tmp/05-e5.seg\") = ?", "unlink segment, backup"),
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
    fn kills_are_counted_by_step_and_place() {
        let dir = tempfile::tempdir().unwrap();
        let (trace, mut steps) = (dir.path().join("trace"), Steps::default());
        for place in [Place::Closing, Place::Closing, Place::Writing] {
            fs::write(&trace, "1 fsync(5</w/store>) = 0\n2 unlink(\"/w/store/1.seg\") = ?\n")
                .unwrap();
            steps.note(&trace, place).unwrap();
        }
        fs::write(&trace, "1 fsync(5</w/store>) = 0\n").unwrap();
        steps.note(&trace, Place::Writing).unwrap();
        assert_eq!((steps.kills(), trace.exists()), (3, false));
        let lines = steps.lines();
        let words: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(words, ["unlink", "segment", "0", "1", "0", "0", "2", "0"]);
        steps.note(&trace, Place::Writing).unwrap();
        assert_eq!(steps.kills(), 3, "there is no trace");
    }
}
