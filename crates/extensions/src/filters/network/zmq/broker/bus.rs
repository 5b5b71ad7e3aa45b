//! How publications of clients get to subscribers on other workers: a bounded inbox for each worker, filled by the
//! others. Nothing else is shared.

use sota_codec::zmtp::Message;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use super::super::outbox::{Watermark, register};

/// All inboxes.
#[derive(Debug, Default)]
pub(in super::super) struct Bus(Mutex<Vec<Arc<Inbox>>>);

/// What other workers have for this one.
#[derive(Debug)]
pub(super) struct Inbox {
    limit: Watermark,
    /// Whether this worker has subscribers at all.
    is_open: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
    reader: Option<Waker>,
    is_closed: bool,
}

impl Bus {
    fn inboxes(&self) -> MutexGuard<'_, Vec<Arc<Inbox>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inbox of one more worker.
    pub(super) fn join(&self, limit: Watermark) -> Arc<Inbox> {
        let inbox = Arc::new(Inbox { limit, is_open: AtomicBool::new(false), state: Mutex::default() });
        self.inboxes().push(Arc::clone(&inbox));
        inbox
    }

    /// The worker is gone.
    pub(super) fn leave(&self, inbox: &Arc<Inbox>) {
        self.inboxes().retain(|other| !Arc::ptr_eq(other, inbox));
        let mut state = inbox.state();
        state.is_closed = true;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Gives a publication to all workers but that of `from`. How many had no room for it.
    pub(super) fn publish(&self, message: &Arc<Message>, from: &Arc<Inbox>) -> u64 {
        let inboxes = self.inboxes();
        let others = inboxes.iter().filter(|inbox| !Arc::ptr_eq(inbox, from));
        others.map(|inbox| u64::from(!inbox.push(message))).sum()
    }
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody here wants publications.
    pub(super) fn set_open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Release);
    }

    /// Whether it has room, or wants nothing.
    fn push(&self, message: &Arc<Message>) -> bool {
        if !self.is_open.load(Ordering::Acquire) {
            return true;
        }
        let mut state = self.state();
        let bytes = message.payload_bytes();
        let has_room =
            state.messages.is_empty() || state.messages.len() < self.limit.messages && state.bytes < self.limit.bytes;
        if !has_room {
            return false;
        }
        state.bytes += bytes;
        state.messages.push_back(Arc::clone(message));
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }

    /// What has come; `None`: this worker has left.
    pub(super) fn poll_take(&self, cx: &Context<'_>) -> Poll<Option<VecDeque<Arc<Message>>>> {
        let mut state = self.state();
        if state.is_closed {
            return Poll::Ready(None);
        }
        if state.messages.is_empty() {
            register(&mut state.reader, cx);
            return Poll::Pending;
        }
        state.bytes = 0;
        Poll::Ready(Some(std::mem::take(&mut state.messages)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publications_reach_the_others() {
        let bus = Bus::default();
        let limit = Watermark { messages: 2, bytes: 100 };
        let [one, other] = [(); 2].map(|()| bus.join(limit));
        let message = Arc::new([&b"x"[..]].into_iter().collect());
        let cx = &Context::from_waker(Waker::noop());
        assert_eq!(bus.publish(&message, &one), 0, "nobody listens");
        assert!(other.poll_take(cx).is_pending());
        other.set_open(true);
        assert_eq!((0..3).map(|_| bus.publish(&message, &one)).sum::<u64>(), 1);
        assert!(matches!(other.poll_take(cx), Poll::Ready(Some(messages)) if messages.len() == 2));
        assert!(one.poll_take(cx).is_pending());
        bus.leave(&other);
        assert!(matches!(other.poll_take(cx), Poll::Ready(None)));
        assert_eq!(bus.inboxes().len(), 1);
    }
}
