//! The client's role: one request out, one response in.

use super::{Connection, Stream};
use crate::wire::{BodyError, ClientError, Part, ResponseEvent, WriteError};
use bytes::Bytes;
use sota_codec::http2::SendError;
use sota_plugin::http::{Headers, RequestHead, ResponseHead, StatusCode};
use std::{
    rc::Rc,
    task::{Context, Poll, ready},
};

/// One request and its response on a connection.
pub struct ClientStream {
    stream: Stream,
}

impl ClientStream {
    /// Opens a stream with the head of a request. `end_stream`: nothing follows it.
    pub fn begin(connection: &Rc<Connection>, head: &RequestHead, end_stream: bool) -> Result<Self, SendError> {
        connection.open(head, end_stream).map(|stream| Self { stream })
    }

    /// The stream itself.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Sends data. While it is pending, call again with the same data.
    pub fn poll_data(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>> {
        self.stream.poll_data(cx, data)
    }

    /// Ends the request.
    pub fn end(&self, trailers: Option<&Headers>) -> Result<(), WriteError> {
        self.stream.end(trailers)
    }

    /// The next head of the response.
    pub fn poll_head(&self, cx: &mut Context<'_>, head: &mut ResponseHead) -> Poll<Result<ResponseEvent, ClientError>> {
        let end_stream = ready!(self.stream.poll_response(cx, head))?;
        Poll::Ready(Ok(match head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
            true => ResponseEvent::Informational,
            false => ResponseEvent::Head { end_stream },
        }))
    }

    /// The next part of the response's body. Behind the head only.
    pub fn poll_part(&self, cx: &mut Context<'_>) -> Poll<Result<Part, BodyError>> {
        self.stream.poll_part(cx)
    }

    /// Runs `f` on the data that [`Part::Data`] told of; it says how much of it is used up.
    pub fn with_data<R>(&self, f: impl FnOnce(&[u8]) -> (usize, R)) -> R {
        self.stream.with_data(f)
    }

    /// Copies the data that [`Part::Data`] told of.
    pub fn take_data(&self) -> Bytes {
        self.stream.take_data()
    }

    /// Whether the last octet of the response was taken.
    pub fn is_response_complete(&self) -> bool {
        self.stream.is_received()
    }
}
