//! Timeouts of a stream. They are lazy: it is only noted that something moved, and looked at when a sleep ends.

use crate::{LocalFuture, cx::WorkerCx};
use std::{
    cell::Cell,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// When the two directions of a stream have waited long enough; nothing without timeouts.
#[derive(Default)]
pub(super) struct Clock(Cell<Option<Box<Times>>>);

#[derive(Clone, Copy)]
struct Times {
    idle: Option<Duration>,
    moved: Instant,
    end: Option<Instant>,
}

impl Clock {
    pub(super) fn set_idle(&self, timeout: Option<Duration>) {
        let old = self.times();
        self.set(Times { idle: timeout, moved: Instant::now(), end: old.and_then(|old| old.end) });
    }

    pub(super) fn set_total(&self, timeout: Option<Duration>) {
        let (now, old) = (Instant::now(), self.times());
        let end = timeout.and_then(|timeout| now.checked_add(timeout));
        self.set(Times { end, ..old.unwrap_or(Times { idle: None, moved: now, end }) });
    }

    pub(super) fn note_moved(&self) {
        if let Some(times) = self.times().filter(|times| times.idle.is_some()) {
            self.set(Times { moved: Instant::now(), ..times });
        }
    }

    fn expires(&self) -> Option<Instant> {
        let times = self.times()?;
        let idle = times.idle.and_then(|idle| times.moved.checked_add(idle));
        idle.into_iter().chain(times.end).min()
    }

    fn times(&self) -> Option<Times> {
        let times = self.0.take();
        let copy = times.as_deref().copied();
        self.0.set(times);
        copy
    }

    fn set(&self, times: Times) {
        let place = self.0.take();
        self.0.set(Some(match place {
            Some(mut place) => {
                *place = times;
                place
            }
            None => Box::new(times),
        }));
    }
}

/// The wait of one direction.
#[derive(Default)]
pub(super) struct Wait(Option<Box<(LocalFuture<()>, Instant)>>);

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
            if self.0.as_ref().is_none_or(|wait| wait.1 > at) {
                self.0 = Some(Box::new((worker.sleep(left), at)));
            }
            if let Some(wait) = &mut self.0 {
                ready!(wait.0.as_mut().poll(cx));
                self.0 = None;
            }
        }
    }
}
