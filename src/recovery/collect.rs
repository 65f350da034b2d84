//! Step 1 of opening: which files are this store's segments, and mapping them.

use super::Candidate;
use crate::error::Error;
use crate::files::Files;
use crate::format::checksum::Salt;
use crate::format::header::{HeaderError, Identity};
use crate::format::ids::{Sequence, SlotNumber};
use crate::format::manifest::Manifest;
use crate::fs::{self, SegmentFile};
use crate::memory::MmapMemory;
use crate::report::{Damage, RecoveryReport};
use crate::segment::Segment;
use crate::sync::unmodelled::Arc;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// What the directory held.
pub(super) struct Collected {
    pub(super) candidates: Vec<Candidate>,
    pub(super) damage: Vec<Damage>,
    pub(super) missing: Vec<(Sequence, Salt)>,
    /// Names of segment files that never held a record.
    pub(super) blank: Vec<String>,
    pub(super) next_sequence: Sequence,
}

/// A mapped file and what its name and header say.
enum Opened {
    Segment(Box<Segment<MmapMemory>>),
    /// Not this store's, or not a segment at all.
    Foreign,
    /// This store's by its name, but unreadable.
    Broken(&'static str),
}

pub(super) fn collect(
    files: &Files,
    manifest: &Manifest,
    writable: bool,
    report: &mut RecoveryReport,
) -> Result<Collected, Error> {
    if writable {
        fs::remove_temporaries(files.directory())?;
    }
    let (found, foreign) = fs::list_segments(files.directory())?;
    report.foreign_files = foreign;
    let listed: BTreeMap<Sequence, Salt> = manifest.segments.iter().copied().collect();
    let mut collected = Collected {
        candidates: Vec::new(),
        damage: Vec::new(),
        missing: Vec::new(),
        blank: Vec::new(),
        next_sequence: manifest.next_sequence.max(Sequence(1)),
    };
    let mut seen = BTreeMap::new();
    for file in &found {
        let salt = listed.get(&file.sequence).copied().filter(|s| s.0 as u32 == file.half_salt);
        if file.sequence < Sequence::MAX {
            collected.next_sequence = collected.next_sequence.max(file.sequence.next());
        }
        match open(files, file, salt, writable)? {
            Opened::Foreign => report.foreign_files += 1,
            Opened::Broken(reason) => {
                report.corrupt += 1;
                collected.damage.push(damage(&file.path, reason));
                seen.insert(file.sequence, ());
            }
            // Below what the manifest covers, and not in it: given up before, and not quite gone.
            Opened::Segment(segment)
                if salt.is_none() && file.sequence < manifest.next_sequence =>
            {
                collected.blank.push(fs::segment_name(file.sequence, segment.salt()));
            }
            Opened::Segment(segment) => take(&mut collected, &mut seen, file, *segment, salt),
        }
    }
    for (sequence, salt) in listed {
        if !seen.contains_key(&sequence) {
            let path = files.path_of(sequence, salt);
            collected.damage.push(damage(&path, "the manifest names it, and it is not there"));
            collected.missing.push((sequence, salt));
        }
    }
    Ok(collected)
}

fn damage(path: &Path, reason: &str) -> Damage {
    Damage { segment: path.to_owned(), offset: 0, id: None, reason: reason.to_owned() }
}

/// A segment that never held a record, and that the manifest does not name, is not needed.
fn take(
    collected: &mut Collected,
    seen: &mut BTreeMap<Sequence, ()>,
    file: &SegmentFile,
    segment: Segment<MmapMemory>,
    listed: Option<Salt>,
) {
    let unused = segment.taken().slots == 0
        && segment.slot_is_blank(SlotNumber(0))
        && segment.sealed().is_none();
    if unused && listed.is_none() {
        collected.blank.push(fs::segment_name(file.sequence, segment.salt()));
        return;
    }
    seen.insert(file.sequence, ());
    let limit = super::scan::end_of(&segment);
    let trusted = segment.durable_end().min(limit);
    let segment = Arc::new(segment);
    collected.candidates.push(Candidate { segment, limit, trusted, cut: false });
}

fn open(
    files: &Files,
    file: &SegmentFile,
    listed: Option<Salt>,
    writable: bool,
) -> Result<Opened, Error> {
    let expected = listed.map(|salt| files.identity(file.sequence, salt));
    let unreadable = |error: io::Error| match (error.kind(), expected.is_some()) {
        // Not a regular file, a symbolic link, no permission: not what the engine made.
        (_, false) => Opened::Foreign,
        (_, true) => Opened::Broken("it cannot be opened as a regular file"),
    };
    let (handle, len) = match fs::open_segment(&file.path, writable) {
        Ok(opened) => opened,
        Err(error) => return Ok(unreadable(error)),
    };
    let wanted = files.identity(file.sequence, Salt(0)).segment_bytes;
    let size = usize::try_from(wanted).map_err(io::Error::other)?;
    let memory = if len >= wanted {
        if writable {
            MmapMemory::new(handle, size)?
        } else {
            MmapMemory::read_only(&handle, size)?
        }
    } else if expected.is_some() {
        // Cut short: what is left is served from a copy, because touching a mapping beyond the
        // file's end would kill the process. The file stays as it is.
        MmapMemory::copy_of(handle, size)?
    } else {
        return Ok(Opened::Foreign);
    };
    Ok(attach(files, file, expected, memory))
}

fn attach(
    files: &Files,
    file: &SegmentFile,
    expected: Option<Identity>,
    memory: MmapMemory,
) -> Opened {
    let identity = match (Identity::decode(&Segment::identity_bytes(&memory)), expected) {
        (Ok(identity), _) => identity,
        (Err(HeaderError::Damaged | HeaderError::Foreign), Some(expected)) => expected,
        (Err(HeaderError::Version(_)), Some(_)) => return Opened::Broken("another format version"),
        (Err(_), None) => return Opened::Foreign,
    };
    // The whole identity must be the one that this store, this name (and the manifest) call for:
    // a file copied in, or renamed, is not believed.
    let salt = expected.map_or(identity.salt, |expected| expected.salt);
    let named =
        identity == files.identity(file.sequence, salt) && identity.salt.0 as u32 == file.half_salt;
    match (named, expected) {
        (true, _) => Opened::Segment(Box::new(Segment::attach(memory, &identity))),
        (false, Some(_)) => Opened::Broken("it is another segment's file"),
        (false, None) => Opened::Foreign,
    }
}
