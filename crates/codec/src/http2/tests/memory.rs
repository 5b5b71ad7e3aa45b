//! What connections hold.

use super::*;
use sota_plugin::http::ResponseHead;

#[test]
fn a_connection_is_small() {
    assert!(size_of::<Connection>() <= 1024, "{}", size_of::<Connection>());
    assert!(size_of::<crate::http2::stream::Stream>() <= 64, "{}", size_of::<crate::http2::stream::Stream>());
    assert!(size_of::<Event<'_>>() <= 40, "{}", size_of::<Event<'_>>());
}

#[test]
fn an_idle_connection_owns_little_after_work() {
    let mut tested = Tested::server(Options::default());
    let mut scratch = Vec::with_capacity(64 * 1024);
    for round in 0..100u32 {
        tested.connection.swap_output_memory(&mut scratch);
        for n in 0..8 {
            let stream = (round * 8 + n) * 2 + 1;
            let octets =
                [headers(stream, OPEN, &with(&POST, &[("x-custom", "value")])), data(stream, END, b"body")].concat();
            tested.recv(&octets);
            tested.connection.release(stream, 4);
            tested.connection.send_response(stream, &ResponseHead::default().with("x-a", "b"), false).unwrap();
            assert_eq!(tested.connection.send_data(stream, &[0; 10], true), Ok(10));
        }
        let output = tested.connection.output().len();
        tested.connection.written(output);
        tested.connection.swap_output_memory(&mut scratch);
        assert!(scratch.capacity() >= 64 * 1024, "the lent memory came back");
    }
    tested.connection.trim();
    let tables = tested.connection.encoder.memory() + tested.connection.decoder.memory();
    assert!(tables < 2048, "{tables}");
    assert!(tested.connection.memory() - tables < 64, "{} beside the tables", tested.connection.memory() - tables);
}

#[test]
fn a_peer_that_sends_beginnings_is_not_believed() {
    // Frames announce 16 KiB each and send three octets of it.
    let mut tested = Tested::server(Options::default());
    let mut octets = headers(1, OPEN, &POST);
    octets.extend_from_slice(&[0, 0x40, 0, kind::HEADERS, 4, 0, 0, 0, 3, 0x82, 0x86, 0x84]);
    tested.recv(&octets);
    assert!(tested.connection.memory() < 1024, "{}", tested.connection.memory());
    // Data is passed on as it comes: nothing of it is kept.
    let mut tested = Tested::server(Options::default());
    tested.recv(&headers(1, OPEN, &POST));
    let before = tested.connection.memory();
    let octets = data(1, OPEN, &[b'x'; 16_384]);
    tested.recv(&octets[..10_000]);
    assert_eq!(tested.connection.memory(), before);
}
