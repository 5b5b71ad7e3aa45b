//! A `referer` that is no URL, or comes twice, goes no further, as in Envoy.

use sota_plugin::http::{HeaderId, RequestHead};

/// Removes the field unless it is valid.
pub(super) fn sanitize(head: &mut RequestHead) {
    let mut values = head.headers.get_all(HeaderId::Referer);
    let Some(value) = values.next() else { return };
    let is_valid = values.next().is_none() && is_valid(value);
    drop(values);
    if !is_valid {
        head.headers.remove(HeaderId::Referer);
    }
}

/// An absolute URL or a partial one, without user information and fragment (RFC 9110 §10.1.3).
fn is_valid(value: &[u8]) -> bool {
    let end = memchr::memmem::find(value, b"://");
    match end.and_then(|end| Some((value.get(..end)?, value.get(end + 3..)?))) {
        Some((scheme, rest)) if scheme.first().is_some_and(u8::is_ascii_alphabetic) && is_plain(scheme) => {
            let end = rest.iter().position(|c| matches!(c, b'/' | b'?' | b'#')).unwrap_or(rest.len());
            let host = rest.get(..end).unwrap_or_default();
            let is_clean = |c: &u8| *c > b' ' && *c != 0x7f && *c != b'#';
            !host.is_empty() && !host.contains(&b'@') && has_good_port(host) && rest.iter().all(is_clean)
        }
        _ => is_partial(value),
    }
}

fn is_plain(scheme: &[u8]) -> bool {
    scheme.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.'))
}

fn has_good_port(host: &[u8]) -> bool {
    let start = crate::router::virtual_hosts::port_start(host);
    let port = start.and_then(|start| host.get(start + 1..)).unwrap_or_default();
    port.iter().all(u8::is_ascii_digit)
}

/// A reference without a scheme: its first segment has no colon (RFC 3986 §4.2).
fn is_partial(value: &[u8]) -> bool {
    let first = value.split(|c| *c == b'/').next().unwrap_or_default();
    !first.contains(&b':') && value.iter().all(|c| c.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_and_not() {
        // As Envoy 1.40 judges them.
        for valid in [
            "http://a/b",
            "http://h",
            "/a/b:c",
            "",
            "//x",
            "ftp://h:80/?",
            "h2ttp://h/",
            "http://[::1]:80/",
            "https://a.example/b?c",
            "a/b",
        ] {
            assert!(is_valid(valid.as_bytes()), "{valid}");
        }
        for invalid in
            ["a:b", "/a#b", "http://u@h/", "about:blank", "http://h/#f", "/a\"b", "http://h:x/", "http://", "http:///a"]
        {
            assert!(!is_valid(invalid.as_bytes()), "{invalid}");
        }
    }
}
