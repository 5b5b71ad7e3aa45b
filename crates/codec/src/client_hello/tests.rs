use super::*;

fn vec8(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

fn vec16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vec16(data)].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME, &vec16(&[&[0][..], &vec16(name)].concat()))
}

fn alpn_extension(names: &[&[u8]]) -> Vec<u8> {
    extension(ALPN, &vec16(&names.iter().flat_map(|name| vec8(name)).collect::<Vec<_>>()))
}

/// A handshake message without its record.
fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend(vec8(&[9; 32]));
    body.extend(vec16(&[0x13, 1, 0x13, 2]));
    body.extend(vec8(&[0]));
    body.extend(vec16(&extensions.concat()));
    let length = (body.len() as u32).to_be_bytes();
    [&[CLIENT_HELLO][..], &length[1..], &body].concat()
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|piece| [&[22, 3, 1][..], &vec16(piece)].concat()).collect()
}

fn full() -> Vec<u8> {
    let versions = extension(SUPPORTED_VERSIONS, &vec8(&[3, 4, 3, 3]));
    hello(&[sni(b"Www.Example.COM"), extension(0xfe0d, &[1; 700]), alpn_extension(&[b"h2", b"http/1.1"]), versions])
}

#[test]
fn the_facts_are_found_in_any_split_and_any_record_size() {
    let message = full();
    for size in [1, 2, 3, 5, 100, 16_384] {
        let bytes = records(&message, size);
        for end in 0..bytes.len() {
            assert_eq!(inspect(&bytes[..end], DEFAULT_MAX_BYTES), Inspection::NeedMore, "{end} of {}", bytes.len());
        }
        let more = [&bytes[..], b"whatever"].concat();
        for bytes in [&bytes, &more] {
            let Inspection::Hello(found) = inspect(bytes, DEFAULT_MAX_BYTES) else { panic!("not found at {size}") };
            assert_eq!(found.server_name.as_deref(), Some("www.example.com"));
            assert_eq!(found.alpn, [Box::from(&b"h2"[..]), Box::from(&b"http/1.1"[..])]);
            assert_eq!(found.versions, [0x304, 0x303]);
        }
    }
}

#[test]
fn a_bare_hello_has_no_facts_but_a_version() {
    let mut message = hello(&[]);
    message.truncate(message.len() - 2);
    let length = (message.len() - 4) as u8;
    message[3] = length;
    let expected = ClientHello { versions: vec![0x303], ..ClientHello::default() };
    assert_eq!(inspect(&records(&message, 1000), DEFAULT_MAX_BYTES), Inspection::Hello(expected));
}

#[test]
fn what_is_not_tls_is_seen_at_the_first_octet_that_tells() {
    for bytes in [&b"G"[..], b"GET / HTTP/1.1\r\n", b"\x80\x2e\x01\x03\x01", b"\x16\x02", b"\x15\x03\x03\x00\x02"] {
        assert_eq!(inspect(bytes, DEFAULT_MAX_BYTES), Inspection::NotTls, "{bytes:?}");
    }
    let server_hello = records(&[2, 0, 0, 1, 0], 100);
    assert_eq!(inspect(&server_hello, DEFAULT_MAX_BYTES), Inspection::NotTls);
    assert_eq!(inspect(b"", DEFAULT_MAX_BYTES), Inspection::NeedMore);
}

#[test]
fn malformed_hellos() {
    let two_names = extension(SERVER_NAME, &vec16(&[&[0][..], &vec16(b"a"), &[0], &vec16(b"b")].concat()));
    for (what, message) in [
        ("empty name", hello(&[sni(b"")])),
        ("NUL in the name", hello(&[sni(b"a\0b")])),
        ("long name", hello(&[sni(&[b'a'; 256])])),
        ("two names", hello(&[two_names])),
        ("two of an extension", hello(&[sni(b"a"), sni(b"b")])),
        ("empty list of names", hello(&[extension(SERVER_NAME, &[0, 0])])),
        ("octets behind the list", hello(&[extension(SERVER_NAME, &[0, 4, 0, 0, 1, b'a', 9])])),
        ("list longer than the extension", hello(&[extension(SERVER_NAME, &[0, 9, 0, 0, 1, b'a'])])),
        ("empty protocol", hello(&[alpn_extension(&[b""])])),
        ("no protocol", hello(&[extension(ALPN, &[0, 0])])),
        ("half a version", hello(&[extension(SUPPORTED_VERSIONS, &vec8(&[3, 4, 3]))])),
        ("half an extension", hello(&[vec![0, 0, 0]])),
        ("extension longer than the hello", hello(&[vec![0, 0, 0, 9, 1]])),
        ("no body", vec![CLIENT_HELLO, 0, 0, 0]),
    ] {
        assert_eq!(inspect(&records(&message, 16_384), DEFAULT_MAX_BYTES), Inspection::Malformed, "{what}");
    }
    let mut changed = records(&full(), 100);
    changed[105] = 23;
    assert_eq!(inspect(&changed, DEFAULT_MAX_BYTES), Inspection::Malformed, "another record type inside the hello");
    assert_eq!(inspect(&[22, 3, 1, 0, 0], DEFAULT_MAX_BYTES), Inspection::Malformed, "an empty record");
    assert_eq!(inspect(&[22, 3, 1, 0x40, 1], DEFAULT_MAX_BYTES), Inspection::Malformed, "a record over 16 KiB");
}

#[test]
fn the_size_is_bounded_by_what_is_announced_and_by_what_came() {
    let announced = records(&[CLIENT_HELLO, 1, 0, 0], 100);
    assert_eq!(inspect(&announced, DEFAULT_MAX_BYTES), Inspection::TooLarge);
    let bytes = records(&full(), 1);
    assert_eq!(inspect(&bytes[..1000], 1000), Inspection::TooLarge);
}

#[test]
fn every_truncation_and_every_changed_octet_is_survived() {
    let bytes = records(&full(), 50);
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            inspect(&changed, DEFAULT_MAX_BYTES);
        }
    }
}
