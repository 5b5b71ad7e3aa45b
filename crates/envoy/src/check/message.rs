//! Messages, their fields, lists and maps.

use super::{Walker, suggest};
use crate::{
    table::{Field, Kind, Message, Support, WellKnown},
    well_known,
};
use sota_config::{Mark, Node, Value};
use std::sync::Arc;

/// One of several policies: those of unknown types are passed over.
const LB_POLICY: &str = "envoy.config.cluster.v3.LoadBalancingPolicy.Policy";

/// A message whose fields are being collected.
struct Collected {
    message: Message,
    /// Which fields are there, by position in the message.
    fields: Vec<(usize, Arc<str>, Node)>,
    /// The member that was given first, by oneof.
    oneofs: Vec<Option<Field>>,
}

impl Walker<'_> {
    /// Walks `node` as `message`. With `enforce` unlisted fields are refused; inside a part that is refused or inert
    /// as a whole only names, types and rules are checked.
    pub(super) fn message(&mut self, node: &Node, message: Message, enforce: bool) -> Node {
        self.deeper(node.mark, |walker| match message.well_known() {
            Some(form) => walker.well_known(node, form, enforce, false),
            None => walker.fields(node, message, None, enforce),
        })
        .unwrap_or_else(Node::map)
    }

    /// Walks the fields of `node`. `skip` is a key that belongs to the enclosing `Any`.
    pub(super) fn fields(&mut self, node: &Node, message: Message, skip: Option<&str>, enforce: bool) -> Node {
        let Value::Map(entries) = &node.value else {
            self.error(node.mark, format!("expected the fields of {}, got {}", message.short_name(), describe(node)));
            return Node { value: Value::Map(Vec::new()), mark: node.mark };
        };
        let is_optional = message.field_by_key("is_optional").is_some()
            && entries
                .iter()
                .any(|(key, value)| matches!(&**key, "is_optional" | "isOptional") && value.as_bool() == Some(true));
        let mut collected = Collected {
            message,
            fields: Vec::with_capacity(entries.len()),
            oneofs: vec![None; message.oneofs().len()],
        };
        for (key, value) in entries {
            if skip == Some(&**key) {
                continue;
            }
            match message.field_by_key(key) {
                Some(field) => self.entry(&mut collected, field, key, value, enforce, is_optional),
                None => self.unknown(value.mark, unknown_field(message, key)),
            }
        }
        collected.fields.sort_by_key(|(position, ..)| *position);
        self.message_rules(&collected, node.mark);
        let entries = collected.fields.into_iter().map(|(_, name, value)| (name, value)).collect();
        Node { value: Value::Map(entries), mark: node.mark }
    }

    /// One key of a message.
    fn entry(
        &mut self,
        collected: &mut Collected,
        field: Field,
        key: &str,
        value: &Node,
        enforce: bool,
        is_optional: bool,
    ) {
        if value.is_null() && !takes_null(field) {
            return;
        }
        let name = field.name();
        let position = collected.message.position(field);
        if collected.fields.iter().any(|(other, ..)| *other == position) {
            self.error(value.mark, format!("the field \"{name}\" is given twice, here as \"{key}\""));
            return;
        }
        if let Some(member) = field.oneof().and_then(|index| collected.oneofs.get_mut(index)) {
            match *member {
                Some(first) => self.error(
                    value.mark,
                    format!("\"{}\" and \"{name}\" exclude each other; keep one of them", first.name()),
                ),
                None => *member = Some(field),
            }
        }
        let support = field.support();
        let inside = enforce && support == Support::Full;
        self.is_alternative |= collected.message.name() == LB_POLICY;
        let node = self.at_field(name, |walker| walker.field(value, field, inside, is_optional));
        if enforce
            && let Support::None(reason) = support
            && (field.has_presence() || !is_default(&node, field))
        {
            self.unsupported(value.mark, field.is_security(), &format!("the field \"{name}\""), reason);
        }
        if self.options.static_config && inside && field.is_deprecated() {
            self.warning(value.mark, format!("the field \"{name}\" is deprecated"));
        }
        let name = self.shared(field.name_id(), name);
        collected.fields.push((position, name, node));
    }

    fn field(&mut self, value: &Node, field: Field, enforce: bool, is_optional: bool) -> Node {
        if field.is_map() {
            return self.map(value, field, enforce, is_optional);
        }
        if !field.is_repeated() {
            return self.single(value, field.kind(), enforce, is_optional);
        }
        let Value::List(items) = &value.value else {
            self.error(value.mark, format!("expected a list, got {}", describe(value)));
            return Node { value: Value::Null, mark: value.mark };
        };
        let kind = field.kind();
        let items = items
            .iter()
            .enumerate()
            .map(|(index, item)| self.at_index(index, |walker| walker.single(item, kind, enforce, is_optional)))
            .collect();
        Node { value: Value::List(items), mark: value.mark }
    }

    fn map(&mut self, value: &Node, field: Field, enforce: bool, is_optional: bool) -> Node {
        let (Value::Map(entries), Some((key_field, value_field))) = (&value.value, field.map_entry()) else {
            self.error(value.mark, format!("expected a map, got {}", describe(value)));
            return Node { value: Value::Null, mark: value.mark };
        };
        let mut out = Vec::with_capacity(entries.len());
        for (key, item) in entries {
            self.at_key(key, |walker| {
                if !well_known::is_map_key(key_field.kind(), key) {
                    walker.error(
                        item.mark,
                        format!("\"{key}\" is no key of this map, whose keys are numbers or booleans"),
                    );
                }
                let item = walker.single(item, value_field.kind(), enforce, is_optional);
                out.push((key.clone(), item));
            });
        }
        out.sort_by(|a, b| a.0.cmp(&b.0));
        Node { value: Value::Map(out), mark: value.mark }
    }

    /// One value: of a field, an item of a list, or a value of a map.
    pub(super) fn single(&mut self, value: &Node, kind: Kind, enforce: bool, is_optional: bool) -> Node {
        match kind {
            Kind::Message(message) => match message.well_known() {
                Some(WellKnown::Any) => self
                    .deeper(value.mark, |walker| walker.well_known(value, WellKnown::Any, enforce, is_optional))
                    .unwrap_or_else(Node::map),
                _ => self.message(value, message, enforce),
            },
            kind => self.scalar(value, kind, enforce),
        }
    }

    /// A message that has a JSON form of its own.
    pub(super) fn well_known(&mut self, node: &Node, form: WellKnown, enforce: bool, is_optional: bool) -> Node {
        let result = match form {
            WellKnown::Any => return self.any(node, enforce, is_optional),
            WellKnown::Wrapper(field) => return self.scalar(node, field.kind(), enforce),
            WellKnown::Empty => match &node.value {
                Value::Map(entries) if entries.is_empty() => Ok(Value::Map(Vec::new())),
                _ => Err("expected an empty map".to_owned()),
            },
            WellKnown::Struct if !matches!(node.value, Value::Map(_)) => Err("expected a map".to_owned()),
            WellKnown::ListValue if !matches!(node.value, Value::List(_)) => Err("expected a list".to_owned()),
            WellKnown::Struct | WellKnown::Value | WellKnown::ListValue => return plain(node),
            WellKnown::Duration => match &node.value {
                Value::Duration { .. } => Ok(node.value.clone()),
                Value::String(text) => well_known::parse_duration(text)
                    .or_else(|| if self.options.relaxed { well_known::parse_unit_duration(text) } else { None })
                    .map(|(seconds, nanos)| Value::Duration { seconds, nanos })
                    .ok_or_else(|| "expected a duration in seconds such as \"0.25s\"".to_owned()),
                _ => Err("expected a duration in seconds such as \"0.25s\"".to_owned()),
            },
            WellKnown::Timestamp => match &node.value {
                Value::String(text) => well_known::parse_timestamp(text)
                    .map(|(seconds, nanos)| Value::String(well_known::format_timestamp(seconds, nanos).into()))
                    .ok_or_else(|| "expected a time such as \"2026-01-31T12:00:00Z\"".to_owned()),
                _ => Err("expected a time such as \"2026-01-31T12:00:00Z\"".to_owned()),
            },
            WellKnown::FieldMask => match &node.value {
                Value::String(_) => Ok(node.value.clone()),
                _ => Err("expected the names of fields with commas between them".to_owned()),
            },
        };
        match result {
            Ok(value) => Node { value, mark: node.mark },
            Err(expected) => {
                self.error(node.mark, format!("{expected}, got {}", describe(node)));
                Node { value: Value::Null, mark: node.mark }
            }
        }
    }

    /// `validate.rules` of the fields, and oneofs of which one is required.
    fn message_rules(&mut self, collected: &Collected, mark: Mark) {
        for (index, oneof) in collected.message.oneofs().enumerate() {
            if oneof.is_required() && collected.oneofs.get(index).is_some_and(Option::is_none) {
                let members: Vec<_> = collected
                    .message
                    .fields()
                    .filter(|f| f.oneof() == Some(index) && !matches!(f.support(), Support::None(_)))
                    .map(|f| format!("\"{}\"", f.name()))
                    .collect();
                let members = if members.is_empty() { format!("\"{}\"", oneof.name()) } else { members.join(", ") };
                self.error(mark, format!("one of these fields is required: {members}"));
            }
        }
        for field in collected.message.fields() {
            let rules = field.rules();
            if rules.is_empty() {
                continue;
            }
            let position = collected.message.position(field);
            let value = collected
                .fields
                .binary_search_by_key(&position, |(position, ..)| *position)
                .ok()
                .and_then(|i| collected.fields.get(i))
                .map(|(.., node)| node);
            self.field_rules(field, rules, value, mark);
        }
    }
}

/// Whether null is a value of this field, and not its absence.
fn takes_null(field: Field) -> bool {
    match field.kind() {
        Kind::Message(message) => !field.is_repeated() && message.well_known() == Some(WellKnown::Value),
        Kind::Enum(kind) => kind.name() == "google.protobuf.NullValue",
        _ => false,
    }
}

/// Whether a normalised value says the same as its absence.
pub(crate) fn is_default(node: &Node, field: Field) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Int(n) => *n == 0,
        Value::UInt(n) => *n == 0,
        Value::Float(n) => *n == 0.0 && !n.is_sign_negative(),
        Value::String(text) => match field.kind() {
            Kind::Enum(kind) => kind.value_by_name(text).is_some_and(|v| v.number() == 0),
            _ => text.is_empty(),
        },
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(items) => items.is_empty(),
        Value::Map(entries) => entries.is_empty() && field.is_map(),
        Value::Duration { .. } => false,
    }
}

/// A tree of `google.protobuf.Struct`: as it is, maps sorted by key, and whole numbers in one form.
fn plain(node: &Node) -> Node {
    let value = match &node.value {
        Value::Float(n) if n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0 => Value::Int(*n as i64),
        Value::List(items) => Value::List(items.iter().map(plain).collect()),
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries.iter().map(|(key, value)| (key.clone(), plain(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Map(entries)
        }
        other => other.clone(),
    };
    Node { value, mark: node.mark }
}

fn unknown_field(message: Message, key: &str) -> String {
    let names = message.fields().map(|field| field.name());
    match suggest::nearest(key, names) {
        Some(name) => format!("unknown field \"{key}\"; did you mean \"{name}\"?"),
        None => format!("unknown field \"{key}\" of {}", message.short_name()),
    }
}

/// A value in the words of an error.
pub(super) fn describe(node: &Node) -> String {
    const SHOWN: usize = 40;
    match &node.value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Int(n) => format!("the number {n}"),
        Value::UInt(n) => format!("the number {n}"),
        Value::Float(n) => format!("the number {n}"),
        Value::String(text) if text.chars().count() > SHOWN => {
            format!("the text \"{}…\"", text.chars().take(SHOWN).collect::<String>().escape_debug())
        }
        Value::String(text) => format!("the text \"{}\"", text.escape_debug()),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Value::Duration { .. } => "a duration".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a map".to_owned(),
    }
}
