//! Which HTTP a connection begins with, from bytes that were only looked at.

use crate::h2_preface::{self, Preface};
use sota_plugin::http::is_token;

/// A longer request line is not waited for, as in Envoy.
pub const MAX_INSPECT_BYTES: usize = 64 * 1024;

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inspection {
    /// They may become HTTP.
    NeedMore,
    /// A request line of HTTP/1.0 (or older, or of an unknown minor version).
    Http10,
    /// A request line of HTTP/1.1.
    Http11,
    /// The preface of HTTP/2.
    Http2,
    /// Not HTTP.
    NotHttp,
    /// Still no line end after [`MAX_INSPECT_BYTES`].
    TooLarge,
}

impl Inspection {
    /// The ALPN name that stands for the protocol in a filter chain match.
    pub const fn application_protocol(self) -> Option<&'static str> {
        match self {
            Self::Http10 => Some("http/1.0"),
            Self::Http11 => Some("http/1.1"),
            Self::Http2 => Some("h2c"),
            _ => None,
        }
    }
}

/// Inspects all bytes of a connection so far. Any token is a method: which ones are served is not decided here.
pub fn inspect(buf: &[u8]) -> Inspection {
    match h2_preface::detect(buf) {
        Preface::Complete => return Inspection::Http2,
        Preface::Partial => return Inspection::NeedMore,
        Preface::Other => {}
    }
    let Some(end) = memchr::memchr(b'\n', buf) else {
        return if !may_become_request_line(buf) {
            Inspection::NotHttp
        } else if buf.len() >= MAX_INSPECT_BYTES {
            Inspection::TooLarge
        } else {
            Inspection::NeedMore
        };
    };
    let line = buf.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|c| *c == b' ').filter(|word| !word.is_empty());
    let (method, target, version) = (words.next(), words.next(), words.next());
    let begins_with_word = line.first().is_some_and(|c| *c != b' ');
    match (method, target, version, words.next()) {
        (Some(method), Some(target), version, None) if begins_with_word && is_token(method) && is_target(target) => {
            match version {
                Some(b"HTTP/1.1") => Inspection::Http11,
                None => Inspection::Http10,
                Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
                    if major.is_ascii_digit() && minor.is_ascii_digit() =>
                {
                    Inspection::Http10
                }
                Some(_) => Inspection::NotHttp,
            }
        }
        _ => Inspection::NotHttp,
    }
}

/// An unfinished line: a token, then (behind a space) something that can be a target.
fn may_become_request_line(line: &[u8]) -> bool {
    let method_end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let (method, rest) = line.split_at_checked(method_end).unwrap_or_default();
    is_token(method) && rest.iter().all(|c| (0x20..=0x7e).contains(c) || *c == b'\r')
}

/// Roughly a request target: a path, `*`, a URL, or host and port. Words alone ("hello world") are none.
fn is_target(target: &[u8]) -> bool {
    let visible = target.iter().all(|c| (0x21..=0x7e).contains(c));
    visible && (matches!(target.first(), Some(b'/' | b'*')) || memchr::memchr(b':', target).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols() {
        for (bytes, expected) in [
            ("", Inspection::NeedMore),
            ("G", Inspection::NeedMore),
            ("GET / HTTP/1.1", Inspection::NeedMore),
            ("GET / HTTP/1.1\r", Inspection::NeedMore),
            ("GET / HTTP/1.1\r\n", Inspection::Http11),
            ("GET / HTTP/1.1\n", Inspection::Http11),
            ("PATCH /a HTTP/1.1\r\nx", Inspection::Http11),
            ("FOO-bar * HTTP/1.1\r\n", Inspection::Http11),
            ("CONNECT a:80 HTTP/1.1\r\n", Inspection::Http11),
            ("GET http://a/ HTTP/1.0\r\n", Inspection::Http10),
            ("GET /\r\n", Inspection::Http10),
            ("GET / HTTP/2.0\r\n", Inspection::Http10),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Inspection::Http2),
            ("PRI * HTTP/2.0\r\n\r\nSM", Inspection::NeedMore),
            ("PRI * HTTP/2.0\r\n\r\nXX", Inspection::Http10),
            ("P", Inspection::NeedMore),
            ("\r\nGET / HTTP/1.1\r\n", Inspection::NotHttp),
            (" GET / HTTP/1.1\r\n", Inspection::NotHttp),
            ("hello world\r\n", Inspection::NotHttp),
            ("GET / http/1.1\r\n", Inspection::NotHttp),
            ("GET / HTTP/1.1 x\r\n", Inspection::NotHttp),
            ("\u{16}\u{3}\u{1}", Inspection::NotHttp),
            ("GET /\u{1}", Inspection::NotHttp),
        ] {
            assert_eq!(inspect(bytes.as_bytes()), expected, "{bytes:?}");
        }
        let long = format!("GET /{}", "a".repeat(MAX_INSPECT_BYTES));
        assert_eq!(inspect(long.as_bytes()), Inspection::TooLarge);
    }
}
