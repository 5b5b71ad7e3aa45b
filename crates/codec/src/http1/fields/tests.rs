use super::*;
use proptest::prelude::*;

/// Octets that were used, and the fields with Host at their end.
type Taken = Option<(usize, Vec<(String, String)>)>;

fn parse(block: &[u8]) -> Result<Taken, Http1Error> {
    let mut headers = Headers::new();
    let parsed = parse_fields(block, &DecodeOptions { max_fields: 5, ..DecodeOptions::default() }, &mut headers)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(parsed.map(|parsed| {
        let mut fields: Vec<_> = headers.iter().map(|(name, value)| (text(name), text(value))).collect();
        fields.extend(parsed.host.map(|host| ("host".to_owned(), text(host))));
        (parsed.consumed, fields)
    }))
}

/// What `httparse` says of the same. It takes LF for CR LF, which is why blocks with one are not for it.
fn reference(block: &[u8]) -> Result<Taken, ()> {
    let mut slots = [httparse::EMPTY_HEADER; 5];
    match httparse::parse_headers(block, &mut slots) {
        Err(_) => Err(()),
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete((consumed, lines))) => {
            let field =
                |line: &httparse::Header<'_>| (line.name.to_owned(), String::from_utf8_lossy(line.value).into_owned());
            let (hosts, mut fields): (Vec<_>, Vec<_>) =
                lines.iter().map(field).partition(|(name, _)| name.eq_ignore_ascii_case("host"));
            if hosts.len() > 1 {
                return Err(());
            }
            fields.extend(hosts.into_iter().map(|(_, value)| ("host".to_owned(), value)));
            Ok(Some((consumed, fields)))
        }
    }
}

fn has_lone_line_feed(block: &[u8]) -> bool {
    block.iter().enumerate().any(|(at, octet)| *octet == b'\n' && (at == 0 || block[at - 1] != b'\r'))
}

fn check(block: &[u8]) {
    if has_lone_line_feed(block) {
        // At the latest when the block is whole; nothing of it is ever taken.
        assert!(!matches!(parse(block), Ok(Some((consumed, _))) if has_lone_line_feed(&block[..consumed])));
        return;
    }
    match (parse(block), reference(block)) {
        (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "{block:?}"),
        (Err(_), Err(())) => {}
        // A bad octet of a name is told with the end of the name.
        (Ok(None), Err(())) => assert!(!block.ends_with(b"\r\n\r\n"), "{block:?}"),
        (ours, theirs) => panic!("{:?}: {ours:?}, {theirs:?}", String::from_utf8_lossy(block)),
    }
}

#[test]
fn every_octet_at_every_place_is_judged_as_by_the_reference() {
    for octet in 0..=u8::MAX {
        for front in 0..20 {
            for (before, behind) in
                [("", "a: b\r\n\r\n"), ("n", ": v\r\n\r\n"), ("name: v", "v\r\n\r\n"), ("n:", "\r\n\r\n")]
            {
                let mut block = b"pppppppppppppppppppp"[..front].to_vec();
                block.extend_from_slice(before.as_bytes());
                block.push(octet);
                block.extend_from_slice(behind.as_bytes());
                check(&block);
            }
        }
    }
}

#[test]
fn every_front_of_a_block_needs_more() {
    let block = b"Host: a\r\nContent-Type:\ttext/plain \r\nx-empty:\r\nX-Other: \xc3\xa4 1\t2\r\n\r\n";
    for end in 0..block.len() {
        assert_eq!(parse(&block[..end]), Ok(None), "{end}");
    }
    let (consumed, fields) = parse(block).unwrap().unwrap();
    assert_eq!(consumed, block.len());
    let expected = [("Content-Type", "text/plain"), ("x-empty", ""), ("X-Other", "ä 1\t2"), ("host", "a")];
    assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn refusals() {
    for (block, error) in [
        (&b"a: b\n\r\n"[..], Http1Error::BareLineFeed),
        (b"a: b\r\n\n", Http1Error::BareLineFeed),
        (b"a: b\rc\r\n\r\n", Http1Error::Character),
        (b"a: b\0\r\n\r\n", Http1Error::Character),
        (b"a: b\r\n c\r\n\r\n", Http1Error::Field),
        (b"a : b\r\n\r\n", Http1Error::Field),
        (b": b\r\n\r\n", Http1Error::Field),
        (b"a b\r\n\r\n", Http1Error::Field),
        (b"(a): b\r\n\r\n", Http1Error::Field),
        (b"a\r\n\r\n", Http1Error::Field),
        (b"\rx", Http1Error::Field),
        (b"host: a\r\nHost: a\r\n\r\n", Http1Error::Authority),
        (b"a:1\r\na:1\r\na:1\r\na:1\r\na:1\r\na:1\r\n\r\n", Http1Error::TooManyFields),
    ] {
        assert_eq!(parse(block), Err(error), "{:?}", String::from_utf8_lossy(block));
    }
}

/// What blocks are made of.
const PARTS: &[&str] =
    &["host", "Content-Length", "x-a", "etag", ": ", ": ", ":", "value", "a longer value, 12", "\r\n", "\r\n", "\r\n"];
const ODD: &[&str] = &[" ", "\t", "\r", "\n", "\0", "\x7f", "ä", "_", "("];

proptest! {
    #[test]
    fn agrees_with_the_reference(
        parts in prop::collection::vec(
            prop_oneof![8 => prop::sample::select(PARTS), 1 => prop::sample::select(ODD)],
            0..24,
        ),
        ends in any::<bool>(),
    ) {
        check(format!("{}{}", parts.concat(), if ends { "\r\n\r\n" } else { "" }).as_bytes());
    }
}
