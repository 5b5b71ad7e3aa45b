//! Clients that take work: each message goes to one of them, in turns, to those that have room.

use super::super::outbox::{Outbox, Outgoing, add};
use sota_codec::zmtp::Message;
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

/// The PULL clients of a worker.
#[derive(Default)]
pub(super) struct Pullers {
    clients: RefCell<Vec<Rc<Outbox>>>,
    turn: Cell<usize>,
    /// What a client did not get before it left.
    orphans: RefCell<VecDeque<Outgoing>>,
    waiting: RefCell<Vec<Waker>>,
}

impl Pullers {
    /// One more client.
    pub(super) fn join(&self, client: &Rc<Outbox>) {
        self.clients.borrow_mut().push(Rc::clone(client));
        for orphan in self.orphans.take() {
            self.give_outgoing(orphan);
        }
        self.wake();
    }

    /// A client has gone. What it did not get is for the others.
    pub(super) fn leave(&self, client: &Rc<Outbox>) {
        self.clients.borrow_mut().retain(|other| !Rc::ptr_eq(other, client));
        for orphan in client.close() {
            if matches!(orphan, Outgoing::Message { .. }) {
                self.give_outgoing(orphan);
            }
        }
        self.wake();
    }

    fn wake(&self) {
        let waiting = self.waiting.take();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ready once there is a client with room.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let clients = self.clients.borrow();
        if clients.iter().any(|client| client.has_room()) {
            return Poll::Ready(());
        }
        for client in clients.iter() {
            let _ = client.poll_room(cx);
        }
        add(&mut self.waiting.borrow_mut(), cx);
        Poll::Pending
    }

    /// Gives a message to the next client with room.
    pub(super) fn give(&self, message: Arc<Message>) {
        self.give_outgoing(Outgoing::whole(message));
    }

    fn give_outgoing(&self, outgoing: Outgoing) {
        let clients = self.clients.borrow();
        let turn = self.turn.get();
        let order = (0..clients.len()).map(|step| (turn + step) % clients.len());
        let with_room = order.filter_map(|at| Some((at, clients.get(at)?))).find(|(_, client)| client.has_room());
        match with_room {
            Some((at, client)) => {
                self.turn.set(at + 1);
                client.push(outgoing);
            }
            // Nothing is lost: whoever comes next gets it.
            None => self.orphans.borrow_mut().push_back(outgoing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::network::zmq::outbox::Watermark;

    #[test]
    fn in_turns_and_never_lost() {
        let pullers = Pullers::default();
        let cx = &Context::from_waker(Waker::noop());
        let message = || Arc::new([&b"x"[..]].into_iter().collect());
        assert!(pullers.poll_room(cx).is_pending());
        let client = || Rc::new(Outbox::new(Watermark { messages: 2, bytes: 100 }));
        let (one, other) = (client(), client());
        pullers.join(&one);
        pullers.join(&other);
        for _ in 0..4 {
            assert!(pullers.poll_room(cx).is_ready());
            pullers.give(message());
        }
        assert!(pullers.poll_room(cx).is_pending());
        assert_eq!(other.drain_for_test(), 2);
        pullers.leave(&one);
        assert_eq!(other.drain_for_test(), 2, "what the other one did not get");
        pullers.leave(&other);
        pullers.give(message());
        let late = client();
        pullers.join(&late);
        assert_eq!(late.drain_for_test(), 1);
    }
}
