//! Why a connection is ended.

use super::{Mechanism, MechanismName, SocketType, Spoken, Version};

/// A fault of the peer's, or a limit it went over: the connection is to be closed. ZMTP says nothing to the peer then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ZmtpError {
    /// The first bytes are no greeting.
    #[error("not ZMTP: {0}")]
    NotZmtp(Spoken),
    /// The peer's version is below the lowest allowed.
    #[error("the peer speaks ZMTP {peer}, at least {minimum} is required")]
    VersionTooOld {
        /// What it speaks.
        peer: Version,
        /// What the options demand.
        minimum: Version,
    },
    /// A mechanism is required and the peer's version has none.
    #[error("the peer speaks ZMTP {peer}, which has no {mechanism}")]
    Downgrade {
        /// What it speaks.
        peer: Version,
        /// What the options demand.
        mechanism: Mechanism,
    },
    /// The peer announces another mechanism; both must announce the same (RFC 37).
    #[error("the peer's mechanism is {theirs}, ours {ours}")]
    MechanismMismatch {
        /// What it announces.
        theirs: MechanismName,
        /// What we announced.
        ours: Mechanism,
    },
    /// Both sides are the server of the mechanism.
    #[error("both sides are the server of the security handshake")]
    RoleConflict,
    /// ZMTP 2.0: a socket type beyond 10.
    #[error("unknown socket type {0}")]
    SocketTypeOctet(u8),
    /// ZMTP 3: a socket type that we don't know, drafts among them.
    #[error("unknown socket type")]
    UnknownSocketType,
    /// ZMTP 3: metadata without a socket type.
    #[error("no socket type announced")]
    MissingSocketType,
    /// The two socket types don't talk to each other.
    #[error("the peer's socket type {theirs} does not fit our {ours}")]
    IncompatibleSockets {
        /// The peer's.
        theirs: SocketType,
        /// Ours.
        ours: SocketType,
    },
    /// An identity frame with MORE set.
    #[error("malformed identity")]
    Identity,
    /// An identity of more than 255 octets.
    #[error("identity too long")]
    IdentityTooLong,
    /// An identity that begins with 0, where that is refused.
    #[error("reserved identity")]
    ReservedIdentity,
    /// Bits in the flags that must be 0.
    #[error("reserved flags {0:#04x}")]
    ReservedFlags(u8),
    /// ZMTP 1.0: a frame without its flags; later: over 2^63-1 octets.
    #[error("invalid frame length")]
    FrameLength,
    /// A frame over [`Limits::max_frame_bytes`](super::Limits::max_frame_bytes).
    #[error("frame too large")]
    FrameTooLarge,
    /// A message over [`Limits::max_message_bytes`](super::Limits::max_message_bytes).
    #[error("message too large")]
    MessageTooLarge,
    /// A message over [`Limits::max_frames_per_message`](super::Limits::max_frames_per_message).
    #[error("too many frames in a message")]
    TooManyFrames,
    /// A command frame with MORE set.
    #[error("command with the MORE flag")]
    CommandWithMore,
    /// A command without name, or a name longer than the command.
    #[error("malformed command")]
    Command,
    /// A command over [`Limits::max_command_bytes`](super::Limits::max_command_bytes).
    #[error("command too large")]
    CommandTooLarge,
    /// A command that does not belong here.
    #[error("unexpected command")]
    UnexpectedCommand,
    /// A message before the handshake is over, or on a CURVE connection outside of a box.
    #[error("unexpected message")]
    UnexpectedMessage,
    /// Metadata that break their grammar.
    #[error("malformed metadata")]
    Metadata,
    /// Metadata over [`Limits::max_metadata_bytes`](super::Limits::max_metadata_bytes).
    #[error("metadata too large")]
    MetadataTooLarge,
    /// More properties than [`Limits::max_properties`](super::Limits::max_properties).
    #[error("too many metadata properties")]
    TooManyProperties,
    /// A PING without time to live, or a context over 16 octets.
    #[error("malformed heartbeat")]
    Heartbeat,
    /// A topic over [`Limits::max_topic_bytes`](super::Limits::max_topic_bytes).
    #[error("subscription topic too long")]
    TopicTooLong,
    /// More subscriptions than [`Limits::max_subscriptions`](super::Limits::max_subscriptions).
    #[error("too many subscriptions")]
    TooManySubscriptions,
    /// PLAIN: a HELLO that is not user name and password.
    #[error("malformed PLAIN credentials")]
    Credentials,
    /// CURVE: a command of the wrong size or form, or a box that does not open.
    #[error("CURVE {0} is invalid")]
    Curve(CurveStep),
    /// CURVE: a nonce that does not increase: something was sent twice.
    #[error("CURVE nonce used again")]
    Nonce,
    /// The peer refused us with an ERROR command.
    #[error("refused by the peer")]
    Refused,
    /// We refused the peer's credentials.
    #[error("credentials were refused")]
    Denied,
    /// The system gave no random bytes.
    #[error("no random bytes from the system")]
    Random,
    /// No handshake within [`Options::handshake_timeout`](super::Options::handshake_timeout).
    #[error("handshake timed out")]
    HandshakeTimeout,
    /// Silence after our PING.
    #[error("heartbeat timed out")]
    HeartbeatTimeout,
    /// Silence for the time to live that the peer's PING gave.
    #[error("no traffic within the peer's time to live")]
    TtlExpired,
    /// The connection ended within the handshake or a message, which is dropped.
    #[error("connection closed inside a message or handshake")]
    Truncated,
}

/// Where a CURVE handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CurveStep {
    /// HELLO: mostly a client with another server key.
    Hello,
    /// WELCOME.
    Welcome,
    /// The cookie in INITIATE is not the one of this connection.
    Cookie,
    /// INITIATE.
    Initiate,
    /// The vouch: the client does not have the long-term key it names.
    Vouch,
    /// READY.
    Ready,
    /// MESSAGE.
    Message,
}

impl std::fmt::Display for CurveStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hello => "HELLO (has the client another server key?)",
            Self::Welcome => "WELCOME",
            Self::Cookie => "cookie",
            Self::Initiate => "INITIATE",
            Self::Vouch => "vouch",
            Self::Ready => "READY",
            Self::Message => "MESSAGE",
        })
    }
}

impl ZmtpError {
    /// The counter for it, below the scope of the listener or cluster.
    pub const fn counter(self) -> &'static str {
        match self {
            Self::NotZmtp(_) => "not_zmtp",
            Self::VersionTooOld { .. } | Self::Downgrade { .. } => "version_refused",
            Self::MechanismMismatch { .. } | Self::RoleConflict => "mechanism_mismatch",
            Self::SocketTypeOctet(_)
            | Self::UnknownSocketType
            | Self::MissingSocketType
            | Self::IncompatibleSockets { .. } => "socket_type_mismatch",
            Self::Identity | Self::IdentityTooLong | Self::ReservedIdentity => "identity_refused",
            Self::FrameTooLarge => "frame_too_large",
            Self::MessageTooLarge => "message_too_large",
            Self::TooManyFrames => "too_many_frames",
            Self::CommandTooLarge => "command_too_large",
            Self::MetadataTooLarge | Self::TooManyProperties => "metadata_too_large",
            Self::TopicTooLong => "topic_too_long",
            Self::TooManySubscriptions => "too_many_subscriptions",
            Self::Credentials | Self::Denied => "authentication_failed",
            Self::Refused => "refused_by_peer",
            Self::Curve(_) | Self::Nonce => "curve_failed",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HeartbeatTimeout | Self::TtlExpired => "heartbeat_timeout",
            Self::Truncated => "truncated",
            Self::Random => "internal_error",
            Self::ReservedFlags(_)
            | Self::FrameLength
            | Self::CommandWithMore
            | Self::Command
            | Self::UnexpectedCommand
            | Self::UnexpectedMessage
            | Self::Metadata
            | Self::Heartbeat => "protocol_error",
        }
    }
}

/// Why something was not sent. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The handshake is not over, or the connection has failed.
    #[error("the connection is not ready")]
    NotReady,
    /// A frame that was begun has to be completed first.
    #[error("another frame is not complete")]
    FrameOpen,
    /// More was given than was announced, or no frame is open.
    #[error("more octets than the frame was announced with")]
    FrameOverflow,
    /// The peer's version has no such thing: no commands before 3.0.
    #[error("not possible with the peer's version")]
    Version,
    /// CURVE seals whole frames.
    #[error("a CURVE connection sends whole frames only")]
    WholeFramesOnly,
    /// Over 16 octets of context, 255 of a name, or 2^63-1 in all.
    #[error("too long")]
    TooLong,
    /// A message without frames.
    #[error("a message has at least one frame")]
    EmptyMessage,
    /// There is no verdict to give, no socket type to declare.
    #[error("not asked for")]
    NotAsked,
}
