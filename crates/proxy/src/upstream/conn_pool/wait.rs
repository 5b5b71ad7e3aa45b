//! Waiting for a connection, first come, first served.

use super::{ConnPool, PoolFailure, Resource, UpstreamConnection, shared::Place};
use std::{
    cell::RefCell,
    future::poll_fn,
    mem,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// A place in the queue of a pool.
#[derive(Default)]
pub(super) struct Slot(RefCell<State>);

#[derive(Default)]
enum State {
    #[default]
    Done,
    Waiting(Option<Waker>),
    Connected(Delivered),
    Failed(PoolFailure),
}

/// What those that wait are given.
pub(super) enum Delivered {
    /// A connection of its own.
    Own(Box<UpstreamConnection>),
    /// A place on one that others use, too.
    Shared(Place),
}

impl Slot {
    pub(super) fn deliver(&self, delivered: Delivered) {
        self.finish(State::Connected(delivered));
    }

    fn finish(&self, state: State) {
        if let State::Waiting(Some(waker)) = self.0.replace(state) {
            waker.wake();
        }
    }
}

/// One request that waits. Dropped, it leaves the queue.
pub(super) struct Waiting {
    pool: Rc<ConnPool>,
    slot: Rc<Slot>,
}

impl Waiting {
    /// A connection, or why there is none.
    pub(super) async fn wait(self) -> Result<Delivered, PoolFailure> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Delivered, PoolFailure>> {
        let mut state = self.slot.0.borrow_mut();
        match mem::take(&mut *state) {
            State::Waiting(_) => {
                *state = State::Waiting(Some(cx.waker().clone()));
                Poll::Pending
            }
            State::Connected(delivered) => Poll::Ready(Ok(delivered)),
            State::Failed(failure) => Poll::Ready(Err(failure)),
            State::Done => Poll::Pending,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        match self.slot.0.take() {
            State::Waiting(_) => {
                self.pool.waiting.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.slot));
                self.pool.left_queue();
                self.pool.stats().upstream_rq_cancelled.inc();
            }
            State::Connected(Delivered::Own(connection)) => self.pool.offer(connection),
            // A place is free when it is dropped.
            State::Connected(Delivered::Shared(_)) | State::Failed(_) | State::Done => {}
        }
    }
}

impl ConnPool {
    /// A place at the end of the queue. The circuit breaker has let it through already.
    pub(super) fn enqueue(self: &Rc<Self>) -> Waiting {
        let slot = Rc::new(Slot(RefCell::new(State::Waiting(None))));
        self.waiting.borrow_mut().push_back(Rc::clone(&slot));
        self.stats().upstream_rq_pending_total.inc();
        self.stats().upstream_rq_pending_active.inc();
        self.counters.rq_pending_active.inc();
        Waiting { pool: Rc::clone(self), slot }
    }

    /// One waits no longer.
    pub(super) fn left_queue(&self) {
        self.stats().upstream_rq_pending_active.dec();
        self.counters.rq_pending_active.dec();
        self.breaker().give(Resource::Pending);
    }

    /// Fails all that wait now.
    pub(super) fn fail_waiting(&self, failure: &PoolFailure) {
        let all = self.waiting.take();
        for slot in all {
            self.left_queue();
            self.stats().upstream_rq_pending_failure_eject.inc();
            slot.finish(State::Failed(failure.clone()));
        }
    }
}
