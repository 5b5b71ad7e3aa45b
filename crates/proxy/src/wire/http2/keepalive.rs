//! Whether the peer is still there: PING at an interval.

use crate::timer::Timer;
use sota_config::http::Http2Keepalive;
use std::{cell::Cell, task::Context, time::Instant};

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping([u8; 8]),
    TimedOut,
}

/// The pings of a connection.
pub(super) struct Keepalive {
    options: Http2Keepalive,
    timer: Timer,
    /// The payload of the ping that has no answer yet.
    asked: Cell<Option<u64>>,
    next: Cell<u64>,
    last_received: Cell<Instant>,
}

impl Keepalive {
    pub(super) fn new(options: Http2Keepalive, timer: Timer, now: Instant) -> Self {
        let keepalive =
            Self { options, timer, asked: Cell::new(None), next: Cell::new(0), last_received: Cell::new(now) };
        keepalive.schedule(now);
        keepalive
    }

    fn schedule(&self, now: Instant) {
        let interval = self.options.interval.map(|interval| {
            let jitter = fastrand::f64() * self.options.jitter / 100.0;
            interval + interval.mul_f64(jitter.clamp(0.0, 1.0))
        });
        self.timer.set(interval.and_then(|interval| now.checked_add(interval)));
    }

    /// To be asked whenever the connection is polled; has the task woken when something is to be done.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Due {
        if self.timer.poll_expired(cx).is_pending() {
            return Due::Nothing;
        }
        if self.asked.get().is_some() {
            self.timer.set(None);
            return Due::TimedOut;
        }
        let due = Due::Ping(self.ask(Instant::now()));
        // Has the task woken at the timeout.
        let _ = self.timer.poll_expired(cx);
        due
    }

    fn ask(&self, now: Instant) -> [u8; 8] {
        let payload = self.next.get();
        self.next.set(payload.wrapping_add(1));
        self.asked.set(Some(payload));
        self.timer.set(now.checked_add(self.options.timeout));
        payload.to_be_bytes()
    }

    /// A connection is used again: the payload of a ping, if it was idle for so long that it is asked first.
    pub(super) fn reused(&self, now: Instant) -> Option<[u8; 8]> {
        let idle = now.saturating_duration_since(self.last_received.get());
        let is_due = self.options.idle_interval.is_some_and(|longest| idle > longest);
        (is_due && self.asked.get().is_none()).then(|| self.ask(now))
    }

    /// Something has arrived.
    pub(super) fn received(&self, now: Instant) {
        self.last_received.set(now);
    }

    /// An answer.
    pub(super) fn pong(&self, payload: [u8; 8], now: Instant) {
        if self.asked.get() == Some(u64::from_be_bytes(payload)) {
            self.asked.set(None);
            self.schedule(now);
        }
    }
}
