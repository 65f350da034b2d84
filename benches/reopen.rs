//! `cargo bench --bench reopen`: how long `open` takes, files in the page cache, beside bare loops
//! over the same bytes; medians of rounds that take turns. `-- 200k` for one store only.
//!
//! - *after a close*: slots are trusted, frames are not looked at. Beside it the loop that reads
//!   every slot and fills a table, which any rebuilding of an index has to do at least.
//! - *after a kill*: nothing is known to be durable, so every frame's checksum is looked at. Beside
//!   it the loop that sums every byte of the files.
//! - *after a kill, flushed*: as a kill leaves it a second later, when all but the tail is durable.

mod common;

use common::{CONTENT, DIMENSION, embedding, id};
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use stratalog::{Options, Store};

type Failure = Box<dyn std::error::Error>;

/// Name, records, dimension, bytes of content, rounds.
const STORES: [(&str, u64, usize, usize, usize); 4] = [
    ("20k", 20_000, DIMENSION, CONTENT.len(), 11),
    ("200k", 200_000, DIMENSION, CONTENT.len(), 11),
    ("1m", 1_000_000, 16, 16, 7),
    ("10m", 10_000_000, 16, 16, 5),
];

const DIRECTORY_AT: u64 = 4096;
const SLOT_BYTES: usize = 32;
/// The state of a slot that holds a record.
const COMMITTED: u64 = 1;
/// Slots that are read at a time.
const STEP: usize = 1 << 15;
/// Bytes that are summed at a time.
const SUM_STEP: usize = 1 << 18;

/// Where a segment's header says what is durable. Without that, a closed store is as one whose
/// process was killed before its first flush.
const DURABLE_AT: u64 = 192;

fn segments(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = std::fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
    let mut files: Vec<_> = entries.iter().map(std::fs::DirEntry::path).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "seg"));
    files.sort();
    Ok(files)
}

/// `all`: of the last segment that holds anything nothing is durable; else of none.
fn forget_what_is_durable(path: &Path, all: bool) -> Result<(), Failure> {
    let files = segments(path)?;
    let from = if all { 0 } else { files.len() - 1 };
    for file in &files[from..] {
        File::options().write(true).open(file)?.write_all_at(&[0; 8], DURABLE_AT)?;
    }
    Ok(())
}

fn fill(path: &Path, (records, dimension, content): (u64, usize, usize)) -> Result<(), Failure> {
    let store = Options::new().dimension(dimension).open(path)?;
    let embeddings: Vec<_> = (0..64).map(embedding).collect();
    for n in 0..records {
        store.put(id(n), &embeddings[n as usize % 64][..dimension], &CONTENT[..content])?;
    }
    Ok(store.close()?)
}

fn open(path: &Path, records: u64) -> Result<Duration, Failure> {
    let begin = Instant::now();
    let store: Store = Options::new().open(path)?;
    let time = begin.elapsed();
    if store.len() as u64 != records || store.recovery().corrupt != 0 {
        return Err(format!("{} of {records} records: {:?}", store.len(), store.recovery()).into());
    }
    store.close()?;
    Ok(time)
}

/// Every slot read once, and its word put into a table by its hash.
fn slots(path: &Path, records: u64) -> Result<Duration, Failure> {
    let begin = Instant::now();
    let mask = (records * 3 / 2).next_power_of_two() - 1;
    let mut table = vec![0u64; mask as usize + 1];
    let mut step = vec![0; STEP * SLOT_BYTES];
    let mut found = 0;
    for (number, file) in (1u64..).zip(segments(path)?) {
        let (file, mut at) = (File::open(file)?, DIRECTORY_AT);
        'slots: loop {
            let len = file.read_at(&mut step, at)?;
            for slot in step[..len].chunks_exact(SLOT_BYTES) {
                let word = |n: usize| {
                    u64::from_le_bytes(slot[n * 8..][..8].try_into().unwrap_or_default())
                };
                if word(0) == 0 {
                    break 'slots;
                }
                if word(0) & 0xFF != COMMITTED {
                    continue;
                }
                let mut place = word(2) & mask;
                while table[place as usize] != 0 {
                    place = (place + 1) & mask;
                }
                table[place as usize] = number << 32 | (word(3) & 0xFFFF_FFFF);
                found += 1;
            }
            at += len as u64;
        }
    }
    black_box(&table);
    if found == records { Ok(begin.elapsed()) } else { Err(format!("{found} slots").into()) }
}

/// Every byte of the files summed once, by as many threads as there are processors.
fn sums(path: &Path) -> Result<Duration, Failure> {
    let begin = Instant::now();
    let files = segments(path)?;
    let threads = std::thread::available_parallelism()?.get();
    let sum = |file: &PathBuf| -> std::io::Result<u32> {
        let (file, mut step) = (File::open(file)?, vec![0; SUM_STEP]);
        let (mut at, mut sum) = (0, crc32fast::Hasher::new());
        loop {
            let len = file.read_at(&mut step, at)?;
            if len == 0 {
                return Ok(sum.finalize());
            }
            sum.update(&step[..len]);
            at += len as u64;
        }
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    let worker = || {
        let next = || files.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        std::iter::from_fn(next).try_fold(0, |all, file| Ok::<_, std::io::Error>(all ^ sum(file)?))
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        all.into_iter().try_for_each(|one| match one.join() {
            Ok(sum) => sum.map(|sum| _ = black_box(sum)),
            Err(_panic) => Err(std::io::Error::other("a thread panicked")),
        })
    })?;
    Ok(begin.elapsed())
}

/// Median, least and most, in milliseconds.
fn summary(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (least, most) = (ms(times[0]), ms(times[times.len() - 1]));
    format!("{:9.1}  ({least:.1} to {most:.1})", ms(times[times.len() / 2]))
}

fn main() -> Result<(), Failure> {
    // `cargo test --benches` only wants to know that it runs.
    let asked: Vec<_> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let test = !std::env::args().any(|argument| argument == "--bench");
    for (name, records, dimension, content, rounds) in STORES {
        if test && name != "20k" || !asked.is_empty() && !asked.iter().any(|a| a == name) {
            continue;
        }
        let rounds = if test { 1 } else { rounds };
        let records = if test { 1000 } else { records };
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("store");
        fill(&path, (records, dimension, content))?;
        let mut times: [Vec<Duration>; 5] = Default::default();
        for _ in 0..rounds {
            times[0].push(open(&path, records)?);
            times[1].push(slots(&path, records)?);
            forget_what_is_durable(&path, false)?;
            times[2].push(open(&path, records)?);
            forget_what_is_durable(&path, true)?;
            times[3].push(open(&path, records)?);
            times[4].push(sums(&path)?);
        }
        println!("{records} records of {dimension}-d, {content} bytes of content, ms:");
        let what = [
            "open after a close",
            "  a loop over the slots",
            "open after a kill, flushed",
            "open after a kill",
            "  a sum of all bytes",
        ];
        for (what, times) in what.iter().zip(&mut times) {
            println!("  {what:30} {}", summary(times));
        }
    }
    Ok(())
}
