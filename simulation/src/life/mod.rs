//! One process: it opens the store, shows everything to the judge, and runs the workload.

mod backup;
mod checks;

use crate::model::{Answer, End, Fate, Model, TagOf, WriteId, fate_of};
use crate::plan::{Ending, Life, Operation, Plan, ROOMY};
use simulated_machine::time::Instant;
use simulated_machine::{note, process, thread};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use stratalog::{
    Batch, Compaction, Condition, Durability, Error, Lsn, Metric, NewRecord, Options, Pinned,
    Record, Recovery, Store, Verify,
};

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

fn content(write: usize, len: usize) -> Vec<u8> {
    let mut content = (write as u64).to_le_bytes().to_vec();
    content.resize(8 + len, write as u8);
    content
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
        .recovery(if life.salvages && exists { Recovery::Salvage } else { Recovery::Tolerant });
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
        let path = lock(&self.model).path;
        let store = match options(&self.plan, self.life(), self.exists).open(path) {
            Ok(store) => store,
            Err(error) => return self.judge_refusal(&error),
        };
        let task = Task { process: &self, store: &store };
        task.show(self.before.unwrap_or(End::Close));
        *self.is_shown.lock().unwrap_or_else(PoisonError::into_inner) = true;
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
        task.recount();
        if self.life().tidies {
            task.tidy();
        }
        let begun = lock(&self.model).tick();
        if self.life().ending == Ending::Drop {
            drop(store);
        } else if let Err(error) = store.close() {
            self.judge_error("close", &error);
        } else {
            lock(&self.model).all_durable_before(begun);
        }
    }

    /// An opening may be refused only because of a fault.
    fn judge_refusal(&self, error: &Error) {
        self.judge_error("open", error);
    }

    fn judge_error(&self, what: &str, error: &Error) {
        let faults = &self.life().faults;
        let small = self.plan.settings.disk_bytes < ROOMY;
        let few = self.plan.settings.open_files_max < 1024;
        let damaged = lock(&self.model).is_damaged;
        let allowed = match error {
            // Of a limit, too, where a write had to be appended again.
            Error::StorageFull => self.life().has_failing_calls() || small || few,
            Error::FlushFailed(_) => faults.flush_fails > 0,
            Error::ResourceLimit { .. } => few || faults.no_descriptor > 0 || faults.no_mapping > 0,
            // Where nothing is verified, a damaged LSN may have been shown.
            Error::UnknownLsn(_) => damaged,
            Error::Corrupt { .. } => damaged,
            Error::Io { .. } => {
                faults.flush_fails > 0
                    || faults.no_descriptor > 0
                    || faults.no_thread > 0
                    || faults.read_fails > 0
            }
            _ => false,
        };
        if !allowed {
            lock(&self.model).complain(format!("{what}: {error:?}"));
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
        !self.model().is_damaged || self.process.life().verify < 2
    }

    /// The write that a record comes from, once everything in it is as that has put it.
    fn answer_of(&self, record: &Record<'_>) -> Answer {
        let tags = self.model().tags();
        let tag = record.tag();
        let answer = self.answer_since((record, tag), &tags);
        if let Answer::Write(value, _) = answer {
            self.model().note_tag(value, tag);
        }
        answer
    }

    /// The same, for a tag that was read after tags were so.
    fn answer_since(&self, (record, tag): (&Record<'_>, u64), tags: &[u64]) -> Answer {
        let bytes = record.content();
        let value = bytes.first_chunk().map_or(usize::MAX, |b| u64::from_le_bytes(*b) as usize);
        let is_verified = self.is_verified();
        let mut model = self.model();
        if let Some(len) = model.writes.get(value).map(|write| write.len)
            && is_verified
            && (bytes != content(value, len)
                || record.embedding() != embedding(value, self.process.plan.dimension))
        {
            model.complain(format!("the bytes of write {value} are others than were put"));
        }
        if is_verified && !model.is_damaged {
            let begins = tag >> TAG_SHIFT;
            let holds = model.writes.get(value).is_none_or(|write| match write.tag {
                // No checksum holds it: of a unit that was half written it may be the other half.
                TagOf::Write => {
                    begins == value as u64 + 1 || tag == 0 && self.process.plan.settings.torn_units
                }
                TagOf::Nothing => begins == 0,
                TagOf::Predecessor => true,
            });
            let was = tags.get(value).copied().unwrap_or(0);
            let is_older = tag < was && model.writes[value].tag == TagOf::Write;
            if !holds || is_older {
                model.complain(format!("write {value} has tag {tag:#x}, it was {was:#x}"));
            }
        }
        Answer::Write(value, record.lsn())
    }

    fn read(&self, pinned: &Pinned<'_>, id: usize) -> Option<Answer> {
        match pinned.get(name(id)) {
            Ok(Some(record)) => Some(self.answer_of(&record)),
            Ok(None) => Some(Answer::Nothing),
            Err(error) => {
                self.process.judge_error("get", &error);
                None
            }
        }
    }

    fn perform(&self, operation: Operation) {
        use Operation as Op;
        note(|| format!("{operation:?}"));
        match operation {
            Op::Put { id, len } => {
                self.put(id, len, (None, TagOf::Write), |record, tag| record.tag(tag))
            }
            Op::PutKeepingTag { id, len } => {
                self.put(id, len, (None, TagOf::Predecessor), |record, _| record.keep_tag());
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
            Op::Verify => self.verify(),
            Op::Stats => self.stats(),
            Op::Sleep { millis } => thread::sleep(Duration::from_millis(millis)),
        }
    }

    fn check(&self, what: &str, done: Result<(), Error>) {
        if let Err(error) = done {
            self.process.judge_error(what, &error);
        }
    }

    fn end_write(&self, what: &str, write: usize, done: Result<Lsn, Error>) {
        match done {
            Ok(lsn) => self.model().end(write, lsn, self.process.life().is_synced),
            Err(error) => {
                self.model().end_without(write, fate_of(&error));
                self.process.judge_error(what, &error);
            }
        }
    }

    fn put(
        &self,
        id: usize,
        len: usize,
        (expires, tag_of): (Option<u64>, TagOf),
        with: impl for<'r> FnOnce(NewRecord<'r>, u64) -> NewRecord<'r>,
    ) {
        let write = self.model().begin(id, false, len, None);
        let (name, content) = (name(id), content(write, len));
        let embedding = embedding(write, self.process.plan.dimension);
        let tag = (write as u64 + 1) << TAG_SHIFT;
        let record = with(NewRecord::new(&name, &embedding, &content), tag);
        {
            let mut model = self.model();
            model.writes[write].expires = expires.is_some();
            let millis = Duration::from_millis(expires.unwrap_or(0));
            model.writes[write].expires_at = Instant::now().checked_add(millis);
            model.writes[write].tag = tag_of;
        }
        let done = self.store.put_record(record);
        if let Some(millis) = expires {
            let expired_at = Instant::now().checked_add(Duration::from_millis(millis));
            self.model().writes[write].expired_at = expired_at;
        }
        self.end_write("put", write, done);
    }

    fn put_if(&self, id: usize, len: usize, condition: u8) {
        let name = name(id);
        let current = || match self.store.pin().get(&name) {
            Ok(Some(record)) => Some(record.lsn()),
            _ => None,
        };
        let condition = match condition {
            0 => Condition::Absent,
            1 => Condition::Present,
            _ => Condition::Lsn(current().unwrap_or(Lsn::from_u64(1))),
        };
        let (write, begun) = {
            let mut model = self.model();
            let write = model.begin(id, false, len, None);
            model.writes[write].is_conditional = true;
            (write, model.tick())
        };
        let embedding = embedding(write, self.process.plan.dimension);
        let done = self.store.put_if(&name, &embedding, content(write, len), condition);
        match done {
            Err(Error::ConditionFailed { current }) => {
                let mut model = self.model();
                model.end_without(write, Fate::Never);
                model.judge_condition(id, begun, condition, current);
            }
            done => self.end_write("put_if", write, done),
        }
    }

    fn remove(&self, id: usize) {
        let (write, begun) = {
            let mut model = self.model();
            (model.begin(id, true, 0, None), model.tick())
        };
        match self.store.remove(name(id)) {
            Ok(Some(lsn)) => self.end_write("remove", write, Ok(lsn)),
            Ok(None) => {
                let mut model = self.model();
                model.end_without(write, Fate::Never);
                model.end_read(id, begun, Answer::Nothing);
            }
            Err(error) => self.end_write("remove", write, Err(error)),
        }
    }

    fn batch(&self, first: usize, count: usize, len: usize) {
        let (ids, mut batch) = (self.process.plan.ids, Batch::new());
        let members: Vec<_> = {
            let mut model = self.model();
            let number = model.new_batch();
            // Steps of two, so that ids repeat when there are few.
            let member = |n: usize| {
                let is_removal = n % 3 == 2;
                (model.begin((first + n * 2) % ids, is_removal, len, Some(number)), is_removal)
            };
            (0..count).map(member).collect()
        };
        // Only the last write of each id is made.
        let id_of = |n: usize| self.model().writes[members[n].0].id;
        let is_last = |n: &usize| (n + 1..members.len()).all(|later| id_of(later) != id_of(*n));
        let (made, superseded): (Vec<_>, Vec<_>) = (0..members.len()).partition(is_last);
        for n in superseded {
            self.model().end_without(members[n].0, Fate::Never);
        }
        for (write, is_removal) in &members {
            let id = self.model().writes[*write].id;
            if *is_removal {
                batch.remove(name(id));
            } else {
                let embedding = embedding(*write, self.process.plan.dimension);
                batch.put(name(id), &embedding, content(*write, len));
            }
        }
        let done = self.store.write(batch);
        let mut model = self.model();
        match done {
            Ok(last) => {
                for n in made {
                    model.end_below(members[n].0, last, self.process.life().is_synced);
                }
            }
            Err(error) => {
                for n in made {
                    model.end_without(members[n].0, fate_of(&error));
                }
                drop(model);
                self.process.judge_error("batch", &error);
            }
        }
    }

    /// A read waits for nobody, whoever is stopped.
    fn get(&self, id: usize) {
        let begun = self.model().tick();
        let waited = process::waits();
        let answer = self.read(&self.store.pin(), id);
        if process::waits() > waited {
            self.model().complain(format!("a get of id {id} has waited"));
        }
        if let Some(answer) = answer {
            self.model().end_read(id, begun, answer);
        }
    }

    fn get_shared(&self, id: usize) {
        let begun = self.model().tick();
        match self.store.get_shared(name(id)) {
            Ok(Some(shared)) => {
                // It stays as it is, whatever happens meanwhile.
                let before = shared.content().to_vec();
                thread::sleep(Duration::from_millis(1));
                if shared.content() != before && !self.model().is_damaged {
                    self.model().complain(format!("a shared record of id {id} has changed"));
                }
                let value = before.first_chunk().map_or(0, |b| u64::from_le_bytes(*b) as usize);
                self.model().end_read(id, begun, Answer::Write(value, shared.lsn()));
            }
            Ok(None) => self.model().end_read(id, begun, Answer::Nothing),
            Err(error) => self.process.judge_error("get_shared", &error),
        }
    }

    fn contains(&self, id: usize) {
        let begun = self.model().tick();
        if !self.store.contains(name(id)) {
            self.model().end_read(id, begun, Answer::Nothing);
        }
    }

    fn update_tag(&self, id: usize) {
        let begun = self.model().tick();
        match self.store.update_tag(name(id), |tag| tag + 1) {
            Ok(Some(tag)) => {
                let write = (tag >> TAG_SHIFT).checked_sub(1);
                write.inspect(|write| self.model().note_tag(*write as WriteId, tag));
            }
            Ok(None) => self.model().end_read(id, begun, Answer::Nothing),
            Err(error) => self.process.judge_error("update_tag", &error),
        }
    }

    /// An id that is there all the time is met once.
    fn iterate(&self) {
        let begun = self.model().tick();
        let pinned = self.store.pin();
        let mut answers = Vec::new();
        for record in pinned.iter() {
            match record {
                Ok(record) => answers.push(self.answer_of(&record)),
                Err(error) => return self.process.judge_error("iter", &error),
            }
        }
        self.judge_all("iter", begun, &answers);
    }

    /// Judges the answers of a walk over all records.
    fn judge_all(&self, what: &str, begun: u64, answers: &[Answer]) {
        let is_verified = self.is_verified();
        let seen = self.judge_some(begun, answers);
        let mut model = self.model();
        for (id, times) in seen.into_iter().enumerate() {
            if times == 0 {
                model.end_read(id, begun, Answer::Nothing);
            } else if times > 1 && is_verified {
                model.complain(format!("{what} shows id {id} twice"));
            }
        }
    }

    /// Judges answers each for itself. How often each id is among them.
    fn judge_some(&self, begun: u64, answers: &[Answer]) -> Vec<u32> {
        let mut seen = vec![0; self.process.plan.ids];
        let mut model = self.model();
        for answer in answers {
            if let Answer::Write(write, _) = *answer
                && let Some(id) = model.writes.get(write).map(|write| write.id)
            {
                seen[id] += 1;
                model.end_read(id, begun, *answer);
            }
        }
        seen
    }

    fn search(&self, count: usize) {
        let begun = self.model().tick();
        let pinned = self.store.pin();
        let query = vec![1.0; self.process.plan.dimension];
        match pinned.search(&query, count, Metric::L2) {
            Ok(hits) => {
                let answers: Vec<_> = hits.iter().map(|hit| self.answer_of(&hit.record)).collect();
                if answers.len() < count {
                    self.judge_all("search", begun, &answers);
                } else {
                    self.judge_some(begun, &answers);
                }
            }
            Err(error) => self.process.judge_error("search", &error),
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
            Ok(()) => {
                note(|| format!("durable up to {last}"));
                self.model().durable_up_to(last);
            }
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

    /// A record stays as it is under a pin, whatever becomes of its id.
    fn hold(&self, id: usize, millis: u64) {
        let pinned = self.store.pin();
        if let Ok(Some(record)) = pinned.get(name(id)) {
            let before = record.to_owned();
            thread::sleep(Duration::from_millis(millis));
            let same = record.content() == before.content && record.embedding() == before.embedding;
            let same = same && record.id() == before.id && record.lsn() == before.lsn;
            if !same && !self.model().is_damaged {
                self.model().complain(format!("a record of id {id} has changed under a pin"));
            }
        }
    }
}
