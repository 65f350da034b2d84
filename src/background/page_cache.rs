//! How segments are read once the store is larger than the memory it may use.
//!
//! As long as everything fits, read-ahead and large folios are a gain: what they bring is wanted
//! sooner or later. Once it does not, each miss of a get brings megabytes, and pushes as much out
//! that was wanted. So from then on pages of sealed segments come back one by one, and whoever
//! reads in order says so ahead ([`Memory::will_read`]).

use crate::concurrency::epoch::Guard;
use crate::disk::DiskEngine;
use crate::memory::Memory;
use crate::os::{self, time::Instant};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The store is too large once it takes more than so many eighths of the memory: the program, the
/// index and the page tables take some too.
const TOO_LARGE: u64 = 6;
/// It is not any more once it takes less than so many: in between nothing changes.
const FITS: u64 = 5;
/// Longer records than this, on average, are read in more than one piece.
const SHORT_BYTES: u64 = 32 << 10;
/// How old an answer about the memory may be.
const FRESH: Duration = Duration::from_secs(1);

/// Whether the store is larger than the memory it may use, by what was found last.
#[derive(Debug)]
pub struct PageCachePolicy {
    limits: Limits,
    /// Bytes, and when they were looked up.
    memory: Option<(u64, Instant)>,
    too_large: bool,
}

impl PageCachePolicy {
    /// For this process, which is taken to stay in the control group that it is in now.
    #[must_use]
    pub fn new() -> Self {
        Self { limits: Limits::of_this_process(), memory: None, too_large: false }
    }

    /// Looks at store and memory again, and says to every sealed segment how it is to be read.
    pub fn update(&mut self, engine: &DiskEngine, guard: &Guard) {
        let held =
            engine.log().table().iter(guard).map(|segment| segment.filling().frame_bytes()).sum();
        let memory = self.memory.filter(|(_, at)| at.elapsed() < FRESH);
        let (memory, at) = memory.unwrap_or_else(|| (self.limits.bytes(), Instant::now()));
        self.memory = Some((memory, at));
        self.too_large = is_too_large(self.too_large, held, memory);
        for segment in engine.log().table().iter(guard) {
            // One that is still to be flushed has pages as writers and flushes want them.
            if segment.durable().is_settled() && segment.filling().is_full() {
                let short = has_short_records(
                    segment.filling().frame_bytes(),
                    segment.filling().slots_end(),
                );
                segment.memory().read_singly(self.too_large && short);
            }
        }
    }
}

/// Returns whether `held` bytes are too many for the memory, if they were before or not.
fn is_too_large(before: bool, held: u64, memory: u64) -> bool {
    let eighths = if before { FITS } else { TOO_LARGE };
    held > memory / 8 * eighths
}

/// Returns whether single pages serve the records of a segment with so much in it.
fn has_short_records(frame_bytes: u64, slots: u32) -> bool {
    frame_bytes <= u64::from(slots) * SHORT_BYTES
}

/// Where the memory of the process is limited.
#[derive(Debug, Default)]
struct Limits {
    files: Vec<PathBuf>,
}

impl Limits {
    fn of_this_process() -> Self {
        let read = |path| os::process::kernel_file(path);
        match (read("/proc/self/cgroup"), read("/proc/self/mountinfo")) {
            (Ok(groups), Ok(mounts)) => Self { files: limit_files(&groups, &mounts) },
            // Without `/proc` only what the machine has is left to ask for, if that.
            _ => Self::default(),
        }
    }

    /// The lowest limit there is; that of the machine at least.
    fn bytes(&self) -> u64 {
        let machine = os::process::kernel_file("/proc/meminfo").ok();
        let read = |path: &PathBuf| os::process::kernel_file(path).ok()?.trim().parse().ok();
        let groups = self.files.iter().filter_map(read);
        // Where nothing is known nothing is too large.
        groups.chain(machine.as_deref().and_then(total_bytes)).min().unwrap_or(u64::MAX)
    }
}

/// `MemTotal` of `/proc/meminfo`.
fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    kib.checked_mul(1024)
}

/// The files that may limit the memory of a process of which `/proc` tells this: those of its
/// control group and of all above it that can be seen from here.
fn limit_files(cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (kind, names): (&str, &[&str]) = match controllers {
            "" => ("cgroup2", &["memory.max", "memory.high"]),
            some if some.split(',').any(|one| one == "memory") => {
                ("cgroup", &["memory.limit_in_bytes"])
            }
            _ => continue,
        };
        for (root, at) in mountinfo.lines().filter_map(|line| cgroup_mount(line, kind)) {
            // Of a container that sees the path from outside, or only its own part of the tree.
            let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
            for group in below.ancestors() {
                files.extend(names.iter().map(|name| Path::new(at).join(group).join(name)));
            }
        }
    }
    files
}

/// Which part of the hierarchy of groups is mounted by a line of `mountinfo`, and where; if it is
/// the unified one (`cgroup2`), or the one with the memory controller (`cgroup`).
fn cgroup_mount<'a>(line: &'a str, kind: &str) -> Option<(&'a str, &'a str)> {
    let (mount, source) = line.split_once(" - ")?;
    let mut source = source.split(' ');
    let (is, options) = (source.next()?, source.nth(1)?);
    let memory = options.split(',').any(|option| option == "memory");
    if is != kind || (kind == "cgroup" && !memory) {
        return None;
    }
    let mut fields = mount.split(' ').skip(3);
    let (root, at) = (fields.next()?, fields.next()?);
    Some((root, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn between_two_thresholds_nothing_changes() {
        let memory = 800 * MIB;
        assert!(!is_too_large(false, 600 * MIB, memory));
        assert!(is_too_large(false, 601 * MIB, memory));
        assert!(is_too_large(true, 600 * MIB, memory), "it was, and has hardly shrunk");
        assert!(is_too_large(true, 501 * MIB, memory));
        assert!(!is_too_large(true, 500 * MIB, memory));
        assert!(!is_too_large(false, 501 * MIB, memory), "it was not, and has hardly grown");
        assert!(!is_too_large(false, u64::MAX / 2, u64::MAX), "nothing is known of the memory");
    }

    #[test]
    fn long_records_are_not_read_page_by_page() {
        assert!(has_short_records(64 * MIB, 20_000));
        assert!(has_short_records(64 * MIB, 2048));
        assert!(!has_short_records(64 * MIB, 2047));
        assert!(has_short_records(0, 0));
    }

    #[test]
    fn the_machine_says_how_much_it_has() {
        let meminfo = "MemFree:  7 kB\nMemTotal:       24667328 kB\nMemAvailable: 1 kB\n";
        assert_eq!(total_bytes(meminfo), Some(24_667_328 * 1024));
        assert_eq!(total_bytes("MemTotal: many\n"), None);
    }

    fn found(cgroup: &str, mountinfo: &str) -> Vec<String> {
        let files = limit_files(cgroup, mountinfo);
        files.iter().map(|path| path.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn limits_are_those_of_the_group_and_of_all_above() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
        assert_eq!(
            found("9:cpu,cpuacct:/x\n4:memory:/outer/inner\n0::/y\n", mounts),
            [
                "/sys/fs/cgroup/memory/outer/inner/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/outer/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            ]
        );
        let unified = "24 1 0:22 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            found("0::/app\n", unified),
            [
                "/sys/fs/cgroup/app/memory.max",
                "/sys/fs/cgroup/app/memory.high",
                "/sys/fs/cgroup/memory.max",
                "/sys/fs/cgroup/memory.high",
            ]
        );
    }

    #[test]
    fn a_container_sees_its_own_part_of_the_groups() {
        let mount = "35 31 0:32 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        for path in ["/docker/ab", "/"] {
            assert_eq!(
                found(&format!("4:memory:{path}\n"), mount),
                ["/sys/fs/cgroup/memory/memory.limit_in_bytes"]
            );
        }
        assert!(found("nonsense\n:\n4:memory\n", "nonsense\n - \n - cgroup2\n").is_empty());
    }

    #[test]
    fn this_process_has_some_memory() {
        let bytes = Limits::of_this_process().bytes();
        assert!(bytes > MIB && bytes < u64::MAX, "{bytes}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("memory.max");
        let limits = Limits { files: vec![dir.path().join("missing"), file.clone()] };
        std::fs::write(&file, "1048576\n").unwrap();
        assert_eq!(limits.bytes(), MIB);
        std::fs::write(&file, "max\n").unwrap();
        assert_eq!(limits.bytes(), Limits::default().bytes());
    }
}
