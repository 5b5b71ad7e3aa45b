//! Whether a connection lives on, and which fields belong to it rather than to the message (RFC 9110 §7.6.1).

use super::Http1Error;
use sota_plugin::http::{AsHeaderName, HeaderId, Headers, NameRef, Protocol};

/// More nominated fields than this are refused, as Envoy does: each costs a pass over the fields.
const MAX_NOMINATED: usize = 10;

/// What nearly every `Connection` says.
const KEEP_ALIVE: &[u8] = b"keep-alive";

/// What `Connection` (and the old `Proxy-Connection`) say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionTokens {
    /// `close`
    pub close: bool,
    /// `keep-alive`
    pub keep_alive: bool,
    /// `upgrade`
    pub upgrade: bool,
}

impl ConnectionTokens {
    /// Whether the peer wants the connection to go on after this message (RFC 9112 §9.3).
    pub const fn persists(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Http10 => self.keep_alive && !self.close,
            _ => !self.close,
        }
    }
}

/// Reads `Connection` and `Proxy-Connection`.
pub fn connection_tokens(headers: &Headers) -> ConnectionTokens {
    let mut found = ConnectionTokens::default();
    if !headers.contains(HeaderId::ProxyConnection) {
        match headers.get_only(HeaderId::Connection) {
            None if !headers.contains(HeaderId::Connection) => return found,
            Some(KEEP_ALIVE) => return ConnectionTokens { keep_alive: true, ..found },
            _ => {}
        }
    }
    for token in tokens(headers, HeaderId::Connection) {
        found.close |= token.eq_ignore_ascii_case(b"close");
        found.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
        found.upgrade |= token.eq_ignore_ascii_case(b"upgrade");
    }
    for token in tokens(headers, HeaderId::ProxyConnection) {
        found.close |= token.eq_ignore_ascii_case(b"close");
        found.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
    }
    found
}

/// Removes what must not be forwarded: `Connection` and every field it nominates, `Keep-Alive`, `Proxy-Connection`,
/// `Transfer-Encoding`, `Upgrade`, and `TE` down to `trailers`. With `keep_upgrade` the message goes on as an
/// upgrade: `Upgrade` stays, and `Connection: upgrade`.
///
/// A nomination that would hide where a request is from (`x-forwarded-for`, `-host`, `-proto`) is an error, as in
/// Envoy. `Content-Length` cannot be nominated away.
pub fn remove_hop_by_hop(headers: &mut Headers, keep_upgrade: bool) -> Result<(), Http1Error> {
    let upgrade = keep_upgrade && headers.contains(HeaderId::Upgrade);
    let te_trailers = headers.contains(HeaderId::Te)
        && tokens(headers, HeaderId::Te).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
    if headers.contains(HeaderId::Connection) {
        if headers.get_only(HeaderId::Connection) != Some(KEEP_ALIVE) {
            remove_nominated(headers)?;
        }
        if upgrade {
            headers.set_sanitized(HeaderId::Connection, "upgrade");
        } else {
            headers.remove(HeaderId::Connection);
        }
    }
    for id in [HeaderId::KeepAlive, HeaderId::ProxyConnection, HeaderId::TransferEncoding] {
        headers.remove(id);
    }
    if !upgrade {
        headers.remove(HeaderId::Upgrade);
    }
    if te_trailers {
        headers.set_sanitized(HeaderId::Te, "trailers");
    } else {
        headers.remove(HeaderId::Te);
    }
    Ok(())
}

fn remove_nominated(headers: &mut Headers) -> Result<(), Http1Error> {
    // The usual `keep-alive` and `close` nominate nothing that is not removed anyway: no memory for them.
    let mut nominated: Vec<Vec<u8>> = Vec::new();
    for token in tokens(headers, HeaderId::Connection) {
        match token.as_name() {
            NameRef::Known(HeaderId::XForwardedFor | HeaderId::XForwardedHost | HeaderId::XForwardedProto) => {
                return Err(Http1Error::ConnectionNomination);
            }
            NameRef::Known(
                HeaderId::KeepAlive
                | HeaderId::Upgrade
                | HeaderId::Te
                | HeaderId::Connection
                | HeaderId::TransferEncoding
                | HeaderId::ContentLength
                | HeaderId::Host,
            ) => {}
            NameRef::Other(name) if name.eq_ignore_ascii_case(b"close") => {}
            NameRef::Other(name) if memchr::memchr(b':', name).is_some() => {
                return Err(Http1Error::ConnectionNomination);
            }
            _ if nominated.len() >= MAX_NOMINATED => return Err(Http1Error::ConnectionNomination),
            _ => nominated.push(token.to_vec()),
        }
    }
    for name in nominated {
        headers.remove(&name[..]);
    }
    Ok(())
}

/// The elements of a list field, empty ones left out (RFC 9110 §5.6.1).
fn tokens(headers: &Headers, name: HeaderId) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(name)
        .flat_map(|value| value.split(|c| *c == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(headers: &Headers) -> String {
        let mut out = Vec::new();
        headers.write_lines(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn removed(fields: &[(&str, &str)], keep_upgrade: bool) -> Result<String, Http1Error> {
        let mut headers: Headers = fields.iter().copied().collect();
        remove_hop_by_hop(&mut headers, keep_upgrade).map(|()| text(&headers))
    }

    #[test]
    fn what_belongs_to_the_connection_goes() {
        let fields = [
            ("connection", "keep-alive, X-A ,,close"),
            ("x-a", "1"),
            ("connection", "x-b"),
            ("X-B", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, Trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-c", "3"),
        ];
        assert_eq!(removed(&fields, false).unwrap(), "te: trailers\r\nx-c: 3\r\n");
        assert_eq!(removed(&[("te", "gzip")], false).unwrap(), "");
        assert_eq!(removed(&[("te", "deflate, gzip;q=0.5")], false).unwrap(), "");
    }

    #[test]
    fn an_upgrade_keeps_its_two_fields() {
        let fields = [("connection", "Upgrade, x-a"), ("x-a", "1"), ("upgrade", "websocket"), ("te", "x")];
        assert_eq!(removed(&fields, true).unwrap(), "connection: upgrade\r\nupgrade: websocket\r\n");
        assert_eq!(removed(&[("connection", "upgrade")], true).unwrap(), "");
    }

    #[test]
    fn nominations_that_are_refused_or_ignored() {
        for name in ["x-forwarded-for", "X-Forwarded-Host", "x-forwarded-proto", ":path"] {
            let fields = [("connection", name), ("x-forwarded-for", "1")];
            assert_eq!(removed(&fields, false), Err(Http1Error::ConnectionNomination), "{name}");
        }
        let many = (0..11).map(|n| format!("x-{n}")).collect::<Vec<_>>().join(",");
        assert_eq!(removed(&[("connection", &many)], false), Err(Http1Error::ConnectionNomination));
        let fields = [("connection", "content-length, host"), ("content-length", "3")];
        assert_eq!(removed(&fields, false).unwrap(), "content-length: 3\r\n");
    }

    #[test]
    fn persistence() {
        let persists = |protocol, value: &str| {
            let headers: Headers = [("connection", value)].into_iter().collect();
            connection_tokens(&headers).persists(protocol)
        };
        assert!(persists(Protocol::Http11, ""));
        assert!(persists(Protocol::Http11, "keep-alive"));
        assert!(!persists(Protocol::Http11, "x, CLOSE"));
        assert!(!persists(Protocol::Http11, "close, keep-alive"));
        assert!(!persists(Protocol::Http10, ""));
        assert!(persists(Protocol::Http10, "Keep-Alive"));
        assert!(!persists(Protocol::Http10, "keep-alive, close"));
        let old: Headers = [("proxy-connection", "close")].into_iter().collect();
        assert!(!connection_tokens(&old).persists(Protocol::Http11));
    }
}
