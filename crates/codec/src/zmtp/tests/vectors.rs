//! Bytes as libzmq 4.3.5 sends and takes them.

use super::super::{Command, Options, SocketType, Version};
use super::{Side, Told, exchange, greeting, null_peer, ready_side, told};
use std::time::Duration;

fn router() -> Options {
    Options { socket_type: SocketType::Router, ..Options::default() }
}

fn texts(frames: &[&[u8]]) -> Told {
    Told::Message(frames.iter().map(|frame| frame.to_vec()).collect())
}

const SIGNED: &[u8] = b"\xff\0\0\0\0\0\0\0\x01\x7f";

#[test]
fn a_req_of_2_0() {
    let mut side = Side::new(router());
    assert_eq!(side.out, SIGNED);
    side.take(SIGNED, 100);
    assert_eq!(side.out, [SIGNED, &[3]].concat());
    // The revision: our type. Its type: our identity.
    side.take(b"\x01", 1);
    assert_eq!(side.out, [SIGNED, &[3, 6]].concat());
    side.take(b"\x03", 1);
    assert_eq!(side.out, [SIGNED, &[3, 6, 0, 0]].concat());
    side.take(b"\0\0", 1);
    assert_eq!((side.peer().version, side.peer().socket_type), (Version::V2_0, Some(SocketType::Req)));
    let mut frames = b"\x01\x00\x01\x02Hi\x02\0\0\0\0\0\0\x01\0".to_vec();
    frames.extend_from_slice(&[b'x'; 256]);
    side.take(&frames, 1000);
    assert_eq!(side.traffic(), [texts(&[b"", b"Hi", &[b'x'; 256]])]);
    // The answer is written as libzmq writes it.
    side.out.clear();
    side.connection.send_frames([&b""[..], b"Hi", &[b'x'; 256]], &mut side.out).unwrap();
    assert_eq!(side.out, frames);
}

#[test]
fn identities_of_2_0() {
    for (identity, expected) in
        [(&b"\0\x02me"[..], &b"me"[..]), (b"\x02\0\0\0\0\0\0\0\x02me", b"me"), (b"\0\0", b""), (b"\0\x03\0ab", b"\0ab")]
    {
        let mut side = Side::new(router());
        side.take(&[SIGNED, b"\x01\x05", identity].concat(), 3);
        assert_eq!(&*side.peer().identity, expected);
    }
}

#[test]
fn a_dealer_of_3_1() {
    let mut side = Side::new(router());
    side.take(&greeting(1, b"NULL"), 64);
    let ready = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\0";
    let mut expected = [SIGNED, &[3], &greeting(1, b"NULL")[11..], ready].concat();
    expected[65] = 41;
    assert_eq!(side.out, expected);
    side.take(b"\x04\x2b\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x02me\x00\x01a", 100);
    let peer = side.peer();
    assert_eq!((peer.version, peer.socket_type), (Version::V3_1, Some(SocketType::Dealer)));
    assert_eq!(&*peer.identity, b"me");
    assert_eq!(side.traffic(), [texts(&[b"a"])]);
}

#[test]
fn subscriptions_in_both_forms() {
    let mut side = ready_side(Options { socket_type: SocketType::Pub, ..Options::default() }, SocketType::Sub);
    side.take(b"\x04\x0c\x09SUBSCRIBEAB\x04\x09\x06CANCELAB\x00\x03\x01AB\x00\x03\x00AB\x00\x01\x01", 5);
    let (ab, all) = (b"AB".to_vec(), Vec::new());
    let twice = [Told::Subscribe(ab.clone()), Told::Cancel(ab)];
    assert_eq!(side.traffic(), [&twice[..], &twice, &[Told::Subscribe(all)]].concat());
    // What an XSUB sends upstream besides: no subscription by its first octet, or by its second frame.
    let mut side = ready_side(Options { socket_type: SocketType::Xpub, ..Options::default() }, SocketType::Xsub);
    side.take(b"\0\x02hi\x01\x02\x01A\0\x01x\0\0", 100);
    assert_eq!(side.traffic(), [texts(&[b"hi"]), texts(&[b"\x01A", b"x"]), texts(&[b""])]);
}

#[test]
fn subscriptions_are_sent_in_the_peers_form() {
    let sent = |minor, ours| {
        let mut side = Side::new(Options { socket_type: ours, ..Options::default() });
        side.take(&null_peer(minor, SocketType::Pub), 100);
        side.out.clear();
        side.connection.subscribe(b"AB", &mut side.out).unwrap();
        side.connection.cancel(b"AB", &mut side.out).unwrap();
        side.out
    };
    assert_eq!(sent(1, SocketType::Sub), b"\x04\x0c\x09SUBSCRIBEAB\x04\x09\x06CANCELAB");
    assert_eq!(sent(0, SocketType::Xsub), b"\0\x03\x01AB\0\x03\0AB");
}

#[test]
fn heartbeats() {
    let mut side = ready_side(router(), SocketType::Dealer);
    // Between two frames of a message.
    side.take(b"\x01\x01a\x04\x0a\x04PING\x00\x64ctx\0\x01b", 4);
    assert_eq!(side.traffic(), [Told::Ping(true, Duration::from_secs(10)), texts(&[b"a", b"b"])]);
    assert_eq!(side.out, b"\x04\x08\x04PONGctx");
    side.take(b"\x04\x05\x04PONG\x04\x06\x04JOINg\x04\x06\x03FOO!!", 100);
    let foo = told(Command::Other { name: b"FOO", data: b"!!" });
    assert_eq!(side.traffic()[2..], [Told::Pong(vec![]), told(Command::Join(b"g")), foo]);
}

#[test]
fn a_flood_of_pings_gets_one_answer_each_read() {
    let mut side = ready_side(router(), SocketType::Dealer);
    let flood = b"\x04\x07\x04PING\0\0".repeat(1000);
    side.take(&flood, flood.len());
    assert_eq!(side.out, b"\x04\x05\x04PONG");
    let answered = side.traffic().iter().filter(|told| matches!(told, Told::Ping(true, _))).count();
    assert_eq!(answered, 10);
    // No PONG within a frame that is being sent.
    side.connection.on_elapsed(Duration::from_secs(1), &mut side.out).unwrap();
    side.out.clear();
    side.connection.begin_frame(2, false, &mut side.out).unwrap();
    side.take(b"\x04\x07\x04PING\0\0", 100);
    assert_eq!(side.out, b"\0\x02");
    side.connection.continue_frame(b"ab", &mut side.out).unwrap();
    side.take(b"", 1);
    side.take(b"\0\0", 2);
    assert_eq!(side.out, b"\0\x02ab\x04\x05\x04PONG");
}

#[test]
fn version_1_0() {
    let options = |socket_type| Options { min_version: Version::V1_0, socket_type, ..Options::default() };
    let mut side = Side::new(Options { identity: b"me"[..].into(), ..options(SocketType::Req) });
    side.take(b"\x01\x00", 1);
    // Ten octets of a header and what they announce: our identity.
    assert_eq!(side.out, b"\xff\0\0\0\0\0\0\0\x03\x7fme");
    assert_eq!((side.peer().version, side.peer().socket_type), (Version::V1_0, None));
    side.out.clear();
    side.connection.send_frames([&b""[..], b"Hi"], &mut side.out).unwrap();
    assert_eq!(side.out, b"\x01\x01\x03\x00Hi", "as libzmq sends to 1.0");
    side.take(b"\x01\x01\x03\x00Hi", 2);
    assert_eq!(side.traffic(), [texts(&[b"", b"Hi"])]);

    let mut publisher = Side::new(options(SocketType::Pub));
    publisher.take(b"\x03\x00me", 1);
    assert_eq!(publisher.traffic(), [Told::Subscribe(vec![])]);
    assert_eq!(&*publisher.peer().identity, b"me");

    // 1.0 that announces revision 0: its type, then identities in the old framing.
    let mut side = Side::new(options(SocketType::Router));
    side.take(&[SIGNED, b"\0\x05\x03\0me"].concat(), 1);
    assert_eq!(side.out, [SIGNED, b"\x03\x06\x01\x00"].concat());
    let peer = side.peer();
    assert_eq!(
        (peer.version, peer.socket_type, &*peer.identity),
        (Version::V1_0, Some(SocketType::Dealer), &b"me"[..])
    );
}

#[test]
fn an_auto_face_fits_every_type() {
    let auto = || Options { auto_face: true, socket_type: SocketType::Router, ..Options::default() };
    for theirs in SocketType::ALL {
        for version in [Version::V2_0, Version::V3_0, Version::V3_1] {
            let mut client = Side::new(Options { socket_type: theirs, max_version: version, ..Options::default() });
            let mut server = Side::new(auto());
            exchange(&mut client, &mut server, 100);
            assert_eq!(server.peer().our_socket_type, theirs.face(), "{theirs} {version}");
            assert!(client.peer().socket_type.is_some_and(|face| face.accepts(theirs)));
        }
    }
    // The run of two clients that wait: the one declares its default.
    for max_version in [Version::V2_0, Version::V3_1] {
        let mut a = Side::new(Options { max_version, ..auto() });
        let mut b = Side::new(auto());
        exchange(&mut a, &mut b, 100);
        assert!(!a.connection.is_ready() && a.connection.waits_for_socket_type());
        a.connection.declare_socket_type(&mut a.out).unwrap();
        exchange(&mut a, &mut b, 100);
        assert_eq!(b.peer().our_socket_type, SocketType::Router);
        assert_eq!(a.peer().socket_type, Some(SocketType::Router));
    }
}

#[test]
fn plain_as_observed() {
    let (client, server) = super::both(super::Mechanism::Plain);
    let (mut client, mut server) = (Side::new(client), Side::new(server));
    let (sent, answered) = exchange(&mut client, &mut server, 100);
    assert!(sent[64..].starts_with(b"\x04\x10\x05HELLO\x02me\x06secret\x04\x2e\x08INITIATE\x0bSocket-Type"));
    assert!(answered[64..].starts_with(b"\x04\x08\x07WELCOME\x04\x29\x05READY\x0bSocket-Type"));
    assert_eq!((sent[32], answered[32]), (0, 1), "as-server");
    assert_eq!(server.told[0], Told::Authenticate("me secret".into()));
    assert_eq!(server.peer().username.as_deref(), Some(&b"me"[..]));
}

#[test]
fn curve_sizes_as_observed() {
    let (client, server) = super::both(super::Mechanism::Curve);
    let (mut client, mut server) = (Side::new(client), Side::new(server));
    let (sent, answered) = exchange(&mut client, &mut server, 1000);
    assert!(sent[64..].starts_with(b"\x04\xc8\x05HELLO\x01\0") && sent[64 + 202..].starts_with(b"\x06\0\0\0"));
    assert_eq!(answered[64..][..10], *b"\x04\xa8\x07WELCOME");
    assert!(answered[64 + 170..].starts_with(b"\x04"));
    client.out.clear();
    client.connection.send_frame(b"x", false, &mut client.out).unwrap();
    assert_eq!((client.out.len(), &client.out[..10]), (36, &b"\0\x22\x07MESSAGE"[..]));
}
