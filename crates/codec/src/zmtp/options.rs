//! What a connection is to be and what it takes.

use super::curve::{CurveKeyPair, CurvePublicKey};
use super::{SocketType, ZmtpError};
use std::{fmt, time::Duration};

/// The versions of ZMTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// RFC 13: libzmq 2. Also its variant that announces revision 0.
    V1_0,
    /// RFC 15: libzmq 3.
    V2_0,
    /// RFC 23: libzmq 4.0 and 4.1.
    V3_0,
    /// RFC 37: libzmq 4.2 and later.
    V3_1,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_0 => "1.0",
            Self::V2_0 => "2.0",
            Self::V3_0 => "3.0",
            Self::V3_1 => "3.1",
        })
    }
}

/// The security mechanisms of ZMTP 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// None.
    Null,
    /// User name and password in clear text (RFC 24).
    Plain,
    /// Elliptic-curve keys, everything encrypted (RFC 25, 26).
    Curve,
}

impl Mechanism {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Plain => "PLAIN",
            Self::Curve => "CURVE",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A mechanism's name as a peer announced it: 20 octets, padded with NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MechanismName(pub [u8; 20]);

impl MechanismName {
    /// Whether it is this one, and the padding is right.
    pub(super) fn is(&self, mechanism: Mechanism) -> bool {
        let rest = self.0.strip_prefix(mechanism.name().as_bytes());
        rest.is_some_and(|padding| padding.iter().all(|octet| *octet == 0))
    }
}

impl fmt::Display for MechanismName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
        write!(f, "{}", self.0.get(..end).unwrap_or_default().escape_ascii())
    }
}

/// The mechanism, our role in it, and what it needs. No secret of it appears in `Debug` output.
#[derive(Clone)]
pub enum Security {
    /// No security. The only one that peers before 3.0 can have.
    Null,
    /// PLAIN as the one that proves who it is.
    PlainClient {
        /// Up to 255 octets.
        username: Box<[u8]>,
        /// Up to 255 octets.
        password: Box<[u8]>,
    },
    /// PLAIN as the one that checks: see [`Event::Authenticate`](super::Event::Authenticate).
    PlainServer,
    /// CURVE as the one that knows whom it calls.
    CurveClient {
        /// Our own long-term keys.
        keys: CurveKeyPair,
        /// The server's long-term key.
        server: CurvePublicKey,
    },
    /// CURVE as the one that is called, and may check the client's key: see
    /// [`Event::Authenticate`](super::Event::Authenticate).
    CurveServer {
        /// Our own long-term keys.
        keys: CurveKeyPair,
    },
}

impl Security {
    /// Its mechanism.
    pub const fn mechanism(&self) -> Mechanism {
        match self {
            Self::Null => Mechanism::Null,
            Self::PlainClient { .. } | Self::PlainServer => Mechanism::Plain,
            Self::CurveClient { .. } | Self::CurveServer { .. } => Mechanism::Curve,
        }
    }

    /// Whether we are its server.
    pub const fn is_server(&self) -> bool {
        matches!(self, Self::PlainServer | Self::CurveServer { .. })
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self {
            Self::Null => "",
            _ if self.is_server() => " server",
            _ => " client",
        };
        write!(f, "{}{role}", self.mechanism())
    }
}

/// What a peer may make us hold or do. Whoever goes over one is closed, with the error that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Octets of a frame's payload; default 16 MiB.
    pub max_frame_bytes: u64,
    /// Octets of the payloads of a message; default 32 MiB.
    pub max_message_bytes: u64,
    /// Frames of a message; default 1024.
    pub max_frames_per_message: u32,
    /// Octets of a command behind the handshake; default 8 KiB.
    pub max_command_bytes: usize,
    /// Octets of a handshake's metadata; default 8 KiB.
    pub max_metadata_bytes: usize,
    /// Properties in them; default 64.
    pub max_properties: usize,
    /// Octets of a subscription's topic; default 1024.
    pub max_topic_bytes: usize,
    /// Topics of one peer, see [`Subscriptions`](super::Subscriptions); default 10,000.
    pub max_subscriptions: usize,
    /// PINGs that are answered, per second; default 10. Further ones are not answered, and nothing else happens.
    pub max_pings_per_second: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame_bytes: 16 << 20,
            max_message_bytes: 32 << 20,
            max_frames_per_message: 1024,
            max_command_bytes: 8 << 10,
            max_metadata_bytes: 8 << 10,
            max_properties: 64,
            max_topic_bytes: 1024,
            max_subscriptions: 10_000,
            max_pings_per_second: 10,
        }
    }
}

/// Heartbeats (RFC 37), with peers of 3.0 and later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeartbeatOptions {
    /// Between our PINGs; zero (the default): none are sent.
    pub interval: Duration,
    /// How long to wait for any traffic after a PING; zero (the default): as long as the interval.
    pub timeout: Duration,
    /// What we tell the peer: to give us up after such a silence. Tenths of seconds, up to 6553.5 s; zero (the
    /// default): nothing is asked for.
    pub ttl: Duration,
}

/// Where random bytes come from: fills the slice, or says that it can't.
pub type RandomSource = fn(&mut [u8]) -> Result<(), ZmtpError>;

/// Everything about a connection that is known before it. Shared by all connections of a listener or cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// Our socket type; default DEALER.
    pub socket_type: SocketType,
    /// Learn the peer's type first and declare the one that fits it ([`SocketType::face`]), instead of
    /// [`Self::socket_type`]. For the accepting side only: two that wait would wait for ever. A peer that waits as
    /// well gets [`Self::socket_type`] after [`Connection::declare_socket_type`](super::Connection). Default false.
    pub auto_face: bool,
    /// Our identity, up to 255 octets; default none.
    pub identity: Box<[u8]>,
    /// The mechanism and our role; default NULL.
    pub security: Security,
    /// The lowest version of a peer; default 2.0. With 1.0, bytes of other protocols are told from ZMTP later.
    pub min_version: Version,
    /// The version that we announce; default 3.1.
    pub max_version: Version,
    /// Take what libzmq takes: reserved bits in flags, no socket type in the metadata, PINGs with too long a context.
    /// Default false.
    pub lenient: bool,
    /// Refuse identities that begin with 0, which RFC 37 reserves and libzmq takes; default false.
    pub refuse_reserved_identity: bool,
    /// Metadata to send besides socket type and identity (`Resource`, `X-...`); default none. Names of 1 to 255
    /// octets; with all else within [`Limits::max_metadata_bytes`].
    pub properties: Vec<(Box<str>, Box<[u8]>)>,
    /// For the whole handshake; default 10 s. Zero: no limit.
    pub handshake_timeout: Duration,
    /// Heartbeats; default none of our own.
    pub heartbeat: HeartbeatOptions,
    /// What the peer may do.
    pub limits: Limits,
    /// Random bytes for CURVE's keys and nonces; default: the system's. Tests replace it.
    pub random: RandomSource,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            socket_type: SocketType::Dealer,
            auto_face: false,
            identity: Box::default(),
            security: Security::Null,
            min_version: Version::V2_0,
            max_version: Version::V3_1,
            lenient: false,
            refuse_reserved_identity: false,
            properties: Vec::new(),
            handshake_timeout: Duration::from_secs(10),
            heartbeat: HeartbeatOptions::default(),
            limits: Limits::default(),
            random: super::curve::system_random,
        }
    }
}

impl Options {
    /// The identity as it is sent: never more than 255 octets.
    pub(super) fn wire_identity(&self) -> &[u8] {
        self.identity.get(..255).unwrap_or(&self.identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mechanism_names() {
        let mut name = [0; 20];
        name[..5].copy_from_slice(b"PLAIN");
        assert!(MechanismName(name).is(Mechanism::Plain) && !MechanismName(name).is(Mechanism::Null));
        assert_eq!(MechanismName(name).to_string(), "PLAIN");
        name[19] = b'\n';
        assert!(!MechanismName(name).is(Mechanism::Plain));
        assert_eq!(MechanismName([0; 20]).to_string(), "");
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let keys = CurveKeyPair::from_secret([7; 32]);
        let client = Security::CurveClient { server: keys.public, keys };
        let plain = Security::PlainClient { username: b"me"[..].into(), password: b"hunter2"[..].into() };
        for security in [client, plain] {
            let text = format!("{:?}", Options { security, ..Options::default() });
            assert!(!text.contains("hunter2") && !text.contains("7, 7"), "{text}");
        }
    }
}
