//! A checked tree to bytes: fields in the order of their numbers, defaults left out, maps in the order of the tree.

use crate::{
    check::{MAX_MESSAGE_DEPTH, TYPE_KEY, is_default, type_name},
    table::{Field, Kind, Message, WellKnown},
    well_known,
};
use sota_config::{ConfigError, Node, Value};

/// Writes a checked tree as protobuf bytes of `message`.
///
/// Fields that the message does not have are left out; a value of another type than the message says is an error,
/// which a tree that [`crate::check`] returned without errors cannot have.
pub fn encode(node: &Node, message: &str) -> Result<Vec<u8>, ConfigError> {
    let message = Message::find(message)
        .ok_or_else(|| ConfigError::new("", node.mark, format!("there is no message \"{message}\"")))?;
    let mut out = Vec::new();
    put_message(&mut out, node, message, 0)?;
    Ok(out)
}

type Written = Result<(), ConfigError>;

fn unfit(node: &Node, what: &str) -> ConfigError {
    ConfigError::new("", node.mark, format!("this value does not fit {what}"))
}

fn put_message(out: &mut Vec<u8>, node: &Node, message: Message, depth: usize) -> Written {
    if depth > MAX_MESSAGE_DEPTH {
        return Err(ConfigError::new("", node.mark, format!("messages are nested more than {MAX_MESSAGE_DEPTH} deep")));
    }
    if let Some(form) = message.well_known() {
        return put_well_known(out, node, form, depth);
    }
    let mut fields: Vec<(u32, Field, &Node)> = node
        .pairs()
        .iter()
        .filter_map(|(key, value)| message.field_by_key(key).map(|field| (field.number(), field, value)))
        .collect();
    fields.sort_by_key(|(number, ..)| *number);
    for (_, field, value) in fields {
        put_field(out, field, value, depth)?;
    }
    Ok(())
}

fn put_field(out: &mut Vec<u8>, field: Field, value: &Node, depth: usize) -> Written {
    if field.is_map() {
        let Some((key_field, value_field)) = field.map_entry() else { return Ok(()) };
        for (key, item) in value.pairs() {
            let mut entry = Vec::new();
            put_single(&mut entry, key_field, &map_key(key_field.kind(), key), depth)?;
            put_single(&mut entry, value_field, item, depth)?;
            put_bytes(out, field.number(), &entry);
        }
        return Ok(());
    }
    if !field.is_repeated() {
        let is_null =
            value.is_null() && !matches!(field.kind(), Kind::Message(m) if m.well_known() == Some(WellKnown::Value));
        if is_null || (!field.has_presence() && is_default(value, field)) {
            return Ok(());
        }
        return put_single(out, field, value, depth);
    }
    if field.is_packed() {
        let mut packed = Vec::new();
        for item in value.items() {
            put_scalar(&mut packed, field.kind(), item)?;
        }
        if !packed.is_empty() {
            put_bytes(out, field.number(), &packed);
        }
        return Ok(());
    }
    value.items().iter().try_for_each(|item| put_single(out, field, item, depth))
}

/// Tag and value.
fn put_single(out: &mut Vec<u8>, field: Field, value: &Node, depth: usize) -> Written {
    match field.kind() {
        Kind::Message(message) => {
            let mut inner = Vec::new();
            put_message(&mut inner, value, message, depth + 1)?;
            put_bytes(out, field.number(), &inner);
            Ok(())
        }
        kind => {
            let wire_type = match kind {
                Kind::Double | Kind::Fixed64 | Kind::SFixed64 => 1,
                Kind::String | Kind::Bytes => 2,
                Kind::Float | Kind::Fixed32 | Kind::SFixed32 => 5,
                _ => 0,
            };
            put_tag(out, field.number(), wire_type);
            put_scalar(out, kind, value)
        }
    }
}

fn put_scalar(out: &mut Vec<u8>, kind: Kind, node: &Node) -> Written {
    let whole = || match node.value {
        Value::Int(n) => Some(n.cast_unsigned()),
        Value::UInt(n) => Some(n),
        _ => None,
    };
    let number = || whole().ok_or_else(|| unfit(node, "a number"));
    let float = || node.as_f64().ok_or_else(|| unfit(node, "a number"));
    match kind {
        Kind::Double => out.extend_from_slice(&float()?.to_le_bytes()),
        Kind::Float => out.extend_from_slice(&(float()? as f32).to_le_bytes()),
        Kind::Int32 | Kind::Int64 | Kind::UInt32 | Kind::UInt64 => put_varint(out, number()?),
        Kind::Fixed32 | Kind::SFixed32 => out.extend_from_slice(&(number()? as u32).to_le_bytes()),
        Kind::Fixed64 | Kind::SFixed64 => out.extend_from_slice(&number()?.to_le_bytes()),
        Kind::SInt32 | Kind::SInt64 => {
            let n = number()?.cast_signed();
            put_varint(out, ((n << 1) ^ (n >> 63)).cast_unsigned());
        }
        Kind::Bool => put_varint(out, node.as_bool().ok_or_else(|| unfit(node, "a boolean"))?.into()),
        Kind::Enum(kind) => {
            let number = node
                .as_str()
                .and_then(|name| kind.value_by_name(name))
                .map(|value| i64::from(value.number()))
                .or_else(|| node.as_i64())
                .ok_or_else(|| unfit(node, kind.name()))?;
            put_varint(out, number.cast_unsigned());
        }
        Kind::String | Kind::Bytes => {
            let bytes = node.as_bytes().ok_or_else(|| unfit(node, "text"))?;
            put_varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
        Kind::Message(_) => return Err(unfit(node, "a single value")),
    }
    Ok(())
}

fn put_well_known(out: &mut Vec<u8>, node: &Node, form: WellKnown, depth: usize) -> Written {
    match form {
        WellKnown::Any => put_any(out, node, depth),
        WellKnown::Wrapper(field) => {
            if is_default(node, field) {
                Ok(())
            } else {
                put_single(out, field, node, depth)
            }
        }
        WellKnown::Empty => Ok(()),
        WellKnown::Duration => {
            let Value::Duration { seconds, nanos } = node.value else { return Err(unfit(node, "a duration")) };
            put_number(out, 1, seconds);
            put_number(out, 2, nanos.into());
            Ok(())
        }
        WellKnown::Timestamp => {
            let (seconds, nanos) =
                node.as_str().and_then(well_known::parse_timestamp).ok_or_else(|| unfit(node, "a time"))?;
            put_number(out, 1, seconds);
            put_number(out, 2, nanos.into());
            Ok(())
        }
        WellKnown::FieldMask => {
            let text = node.as_str().ok_or_else(|| unfit(node, "a field mask"))?;
            for path in text.split(',').filter(|path| !path.is_empty()) {
                put_bytes(out, 1, proto_path(path).as_bytes());
            }
            Ok(())
        }
        WellKnown::Struct => put_struct(out, node, depth),
        WellKnown::ListValue => put_list(out, node, depth),
        WellKnown::Value => put_value(out, node, depth),
    }
}

fn put_any(out: &mut Vec<u8>, node: &Node, depth: usize) -> Written {
    let Some(url) = node.get(TYPE_KEY).and_then(Node::as_str) else { return Ok(()) };
    let mut content = Vec::new();
    match Message::find(type_name(url)) {
        Some(message) if message.well_known().is_some() => {
            put_message(&mut content, node.field("value"), message, depth + 1)?;
        }
        Some(message) => put_message(&mut content, node, message, depth + 1)?,
        // A type that only its extension knows: bytes when it came as bytes. A tree of the document has none.
        None => match &node.field("value").value {
            Value::Bytes(bytes) => content.extend_from_slice(bytes),
            _ => return Err(unfit(node, "bytes: only the extension knows its message")),
        },
    }
    put_bytes(out, 1, url.as_bytes());
    if !content.is_empty() {
        put_bytes(out, 2, &content);
    }
    Ok(())
}

fn put_struct(out: &mut Vec<u8>, node: &Node, depth: usize) -> Written {
    for (key, item) in node.pairs() {
        let (mut entry, mut value) = (Vec::new(), Vec::new());
        put_value(&mut value, item, depth)?;
        if !key.is_empty() {
            put_bytes(&mut entry, 1, key.as_bytes());
        }
        put_bytes(&mut entry, 2, &value);
        put_bytes(out, 1, &entry);
    }
    Ok(())
}

fn put_list(out: &mut Vec<u8>, node: &Node, depth: usize) -> Written {
    for item in node.items() {
        let mut value = Vec::new();
        put_value(&mut value, item, depth)?;
        put_bytes(out, 1, &value);
    }
    Ok(())
}

/// `google.protobuf.Value`: each kind of value has a field number of its own, written even when it is a default.
fn put_value(out: &mut Vec<u8>, node: &Node, depth: usize) -> Written {
    if depth > MAX_MESSAGE_DEPTH {
        return Err(ConfigError::new("", node.mark, format!("values are nested more than {MAX_MESSAGE_DEPTH} deep")));
    }
    match &node.value {
        Value::Null => {
            put_tag(out, 1, 0);
            put_varint(out, 0);
        }
        Value::Int(_) | Value::UInt(_) | Value::Float(_) => {
            put_tag(out, 2, 1);
            out.extend_from_slice(&node.as_f64().unwrap_or(0.0).to_le_bytes());
        }
        Value::String(text) => put_bytes(out, 3, text.as_bytes()),
        Value::Bool(value) => {
            put_tag(out, 4, 0);
            put_varint(out, (*value).into());
        }
        // A TypedStruct's value was normalised as its message: back to the JSON forms.
        Value::Bytes(bytes) => put_bytes(out, 3, well_known::encode_base64(bytes).as_bytes()),
        Value::Duration { seconds, nanos } => {
            put_bytes(out, 3, well_known::format_duration(*seconds, *nanos).as_bytes());
        }
        Value::Map(_) => {
            let mut inner = Vec::new();
            put_struct(&mut inner, node, depth + 1)?;
            put_bytes(out, 5, &inner);
        }
        Value::List(_) => {
            let mut inner = Vec::new();
            put_list(&mut inner, node, depth + 1)?;
            put_bytes(out, 6, &inner);
        }
    }
    Ok(())
}

fn map_key(kind: Kind, key: &str) -> Node {
    let value = match kind {
        Kind::Bool => Value::Bool(key == "true"),
        Kind::String => Value::String(key.into()),
        _ => key.parse().map(Value::Int).or_else(|_| key.parse().map(Value::UInt)).unwrap_or(Value::Null),
    };
    Node::new(value)
}

fn put_number(out: &mut Vec<u8>, number: u32, value: i64) {
    if value != 0 {
        put_tag(out, number, 0);
        put_varint(out, value.cast_unsigned());
    }
}

/// A field of octets.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire_type));
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A path of a field mask in snake_case.
fn proto_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 4);
    for c in path.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
