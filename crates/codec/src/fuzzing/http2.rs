//! HTTP/2: field blocks, and whole connections in either role.

use crate::{
    h2_preface::PREFACE,
    http2::{
        Connection, ConnectionError, Event, HeadPool, Options, StreamId,
        hpack::{Decoder, Encoder, FieldSink, Name},
    },
};
use sota_plugin::http::{HeaderId, Headers, Method, RequestHead, ResponseHead, StatusCode};
use std::{collections::BTreeMap, sync::Arc};

/// Fields as they came.
#[derive(Default)]
struct List(Vec<(Vec<u8>, Vec<u8>)>);

impl FieldSink for List {
    fn field(&mut self, name: Name<'_>, value: &[u8]) {
        // One octet may stand for four thousand: what is behind the first million adds nothing.
        if self.0.len() < 500 {
            self.0.push((name.as_bytes().to_vec(), value.to_vec()));
        }
    }
}

/// Target `hpack`: two octets for the table sizes of the decoder under test and of the encoder, then blocks, each
/// behind an octet with its length. What is read is written and read again.
pub fn fuzz_hpack(data: &[u8]) {
    let [limit, own_limit, blocks @ ..] = data else { return };
    let (mut decoder, mut again) = (Decoder::new(), Decoder::new());
    let mut encoder = Encoder::new(usize::from(*own_limit) * 40);
    decoder.set_limit(4096 + usize::from(*limit));
    again.set_limit(usize::MAX);
    let (mut scratch, mut rest) = (Vec::new(), blocks);
    while let Some((len, tail)) = rest.split_first() {
        let (block, tail) = tail.split_at_checked(usize::from(*len)).unwrap_or((tail, &[]));
        rest = tail;
        let mut list = List::default();
        if decoder.decode(block, &mut scratch, &mut list).is_err() {
            return;
        }
        assert!(decoder.memory() < 32 * 1024);
        let mut out = Vec::new();
        encoder.begin(&mut out);
        list.0.retain(|(name, _)| !matches!(Name::classify(name), Name::Invalid(_)));
        for (name, value) in &list.0 {
            encoder.field(Name::classify(name), value, &mut out);
        }
        let mut read = List::default();
        assert_eq!(again.decode(&out, &mut scratch, &mut read), Ok(()));
        assert_eq!(read.0, list.0);
        encoder.set_peer_limit(usize::from(*len) * 20);
    }
}

/// Target `http2`: the first octet says which end is tested and how it is configured, the rest is what the other
/// end sends.
pub fn fuzz_http2(data: &[u8]) {
    let Some((flags, data)) = data.split_first() else { return };
    let whole = Run::new(*flags).run(data, data.len());
    assert_eq!(whole, Run::new(*flags).run(data, 1), "octet by octet");
    assert_eq!(whole, Run::new(*flags).run(data, 7), "by sevens");
}

/// What a message's body has to be.
#[derive(Debug, Default)]
struct Body {
    expected: Option<u64>,
    received: u64,
}

/// A connection, its user, and what the user saw.
struct Run {
    connection: Connection,
    pool: HeadPool,
    bodies: BTreeMap<StreamId, Body>,
    seen: Vec<Seen>,
    relay: Relay,
    max_streams: u32,
}

#[derive(Debug, PartialEq)]
enum Seen {
    Data(StreamId, Vec<u8>, bool),
    Other(String),
    End(ConnectionError),
}

impl Run {
    fn new(flags: u8) -> Self {
        let mut options = Options {
            stream_error_on_invalid_http_message: flags & 2 == 0,
            allow_connect: flags & 8 != 0,
            ..Options::default()
        };
        if flags & 4 != 0 {
            options = Options {
                hpack_table_size: 100,
                max_concurrent_streams: 3,
                initial_stream_window: 65_535,
                initial_connection_window: 65_535,
                max_head_bytes: 500,
                max_fields: 12,
                max_output: 3000,
                max_outbound_frames: 40,
                max_outbound_control_frames: 10,
                premature_reset_total_stream_count: 6,
                ..options
            };
        }
        let max_streams = options.max_concurrent_streams;
        let is_client = flags & 1 != 0;
        let options = Arc::new(options);
        let connection = if is_client { Connection::client(options) } else { Connection::server(options) };
        let mut run = Self {
            connection,
            pool: HeadPool::new(),
            bodies: BTreeMap::new(),
            seen: Vec::new(),
            relay: Relay::new(),
            max_streams,
        };
        if is_client {
            run.ask();
        } else {
            run.feed(PREFACE);
        }
        run
    }

    /// Requests that the input can answer: streams 1 to 5.
    fn ask(&mut self) {
        for (method, end_stream) in [(Method::Get, true), (Method::Head, true), (Method::Connect, false)] {
            let path = if method == Method::Connect { "" } else { "/" };
            let Ok(head) = RequestHead::new(method, "a:1", path) else { return };
            assert!(self.connection.send_request(&head, end_stream).is_ok());
        }
    }

    fn run(mut self, data: &[u8], piece: usize) -> Vec<Seen> {
        for piece in data.chunks(piece.max(1)) {
            self.feed(piece);
        }
        while let Some(stream) = self.connection.next_sendable() {
            let _ = self.connection.send_data(stream, &[b'x'; 100], true);
        }
        // Written at the end only, so that the flood limits do not depend on the pieces.
        while !self.connection.output().is_empty() {
            self.connection.written(777);
        }
        self.connection.trim();
        assert!(self.connection.memory() < 64 * 1024, "{}", self.connection.memory());
        self.seen
    }

    fn feed(&mut self, piece: &[u8]) {
        let mut input = piece;
        loop {
            match self.connection.recv(&mut input, &mut self.pool) {
                Ok(Some(event)) => self.on(event),
                Ok(None) => break assert!(input.is_empty(), "not all was read"),
                Err(error) => {
                    if !matches!(self.seen.last(), Some(Seen::End(_))) {
                        self.seen.push(Seen::End(error));
                    }
                    return;
                }
            }
            assert!(self.connection.live_streams() <= self.max_streams);
        }
    }

    fn on(&mut self, event: Event<'_>) {
        match event {
            Event::Data { stream, data, end_stream } => {
                let body = self.bodies.entry(stream).or_default();
                body.received += data.len() as u64;
                check(body, end_stream);
                self.connection.release(stream, data.len());
                match self.seen.last_mut() {
                    Some(Seen::Data(last, octets, end)) if *last == stream && !*end => {
                        octets.extend_from_slice(data);
                        *end = end_stream;
                    }
                    _ => self.seen.push(Seen::Data(stream, data.to_vec(), end_stream)),
                }
            }
            Event::Request { stream, head, end_stream } => {
                self.note(format!("request {stream} {head:?} {end_stream}"));
                self.relay.request(&head);
                check(
                    self.bodies.entry(stream).or_insert_with(|| Body { expected: length(&head.headers), received: 0 }),
                    end_stream,
                );
                self.answer(stream);
                self.pool.give_request(head);
            }
            Event::Response { stream, head, end_stream } => {
                self.note(format!("response {stream} {head:?} {end_stream}"));
                // Stream 3 asked by HEAD, and 304 has no body either.
                let none = stream == 3 || head.status == StatusCode::NOT_MODIFIED;
                if !head.status.is_informational() && !none {
                    check(
                        self.bodies
                            .entry(stream)
                            .or_insert_with(|| Body { expected: length(&head.headers), received: 0 }),
                        end_stream,
                    );
                }
            }
            Event::Trailers { stream, trailers } => {
                self.note(format!("trailers {stream} {trailers:?}"));
                check(self.bodies.entry(stream).or_default(), true);
            }
            other => self.note(format!("{other:?}")),
        }
    }

    fn note(&mut self, text: String) {
        self.seen.push(Seen::Other(text));
    }

    /// Different streams are treated in different ways.
    fn answer(&mut self, stream: StreamId) {
        let ok = ResponseHead::new(StatusCode::OK).with("server", "x");
        match stream / 2 % 5 {
            0 => {
                assert!(self.connection.send_response(stream, &ok, false).is_ok());
                assert!(self.connection.send_data(stream, &[b'x'; 1000], true).is_ok());
            }
            1 => assert!(self.connection.send_response(stream, &ok, true).is_ok()),
            2 => self.connection.reset(stream, crate::http2::ErrorCode::CANCEL),
            3 => {
                assert!(self.connection.send_response(stream, &ok, false).is_ok());
                assert!(self.connection.send_trailers(stream, &ok.headers).is_ok());
            }
            _ => {}
        }
    }
}

fn length(headers: &Headers) -> Option<u64> {
    headers.get_str(HeaderId::ContentLength)?.parse().ok()
}

/// A body is never longer than announced, and when its end is told it is as long.
fn check(body: &Body, end_stream: bool) {
    let Some(expected) = body.expected else { return };
    assert!(body.received <= expected, "{body:?}");
    assert!(!end_stream || body.received == expected, "{body:?}");
}

/// A second connection, by which accepted requests go on: they must arrive as they are.
struct Relay {
    client: Connection,
    server: Connection,
    pool: HeadPool,
}

impl Relay {
    fn new() -> Self {
        let options =
            Options { allow_connect: true, max_head_bytes: 1 << 20, max_fields: 10_000, ..Options::default() };
        let options = Arc::new(options);
        let mut relay = Self {
            client: Connection::client(options.clone()),
            server: Connection::server(options),
            pool: HeadPool::new(),
        };
        relay.forward(|_| {});
        let output = relay.server.output().to_vec();
        relay.server.written(output.len());
        let mut input = &output[..];
        while let Ok(Some(_)) = relay.client.recv(&mut input, &mut relay.pool) {}
        assert!(relay.client.has_peer_settings());
        relay
    }

    fn forward(&mut self, mut on: impl FnMut(Event<'_>)) {
        let output = self.client.output().to_vec();
        self.client.written(output.len());
        let mut input = &output[..];
        while let Some(event) = self.server.recv(&mut input, &mut self.pool).unwrap_or_else(stop) {
            on(event);
        }
    }

    fn request(&mut self, head: &RequestHead) {
        let Ok(stream) = self.client.send_request(head, false) else {
            return stop("an accepted request cannot be sent");
        };
        let mut arrived = None;
        self.forward(|event| arrived = Some(format!("{event:?}")));
        let length = length(&head.headers);
        let event = Event::Request { stream, head: Box::new(head.clone()), end_stream: false };
        assert_eq!(arrived, Some(format!("{event:?}")), "{length:?}");
        // One after the other, so that none is in the way.
        self.client.reset(stream, crate::http2::ErrorCode::NO_ERROR);
        self.server.reset(stream, crate::http2::ErrorCode::NO_ERROR);
        self.client.written(usize::MAX);
        self.server.written(usize::MAX);
    }
}

/// The target's way to say that an invariant does not hold.
#[expect(clippy::panic, reason = "that is what a fuzz target is for")]
fn stop<T>(why: impl std::fmt::Display) -> T {
    panic!("{why}")
}
