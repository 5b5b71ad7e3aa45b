//! The client's end: responses, and what the server says about streams.

use super::*;

const FIELD: &str = "fault 1 PROTOCOL_ERROR(0x1) http2.invalid.header.field";
const MESSAGING: &str = "fault 1 PROTOCOL_ERROR(0x1) http2.violation.of.messaging.rule";

#[test]
fn responses_that_are_taken() {
    for (method, octets, seen) in [
        ("GET", vec![headers(1, END, &[(":status", "200"), ("server", "x")])], vec!["response 1 200 server=x end"]),
        (
            "GET",
            vec![
                headers(1, OPEN, &[(":status", "103"), ("link", "</a>")]),
                headers(1, OPEN, &[(":status", "100"), ("content-length", "0")]),
                headers(1, OPEN, &[(":status", "200"), ("content-length", "2")]),
                data(1, END, b"ok"),
            ],
            vec!["response 1 103 link=</a>", "response 1 100", "response 1 200 content-length=2", "data 1 ok end"],
        ),
        (
            "HEAD",
            vec![headers(1, END, &[(":status", "200"), ("content-length", "9")])],
            vec!["response 1 200 content-length=9 end"],
        ),
        (
            "HEAD",
            vec![headers(1, OPEN, &[(":status", "200"), ("content-length", "9")]), data(1, END, b"")],
            vec!["response 1 200 content-length=9", "data 1  end"],
        ),
        (
            "GET",
            vec![headers(1, END, &[(":status", "304"), ("content-length", "9")])],
            vec!["response 1 304 content-length=9 end"],
        ),
        ("GET", vec![headers(1, END, &[(":status", "204"), ("content-length", "0")])], vec!["response 1 204 end"]),
        (
            "GET",
            vec![headers(1, OPEN, &[(":status", "200")]), headers(1, END, &[("grpc-status", "0")])],
            vec!["response 1 200", "trailers 1 grpc-status=0"],
        ),
        (
            "CONNECT",
            vec![headers(1, OPEN, &[(":status", "200"), ("content-length", "5")]), data(1, OPEN, b"0123456789")],
            vec!["response 1 200", "data 1 0123456789"],
        ),
        (
            "GET",
            vec![headers(1, OPEN, &[(":status", "200"), ("cookie", "a"), ("set-cookie", "b"), ("set-cookie", "c")])],
            vec!["response 1 200 cookie=a set-cookie=b set-cookie=c"],
        ),
    ] {
        assert_eq!(Tested::asked(&[method]).recv(&octets.concat()), seen);
    }
}

#[test]
fn responses_that_are_refused() {
    for (method, octets, fault) in [
        ("GET", vec![headers(1, END, &[("server", "x")])], MESSAGING),
        ("GET", vec![headers(1, END, &[(":status", "20")])], FIELD),
        ("GET", vec![headers(1, END, &[(":status", "+20")])], FIELD),
        ("GET", vec![headers(1, END, &[(":status", "2000")])], FIELD),
        ("GET", vec![headers(1, END, &[(":status", "099")])], FIELD),
        ("GET", vec![headers(1, END, &[(":status", "")])], FIELD),
        ("GET", vec![headers(1, END, &[(":status", "200"), (":status", "200")])], FIELD),
        ("GET", vec![headers(1, END, &[("server", "x"), (":status", "200")])], FIELD),
        ("GET", vec![headers(1, END, &[(":status", "200"), (":path", "/")])], FIELD),
        ("GET", vec![headers(1, OPEN, &[(":status", "101"), ("x", "y")])], MESSAGING),
        ("GET", vec![headers(1, END, &[(":status", "103")])], MESSAGING),
        ("GET", vec![headers(1, OPEN, &[(":status", "100"), ("content-length", "1")])], MESSAGING),
        ("GET", vec![headers(1, OPEN, &[(":status", "204"), ("content-length", "1")])], MESSAGING),
        ("GET", vec![headers(1, END, &[(":status", "200"), ("content-length", "1")])], MESSAGING),
        ("GET", vec![headers(1, END, &[(":status", "200"), ("transfer-encoding", "chunked")])], FIELD),
        ("GET", vec![headers(1, END, &[(":status", "200"), ("connection", "close")])], FIELD),
        ("GET", vec![headers(1, END, &[(":status", "200"), ("x-a", "a\r\nb")])], FIELD),
        ("GET", vec![headers(1, END, &[(":status", "200"), ("X-A", "1")])], FIELD),
        ("GET", vec![data(1, END, b"x")], MESSAGING),
    ] {
        assert_eq!(Tested::asked(&[method]).recv(&octets.concat()), [fault], "{octets:?}");
    }
    for (method, octets) in [
        ("HEAD", vec![headers(1, OPEN, &[(":status", "200")]), data(1, END, b"x")]),
        ("GET", vec![headers(1, OPEN, &[(":status", "204")]), data(1, END, b"x")]),
        ("GET", vec![headers(1, OPEN, &[(":status", "304")]), data(1, OPEN, b"x")]),
        ("GET", vec![headers(1, OPEN, &[(":status", "200"), ("content-length", "2")]), data(1, END, b"x")]),
        ("GET", vec![headers(1, OPEN, &[(":status", "200")]), headers(1, OPEN, &[(":status", "200")])]),
        ("GET", vec![headers(1, OPEN, &[(":status", "200")]), headers(1, OPEN, &[("x", "y")])]),
        ("CONNECT", vec![headers(1, OPEN, &[(":status", "200")]), headers(1, END, &[("x", "y")])]),
    ] {
        let seen = Tested::asked(&[method]).recv(&octets.concat());
        assert!(seen[1] == MESSAGING || seen[1] == FIELD, "{seen:?}");
    }
}

#[test]
fn streams_that_are_not_there() {
    let mut tested = Tested::asked(&["GET"]);
    assert_eq!(tested.fails(&headers(3, END, &[(":status", "200")])).code, ErrorCode::PROTOCOL_ERROR);
    let mut tested = Tested::asked(&["GET"]);
    assert_eq!(tested.fails(&headers(2, END, &[(":status", "200")])).code, ErrorCode::PROTOCOL_ERROR);
    let mut tested = Tested::asked(&["GET"]);
    let twice = [headers(1, END, &[(":status", "200")]), headers(1, END, &[(":status", "200")])].concat();
    assert_eq!(tested.fails(&twice).code, ErrorCode::STREAM_CLOSED);
    let mut tested = Tested::asked(&["GET"]);
    assert_eq!(tested.fails(&frame(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2])).code, ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn refused_and_left_behind() {
    let mut tested = Tested::asked(&["GET", "GET", "GET", "GET"]);
    assert_eq!(tested.recv(&rst(1, ErrorCode::REFUSED_STREAM)), ["reset 1 REFUSED_STREAM(0x7) http2.remote_refuse"]);
    let notice = [&u32::MAX.to_be_bytes()[..], &[0; 4]].concat();
    assert_eq!(tested.recv(&frame(kind::GOAWAY, 0, 0, &notice)), ["goaway 2147483647 NO_ERROR(0x0) "]);
    assert!(!tested.connection.can_open());
    let last = [&3u32.to_be_bytes()[..], &11u32.to_be_bytes(), b"calm"].concat();
    assert_eq!(
        tested.recv(&frame(kind::GOAWAY, 0, 0, &last)),
        [
            "goaway 3 ENHANCE_YOUR_CALM(0xb) calm",
            "reset 5 REFUSED_STREAM(0x7) http2.remote_refuse",
            "reset 7 REFUSED_STREAM(0x7) http2.remote_refuse",
        ]
    );
    assert!(!tested.connection.is_drained());
    assert_eq!(tested.recv(&headers(3, END, &[(":status", "200")])), ["response 3 200 end"]);
    assert!(tested.connection.is_drained());
    // Late frames for streams that we gave up.
    assert!(tested.recv(&headers(5, END, &[(":status", "200")])).is_empty());
}
