//! Segments that the process before this one could not bring to the device for certain.
//!
//! After a failed write-back the kernel marks the pages clean: the page cache shows data that is
//! not on the device, later flushes of the file end well, and dirtying the pages again is not
//! enough everywhere. The failure is reported once to each open file, so an opening may not hear
//! of it. Hence the note in the header ([D10], DESIGN 8), and what an opening for writing under
//! the same boot does about it, before it promises anything:
//!
//! - *Failed*: everything that the page cache shows is copied to a new file, which is synced and
//!   takes the name of the old one.
//! - *Begun*: the process was killed inside a flush, which may have failed. The file is flushed,
//!   and the header page and everything above the durable end are read from the device, past the
//!   page cache, and compared. If that cannot be done, or shows other bytes, the file is copied as
//!   above.

use super::scan;
use crate::disk::SegmentFiles;
use crate::error::{At, Error};
use crate::format::checksum::Salt;
use crate::format::header::{DIRECTORY_AT, FLUSH_AT, FlushNote, Role, encode_flush};
use crate::format::ids::SlotNumber;
use crate::memory::{Memory, MmapMemory};
use crate::os::fs::{File, FileExt};
use crate::segment::{Mark, Segment};

/// What is copied or compared at a time, and what reads past the page cache are aligned to.
const BLOCK_BYTES: usize = 1 << 20;
const ALIGNMENT: usize = 4096;

/// Confirms that the device holds the segment, or returns `false`: then its file must be copied
/// before anything in it is promised. Where a flush was cut short, it flushes and compares, and
/// notes the result. For a segment of which nobody has a reference yet.
pub(super) fn confirm_on_device(
    files: &SegmentFiles,
    segment: &Segment<MmapMemory>,
) -> Result<bool, Error> {
    Ok(match segment.durable().flush_note(files.boot_id()) {
        FlushNote::Ended => true,
        FlushNote::Failed => false,
        FlushNote::Begun => {
            if segment.memory().lacks_blocks() {
                // For the note.
                segment.memory().secure(DIRECTORY_AT)?;
            }
            let certain = segment.memory().flush().is_ok() && is_on_device(files, segment);
            // A failure was reported to this process alone, so the next one must know.
            let note = if certain { FlushNote::Ended } else { FlushNote::Failed };
            segment.durable().note_flush(note, files.boot_id());
            certain
        }
    })
}

/// Returns whether the device holds what the page cache shows of the header page, of the slots
/// above the durable end, and of their frames. `false` also where it cannot be asked.
fn is_on_device(files: &SegmentFiles, segment: &Segment<MmapMemory>) -> bool {
    let name = crate::disk::fs::segment_name(segment.sequence(), segment.salt());
    let directory = files.directory();
    let (Ok(cached), Ok(direct)) = (directory.open_to_read(&name), directory.open_direct(&name))
    else {
        return false;
    };
    let (from, end) = (segment.durable().durable_end(), scan::end_of(segment));
    let mut walk = segment.directory().slots(end);
    let mut top = walk.mark().floor.bytes();
    while walk.mark().slot < end && walk.next().is_some() {
        if walk.mark().slot <= from {
            top = walk.mark().floor.bytes();
        }
    }
    let slots = segment.directory().slot_offset(SlotNumber(from))
        ..segment.directory().slot_offset(SlotNumber(end));
    let frames = walk.mark().floor.bytes()..top;
    [0..DIRECTORY_AT, slots, frames].into_iter().all(|range| {
        let from = range.start / ALIGNMENT * ALIGNMENT;
        let to = range.end.next_multiple_of(ALIGNMENT).min(segment.memory().len());
        is_equal(&cached, &direct, from..to).is_ok_and(|equal| equal)
    })
}

fn is_equal(cached: &File, direct: &File, range: std::ops::Range<usize>) -> std::io::Result<bool> {
    // A mapping begins at a page, as such reads demand.
    let mut aligned = memmap2::MmapOptions::new().len(BLOCK_BYTES).map_anon()?;
    let mut bytes = vec![0; BLOCK_BYTES];
    for at in range.clone().step_by(BLOCK_BYTES) {
        let len = BLOCK_BYTES.min(range.end - at);
        direct.read_exact_at(&mut aligned[..len], at as u64)?;
        cached.read_exact_at(&mut bytes[..len], at as u64)?;
        if aligned[..len] != bytes[..len] {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies a segment's file as the page cache shows it to a new one that is synced and takes its
/// name. A crash leaves the old file or the new one. Stretches of zeros are allocated and not
/// written.
///
/// The copy says that a flush has failed: until this returns, the device may have the old file
/// under the name, so an opening that finds the copy after a kill makes another one.
pub(super) fn copy_file(files: &SegmentFiles, name: &str, salt: Salt) -> Result<(), Error> {
    // An opening that was killed may have left an unfinished copy, and a process on a full disk
    // the room that it kept back.
    let (directory, path) = (files.directory(), files.directory().path().join(name));
    directory.remove_temporaries().at(directory.path())?;
    let from = directory.open_to_read(name).at(&path)?;
    let (new, to) = files.new_file(name)?;
    let note = encode_flush(FlushNote::Failed, files.boot_id(), salt);
    let mut bytes = vec![0; BLOCK_BYTES];
    let end = files.segment_bytes() as usize;
    for at in (0..end).step_by(BLOCK_BYTES) {
        let part = &mut bytes[..BLOCK_BYTES.min(end - at)];
        from.read_exact_at(part, at as u64).at(&path)?;
        if at == 0 {
            part[FLUSH_AT..FLUSH_AT + 8].copy_from_slice(&note.to_le_bytes());
        }
        for (n, page) in part.chunks(ALIGNMENT).enumerate() {
            if page.iter().any(|&byte| byte != 0) {
                let at = (at + n * ALIGNMENT) as u64;
                to.write_all_at(page, at).at(&path)?;
            }
        }
    }
    new.replace(&to)
}

/// Clears the note in a copy whose name is on the device, too. A closed segment for copies returns
/// the space between its slots and its frames, as the old file had.
pub(super) fn finish_copy(files: &SegmentFiles, segment: &Segment<MmapMemory>) {
    segment.durable().note_flush(FlushNote::Ended, files.boot_id());
    if segment.role() == Role::Copies && segment.filling().sealed().is_some() {
        let mut walk = segment.directory().slots(scan::end_of(segment));
        walk.by_ref().for_each(drop);
        let Mark { slot, floor } = walk.mark();
        let from = segment.directory().slot_offset(SlotNumber(slot));
        // Where the file system cannot do it, the space stays allocated.
        segment.memory().punch_hole(from, floor.bytes()).unwrap_or(());
    }
}
