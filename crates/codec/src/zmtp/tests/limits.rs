//! What a peer may not do: every limit with its error, at once and before anything is held.

use super::super::{Limits, Mechanism, Options, SocketType, Version, ZmtpError};
use super::{Side, Told, both, command, exchange, greeting, null_peer, ready_side};

fn small() -> Options {
    let limits = Limits {
        max_frame_bytes: 100,
        max_message_bytes: 150,
        max_frames_per_message: 4,
        max_command_bytes: 60,
        max_metadata_bytes: 80,
        max_properties: 3,
        max_topic_bytes: 5,
        ..Limits::default()
    };
    Options { socket_type: SocketType::Xpub, limits, ..Options::default() }
}

/// How a subscriber's bytes end, given at once and octet by octet.
fn failure(options: &Options, bytes: &[u8]) -> Option<ZmtpError> {
    let ends = [1, bytes.len()].map(|size| {
        let mut side = ready_side(options.clone(), SocketType::Xsub);
        side.take(bytes, size);
        assert!(side.connection.scratch.capacity() <= 2 * bytes.len().max(64), "held for {bytes:?}");
        side.failure()
    });
    assert_eq!(ends[0], ends[1], "{bytes:?}");
    ends[0]
}

fn frame(flags: u8, payload: &[u8]) -> Vec<u8> {
    [&[flags, u8::try_from(payload.len()).unwrap()], payload].concat()
}

#[test]
fn frames_and_messages() {
    let options = small();
    assert_eq!(failure(&options, &frame(0, &[b'x'; 100])), None);
    // The header is enough.
    assert_eq!(failure(&options, &[0, 101]), Some(ZmtpError::FrameTooLarge));
    assert_eq!(failure(&options, b"\x02\0\0\0\0\xff\0\0\0"), Some(ZmtpError::FrameTooLarge));
    assert_eq!(failure(&options, b"\x02\x7f\xff\xff\xff\xff\xff\xff\xff"), Some(ZmtpError::FrameTooLarge));
    assert_eq!(failure(&options, b"\x02\x80\0\0\0\0\0\0\0"), Some(ZmtpError::FrameLength));
    let half = frame(1, &[b'x'; 75]);
    assert_eq!(failure(&options, &[half.clone(), frame(0, &[b'x'; 75])].concat()), None);
    assert_eq!(failure(&options, &[half, vec![0, 76]].concat()), Some(ZmtpError::MessageTooLarge));
    assert_eq!(failure(&options, b"\x01\0\x01\0\x01\0\0\0\x01\0"), None);
    assert_eq!(failure(&options, b"\x01\0\x01\0\x01\0\x01\0\x01\0"), Some(ZmtpError::TooManyFrames));
    let defaults = Limits::default();
    assert_eq!((defaults.max_frame_bytes, defaults.max_frames_per_message), (16 << 20, 1024));
}

#[test]
fn flags() {
    let options = small();
    for flags in [8, 0x10, 0x80, 0xff] {
        assert_eq!(failure(&options, &[flags, 0, 0, 0, 0, 0, 0, 0, 0]), Some(ZmtpError::ReservedFlags(flags)));
    }
    assert_eq!(failure(&options, b"\x05\x05\x04PONG"), Some(ZmtpError::CommandWithMore));
    let lenient = Options { lenient: true, ..options };
    let mut side = ready_side(lenient, SocketType::Sub);
    side.take(b"\x08\x02hi", 100);
    assert_eq!(side.traffic(), [Told::Message(vec![b"hi".to_vec()])]);
    // The COMMAND bit is reserved in 2.0; libzmq, and lenient as the original, takes such a frame for a message.
    for lenient in [false, true] {
        let mut side = Side::new(Options { lenient, socket_type: SocketType::Router, ..Options::default() });
        side.take(b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\x05\0\0\x04\x05\x04PING", 100);
        if lenient {
            assert_eq!(side.traffic(), [Told::Message(vec![b"\x04PING".to_vec()])]);
        } else {
            assert_eq!(side.failure(), Some(ZmtpError::ReservedFlags(4)));
        }
    }
}

#[test]
fn commands_and_topics() {
    let options = small();
    assert_eq!(failure(&options, &[4, 61]), Some(ZmtpError::CommandTooLarge));
    assert_eq!(failure(&options, b"\x04\0"), Some(ZmtpError::Command));
    assert_eq!(failure(&options, b"\x04\x01\0"), Some(ZmtpError::Command));
    assert_eq!(failure(&options, b"\x04\x02\x05X"), Some(ZmtpError::Command));
    assert_eq!(failure(&options, b"\x04\x05\x04PING"), Some(ZmtpError::Heartbeat));
    assert_eq!(failure(&options, &command(b"\x04PING\0\x0001234567890123456")), Some(ZmtpError::Heartbeat));
    assert_eq!(failure(&options, &command(b"\x09SUBSCRIBE12345")), None);
    assert_eq!(failure(&options, &command(b"\x09SUBSCRIBE123456")), Some(ZmtpError::TopicTooLong));
    assert_eq!(failure(&options, &command(b"\x06CANCEL123456")), Some(ZmtpError::TopicTooLong));
    assert_eq!(failure(&options, b"\0\x06\x0112345"), None);
    assert_eq!(failure(&options, b"\0\x07\x01"), Some(ZmtpError::TopicTooLong));
    assert_eq!(failure(&options, b"\0\x07\x00"), Some(ZmtpError::TopicTooLong));
    assert_eq!(failure(&options, b"\0\x07x123456"), None, "no subscription");
    let mut dealer = ready_side(Options::default(), SocketType::Router);
    dealer.take(&command(b"\x09SUBSCRIBEA"), 100);
    assert_eq!(dealer.failure(), Some(ZmtpError::UnexpectedCommand));
    let lenient = Options { lenient: true, ..options };
    assert_eq!(failure(&lenient, &command(b"\x04PING\0\x0001234567890123456")), None);
}

#[test]
fn the_same_limits_in_boxes() {
    let sealed = |payload: &[u8], count: usize| {
        let (client, server) = both(Mechanism::Curve);
        let mut client = Side::new(Options { socket_type: SocketType::Xsub, ..client });
        let server = Options { limits: small().limits, socket_type: SocketType::Xpub, ..server };
        let mut server = Side::new(Options { limits: Limits { max_metadata_bytes: 200, ..server.limits }, ..server });
        exchange(&mut client, &mut server, 100);
        for n in 1..=count {
            client.connection.send_frame(payload, n < count, &mut client.out).unwrap();
        }
        exchange(&mut client, &mut server, 50);
        server.failure()
    };
    assert_eq!(sealed(&[b'x'; 100], 1), None);
    assert_eq!(sealed(&[b'x'; 101], 1), Some(ZmtpError::FrameTooLarge));
    assert_eq!(sealed(&[b'x'; 76], 2), Some(ZmtpError::MessageTooLarge));
    assert_eq!(sealed(b"", 5), Some(ZmtpError::TooManyFrames));
    assert_eq!(sealed(b"\x01123456", 1), Some(ZmtpError::TopicTooLong));
    assert_eq!(sealed(b"\x0112345", 1), None);
}

#[test]
fn handshakes() {
    let end = |bytes: &[u8]| {
        let ends = [1, 1000].map(|size| {
            let mut side = Side::new(small());
            side.take(bytes, size);
            (side.failure(), side.connection.is_ready())
        });
        assert_eq!(ends[0], ends[1]);
        ends[0].0
    };
    let ready = |data: &[u8]| [greeting(1, b"NULL"), command(&[b"\x05READY", data].concat())].concat();
    let sub = b"\x0bSocket-Type\0\0\0\x03SUB";
    assert_eq!(end(&ready(sub)), None);
    assert_eq!(end(&ready(&[sub, &b"\x03X-a\0\0\0\0".repeat(2)[..]].concat())), None);
    assert_eq!(end(&ready(&[sub, &b"\x03X-a\0\0\0\0".repeat(3)[..]].concat())), Some(ZmtpError::TooManyProperties));
    assert_eq!(end(&ready(&[sub, &b"\x03X-a\0\0\0\x40"[..], &[0; 64]].concat())), Some(ZmtpError::MetadataTooLarge));
    assert_eq!(end(&ready(b"\x03X-a\x7f\xff\xff\xff")), Some(ZmtpError::Metadata));
    assert_eq!(end(&ready(b"")), Some(ZmtpError::MissingSocketType));
    assert_eq!(end(&ready(b"\x0bSocket-Type\0\0\0\x04DISH")), Some(ZmtpError::UnknownSocketType));
    let after = |bytes: &[u8]| end(&[&greeting(1, b"NULL"), bytes].concat());
    assert_eq!(after(b"\x06\0\0\0\0\0\0\x02\xa9"), Some(ZmtpError::MetadataTooLarge), "by its header");
    assert_eq!(after(b"\0\x01x"), Some(ZmtpError::UnexpectedMessage));
    assert_eq!(after(b"\x05\x01x"), Some(ZmtpError::CommandWithMore));
    assert_eq!(after(b"\x0c\x01x"), Some(ZmtpError::ReservedFlags(0x0c)));
    assert_eq!(after(&command(b"\x04PING\0\0")), Some(ZmtpError::UnexpectedCommand));
    assert_eq!(after(&command(b"\x05ERROR\x03")), Some(ZmtpError::Command));
    let wrong = null_peer(1, SocketType::Req);
    assert!(matches!(end(&wrong), Some(ZmtpError::IncompatibleSockets { .. })));
}

#[test]
fn identities() {
    let end = |options: &Options, bytes: &[u8]| {
        let mut side = Side::new(options.clone());
        side.take(bytes, 3);
        side.failure()
    };
    let router = Options { socket_type: SocketType::Router, min_version: Version::V1_0, ..Options::default() };
    let second = |rest: &[u8]| [b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\x05", rest].concat();
    assert_eq!(end(&router, &second(b"\x02\0\0\0\0\0\0\x01\0")), Some(ZmtpError::IdentityTooLong));
    assert_eq!(end(&router, &second(&[&b"\x02\0\0\0\0\0\0\0\xff"[..], &[1; 255]].concat())), None);
    assert_eq!(end(&router, &second(b"\x01\x00")), Some(ZmtpError::Identity));
    assert_eq!(end(&router, &second(b"\x08\x00")), Some(ZmtpError::ReservedFlags(8)));
    assert_eq!(end(&router, b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\x0b"), Some(ZmtpError::SocketTypeOctet(11)));
    assert_eq!(end(&router, b"\xff\0\0\0\0\0\0\x01\x01\x00"), Some(ZmtpError::IdentityTooLong), "1.0");
    assert_eq!(end(&router, b"\x02\x01x"), Some(ZmtpError::NotZmtp(super::super::Spoken::Unknown)));
    let http = Some(ZmtpError::NotZmtp(super::super::Spoken::Http));
    assert_eq!(end(&router, b"GET / HTTP/1.1\r\n"), http, "also where 1.0 is allowed");
    let tls = Some(ZmtpError::NotZmtp(super::super::Spoken::Tls));
    assert_eq!(end(&router, b"\x16\x03\x01"), tls);
    assert_eq!(end(&router, &second(b"\0\x02\0a")), None);
    let strict = Options { refuse_reserved_identity: true, ..router };
    assert_eq!(end(&strict, &second(b"\0\x02\0a")), Some(ZmtpError::ReservedIdentity));
}

#[test]
fn errors_stay_and_ends_are_judged() {
    let mut side = ready_side(small(), SocketType::Sub);
    assert_eq!(side.connection.finish(), Ok(()));
    for (bytes, end) in [(&b"\x01"[..], Err(ZmtpError::Truncated)), (b"\x01x", Err(ZmtpError::Truncated))] {
        side.take(bytes, 1);
        assert_eq!(side.connection.finish(), end, "within a frame, then within a message");
    }
    assert!(side.traffic().is_empty(), "nothing of a message that is not whole");
    side.take(b"\0\0", 1);
    assert_eq!(side.connection.finish(), Ok(()));
    side.take(&[0x80, 0], 2);
    let refused = ZmtpError::ReservedFlags(0x80);
    assert_eq!(side.connection.recv(b"\0\0", &mut side.out).err(), Some(refused));
    assert_eq!((side.connection.finish(), refused.counter()), (Err(refused), "protocol_error"));
    assert_eq!(Side::new(small()).connection.finish(), Err(ZmtpError::Truncated));
}

#[test]
fn connections_are_small() {
    let size = size_of::<super::Connection>();
    assert!(size <= 320, "{size} octets");
    let (client, server) = both(Mechanism::Curve);
    let (mut client, mut server) = (Side::new(client), Side::new(server));
    exchange(&mut client, &mut server, 100);
    client.connection.send_frame(&[7; 100_000], false, &mut client.out).unwrap();
    exchange(&mut client, &mut server, 1000);
    assert_eq!(server.traffic().len(), 1);
    assert_eq!(server.connection.scratch.capacity(), 0, "an idle connection holds no buffer");
}
