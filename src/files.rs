//! Segments in files: the source of the log when a store is on disk, and the manifest it keeps.

use crate::error::Error;
use crate::format::checksum::Salt;
use crate::format::header::{DIRECTORY_AT, Identity, StoreId};
use crate::format::ids::Sequence;
use crate::format::manifest::Manifest;
use crate::fs;
use crate::log::Source;
use crate::memory::MmapMemory;
use crate::segment::Segment;
use crate::sync::unmodelled::{AtomicU64, Mutex, MutexGuard, Ordering, PoisonError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A lock that outlives the panic of a holder: what it guards is whole between any two statements.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes the maintenance thread. A writer only adds to a counter and unparks a thread.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicU64,
    thread: Mutex<Option<crate::sync::unmodelled::thread::Thread>>,
}

impl Bell {
    /// Names the thread to wake.
    pub fn set_thread(&self, thread: crate::sync::unmodelled::thread::Thread) {
        *lock(&self.thread) = Some(thread);
    }

    /// Wakes it; never waits: if the name is being set just now, the thread is awake anyway.
    pub fn ring(&self) {
        // Release: pairs with the Acquire in `heard`.
        self.rung.fetch_add(1, Ordering::Release);
        if let Ok(thread) = self.thread.try_lock()
            && let Some(thread) = thread.as_ref()
        {
            thread.unpark();
        }
    }

    /// How often it was rung.
    pub fn heard(&self) -> u64 {
        // Acquire: pairs with the Release in `ring`.
        self.rung.load(Ordering::Acquire)
    }

    /// Waits for the next ring, or until the time is over.
    pub fn wait(&self, seen: u64, at_most: Duration) {
        if self.heard() == seen {
            crate::sync::unmodelled::thread::park_timeout(at_most);
        }
    }
}

/// Makes segment files, and knows their names.
#[derive(Debug)]
pub struct Files {
    directory: PathBuf,
    store: StoreId,
    dimension: u32,
    segment_bytes: u64,
    boot_id: [u64; 2],
    /// Rung when the log needs a segment.
    pub bell: Bell,
}

impl Files {
    /// The files of one store.
    pub fn new(directory: &Path, manifest: &Manifest) -> Result<Self, Error> {
        Ok(Self {
            directory: directory.to_owned(),
            store: manifest.store,
            dimension: manifest.dimension,
            segment_bytes: manifest.segment_bytes,
            boot_id: fs::boot_id()?,
            bell: Bell::default(),
        })
    }

    /// The store's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The boot under which this handle runs.
    #[must_use]
    pub fn boot_id(&self) -> [u64; 2] {
        self.boot_id
    }

    /// What a segment of this store says about itself.
    #[must_use]
    pub fn identity(&self, sequence: Sequence, salt: Salt) -> Identity {
        Identity {
            store: self.store,
            sequence,
            salt,
            dimension: self.dimension,
            segment_bytes: self.segment_bytes,
            directory_at: DIRECTORY_AT as u32,
        }
    }

    /// The file of a segment.
    #[must_use]
    pub fn path_of(&self, sequence: Sequence, salt: Salt) -> PathBuf {
        self.directory.join(fs::segment_name(sequence, salt))
    }

    /// Replaces the manifest: these segments, and all that are younger.
    pub fn write_manifest(
        &self,
        next_sequence: Sequence,
        segments: Vec<(Sequence, Salt)>,
    ) -> Result<(), Error> {
        let manifest = Manifest {
            store: self.store,
            dimension: self.dimension,
            segment_bytes: self.segment_bytes,
            next_sequence,
            segments,
        };
        fs::replace(&self.directory, fs::MANIFEST, &manifest.encode())
    }
}

impl Files {
    /// The files of a copy of this store, in another directory, and its manifest.
    pub fn of_copy(
        &self,
        directory: &Path,
        next_sequence: Sequence,
        segments: Vec<(Sequence, Salt)>,
    ) -> Result<(Self, Manifest), Error> {
        let manifest = Manifest {
            store: self.store.of_copy(fs::random()?),
            dimension: self.dimension,
            segment_bytes: self.segment_bytes,
            next_sequence,
            segments,
        };
        Ok((Self::new(directory, &manifest)?, manifest))
    }

    /// A new segment with this salt; `fill` writes to it before it gets its name.
    pub fn create_with(
        &self,
        sequence: Sequence,
        salt: Salt,
        fill: impl FnOnce(&Segment<MmapMemory>),
    ) -> Result<Segment<MmapMemory>, Error> {
        let name = fs::segment_name(sequence, salt);
        let (new, file) = fs::NewSegmentFile::create(&self.directory, &name, self.segment_bytes)?;
        let len = usize::try_from(self.segment_bytes).map_err(std::io::Error::other)?;
        let memory = MmapMemory::new(file.try_clone()?, len)?;
        let segment = Segment::create(memory, &self.identity(sequence, salt));
        segment.set_boot_id(self.boot_id);
        fill(&segment);
        new.finish(&file)?;
        Ok(segment)
    }
}

impl Source<MmapMemory> for Files {
    fn create(&self, sequence: Sequence) -> Result<Segment<MmapMemory>, Error> {
        self.create_with(sequence, Salt(u64::from_le_bytes(fs::random()?)), |_| ())
    }

    fn discard(&self, segment: &Segment<MmapMemory>) {
        let name = fs::segment_name(segment.sequence(), segment.salt());
        // A file that stays is blank; the next opening removes it.
        drop(fs::remove_segment(&self.directory, &name));
    }

    fn wake(&self) {
        self.bell.ring();
    }
}
