//! Who wants which publications: the subscribers of a worker by topic.

use super::super::outbox::{Outbox, Outgoing};
use sota_codec::zmtp::{Limits, Message, Subscriptions, ZmtpError};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::Arc,
};

/// A subscriber: its queue, and what it wants.
pub(super) struct Subscriber {
    outbox: Rc<Outbox>,
    wanted: RefCell<Subscriptions>,
    /// The publication that it got last, for it may want one for several reasons.
    last: Cell<u64>,
}

impl Subscriber {
    pub(super) fn new(outbox: Rc<Outbox>) -> Rc<Self> {
        Rc::new(Self { outbox, wanted: RefCell::default(), last: Cell::new(0) })
    }
}

/// What one publication came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    /// Subscribers that have no room, and miss it.
    pub(super) dropped: u64,
}

type ByTopic = HashMap<Box<[u8]>, Vec<Rc<Subscriber>>>;

/// The subscribers by topic. Finding those of a publication takes one look-up for each length that topics have.
#[derive(Default)]
pub(super) struct Topics {
    subscribers: RefCell<ByTopic>,
    /// How many topics have each length.
    lengths: RefCell<BTreeMap<usize, usize>>,
    publications: Cell<u64>,
}

impl Topics {
    /// Adds a wish. Whether it is a topic that this subscriber had not.
    pub(super) fn subscribe(&self, who: &Rc<Subscriber>, topic: &[u8], limits: &Limits) -> Result<bool, ZmtpError> {
        if !who.wanted.borrow_mut().subscribe(topic, limits)? {
            return Ok(false);
        }
        let mut subscribers = self.subscribers.borrow_mut();
        match subscribers.get_mut(topic) {
            Some(all) => all.push(Rc::clone(who)),
            None => {
                subscribers.insert(topic.into(), vec![Rc::clone(who)]);
                *self.lengths.borrow_mut().entry(topic.len()).or_default() += 1;
            }
        }
        Ok(true)
    }

    /// Takes a wish back. Whether the subscriber has the topic no longer.
    pub(super) fn cancel(&self, who: &Rc<Subscriber>, topic: &[u8]) -> bool {
        let is_gone = who.wanted.borrow_mut().cancel(topic);
        if is_gone {
            self.remove(who, topic);
        }
        is_gone
    }

    /// Forgets a subscriber; its topics.
    pub(super) fn leave(&self, who: &Rc<Subscriber>) -> Vec<Box<[u8]>> {
        let topics: Vec<Box<[u8]>> = who.wanted.borrow().topics().map(Into::into).collect();
        for topic in &topics {
            self.remove(who, topic);
        }
        topics
    }

    fn remove(&self, who: &Rc<Subscriber>, topic: &[u8]) {
        let mut subscribers = self.subscribers.borrow_mut();
        let Some(all) = subscribers.get_mut(topic) else { return };
        all.retain(|other| !Rc::ptr_eq(other, who));
        if all.is_empty() {
            subscribers.remove(topic);
            let mut lengths = self.lengths.borrow_mut();
            if let Some(count) = lengths.get_mut(&topic.len()) {
                *count -= 1;
                if *count == 0 {
                    lengths.remove(&topic.len());
                }
            }
        }
    }

    /// Whether nobody wants anything.
    pub(super) fn is_empty(&self) -> bool {
        self.lengths.borrow().is_empty()
    }

    /// Puts a publication into the queue of everybody who wants it and has room.
    pub(super) fn publish(&self, message: &Arc<Message>) -> Delivered {
        let mut delivered = Delivered::default();
        let number = self.publications.get() + 1;
        self.publications.set(number);
        let first = message.frame(0).unwrap_or_default();
        let subscribers = self.subscribers.borrow();
        for (length, _) in self.lengths.borrow().range(..=first.len()) {
            let found = first.get(..*length).and_then(|topic| subscribers.get(topic));
            for who in found.into_iter().flatten().filter(|who| who.last.replace(number) != number) {
                if who.outbox.has_room() {
                    who.outbox.push(Outgoing::whole(Arc::clone(message)));
                } else {
                    delivered.dropped += 1;
                }
            }
        }
        delivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::network::zmq::outbox::Watermark;

    #[test]
    fn by_prefix_and_once_each() {
        let limits = Limits::default();
        let topics = Topics::default();
        let who = |messages| Subscriber::new(Rc::new(Outbox::new(Watermark { messages, bytes: 1000 })));
        let (one, other) = (who(2), who(1));
        for topic in [&b"A"[..], b"AB", b"AB"] {
            topics.subscribe(&one, topic, &limits).unwrap();
        }
        assert!(topics.subscribe(&other, b"", &limits).unwrap());
        let publish = |text: &[u8]| topics.publish(&Arc::new([text].into_iter().collect())).dropped;
        let got = |who: &Rc<Subscriber>| who.outbox.drain_for_test();
        assert_eq!((publish(b"ABC"), got(&one), got(&other)), (0, 1, 1));
        assert_eq!((publish(b"B"), got(&one), got(&other)), (0, 0, 1));
        assert_eq!(publish(b"A") + publish(b"A"), 1, "the other has room for one");
        assert_eq!((got(&one), got(&other)), (2, 1));
        assert!(topics.cancel(&one, b"AB") && !topics.cancel(&one, b"AB") && topics.cancel(&one, b"A"));
        assert_eq!((publish(b"ABC"), got(&one), got(&other)), (0, 0, 1));
        assert_eq!(topics.leave(&other), [Box::<[u8]>::default()]);
        assert!(topics.is_empty());
    }
}
