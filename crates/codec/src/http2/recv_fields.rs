//! HEADERS and CONTINUATION: whose field block it is, and what becomes of it.

use super::{
    Connection, ConnectionError, ErrorCode, Event, HeadPool, StreamFault, StreamId,
    frame::{self, FrameHead, flag},
    hpack::{FieldSink, HpackError},
    message::{Answers, NoSink, RequestSink, ResponseSink, TrailerSink},
    recv::Block,
    settings::DEFAULT_WINDOW,
    stream::{Half, Stream},
};
use sota_plugin::http::{HeaderId, ResponseHead, StatusCode};

/// Octets of the deprecated priority fields (RFC 9113 §6.2).
const PRIORITY_LEN: usize = 5;

impl Connection {
    pub(super) fn headers<'a>(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        pool: &mut HeadPool,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        let Some(mut fragment) = frame::without_padding(head, payload) else {
            return Err(ConnectionError::protocol("more padding than payload"));
        };
        self.flood.count(head, fragment.len(), &self.options, &mut self.counters)?;
        if head.has(flag::PRIORITY) {
            let Some((_, rest)) = fragment.split_at_checked(PRIORITY_LEN) else {
                return Err(ConnectionError::frame_size("HEADERS without its priority fields"));
            };
            fragment = rest;
        }
        let end_stream = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.field_block(head.stream, end_stream, fragment, pool);
        }
        self.block = Some(Box::new(Block { stream: head.stream, end_stream, octets: fragment.to_vec() }));
        Ok(None)
    }

    pub(super) fn continuation<'a>(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        pool: &mut HeadPool,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        self.flood.count(head, payload.len(), &self.options, &mut self.counters)?;
        let Some(block) = &mut self.block else {
            return Err(ConnectionError::protocol("unexpected CONTINUATION"));
        };
        if block.octets.len() + payload.len() > self.options.max_block_bytes() {
            // The table cannot follow what is not read, so the connection ends, not the stream.
            self.counters.header_overflow += 1;
            return Err(ConnectionError::flood("field block too large"));
        }
        block.octets.extend_from_slice(payload);
        if !head.has(flag::END_HEADERS) {
            return Ok(None);
        }
        match self.block.take() {
            Some(block) => self.field_block(block.stream, block.end_stream, &block.octets, pool),
            None => Ok(None),
        }
    }

    fn field_block<'a>(
        &mut self,
        stream: StreamId,
        end_stream: bool,
        block: &[u8],
        pool: &mut HeadPool,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        let state = self.streams.get(stream).filter(|entry| !entry.is_closed()).map(|entry| entry.recv);
        match state {
            Some(Half::Ended) => {
                self.read_block(block, pool, &mut NoSink)?;
                self.stream_fault(stream, StreamFault::Closed)
            }
            Some(Half::Head) => self.response(stream, end_stream, block, pool),
            Some(Half::Body) => self.trailers(stream, end_stream, block, pool),
            None if !self.is_idle(stream) => {
                self.read_block(block, pool, &mut NoSink)?;
                if self.may_be_in_flight(stream) {
                    return Ok(None);
                }
                Err(ConnectionError::new(ErrorCode::STREAM_CLOSED, "HEADERS on a closed stream"))
            }
            None if self.is_client || stream.is_multiple_of(2) => {
                Err(ConnectionError::protocol("HEADERS on an idle stream"))
            }
            None => self.request(stream, end_stream, block, pool),
        }
    }

    fn read_block(
        &mut self,
        block: &[u8],
        pool: &mut HeadPool,
        sink: &mut impl FieldSink,
    ) -> Result<(), ConnectionError> {
        self.decoder.decode(block, &mut pool.strings, sink).map_err(compression_error)
    }

    fn request<'a>(
        &mut self,
        stream: StreamId,
        end_stream: bool,
        block: &[u8],
        pool: &mut HeadPool,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        self.last_peer_stream = stream;
        let refused = self.streams.live() >= self.options.max_concurrent_streams;
        let ignored = self.goaway_sent.is_some_and(|last| stream > last);
        if refused || ignored {
            self.read_block(block, pool, &mut NoSink)?;
            return if ignored { Ok(None) } else { self.stream_fault(stream, StreamFault::Refused) };
        }
        self.flood.streams = self.flood.streams.saturating_add(1);
        let mut head = pool.take_request();
        let mut sink = RequestSink::new(&self.options, &mut head, &mut pool.cookies);
        self.decoder.decode(block, &mut pool.strings, &mut sink).map_err(compression_error)?;
        let facts = match sink.finish(end_stream, self.options.allow_connect) {
            Ok(facts) => facts,
            Err(fault) => {
                pool.give_request(head);
                return self.stream_fault(stream, fault);
            }
        };
        self.counters.dropped_headers_with_underscores += facts.dropped;
        let mut entry = self.new_stream();
        entry.recv = if end_stream { Half::Ended } else { Half::Body };
        entry.body_left = facts.body;
        entry.is_upgrade = facts.is_upgrade;
        entry.answers = Answers { is_head: false, is_connect: facts.is_connect };
        entry.is_tunnel = facts.is_connect;
        self.streams.insert(stream, entry);
        Ok(Some(Event::Request { stream, head, end_stream }))
    }

    pub(super) fn new_stream(&self) -> Stream {
        let recv_window = self.options.initial_stream_window.clamp(DEFAULT_WINDOW, frame::MAX_31);
        // Both are at most 2^31-1.
        Stream::new(self.peer.initial_window_size as i32, recv_window as i32, self.now)
    }

    fn response<'a>(
        &mut self,
        stream: StreamId,
        end_stream: bool,
        block: &[u8],
        pool: &mut HeadPool,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        let answers = self.streams.get(stream).map(|entry| entry.answers).unwrap_or_default();
        let mut head = pool.take_response();
        let mut sink = ResponseSink::new(&self.options, &mut head);
        self.decoder.decode(block, &mut pool.strings, &mut sink).map_err(compression_error)?;
        let body = match sink.finish(end_stream, answers) {
            Ok(body) => body,
            Err(fault) => {
                pool.give_response(head);
                return self.stream_fault(stream, fault);
            }
        };
        if !head.status.is_informational()
            && let Some(entry) = self.streams.get_mut(stream)
        {
            entry.recv = Half::Body;
            entry.body_left = body;
            entry.is_tunnel = answers.is_connect && head.status.is_success();
            if let Some(protocol) = entry.protocol.take() {
                show_as_upgrade(&mut head, &protocol);
            }
            if end_stream {
                self.end(stream, true, false);
            }
        }
        Ok(Some(Event::Response { stream, head, end_stream }))
    }

    fn trailers<'a>(
        &mut self,
        stream: StreamId,
        end_stream: bool,
        block: &[u8],
        pool: &mut HeadPool,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        self.counters.trailers += u32::from(!self.is_client);
        let mut trailers = pool.take_trailers();
        let mut sink = TrailerSink::new(&self.options, &mut trailers);
        self.decoder.decode(block, &mut pool.strings, &mut sink).map_err(compression_error)?;
        // A second head that does not end the stream (RFC 9113 §8.1), trailers before all data has come, trailers in
        // a tunnel.
        let misplaced = !end_stream
            || self
                .streams
                .get(stream)
                .is_none_or(|entry| entry.is_tunnel || entry.body_left.is_some_and(|left| left > 0));
        let fault = sink.finish().err().or_else(|| misplaced.then_some(StreamFault::Messaging));
        if let Some(fault) = fault {
            pool.give_trailers(trailers);
            return self.stream_fault(stream, fault);
        }
        self.end(stream, true, false);
        Ok(Some(Event::Trailers { stream, trailers }))
    }
}

/// An accepted extended CONNECT, as HTTP/1 would say it.
fn show_as_upgrade(head: &mut ResponseHead, protocol: &[u8]) {
    if head.status == StatusCode::OK {
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        head.headers.set_sanitized(HeaderId::Connection, "upgrade");
        head.headers.set_sanitized(HeaderId::Upgrade, protocol);
    }
}

fn compression_error(error: HpackError) -> ConnectionError {
    let HpackError = error;
    ConnectionError::new(ErrorCode::COMPRESSION_ERROR, "invalid field compression")
}
