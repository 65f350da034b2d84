//! The threads of an import and what they share.

use super::lines::{self, Batch, Fields, Line, Lines};
use crate::npy::Matrix;
use anyhow::{anyhow, ensure};
use indicatif::ProgressBar;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufRead;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use stratalog::Store;

/// Batches on their way to one worker.
const QUEUE_BATCHES: usize = 4;
/// A batch is sent when it has so many lines or bytes.
const BATCH_LINES: usize = 128;
const BATCH_BYTES: usize = 256 << 10;
/// With `--sync`: records between two syncs.
const SYNC_RECORDS: u64 = 1000;

/// One import.
#[derive(Debug)]
pub struct Job<'a> {
    store: &'a Store,
    matrix: Option<&'a Matrix>,
    sync: bool,
    bar: &'a ProgressBar,
    records: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
    /// Of the failures seen, the one with the lowest line number.
    failure: Mutex<Option<Failure>>,
}

/// What went wrong, and at which line.
#[derive(Debug)]
pub struct Failure {
    pub line: u64,
    pub error: anyhow::Error,
}

/// How an import ended.
#[derive(Debug)]
pub struct Imported {
    pub records: u64,
    /// Of ids, embeddings and contents.
    pub bytes: u64,
    pub failure: Option<Failure>,
}

/// What a worker uses again for each record.
#[derive(Default)]
struct Buffers {
    bytes: Vec<u8>,
    values: Vec<f32>,
}

/// The lines gathered for one worker, and the way to it.
struct Lane {
    batch: Batch,
    bytes: usize,
    sender: SyncSender<Batch>,
}

impl<'a> Job<'a> {
    pub fn new(
        store: &'a Store,
        matrix: Option<&'a Matrix>,
        sync: bool,
        bar: &'a ProgressBar,
    ) -> Self {
        Self {
            store,
            matrix,
            sync,
            bar,
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// Imports `first` and all lines after it. An error is one of reading the file; one of a line
    /// is in what is returned.
    pub fn run(
        self,
        threads: usize,
        first: Option<Line>,
        lines: Lines<impl BufRead>,
    ) -> anyhow::Result<Imported> {
        thread::scope(|scope| {
            let (mut lanes, mut workers) = (Vec::new(), Vec::new());
            for _ in 0..threads {
                let (sender, inbox) = sync_channel(QUEUE_BATCHES);
                lanes.push(Lane { batch: Batch::new(), bytes: 0, sender });
                let job = &self;
                workers.push(thread::Builder::new().spawn_scoped(scope, move || job.work(inbox))?);
            }
            let fed = self.feed(first, lines, &mut lanes);
            // Hangs up, which ends the workers.
            drop(lanes);
            for worker in workers {
                worker.join().map_err(|_panic| anyhow!("a worker thread panicked"))?;
            }
            fed
        })?;
        Ok(Imported {
            records: self.records.into_inner(),
            bytes: self.bytes.into_inner(),
            failure: self.failure.into_inner().unwrap_or_else(PoisonError::into_inner),
        })
    }

    fn feed(
        &self,
        first: Option<Line>,
        mut lines: Lines<impl BufRead>,
        lanes: &mut [Lane],
    ) -> anyhow::Result<()> {
        let mut next = first;
        while let Some(line) = next
            && !self.stopped()
        {
            match lines::id(&line.text) {
                Ok(id) => {
                    let mut hasher = DefaultHasher::new();
                    id.hash(&mut hasher);
                    let lane = (hasher.finish() % lanes.len() as u64) as usize;
                    lanes[lane].add(line);
                }
                Err(error) => self.fail(line.number, error),
            }
            next = lines.read()?;
        }
        lanes.iter_mut().for_each(Lane::send);
        Ok(())
    }

    fn work(&self, inbox: Receiver<Batch>) {
        let mut buffers = Buffers::default();
        for batch in inbox {
            for line in &batch {
                if self.stopped() {
                    return;
                }
                if let Err(error) = self.store_line(line, &mut buffers) {
                    self.fail(line.number, error);
                }
            }
            self.bar.inc(batch.len() as u64);
        }
    }

    fn store_line(&self, line: &Line, buffers: &mut Buffers) -> anyhow::Result<()> {
        let fields = Fields::parse(&line.text)?;
        let values = &mut buffers.values;
        match self.matrix {
            Some(matrix) => {
                ensure!(
                    !fields.has_embedding(),
                    "the line has an embedding, and --embeddings was given too: which one?"
                );
                matrix.row(line.row, &mut buffers.bytes, values)?;
            }
            None => fields.embedding(values)?,
        }
        self.store.put(fields.id.as_bytes(), values, fields.content.as_bytes())?;
        let bytes = fields.id.len() + values.len() * 4 + fields.content.len();
        // Relaxed, both: sums, read after the threads have ended.
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let records = self.records.fetch_add(1, Ordering::Relaxed) + 1;
        if self.sync && records.is_multiple_of(SYNC_RECORDS) {
            self.store.sync()?;
        }
        Ok(())
    }

    fn stopped(&self) -> bool {
        // Relaxed: a hint; the failure itself is behind a lock.
        self.stop.load(Ordering::Relaxed)
    }

    fn fail(&self, line: u64, error: anyhow::Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.as_ref().is_none_or(|earlier| line < earlier.line) {
            *failure = Some(Failure { line, error });
        }
        // Relaxed: as in `stopped`.
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Lane {
    fn add(&mut self, line: Line) {
        self.bytes += line.text.len();
        self.batch.push(line);
        if self.batch.len() >= BATCH_LINES || self.bytes >= BATCH_BYTES {
            self.send();
        }
    }

    fn send(&mut self) {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if self.sender.send(batch).is_err() {
            // The worker has ended because somebody failed; the feeder sees that too.
        }
    }
}
