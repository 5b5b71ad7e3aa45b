//! The document tree: one shape for YAML, JSON, protobuf and the native dialect.
//!
//! A reader makes a [`Node`] from bytes; the Envoy dialect checks it against the message table and normalises it
//! (proto field names, enum values by name, durations parsed); translators and extensions read it by field name.
//! The getters are lenient on purpose: a field that is absent reads as the protobuf default, and after the check a
//! present field has the type that its message declares.

use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// A place in the source text, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Line, from 1; 0 when the document has no lines (wire bytes).
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Mark {
    /// No position: the document came as wire bytes or was made by a program.
    pub const NONE: Self = Self { line: 0, column: 0 };
}

/// A value with its place. Equality compares values only, never places.
#[derive(Debug, Clone)]
pub struct Node {
    /// What stands there.
    pub value: Value,
    /// Where it stands.
    pub mark: Mark,
}

/// What a node holds. Numbers keep the widest exact form.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing: `null`, or a key without a value.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number that fits `i64`.
    Int(i64),
    /// A whole number above `i64::MAX`.
    UInt(u64),
    /// Any other number.
    Float(f64),
    /// Text, and after the check also the name of an enum value.
    String(Arc<str>),
    /// Bytes of a `bytes` field (after the check; base64 text in a document).
    Bytes(Bytes),
    /// A `google.protobuf.Duration` (after the check). May be negative where its message allows that.
    Duration {
        /// Whole seconds.
        seconds: i64,
        /// Nanoseconds, of the same sign as `seconds`.
        nanos: i32,
    },
    /// A list.
    List(Vec<Node>),
    /// A message or map: keys in document order, each once.
    Map(Vec<(Arc<str>, Node)>),
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

static NULL: Node = Node { value: Value::Null, mark: Mark::NONE };

impl Node {
    /// A node without a place.
    pub fn new(value: Value) -> Self {
        Self { value, mark: Mark::NONE }
    }

    /// A string node without a place.
    pub fn string(text: impl Into<Arc<str>>) -> Self {
        Self::new(Value::String(text.into()))
    }

    /// An empty map without a place.
    pub fn map() -> Self {
        Self::new(Value::Map(Vec::new()))
    }

    /// The field, unless it is absent or null.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries
                .iter()
                .find(|(name, node)| &**name == key && !matches!(node.value, Value::Null))
                .map(|(_, node)| node),
            _ => None,
        }
    }

    /// The field, or a null node: so that nested messages can be read without asking for each whether it is there.
    pub fn field(&self, key: &str) -> &Self {
        self.get(key).unwrap_or(&NULL)
    }

    /// The place of what stands at a path such as `listeners[0].name`; where that is not there, of what is around it.
    pub fn mark_at(&self, path: &str) -> Mark {
        let mut node = self;
        for step in path.split(['.', '[']) {
            let below = match step.strip_suffix(']') {
                Some(index) => index.parse().ok().and_then(|at: usize| node.items().get(at)),
                None => node.get(step),
            };
            let Some(below) = below else { break };
            node = below;
        }
        node.mark
    }

    /// Whether the field is present and not null.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Whether this node is null or absent.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The text of a string field; empty when absent.
    pub fn str(&self, key: &str) -> &str {
        self.field(key).as_str().unwrap_or("")
    }

    /// The boolean field; false when absent.
    pub fn bool(&self, key: &str) -> bool {
        self.field(key).as_bool().unwrap_or(false)
    }

    /// The boolean field (or `BoolValue` wrapper), with another default than false.
    pub fn bool_or(&self, key: &str, default: bool) -> bool {
        self.field(key).as_bool().unwrap_or(default)
    }

    /// The whole-number field when present and not negative.
    pub fn uint(&self, key: &str) -> Option<u64> {
        self.field(key).as_u64()
    }

    /// The field as `u32` when present and in range.
    pub fn u32(&self, key: &str) -> Option<u32> {
        self.uint(key).and_then(|n| u32::try_from(n).ok())
    }

    /// The number field when present.
    pub fn f64(&self, key: &str) -> Option<f64> {
        self.field(key).as_f64()
    }

    /// The duration field when present and not negative.
    pub fn duration(&self, key: &str) -> Option<Duration> {
        self.field(key).as_duration()
    }

    /// The items of a list field; none when absent.
    pub fn list(&self, key: &str) -> &[Self] {
        self.field(key).items()
    }

    /// The strings of a list field.
    pub fn strings(&self, key: &str) -> Vec<String> {
        self.list(key).iter().filter_map(Self::as_str).map(str::to_owned).collect()
    }

    /// The entries of a map field, in document order; none when absent.
    pub fn entries(&self, key: &str) -> &[(Arc<str>, Self)] {
        self.field(key).pairs()
    }

    /// The items, when this is a list.
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The entries, when this is a map.
    pub fn pairs(&self) -> &[(Arc<str>, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The text, when this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes of a `bytes` field, or of a string.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match &self.value {
            Value::Bytes(bytes) => Some(bytes),
            Value::String(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// The boolean, when this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The whole number, when this is one and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self.value {
            Value::Int(n) => u64::try_from(n).ok(),
            Value::UInt(n) => Some(n),
            _ => None,
        }
    }

    /// The whole number, when this is one that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self.value {
            Value::Int(n) => Some(n),
            _ => None,
        }
    }

    /// The number, whole or not.
    pub fn as_f64(&self) -> Option<f64> {
        match self.value {
            Value::Int(n) => Some(n as f64),
            Value::UInt(n) => Some(n as f64),
            Value::Float(n) => Some(n),
            _ => None,
        }
    }

    /// The duration, when this is one and not negative.
    pub fn as_duration(&self) -> Option<Duration> {
        match self.value {
            Value::Duration { seconds, nanos } if seconds >= 0 && nanos >= 0 => {
                Some(Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?))
            }
            _ => None,
        }
    }
}
