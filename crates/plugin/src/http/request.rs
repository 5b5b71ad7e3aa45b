//! The head of a request.

use super::{AsHeaderName, Headers, Method, NameRef};
use std::{borrow::Cow, fmt};

/// The version of HTTP that a message came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Protocol {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
    /// HTTP/2
    Http2,
}

impl Protocol {
    /// As `%PROTOCOL%` prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The scheme of the request's URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scheme {
    /// `http`
    #[default]
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// From text in any case (RFC 9110 §4.2.3).
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.eq_ignore_ascii_case(b"http") {
            Some(Self::Http)
        } else if bytes.eq_ignore_ascii_case(b"https") {
            Some(Self::Https)
        } else {
            None
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A path or an authority that cannot stand in a request line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a request target must not hold spaces or control characters, nor be longer than 4 GiB")]
pub struct InvalidTarget;

/// What a request asks for. `Host` stands in [`Self::authority`] only, never among the fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// `http` or `https`: what the client used, not what we use upstream.
    pub scheme: Scheme,
    /// The protocol it came by.
    pub protocol: Protocol,
    /// The fields, without `host` and without pseudo-header fields.
    pub headers: Headers,
    /// Authority, then path: one buffer that is reused with the head.
    target: Vec<u8>,
    authority_len: usize,
    /// The authority is empty because an empty `Host` says so.
    has_empty_host: bool,
}

impl RequestHead {
    /// A head without fields; anything that cannot stand in a request line is refused.
    pub fn new(method: Method, authority: &str, path: &str) -> Result<Self, InvalidTarget> {
        let mut head = Self { method, ..Self::default() };
        head.set_target(authority.as_bytes(), path.as_bytes())?;
        Ok(head)
    }

    /// Host and port as the client named them: `:authority`, the host of an absolute-form target, or `Host`.
    /// Empty if there was none (HTTP/1.0).
    #[inline]
    pub fn authority(&self) -> &[u8] {
        self.target.get(..self.authority_len).unwrap_or_default()
    }

    /// Path and query as received, raw. `*` for `OPTIONS *`, empty for `CONNECT`.
    #[inline]
    pub fn path(&self) -> &[u8] {
        self.target.get(self.authority_len..).unwrap_or_default()
    }

    /// The path without query.
    #[inline]
    pub fn path_only(&self) -> &[u8] {
        let path = self.path();
        memchr::memchr(b'?', path).and_then(|end| path.get(..end)).unwrap_or(path)
    }

    /// What follows the first `?`; `None` without one.
    #[inline]
    pub fn query(&self) -> Option<&[u8]> {
        let path = self.path();
        memchr::memchr(b'?', path).and_then(|at| path.get(at + 1..))
    }

    /// Replaces path and query.
    pub fn set_path(&mut self, path: &[u8]) -> Result<(), InvalidTarget> {
        check(path)?;
        self.target.truncate(self.authority_len);
        self.target.extend_from_slice(path);
        Ok(())
    }

    /// Replaces the authority.
    pub fn set_authority(&mut self, authority: &[u8]) -> Result<(), InvalidTarget> {
        check(authority)?;
        self.target.splice(..self.authority_len, authority.iter().copied());
        self.authority_len = authority.len();
        Ok(())
    }

    /// Replaces both.
    #[inline]
    pub fn set_target(&mut self, authority: &[u8], path: &[u8]) -> Result<(), InvalidTarget> {
        check(authority)?;
        check(path)?;
        self.target.clear();
        self.target.reserve(authority.len() + path.len());
        self.target.extend_from_slice(authority);
        self.target.extend_from_slice(path);
        self.authority_len = authority.len();
        Ok(())
    }

    /// The request has a `Host` without a value, which is another thing than none.
    pub fn note_empty_host(&mut self) {
        self.has_empty_host = true;
    }

    /// What matchers and format strings name: `:method`, `:path`, `:authority` (also `host`), `:scheme`, or a field.
    pub fn get(&self, name: impl AsHeaderName) -> Option<&[u8]> {
        match name.as_name() {
            NameRef::Known(super::HeaderId::Host) => self.authority_if_any(),
            NameRef::Other(pseudo) if pseudo.first() == Some(&b':') => match pseudo {
                b":path" => Some(self.path()).filter(|path| !path.is_empty()),
                b":method" => Some(self.method.as_str().as_bytes()),
                b":authority" => self.authority_if_any(),
                b":scheme" => Some(self.scheme.as_str().as_bytes()),
                _ => None,
            },
            _ => self.headers.get(name),
        }
    }

    /// Like [`Self::get`], with all values of a repeated field joined by `,`: what matchers compare.
    pub fn get_joined(&self, name: impl AsHeaderName) -> Option<Cow<'_, [u8]>> {
        match name.as_name() {
            NameRef::Known(super::HeaderId::Host) => self.get(name).map(Cow::Borrowed),
            NameRef::Other(pseudo) if pseudo.first() == Some(&b':') => self.get(name).map(Cow::Borrowed),
            _ => self.headers.get_joined(name),
        }
    }

    /// Octets of names and values, pseudo-header fields included, as Envoy's `%REQUEST_HEADERS_BYTES%` counts them.
    pub fn byte_size(&self) -> usize {
        const METHOD: usize = ":method".len();
        const SCHEME: usize = ":scheme".len();
        let pseudo = |name: &str, value: &[u8]| if value.is_empty() { 0 } else { name.len() + value.len() };
        METHOD
            + self.method.as_str().len()
            + SCHEME
            + self.scheme.as_str().len()
            + pseudo(":authority", self.authority())
            + pseudo(":path", self.path())
            + self.headers.byte_size()
    }

    /// Empties the head for the next message, keeping its memory unless it grew large.
    pub fn recycle(&mut self) {
        self.method = Method::Get;
        self.scheme = Scheme::Http;
        self.protocol = Protocol::Http11;
        self.headers.recycle();
        self.target.clear();
        self.target.shrink_to(LARGE_TARGET);
        self.authority_len = 0;
        self.has_empty_host = false;
    }

    fn authority_if_any(&self) -> Option<&[u8]> {
        Some(self.authority()).filter(|authority| !authority.is_empty() || self.has_empty_host)
    }
}

/// More than this is given back when a head is recycled, so that one long URL does not cost memory for ever.
const LARGE_TARGET: usize = 4096;

#[inline]
fn check(target: &[u8]) -> Result<(), InvalidTarget> {
    let valid = target.iter().fold(true, |ok, c| ok & (*c > b' ') & (*c != 0x7f));
    if valid && u32::try_from(target.len()).is_ok() { Ok(()) } else { Err(InvalidTarget) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_parts() {
        let mut head = RequestHead::new(Method::Get, "example.com:80", "/a/b?c=d?e").unwrap();
        assert_eq!(head.authority(), b"example.com:80");
        assert_eq!(head.path(), b"/a/b?c=d?e");
        assert_eq!(head.path_only(), b"/a/b");
        assert_eq!(head.query(), Some(&b"c=d?e"[..]));
        head.set_authority(b"x").unwrap();
        assert_eq!((head.authority(), head.path()), (&b"x"[..], &b"/a/b?c=d?e"[..]));
        head.set_authority(b"a.much.longer.name").unwrap();
        head.set_path(b"/").unwrap();
        assert_eq!((head.authority(), head.path(), head.query()), (&b"a.much.longer.name"[..], &b"/"[..], None));
    }

    #[test]
    fn targets_that_would_split_the_request_are_refused() {
        let mut head = RequestHead::new(Method::Get, "a", "/").unwrap();
        for bad in [&b"/a b"[..], b"/a\r\nx: y", b"/\0", b"/\x7f", b"/\t"] {
            assert_eq!(head.set_path(bad), Err(InvalidTarget));
            assert_eq!(head.set_authority(bad), Err(InvalidTarget));
        }
        assert_eq!((head.authority(), head.path()), (&b"a"[..], &b"/"[..]));
        head.set_path("/ä".as_bytes()).unwrap();
    }

    #[test]
    fn fields_and_pseudo_fields_by_name() {
        let mut head = RequestHead::new(Method::Post, "h", "/p").unwrap();
        head.headers.append("X-A", b"1").unwrap();
        assert_eq!(head.get(":path"), Some(&b"/p"[..]));
        assert_eq!(head.get(":method"), Some(&b"POST"[..]));
        assert_eq!(head.get(":authority"), Some(&b"h"[..]));
        assert_eq!(head.get("Host"), Some(&b"h"[..]));
        assert_eq!(head.get(":scheme"), Some(&b"http"[..]));
        assert_eq!(head.get("x-a"), Some(&b"1"[..]));
        assert_eq!(head.get(":nothing"), None);
        let mut without = RequestHead::new(Method::Get, "", "/").unwrap();
        assert_eq!(without.get(":authority"), None);
        without.note_empty_host();
        assert_eq!(without.get("host"), Some(&b""[..]));
        assert_eq!(head.get_joined(":path").as_deref(), Some(&b"/p"[..]));
        assert_eq!(head.get_joined("host").as_deref(), Some(&b"h"[..]));
        assert_eq!(head.get_joined("x-a").as_deref(), Some(&b"1"[..]));
        let size = ":method".len() + 4 + ":scheme".len() + 4 + ":authority".len() + 1 + ":path".len() + 2 + 4;
        assert_eq!(head.byte_size(), size);
        head.recycle();
        assert_eq!(head, RequestHead::default());
    }
}
