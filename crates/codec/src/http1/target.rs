//! Request targets (RFC 9112 §3.2) and authorities (RFC 3986 §3.2).

use super::Http1Error;
use sota_plugin::http::{Method, Scheme};

/// A request target, taken apart. The parts are slices of the request line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// `/path?query`
    Origin(&'a [u8]),
    /// `http://authority/path?query`. The rest may lack its slash: `http://a?b`.
    Absolute { scheme: Scheme, authority: &'a [u8], rest: &'a [u8] },
    /// `host:port`, for CONNECT
    Authority(&'a [u8]),
    /// `*`, for OPTIONS
    Asterisk,
}

/// Takes a target apart and checks its characters: visible ASCII only, which is what Envoy takes.
pub(super) fn parse_target<'a>(method: &Method, target: &'a [u8]) -> Result<Target<'a>, Http1Error> {
    let (visible, fragment) =
        target.iter().fold((true, false), |(ok, hash), c| (ok & (0x21..=0x7e).contains(c), hash | (*c == b'#')));
    if !visible || target.is_empty() {
        return Err(Http1Error::Target);
    }
    if fragment {
        return Err(Http1Error::Fragment);
    }
    if *method == Method::Connect {
        return connect_target(target);
    }
    match target {
        [b'/', ..] => Ok(Target::Origin(target)),
        b"*" if *method == Method::Options => Ok(Target::Asterisk),
        _ => absolute_target(target),
    }
}

fn connect_target(target: &[u8]) -> Result<Target<'_>, Http1Error> {
    match split_port(target) {
        Some((host, Some(port))) if !host.is_empty() && !port.is_empty() && is_valid_authority(target) => {
            Ok(Target::Authority(target))
        }
        _ => Err(Http1Error::Target),
    }
}

fn absolute_target(target: &[u8]) -> Result<Target<'_>, Http1Error> {
    let colon = memchr::memchr(b':', target).ok_or(Http1Error::Target)?;
    let (scheme, rest) = target.split_at_checked(colon).ok_or(Http1Error::Target)?;
    let rest = rest.strip_prefix(b"://").ok_or(Http1Error::Target)?;
    let scheme = Scheme::from_bytes(scheme).ok_or(Http1Error::Scheme)?;
    let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at_checked(end).ok_or(Http1Error::Target)?;
    if authority.is_empty() {
        return Err(Http1Error::Target);
    }
    if !is_valid_authority(authority) {
        return Err(Http1Error::Authority);
    }
    Ok(Target::Absolute { scheme, authority, rest })
}

/// `host [ ":" port ]` without user information (RFC 9110 §4.2.4 calls that an attack). Empty is valid: a client
/// whose URI has no authority sends an empty Host.
pub(crate) fn is_valid_authority(authority: &[u8]) -> bool {
    let Some((host, port)) = split_port(authority) else { return false };
    let port_ok = port.is_none_or(|port| port.iter().all(u8::is_ascii_digit));
    let host_ok = match host.strip_prefix(b"[") {
        Some(literal) => literal.strip_suffix(b"]").is_some_and(|inner| {
            !inner.is_empty() && inner.iter().all(|c| c.is_ascii_hexdigit() || matches!(c, b':' | b'.'))
        }),
        None => host.iter().all(|c| is_reg_name_octet(*c)),
    };
    port_ok && host_ok && !(host.is_empty() && port.is_some())
}

/// Host and, behind the colon, port. `None` when a bracket is not closed or followed by something else than a port.
fn split_port(authority: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let host_end = match authority.first() {
        Some(b'[') => memchr::memchr(b']', authority)? + 1,
        _ => memchr::memchr(b':', authority).unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at_checked(host_end)?;
    match rest {
        [] => Some((host, None)),
        [b':', port @ ..] => Some((host, Some(port))),
        _ => None,
    }
}

/// RFC 3986 §3.2.2 reg-name: unreserved, percent-encoded, sub-delims.
const fn is_reg_name_octet(c: u8) -> bool {
    c < 128 && REG_NAME >> c & 1 != 0
}

/// A bit for each of them.
const REG_NAME: u128 = {
    let (mut set, mut c) = (0, 0);
    while c < 128_u8 {
        let is_sub_delim = matches!(c, b'!' | b'$' | b'&'..=b',' | b';' | b'=');
        if c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'~' | b'%') || is_sub_delim {
            set |= 1_u128 << c;
        }
        c += 1;
    }
    set
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for good in
            ["", "a", "a.b", "a:80", "a:", "127.0.0.1:1", "[::1]", "[::1]:80", "a_b", "a%20b", "[::ffff:1.2.3.4]:9"]
        {
            assert!(is_valid_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "u@a", "a b", "a/b", "a:x", "a:1:2", "[::1", "[]", "[::1]x", "[g::]", "::1", ":80", "a\\b", "a?b", "a#b",
            "ä", "a\"b", "<a>",
        ] {
            assert!(!is_valid_authority(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn targets() {
        use Http1Error as E;
        let t = |method: &Method, target: &'static str| parse_target(method, target.as_bytes());
        let get = &Method::Get;
        assert_eq!(t(get, "/a?b"), Ok(Target::Origin(b"/a?b")));
        assert_eq!(t(get, "//a"), Ok(Target::Origin(b"//a")));
        assert_eq!(t(get, "/<>\"`{}|\\^"), Ok(Target::Origin(b"/<>\"`{}|\\^")));
        assert_eq!(t(&Method::Options, "*"), Ok(Target::Asterisk));
        assert_eq!(t(&Method::Connect, "a:80"), Ok(Target::Authority(b"a:80")));
        assert_eq!(t(&Method::Connect, "[::1]:80"), Ok(Target::Authority(b"[::1]:80")));
        let absolute = |authority, rest| Ok(Target::Absolute { scheme: Scheme::Http, authority, rest });
        assert_eq!(t(get, "http://a/b?c"), absolute(b"a", b"/b?c"));
        assert_eq!(t(get, "HTTP://a"), absolute(b"a", b""));
        assert_eq!(t(get, "http://a?b"), absolute(b"a", b"?b"));
        for (method, target, error) in [
            (get, "", E::Target),
            (get, "*", E::Target),
            (get, "*x", E::Target),
            (get, "a", E::Target),
            (get, "a:80", E::Target),
            (get, "http:///a", E::Target),
            (get, "http:/a", E::Target),
            (get, "/a b", E::Target),
            (get, "/ä", E::Target),
            (get, "/a#b", E::Fragment),
            (get, "http://a/#b", E::Fragment),
            (get, "ftp://a/", E::Scheme),
            (get, "://a/", E::Scheme),
            (get, "http://u:p@a/", E::Authority),
            (get, "http://a\\b/", E::Authority),
            (&Method::Connect, "a", E::Target),
            (&Method::Connect, ":80", E::Target),
            (&Method::Connect, "a:", E::Target),
            (&Method::Connect, "/a", E::Target),
            (&Method::Connect, "http://a:80/", E::Target),
        ] {
            assert_eq!(t(method, target), Err(error), "{method} {target}");
        }
    }
}
