//! Our client against our server: all versions, all mechanisms.

use super::super::{Limits, Mechanism, Options, SendError, SocketType, Version, ZmtpError};
use super::{Side, Told, both, client_keys, exchange, reset_random};
use std::time::Duration;

const VERSIONS: [Version; 4] = [Version::V1_0, Version::V2_0, Version::V3_0, Version::V3_1];

#[test]
fn every_pair_of_versions_and_every_mechanism() {
    let big = vec![7; 70_000];
    let frames: [&[u8]; 5] = [b"", b"a", &[1; 255], &[2; 256], &big];
    for mechanism in [Mechanism::Null, Mechanism::Plain, Mechanism::Curve] {
        for theirs in VERSIONS {
            for ours in VERSIONS {
                reset_random();
                let (client, server) = both(mechanism);
                let client = Options { min_version: Version::V1_0, max_version: theirs, ..client };
                let server = Options { min_version: Version::V1_0, max_version: ours, ..server };
                let (mut client, mut server) = (Side::new(client), Side::new(server));
                exchange(&mut client, &mut server, 1000);
                let version = theirs.min(ours);
                if mechanism != Mechanism::Null && version < Version::V3_0 {
                    let refused = |side: &Side| matches!(side.failure(), Some(ZmtpError::Downgrade { .. }));
                    assert!(refused(&client) || refused(&server), "{mechanism} {theirs} {ours}");
                    continue;
                }
                for (side, expected) in [(&client, SocketType::Router), (&server, SocketType::Dealer)] {
                    let peer = side.peer();
                    let socket_type = (version > Version::V1_0).then_some(expected);
                    assert_eq!((peer.version, peer.socket_type), (version, socket_type), "{theirs} {ours}");
                }
                assert_eq!(&*server.peer().identity, b"id", "{mechanism} {theirs} {ours}");
                let key = (mechanism == Mechanism::Curve).then(|| client_keys().public);
                assert_eq!(server.peer().public_key, key);
                client.connection.send_frames(frames, &mut client.out).unwrap();
                server.connection.send_frames([&b"back"[..]], &mut server.out).unwrap();
                exchange(&mut client, &mut server, 999);
                let message = Told::Message(frames.iter().map(|frame| frame.to_vec()).collect());
                assert_eq!(server.traffic(), [message], "{mechanism} {theirs} {ours}");
                assert_eq!(client.traffic(), [Told::Message(vec![b"back".to_vec()])]);
                assert_eq!((client.connection.finish(), server.connection.finish()), (Ok(()), Ok(())));
            }
        }
    }
}

#[test]
fn socket_types_are_checked_in_all_versions_that_have_them() {
    for version in [Version::V2_0, Version::V3_0, Version::V3_1] {
        for ours in SocketType::ALL {
            for theirs in SocketType::ALL {
                let mut a = Side::new(Options { socket_type: ours, max_version: version, ..Options::default() });
                let mut b = Side::new(Options { socket_type: theirs, ..Options::default() });
                exchange(&mut a, &mut b, 100);
                assert_eq!(a.connection.is_ready(), ours.accepts(theirs), "{ours} {theirs} {version}");
                if !ours.accepts(theirs) {
                    assert!(matches!(a.failure(), Some(ZmtpError::IncompatibleSockets { .. })), "{:?}", a.told);
                }
            }
        }
    }
}

#[test]
fn subscriptions_and_commands_in_boxes() {
    for mechanism in [Mechanism::Plain, Mechanism::Curve] {
        for max_version in [Version::V3_0, Version::V3_1] {
            let (client, server) = both(mechanism);
            let mut client = Side::new(Options { socket_type: SocketType::Sub, max_version, ..client });
            let mut server = Side::new(Options { socket_type: SocketType::Xpub, ..server });
            exchange(&mut client, &mut server, 100);
            client.connection.subscribe(b"A", &mut client.out).unwrap();
            client.connection.ping(b"now", &mut client.out).unwrap();
            client.connection.cancel(b"A", &mut client.out).unwrap();
            exchange(&mut client, &mut server, 10);
            let topic = b"A".to_vec();
            let ping = Told::Ping(true, Duration::ZERO);
            assert_eq!(server.traffic(), [Told::Subscribe(topic.clone()), ping, Told::Cancel(topic)]);
            assert_eq!(client.traffic(), [Told::Pong(b"now".to_vec())]);
        }
    }
}

#[test]
fn credentials_that_are_refused() {
    for mechanism in [Mechanism::Plain, Mechanism::Curve] {
        let (client, server) = both(mechanism);
        let (mut client, mut server) = (Side::new(client), Side::new(server));
        server.allows = false;
        exchange(&mut client, &mut server, 100);
        assert_eq!(server.failure(), Some(ZmtpError::Denied));
        let refused = Told::Failed(ZmtpError::Refused);
        assert_eq!(client.told, [Told::Refused(b"400".to_vec()), refused]);
        assert_eq!(client.connection.finish(), Err(ZmtpError::Refused));
        assert_eq!(client.connection.send_frame(b"", false, &mut client.out), Err(SendError::NotReady));
    }
}

#[test]
fn nothing_is_taken_before_the_verdict() {
    let (client, server) = both(Mechanism::Plain);
    let mut client = Side::new(client);
    let mut server = super::Connection::new(std::sync::Arc::new(server), &mut client.out);
    let mut out = Vec::new();
    let mut stream = super::greeting(1, b"PLAIN");
    stream.extend_from_slice(b"\x04\x0a\x05HELLO\x01u\x01p\x04\x09\x08INITIATE");
    let (taken, event) = server.recv(&stream, &mut out).unwrap();
    let expected = super::Credentials::Plain { username: b"u", password: b"p" };
    assert_eq!((taken, event), (stream.len() - 11, super::Event::Authenticate(expected)));
    for _ in 0..2 {
        assert_eq!(server.recv(&stream[taken..], &mut out), Ok((0, super::Event::Blocked)));
    }
    server.allow(&mut out).unwrap();
    assert!(out.ends_with(b"\x04\x08\x07WELCOME"));
    assert_eq!(server.allow(&mut out), Err(SendError::NotAsked));
    assert_eq!(server.deny(b"400", &mut out), Err(SendError::NotAsked));
    // An INITIATE without a socket type.
    assert_eq!(server.recv(&stream[taken..], &mut out).err(), Some(ZmtpError::MissingSocketType));
}

#[test]
fn frames_pass_in_pieces() {
    for max_version in VERSIONS {
        let (from, to) = both(Mechanism::Null);
        let options = Options { min_version: Version::V1_0, max_version, ..from };
        let (mut from, mut to) = (Side::new(options), Side::new(Options { min_version: Version::V1_0, ..to }));
        exchange(&mut from, &mut to, 100);
        let mut side = super::ready_side(Options::default(), SocketType::Router);
        let stream = [&b"\x01\x00\x03\0\0\0\0\0\0\x01\x2c"[..], &[9; 300], b"\0\x01z"].concat();
        for piece in stream.chunks(7) {
            let mut at = 0;
            while let (taken, super::Event::Frame(frame)) = side.connection.recv(&piece[at..], &mut side.out).unwrap() {
                at += taken;
                from.connection.send_piece(&frame, &mut from.out).unwrap();
            }
        }
        exchange(&mut from, &mut to, 11);
        assert_eq!(to.traffic(), [Told::Message(vec![vec![], vec![9; 300], b"z".to_vec()])]);
    }
}

#[test]
fn sending_has_its_order() {
    let mut side = super::ready_side(Options::default(), SocketType::Router);
    let mut out = Vec::new();
    assert_eq!(side.connection.send_frames([], &mut out), Err(SendError::EmptyMessage));
    side.connection.begin_frame(3, false, &mut out).unwrap();
    assert_eq!(side.connection.send_frame(b"x", false, &mut out), Err(SendError::FrameOpen));
    assert_eq!(side.connection.ping(b"", &mut out), Err(SendError::FrameOpen));
    assert_eq!(side.connection.continue_frame(b"abcd", &mut out), Err(SendError::FrameOverflow));
    side.connection.continue_frame(b"abc", &mut out).unwrap();
    assert_eq!(side.connection.ping(&[0; 17], &mut out), Err(SendError::TooLong));
    assert_eq!(out, b"\0\x03abc");

    let (client, server) = both(Mechanism::Curve);
    let (mut client, mut server) = (Side::new(client), Side::new(server));
    assert_eq!(client.connection.send_frame(b"", false, &mut out), Err(SendError::NotReady));
    exchange(&mut client, &mut server, 100);
    assert_eq!(client.connection.begin_frame(1, false, &mut out), Err(SendError::WholeFramesOnly));

    let second = Options { max_version: Version::V2_0, ..Options::default() };
    let (mut a, mut b) = (Side::new(second), Side::new(both(Mechanism::Null).1));
    exchange(&mut a, &mut b, 100);
    assert_eq!(a.connection.ping(b"", &mut out), Err(SendError::Version));
}

#[test]
fn time() {
    let heartbeat = super::super::HeartbeatOptions {
        interval: Duration::from_secs(1),
        ttl: Duration::from_secs(3),
        ..Default::default()
    };
    let mut side = super::ready_side(Options { heartbeat, ..Options::default() }, SocketType::Router);
    let second = Duration::from_secs(1);
    side.connection.on_elapsed(second, &mut side.out).unwrap();
    assert_eq!(side.out, b"\x04\x07\x04PING\x00\x1e");
    side.take(b"\x04\x05\x04PONG", 100);
    side.connection.on_elapsed(second, &mut side.out).unwrap();
    assert_eq!(side.connection.on_elapsed(second, &mut side.out), Err(ZmtpError::HeartbeatTimeout));
    assert_eq!(side.connection.finish(), Err(ZmtpError::HeartbeatTimeout));

    let mut side = super::ready_side(Options::default(), SocketType::Router);
    side.take(b"\x04\x07\x04PING\x00\x14", 100);
    assert_eq!(side.connection.on_elapsed(second, &mut side.out), Ok(()));
    assert_eq!(side.connection.on_elapsed(second, &mut side.out), Err(ZmtpError::TtlExpired));

    let mut slow = Side::new(Options::default());
    for octet in super::greeting(1, b"NULL").iter().take(9) {
        slow.take(&[*octet], 1);
        assert_eq!(slow.connection.on_elapsed(second, &mut slow.out), Ok(()));
    }
    assert_eq!(slow.connection.on_elapsed(second, &mut slow.out), Err(ZmtpError::HandshakeTimeout));
    // Heartbeats are not for 2.0.
    let (mut a, mut b) = (
        Side::new(Options { max_version: Version::V2_0, heartbeat, ..Options::default() }),
        Side::new(Options { limits: Limits::default(), ..both(Mechanism::Null).1 }),
    );
    exchange(&mut a, &mut b, 100);
    assert_eq!(a.connection.on_elapsed(Duration::from_secs(1000), &mut a.out), Ok(()));
    assert!(a.out.is_empty());
}
