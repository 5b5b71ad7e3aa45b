//! Timers that cost next to nothing while they do not fire.
//!
//! A deadline that moves later (every request moves the idle timeout) is only noted. The queue is touched when a
//! deadline comes earlier than the place where its timer is queued, and when that place is reached: then the timer
//! fires, or is queued again at what its deadline has become. One task per worker sleeps until the first place.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::poll_fn,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Places of the queue are this far apart, in milliseconds: a timer fires so much late at most.
const GRAIN_MS: u64 = 2;
/// So many timers that nobody has are kept.
const KEPT_FREE: usize = 256;
/// Not set; not queued.
const NEVER: u64 = u64::MAX;

/// The queue of a worker's timers.
pub(crate) struct Timers {
    begin: Instant,
    /// When the task that runs was polled.
    now: Cell<Instant>,
    /// Milliseconds since `begin` -> timers.
    queue: RefCell<BTreeMap<u64, Vec<Weak<Entry>>>>,
    /// The driver sleeps until here.
    wakes_at: Cell<u64>,
    earlier: Notify,
    /// Those that nobody has, where they stand in the queue: the next that are asked for, as a stream is like the one before.
    free: RefCell<Vec<Rc<Entry>>>,
}

struct Entry {
    deadline: Cell<u64>,
    queued: Cell<u64>,
    fired: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Timers {
    pub(crate) fn new() -> Self {
        let begin = Instant::now();
        Self {
            begin,
            now: Cell::new(begin),
            queue: RefCell::default(),
            wakes_at: Cell::new(NEVER),
            earlier: Notify::new(),
            free: RefCell::default(),
        }
    }

    /// When the task that runs was polled.
    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    /// A task is polled: reads the clock.
    pub(crate) fn note_poll(&self) {
        self.now.set(Instant::now());
    }

    /// Fires timers for as long as the worker lives.
    pub(crate) async fn drive(self: Rc<Self>) {
        loop {
            let first = self.queue.borrow().first_key_value().map_or(NEVER, |(place, _)| *place);
            self.wakes_at.set(first);
            match self.begin.checked_add(Duration::from_millis(first)) {
                Some(until) if first != NEVER => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until.into()) => {}
                        () = self.earlier.notified() => {}
                    }
                }
                _ => self.earlier.notified().await,
            }
            self.note_poll();
            self.fire(self.millis(self.now()));
        }
    }

    fn fire(&self, now: u64) {
        loop {
            let due = match self.queue.borrow_mut().first_entry() {
                Some(place) if *place.key() <= now => place.remove(),
                _ => return,
            };
            for entry in due.iter().filter_map(Weak::upgrade) {
                entry.queued.set(NEVER);
                let deadline = entry.deadline.get();
                if deadline <= now {
                    entry.fired.set(true);
                    if let Some(waker) = entry.waker.take() {
                        waker.wake();
                    }
                } else if deadline != NEVER {
                    self.enqueue(&entry, deadline);
                }
            }
        }
    }

    fn enqueue(&self, entry: &Rc<Entry>, place: u64) {
        entry.queued.set(place);
        self.queue.borrow_mut().entry(place).or_default().push(Rc::downgrade(entry));
        if place < self.wakes_at.get() {
            self.earlier.notify_one();
        }
    }

    fn dequeue(&self, entry: &Rc<Entry>) {
        let place = entry.queued.replace(NEVER);
        if place == NEVER {
            return;
        }
        let mut queue = self.queue.borrow_mut();
        if let Some(timers) = queue.get_mut(&place) {
            timers.retain(|other| other.as_ptr() != Rc::as_ptr(entry));
            if timers.is_empty() {
                queue.remove(&place);
            }
        }
    }

    /// Milliseconds since the beginning, rounded down.
    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.begin).as_millis()).unwrap_or(NEVER - 1)
    }
}

/// A timer of one task.
pub struct Timer {
    entry: Rc<Entry>,
    timers: Rc<Timers>,
}

impl Timer {
    pub(crate) fn new(timers: &Rc<Timers>) -> Self {
        let free = timers.free.borrow_mut().pop();
        let new = || {
            Rc::new(Entry {
                deadline: Cell::new(NEVER),
                queued: Cell::new(NEVER),
                fired: Cell::new(false),
                waker: Cell::new(None),
            })
        };
        Self { entry: free.unwrap_or_else(new), timers: Rc::clone(timers) }
    }

    /// Sets, moves or (with `None`) stops the timer.
    pub fn set(&self, at: Option<Instant>) {
        let entry = &self.entry;
        entry.fired.set(false);
        let Some(at) = at else {
            entry.deadline.set(NEVER);
            return;
        };
        // One up, so that it never fires early.
        let place = (self.timers.millis(at) + 1).next_multiple_of(GRAIN_MS);
        entry.deadline.set(place);
        if place < entry.queued.get() {
            self.timers.dequeue(entry);
            self.timers.enqueue(entry, place);
        }
    }

    /// When the task that runs was polled.
    pub fn now(&self) -> Instant {
        self.timers.now()
    }

    /// Ready when the time that was set last is over.
    pub fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.entry.fired.get() {
            return Poll::Ready(());
        }
        let waker = match self.entry.waker.take() {
            Some(waker) if waker.will_wake(cx.waker()) => waker,
            _ => cx.waker().clone(),
        };
        self.entry.waker.set(Some(waker));
        Poll::Pending
    }

    /// Waits until the time that was set last is over.
    pub async fn expired(&self) {
        poll_fn(|cx| self.poll_expired(cx)).await;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.set(None);
        drop(self.entry.waker.take());
        let mut free = self.timers.free.borrow_mut();
        if free.len() < KEPT_FREE {
            free.push(Rc::clone(&self.entry));
        } else {
            drop(free);
            self.timers.dequeue(&self.entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::local::tests::on_worker;
    use std::{
        task::{Context, Waker},
        time::{Duration, Instant},
    };

    #[test]
    fn fires_at_what_was_set_last_and_never_early() {
        on_worker(|local| async move {
            let timer = local.timer();
            let start = Instant::now();
            timer.set(Some(start + Duration::from_millis(5)));
            timer.set(Some(start + Duration::from_millis(30)));
            timer.expired().await;
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(30) && took < Duration::from_millis(300), "{took:?}");
            timer.set(Some(Instant::now() + Duration::from_secs(3600)));
            timer.set(Some(Instant::now() + Duration::from_millis(10)));
            timer.expired().await;
            assert!(start.elapsed() >= Duration::from_millis(40));
        });
    }

    #[test]
    fn a_stopped_timer_does_not_fire_and_dropped_ones_do_not_fill_the_queue() {
        on_worker(|local| async move {
            let timer = local.timer();
            timer.set(Some(Instant::now() + Duration::from_millis(5)));
            timer.set(None);
            local.sleep(Duration::from_millis(20)).await;
            assert!(timer.poll_expired(&mut Context::from_waker(Waker::noop())).is_pending());
            for _ in 0..1000 {
                let timer = local.timer();
                timer.set(Some(Instant::now() + Duration::from_secs(3600)));
            }
            let queued = || timer.timers.queue.borrow().values().map(Vec::len).sum::<usize>();
            assert_eq!(queued(), 1, "the one timer has been used again and again");
            let set = |_| {
                let timer = local.timer();
                timer.set(Some(Instant::now() + Duration::from_secs(7200)));
                timer
            };
            drop((0..1000).map(set).collect::<Vec<_>>());
            assert_eq!(queued(), super::KEPT_FREE);
            let again = local.timer();
            again.set(Some(Instant::now() + Duration::from_millis(5)));
            again.expired().await;
        });
    }
}
