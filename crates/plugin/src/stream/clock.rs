//! Timeouts of a stream. They are lazy: it is only noted that something moved, and looked at when a sleep ends.

use crate::{LocalFuture, cx::WorkerCx};
use std::{
    cell::Cell,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// When the two directions of a stream have waited long enough.
pub(super) struct Clock {
    idle: Cell<Option<Duration>>,
    moved: Cell<Instant>,
    end: Cell<Option<Instant>>,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { idle: Cell::new(None), moved: Cell::new(Instant::now()), end: Cell::new(None) }
    }

    pub(super) fn set_idle(&self, timeout: Option<Duration>) {
        self.idle.set(timeout);
        self.moved.set(Instant::now());
    }

    pub(super) fn set_total(&self, timeout: Option<Duration>) {
        self.end.set(timeout.and_then(|timeout| Instant::now().checked_add(timeout)));
    }

    pub(super) fn note_moved(&self) {
        if self.idle.get().is_some() {
            self.moved.set(Instant::now());
        }
    }

    fn expires(&self) -> Option<Instant> {
        let idle = self.idle.get().and_then(|idle| self.moved.get().checked_add(idle));
        idle.into_iter().chain(self.end.get()).min()
    }
}

/// The wait of one direction.
#[derive(Default)]
pub(super) struct Wait(Option<(LocalFuture<()>, Instant)>);

impl Wait {
    /// Ready when the time is over.
    pub(super) fn poll_expired(&mut self, clock: &Clock, worker: &WorkerCx, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(at) = clock.expires() else { return Poll::Pending };
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Poll::Ready(());
            }
            // A sleep that ends earlier only looks again.
            if self.0.as_ref().is_none_or(|(_, until)| *until > at) {
                self.0 = Some((worker.sleep(left), at));
            }
            if let Some((sleep, _)) = &mut self.0 {
                ready!(sleep.as_mut().poll(cx));
                self.0 = None;
            }
        }
    }
}
