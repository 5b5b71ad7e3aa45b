//! Frames and states (RFC 9113 §3 to §6), after the cases of h2spec.

use super::*;

fn code(octets: &[u8]) -> ErrorCode {
    Tested::server(Options::default()).fails(octets).code
}

#[test]
fn the_preface_and_first_frame() {
    let fresh = || Tested { connection: Connection::server(Arc::new(Options::default())), pool: HeadPool::new() };
    assert_eq!(fresh().written(), ["settings", "window 0 25100289"]);
    assert_eq!(fresh().fails(b"GET / HTTP/1.1\r\n").code, ErrorCode::PROTOCOL_ERROR);
    assert_eq!(fresh().fails(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r!").code, ErrorCode::PROTOCOL_ERROR);
    for first in [frame(6, 0, 0, &[0; 8]), frame(4, 1, 0, &[]), headers(1, END, &GET), frame(0xff, 0, 0, &[])] {
        assert_eq!(fresh().fails(&[PREFACE, &first].concat()).code, ErrorCode::PROTOCOL_ERROR);
    }
    let mut client = Tested { connection: Connection::client(Arc::new(Options::default())), pool: HeadPool::new() };
    assert!(client.connection.output().starts_with(PREFACE));
    assert_eq!(client.written(), ["settings", "window 0 25100289"]);
    assert_eq!(client.fails(&data(1, END, b"")).code, ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn frame_sizes() {
    let long = [0u8; 16_385];
    for octets in [
        frame(kind::DATA, 0, 1, &long),
        frame(kind::HEADERS, 4, 1, &long),
        frame(0xff, 0, 1, &long),
        frame(kind::RST_STREAM, 0, 1, &[0; 3]),
        frame(kind::RST_STREAM, 0, 1, &[0; 5]),
        frame(kind::SETTINGS, 0, 0, &[0; 7]),
        frame(kind::SETTINGS, 1, 0, &[0; 6]),
        frame(kind::PING, 0, 0, &[0; 7]),
        frame(kind::PING, 0, 0, &[0; 9]),
        frame(kind::GOAWAY, 0, 0, &[0; 7]),
        frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]),
        frame(kind::DATA, flag::PADDED, 1, &[]),
        frame(kind::HEADERS, 4 | flag::PRIORITY, 1, &[0; 4]),
    ] {
        assert_eq!(code(&octets), ErrorCode::FRAME_SIZE_ERROR, "{:?}", &octets[..9]);
    }
    let whole = [headers(1, OPEN, &POST), data(1, OPEN, &[b'x'; 16_384])].concat();
    assert_eq!(Tested::server(Options::default()).recv(&whole).len(), 2);
}

#[test]
fn frames_on_the_wrong_stream() {
    for octets in [
        data(0, OPEN, b"x"),
        headers(0, END, &GET),
        headers(2, END, &GET),
        frame(kind::PRIORITY, 0, 0, &[0; 5]),
        rst(0, ErrorCode::CANCEL),
        frame(kind::SETTINGS, 0, 1, &[]),
        frame(kind::PING, 0, 1, &[0; 8]),
        frame(kind::GOAWAY, 0, 1, &[0; 8]),
        frame(kind::CONTINUATION, 4, 0, &[]),
        frame(kind::CONTINUATION, 4, 1, &[]),
        frame(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]),
        // Idle streams.
        data(1, OPEN, b"x"),
        rst(1, ErrorCode::CANCEL),
        window_update(1, 1),
        window_update(2, 1),
        // Padding as long as the frame.
        frame(kind::DATA, flag::PADDED, 1, &[1]),
        frame(kind::HEADERS, 4 | flag::PADDED, 1, &[5, 0, 0, 0, 0]),
    ] {
        assert_eq!(code(&octets), ErrorCode::PROTOCOL_ERROR, "{:?}", &octets[..9]);
    }
}

#[test]
fn padding_priority_and_what_is_unknown() {
    let mut fields = vec![3, 0x80, 0, 0, 9, 200];
    fields.extend_from_slice(&block(&POST));
    fields.extend_from_slice(&[0; 3]);
    let octets = [
        frame(kind::PRIORITY, 0, 9, &[0; 5]),
        frame(0xfe, 0xff, 77, b"anything"),
        frame(kind::HEADERS, flag::END_HEADERS | flag::PADDED | flag::PRIORITY, 1, &fields),
        frame(kind::DATA, flag::PADDED, 1, b"\x02ab\0\0"),
        frame(kind::DATA, flag::PADDED | flag::END_STREAM, 1, b"\x02\0\0"),
        frame(kind::PING, 0xfe, 0, &[0, 0, 0, 0, 0, 0, 0, 5]),
        frame(kind::PING, flag::ACK, 0, &[0, 0, 0, 0, 0, 0, 0, 6]),
    ];
    let mut tested = Tested::server(Options::default());
    let seen = tested.recv(&octets.concat());
    assert_eq!(seen, ["request 1 POST http://a/", "data 1 ab", "data 1  end", "pong 6"]);
    assert_eq!(tested.written(), ["ping 5 ack"]);
}

#[test]
fn field_blocks_in_parts() {
    let fields = block(&GET);
    let (a, b) = fields.split_at(7);
    let parts = [
        frame(kind::HEADERS, 1, 1, a),
        frame(kind::CONTINUATION, 0, 1, &b[..1]),
        frame(kind::CONTINUATION, 4, 1, &b[1..]),
    ];
    let mut tested = Tested::server(Options::default());
    assert_eq!(tested.recv(&parts.concat()), ["request 1 GET http://a/ end"]);
    for between in [
        data(1, OPEN, b"x"),
        headers(3, END, &GET),
        frame(kind::PING, 0, 0, &[0; 8]),
        frame(0xff, 0, 1, &[]),
        frame(kind::CONTINUATION, 4, 3, b),
    ] {
        assert_eq!(code(&[&parts[0][..], &between].concat()), ErrorCode::PROTOCOL_ERROR);
    }
    let done = [&parts.concat()[..], &frame(kind::CONTINUATION, 4, 1, &[])].concat();
    assert_eq!(code(&done), ErrorCode::PROTOCOL_ERROR);
    assert_eq!(code(&frame(kind::HEADERS, 5, 1, &[0xff])), ErrorCode::COMPRESSION_ERROR);
    assert_eq!(code(&frame(kind::HEADERS, 5, 1, &[0x80])), ErrorCode::COMPRESSION_ERROR);
}

#[test]
fn closed_streams() {
    // Ended by both sides.
    let ended = || {
        let mut tested = Tested::server(Options::default());
        tested.recv(&headers(1, END, &GET));
        tested.connection.send_response(1, &Default::default(), true).unwrap();
        tested.written();
        tested
    };
    assert_eq!(ended().connection.live_streams(), 0);
    assert_eq!(ended().fails(&data(1, END, b"x")).code, ErrorCode::STREAM_CLOSED);
    assert_eq!(ended().fails(&headers(1, END, &GET)).code, ErrorCode::STREAM_CLOSED);
    let harmless = [window_update(1, 5), rst(1, ErrorCode::CANCEL), frame(kind::PRIORITY, 0, 1, &[0; 5])].concat();
    assert!(ended().recv(&harmless).is_empty());
    // Half closed by the peer.
    for more in [data(1, OPEN, b"x"), headers(1, END, &[("x", "y")])] {
        let mut tested = Tested::server(Options::default());
        let seen = tested.recv(&[headers(1, END, &GET), more].concat());
        assert_eq!(seen[1..], ["fault 1 STREAM_CLOSED(0x5) http2.unknown.nghttp2.error"]);
    }
    // Lower than the last one.
    assert_eq!(code(&[headers(5, END, &GET), headers(3, END, &GET)].concat()), ErrorCode::STREAM_CLOSED);
    // Reset by us: what was on its way does not matter, and its octets return to the connection.
    let mut tested = Tested::server(Options::default());
    tested.recv(&headers(1, OPEN, &POST));
    tested.connection.reset(1, ErrorCode::NO_ERROR);
    assert_eq!(tested.written(), ["rst 1 NO_ERROR(0x0)"]);
    tested.connection.reset(1, ErrorCode::CANCEL);
    assert!(tested.connection.output().is_empty());
    let late = [data(1, OPEN, b"x"), headers(1, END, &[("x", "y")]), window_update(1, 9), rst(1, ErrorCode::CANCEL)];
    assert!(tested.recv(&late.concat()).is_empty());
}

#[test]
fn many_resets_are_not_all_remembered_but_none_is_an_error() {
    let mut tested = Tested::server(Options::default());
    for stream in (1..800).step_by(2) {
        tested.recv(&headers(stream, OPEN, &POST));
        tested.connection.reset(stream, ErrorCode::CANCEL);
    }
    tested.written();
    for stream in (1..800).step_by(2) {
        assert!(tested.recv(&data(stream, END, b"late")).is_empty());
    }
    tested.connection.trim();
    assert!(tested.connection.memory() < 2048, "{}", tested.connection.memory());
}

#[test]
fn the_peer_resets() {
    let mut tested = Tested::server(Options::default());
    let octets = [headers(1, OPEN, &POST), data(1, OPEN, b"x"), rst(1, ErrorCode::CANCEL)].concat();
    assert_eq!(tested.recv(&octets)[2..], ["reset 1 CANCEL(0x8) http2.remote_reset"]);
    assert_eq!(tested.connection.live_streams(), 0);
    tested.connection.release(1, 1);
    assert_eq!(tested.connection.send_data(1, b"x", true), Err(crate::http2::SendError::Closed));
    assert_eq!(tested.connection.take_counters().rx_reset, 1);
}

#[test]
fn settings_of_the_peer() {
    for (parameters, expected) in [
        ([(2, 2)], ErrorCode::PROTOCOL_ERROR),
        ([(4, 0x8000_0000)], ErrorCode::FLOW_CONTROL_ERROR),
        ([(5, 16_383)], ErrorCode::PROTOCOL_ERROR),
        ([(5, 1 << 24)], ErrorCode::PROTOCOL_ERROR),
        ([(8, 2)], ErrorCode::PROTOCOL_ERROR),
    ] {
        assert_eq!(code(&settings(&parameters)), expected, "{parameters:?}");
    }
    assert_eq!(code(&[settings(&[(8, 1)]), settings(&[(8, 0)])].concat()), ErrorCode::PROTOCOL_ERROR);
    let mut client = Tested::client(Options::default());
    assert_eq!(client.fails(&settings(&[(2, 1)])).code, ErrorCode::PROTOCOL_ERROR);
    let mut tested = Tested::server(Options::default());
    let all = [(1, 100), (2, 1), (3, 7), (4, 1 << 20), (5, 20_000), (6, 999), (8, 1), (0x99, 5)];
    assert_eq!(tested.recv(&settings(&all)), ["settings"]);
    assert_eq!(tested.written(), ["settings ack"]);
    let peer = *tested.connection.peer_settings();
    assert_eq!((peer.header_table_size, peer.max_concurrent_streams), (100, 7));
    assert_eq!((peer.initial_window_size, peer.max_frame_size, peer.max_header_list_size), (1 << 20, 20_000, 999));
    assert!(peer.enable_connect_protocol);
}

#[test]
fn too_many_streams_are_refused() {
    let mut tested = Tested::server(Options { max_concurrent_streams: 2, ..Options::default() });
    let three = [headers(1, OPEN, &POST), headers(3, END, &GET), headers(5, END, &GET)].concat();
    assert_eq!(tested.recv(&three)[2..], ["fault 5 REFUSED_STREAM(0x7) http2.unknown.nghttp2.error"]);
    assert_eq!(tested.connection.live_streams(), 2);
    tested.connection.send_response(3, &Default::default(), true).unwrap();
    assert_eq!(tested.recv(&headers(7, END, &GET)), ["request 7 GET http://a/ end"]);
    assert_eq!(tested.connection.take_counters().stream_refused_errors, 1);
}

#[test]
fn draining_takes_two_steps() {
    let mut tested = Tested::server(Options::default());
    tested.recv(&headers(1, END, &GET));
    tested.connection.notify_shutdown();
    assert_eq!(tested.written(), ["goaway NO_ERROR(0x0) 2147483647"]);
    assert_eq!(tested.recv(&headers(3, END, &GET)), ["request 3 GET http://a/ end"]);
    tested.connection.go_away(ErrorCode::NO_ERROR, b"");
    tested.connection.go_away(ErrorCode::NO_ERROR, b"");
    assert_eq!(tested.written(), ["goaway NO_ERROR(0x0) 3"]);
    // Later streams are ignored, with all that belongs to them.
    assert!(tested.recv(&[headers(5, OPEN, &POST), data(5, END, b"x")].concat()).is_empty());
    assert!(!tested.connection.is_drained());
    for stream in [1, 3] {
        tested.connection.send_response(stream, &Default::default(), true).unwrap();
    }
    assert!(!tested.connection.is_drained(), "the responses are not written");
    tested.written();
    assert!(tested.connection.is_drained());
    let counters = tested.connection.take_counters();
    assert_eq!((counters.goaway_graceful_sent, counters.goaway_sent), (1, 1));
}
