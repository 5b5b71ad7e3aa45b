use super::*;

fn ip(source: &str, destination: &str) -> Command {
    Command::Proxy(Addresses::Ip {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        transport: Transport::Stream,
    })
}

fn header(version: Version, command: Command) -> ProxyHeader {
    ProxyHeader { version, command, tlvs: Vec::new() }
}

/// Every beginning needs more, the whole is `expected`, and what follows is not consumed.
fn check(bytes: &[u8], expected: &ProxyHeader) {
    for end in 0..bytes.len() {
        match parse(&bytes[..end]) {
            Ok(Parsed::NeedMore(needed)) => assert!(needed > end && needed <= bytes.len(), "{needed} at {end}"),
            other => panic!("{other:?} at {end} of {bytes:?}"),
        }
    }
    let more = [bytes, b"GET / HTTP/1.1\r\n"].concat();
    assert_eq!(parse(&more), Ok(Parsed::Header(bytes.len(), expected.clone())));
}

#[test]
fn v1_lines() {
    let v1 = |command| header(Version::V1, command);
    check(b"PROXY TCP4 1.2.3.4 5.6.7.8 65535 80\r\n", &v1(ip("1.2.3.4:65535", "5.6.7.8:80")));
    check(b"PROXY TCP6 ::1 2001:db8::1 1 0\r\n", &v1(ip("[::1]:1", "[2001:db8::1]:0")));
    let unknown = v1(Command::Proxy(Addresses::Unspecified));
    check(b"PROXY UNKNOWN\r\n", &unknown);
    check(b"PROXY UNKNOWN ffff::1 whatever\r\n", &unknown);
}

#[test]
fn v1_lines_that_are_refused() {
    for line in [
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
        "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
        "PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
        "PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY \r\n",
        "PROXY UNKNOWN\n",
        "PROXY TCP4 \u{ff} 5.6.7.8 1 2\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(ProxyProtocolError::Line), "{line:?}");
    }
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107));
    assert_eq!(parse(long.as_bytes()), Err(ProxyProtocolError::Line));
    for line in
        ["PROXY TCP4 224.0.0.1 5.6.7.8 1 2\r\n", "PROXY TCP6 ::1 ff02::1 1 2\r\n", "PROXY TCP4 1.2.3.4 0.0.0.0 1 2\r\n"]
    {
        assert_eq!(parse(line.as_bytes()), Err(ProxyProtocolError::NotUnicast), "{line:?}");
    }
}

#[test]
fn other_protocols_are_told_apart_early() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n"[..], b"P0", b"PROXX", b"\r\n\r\n\0\r\nQUIX", b"\x16\x03\x01", b"PRI * HTTP/2.0"]
    {
        assert_eq!(parse(bytes), Ok(Parsed::NotProxy), "{bytes:?}");
    }
    assert!(matches!(parse(b""), Ok(Parsed::NeedMore(_))));
    assert!(matches!(parse(b"P"), Ok(Parsed::NeedMore(_))));
}

#[test]
fn v1_round_trip() {
    for (source, destination) in [("1.2.3.4:5", "6.7.8.9:10"), ("[::1]:1", "[fe80::2]:65535")] {
        let mut out = Vec::new();
        encode_v1(Some((source.parse().unwrap(), destination.parse().unwrap())), &mut out);
        check(&out, &header(Version::V1, ip(source, destination)));
    }
    for unsayable in [None, Some(("1.2.3.4:5".parse().unwrap(), "[::1]:1".parse().unwrap()))] {
        let mut out = Vec::new();
        encode_v1(unsayable, &mut out);
        assert_eq!(out, b"PROXY UNKNOWN\r\n");
    }
}

#[test]
fn v2_round_trip() {
    let tlvs = [
        Tlv { kind: 2, value: Box::from(&b"example.com"[..]) },
        Tlv { kind: 0xea, value: Box::default() },
        Tlv { kind: 4, value: vec![0; 300].into() },
    ];
    let unix = |source: &[u8], destination: &[u8]| {
        Command::Proxy(Addresses::Unix {
            source: source.into(),
            destination: destination.into(),
            transport: Transport::Datagram,
        })
    };
    for command in [
        Command::Local,
        Command::Proxy(Addresses::Unspecified),
        ip("1.2.3.4:5", "6.7.8.9:10"),
        ip("[::1]:1", "[fe80::2]:65535"),
        unix(b"/run/a.sock", b""),
        unix(b"\0abstract", &[b'x'; 108]),
    ] {
        for tlvs in [&tlvs[..], &[]] {
            let mut out = Vec::new();
            encode_v2(&command, tlvs, &mut out).unwrap();
            check(&out, &ProxyHeader { version: Version::V2, command: command.clone(), tlvs: tlvs.to_vec() });
        }
    }
    let mut out = Vec::new();
    encode_v2(&ip("1.2.3.4:5", "[::1]:6"), &[], &mut out).unwrap();
    check(&out, &header(Version::V2, ip("[::ffff:1.2.3.4]:5", "[::1]:6")));
}

#[test]
fn v2_that_cannot_be_written_leaves_nothing_behind() {
    let mut out = b"before".to_vec();
    let large = Tlv { kind: 1, value: vec![0; 65_536].into() };
    assert_eq!(encode_v2(&Command::Local, &[large], &mut out), Err(ProxyProtocolError::TooLarge));
    let half = Tlv { kind: 1, value: vec![0; 40_000].into() };
    assert_eq!(encode_v2(&Command::Local, &[half.clone(), half], &mut out), Err(ProxyProtocolError::TooLarge));
    assert_eq!(out, b"before");
}

#[test]
fn v2_headers_that_are_refused() {
    use ProxyProtocolError as E;
    let v2 = |command: u8, family: u8, body: &[u8]| {
        [v2::SIGNATURE, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    };
    let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2];
    let with = |tlvs: &[u8]| [&v4[..], tlvs].concat();
    for (bytes, error) in [
        (v2(0x11, 0x11, &v4), E::Unknown),
        (v2(0x22, 0x11, &v4), E::Unknown),
        (v2(0x21, 0x41, &v4), E::Unknown),
        (v2(0x21, 0x13, &v4), E::Unknown),
        (v2(0x21, 0x11, &v4[..11]), E::TooShort),
        (v2(0x21, 0x21, &[0; 35]), E::TooShort),
        (v2(0x21, 0x31, &[0; 215]), E::TooShort),
        (v2(0x21, 0x11, &[0; 12]), E::NotUnicast),
        (v2(0x21, 0x11, &with(&[1])), E::Tlv),
        (v2(0x21, 0x11, &with(&[1, 0])), E::Tlv),
        (v2(0x21, 0x11, &with(&[1, 0, 2, 0])), E::Tlv),
        (v2(0x21, 0x11, &with(&[1, 0xff, 0xff, 0])), E::Tlv),
        (v2(0x21, 0x11, &with(&[1, 0, 0, 7])), E::Tlv),
        (v2(0x20, 0x00, &[1, 0, 5]), E::Tlv),
    ] {
        assert_eq!(parse(&bytes), Err(error), "{bytes:?}");
    }
    let local = v2(0x20, 0x11, &v4);
    assert_eq!(parse(&local), Ok(Parsed::Header(local.len(), header(Version::V2, Command::Local))));
}
