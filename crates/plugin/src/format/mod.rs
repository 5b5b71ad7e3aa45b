//! Format strings: text and JSON with operators such as `%RESPONSE_CODE%`, as Envoy 1.40 prints them.
//!
//! Access logs, bodies of local replies and values of added fields are made with the same engine. A format is parsed
//! once; writing appends to a vector of the caller's and allocates only where a value has to be escaped or decoded.
//!
//! ```
//! use sota_plugin::{access_log::LogKind, format::{Format, FormatCx}, info::{ConnectionInfo, PeerAddress, StreamInfo}};
//! use std::{net::SocketAddr, rc::Rc};
//!
//! let format = Format::text("%PROTOCOL% %RESPONSE_CODE% %BYTES_SENT% %REQ(:PATH)%", false).unwrap();
//! let end = PeerAddress::from(SocketAddr::from(([127, 0, 0, 1], 80)));
//! let info = StreamInfo::new(Rc::new(ConnectionInfo::new(1, end.clone(), end)), 1, None);
//! let mut line = Vec::new();
//! format.write(&FormatCx::new(&info, LogKind::DownstreamEnd), &mut line);
//! assert_eq!(line, b"- 0 0 -");
//! ```

mod json;
pub(crate) mod operator;
mod plain;
mod render;
mod template;
#[cfg(test)]
mod tests;
mod time;

use crate::access_log::LogEntry;
use render::Kind;
use sota_config::{
    ConfigError, Mark, Node, Value,
    access_log::{Format as FormatConfig, FormatString},
};
use template::{Piece, Template};

/// What a format can speak of. What is `None` prints as absent.
pub type FormatCx<'a> = LogEntry<'a>;

/// A compiled format.
#[derive(Debug, Clone)]
pub struct Format {
    body: Body,
    omit_empty: bool,
}

#[derive(Debug, Clone)]
enum Body {
    Text(Template),
    Json(Json),
}

/// A JSON document with templates in the places of strings.
#[derive(Debug, Clone)]
enum Json {
    /// JSON that does not depend on anything.
    Constant(Box<[u8]>),
    Null,
    Template(Template),
    /// Each key with its quotes and colon; sorted by key.
    Map(Vec<(Box<[u8]>, Self)>),
    List(Vec<Self>),
}

impl Format {
    /// The format of access logs that have none. It ends with a line feed.
    pub const DEFAULT: &str = concat!(
        "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
        "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
        "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n"
    );

    /// Fails for operators that do not exist or are used wrongly; the error has the place of the string in a JSON
    /// format.
    pub fn build(config: &FormatString) -> Result<Self, ConfigError> {
        let body = match &config.format {
            FormatConfig::Text(text) => Body::Text(template(text)?),
            FormatConfig::Json(node) if matches!(node.value, Value::Map(_)) => Body::Json(Json::build(node, "")?),
            FormatConfig::Json(node) => return Err(ConfigError::new("", node.mark, "a JSON format must be a map")),
        };
        Ok(Self { body, omit_empty: config.omit_empty_values })
    }

    /// A text format. `omit_empty`: what has no value prints as nothing, not as `-`.
    pub fn text(text: &str, omit_empty: bool) -> Result<Self, ConfigError> {
        Ok(Self { body: Body::Text(template(text)?), omit_empty })
    }

    /// The format of the value of an added field: text that prints nothing for what has no value. Envoy's older
    /// spellings of metadata (`%DYNAMIC_METADATA(["a", "b"])%`) and of filter state are understood here.
    pub fn header_value(text: &str) -> Result<Self, ConfigError> {
        Self::text(&template::translate_legacy(text), true)
    }

    /// [`Self::DEFAULT`], compiled.
    pub fn default_access_log() -> Self {
        // A constant that a test builds; an empty line rather than a panic.
        Self { body: Body::Text(Template::parse(Self::DEFAULT).unwrap_or_default()), omit_empty: false }
    }

    /// Whether this makes JSON.
    pub fn is_json(&self) -> bool {
        matches!(self.body, Body::Json(_))
    }

    /// The text, when it is text without operators.
    pub fn as_constant(&self) -> Option<&[u8]> {
        match &self.body {
            Body::Text(template) => template.as_constant(),
            Body::Json(_) => None,
        }
    }

    /// Appends the text or the JSON document, without a line feed behind the document. Values of a text are written as
    /// they are.
    pub fn write(&self, cx: &FormatCx<'_>, out: &mut Vec<u8>) {
        match &self.body {
            Body::Text(template) => self.write_text(template, cx, out, false),
            Body::Json(json) => {
                if !json.write(cx, self.omit_empty, out) {
                    out.extend_from_slice(b"{}");
                }
            }
        }
    }

    /// Appends a log entry: like [`Self::write`], but control characters in the values of a text are escaped (`\n`,
    /// `\x1b`), so that nobody outside writes lines of his own, and a line feed follows a JSON document.
    pub fn write_log(&self, cx: &FormatCx<'_>, out: &mut Vec<u8>) {
        match &self.body {
            Body::Text(template) => self.write_text(template, cx, out, true),
            Body::Json(_) => {
                self.write(cx, out);
                out.push(b'\n');
            }
        }
    }

    fn write_text(&self, template: &Template, cx: &FormatCx<'_>, out: &mut Vec<u8>, escape: bool) {
        for piece in template.pieces() {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text),
                Piece::Operator(operator) => {
                    let start = out.len();
                    if operator.write_within(cx, out) {
                        if escape {
                            escape_controls(out, start);
                        }
                    } else if !self.omit_empty {
                        out.push(b'-');
                    }
                }
            }
        }
    }
}

fn template(text: &str) -> Result<Template, ConfigError> {
    Template::parse(text).map_err(|reason| ConfigError::new("", Mark::NONE, reason))
}

/// Escapes control characters but tabs in what stands from `start` on.
fn escape_controls(out: &mut Vec<u8>, start: usize) {
    let text = out.get(start..).unwrap_or_default();
    let is_plain = |c: &u8| (*c >= b' ' && *c != 0x7f) || *c == b'\t';
    if text.iter().fold(true, |plain, c| plain & is_plain(c)) {
        return;
    }
    let text = text.to_vec();
    out.truncate(start);
    for c in text {
        if is_plain(&c) {
            out.push(c);
        } else {
            out.extend(std::ascii::escape_default(c));
        }
    }
}

impl Json {
    fn build(node: &Node, path: &str) -> Result<Self, ConfigError> {
        Ok(match &node.value {
            Value::Null => Self::Null,
            Value::String(text) if text.contains('%') => {
                let template = Template::parse(text);
                Self::Template(template.map_err(|reason| ConfigError::new(path, node.mark, reason))?)
            }
            Value::Map(entries) => {
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                let mut map = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let dot = if path.is_empty() { "" } else { "." };
                    let mut quoted = Vec::new();
                    json::write_string(key, &mut quoted);
                    quoted.push(b':');
                    map.push((quoted.into(), Self::build(value, &format!("{path}{dot}{key}"))?));
                }
                Self::Map(map)
            }
            Value::List(items) => {
                let items = items.iter().enumerate();
                Self::List(items.map(|(i, item)| Self::build(item, &format!("{path}[{i}]"))).collect::<Result<_, _>>()?)
            }
            _ => {
                let mut constant = Vec::new();
                json::write_node(node, &mut constant);
                Self::Constant(constant.into())
            }
        })
    }

    /// False when there is nothing to write and `omit_empty` says to leave it out; nothing is written then.
    fn write(&self, cx: &FormatCx<'_>, omit_empty: bool, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Constant(text) => out.extend_from_slice(text),
            Self::Null if omit_empty => return false,
            Self::Null => out.extend_from_slice(b"null"),
            Self::Template(template) => return write_template(template, cx, omit_empty, out),
            Self::Map(entries) => {
                let start = out.len();
                out.push(b'{');
                let mut is_empty = true;
                for (key, value) in entries {
                    let before = out.len();
                    if !is_empty {
                        out.push(b',');
                    }
                    out.extend_from_slice(key);
                    if value.write(cx, omit_empty, out) {
                        is_empty = false;
                    } else {
                        out.truncate(before);
                    }
                }
                if is_empty && omit_empty {
                    out.truncate(start);
                    return false;
                }
                out.push(b'}');
            }
            // Compat: a list is kept even when everything in it is left out.
            Self::List(items) => {
                out.push(b'[');
                let mut is_empty = true;
                for item in items {
                    let before = out.len();
                    if !is_empty {
                        out.push(b',');
                    }
                    if item.write(cx, omit_empty, out) {
                        is_empty = false;
                    } else {
                        out.truncate(before);
                    }
                }
                out.push(b']');
            }
        }
        true
    }
}

/// A template that is one operator keeps the type of its value; any other is a string.
fn write_template(template: &Template, cx: &FormatCx<'_>, omit_empty: bool, out: &mut Vec<u8>) -> bool {
    let quote = out.len();
    out.push(b'"');
    if let [Piece::Operator(operator)] = template.pieces() {
        match operator.write(cx, out) {
            Some(Kind::Text) => json::escape_from(out, quote + 1),
            Some(Kind::Json | Kind::Number) => {
                out.remove(quote);
                return true;
            }
            None => {
                out.truncate(quote);
                if !omit_empty {
                    out.extend_from_slice(b"null");
                }
                return !omit_empty;
            }
        }
    } else {
        for piece in template.pieces() {
            let start = out.len();
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text),
                Piece::Operator(operator) => {
                    if !operator.write_within(cx, out) && !omit_empty {
                        out.push(b'-');
                    }
                }
            }
            json::escape_from(out, start);
        }
    }
    out.push(b'"');
    true
}
