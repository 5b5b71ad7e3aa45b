//! Decoding of field blocks (RFC 7541 §3.2, §6).

use super::{huffman, integer, static_table, table::Table};
use sota_plugin::http::{HeaderId, is_token};

/// A field name, classified once: when its literal is read, or when the program was compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name<'a> {
    /// A name with an id.
    Known(HeaderId),
    /// A pseudo-header field.
    Pseudo(Pseudo),
    /// Any other token in lower case.
    Other(&'a [u8]),
    /// Not a name that HTTP/2 may have: upper case, no token, an unknown pseudo-header field (RFC 9113 §8.2.1).
    Invalid(&'a [u8]),
}

/// The pseudo-header fields (RFC 9113 §8.3, RFC 8441 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pseudo {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:authority`
    Authority,
    /// `:path`
    Path,
    /// `:protocol`
    Protocol,
    /// `:status`
    Status,
}

impl Pseudo {
    /// The name with its colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Method => ":method",
            Self::Scheme => ":scheme",
            Self::Authority => ":authority",
            Self::Path => ":path",
            Self::Protocol => ":protocol",
            Self::Status => ":status",
        }
    }
}

impl<'a> Name<'a> {
    /// Sorts a name.
    pub const fn classify(text: &'a [u8]) -> Self {
        if let [b':', rest @ ..] = text {
            return match rest {
                b"method" => Self::Pseudo(Pseudo::Method),
                b"scheme" => Self::Pseudo(Pseudo::Scheme),
                b"authority" => Self::Pseudo(Pseudo::Authority),
                b"path" => Self::Pseudo(Pseudo::Path),
                b"protocol" => Self::Pseudo(Pseudo::Protocol),
                b"status" => Self::Pseudo(Pseudo::Status),
                _ => Self::Invalid(text),
            };
        }
        match HeaderId::find(text) {
            // Found in any case, so only the case is left to look at.
            Some(id) if !has_upper_case(text) => Self::Known(id),
            None if is_token(text) && !has_upper_case(text) => Self::Other(text),
            _ => Self::Invalid(text),
        }
    }

    /// The text.
    #[inline]
    pub const fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Known(id) => id.as_str().as_bytes(),
            Self::Pseudo(pseudo) => pseudo.as_str().as_bytes(),
            Self::Other(text) | Self::Invalid(text) => text,
        }
    }
}

const fn has_upper_case(text: &[u8]) -> bool {
    let (mut rest, mut found) = (text, false);
    // Without a branch per octet.
    while let [first, tail @ ..] = rest {
        found |= first.is_ascii_uppercase();
        rest = tail;
    }
    found
}

/// Takes the fields of a block, in order. What it does not want it ignores: the block is read to its end all the
/// same, because the table has to follow.
pub trait FieldSink {
    /// One field. The value may hold any octet.
    fn field(&mut self, name: Name<'_>, value: &[u8]);
}

/// A block that cannot be read; the connection has lost its state (COMPRESSION_ERROR).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid field compression")]
pub struct HpackError;

/// The decoder of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// What the table's size may be set to.
    limit: usize,
    /// The limit was lowered below the table's size: the next block must begin with an update (RFC 7541 §4.2).
    must_update: bool,
}

impl Decoder {
    /// With the protocol's table size of 4096 octets, which is in force until the peer knows of another.
    pub fn new() -> Self {
        Self { table: Table::new(DEFAULT_TABLE_SIZE), limit: DEFAULT_TABLE_SIZE, must_update: false }
    }

    /// What `SETTINGS_HEADER_TABLE_SIZE` allows the peer's encoder from now on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.must_update = limit < self.table.max_size();
    }

    /// Octets of memory that the table owns.
    pub fn memory(&self) -> usize {
        self.table.memory()
    }

    /// Reads a whole block. `scratch` is memory for strings in Huffman code. After an error the decoder is of no use.
    pub fn decode(&mut self, block: &[u8], scratch: &mut Vec<u8>, sink: &mut impl FieldSink) -> Result<(), HpackError> {
        self.read(block, scratch, sink).ok_or(HpackError)
    }

    fn read(&mut self, block: &[u8], scratch: &mut Vec<u8>, sink: &mut impl FieldSink) -> Option<()> {
        let mut input = block;
        let mut updates = 0;
        while input.first().is_some_and(|first| first & 0xe0 == 0x20) {
            let size = integer::decode(&mut input, 5)? as usize;
            updates += 1;
            // A change and its way back are two; more is noise.
            if size > self.limit || updates > 2 {
                return None;
            }
            self.must_update = false;
            self.table.set_max_size(size);
        }
        if self.must_update {
            return None;
        }
        while let Some(first) = input.first().copied() {
            if first & 0x80 != 0 {
                let index = integer::decode(&mut input, 7)? as usize;
                let (name, value) = lookup(&self.table, index)?;
                sink.field(name, value);
            } else if first & 0x40 != 0 {
                let index = integer::decode(&mut input, 6)? as usize;
                self.literal(index, true, &mut input, scratch, sink)?;
            } else if first & 0x20 == 0 {
                // Without indexing and never indexed are the same here: a proxy's encoder decides by the name.
                let index = integer::decode(&mut input, 4)? as usize;
                self.literal(index, false, &mut input, scratch, sink)?;
            } else {
                // A size update behind a field (RFC 7541 §4.2).
                return None;
            }
        }
        Some(())
    }

    fn literal(
        &mut self,
        index: usize,
        insert: bool,
        input: &mut &[u8],
        scratch: &mut Vec<u8>,
        sink: &mut impl FieldSink,
    ) -> Option<()> {
        scratch.clear();
        let literal_name = if index == 0 { Some(Text::read(input, scratch)?) } else { None };
        let value = Text::read(input, scratch)?;
        let value = value.get(scratch)?;
        let name = match &literal_name {
            Some(text) => Name::classify(text.get(scratch)?),
            None => lookup(&self.table, index)?.0,
        };
        sink.field(name, value);
        if !insert {
            return Some(());
        }
        match name {
            Name::Known(id) => self.table.insert(Name::Known(id), value),
            Name::Pseudo(pseudo) => self.table.insert(Name::Pseudo(pseudo), value),
            // The name may stand in the very entry that the insertion evicts.
            Name::Other(text) if literal_name.is_none() => {
                let text = text.to_vec();
                self.table.insert(Name::Other(&text), value)
            }
            Name::Invalid(text) => {
                let text = text.to_vec();
                self.table.insert(Name::Invalid(&text), value)
            }
            Name::Other(_) => {
                let text = literal_name.as_ref()?.get(scratch)?;
                self.table.insert(Name::Other(text), value)
            }
        };
        Some(())
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// The table size that both sides begin with (RFC 9113 §6.5.2).
pub(super) const DEFAULT_TABLE_SIZE: usize = 4096;

#[inline]
fn lookup(table: &Table, index: usize) -> Option<(Name<'_>, &[u8])> {
    match static_table::entry(index) {
        Some(entry) => Some((entry.name, entry.value.as_bytes())),
        None => table.get(index.checked_sub(static_table::LEN + 1)?),
    }
}

/// A string of a literal: a slice of the block, or a range of the scratch memory that it was decoded to.
enum Text<'a> {
    Plain(&'a [u8]),
    Decoded(std::ops::Range<usize>),
}

impl<'a> Text<'a> {
    fn read(input: &mut &'a [u8], scratch: &mut Vec<u8>) -> Option<Self> {
        let is_huffman = input.first()? & 0x80 != 0;
        let len = integer::decode(input, 7)? as usize;
        let (text, rest) = input.split_at_checked(len)?;
        *input = rest;
        if !is_huffman {
            return Some(Self::Plain(text));
        }
        let start = scratch.len();
        huffman::decode(text, scratch)?;
        Some(Self::Decoded(start..scratch.len()))
    }

    fn get<'b>(&'b self, scratch: &'b [u8]) -> Option<&'b [u8]> {
        match self {
            Self::Plain(text) => Some(text),
            Self::Decoded(range) => scratch.get(range.clone()),
        }
    }
}
