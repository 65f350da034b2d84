//! Power loss on a real file system: a process works on a store, on ext4, XFS or btrfs, on a loop
//! device, on a disk that is this process (`disk`). Then the disk is made as power loss may have
//! left it at random moments (`image`), mounted, opened and judged, again and again. See `run.sh`.
//!
//! Several threads of that process write, each to ids of its own and one operation after the other,
//! so of each there must be what it had after some number of them: not fewer than were durable, not
//! more than had begun, batches whole (`model`, `judge`).

mod disk;
mod image;
mod judge;
mod life;
mod model;
mod mounts;

use anyhow::{Context, anyhow, bail, ensure};
use disk::{Disk, Entry};
use image::{Images, Kept};
use judge::{Judged, Said, judge};
use life::Promise;
use mounts::{Loop, Mounted, run, text};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use stratalog::internals::format::header::BOOT_AT;

/// Images of each recorded life.
const IMAGES_A_LIFE: usize = 60;
/// Lives that are recorded and judged at the same time.
const CREWS: u64 = 2;

struct Plan {
    work: PathBuf,
    kind: String,
    images: u64,
    seconds_max: u64,
    promise: Promise,
    seed: u64,
}

#[derive(Debug, Default)]
struct Tally {
    lives: u64,
    images: u64,
    /// Before there was a store.
    empty: u64,
    /// The file system itself would not mount: by what it said.
    unmountable: BTreeMap<String, u64>,
    open_sectors: usize,
    kept_sectors: usize,
    judged: Judged,
    violations: Vec<String>,
}

fn bytes_of(kind: &str) -> anyhow::Result<usize> {
    Ok(match kind {
        "ext4" => 48 << 20,
        "xfs" => 320 << 20,
        "btrfs" => 160 << 20,
        other => bail!("no such file system here: {other}"),
    })
}

/// ext4's superblock has two sectors under one sum, and is written where it lies: a disk that wrote
/// one of them and not the other leaves nothing to mount. The rig's disk writes both or none.
fn second_half_of_superblock(kind: &str) -> Option<usize> {
    (kind == "ext4").then_some(1024 + 512)
}

/// One who records lives and judges what they leave, in a place of its own.
struct Crew<'a> {
    plan: &'a Plan,
    tally: &'a Mutex<Tally>,
    started: Instant,
    place: PathBuf,
    rng: fastrand::Rng,
    /// A disk with a new file system.
    fresh: Vec<u8>,
    /// The disk after power loss, and the device over it.
    file: File,
    device: Loop,
}

impl<'a> Crew<'a> {
    fn new(plan: &'a Plan, tally: &'a Mutex<Tally>, number: u64) -> anyhow::Result<Self> {
        let place = plan.work.join(number.to_string());
        fs::create_dir_all(place.join("fuse"))?;
        let path = place.join("image");
        let options = File::options().read(true).write(true).create_new(true).open(&path);
        let file = options.context("a file for the disk")?;
        file.set_len(bytes_of(&plan.kind)? as u64)?;
        let rng = fastrand::Rng::with_seed(plan.seed ^ number << 32);
        let device = Loop::over(&path)?;
        let mut crew = Self {
            plan,
            tally,
            started: Instant::now(),
            place,
            rng,
            fresh: Vec::new(),
            file,
            device,
        };
        crew.fresh = crew.make_file_system()?;
        Ok(crew)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether enough was judged, or time is up.
    fn is_over(&self) -> bool {
        self.started.elapsed() >= Duration::from_secs(self.plan.seconds_max)
            || self.tally().images >= self.plan.images
    }

    fn make_file_system(&self) -> anyhow::Result<Vec<u8>> {
        let fuse = self.place.join("fuse");
        let disk = Disk::new(vec![0; bytes_of(&self.plan.kind)?]);
        let session = disk.mount(&fuse).context("mounting the disk itself")?;
        {
            let device = Loop::over(&fuse.join("disk"))?;
            let args = match self.plan.kind.as_str() {
                "ext4" => ["-q", "-E", "nodiscard", &device.0],
                _ => ["-q", "-f", "-K", &device.0],
            };
            run(&format!("mkfs.{}", self.plan.kind), &args)?;
        }
        drop(session);
        Ok(disk.now())
    }

    /// Lets a process live on a disk; all that reached the disk.
    fn record(&self, seed: u64) -> anyhow::Result<Vec<Entry>> {
        let (fuse, place) = (self.place.join("fuse"), self.place.join("live"));
        let disk = Disk::new(self.fresh.clone());
        let session = disk.mount(&fuse).context("mounting the disk itself")?;
        {
            let device = Loop::over(&fuse.join("disk"))?;
            let mounted = Mounted::at(&device, &self.plan.kind, &place)?;
            let child = Command::new(std::env::current_exe()?)
                .args(["live", text(&place)?, text(&fuse)?, &seed.to_string()])
                .arg(format!("{:?}", self.plan.promise))
                .stdin(Stdio::null())
                .status()?;
            ensure!(child.success(), "the process on the disk ended: {child}");
            mounted.end()?;
        }
        drop(session);
        Ok(disk.take_log())
    }

    fn play(&mut self) -> anyhow::Result<()> {
        while !self.is_over() {
            let seed = self.rng.u64(..1 << 32);
            let log = self.record(seed)?;
            self.tally().lives += 1;
            let begins = log.iter().position(|entry| matches!(entry, Entry::Said(_)));
            // A store is being made a little before the first word.
            let first = begins.context("the process said nothing")?.saturating_sub(30);
            let cut = |rng: &mut fastrand::Rng| rng.usize(first..=log.len());
            let mut cuts: Vec<_> = (0..IMAGES_A_LIFE).map(|_| cut(&mut self.rng)).collect();
            cuts.sort_unstable();
            let whole = second_half_of_superblock(&self.plan.kind);
            let mut images = Images::new(&log, &self.fresh, whole);
            for cut in cuts {
                if self.is_over() {
                    break;
                }
                let kept = images.at(cut, &mut self.rng);
                let said = Said::before(&log[..cut])?;
                self.try_image(seed, (&images, &kept), said.as_ref())?;
            }
        }
        Ok(())
    }

    /// One image: makes it, mounts it, judges it.
    fn try_image(
        &self,
        seed: u64,
        (images, kept): (&Images<'_>, &Kept<'_>),
        said: Option<&Said>,
    ) -> anyhow::Result<()> {
        images.store(kept, &self.file)?;
        let place = self.place.join("after");
        let judged = match Mounted::at(&self.device, &self.plan.kind, &place) {
            Err(error) => {
                let mut tally = self.tally();
                tally.images += 1;
                *tally.unmountable.entry(format!("{error:#}")).or_default() += 1;
                return Ok(());
            }
            Ok(mounted) => {
                let judged = reboot(&place).and_then(|()| judge(&place, seed, said));
                mounted.end()?;
                judged
            }
        };
        let mut tally = self.tally();
        tally.images += 1;
        tally.open_sectors += kept.counts[0];
        tally.kept_sectors += kept.counts[1];
        match judged {
            Ok(None) => tally.empty += 1,
            Ok(Some(judged)) => {
                tally.judged.undecided += judged.undecided;
                tally.judged.survived += judged.survived;
                tally.judged.backups += judged.backups;
            }
            Err(error) => {
                let image = tally.images;
                tally.violations.push(format!("life {seed}, image {image}: {error:#}"));
            }
        }
        if tally.images.is_multiple_of(500) {
            println!("{}", line(self.plan, &tally, self.started.elapsed()));
        }
        Ok(())
    }
}

/// The machine went down, so the segments were last written under another boot id than the one
/// that the next opening sees.
fn reboot(place: &Path) -> anyhow::Result<()> {
    for directory in fs::read_dir(place)? {
        let Ok(entries) = fs::read_dir(directory?.path()) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "seg") {
                let file = File::options().write(true).open(path)?;
                file.write_all_at(&[0xB0; 16], BOOT_AT as u64)?;
            }
        }
    }
    Ok(())
}

fn line(plan: &Plan, tally: &Tally, elapsed: Duration) -> String {
    let rate = tally.images as f64 / elapsed.as_secs_f64();
    let unmountable: u64 = tally.unmountable.values().sum();
    format!(
        "{}, {:?}, seed {}: {} images of {} lives in {:.0} s ({rate:.1}/s), {} wrong; {} before \
         there was a store, {unmountable} that do not mount; {} sectors open, {} kept; {} \
         operations begun and not durable, {} of them there; {} backups",
        plan.kind,
        plan.promise,
        plan.seed,
        tally.images,
        tally.lives,
        elapsed.as_secs_f64(),
        tally.violations.len(),
        tally.empty,
        tally.open_sectors,
        tally.kept_sectors,
        tally.judged.undecided,
        tally.judged.survived,
        tally.judged.backups,
    )
}

fn report(plan: &Plan, tally: &Tally, elapsed: Duration) -> ExitCode {
    for violation in tally.violations.iter().take(10) {
        println!("{violation}");
    }
    println!("{}", line(plan, tally, elapsed));
    for (error, images) in &tally.unmountable {
        println!("    {images} do not mount: {error}");
    }
    let lost = !tally.violations.is_empty();
    // A control that loses nothing shows that nothing could have been lost.
    if lost == (plan.promise == Promise::Kept) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn play(plan: &Plan) -> anyhow::Result<ExitCode> {
    let (tally, started) = (Mutex::new(Tally::default()), Instant::now());
    // Each with a file system of its own making: two with one identity are not mounted at once.
    let crews: anyhow::Result<Vec<_>> = (0..CREWS).map(|n| Crew::new(plan, &tally, n)).collect();
    thread::scope(|scope| {
        let at_work: Vec<_> =
            crews?.into_iter().map(|mut crew| scope.spawn(move || crew.play())).collect();
        at_work
            .into_iter()
            .try_for_each(|crew| crew.join().map_err(|_panic| anyhow!("a crew panicked"))?)
    })?;
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(report(plan, &tally, started.elapsed()))
}

fn promise_of(word: &str) -> anyhow::Result<Promise> {
    let all = [Promise::Kept, Promise::NoSync, Promise::Early];
    let named = all.into_iter().find(|promise| format!("{promise:?}") == word);
    named.with_context(|| format!("no such promise: {word}"))
}

fn main() -> anyhow::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["live", place, fuse, seed, promise] => {
            let said = Path::new(fuse).join("said");
            life::live(Path::new(place), &said, seed.parse()?, promise_of(promise)?)?;
            Ok(ExitCode::SUCCESS)
        }
        ["play", work, kind, images, seconds_max, promise, seed] => play(&Plan {
            work: work.into(),
            kind: kind.into(),
            images: images.parse()?,
            seconds_max: seconds_max.parse()?,
            promise: promise_of(promise)?,
            seed: seed.parse()?,
        }),
        _ => bail!("see run.sh"),
    }
}
