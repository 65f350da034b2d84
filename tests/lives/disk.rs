//! A file system whose device can be made to fail: ext4, without a journal, in an image on a small
//! tmpfs. While another file takes the room there is, the image's new blocks cannot be written, and
//! the kernel fails to write pages back.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const TMPFS_BYTES: u64 = 48 << 20;
const IMAGE_BYTES: u64 = 256 << 20;

pub struct Failing {
    dir: TempDir,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

impl Failing {
    /// `None` where the test may not mount one.
    pub fn new() -> Option<Self> {
        let this = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["below", "at"] {
            std::fs::create_dir(this.at(name)).unwrap();
        }
        let below = this.at("below");
        let size = format!("size={TMPFS_BYTES}");
        let made = run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(&below)]) && {
            let image = this.image();
            std::fs::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
            run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", text(&image)]) && this.mount()
        };
        if !made {
            println!("skipped: an image cannot be mounted here (it takes root and loop devices)");
            return None;
        }
        Some(this)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.at("below").join("image")
    }

    fn mount(&self) -> bool {
        run("mount", &["-o", "loop", text(&self.image()), text(&self.at("at"))])
    }

    /// The file system.
    pub fn path(&self) -> PathBuf {
        self.at("at")
    }

    /// From now on new blocks cannot be written, or can again.
    pub fn fail(&self, fail: bool) {
        let filler = self.at("below").join("filler");
        if fail {
            let mut file = std::fs::File::create(filler).unwrap();
            while file.write_all(&[1; 4096]).is_ok() {}
        } else {
            std::fs::remove_file(filler).unwrap();
        }
    }

    /// Has the kernel write everything back, and tells nobody who has a file open of the failure.
    pub fn write_back(&self) {
        run("sync", &["-f", text(&self.at("at"))]);
    }

    /// What is not on the device is gone.
    pub fn lose_the_page_cache(&self) {
        // A loop device, or a thread that ends, may hold it for a moment.
        let unmounted = (0..100).any(|_| {
            let done = run("umount", &[text(&self.at("at"))]);
            if !done {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            done
        });
        assert!(unmounted, "it is in use");
        assert!(self.mount());
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        for name in ["at", "below"] {
            run("umount", &["-l", text(&self.at(name))]);
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a name in ASCII")
}
