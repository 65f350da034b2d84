//! How to open a store: the builder and its limits.

use crate::error::Error;
use crate::format::ids::Lsn;
use std::time::Duration;

/// Largest dimension of a store, in `f32` values.
pub(crate) const DIMENSION_MAX: usize = 65_536;
/// Smallest and largest segment, and the one that `Options::new` chooses, in bytes.
pub(crate) use crate::os::limits::SEGMENT_BYTES_MIN;
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 30;
pub(crate) const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// Lowest and default number of times what is live that the log is to take at most. Compaction
/// begins at 1.5; there has to be a way from there.
pub(crate) const SPACE_TARGET_MIN: f64 = 2.0;
const SPACE_TARGET_DEFAULT: f64 = 2.5;

/// When a record's checksum is checked before its bytes are handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verify {
    /// Once per record and process; a check made while writing or opening counts.
    #[default]
    FirstRead,
    /// At every read: about 60 ns for a record of 3 KB that is in cache.
    EveryRead,
    /// Never. Lengths and offsets are still bounded, so damage cannot be unsafe, only wrong.
    Never,
}

/// What has to happen before a write returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// It survives the death of the process. Power loss may take what was written since the last
    /// flush; see [`Options::flush_interval`].
    #[default]
    Buffered,
    /// It survives power loss. Concurrent writers share flushes.
    Synced,
}

/// Who gives back the space of what was overwritten and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compaction {
    /// A background thread, when it pays: once the dead take more than half as much as the living,
    /// and a segment besides.
    #[default]
    Auto,
    /// Only [`Store::compact`](crate::Store::compact).
    Manual,
}

/// What opening makes of damage: bytes that are not what was written, a segment that is missing or
/// cut short, a manifest that cannot be read. What a crash leaves half done is no damage.
///
/// ```
/// use stratalog::{Error, Options, Recovery};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("memories");
/// # let store = Options::new().dimension(1).segment_size(1 << 20).open(&path)?;
/// # store.put("a", &[1.0], "found")?;
/// # store.close()?;
/// std::fs::remove_file(path.join("MANIFEST"))?;
/// let strict = Options::new().recovery(Recovery::Strict).open(&path);
/// assert!(matches!(strict, Err(Error::Corrupt { .. })));
///
/// let salvaged = Options::new().recovery(Recovery::Salvage).read_only(true).open(&path)?;
/// assert!(salvaged.contains("a"));
/// for damage in &salvaged.recovery().lost {
///     println!("{}: byte {}: {}", damage.path.display(), damage.offset, damage.reason);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Recovery {
    /// Damage costs the records it hit: the rest is served, and
    /// [`RecoveryReport::lost`](crate::RecoveryReport::lost) names what opening has met of it. Only
    /// the manifest has to be whole. Records that were durable are checked when they are read.
    #[default]
    Tolerant,
    /// Any damage that opening meets is an [`Error::Corrupt`] that names the place, and no byte on
    /// disk is changed. Records that were durable are checked when they are read, as always.
    Strict,
    /// Opens whatever can be proven, also without a manifest: what the store is is then taken from
    /// the checksummed headers of its segments, by majority. Every record is checked; a damaged one
    /// is named in the report and not served, and neither is an older version in its place. After
    /// power loss each record stands for itself: those behind a gap, and the whole members of a
    /// batch that is not whole, are served too. What was not durable then, and is not whole, hides
    /// nothing that was.
    ///
    /// Never creates a store. Unless read-only, it writes a new manifest if the old one does not
    /// hold, and goes on as any store; files that cannot be read stay as they are. Without the
    /// manifest nobody knows which segments there were, so one that is missing is not noticed.
    Salvage,
}

/// What must hold for a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Condition {
    /// The id has no live record.
    Absent,
    /// The id has a live record.
    Present,
    /// The id's live record is this version.
    Lsn(Lsn),
}

/// How to open or create a store. Settings that are left out have the defaults named below.
///
/// ```
/// use stratalog::{Options, Verify};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("memories");
/// let store = Options::new().dimension(384).verify(Verify::EveryRead).open(&path)?;
/// assert_eq!(store.dimension(), 384);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `open` is called"]
pub struct Options {
    pub(crate) dimension: Option<usize>,
    pub(crate) segment_size: Option<u64>,
    pub(crate) durability: Durability,
    pub(crate) flush_interval: Option<Duration>,
    pub(crate) verify: Verify,
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) compaction: Compaction,
    pub(crate) compaction_rate: Option<u64>,
    pub(crate) space_target: Option<f64>,
    pub(crate) recovery: Recovery,
    pub(crate) create: bool,
    pub(crate) read_only: bool,
}

impl Options {
    /// Returns the defaults: create if missing, segments of 64 MiB, [`Verify::FirstRead`].
    pub fn new() -> Self {
        Self {
            dimension: None,
            segment_size: None,
            durability: Durability::default(),
            flush_interval: Some(Duration::from_secs(1)),
            verify: Verify::default(),
            time_to_live: None,
            compaction: Compaction::default(),
            compaction_rate: None,
            space_target: Some(SPACE_TARGET_DEFAULT),
            recovery: Recovery::default(),
            create: true,
            read_only: false,
        }
    }

    /// Sets the number of `f32` values of every embedding, 1 to 65,536. Needed to create a store;
    /// checked against the store's own when one is opened.
    pub fn dimension(mut self, dimension: usize) -> Self {
        self.dimension = Some(dimension);
        self
    }

    /// Sets the size of a segment file in bytes: a power of two from 1 MiB to 1 GiB, 64 MiB unless
    /// given. Fixed at creation; checked against the store's own when one is opened. A record may
    /// take half of it.
    pub fn segment_size(mut self, bytes: u64) -> Self {
        self.segment_size = Some(bytes);
        self
    }

    /// Sets what a write waits for; [`Durability::Buffered`] unless given.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets how often a background thread flushes. This bounds the buffered writes that power loss
    /// can take. One second unless given; `None` leaves it to the operating system, which writes
    /// back after some 30 seconds, in no order.
    pub fn flush_interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.flush_interval = interval.into();
        self
    }

    /// Sets when a read checks a record's checksum; [`Verify::FirstRead`] unless given.
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// Sets the time after which a record that this handle puts expires, unless the record itself
    /// says otherwise ([`NewRecord`](crate::NewRecord)); never unless given. No read finds an
    /// expired record, but `len` and `stats` count it until compaction reaches it.
    pub fn time_to_live(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.time_to_live = time.into();
        self
    }

    /// Sets whether background threads reclaim the space of garbage; [`Compaction::Auto`] unless
    /// given.
    pub fn compaction(mut self, compaction: Compaction) -> Self {
        self.compaction = compaction;
        self
    }

    /// Limits the bytes of records that compaction copies in a second; no limit unless given. Where
    /// writers make more garbage than that, puts are throttled
    /// ([`space_target`](Options::space_target)).
    pub fn compaction_rate(mut self, bytes_a_second: impl Into<Option<u64>>) -> Self {
        self.compaction_rate = bytes_a_second.into();
        self
    }

    /// Sets the size that the log may reach, as a multiple of the bytes of live records: 2.0 or
    /// more, 2.5 unless given. Where puts outrun compaction they are throttled, the more the nearer
    /// the log is to this size, from some 0.4 below it. A store with less than ten segments of live
    /// records may take twelve segments in addition. `None` throttles nobody, and lets the log
    /// grow.
    ///
    /// A delay is a sleep by the clock: at most 4 ms for each 64 KiB that a put or a batch writes,
    /// begun ones counted, whatever other threads do. Gets, removals and tags are never delayed,
    /// nor are writes that wait for the device ([`Durability::Synced`]), nor anything where
    /// compaction is left to the caller or cannot gain anything, because of a pin for instance. So
    /// this is a target, not a promise. [`Stats::write_stall`](crate::Stats::write_stall) says what
    /// it costs.
    pub fn space_target(mut self, times_live: impl Into<Option<f64>>) -> Self {
        self.space_target = times_live.into();
        self
    }

    /// Sets how opening treats damage; [`Recovery::Tolerant`] unless given.
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
        self
    }

    /// Sets whether to create the store if there is none; `true` unless given.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Opens without a lock and without changing any file, while other readers and one writer of
    /// another process have the store open. Shows what was published when it was opened. Implies
    /// `create(false)`.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Refuses values outside their ranges, before anything is touched.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if let Some(dimension) = self.dimension
            && !(1..=DIMENSION_MAX).contains(&dimension)
        {
            return Err(Error::InvalidOption(format!(
                "dimension must be 1 to {DIMENSION_MAX}, not {dimension}"
            )));
        }
        if let Some(bytes) = self.segment_size
            && (!(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes)
                || !bytes.is_power_of_two())
        {
            return Err(Error::InvalidOption(format!(
                "segment_size must be a power of two from {SEGMENT_BYTES_MIN} to \
                 {SEGMENT_BYTES_MAX} bytes, not {bytes}"
            )));
        }
        if let Some(times) = self.space_target
            && !(times.is_finite() && times >= SPACE_TARGET_MIN)
        {
            return Err(Error::InvalidOption(format!(
                "space_target must be {SPACE_TARGET_MIN} or more, not {times}"
            )));
        }
        Ok(())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}
