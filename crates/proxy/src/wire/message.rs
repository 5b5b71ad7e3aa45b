//! What the connection manager and the router see of a message, whatever the protocol.

use super::http2::StreamEnd;
use sota_codec::http1::{Http1Error, RequestInfo};
use sota_plugin::http::Headers;
use std::io;

/// What comes next in a body.
#[derive(Debug, PartialEq)]
pub enum Part {
    /// So many octets of data can be taken. Told again until they are taken.
    Data(usize),
    /// Trailers; the end follows.
    Trailers(Box<Headers>),
    /// The message is complete. Told again on every later call.
    End,
}

/// Why a body cannot be read any further.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The framing is broken, or the peer closed inside of the message ([`Http1Error::Truncated`]).
    #[error(transparent)]
    Malformed(#[from] Http1Error),
    /// The stream has ended before its message.
    #[error(transparent)]
    Stream(#[from] StreamEnd),
}

/// Why a message cannot be written any further.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The connection failed, or the stream has ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The body is not as long as the head said.
    #[error("the body is not as long as the head said")]
    Length,
}

/// How a connection goes on.
#[derive(Debug)]
pub enum RequestStart {
    /// With a request.
    Head(RequestInfo),
    /// With HTTP/2, which is not spoken here.
    Http2Preface,
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The client has closed its side or the connection failed.
    #[error("the client has gone")]
    Closed,
    /// It is no acceptable request.
    #[error(transparent)]
    Malformed(#[from] Http1Error),
}

/// A head from the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseEvent {
    /// An informational response; another head follows.
    Informational,
    /// The response. `end_stream`: nothing follows it.
    Head {
        /// Nothing follows it.
        end_stream: bool,
    },
}

/// Why there is no (whole) response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The origin has closed the connection, or it failed, before the head was whole.
    #[error("the origin has closed the connection")]
    Closed {
        /// Not one octet of a response had come.
        unanswered: bool,
        /// It was no orderly close.
        failed: bool,
    },
    /// What it sent is no acceptable response.
    #[error(transparent)]
    Malformed(#[from] Http1Error),
    /// The stream has ended before its response.
    #[error(transparent)]
    Stream(#[from] StreamEnd),
}
