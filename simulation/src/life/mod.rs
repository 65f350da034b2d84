//! One process: it opens the store, shows everything to the judge, and runs the workload.

mod agreement;
mod backup;
mod checks;
mod erasure;
mod look;
mod reads;
mod writes;

use crate::model::{End, Model, TagOf};
use crate::plan::{Ending, Life, MAPPINGS_MAX, Operation, Plan, ROOMY};
use simulated_machine::{count, note, process, thread};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use stratalog::{Compaction, Durability, Error, Options, Recovery, Store, Verify};

/// A tag begins with its version's number and one.
const TAG_SHIFT: u32 = 20;

/// What the tasks of a process share with the harness. Never locked at a point.
pub type Shared = Arc<Mutex<Model>>;

pub fn lock(shared: &Shared) -> MutexGuard<'_, Model> {
    match shared.try_lock() {
        Ok(model) => model,
        Err(TryLockError::Poisoned(error)) => error.into_inner(),
        Err(TryLockError::WouldBlock) => unreachable!("the model was locked at a point"),
    }
}

fn name(id: usize) -> String {
    format!("id-{id}")
}

/// The upper half of the first eight bytes of each content; the lower half is its write's number.
const MARK: u64 = 0x53C4_A1E7;

fn content(write: usize, len: usize) -> Vec<u8> {
    let mut content = (MARK << 32 | write as u64).to_le_bytes().to_vec();
    content.resize(8 + len, write as u8);
    content
}

/// The write whose content begins so.
fn value_of(content: &[u8]) -> usize {
    let value = content.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if value >> 32 == MARK { value as u32 as usize } else { usize::MAX }
}

fn embedding(write: usize, dimension: usize) -> Vec<f32> {
    (0..dimension).map(|n| (write * 31 + n) as f32 + 1.0).collect()
}

fn options(plan: &Plan, life: &Life, exists: bool) -> Options {
    let options = Options::new()
        .dimension(plan.dimension)
        .segment_size(plan.segment_bytes)
        .durability(if life.is_synced { Durability::Synced } else { Durability::Buffered })
        .flush_interval(life.flush_millis.map(Duration::from_millis))
        .compaction(if life.is_automatic { Compaction::Auto } else { Compaction::Manual })
        .time_to_live(life.lifetime.map(Duration::from_millis))
        .compaction_rate(life.compaction_rate)
        .recovery(match life.salvages && exists {
            true => Recovery::Salvage,
            false if life.is_strict => Recovery::Strict,
            false => Recovery::Tolerant,
        });
    options.verify(match life.verify {
        0 => Verify::FirstRead,
        1 => Verify::EveryRead,
        _ => Verify::Never,
    })
}

/// The process's main.
pub struct Process {
    pub plan: Arc<Plan>,
    pub life: usize,
    pub model: Shared,
    /// It salvages, or a life has begun to since the last opening that was shown.
    pub has_salvaged: bool,
    /// How the life before ended; none: there was none.
    pub before: Option<End>,
    /// An opening in an earlier life has returned.
    pub exists: bool,
    /// The judge has seen what this opening showed.
    pub is_shown: Arc<Mutex<bool>>,
}

impl Process {
    fn life(&self) -> &Life {
        &self.plan.lives[self.life]
    }

    pub fn run(self) {
        lock(&self.model).begin_process();
        let path = lock(&self.model).path;
        let store = match options(&self.plan, self.life(), self.exists).open(path) {
            Ok(store) => store,
            Err(error) => return self.judge_refusal(&error),
        };
        let task = Task { process: &self, store: &store };
        task.show(self.before.unwrap_or(End::Close));
        *self.is_shown.lock().unwrap_or_else(PoisonError::into_inner) = true;
        if self.before == Some(End::PowerLoss) {
            task.look_at_backups();
        }
        process::pause();
        let threads = &self.life().threads;
        thread::scope(|scope| {
            for operations in threads {
                let task = || Task { process: &self, store: &store };
                // Until there can be one more thread.
                while let Err(_refused) = thread::Builder::new().spawn_scoped(scope, {
                    let task = task();
                    move || operations.iter().for_each(|it| task.perform(*it))
                }) {}
            }
        });
        task.write_again();
        task.recount();
        let is_tidy = self.life().tidies && task.tidy();
        let stays = if is_tidy { task.what_stays() } else { None };
        let begun = lock(&self.model).tick();
        if self.life().ending == Ending::Drop {
            drop(store);
            // It ignores errors.
            if !self.has_failed_calls() {
                lock(&self.model).all_durable_before(begun);
            }
        } else if let Err(error) = store.close() {
            return self.judge_error("close", &error);
        } else {
            lock(&self.model).all_durable_before(begun);
        }
        if let Some(stays) = stays {
            self.judge_erasure(&stays);
        }
    }

    /// Returns whether there may be no further descriptor or mapping.
    fn has_few(&self) -> bool {
        let settings = &self.plan.settings;
        settings.open_files_max < 1024 || settings.mappings_max < MAPPINGS_MAX
    }

    /// Returns whether calls of the system may have failed in this life or an earlier one.
    fn has_failed_calls(&self) -> bool {
        self.plan.lives.iter().take(self.life + 1).any(Life::has_failing_calls)
    }

    /// An opening may be refused only because of a fault.
    fn judge_refusal(&self, error: &Error) {
        self.judge_error("open", error);
    }

    fn judge_error(&self, what: &str, error: &Error) {
        let faults = &self.life().faults;
        let settings = &self.plan.settings;
        let few = self.has_few();
        let limits = few || faults.no_descriptor > 0 || faults.no_mapping > 0;
        // What nobody was told when it failed is told a later process.
        let mut so_far = self.plan.lives.iter().take(self.life + 1);
        let late = so_far.any(|life| life.faults.write_back_fails > 0);
        let flush_fails = late || faults.flush_fails > 0;
        let mut model = lock(&self.model);
        let allowed = match error {
            // Of a limit or the device, too, where a write had to be appended again.
            Error::StorageFull => {
                faults.no_room > 0 || settings.disk_bytes < ROOMY || limits || flush_fails
            }
            Error::FlushFailed(_) => flush_fails,
            Error::ResourceLimit { .. } => limits,
            // Where nothing is verified, a damaged LSN may have been shown.
            Error::UnknownLsn(_) | Error::Corrupt { .. } => model.is_excused(),
            Error::Io { .. } => flush_fails || faults.no_thread > 0 || faults.read_fails > 0,
            _ => false,
        };
        if !allowed {
            model.complain(format!("{what}: {error:?}"));
        }
        // A backup flushes files of its own.
        if matches!(error, Error::FlushFailed(_)) && !["backup", "copy"].contains(&what) {
            model.flush_failed();
        }
    }
}

struct Task<'a> {
    process: &'a Process,
    store: &'a Store,
}

impl Task<'_> {
    fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.process.model)
    }

    /// Damage may show where nothing is verified.
    fn is_verified(&self) -> bool {
        !self.model().is_excused() || self.process.life().verify < 2
    }

    fn perform(&self, operation: Operation) {
        use Operation as Op;
        note(|| format!("{operation:?}"));
        count(operation.name());
        match operation {
            Op::Put { id, len } => {
                let lifetime = self.process.life().lifetime;
                self.put(id, len, (lifetime, TagOf::Write), |record, tag| record.tag(tag))
            }
            Op::PutKeepingTag { id, len } => {
                self.put(id, len, (None, TagOf::Predecessor), |record, _| {
                    record.keep_tag().never_expires()
                });
            }
            Op::PutExpiring { id, len, millis } => {
                self.put(id, len, (Some(millis), TagOf::Write), |record, tag| {
                    record.tag(tag).expires_in(Duration::from_millis(millis))
                })
            }
            Op::PutIf { id, len, condition } => self.put_if(id, len, condition),
            Op::Remove { id } => self.remove(id),
            Op::Batch { first, count, len } => self.batch(first, count, len),
            Op::Get { id } => self.get(id),
            Op::GetMany { first, count } => self.get_many(first, count),
            Op::GetOwned { id } => self.get_owned(id),
            Op::GetShared { id } => self.get_shared(id),
            Op::Contains { id } => self.contains(id),
            Op::UpdateTag { id } => self.update_tag(id),
            Op::Iterate => self.iterate(),
            Op::Search { count } => self.search(count),
            Op::Sync => self.sync(),
            Op::WaitDurable => self.wait_durable(),
            Op::Compact => self.compact(),
            Op::Backup => self.back_up(),
            Op::WaitAsync => self.wait_async(),
            Op::Hold { id, millis } => self.hold(id, millis),
            Op::ChangeDirectory { away } => {
                process::set_working_directory(if away { "/elsewhere" } else { "/" });
            }
            Op::MoveDirectory => {
                let (from, to) = self.model().move_directory();
                process::move_directory(from, to);
            }
            Op::Look { millis } => self.look(millis),
            Op::Verify { depth } => self.verify(depth),
            Op::Stats => self.stats(),
            Op::Sleep { millis } => thread::sleep(Duration::from_millis(millis)),
        }
    }

    fn check(&self, what: &str, done: Result<(), Error>) {
        if let Err(error) = done {
            self.process.judge_error(what, &error);
        }
    }

    fn sync(&self) {
        let begun = self.model().tick();
        match self.store.sync() {
            Ok(()) => self.model().all_durable_before(begun),
            Err(error) => self.process.judge_error("sync", &error),
        }
    }

    fn wait_durable(&self) {
        let last = self.model().last;
        match self.store.wait_durable(last) {
            Ok(()) => self.model().durable_up_to(last),
            Err(error) => self.process.judge_error("wait_durable", &error),
        }
    }

    /// A future that is polled by hand: its waker unparks this thread.
    fn wait_async(&self) {
        struct Unpark(thread::Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let last = self.model().last;
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut future = pin!(self.store.wait_durable_async(last));
        let done = loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(done) => break done,
                Poll::Pending => thread::park(),
            }
        };
        match done {
            Ok(()) => self.model().durable_up_to(last),
            Err(error) => self.process.judge_error("wait_durable_async", &error),
        }
    }
}
