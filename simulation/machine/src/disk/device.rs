//! What reaches the device, and what power loss and damage leave of it.

use super::{Content, Disk, Ino, PAGE, ROOT};
use std::ops::Range;

impl Disk {
    pub(crate) fn failures_told(&self, ino: Ino) -> u64 {
        self.inode(ino).map_or(0, |inode| inode.failures_told)
    }

    /// Tells somebody of all failures.
    pub(crate) fn tell_failures(&mut self, ino: Ino) -> u64 {
        self.inode_mut(ino).map_or(0, |inode| {
            inode.failures_told = inode.failures;
            inode.failures
        })
    }

    pub(crate) fn sync(&mut self, ino: Ino, fails: bool) {
        self.assert_room(ino);
        let Some(inode) = self.inode_mut(ino) else { return };
        inode.failures += u64::from(fails);
        match &mut inode.content {
            Content::File(file) => file.write_back(fails),
            Content::Directory(directory) if !fails => directory.sync(),
            Content::Directory(_) => {}
        }
    }

    /// Writes the pages of a part of a file back.
    pub(crate) fn write_back_part(&mut self, ino: Ino, part: Range<u64>) {
        self.assert_room(ino);
        if let Some(file) = self.file_mut(ino) {
            let (from, to) = (part.start as usize / PAGE, (part.end as usize).div_ceil(PAGE));
            file.write_back_pages(from..to, false);
        }
    }

    /// What would have killed a process.
    pub fn violation(&mut self) -> Option<String> {
        let files: Vec<_> = self.files().map(|(ino, _)| ino).collect();
        files.into_iter().for_each(|ino| self.assert_room(ino));
        self.violations.pop()
    }

    /// A store to a hole took blocks that the disk does not have: the kernel would have killed the
    /// process.
    fn assert_room(&mut self, ino: Ino) {
        let free = self.blocks().1;
        let fits = self.file_mut(ino).is_none_or(|file| file.fill_stored(free));
        if !fits {
            let name = self.name_of(ino);
            self.violations.push(format!("SIGBUS: a store to a hole of {name} on a full disk"));
        }
    }

    /// A name of a file.
    #[must_use]
    pub fn name_of(&self, ino: Ino) -> String {
        let all = self.directories().flat_map(|directory| &directory.live);
        let name = all.filter(|(_, its)| **its == ino).map(|(name, _)| name).next();
        name.map_or_else(|| "a removed file".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    fn any_file(&self, dice: &mut fastrand::Rng) -> Option<Ino> {
        let files: Vec<_> = self.files().map(|(ino, _)| ino).collect();
        dice.choice(&files).copied()
    }

    /// The kernel writes some units of a file back, or a directory.
    pub(crate) fn write_back(&mut self, fails: bool, dice: &mut fastrand::Rng) {
        let unit = self.unit;
        let (all, n) = (self.inodes.len(), dice.usize(0..self.inodes.len()));
        let Some(ino) = (0..all).map(|k| (n + k) % all).find(|ino| self.inode(*ino).is_some())
        else {
            return;
        };
        let Some(inode) = self.inode_mut(ino) else { return };
        match &mut inode.content {
            Content::File(file) => {
                let has_failed = file.write_some_back(unit, fails, dice) && fails;
                inode.failures += u64::from(has_failed);
            }
            Content::Directory(directory) => directory.sync_some(dice),
        }
    }

    /// The kernel reads a clean page anew.
    pub(crate) fn evict(&mut self, dice: &mut fastrand::Rng) {
        if let Some(ino) = self.any_file(dice)
            && let Some(file) = self.file_mut(ino)
        {
            file.evict();
        }
    }

    pub(crate) fn lose_power(&mut self, dice: &mut fastrand::Rng) {
        let (unit, torn) = (self.unit, self.torn);
        // One mood for the whole loss: nothing, all, or some of what was not flushed reached the
        // device.
        let mood = dice.u32(0..4);
        for inode in self.inodes.iter_mut().flatten() {
            (inode.lock, inode.failures, inode.failures_told) = (None, 0, 0);
            match &mut inode.content {
                Content::File(file) => file.lose_power(mood, (unit, torn), dice),
                Content::Directory(directory) => directory.lose_power(mood, dice),
            }
        }
        self.open.clear();
        self.mapped.clear();
        self.working.clear();
        self.collect();
    }

    /// Replaces the files of a directory by sparse copies: what is zero has no blocks.
    pub fn make_sparse(&mut self, directory: &str) {
        let Some(directory) = self.find(ROOT, directory.as_ref()) else { return };
        let files: Vec<_> = self
            .directory(directory)
            .map_or_else(Vec::new, |its| its.live.values().copied().collect());
        for ino in files {
            if let Some(file) = self.file_mut(ino) {
                file.make_sparse();
            }
        }
    }

    /// Damages a file whose name ends so, in the directory at a path. Says what and where.
    pub fn damage_one(
        &mut self,
        directory: &str,
        ending: &str,
        dice: &mut fastrand::Rng,
    ) -> Option<String> {
        let directory = self.find(ROOT, directory.as_ref())?;
        let named = self.directory(directory)?.live.iter();
        let named = named.filter(|(name, _)| name.to_string_lossy().ends_with(ending));
        let files: Vec<_> = named.map(|(_, ino)| *ino).collect();
        let ino = *dice.choice(&files)?;
        let at = self.damage(ino, dice)?;
        Some(format!("{} at {at}", self.name_of(ino)))
    }

    /// Damages a unit of a file, as a device may: flips a bit, or has it hold another unit's bytes.
    /// Says where.
    pub fn damage(&mut self, ino: Ino, dice: &mut fastrand::Rng) -> Option<u64> {
        let unit = self.unit;
        self.file_mut(ino)?.damage(unit, dice)
    }
}
