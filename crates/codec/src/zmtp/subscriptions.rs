//! What one subscriber wants: a set of topics. RFC 37 counts them, so that subscribing twice takes two cancels; but
//! libzmq, whose subscribers tell each subscription and only the last cancel, has them once on the publisher's side, and
//! so have we.

use super::{Limits, ZmtpError};
use std::collections::{BTreeMap, HashSet};

/// The subscriptions of one peer. Bounded by [`Limits::max_subscriptions`] and [`Limits::max_topic_bytes`].
#[derive(Debug, Clone, Default)]
pub struct Subscriptions {
    topics: HashSet<Box<[u8]>>,
    /// How many topics have each length, so that matching tries no length in vain.
    lengths: BTreeMap<usize, u32>,
}

impl Subscriptions {
    /// Adds a subscription. Whether the topic is new.
    pub fn subscribe(&mut self, topic: &[u8], limits: &Limits) -> Result<bool, ZmtpError> {
        if topic.len() > limits.max_topic_bytes {
            return Err(ZmtpError::TopicTooLong);
        }
        if self.topics.contains(topic) {
            return Ok(false);
        }
        if self.topics.len() >= limits.max_subscriptions {
            return Err(ZmtpError::TooManySubscriptions);
        }
        self.topics.insert(topic.into());
        *self.lengths.entry(topic.len()).or_default() += 1;
        Ok(true)
    }

    /// Takes a subscription back. Whether it was there.
    pub fn cancel(&mut self, topic: &[u8]) -> bool {
        if !self.topics.remove(topic) {
            return false;
        }
        if let Some(count) = self.lengths.get_mut(&topic.len()) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&topic.len());
            }
        }
        true
    }

    /// Whether a message with this first frame is wanted: some topic is a prefix of it.
    pub fn matches(&self, first_frame: &[u8]) -> bool {
        let lengths = self.lengths.range(..=first_frame.len());
        lengths.into_iter().any(|(length, _)| first_frame.get(..*length).is_some_and(|t| self.topics.contains(t)))
    }

    /// The topics, in no order.
    pub fn topics(&self) -> impl Iterator<Item = &[u8]> {
        self.topics.iter().map(|topic| &**topic)
    }

    /// How many topics.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_and_matched_by_prefix() {
        let limits = Limits::default();
        let mut wanted = Subscriptions::default();
        assert!(!wanted.matches(b"") && wanted.is_empty());
        assert_eq!(wanted.subscribe(b"AB", &limits), Ok(true));
        assert_eq!(wanted.subscribe(b"AB", &limits), Ok(false));
        assert_eq!(wanted.subscribe(b"C", &limits), Ok(true));
        assert!(wanted.matches(b"AB") && wanted.matches(b"ABC") && wanted.matches(b"C1"));
        assert!(!wanted.matches(b"A") && !wanted.matches(b"") && !wanted.matches(b"BAB"));
        assert!(wanted.cancel(b"AB") && !wanted.matches(b"AB"));
        assert!(!wanted.cancel(b"AB"), "it was not there");
        assert_eq!(wanted.topics().collect::<Vec<_>>(), [b"C"]);
        assert_eq!(wanted.subscribe(b"", &limits), Ok(true));
        assert!(wanted.matches(b"") && wanted.matches(b"anything"));
        assert_eq!(wanted.len(), 2);
    }

    #[test]
    fn bounded() {
        let limits = Limits { max_subscriptions: 2, max_topic_bytes: 3, ..Limits::default() };
        let mut wanted = Subscriptions::default();
        assert_eq!(wanted.subscribe(b"1234", &limits), Err(ZmtpError::TopicTooLong));
        assert_eq!(wanted.subscribe(b"123", &limits), Ok(true));
        assert_eq!(wanted.subscribe(b"2", &limits), Ok(true));
        wanted.cancel(b"other");
        assert_eq!(wanted.subscribe(b"3", &limits), Err(ZmtpError::TooManySubscriptions));
        assert_eq!(wanted.subscribe(b"2", &limits), Ok(false), "one more of a topic costs nothing");
        wanted.cancel(b"123");
        assert_eq!(wanted.subscribe(b"3", &limits), Ok(true));
    }
}
