//! A checked tree as the JSON of Envoy's dumps.
//!
//! Proto field names in the order of their numbers, defaults left out, 64-bit numbers and durations as text, bytes in base64,
//! one space of indentation. Fields that are marked sensitive are shown the way Envoy redacts them
//! (`MessageUtil::redact`): texts become `[redacted]`, bytes its base64, numbers and booleans are left out, and in
//! messages this goes for everything inside.

use crate::{
    check::{TYPE_KEY, is_default, type_name},
    table::{Field, Kind, Message, WellKnown},
    well_known,
};
use sota_config::{Node, Value};
use std::fmt::{Result, Write};

const REDACTED: &str = "[redacted]";

/// Writes a checked tree as JSON the way Envoy's dumps do: proto field names in the order of their numbers, defaults left
/// out, sensitive fields `[redacted]`. What follows the first line is indented by `indent` and more; ends without a line
/// break.
pub fn dump_json(node: &Node, message: &str, indent: usize, out: &mut dyn Write) -> Result {
    let mut dump = Dump { out, indent, redact: false };
    match Message::find(message) {
        Some(message) => dump.message(node, message),
        None => dump.plain(node),
    }
}

/// [`dump_json`] of the message in an `Any`.
pub fn dump_json_any(node: &Node, message: &str, indent: usize, out: &mut dyn Write) -> Result {
    Dump { out, indent, redact: false }.object(|dump, first| {
        dump.key(TYPE_KEY, first)?;
        dump.string(&format!("type.googleapis.com/{message}"))?;
        Message::find(message).map_or(Ok(()), |message| dump.fields(node, message, first))
    })
}

struct Dump<'a> {
    out: &'a mut dyn Write,
    indent: usize,
    /// Everything here is sensitive.
    redact: bool,
}

impl Dump<'_> {
    fn message(&mut self, node: &Node, message: Message) -> Result {
        match message.well_known() {
            Some(form) => self.well_known(node, form),
            None => self.object(|dump, first| dump.fields(node, message, first)),
        }
    }

    /// The fields of a message, after those that were written into the same object.
    fn fields(&mut self, node: &Node, message: Message, first: &mut bool) -> Result {
        let mut fields: Vec<(u32, Field, &Node)> = node
            .pairs()
            .iter()
            .filter_map(|(key, value)| message.field_by_key(key).map(|field| (field.number(), field, value)))
            .filter(|(_, field, value)| field.has_presence() || !is_default(value, *field))
            .collect();
        fields.sort_by_key(|(number, ..)| *number);
        for (_, field, value) in fields {
            let outer = self.redact;
            self.redact |= field.is_sensitive();
            if !(self.redact && is_dropped(field)) {
                self.key(field.name(), first)?;
                self.field(value, field)?;
            }
            self.redact = outer;
        }
        Ok(())
    }

    fn field(&mut self, value: &Node, field: Field) -> Result {
        if let (true, Some((_, value_field))) = (field.is_map(), field.map_entry()) {
            return self.object(|dump, first| {
                for (key, item) in value.pairs() {
                    dump.key(key, first)?;
                    dump.single(item, value_field.kind())?;
                }
                Ok(())
            });
        }
        if field.is_repeated() {
            return self.array(value.items(), |dump, item| dump.single(item, field.kind()));
        }
        self.single(value, field.kind())
    }

    fn single(&mut self, node: &Node, kind: Kind) -> Result {
        match (kind, &node.value) {
            (Kind::Message(message), _) => self.message(node, message),
            (_, Value::String(_)) if self.redact && kind == Kind::String => self.string(REDACTED),
            (_, Value::Bytes(_)) if self.redact => self.string(&well_known::encode_base64(REDACTED.as_bytes())),
            (Kind::Int64 | Kind::UInt64 | Kind::Fixed64 | Kind::SFixed64 | Kind::SInt64, Value::Int(n)) => {
                write!(self.out, "\"{n}\"")
            }
            (_, Value::UInt(n)) => write!(self.out, "\"{n}\""),
            (Kind::Float, Value::Float(n)) => self.float(f64::from(*n as f32), (*n as f32).to_string()),
            _ => self.plain(node),
        }
    }

    fn well_known(&mut self, node: &Node, form: WellKnown) -> Result {
        match form {
            WellKnown::Any => self.any(node),
            WellKnown::Wrapper(field) => self.single(node, field.kind()),
            _ => self.plain(node),
        }
    }

    fn any(&mut self, node: &Node) -> Result {
        let Some(url) = node.get(TYPE_KEY).and_then(Node::as_str) else { return self.plain(node) };
        self.object(|dump, first| {
            dump.key(TYPE_KEY, first)?;
            dump.string(url)?;
            match Message::find(type_name(url)) {
                Some(message) => match message.well_known() {
                    Some(WellKnown::Empty) => Ok(()),
                    Some(form) => {
                        dump.key("value", first)?;
                        dump.well_known(node.field("value"), form)
                    }
                    None if message.short_name() == "TypedStruct" => dump.typed_struct(node, first),
                    None => dump.fields(node, message, first),
                },
                // Only the extension knows what is sensitive here.
                None => node.pairs().iter().filter(|(key, _)| &**key != TYPE_KEY).try_for_each(|(key, value)| {
                    dump.key(key, first)?;
                    dump.plain(value)
                }),
            }
        })
    }

    /// A `TypedStruct`, with its value as the message that its type URL names.
    fn typed_struct(&mut self, node: &Node, first: &mut bool) -> Result {
        let url = node.str("type_url");
        if !url.is_empty() {
            self.key("type_url", first)?;
            self.string(url)?;
        }
        let Some(value) = node.get("value") else { return Ok(()) };
        self.key("value", first)?;
        match Message::find(type_name(url)) {
            Some(message) => self.message(value, message),
            None => self.plain(value),
        }
    }

    /// A value by its own kind: the trees of `Struct`, and what the table does not know.
    fn plain(&mut self, node: &Node) -> Result {
        match &node.value {
            Value::Null => self.out.write_str("null"),
            Value::Bool(value) => write!(self.out, "{value}"),
            Value::Int(n) => write!(self.out, "{n}"),
            Value::UInt(n) => write!(self.out, "{n}"),
            Value::Float(n) => self.float(*n, n.to_string()),
            Value::String(_) if self.redact => self.string(REDACTED),
            Value::String(text) => self.string(text),
            Value::Bytes(bytes) => self.string(&well_known::encode_base64(bytes)),
            Value::Duration { seconds, nanos } => self.string(&well_known::format_duration(*seconds, *nanos)),
            Value::List(items) => self.array(items, Self::plain),
            Value::Map(entries) => self.object(|dump, first| {
                for (key, value) in entries {
                    dump.key(key, first)?;
                    dump.plain(value)?;
                }
                Ok(())
            }),
        }
    }

    fn float(&mut self, n: f64, text: String) -> Result {
        let name = if n.is_nan() {
            "\"NaN\""
        } else if n == f64::INFINITY {
            "\"Infinity\""
        } else if n == f64::NEG_INFINITY {
            "\"-Infinity\""
        } else {
            &text
        };
        self.out.write_str(name)
    }

    fn object(&mut self, inside: impl FnOnce(&mut Self, &mut bool) -> Result) -> Result {
        self.out.write_str("{")?;
        self.indent += 1;
        let mut first = true;
        inside(self, &mut first)?;
        self.indent -= 1;
        if !first {
            self.line()?;
        }
        self.out.write_str("}")
    }

    fn array(&mut self, items: &[Node], mut each: impl FnMut(&mut Self, &Node) -> Result) -> Result {
        self.out.write_str("[")?;
        self.indent += 1;
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.write_str(",")?;
            }
            self.line()?;
            each(self, item)?;
        }
        self.indent -= 1;
        if !items.is_empty() {
            self.line()?;
        }
        self.out.write_str("]")
    }

    fn key(&mut self, name: &str, first: &mut bool) -> Result {
        if !std::mem::replace(first, false) {
            self.out.write_str(",")?;
        }
        self.line()?;
        self.string(name)?;
        self.out.write_str(": ")
    }

    fn line(&mut self) -> Result {
        write!(self.out, "\n{:1$}", "", self.indent)
    }

    fn string(&mut self, text: &str) -> Result {
        self.out.write_str("\"")?;
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            let escape = match c {
                '"' => "\\\"",
                '\\' => "\\\\",
                '\n' => "\\n",
                '\r' => "\\r",
                '\t' => "\\t",
                '\u{8}' => "\\b",
                '\u{c}' => "\\f",
                // Angle brackets too, as protobuf's JSON does: a dump may be shown in a page.
                '<' | '>' | '\u{0}'..='\u{1f}' | '\u{7f}' | '\u{2028}' | '\u{2029}' => "",
                _ => continue,
            };
            self.out.write_str(text.get(plain..at).unwrap_or(""))?;
            if escape.is_empty() {
                write!(self.out, "\\u{:04x}", u32::from(c))?
            } else {
                self.out.write_str(escape)?
            }
            plain = at + c.len_utf8();
        }
        self.out.write_str(text.get(plain..).unwrap_or(""))?;
        self.out.write_str("\"")
    }
}

/// What Envoy's redaction removes: numbers, booleans and enum values of sensitive parts.
fn is_dropped(field: Field) -> bool {
    match field.kind() {
        Kind::String | Kind::Bytes => false,
        Kind::Message(message) => match message.well_known() {
            Some(WellKnown::Wrapper(inner)) => !matches!(inner.kind(), Kind::String | Kind::Bytes),
            Some(WellKnown::Duration | WellKnown::Timestamp) => true,
            _ => false,
        },
        _ => true,
    }
}
