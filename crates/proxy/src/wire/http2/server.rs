//! The server's role: a request in, a response out.

use super::{Stream, StreamEnd};
use crate::wire::{BodyError, Part, RequestError, RequestStart, WriteError};
use bytes::Bytes;
use sota_codec::{
    http1::{BodyLength, RequestInfo},
    http2::ErrorCode,
};
use sota_plugin::http::{HeaderId, Headers, Method, RequestHead, ResponseHead, StatusCode};
use std::{
    cell::Cell,
    io,
    task::{Context, Poll},
};

/// One request and its response on a connection. Both directions may be polled in turn, by one task.
pub struct ServerStream {
    stream: Stream,
    is_head: Cell<bool>,
}

impl ServerStream {
    pub(super) fn new(stream: Stream) -> Self {
        stream.set_code(ErrorCode::INTERNAL_ERROR);
        Self { stream, is_head: Cell::new(false) }
    }

    /// The stream itself.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Takes the head, which is there from the beginning.
    pub fn poll_head(&self, head: &mut RequestHead) -> Poll<Result<RequestStart, RequestError>> {
        if !self.stream.take_request(head) {
            return Poll::Ready(Err(RequestError::Closed));
        }
        self.is_head.set(head.method == Method::Head);
        let expects = head.headers.get(HeaderId::Expect);
        Poll::Ready(Ok(RequestStart::Head(RequestInfo {
            consumed: 0,
            body: if self.has_body() { BodyLength::Chunked } else { BodyLength::Empty },
            keep_alive: true,
            expects_continue: expects.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")),
            wants_upgrade: head.headers.contains(HeaderId::Upgrade),
            is_absolute_form: false,
            host_missing: head.authority().is_empty(),
            dropped_fields: 0,
        })))
    }

    /// Whether the head says that nothing follows it.
    pub fn has_body(&self) -> bool {
        !self.stream.is_received()
    }

    /// Whether the last octet of the request was taken.
    pub fn is_request_complete(&self) -> bool {
        self.stream.is_received()
    }

    /// Octets of the request's body so far.
    pub fn body_received(&self) -> u64 {
        self.stream.body_received()
    }

    /// The next part of the request's body.
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

    /// Ready when the stream or its connection is over.
    pub fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_ended(cx).map(drop)
    }

    /// Why the stream is over before its time, if it is.
    pub fn ended(&self) -> Option<StreamEnd> {
        self.stream.ended()
    }

    /// Asks the client for the body.
    pub fn send_continue(&self) {
        self.send_informational(&ResponseHead::new(StatusCode::CONTINUE));
    }

    /// Sends an informational response. A stream that is over shows that elsewhere.
    pub fn send_informational(&self, head: &ResponseHead) {
        let _ = self.stream.send_response(head, false);
    }

    /// Begins the response. A head that cannot be said resets the stream: nothing can be sent behind it.
    pub fn send_head(&self, head: &ResponseHead, end_stream: bool) {
        // What the head says of a body that is not sent is of another message.
        let has_no_body =
            self.is_head.get() || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if self.stream.send_response(head, end_stream || has_no_body).is_ok() && self.stream.has_sent_all() {
            self.has_answered();
        }
    }

    /// Sends data. While it is pending, call again with the same data.
    pub fn poll_data(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>> {
        if self.stream.has_sent_all() && !data.is_empty() {
            return Poll::Ready(Err(WriteError::Length));
        }
        self.stream.poll_data(cx, data)
    }

    /// Ends the response.
    pub fn end(&self, trailers: Option<&Headers>) -> Result<(), WriteError> {
        self.stream.end(trailers)?;
        self.has_answered();
        Ok(())
    }

    /// What is left of the request is not wanted (RFC 9113 §8.1).
    fn has_answered(&self) {
        self.stream.set_code(ErrorCode::NO_ERROR);
    }

    /// What was collected is written by the connection's driver.
    pub fn poll_flush(&self) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
