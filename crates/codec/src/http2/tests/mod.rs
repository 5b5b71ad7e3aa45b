//! Scripted connections: frames spelled out by hand on one side, what comes of them on the other.

mod flood;
mod flow;
mod memory;
mod messages;
mod responses;
mod sending;
mod split;
mod states;

use super::{
    Connection, ConnectionError, ErrorCode, Event, HeadPool, Options, ResetCause,
    frame::{FrameHead, HEAD_LEN, flag, kind},
};
use crate::h2_preface::PREFACE;
use sota_plugin::http::{Headers, Method, RequestHead};
use std::sync::Arc;

/// A frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let head = FrameHead { len: payload.len() as u32, kind, flags, stream };
    [&head.octets()[..], payload].concat()
}

/// Fields as literals that leave the table alone.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "a short form is enough here");
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

const END: bool = true;
const OPEN: bool = false;

fn headers(stream: u32, end_stream: bool, fields: &[(&str, &str)]) -> Vec<u8> {
    let flags = flag::END_HEADERS | if end_stream { flag::END_STREAM } else { 0 };
    frame(kind::HEADERS, flags, stream, &block(fields))
}

fn data(stream: u32, end_stream: bool, octets: &[u8]) -> Vec<u8> {
    frame(kind::DATA, u8::from(end_stream), stream, octets)
}

fn window_update(stream: u32, octets: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &octets.to_be_bytes())
}

fn rst(stream: u32, code: ErrorCode) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.0.to_be_bytes())
}

fn settings(parameters: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        parameters.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
const POST: [(&str, &str); 4] = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

/// `base` and more.
fn with<'a>(base: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [base, more].concat()
}

/// A connection under test, its peer played by the test.
struct Tested {
    connection: Connection,
    pool: HeadPool,
}

impl Tested {
    /// A server whose client has said its preface and settings.
    fn server(options: Options) -> Self {
        let mut tested = Self { connection: Connection::server(Arc::new(options)), pool: HeadPool::new() };
        assert_eq!(tested.recv(&[PREFACE, &settings(&[])].concat()), ["settings"]);
        tested.written();
        tested
    }

    /// A client whose server has said its settings.
    fn client(options: Options) -> Self {
        let mut tested = Self { connection: Connection::client(Arc::new(options)), pool: HeadPool::new() };
        assert_eq!(tested.recv(&settings(&[(8, 1)])), ["settings"]);
        tested.written();
        tested
    }

    /// A client that has sent a request for each of these methods.
    fn asked(methods: &[&str]) -> Self {
        let mut tested = Self::client(Options::default());
        for method in methods {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let is_connect = method == Method::Connect;
            let head = RequestHead::new(method, "a:80", if is_connect { "" } else { "/" }).unwrap();
            tested.connection.send_request(&head, !is_connect).unwrap();
        }
        tested.written();
        tested
    }

    /// Feeds octets; what they mean, in words. An error is the last word.
    fn recv(&mut self, octets: &[u8]) -> Vec<String> {
        let mut input = octets;
        let mut seen = Vec::new();
        loop {
            match self.connection.recv(&mut input, &mut self.pool) {
                Ok(Some(event)) => seen.push(describe(&event)),
                Ok(None) => {
                    assert!(input.is_empty(), "not all was read");
                    return seen;
                }
                Err(error) => {
                    seen.push(format!("error {:?}", error.code));
                    return seen;
                }
            }
        }
    }

    /// Feeds octets that must end the connection.
    fn fails(&mut self, octets: &[u8]) -> ConnectionError {
        let mut input = octets;
        loop {
            match self.connection.recv(&mut input, &mut self.pool) {
                Ok(Some(_)) => {}
                Ok(None) => panic!("no error"),
                Err(error) => {
                    let last = self.written().pop().unwrap();
                    assert!(last.starts_with(&format!("goaway {:?}", error.code)), "{last}");
                    assert_eq!(self.connection.recv(&mut &b"more"[..], &mut self.pool), Err(error));
                    return error;
                }
            }
        }
    }

    /// Writes the output away; its frames, in words.
    fn written(&mut self) -> Vec<String> {
        let output = self.connection.output().to_vec();
        self.connection.written(output.len());
        assert!(self.connection.output().is_empty());
        let mut rest = output.strip_prefix(PREFACE).unwrap_or(&output);
        let mut frames = Vec::new();
        while let Some((head, tail)) = rest.split_first_chunk::<HEAD_LEN>() {
            let head = FrameHead::parse(head);
            let (payload, tail) = tail.split_at(head.len as usize);
            frames.push(name(head, payload));
            rest = tail;
        }
        assert!(rest.is_empty());
        frames
    }
}

/// A frame of the output in words.
fn name(head: FrameHead, payload: &[u8]) -> String {
    let number = |at: usize| super::frame::u32_at(payload, at);
    let end = if head.flags & 1 != 0 { " end" } else { "" };
    let FrameHead { stream, len, .. } = head;
    match head.kind {
        kind::DATA => format!("data {stream} {len}{end}"),
        kind::HEADERS => format!("headers {stream}{end}"),
        kind::RST_STREAM => format!("rst {stream} {:?}", ErrorCode(number(0))),
        kind::SETTINGS => format!("settings{}", if end.is_empty() { "" } else { " ack" }),
        kind::PING => format!("ping {}{}", payload[7], if end.is_empty() { "" } else { " ack" }),
        kind::GOAWAY => format!("goaway {:?} {}", ErrorCode(number(4)), number(0)),
        kind::WINDOW_UPDATE => format!("window {stream} {}", number(0)),
        kind::CONTINUATION => format!("continuation {stream}"),
        other => panic!("a frame of type {other}"),
    }
}

fn describe(event: &Event<'_>) -> String {
    let end = |end: &bool| if *end { " end" } else { "" };
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    match event {
        Event::Settings => "settings".to_owned(),
        Event::Request { stream, head, end_stream } => format!(
            "request {stream} {} {}://{}{}{}{}",
            head.method,
            head.scheme,
            text(head.authority()),
            text(head.path()),
            lines(&head.headers),
            end(end_stream)
        ),
        Event::Response { stream, head, end_stream } => {
            format!("response {stream} {}{}{}", head.status, lines(&head.headers), end(end_stream))
        }
        Event::Data { stream, data, end_stream } => format!("data {stream} {}{}", text(data), end(end_stream)),
        Event::Trailers { stream, trailers } => format!("trailers {stream}{}", lines(trailers)),
        Event::Reset { stream, cause: ResetCause::Fault(fault) } => {
            format!("fault {stream} {:?} {}", fault.code(), fault.details())
        }
        Event::Reset { stream, cause } => format!("reset {stream} {:?} {}", cause.code(), cause.details()),
        Event::GoAway { last_stream, code, debug } => format!("goaway {last_stream} {code:?} {}", text(debug)),
        Event::Pong { payload } => format!("pong {}", payload[7]),
    }
}

fn lines(headers: &Headers) -> String {
    headers
        .iter()
        .map(|(name, value)| format!(" {}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
        .collect()
}
