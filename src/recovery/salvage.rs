//! What the recovery modes differ in: proving what a store is without its manifest, refusing any
//! damage, and not letting an older version stand in for a damaged one.

use super::{Candidate, FileEngine, scan, slots};
use crate::error::Error;
use crate::format::header::{
    CURSOR_AT, DIRECTORY_AT, FORMAT_VERSION, HeaderError, IDENTITY_BYTES, Identity, SegmentId,
    StoreId,
};
use crate::format::ids::Sequence;
use crate::format::manifest::{Manifest, Nature};
use crate::format::slot::{Kind, SLOT_BYTES, SlotState};
use crate::fs::{self, Directory, SegmentFile};
use crate::options::{DIMENSION_MAX, Recovery, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use crate::report::{Damage, RecoveryReport};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// What opening goes by.
#[derive(Debug)]
pub struct Basis {
    /// As it was found, or made from the segments' headers.
    pub manifest: Manifest,
    /// It was made, and is not on disk.
    pub rebuilt: bool,
    /// What could not be proven.
    pub damage: Vec<Damage>,
}

impl Basis {
    /// A manifest that was found whole.
    #[must_use]
    pub fn found(manifest: Manifest) -> Self {
        Self { manifest, rebuilt: false, damage: Vec::new() }
    }
}

/// What all segments of a store have in common.
type Common = ([u8; 16], u32, u64);

/// What the beginning of a segment's file says.
enum Start {
    Whole {
        identity: Identity,
        /// It has been written to.
        used: bool,
    },
    /// Written by a format of this version.
    Version(u32),
    Unreadable(String),
}

/// What a store is, if its manifest cannot be read or is another store's: what most of its segments
/// say. A readable manifest counts if any segment is of its store, or if none says otherwise.
pub fn prove(directory: &Directory, read: Result<Manifest, Error>) -> Result<Basis, Error> {
    let mut starts = Vec::new();
    for file in directory.list_segments()?.0 {
        let start = start_of(directory, &file)?;
        starts.push((file, start));
    }
    let reason = match read {
        Ok(manifest) if agrees(&manifest, &starts) => return Ok(Basis::found(manifest)),
        Ok(_) => "it is another store's".to_owned(),
        Err(Error::Corrupt { reason, .. }) => reason,
        // The version is under no checksum of its own: the segments tell damage from another one.
        Err(Error::UnsupportedVersion { found, .. }) if contradicts(&starts, found) => {
            format!("its format version is {found}, and that of the segments is {FORMAT_VERSION}")
        }
        Err(error) => return Err(error),
    };
    let path = directory.path().join(fs::MANIFEST);
    let manifest = rebuild(&path, &reason, &starts)?;
    let mut damage = vec![damage(
        path,
        format!("{reason}: what the store is was taken from its segments, which may not be all"),
    )];
    damage.extend(starts.iter().filter_map(|(file, start)| left_out(&manifest, file, start)));
    Ok(Basis { manifest, rebuilt: true, damage })
}

/// Whether segments of this version are there, and none of another one.
fn contradicts(starts: &[(SegmentFile, Start)], version: u32) -> bool {
    let is_other = |start: &Start| matches!(start, Start::Version(found) if *found == version);
    starts.iter().any(|(_, start)| matches!(start, Start::Whole { .. }))
        && !starts.iter().any(|(_, start)| is_other(start))
}

fn damage(segment: PathBuf, reason: String) -> Damage {
    Damage { segment, offset: 0, id: None, reason }
}

/// Whether the file is to blame for an error: not so for too many open files, say.
pub(super) fn is_the_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::ACCESS | Errno::PERM | Errno::IO))
}

fn start_of(directory: &Directory, file: &SegmentFile) -> Result<Start, Error> {
    let bytes = match directory.segment_start(&file.name, (DIRECTORY_AT + SLOT_BYTES) as u64) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Start::Unreadable("it is not a regular file".to_owned())),
        Err(error) if is_the_files(&error) => {
            return Ok(Start::Unreadable(format!("it cannot be read ({error})")));
        }
        Err(error) => return Err(error.into()),
    };
    let identity = bytes.first_chunk::<IDENTITY_BYTES>().map(Identity::decode);
    let unreadable = |why: &str| Start::Unreadable(why.to_owned());
    Ok(match identity {
        Some(Ok(identity)) if identity.sequence == Sequence::MAX => {
            unreadable("its number is too high")
        }
        Some(Ok(identity)) if !is_sound(&identity) => unreadable("a field is out of its range"),
        Some(Ok(identity)) if !file.is_of(identity.id()) => {
            unreadable("its header says that it is another segment's file")
        }
        Some(Ok(identity)) => {
            let written = |range| bytes.get(range).is_some_and(|b: &[u8]| b.iter().any(|&b| b > 0));
            let slot = DIRECTORY_AT..DIRECTORY_AT + SLOT_BYTES;
            let used = written(CURSOR_AT..CURSOR_AT + 8) || written(slot);
            Start::Whole { identity, used }
        }
        Some(Err(HeaderError::Version(version))) => Start::Version(version),
        _ => unreadable("its header is damaged, and no manifest names its salt"),
    })
}

fn is_sound(identity: &Identity) -> bool {
    (1..=DIMENSION_MAX).contains(&(identity.dimension as usize))
        && (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&identity.segment_bytes)
        && identity.segment_bytes.is_power_of_two()
        && identity.directory_at as usize == DIRECTORY_AT
}

fn common(identity: &Identity) -> Common {
    (identity.store.0, identity.dimension, identity.segment_bytes)
}

fn agrees(manifest: &Manifest, starts: &[(SegmentFile, Start)]) -> bool {
    let own = (manifest.store.0, manifest.dimension, manifest.segment_bytes);
    let names = |file: &SegmentFile| manifest.segments.iter().any(|id| file.is_of(*id));
    let mut others = false;
    for (file, start) in starts {
        match start {
            Start::Whole { identity, .. } if common(identity) == own => return true,
            Start::Whole { .. } => others = true,
            // The manifest has the salt that the header has lost.
            _ if names(file) => return true,
            _ => {}
        }
    }
    !others
}

fn rebuild(path: &Path, reason: &str, starts: &[(SegmentFile, Start)]) -> Result<Manifest, Error> {
    let corrupt = |what: &str| Error::Corrupt {
        segment: path.to_owned(),
        offset: 0,
        reason: format!("{reason}, and {what}"),
    };
    let mut votes = BTreeMap::<Common, usize>::new();
    let mut foreign_version = None;
    for (_, start) in starts {
        match start {
            Start::Whole { identity, .. } => *votes.entry(common(identity)).or_default() += 1,
            Start::Version(version) => foreign_version = Some(*version),
            Start::Unreadable(_) => {}
        }
    }
    let most = votes.values().copied().max().unwrap_or(0);
    let mut first = votes.iter().filter(|(_, votes)| **votes == most).map(|(common, _)| *common);
    let winner = match (first.next(), first.next(), foreign_version) {
        (Some(winner), None, _) => winner,
        (Some(_), Some(_), _) => {
            return Err(corrupt(
                "as many segments are of one store as of another: move away what does not \
                 belong here",
            ));
        }
        (None, _, Some(found)) => {
            return Err(Error::UnsupportedVersion { found, supported: FORMAT_VERSION });
        }
        (None, ..) => return Err(corrupt("no segment's header can be read")),
    };
    let mut segments: Vec<(SegmentId, bool)> = Vec::new();
    for (_, start) in starts {
        if let Start::Whole { identity, used } = start
            && common(identity) == winner
        {
            segments.push((identity.id(), !used));
        }
    }
    // Of two with one number the one that was used: the other was prepared in vain.
    segments.sort_by_key(|&(id, blank)| (id.sequence, blank, id.salt.0));
    segments.dedup_by_key(|segment| segment.0.sequence);
    let next_sequence = segments.last().map_or(Sequence(1), |last| last.0.sequence.next());
    Ok(Manifest {
        store: StoreId(winner.0),
        dimension: winner.1,
        segment_bytes: winner.2,
        next_sequence,
        segments: segments.into_iter().map(|(id, _)| id).collect(),
        dropped: Vec::new(),
        // Which incarnations there were is not known; a random one is none of them.
        nature: Nature::of_incarnation(u64::from_le_bytes(fs::random()?)),
    })
}

/// A file that may hold records of the store, and that a rebuilt manifest does not name. Whole
/// segments of other stores are none.
fn left_out(manifest: &Manifest, file: &SegmentFile, start: &Start) -> Option<Damage> {
    let own = (manifest.store.0, manifest.dimension, manifest.segment_bytes);
    let reason = match start {
        Start::Whole { identity, used: true }
            if common(identity) == own && !manifest.segments.contains(&identity.id()) =>
        {
            "another segment has the same number".to_owned()
        }
        Start::Whole { .. } => return None,
        Start::Version(version) => format!("its format version is {version}"),
        Start::Unreadable(reason) => reason.clone(),
    };
    Some(damage(file.path.clone(), reason))
}

/// Strict: the first damage found is the answer.
pub(super) fn refuse_damage(
    engine: &FileEngine,
    candidates: &[Candidate],
    report: &RecoveryReport,
) -> Result<(), Error> {
    if let Some(Damage { segment, offset, reason, .. }) =
        report.lost.iter().min_by_key(|damage| (&damage.segment, damage.offset)).cloned()
    {
        return Err(Error::Corrupt { segment, offset, reason });
    }
    let damaged = |candidate: &&Candidate| !candidate.segment.counts_hold();
    match candidates.iter().find(damaged) {
        Some(Candidate { segment, .. }) => Err(Error::Corrupt {
            segment: engine.log().source().path_of(segment.sequence(), segment.salt()),
            offset: crate::format::header::DURABLE_AT as u64,
            reason: "its durable end or its sealed count is damaged".to_owned(),
        }),
        None => Ok(()),
    }
}

/// Salvage: no older version stands in for a record that is damaged, and what a damaged tombstone
/// has removed stays so; both is certain from the slot, which is under a checksum of its own.
/// That slot alone says so to later openings, so compaction keeps away from its segment: nothing in
/// the index leads there, and the older version may lie in a segment that stays.
///
/// Tolerant: the same below the durable end of a segment that has a flaw. In others such a slot is
/// trusted, and its record in the index.
pub(super) fn shadow_damaged(
    engine: &FileEngine,
    candidates: &[Candidate],
    (mode, report): (Recovery, &RecoveryReport),
) -> Result<(), Error> {
    if report.corrupt == 0 {
        return Ok(());
    }
    for candidate in candidates {
        let segment = &candidate.segment;
        let end = match (mode, candidate.flaw) {
            (Recovery::Salvage, _) => candidate.limit,
            (_, Some(_)) => candidate.inherited.durable_end.min(candidate.limit),
            (_, None) => continue,
        };
        for (slot, state) in segment.slots(end) {
            let SlotState::Committed(kind, body) = state else { continue };
            // The scan has checked every record; a put that held is marked.
            let held = kind == Kind::Put && segment.is_verified(body.offset);
            let is_torn = candidate.unproven.binary_search(&slot.0).is_ok();
            if !held
                && !is_torn
                && scan::check(segment, slot, kind, body, true).is_err()
                && engine.shadow(segment, body)?
            {
                engine.log().quarantine(segment, true);
            }
        }
    }
    Ok(())
}

/// Salvage cuts nothing after power loss, so what was never decided is voided wherever it lies.
pub(super) fn void_torn(candidates: &[Candidate]) {
    for candidate in candidates {
        slots::void_undecided(&candidate.segment, candidate.durable(), candidate.limit);
        if candidate.flaw.is_none() {
            slots::void_headless(&candidate.segment, candidate.limit);
        }
    }
}
