//! `strace` as the device that fails: it counts the script's system calls, and answers one of them,
//! or every one from there on, in the kernel's place.

use super::script::Fault;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SCRIPT: &str = "STRATALOG_FAULTS_SCRIPT";
const PASSES: &str = "STRATALOG_FAULTS_PASSES";
/// A script takes a second; a machine that is asleep meanwhile is no fault of its.
const PATIENCE: Duration = Duration::from_secs(240);

/// The calls that can fail in the engine's hands, and how each of them is made to. Interruptions
/// where the kernel knows them; of the mappings only those of files, since the allocator makes the
/// others.
const CALLS: &[(&str, &[&str])] = &[
    ("openat", &["EIO", "ENOSPC", "EINTR", "EMFILE"]),
    ("fallocate", &["EIO", "ENOSPC", "EINTR"]),
    ("ftruncate", &["EIO", "ENOSPC", "EINTR"]),
    ("mmap", &["EIO", "ENOMEM"]),
    ("madvise", &["EIO", "ENOMEM"]),
    ("fdatasync", &["EIO", "ENOSPC", "EINTR"]),
    ("fsync", &["EIO", "ENOSPC", "EINTR"]),
    ("msync", &["EIO", "ENOSPC", "EINTR"]),
    ("rename", &["EIO", "ENOSPC"]),
    ("renameat", &["EIO", "ENOSPC"]),
    ("renameat2", &["EIO", "EINVAL"]),
    ("unlink", &["EIO"]),
    ("unlinkat", &["EIO"]),
    ("write", &["EIO", "ENOSPC", "EINTR"]),
    ("pwrite64", &["EIO", "ENOSPC", "EINTR"]),
    ("read", &["EIO", "EINTR"]),
    ("pread64", &["EIO", "EINTR"]),
    ("statx", &["EIO"]),
    ("newfstatat", &["EIO"]),
    ("fstat", &["EIO"]),
    ("lseek", &["EIO"]),
    ("fcntl", &["EIO", "EMFILE"]),
    ("flock", &["EIO"]),
    ("getdents64", &["EIO"]),
    ("mkdir", &["EIO", "ENOSPC"]),
    ("mkdirat", &["EIO", "ENOSPC"]),
    ("fstatfs", &["EIO"]),
    ("readlink", &["EIO"]),
    ("clone3", &["EAGAIN"]),
];

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub call: &'static str,
    /// The how manyth of a thread's.
    pub nth: u32,
    pub error: &'static str,
    pub fault: Fault,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let from = if self.fault == Fault::Stays { "from" } else { "at" };
        write!(f, "{} {from} {} {}", self.error, self.call, self.nth)
    }
}

/// How a script ended, and what it said.
pub struct Played {
    /// `None`: by a signal, or not at all.
    pub status: Option<i32>,
    id: u32,
    pub said: String,
    /// What it printed besides, a panic perhaps.
    pub output: String,
}

/// The place and the kind of fault of a process that was started for the script.
pub fn script() -> Option<(std::path::PathBuf, Fault)> {
    let place = std::env::var_os(SCRIPT)?;
    let passes = std::env::var_os(PASSES).is_some();
    Some((place.into(), if passes { Fault::Passes } else { Fault::Stays }))
}

/// Returns whether there is a tracer that may trace.
pub fn is_there() -> bool {
    let version = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    version.is_ok_and(|output| output.status.success())
}

/// `alone`: only the script's own thread meets the fault.
fn play(place: &Path, fault: Fault, tracer: &[String], alone: bool) -> Played {
    let output = std::fs::File::create(place.join("output")).unwrap();
    let mut script = Command::new(std::env::current_exe().unwrap());
    script.args(["--exact", "script", "--nocapture", "--test-threads=1"]);
    script.env(SCRIPT, place).env_remove(PASSES).stdin(Stdio::null());
    script.stdout(output.try_clone().unwrap()).stderr(output);
    if fault == Fault::Passes {
        script.env(PASSES, "1");
    }
    let mut script = script.spawn().unwrap();
    let thread = wait_for(&place.join("thread"));
    let mut strace = Command::new("strace");
    strace.arg("-qq").args(tracer);
    if alone {
        strace.args(["-p", &thread]);
    } else {
        strace.args(["-f", "-p", &script.id().to_string()]);
    }
    strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut strace = strace.spawn().unwrap();
    let status = wait(&mut script);
    if status.is_none() {
        drop(script.kill());
        drop(script.wait());
    }
    strace.wait().unwrap();
    let text = |name| std::fs::read_to_string(place.join(name)).unwrap_or_else(|e| e.to_string());
    Played { status: status.flatten(), id: script.id(), said: text("said"), output: text("output") }
}

/// The line in a file that is being written just now.
fn wait_for(path: &Path) -> String {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        match std::fs::read_to_string(path) {
            Ok(line) if line.ends_with('\n') => return line.trim().to_owned(),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    panic!("the script does not begin")
}

/// `None`: it goes on for ever.
fn wait(script: &mut Child) -> Option<Option<i32>> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(status) = script.try_wait().unwrap() {
            return Some(status.code());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

/// Plays the script with one fault.
pub fn play_with(place: &Path, case: Case) -> Played {
    let Case { call, nth, error, fault } = case;
    let when = match fault {
        Fault::Stays => format!("{nth}+"),
        // Interrupted thrice in a row: resuming once is not enough.
        Fault::Passes if error == "EINTR" => format!("{nth}..{}", nth + 2),
        Fault::Passes => nth.to_string(),
    };
    let inject = format!("inject={call}:error={error}:when={when}");
    let arguments = ["-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject];
    // What other threads map first is their own, and the standard library lives by it.
    play(place, fault, &arguments.map(str::to_owned), call == "mmap")
}

/// Plays the script without a fault; by call, which of a thread's there are to fail.
pub fn count(place: &Path) -> (Played, BTreeMap<&'static str, Vec<u32>>) {
    let trace = place.join("trace");
    let calls: Vec<_> = CALLS.iter().map(|(call, _)| *call).collect();
    let calls = format!("trace={}", calls.join(","));
    let arguments = ["-o", trace.to_str().unwrap(), "-e", &calls].map(str::to_owned);
    let played = play(place, Fault::Passes, &arguments, false);
    let script = wait_for(&place.join("thread"));
    let mut seen: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let mut sites: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    let text = std::fs::read_to_string(&trace).unwrap();
    // The main thread only waits for the tracer.
    let main = played.id.to_string();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(char::is_whitespace) else { continue };
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        let known = CALLS.iter().find(|(known, _)| *known == call);
        let Some((call, _)) = known.filter(|_| thread != main) else { continue };
        let nth = seen.entry((thread, call)).or_default();
        *nth += 1;
        let mapped = thread == script && !arguments.contains("MAP_ANONYMOUS");
        if *call != "mmap" || mapped {
            sites.entry(*call).or_default().push(*nth);
        }
    }
    for nths in sites.values_mut() {
        nths.sort_unstable();
        nths.dedup();
    }
    (played, sites)
}

/// All faults at all sites.
pub fn cases(sites: &BTreeMap<&'static str, Vec<u32>>) -> Vec<Case> {
    let mut cases = Vec::new();
    for (call, errors) in CALLS {
        for &nth in sites.get(call).map_or(&[][..], |nths| nths) {
            for error in *errors {
                cases.push(Case { call, nth, error, fault: Fault::Passes });
                // For ever interrupted is for ever tried again; the allocator maps, too.
                if *error != "EINTR" && *call != "mmap" {
                    cases.push(Case { call, nth, error, fault: Fault::Stays });
                }
            }
        }
    }
    cases
}
