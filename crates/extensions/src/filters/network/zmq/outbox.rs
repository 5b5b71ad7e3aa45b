//! What waits to be sent on one connection: a queue of messages with a high watermark.

use sota_codec::zmtp::Message;
use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

/// A queue that was longer than this gives its memory back when it is empty.
const KEPT: usize = 32;

/// The high watermark of a queue: what is full takes no more, and who fills it waits (or drops, where it publishes).
#[derive(Debug, Clone, Copy)]
pub(super) struct Watermark {
    /// Messages.
    pub(super) messages: usize,
    /// Octets of payload. A message that is larger goes through alone.
    pub(super) bytes: usize,
}

/// An address on a message that goes to a worker: it comes back in front of the answer.
pub(super) type Hop = [u8; 8];

/// Something to be sent.
#[derive(Debug, Clone)]
pub(super) enum Outgoing {
    /// A message, with a frame in front or without its first frames.
    Message {
        /// A frame to be sent first.
        hop: Option<Hop>,
        /// Frames of the message that are not sent.
        skip: usize,
        /// The message.
        message: Arc<Message>,
    },
    /// To a publisher: what begins with this is wanted.
    Subscribe(Arc<[u8]>),
    /// To a publisher: one subscription is taken back.
    Cancel(Arc<[u8]>),
    /// Nothing more: the connection is to be closed, for this reason.
    Close(&'static str),
}

impl Outgoing {
    /// A message as it is.
    pub(super) fn whole(message: Arc<Message>) -> Self {
        Self::Message { hop: None, skip: 0, message }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Message { message, .. } => message.payload_bytes(),
            Self::Subscribe(topic) | Self::Cancel(topic) => topic.len(),
            Self::Close(_) => 0,
        }
    }
}

/// The queue of a connection. Who fills it and who empties it are tasks of one worker.
#[derive(Debug)]
pub(super) struct Outbox {
    limit: Watermark,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Outgoing>,
    bytes: usize,
    /// The connection's task, while the queue is empty.
    reader: Option<Waker>,
    /// Those who wait for room.
    writers: Vec<Waker>,
    closed: bool,
}

impl Outbox {
    /// An empty queue.
    pub(super) fn new(limit: Watermark) -> Self {
        Self { limit, state: RefCell::default() }
    }

    /// Whether a further message may be added. Any number of subscriptions may: the peers' limits bound them.
    pub(super) fn has_room(&self) -> bool {
        let state = self.state.borrow();
        !state.closed && state.has_room(self.limit)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.state.borrow().queue.is_empty()
    }

    /// Adds something at the end. Whoever adds messages asks for room before.
    pub(super) fn push(&self, outgoing: Outgoing) {
        let mut state = self.state.borrow_mut();
        if state.closed {
            return;
        }
        state.bytes += outgoing.bytes();
        state.queue.push_back(outgoing);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The next to be sent; registers the task if there is none.
    pub(super) fn poll_pop(&self, cx: &Context<'_>) -> Poll<Outgoing> {
        let mut state = self.state.borrow_mut();
        let Some(outgoing) = state.queue.pop_front() else {
            if state.queue.capacity() > KEPT {
                state.queue = VecDeque::new();
            }
            register(&mut state.reader, cx);
            return Poll::Pending;
        };
        state.bytes -= outgoing.bytes();
        let woken = if state.has_room(self.limit) { std::mem::take(&mut state.writers) } else { Vec::new() };
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        Poll::Ready(outgoing)
    }

    /// Ready once there is room, or nobody empties the queue any more.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.closed || state.has_room(self.limit) {
            return Poll::Ready(());
        }
        add(&mut state.writers, cx);
        Poll::Pending
    }

    /// How many wait, and takes them out.
    #[cfg(test)]
    pub(super) fn drain_for_test(&self) -> usize {
        let mut state = self.state.borrow_mut();
        state.bytes = 0;
        std::mem::take(&mut state.queue).len()
    }

    /// The connection is gone: gives what was not sent, and takes nothing any more.
    pub(super) fn close(&self) -> VecDeque<Outgoing> {
        let mut state = self.state.borrow_mut();
        state.closed = true;
        state.bytes = 0;
        let (left, writers) = (std::mem::take(&mut state.queue), std::mem::take(&mut state.writers));
        let reader = state.reader.take();
        drop(state);
        writers.into_iter().chain(reader).for_each(Waker::wake);
        left
    }
}

impl State {
    fn has_room(&self, limit: Watermark) -> bool {
        self.queue.is_empty() || self.queue.len() < limit.messages && self.bytes < limit.bytes
    }
}

/// Remembers the task, unless it is there already.
pub(super) fn register(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

/// Adds the task to those that wait, unless it is there already.
pub(super) fn add(waiting: &mut Vec<Waker>, cx: &Context<'_>) {
    if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
        waiting.push(cx.waker().clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Outgoing {
        Outgoing::whole(Arc::new([&*vec![b'x'; bytes]].into_iter().collect()))
    }

    #[test]
    fn full_by_messages_or_by_octets() {
        let cx = &Context::from_waker(Waker::noop());
        let outbox = Outbox::new(Watermark { messages: 2, bytes: 100 });
        assert!(outbox.has_room() && outbox.poll_pop(cx).is_pending());
        outbox.push(message(1));
        assert!(outbox.has_room());
        outbox.push(message(1));
        assert!(!outbox.has_room() && outbox.poll_room(cx).is_pending());
        assert!(outbox.poll_pop(cx).is_ready() && outbox.poll_room(cx).is_ready());
        assert!(outbox.poll_pop(cx).is_ready() && outbox.is_empty());
        assert!(outbox.has_room(), "an empty queue takes any size");
        outbox.push(message(1000));
        assert!(!outbox.has_room());
        assert_eq!(outbox.close().len(), 1);
        assert!(!outbox.has_room() && outbox.poll_room(cx).is_ready());
        outbox.push(message(1));
        assert!(outbox.is_empty(), "nobody would send it");
    }
}
