//! The server's role in either protocol.

use super::{BodyError, Part, RequestError, RequestStart, WriteError, http1, http2};
use bytes::Bytes;
use sota_plugin::http::{Headers, Protocol, RequestHead, ResponseHead};
use std::{
    io,
    task::{Context, Poll},
};

/// One request and its response. Both directions may be polled in turn, by one task.
pub enum ServerStream<'c> {
    /// On a connection of its own, as long as it lasts.
    Http1(http1::ServerStream<'c>),
    /// On a connection that is shared.
    Http2(http2::ServerStream),
}

macro_rules! forward {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self {
            Self::Http1($stream) => $call,
            Self::Http2($stream) => $call,
        }
    };
}

impl ServerStream<'_> {
    /// The protocol, as far as it is known before the head is read.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Http1(_) => Protocol::Http11,
            Self::Http2(_) => Protocol::Http2,
        }
    }

    /// The stream, if it is one of HTTP/2.
    pub fn http2(&self) -> Option<&http2::ServerStream> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(stream) => Some(stream),
        }
    }

    /// Reads the head.
    pub fn poll_head(&self, cx: &mut Context<'_>, head: &mut RequestHead) -> Poll<Result<RequestStart, RequestError>> {
        match self {
            Self::Http1(stream) => stream.poll_head(cx, head),
            Self::Http2(stream) => stream.poll_head(head),
        }
    }

    /// Whether the head says that nothing follows it.
    pub fn has_body(&self) -> bool {
        forward!(self, stream => stream.has_body())
    }

    /// Whether the last octet of the request was taken.
    pub fn is_request_complete(&self) -> bool {
        forward!(self, stream => stream.is_request_complete())
    }

    /// Octets of the request's body so far.
    pub fn body_received(&self) -> u64 {
        forward!(self, stream => stream.body_received())
    }

    /// Octets of the response's head.
    pub fn header_bytes_sent(&self) -> u64 {
        match self {
            Self::Http1(stream) => stream.header_bytes_sent(),
            Self::Http2(stream) => stream.stream().octets_sent().0,
        }
    }

    /// The next part of the request's body.
    pub fn poll_part(&self, cx: &mut Context<'_>) -> Poll<Result<Part, BodyError>> {
        forward!(self, stream => stream.poll_part(cx))
    }

    /// Runs `f` on the data that [`Part::Data`] told of; it says how much of it is used up. It may write to another
    /// socket.
    pub fn with_data<R>(&self, f: impl FnOnce(&[u8]) -> (usize, R)) -> R {
        forward!(self, stream => stream.with_data(f))
    }

    /// Copies the data that [`Part::Data`] told of.
    pub fn take_data(&self) -> Bytes {
        forward!(self, stream => stream.take_data())
    }

    /// Ready when the client has gone, or has given the stream up.
    pub fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        forward!(self, stream => stream.poll_closed(cx))
    }

    /// Asks the client for the body.
    pub fn send_continue(&self) {
        forward!(self, stream => stream.send_continue());
    }

    /// Sends an informational response.
    pub fn send_informational(&self, head: &ResponseHead) {
        forward!(self, stream => stream.send_informational(head));
    }

    /// Begins the response. Says whether the connection ends behind it, which `close` wants: never with HTTP/2.
    pub fn send_head(&self, head: &mut ResponseHead, end_stream: bool, close: bool) -> bool {
        match self {
            Self::Http1(stream) => stream.send_head(head, end_stream, close),
            Self::Http2(stream) => {
                stream.send_head(head, end_stream);
                false
            }
        }
    }

    /// Sends data. While it is pending, call again with the same data.
    pub fn poll_data(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>> {
        forward!(self, stream => stream.poll_data(cx, data))
    }

    /// Ends the response.
    pub fn end(&self, trailers: Option<&Headers>) -> Result<(), WriteError> {
        forward!(self, stream => stream.end(trailers))
    }

    /// Writes what was collected.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(stream) => stream.poll_flush(cx),
            Self::Http2(stream) => stream.poll_flush(),
        }
    }

    /// Ends the direction of a tunnel that goes to the client.
    pub fn poll_end_tunnel(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(stream) => stream.poll_end_tunnel(cx),
            // The end of the response says so.
            Self::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether another request may follow on the connection, as far as client and framing are concerned.
    pub fn may_persist(&self) -> bool {
        match self {
            Self::Http1(stream) => stream.may_persist(),
            Self::Http2(_) => true,
        }
    }

    /// Whether only the end of the connection ends the response.
    pub fn ends_with_connection(&self) -> bool {
        match self {
            Self::Http1(stream) => stream.ends_with_connection(),
            Self::Http2(_) => false,
        }
    }

    /// The head could not be read: an HTTP/1 connection ends.
    pub fn abandon(&self) {
        if let Self::Http1(stream) = self {
            stream.abandon();
        }
    }
}
