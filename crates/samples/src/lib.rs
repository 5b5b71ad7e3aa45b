//! What the demo programs share: the ways of Go's standard library that their output is bound to.
//!
//! The programs stand in `src/bin/`; `make sample` puts them into `cmd/sample/`.

use std::fmt::Write;

/// The form in which Go's `net/http` keeps a header name: `x-request-id` becomes `X-Request-Id`.
///
/// A name with a byte outside of RFC 9110's token set stays as it is, as `textproto.CanonicalMIMEHeaderKey` does.
pub fn canonical_header_name(name: &str) -> String {
    if !is_token(name) {
        return name.to_owned();
    }
    let mut upper = true;
    name.chars()
        .map(|c| {
            let shown = if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            upper = c == '-';
            shown
        })
        .collect()
}

/// Whether `name` is a token of RFC 9110 §5.6.2, which every field name must be.
pub fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Writes `text` as a JSON string the way Go's `encoding/json` does: `<`, `>`, `&`, U+2028 and U+2029 escaped, and each
/// byte that is not UTF-8 as `\ufffd`.
pub fn push_json_string(out: &mut String, text: &[u8]) {
    out.push('"');
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    // Writing to a String can't fail.
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        for _ in chunk.invalid() {
            out.push_str("\\ufffd");
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &[u8]) -> String {
        let mut out = String::new();
        push_json_string(&mut out, text);
        out
    }

    #[test]
    fn header_names_are_canonical() {
        for (sent, kept) in [
            ("host", "Host"),
            ("x-request-id", "X-Request-Id"),
            ("X-B3-TRACEID", "X-B3-Traceid"),
            ("a--b", "A--B"),
            ("bad name", "bad name"),
            ("", ""),
        ] {
            assert_eq!(canonical_header_name(sent), kept);
        }
    }

    #[test]
    fn strings_are_escaped_as_go_does() {
        assert_eq!(quoted(b"plain"), r#""plain""#);
        assert_eq!(quoted(b"<a href=\"x\">&</a>"), r#""\u003ca href=\"x\"\u003e\u0026\u003c/a\u003e""#);
        assert_eq!(quoted(b"\x00\x08\x0c\n\r\t\x1f\x7f\\"), "\"\\u0000\\b\\f\\n\\r\\t\\u001f\x7f\\\\\"");
        assert_eq!(quoted("你\u{2028}".as_bytes()), "\"你\\u2028\"");
        // A truncated sequence counts byte by byte.
        assert_eq!(quoted(b"a\xe4\xbdb\xff"), r#""a\ufffd\ufffdb\ufffd""#);
    }
}
