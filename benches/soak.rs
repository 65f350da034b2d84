//! `cargo bench --bench soak -- 30`: so many minutes (one unless given) of everything at once on
//! one store: overwrites, removals, tags, short pins and long ones, shared records, threads that
//! come and go, sync, compact, backup, and reopening. Once a second it notes what must not grow;
//! at the end it prints the slopes, and draws them.
//!
//! `$STRATALOG_SOAK_SVG` names the picture, `soak.svg` in the target's `tmp` unless given; the
//! numbers are beside it in a `.csv`.

#[path = "soak/crew.rs"]
mod crew;
#[path = "soak/plot.rs"]
mod plot;
#[path = "soak/sample.rs"]
mod sample;

use crew::{Crew, State};
use sample::{NAMES, Sample, slope_an_hour};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use stratalog::{Options, SharedRecord, Store};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Between one opening and the next.
const STRETCH: Duration = Duration::from_secs(45);
const SYNC_EVERY: usize = 7;
const COMPACT_EVERY: usize = 20;
/// Shared records that outlive the store they are from.
const KEPT: usize = 16;

fn options() -> Options {
    Options::new().dimension(crew::DIMENSION).segment_size(4 << 20)
}

/// One opening: the crew at work, and what is seen of it every second.
fn stretch(
    store: &Store,
    crew: &mut Crew,
    until: Instant,
    begin: Instant,
    samples: &mut Vec<Sample>,
) -> Result<(), Failure> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads = crew.start(scope, store, &stop);
        let watched = (0..).try_for_each(|second| {
            if Instant::now() >= until || threads.iter().any(|thread| thread.is_finished()) {
                return Err(None);
            }
            let tick = Instant::now() + Duration::from_secs(1);
            let mut step = || -> Result<(), Failure> {
                if second % SYNC_EVERY == SYNC_EVERY - 1 {
                    store.sync()?;
                }
                if second % COMPACT_EVERY == COMPACT_EVERY - 1 {
                    store.compact()?;
                }
                // A thread that comes, pins, and goes.
                scope.spawn(|| store.contains(0u32.to_le_bytes()));
                samples.push(Sample::take(store, begin.elapsed())?);
                Ok(())
            };
            step().map_err(Some)?;
            std::thread::sleep(tick.saturating_duration_since(Instant::now()));
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_panic| "one of the crew panicked")??;
        }
        match watched {
            Err(Some(failure)) => Err(failure),
            _ => Ok(()),
        }
    })
}

/// A backup, opened and compared, and removed.
fn check_backup(store: &Store, crew: &Crew, path: &Path) -> Result<(), Failure> {
    store.backup(path)?;
    let copy = options().read_only(true).open(path)?;
    crew.check(&copy)?;
    drop(copy);
    Ok(std::fs::remove_dir_all(path)?)
}

fn report(samples: &[Sample], seconds: f64, state: &State, openings: usize) {
    println!(
        "{seconds:.0} s, {openings} openings, {} puts, {} removals, {} tags, {} reads: all as \
         expected",
        state.puts, state.removals, state.tags, state.reads
    );
    println!(
        "{:<24} {:>12} {:>12} {:>12} {:>14}",
        "", "3rd quarter", "4th quarter", "highest", "slope/hour"
    );
    let half = &samples[samples.len() / 2..];
    for (n, name) in NAMES.iter().enumerate() {
        let mean = |part: &[Sample]| {
            part.iter().map(|s| s.values[n]).sum::<f64>() / part.len().max(1) as f64
        };
        let (third, fourth) = half.split_at(half.len() / 2);
        let highest = samples.iter().map(|s| s.values[n]).fold(0.0, f64::max);
        let slope = slope_an_hour(half, n);
        let (third, fourth) = (mean(third), mean(fourth));
        println!("{name:<24} {third:>12.2} {fourth:>12.2} {highest:>12.2} {slope:>+14.2}");
    }
}

fn picture() -> PathBuf {
    std::env::var_os("STRATALOG_SOAK_SVG")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak.svg"), PathBuf::from)
}

fn main() -> Result<(), Failure> {
    let given = std::env::args().find_map(|arg| arg.parse::<f64>().ok());
    // `cargo test --benches` only wants to know that it runs.
    let benched = std::env::args().any(|arg| arg == "--bench");
    let minutes = given.unwrap_or(if benched { 1.0 } else { 0.1 });
    let dir = tempfile::tempdir()?;
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(minutes * 60.0);
    let (mut crew, mut samples) = (Crew::default(), Vec::new());
    let mut kept: Vec<SharedRecord> = Vec::new();
    let mut openings = 0;
    while Instant::now() < end {
        let store = options().open(&path)?;
        openings += 1;
        crew.check(&store)?;
        crew::check_kept(&kept)?;
        kept.clear();
        stretch(&store, &mut crew, end.min(Instant::now() + STRETCH), begin, &mut samples)?;
        check_backup(&store, &crew, &copy)?;
        for id in 0..KEPT as u32 {
            kept.extend(store.get_shared(id.to_le_bytes())?);
        }
        if openings % 3 == 0 {
            drop(store);
        } else {
            store.close()?;
        }
    }
    report(&samples, begin.elapsed().as_secs_f64(), &crew.total(), openings);
    let picture = picture();
    std::fs::write(&picture, plot::svg(&samples))?;
    std::fs::write(picture.with_extension("csv"), plot::csv(&samples))?;
    println!("{}", picture.display());
    Ok(())
}
