//! The metadata that an endpoint must have for a request (`metadata_match`, namespace `envoy.lb`).

use sota_config::{Node, Value};
use std::sync::Arc;

/// The namespace of metadata that balancing looks at.
pub(super) const NAMESPACE: &str = "envoy.lb";

/// Keys and values, sorted by key, ready to be looked up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetadataMatch {
    pairs: Vec<(Arc<str>, Node)>,
    key: Box<[u8]>,
}

impl MetadataMatch {
    /// Of these pairs; the last of a key counts.
    pub fn new(pairs: impl IntoIterator<Item = (Arc<str>, Node)>) -> Self {
        let pairs: std::collections::BTreeMap<_, _> = pairs.into_iter().collect();
        let pairs: Vec<_> = pairs.into_iter().collect();
        Self { key: key(pairs.iter().map(|(name, value)| (&**name, value))), pairs }
    }

    /// With `over` on top: its values count where both have a key.
    #[must_use]
    pub fn merged(&self, over: &[(Arc<str>, Node)]) -> Self {
        Self::new(self.pairs.iter().chain(over).cloned())
    }

    /// Keys and values.
    pub(super) fn pairs(&self) -> &[(Arc<str>, Node)] {
        &self.pairs
    }

    /// Only what stands under these keys.
    pub(super) fn only(&self, keys: &[Arc<str>]) -> Self {
        Self::new(self.pairs.iter().filter(|(name, _)| keys.contains(name)).cloned())
    }

    /// Whether the keys are exactly these, which are sorted.
    pub(super) fn has_keys(&self, keys: &[Arc<str>]) -> bool {
        self.pairs.len() == keys.len() && self.pairs.iter().zip(keys).all(|((name, _), key)| name == key)
    }

    /// What [`key`] makes of it.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }
}

/// Pairs as octets: equal if the pairs are, as protobuf's values compare.
pub(super) fn key<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a Node)>) -> Box<[u8]> {
    let mut out = Vec::new();
    for (name, value) in pairs {
        text(name, &mut out);
        write(value, &mut out);
    }
    out.into()
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&text.len().to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn write(node: &Node, out: &mut Vec<u8>) {
    match &node.value {
        Value::Bool(value) => out.extend_from_slice(&[b'b', u8::from(*value)]),
        Value::Int(_) | Value::UInt(_) | Value::Float(_) => {
            out.push(b'n');
            out.extend_from_slice(&node.as_f64().unwrap_or_default().to_bits().to_le_bytes());
        }
        Value::String(value) => {
            out.push(b's');
            text(value, out);
        }
        Value::List(items) => {
            out.push(b'l');
            out.extend_from_slice(&items.len().to_le_bytes());
            items.iter().for_each(|item| write(item, out));
        }
        Value::Map(pairs) => {
            let mut pairs: Vec<_> = pairs.iter().collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            out.push(b'm');
            out.extend_from_slice(&pairs.len().to_le_bytes());
            for (name, value) in pairs {
                text(name, out);
                write(value, out);
            }
        }
        // No value of a `google.protobuf.Struct`.
        Value::Null | Value::Bytes(_) | Value::Duration { .. } => out.push(b'0'),
    }
}
