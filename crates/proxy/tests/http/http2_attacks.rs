//! What a hostile or broken HTTP/2 client sends, frame by frame: it costs us little, ends what has to end, is counted,
//! and nothing of it that could be misread goes upstream.

use crate::fixture::{Proxy, Setup};
use sota_testkit::{Origin, Reply};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A client that sends what it is told.
pub struct Raw(pub TcpStream);

/// A frame of an answer: type, stream, payload.
pub type Frame = (u8, u32, Vec<u8>);

impl Raw {
    pub fn connect(proxy: &Proxy) -> Self {
        let socket = TcpStream::connect(proxy.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut client = Self(socket);
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        client.send(&frame(SETTINGS, 0, 0, b""));
        client
    }

    /// The proxy may have closed the connection meanwhile.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    pub fn read_frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let [a, b, c, kind, _, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((kind, u32::from_be_bytes(stream), payload))
    }

    /// The frames up to the end of the connection.
    fn read_to_end(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.read_frame()).collect()
    }

    /// The code of the GOAWAY that ends the connection.
    fn goaway(&mut self) -> Option<u32> {
        let frames = self.read_to_end();
        let (_, _, payload) = frames.iter().rfind(|(kind, ..)| *kind == GOAWAY)?;
        Some(u32::from_be_bytes(payload.get(4..8)?.try_into().unwrap()))
    }

    /// The code that a stream is reset with.
    fn reset(&mut self, wanted: u32) -> u32 {
        loop {
            let (kind, stream, payload) = self.read_frame().expect("the connection ended");
            if kind == RST_STREAM && stream == wanted {
                return u32::from_be_bytes(payload.try_into().unwrap());
            }
        }
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length, &[kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// Fields without compression.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for part in [name, value] {
            match part.len() {
                short @ ..127 => out.push(short as u8),
                long => {
                    let mut rest = long - 127;
                    out.push(127);
                    while rest >= 128 {
                        out.push((rest % 128) as u8 | 128);
                        rest /= 128;
                    }
                    out.push(rest as u8);
                }
            }
            out.extend_from_slice(part.as_bytes());
        }
    }
    out
}

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&GET))
}

fn post(stream: u32) -> Vec<u8> {
    let mut fields = GET;
    fields[0].1 = "POST";
    frame(HEADERS, END_HEADERS, stream, &block(&fields))
}

const ENHANCE_YOUR_CALM: u32 = 11;
const PROTOCOL_ERROR: u32 = 1;

fn silent() -> Origin {
    Origin::http(|_| Reply::silence().until_closed())
}

#[test]
fn floods_end_the_connection_and_are_counted() {
    let origin = silent();
    let many = |n: usize, frame: Vec<u8>| frame.repeat(n);
    let continuations = [
        frame(HEADERS, END_STREAM, 1, &block(&GET)),
        many(100, frame(CONTINUATION, 0, 1, &block(&[("x", &"y".repeat(1000))]))),
    ];
    let endless = [frame(HEADERS, END_STREAM, 1, &block(&GET)), many(10, frame(CONTINUATION, 0, 1, b""))];
    let rapid: Vec<u8> =
        (0..600).flat_map(|n| [get(2 * n + 1), frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()).collect();
    // The peer breaks rules so that we reset its streams (CVE-2025-8671).
    let made_to: Vec<u8> =
        (0..600).flat_map(|n| [get(2 * n + 1), frame(WINDOW_UPDATE, 0, 2 * n + 1, &[0; 4])].concat()).collect();
    let cases: [(&str, Vec<u8>, &str, Option<&str>); 8] = [
        (
            "empty data",
            [post(1), many(3, frame(DATA, 0, 1, b""))].concat(),
            "http2.inbound_empty_frames_flood",
            Some("overload_error"),
        ),
        ("empty continuation", endless.concat(), "http2.inbound_empty_frames_flood", None),
        ("continuation", continuations.concat(), "http2.header_overflow", None),
        (
            "priority",
            [get(1), many(400, frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]))].concat(),
            "http2.inbound_priority_frames_flood",
            Some("overload_error"),
        ),
        (
            "window update",
            [get(1), many(50, frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]))].concat(),
            "http2.inbound_window_update_frames_flood",
            Some("overload_error"),
        ),
        ("rapid reset", rapid, "http.test.downstream_rq_too_many_premature_resets", Some("http2.remote_reset")),
        ("made to reset", made_to, "http.test.downstream_rq_too_many_premature_resets", None),
        // Answers that are not read.
        ("ping", many(400_000, frame(PING, 0, 0, &[0; 8])), "http2.outbound_control_flood", None),
    ];
    for (name, bytes, counter, details) in cases {
        let proxy = Setup::to(origin.address()).start();
        let mut client = Raw::connect(&proxy);
        client.send(&bytes);
        proxy.wait_for(counter, 1);
        if name != "ping" {
            assert_eq!(client.goaway(), Some(ENHANCE_YOUR_CALM), "{name}");
        }
        proxy.wait_for("http.test.downstream_cx_active", 0);
        proxy.wait_for("http.test.downstream_rq_active", 0);
        proxy.wait_for("cluster.origin.upstream_rq_active", 0);
        if let Some(details) = details {
            assert!(proxy.logged(1).contains(details), "{name}: {}", proxy.logged(1));
        }
    }
}

#[test]
fn settings_floods_end_the_connection() {
    let origin = silent();
    let proxy = Setup::to(origin.address()).start();
    let mut client = Raw::connect(&proxy);
    client.send(&frame(SETTINGS, 0, 0, b"").repeat(600_000));
    proxy.wait_for("http2.outbound_control_flood", 1);
    proxy.wait_for("http.test.downstream_cx_active", 0);
}

/// Heads that are no requests: nothing of them goes upstream.
fn malformed() -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
    let with = |extra: &[(&'static str, &'static str)]| [&GET[..], extra].concat();
    let mut cases = vec![
        ("upper case", with(&[("X-Upper", "1")])),
        ("connection", with(&[("connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("te", with(&[("te", "gzip")])),
        ("line feed in a value", with(&[("x", "a\r\nb: c")])),
        ("nul in a value", with(&[("x", "a\0b")])),
        ("space in a name", with(&[("x y", "1")])),
        ("colon in a name", with(&[("x:", "1")])),
        ("pseudo-header behind a field", with(&[("x", "1"), (":path", "/b")])),
        ("unknown pseudo-header", with(&[(":x", "1")])),
        ("response pseudo-header", with(&[(":status", "200")])),
        ("path twice", with(&[(":path", "/b")])),
        ("two lengths", with(&[("content-length", "1"), ("content-length", "2")])),
        ("length of an empty body", with(&[("content-length", "3")])),
        ("two hosts", with(&[("host", "a"), ("host", "b")])),
    ];
    for (name, at, value) in [
        ("line feed in the path", 3, "/a\r\nb: c"),
        ("space in the path", 3, "/a b"),
        ("relative path", 3, "a"),
        ("empty path", 3, ""),
        ("space in the method", 0, "GET /x"),
        ("user in the authority", 2, "u@a"),
        ("line feed in the authority", 2, "a\r\nb"),
    ] {
        let mut fields = GET.to_vec();
        fields[at].1 = value;
        cases.push((name, fields));
    }
    for (name, at) in [("no method", 0), ("no scheme", 1), ("no authority", 2), ("no path", 3)] {
        let mut fields = GET.to_vec();
        fields.remove(at);
        cases.push((name, fields));
    }
    cases
}

#[test]
fn malformed_heads_end_their_stream_where_that_is_configured() {
    let origin = Origin::http(|_| Reply::ok("fine"));
    let proxy =
        Setup::to(origin.address()).edit(|model| model.http2.stream_error_on_invalid_http_message = Some(true)).start();
    let mut client = Raw::connect(&proxy);
    let cases = malformed();
    for (number, (name, fields)) in cases.iter().enumerate() {
        let stream = 2 * number as u32 + 1;
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(fields)));
        assert_eq!(client.reset(stream), PROTOCOL_ERROR, "{name}");
        let logged = proxy.logged(number + 1);
        assert!(logged.starts_with("0 DPE http2."), "{name}: {logged}");
    }
    assert!(origin.seen().is_empty(), "{:?}", origin.seen());
    assert_eq!(proxy.stat("http2.rx_messaging_error"), cases.len() as i64);
    assert_eq!(proxy.stat("http.test.downstream_rq_active"), 0);
    // The connection goes on.
    client.send(&get(1001));
    while client.read_frame().expect("the connection ended").1 != 1001 {}
    assert_eq!(origin.requests(), 1);
}

#[test]
fn malformed_messages_end_the_connection_otherwise() {
    let origin = silent();
    for (name, fields) in malformed() {
        let proxy = Setup::to(origin.address()).start();
        let mut client = Raw::connect(&proxy);
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields)));
        assert_eq!(client.goaway(), Some(PROTOCOL_ERROR), "{name}");
        assert!(proxy.logged(1).starts_with("0 DPE http2."), "{name}: {}", proxy.logged(1));
        assert_eq!(proxy.stat("http.test.downstream_cx_protocol_error"), 1, "{name}");
    }
    assert!(origin.seen().is_empty());
}

#[test]
fn a_body_of_another_length_is_never_a_whole_request() {
    let origin = Origin::http(|_| Reply::ok("whole"));
    let proxy =
        Setup::to(origin.address()).edit(|model| model.http2.stream_error_on_invalid_http_message = Some(true)).start();
    let mut client = Raw::connect(&proxy);
    let mut fields = [&GET[..], &[("content-length", "5")]].concat();
    fields[0].1 = "POST";
    for (stream, body) in [(1, &b"abc"[..]), (3, b"abcdefgh")] {
        client.send(&frame(HEADERS, END_HEADERS, stream, &block(&fields)));
        client.send(&frame(DATA, END_STREAM, stream, body));
        assert_eq!(client.reset(stream), PROTOCOL_ERROR);
    }
    proxy.logged(2);
    assert!(proxy.log().iter().all(|line| line.contains("DPE http2.violation.of.messaging.rule")), "{:?}", proxy.log());
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
    assert!(origin.seen().is_empty(), "a request was taken for whole");
}

#[test]
fn heads_have_limits_on_what_they_decode_to() {
    let origin = Origin::http(|_| Reply::ok("fine"));
    let proxy = Setup::to(origin.address())
        .edit(|model| {
            model.max_request_headers_kb = 2;
            model.common.max_headers_count = 20;
        })
        .start();
    let mut client = Raw::connect(&proxy);
    let large = "y".repeat(3000);
    let crumbs = [&GET[..], &[("cookie", "a"); 25]].concat();
    for (stream, fields) in [(1, [&GET[..], &[("x", &*large)]].concat()), (3, crumbs)] {
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields)));
        assert_eq!(client.reset(stream), 2, "INTERNAL_ERROR");
    }
    // One field in the table, named a thousand times in two thousand octets (HPACK bomb).
    let mut bomb = block(&GET);
    bomb.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0x81, 6]);
    bomb.extend_from_slice(&[b'y'; 896]);
    bomb.extend_from_slice(&[0xbe; 1000]);
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 5, &bomb));
    assert_eq!(client.reset(5), 2);
    assert_eq!(proxy.stat("http2.header_overflow"), 3);
    assert_eq!(proxy.logged(3), "0 DPE http2.too_many_headers 0/0");
    client.send(&get(7));
    while client.read_frame().expect("the connection ended").1 != 7 {}
}

#[test]
fn a_broken_protocol_ends_all_streams_with_its_cause() {
    let origin = silent();
    let proxy = Setup::to(origin.address()).start();
    let mut client = Raw::connect(&proxy);
    client.send(&[get(1), get(3)].concat());
    proxy.wait_for("cluster.origin.upstream_rq_active", 2);
    client.send(&frame(DATA, 0, 0, b"on the connection"));
    assert_eq!(client.goaway(), Some(PROTOCOL_ERROR));
    proxy.logged(2);
    assert!(proxy.log().iter().all(|line| line.starts_with("0 DPE codec_error")), "{:?}", proxy.log());
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
    assert_eq!(proxy.stat("http.test.downstream_cx_protocol_error"), 1);
}

#[test]
fn a_client_that_opens_and_gives_up_ten_thousand_streams_leaves_nothing_behind() {
    let origin = silent();
    let proxy = Setup::to(origin.address()).start();
    for _ in 0..50 {
        let mut client = Raw::connect(&proxy);
        for n in 0..200 {
            client.send(&[get(2 * n + 1), frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat());
        }
    }
    for gauge in
        ["http.test.downstream_rq_active", "http.test.downstream_cx_active", "cluster.origin.upstream_rq_active"]
    {
        proxy.wait_for(gauge, 0);
    }
    assert_eq!(proxy.stat("http2.streams_active"), 0);
    assert_eq!(proxy.stat("http.test.downstream_rq_rx_reset"), proxy.stat("http.test.downstream_rq_total"));
}
