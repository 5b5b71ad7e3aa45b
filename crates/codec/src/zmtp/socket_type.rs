//! The eleven socket types and which of them talk to each other (RFC 28–31, 37).

use std::fmt;

/// The type of a ZeroMQ socket. The numbers are those of ZMTP 2.0 (RFC 15; 9 and 10 are libzmq's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SocketType {
    /// One peer, both directions.
    Pair = 0,
    /// Publishes.
    Pub = 1,
    /// Subscribes.
    Sub = 2,
    /// Asks, one request at a time.
    Req = 3,
    /// Answers, one request at a time.
    Rep = 4,
    /// Asks without waiting.
    Dealer = 5,
    /// Answers by routing id.
    Router = 6,
    /// Takes work.
    Pull = 7,
    /// Gives work.
    Push = 8,
    /// Publishes, and sees the subscriptions.
    Xpub = 9,
    /// Subscribes by messages.
    Xsub = 10,
}

impl SocketType {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Pair,
        Self::Pub,
        Self::Sub,
        Self::Req,
        Self::Rep,
        Self::Dealer,
        Self::Router,
        Self::Pull,
        Self::Push,
        Self::Xpub,
        Self::Xsub,
    ];

    /// The name in ZMTP 3 metadata.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pair => "PAIR",
            Self::Pub => "PUB",
            Self::Sub => "SUB",
            Self::Req => "REQ",
            Self::Rep => "REP",
            Self::Dealer => "DEALER",
            Self::Router => "ROUTER",
            Self::Pull => "PULL",
            Self::Push => "PUSH",
            Self::Xpub => "XPUB",
            Self::Xsub => "XSUB",
        }
    }

    /// From the name in ZMTP 3 metadata; case matters, as in libzmq.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|of| of.name().as_bytes() == name)
    }

    /// From the octet of ZMTP 2.0.
    pub fn from_octet(octet: u8) -> Option<Self> {
        Self::ALL.get(usize::from(octet)).copied()
    }

    /// The octet of ZMTP 2.0. XPUB and XSUB announce themselves as PUB and SUB there (RFC 15): libzmq 3 knows no
    /// others.
    pub const fn octet(self) -> u8 {
        match self {
            Self::Xpub => Self::Pub as u8,
            Self::Xsub => Self::Sub as u8,
            other => other as u8,
        }
    }

    /// Whether sockets of the two types talk to each other. It is the same asked the other way round.
    pub const fn accepts(self, peer: Self) -> bool {
        use SocketType::{Dealer, Pair, Pub, Pull, Push, Rep, Req, Router, Sub, Xpub, Xsub};
        matches!(
            (self, peer),
            (Req, Rep | Router)
                | (Rep, Req | Dealer)
                | (Dealer, Rep | Dealer | Router)
                | (Router, Req | Dealer | Router)
                | (Pub | Xpub, Sub | Xsub)
                | (Sub | Xsub, Pub | Xpub)
                | (Push, Pull)
                | (Pull, Push)
                | (Pair, Pair)
        )
    }

    /// The type that a broker shows to a peer of this type: it takes whatever the peer may send, and can answer.
    pub const fn face(self) -> Self {
        match self {
            Self::Req | Self::Dealer | Self::Router => Self::Router,
            Self::Rep => Self::Dealer,
            Self::Sub | Self::Xsub => Self::Xpub,
            Self::Pub | Self::Xpub => Self::Xsub,
            Self::Push => Self::Pull,
            Self::Pull => Self::Push,
            Self::Pair => Self::Pair,
        }
    }

    /// Whether peers send it subscriptions.
    pub const fn is_publisher(self) -> bool {
        matches!(self, Self::Pub | Self::Xpub)
    }

    /// Whether it tells its peers an identity (RFC 37: to a ROUTER only; libzmq: these three always).
    pub const fn has_identity(self) -> bool {
        matches!(self, Self::Req | Self::Dealer | Self::Router)
    }
}

impl fmt::Display for SocketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_octets() {
        for (octet, of) in (0u8..).zip(SocketType::ALL) {
            assert_eq!(SocketType::from_octet(octet), Some(of));
            assert_eq!(SocketType::from_name(of.name().as_bytes()), Some(of));
            assert_eq!(of as u8, octet);
        }
        assert_eq!(SocketType::from_octet(11), None);
        assert_eq!(SocketType::from_name(b"CLIENT"), None);
        assert_eq!(SocketType::from_name(b"req"), None);
        assert_eq!((SocketType::Xpub.octet(), SocketType::Xsub.octet(), SocketType::Push.octet()), (1, 2, 8));
    }

    #[test]
    fn the_table_is_symmetric_and_complete() {
        let mut pairs = 0;
        for ours in SocketType::ALL {
            assert!(ours.face().accepts(ours), "the face for {ours}");
            for theirs in SocketType::ALL {
                assert_eq!(ours.accepts(theirs), theirs.accepts(ours), "{ours} {theirs}");
                pairs += u32::from(ours.accepts(theirs));
            }
        }
        // REQ 2, REP 2, DEALER 3, ROUTER 3, four of the publish-subscribe kind 2 each, PUSH, PULL, PAIR 1 each.
        assert_eq!(pairs, 21);
        assert!(!SocketType::Req.accepts(SocketType::Req) && !SocketType::Pub.accepts(SocketType::Router));
    }
}
