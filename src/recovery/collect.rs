//! Step 1 of opening: which files are this store's segments, and mapping them.

use super::Candidate;
use crate::error::Error;
use crate::files::Files;
use crate::format::checksum::Salt;
use crate::format::header::{IDENTITY_BYTES, Identity, NAMED_AT, Role, STORE_AT, SegmentId};
use crate::format::ids::{Sequence, SlotNumber};
use crate::format::manifest::Manifest;
use crate::fs::{self, SegmentFile};
use crate::memory::{FOLIO_BYTES, MmapMemory};
use crate::options::Recovery;
use crate::report::{Damage, RecoveryReport};
use crate::segment::Segment;
use crate::sync::unmodelled::Arc;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// What the directory held.
pub(super) struct Collected {
    pub(super) candidates: Vec<Candidate>,
    pub(super) damage: Vec<Damage>,
    pub(super) missing: Vec<SegmentId>,
    /// Segments that never held a record.
    pub(super) blank: Vec<Arc<Segment<MmapMemory>>>,
    pub(super) next_sequence: Sequence,
    /// Files that were taken for this store's, whatever they held.
    opened: BTreeSet<Sequence>,
}

impl Collected {
    fn new(manifest: &Manifest) -> Self {
        // A segment for copies may have a number from there on. If its file is missing, it goes on
        // being named, and so another segment with its number would be a stranger's.
        let named = manifest.segments.iter().map(|id| id.sequence);
        let last = named.filter(|&sequence| sequence < Sequence::MAX).max();
        let next_sequence = manifest.next_sequence.max(Sequence(1));
        Self {
            candidates: Vec::new(),
            damage: Vec::new(),
            missing: Vec::new(),
            blank: Vec::new(),
            next_sequence: last.map_or(next_sequence, |last| next_sequence.max(last.next())),
            opened: BTreeSet::new(),
        }
    }

    /// Whether a live writer may have moved records out of the files that were found, or been about
    /// to bring them in, so that some are in none of them. `before`: the manifest that was gone by;
    /// `now`: what it is since.
    ///
    /// What is named now, and was not found, is younger than the listing: a segment of the log then
    /// holds nothing that was there before, and one for copies only what was copied from others. So
    /// all is well if none of those others is missing: none that was named before, and none that
    /// was made, filled and given up since.
    pub(super) fn is_overtaken(&self, before: &Manifest, now: &Manifest) -> bool {
        if before == now {
            return false;
        }
        let named: BTreeSet<_> = now.segments.iter().map(|id| id.sequence).collect();
        // What is still named, and not there, was missing before.
        let known =
            |id: &SegmentId| self.opened.contains(&id.sequence) || named.contains(&id.sequence);
        let since = before.next_sequence..now.next_sequence.max(before.next_sequence);
        let there = self.opened.union(&named).filter(|sequence| since.contains(sequence)).count();
        // A segment for copies that was made when the first manifest was written already has a
        // number below what that covers.
        let late = |id: &SegmentId| {
            let found = self.opened.contains(&id.sequence) || before.segments.contains(id);
            id.sequence < before.next_sequence && !found
        };
        !before.segments.iter().all(known)
            || there as u64 != since.end.0 - since.start.0
            || now.segments.iter().any(late)
    }
}

/// A mapped file and what its name and header say.
enum Opened {
    /// One of the store's, and what is wrong with it as a whole, if something is.
    Segment(Box<Segment<MmapMemory>>, Option<Flaw>),
    /// Not this store's, or not a segment at all.
    Foreign,
    /// This store's by its name, but unreadable.
    Broken(&'static str),
    /// This store's, but it uses features that this program does not know.
    Newer(u64),
    /// Removed since it was listed.
    Gone,
}

/// What the manifest says of a file, by the file's name.
#[derive(Clone, Copy, Debug)]
enum Known {
    /// It names it.
    Named(SegmentId),
    /// It is older than the file, if that is one of the store's.
    Younger,
    /// The file can be none of the store's.
    Strange,
}

impl Known {
    fn of(file: &SegmentFile, named: Option<SegmentId>, manifest: &Manifest) -> Self {
        match named {
            Some(id) => Self::Named(id),
            None if is_put_there(file.sequence, None, manifest) => Self::Strange,
            None => Self::Younger,
        }
    }
}

/// What may be wrong with a segment whose records can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Its header does not hold; the manifest stood in for it.
    Header,
    /// Its file is too short: it was read from a copy in memory.
    Short,
}

impl Flaw {
    fn reason(self) -> &'static str {
        match self {
            Self::Header => "its header is damaged",
            Self::Short => "its file is cut short",
        }
    }
}

pub(super) fn collect(
    files: &Files,
    manifest: &Manifest,
    (mode, writable): (Recovery, bool),
    report: &mut RecoveryReport,
) -> Result<Collected, Error> {
    let (found, foreign) = files.directory().list_segments()?;
    report.foreign_files = foreign;
    let listed: BTreeMap<Sequence, SegmentId> =
        manifest.segments.iter().map(|id| (id.sequence, *id)).collect();
    let gone = manifest.dropped.iter().map(|id| (id.sequence, id.salt.0 as u32));
    let gone: BTreeSet<_> = gone.collect();
    let dropped = |file: &SegmentFile| gone.contains(&(file.sequence, file.half_salt));
    let mut collected = Collected::new(manifest);
    let mut seen = BTreeMap::new();
    for file in found.iter().filter(|file| !dropped(file)) {
        let id = listed.get(&file.sequence).copied();
        let id = id.filter(|id| file.is_of(*id));
        match open_certain(files, file, Known::of(file, id, manifest), (mode, writable))? {
            Opened::Gone => continue,
            Opened::Newer(bits) => return Err(Error::UnsupportedFeatures { bits }),
            Opened::Foreign => {
                report.foreign_files += 1;
                continue;
            }
            Opened::Broken(reason) => {
                report.corrupt += 1;
                collected.damage.push(damage(&file.path, reason));
                collected.opened.insert(file.sequence);
                // It may be well again tomorrow: it goes on being named. Of one that is not named
                // nothing is known, so another one with its number counts.
                seen.extend(id.map(|id| (id.sequence, ())));
                collected.missing.extend(id);
            }
            Opened::Segment(segment, _)
                if !is_unused(&segment) && is_put_there(file.sequence, id, manifest) =>
            {
                report.foreign_files += 1;
                continue;
            }
            // Both are younger than the manifest: which of them is the store's, nothing says.
            Opened::Segment(segment, _)
                if seen.contains_key(&file.sequence) && !is_unused(&segment) =>
            {
                report.corrupt += 1;
                collected.damage.push(damage(&file.path, "another segment has the same number"));
                continue;
            }
            Opened::Segment(segment, flaw) => {
                if let Some(flaw) = flaw.filter(|_| id.is_some() || !is_unused(&segment)) {
                    report.corrupt += 1;
                    collected.damage.push(damage(&file.path, flaw.reason()));
                }
                collected.opened.insert(file.sequence);
                take(&mut collected, &mut seen, file, *segment, (id, flaw));
            }
        }
        if file.sequence < Sequence::MAX {
            collected.next_sequence = collected.next_sequence.max(file.sequence.next());
        }
    }
    take_back_used(&mut collected, &mut seen, files.boot_id());
    for id in listed.into_values().filter(|id| !seen.contains_key(&id.sequence)) {
        let path = files.path_of(id.sequence, id.salt);
        collected.damage.push(damage(&path, "the manifest names it, and it is not there"));
        collected.missing.push(id);
    }
    Ok(collected)
}

/// A segment is blank and not named, but another one took over from it, or may have: power loss has
/// taken all that was in it, and so what lies behind it is behind a gap.
fn take_back_used(collected: &mut Collected, seen: &mut BTreeMap<Sequence, ()>, boot_id: [u64; 2]) {
    let blank = std::mem::take(&mut collected.blank);
    let used = |segment: &Segment<MmapMemory>| {
        let follows = |candidate: &Candidate| may_follow(candidate, segment.sequence(), boot_id);
        segment.sealed().is_none()
            && segment.role() == Role::Log
            && collected.candidates.iter().any(follows)
    };
    let (used, blank): (Vec<_>, _) = blank.into_iter().partition(|segment| used(segment));
    collected.blank = blank;
    for segment in used {
        // Another file with its number may be the one that was used.
        if seen.insert(segment.sequence(), ()).is_none() {
            collected.candidates.push(Candidate::new(segment, 0, None));
        } else {
            collected.blank.push(segment);
        }
    }
    collected.candidates.sort_by_key(|candidate| candidate.segment.sequence());
}

/// Whether a segment took over from the one with this sequence, as far as is known. After power
/// loss, a segment that was never flushed may have records and a header that does not say yet whom
/// it follows, or names an older one that it was to follow first [D8].
fn may_follow(candidate: &Candidate, sequence: Sequence, boot_id: [u64; 2]) -> bool {
    let segment = &candidate.segment;
    if segment.sequence() <= sequence || candidate.holds_copies() {
        return false;
    }
    // Records that may have reached the device before the header did.
    let loose =
        !candidate.inherited.is_of_boot(boot_id) && candidate.trusted == 0 && candidate.limit > 0;
    match candidate.inherited.predecessor {
        Some((before, _)) if before >= sequence => before == sequence,
        Some((_, true)) => false,
        _ => loose,
    }
}

/// A file with records in it that the manifest does not name, below what it covers or in the place
/// of one that it names: somebody put it there.
fn is_put_there(sequence: Sequence, named: Option<SegmentId>, manifest: &Manifest) -> bool {
    let taken = || manifest.segments.iter().any(|id| id.sequence == sequence);
    named.is_none() && (sequence < manifest.next_sequence || taken())
}

fn damage(path: &Path, reason: &str) -> Damage {
    Damage { segment: path.to_owned(), offset: 0, id: None, reason: reason.to_owned() }
}

fn is_unused(segment: &Segment<MmapMemory>) -> bool {
    match segment.sealed() {
        // Power loss took all of it; nothing in it ever counts again.
        Some(slots) => slots == 0,
        None => segment.taken().slots == 0 && segment.slot_is_blank(SlotNumber(0)),
    }
}

/// A segment that never held a record, and that the manifest does not name, is not needed.
fn take(
    collected: &mut Collected,
    seen: &mut BTreeMap<Sequence, ()>,
    file: &SegmentFile,
    segment: Segment<MmapMemory>,
    (listed, flaw): (Option<SegmentId>, Option<Flaw>),
) {
    if is_unused(&segment) && listed.is_none() {
        collected.blank.push(Arc::new(segment));
        return;
    }
    seen.insert(file.sequence, ());
    let limit = super::scan::end_of(&segment);
    collected.candidates.push(Candidate::new(Arc::new(segment), limit, flaw));
}

/// As [`open`]; a file that the process before could not bring to the device for certain is copied
/// to a new one first. What somebody put there stays as it is.
fn open_certain(
    files: &Files,
    file: &SegmentFile,
    known: Known,
    how: (Recovery, bool),
) -> Result<Opened, Error> {
    let opened = open(files, file, known, how)?;
    // One that is sealed at nothing holds what was cut off, unless the device has the seal.
    if let (Opened::Segment(segment, None), (_, true)) = (&opened, how)
        && !matches!(known, Known::Strange)
        && (!is_unused(segment) || segment.sealed().is_some())
        && super::rewrite::is_uncertain(files, segment)?
    {
        let salt = segment.salt();
        drop(opened);
        super::rewrite::copy_file(files, &file.name, salt)?;
        let opened = open(files, file, known, how)?;
        if let Opened::Segment(segment, None) = &opened {
            super::rewrite::finish_copy(files, segment);
        }
        return Ok(opened);
    }
    Ok(opened)
}

fn open(
    files: &Files,
    file: &SegmentFile,
    known: Known,
    (mode, writable): (Recovery, bool),
) -> Result<Opened, Error> {
    let (named, strange) = (matches!(known, Known::Named(_)), matches!(known, Known::Strange));
    let (handle, len) = match files.directory().open_segment(&file.name, writable) {
        Ok(Some(opened)) => opened,
        Ok(None) if files.directory().is_gone(&file.name) => return Ok(Opened::Gone),
        Ok(None) if named => return Ok(Opened::Broken("it is not a regular file")),
        Ok(None) => return Ok(Opened::Foreign),
        Err(error) if strange && error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(Opened::Foreign);
        }
        Err(error) if mode != Recovery::Tolerant && super::salvage::is_the_files(&error) => {
            return Ok(Opened::Broken("it cannot be opened, or not read"));
        }
        // Out of file handles, no permission: what cannot be opened today is not gone.
        Err(error) => return Err(error.into()),
    };
    let linked = writable && fs::has_other_names(&handle)?;
    let wanted = files.segment_bytes();
    let size = usize::try_from(wanted).map_err(io::Error::other)?;
    let short = len < wanted;
    let mut whole = None;
    let memory = if !short {
        let memory = if writable {
            MmapMemory::new(&handle, size)?
        } else {
            MmapMemory::read_only(&handle, size)?
        };
        whole = Some(handle).filter(|_| writable);
        memory
    } else if !strange {
        // Cut short: what is left is served from a copy, because touching a mapping beyond the
        // file's end would kill the process. The file stays as it is.
        MmapMemory::copy_of(handle, size)?
    } else {
        return Ok(Opened::Foreign);
    };
    match attach(files, file, known, memory, (short, writable)) {
        // A copy made by hard links would be changed, or this store through the copy.
        Opened::Segment(..) if linked => Err(Error::Io(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} has another name, too (a hard link), and would be written to under both: \
                 replace one of them by a copy, or open with read_only(true)",
                file.path.display()
            ),
        ))),
        opened => {
            if let (Opened::Segment(segment, _), Some(handle)) = (&opened, whole) {
                let lacks = fs::lacks_blocks(&handle, wanted, FOLIO_BYTES as u64)?;
                segment.memory().set_lacks_blocks(lacks);
            }
            Ok(opened)
        }
    }
}

fn attach(
    files: &Files,
    file: &SegmentFile,
    known: Known,
    memory: MmapMemory,
    (short, writable): (bool, bool),
) -> Opened {
    let expected = match known {
        Known::Named(id) => Some(files.identity(id)),
        Known::Younger | Known::Strange => None,
    };
    let mut flaw = short.then_some(Flaw::Short);
    let bytes = Segment::identity_bytes(&memory);
    let identity = match (Identity::decode(&bytes), expected) {
        (Ok(identity), _) => identity,
        // A manifest names segments of its own version only: another one is damage, too.
        (Err(_), Some(expected)) => {
            flaw = flaw.or(Some(Flaw::Header));
            expected
        }
        (Err(_), None) if matches!(known, Known::Younger) && resembles(files, file, &bytes) => {
            return Opened::Broken("its header is damaged, and no manifest names its salt");
        }
        (Err(_), None) => return Opened::Foreign,
    };
    // The whole identity must be the one that this store, this name (and the manifest) call for:
    // a file copied in, or renamed, is not believed.
    let salt = expected.map_or(identity.salt, |expected| expected.salt);
    let role = expected.map_or(identity.role, |expected| expected.role);
    let called_for = files.identity(SegmentId { sequence: file.sequence, salt, role });
    let named = Identity { features: called_for.features, ..identity } == called_for
        && identity.salt.0 as u32 == file.half_salt;
    match (named, expected) {
        (true, _) if identity.features.forbidding(writable) != 0 => {
            Opened::Newer(identity.features.forbidding(writable))
        }
        (true, _) => Opened::Segment(Box::new(Segment::attach(memory, &identity)), flaw),
        (false, Some(_)) => Opened::Broken("it is another segment's file"),
        (false, None) => Opened::Foreign,
    }
}

/// Whether a header that does not hold still says which store it is of, or which segment, as its
/// file's name does.
fn resembles(files: &Files, file: &SegmentFile, header: &[u8; IDENTITY_BYTES]) -> bool {
    let salt = Salt(u64::from(file.half_salt));
    let id = SegmentId { sequence: file.sequence, salt, role: Role::Log };
    let called_for = files.identity(id).encode();
    let same = |range: std::ops::Range<usize>| header.get(range.clone()) == called_for.get(range);
    same(STORE_AT) || same(NAMED_AT)
}
