//! Where a session keeps the host that it belongs to: a cookie or a field.

use crate::cookie;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sota_config::{ConfigError, Node};
use sota_plugin::{
    FactoryContext,
    http::{HeaderId, HeaderName, Headers, RequestHead},
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How sessions are kept.
#[derive(Debug)]
pub(super) enum SessionState {
    Cookie(Cookie),
    /// A field that clients send back: `envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState`
    Header(HeaderName),
}

/// `envoy.type.http.v3.Cookie`
#[derive(Debug)]
pub(super) struct Cookie {
    name: String,
    /// `None`: as long as the browser is open.
    ttl: Option<Duration>,
    path: String,
    /// `; NAME=VALUE` for each.
    attributes: String,
}

impl SessionState {
    /// `envoy.config.core.v3.TypedExtensionConfig` in a field; `None` when it is absent.
    pub(super) fn read(node: &Node, field: &str, cx: &FactoryContext<'_>) -> Result<Option<Self>, ConfigError> {
        let Some(node) = node.get(field) else { return Ok(None) };
        let config = node.field("typed_config");
        let path = format!("{field}.typed_config");
        let url = config.str("@type");
        match url.rsplit('/').next().unwrap_or_default() {
            "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState" => {
                Ok(Some(Self::Cookie(Cookie::read(config.field("cookie")))))
            }
            "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState" => {
                let name = config.field("name");
                let parsed = HeaderName::parse(config.str("name").as_bytes());
                let parsed = parsed.map_err(|error| cx.error(&format!("{path}.name"), name.mark, error.to_string()));
                Ok(Some(Self::Header(parsed?)))
            }
            _ => {
                Err(cx.error(&path, config.mark, format!("\"{url}\" is no session state; there are cookie and header")))
            }
        }
    }

    /// Whether a request may have a session here.
    pub(super) fn concerns(&self, head: &RequestHead) -> bool {
        match self {
            Self::Cookie(cookie) => cookie.is_for(head.path()),
            Self::Header(_) => true,
        }
    }

    /// The host that the request's session belongs to.
    pub(super) fn host(&self, head: &RequestHead, now: SystemTime) -> Option<String> {
        match self {
            Self::Cookie(cookie) => {
                let value = STANDARD.decode(cookie::find(&head.headers, &cookie.name)?).ok()?;
                let (host, expires) = decode(&value)?;
                (expires == 0 || cookie.ttl.is_none() || seconds(now) <= expires).then_some(host)
            }
            Self::Header(name) => {
                let value = STANDARD.decode(head.headers.get(name)?).ok()?;
                String::from_utf8(value).ok().filter(|host| !host.is_empty())
            }
        }
    }

    /// Tells the client where its session is now.
    pub(super) fn tell(&self, host: &str, headers: &mut Headers, now: SystemTime) {
        match self {
            Self::Cookie(cookie) => headers.append_sanitized(HeaderId::SetCookie, cookie.value(host, now)),
            Self::Header(name) => headers.set_sanitized(name, STANDARD.encode(host)),
        }
    }
}

impl Cookie {
    fn read(node: &Node) -> Self {
        let attribute = |attribute: &Node| match attribute.str("value") {
            "" => format!("; {}", attribute.str("name")),
            value => format!("; {}={value}", attribute.str("name")),
        };
        Self {
            name: node.str("name").to_owned(),
            ttl: node.duration("ttl").map(|ttl| Duration::from_secs(ttl.as_secs())).filter(|ttl| !ttl.is_zero()),
            path: node.str("path").to_owned(),
            attributes: node.list("attributes").iter().map(attribute).collect(),
        }
    }

    /// As RFC 6265 §5.1.4 matches paths.
    fn is_for(&self, path: &[u8]) -> bool {
        if self.path.is_empty() || self.path == "/" {
            return true;
        }
        let Some(rest) = path.strip_prefix(self.path.as_bytes()) else { return false };
        self.path.ends_with('/') || matches!(rest.first(), None | Some(b'/' | b'?' | b'#'))
    }

    fn value(&self, host: &str, now: SystemTime) -> String {
        let expires = self.ttl.map_or(0, |ttl| seconds(now + ttl));
        let mut value = format!("{}=\"{}\"", self.name, STANDARD.encode(encode(host, expires)));
        if let Some(ttl) = self.ttl {
            value += &format!("; Max-Age={}", ttl.as_secs());
        }
        if !self.path.is_empty() {
            value += &format!("; Path={}", self.path);
        }
        value + &self.attributes + "; HttpOnly"
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The message that Envoy keeps in its cookies: `string address = 1; int64 expires = 2`.
pub(super) fn encode(host: &str, expires: u64) -> Vec<u8> {
    let mut out = vec![0x0a];
    put_varint(&mut out, host.len() as u64);
    out.extend_from_slice(host.as_bytes());
    if expires > 0 {
        out.push(0x10);
        put_varint(&mut out, expires);
    }
    out
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Host and expiry; `None` for what is no such message.
pub(super) fn decode(mut data: &[u8]) -> Option<(String, u64)> {
    let (mut host, mut expires) = (String::new(), 0);
    while !data.is_empty() {
        match varint(&mut data)? {
            0x0a => {
                let len = usize::try_from(varint(&mut data)?).ok()?;
                let (text, rest) = data.split_at_checked(len)?;
                host = std::str::from_utf8(text).ok()?.to_owned();
                data = rest;
            }
            0x10 => expires = varint(&mut data)?,
            _ => return None,
        }
    }
    (!host.is_empty()).then_some((host, expires))
}

fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (octet, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(octet & 0x7f) << shift;
        if *octet < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_there_and_back() {
        for (host, expires) in [("127.0.0.1:80", 0), ("[::1]:8080", 1_700_000_000), ("/run/x", u64::MAX)] {
            assert_eq!(decode(&encode(host, expires)), Some((host.to_owned(), expires)));
        }
        assert_eq!(encode("a:1", 300), b"\x0a\x03a:1\x10\xac\x02");
        for bad in [&b""[..], b"\x0a", b"\x0a\x05ab", b"\x10\x80", b"\x1a\x00", b"\x0a\x01\xff", &[0xff; 20]] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn paths_of_cookies() {
        let is_for = |path: &str, request: &str| {
            let cookie = Cookie { name: "c".into(), ttl: None, path: path.into(), attributes: String::new() };
            cookie.is_for(request.as_bytes())
        };
        for (path, good, bad) in [("/a", "/a/b", "/ab"), ("/a", "/a?x", "/"), ("/a/", "/a/b", "/a")] {
            assert!(is_for(path, good) && !is_for(path, bad), "{path}");
        }
        assert!(is_for("", "/x") && is_for("/", "/x") && is_for("/a", "/a"));
    }
}
