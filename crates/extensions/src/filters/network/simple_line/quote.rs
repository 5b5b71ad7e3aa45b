//! Text as Go's `strconv.Quote` writes it.

use std::fmt::Write;

/// Between quotation marks: printable characters as they are, the others escaped, octets that are no UTF-8 as `\xNN`.
pub(super) fn quote(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for chunk in text.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push_char(&mut out, c));
        for octet in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(out, "\\x{octet:02x}");
        }
    }
    out.push('"');
    out
}

fn push_char(out: &mut String, c: char) {
    let short = match c {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\u{7}' => "\\a",
        '\u{8}' => "\\b",
        '\u{c}' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\u{b}' => "\\v",
        _ => "",
    };
    let code = u32::from(c);
    let _ = match code {
        _ if !short.is_empty() => write!(out, "{short}"),
        ..0x20 | 0x7f => write!(out, "\\x{code:02x}"),
        0x20..0x7f => write!(out, "{c}"),
        _ if is_printable(c) => write!(out, "{c}"),
        ..0x1_0000 => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
}

/// Go's printable characters are letters, marks, numbers, punctuation and symbols; of spaces only the ASCII one. The
/// standard library escapes in `Debug` what is not printable, and extends graphemes, which Go prints.
fn is_printable(c: char) -> bool {
    let is_space_or_control = c.is_whitespace() || c.is_control();
    !is_space_or_control && (c.escape_debug().count() == 1 || is_mark(c))
}

/// Combining marks: `escape_debug` escapes those that extend a grapheme.
fn is_mark(c: char) -> bool {
    matches!(u32::from(c), 0x300..=0x36f | 0x483..=0x489 | 0x591..=0x5bd | 0x610..=0x61a | 0x64b..=0x65f
        | 0x900..=0x903 | 0x1ab0..=0x1aff | 0x1dc0..=0x1dff | 0x20d0..=0x20f0 | 0x3099..=0x309a | 0xfe00..=0xfe0f
        | 0xfe20..=0xfe2f)
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn as_go_quotes() {
        for (text, expected) in [
            (&b"plain"[..], r#""plain""#),
            (b"\"\\", r#""\"\\""#),
            (b"\x07\x08\x0c\n\r\t\x0b\0\x1f\x7f", r#""\a\b\f\n\r\t\v\x00\x1f\x7f""#),
            ("ä你😀".as_bytes(), "\"ä你😀\""),
            ("\u{a0}\u{200b}\u{feff}\u{e000}\u{10ffff}".as_bytes(), r#""\u00a0\u200b\ufeff\ue000\U0010ffff""#),
            ("e\u{301}".as_bytes(), "\"e\u{301}\""),
            (b"\xff\xc3(", r#""\xff\xc3(""#),
        ] {
            assert_eq!(quote(text), expected);
        }
    }
}
