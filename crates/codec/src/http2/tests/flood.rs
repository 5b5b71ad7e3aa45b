//! What costs the peer little and us much.

use super::*;
use crate::http2::ErrorKind;
use sota_plugin::http::{ResponseHead, StatusCode};

fn flood(tested: &mut Tested, octets: &[u8]) -> ConnectionError {
    let error = tested.fails(octets);
    assert_eq!((error.kind, error.code), (ErrorKind::Flood, ErrorCode::ENHANCE_YOUR_CALM));
    error
}

#[test]
fn answers_that_nobody_reads() {
    for ask in [frame(kind::PING, 0, 0, &[0; 8]), settings(&[])] {
        let mut tested = Tested::server(Options::default());
        tested.recv(&ask.repeat(1000));
        flood(&mut tested, &ask);
        assert_eq!(tested.connection.take_counters().outbound_control_flood, 1);
        // One that reads may go on.
        let mut tested = Tested::server(Options::default());
        for _ in 0..20 {
            tested.recv(&ask.repeat(500));
            tested.written();
        }
    }
    let mut tested = Tested::server(Options { premature_reset_total_stream_count: 10_000, ..Options::default() });
    let bad: Vec<u8> = (0..1001).flat_map(|n| headers(2 * n + 1, END, &GET[1..])).collect();
    flood(&mut tested, &bad);
}

#[test]
fn frames_of_any_kind_that_nobody_reads() {
    let mut tested = Tested::server(Options { max_outbound_frames: 50, ..Options::default() });
    for stream in (1..=99).step_by(2) {
        tested.recv(&headers(stream, END, &GET));
        tested.connection.send_response(stream, &ResponseHead::default(), true).unwrap();
    }
    tested.recv(&frame(kind::PING, flag::ACK, 0, &[0; 8]));
    tested.connection.ping([0; 8]);
    flood(&mut tested, &frame(kind::PING, flag::ACK, 0, &[0; 8]));
    assert_eq!(tested.connection.take_counters().outbound_flood, 1);
}

#[test]
fn data_alone_never_floods() {
    let mut tested = Tested::server(Options { max_outbound_frames: 50, ..Options::default() });
    tested.recv(&headers(1, END, &GET));
    tested.connection.send_response(1, &ResponseHead::default(), false).unwrap();
    while tested.connection.send_data(1, b"x", false) == Ok(1) {}
    assert_eq!(tested.written().len(), 25);
    assert_eq!(tested.connection.next_sendable(), Some(1));
}

#[test]
fn empty_frames() {
    let empty = data(1, OPEN, b"");
    let padded = frame(kind::DATA, flag::PADDED, 1, &[3, 0, 0, 0]);
    for frames in [[&empty[..], &empty], [&padded[..], &empty], [&padded[..], &padded]] {
        let mut tested = Tested::server(Options::default());
        tested.recv(&headers(1, OPEN, &POST));
        assert!(tested.recv(frames[0]).is_empty());
        flood(&mut tested, frames[1]);
        assert_eq!(tested.connection.take_counters().inbound_empty_frames_flood, 1);
    }
    let mut tested = Tested::server(Options::default());
    let alternating =
        [headers(1, OPEN, &POST), [empty.clone(), data(1, OPEN, b"x")].concat().repeat(50), empty, data(1, END, b"")];
    assert_eq!(tested.recv(&alternating.concat()).len(), 52);
}

#[test]
fn continuations() {
    let begin = frame(kind::HEADERS, 1, 1, &block(&GET));
    // Empty ones, whatever their flags.
    for flags in [0, 1] {
        let mut tested = Tested::server(Options::default());
        tested.recv(&begin);
        tested.recv(&frame(kind::CONTINUATION, flags, 1, &[]));
        flood(&mut tested, &frame(kind::CONTINUATION, flags, 1, &[]));
    }
    // Many small ones, and few large ones: never more memory than a list within the limits needs.
    for len in [1, 100, 16_384] {
        let mut tested = Tested::server(Options::default());
        tested.recv(&begin);
        let next = frame(kind::CONTINUATION, 0, 1, &vec![0x82; len]);
        let mut most = 0;
        let mut octets = 0;
        let error = loop {
            let mut input = &next[..];
            match tested.connection.recv(&mut input, &mut tested.pool) {
                Ok(event) => assert_eq!(event, None),
                Err(error) => break error,
            }
            octets += len;
            most = most.max(tested.connection.memory());
        };
        assert_eq!(error.kind, ErrorKind::Flood);
        assert!(octets <= 64 * 1024 && most <= 132 * 1024, "{octets} {most}");
        assert_eq!(tested.connection.take_counters().header_overflow, 1);
    }
}

#[test]
fn priorities() {
    let priority = frame(kind::PRIORITY, 0, 1, &[0; 5]);
    let mut tested = Tested::server(Options::default());
    tested.recv(&priority.repeat(100));
    tested.recv(&headers(1, END, &GET));
    tested.recv(&priority.repeat(100));
    flood(&mut tested, &priority);
    assert_eq!(tested.connection.take_counters().inbound_priority_frames_flood, 1);
}

#[test]
fn window_updates() {
    let update = window_update(0, 1);
    let mut tested = Tested::server(Options::default());
    tested.recv(&update.repeat(5));
    tested.recv(&headers(1, END, &GET));
    tested.recv(&update.repeat(2));
    tested.connection.send_response(1, &ResponseHead::default(), false).unwrap();
    tested.connection.send_data(1, b"x", false).unwrap();
    tested.recv(&update.repeat(20));
    flood(&mut tested, &update);
    assert_eq!(tested.connection.take_counters().inbound_window_update_frames_flood, 1);
}

/// Requests that are reset at once, until the connection ends or `most` were.
fn rapid_reset(tested: &mut Tested, most: u32, mut each: impl FnMut(&mut Tested, u32)) -> Option<u32> {
    for n in 0..most {
        let stream = 2 * n + 1;
        tested.recv(&headers(stream, OPEN, &POST));
        each(tested, stream);
        let octets = rst(stream, ErrorCode::CANCEL);
        let mut input = &octets[..];
        loop {
            match tested.connection.recv(&mut input, &mut tested.pool) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(error.kind, ErrorKind::PrematureResets);
                    return Some(n + 1);
                }
            }
        }
        tested.written();
    }
    None
}

#[test]
fn rapid_reset_ends_the_connection() {
    let mut tested = Tested::server(Options::default());
    assert_eq!(rapid_reset(&mut tested, 1000, |_, _| {}), Some(250));
    assert_eq!(tested.connection.take_counters().too_many_premature_resets, 1);
    // Behind a response it is a client's right.
    let answer = |tested: &mut Tested, stream| {
        tested.connection.send_response(stream, &ResponseHead::default(), false).unwrap();
    };
    assert_eq!(rapid_reset(&mut Tested::server(Options::default()), 1000, answer), None);
    // An informational response is none.
    let hint = |tested: &mut Tested, stream| {
        tested.connection.send_response(stream, &ResponseHead::new(StatusCode::EARLY_HINTS), false).unwrap();
    };
    assert_eq!(rapid_reset(&mut Tested::server(Options::default()), 1000, hint), Some(250));
    // So is a reset after some time.
    let mut time = 0;
    let wait = |tested: &mut Tested, _| {
        time += 2;
        tested.connection.set_time(time);
    };
    assert_eq!(rapid_reset(&mut Tested::server(Options::default()), 1000, wait), None);
}

#[test]
fn resets_that_the_server_is_made_to_send_count_too() {
    for provoke in
        [window_update(1, 0), data(1, END, b""), headers(1, OPEN, &[("x", "y")]), frame(kind::PRIORITY, 0, 1, &[0; 4])]
    {
        let mut tested = Tested::server(Options::default());
        let mut over = None;
        for n in 0..1000u32 {
            let stream = 2 * n + 1;
            let mut octets = headers(stream, OPEN, &with(&POST, &[("content-length", "5")]));
            let mut bad = provoke.clone();
            bad[5..9].copy_from_slice(&stream.to_be_bytes());
            octets.extend_from_slice(&bad);
            if tested.recv(&octets).last().is_some_and(|last| last.starts_with("error")) {
                over = Some(n + 1);
                break;
            }
            tested.written();
        }
        assert_eq!(over, Some(250));
    }
}
