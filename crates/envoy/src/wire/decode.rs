//! Bytes to a tree in document form, which the walker then checks like any other document.

use super::{RawValue, Reader, WireError};
use crate::{
    check::{TYPE_KEY, Walker, type_name},
    table::{Field, Kind, Message, WellKnown},
    well_known,
};
use bytes::Bytes;
use sota_config::{Mark, Node, Value};
use std::{borrow::Cow, sync::Arc};

/// What the occurrences of one field have brought so far.
enum Slot<'a> {
    /// The last value of a scalar.
    Scalar(Value),
    /// The bytes of a message; further occurrences are appended, which is how protobuf merges messages.
    Message(Cow<'a, [u8]>),
    /// The items of a list.
    List(Vec<Value>),
    /// The items of a list of messages.
    Messages(Vec<&'a [u8]>),
    /// The entries of a map.
    Entries(Vec<&'a [u8]>),
}

impl Walker<'_> {
    /// Reads `bytes` as `message`. What is wrong is noted as an error, and what could be read is returned.
    pub(crate) fn decode(&mut self, bytes: &[u8], message: Message) -> Node {
        let value = self
            .deeper(Mark::NONE, |walker| match message.well_known() {
                Some(form) => walker.decode_well_known(bytes, form),
                None => Value::Map(walker.decode_fields(bytes, message)),
            })
            .unwrap_or(Value::Null);
        Node::new(value)
    }

    fn decode_fields(&mut self, bytes: &[u8], message: Message) -> Vec<(Arc<str>, Node)> {
        let mut slots: Vec<(Field, Slot<'_>)> = Vec::new();
        for raw in Reader::new(bytes) {
            let raw = match raw {
                Ok(raw) => raw,
                Err(e) => {
                    self.error(Mark::NONE, e.reason());
                    break;
                }
            };
            let Some(field) = message.field_by_number(raw.number) else {
                self.unknown(Mark::NONE, format!("unknown field number {} of {}", raw.number, message.short_name()));
                continue;
            };
            if let Err(problem) = self.take(&mut slots, field, raw.value) {
                match problem {
                    // A known number with another type of value is an unknown field too.
                    Problem::WireType => {
                        self.unknown(Mark::NONE, format!("the value of \"{}\" has another wire type", field.name()));
                    }
                    Problem::Error(reason) => self.at_field(field.name(), |walker| walker.error(Mark::NONE, reason)),
                }
            }
        }
        slots
            .into_iter()
            .map(|(field, slot)| {
                let value = self.at_field(field.name(), |walker| walker.finish(field, slot));
                (self.shared(field.name_id(), field.name()), Node::new(value))
            })
            .collect()
    }

    /// Adds one occurrence of a field to what is there.
    fn take<'b>(&mut self, slots: &mut Vec<(Field, Slot<'b>)>, field: Field, raw: RawValue<'b>) -> Result<(), Problem> {
        if let Some(oneof) = field.oneof() {
            // A later member of a oneof replaces the earlier one.
            slots.retain(|(other, _)| *other == field || other.oneof() != Some(oneof));
        }
        let known = slots.iter().position(|(other, _)| *other == field);
        if let Kind::Message(_) = field.kind() {
            let bytes = raw.bytes().ok_or(Problem::WireType)?;
            match known.and_then(|i| slots.get_mut(i)).map(|(_, slot)| slot) {
                Some(Slot::Message(earlier)) => earlier.to_mut().extend_from_slice(bytes),
                Some(Slot::Messages(items) | Slot::Entries(items)) => items.push(bytes),
                _ if field.is_map() => slots.push((field, Slot::Entries(vec![bytes]))),
                _ if field.is_repeated() => slots.push((field, Slot::Messages(vec![bytes]))),
                _ => slots.push((field, Slot::Message(Cow::Borrowed(bytes)))),
            }
            return Ok(());
        }
        if !field.is_repeated() {
            let value = scalar(field.kind(), raw)?;
            match known.and_then(|i| slots.get_mut(i)) {
                Some((_, slot)) => *slot = Slot::Scalar(value),
                None => slots.push((field, Slot::Scalar(value))),
            }
            return Ok(());
        }
        let index = known.unwrap_or_else(|| {
            slots.push((field, Slot::List(Vec::new())));
            slots.len() - 1
        });
        let Some((_, Slot::List(items))) = slots.get_mut(index) else { return Ok(()) };
        match raw {
            // Numbers may be packed or not, whatever the message says.
            RawValue::Bytes(packed) if !matches!(field.kind(), Kind::String | Kind::Bytes) => {
                let mut reader = Reader::new(packed);
                while !reader.is_empty() {
                    items.push(scalar(field.kind(), unpack(field.kind(), &mut reader)?)?);
                }
            }
            raw => items.push(scalar(field.kind(), raw)?),
        }
        Ok(())
    }

    fn finish(&mut self, field: Field, slot: Slot<'_>) -> Value {
        match slot {
            Slot::Scalar(value) => value,
            Slot::List(items) => Value::List(items.into_iter().map(Node::new).collect()),
            Slot::Message(bytes) => self.decode_kind(&bytes, field.kind()).value,
            Slot::Messages(items) => Value::List(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(index, bytes)| self.at_index(index, |walker| walker.decode_kind(bytes, field.kind())))
                    .collect(),
            ),
            Slot::Entries(items) => {
                let Some((key_field, value_field)) = field.map_entry() else { return Value::Null };
                let mut entries: Vec<(Arc<str>, Node)> = Vec::with_capacity(items.len());
                for bytes in items {
                    entries.push(self.entry_of_map(bytes, key_field, value_field));
                }
                // The last of equal keys counts. Sorting is stable, so it is the last of its group.
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                entries.reverse();
                entries.dedup_by(|a, b| a.0 == b.0);
                entries.reverse();
                Value::Map(entries)
            }
        }
    }

    fn decode_kind(&mut self, bytes: &[u8], kind: Kind) -> Node {
        if let Kind::Message(message) = kind { self.decode(bytes, message) } else { Node::new(Value::Null) }
    }

    fn entry_of_map(&mut self, bytes: &[u8], key_field: Field, value_field: Field) -> (Arc<str>, Node) {
        let (mut key, mut slots) = (None, Vec::new());
        for raw in Reader::new(bytes) {
            let result = match raw {
                Ok(raw) if raw.number == 1 => scalar(key_field.kind(), raw.value).map(|value| key = Some(value)),
                Ok(raw) if raw.number == 2 => self.take(&mut slots, value_field, raw.value),
                Ok(_) => Ok(()),
                Err(e) => Err(e.into()),
            };
            if let Err(problem) = result {
                self.error(Mark::NONE, problem.reason());
                break;
            }
        }
        let key: Arc<str> = match key {
            Some(Value::String(text)) => text,
            Some(Value::Bool(value)) => value.to_string().into(),
            Some(Value::Int(n)) => n.to_string().into(),
            Some(Value::UInt(n)) => n.to_string().into(),
            _ => match key_field.kind() {
                Kind::String => "".into(),
                Kind::Bool => "false".into(),
                _ => "0".into(),
            },
        };
        let value = self.at_key(&key, |walker| match slots.pop() {
            Some((field, slot)) => walker.finish(field, slot),
            None => match value_field.kind() {
                Kind::Message(message) => walker.decode(&[], message).value,
                kind => default(kind),
            },
        });
        (key, Node::new(value))
    }

    fn decode_well_known(&mut self, bytes: &[u8], form: WellKnown) -> Value {
        match form {
            WellKnown::Any => self.decode_any(bytes),
            WellKnown::Duration => {
                let (seconds, nanos) = self.seconds_and_nanos(bytes);
                match i32::try_from(nanos) {
                    Ok(nanos) if well_known::is_duration(seconds, nanos.into()) => Value::Duration { seconds, nanos },
                    _ => {
                        self.error(Mark::NONE, format!("{seconds} s and {nanos} ns are no duration"));
                        Value::Null
                    }
                }
            }
            WellKnown::Timestamp => {
                let (seconds, nanos) = self.seconds_and_nanos(bytes);
                match u32::try_from(nanos) {
                    Ok(nanos) if nanos < 1_000_000_000 && (-62_135_596_800..=253_402_300_799).contains(&seconds) => {
                        Value::String(well_known::format_timestamp(seconds, nanos).into())
                    }
                    _ => {
                        self.error(Mark::NONE, format!("{seconds} s and {nanos} ns are no time"));
                        Value::Null
                    }
                }
            }
            WellKnown::FieldMask => {
                let mut paths: Vec<String> = Vec::new();
                self.each(bytes, |_, number, raw| {
                    if let (1, Some(path)) = (number, raw.bytes()) {
                        paths.push(json_path(&String::from_utf8_lossy(path)));
                    }
                });
                Value::String(paths.join(",").into())
            }
            WellKnown::Empty => {
                self.each(bytes, |walker, number, _| {
                    walker.unknown(Mark::NONE, format!("unknown field number {number} of Empty"));
                });
                Value::Map(Vec::new())
            }
            WellKnown::Wrapper(field) => {
                let mut slots = Vec::new();
                self.each(bytes, |walker, number, raw| {
                    if number != 1 {
                        walker.unknown(Mark::NONE, format!("unknown field number {number} of a wrapped value"));
                    } else if let Err(problem) = walker.take(&mut slots, field, raw) {
                        walker.error(Mark::NONE, problem.reason());
                    }
                });
                match slots.pop() {
                    Some((field, slot)) => self.finish(field, slot),
                    None => default(field.kind()),
                }
            }
            WellKnown::Struct | WellKnown::ListValue | WellKnown::Value => self.decode_struct(bytes, form),
        }
    }

    /// `Struct`, `ListValue` and `Value` as a plain tree.
    fn decode_struct(&mut self, bytes: &[u8], form: WellKnown) -> Value {
        let name = match form {
            WellKnown::Struct => "google.protobuf.Struct",
            WellKnown::ListValue => "google.protobuf.ListValue",
            _ => "google.protobuf.Value",
        };
        let Some(message) = Message::find(name) else { return Value::Null };
        let mut fields = self.decode_fields(bytes, message);
        let Some((name, node)) = fields.pop() else {
            return match form {
                WellKnown::Struct => Value::Map(Vec::new()),
                WellKnown::ListValue => Value::List(Vec::new()),
                _ => Value::Null,
            };
        };
        if &*name == "null_value" { Value::Null } else { node.value }
    }

    fn decode_any(&mut self, bytes: &[u8]) -> Value {
        let (mut url, mut content) = (String::new(), &[][..]);
        self.each(bytes, |walker, number, raw| match (number, raw) {
            (1, RawValue::Bytes(text)) => match std::str::from_utf8(text) {
                Ok(text) => url = text.to_owned(),
                Err(_) => walker.error(Mark::NONE, NOT_UTF8),
            },
            (2, RawValue::Bytes(bytes)) => content = bytes,
            _ => walker.unknown(Mark::NONE, format!("unknown field number {number} of Any")),
        });
        if url.is_empty() && content.is_empty() {
            return Value::Map(Vec::new());
        }
        let mut entries = vec![(Arc::from(TYPE_KEY), Node::string(url.as_str()))];
        match Message::find(type_name(&url)) {
            Some(message) if message.well_known().is_some() => {
                entries.push((Arc::from("value"), self.at_field("value", |walker| walker.decode(content, message))));
            }
            Some(message) => match self.decode(content, message).value {
                Value::Map(fields) => entries.extend(fields),
                _ => return Value::Map(entries),
            },
            None => entries.push((Arc::from("value"), Node::new(Value::Bytes(Bytes::copy_from_slice(content))))),
        }
        Value::Map(entries)
    }

    fn seconds_and_nanos(&mut self, bytes: &[u8]) -> (i64, i64) {
        let (mut seconds, mut nanos) = (0, 0);
        self.each(bytes, |walker, number, raw| match (number, raw.varint()) {
            (1, Some(n)) => seconds = n.cast_signed(),
            (2, Some(n)) => nanos = i64::from((n as u32).cast_signed()),
            _ => walker.unknown(Mark::NONE, format!("unknown field number {number}")),
        });
        (seconds, nanos)
    }

    /// Calls `take` with each field of a small message; broken bytes are noted.
    fn each<'b>(&mut self, bytes: &'b [u8], mut take: impl FnMut(&mut Self, u32, RawValue<'b>)) {
        for raw in Reader::new(bytes) {
            match raw {
                Ok(raw) => take(self, raw.number, raw.value),
                Err(e) => self.error(Mark::NONE, e.reason()),
            }
        }
    }
}

const NOT_UTF8: &str = "the text is not UTF-8";

/// Why a value was not taken.
enum Problem {
    WireType,
    Error(&'static str),
}

impl Problem {
    fn reason(&self) -> &'static str {
        match self {
            Self::WireType => "the value has another wire type",
            Self::Error(reason) => reason,
        }
    }
}

impl From<WireError> for Problem {
    fn from(error: WireError) -> Self {
        Self::Error(error.reason())
    }
}

/// The next number of a packed list.
fn unpack<'a>(kind: Kind, reader: &mut Reader<'a>) -> Result<RawValue<'a>, WireError> {
    Ok(match kind {
        Kind::Double | Kind::Fixed64 | Kind::SFixed64 => RawValue::Fixed64(reader.fixed64()?),
        Kind::Float | Kind::Fixed32 | Kind::SFixed32 => RawValue::Fixed32(reader.fixed32()?),
        _ => RawValue::Varint(reader.varint()?),
    })
}

fn scalar(kind: Kind, raw: RawValue<'_>) -> Result<Value, Problem> {
    Ok(match (kind, raw) {
        (Kind::Double, RawValue::Fixed64(bits)) => Value::Float(f64::from_bits(bits)),
        (Kind::Float, RawValue::Fixed32(bits)) => Value::Float(f32::from_bits(bits).into()),
        (Kind::Int64, RawValue::Varint(n)) | (Kind::SFixed64, RawValue::Fixed64(n)) => Value::Int(n.cast_signed()),
        (Kind::UInt64, RawValue::Varint(n)) | (Kind::Fixed64, RawValue::Fixed64(n)) => unsigned(n),
        // Negative numbers of 32 bits stand on the wire with 64.
        (Kind::Int32 | Kind::Enum(_), RawValue::Varint(n)) => Value::Int(i64::from((n as u32).cast_signed())),
        (Kind::UInt32, RawValue::Varint(n)) => Value::Int(i64::from(n as u32)),
        (Kind::Fixed32, RawValue::Fixed32(n)) => Value::Int(i64::from(n)),
        (Kind::SFixed32, RawValue::Fixed32(n)) => Value::Int(i64::from(n.cast_signed())),
        (Kind::SInt32, RawValue::Varint(n)) => Value::Int(i64::from(zigzag(u64::from(n as u32)) as i32)),
        (Kind::SInt64, RawValue::Varint(n)) => Value::Int(zigzag(n)),
        (Kind::Bool, RawValue::Varint(n)) => Value::Bool(n != 0),
        (Kind::String, RawValue::Bytes(bytes)) => {
            Value::String(std::str::from_utf8(bytes).map_err(|_| Problem::Error(NOT_UTF8))?.into())
        }
        (Kind::Bytes, RawValue::Bytes(bytes)) => Value::Bytes(Bytes::copy_from_slice(bytes)),
        _ => return Err(Problem::WireType),
    })
}

fn zigzag(n: u64) -> i64 {
    (n >> 1).cast_signed() ^ -(n & 1).cast_signed()
}

fn unsigned(n: u64) -> Value {
    i64::try_from(n).map_or(Value::UInt(n), Value::Int)
}

/// What an absent scalar means.
fn default(kind: Kind) -> Value {
    match kind {
        Kind::Bool => Value::Bool(false),
        Kind::String => Value::String("".into()),
        Kind::Bytes => Value::Bytes(Bytes::new()),
        Kind::Double | Kind::Float => Value::Float(0.0),
        Kind::Message(_) => Value::Null,
        _ => Value::Int(0),
    }
}

/// A path of a field mask in lowerCamelCase.
fn json_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut upper = false;
    for c in path.chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    out
}
