//! A value of the protocol, and how it is written.

use bytes::Bytes;

/// A value: a command is an array of bulk strings, an answer may be anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `+OK`
    Simple(Bytes),
    /// `-ERR ...`
    Error(Bytes),
    /// `:1`
    Integer(i64),
    /// `$2 hi`
    Bulk(Bytes),
    /// `$-1`
    Null,
    /// `*-1`
    NullArray,
    /// `*2 ...`
    Array(Vec<Self>),
    /// `_` (version 3, as all below)
    Nothing,
    /// `#t`
    Boolean(bool),
    /// `,1.5`: its text.
    Double(Bytes),
    /// `(123`: its text.
    BigNumber(Bytes),
    /// `!5 ERR x`
    BulkError(Bytes),
    /// `=6 txt:hi`
    Verbatim(Bytes),
    /// `%1 ...`: keys and values in turn.
    Map(Vec<Self>),
    /// `~2 ...`
    Set(Vec<Self>),
    /// `>2 ...`: what nobody asked for.
    Push(Vec<Self>),
}

impl Value {
    /// A simple string.
    pub const fn simple(text: &'static str) -> Self {
        Self::Simple(Bytes::from_static(text.as_bytes()))
    }

    /// An error. Line ends, which would end it early, become spaces.
    pub fn error(text: impl Into<String>) -> Self {
        Self::Error(text.into().replace(['\r', '\n'], " ").into())
    }

    /// Whether it is an error.
    pub const fn is_error(&self) -> bool {
        matches!(self, Self::Error(_) | Self::BulkError(_))
    }

    /// Writes it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Simple(text) => line(b'+', text, out),
            Self::Error(text) => line(b'-', text, out),
            Self::Integer(number) => line(b':', number.to_string().as_bytes(), out),
            Self::Bulk(text) => bulk(b'$', text, out),
            Self::Null => out.extend_from_slice(b"$-1\r\n"),
            Self::NullArray => out.extend_from_slice(b"*-1\r\n"),
            Self::Array(items) => aggregate(b'*', items, 1, out),
            Self::Nothing => out.extend_from_slice(b"_\r\n"),
            Self::Boolean(is_true) => line(b'#', if *is_true { b"t" } else { b"f" }, out),
            Self::Double(text) => line(b',', text, out),
            Self::BigNumber(text) => line(b'(', text, out),
            Self::BulkError(text) => bulk(b'!', text, out),
            Self::Verbatim(text) => bulk(b'=', text, out),
            Self::Map(items) => aggregate(b'%', items, 2, out),
            Self::Set(items) => aggregate(b'~', items, 1, out),
            Self::Push(items) => aggregate(b'>', items, 1, out),
        }
    }

    /// Writes a command: an array of bulk strings.
    pub fn encode_command(words: &[Bytes], out: &mut Vec<u8>) {
        length(b'*', words.len(), out);
        for word in words {
            bulk(b'$', word, out);
        }
    }
}

fn line(kind: u8, text: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

fn length(kind: u8, length: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let (mut left, mut at) = (length, digits.len());
    loop {
        at -= 1;
        if let Some(digit) = digits.get_mut(at) {
            *digit = b'0' + u8::try_from(left % 10).unwrap_or_default();
        }
        left /= 10;
        if left == 0 {
            break;
        }
    }
    line(kind, digits.get(at..).unwrap_or_default(), out);
}

fn bulk(kind: u8, text: &[u8], out: &mut Vec<u8>) {
    length(kind, text.len(), out);
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

fn aggregate(kind: u8, items: &[Value], each: usize, out: &mut Vec<u8>) {
    length(kind, items.len() / each, out);
    for item in items {
        item.encode(out);
    }
}
