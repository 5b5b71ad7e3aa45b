//! Text to a tree: YAML as Envoy reads it, and JSON, both with places.

mod builder;
mod json;
mod yaml;

use sota_config::{ConfigError, ConfigErrors, Mark, Node, Value};

/// The largest file that is read. A thousand clusters with all their options are about 1 MiB.
pub const MAX_TEXT_BYTES: usize = 64 * 1024 * 1024;

/// Reads YAML or JSON into a tree with places.
///
/// A text that begins with `{` or `[` is JSON, and YAML's flow style if it is no JSON. The top must be a map.
/// Limits: [`MAX_TEXT_BYTES`]; maps and lists may be nested 256 deep; four million values in all, one million of
/// them through aliases. Duplicate keys, a second document, and bytes that are not UTF-8 text are errors. A value of
/// a map has the place of its key.
pub fn parse_text(text: &[u8]) -> Result<Node, ConfigErrors> {
    let node = read(text)?;
    match node.value {
        Value::Map(_) => Ok(node),
        Value::Null => Err(ConfigError::new("", Mark::NONE, "there is no configuration: the text is empty").into()),
        _ => {
            Err(ConfigError::new("", node.mark, "a map of fields is expected here, not a list or a single value")
                .into())
        }
    }
}

fn read(text: &[u8]) -> Result<Node, ConfigError> {
    let text = decode(text)?;
    if !text.trim_start().starts_with(['{', '[']) {
        return yaml::parse(text);
    }
    json::parse(text).or_else(|as_json| {
        yaml::parse(text).map_err(|as_yaml| {
            // Whoever got further understood more of the text.
            let place = |e: &ConfigError| (e.mark.line, e.mark.column);
            if place(&as_yaml) > place(&as_json) { as_yaml } else { as_json }
        })
    })
}

/// The bytes as text that can be configuration at all: UTF-8, not too large, without control characters.
fn decode(text: &[u8]) -> Result<&str, ConfigError> {
    let fail = |mark, reason: String| Err(ConfigError::new("", mark, reason));
    if text.len() > MAX_TEXT_BYTES {
        return fail(Mark::NONE, format!("the file is larger than {MAX_TEXT_BYTES} bytes"));
    }
    if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
        return fail(Mark::NONE, "the file is UTF-16; save it as UTF-8".to_owned());
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    // Looked for first, as a binary file is seldom UTF-8 either and this says more.
    if let Some(at) = text.iter().position(|&b| (b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r')) || b == 0x7f) {
        let byte = text.get(at).copied().unwrap_or(0);
        return fail(
            mark_at(text, at),
            format!("this is no text: control character 0x{byte:02x} (protobuf files end in .pb)"),
        );
    }
    std::str::from_utf8(text)
        .or_else(|e| fail(mark_at(text, e.valid_up_to()), "this is not UTF-8 text; save the file as UTF-8".to_owned()))
}

/// Line and column of a byte, for texts that may not be UTF-8.
fn mark_at(text: &[u8], at: usize) -> Mark {
    let before = text.get(..at).unwrap_or(text);
    let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
    let start = before.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
    let column = String::from_utf8_lossy(before.get(start..).unwrap_or(&[])).chars().count() + 1;
    Mark { line: u32::try_from(line).unwrap_or(u32::MAX), column: u32::try_from(column).unwrap_or(u32::MAX) }
}

#[cfg(test)]
mod tests;
