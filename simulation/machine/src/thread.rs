//! Threads, as in `std::thread`: each is a task.

use crate::machine::{Machine, calling, here};
use crate::scheduler::{Point, ProcessId, SLEEP, Scheduler, TaskId, end_of, park_of};
use crate::sync::unmodelled::{Arc, StdMutex};
use crate::time::nanoseconds;
use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

/// What a thread ended with.
pub type Result<T> = std::thread::Result<T>;

/// What is counted when a thread other than a process's first one panics.
pub const PANIC: &str = "panic of a thread";

type Packet<T> = Arc<StdMutex<Option<Result<T>>>>;

/// Adds a task to the machine.
pub(crate) fn start(
    machine: &Rc<Machine>,
    process: ProcessId,
    name: String,
    body: Box<dyn FnOnce()>,
) -> io::Result<TaskId> {
    let body = Box::new(move || {
        let done = catch_unwind(AssertUnwindSafe(body));
        let Some(machine) = here() else { return };
        let locals = machine.scheduler_mut().take_locals();
        drop(locals);
        machine.scheduler_mut().end_current(done.err().map(|panic| text_of(&*panic)));
    });
    machine.scheduler_mut().add(process, name, body)
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}

fn spawn_named<'a, T: 'a>(
    name: Option<String>,
    f: impl FnOnce() -> T + 'a,
) -> io::Result<(TaskId, Packet<T>)> {
    let machine = calling();
    machine.point(Point::Call("clone"));
    if machine.meets(machine.faults().no_thread, "no thread") {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let packet: Packet<T> = Arc::default();
    let its = Arc::clone(&packet);
    let body = move || {
        let done = catch_unwind(AssertUnwindSafe(f));
        if done.is_err()
            && let Some(machine) = here()
        {
            machine.count(PANIC);
        }
        *its.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(done);
    };
    let process = machine.scheduler().process();
    let name = name.unwrap_or_else(|| "helper".to_owned());
    let task = start(&machine, process, name, outlive(Box::new(body)))?;
    machine.point(Point::Call("clone"));
    Ok((task, packet))
}

/// Has the body of a thread pass for one that borrows nothing.
#[expect(unsafe_code, reason = "the machine keeps all tasks in one list")]
fn outlive<'a>(body: Box<dyn FnOnce() + 'a>) -> Box<dyn FnOnce()> {
    // SAFETY: what it borrows lives long enough: for `spawn` it is `'static`; `scope` returns only
    // after all threads of the scope have ended; and after a kill nothing of it runs any more,
    // while what it borrows is leaked with the stack that holds it.
    unsafe { std::mem::transmute::<Box<dyn FnOnce() + 'a>, Box<dyn FnOnce() + 'static>>(body) }
}

fn wait_for_end(task: TaskId) {
    let machine = calling();
    while !machine.scheduler().has_ended(task) {
        Scheduler::wait(&machine, end_of(task), None);
    }
}

fn result_of<T>(packet: &Packet<T>) -> Result<T> {
    let done = packet.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    done.unwrap_or_else(|| Err(Box::new("the thread left no result")))
}

/// A handle on a thread.
#[derive(Clone, Debug)]
pub struct Thread(TaskId);

/// Tells threads apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ThreadId(TaskId);

impl Thread {
    /// Its identity.
    #[must_use]
    pub fn id(&self) -> ThreadId {
        ThreadId(self.0)
    }

    /// Wakes it, or has its next park return at once.
    pub fn unpark(&self) {
        if let Some(machine) = here() {
            machine.scheduler_mut().unpark(self.0);
            machine.point(Point::Call("unpark"));
        }
    }
}

/// The right to wait for a thread.
#[derive(Debug)]
pub struct JoinHandle<T> {
    thread: Thread,
    packet: Packet<T>,
}

impl<T> JoinHandle<T> {
    /// The thread.
    #[must_use]
    pub fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Waits until it has ended.
    pub fn join(self) -> Result<T> {
        wait_for_end(self.thread.0);
        result_of(&self.packet)
    }
}

/// How to make a thread.
#[derive(Debug, Default)]
pub struct Builder {
    name: Option<String>,
}

impl Builder {
    /// A thread without a name.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names it.
    #[must_use]
    pub fn name(self, name: String) -> Self {
        Self { name: Some(name) }
    }

    /// Starts it.
    pub fn spawn<T: Send + 'static>(
        self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let (task, packet) = spawn_named(self.name, f)?;
        Ok(JoinHandle { thread: Thread(task), packet })
    }

    /// Starts it in a scope.
    pub fn spawn_scoped<'scope, 'env, T: Send + 'scope>(
        self,
        scope: &'scope Scope<'scope, 'env>,
        f: impl FnOnce() -> T + Send + 'scope,
    ) -> io::Result<ScopedJoinHandle<'scope, T>> {
        let (task, packet) = spawn_named(self.name, f)?;
        scope.threads.borrow_mut().push(task);
        let handle = JoinHandle { thread: Thread(task), packet };
        Ok(ScopedJoinHandle { handle, scope: PhantomData })
    }
}

/// Starts a thread.
///
/// # Panics
///
/// There can be no more.
pub fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[expect(clippy::expect_used, reason = "as std does")]
    Builder::new().spawn(f).expect("no thread could be made")
}

/// Threads that end before the scope does.
#[derive(Debug)]
pub struct Scope<'scope, 'env: 'scope> {
    threads: RefCell<Vec<TaskId>>,
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

impl<'scope, 'env> Scope<'scope, 'env> {
    /// Starts a thread.
    ///
    /// # Panics
    ///
    /// There can be no more.
    pub fn spawn<T: Send + 'scope>(
        &'scope self,
        f: impl FnOnce() -> T + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, T> {
        #[expect(clippy::expect_used, reason = "as std does")]
        Builder::new().spawn_scoped(self, f).expect("no thread could be made")
    }
}

/// The right to wait for a thread of a scope.
#[derive(Debug)]
pub struct ScopedJoinHandle<'scope, T> {
    handle: JoinHandle<T>,
    scope: PhantomData<&'scope ()>,
}

impl<T> ScopedJoinHandle<'_, T> {
    /// The thread.
    #[must_use]
    pub fn thread(&self) -> &Thread {
        self.handle.thread()
    }

    /// Waits until it has ended.
    pub fn join(self) -> Result<T> {
        self.handle.join()
    }
}

/// Calls `f` with a scope, and waits for all threads that it starts in it.
pub fn scope<'env, T>(f: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T) -> T {
    let scope = Scope { threads: RefCell::default(), scope: PhantomData, env: PhantomData };
    let done = catch_unwind(AssertUnwindSafe(|| f(&scope)));
    let threads = scope.threads.take();
    threads.into_iter().for_each(wait_for_end);
    done.unwrap_or_else(|panic| resume_unwind(panic))
}

/// The calling thread.
#[must_use]
pub fn current() -> Thread {
    Thread(here().and_then(|machine| machine.scheduler().current()).unwrap_or(usize::MAX))
}

/// Waits until it is unparked.
pub fn park() {
    park_until(None);
}

/// Waits until it is unparked, or for so long.
pub fn park_timeout(duration: Duration) {
    park_until(Some(duration));
}

fn park_until(duration: Option<Duration>) {
    let machine = calling();
    machine.point(Point::Call("park"));
    let taken = machine.scheduler_mut().take_token();
    let current = machine.scheduler().current();
    if let Some(task) = current.filter(|_| !taken) {
        let deadline = duration.map(|time| machine.now().saturating_add(nanoseconds(time)));
        Scheduler::wait(&machine, park_of(task), deadline);
        machine.scheduler_mut().take_token();
    }
}

/// Waits for so long.
pub fn sleep(duration: Duration) {
    let machine = calling();
    let deadline = machine.now().saturating_add(nanoseconds(duration));
    Scheduler::wait(&machine, SLEEP, Some(deadline));
}

/// Lets another thread run.
pub fn yield_now() {
    if let Some(machine) = here() {
        machine.point(Point::Yield);
    }
}

/// Returns how many threads run at once.
pub fn available_parallelism() -> io::Result<NonZeroUsize> {
    Ok(NonZeroUsize::MIN.saturating_add(1))
}

/// A value of each thread's own.
#[derive(Debug)]
pub struct LocalKey<T: 'static>(fn() -> T);

/// The thread has ended, or is none of a simulation.
#[derive(Clone, Copy, Debug)]
pub struct AccessError;

impl<T: 'static> LocalKey<T> {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(make: fn() -> T) -> Self {
        Self(make)
    }

    /// Calls `f` with this thread's value.
    pub fn try_with<R>(
        &'static self,
        f: impl FnOnce(&T) -> R,
    ) -> std::result::Result<R, AccessError> {
        let machine = here().ok_or(AccessError)?;
        let key = std::ptr::from_ref(self).addr();
        let found = machine.scheduler().local(key);
        let value = found.unwrap_or_else(|| {
            let made: Rc<dyn Any> = Rc::new((self.0)());
            machine.scheduler_mut().set_local(key, Rc::clone(&made));
            made
        });
        let value = value.downcast::<T>().map_err(|_other| AccessError)?;
        Ok(f(&value))
    }
}
