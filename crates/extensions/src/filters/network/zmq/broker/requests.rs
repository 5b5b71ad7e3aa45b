//! Requests of clients that wait for their answers. A request goes to a worker with an address in front, which names
//! the client and the request; the worker returns it in front of the answer, as it does with a client's identity.

use super::super::{
    config::OnFailure,
    outbox::{Hop, Outbox, Outgoing, register},
};
use super::{Broker, links::Link};
use sota_codec::zmtp::Message;
use sota_plugin::upstream::{ActiveRequest, Outcome};
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, DefaultHasher},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

/// Deadlines of requests that were answered, besides as many as there are requests, before they are looked for.
const SPARE_DEADLINES: usize = 64;

/// The frames in front of a request's body, which an answer of ours needs as well.
pub(super) struct Envelope {
    /// `None`: only the empty frame of a REQ, or nothing.
    message: Option<Arc<Message>>,
    /// How many frames.
    frames: usize,
}

impl Envelope {
    /// Of a message whose body begins at this frame.
    pub(super) fn of(message: &Arc<Message>, body: usize) -> Self {
        let is_simple = body == 0 || body == 1;
        Self { message: (!is_simple).then(|| Arc::clone(message)), frames: body }
    }

    /// An answer of one frame behind it.
    fn answer(&self, text: &str) -> Message {
        let mut answer = Message::default();
        for frame in 0..self.frames {
            let front = self.message.as_ref().and_then(|message| message.frame(frame));
            answer.push(front.unwrap_or_default());
        }
        answer.push(text.as_bytes());
        answer
    }
}

/// Where the body of a request begins: behind the first empty frame, if there is one.
pub(in super::super) fn body_of(message: &Message) -> usize {
    let delimiter = message.frames().position(<[u8]>::is_empty);
    delimiter.map(|at| at + 1).filter(|body| *body < message.frame_count()).unwrap_or(0)
}

/// By numbers of ours, which nobody else chooses: the hasher needs no key, and takes no memory.
type Numbered<T> = HashMap<u32, T, BuildHasherDefault<DefaultHasher>>;

/// A request that waits for its answer.
struct InFlight {
    request: ActiveRequest,
    /// `None` while it waits for a connection again.
    link: Option<Rc<Link>>,
    /// Since when it has been waiting for a connection again, from the first time on.
    orphaned: Option<Instant>,
    envelope: Envelope,
}

impl InFlight {
    fn settle(self, outcome: Outcome) -> Envelope {
        if let Some(link) = &self.link {
            leave(link);
        }
        self.request.finish(outcome);
        self.envelope
    }
}

fn leave(link: &Link) {
    link.outstanding.set(link.outstanding.get().saturating_sub(1));
}

/// A client that asks.
pub(super) struct Requester {
    key: u32,
    outbox: Rc<Outbox>,
    /// Whether it is a REQ: it takes any answer for that to its last question.
    is_req: bool,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    in_flight: Numbered<InFlight>,
    /// In the order of their time. Those that were answered go when they get to the front.
    deadlines: VecDeque<(Instant, u32)>,
    next: u32,
    /// The client's task, if it waits for an answer so that it may ask again.
    waiting: Option<Waker>,
}

impl State {
    /// Deadlines behind that of a request which waits stay when theirs are answered: not too many of them.
    fn forget_answered(&mut self) {
        if self.deadlines.len() > 2 * self.in_flight.len() + SPARE_DEADLINES {
            let last = self.next.wrapping_sub(1);
            self.deadlines.retain(|(_, number)| *number == last || self.in_flight.contains_key(number));
        }
    }
}

impl Requester {
    /// Hands a request to a connection that has room.
    pub(super) fn send(
        &self,
        message: Arc<Message>,
        envelope: Envelope,
        link: &Rc<Link>,
        request: ActiveRequest,
        broker: &Broker,
    ) {
        let mut state = self.state.borrow_mut();
        let number = state.next;
        state.next = number.wrapping_add(1);
        if let Some(timeout) = broker.settings.reply_timeout {
            state.deadlines.push_back((Instant::now() + timeout, number));
            state.forget_answered();
        }
        link.outstanding.set(link.outstanding.get() + 1);
        state.in_flight.insert(number, InFlight { request, link: Some(Rc::clone(link)), orphaned: None, envelope });
        let [a, b, c, d] = self.key.to_be_bytes();
        let [e, f, g, h] = number.to_be_bytes();
        broker.stats.requests.inc();
        broker.stats.requests_active.inc();
        link.outbox.push(Outgoing::Message { hop: Some([a, b, c, d, e, f, g, h]), skip: 0, message });
    }

    /// Ready once fewer requests wait than may.
    pub(super) fn poll_room(&self, most: usize, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.in_flight.len() < most {
            return Poll::Ready(());
        }
        register(&mut state.waiting, cx);
        Poll::Pending
    }

    /// Whether no request waits.
    pub(super) fn is_idle(&self) -> bool {
        self.state.borrow().in_flight.is_empty()
    }

    /// When the next request has waited for long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.state.borrow().deadlines.front().map(|(deadline, _)| *deadline)
    }

    /// Gives up what has waited for too long.
    pub(super) fn on_deadline(&self, now: Instant, broker: &Broker) {
        loop {
            let overdue = self.state.borrow_mut().deadlines.pop_front_if(|(deadline, _)| *deadline <= now);
            let Some((_, number)) = overdue else { return };
            if let Some(envelope) = self.take(number, Outcome::Timeout, broker) {
                broker.stats.reply_timeout.inc();
                self.fail(&envelope, "reply timeout", broker);
            }
        }
    }

    /// Tells the client that there will be no answer.
    pub(super) fn fail(&self, envelope: &Envelope, reason: &'static str, broker: &Broker) {
        self.outbox.push(match broker.settings.on_failure {
            OnFailure::Close => Outgoing::Close(reason),
            OnFailure::Reply => Outgoing::whole(Arc::new(envelope.answer(&format!("ERR {reason}")))),
        });
    }

    /// Takes a request out, if it still waits.
    fn take(&self, number: u32, outcome: Outcome, broker: &Broker) -> Option<Envelope> {
        let mut state = self.state.borrow_mut();
        let found = state.in_flight.remove(&number)?;
        let State { in_flight, deadlines, waiting, .. } = &mut *state;
        while deadlines.pop_front_if(|(_, number)| !in_flight.contains_key(number)).is_some() {}
        let waiting = waiting.take();
        drop(state);
        broker.stats.requests_active.dec();
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        Some(found.settle(outcome))
    }

    /// The requests that were sent on this connection.
    fn sent_on(&self, link: u64) -> Vec<u32> {
        let state = self.state.borrow();
        let on_link = state.in_flight.iter().filter(|(_, waits)| waits.link.as_ref().is_some_and(|own| own.id == link));
        on_link.map(|(number, _)| *number).collect()
    }
}

/// The clients of a worker that ask.
#[derive(Default)]
pub(super) struct Requests {
    clients: RefCell<Numbered<Rc<Requester>>>,
    next: Cell<u32>,
}

impl Requests {
    /// One more client, until [`Self::leave`].
    pub(super) fn join(&self, outbox: &Rc<Outbox>, is_req: bool) -> Rc<Requester> {
        let mut clients = self.clients.borrow_mut();
        let mut key = self.next.get();
        while clients.contains_key(&key) {
            key = key.wrapping_add(1);
        }
        self.next.set(key.wrapping_add(1));
        let client = Rc::new(Requester { key, outbox: Rc::clone(outbox), is_req, state: RefCell::default() });
        clients.insert(key, Rc::clone(&client));
        client
    }

    /// A client has gone; its requests are given up.
    pub(super) fn leave(&self, client: &Requester, broker: &Broker) {
        self.clients.borrow_mut().remove(&client.key);
        for (_, waits) in client.state.borrow_mut().in_flight.drain() {
            broker.stats.requests_active.dec();
            if let Some(link) = &waits.link {
                leave(link);
            }
        }
    }

    fn find(&self, hop: Hop) -> Option<(Rc<Requester>, u32)> {
        let [a, b, c, d, e, f, g, h] = hop;
        let client = self.clients.borrow().get(&u32::from_be_bytes([a, b, c, d])).cloned()?;
        Some((client, u32::from_be_bytes([e, f, g, h])))
    }

    /// A worker has answered.
    pub(super) fn on_reply(&self, message: Arc<Message>, broker: &Broker) {
        let hop = message.frame(0).and_then(|frame| Hop::try_from(frame).ok());
        let found = hop.filter(|_| message.frame_count() > 1).and_then(|hop| self.find(hop));
        let Some((client, number)) = found else { return broker.stats.reply_unexpected.inc() };
        if client.take(number, Outcome::Success, broker).is_none() {
            // A further answer to the same request, unless it might be taken for that to another one.
            let is_unwanted = client.is_req || broker.settings.reply_timeout.is_some() || !client.outbox.has_room();
            if is_unwanted {
                return broker.stats.reply_unexpected.inc();
            }
        }
        broker.stats.replies.inc();
        client.outbox.push(Outgoing::Message { hop: None, skip: 1, message });
    }

    /// A request has lost its connection before it was sent.
    pub(super) fn orphaned(&self, hop: Hop) {
        let Some((client, number)) = self.find(hop) else { return };
        if let Some(waits) = client.state.borrow_mut().in_flight.get_mut(&number)
            && let Some(link) = waits.link.take()
        {
            leave(&link);
            waits.orphaned.get_or_insert_with(Instant::now);
        }
    }

    /// Whether a request that has lost its connection is over: nobody waits for it any more, or it has waited for
    /// another one for so long that it is given up now.
    pub(super) fn is_over(&self, hop: Hop, broker: &Broker) -> bool {
        let Some((client, number)) = self.find(hop) else { return true };
        let since = match client.state.borrow().in_flight.get(&number) {
            None => return true,
            Some(waits) => waits.orphaned.filter(|_| waits.link.is_none()),
        };
        if since.is_none_or(|since| since.elapsed() < broker.settings.worker_wait) {
            return false;
        }
        if let Some(envelope) = client.take(number, Outcome::NotConnected, broker) {
            broker.stats.no_worker.inc();
            client.fail(&envelope, "no worker in time", broker);
        }
        true
    }

    /// A request goes over another connection. Whether somebody still waits for the answer.
    pub(super) fn moved(&self, hop: Hop, link: &Rc<Link>) -> bool {
        let Some((client, number)) = self.find(hop) else { return false };
        let mut state = client.state.borrow_mut();
        let Some(waits) = state.in_flight.get_mut(&number) else { return false };
        link.outstanding.set(link.outstanding.get() + 1);
        waits.link = Some(Rc::clone(link));
        true
    }

    /// A connection broke: what was sent on it will not be answered.
    pub(super) fn lost(&self, link: u64, broker: &Broker) {
        let clients: Vec<Rc<Requester>> = self.clients.borrow().values().cloned().collect();
        for client in clients {
            for number in client.sent_on(link) {
                if let Some(envelope) = client.take(number, Outcome::TransportFailure, broker) {
                    broker.stats.reply_lost.inc();
                    client.fail(&envelope, "worker lost", broker);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_body_begins() {
        let body = |frames: &[&[u8]]| body_of(&frames.iter().copied().collect());
        assert_eq!(body(&[b"", b"x"]), 1);
        assert_eq!(body(&[b"id", b"", b"x", b""]), 2);
        assert_eq!(body(&[b"x", b"y"]), 0);
        assert_eq!(body(&[b"x", b""]), 0, "an empty frame at the end is the body");
    }

    #[test]
    fn deadlines_of_what_was_answered_are_forgotten() {
        let mut state = State::default();
        let now = Instant::now();
        for number in 0..10_000 {
            state.next = number + 1;
            state.deadlines.push_back((now, number));
            state.forget_answered();
            assert!(state.deadlines.len() <= SPARE_DEADLINES);
        }
        assert_eq!(state.deadlines.back(), Some(&(now, 9_999)), "the one that is about to be sent");
    }

    #[test]
    fn an_answer_of_ours_has_the_envelope() {
        let answer = |frames: &[&[u8]], body| {
            let message = Arc::new(frames.iter().copied().collect());
            Envelope::of(&message, body).answer("ERR x").frames().map(<[u8]>::to_vec).collect::<Vec<_>>()
        };
        assert_eq!(answer(&[b"", b"q"], 1), [&b""[..], b"ERR x"]);
        assert_eq!(answer(&[b"q"], 0), [b"ERR x"]);
        assert_eq!(answer(&[b"id", b"", b"q"], 2), [&b"id"[..], b"", b"ERR x"]);
    }
}
