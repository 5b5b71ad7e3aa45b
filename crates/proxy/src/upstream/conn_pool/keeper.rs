//! Watching idle connections: those that the host closes go at once, those that nobody uses go after their time.
//!
//! One task per pool that has had idle connections. It runs when a socket says something or a deadline comes, and is
//! not touched by requests that take connections and give them back.

use super::{ConnPool, Idle, UpstreamConnection};
use crate::timer::Timer;
use std::{
    future::poll_fn,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::Instant,
};

impl ConnPool {
    /// Puts a connection among the idle ones.
    pub(super) fn keep(self: &Rc<Self>, connection: Box<UpstreamConnection>) {
        let keeper = self.keeper.borrow();
        if connection.is_stale(keeper.as_ref()) {
            drop(keeper);
            connection.closed_by_peer();
            return;
        }
        let idle = self.context.idle_timeout.and_then(|timeout| self.context.local.now().checked_add(timeout));
        let until = idle.into_iter().chain(connection.expires()).min();
        self.idle.borrow_mut().push(Idle { connection, until });
        match &*keeper {
            // It has gone to sleep for connections that had more time.
            Some(waker) if until.is_some_and(|until| self.wakes_at.get().is_none_or(|at| until < at)) => {
                waker.wake_by_ref();
            }
            Some(_) => {}
            None => {
                drop(keeper);
                self.keeper.replace(Some(Waker::noop().clone()));
                let timer = self.context.local.timer();
                self.context.local.spawn(false, watch(Rc::downgrade(self), timer));
            }
        }
    }

    pub(super) fn note_expired(&self, connection: &UpstreamConnection) {
        match connection.expires() {
            Some(at) if at <= self.context.local.now() => self.stats().upstream_cx_max_duration_reached.inc(),
            _ => self.stats().upstream_cx_idle_timeout.inc(),
        }
    }

    /// Closes what is closed already or has been idle for too long; the next deadline.
    fn sweep(&self, cx: &Context<'_>) -> Option<Instant> {
        let now = self.context.local.now();
        let gone: Vec<Idle> = self
            .idle
            .borrow_mut()
            .extract_if(.., |idle| {
                let stale = idle.connection.is_stale(Some(cx.waker()));
                if stale {
                    idle.connection.closed_by_peer();
                } else if idle.until.is_some_and(|until| until <= now) {
                    self.note_expired(&idle.connection);
                    return true;
                }
                stale
            })
            .collect();
        drop(gone);
        self.idle.borrow().iter().filter_map(|idle| idle.until).min()
    }
}

async fn watch(pool: Weak<ConnPool>, timer: Timer) {
    poll_fn(|cx| {
        let Some(pool) = pool.upgrade() else { return Poll::Ready(()) };
        let next = pool.sweep(cx);
        if pool.idle.borrow().is_empty() {
            // The next connection that becomes idle begins anew.
            *pool.keeper.borrow_mut() = None;
            return Poll::Ready(());
        }
        pool.keeper.replace(Some(cx.waker().clone()));
        pool.wakes_at.set(next);
        timer.set(next);
        let _ = timer.poll_expired(cx);
        Poll::Pending
    })
    .await;
}

impl Drop for ConnPool {
    fn drop(&mut self) {
        // The task sees that the pool is gone, and ends.
        if let Some(waker) = self.keeper.take() {
            waker.wake();
        }
    }
}
