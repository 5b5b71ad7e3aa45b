//! A part of the document that is kept to be shown, in a twentieth of the memory that its tree takes.

use crate::node::{Mark, Node, Value};
use bytes::Bytes;
use std::{fmt, str, sync::Arc};

/// A document tree as bytes, made by [`Self::new`] and read back by [`Self::node`]. Equality compares values only, never
/// places, as that of trees does.
#[derive(Clone)]
pub struct Source {
    values: Box<[u8]>,
    /// Of each value, in the order of `values`; empty when places are not kept.
    marks: Box<[u8]>,
}

impl Source {
    /// Keeps a tree without its places.
    pub fn new(node: &Node) -> Self {
        let mut writer = Writer::default();
        writer.node(node);
        Self { values: writer.values.into(), marks: Box::default() }
    }

    /// Keeps a tree with its places: [`Node::mark_at`] finds them again.
    pub fn with_marks(node: &Node) -> Self {
        let mut writer = Writer { marks: Some(Marks::default()), ..Writer::default() };
        writer.node(node);
        Self { values: writer.values.into(), marks: writer.marks.unwrap_or_default().bytes.into() }
    }

    /// The tree.
    pub fn node(&self) -> Node {
        let mut reader = Reader { values: &self.values, marks: &self.marks, line: 0, keys: Vec::new() };
        let node = reader.node();
        debug_assert!(node.is_some(), "these bytes were written by a writer");
        node.unwrap_or_else(|| Node::new(Value::Null))
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node().fmt(f)
    }
}

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const UINT: u8 = 4;
const FLOAT: u8 = 5;
const STRING: u8 = 6;
const BYTES: u8 = 7;
const DURATION: u8 = 8;
const LIST: u8 = 9;
const MAP: u8 = 10;

#[derive(Default)]
struct Writer<'a> {
    values: Vec<u8>,
    marks: Option<Marks>,
    /// A key is written out once; from then on its number stands for it.
    keys: Vec<&'a str>,
}

#[derive(Default)]
struct Marks {
    bytes: Vec<u8>,
    line: u32,
}

impl<'a> Writer<'a> {
    fn node(&mut self, node: &'a Node) {
        if let Some(marks) = &mut self.marks {
            // Most values stand on the line of the one before, or on the next.
            put(&mut marks.bytes, zigzag(i64::from(node.mark.line) - i64::from(marks.line)));
            put(&mut marks.bytes, node.mark.column.into());
            marks.line = node.mark.line;
        }
        match &node.value {
            Value::Null => self.values.push(NULL),
            Value::Bool(false) => self.values.push(FALSE),
            Value::Bool(true) => self.values.push(TRUE),
            Value::Int(n) => self.tagged(INT, zigzag(*n)),
            Value::UInt(n) => self.tagged(UINT, *n),
            Value::Float(n) => {
                self.values.push(FLOAT);
                self.values.extend(n.to_le_bytes());
            }
            Value::String(text) => self.text(STRING, text.as_bytes()),
            Value::Bytes(bytes) => self.text(BYTES, bytes),
            Value::Duration { seconds, nanos } => {
                self.tagged(DURATION, zigzag(*seconds));
                put(&mut self.values, zigzag((*nanos).into()));
            }
            Value::List(items) => {
                self.tagged(LIST, items.len() as u64);
                items.iter().for_each(|item| self.node(item));
            }
            Value::Map(entries) => {
                self.tagged(MAP, entries.len() as u64);
                for (key, value) in entries {
                    self.key(key);
                    self.node(value);
                }
            }
        }
    }

    fn tagged(&mut self, tag: u8, number: u64) {
        self.values.push(tag);
        put(&mut self.values, number);
    }

    fn text(&mut self, tag: u8, bytes: &[u8]) {
        self.tagged(tag, bytes.len() as u64);
        self.values.extend(bytes);
    }

    /// 0 and the key, or its number from 1. The documents of messages have few keys; maps of users may have many, and of
    /// those the latest are looked at.
    fn key(&mut self, key: &'a str) {
        const LOOKED_AT: usize = 64;
        let from = self.keys.len().saturating_sub(LOOKED_AT);
        let known = self.keys.iter().skip(from).position(|known| *known == key);
        match known {
            Some(at) => put(&mut self.values, (from + at) as u64 + 1),
            None => {
                self.values.push(0);
                put(&mut self.values, key.len() as u64);
                self.values.extend(key.as_bytes());
                self.keys.push(key);
            }
        }
    }
}

struct Reader<'a> {
    values: &'a [u8],
    marks: &'a [u8],
    line: u32,
    keys: Vec<Arc<str>>,
}

impl<'a> Reader<'a> {
    fn node(&mut self) -> Option<Node> {
        let mark = match self.marks {
            [] => Mark::NONE,
            _ => {
                self.line = u32::try_from(i64::from(self.line) + unzigzag(take(&mut self.marks)?)).ok()?;
                Mark { line: self.line, column: u32::try_from(take(&mut self.marks)?).ok()? }
            }
        };
        let (tag, rest) = self.values.split_first()?;
        self.values = rest;
        let value = match *tag {
            NULL => Value::Null,
            FALSE => Value::Bool(false),
            TRUE => Value::Bool(true),
            INT => Value::Int(unzigzag(self.number()?)),
            UINT => Value::UInt(self.number()?),
            FLOAT => {
                let (bytes, rest) = self.values.split_first_chunk()?;
                self.values = rest;
                Value::Float(f64::from_le_bytes(*bytes))
            }
            STRING => Value::String(self.text()?.into()),
            BYTES => Value::Bytes(Bytes::copy_from_slice(self.bytes()?)),
            DURATION => Value::Duration {
                seconds: unzigzag(self.number()?),
                nanos: i32::try_from(unzigzag(self.number()?)).ok()?,
            },
            LIST => {
                let count = self.number()?;
                Value::List((0..count).map(|_| self.node()).collect::<Option<_>>()?)
            }
            MAP => {
                let count = self.number()?;
                Value::Map((0..count).map(|_| Some((self.key()?, self.node()?))).collect::<Option<_>>()?)
            }
            _ => return None,
        };
        Some(Node { value, mark })
    }

    fn key(&mut self) -> Option<Arc<str>> {
        let number = self.number()?;
        if let Some(at) = number.checked_sub(1) {
            return self.keys.get(usize::try_from(at).ok()?).cloned();
        }
        let key: Arc<str> = self.text()?.into();
        self.keys.push(Arc::clone(&key));
        Some(key)
    }

    fn number(&mut self) -> Option<u64> {
        take(&mut self.values)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.values.split_at_checked(length)?;
        self.values = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        str::from_utf8(self.bytes()?).ok()
    }
}

/// Seven bits an octet, the lowest first; the highest bit says that more follow.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (octet, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Small numbers of both signs as small numbers.
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind() -> Node {
        let at = |line, column, value| Node { value, mark: Mark { line, column } };
        let entry = |key: &str, node| (Arc::<str>::from(key), node);
        let ints = [0, 1, -1, 63, 64, -65, i64::MAX, i64::MIN].map(|n| at(7, 300, Value::Int(n)));
        at(
            1,
            1,
            Value::Map(vec![
                entry("null", at(2, 7, Value::Null)),
                entry("yes", at(2, 8, Value::Bool(true))),
                entry("no", at(2, 9, Value::Bool(false))),
                entry("ints", at(7, 1, Value::List(ints.into()))),
                entry("uint", at(3, 1, Value::UInt(u64::MAX))),
                entry("float", at(3, 1, Value::Float(-0.25))),
                entry("text", at(u32::MAX, u32::MAX, Value::String("häß".into()))),
                entry("bytes", at(0, 0, Value::Bytes(Bytes::from_static(b"\0\xff")))),
                entry("duration", at(4, 1, Value::Duration { seconds: -3, nanos: -999_999_999 })),
                entry("", at(5, 1, Value::Map(vec![entry("text", at(5, 2, Value::Null)), entry("x", Node::map())]))),
            ]),
        )
    }

    fn marks(node: &Node, found: &mut Vec<Mark>) {
        found.push(node.mark);
        node.items().iter().chain(node.pairs().iter().map(|(_, node)| node)).for_each(|node| marks(node, found));
    }

    #[test]
    fn what_was_kept_is_what_was_read() {
        let node = every_kind();
        assert_eq!(Source::new(&node).node(), node);
        let again = Source::with_marks(&node).node();
        assert_eq!(again, node);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        marks(&node, &mut before);
        marks(&again, &mut after);
        assert_eq!(before, after);
    }

    #[test]
    fn places_are_not_compared() {
        let node = every_kind();
        assert_eq!(Source::new(&node), Source::with_marks(&node));
        let Value::Map(mut entries) = every_kind().value else { panic!("a map") };
        entries.pop();
        assert_ne!(Source::new(&node), Source::new(&Node::new(Value::Map(entries))));
    }

    #[test]
    fn maps_of_very_many_keys_are_kept_too() {
        let keys = (0..5000).chain(0..5000).map(|n| (Arc::<str>::from(format!("key{n}")), Node::new(Value::Int(n))));
        let node = Node::new(Value::Map(keys.collect()));
        assert_eq!(Source::new(&node).node(), node);
    }

    #[test]
    fn is_small() {
        let endpoint = |n: i64| {
            let wrap = |key: &str, node| Node::new(Value::Map(vec![(Arc::<str>::from(key), node)]));
            let address = Value::Map(vec![
                ("address".into(), Node::string(format!("10.0.{}.{}", n / 256, n % 256))),
                ("port_value".into(), Node::new(Value::Int(8080))),
            ]);
            wrap("endpoint", wrap("address", wrap("socket_address", Node::new(address))))
        };
        let node = Node::new(Value::List((0..1000).map(endpoint).collect()));
        let source = Source::new(&node);
        assert!(source.values.len() < 30_000, "{} octets for 1,000 endpoints", source.values.len());
    }
}
