//! Power loss on a real file system: a process works on a store, on ext4, XFS or btrfs, on a loop
//! device, on a disk that is this process (`disk`). Then the disk is made as power loss may have
//! left it at random moments (`image`), mounted, opened and judged, again and again. See `run.sh`.
//!
//! The process does one operation after the other, so what is found must be what it had after some
//! number of them: not fewer than were durable, not more than had begun, batches whole.

mod disk;
mod image;
mod life;
mod mounts;

use anyhow::{Context, bail, ensure};
use disk::{Disk, Entry};
use image::Images;
use life::Promise;
use mounts::{Loop, Mounted, run, text};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use stratalog::internals::format::header::BOOT_AT;
use stratalog::{Error, Options};

/// Images of each recorded life.
const IMAGES_A_LIFE: usize = 40;

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
    /// The file system itself would not mount.
    unmountable: u64,
    open_sectors: usize,
    kept_sectors: usize,
    /// Operations that were begun and not durable, and how many of them were there.
    undecided: u64,
    survived: u64,
    violations: Vec<String>,
}

fn bytes_of(kind: &str) -> anyhow::Result<usize> {
    Ok(match kind {
        "ext4" => 64 << 20,
        "xfs" => 320 << 20,
        "btrfs" => 160 << 20,
        other => bail!("no such file system here: {other}"),
    })
}

fn make_file_system(kind: &str, device: &Loop) -> anyhow::Result<()> {
    let args = match kind {
        "ext4" => ["-q", "-E", "nodiscard", &device.0],
        _ => ["-q", "-f", "-K", &device.0],
    };
    run(&format!("mkfs.{kind}"), &args).map(drop)
}

/// Lets a process live on a disk; all that reached the disk.
fn record(plan: &Plan, seed: u64) -> anyhow::Result<Vec<Entry>> {
    let (fuse, place) = (plan.work.join("fuse"), plan.work.join("live"));
    fs::create_dir_all(&fuse)?;
    let disk = Disk::new(bytes_of(&plan.kind)?);
    let session = disk.mount(&fuse).context("mounting the disk itself")?;
    {
        let device = Loop::over(&fuse.join("disk"))?;
        make_file_system(&plan.kind, &device)?;
        let _mounted = Mounted::at(&device, &place)?;
        let child = Command::new(std::env::current_exe()?)
            .args(["live", text(&place)?, text(&fuse)?, &seed.to_string()])
            .arg(format!("{:?}", plan.promise))
            .stdin(Stdio::null())
            .status()?;
        ensure!(child.success(), "the process on the disk ended: {child}");
    }
    let log = disk.log();
    drop(session);
    Ok(log)
}

/// What had been begun, and promised to be durable, after so much of the log; nothing if the store
/// was not open yet.
fn said_before(log: &[Entry]) -> Option<[u32; 2]> {
    let mut said = None;
    for entry in log {
        let Entry::Said(line) = entry else { continue };
        let [begun, durable] = said.get_or_insert([0, 0]);
        let number = line.split_once(' ').and_then(|(_, n)| n.parse().ok()).unwrap_or(0);
        *if line.starts_with("begin") { begun } else { durable } = number;
    }
    said
}

/// Opens what a mounted image holds, twice. How many operations were undecided, and how many of
/// those are there; an error says what is wrong.
fn judge(place: &Path, seed: u64, said: Option<[u32; 2]>) -> anyhow::Result<Option<[u32; 2]>> {
    let options = Options::new().create(false);
    let store = match options.open(place) {
        Err(Error::NotFound(_)) if said.is_none() => return Ok(None),
        store => store.context("opening")?,
    };
    let report = store.recovery();
    let damage = report.corrupt + report.missing_segments + report.foreign_files;
    ensure!(damage == 0, "opening found {report:?}");
    let found = life::found(&store)?;
    ensure!(store.len() == found.len(), "len() is {}, {} are there", store.len(), found.len());
    ensure!(store.verify()?.is_clean(), "verify found damage");
    store.close()?;
    let [begun, durable] = said.unwrap_or([0, 0]);
    let fits = |n: &u32| life::model_after(seed, *n) == found;
    let Some(reached) = (durable..=begun).rfind(fits) else {
        let older = (0..durable).rfind(fits);
        bail!("{durable} operations were durable, {begun} begun; found is what {older:?} left");
    };
    let again = life::found(&options.open(place)?)?;
    ensure!(again == found, "the second opening found something else");
    Ok(Some([begun - durable, reached - durable]))
}

/// The machine went down, so the segments were last written under another boot id than the one
/// that the next opening sees.
fn reboot(store: &Path) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(store) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "seg") {
            let file = fs::File::options().write(true).open(path)?;
            file.write_all_at(&[0xB0; 16], BOOT_AT as u64)?;
        }
    }
    Ok(())
}

/// One image: makes it, mounts it, judges it.
fn try_image(
    plan: &Plan,
    seed: u64,
    image: &[u8],
    said: Option<[u32; 2]>,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let (file, place) = (plan.work.join("image"), plan.work.join("after"));
    image::store(image, &file)?;
    let device = Loop::over(&file)?;
    tally.images += 1;
    let Ok(_mounted) = Mounted::at(&device, &place) else {
        tally.unmountable += 1;
        return Ok(());
    };
    let store = place.join("store");
    reboot(&store)?;
    match judge(&store, seed, said) {
        Ok(None) => tally.empty += 1,
        Ok(Some([undecided, survived])) => {
            tally.undecided += u64::from(undecided);
            tally.survived += u64::from(survived);
        }
        Err(error) => {
            tally.violations.push(format!("life {seed}, image {}: {error:#}", tally.images));
        }
    }
    Ok(())
}

fn play(plan: &Plan, tally: &mut Tally) -> anyhow::Result<()> {
    let started = Instant::now();
    let late = || started.elapsed() >= Duration::from_secs(plan.seconds_max);
    let mut rng = fastrand::Rng::with_seed(plan.seed);
    while tally.images < plan.images && !late() {
        let seed = rng.u64(..1 << 32);
        let log = record(plan, seed)?;
        tally.lives += 1;
        let begins = log.iter().position(|entry| matches!(entry, Entry::Said(_)));
        // A store is being made a little before the first word.
        let first = begins.context("the process said nothing")?.saturating_sub(30);
        let mut cuts: Vec<_> = (0..IMAGES_A_LIFE).map(|_| rng.usize(first..=log.len())).collect();
        cuts.sort_unstable();
        let mut images = Images::new(&log, bytes_of(&plan.kind)?);
        for cut in cuts {
            if tally.images == plan.images || late() {
                break;
            }
            let (image, [open, kept]) = images.at(cut, &mut rng);
            tally.open_sectors += open;
            tally.kept_sectors += kept;
            try_image(plan, seed, &image, said_before(&log[..cut]), tally)?;
        }
    }
    Ok(())
}

fn report(plan: &Plan, tally: &Tally, elapsed: Duration) -> ExitCode {
    for violation in tally.violations.iter().take(10) {
        println!("{violation}");
    }
    let rate = tally.images as f64 / elapsed.as_secs_f64();
    println!(
        "{}, {:?}, seed {}: {} images of {} lives in {:.0} s ({rate:.1}/s), {} wrong; {} before \
         there was a store, {} that do not mount; {} sectors open, {} kept; {} operations begun \
         and not durable, {} of them there",
        plan.kind,
        plan.promise,
        plan.seed,
        tally.images,
        tally.lives,
        elapsed.as_secs_f64(),
        tally.violations.len(),
        tally.empty,
        tally.unmountable,
        tally.open_sectors,
        tally.kept_sectors,
        tally.undecided,
        tally.survived,
    );
    let lost = !tally.violations.is_empty();
    // A control that loses nothing shows that nothing could have been lost.
    if lost == (plan.promise == Promise::Kept) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
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
            let (store, said) = (Path::new(place).join("store"), Path::new(fuse).join("said"));
            life::live(&store, &said, seed.parse()?, promise_of(promise)?)?;
            Ok(ExitCode::SUCCESS)
        }
        ["play", work, kind, images, seconds_max, promise, seed] => {
            let plan = Plan {
                work: work.into(),
                kind: kind.into(),
                images: images.parse()?,
                seconds_max: seconds_max.parse()?,
                promise: promise_of(promise)?,
                seed: seed.parse()?,
            };
            let (mut tally, started) = (Tally::default(), Instant::now());
            play(&plan, &mut tally)?;
            Ok(report(&plan, &tally, started.elapsed()))
        }
        _ => bail!("see run.sh"),
    }
}
