//! What a peer speaks that does not speak ZMTP, so that the log says more than "protocol error"; and how a listener
//! tells ZMTP from others on the same port.

use std::fmt;

/// What the first bytes of a peer look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// A request or response of HTTP/1.
    Http,
    /// The preface of HTTP/2.
    Http2,
    /// A TLS client hello.
    Tls,
    /// SSH.
    Ssh,
    /// PROXY protocol, either version.
    ProxyProtocol,
    /// Nothing we know.
    Unknown,
}

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "looks like HTTP",
            Self::Http2 => "looks like HTTP/2",
            Self::Tls => "looks like TLS",
            Self::Ssh => "looks like SSH",
            Self::ProxyProtocol => "looks like PROXY protocol",
            Self::Unknown => "the first bytes are no ZMTP signature",
        })
    }
}

const KNOWN: &[(&[u8], Spoken)] = &[
    (b"GET ", Spoken::Http),
    (b"POST ", Spoken::Http),
    (b"PUT ", Spoken::Http),
    (b"HEAD ", Spoken::Http),
    (b"PATCH ", Spoken::Http),
    (b"DELETE ", Spoken::Http),
    (b"OPTIONS ", Spoken::Http),
    (b"CONNECT ", Spoken::Http),
    (b"TRACE ", Spoken::Http),
    (b"HTTP/1.", Spoken::Http),
    (b"PRI * HT", Spoken::Http2),
    (b"\x16\x03", Spoken::Tls),
    (b"SSH-", Spoken::Ssh),
    (b"PROXY ", Spoken::ProxyProtocol),
    (b"\r\n\r\n\0\r\nQ", Spoken::ProxyProtocol),
];

/// So many octets are enough to tell.
pub(super) const MOST: usize = 8;

/// What `bytes`, the first of a connection, look like; `None` while it may still become more than one thing.
pub(super) fn looks_like(bytes: &[u8]) -> Option<Spoken> {
    if let Some((_, spoken)) = KNOWN.iter().find(|(known, _)| bytes.starts_with(known)) {
        return Some(*spoken);
    }
    let may_become = !bytes.is_empty() && KNOWN.iter().any(|(known, _)| known.starts_with(bytes));
    (!may_become).then_some(Spoken::Unknown)
}

/// As [`looks_like`], of bytes that can't become more: the beginning of something known counts as that.
pub(super) fn looks_most_like(bytes: &[u8]) -> Spoken {
    looks_like(bytes).unwrap_or_else(|| {
        KNOWN.iter().find(|(known, _)| known.starts_with(bytes)).map_or(Spoken::Unknown, |(_, spoken)| *spoken)
    })
}

/// What the first bytes of a connection are, for a listener that several protocols share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inspection {
    /// It may become a ZMTP signature: at most 10 octets are needed. A peer sends so many without being answered.
    NeedMore,
    /// A signature. The major version where the octet behind it has come: a peer may send it only once it has our
    /// signature.
    Zmtp(Option<u8>),
    /// Something else. (Or ZMTP 1.0 with its short form, which can't be told from others.)
    Other(Spoken),
}

/// Looks at the first bytes of a connection without consuming them.
pub fn inspect(bytes: &[u8]) -> Inspection {
    match bytes {
        [] => Inspection::NeedMore,
        [0xff, rest @ ..] => match rest.get(8) {
            None => Inspection::NeedMore,
            Some(last) if last & 1 == 1 => Inspection::Zmtp(rest.get(9).copied()),
            Some(_) => Inspection::Other(Spoken::Unknown),
        },
        _ => looks_like(bytes).map_or(Inspection::NeedMore, Inspection::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_protocols() {
        for (known, spoken) in KNOWN {
            assert!(known.len() <= MOST);
            for end in 1..known.len() {
                assert_eq!(looks_like(&known[..end]), None, "{:?}", &known[..end]);
            }
            assert_eq!(looks_like(known), Some(*spoken));
        }
        assert_eq!(looks_like(b"hello"), Some(Spoken::Unknown));
        assert_eq!(looks_most_like(b"GE"), Spoken::Http);
        assert_eq!(looks_most_like(b"\x01\x00"), Spoken::Unknown);
        assert_eq!(Spoken::Http.to_string(), "looks like HTTP");
    }

    #[test]
    fn inspection() {
        let greeting = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03";
        for end in 0..10 {
            assert_eq!(inspect(&greeting[..end]), Inspection::NeedMore);
        }
        assert_eq!(inspect(&greeting[..10]), Inspection::Zmtp(None));
        assert_eq!(inspect(greeting), Inspection::Zmtp(Some(3)));
        assert_eq!(inspect(b"G"), Inspection::NeedMore);
        assert_eq!(inspect(b"GET / HTTP/1.1"), Inspection::Other(Spoken::Http));
        assert_eq!(inspect(b"\x16\x03\x01"), Inspection::Other(Spoken::Tls));
        assert_eq!(inspect(b"\xff\0\0\0\0\0\0\0\x01\x00"), Inspection::Other(Spoken::Unknown));
    }
}
