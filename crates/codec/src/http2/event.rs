//! What a connection tells its user.

use super::{ErrorCode, StreamFault};
use sota_plugin::http::{Headers, RequestHead, ResponseHead};

/// A stream's identifier (RFC 9113 §5.1.1), 1 to 2^31-1; unique within its connection.
pub type StreamId = u32;

/// What the peer's frames mean.
#[derive(Debug, PartialEq)]
pub enum Event<'a> {
    /// The peer's settings arrived, for the first time or changed; see [`super::Connection::peer_settings`].
    Settings,
    /// A request (server). Its authority is empty where an empty one was sent.
    Request {
        /// The new stream.
        stream: StreamId,
        /// The head. An extended CONNECT has the form of an HTTP/1 upgrade: GET, `connection: upgrade`, `upgrade`;
        /// it is accepted with 101 or 200.
        head: Box<RequestHead>,
        /// Whether the request is complete.
        end_stream: bool,
    },
    /// A response (client). If it is informational another follows; the user bounds how many.
    Response {
        /// The stream of the request.
        stream: StreamId,
        /// The head. An accepted upgrade has the form of HTTP/1: 101, `connection: upgrade`, `upgrade`.
        head: Box<ResponseHead>,
        /// Whether the response is complete.
        end_stream: bool,
    },
    /// A part of a body. It may be empty only at the end of the stream. When the octets were written or dropped,
    /// [`super::Connection::release`] lets the peer send more.
    Data {
        /// The stream.
        stream: StreamId,
        /// A slice of what was read.
        data: &'a [u8],
        /// Whether the message is complete.
        end_stream: bool,
    },
    /// Trailers; the message is complete. Fields that may not be in trailers are left out.
    Trailers {
        /// The stream.
        stream: StreamId,
        /// The fields.
        trailers: Box<Headers>,
    },
    /// A stream has ended before its time: it takes nothing more. What was received on it is released already.
    Reset {
        /// The stream. It may be one that was never announced, when its head was at fault.
        stream: StreamId,
        /// Who ended it and why.
        cause: ResetCause,
    },
    /// The peer will close: no new stream can be opened. Streams that it will not answer follow as
    /// [`ResetCause::Unprocessed`].
    GoAway {
        /// The last of our streams that the peer may have looked at.
        last_stream: StreamId,
        /// Why; `NO_ERROR` for a drain.
        code: ErrorCode,
        /// The peer's words, not necessarily text; at most 256 octets.
        debug: Box<[u8]>,
    },
    /// The answer to [`super::Connection::ping`].
    Pong {
        /// The payload of the ping.
        payload: [u8; 8],
    },
}

/// Who ended a stream early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetCause {
    /// The peer, by RST_STREAM. `NO_ERROR` behind a complete response only says that the server does not want the
    /// rest of the request (RFC 9113 §8.1).
    Peer(ErrorCode),
    /// We, since the peer's frames were at fault; RST_STREAM is in the output.
    Fault(StreamFault),
    /// The peer's GOAWAY says that it never looked at this request: it may be sent again elsewhere.
    Unprocessed,
}

impl ResetCause {
    /// The code of the RST_STREAM frame.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Peer(code) => code,
            Self::Fault(fault) => fault.code(),
            Self::Unprocessed => ErrorCode::REFUSED_STREAM,
        }
    }

    /// Envoy's response code details.
    pub const fn details(self) -> &'static str {
        match self {
            Self::Peer(ErrorCode::REFUSED_STREAM) | Self::Unprocessed => "http2.remote_refuse",
            Self::Peer(_) => "http2.remote_reset",
            Self::Fault(fault) => fault.details(),
        }
    }

    /// Whether the request was certainly not processed, so that it may be sent again whatever its method
    /// (RFC 9113 §8.7).
    pub const fn is_refused(self) -> bool {
        matches!(self, Self::Peer(ErrorCode::REFUSED_STREAM) | Self::Unprocessed)
    }
}
