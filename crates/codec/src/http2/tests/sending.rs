//! What is written: heads in both roles, upgrades, trailers, and calls at the wrong time.

use super::*;
use crate::http2::SendError;
use sota_plugin::http::{ResponseHead, Scheme, StatusCode};

/// Passes one side's output to the other.
fn pass(from: &mut Tested, to: &mut Tested) -> Vec<String> {
    let output = from.connection.output().to_vec();
    from.connection.written(output.len());
    to.recv(&output)
}

fn pair(options: Options) -> (Tested, Tested) {
    let options = Arc::new(options);
    let mut client = Tested { connection: Connection::client(options.clone()), pool: HeadPool::new() };
    let mut server = Tested { connection: Connection::server(options), pool: HeadPool::new() };
    assert_eq!(pass(&mut server, &mut client), ["settings"]);
    assert_eq!(pass(&mut client, &mut server), ["settings"]);
    assert!(pass(&mut server, &mut client).is_empty());
    (client, server)
}

fn request(method: Method, fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::new(method, "example.com", "/a?b").unwrap();
    head.scheme = Scheme::Https;
    head.headers = fields.iter().copied().collect();
    head
}

#[test]
fn what_belongs_to_http1_does_not_leave() {
    let (mut client, mut server) = pair(Options::default());
    let mut head = request(
        Method::Post,
        &[
            ("connection", "close"),
            ("keep-alive", "1"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
            ("host", "b"),
            ("content-length", "2"),
            ("te", "trailers"),
        ],
    );
    // As it came by HTTP/1: with its own spelling.
    head.headers.begin_block();
    let span = |start, end| sota_plugin::http::Span { start, end };
    head.headers.push_span(None, span(0, 25), span(27, 28), true).unwrap();
    head.headers.end_block(b"X-Long-Name-With-Capitals: 1\r\n\r\n");
    let long = format!("X-{}", "A".repeat(100));
    for (name, value) in [("Connection", "close"), ("te", "gzip"), ("content-length", "2"), (&long, "v")] {
        head.headers.append(name, value).unwrap();
    }
    assert_eq!(client.connection.send_request(&head, false), Ok(1));
    let seen = pass(&mut client, &mut server);
    let lower = long.to_ascii_lowercase();
    let expected =
        format!("request 1 POST https://example.com/a?b x-long-name-with-capitals=1 content-length=2 {lower}=v");
    assert_eq!(seen, [expected]);
    let response = ResponseHead::new(StatusCode::OK).with("connection", "close").with("x-a", "1");
    server.connection.send_response(1, &response, false).unwrap();
    assert_eq!(pass(&mut server, &mut client), ["response 1 200 x-a=1"]);
}

#[test]
fn a_whole_exchange() {
    let (mut client, mut server) = pair(Options::default());
    client.connection.send_request(&request(Method::Put, &[]), false).unwrap();
    assert_eq!(client.connection.send_data(1, b"abc", false), Ok(3));
    let trailers: Headers = [("x-t", "1"), ("connection", "x")].into_iter().collect();
    client.connection.send_trailers(1, &trailers).unwrap();
    assert_eq!(client.connection.send_data(1, b"late", false), Err(SendError::Closed));
    let seen = pass(&mut client, &mut server);
    assert_eq!(seen, ["request 1 PUT https://example.com/a?b", "data 1 abc", "trailers 1 x-t=1"]);
    for status in [StatusCode::CONTINUE, StatusCode::EARLY_HINTS] {
        server.connection.send_response(1, &ResponseHead::new(status), false).unwrap();
    }
    let ok = ResponseHead::new(StatusCode::OK).with("content-length", "3");
    assert_eq!(server.connection.send_data(1, b"x", false), Err(SendError::Closed), "no head yet");
    server.connection.send_response(1, &ok, false).unwrap();
    assert_eq!(server.connection.send_response(1, &ok, false), Err(SendError::InvalidHead));
    assert_eq!(server.connection.send_data(1, b"xyz", false), Ok(3));
    server.connection.send_trailers(1, &Headers::new()).unwrap();
    assert_eq!(server.connection.send_response(1, &ok, false), Err(SendError::Closed));
    let seen = pass(&mut server, &mut client);
    assert_eq!(seen, ["response 1 100", "response 1 103", "response 1 200 content-length=3", "data 1 xyz end"]);
    client.connection.release(1, 3);
    server.connection.release(1, 3);
    assert_eq!((client.connection.live_streams(), server.connection.live_streams()), (0, 0));
}

#[test]
fn the_end_is_said_by_what_waits() {
    let (mut client, mut server) = pair(Options::default());
    // By the head, by the data, and by a frame of its own behind what is written or behind another stream.
    assert_eq!(client.connection.send_request(&request(Method::Post, &[]), false), Ok(1));
    assert_eq!(client.connection.send_data(1, b"", true), Ok(0));
    assert_eq!(client.connection.send_request(&request(Method::Post, &[]), false), Ok(3));
    assert_eq!(client.connection.send_data(3, b"a", false), Ok(1));
    assert_eq!(client.connection.send_data(3, b"", true), Ok(0));
    let post = |stream| format!("request {stream} POST https://example.com/a?b");
    assert_eq!(pass(&mut client, &mut server), [post(1) + " end", post(3), "data 3 a end".into()]);
    for stream in [5, 7] {
        assert_eq!(client.connection.send_request(&request(Method::Post, &[]), false), Ok(stream));
    }
    assert_eq!(client.connection.send_data(5, b"", true), Ok(0));
    assert_eq!(pass(&mut client, &mut server), [post(5), post(7), "data 5  end".into()]);
    client.connection.ping([0; 8]);
    assert_eq!(client.connection.send_data(7, b"", true), Ok(0));
    client.connection.written(1);
    assert_eq!(client.connection.send_data(7, b"", true), Err(SendError::Closed));
}

#[test]
fn heads_that_cannot_be_said() {
    let (mut client, mut server) = pair(Options::default());
    assert_eq!(server.connection.send_request(&request(Method::Get, &[]), true), Err(SendError::InvalidHead));
    let upgrade = request(Method::Get, &[("connection", "upgrade"), ("upgrade", "websocket")]);
    assert_eq!(client.connection.send_request(&upgrade, false), Err(SendError::ExtendedConnect));
    assert_eq!(
        client.connection.send_request(&RequestHead::new(Method::Connect, "", "").unwrap(), false),
        Err(SendError::InvalidHead)
    );
    assert_eq!(client.connection.send_request(&request(Method::Get, &[]), true), Ok(1), "the table was not touched");
    pass(&mut client, &mut server);
    let switching = ResponseHead::new(StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(server.connection.send_response(1, &switching, false), Err(SendError::InvalidHead));
    let hints = ResponseHead::new(StatusCode::EARLY_HINTS);
    assert_eq!(server.connection.send_response(1, &hints, true), Err(SendError::InvalidHead));
    assert_eq!(server.connection.send_response(9, &hints, false), Err(SendError::Closed));
    assert_eq!(client.connection.send_response(1, &hints, false), Err(SendError::Closed));
}

#[test]
fn websocket_over_extended_connect() {
    let (mut client, mut server) = pair(Options { allow_connect: true, ..Options::default() });
    let head = request(
        Method::Get,
        &[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("content-length", "0"),
            ("sec-websocket-version", "13"),
        ],
    );
    client.connection.send_request(&head, false).unwrap();
    let seen = pass(&mut client, &mut server);
    let shown = "request 1 GET https://example.com/a?b sec-websocket-version=13 connection=upgrade upgrade=websocket";
    assert_eq!(seen, [shown]);
    let switching = ResponseHead::new(StatusCode::SWITCHING_PROTOCOLS)
        .with("connection", "upgrade")
        .with("upgrade", "websocket")
        .with("sec-websocket-protocol", "chat");
    server.connection.send_response(1, &switching, false).unwrap();
    server.connection.send_data(1, b"frames", false).unwrap();
    let shown = "response 1 101 sec-websocket-protocol=chat connection=upgrade upgrade=websocket";
    assert_eq!(pass(&mut server, &mut client), [shown, "data 1 frames"]);

    client.connection.send_request(&head, false).unwrap();
    pass(&mut client, &mut server);
    server.connection.send_response(3, &ResponseHead::new(StatusCode::FORBIDDEN), true).unwrap();
    assert_eq!(pass(&mut server, &mut client), ["response 3 403 end"]);
}

#[test]
fn long_heads_are_continued() {
    let (mut client, mut server) = pair(Options::default());
    let mut head = request(Method::Get, &[]);
    let value = "~".repeat(20_000);
    head.headers.append("x-long", &value).unwrap();
    head.headers.append("x-longer", &value).unwrap();
    client.connection.send_request(&head, true).unwrap();
    let output = client.connection.output().to_vec();
    assert_eq!(client.written(), ["headers 1 end", "continuation 1", "continuation 1"]);
    assert_eq!(
        server.recv(&output),
        [format!("request 1 GET https://example.com/a?b x-long={value} x-longer={value} end")]
    );
}

#[test]
fn the_peers_limit_of_streams() {
    let (mut client, mut server) = pair(Options { max_concurrent_streams: 2, ..Options::default() });
    let head = request(Method::Get, &[]);
    assert_eq!(client.connection.send_request(&head, true), Ok(1));
    assert_eq!(client.connection.send_request(&head, true), Ok(3));
    assert!(!client.connection.can_open());
    assert_eq!(client.connection.send_request(&head, true), Err(SendError::TooManyStreams));
    pass(&mut client, &mut server);
    server.connection.send_response(1, &ResponseHead::default(), true).unwrap();
    pass(&mut server, &mut client);
    assert_eq!(client.connection.send_request(&head, true), Ok(5));
    server.connection.notify_shutdown();
    pass(&mut server, &mut client);
    assert_eq!(client.connection.send_request(&head, true), Err(SendError::GoingAway));
}

#[test]
fn a_smaller_table_is_obeyed() {
    for size in [0, 64, 4096, 65_536] {
        let (mut client, mut server) = pair(Options { hpack_table_size: size, ..Options::default() });
        let head = request(Method::Get, &[("x-custom-name", "x-custom-value"), ("x-other-name", "x-other-value")]);
        for stream in [1, 3, 5, 7] {
            assert_eq!(client.connection.send_request(&head, true), Ok(stream));
            assert_eq!(pass(&mut client, &mut server).len(), 1);
            server.connection.send_response(stream, &ResponseHead::default().with("x-a", "b"), true).unwrap();
            assert_eq!(pass(&mut server, &mut client).len(), 1);
        }
    }
}
