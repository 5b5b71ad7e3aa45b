//! The server's role: requests in, responses out.

use super::{BodyReader, Writer, content_length};
use crate::{
    buffer::SMALL,
    socket::Socket,
    wire::{BodyError, Part, RequestError, RequestStart, WriteError},
};
use bytes::Bytes;
use sota_codec::http1::{
    BodyLength, CONTINUE, DecodeOptions, HeadEncoding, HeadProgress, RequestInfo, RequestOutcome, decode_request,
    encode_response_head,
};
use sota_config::http::HeaderKeyFormat;
use sota_plugin::http::{HeaderId, Headers, Method, Protocol, RequestHead, ResponseHead, StatusCode};
use std::{
    cell::{Cell, RefCell},
    io,
    task::{Context, Poll, ready},
};

/// How the server's role is played.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// What is accepted.
    pub decode: DecodeOptions,
    /// How names are written.
    pub names: HeaderKeyFormat,
    /// Pass trailers on, both ways.
    pub trailers: bool,
}

/// One request and its response on a connection. Both directions may be polled in turn.
pub struct ServerStream<'c> {
    socket: &'c Socket,
    options: &'c ServerOptions,
    buffer_limit: usize,
    progress: Cell<HeadProgress>,
    request: Cell<Option<RequestInfo>>,
    reader: RefCell<BodyReader>,
    writer: RefCell<Writer>,
    protocol: Cell<Protocol>,
    is_head: Cell<bool>,
    is_connect: Cell<bool>,
    ends_with_connection: Cell<bool>,
    keep_alive: Cell<bool>,
    header_bytes_sent: Cell<u64>,
}

impl<'c> ServerStream<'c> {
    /// The next request on a connection. `buffer_limit`: the connection's, in octets.
    pub fn new(socket: &'c Socket, options: &'c ServerOptions, buffer_limit: usize) -> Self {
        Self {
            socket,
            options,
            buffer_limit,
            progress: Cell::default(),
            request: Cell::new(None),
            reader: RefCell::new(BodyReader::new(BodyLength::Empty, &options.decode, buffer_limit)),
            writer: RefCell::default(),
            protocol: Cell::new(Protocol::Http11),
            is_head: Cell::new(false),
            is_connect: Cell::new(false),
            ends_with_connection: Cell::new(false),
            keep_alive: Cell::new(false),
            header_bytes_sent: Cell::new(0),
        }
    }

    /// Reads the head.
    pub fn poll_head(&self, cx: &mut Context<'_>, head: &mut RequestHead) -> Poll<Result<RequestStart, RequestError>> {
        loop {
            let mut progress = self.progress.get();
            let outcome = self.socket.with_input(|input| {
                if input.is_empty() {
                    return (0, Ok(RequestOutcome::NeedMore));
                }
                match decode_request(input, &self.options.decode, &mut progress, head) {
                    Ok(RequestOutcome::Head(info)) => (info.consumed, Ok(RequestOutcome::Head(info))),
                    other => (0, other),
                }
            });
            self.progress.set(progress);
            match outcome? {
                RequestOutcome::Head(info) => {
                    self.begin(info, head);
                    return Poll::Ready(Ok(RequestStart::Head(info)));
                }
                RequestOutcome::Http2Preface => return Poll::Ready(Ok(RequestStart::Http2Preface)),
                RequestOutcome::NeedMore => {}
            }
            // One octet more than a head may have, so that the limit shows.
            let most = self.options.decode.max_head_bytes.saturating_add(1);
            let max = if self.socket.buffered() < SMALL { SMALL } else { most.max(SMALL + 1) };
            match ready!(self.socket.poll_fill(cx, max)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(RequestError::Closed)),
                Ok(_) => {}
            }
        }
    }

    fn begin(&self, info: RequestInfo, head: &RequestHead) {
        self.reader.replace(BodyReader::new(info.body, &self.options.decode, self.buffer_limit));
        self.protocol.set(head.protocol);
        self.is_head.set(head.method == Method::Head);
        self.is_connect.set(head.method == Method::Connect);
        self.keep_alive.set(info.keep_alive);
        self.request.set(Some(info));
    }

    /// Whether the head says that nothing follows it.
    pub fn has_body(&self) -> bool {
        !self.reader.borrow().is_complete()
    }

    /// Whether the last octet of the request was taken.
    pub fn is_request_complete(&self) -> bool {
        self.request.get().is_some() && self.reader.borrow().is_complete()
    }

    /// Whether the connection may serve another request behind this one, as far as client and framing are concerned.
    pub fn may_persist(&self) -> bool {
        self.keep_alive.get() && self.is_request_complete()
    }

    /// Octets of the request's body so far.
    pub fn body_received(&self) -> u64 {
        self.reader.borrow().received()
    }

    /// Octets of the response's head.
    pub fn header_bytes_sent(&self) -> u64 {
        self.header_bytes_sent.get()
    }

    /// The next part of the request's body.
    pub fn poll_part(&self, cx: &mut Context<'_>) -> Poll<Result<Part, BodyError>> {
        let mut reader = self.reader.borrow_mut();
        loop {
            match ready!(reader.poll_part(cx, self.socket))? {
                Part::Trailers(_) if !self.options.trailers => {}
                part => return Poll::Ready(Ok(part)),
            }
        }
    }

    /// Runs `f` on the data that [`Part::Data`] told of; it says how much of it is used up. It may write to another
    /// socket.
    pub fn with_data<R>(&self, f: impl FnOnce(&[u8]) -> (usize, R)) -> R {
        self.reader.borrow_mut().with_data(self.socket, f)
    }

    /// Copies the data that [`Part::Data`] told of.
    pub fn take_data(&self) -> Bytes {
        self.reader.borrow_mut().take_data(self.socket)
    }

    /// Ready when the client has closed the connection. Reads ahead a little meanwhile.
    pub fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match ready!(self.socket.poll_fill(cx, SMALL)) {
                Ok(0) if self.socket.has_ended() => return Poll::Ready(()),
                // As much as may be read ahead is there; whether the client goes is seen when that is taken.
                Ok(0) => return Poll::Pending,
                Ok(_) => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Asks the client for the body.
    pub fn send_continue(&self) {
        self.writer.borrow_mut().interim(|out| out.extend_from_slice(CONTINUE));
    }

    /// Sends an informational response; not to clients that speak HTTP/1.0.
    pub fn send_informational(&self, head: &ResponseHead) {
        if self.protocol.get() == Protocol::Http11 {
            let encoding = HeadEncoding { names: self.options.names, ..HeadEncoding::new(BodyLength::Empty) };
            self.writer.borrow_mut().interim(|out| encode_response_head(head, &encoding, false, out));
        }
    }

    /// Begins the response. Whether the connection ends behind it is decided here: when `close` says so, when the
    /// client wants it or its request is not complete, and when only the end of the connection can end the body.
    /// Says so.
    pub fn send_head(&self, head: &mut ResponseHead, end_stream: bool, close: bool) -> bool {
        if head.status == StatusCode::SWITCHING_PROTOCOLS || self.is_connect.get() && head.status.is_success() {
            self.open_tunnel(head);
            return true;
        }
        let has_no_body = self.is_head.get()
            || head.status == StatusCode::NO_CONTENT
            || head.status == StatusCode::NOT_MODIFIED
            || end_stream;
        let is_10 = self.protocol.get() == Protocol::Http10;
        let body = match content_length(&head.headers) {
            _ if has_no_body => BodyLength::Empty,
            Some(length) => BodyLength::Length(length),
            None if is_10 => BodyLength::UntilClose,
            None => BodyLength::Chunked,
        };
        let close = close || !self.may_persist() || body == BodyLength::UntilClose;
        self.keep_alive.set(!close);
        self.ends_with_connection.set(body == BodyLength::UntilClose);
        // In the head, where logs see it.
        if close {
            head.headers.set_sanitized(HeaderId::Connection, "close");
        } else if is_10 {
            head.headers.set_sanitized(HeaderId::Connection, "keep-alive");
        }
        let encoding = HeadEncoding {
            protocol: self.protocol.get(),
            names: self.options.names,
            ..HeadEncoding::new(match self.is_head.get() && !is_10 && content_length(&head.headers).is_none() {
                // Compat: what a GET would have been answered with.
                true => BodyLength::Chunked,
                false => body,
            })
        };
        let mut writer = self.writer.borrow_mut();
        let before = writer.waiting();
        writer.head(body, |out| encode_response_head(head, &encoding, self.is_head.get(), out));
        self.header_bytes_sent.set((writer.waiting() - before) as u64);
        close
    }

    /// Begins a tunnel with the head that agrees to it: what the client sends from here on is no HTTP.
    fn open_tunnel(&self, head: &mut ResponseHead) {
        self.keep_alive.set(false);
        self.ends_with_connection.set(true);
        self.reader.replace(BodyReader::new(BodyLength::Tunnel, &self.options.decode, self.buffer_limit));
        let encoding = HeadEncoding { names: self.options.names, ..HeadEncoding::new(BodyLength::Tunnel) };
        let mut writer = self.writer.borrow_mut();
        let before = writer.waiting();
        writer.head(BodyLength::Tunnel, |out| encode_response_head(head, &encoding, false, out));
        self.header_bytes_sent.set((writer.waiting() - before) as u64);
    }

    /// Ends the direction of a tunnel that goes to the client.
    pub fn poll_end_tunnel(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        self.socket.poll_shutdown(cx)
    }

    /// Sends data. While it is pending, call again with the same data.
    pub fn poll_data(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>> {
        self.writer.borrow_mut().poll_data(cx, self.socket, data)
    }

    /// Ends the response.
    pub fn end(&self, trailers: Option<&Headers>) -> Result<(), WriteError> {
        let trailers = trailers.filter(|_| self.options.trailers);
        self.writer.borrow_mut().end(trailers, self.options.names)
    }

    /// Writes what was collected.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.borrow_mut().poll_flush(cx, self.socket)
    }

    /// Whether only the end of the connection ends the response.
    pub fn ends_with_connection(&self) -> bool {
        self.ends_with_connection.get()
    }

    /// The head could not be read or the response not be completed: the connection ends.
    pub fn abandon(&self) {
        self.keep_alive.set(false);
    }
}
