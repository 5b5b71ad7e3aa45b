//! All deadlines of one connection and of the stream that runs on it, over one timer.

use crate::timer::Timer;
use std::{
    cell::Cell,
    task::Context,
    time::{Duration, Instant},
};

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Deadline {
    /// No request on the connection.
    ConnectionIdle,
    /// The connection's age.
    ConnectionDuration,
    /// A connection that is told to end, but still takes a request.
    Drain,
    /// The head of a request arrives.
    RequestHeaders,
    /// A whole request arrives.
    Request,
    /// Something moves on the stream.
    StreamIdle,
    /// The stream's age.
    StreamDuration,
    /// The whole response, as the route says; counted from the end of the request.
    Route,
    /// One attempt at it.
    Try,
    /// Something comes from the upstream on an attempt.
    TryIdle,
    /// The pause before another attempt.
    BackOff,
    /// Entries of the access log while the stream lasts.
    LogFlush,
}

/// So many there are.
const COUNT: usize = 12;
const ALL: [Deadline; COUNT] = [
    Deadline::ConnectionIdle,
    Deadline::ConnectionDuration,
    Deadline::Drain,
    Deadline::RequestHeaders,
    Deadline::Request,
    Deadline::StreamIdle,
    Deadline::StreamDuration,
    Deadline::Route,
    Deadline::Try,
    Deadline::TryIdle,
    Deadline::BackOff,
    Deadline::LogFlush,
];
/// Those that belong to a connection rather than to a stream.
const CONNECTION: u16 =
    1 << Deadline::ConnectionIdle as u8 | 1 << Deadline::ConnectionDuration as u8 | 1 << Deadline::Drain as u8;

/// Deadlines. Moving one or taking it away costs no more than noting it, as long as it does not come before all others.
pub struct Deadlines {
    timer: Timer,
    /// When the timer ends: at the earliest deadline, or before it where that was moved or taken away.
    armed: Cell<Option<Instant>>,
    at: [Cell<Option<Instant>>; COUNT],
    expired: Cell<u16>,
}

impl Deadlines {
    /// None is set.
    pub fn new(timer: Timer) -> Self {
        Self { timer, armed: Cell::new(None), at: [const { Cell::new(None) }; COUNT], expired: Cell::new(0) }
    }

    /// Sets a deadline, or (`None`) takes it away.
    pub fn set(&self, which: Deadline, at: Option<Instant>) {
        self.expired.set(self.expired.get() & !(1 << which as u8));
        self.slot(which).set(at);
        if let Some(at) = at
            && self.armed.get().is_none_or(|armed| at < armed)
        {
            self.arm(Some(at));
        }
    }

    /// Sets a deadline `time` after `now`; `None` takes it away.
    pub fn set_after(&self, which: Deadline, now: Instant, time: Option<Duration>) {
        self.set(which, time.and_then(|time| now.checked_add(time)));
    }

    /// When the task that runs was polled.
    pub fn now(&self) -> Instant {
        self.timer.now()
    }

    fn arm(&self, at: Option<Instant>) {
        self.armed.set(at);
        self.timer.set(at);
    }

    /// Whether it is set.
    pub fn is_set(&self, which: Deadline) -> bool {
        self.slot(which).get().is_some()
    }

    /// When it is.
    pub fn at(&self, which: Deadline) -> Option<Instant> {
        self.slot(which).get()
    }

    /// Takes away all that belong to a stream.
    pub fn clear_stream(&self) {
        self.expired.set(self.expired.get() & CONNECTION);
        for which in ALL {
            if CONNECTION & (1 << which as u8) == 0 {
                self.slot(which).set(None);
            }
        }
    }

    /// Notes which deadlines have passed, and has the task woken at the next. To be called whenever the task is polled.
    pub fn refresh(&self, cx: &mut Context<'_>) {
        while self.timer.poll_expired(cx).is_ready() {
            let now = Instant::now();
            for which in ALL {
                if self.slot(which).get().is_some_and(|at| at <= now) {
                    self.slot(which).set(None);
                    self.expired.set(self.expired.get() | 1 << which as u8);
                }
            }
            self.arm(self.earliest());
        }
    }

    /// Whether one has passed that was not told yet.
    pub fn any_expired(&self) -> bool {
        self.expired.get() != 0
    }

    /// Whether it has passed. Told once.
    pub fn take_expired(&self, which: Deadline) -> bool {
        let bit = 1 << which as u8;
        let expired = self.expired.get();
        self.expired.set(expired & !bit);
        expired & bit != 0
    }

    fn earliest(&self) -> Option<Instant> {
        self.at.iter().filter_map(Cell::get).min()
    }

    fn slot(&self, which: Deadline) -> &Cell<Option<Instant>> {
        &self.at[which as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::tests::on_worker;
    use std::{future::poll_fn, task::Poll};

    #[test]
    fn each_deadline_is_told_once_and_in_its_time() {
        on_worker(|local| async move {
            let deadlines = Deadlines::new(local.timer());
            let start = Instant::now();
            let ms = |n| Some(Duration::from_millis(n));
            deadlines.set_after(Deadline::StreamIdle, start, ms(40));
            deadlines.set_after(Deadline::Route, start, ms(10));
            deadlines.set_after(Deadline::Try, start, ms(5));
            deadlines.set(Deadline::Try, None);
            let mut told = Vec::new();
            poll_fn(|cx| {
                deadlines.refresh(cx);
                for which in ALL {
                    if deadlines.take_expired(which) {
                        told.push((which, start.elapsed()));
                    }
                }
                if told.len() == 2 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            assert_eq!((told[0].0, told[1].0), (Deadline::Route, Deadline::StreamIdle));
            assert!(told[0].1 >= Duration::from_millis(10) && told[1].1 >= Duration::from_millis(40), "{told:?}");
            assert!(!deadlines.is_set(Deadline::Route));
        });
    }

    #[test]
    fn a_stream_leaves_those_of_its_connection() {
        on_worker(|local| async move {
            let deadlines = Deadlines::new(local.timer());
            for which in ALL {
                deadlines.set_after(which, Instant::now(), Some(Duration::from_secs(60)));
            }
            deadlines.clear_stream();
            let left: Vec<_> = ALL.into_iter().filter(|which| deadlines.is_set(*which)).collect();
            assert_eq!(left, [Deadline::ConnectionIdle, Deadline::ConnectionDuration, Deadline::Drain]);
        });
    }
}
