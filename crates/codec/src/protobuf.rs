//! Writes protobuf messages (proto3 wire format) of which the fields are known where they are written: telemetry, mostly.
//!
//! A field of its default value is not written, as proto3 has it; inside repeated fields and `oneof`s use the `always` forms.

/// A message that is being written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Message(Vec<u8>);

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;
const FIXED32: u32 = 5;

impl Message {
    /// An empty message.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// A string; not the empty one.
    pub fn string(&mut self, field: u32, text: &str) -> &mut Self {
        self.bytes(field, text.as_bytes())
    }

    /// Bytes; not none.
    pub fn bytes(&mut self, field: u32, bytes: &[u8]) -> &mut Self {
        if bytes.is_empty() { self } else { self.always_bytes(field, bytes) }
    }

    /// Bytes or a string, also of length 0.
    pub fn always_bytes(&mut self, field: u32, bytes: &[u8]) -> &mut Self {
        self.key(field, LENGTH);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// An integer, an enum or a bool; not 0.
    pub fn uint(&mut self, field: u32, value: u64) -> &mut Self {
        if value == 0 { self } else { self.always_uint(field, value) }
    }

    /// An integer, also 0.
    pub fn always_uint(&mut self, field: u32, value: u64) -> &mut Self {
        self.key(field, VARINT);
        self.varint(value);
        self
    }

    /// A `fixed64` or `sfixed64`, also 0.
    pub fn fixed64(&mut self, field: u32, value: u64) -> &mut Self {
        self.key(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A `fixed32`, also 0.
    pub fn fixed32(&mut self, field: u32, value: u32) -> &mut Self {
        self.key(field, FIXED32);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A `double`, also 0.
    pub fn double(&mut self, field: u32, value: f64) -> &mut Self {
        self.fixed64(field, value.to_bits())
    }

    /// Fields that were written before.
    pub fn raw(&mut self, fields: &[u8]) -> &mut Self {
        self.0.extend_from_slice(fields);
        self
    }

    /// A message within, also an empty one.
    pub fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::new();
        write(&mut inner);
        self.always_bytes(field, &inner.0)
    }

    /// Packed `fixed64`s; not none.
    pub fn packed_fixed64(&mut self, field: u32, values: &[u64]) -> &mut Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(field, &bytes)
    }

    /// Packed `double`s; not none.
    pub fn packed_double(&mut self, field: u32, values: &[f64]) -> &mut Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(field, &bytes)
    }

    fn key(&mut self, field: u32, kind: u32) {
        self.varint(u64::from(field << 3 | kind));
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// An integer, an enum or a bool.
    Varint(u64),
    /// A `fixed64`, `sfixed64` or `double`, by its bits.
    Fixed64(u64),
    /// A `fixed32`, `sfixed32` or `float`, by its bits.
    Fixed32(u32),
    /// A string, bytes, a message, or packed numbers.
    Bytes(&'a [u8]),
}

/// It is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no protobuf message")]
pub struct Malformed;

/// The fields of a message, by number, as they come. Groups are refused; nothing is copied.
pub fn fields(message: &[u8]) -> impl Iterator<Item = Result<(u32, Value<'_>), Malformed>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest).ok_or(Malformed);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let key = varint(rest)?;
    let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0)?;
    let value = match (key & 7) as u32 {
        VARINT => Value::Varint(varint(rest)?),
        FIXED64 => {
            let (octets, behind) = rest.split_first_chunk()?;
            *rest = behind;
            Value::Fixed64(u64::from_le_bytes(*octets))
        }
        LENGTH => {
            let length = usize::try_from(varint(rest)?).ok()?;
            let (bytes, behind) = rest.split_at_checked(length)?;
            *rest = behind;
            Value::Bytes(bytes)
        }
        FIXED32 => {
            let (octets, behind) = rest.split_first_chunk()?;
            *rest = behind;
            Value::Fixed32(u32::from_le_bytes(*octets))
        }
        _ => return None,
    };
    Some((number, value))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (octet, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_specification_has_it() {
        let mut message = Message::new();
        message.uint(1, 150).string(2, "testing").string(3, "").uint(4, 0);
        message.message(5, |inner| {
            inner.fixed64(1, 1).fixed32(2, 2);
        });
        let wanted: &[u8] = &[
            0x08, 0x96, 0x01, 0x12, 7, b't', b'e', b's', b't', b'i', b'n', b'g', 0x2a, 14, 0x09, 1, 0, 0, 0, 0, 0, 0,
            0, 0x15, 2, 0, 0, 0,
        ];
        assert_eq!(message.as_bytes(), wanted);
        let read: Vec<_> = fields(message.as_bytes()).collect::<Result<_, _>>().unwrap();
        let [(1, Value::Varint(150)), (2, Value::Bytes(b"testing")), (5, Value::Bytes(inner))] = read[..] else {
            panic!("{read:?}")
        };
        let inner: Vec<_> = fields(inner).collect::<Result<_, _>>().unwrap();
        assert_eq!(inner, [(1, Value::Fixed64(1)), (2, Value::Fixed32(2))]);
        for broken in [&[8][..], &[8, 0x80], &[0x12, 5, 1], &[0x0b], &[0xff; 12], &[0, 1], &[0x09, 1], &[0x15, 1]] {
            assert_eq!(fields(broken).last(), Some(Err(Malformed)), "{broken:?}");
        }
        let mut large = Message::new();
        large.always_uint(16, u64::MAX);
        assert_eq!(large.into_bytes(), [0x80, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
    }
}
