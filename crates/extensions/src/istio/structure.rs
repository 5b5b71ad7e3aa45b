//! `google.protobuf.Struct` in protobuf's encoding, as sidecars send it to each other in a field. Only texts and maps of
//! them are looked at; whatever else is in there is skipped.

use sota_config::{Node, Value};

/// Maps within maps, the outermost included.
const MAX_DEPTH: u32 = 8;
/// Fields of a message and fields of `google.protobuf.Value`, as tags with their wire type (2: with a length).
const ENTRY: u64 = 1 << 3 | 2;
const KEY: u64 = 1 << 3 | 2;
const VALUE: u64 = 2 << 3 | 2;
const STRING_VALUE: u64 = 3 << 3 | 2;
const STRUCT_VALUE: u64 = 5 << 3 | 2;

/// The map that these octets are; `None`: they are none.
pub(super) fn decode(bytes: &[u8]) -> Option<Node> {
    structure(bytes, MAX_DEPTH)
}

fn structure(bytes: &[u8], depth: u32) -> Option<Node> {
    let depth = depth.checked_sub(1)?;
    let mut entries = Vec::new();
    each(bytes, |tag, entry| {
        if tag != ENTRY {
            return Some(());
        }
        let (mut key, mut value) = ("", None);
        each(entry, |tag, content| {
            match tag {
                KEY => key = std::str::from_utf8(content).ok()?,
                VALUE => value = read_value(content, depth)?,
                _ => {}
            }
            Some(())
        })?;
        if let Some(value) = value {
            entries.push((key.into(), value));
        }
        Some(())
    })?;
    Some(Node::new(Value::Map(entries)))
}

/// A text or a map; the inner `None` is a value of another kind.
fn read_value(bytes: &[u8], depth: u32) -> Option<Option<Node>> {
    let mut found = None;
    each(bytes, |tag, content| {
        match tag {
            STRING_VALUE => found = Some(Node::string(std::str::from_utf8(content).ok()?)),
            STRUCT_VALUE => found = Some(structure(content, depth)?),
            _ => {}
        }
        Some(())
    })?;
    Some(found)
}

/// Calls `field` with each field that has a length, and skips the others. `None`: a field is cut, or of a kind that no
/// longer exists, or `field` says so.
fn each<'a>(bytes: &'a [u8], mut field: impl FnMut(u64, &'a [u8]) -> Option<()>) -> Option<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let length = match tag & 7 {
            0 => {
                varint(&mut rest)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (content, behind) = rest.split_at_checked(length)?;
        rest = behind;
        if tag & 7 == 2 {
            field(tag, content)?;
        }
    }
    Some(())
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A map in the order of its keys, so that the same map is always the same octets. What is neither text nor a map is
/// left out.
pub(super) fn encode(map: &Node) -> Vec<u8> {
    let mut entries: Vec<_> = map.pairs().iter().collect();
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    let mut out = Vec::new();
    for (key, value) in entries {
        let mut inner = Vec::new();
        match &value.value {
            Value::String(text) => push(&mut inner, STRING_VALUE, text.as_bytes()),
            Value::Map(_) => push(&mut inner, STRUCT_VALUE, &encode(value)),
            _ => continue,
        }
        let mut entry = Vec::new();
        push(&mut entry, KEY, key.as_bytes());
        push(&mut entry, VALUE, &inner);
        push(&mut out, ENTRY, &entry);
    }
    out
}

fn push(out: &mut Vec<u8>, tag: u64, content: &[u8]) {
    push_varint(out, tag);
    push_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// What was decoded and is encoded again means the same.
pub(crate) fn fuzz(data: &[u8]) {
    if let Some(map) = decode(data) {
        let again = decode(&encode(&map)).unwrap_or_else(|| panic!("{map:?} cannot be read back"));
        assert_eq!(encode(&again), encode(&map));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_maps_there_and_back() {
        let text = |text: &str| Node::string(text);
        let map = |entries: Vec<(&str, Node)>| {
            Node::new(Value::Map(entries.into_iter().map(|(key, value)| (key.into(), value)).collect()))
        };
        let whole = map(vec![("LABELS", map(vec![("app", text("a"))])), ("NAME", text(&"n".repeat(300)))]);
        let encoded = encode(&whole);
        assert_eq!(decode(&encoded), Some(whole));
        for end in 1..encoded.len() {
            fuzz(&encoded[..end]);
        }
        // `{"a": "b"}` as another implementation writes it, with a number behind it.
        let foreign = b"\x0a\x08\x0a\x01a\x12\x03\x1a\x01b\x0a\x0e\x0a\x01n\x12\x09\x11\0\0\0\0\0\0\xf0\x3f";
        assert_eq!(decode(foreign), Some(map(vec![("a", text("b"))])));
    }

    #[test]
    fn what_is_no_map() {
        let mut deep = Vec::new();
        for _ in 0..MAX_DEPTH {
            let mut value = Vec::new();
            push(&mut value, STRUCT_VALUE, &deep);
            let mut entry = Vec::new();
            push(&mut entry, VALUE, &value);
            deep = Vec::new();
            push(&mut deep, ENTRY, &entry);
        }
        for bytes in
            [&deep[..], b"\x0a\xff", b"\x0a\x03\x0a\x01\xff", b"\x0b", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
        {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }
}
