//! Opening and creating a store.

use super::Store;
use crate::background::PageCachePolicy;
use crate::background::compaction_totals::CompactionTotals;
use crate::background::throttle::Throttle;
use crate::background::{BackgroundThreads, StoreCore};
use crate::concurrency::sync::unmodelled::{Arc, AtomicBool, AtomicU64, Mutex};
use crate::disk::SegmentFiles;
use crate::disk::fs::{self, Directory, StoreState};
use crate::error::{At, Error};
use crate::format::header::{FORMAT_VERSION, HeaderError};
use crate::format::ids::Sequence;
use crate::format::manifest::{Manifest, ManifestMeta};
use crate::options::{
    Compaction, DIMENSION_MAX, Durability, Options, Recovery, SEGMENT_BYTES_DEFAULT,
    SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
};
use crate::recovery::{self, Basis, Recovered};
use rustix::io::Errno;
use std::io;
use std::path::Path;

/// How often a read-only handle begins again when a live writer has replaced segments under it.
const TRIES_MAX: u32 = 50;

impl Options {
    /// Opens the store in the directory `path`, or creates it there.
    ///
    /// Opening reads every segment's directory, 32 bytes a record; after a crash also the records
    /// that were not known to be durable.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`], [`Error::DimensionMismatch`]: the options contradict themselves or
    /// the store. [`Error::NotFound`], [`Error::NotAStore`], [`Error::Locked`],
    /// [`Error::UnsupportedVersion`], [`Error::UnsupportedFeatures`]: what the path holds.
    /// [`Error::Corrupt`]: the manifest is damaged, or with [`Recovery::Strict`] anything is; else
    /// damage costs the records it hit, and is in [`Store::recovery`].
    /// [`Error::StorageFull`], [`Error::FlushFailed`], [`Error::Io`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Store, Error> {
        let path = path.as_ref();
        self.check()?;
        let (strict, salvage) =
            (self.recovery == Recovery::Strict, self.recovery == Recovery::Salvage);
        let may_create = self.create && !self.read_only && !salvage;
        let directory = self.find_or_create(path, may_create)?;
        if strict && !self.read_only {
            // Damage is found before even the lock file is made, or a file is copied.
            drop(self.clone().read_only(true).open_if_there(path)?);
        }
        let mut lock = if self.read_only { None } else { Some(directory.lock()?) };
        if !strict {
            lock.iter_mut().for_each(fs::DirectoryLock::name_holder);
        }
        // Under the lock: another process may have created the store since the first look.
        match directory.state().at(path)? {
            StoreState::Store => {}
            StoreState::Blank if may_create => self.create_manifest(&directory)?,
            StoreState::Headless if salvage => {}
            StoreState::Headless => return Err(manifest_error(path, "it is missing")),
            StoreState::Missing | StoreState::Blank => {
                return Err(Error::NotFound(path.to_owned()));
            }
            StoreState::Foreign => return Err(Error::NotAStore(path.to_owned())),
        }
        let (manifest, recovered) = self.recover(&directory)?;
        if !self.read_only && manifest.segments.is_empty() {
            // The process that created the store may have been killed before its name was on the
            // device. The first segment brings it there; until then the caller relies on it.
            directory.sync().at(path)?;
        }
        if strict {
            lock.iter_mut().for_each(fs::DirectoryLock::name_holder);
        }
        self.start(recovered, manifest.store.hash_seed(), lock)
    }

    /// Opens the directory of the store, and makes it if it is missing and `may_create`. Everything
    /// else happens through this one handle [H1].
    fn find_or_create(&self, path: &Path, may_create: bool) -> Result<Directory, Error> {
        let (place, directory) = fs::find(path).at(path)?;
        match (place, directory) {
            (StoreState::Missing, _) | (StoreState::Blank, _) if !may_create => {
                Err(Error::NotFound(path.to_owned()))
            }
            (StoreState::Missing, _) => {
                self.dimension_to_create()?;
                fs::create_directory(path)?;
                Directory::open(path).at(path)
            }
            (StoreState::Foreign, _) | (_, None) => Err(Error::NotAStore(path.to_owned())),
            (StoreState::Blank, Some(directory)) => {
                self.dimension_to_create()?;
                Ok(directory)
            }
            (StoreState::Headless, _) if self.recovery != Recovery::Salvage => {
                Err(manifest_error(path, "it is missing"))
            }
            (StoreState::Store | StoreState::Headless, Some(directory)) => {
                // Before anything is changed: `MANIFEST` is a common name.
                self.basis(&directory)?;
                Ok(directory)
            }
        }
    }

    /// Starts what goes on in the background.
    fn start(
        &self,
        recovered: Recovered,
        hash_seed: u64,
        lock: Option<fs::DirectoryLock>,
    ) -> Result<Store, Error> {
        let core = Arc::new(StoreCore {
            engine: recovered.engine,
            flusher: Arc::new(recovered.flusher),
            live_manifest: recovered.live_manifest,
            synced: self.durability == Durability::Synced,
            compaction_rate: self.compaction_rate,
            compacting: Mutex::default(),
            manual_requests: AtomicU64::new(0),
            compacted: CompactionTotals::default(),
            failed: AtomicBool::new(false),
            flushes_full: self.flush_interval.is_some() && self.compaction == Compaction::Auto,
            throttle: Throttle::new(
                self.space_target.filter(|_| self.compaction == Compaction::Auto),
            ),
        });
        let background = if self.read_only {
            PageCachePolicy::new().update(&core.engine, &core.engine.epoch().pin());
            None
        } else {
            let how = (self.flush_interval, self.compaction);
            Some(BackgroundThreads::start(&core, recovered.leftovers, how)?)
        };
        Ok(Store {
            background,
            core,
            time_to_live: self.time_to_live,
            verify: self.verify,
            read_only: self.read_only,
            hash_seed,
            report: recovered.report,
            damage: recovered.damage,
            closed: false,
            owner: Arc::default(),
            lock,
        })
    }

    /// Reads manifest and segments. Beside a live writer they may not belong together: what was
    /// copied elsewhere is removed. Then all is read again.
    fn recover(&self, directory: &Directory) -> Result<(Manifest, Recovered), Error> {
        let beside_a_writer = self.read_only && self.recovery != Recovery::Salvage;
        for _ in 0..TRIES_MAX {
            let basis = self.basis(directory)?;
            self.check_against(&basis.manifest)?;
            let files = SegmentFiles::new(directory, &basis.manifest)?;
            let again = || beside_a_writer.then(|| read_manifest(directory)).transpose();
            let mode = (self.recovery, !self.read_only);
            if let Some(recovered) = recovery::recover(files, &basis, mode, again)? {
                return Ok((basis.manifest, recovered));
            }
        }
        let why = "a writer replaces segments faster than they can be opened: try again";
        Err(Error::io(directory.path(), io::Error::new(io::ErrorKind::WouldBlock, why)))
    }

    fn open_if_there(&self, path: &Path) -> Result<Option<Store>, Error> {
        match self.open(path) {
            Ok(store) => Ok(Some(store)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the store is, by its manifest or, in a salvage, by its segments if need be; and that
    /// this program may open it.
    fn basis(&self, directory: &Directory) -> Result<Basis, Error> {
        let basis = self.any_basis(directory)?;
        match basis.manifest.meta.features.forbidding(!self.read_only) {
            0 => Ok(basis),
            bits => Err(Error::UnsupportedFeatures { bits }),
        }
    }

    fn any_basis(&self, directory: &Directory) -> Result<Basis, Error> {
        let (read, path) = (read_manifest(directory), directory.path());
        if self.recovery != Recovery::Salvage {
            return Ok(Basis::found(read?));
        }
        let read = read.map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                manifest_error(path, "it is missing")
            }
            Error::Io { source, .. } if Errno::from_io_error(&source) == Some(Errno::IO) => {
                manifest_error(path, "the medium does not give it back")
            }
            error => error,
        });
        recovery::prove(directory, read)
    }

    fn dimension_to_create(&self) -> Result<usize, Error> {
        self.dimension.ok_or_else(|| {
            Error::InvalidOption("a dimension is needed to create a store".to_owned())
        })
    }

    fn create_manifest(&self, directory: &Directory) -> Result<(), Error> {
        let manifest = Manifest {
            store: fs::new_store_id()?,
            // Checked: at most 65,536.
            dimension: self.dimension_to_create()? as u32,
            segment_bytes: self.segment_size.unwrap_or(SEGMENT_BYTES_DEFAULT),
            next_sequence: Sequence(1),
            segments: Vec::new(),
            dropped: Vec::new(),
            meta: ManifestMeta::default(),
        };
        directory.replace_manifest(&manifest.encode())
    }

    /// What was given on opening must be the store's own.
    fn check_against(&self, manifest: &Manifest) -> Result<(), Error> {
        let expected = manifest.dimension as usize;
        if let Some(actual) = self.dimension
            && actual != expected
        {
            return Err(Error::DimensionMismatch { expected, actual });
        }
        if let Some(given) = self.segment_size
            && given != manifest.segment_bytes
        {
            return Err(Error::InvalidOption(format!(
                "the store's segment_size is {} bytes, not {given}",
                manifest.segment_bytes
            )));
        }
        Ok(())
    }
}

fn manifest_error(path: &Path, reason: &str) -> Error {
    let path = path.join(fs::MANIFEST);
    Error::Corrupt { path, offset: 0, reason: reason.to_owned() }
}

pub(super) fn read_manifest(directory: &Directory) -> Result<Manifest, Error> {
    let path = directory.path().join(fs::MANIFEST);
    let mut bytes = directory.read_manifest().at(&path)?;
    let mut decoded = Manifest::decode(&bytes);
    // A live writer may have replaced it, and be writing the one after over the file that was being
    // read. What is damaged reads the same again.
    for _ in 0..TRIES_MAX {
        if decoded.is_ok() {
            break;
        }
        let again = directory.read_manifest().at(&path)?;
        if again == bytes {
            break;
        }
        decoded = Manifest::decode(&again);
        bytes = again;
    }
    let path = directory.path();
    let manifest = decoded.map_err(|error| match error {
        HeaderError::Version(found) => {
            Error::UnsupportedVersion { found, supported: FORMAT_VERSION }
        }
        HeaderError::Features(bits) => Error::UnsupportedFeatures { bits },
        HeaderError::Foreign => manifest_error(path, "it is not a manifest"),
        HeaderError::Damaged => manifest_error(path, "its checksum or a field does not hold"),
    })?;
    let sound = (1..=DIMENSION_MAX).contains(&(manifest.dimension as usize))
        && (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&manifest.segment_bytes)
        && manifest.segment_bytes.is_power_of_two();
    if sound { Ok(manifest) } else { Err(manifest_error(path, "a field is out of its range")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::concurrency::sync::unmodelled::Ordering;
    use crate::format::checksum::Salt;
    use crate::format::header::{Role, SegmentId, StoreId};

    /// A manifest is written over the file of the one before the last, which may be being read.
    #[test]
    fn a_manifest_that_is_read_while_it_is_replaced_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        let manifest = |salt: u64| Manifest {
            store: StoreId([1; 16]),
            dimension: 1,
            segment_bytes: SEGMENT_BYTES_MIN,
            next_sequence: Sequence(1000),
            segments: (1..600)
                .map(|n| SegmentId { sequence: Sequence(n), salt: Salt(salt), role: Role::Log })
                .collect(),
            dropped: Vec::new(),
            meta: ManifestMeta::default(),
        };
        directory.replace_manifest(&manifest(0).encode()).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for salt in 1..=500 {
                    directory.replace_manifest(&manifest(salt).encode()).unwrap();
                }
                // Release: pairs with the Acquire below.
                stop.store(true, Ordering::Release);
            });
            // Acquire: pairs with the Release above.
            while !stop.load(Ordering::Acquire) {
                assert_eq!(read_manifest(&directory).unwrap().segments.len(), 599);
            }
        });
    }
}
