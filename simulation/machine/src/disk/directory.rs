//! A directory: names, and changes that are not on the device yet.

use super::Ino;
use std::collections::BTreeMap;
use std::ffi::OsString;

type Names = BTreeMap<OsString, Ino>;

#[derive(Clone, Debug)]
enum Change {
    Link(OsString, Ino),
    Unlink(OsString),
    Rename(OsString, OsString),
    Exchange(OsString, OsString),
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Link(name, ino) => drop(names.insert(name.clone(), *ino)),
            Self::Unlink(name) => drop(names.remove(name)),
            Self::Rename(from, to) => {
                if let Some(ino) = names.remove(from) {
                    names.insert(to.clone(), ino);
                }
            }
            Self::Exchange(one, other) => {
                if let (Some(&first), Some(&second)) = (names.get(one), names.get(other)) {
                    names.insert(one.clone(), second);
                    names.insert(other.clone(), first);
                }
            }
        }
    }

    fn touches(&self, name: &OsString) -> bool {
        match self {
            Self::Link(its, _) | Self::Unlink(its) => its == name,
            Self::Rename(one, other) | Self::Exchange(one, other) => one == name || other == name,
        }
    }

    fn names(&self) -> Vec<&OsString> {
        match self {
            Self::Link(its, _) | Self::Unlink(its) => vec![its],
            Self::Rename(one, other) | Self::Exchange(one, other) => vec![one, other],
        }
    }
}

/// A directory.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) live: Names,
    device: Names,
    pending: Vec<Change>,
    pub(super) parent: Ino,
}

impl Directory {
    pub(super) fn new(parent: Ino) -> Self {
        Self { live: Names::new(), device: Names::new(), pending: Vec::new(), parent }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    pub(super) fn link(&mut self, name: OsString, ino: Ino) {
        self.change(Change::Link(name, ino));
    }

    pub(super) fn unlink(&mut self, name: OsString) {
        self.change(Change::Unlink(name));
    }

    pub(super) fn rename(&mut self, from: OsString, to: OsString, exchange: bool) {
        self.change(if exchange { Change::Exchange(from, to) } else { Change::Rename(from, to) });
    }

    /// All inodes that it may lead to, now or after power loss.
    pub(super) fn inodes(&self) -> impl Iterator<Item = Ino> + '_ {
        let linked = self.pending.iter().filter_map(|change| match change {
            Change::Link(_, ino) => Some(*ino),
            _ => None,
        });
        self.live.values().chain(self.device.values()).copied().chain(linked)
    }

    pub(super) fn sync(&mut self) {
        self.device = self.live.clone();
        self.pending.clear();
    }

    /// Some changes reach the device: the first ones, or any that no earlier one that is left out
    /// concerns the same names as.
    fn keep_some(&mut self, in_order: bool, dice: &mut fastrand::Rng) {
        let mut left: Vec<Change> = Vec::new();
        for change in std::mem::take(&mut self.pending) {
            let waits = left
                .iter()
                .any(|earlier| in_order || change.names().iter().any(|name| earlier.touches(name)));
            if waits || dice.bool() {
                left.push(change);
            } else {
                change.apply(&mut self.device);
            }
        }
        self.pending = left;
    }

    pub(super) fn sync_some(&mut self, dice: &mut fastrand::Rng) {
        self.keep_some(dice.bool(), dice);
    }

    /// `mood`: 0 nothing, 1 all, else some of what is not on the device is kept.
    pub(super) fn lose_power(&mut self, mood: u32, dice: &mut fastrand::Rng) {
        match mood {
            0 => {}
            1 => self.sync(),
            _ => self.keep_some(dice.bool(), dice),
        }
        self.pending.clear();
        self.live = self.device.clone();
    }
}
