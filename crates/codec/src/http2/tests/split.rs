//! Any split of a stream means the same.

use super::*;
use proptest::prelude::*;

/// Events with runs of data put together, which is all that a split may change.
fn joined(events: Vec<String>) -> Vec<String> {
    let mut joined: Vec<String> = Vec::new();
    for event in events {
        match (joined.last_mut(), event.strip_prefix("data 1 ")) {
            (Some(last), Some(more)) if last.starts_with("data 1 ") && !last.ends_with(" end") => last.push_str(more),
            _ => joined.push(event),
        }
    }
    joined
}

fn script() -> Vec<u8> {
    let fields = block(&POST);
    let (a, b) = fields.split_at(9);
    [
        PREFACE.to_vec(),
        settings(&[(1, 0), (4, 1000), (1, 4096)]),
        frame(kind::SETTINGS, 1, 0, &[]),
        frame(kind::HEADERS, 0, 1, a),
        frame(kind::CONTINUATION, 4, 1, b),
        frame(kind::DATA, flag::PADDED, 1, b"\x04hello\0\0\0\0"),
        frame(kind::PING, 1, 0, b"12345678"),
        data(1, OPEN, b"world"),
        frame(0x77, 0, 0, b"unknown"),
        headers(3, END, &with(&GET, &[("te", "nothing")])),
        frame(kind::DATA, flag::PADDED | flag::END_STREAM, 1, b"\x03\0\0\0"),
        headers(5, OPEN, &POST),
        headers(5, END, &[("x-t", "1")]),
        rst(1, ErrorCode::CANCEL),
        frame(kind::GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\x02debug"),
    ]
    .concat()
}

fn seen(octets: &[u8], cuts: &[usize]) -> (Vec<String>, Vec<String>) {
    let mut tested = Tested { connection: Connection::server(Arc::new(Options::default())), pool: HeadPool::new() };
    let mut events = Vec::new();
    let mut start = 0;
    for cut in cuts.iter().copied().chain([octets.len()]) {
        events.extend(tested.recv(&octets[start..cut]));
        start = cut;
    }
    let written = tested.written();
    (joined(events), written)
}

#[test]
fn octet_by_octet() {
    let script = script();
    let whole = seen(&script, &[]);
    assert_eq!(
        whole.0,
        [
            "settings",
            "request 1 POST http://a/",
            "data 1 hello",
            "pong 56",
            "data 1 world",
            "fault 3 PROTOCOL_ERROR(0x1) http2.invalid.header.field",
            "data 1  end",
            "request 5 POST http://a/",
            "trailers 5 x-t=1",
            "reset 1 CANCEL(0x8) http2.remote_reset",
            "goaway 0 INTERNAL_ERROR(0x2) debug",
        ]
    );
    let all: Vec<usize> = (1..script.len()).collect();
    assert_eq!(seen(&script, &all), whole);
    for cut in 1..script.len() {
        assert_eq!(seen(&script, &[cut]), whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split(mut cuts in prop::collection::vec(0..script().len(), 0..20)) {
        cuts.sort_unstable();
        let script = script();
        prop_assert_eq!(seen(&script, &cuts), seen(&script, &[]));
    }
}
