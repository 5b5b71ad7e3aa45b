//! What a connection tells its owner.

use super::{Command, CurvePublicKey, Frame, Peer};
use std::{fmt, time::Duration};

/// What was found in the bytes of a peer. Slices are of the bytes that were given, or live until the next call.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Nothing is left of the bytes that were given.
    NeedMore,
    /// The peer says who it is: [`Connection::allow`](super::Connection::allow) or
    /// [`Connection::deny`](super::Connection::deny) is to be called, at once or later. Only for the server of PLAIN
    /// and CURVE, once.
    Authenticate(Credentials<'a>),
    /// Nothing is taken until the verdict on the credentials.
    Blocked,
    /// The handshake is done, messages can be sent. Once.
    Ready(&'a Peer),
    /// A frame of a message, or a piece of one.
    Frame(Frame<'a>),
    /// The peer wants what begins with this topic; to publishers only, in whichever form it came. A 1.0 subscriber
    /// can't say what it wants, so that it counts as one to the empty topic.
    Subscribe(&'a [u8]),
    /// The peer takes one subscription back.
    Cancel(&'a [u8]),
    /// The peer asks for a sign of life. Its PONG is written when the bytes given are used up.
    Ping {
        /// Whether it will be answered: not if there are too many.
        answered: bool,
        /// The silence after which it wants to be given up; zero: it does not say.
        ttl: Duration,
    },
    /// The peer's answer to our PING, with its context.
    Pong(&'a [u8]),
    /// Any other command; one that is not known is to be ignored.
    Command(Command<'a>),
    /// The peer refused us, with a reason in its words. The connection has failed with that; it should not be tried
    /// again with the same credentials.
    Refused(&'a [u8]),
}

/// How a client proves who it is. No password appears in `Debug` output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Credentials<'a> {
    /// PLAIN. To be compared in constant time.
    Plain {
        /// Up to 255 octets.
        username: &'a [u8],
        /// Up to 255 octets.
        password: &'a [u8],
    },
    /// CURVE: the client's long-term key. That it has the secret one is proved.
    Curve(CurvePublicKey),
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain { username, .. } => write!(f, "Plain({})", username.escape_ascii()),
            Self::Curve(_) => f.write_str("Curve"),
        }
    }
}
