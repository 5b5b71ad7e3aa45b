//! YAML with Envoy's rules for plain scalars.
//!
//! Envoy reads YAML without a schema (`source/common/protobuf/yaml_utility.cc`), through a YAML 1.1 library: `yes`,
//! `on` and `y` are booleans, `0x1f` and `017` are numbers, and what is neither boolean nor a whole number is text,
//! `0.5` too (the message's field then decides). Quoted scalars are always text.

use super::builder::Builder;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};
use sota_config::{ConfigError, Mark, Node, Value};
use std::borrow::Cow;

/// Reads one document.
pub(super) fn parse(text: &str) -> Result<Node, ConfigError> {
    let mut builder = Builder::default();
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            if e.info().contains("recursion limit") {
                // The scanner's own limit on nested brackets; the path of such a place would be as long.
                return builder.too_deep(place(e.marker()));
            }
            ConfigError::new(builder.path(), place(e.marker()), format!("this is not YAML: {}", explain(e.info())))
        })?;
        let mark = place(&span.start);
        match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(ConfigError::new(
                        "",
                        mark,
                        "a second document begins here; one file holds one configuration",
                    ));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                if builder.wants_key() {
                    builder.key(&text, mark)?;
                } else {
                    builder.scalar(scalar(&text, style, tag.as_ref()), mark, anchor)?;
                }
            }
            Event::Alias(anchor) => builder.alias(anchor, mark)?,
            Event::SequenceStart(anchor, _) => builder.begin_list(mark, anchor)?,
            Event::MappingStart(anchor, _) => builder.begin_map(mark, anchor)?,
            Event::SequenceEnd | Event::MappingEnd => builder.end()?,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }
    Ok(builder.into_root())
}

fn place(marker: &Marker) -> Mark {
    Mark {
        line: u32::try_from(marker.line()).unwrap_or(u32::MAX),
        column: u32::try_from(marker.col() + 1).unwrap_or(u32::MAX),
    }
}

/// The library's words, with what a person most often did.
fn explain(info: &str) -> Cow<'_, str> {
    if info.contains("tab") { format!("{info} (indent with spaces)").into() } else { info.into() }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Cow<'_, Tag>>) -> Value {
    let is_text = style != ScalarStyle::Plain
        || tag.is_some_and(|tag| {
            (tag.is_yaml_core_schema() && tag.suffix == "str") || (tag.handle.is_empty() && tag.suffix == "!")
        });
    if is_text { Value::String(text.into()) } else { plain(text) }
}

/// The value of an unquoted scalar.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        _ => boolean(text)
            .map(Value::Bool)
            .or_else(|| integer(text).map(Value::Int))
            .unwrap_or_else(|| Value::String(text.into())),
    }
}

/// YAML 1.1's booleans: in lower case, in upper case, or with a capital.
fn boolean(text: &str) -> Option<bool> {
    if text.len() > 5 {
        return None;
    }
    let rest = text.get(1..)?;
    let one_case = rest.bytes().all(|b| b.is_ascii_lowercase()) || text.bytes().all(|b| b.is_ascii_uppercase());
    if !one_case {
        return None;
    }
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

/// A whole number as C++ streams read it: decimal, `0x` for hexadecimal, a leading `0` for octal.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let (radix, digits) = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        (16, hex)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, digits.get(1..)?)
    } else {
        (10, digits)
    };
    if !digits.as_bytes().first()?.is_ascii_hexdigit() {
        return None; // another sign
    }
    let value = i128::from(u64::from_str_radix(digits, radix).ok()?);
    i64::try_from(if negative { -value } else { value }).ok()
}

#[cfg(test)]
mod tests {
    use super::{boolean, integer, parse, plain};
    use sota_config::Value;

    #[test]
    fn plain_scalars_follow_yaml_1_1() {
        for text in ["true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "y", "Y"] {
            assert_eq!(boolean(text), Some(true), "{text}");
        }
        for text in ["false", "no", "off", "OFF", "n", "N"] {
            assert_eq!(boolean(text), Some(false), "{text}");
        }
        for text in ["tRue", "yEs", "t", "yess", "", "é"] {
            assert_eq!(boolean(text), None, "{text}");
        }
        assert_eq!(plain(""), Value::Null);
        assert_eq!(plain("~"), Value::Null);
        assert_eq!(plain("0.5"), Value::String("0.5".into()));
        assert_eq!(plain("0.25s"), Value::String("0.25s".into()));
    }

    #[test]
    fn whole_numbers() {
        for (text, value) in [
            ("0", 0),
            ("-7", -7),
            ("+7", 7),
            ("0x1F", 31),
            ("017", 15),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(integer(text), Some(value), "{text}");
        }
        for text in ["08", "9223372036854775808", "1_000", "1e3", "--1", "+-1", "-", "", "0x", "0x-1", "1.0"] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn values_have_the_place_of_their_key() {
        let node = parse("a:\n  - b: 1\n    c: [x, y]\n").expect("YAML");
        let item = &node.list("a")[0];
        assert_eq!((node.field("a").mark.line, node.field("a").mark.column), (1, 1));
        assert_eq!((item.mark.line, item.mark.column), (2, 5));
        assert_eq!((item.field("c").mark.line, item.field("c").mark.column), (3, 5));
        assert_eq!((item.list("c")[1].mark.line, item.list("c")[1].mark.column), (3, 12));
    }

    #[test]
    fn tags_and_quotes_make_text() {
        let node = parse("a: '1'\nb: !!str 1\nc: \"yes\"\nd: |\n  1\ne: ! 12\n").expect("YAML");
        for key in ["a", "b", "c", "d", "e"] {
            assert!(node.field(key).as_str().is_some(), "{key}: {:?}", node.field(key));
        }
    }
}
