//! What a killed child has left of its backups: of each nothing under its name, or all of it.

use super::Rig;
use crate::torture::child;
use crate::torture::oracle::Oracle;
use anyhow::Context;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use stratalog::Options;

/// The number of a backup, if this is one under its own name.
fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("backup.")?.parse().ok()
}

impl Rig {
    /// Judges every record of each backup, and removes them.
    pub(super) fn check_backups(&mut self) -> anyhow::Result<()> {
        let directory = self.store.parent().context("a store lies in a directory")?;
        let mut left: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let is_backup = |n: &OsStr| n.as_encoded_bytes().starts_with(b"backup.");
            if path.file_name().is_some_and(is_backup) {
                left.push(path);
            }
        }
        left.sort();
        let there: Vec<u64> = left.iter().filter_map(|path| number_of(path)).collect();
        for copy in &left {
            if let Some(number) = number_of(copy) {
                self.check_backup(copy, number)?;
            }
        }
        // Those of the rounds before were judged, and are gone.
        let (due, round) = (self.oracle.copies_due(child::BACKUPS_KEPT), self.round);
        for number in due.into_iter().filter(|number| child::round_of(*number) == round) {
            if !there.contains(&number) {
                self.violation(&Oracle::copy_is_gone(number));
            }
        }
        if self.tally.violations() == 0 {
            left.iter().try_for_each(fs::remove_dir_all)?;
        }
        Ok(())
    }

    fn check_backup(&mut self, copy: &Path, number: u64) -> anyhow::Result<()> {
        let options = Options::new().create(false).read_only(true);
        let store = options.open(copy).with_context(|| format!("opening backup {number}"))?;
        let (report, verified) = (store.recovery().clone(), store.verify()?);
        if !report.is_clean() || !verified.is_clean() {
            let damaged = verified.damaged;
            self.wrong(format!("backup {number} is not clean: {report:?} {damaged:?}"));
        }
        let found = self.look_at_all(&store);
        for violation in self.oracle.judge_copy(number, &found) {
            self.violation(&violation);
        }
        self.judge_iteration(&store, &found)?;
        self.tally.backups_checked += 1;
        self.tally.backups_unfinished += u64::from(!self.oracle.has_finished(number));
        let there = found.iter().filter(|(_, found, _)| found.version().is_some());
        self.tally.backup_records += there.count() as u64;
        Ok(())
    }
}
