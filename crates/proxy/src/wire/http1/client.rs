//! The client's role: one request out, one response in.

use super::{BodyReader, Writer, content_length, field_bytes};
use crate::{
    buffer::SMALL,
    socket::Socket,
    wire::{BodyError, ClientError, Part, ResponseEvent, WriteError},
};
use bytes::Bytes;
use sota_codec::http1::{
    BodyLength, DecodeOptions, HeadEncoding, HeadProgress, Http1Error, RequestContext, ResponseInfo, ResponseOutcome,
    decode_response, encode_request_head,
};
use sota_config::http::HeaderKeyFormat;
use sota_plugin::http::{Headers, Method, RequestHead, ResponseHead};
use std::{
    io,
    task::{Context, Poll, ready},
};

/// More informational responses than this to one request are a fault of the origin.
const MAX_INFORMATIONAL: u8 = 32;

/// How the client's role is played.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// What is accepted.
    pub decode: DecodeOptions,
    /// How names are written.
    pub names: HeaderKeyFormat,
    /// Send trailers and take them.
    pub trailers: bool,
    /// Write targets in absolute form.
    pub absolute_form: bool,
}

/// One request and its response. Holds nothing of the connection but where the message stands.
pub struct ClientStream {
    context: RequestContext,
    progress: HeadProgress,
    informational: u8,
    /// Octets that had arrived when the request was begun.
    received_before: u64,
    sent_before: u64,
    keep_alive: bool,
    reader: Option<BodyReader>,
    writer: Writer,
    buffer_limit: usize,
    header_bytes: [u64; 2],
    sent_all: bool,
    /// The response has opened a tunnel.
    is_tunnel: bool,
}

impl ClientStream {
    /// Writes the head of a request to what will be sent. `end_stream`: nothing follows it, but a tunnel if the origin
    /// agrees to one with `tunnel`.
    pub fn begin(
        socket: &Socket,
        head: &RequestHead,
        (end_stream, tunnel): (bool, bool),
        options: &ClientOptions,
        buffer_limit: usize,
    ) -> Self {
        let body = match content_length(&head.headers) {
            _ if end_stream => BodyLength::Empty,
            Some(length) => BodyLength::Length(length),
            None => BodyLength::Chunked,
        };
        let mut writer = Writer::default();
        let encoding =
            HeadEncoding { names: options.names, absolute_form: options.absolute_form, ..HeadEncoding::new(body) };
        writer.head(body, |out| encode_request_head(head, &encoding, out));
        let header_bytes = [writer.waiting() as u64, 0];
        Self {
            context: RequestContext::new(&head.method, tunnel && head.method != Method::Connect),
            progress: HeadProgress::default(),
            informational: 0,
            received_before: socket.bytes_received(),
            sent_before: socket.bytes_sent(),
            keep_alive: false,
            reader: None,
            writer,
            buffer_limit,
            header_bytes,
            sent_all: end_stream,
            is_tunnel: false,
        }
    }

    /// Sends data. While it is pending, call again with the same data.
    pub fn poll_data(&mut self, cx: &mut Context<'_>, socket: &Socket, data: &[u8]) -> Poll<Result<(), WriteError>> {
        self.writer.poll_data(cx, socket, data)
    }

    /// Ends the request.
    pub fn end(&mut self, trailers: Option<&Headers>, options: &ClientOptions) -> Result<(), WriteError> {
        self.sent_all = true;
        self.writer.end(trailers.filter(|_| options.trailers), options.names)
    }

    /// Writes what was collected.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, socket: &Socket) -> Poll<io::Result<()>> {
        ready!(self.writer.poll_flush(cx, socket))?;
        match self.is_tunnel && self.sent_all {
            true => socket.poll_shutdown(cx),
            false => Poll::Ready(Ok(())),
        }
    }

    /// Octets on the wire of request and response so far, heads and framing included.
    pub fn wire_bytes(&self, socket: &Socket) -> (u64, u64) {
        (socket.bytes_sent() - self.sent_before, socket.bytes_received() - self.received_before)
    }

    /// Octets of the head that was sent, and of the fields of the one that was received, as Envoy counts them.
    pub fn header_bytes(&self) -> (u64, u64) {
        (self.header_bytes[0], self.header_bytes[1])
    }

    /// Whether nothing of the request has left.
    pub fn is_unsent(&self, socket: &Socket) -> bool {
        socket.bytes_sent() == self.sent_before
    }

    /// Reads the next head of the response.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        socket: &Socket,
        options: &ClientOptions,
        head: &mut ResponseHead,
    ) -> Poll<Result<ResponseEvent, ClientError>> {
        loop {
            let (context, progress) = (self.context, &mut self.progress);
            let outcome = socket.with_input(|input| {
                if input.is_empty() {
                    return (0, Ok(ResponseOutcome::NeedMore));
                }
                match decode_response(input, &options.decode, context, progress, head) {
                    Ok(ResponseOutcome::Head(info)) => (info.consumed, Ok(ResponseOutcome::Head(info))),
                    other => (0, other),
                }
            });
            match outcome? {
                ResponseOutcome::Head(info) if head.status.is_informational() && info.body != BodyLength::Tunnel => {
                    self.informational += 1;
                    if self.informational > MAX_INFORMATIONAL {
                        return Poll::Ready(Err(Http1Error::StatusLine.into()));
                    }
                    return Poll::Ready(Ok(ResponseEvent::Informational));
                }
                ResponseOutcome::Head(info) => {
                    self.header_bytes[1] = field_bytes(&head.headers) as u64;
                    return Poll::Ready(Ok(ResponseEvent::Head { end_stream: self.begin_body(&info, options) }));
                }
                ResponseOutcome::NeedMore => {}
            }
            let most = options.decode.max_head_bytes.saturating_add(1);
            let max = if socket.buffered() < SMALL { SMALL } else { most.max(SMALL + 1) };
            match ready!(socket.poll_fill(cx, max)) {
                Ok(read) if read > 0 => {}
                ended => {
                    let unanswered = socket.bytes_received() == self.received_before;
                    return Poll::Ready(Err(ClientError::Closed { unanswered, failed: ended.is_err() }));
                }
            }
        }
    }

    fn begin_body(&mut self, info: &ResponseInfo, options: &ClientOptions) -> bool {
        self.keep_alive = info.keep_alive;
        if info.body == BodyLength::Tunnel {
            self.keep_alive = false;
            self.sent_all = false;
            self.is_tunnel = true;
            self.writer.open_tunnel();
        }
        let reader = BodyReader::new(info.body, &options.decode, self.buffer_limit);
        let end_stream = reader.is_complete();
        self.reader = Some(reader);
        end_stream
    }

    /// The next part of the response's body. Behind the head only.
    pub fn poll_part(
        &mut self,
        cx: &mut Context<'_>,
        socket: &Socket,
        options: &ClientOptions,
    ) -> Poll<Result<Part, BodyError>> {
        let Some(reader) = &mut self.reader else { return Poll::Ready(Ok(Part::End)) };
        loop {
            match ready!(reader.poll_part(cx, socket))? {
                Part::Trailers(_) if !options.trailers => {}
                part => return Poll::Ready(Ok(part)),
            }
        }
    }

    /// Runs `f` on the data that [`Part::Data`] told of; it says how much of it is used up. It may write to another
    /// socket.
    pub fn with_data<R>(&mut self, socket: &Socket, f: impl FnOnce(&[u8]) -> (usize, R)) -> Option<R> {
        self.reader.as_mut().map(|reader| reader.with_data(socket, f))
    }

    /// Copies the data that [`Part::Data`] told of.
    pub fn take_data(&mut self, socket: &Socket) -> Bytes {
        self.reader.as_mut().map_or_else(Bytes::new, |reader| reader.take_data(socket))
    }

    /// Whether the last octet of the response was taken.
    pub fn is_response_complete(&self) -> bool {
        self.reader.as_ref().is_some_and(BodyReader::is_complete)
    }

    /// Whether the connection may carry another request: both messages are whole, nothing was sent unasked, and the
    /// origin keeps it open.
    pub fn may_reuse(&self, socket: &Socket) -> bool {
        self.keep_alive
            && self.sent_all
            && self.writer.waiting() == 0
            && self.reader.as_ref().is_some_and(BodyReader::is_complete)
            && socket.buffered() == 0
            && !socket.has_ended()
    }
}
