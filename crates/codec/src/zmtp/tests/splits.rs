//! A stream means the same however it is split.

use super::super::{Connection, Mechanism, Options, SocketType, Version};
use super::{Side, Told, both, exchange, null_peer, reset_random};

/// Options of a server, and a stream of a client to it with everything in it.
fn streams() -> Vec<(Options, Vec<u8>)> {
    let mut streams = Vec::new();
    for mechanism in [Mechanism::Null, Mechanism::Plain, Mechanism::Curve] {
        for max_version in [Version::V1_0, Version::V2_0, Version::V3_0, Version::V3_1] {
            if mechanism != Mechanism::Null && max_version < Version::V3_0 {
                continue;
            }
            reset_random();
            let (client, server) = both(mechanism);
            let server = Options { socket_type: SocketType::Xpub, min_version: Version::V1_0, ..server };
            let client = Options { max_version, min_version: Version::V1_0, socket_type: SocketType::Xsub, ..client };
            let (mut a, mut b) = (Side::new(client), Side::new(server.clone()));
            let (mut stream, _) = exchange(&mut a, &mut b, 1000);
            fill(&mut a.connection, max_version, &mut stream);
            streams.push((server, stream));
        }
    }
    streams
}

pub(crate) fn fill(client: &mut Connection, version: Version, stream: &mut Vec<u8>) {
    client.subscribe(b"AB", stream).unwrap();
    client.send_frame(b"x", true, stream).unwrap();
    if version >= Version::V3_0 {
        client.ping(b"ctx", stream).unwrap();
    }
    client.send_frame(&[3; 300], false, stream).unwrap();
    client.send_frames([&b""[..], b"", b"y"], stream).unwrap();
    client.cancel(b"AB", stream).unwrap();
    client.send_frames([&b""[..]], stream).unwrap();
}

fn told(options: &Options, pieces: &[&[u8]]) -> Vec<Told> {
    reset_random();
    let mut side = Side::new(options.clone());
    for piece in pieces {
        side.take(piece, piece.len());
    }
    assert_eq!(side.connection.finish(), Ok(()));
    side.told
}

#[test]
fn any_split_tells_the_same() {
    for (options, stream) in streams() {
        let whole = told(&options, &[&stream]);
        let messages = whole.iter().filter(|told| matches!(told, Told::Message(_))).count();
        assert_eq!(messages, 3, "{whole:?}");
        // CURVE's handshake is slow in debug builds, and its frames are all whole before they are opened.
        let step = if options.security.mechanism() == Mechanism::Curve { 37 } else { 1 };
        for at in (0..stream.len()).step_by(step) {
            assert_eq!(told(&options, &[&stream[..at], &stream[at..]]), whole, "split at {at}");
        }
        for size in [1, 2, 3, 7, 64] {
            assert_eq!(told(&options, &stream.chunks(size).collect::<Vec<_>>()), whole, "in pieces of {size}");
        }
    }
}

#[test]
fn broken_off_anywhere_nothing_partial_is_told() {
    let options = Options { socket_type: SocketType::Router, ..Options::default() };
    let mut stream = null_peer(1, SocketType::Dealer);
    let handshake = stream.len();
    stream.extend_from_slice(b"\x01\x02ab\x01\x00\x00\x03cde");
    for end in handshake..stream.len() {
        let mut side = Side::new(options.clone());
        side.take(&stream[..end], 5);
        assert!(side.traffic().is_empty());
        assert_eq!(side.connection.finish().is_ok(), end == handshake);
    }
}
