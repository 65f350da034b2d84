//! Whole stores: the files of a small one, changed as the bytes say, opened in some way.

use super::mirror::Mirror;
use super::script::{self, Files, Reader};
use super::victim::{self, Look, Outcome, Victim};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory of this process, removed at the end; in memory where the system has such a place.
#[derive(Debug)]
pub struct Place(PathBuf);

impl Place {
    /// A new, empty one.
    pub fn new(name: &str) -> std::io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = base.join(format!("stratalog-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What stays is small, and in a place for such things.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Attacks one store again and again.
#[derive(Debug)]
pub struct Attacker {
    victim: Files,
    mirror: Mirror,
}

impl Attacker {
    /// Makes the store.
    pub fn new(name: &str) -> Self {
        let place = Place::new(name).expect("a directory");
        let files = Victim::make(place.path()).expect("a store").files;
        let victim: Files = files.into_iter().map(|(name, file)| (name, Arc::new(file))).collect();
        Self { mirror: Mirror::new(place, &victim), victim }
    }

    /// One attack. Says whether the store was opened.
    pub fn run(&mut self, data: &[u8]) -> Outcome {
        let mut reader = Reader(data);
        let how = reader.byte();
        let mut changed = self.victim.clone();
        let genuine = script::apply(&mut changed, &mut reader);
        let mut look = Look::of(how, genuine);
        // A handle that writes takes many times as long, and so does reading all of it twice.
        look.read_only |= how < 224;
        look.thorough = how % 8 == 7;
        self.mirror.show(&changed).expect("room");
        if !look.read_only {
            self.mirror.doubt();
        }
        victim::look(self.mirror.path(), look)
    }
}
