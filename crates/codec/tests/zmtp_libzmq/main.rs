//! Our connections against libzmq itself, by way of pyzmq: over loopback sockets, in both directions, for each kind of
//! socket, version and mechanism.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod link;

use link::{Link, Python, Told};
use sota_codec::zmtp::{
    CurveKeyPair, CurvePublicKey, CurveStep, HeartbeatOptions, Mechanism, Options, Security, SocketType, Version,
    ZmtpError,
};
use std::{net::TcpListener, time::Duration};

/// The keys in the manual of zmq_curve.
const CLIENT_SECRET: &str = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs";
const SERVER_PUBLIC: &str = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7";
const SERVER_SECRET: &str = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6";

const MECHANISMS: [Mechanism; 3] = [Mechanism::Null, Mechanism::Plain, Mechanism::Curve];
const VERSIONS: [Version; 4] = [Version::V1_0, Version::V2_0, Version::V3_0, Version::V3_1];

/// What libzmq is made to do, and with what.
struct Case {
    socket_type: SocketType,
    mechanism: Mechanism,
    /// What we announce.
    version: Version,
}

impl Case {
    fn argument(&self, scenario: &str) -> String {
        format!("{scenario},{},{}", self.socket_type, self.mechanism)
    }

    /// Our options with the role that libzmq leaves us.
    fn options(&self, server: bool) -> Options {
        let keys = |secret| CurveKeyPair::from_secret_z85(secret).unwrap();
        let security = match (self.mechanism, server) {
            (Mechanism::Null, _) => Security::Null,
            (Mechanism::Plain, true) => Security::PlainServer,
            (Mechanism::Plain, false) => {
                Security::PlainClient { username: b"me"[..].into(), password: b"secret"[..].into() }
            }
            (Mechanism::Curve, true) => Security::CurveServer { keys: keys(SERVER_SECRET) },
            (Mechanism::Curve, false) => Security::CurveClient {
                keys: keys(CLIENT_SECRET),
                server: CurvePublicKey::from_z85(SERVER_PUBLIC).unwrap(),
            },
        };
        Options {
            socket_type: self.socket_type.face(),
            security,
            max_version: self.version,
            min_version: Version::V1_0,
            ..Options::default()
        }
    }
}

/// Each type with each mechanism and version that has it.
fn cases(types: &[SocketType]) -> Vec<Case> {
    let mut cases = Vec::new();
    for mechanism in MECHANISMS {
        for version in VERSIONS {
            if mechanism == Mechanism::Null || version >= Version::V3_0 {
                cases.extend(types.iter().map(|&socket_type| Case { socket_type, mechanism, version }));
            }
        }
    }
    cases
}

/// libzmq connects to us once for each case, and does as the scenario says; `serve` is our side.
fn served(scenario: &str, cases: &[Case], serve: impl Fn(&mut Link, &Case)) {
    served_as(scenario, cases, |options| options, serve);
}

/// As [`served`], with options that are changed.
fn served_as(scenario: &str, cases: &[Case], change: fn(Options) -> Options, serve: impl Fn(&mut Link, &Case)) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let arguments: Vec<String> = cases.iter().map(|case| case.argument(scenario)).collect();
    let Some(mut python) = Python::start("connect", port, &arguments) else {
        sota_testkit::skip!("no pyzmq in .venv");
    };
    for case in cases {
        let mut link = Link::new(python.accept(&listener), change(case.options(true)));
        link.await_ready();
        serve(&mut link, case);
    }
    python.finish();
}

/// libzmq binds once for each case; `call` is our side, which connects.
fn called(scenario: &str, cases: &[Case], call: impl Fn(&mut Link, &Case)) {
    let arguments: Vec<String> = cases.iter().map(|case| case.argument(scenario)).collect();
    let Some(mut python) = Python::start("bind", 0, &arguments) else {
        sota_testkit::skip!("no pyzmq in .venv");
    };
    for case in cases {
        let mut link = Link::new(python.connect(), case.options(false));
        println!("{}", case.argument(&case.version.to_string()));
        link.await_ready();
        call(&mut link, case);
    }
    python.finish();
}

/// Sends back what comes until the peer is gone.
fn echo(link: &mut Link) -> usize {
    let mut messages = 0;
    loop {
        match link.next() {
            Told::Message(message) => link.send(&message),
            Told::Closed => return messages,
            other => panic!("{other:?}"),
        }
        messages += 1;
    }
}

#[test]
fn req_dealer_and_router_are_echoed() {
    use SocketType::{Dealer, Req, Router};
    served("echo", &cases(&[Req, Dealer, Router]), |link, case| {
        let peer = link.connection.peer().unwrap();
        assert_eq!(peer.version, case.version);
        let (socket_type, identity) = (peer.socket_type, peer.identity.to_vec());
        if case.version > Version::V1_0 {
            assert_eq!(socket_type, Some(case.socket_type));
        }
        assert_eq!(identity, if case.socket_type == Router { &b""[..] } else { b"libzmq" });
        let key = CurveKeyPair::from_secret_z85(CLIENT_SECRET).unwrap().public;
        assert_eq!(peer.public_key, (case.mechanism == Mechanism::Curve).then_some(key));
        assert_eq!(echo(link), 6);
    });
}

#[test]
fn one_face_for_every_type() {
    let mut all = cases(&SocketType::ALL);
    // Of 2.0 libzmq reports no handshake.
    all.retain(|case| case.version >= Version::V3_0);
    // What is declared if the peer says nothing, which fits few.
    let auto = |options| Options { auto_face: true, socket_type: SocketType::Pair, ..options };
    served_as("greet", &all, auto, |link, case| {
        let peer = link.connection.peer().unwrap();
        assert_eq!((peer.our_socket_type, peer.socket_type), (case.socket_type.face(), Some(case.socket_type)));
        // Subscriptions may come still.
        assert_eq!(link.drain(), Told::Closed);
    });
    let second = |socket_type| Case { socket_type, mechanism: Mechanism::Null, version: Version::V2_0 };
    served_as("echo", &[second(SocketType::Req), second(SocketType::Dealer)], auto, |link, _| {
        assert_eq!(link.connection.peer().unwrap().our_socket_type, SocketType::Router);
        assert_eq!(echo(link), 6);
    });
    served_as("subscribe", &[second(SocketType::Sub)], auto, |link, _| {
        assert_eq!(link.next(), Told::Subscribe(b"AB".to_vec()));
        link.send_frames(&[b"AB1", b"second"]);
        assert_eq!((link.next(), link.next()), (Told::Cancel(b"AB".to_vec()), Told::Subscribe(vec![])));
        link.send_frames(&[b"bye"]);
        assert_eq!(link.drain(), Told::Closed);
    });
}

#[test]
fn thousands_in_flight_keep_their_order() {
    let one = |mechanism| Case { socket_type: SocketType::Dealer, mechanism, version: Version::V3_1 };
    served("pipeline", &[one(Mechanism::Null), one(Mechanism::Curve)], |link, _| assert_eq!(echo(link), 2000));
}

#[test]
fn subscribers_say_what_they_want() {
    served("subscribe", &cases(&[SocketType::Sub, SocketType::Xsub]), |link, case| {
        if case.version == Version::V1_0 {
            // To a 1.0 publisher, as we pretend to be here, libzmq tells it all the same.
            assert_eq!(link.next(), Told::Subscribe(vec![]));
        }
        assert_eq!(link.next(), Told::Subscribe(b"AB".to_vec()));
        link.send_frames(&[b"AB1", b"second"]);
        assert_eq!(link.next(), Told::Cancel(b"AB".to_vec()));
        assert_eq!(link.next(), Told::Subscribe(vec![]));
        link.send_frames(&[b"bye"]);
        assert_eq!(link.drain(), Told::Closed);
    });
}

#[test]
fn publishers_filter_for_us() {
    for bind in [false, true] {
        let ours = |link: &mut Link, _: &Case| {
            let Link { connection, out, .. } = link;
            connection.subscribe(b"A", out).unwrap();
            let wanted = Told::Message(vec![b"A".to_vec(), b"1".to_vec()]);
            assert_eq!((link.next(), link.next()), (wanted.clone(), wanted));
        };
        let mut cases = cases(&[SocketType::Pub]);
        // libzmq publishes everything to 1.0, which filters by itself.
        cases.retain(|case| case.version > Version::V1_0);
        if bind { called("publish", &cases, ours) } else { served("publish", &cases, ours) }
    }
}

#[test]
fn work_is_pushed_and_pulled() {
    served("push", &cases(&[SocketType::Push, SocketType::Pair]), |link, _| {
        let messages = (0..6).map(|_| link.next()).filter(|told| matches!(told, Told::Message(_))).count();
        assert_eq!((messages, link.next()), (6, Told::Closed));
    });
    served("pull", &cases(&[SocketType::Pull, SocketType::Pair]), |link, _| {
        let big = vec![b'M'; 1 << 20];
        let (middle, long) = (vec![b'm'; 65535], [b'l'; 256]);
        for frames in [&[&b"x"[..]][..], &[b""], &[b"a", b"", b"c"], &[&[b's'; 255]], &[&long, &middle], &[&big]] {
            link.send_frames(frames);
        }
        assert_eq!(link.next(), Told::Closed);
    });
}

#[test]
fn we_call_rep_router_and_dealer() {
    use SocketType::{Dealer, Rep, Router};
    let mut all = cases(&[Rep, Router, Dealer]);
    // A REP takes requests of a REQ or DEALER, a ROUTER those of a DEALER, too: that face is ours.
    all.retain(|case| case.version > Version::V1_0 || case.socket_type != Dealer);
    called("respond", &all, |link, case| {
        let identity = link.connection.peer().unwrap().identity.to_vec();
        assert!(identity.is_empty(), "{} {identity:?}", case.socket_type);
        for body in [&b"one"[..], &[b'2'; 300], b"end"] {
            link.send_frames(&[b"", body]);
            assert_eq!(link.next(), Told::Message(vec![vec![], body.to_vec()]), "{}", case.version);
        }
        assert_eq!(link.next(), Told::Closed);
    });
}

#[test]
fn heartbeats_keep_alive_both_ways() {
    let cases: Vec<Case> = MECHANISMS
        .into_iter()
        .flat_map(|mechanism| {
            let of = |version| Case { socket_type: SocketType::Dealer, mechanism, version };
            [of(Version::V3_0), of(Version::V3_1)]
        })
        .collect();
    served("heartbeat", &cases, |link, case| {
        let Link { connection, out, .. } = link;
        connection.ping(b"from us", out).unwrap();
        let (mut pings, mut ponged) = (0, false);
        loop {
            match link.next() {
                Told::Ping(ttl) => {
                    assert_eq!(ttl, Duration::from_secs(1));
                    pings += 1;
                    // As a caller's ticker does: what may be answered grows with time.
                    link.connection.on_elapsed(Duration::from_millis(50), &mut link.out).unwrap();
                }
                Told::Pong(context) => ponged = context == b"from us",
                Told::Message(message) => {
                    link.send(&message);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(pings >= 3 && ponged, "{pings} {ponged} {} {}", case.mechanism, case.version);
        assert_eq!(link.drain(), Told::Closed);
    });
}

#[test]
fn who_is_refused_knows_it() {
    for (scenario, mechanism, expected) in [
        ("refused:protocol,DEALER,PLAIN-BAD", Mechanism::Plain, ZmtpError::Denied),
        ("refused:closed,DEALER,CURVE-BAD", Mechanism::Curve, ZmtpError::Curve(CurveStep::Hello)),
        (
            "refused:closed,PUB,NULL",
            Mechanism::Null,
            ZmtpError::IncompatibleSockets { theirs: SocketType::Pub, ours: SocketType::Router },
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let Some(mut python) = Python::start("connect", port, &[scenario.to_owned()]) else {
            sota_testkit::skip!("no pyzmq in .venv");
        };
        // libzmq checks socket types itself, except those of 2.0: it would end the connection before us.
        let version = if mechanism == Mechanism::Null { Version::V2_0 } else { Version::V3_1 };
        let case = Case { socket_type: SocketType::Dealer, mechanism, version };
        let mut link = Link::new(python.accept(&listener), case.options(true));
        link.allows = |username, password| (username, password) == (b"me", b"secret");
        assert_eq!(link.next(), Told::Failed(expected), "{scenario}");
        // It would come again until somebody talks to it.
        drop((link, listener));
        python.finish();
    }
}

#[test]
fn we_know_that_we_are_refused() {
    let Some(mut python) = Python::start("bind", 0, &["respond,ROUTER,PLAIN".to_owned()]) else {
        sota_testkit::skip!("no pyzmq in .venv");
    };
    let case = Case { socket_type: SocketType::Router, mechanism: Mechanism::Plain, version: Version::V3_1 };
    let port = python.port();
    let security = Security::PlainClient { username: b"me"[..].into(), password: b"no"[..].into() };
    let mut bad = Link::new(python.connect_to(port), Options { security, ..case.options(false) });
    assert_eq!(bad.next(), Told::Refused(b"400".to_vec()));
    let mut good = Link::new(python.connect_to(port), case.options(false));
    good.await_ready();
    good.send_frames(&[b"end"]);
    assert_eq!(good.next(), Told::Message(vec![b"end".to_vec()]));
    python.finish();
}

#[test]
fn our_heartbeat_finds_a_silent_peer() {
    let heartbeat = HeartbeatOptions { interval: Duration::from_millis(100), ..HeartbeatOptions::default() };
    let case = Case { socket_type: SocketType::Dealer, mechanism: Mechanism::Null, version: Version::V3_1 };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let Some(mut python) = Python::start("connect", port, &[case.argument("echo")]) else {
        sota_testkit::skip!("no pyzmq in .venv");
    };
    let mut link = Link::new(python.accept(&listener), Options { heartbeat, ..case.options(true) });
    link.await_ready();
    let Told::Message(first) = link.next() else { panic!() };
    for _ in 0..3 {
        link.connection.on_elapsed(Duration::from_millis(100), &mut link.out).unwrap();
        assert_eq!(link.next(), Told::Pong(vec![]), "libzmq answers");
    }
    link.connection.on_elapsed(Duration::from_millis(100), &mut link.out).unwrap();
    let end = link.connection.on_elapsed(Duration::from_millis(100), &mut link.out);
    assert_eq!(end, Err(ZmtpError::HeartbeatTimeout), "its answer was not read");
    drop((first, link));
    // libzmq connects again, and nothing is wrong with it.
    let mut again = Link::new(python.accept(&listener), case.options(true));
    again.await_ready();
    python.kill();
}
