//! Whole messages with scripted bytes.

use super::*;
use sota_config::http::{HeaderKeyFormat, UnderscoreAction};
use sota_plugin::http::{Headers, Method, Protocol, RequestHead, ResponseHead, Scheme, StatusCode};

fn request(bytes: &[u8]) -> Result<(RequestInfo, RequestHead), Http1Error> {
    request_with(bytes, &DecodeOptions::default())
}

fn request_with(bytes: &[u8], options: &DecodeOptions) -> Result<(RequestInfo, RequestHead), Http1Error> {
    let mut head = RequestHead::default();
    match decode_request(bytes, options, &mut HeadProgress::default(), &mut head)? {
        RequestOutcome::Head(info) => Ok((info, head)),
        outcome => panic!("{outcome:?} of {:?}", String::from_utf8_lossy(bytes)),
    }
}

fn response(bytes: &[u8], context: RequestContext) -> Result<(ResponseInfo, ResponseHead), Http1Error> {
    let mut head = ResponseHead::default();
    match decode_response(bytes, &DecodeOptions::default(), context, &mut HeadProgress::default(), &mut head)? {
        ResponseOutcome::Head(info) => Ok((info, head)),
        ResponseOutcome::NeedMore => panic!("incomplete {:?}", String::from_utf8_lossy(bytes)),
    }
}

fn text(headers: &Headers) -> String {
    let mut out = Vec::new();
    headers.write_lines(&mut out);
    String::from_utf8(out).unwrap()
}

const BROWSER: &[u8] = b"POST /a/b?c=d HTTP/1.1\r\nHost: Example.com:8080\r\nUser-Agent: x/1\r\nACCEPT: */*\r\n\
x-dup: 1\r\nX-Dup: 2\r\nContent-Length: 5\r\nexpect: 100-Continue\r\n\r\nhello";

#[test]
fn a_request_head_in_any_split() {
    let options = DecodeOptions::default();
    let (expected, whole) = request(BROWSER).unwrap();
    assert_eq!(expected.consumed, BROWSER.len() - 5);
    assert_eq!((expected.body, expected.keep_alive, expected.expects_continue), (BodyLength::Length(5), true, true));
    assert_eq!(
        (whole.method.as_str(), whole.authority(), whole.path()),
        ("POST", &b"Example.com:8080"[..], &b"/a/b?c=d"[..])
    );
    assert_eq!((whole.scheme, whole.protocol), (Scheme::Http, Protocol::Http11));
    assert_eq!(
        text(&whole.headers),
        "User-Agent: x/1\r\nACCEPT: */*\r\nx-dup: 1\r\nX-Dup: 2\r\nContent-Length: 5\r\nexpect: 100-Continue\r\n"
    );
    for split in 0..BROWSER.len() {
        let mut progress = HeadProgress::default();
        let mut head = RequestHead::default();
        let first = decode_request(&BROWSER[..split], &options, &mut progress, &mut head).unwrap();
        if split < expected.consumed {
            assert_eq!(first, RequestOutcome::NeedMore, "split at {split}");
            let second = decode_request(BROWSER, &options, &mut progress, &mut head).unwrap();
            assert_eq!((second, &head), (RequestOutcome::Head(expected), &whole));
        } else {
            assert_eq!((first, &head), (RequestOutcome::Head(expected), &whole));
        }
    }
}

#[test]
fn a_head_is_reused() {
    let mut head = RequestHead::default();
    let options = DecodeOptions::default();
    for bytes in [&b"GET http://a/x HTTP/1.0\r\nx: y\r\n\r\n"[..], b"POST /z HTTP/1.1\r\nHost: b\r\nq: r\r\n\r\n"] {
        decode_request(bytes, &options, &mut HeadProgress::default(), &mut head).unwrap();
    }
    assert_eq!(head, request(b"POST /z HTTP/1.1\r\nHost: b\r\nq: r\r\n\r\n").unwrap().1);
}

#[test]
fn requests_that_are_refused() {
    use Http1Error as E;
    for (bytes, error) in [
        ("GET /\r\n\r\n", E::RequestLine),
        ("GET / HTTP/0.9\r\n\r\n", E::Version),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", E::Version),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", E::Version),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", E::RequestLine),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", E::Method),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", E::Method),
        ("FOO / HTTP/1.1\r\nHost: a\r\n\r\n", E::Method),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", E::Method),
        ("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", E::Target),
        ("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", E::Fragment),
        ("GET / HTTP/1.1\nHost: a\n\n", E::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", E::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: y\nz: w\r\n\r\n", E::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: y  \n\r\n", E::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\r\nx:\n\r\n", E::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", E::BareLineFeed),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: a\rb\r\n\r\n", E::Character),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: a\0b\r\n\r\n", E::Character),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: a\u{b}b\r\n\r\n", E::Character),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: a\u{7f}\r\n\r\n", E::Character),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\u{b}chunked\r\n\r\n", E::Character),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: a\r\n b\r\n\r\n", E::Field),
        ("GET / HTTP/1.1\r\n x: a\r\nHost: a\r\n\r\n", E::Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nx : b\r\n\r\n", E::Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nx\r\n\r\n", E::Field),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", E::Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nx\0: b\r\n\r\n", E::Field),
        ("GET / HTTP/1.1\r\n\r\n", E::MissingHost),
        ("OPTIONS * HTTP/1.1\r\n\r\n", E::MissingHost),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", E::Authority),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", E::Authority),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", E::Authority),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", E::Authority),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", E::Authority),
        ("GET / HTTP/1.1\r\nHost: a:1x\r\n\r\n", E::Authority),
        ("GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n", E::Authority),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", E::Authority),
        ("GET gopher://a/ HTTP/1.1\r\nHost: a\r\n\r\n", E::Scheme),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", E::LengthAndEncoding),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", E::TransferEncoding),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", E::TransferEncodingNotAllowed),
        ("\u{16}\u{3}\u{1}", E::Method),
        ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", E::Version),
    ] {
        let mut head = RequestHead::default();
        let options = DecodeOptions::default();
        let got = decode_request(bytes.as_bytes(), &options, &mut HeadProgress::default(), &mut head);
        assert_eq!(got, Err(error), "{bytes:?}");
        let (mut progress, mut slow) = (HeadProgress::default(), Ok(RequestOutcome::NeedMore));
        for end in 1..=bytes.len() {
            slow = decode_request(&bytes.as_bytes()[..end], &options, &mut progress, &mut head);
            if slow.is_err() {
                break;
            }
        }
        assert!(slow.is_err(), "{bytes:?} octet by octet");
    }
}

#[test]
fn the_four_forms_of_a_target() {
    let parts = |bytes: &[u8]| {
        let (info, head) = request(bytes).unwrap();
        let text = |part: &[u8]| String::from_utf8(part.to_vec()).unwrap();
        (text(head.authority()), text(head.path()), head.scheme, info.is_absolute_form)
    };
    let is = |authority: &str, path: &str, scheme, absolute| (authority.to_owned(), path.to_owned(), scheme, absolute);
    assert_eq!(parts(b"GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n"), is("h", "/a?b", Scheme::Http, false));
    assert_eq!(parts(b"GET /a HTTP/1.1\r\nHost:\r\n\r\n"), is("", "/a", Scheme::Http, false));
    assert_eq!(parts(b"GET https://x:1/a HTTP/1.1\r\nHost: h\r\n\r\n"), is("x:1", "/a", Scheme::Https, true));
    assert_eq!(parts(b"GET http://x HTTP/1.1\r\n\r\n"), is("x", "/", Scheme::Http, true));
    assert_eq!(parts(b"GET http://x?q HTTP/1.1\r\n\r\n"), is("x", "/?q", Scheme::Http, true));
    assert_eq!(parts(b"OPTIONS http://x HTTP/1.1\r\n\r\n"), is("x", "*", Scheme::Http, true));
    assert_eq!(parts(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"), is("h", "*", Scheme::Http, false));
    assert_eq!(parts(b"CONNECT x:443 HTTP/1.1\r\nHost: h\r\n\r\n"), is("x:443", "", Scheme::Http, false));
    let strict = DecodeOptions { allow_absolute_form: false, ..DecodeOptions::default() };
    let refused = request_with(b"GET http://x/ HTTP/1.1\r\nHost: h\r\n\r\n", &strict);
    assert_eq!(refused.unwrap_err(), Http1Error::AbsoluteForm);
}

#[test]
fn http_10_and_persistence() {
    let info = |bytes: &[u8]| request(bytes).unwrap().0;
    let old = info(b"GET / HTTP/1.0\r\n\r\n");
    assert!(old.host_missing && !old.keep_alive);
    let old =
        info(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nUpgrade: x\r\n\r\n");
    assert!(!old.host_missing && old.keep_alive && !old.expects_continue && !old.wants_upgrade);
    assert!(!info(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\n\r\n").keep_alive);
    let upgrade = info(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert!(upgrade.keep_alive && upgrade.wants_upgrade);
    assert!(!info(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n").wants_upgrade);
    let h2c = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n";
    let (info_h2c, mut head) = request(h2c).unwrap();
    assert!(!info_h2c.wants_upgrade);
    remove_hop_by_hop(&mut head.headers, info_h2c.wants_upgrade).unwrap();
    assert!(head.headers.is_empty());
    let options = DecodeOptions { allow_chunked_length: true, ..DecodeOptions::default() };
    let doubtful = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (info, head) = request_with(doubtful, &options).unwrap();
    assert_eq!((info.body, info.keep_alive), (BodyLength::Chunked, false));
    assert!(!head.headers.contains("content-length"));
}

#[test]
fn empty_lines_before_a_request_and_pipelining() {
    let bytes = b"\r\n\r\nGET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
    let (info, head) = request(bytes).unwrap();
    assert_eq!((head.path(), empty_lines(bytes)), (&b"/1"[..], 4));
    let (info2, head) = request(&bytes[info.consumed..]).unwrap();
    assert_eq!((head.path(), info.consumed + info2.consumed), (&b"/2"[..], bytes.len()));
    for lines in [&b"\r"[..], b"\r\n", b"\r\n\r"] {
        let mut head = RequestHead::default();
        let got = decode_request(lines, &DecodeOptions::default(), &mut HeadProgress::default(), &mut head);
        assert_eq!(got, Ok(RequestOutcome::NeedMore), "{lines:?}");
    }
}

#[test]
fn the_http_2_preface() {
    let mut head = RequestHead::default();
    for end in 0..=crate::h2_preface::PREFACE.len() {
        let bytes = &crate::h2_preface::PREFACE[..end];
        let got = decode_request(bytes, &DecodeOptions::default(), &mut HeadProgress::default(), &mut head);
        let whole = end == crate::h2_preface::PREFACE.len();
        assert_eq!(got, Ok(if whole { RequestOutcome::Http2Preface } else { RequestOutcome::NeedMore }));
    }
}

#[test]
fn limits() {
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "x: y\r\n".repeat(count));
    assert!(request(fields(99).as_bytes()).is_ok());
    assert_eq!(request(fields(100).as_bytes()).unwrap_err(), Http1Error::TooManyFields);
    assert_eq!(request(fields(30_000).as_bytes()).unwrap_err(), Http1Error::TooManyFields);
    let many = DecodeOptions { max_fields: 9_000, ..DecodeOptions::default() };
    assert_eq!(request_with(fields(8_999).as_bytes(), &many).unwrap().1.headers.len(), 8_999);

    let long = |octets: usize| format!("GET / HTTP/1.1\r\nHost: h\r\nx: {}\r\n\r\n", "y".repeat(octets - 32));
    let limit = DecodeOptions::default().max_head_bytes;
    assert_eq!(request(long(limit).as_bytes()).unwrap().0.consumed, limit);
    assert_eq!(request(long(limit + 1).as_bytes()).unwrap_err(), Http1Error::HeadTooLarge);
    let endless = format!("GET /{}", "a".repeat(limit));
    assert_eq!(request(endless.as_bytes()).unwrap_err(), Http1Error::HeadTooLarge);
    let wide = DecodeOptions { max_head_bytes: 1 << 20, ..DecodeOptions::default() };
    let long_name = format!("GET / HTTP/1.1\r\nHost: h\r\n{}: 1\r\n\r\n", "n".repeat(70_000));
    assert_eq!(request_with(long_name.as_bytes(), &wide).unwrap_err(), Http1Error::HeadTooLarge);
    assert_eq!(Http1Error::HeadTooLarge.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(Http1Error::TooManyFields.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[test]
fn underscores_and_custom_methods() {
    let bytes = b"FOO / HTTP/1.1\r\nHost: a\r\nx_y: 1\r\nz: 2\r\n\r\n";
    let with = |underscores| DecodeOptions { allow_custom_methods: true, underscores, ..DecodeOptions::default() };
    let (info, head) = request_with(bytes, &with(UnderscoreAction::Allow)).unwrap();
    assert_eq!(
        (text(&head.headers), info.dropped_fields, head.method.as_str()),
        ("x_y: 1\r\nz: 2\r\n".into(), 0, "FOO")
    );
    let (info, head) = request_with(bytes, &with(UnderscoreAction::DropHeader)).unwrap();
    assert_eq!((text(&head.headers), info.dropped_fields), ("z: 2\r\n".into(), 1));
    let refused = request_with(bytes, &with(UnderscoreAction::RejectRequest));
    assert_eq!(refused.unwrap_err(), Http1Error::Underscore);
}

#[test]
fn a_response_head_in_any_split() {
    let bytes = b"HTTP/1.1 404 No \tsuch\xff thing\r\nServer: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (expected, whole) = response(bytes, RequestContext::default()).unwrap();
    assert_eq!((whole.status, expected.body, expected.keep_alive), (StatusCode::NOT_FOUND, BodyLength::Chunked, true));
    let mut progress = HeadProgress::default();
    let mut head = ResponseHead::default();
    for end in 0..=bytes.len() {
        let got = decode_response(
            &bytes[..end],
            &DecodeOptions::default(),
            RequestContext::default(),
            &mut progress,
            &mut head,
        );
        let outcome = if end == bytes.len() { ResponseOutcome::Head(expected) } else { ResponseOutcome::NeedMore };
        assert_eq!(got, Ok(outcome), "at {end}");
    }
    assert_eq!(head, whole);
}

#[test]
fn responses_that_are_taken() {
    let get = RequestContext::default();
    let info = |bytes: &[u8]| response(bytes, get).unwrap().0;
    assert_eq!(info(b"HTTP/1.1 200\r\n\r\n").body, BodyLength::UntilClose);
    assert!(!info(b"HTTP/1.1 200 \r\n\r\n").keep_alive, "a body until close ends the connection");
    assert!(!info(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n").keep_alive);
    assert!(info(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n").keep_alive);
    assert!(info(b"HTTP/1.1 204 No Content\r\n\r\n").keep_alive);
    assert_eq!(response(b"HTTP/1.1 100 Continue\r\n\r\n", get).unwrap().1.status, StatusCode::CONTINUE);
    let upgrade = RequestContext { wants_upgrade: true, ..get };
    let switched = response(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", upgrade).unwrap();
    assert_eq!((switched.0.body, switched.0.keep_alive), (BodyLength::Tunnel, false));
}

#[test]
fn responses_that_are_refused() {
    use Http1Error as E;
    for (bytes, error) in [
        ("HTTP/2 200 OK\r\n\r\n", E::StatusLine),
        ("HTTP/1.1  200 OK\r\n\r\n", E::StatusLine),
        ("HTTP/1.1 20 OK\r\n\r\n", E::StatusLine),
        ("HTTP/1.1 2000 OK\r\n\r\n", E::StatusLine),
        ("HTTP/1.1 099 OK\r\n\r\n", E::StatusLine),
        ("HTTP/1.1 2x0 OK\r\n\r\n", E::StatusLine),
        ("HTTP/1.1 200 O\0K\r\n\r\n", E::StatusLine),
        ("HTTP/1.1 200 O\rK\r\n\r\n", E::StatusLine),
        ("HTTP/1.1\r\n\r\n", E::StatusLine),
        ("ICY 200 OK\r\n\r\n", E::StatusLine),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", E::StatusLine),
        ("hello", E::StatusLine),
        ("HTTP/1.1 200 OK\n\n", E::BareLineFeed),
        ("HTTP/1.1 200 OK\r\nx: y\n\r\n", E::BareLineFeed),
        ("HTTP/1.1 200 OK\r\nx: a\rSet-Cookie: b\r\n\r\n", E::Character),
        ("HTTP/1.1 200 OK\r\nx: a\r\n folded\r\n\r\n", E::Field),
        ("HTTP/1.1 200 OK\r\nx : a\r\n\r\n", E::Field),
        ("HTTP/1.1 101 Switch\r\n\r\n", E::UnexpectedSwitch),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", E::ContentLength),
    ] {
        assert_eq!(response(bytes.as_bytes(), RequestContext::default()).map(|_| ()), Err(error), "{bytes:?}");
    }
}

fn encoded(head: &RequestHead, encoding: &HeadEncoding) -> String {
    let mut out = Vec::new();
    encode_request_head(head, encoding, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn requests_leave_with_host_first_and_the_rest_as_it_came() {
    let (info, mut head) = request(BROWSER).unwrap();
    assert_eq!(
        encoded(&head, &HeadEncoding::new(info.body)),
        "POST /a/b?c=d HTTP/1.1\r\nhost: Example.com:8080\r\nUser-Agent: x/1\r\nACCEPT: */*\r\nx-dup: 1\r\nX-Dup: 2\r\n\
         Content-Length: 5\r\nexpect: 100-Continue\r\n\r\n"
    );
    head.headers.remove("expect");
    head.headers.set("x-dup", "3").unwrap();
    head.headers.append("x-added", "4").unwrap();
    let proper = HeadEncoding {
        names: HeaderKeyFormat::ProperCase,
        absolute_form: true,
        connection: ConnectionField::Close,
        protocol: Protocol::Http10,
        ..HeadEncoding::new(BodyLength::Length(5))
    };
    assert_eq!(
        encoded(&head, &proper),
        "POST http://Example.com:8080/a/b?c=d HTTP/1.0\r\nHost: Example.com:8080\r\nUser-Agent: x/1\r\nAccept: */*\r\n\
         X-Dup: 3\r\nContent-Length: 5\r\nX-Added: 4\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn framing_fields_agree_with_the_body_that_is_sent() {
    let head = |fields: &[(&str, &str)]| {
        let mut head = RequestHead::new(Method::Put, "h", "/").unwrap();
        head.headers = fields.iter().copied().collect();
        head
    };
    let lines = |fields: &[(&str, &str)], body| {
        encoded(&head(fields), &HeadEncoding::new(body)).replace("PUT / HTTP/1.1\r\nhost: h\r\n", "")
    };
    let length = [("content-length", "5")];
    let chunked = [("transfer-encoding", "chunked"), ("a", "b")];
    let both = [("content-length", "5"), ("content-length", "6")];
    assert_eq!(lines(&length, BodyLength::Length(5)), "content-length: 5\r\n\r\n");
    assert_eq!(lines(&length, BodyLength::Length(6)), "content-length: 6\r\n\r\n");
    assert_eq!(lines(&length, BodyLength::Chunked), "transfer-encoding: chunked\r\n\r\n");
    assert_eq!(lines(&length, BodyLength::Empty), "content-length: 0\r\n\r\n");
    assert_eq!(lines(&[], BodyLength::Length(u64::MAX)), "content-length: 18446744073709551615\r\n\r\n");
    assert_eq!(lines(&chunked, BodyLength::Chunked), "a: b\r\ntransfer-encoding: chunked\r\n\r\n");
    assert_eq!(lines(&chunked, BodyLength::Length(1)), "a: b\r\ncontent-length: 1\r\n\r\n");
    assert_eq!(lines(&both, BodyLength::Length(5)), "content-length: 5\r\n\r\n");
    let mut get = head(&[]);
    get.method = Method::Get;
    assert_eq!(encoded(&get, &HeadEncoding::new(BodyLength::Empty)), "GET / HTTP/1.1\r\nhost: h\r\n\r\n");
    get.headers.append("content-length", "0").unwrap();
    assert_eq!(
        encoded(&get, &HeadEncoding::new(BodyLength::Empty)),
        "GET / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"
    );
}

#[test]
fn targets_leave_in_their_form() {
    let line = |method, path: &str, absolute_form| {
        let mut head = RequestHead::new(method, "h:1", path).unwrap();
        head.scheme = Scheme::Https;
        let encoding = HeadEncoding { absolute_form, ..HeadEncoding::new(BodyLength::Empty) };
        encoded(&head, &encoding).split_once(" HTTP").unwrap().0.to_owned()
    };
    assert_eq!(line(Method::Get, "", false), "GET /");
    assert_eq!(line(Method::Get, "/a", true), "GET https://h:1/a");
    assert_eq!(line(Method::Options, "*", false), "OPTIONS *");
    assert_eq!(line(Method::Options, "*", true), "OPTIONS https://h:1");
    assert_eq!(line(Method::Connect, "", true), "CONNECT h:1");
}

#[test]
fn responses_leave_with_the_length_that_fits() {
    let encoded = |status: u16, fields: &[(&str, &str)], body, is_head| {
        let head = ResponseHead {
            headers: fields.iter().copied().collect(),
            ..ResponseHead::new(StatusCode::from_u16(status).unwrap())
        };
        let mut out = Vec::new();
        encode_response_head(&head, &HeadEncoding::new(body), is_head, &mut out);
        String::from_utf8(out).unwrap()
    };
    let five = [("content-length", "5")];
    assert_eq!(encoded(200, &five, BodyLength::Length(5), false), "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(encoded(200, &five, BodyLength::Empty, true), "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(encoded(200, &[], BodyLength::Empty, true), "HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(encoded(200, &[], BodyLength::Empty, false), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(encoded(304, &five, BodyLength::Empty, false), "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(encoded(304, &[], BodyLength::Empty, false), "HTTP/1.1 304 Not Modified\r\n\r\n");
    assert_eq!(encoded(204, &five, BodyLength::Empty, false), "HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(encoded(103, &five, BodyLength::Empty, false), "HTTP/1.1 103 Early Hints\r\n\r\n");
    assert_eq!(encoded(599, &five, BodyLength::UntilClose, false), "HTTP/1.1 599 Unknown\r\n\r\n");
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
    assert_eq!(
        encoded(101, &upgrade, BodyLength::Tunnel, false),
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
}

#[test]
fn chunks_and_trailers_leave_as_they_can_be_read_again() {
    let mut out = Vec::new();
    for data in [&b"abc"[..], b"", &[b'x'; 300]] {
        encode_chunk(data, &mut out);
    }
    let trailers: Headers = [("X-A", "1"), ("content-length", "5")].into_iter().collect();
    encode_trailers(&trailers, HeaderKeyFormat::ProperCase, &mut out);
    let expected = format!("3\r\nabc\r\n12c\r\n{}\r\n0\r\nX-A: 1\r\n\r\n", "x".repeat(300));
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    for size in [1, 9, 10, 15, 16, 255, 256, 65_535, 1 << 32, usize::MAX] {
        assert_eq!(ChunkHead::new(size).as_bytes(), format!("{size:x}\r\n").as_bytes());
    }
}
