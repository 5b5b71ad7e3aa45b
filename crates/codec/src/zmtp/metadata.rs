//! What peers tell about themselves at the end of a handshake: a list of `name value`, each with its length.

use super::curve::CurvePublicKey;
use super::{Limits, Mechanism, Options, SocketType, Version, ZmtpError};

/// The facts about a peer, known when the handshake is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The version that is spoken: the lower of the two.
    pub version: Version,
    /// The peer's socket type. Not known of a 1.0 peer; missing otherwise only where the options are lenient.
    pub socket_type: Option<SocketType>,
    /// What we declared ourselves to be.
    pub our_socket_type: SocketType,
    /// The mechanism.
    pub mechanism: Mechanism,
    /// The peer's identity, up to 255 octets; empty: none. A ROUTER uses it as routing id. Nothing proves it, and
    /// two peers may have the same.
    pub identity: Box<[u8]>,
    /// PLAIN, as seen by the server: the user name that was accepted.
    pub username: Option<Box<[u8]>>,
    /// CURVE: the peer's long-term key, which it has proved to have.
    pub public_key: Option<CurvePublicKey>,
    /// The other metadata (`Resource`, `X-...`) in their order.
    pub properties: Vec<(Box<str>, Box<[u8]>)>,
}

impl Peer {
    /// A property by its name, whose case does not matter.
    pub fn property(&self, name: &str) -> Option<&[u8]> {
        self.properties.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }
}

/// What metadata say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub socket_type: Option<SocketType>,
    pub identity: Box<[u8]>,
    pub properties: Vec<(Box<str>, Box<[u8]>)>,
}

impl Metadata {
    /// Reads a list of properties. The first of a name counts.
    pub(super) fn parse(mut bytes: &[u8], limits: &Limits) -> Result<Self, ZmtpError> {
        if bytes.len() > limits.max_metadata_bytes {
            return Err(ZmtpError::MetadataTooLarge);
        }
        let mut metadata = Self::default();
        let (mut count, mut has_identity) = (0, false);
        while !bytes.is_empty() {
            count += 1;
            if count > limits.max_properties {
                return Err(ZmtpError::TooManyProperties);
            }
            let (name, value, rest) = property(bytes).ok_or(ZmtpError::Metadata)?;
            bytes = rest;
            if name.eq_ignore_ascii_case("Socket-Type") {
                let of = SocketType::from_name(value).ok_or(ZmtpError::UnknownSocketType)?;
                metadata.socket_type.get_or_insert(of);
            } else if name.eq_ignore_ascii_case("Identity") {
                if value.len() > 255 {
                    return Err(ZmtpError::IdentityTooLong);
                }
                if !has_identity {
                    metadata.identity = value.into();
                }
                has_identity = true;
            } else {
                metadata.properties.push((name.into(), value.into()));
            }
        }
        Ok(metadata)
    }
}

/// The first property and what follows it.
fn property(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    // RFC 37: up to 2^31-1. More can't be here anyway.
    let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let legal = !name.is_empty() && name.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.+".contains(c));
    Some((legal.then(|| std::str::from_utf8(name).ok()).flatten()?, value, rest))
}

/// Writes our own metadata: socket type, identity where the type has one, and what the options add.
pub(super) fn write_metadata(options: &Options, socket_type: SocketType, out: &mut Vec<u8>) {
    write_property("Socket-Type", socket_type.name().as_bytes(), out);
    if socket_type.has_identity() {
        write_property("Identity", options.wire_identity(), out);
    }
    for (name, value) in &options.properties {
        write_property(name, value, out);
    }
}

/// Writes one property; nothing if the name or the value is too long for it.
fn write_property(name: &str, value: &[u8], out: &mut Vec<u8>) {
    let (Ok(name_length), Ok(value_length)) = (u8::try_from(name.len()), i32::try_from(value.len())) else { return };
    if name_length == 0 {
        return;
    }
    out.push(name_length);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&value_length.to_be_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        let options = Options {
            identity: b"me"[..].into(),
            properties: vec![("Resource".into(), b"a/b"[..].into()), ("X-Empty".into(), Box::default())],
            ..Options::default()
        };
        let mut out = Vec::new();
        write_metadata(&options, SocketType::Dealer, &mut out);
        assert!(out.starts_with(b"\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x02me\x08Resource"));
        let metadata = Metadata::parse(&out, &Limits::default()).unwrap();
        assert_eq!((metadata.socket_type, &*metadata.identity), (Some(SocketType::Dealer), &b"me"[..]));
        assert_eq!(metadata.properties, options.properties);
        for end in 1..out.len() {
            let cut = Metadata::parse(&out[..end], &Limits::default());
            assert!(cut.is_err() || cut.unwrap().properties.len() < 2, "cut at {end}");
        }
        out.clear();
        write_metadata(&options, SocketType::Sub, &mut out);
        assert!(out.starts_with(b"\x0bSocket-Type\0\0\0\x03SUB\x08Resource"), "a SUB has no identity");
    }

    #[test]
    fn names_have_no_case_and_the_first_counts() {
        let bytes =
            b"\x0bsocket-TYPE\0\0\0\x03REQ\x0bSocket-Type\0\0\0\x03REP\x08IDENTITY\0\0\0\x01a\x08identity\0\0\0\x01b";
        let metadata = Metadata::parse(bytes, &Limits::default()).unwrap();
        assert_eq!((metadata.socket_type, &*metadata.identity), (Some(SocketType::Req), &b"a"[..]));
    }

    #[test]
    fn limits_and_grammar() {
        let limits = Limits { max_metadata_bytes: 300, max_properties: 3, ..Limits::default() };
        let parse = |bytes: &[u8]| Metadata::parse(bytes, &limits).map(|_| ());
        assert_eq!(parse(b"\x01a\0\0\0\0".repeat(3).as_slice()), Ok(()));
        assert_eq!(parse(b"\x01a\0\0\0\0".repeat(4).as_slice()), Err(ZmtpError::TooManyProperties));
        assert_eq!(parse(&[0; 301]), Err(ZmtpError::MetadataTooLarge));
        assert_eq!(parse(b"\0\0\0\0\0"), Err(ZmtpError::Metadata), "a name of no octets");
        assert_eq!(parse(b"\x02a:\0\0\0\0"), Err(ZmtpError::Metadata));
        assert_eq!(parse(b"\x01a\x7f\xff\xff\xff"), Err(ZmtpError::Metadata), "a value that is not there");
        assert_eq!(parse(b"\x0bSocket-Type\0\0\0\x06CLIENT"), Err(ZmtpError::UnknownSocketType));
        let long = [&b"\x08Identity\0\0\x01\0"[..], &[1; 256]].concat();
        assert_eq!(parse(&long), Err(ZmtpError::IdentityTooLong));
    }
}
