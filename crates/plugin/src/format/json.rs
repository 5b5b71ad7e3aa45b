//! JSON as Envoy writes it: escapes, numbers, trees.

use sota_config::{Node, Value};

/// Makes what stands from `start` on the inside of a JSON string. What is no UTF-8 is written octet by octet, each as
/// `\u00xx`.
pub(super) fn escape_from(out: &mut Vec<u8>, start: usize) {
    let text = out.get(start..).unwrap_or_default();
    let is_plain = |c: &u8| (b' '..0x7f).contains(c) && *c != b'"' && *c != b'\\';
    if text.iter().all(is_plain) {
        return;
    }
    let text = text.to_vec();
    out.truncate(start);
    match std::str::from_utf8(&text) {
        Ok(text) => text.bytes().for_each(|c| escape(c, out)),
        Err(_) => text.iter().for_each(|c| if is_plain(c) { out.push(*c) } else { unicode(*c, out) }),
    }
}

fn escape(c: u8, out: &mut Vec<u8>) {
    let short = match c {
        b'"' | b'\\' => c,
        0x08 => b'b',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0..0x20 => return unicode(c, out),
        _ => return out.push(c),
    };
    out.extend_from_slice(&[b'\\', short]);
}

fn unicode(c: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| HEX.get(usize::from(n)).copied().unwrap_or_default();
    out.extend_from_slice(b"\\u00");
    out.extend_from_slice(&[digit(c >> 4), digit(c & 15)]);
}

/// A string with its quotes.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    escape_from(out, start);
    out.push(b'"');
}

/// A number: the shortest text that reads back as the same number, which for 100000 is `1e+05`. Not a number is `null`.
pub(super) fn write_number(number: f64, out: &mut Vec<u8>) {
    if !number.is_finite() {
        return out.extend_from_slice(b"null");
    }
    let plain = format!("{number}");
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    let scientific = format!("{digits}e{sign}{exponent:0>2}");
    let shortest = if scientific.len() < plain.len() { scientific } else { plain };
    out.extend_from_slice(shortest.as_bytes());
}

/// A tree; keys are sorted, as those of a `google.protobuf.Struct` are.
pub(super) fn write_node(node: &Node, out: &mut Vec<u8>) {
    match &node.value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        // The numbers of a `Struct` are doubles.
        Value::Int(number) => write_number(*number as f64, out),
        Value::UInt(number) => write_number(*number as f64, out),
        Value::Float(number) => write_number(*number, out),
        Value::String(text) => write_string(text, out),
        Value::Bytes(bytes) => write_string(&String::from_utf8_lossy(bytes), out),
        Value::Duration { seconds, nanos } => {
            write_string(&format!("{}s", *seconds as f64 + f64::from(*nanos) / 1e9), out);
        }
        Value::List(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_node(item, out);
            }
            out.push(b']');
        }
        Value::Map(entries) => {
            let mut entries: smallvec::SmallVec<[_; 16]> = entries.iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            out.push(b'{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                write_node(value, out);
            }
            out.push(b'}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(n: f64) -> String {
        let mut out = Vec::new();
        write_number(n, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_as_short_as_can_be() {
        for (n, expected) in [
            (0.0, "0"),
            (-5.0, "-5"),
            (1.5, "1.5"),
            (1000.0, "1000"),
            (10000.0, "10000"),
            (100000.0, "1e+05"),
            (120000.0, "120000"),
            (123456789.0, "123456789"),
            (1e22, "1e+22"),
            (0.001, "0.001"),
            (0.00001, "1e-05"),
            (-1e100, "-1e+100"),
            (9007199254740993.0, "9007199254740992"),
            (f64::NAN, "null"),
        ] {
            assert_eq!(number(n), expected);
        }
    }

    #[test]
    fn escapes() {
        let escaped = |bytes: &[u8]| {
            let mut out = bytes.to_vec();
            escape_from(&mut out, 0);
            String::from_utf8(out).unwrap()
        };
        for (bytes, expected) in [
            (&b"plain z<>&'/"[..], "plain z<>&'/"),
            ("lü\"t\u{1}\\\n\r\t\u{8}\u{c}\u{7f}".as_bytes(), "lü\\\"t\\u0001\\\\\\n\\r\\t\\b\\f\u{7f}"),
            (b"\x80\"\\\xe9/\tz<>&'", "\\u0080\\u0022\\u005c\\u00e9/\\u0009z<>&'"),
        ] {
            assert_eq!(escaped(bytes), expected);
        }
    }

    proptest! {
        #[test]
        fn strings_and_numbers_read_back(text in any::<String>(), n in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            let mut out = Vec::new();
            write_string(&text, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            prop_assert_eq!(number(n).parse::<f64>().unwrap(), n);
        }

        #[test]
        fn any_octets_make_a_string(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            let mut out = bytes;
            escape_from(&mut out, 0);
            let quoted = [b"\"", &out[..], b"\""].concat();
            prop_assert!(serde_json::from_slice::<String>(&quoted).is_ok());
        }
    }
}
