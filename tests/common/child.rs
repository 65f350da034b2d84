//! Another process: this test binary, run again with a role. The parent hears its lines, tells it
//! to go on, or kills it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const ROLE: &str = "STRATALOG_TEST_ROLE";
const PLACE: &str = "STRATALOG_TEST_PLACE";
/// What comes before it in a line is the test harness's.
const MARK: &str = "@@";

/// A process with a role. Killed when dropped.
pub struct Role {
    child: Child,
    lines: BufReader<ChildStdout>,
    go: ChildStdin,
}

impl Role {
    /// Runs the test `roles` of this binary in a process of its own, which finds role and place by
    /// [`role`]. It may have so many files open.
    pub fn play(role: &str, place: &Path, files: u32) -> Self {
        let program = std::env::current_exe().expect("a test binary");
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        command.args(["-c", &script]).arg(program);
        command.args(["--exact", "roles", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role).env(PLACE, place);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a process");
        let lines = BufReader::new(child.stdout.take().expect("its output"));
        let go = child.stdin.take().expect("its input");
        Self { child, lines, go }
    }

    /// The next thing it says; `None` once it has ended.
    pub fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.lines.read_line(&mut line).expect("text") > 0 {
            if let Some((_, said)) = line.trim_end().split_once(MARK) {
                return Some(said.to_owned());
            }
            line.clear();
        }
        None
    }

    /// Tells it to go on from where it waits.
    pub fn go_on(&mut self) {
        self.go.write_all(b"\n").expect("it listens");
    }

    /// Kills it (SIGKILL: it notices nothing) and answers what it had said by then.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("it can be killed");
        std::iter::from_fn(|| self.hear()).collect()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended, or have been killed already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The role that this process was started for, and where to play it; `None` in the parent.
pub fn role() -> Option<(String, PathBuf)> {
    let role = std::env::var(ROLE).ok()?;
    Some((role, std::env::var_os(PLACE)?.into()))
}

/// Says something to the parent. It is in the pipe when this returns.
pub fn say(what: impl std::fmt::Display) {
    println!("{MARK}{what}");
}

/// Waits until the parent says to go on.
pub fn wait() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("the parent lives");
}
