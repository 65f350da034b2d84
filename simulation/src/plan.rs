//! A plan: what one seed does. Drawn before anything runs, so that it can be shrunk.

use simulated_machine::disk::PAGE;
use simulated_machine::{Faults, Grain, Policy, Settings};

/// Bytes of a disk that is never full.
pub const ROOMY: u64 = 1 << 30;
/// Mappings that are always enough.
pub const MAPPINGS_MAX: u64 = 65_530;

/// One operation of the workload; numbers are drawn ids, sizes and choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Put { id: usize, len: usize },
    PutKeepingTag { id: usize, len: usize },
    PutIf { id: usize, len: usize, condition: u8 },
    PutExpiring { id: usize, len: usize, millis: u64 },
    Remove { id: usize },
    Batch { first: usize, count: usize, len: usize },
    Get { id: usize },
    GetMany { first: usize, count: usize },
    GetOwned { id: usize },
    GetShared { id: usize },
    Contains { id: usize },
    UpdateTag { id: usize },
    Iterate,
    Search { count: usize },
    Sync,
    WaitDurable,
    Compact,
    Backup,
    Verify { depth: u8 },
    Stats,
    Sleep { millis: u64 },
    WaitAsync,
    Hold { id: usize, millis: u64 },
    ChangeDirectory { away: bool },
    MoveDirectory,
    Look { millis: u64 },
}

/// How a life ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// All threads end, then the store is closed.
    #[default]
    Close,
    /// All threads end, then the store is dropped.
    Drop,
    /// The process is killed after so many points, if it has not ended by then.
    Kill { after: u64 },
    /// Power is lost after so many points.
    PowerLoss { after: u64 },
}

/// One process and what it does.
#[derive(Clone, Debug, Default)]
pub struct Life {
    pub threads: Vec<Vec<Operation>>,
    pub ending: Ending,
    /// The points after which it ends are counted from its first operation, not from its beginning.
    pub ends_late: bool,
    pub is_synced: bool,
    pub is_automatic: bool,
    pub verify: u8,
    pub salvages: bool,
    /// Damage is refused, and it is none that something was cut off.
    pub is_strict: bool,
    /// Milliseconds after which puts expire that say nothing else.
    pub lifetime: Option<u64>,
    /// Bytes a second that compaction copies.
    pub compaction_rate: Option<u64>,
    pub flush_millis: Option<u64>,
    pub faults: Faults,
    /// Before it begins, the device damages a segment.
    pub is_damaged: bool,
    /// The boot id cannot be read.
    pub hides_boot: bool,
    /// Before it begins, the store's files are replaced by sparse copies.
    pub is_sparse: bool,
    /// When the workload has ended, no call fails any more.
    pub recovers: bool,
    /// When all is quiet it compacts, and no garbage may be left.
    pub tidies: bool,
}

/// All that a seed does.
#[derive(Clone, Debug)]
pub struct Plan {
    pub settings: Settings,
    pub dimension: usize,
    pub segment_bytes: u64,
    pub ids: usize,
    /// There is another store of the same name in another directory.
    pub has_neighbour: bool,
    pub lives: Vec<Life>,
}

/// Which seeds are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Two threads and thirty operations, a restart in half of the seeds.
    Minimum,
    /// More of everything.
    Large,
    /// Every atomic access is a point; at most three threads and thirty operations.
    Fine,
}

impl Size {
    const ALL: [(&str, Self); 3] =
        [("minimum", Self::Minimum), ("large", Self::Large), ("fine", Self::Fine)];

    /// The size of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(its, _)| *its == name).map(|(_, size)| *size)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, size)| *size == self).map_or("", |(name, _)| name)
    }
}

fn one_in(dice: &mut fastrand::Rng, n: u32) -> bool {
    dice.u32(0..n) == 0
}

/// A chance that is often none.
fn chance(dice: &mut fastrand::Rng, one_in_seeds: u32, often: u64, seldom: u64) -> u64 {
    if one_in(dice, one_in_seeds) { dice.u64(often..seldom) } else { 0 }
}

/// Bytes of a disk that is soon full, of any number of blocks.
fn small_disk(dice: &mut fastrand::Rng, segment_bytes: u64) -> u64 {
    segment_bytes * dice.u64(6..30) + PAGE as u64 * dice.u64(0..16)
}

impl Plan {
    /// Draws the plan of a seed.
    #[must_use]
    pub fn draw(seed: u64, size: Size) -> Self {
        let dice = &mut fastrand::Rng::with_seed(seed);
        let segment_bytes = 16 << 10 << [0, 0, 1, 2][dice.usize(0..4)];
        let ids = if one_in(dice, 2) { dice.usize(2..5) } else { dice.usize(4..24) };
        let policy = match dice.u32(0..3) {
            0 => Policy::Priorities { changes: dice.u32(1..8), within: dice.u64(200..20_000) },
            _ => Policy::Uniform { stays: 1 << dice.u32(0..6) },
        };
        let profile = Profile::draw(dice);
        // A writer that is stopped in the middle of a write lets others overtake it.
        let (stops_one_in, stop_magnitudes) = match profile {
            Profile::Contest | Profile::Roll => (dice.u64(40..800), (6, 13)),
            _ => (chance(dice, 3, 100, 3_000), (0, 15)),
        };
        let settings = Settings {
            seed: dice.u64(..),
            grain: if size == Size::Fine { Grain::Fine } else { Grain::Coarse },
            policy,
            stops_one_in,
            stop_magnitudes,
            disk_bytes: if one_in(dice, 6) { small_disk(dice, segment_bytes) } else { ROOMY },
            memory_bytes: if one_in(dice, 6) { segment_bytes * dice.u64(2..40) } else { 0 },
            open_files_max: if one_in(dice, 6) { dice.u64(16..64) } else { 1024 },
            mappings_max: if one_in(dice, 16) { dice.u64(12..64) } else { MAPPINGS_MAX },
            unit_bytes: [64, 512, 4096][dice.usize(0..3)],
            torn_units: one_in(dice, 4),
            steps_max: 30_000_000,
            ..Settings::default()
        };
        let lives = 1 + usize::from(one_in(dice, 2)) + usize::from(one_in(dice, 4));
        let is_long = [Profile::Churn, Profile::Roll].contains(&profile);
        let lives = if is_long { 3 } else { lives };
        let drawn = Drawn { size, ids, segment_bytes, profile, weights: profile.weights(dice) };
        let lives = (0..lives).map(|_| Life::draw(dice, &drawn)).collect();
        let dimension = dice.usize(1..9);
        Self { settings, dimension, segment_bytes, ids, has_neighbour: one_in(dice, 8), lives }
    }
}

/// What a seed is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    /// Everything, but that each seed leaves some kinds of operations out.
    Usual,
    /// Overwriting and compacting, and little else.
    Churn,
    /// Conditional writes and removals of the same ids, and what compaction makes of them.
    Contest,
    /// What expires and is overwritten, beside reads and walks.
    Expiry,
    /// Few records fill a segment, and much is asked of what is durable.
    Roll,
}

/// How often each kind of operation is drawn.
struct Weights([u32; KINDS]);

/// Kinds of operations.
const KINDS: usize = 26;

const USUAL: [u32; KINDS] =
    [30, 4, 8, 4, 12, 8, 10, 2, 2, 6, 2, 2, 4, 3, 8, 1, 1, 2, 3, 2, 2, 1, 1, 2, 2, 4];
const CHURN: [u32; KINDS] =
    [30, 2, 0, 0, 6, 0, 2, 0, 0, 3, 0, 0, 3, 0, 12, 2, 0, 2, 2, 0, 0, 0, 0, 0, 0, 4];
const CONTEST: [u32; KINDS] =
    [14, 0, 20, 6, 22, 8, 6, 0, 2, 2, 8, 2, 8, 2, 16, 5, 0, 1, 3, 0, 0, 0, 0, 2, 0, 4];
const EXPIRY: [u32; KINDS] =
    [20, 4, 4, 24, 4, 2, 8, 2, 2, 4, 16, 8, 2, 0, 6, 2, 0, 1, 6, 0, 2, 0, 0, 4, 2, 4];
const ROLL: [u32; KINDS] =
    [40, 0, 2, 0, 4, 8, 2, 0, 0, 0, 2, 0, 8, 10, 2, 1, 0, 12, 1, 4, 0, 0, 0, 0, 0, 2];

impl Profile {
    fn draw(dice: &mut fastrand::Rng) -> Self {
        match dice.u32(0..9) {
            0 | 1 => Self::Churn,
            2 | 3 => Self::Contest,
            4 => Self::Expiry,
            5 => Self::Roll,
            _ => Self::Usual,
        }
    }

    fn weights(self, dice: &mut fastrand::Rng) -> Weights {
        let mut weights = match self {
            Self::Churn => return Weights(CHURN),
            Self::Contest => return Weights(CONTEST),
            Self::Expiry => return Weights(EXPIRY),
            Self::Roll => return Weights(ROLL),
            Self::Usual => USUAL,
        };
        for weight in weights.iter_mut().skip(1) {
            match dice.u32(0..6) {
                0 | 1 => *weight = 0,
                2 => *weight *= 4,
                _ => {}
            }
        }
        Weights(weights)
    }
}

impl Weights {
    fn choose(&self, dice: &mut fastrand::Rng) -> usize {
        let mut left = dice.u32(0..self.0.iter().sum());
        for (n, weight) in self.0.iter().enumerate() {
            match left.checked_sub(*weight) {
                Some(less) => left = less,
                None => return n,
            }
        }
        0
    }
}

/// What the lives of a seed have in common.
struct Drawn {
    size: Size,
    ids: usize,
    segment_bytes: u64,
    profile: Profile,
    weights: Weights,
}

impl Life {
    /// Returns whether calls of the system may fail for lack of something, or of the device.
    pub fn has_failing_calls(&self) -> bool {
        let faults = &self.faults;
        let lacks = [faults.no_room, faults.no_descriptor, faults.no_mapping, faults.no_thread];
        faults.flush_fails + faults.write_back_fails + faults.read_fails + lacks.iter().sum::<u64>()
            > 0
    }

    fn draw(dice: &mut fastrand::Rng, drawn: &Drawn) -> Self {
        let Drawn { size, ids, segment_bytes, profile, weights } = drawn;
        let (size, ids, segment_bytes) = (*size, *ids, *segment_bytes as usize);
        let threads = match size {
            Size::Minimum => 2,
            Size::Fine => dice.usize(2..4),
            Size::Large => dice.usize(2..6),
        };
        let each = if size == Size::Large { dice.usize(10..60) } else { 30 / threads };
        // Few records fit a segment, or many.
        let longest = match dice.u32(0..4) {
            _ if *profile == Profile::Roll => segment_bytes / 3,
            0 => 300,
            1 => segment_bytes / 8,
            2 => segment_bytes / 4,
            _ => segment_bytes / 3,
        };
        let draw = |dice: &mut fastrand::Rng| Operation::draw(dice, ids, longest, weights);
        let threads = (0..threads).map(|_| (0..each).map(|_| draw(dice)).collect()).collect();
        let magnitude = dice.u32(6..14);
        let after = dice.u64(1..1 << magnitude);
        let ending = match dice.u32(0..8) {
            0 | 1 => Ending::Close,
            2 => Ending::Drop,
            3 | 4 => Ending::Kill { after },
            _ => Ending::PowerLoss { after },
        };
        Self {
            threads,
            ending,
            ends_late: dice.bool(),
            is_synced: one_in(dice, 4),
            is_automatic: one_in(dice, 2),
            verify: dice.u8(0..3),
            salvages: one_in(dice, 16),
            is_strict: one_in(dice, 8),
            lifetime: one_in(dice, 16).then(|| dice.u64(0..2000)),
            compaction_rate: one_in(dice, 12).then(|| dice.u64(1 << 10..1 << 20)),
            flush_millis: if one_in(dice, 2) { Some(1 << dice.u32(0..11)) } else { None },
            faults: Faults {
                write_back: chance(dice, 2, 20, 500),
                clock_jumps: chance(dice, 2, 50, 2000),
                interrupted: chance(dice, 8, 20, 200),
                no_room: chance(dice, 8, 10, 100),
                flush_fails: match profile {
                    // What is asked of the device at the end of a segment, and at its beginning.
                    Profile::Roll => chance(dice, 2, 5, 40),
                    _ => chance(dice, 10, 10, 100),
                },
                no_descriptor: chance(dice, 16, 10, 100),
                no_mapping: chance(dice, 16, 5, 50),
                no_thread: chance(dice, 32, 5, 50),
                read_fails: chance(dice, 48, 10, 100),
                clock_set: chance(dice, 12, 100, 2000),
                // The device may have lost what a flush could not write.
                eviction: chance(dice, 24, 20, 500),
                write_back_fails: chance(dice, 24, 2, 20),
            },
            is_damaged: one_in(dice, 24),
            hides_boot: one_in(dice, 20),
            is_sparse: one_in(dice, 16),
            recovers: one_in(dice, 2),
            tidies: one_in(dice, 3),
        }
    }
}

impl Operation {
    /// Its name, by which it is counted.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Put { .. } => "op put",
            Self::PutKeepingTag { .. } => "op put that keeps the tag",
            Self::PutIf { .. } => "op put_if",
            Self::PutExpiring { .. } => "op put that expires",
            Self::Remove { .. } => "op remove",
            Self::Batch { .. } => "op batch",
            Self::Get { .. } => "op get",
            Self::GetMany { .. } => "op get_many",
            Self::GetOwned { .. } => "op get_owned",
            Self::GetShared { .. } => "op get_shared",
            Self::Contains { .. } => "op contains",
            Self::UpdateTag { .. } => "op update_tag",
            Self::Iterate => "op iter",
            Self::Search { .. } => "op search",
            Self::Sync => "op sync",
            Self::WaitDurable => "op wait_durable",
            Self::WaitAsync => "op wait_durable_async",
            Self::Compact => "op compact",
            Self::Backup => "op backup, opened and gone on with",
            Self::Verify { .. } => "op verify",
            Self::Stats => "op stats",
            Self::Sleep { .. } => "op sleep",
            Self::Hold { .. } => "op record held",
            Self::Look { .. } => "op second handle",
            Self::ChangeDirectory { .. } => "op chdir",
            Self::MoveDirectory => "op directory renamed",
        }
    }

    fn draw(dice: &mut fastrand::Rng, ids: usize, longest: usize, weights: &Weights) -> Self {
        let (id, len) = (dice.usize(0..ids), dice.usize(0..=longest));
        let magnitude = dice.u32(1..12);
        match weights.choose(dice) {
            0 => Self::Put { id, len },
            1 => Self::PutKeepingTag { id, len },
            2 => Self::PutIf { id, len, condition: dice.u8(0..4) },
            3 => Self::PutExpiring { id, len, millis: dice.u64(0..1 << magnitude) },
            4 => Self::Remove { id },
            5 => Self::Batch { first: id, count: dice.usize(1..6), len: len / 4 },
            6 => Self::Get { id },
            7 => Self::GetShared { id },
            8 => Self::Contains { id },
            9 => Self::UpdateTag { id },
            10 => Self::Iterate,
            11 => Self::Search { count: dice.usize(1..12) },
            12 => Self::Sync,
            13 => Self::WaitDurable,
            14 => Self::Compact,
            15 => Self::Backup,
            16 => Self::Verify { depth: dice.u8(0..4) },
            17 => Self::Stats,
            18 => Self::Sleep { millis: dice.u64(0..1 << magnitude) },
            19 => Self::WaitAsync,
            20 => Self::Hold { id, millis: dice.u64(0..100) },
            21 => Self::ChangeDirectory { away: dice.bool() },
            22 => Self::MoveDirectory,
            23 => Self::GetMany { first: id, count: dice.usize(0..12) },
            24 => Self::GetOwned { id },
            _ => Self::Look { millis: dice.u64(0..60) },
        }
    }
}
