//! Error codes, and why a connection or a stream ended.

use std::fmt;

/// An error code of RST_STREAM and GOAWAY (RFC 9113 §7). Codes that nobody registered are kept as they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

macro_rules! codes {
    ($($name:ident = $code:literal,)*) => {
        impl ErrorCode {
            $(#[doc = concat!("`", stringify!($name), "`")] pub const $name: Self = Self($code);)*

            /// The registered name; `UNKNOWN` for others.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($code => stringify!($name),)*
                    _ => "UNKNOWN",
                }
            }
        }
    };
}

codes! {
    NO_ERROR = 0x0,
    PROTOCOL_ERROR = 0x1,
    INTERNAL_ERROR = 0x2,
    FLOW_CONTROL_ERROR = 0x3,
    SETTINGS_TIMEOUT = 0x4,
    STREAM_CLOSED = 0x5,
    FRAME_SIZE_ERROR = 0x6,
    REFUSED_STREAM = 0x7,
    CANCEL = 0x8,
    COMPRESSION_ERROR = 0x9,
    CONNECT_ERROR = 0xa,
    ENHANCE_YOUR_CALM = 0xb,
    INADEQUATE_SECURITY = 0xc,
    HTTP_1_1_REQUIRED = 0xd,
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:#x})", self.name(), self.0)
    }
}

/// What kind of fault ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The peer broke the protocol (Envoy: `codec_error`, flag DPE or UPE).
    Protocol,
    /// A message that is malformed, where the options say that such a message ends the connection.
    Message,
    /// A flood limit was passed (Envoy: `overload_error`). The peer may not be reading: closing at once loses nothing.
    Flood,
    /// Too many streams were reset before they had a response (Envoy: `too_many_premature_resets`).
    PrematureResets,
}

/// Why a connection ended. GOAWAY with this code and message is already in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConnectionError {
    /// The code of the GOAWAY frame.
    pub code: ErrorCode,
    /// What happened, in words; the GOAWAY frame's debug data.
    pub message: &'static str,
    /// The kind of fault.
    pub kind: ErrorKind,
}

impl ConnectionError {
    pub(super) const fn new(code: ErrorCode, message: &'static str) -> Self {
        Self { code, message, kind: ErrorKind::Protocol }
    }

    pub(super) const fn protocol(message: &'static str) -> Self {
        Self::new(ErrorCode::PROTOCOL_ERROR, message)
    }

    pub(super) const fn frame_size(message: &'static str) -> Self {
        Self::new(ErrorCode::FRAME_SIZE_ERROR, message)
    }

    pub(super) const fn flood(message: &'static str) -> Self {
        Self { code: ErrorCode::ENHANCE_YOUR_CALM, message, kind: ErrorKind::Flood }
    }
}

/// Why the peer's frames ended a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFault {
    /// A field that no message may have: connection-specific, upper case, bad character (RFC 9113 §8.2).
    Field,
    /// A field block or a body that makes no valid message: pseudo-header fields, trailers at the wrong place (RFC 9113 §8.1, §8.3).
    Messaging,
    /// A body that is not as long as its `content-length` (RFC 9113 §8.1.1).
    Length,
    /// A head or trailers over the limits.
    TooLarge,
    /// A field name with an underscore, where that is refused.
    Underscore,
    /// More concurrent streams than we allow.
    Refused,
    /// More data than the stream's window.
    FlowControl,
    /// Data or a field block behind the end of the stream.
    Closed,
    /// A window update of zero, a PRIORITY frame of the wrong size, ...
    Frame(ErrorCode),
}

impl StreamFault {
    /// The code of the RST_STREAM frame.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Field | Self::Messaging | Self::Length => ErrorCode::PROTOCOL_ERROR,
            // What Envoy's library sends when Envoy does not want a field.
            Self::TooLarge | Self::Underscore => ErrorCode::INTERNAL_ERROR,
            Self::Refused => ErrorCode::REFUSED_STREAM,
            Self::FlowControl => ErrorCode::FLOW_CONTROL_ERROR,
            Self::Closed => ErrorCode::STREAM_CLOSED,
            Self::Frame(code) => code,
        }
    }

    /// Envoy's response code details.
    pub const fn details(self) -> &'static str {
        match self {
            Self::Field => "http2.invalid.header.field",
            Self::Messaging | Self::Length => "http2.violation.of.messaging.rule",
            Self::TooLarge => "http2.too_many_headers",
            Self::Underscore => "http2.unexpected_underscore",
            Self::Refused | Self::FlowControl | Self::Closed | Self::Frame(_) => "http2.unknown.nghttp2.error",
        }
    }

    /// Whether it is a head or trailers that are wrong, not the protocol around them: then the options say whether the
    /// stream or the connection ends. (Compat: a body of the wrong length ends its stream alone in any case.)
    pub(super) const fn is_message(self) -> bool {
        matches!(self, Self::Field | Self::Messaging)
    }
}

/// Why something cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The stream is not open for sending: it was reset, has ended, or never was.
    #[error("stream is closed")]
    Closed,
    /// The connection failed.
    #[error("connection is closed")]
    ConnectionClosed,
    /// The peer's limit of concurrent streams is reached.
    #[error("too many concurrent streams")]
    TooManyStreams,
    /// One side sent GOAWAY, or there is no stream identifier left: use another connection.
    #[error("connection takes no new streams")]
    GoingAway,
    /// The head cannot be said in HTTP/2, or comes at the wrong time (a second final response).
    #[error("invalid message head")]
    InvalidHead,
    /// An upgrade towards a peer that did not allow extended CONNECT (RFC 8441 §3).
    #[error("the peer does not allow extended CONNECT")]
    ExtendedConnect,
}
