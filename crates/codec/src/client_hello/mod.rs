//! Server name and ALPN of a TLS ClientHello (RFC 8446 §4.1.2), from bytes that were only looked at.
//!
//! The hello may be spread over records (and often is, with post-quantum key shares), so records are put together
//! first; only what has arrived is copied.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

/// As long as a ClientHello may be by default: Envoy's bound.
pub const DEFAULT_MAX_BYTES: usize = 64 * 1024;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspection {
    /// The beginning of TLS, not yet the whole hello.
    NeedMore,
    /// Not TLS.
    NotTls,
    /// TLS, but not a ClientHello that can be understood.
    Malformed,
    /// The hello is larger than allowed.
    TooLarge,
    /// A ClientHello.
    Hello(ClientHello),
}

/// The facts of a ClientHello that a filter chain match can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The server name (SNI) in lower case, if one was sent.
    pub server_name: Option<Box<str>>,
    /// The protocols offered by ALPN, in the client's order.
    pub alpn: Vec<Box<[u8]>>,
    /// Versions offered, in the client's order: 0x0304 is TLS 1.3, 0x0303 TLS 1.2.
    pub versions: Vec<u16>,
}

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// RFC 8446 §5.1.
const MAX_RECORD: usize = 1 << 14;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
/// Extensions that one hello may have; real ones have around twenty.
const MAX_EXTENSIONS: usize = 256;

/// Inspects all bytes of a connection so far. `max_bytes` bounds the hello, record headers included.
pub fn inspect(buf: &[u8], max_bytes: usize) -> Inspection {
    match handshake_bytes(buf) {
        Records::NotTls => Inspection::NotTls,
        Records::Malformed => Inspection::Malformed,
        Records::Bytes(bytes) => match hello_body(&bytes) {
            Body::NotHello => Inspection::NotTls,
            Body::Partial(needed) if buf.len() >= max_bytes || needed > max_bytes => Inspection::TooLarge,
            Body::Partial(_) => Inspection::NeedMore,
            Body::Complete(body) => parse(body).map_or(Inspection::Malformed, Inspection::Hello),
        },
    }
}

enum Records<'a> {
    NotTls,
    Malformed,
    /// Contents of the handshake records so far.
    Bytes(Cow<'a, [u8]>),
}

fn handshake_bytes(buf: &[u8]) -> Records<'_> {
    let mut bytes: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = buf;
    let mut first = true;
    while let Some((kind, after)) = rest.split_first() {
        let bad = if first { Records::NotTls } else { Records::Malformed };
        if *kind != HANDSHAKE_RECORD || after.first().is_some_and(|major| *major != 3) {
            return bad;
        }
        let Some((header, content)) = after.split_first_chunk::<4>() else { break };
        let [_, _, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > MAX_RECORD {
            return Records::Malformed;
        }
        let content_end = length.min(content.len());
        let (piece, next) = content.split_at_checked(content_end).unwrap_or((content, &[]));
        if bytes.is_empty() {
            bytes = Cow::Borrowed(piece);
        } else {
            bytes.to_mut().extend_from_slice(piece);
        }
        // The hello ends in this record or later: what follows it is not looked at.
        if hello_is_complete(&bytes) {
            break;
        }
        rest = next;
        first = false;
    }
    Records::Bytes(bytes)
}

enum Body<'a> {
    NotHello,
    /// Octets that the whole message will have.
    Partial(usize),
    Complete(&'a [u8]),
}

fn hello_body(bytes: &[u8]) -> Body<'_> {
    let Some((kind, rest)) = bytes.split_first() else { return Body::Partial(0) };
    if *kind != CLIENT_HELLO {
        return Body::NotHello;
    }
    let Some((length, rest)) = rest.split_first_chunk::<3>() else { return Body::Partial(0) };
    let [a, b, c] = *length;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    rest.get(..length).map_or(Body::Partial(length + 4), Body::Complete)
}

fn hello_is_complete(bytes: &[u8]) -> bool {
    !matches!(hello_body(bytes), Body::Partial(_))
}

/// `None` when a length does not fit what is around it, or an extension comes twice.
fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut body = Reader(body);
    let mut hello = ClientHello::default();
    let legacy_version = body.u16()?;
    body.take(32)?;
    let session_id = body.vec8()?;
    let cipher_suites = body.vec16()?;
    let compression = body.vec8()?;
    if session_id.0.len() > 32
        || cipher_suites.0.is_empty()
        || cipher_suites.0.len() % 2 != 0
        || compression.0.is_empty()
    {
        return None;
    }
    if !body.is_empty() {
        let mut extensions = body.vec16()?;
        if !body.is_empty() {
            return None;
        }
        let mut seen = Vec::new();
        while !extensions.is_empty() {
            let kind = extensions.u16()?;
            let data = extensions.vec16()?;
            if seen.contains(&kind) || seen.len() == MAX_EXTENSIONS {
                return None;
            }
            seen.push(kind);
            match kind {
                SERVER_NAME => hello.server_name = server_name(data)?,
                ALPN => hello.alpn = alpn(data)?,
                SUPPORTED_VERSIONS => hello.versions = versions(data)?,
                _ => {}
            }
        }
    }
    if hello.versions.is_empty() {
        hello.versions.push(legacy_version);
    }
    Some(hello)
}

/// RFC 6066 §3. Names of other types are passed over; two host names are an error.
fn server_name(mut data: Reader<'_>) -> Option<Option<Box<str>>> {
    const HOST_NAME: u8 = 0;
    let mut list = data.vec16()?;
    if list.is_empty() || !data.is_empty() {
        return None;
    }
    let mut found = None;
    while !list.is_empty() {
        let kind = list.u8()?;
        let name = list.vec16()?;
        if kind != HOST_NAME {
            continue;
        }
        // 255 octets bound a DNS name; control characters and NUL have no place in one.
        if found.is_some() || name.0.is_empty() || name.0.len() > 255 || !name.0.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        found = Some(std::str::from_utf8(name.0).ok()?.to_ascii_lowercase().into_boxed_str());
    }
    Some(found)
}

/// RFC 7301 §3.1.
fn alpn(mut data: Reader<'_>) -> Option<Vec<Box<[u8]>>> {
    let mut list = data.vec16()?;
    if list.is_empty() || !data.is_empty() {
        return None;
    }
    let mut names = Vec::new();
    while !list.is_empty() {
        let name = list.vec8()?;
        if name.0.is_empty() {
            return None;
        }
        names.push(name.0.into());
    }
    Some(names)
}

/// RFC 8446 §4.2.1.
fn versions(mut data: Reader<'_>) -> Option<Vec<u16>> {
    let mut list = data.vec8()?;
    if list.is_empty() || !data.is_empty() {
        return None;
    }
    let mut versions = Vec::new();
    while !list.is_empty() {
        versions.push(list.u16()?);
    }
    Some(versions)
}

/// Takes values off the front of a slice; `None` when it is too short.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        let (value, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*value))
    }

    /// What a one-octet length announces.
    fn vec8(&mut self) -> Option<Self> {
        let length = usize::from(self.u8()?);
        self.take(length).map(Self)
    }

    /// What a two-octet length announces.
    fn vec16(&mut self) -> Option<Self> {
        let length = usize::from(self.u16()?);
        self.take(length).map(Self)
    }
}
