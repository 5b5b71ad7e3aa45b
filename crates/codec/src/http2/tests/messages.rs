//! Requests, well-formed and not (RFC 9113 §8).

use super::*;
use sota_config::http::UnderscoreAction;

const FIELD: &str = "fault 1 PROTOCOL_ERROR(0x1) http2.invalid.header.field";
const MESSAGING: &str = "fault 1 PROTOCOL_ERROR(0x1) http2.violation.of.messaging.rule";

fn request(end_stream: bool, fields: &[(&str, &str)]) -> Vec<String> {
    Tested::server(Options::default()).recv(&headers(1, end_stream, fields))
}

#[test]
fn requests_that_are_taken() {
    for (fields, seen) in [
        (GET.to_vec(), "request 1 GET http://a/ end"),
        (with(&GET, &[("x-a", "1"), ("x-a", "2")]), "request 1 GET http://a/ x-a=1 x-a=2 end"),
        (with(&GET, &[("x-a", " \t1 2\t ")]), "request 1 GET http://a/ x-a=1 2 end"),
        (with(&GET, &[("te", "trailers")]), "request 1 GET http://a/ te=trailers end"),
        (with(&GET, &[("content-length", "0")]), "request 1 GET http://a/ content-length=0 end"),
        (with(&GET, &[("host", "b")]), "request 1 GET http://a/ end"),
        (with(&GET[..3], &[("host", "b")]), "request 1 GET http://b/ end"),
        (with(&GET[..3], &[(":authority", "")]), "request 1 GET http:/// end"),
        (
            with(&GET, &[("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2; c=3"), ("cookie", "")]),
            "request 1 GET http://a/ x-a=1 cookie=a=1; b=2; c=3; end",
        ),
        (
            vec![(":path", "*"), (":scheme", "https"), (":authority", "a:1"), (":method", "OPTIONS")],
            "request 1 OPTIONS https://a:1* end",
        ),
        (vec![(":method", "CONNECT"), (":authority", "a:443")], "request 1 CONNECT http://a:443 end"),
        (
            vec![(":method", "CONNECT"), (":authority", "a:443"), ("content-length", "0")],
            "request 1 CONNECT http://a:443 end",
        ),
        (with(&[(":method", "BREW")], &GET[1..]), "request 1 BREW http://a/ end"),
    ] {
        assert_eq!(request(END, &fields), [seen]);
    }
}

#[test]
fn fields_that_no_request_may_have() {
    for (name, value) in [
        ("connection", "close"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("te", ""),
        ("X-Upper", "1"),
        ("x-uppeR", "1"),
        ("Host", "a"),
        ("", "1"),
        ("x a", "1"),
        ("x:a", "1"),
        ("x\ra", "1"),
        ("x\0a", "1"),
        ("ä", "1"),
        ("x-a\x7f", "1"),
        ("x-a", "1\r\nx-b: 2"),
        ("x-a", "1\n2"),
        ("x-a", "\n"),
        ("x-a", "1\r"),
        ("x-a", "\0"),
        ("x-a", "1\x0b"),
        ("x-a", "\x7f"),
        ("cookie", "a\r\nb"),
        ("host", "a\r\nb"),
        ("host", "u@a"),
        ("host", "a b"),
        (":path", "/again"),
        (":method", "GET"),
        (":authority", "a"),
        (":status", "200"),
        (":unknown", "1"),
        (":", "1"),
        (":Path", "/"),
    ] {
        assert_eq!(request(END, &with(&GET, &[(name, value)])), [FIELD], "{name}: {value:?}");
    }
}

#[test]
fn pseudo_fields_in_disorder() {
    let m = (":method", "GET");
    let s = (":scheme", "http");
    let p = (":path", "/");
    let a = (":authority", "a");
    for (fields, fault) in [
        (vec![s, p, a], MESSAGING),
        (vec![m, p, a], MESSAGING),
        (vec![m, s, a], MESSAGING),
        (vec![], MESSAGING),
        (vec![m, m, s, p, a], FIELD),
        (vec![m, s, s, p, a], FIELD),
        (vec![m, s, p, p, a], FIELD),
        (vec![m, s, p, a, a], FIELD),
        (vec![m, s, ("x-a", "1"), p, a], FIELD),
        (vec![m, s, p, ("host", "a"), a], FIELD),
        (vec![m, s, p, ("host", "a"), ("host", "a")], FIELD),
        (vec![m, s, p, a, ("host", "a"), ("host", "b")], FIELD),
        (vec![m, s, p, ("cookie", "a"), a], FIELD),
        (vec![m, s, p, a, (":status", "200")], FIELD),
        (vec![m, s, (":path", ""), a], MESSAGING),
        (vec![m, s, (":path", "a"), a], MESSAGING),
        (vec![m, s, (":path", "*"), a], MESSAGING),
        (vec![m, s, (":path", "http://a/"), a], MESSAGING),
        (vec![m, s, (":path", "/a b"), a], FIELD),
        (vec![m, s, (":path", "/ HTTP/1.1\r\nx: y"), a], FIELD),
        (vec![m, s, (":path", "/\0"), a], FIELD),
        (vec![m, s, (":path", "/ä"), a], FIELD),
        (vec![m, s, (":path", "/#a"), a], FIELD),
        (vec![m, s, p, (":authority", "u:p@a")], FIELD),
        (vec![m, s, p, (":authority", "a\r\nb")], FIELD),
        (vec![m, s, p, (":authority", "a b")], FIELD),
        (vec![m, s, p, (":authority", "a/b")], FIELD),
        (vec![(":method", ""), s, p, a], FIELD),
        (vec![(":method", "G T"), s, p, a], FIELD),
        (vec![(":method", "GET / HTTP/1.1\r\n"), s, p, a], FIELD),
        (vec![m, (":scheme", "ftp"), p, a], FIELD),
        (vec![m, (":scheme", "http\r\n"), p, a], FIELD),
        (vec![(":method", "CONNECT"), s, p, a], MESSAGING),
        (vec![(":method", "CONNECT"), p, a], MESSAGING),
        (vec![(":method", "CONNECT")], MESSAGING),
        (vec![(":method", "CONNECT"), a, ("content-length", "1")], MESSAGING),
        (vec![(":method", "CONNECT"), s, p, a, (":protocol", "websocket")], MESSAGING),
    ] {
        assert_eq!(request(END, &fields), [fault], "{fields:?}");
    }
}

#[test]
fn a_fault_ends_its_stream_only_and_the_table_follows() {
    let mut tested = Tested::server(Options::default());
    // `x-b: 1` with indexing behind the fault, then a request that refers to it.
    let mut fields = block(&with(&GET, &[("te", "gzip")]));
    fields.extend_from_slice(b"\x40\x03x-b\x011");
    assert_eq!(tested.recv(&frame(1, 4, 1, &fields)), [FIELD]);
    assert_eq!(tested.written(), ["rst 1 PROTOCOL_ERROR(0x1)"]);
    // What was on its way for the stream is ignored.
    assert!(tested.recv(&[data(1, OPEN, b"abc"), headers(1, END, &[("x", "y")])].concat()).is_empty());
    fields = block(&GET);
    fields.push(0xbe);
    assert_eq!(tested.recv(&frame(1, 5, 3, &fields)), ["request 3 GET http://a/ x-b=1 end"]);
    assert_eq!(tested.connection.take_counters().rx_messaging_error, 1);
}

#[test]
fn a_fault_ends_the_connection_where_that_is_configured() {
    let options = Options { stream_error_on_invalid_http_message: false, ..Options::default() };
    for bytes in [headers(1, END, &with(&GET, &[("te", "gzip")])), headers(1, END, &GET[1..])] {
        let error = Tested::server(options.clone()).fails(&bytes);
        assert_eq!((error.code, error.kind), (ErrorCode::PROTOCOL_ERROR, crate::http2::ErrorKind::Message));
    }
    // The head was in order.
    let bytes = [headers(1, OPEN, &with(&POST, &[("content-length", "1")])), data(1, END, b"12")].concat();
    assert_eq!(Tested::server(options).recv(&bytes).last().map(String::as_str), Some(MESSAGING));
}

#[test]
fn content_length_against_data() {
    let post = |length: &'static str| headers(1, OPEN, &with(&POST, &[("content-length", length)]));
    let head = |length: &str| format!("request 1 POST http://a/ content-length={length}");
    for (length, body, seen) in [
        ("3", vec![data(1, OPEN, b"ab"), data(1, END, b"c")], vec!["data 1 ab", "data 1 c end"]),
        ("3", vec![data(1, OPEN, b"abc"), data(1, END, b"")], vec!["data 1 abc", "data 1  end"]),
        ("3", vec![data(1, OPEN, b"abc"), headers(1, END, &[("x", "y")])], vec!["data 1 abc", "trailers 1 x=y"]),
        ("0", vec![data(1, END, b"")], vec!["data 1  end"]),
        ("3", vec![data(1, END, b"ab")], vec![MESSAGING]),
        ("3", vec![data(1, END, b"abcd")], vec![MESSAGING]),
        ("3", vec![data(1, OPEN, b"ab"), data(1, OPEN, b"cd")], vec!["data 1 ab", MESSAGING]),
        ("3", vec![data(1, OPEN, b"ab"), headers(1, END, &[("x", "y")])], vec!["data 1 ab", MESSAGING]),
        ("0", vec![data(1, OPEN, b"a")], vec![MESSAGING]),
    ] {
        let mut expected = vec![head(length)];
        expected.extend(seen.into_iter().map(str::to_owned));
        let bytes = [post(length), body.concat()].concat();
        assert_eq!(Tested::server(Options::default()).recv(&bytes), expected);
    }
    for bad in ["-1", "+1", "0x1", "1,1", "", "18446744073709551616", "a"] {
        assert_eq!(Tested::server(Options::default()).recv(&post(bad)), [MESSAGING], "{bad:?}");
    }
    let twice = with(&POST, &[("content-length", "1"), ("content-length", "1")]);
    assert_eq!(request(OPEN, &twice), [MESSAGING]);
    assert_eq!(request(END, &with(&GET, &[("content-length", "1")])), [MESSAGING], "a length without a body");
    assert_eq!(
        request(OPEN, &with(&POST, &[("content-length", "007")])),
        ["request 1 POST http://a/ content-length=7"]
    );
}

#[test]
fn trailers() {
    let trailers = |end, fields: &[(&str, &str)]| {
        let bytes = [headers(1, OPEN, &POST), data(1, OPEN, b"x"), headers(1, end, fields)].concat();
        Tested::server(Options::default()).recv(&bytes).pop().unwrap()
    };
    assert_eq!(trailers(END, &[("grpc-status", "0"), ("x-a", "1")]), "trailers 1 grpc-status=0 x-a=1");
    let left_out = [("content-length", "1"), ("host", "a"), ("authorization", "x"), ("if-range", "y"), ("x-a", "1")];
    assert_eq!(trailers(END, &left_out), "trailers 1 x-a=1");
    assert_eq!(trailers(OPEN, &[("x-a", "1")]), MESSAGING);
    for bad in [(":path", "/"), (":status", "200"), ("transfer-encoding", "chunked"), ("X-A", "1"), ("a", "\r\n")] {
        assert_eq!(trailers(END, &[bad]), FIELD, "{bad:?}");
    }
}

#[test]
fn limits_count_the_decoded_form() {
    const TOO_LARGE: &str = "fault 1 INTERNAL_ERROR(0x2) http2.too_many_headers";
    let many: Vec<(&str, &str)> = with(&GET, &[("x", "y"); 97]);
    assert_eq!(request(END, &many[..100]).len(), 1);
    assert!(request(END, &many[..100])[0].starts_with("request"));
    assert_eq!(request(END, &many), [TOO_LARGE]);
    let crumbs: Vec<(&str, &str)> = with(&GET, &[("cookie", "y"); 97]);
    assert_eq!(request(END, &crumbs), [TOO_LARGE]);

    // One octet on the wire is four kilobytes in the list.
    let mut bomb = block(&GET);
    bomb.extend_from_slice(b"\x40\x01a\x7f\x81\x1e");
    bomb.extend_from_slice(&[b'v'; 4000]);
    bomb.extend_from_slice(&[0xbe; 12_000]);
    let mut tested = Tested::server(Options { max_fields: 1_000_000, ..Options::default() });
    assert_eq!(tested.recv(&frame(1, 5, 1, &bomb)), [TOO_LARGE]);
    assert!(tested.connection.memory() < 20_000, "{}", tested.connection.memory());
    assert_eq!(tested.recv(&headers(3, END, &GET)), ["request 3 GET http://a/ end"]);
    let counters = tested.connection.take_counters();
    assert_eq!((counters.header_overflow, counters.tx_reset), (1, 1));

    let trailers = [headers(1, OPEN, &POST), headers(1, END, &[("x", "y"); 101])].concat();
    assert_eq!(Tested::server(Options::default()).recv(&trailers)[1..], [TOO_LARGE]);
}

#[test]
fn underscores() {
    let seen = |underscores| {
        let mut tested = Tested::server(Options { underscores, ..Options::default() });
        let seen = tested.recv(&headers(1, END, &with(&GET, &[("x_a", "1"), ("x-b", "2")])));
        (seen, tested.connection.take_counters())
    };
    assert_eq!(seen(UnderscoreAction::Allow).0, ["request 1 GET http://a/ x_a=1 x-b=2 end"]);
    let (dropped, counters) = seen(UnderscoreAction::DropHeader);
    assert_eq!(dropped, ["request 1 GET http://a/ x-b=2 end"]);
    assert_eq!(counters.dropped_headers_with_underscores, 1);
    let (refused, counters) = seen(UnderscoreAction::RejectRequest);
    assert_eq!(refused, ["fault 1 INTERNAL_ERROR(0x2) http2.unexpected_underscore"]);
    assert_eq!(counters.requests_rejected_with_underscores_in_headers, 1);
}

#[test]
fn extended_connect_is_an_upgrade() {
    let options = Options { allow_connect: true, ..Options::default() };
    let connect = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/chat"),
        (":authority", "a"),
    ];
    let mut tested = Tested::server(options.clone());
    let seen = tested.recv(&headers(1, OPEN, &with(&connect, &[("sec-websocket-version", "13")])));
    let expected = "request 1 GET http://a/chat sec-websocket-version=13 connection=upgrade upgrade=websocket";
    assert_eq!(seen, [expected]);
    for (fields, fault) in [
        (connect.to_vec(), "request 1 GET http://a/chat connection=upgrade upgrade=websocket"),
        (with(&[(":method", "GET")], &connect[1..]), MESSAGING),
        (with(&connect[..2], &connect[3..]), MESSAGING),
        (with(&connect, &[("upgrade", "websocket")]), FIELD),
        (with(&connect, &[(":protocol", "x")]), FIELD),
        (with(&connect, &[("content-length", "5")]), MESSAGING),
        (
            vec![(":method", "CONNECT"), (":protocol", ""), (":scheme", "http"), (":path", "/"), (":authority", "a")],
            MESSAGING,
        ),
        (
            vec![(":method", "CONNECT"), (":protocol", "\n"), (":scheme", "http"), (":path", "/"), (":authority", "a")],
            FIELD,
        ),
    ] {
        assert_eq!(Tested::server(options.clone()).recv(&headers(1, OPEN, &fields)), [fault], "{fields:?}");
    }
}
