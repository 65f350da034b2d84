//! Segments in files: the source of the log when a store is on disk, and the manifest it keeps.

use crate::concurrency::notifier::Notifier;
use crate::concurrency::sync::lock;
use crate::concurrency::sync::unmodelled::{AtomicU8, Mutex, Ordering, thread};
use crate::disk::fs;
use crate::error::{At, Error};
use crate::format::checksum::Salt;
use crate::format::header::{DIRECTORY_AT, Features, Identity, Role, SegmentId, StoreId};
use crate::format::ids::Sequence;
use crate::format::manifest::{Manifest, ManifestMeta};
use crate::log::{Purpose, Source};
use crate::memory::{FOLIO_BYTES, Folios, Memory, MmapMemory};
use crate::os::fs::File;
use crate::os::time::Instant;
use crate::segment::Segment;
use crossbeam_utils::atomic::AtomicCell;
use std::path::PathBuf;
use std::time::Duration;

/// A disk with room for fewer segments than this is nearly full.
const NEARLY_FULL: u64 = 16;

/// How long compaction waits for a spare that another thread makes just now.
const SPARE_WAIT: Duration = Duration::from_secs(1);

/// A file that keeps room back. Nobody holds a lock while it is made, or taken: a thread that is
/// stopped in either stops no writer.
#[derive(Default)]
struct Spare {
    file: AtomicCell<Option<Box<(fs::NewSegmentFile, File)>>>,
    /// [`ABSENT`], [`MAKING`] or [`KEPT`]: its name is in use but for the first.
    state: AtomicU8,
}

/// There is no spare.
const ABSENT: u8 = 0;
/// It is being made just now, or taken.
const MAKING: u8 = 1;
/// It is there.
const KEPT: u8 = 2;

impl std::fmt::Debug for Spare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spare").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Spare {
    /// Makes the file, unless it is there or somebody makes it just now. Whether it is there.
    fn make(
        &self,
        make: impl FnOnce() -> Result<(fs::NewSegmentFile, File), Error>,
    ) -> Result<bool, Error> {
        // Acquire: pairs with the Release stores below; the name is free. Relaxed on failure:
        // nothing is read from who makes it.
        let began =
            self.state.compare_exchange(ABSENT, MAKING, Ordering::Acquire, Ordering::Relaxed);
        if let Err(state) = began {
            return Ok(state == KEPT);
        }
        let made = make();
        // Release: pairs with the Acquire above.
        let made = made.inspect_err(|_| self.state.store(ABSENT, Ordering::Release))?;
        // Before the file can be taken: who takes it frees the name.
        self.state.store(KEPT, Ordering::Release);
        self.file.store(Some(Box::new(made)));
        Ok(true)
    }

    /// Returns whether it is there, or somebody makes it just now.
    fn is_there_soon(&self) -> bool {
        // Relaxed: a hint; the file itself says whether it is there.
        self.state.load(Ordering::Relaxed) != ABSENT
    }

    /// Hands the file over, if it is there, to what gives it another name or removes it.
    fn take<R>(&self, then: impl FnOnce((fs::NewSegmentFile, File)) -> R) -> Option<R> {
        let file = self.file.take()?;
        // Relaxed: a hint, that it is gone.
        self.state.store(MAKING, Ordering::Relaxed);
        let done = then(*file);
        // Release: pairs with the Acquire in `make`.
        self.state.store(ABSENT, Ordering::Release);
        Some(done)
    }

    /// The same, and waits, not for long, while somebody makes it.
    fn take_when_made<R>(&self, then: impl Fn((fs::NewSegmentFile, File)) -> R) -> Option<R> {
        let began = Instant::now();
        loop {
            let taken = self.take(&then);
            if taken.is_some() || !self.is_there_soon() || began.elapsed() > SPARE_WAIT {
                return taken;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Makes segment files, and knows their names.
#[derive(Debug)]
pub struct SegmentFiles {
    directory: fs::Directory,
    store: StoreId,
    dimension: u32,
    segment_bytes: u64,
    /// What the next manifest is to say besides the segments.
    meta: Mutex<ManifestMeta>,
    boot_id: [u64; 2],
    /// Room kept back on a disk that is nearly full: for removals, and for what compaction copies.
    spares: [Spare; 2],
    /// Notified when the log needs a segment.
    pub notifier: Notifier,
}

impl SegmentFiles {
    /// The files of one store.
    pub fn new(directory: &fs::Directory, manifest: &Manifest) -> Result<Self, Error> {
        Ok(Self {
            directory: directory.clone(),
            store: manifest.store,
            dimension: manifest.dimension,
            segment_bytes: manifest.segment_bytes,
            meta: Mutex::new(manifest.meta.clone()),
            boot_id: fs::boot_id(),
            spares: Default::default(),
            notifier: Notifier::default(),
        })
    }

    /// Bytes of every segment.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The store's directory.
    #[must_use]
    pub fn directory(&self) -> &fs::Directory {
        &self.directory
    }

    /// The boot under which this handle runs; zeros where the kernel does not tell.
    #[must_use]
    pub fn boot_id(&self) -> [u64; 2] {
        self.boot_id
    }

    /// What a segment of this store says about itself.
    #[must_use]
    pub fn identity(&self, segment: SegmentId) -> Identity {
        let SegmentId { sequence, salt, role } = segment;
        Identity {
            store: self.store,
            sequence,
            salt,
            dimension: self.dimension,
            segment_bytes: self.segment_bytes,
            directory_at: DIRECTORY_AT as u32,
            role,
            features: Features::default(),
        }
    }

    /// The incarnation that the next manifest names.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        lock(&self.meta).incarnation
    }

    /// Has the next manifest name a new incarnation.
    pub fn begin_incarnation(&self) {
        let mut meta = lock(&self.meta);
        meta.incarnation = meta.incarnation.wrapping_add(1);
    }

    /// The path of a segment's file, for messages only [H1].
    #[must_use]
    pub fn path_of(&self, sequence: Sequence, salt: Salt) -> PathBuf {
        self.directory.path().join(fs::segment_name(sequence, salt))
    }

    /// Replaces the manifest: these segments, and all that are younger; and none of these.
    pub fn write_manifest(
        &self,
        next_sequence: Sequence,
        segments: Vec<SegmentId>,
        dropped: Vec<SegmentId>,
    ) -> Result<(), Error> {
        let manifest = Manifest {
            store: self.store,
            dimension: self.dimension,
            segment_bytes: self.segment_bytes,
            next_sequence,
            segments,
            dropped,
            meta: lock(&self.meta).clone(),
        };
        self.directory.replace_manifest(&manifest.encode())
    }

    /// Removes the files of segments, as far as that can be done, and makes it durable. Those whose
    /// files stay are left in the list: one that cannot be removed keeps no other.
    pub fn remove_files(&self, segments: &mut Vec<SegmentId>) -> std::io::Result<()> {
        let mut left = segments.clone();
        left.retain(|segment| {
            let name = fs::segment_name(segment.sequence, segment.salt);
            self.directory.remove_if_there(&name).is_err()
        });
        self.directory.sync()?;
        *segments = left;
        Ok(())
    }
}

impl SegmentFiles {
    /// The files of a copy of this store, in another directory, and its manifest.
    pub fn of_backup(
        &self,
        directory: &fs::Directory,
        next_sequence: Sequence,
        segments: Vec<SegmentId>,
    ) -> Result<(Self, Manifest), Error> {
        let manifest = Manifest {
            store: self.store.of_backup(fs::random()?),
            dimension: self.dimension,
            segment_bytes: self.segment_bytes,
            next_sequence,
            segments,
            dropped: Vec::new(),
            // A store of its own, written by this version.
            meta: ManifestMeta::default(),
        };
        Ok((Self::new(directory, &manifest)?, manifest))
    }

    /// Bytes allocated to the store's files other than segments.
    #[must_use]
    pub fn other_bytes(&self) -> u64 {
        let spares = fs::SPARES.map(fs::temporary);
        let names = [fs::MANIFEST, fs::NEXT_MANIFEST, fs::LOCK];
        let names = names.into_iter().chain(spares.iter().map(String::as_str));
        names.map(|name| self.directory.allocated_bytes(name)).sum()
    }

    /// Gives the file of a segment the blocks that a store to it may need. Returns whether it did
    /// not have them.
    ///
    /// `StorageFull` if there is no room for them.
    pub fn make_storable(&self, segment: &Segment<MmapMemory>) -> Result<bool, Error> {
        let lacks_blocks = segment.memory().lacks_blocks();
        if lacks_blocks {
            let name = fs::segment_name(segment.sequence(), segment.salt());
            let (path, memory) =
                (self.path_of(segment.sequence(), segment.salt()), segment.memory());
            match self.directory.open_segment(&name, true).at(&path)? {
                Some((file, _)) => {
                    fs::fill_around_holes(&file, self.segment_bytes, FOLIO_BYTES as u64)
                        .at(&path)?;
                }
                // Dropped a moment ago, or removed by somebody: the mapping is all that is left.
                None => memory.secure(memory.len())?,
            }
            memory.set_lacks_blocks(false);
        }
        Ok(lacks_blocks)
    }

    /// Allocates the holes in the file of a segment that will take more records, and returns
    /// whether the file has all its blocks. A copy of a store may have been made without them, and
    /// a store to a hole on a full disk would kill the process.
    #[must_use]
    pub fn allocate_holes(&self, id: SegmentId) -> bool {
        let name = fs::segment_name(id.sequence, id.salt);
        match self.directory.open_segment(&name, true) {
            // Where the file system cannot do it, it was written when it was made.
            Ok(Some((file, _))) => fs::fill_holes(&file, self.segment_bytes).is_ok(),
            _ => false,
        }
    }

    /// A new file that will replace the segment file of this name.
    pub fn new_file(&self, name: &str) -> Result<(fs::NewSegmentFile, File), Error> {
        fs::NewSegmentFile::create(&self.directory, name, self.segment_bytes)
    }

    /// A new segment with this salt; `fill` writes to it before it gets its name.
    pub fn create_with(
        &self,
        id: SegmentId,
        fill: impl FnOnce(&mut Segment<MmapMemory>),
    ) -> Result<Segment<MmapMemory>, Error> {
        let name = fs::segment_name(id.sequence, id.salt);
        let made = fs::NewSegmentFile::create(&self.directory, &name, self.segment_bytes)?;
        self.make(made, id, fill)
    }

    fn make(
        &self,
        (new, file): (fs::NewSegmentFile, File),
        id: SegmentId,
        fill: impl FnOnce(&mut Segment<MmapMemory>),
    ) -> Result<Segment<MmapMemory>, Error> {
        let path = self.path_of(id.sequence, id.salt);
        let memory = MmapMemory::new(&file, self.segment_bytes as usize);
        let memory = memory.map_err(|error| Error::of_mapping(&path, error))?;
        // Before the first store: its fault would bring as much of the file along as the device
        // reads ahead, in pages that stay small.
        memory.prefer(match id.role {
            Role::Log => Folios::Small,
            // Filled at a stretch.
            Role::Copies => Folios::Large,
        });
        let mut segment = Segment::create(memory, &self.identity(id));
        segment.durable().set_boot_id(self.boot_id);
        fill(&mut segment);
        new.finish(&file)?;
        Ok(segment)
    }
}

impl SegmentFiles {
    /// On a disk that is nearly full, keeps room for two segments back, so that it can be emptied;
    /// on any other, keeps nothing. Whether it is nearly full.
    ///
    /// `StorageFull` if there is no room for a spare that is not there: then nothing may grow.
    pub fn keep_spares(&self) -> Result<bool, Error> {
        let free = self.directory.free_bytes(self.segment_bytes).at(self.directory.path())?;
        let near = self.segment_bytes.saturating_mul(NEARLY_FULL);
        // The one for copies first: what compaction gives back is room for the other.
        for (spare, name) in self.spares.iter().zip(fs::SPARES).rev() {
            if free > near.saturating_mul(2) {
                spare.take(drop);
            } else if free < near {
                let make = || fs::NewSegmentFile::create(&self.directory, name, self.segment_bytes);
                // Made by another thread just now: it takes what room there is.
                if !spare.make(make)? && free < self.segment_bytes.saturating_mul(2) {
                    return Err(Error::StorageFull);
                }
            }
        }
        Ok(free <= near.saturating_mul(2))
    }

    fn use_spare(&self, id: SegmentId) -> Result<Segment<MmapMemory>, Error> {
        let [for_removals, for_copies] = &self.spares;
        let name = |(mut new, file): (fs::NewSegmentFile, File)| {
            new.rename(&fs::segment_name(id.sequence, id.salt)).map(|()| (new, file))
        };
        let named = match id.role {
            // A removal waits for nobody.
            Role::Log => for_removals.take(name),
            Role::Copies => for_copies.take_when_made(name),
        };
        let segment = self.make(named.ok_or(Error::StorageFull)??, id, |_| ())?;
        if id.role == Role::Log {
            segment.filling().keep_for_removals();
        }
        Ok(segment)
    }
}

impl Source<MmapMemory> for SegmentFiles {
    fn create(
        &self,
        sequence: Sequence,
        role: Role,
        purpose: Purpose,
    ) -> Result<Segment<MmapMemory>, Error> {
        let salt = Salt(u64::from_le_bytes(fs::random()?));
        let id = SegmentId { sequence, salt, role };
        match purpose {
            Purpose::Grow => self.create_with(id, |_| ()),
            Purpose::FreeRoom => match self.create_with(id, |_| ()) {
                Err(Error::StorageFull) => self.use_spare(id),
                made => made,
            },
            Purpose::KeptBack => self.use_spare(id).or_else(|error| {
                let [for_removals, _] = &self.spares;
                if !for_removals.is_there_soon() {
                    return Err(error);
                }
                // Another thread makes it just now, of room that is for removals, too.
                match self.create_with(id, |segment| segment.filling().keep_for_removals()) {
                    Err(Error::StorageFull) => self.use_spare(id),
                    made => made,
                }
            }),
        }
    }

    fn discard(&self, segment: &Segment<MmapMemory>) {
        let name = fs::segment_name(segment.sequence(), segment.salt());
        // A file that stays is blank; the next opening removes it.
        drop(self.directory.remove_segment(&name));
    }

    fn wake(&self) {
        self.notifier.notify();
    }

    fn disk_bytes(&self, segment: &Segment<MmapMemory>) -> u64 {
        self.directory.allocated_bytes(&fs::segment_name(segment.sequence(), segment.salt()))
    }

    fn keep_room(&self) -> Result<(), Error> {
        self.keep_spares().map(drop)
    }

    fn has_room_for_copies(&self) -> bool {
        let [_, for_copies] = &self.spares;
        let free = || self.directory.free_bytes(self.segment_bytes);
        for_copies.is_there_soon() || free().is_ok_and(|free| free >= self.segment_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A compaction with helpers that fails would be tried again at once, for ever.
    #[test]
    fn helpers_that_have_ended_are_no_ring() {
        let (notifier, nap) = (Notifier::default(), Duration::from_millis(50));
        let began = Instant::now();
        let end = |helper: std::thread::ScopedJoinHandle<'_, ()>| helper.join().unwrap();
        std::thread::scope(|scope| end(scope.spawn(|| ())));
        notifier.wait(notifier.count(), nap);
        assert!(began.elapsed() >= nap);
    }

    /// As many as want one may come while a thread is stopped inside making it.
    #[test]
    fn a_thread_that_is_stopped_while_it_makes_a_spare_stops_nobody() {
        let spare = Spare::default();
        let made = spare.make(|| {
            assert!(spare.take(|_| ()).is_none(), "it is not there yet");
            assert!(!spare.make(|| panic!("it is being made")).unwrap());
            Err(Error::StorageFull)
        });
        assert!(matches!(made, Err(Error::StorageFull)));
        let dir = tempfile::tempdir().unwrap();
        let directory = fs::Directory::open(dir.path()).unwrap();
        let make = || fs::NewSegmentFile::create(&directory, fs::SPARES[0], 4096);
        for _ in 0..2 {
            assert!(spare.make(make).unwrap() && spare.make(make).unwrap());
            assert!(spare.take(drop).is_some() && spare.take(drop).is_none());
        }
    }
}
