//! Flow control (RFC 9113 §5.2, §6.9) and back-pressure.

use super::*;
use sota_plugin::http::ResponseHead;

const SMALL: u32 = 65_535;

fn small() -> Options {
    Options { initial_stream_window: SMALL, initial_connection_window: SMALL, ..Options::default() }
}

/// A server with streams that have their response's head.
fn answering(streams: &[u32], options: Options) -> Tested {
    let mut tested = Tested::server(options);
    for stream in streams {
        tested.recv(&headers(*stream, END, &GET));
        tested.connection.send_response(*stream, &ResponseHead::default(), false).unwrap();
    }
    tested.written();
    tested
}

#[test]
fn the_peer_waits_until_octets_are_released() {
    let mut tested = Tested::server(small());
    tested.recv(&headers(1, OPEN, &POST));
    for _ in 0..3 {
        tested.recv(&data(1, OPEN, &[b'x'; 16_384]));
    }
    assert!(tested.written().is_empty(), "nothing was released");
    tested.connection.release(1, 20_000);
    assert!(tested.written().is_empty(), "less than half a window");
    tested.connection.release(1, 20_000);
    assert_eq!(tested.written(), ["window 0 40000", "window 1 40000"]);
    tested.connection.release(1, usize::MAX);
    tested.connection.release(1, 1);
    assert!(tested.written().is_empty(), "only 9152 were left");
}

#[test]
fn more_than_the_window_is_an_error() {
    let body = [b'x'; 16_384];
    // The stream's window.
    let options = Options { initial_stream_window: SMALL, ..Options::default() };
    let mut tested = Tested::server(options);
    tested.recv(&headers(1, OPEN, &POST));
    for _ in 0..3 {
        assert_eq!(tested.recv(&data(1, OPEN, &body)).len(), 1);
    }
    assert_eq!(tested.recv(&data(1, OPEN, &body)), ["fault 1 FLOW_CONTROL_ERROR(0x3) http2.unknown.nghttp2.error"]);
    // The connection's.
    let mut tested = Tested::server(small());
    tested.recv(&headers(1, OPEN, &POST));
    tested.recv(&headers(3, OPEN, &POST));
    for stream in [1, 3, 1] {
        tested.recv(&data(stream, OPEN, &body));
    }
    assert_eq!(tested.fails(&data(3, OPEN, &body)).code, ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn padding_and_dropped_data_are_given_back_at_once() {
    let mut tested = Tested::server(small());
    tested.recv(&headers(1, OPEN, &POST));
    let mut padded = vec![255, b'x'];
    padded.extend_from_slice(&[0; 255]);
    for _ in 0..128 {
        assert_eq!(tested.recv(&frame(kind::DATA, flag::PADDED, 1, &padded)), ["data 1 x"]);
    }
    assert_eq!(tested.written(), ["window 0 32768", "window 1 32768"]);
    tested.connection.reset(1, ErrorCode::CANCEL);
    for _ in 0..2 {
        tested.recv(&data(1, OPEN, &[0; 16_384]));
    }
    assert_eq!(tested.written(), ["rst 1 CANCEL(0x8)", "window 0 32896"], "with the 128 that the user had");
}

#[test]
fn a_closed_stream_keeps_its_octets_until_they_are_released() {
    let mut tested = Tested::server(small());
    tested.recv(
        &[
            headers(1, OPEN, &POST),
            data(1, OPEN, &[0; 16_384]),
            data(1, OPEN, &[0; 16_384]),
            data(1, END, &[0; 16_384]),
        ]
        .concat(),
    );
    tested.connection.send_response(1, &ResponseHead::default(), true).unwrap();
    assert_eq!((tested.connection.live_streams(), tested.written().len()), (0, 1));
    tested.connection.release(1, 40_000);
    assert_eq!(tested.written(), ["window 0 40000"]);
    tested.connection.release(1, 9152);
    tested.connection.trim();
    assert!(tested.connection.memory() < 64, "nothing is left of it: {}", tested.connection.memory());
}

#[test]
fn sending_stops_at_the_windows_and_goes_on() {
    let mut tested = answering(&[1, 3], Options::default());
    let body = vec![b'x'; 100_000];
    assert_eq!(tested.connection.capacity(1), 65_535);
    assert_eq!(tested.connection.send_data(1, &body, true), Ok(65_535));
    assert_eq!(tested.connection.send_data(3, &body, true), Ok(0));
    assert_eq!(tested.written(), ["data 1 16384", "data 1 16384", "data 1 16384", "data 1 16383"]);
    assert_eq!(tested.connection.next_sendable(), None);
    // Room on the connection: stream 3 can go on, stream 1 waits for its own window.
    tested.recv(&window_update(0, 30_000));
    assert_eq!(tested.connection.next_sendable(), Some(3));
    assert_eq!(tested.connection.next_sendable(), None);
    assert_eq!(tested.connection.send_data(3, &body[..10], true), Ok(10));
    assert_eq!(tested.written(), ["data 3 10 end"]);
    tested.recv(&window_update(1, 50_000));
    assert_eq!(tested.connection.next_sendable(), Some(1));
    assert_eq!(tested.connection.send_data(1, &body[65_535..], true), Ok(29_990));
    tested.recv(&window_update(0, 50_000));
    assert_eq!(tested.connection.next_sendable(), Some(1));
    assert_eq!(tested.connection.send_data(1, &body[95_525..], true), Ok(4475));
    assert_eq!(tested.written(), ["data 1 16384", "data 1 13606", "data 1 4475 end"]);
    assert_eq!(tested.connection.live_streams(), 0);
}

#[test]
fn an_empty_end_needs_no_window() {
    let mut tested = answering(&[1], Options::default());
    assert_eq!(tested.connection.send_data(1, &[0; 65_535], false), Ok(65_535));
    assert_eq!(tested.connection.send_data(1, b"", false), Ok(0));
    assert_eq!(tested.written().last().unwrap(), "data 1 16383");
    assert_eq!(tested.connection.send_data(1, b"", true), Ok(0));
    assert_eq!(tested.written(), ["data 1 0 end"]);
}

#[test]
fn streams_take_turns() {
    let mut tested = answering(&[1, 3, 5], Options::default());
    tested.recv(&settings(&[(4, 1 << 20)]));
    assert_eq!(tested.connection.send_data(1, &[0; 65_535], false), Ok(65_535));
    for stream in [1, 3, 5] {
        assert_eq!(tested.connection.send_data(stream, &[0; 5000], false), Ok(0));
    }
    let mut turns = Vec::new();
    for _ in 0..6 {
        tested.recv(&window_update(0, 100));
        while let Some(stream) = tested.connection.next_sendable() {
            turns.push((stream, tested.connection.send_data(stream, &[0; 5000], false).unwrap()));
        }
    }
    assert_eq!(turns, [(1, 100), (3, 100), (5, 100), (1, 100), (3, 100), (5, 100)]);
}

#[test]
fn the_initial_window_changes_under_open_streams() {
    let mut tested = answering(&[1], Options::default());
    assert_eq!(tested.connection.send_data(1, &[0; 60_000], false), Ok(60_000));
    tested.recv(&settings(&[(4, 100)]));
    assert_eq!(tested.connection.capacity(1), 0, "the window is negative now");
    assert_eq!(tested.connection.send_data(1, b"abc", false), Ok(0));
    tested.recv(&window_update(1, 59_900));
    assert_eq!(tested.connection.next_sendable(), None, "a window of 0");
    tested.recv(&settings(&[(4, 0), (4, 102)]));
    assert_eq!(tested.connection.next_sendable(), Some(1));
    assert_eq!(tested.connection.send_data(1, b"abc", false), Ok(2));
}

#[test]
fn windows_that_are_no_windows() {
    let overflow = 0x7fff_ffff;
    let mut tested = answering(&[1], Options::default());
    assert_eq!(
        tested.recv(&window_update(1, overflow)),
        ["fault 1 FLOW_CONTROL_ERROR(0x3) http2.unknown.nghttp2.error"]
    );
    let mut tested = answering(&[1], Options::default());
    assert_eq!(tested.recv(&window_update(1, 0)), ["fault 1 PROTOCOL_ERROR(0x1) http2.unknown.nghttp2.error"]);
    let mut tested = answering(&[], Options::default());
    assert_eq!(tested.fails(&window_update(0, overflow)).code, ErrorCode::FLOW_CONTROL_ERROR);
    let mut tested = answering(&[], Options::default());
    assert_eq!(tested.fails(&window_update(0, 0)).code, ErrorCode::PROTOCOL_ERROR);
    let mut tested = answering(&[1], Options::default());
    tested.recv(&window_update(1, 1));
    assert_eq!(tested.fails(&settings(&[(4, overflow)])).code, ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn a_reader_that_stops_makes_the_sender_wait() {
    let options = Options { max_output: 100_000, ..Options::default() };
    let mut tested = answering(&[1], options);
    tested.recv(&[settings(&[(4, 0x7fff_ffff)]), window_update(0, 0x7fff_ffff - 65_535)].concat());
    tested.written();
    let mut sent = 0;
    while let Ok(octets @ 1..) = tested.connection.send_data(1, &[0; 50_000], false) {
        sent += octets;
    }
    assert!((90_000..120_000).contains(&sent), "{sent}");
    assert_eq!(tested.connection.next_sendable(), None);
    tested.connection.written(20_000);
    assert_eq!(tested.connection.next_sendable(), None, "less than half is free");
    tested.connection.written(60_000);
    assert_eq!(tested.connection.next_sendable(), Some(1));
    assert!(tested.connection.send_data(1, &[0; 50_000], false).unwrap() > 0);
}
