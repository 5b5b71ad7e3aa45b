//! Request methods.

use super::is_token;
use std::{fmt, sync::Arc};

/// A request method (RFC 9110 §9): the usual ones by name, others as the token that came. Methods are case-sensitive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Method {
    /// `GET`
    #[default]
    Get,
    /// `HEAD`: the response never has content.
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
    /// `CONNECT`: asks for a tunnel.
    Connect,
    /// `OPTIONS`
    Options,
    /// `TRACE`
    Trace,
    /// `PATCH`
    Patch,
    /// Any other token.
    Extension(Arc<str>),
}

/// Methods that real software uses beside the common ones: WebDAV and its relatives, UPnP, caches.
const REGISTERED: &[&str] = &[
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "LABEL",
    "LINK",
    "LOCK",
    "M-SEARCH",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "NOTIFY",
    "ORDERPATCH",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

impl Method {
    /// The method that these bytes name; `None` when they are no token.
    #[inline]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            b"GET" => Self::Get,
            b"POST" => Self::Post,
            b"HEAD" => Self::Head,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            other if is_token(other) => Self::Extension(std::str::from_utf8(other).ok()?.into()),
            _ => return None,
        })
    }

    /// The method's text.
    #[inline]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Extension(name) => name,
        }
    }

    /// Whether the method is one that is in use somewhere (IANA's registry and the older WebDAV drafts): what an
    /// HTTP/1 server takes unless custom methods are allowed.
    pub fn is_registered(&self) -> bool {
        match self {
            Self::Extension(name) => REGISTERED.contains(&&**name),
            _ => true,
        }
    }

    /// Safe in the sense of RFC 9110 §9.2.1: the client asks for no change.
    pub fn is_safe(&self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options | Self::Trace)
    }

    /// Idempotent in the sense of RFC 9110 §9.2.2: sending it twice is like sending it once.
    pub fn is_idempotent(&self) -> bool {
        self.is_safe() || matches!(self, Self::Put | Self::Delete)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_grammar() {
        for name in ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "x"] {
            assert_eq!(Method::from_bytes(name.as_bytes()).unwrap().as_str(), name);
        }
        assert!(matches!(Method::from_bytes(b"get"), Some(Method::Extension(_))), "methods are case-sensitive");
        for bad in [&b""[..], b"GE T", b"G\xc3\xa4T", b"GET\0", b"(GET)"] {
            assert_eq!(Method::from_bytes(bad), None);
        }
    }

    #[test]
    fn registered_methods() {
        assert!(Method::from_bytes(b"PROPFIND").unwrap().is_registered());
        assert!(Method::Get.is_registered());
        assert!(!Method::from_bytes(b"FOO").unwrap().is_registered());
    }
}
