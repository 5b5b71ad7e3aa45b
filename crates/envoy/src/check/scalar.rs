//! Single values: proto3's JSON mapping, and what Envoy's YAML makes of it.

use super::{Walker, message::describe, suggest};
use crate::{
    table::{Enum, EnumValue, Kind},
    well_known,
};
use bytes::Bytes;
use sota_config::{Node, Value};

impl Walker<'_> {
    /// A value that is no message. With `enforce` unsupported enum values are refused.
    pub(super) fn scalar(&mut self, node: &Node, kind: Kind, enforce: bool) -> Node {
        let value = match kind {
            Kind::Bool => boolean(node),
            Kind::String => string(node),
            Kind::Bytes => bytes(node),
            Kind::Int32 | Kind::SInt32 | Kind::SFixed32 => signed(node, i32::MIN.into(), i32::MAX.into()),
            Kind::Int64 | Kind::SInt64 | Kind::SFixed64 => signed(node, i64::MIN.into(), i64::MAX.into()),
            Kind::UInt32 | Kind::Fixed32 => signed(node, 0, u32::MAX.into()),
            Kind::UInt64 | Kind::Fixed64 => signed(node, 0, u64::MAX.into()),
            Kind::Float => number(node).map(|value| match value {
                Value::Float(n) => Value::Float(f64::from(n as f32)),
                other => other,
            }),
            Kind::Double => number(node),
            Kind::Enum(kind) => return self.enumeration(node, kind, enforce),
            Kind::Message(message) => return self.message(node, message, enforce),
        };
        match value {
            Ok(value) => Node { value, mark: node.mark },
            Err(expected) => {
                let hint = quote_hint(node, kind);
                self.error(node.mark, format!("expected {expected}, got {}{hint}", describe(node)));
                Node { value: Value::Null, mark: node.mark }
            }
        }
    }

    fn enumeration(&mut self, node: &Node, kind: Enum, enforce: bool) -> Node {
        let found: Option<EnumValue> = match &node.value {
            Value::String(name) => {
                let relaxed = self.options.relaxed;
                kind.value_by_name(name)
                    .or_else(|| relaxed.then(|| kind.value_by_name(&name.to_ascii_uppercase())).flatten())
                    .or_else(|| name.parse().ok().and_then(|number| kind.value_by_number(number)))
            }
            Value::Int(number) => i32::try_from(*number).ok().and_then(|number| kind.value_by_number(number)),
            Value::Null if kind.name() == "google.protobuf.NullValue" => kind.value_by_number(0),
            _ => None,
        };
        let Some(found) = found else {
            self.error(node.mark, unknown_value(node, kind));
            return Node { value: Value::Null, mark: node.mark };
        };
        if enforce && let Some(reason) = found.unsupported() {
            self.unsupported(node.mark, found.is_security(), &format!("the value \"{}\"", found.name()), reason);
        }
        if enforce && self.options.static_config && found.is_deprecated() {
            self.warning(node.mark, format!("the value \"{}\" is deprecated", found.name()));
        }
        let name = self.shared(found.name_id(), found.name());
        Node { value: Value::String(name), mark: node.mark }
    }
}

fn boolean(node: &Node) -> Result<Value, String> {
    node.as_bool().map(Value::Bool).ok_or_else(|| "true or false".to_owned())
}

fn string(node: &Node) -> Result<Value, String> {
    match &node.value {
        Value::String(_) => Ok(node.value.clone()),
        // Envoy's YAML reader hands numbers beyond 32 bits on as text.
        Value::Int(n) if i32::try_from(*n).is_err() => Ok(Value::String(n.to_string().into())),
        Value::UInt(n) => Ok(Value::String(n.to_string().into())),
        _ => Err("text".to_owned()),
    }
}

fn bytes(node: &Node) -> Result<Value, String> {
    match &node.value {
        Value::Bytes(_) => Ok(node.value.clone()),
        Value::String(text) => well_known::decode_base64(text)
            .map(|b| Value::Bytes(Bytes::from(b)))
            .ok_or_else(|| "base64 text".to_owned()),
        _ => Err("base64 text".to_owned()),
    }
}

/// A whole number, which may be written as text or as `5.0`.
fn signed(node: &Node, min: i128, max: i128) -> Result<Value, String> {
    let number = match &node.value {
        Value::Int(n) => Some(i128::from(*n)),
        Value::UInt(n) => Some(i128::from(*n)),
        Value::Float(n) => whole(*n),
        Value::String(text) => text.parse().ok().or_else(|| float(text).and_then(whole)),
        _ => None,
    };
    let number = number.ok_or_else(|| "a whole number".to_owned())?;
    if number < min || number > max {
        return Err(format!("a whole number from {min} to {max}"));
    }
    i64::try_from(number)
        .map(Value::Int)
        .or_else(|_| u64::try_from(number).map(Value::UInt))
        .map_err(|_| "a whole number".to_owned())
}

fn whole(n: f64) -> Option<i128> {
    (n.fract() == 0.0 && n.abs() < 18_446_744_073_709_551_616.0).then_some(n as i128)
}

fn number(node: &Node) -> Result<Value, String> {
    let number = match &node.value {
        Value::Int(n) => Some(*n as f64),
        Value::UInt(n) => Some(*n as f64),
        Value::Float(n) => Some(*n),
        Value::String(text) => float(text),
        _ => None,
    };
    number.map(Value::Float).ok_or_else(|| "a number".to_owned())
}

/// A number as text, with the three names of proto3's JSON.
fn float(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ if text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) => text.parse().ok(),
        _ => None,
    }
}

/// YAML reads `yes`, `on` and `5` as something else than text: the quotes are what is missing.
fn quote_hint(node: &Node, kind: Kind) -> &'static str {
    match (&node.value, kind) {
        (Value::Bool(_) | Value::Int(_), Kind::String) => "; put it in quotes",
        _ => "",
    }
}

fn unknown_value(node: &Node, kind: Enum) -> String {
    const LISTED: usize = 8;
    if let Value::String(name) = &node.value
        && let Some(near) = suggest::nearest(name, kind.values().map(EnumValue::name))
    {
        return format!("unknown value \"{}\"; did you mean \"{near}\"?", name.escape_debug());
    }
    let names: Vec<_> = kind.values().take(LISTED).map(EnumValue::name).collect();
    let more = if kind.values().len() > LISTED { ", …" } else { "" };
    format!("expected one of {}{more}, got {}", names.join(", "), describe(node))
}
