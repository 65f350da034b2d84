//! Loop devices and mounts that go away with what holds them.

use anyhow::{Context, ensure};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Runs a program; what it printed.
pub fn run(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {args:?}: {error}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// A loop device over a file.
pub struct Loop(pub String);

impl Loop {
    pub fn over(file: &Path) -> anyhow::Result<Self> {
        Ok(Self(run("losetup", &["--find", "--show", text(file)?])?))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Err(error) = run("losetup", &["--detach", &self.0]) {
            eprintln!("{error}");
        }
    }
}

/// A mounted device. Nobody else has it open, so the system forgets what it knew of its blocks when
/// it is unmounted.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn at(device: &Loop, kind: &str, place: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(place)?;
        mount(&device.0, place, kind, MountFlags::NOATIME, None)?;
        Ok(Self(place.to_owned()))
    }
}

/// For how long a mount that is busy is tried to be taken away.
const BUSY_MAX: Duration = Duration::from_secs(20);

impl Mounted {
    /// Takes it away for certain: one that somebody still uses would come back as the next mount of
    /// the device, whatever has been written to that meanwhile.
    pub fn end(self) -> anyhow::Result<()> {
        let (since, place) = (Instant::now(), self.0.clone());
        while let Err(error) = unmount(&place, UnmountFlags::empty()) {
            ensure!(error == Errno::BUSY && since.elapsed() < BUSY_MAX, "unmounting: {error}");
            thread::sleep(Duration::from_millis(2));
        }
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}
