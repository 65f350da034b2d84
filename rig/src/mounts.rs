//! Loop devices and mounts that go away with what holds them.

use anyhow::{Context, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

impl Drop for Mounted {
    fn drop(&mut self) {
        let busy = |_busy| unmount(&self.0, UnmountFlags::DETACH);
        if let Err(error) = unmount(&self.0, UnmountFlags::empty()).or_else(busy) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}
