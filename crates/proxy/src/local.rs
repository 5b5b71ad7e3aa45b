//! What every part of the data plane uses on its worker: time, tasks and draining. Nothing here leaves its thread.

use crate::timer::{Timer, Timers};
use sota_config::overload::ActionKind;
use sota_plugin::LocalFuture;
use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// What all threads of the process share.
#[derive(Debug, Default)]
pub struct Process {
    /// The next connection's id.
    connections: AtomicU64,
    /// The next stream's id.
    streams: AtomicU64,
    /// Panics that were caught at a task's edge.
    pub panics: AtomicU64,
    /// Responses carry `connection: close`, idle connections end.
    draining: AtomicBool,
    /// `/healthcheck/fail`.
    health_check_failing: AtomicBool,
    /// Downstream connections that are open.
    open_connections: AtomicU64,
    /// So many may be; 0: no limit (runtime key `overload.global_downstream_max_connections`).
    max_connections: AtomicU64,
    /// How far the actions of the overload manager are taken, in parts of [`WHOLE`], by [`ActionKind`].
    overload: [AtomicU32; ActionKind::ALL.len()],
    /// In milliseconds.
    drain_time: AtomicU64,
    /// Requests that each worker's flight recorder keeps.
    recent_requests: AtomicUsize,
    place: OnceLock<Place>,
}

/// What an action of the overload manager is that is taken wholly.
const WHOLE: u32 = 1 << 20;

/// Where this proxy is among its equals.
#[derive(Debug, Default)]
pub struct Place {
    /// `cluster_manager.local_cluster_name`: their cluster; empty: there is none.
    pub local_cluster: Box<str>,
    /// `node.locality`: region, zone, sub-zone.
    pub locality: [String; 3],
}

impl Process {
    /// A number that no other connection of the process has.
    pub fn next_connection_id(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// A number that no other stream of the process has.
    pub fn next_stream_id(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the process is draining.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Begins (or, for an aborted drain, ends) draining. Workers are told by a command of their own.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// How long connections of a changed or removed filter chain may go on (`--drain-time-s`).
    pub fn drain_time(&self) -> Duration {
        Duration::from_millis(self.drain_time.load(Ordering::Relaxed))
    }

    /// Sets it.
    pub fn set_drain_time(&self, time: Duration) {
        self.drain_time.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How many requests each worker's flight recorder keeps; 0: none.
    pub fn recent_requests(&self) -> usize {
        self.recent_requests.load(Ordering::Relaxed)
    }

    /// Sets it, for workers that start later.
    pub fn set_recent_requests(&self, count: usize) {
        self.recent_requests.store(count, Ordering::Relaxed);
    }

    /// Where this proxy is among its equals, where that is known.
    pub fn place(&self) -> Option<&Place> {
        self.place.get()
    }

    /// Sets it, once, before workers start.
    pub fn set_place(&self, place: Place) {
        let _ = self.place.set(place);
    }

    /// Sets the limit of downstream connections; 0 is none.
    pub fn set_max_connections(&self, max: u64) {
        self.max_connections.store(max, Ordering::Relaxed);
    }

    /// Whether the limit of downstream connections allows another.
    pub fn has_room_for_connection(&self) -> bool {
        let max = self.max_connections.load(Ordering::Relaxed);
        max == 0 || self.open_connections.load(Ordering::Relaxed) < max
    }

    /// Says how far an action of the overload manager is taken from now on: 0 to 1.
    pub fn set_overload(&self, action: ActionKind, value: f64) {
        if let Some(place) = self.overload.get(action as usize) {
            place.store((value * f64::from(WHOLE)) as u32, Ordering::Relaxed);
        }
    }

    /// Whether an action of the overload manager is taken this time. While there is no overload this is one load.
    #[inline]
    pub fn is_overloaded(&self, action: ActionKind) -> bool {
        let value = self.overload.get(action as usize).map_or(0, |value| value.load(Ordering::Relaxed));
        value != 0 && (value >= WHOLE || fastrand::u32(..WHOLE) < value)
    }

    /// Whether an action of the overload manager is taken wholly.
    pub fn is_saturated(&self, action: ActionKind) -> bool {
        self.overload.get(action as usize).is_some_and(|value| value.load(Ordering::Relaxed) >= WHOLE)
    }

    /// Counts a downstream connection.
    pub fn connection_began(&self) {
        self.open_connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts its end.
    pub fn connection_ended(&self) {
        self.open_connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Downstream connections that are open.
    pub fn open_connections(&self) -> u64 {
        self.open_connections.load(Ordering::Relaxed)
    }

    /// Whether health checks are to fail.
    pub fn is_health_check_failing(&self) -> bool {
        self.health_check_failing.load(Ordering::Relaxed)
    }

    /// `/healthcheck/fail` and `/healthcheck/ok`.
    pub fn set_health_check_failing(&self, failing: bool) {
        self.health_check_failing.store(failing, Ordering::Relaxed);
    }
}

/// One worker's own part: shared by everything that runs on it as an `Rc`.
pub struct Local {
    /// Which worker this is, from 0.
    pub id: usize,
    /// What all threads share.
    pub process: Arc<Process>,
    /// The root of this worker's stats.
    pub stats: sota_plugin::stats::Scope,
    timers: Rc<Timers>,
    tasks: Cell<usize>,
}

impl Local {
    /// Must run on the worker's thread, within its runtime: it starts the task that drives the timers.
    pub fn new(id: usize, process: Arc<Process>, stats: sota_plugin::stats::Scope) -> Rc<Self> {
        let timers = Rc::new(Timers::new());
        tokio::task::spawn_local(Rc::clone(&timers).drive());
        Rc::new(Self { id, process, stats, timers, tasks: Cell::new(0) })
    }

    /// The parts of a worker that serves nothing: no timer of it ever expires.
    pub(crate) fn detached() -> Rc<Self> {
        let stats = sota_plugin::stats::Registry::new().shard();
        let (process, timers) = (Arc::default(), Rc::new(Timers::new()));
        Rc::new(Self { id: 0, process, stats, timers, tasks: Cell::new(0) })
    }

    /// When the task that runs was polled: the time without reading a clock. For tasks of [`Self::spawn`] only.
    pub fn now(&self) -> Instant {
        self.timers.now()
    }

    /// A timer that is not set.
    pub fn timer(&self) -> Timer {
        Timer::new(&self.timers)
    }

    /// Ready when so much time has passed.
    pub fn sleep(&self, time: Duration) -> impl Future<Output = ()> + use<> {
        let timer = self.timer();
        timer.set(Instant::now().checked_add(time));
        async move { timer.expired().await }
    }

    /// Counted tasks that run: connections, and what extensions want finished before the process ends.
    pub fn active_tasks(&self) -> usize {
        self.tasks.get()
    }

    /// Runs a task on this worker. A panic in it ends the task alone and is counted. `counted` tasks hold up draining.
    pub fn spawn(self: &Rc<Self>, counted: bool, task: impl Future<Output = ()> + 'static) {
        // In a place of its own: a future that awaits one that it was given has room for it twice.
        self.spawn_boxed(counted, Box::pin(task));
    }

    /// The same for a task that has its place already.
    pub fn spawn_boxed(self: &Rc<Self>, counted: bool, mut task: LocalFuture<()>) {
        let guard = self.guard(counted);
        tokio::task::spawn_local(async move {
            guard.local.clocked(task.as_mut()).await;
        });
    }

    /// Counts a task while it lives, and its panic: for a task that is not spawned here.
    pub(crate) fn guard(self: &Rc<Self>, counted: bool) -> TaskGuard {
        TaskGuard::new(self, counted)
    }

    /// Reads the clock for [`Self::now`] whenever `task` is polled.
    pub(crate) fn clocked<T>(&self, mut task: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> impl Future<Output = T> {
        poll_fn(move |cx| {
            self.timers.note_poll();
            task.as_mut().poll(cx)
        })
    }
}

/// Counts a task while it lives, and its panic.
pub(crate) struct TaskGuard {
    local: Rc<Local>,
    counted: bool,
}

impl TaskGuard {
    fn new(local: &Rc<Local>, counted: bool) -> Self {
        local.tasks.set(local.tasks.get() + usize::from(counted));
        Self { local: Rc::clone(local), counted }
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.local.tasks.set(self.local.tasks.get().saturating_sub(usize::from(self.counted)));
        // The runtime catches the panic; what it unwinds through is dropped on its way.
        if std::thread::panicking() {
            self.local.process.panics.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs a test on a worker of its own.
    pub(crate) fn on_worker<F: Future<Output = ()>>(test: impl FnOnce(Rc<Local>) -> F) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
        runtime.block_on(async {
            let local = Local::new(0, Arc::default(), sota_plugin::stats::Registry::new().shard());
            let mut task = Box::pin(test(Rc::clone(&local)));
            local.clocked(task.as_mut()).await;
        });
    }

    #[test]
    fn a_panic_ends_its_task_alone() {
        on_worker(|local| async move {
            local.spawn(true, async { panic!("expected by this test") });
            assert_eq!(local.active_tasks(), 1);
            local.sleep(Duration::from_millis(5)).await;
            assert_eq!(local.active_tasks(), 0);
            assert_eq!(local.process.panics.load(Ordering::Relaxed), 1);
        });
    }
}
