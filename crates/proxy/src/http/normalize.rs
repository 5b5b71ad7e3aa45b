//! One form of path and host before anything is decided by them: filters, routes and the upstream see the same.

use bytes::Bytes;
use sota_config::http::{EscapedSlashes, HttpConnectionManager, StripPort};
use sota_plugin::{
    filter::LocalReply,
    http::{HeaderId, Method, RequestHead, StatusCode},
};

/// What is normalised, as configured.
#[derive(Debug, Clone, Copy)]
pub struct Normalization {
    normalize_path: bool,
    merge_slashes: bool,
    escaped_slashes: EscapedSlashes,
    strip_port: StripPort,
    strip_trailing_host_dot: bool,
}

/// Why a request goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no path, or it does not begin with a slash: 404 (`downstream_rq_non_relative_path`).
    NoPath,
    /// 400 (`downstream_rq_failed_path_normalization`).
    InvalidPath,
    /// 307 to the path that the head now has (`downstream_rq_redirected_with_normalized_path`).
    Redirect,
}

impl Refusal {
    /// The answer.
    pub fn reply(self, head: &RequestHead) -> LocalReply {
        const DETAILS: &str = "path_normalization_failed";
        match self {
            Self::NoPath if head.path().is_empty() => {
                LocalReply::new(StatusCode::NOT_FOUND, Bytes::new(), "missing_path_rejected")
            }
            Self::NoPath => LocalReply::new(StatusCode::NOT_FOUND, Bytes::new(), "absolute_path_rejected"),
            Self::InvalidPath => LocalReply::new(StatusCode::BAD_REQUEST, Bytes::new(), DETAILS).closing(),
            Self::Redirect => {
                let mut reply = LocalReply::new(StatusCode::TEMPORARY_REDIRECT, Bytes::new(), DETAILS);
                reply.headers.set_sanitized(HeaderId::Location, head.path());
                reply
            }
        }
    }
}

impl Normalization {
    /// As the connection manager is configured.
    pub fn build(config: &HttpConnectionManager) -> Self {
        Self {
            normalize_path: config.normalize_path,
            merge_slashes: config.merge_slashes,
            escaped_slashes: config.path_with_escaped_slashes_action,
            strip_port: config.strip_port,
            strip_trailing_host_dot: config.strip_trailing_host_dot,
        }
    }

    /// Normalises path and host. `port`: the listener's.
    pub fn apply(&self, head: &mut RequestHead, port: Option<u16>) -> Result<(), Refusal> {
        let is_connect = head.method == Method::Connect && head.path().is_empty();
        if !is_connect {
            if head.path().first() != Some(&b'/') {
                return Err(Refusal::NoPath);
            }
            self.path(head)?;
        }
        self.host(head, port);
        Ok(())
    }

    fn path(&self, head: &mut RequestHead) -> Result<(), Refusal> {
        // CVE-2021-32779: whoever reads the path behind us may cut it at the fragment, or not.
        if memchr::memchr(b'#', head.path()).is_some() {
            return Err(Refusal::InvalidPath);
        }
        let mut redirect = false;
        if self.escaped_slashes != EscapedSlashes::KeepUnchanged
            && let Some(path) = unescape_slashes(head.path_only())
        {
            // The log of a refused request shows what it would have asked for, as with Envoy.
            set_path_only(head, &path)?;
            match self.escaped_slashes {
                EscapedSlashes::RejectRequest => return Err(Refusal::InvalidPath),
                action => redirect = action == EscapedSlashes::UnescapeAndRedirect,
            }
        }
        if self.normalize_path && is_unusual(head.path_only()) {
            let path = canonical(&strip_dot_parameters(head.path_only())).ok_or(Refusal::InvalidPath)?;
            set_path_only(head, &path)?;
        }
        if self.merge_slashes
            && let Some(path) = merge_slashes(head.path_only())
        {
            set_path_only(head, &path)?;
        }
        if redirect { Err(Refusal::Redirect) } else { Ok(()) }
    }

    fn host(&self, head: &mut RequestHead, port: Option<u16>) {
        if self.strip_trailing_host_dot
            && let Some(host) = without_trailing_dot(head.authority())
        {
            let _ = head.set_authority(&host);
        }
        if self.strip_port == StripPort::None {
            return;
        }
        let authority = head.authority();
        let Some((host, text)) = crate::router::virtual_hosts::port_start(authority)
            .and_then(|start| Some((authority.get(..start)?, authority.get(start + 1..)?)))
        else {
            return;
        };
        let number: Option<u32> = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        let strip = match self.strip_port {
            StripPort::Any => number.is_some(),
            _ => number.is_some() && number == port.map(u32::from),
        };
        if strip {
            let host = host.to_vec();
            let _ = head.set_authority(&host);
        }
    }
}

/// Replaces the path and keeps the query.
fn set_path_only(head: &mut RequestHead, path: &[u8]) -> Result<(), Refusal> {
    let query = head.path().get(head.path_only().len()..).unwrap_or_default();
    let new = [path, query].concat();
    head.set_path(&new).map_err(|_| Refusal::InvalidPath)
}

/// The path with `%2F` and `%5C` decoded; `None` when it has none.
fn unescape_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = path;
    let mut found = false;
    while let Some(at) = memchr::memchr(b'%', rest) {
        let (before, escape) = rest.split_at_checked(at)?;
        out.extend_from_slice(before);
        let decoded = match escape {
            [b'%', b'2', b'F' | b'f', ..] => b'/',
            [b'%', b'5', b'C' | b'c', ..] => b'\\',
            _ => {
                out.push(b'%');
                rest = escape.get(1..).unwrap_or_default();
                continue;
            }
        };
        found = true;
        out.push(decoded);
        rest = escape.get(3..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    found.then_some(out)
}

/// The path with each run of slashes as one; `None` when that changes nothing.
fn merge_slashes(path: &[u8]) -> Option<Vec<u8>> {
    memchr::memmem::find(path, b"//")?;
    let mut out = Vec::with_capacity(path.len());
    for c in path {
        if *c != b'/' || out.last() != Some(&b'/') {
            out.push(*c);
        }
    }
    if out == b"/" {
        // Compat: the slash at the beginning and the one at the end are kept, even where nothing is between them.
        out.push(b'/');
    }
    Some(out)
}

/// Whether the path may change when it is normalised: most do not.
fn is_unusual(path: &[u8]) -> bool {
    let special = path.iter().fold(false, |found, c| found | (class(*c) != Class::Pass));
    special || memchr::memmem::find(path, b"/.").is_some()
}

/// `/..;x/` and `/.;x/` without the parameters, so that they count as the dot segments that some servers see in them.
fn strip_dot_parameters(path: &[u8]) -> Vec<u8> {
    if memchr::memmem::find(path, b".;").is_none() {
        return path.to_vec();
    }
    let segments = path.split(|c| *c == b'/').map(|segment| match segment {
        [b'.', b'.', b';', ..] => &b".."[..],
        [b'.', b';', ..] => &b"."[..],
        other => other,
    });
    segments.collect::<Vec<_>>().join(&b'/')
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Stays as it is.
    Pass,
    /// Is written as `%XX`.
    Escape,
    /// A backslash or a percent sign.
    Special,
}

/// How octets of a path are written in the form that the WHATWG URL standard gives them.
fn class(c: u8) -> Class {
    match c {
        b'\\' | b'%' => Class::Special,
        0..=b' ' | b'"' | b'#' | b'<' | b'>' | b'?' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x7f.. => Class::Escape,
        _ => Class::Pass,
    }
}

/// Dot segments removed (RFC 3986 §5.2.4), backslashes as slashes, letters, digits and `-._~` unescaped, and what
/// cannot stand in a path escaped. `None` for a path that cannot be: an escaped NUL, octets that are not UTF-8.
fn canonical(path: &[u8]) -> Option<Vec<u8>> {
    if std::str::from_utf8(path).is_err() {
        return None;
    }
    let mut out = Vec::with_capacity(path.len() + 1);
    let mut rest = path;
    if !matches!(path.first(), Some(b'/' | b'\\')) {
        out.push(b'/');
    }
    while let Some((first, behind)) = rest.split_first() {
        let dot = dot_len(rest);
        if dot > 0 {
            let after = rest.get(dot..).unwrap_or_default();
            rest = match out.last() {
                Some(b'/') => dot_segment(after, &mut out),
                _ => {
                    out.push(b'.');
                    after
                }
            };
            continue;
        }
        rest = behind;
        match (*first, class(*first)) {
            (b'\\', _) => out.push(b'/'),
            (b'%', _) => rest = escape(behind, &mut out)?,
            (c, Class::Escape) => push_escaped(c, &mut out),
            (c, _) => out.push(c),
        }
    }
    Some(out)
}

/// Octets of a dot, escaped or not, at the beginning of the text; 0 when there is none.
fn dot_len(text: &[u8]) -> usize {
    match text {
        [b'.', ..] => 1,
        [b'%', b'2', b'e' | b'E', ..] => 3,
        _ => 0,
    }
}

/// What follows a dot at the beginning of a segment decides what that is. Gives what is left to read.
fn dot_segment<'a>(after: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let end_of_segment = |text: &'a [u8]| match text {
        [] => Some(text),
        [b'/' | b'\\', rest @ ..] => Some(rest),
        _ => None,
    };
    if let Some(rest) = end_of_segment(after) {
        return rest;
    }
    let second = dot_len(after);
    if second > 0
        && let Some(rest) = after.get(second..).and_then(end_of_segment)
    {
        // Without its slash, back behind the slash before; the first one stays.
        out.pop();
        let slash = memchr::memrchr(b'/', out).map_or(0, |at| at + 1);
        out.truncate(slash);
        if out.is_empty() {
            out.push(b'/');
        }
        return rest;
    }
    out.push(b'.');
    after
}

/// An escape, of which the percent sign was read. Gives what is left to read.
fn escape<'a>(behind: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let digit = |at: usize| behind.get(at).and_then(|c| char::from(*c).to_digit(16));
    let (Some(high), Some(low)) = (digit(0), digit(1)) else {
        out.push(b'%');
        return Some(behind);
    };
    let (escape, rest) = behind.split_at_checked(2)?;
    match u8::try_from(high * 16 + low).ok()? {
        0 => return None,
        c if c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'~') => out.push(c),
        _ => {
            out.push(b'%');
            out.extend_from_slice(escape);
        }
    }
    Some(rest)
}

fn push_escaped(c: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend([b'%', DIGITS[usize::from(c >> 4)], DIGITS[usize::from(c & 15)]]);
}

/// `host.` and `host.:port` without the dot; `None` when there is none.
fn without_trailing_dot(authority: &[u8]) -> Option<Vec<u8>> {
    let dot = memchr::memrchr(b'.', authority)?;
    match authority.get(dot + 1) {
        None | Some(b':') => Some([authority.get(..dot)?, authority.get(dot + 1..)?].concat()),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Normalization = Normalization {
        normalize_path: true,
        merge_slashes: true,
        escaped_slashes: EscapedSlashes::UnescapeAndForward,
        strip_port: StripPort::None,
        strip_trailing_host_dot: false,
    };

    fn path(rules: Normalization, path: &str) -> Result<String, (Refusal, String)> {
        let mut head = RequestHead::new(Method::Get, "h", path).unwrap();
        let outcome = rules.apply(&mut head, None);
        let path = String::from_utf8(head.path().to_vec()).unwrap();
        outcome.map(|()| path.clone()).map_err(|refusal| (refusal, path))
    }

    /// What Envoy 1.40 makes of these with `normalize_path`.
    #[test]
    fn as_envoy_normalizes() {
        let rules = Normalization { merge_slashes: false, escaped_slashes: EscapedSlashes::KeepUnchanged, ..ALL };
        for (from, to) in [
            ("/a/..;x/b", "/b"),
            ("/a/.;x/b", "/a/b"),
            ("/..", "/"),
            ("/.", "/"),
            ("/a/..", "/"),
            ("/a/b/../..", "/"),
            ("/a/%2E%2e/b", "/b"),
            ("/a/%2e./b", "/b"),
            ("/a/.%2e", "/"),
            ("/a/...", "/a/..."),
            ("/a/..b", "/a/..b"),
            ("/a/.b", "/a/.b"),
            ("/a//../b", "/a/b"),
            ("/a//b", "/a//b"),
            ("//../a", "/a"),
            ("/a\\..\\b", "/b"),
            ("/a/..\\b", "/b"),
            ("/%", "/%"),
            ("/%4", "/%4"),
            ("/%4g", "/%4g"),
            ("/a/.?x/..", "/a/?x/.."),
            ("/a/%5c../b", "/a/%5c../b"),
            ("/a%2f../b", "/a%2f../b"),
            ("/;a", "/;a"),
            ("/a;b/..;/c", "/c"),
            ("/a%C3%A4%ff", "/a%C3%A4%ff"),
            ("/a/b/.%2", "/a/b/.%2"),
            ("/..a/../b/", "/b/"),
            ("/a/%2e", "/a/"),
            ("/?/..", "/?/.."),
            ("/a/../../../b/../", "/"),
            ("/a|b", "/a%7Cb"),
            ("/a^b", "/a%5Eb"),
            ("/%7E%7e", "/~~"),
            ("/%2F%2f", "/%2F%2f"),
            ("/%41%6d%2A%7e?q=%41/../b//c", "/Am%2A~?q=%41/../b//c"),
            ("/a\"<>`{}b", "/a%22%3C%3E%60%7B%7Db"),
            ("/ä", "/%C3%A4"),
        ] {
            assert_eq!(path(rules, from).as_deref(), Ok(to), "{from}");
        }
        for refused in ["/%00", "/a?b/../c#", "/a#b"] {
            assert_eq!(path(rules, refused).unwrap_err().0, Refusal::InvalidPath, "{refused}");
        }
    }

    /// Every octet that Envoy 1.40 was seen to change, raw and escaped.
    #[test]
    fn each_octet() {
        let rules = Normalization { merge_slashes: false, escaped_slashes: EscapedSlashes::KeepUnchanged, ..ALL };
        for c in b'!'..0x7f {
            let raw = char::from(c);
            let expected = match raw {
                '#' => continue,
                '?' => "/a?b".to_owned(),
                '\\' => "/a/b".to_owned(),
                '"' | '<' | '>' | '^' | '`' | '{' | '|' | '}' => format!("/a%{c:02X}b"),
                _ => format!("/a{raw}b"),
            };
            assert_eq!(path(rules, &format!("/a{raw}b")), Ok(expected));
        }
        for c in 1..=255u8 {
            let kept = !(c.is_ascii_alphanumeric() || b"-._~".contains(&c));
            let expected = if kept { format!("/a%{c:02x}b") } else { format!("/a{}b", char::from(c)) };
            assert_eq!(path(rules, &format!("/a%{c:02x}b")), Ok(expected));
        }
    }

    #[test]
    fn all_together_as_envoy() {
        for (from, to) in [
            ("/a/../admin", "/admin"),
            ("//admin", "/admin"),
            ("/x%2f..%2Fadmin", "/admin"),
            ("/%2e%2e/admin", "/admin"),
            ("/x\\..\\admin", "/admin"),
            ("/x%5c..%5cadmin", "/admin"),
            ("/../../admin", "/admin"),
            ("/b/.", "/b/"),
            ("/a///b//?x=//%2f", "/a/b/?x=//%2f"),
            ("/%zz", "/%zz"),
            ("//", "//"),
            ("///", "//"),
        ] {
            assert_eq!(path(ALL, from).as_deref(), Ok(to), "{from}");
        }
    }

    #[test]
    fn escaped_slashes() {
        let rules = |escaped_slashes| Normalization { escaped_slashes, ..ALL };
        let redirect = path(rules(EscapedSlashes::UnescapeAndRedirect), "/x%2f..%2Fadmin?q");
        assert_eq!(redirect, Err((Refusal::Redirect, "/admin?q".into())));
        assert_eq!(path(rules(EscapedSlashes::UnescapeAndRedirect), "/x?%2f").as_deref(), Ok("/x?%2f"));
        let refused = path(rules(EscapedSlashes::RejectRequest), "/a%2Fb");
        assert_eq!(refused, Err((Refusal::InvalidPath, "/a/b".into())));
        assert_eq!(path(rules(EscapedSlashes::KeepUnchanged), "/a%2Fb").as_deref(), Ok("/a%2Fb"));
        let head = RequestHead::new(Method::Get, "h", "/new?q").unwrap();
        let reply = Refusal::Redirect.reply(&head);
        assert_eq!((reply.status.as_u16(), reply.headers.get("location")), (307, Some(&b"/new?q"[..])));
    }

    #[test]
    fn nothing_is_changed_unless_asked_for() {
        let off = Normalization {
            normalize_path: false,
            merge_slashes: false,
            escaped_slashes: EscapedSlashes::KeepUnchanged,
            ..ALL
        };
        for kept in ["/a/../admin", "//admin", "/x%2f..%2Fadmin", "/x\\..\\admin", "/%00", "/a\"b", "/a.b"] {
            assert_eq!(path(off, kept).as_deref(), Ok(kept));
        }
        for (refused, details) in
            [("*", "absolute_path_rejected"), ("?x", "absolute_path_rejected"), ("", "missing_path_rejected")]
        {
            let mut head = RequestHead::new(Method::Options, "h", refused).unwrap();
            let refusal = off.apply(&mut head, None).unwrap_err();
            assert_eq!((refusal.reply(&head).status.as_u16(), &*refusal.reply(&head).details), (404, details));
        }
        let mut connect = RequestHead::new(Method::Connect, "h:1", "").unwrap();
        assert_eq!(off.apply(&mut connect, None), Ok(()));
    }

    #[test]
    fn hosts() {
        let host = |strip_port, strip_trailing_host_dot, authority: &str| {
            let mut head = RequestHead::new(Method::Get, authority, "/").unwrap();
            let rules = Normalization { strip_port, strip_trailing_host_dot, ..ALL };
            rules.apply(&mut head, Some(8080)).unwrap();
            String::from_utf8(head.authority().to_vec()).unwrap()
        };
        for (authority, any, matching) in [
            ("a", "a", "a"),
            ("a:80", "a", "a:80"),
            ("a:8080", "a", "a"),
            ("[::1]:8080", "[::1]", "[::1]"),
            ("[::1]", "[::1]", "[::1]"),
            ("a:x", "a:x", "a:x"),
            ("a:", "a:", "a:"),
        ] {
            assert_eq!(host(StripPort::Any, false, authority), any);
            assert_eq!(host(StripPort::Matching, false, authority), matching);
            assert_eq!(host(StripPort::None, false, authority), authority);
        }
        for (authority, stripped) in [("a.", "a"), ("a.b.:80", "a.b:80"), ("a.b", "a.b"), ("a..", "a."), ("a", "a")] {
            assert_eq!(host(StripPort::None, true, authority), stripped);
        }
        assert_eq!(host(StripPort::Any, true, "a.:80"), "a");
    }
}
