//! Reading values.

use super::Value;
use bytes::{Bytes, BytesMut};

/// What a peer may send. The defaults are Redis's own limits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Octets of a line; default 64 KiB.
    pub line: usize,
    /// Octets of a whole value; default 512 MiB.
    pub value: usize,
    /// Items of an array; default 1 Mi.
    pub items: usize,
    /// Arrays in arrays; default 32.
    pub depth: usize,
    /// Whether a line of words is a command; default no.
    pub inline: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { line: 64 * 1024, value: 512 << 20, items: 1 << 20, depth: 32, inline: false }
    }
}

/// Why bytes are no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RespError {
    /// The first octet names no type.
    #[error("unknown type {0:#04x}")]
    UnknownType(u8),
    /// Not a length, a number or a truth value.
    #[error("malformed number")]
    Number,
    /// A line or string does not end in CRLF.
    #[error("missing CRLF")]
    LineEnd,
    /// Over a limit.
    #[error("too large")]
    TooLarge,
}

/// Reads the values of one direction of a connection.
#[derive(Debug, Default)]
pub struct Decoder {
    limits: Limits,
    /// Arrays that are not complete, the outermost first.
    open: Vec<Open>,
    bulk: Option<Bulk>,
    /// Octets of the value that is being read.
    used: usize,
}

#[derive(Debug)]
struct Open {
    kind: u8,
    left: usize,
    items: Vec<Value>,
}

#[derive(Debug)]
struct Bulk {
    kind: u8,
    length: usize,
    /// What came before the rest, when it did not come in one piece.
    begun: BytesMut,
}

impl Decoder {
    /// With limits of one's own.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes the next value from the front of the buffer. `None`: more is needed. After an error the rest means nothing.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Value>, RespError> {
        loop {
            let value = match self.bulk.take() {
                Some(bulk) => self.string(bulk, buffer)?,
                None => {
                    let Some(line) = self.line(buffer)? else { return Ok(None) };
                    self.header(line)?
                }
            };
            match value {
                Step::Value(value) => {
                    if let Some(value) = self.close(value) {
                        self.used = 0;
                        return Ok(Some(value));
                    }
                }
                Step::Opened => {}
                Step::More => return Ok(None),
            }
        }
    }

    /// Whether a value has begun and is not complete.
    pub fn is_within(&self) -> bool {
        self.bulk.is_some() || !self.open.is_empty()
    }

    fn use_up(&mut self, octets: usize) -> Result<(), RespError> {
        self.used = self.used.saturating_add(octets);
        if self.used > self.limits.value { Err(RespError::TooLarge) } else { Ok(()) }
    }

    /// A line without its end.
    fn line(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, RespError> {
        let Some(end) = memchr::memchr(b'\n', buffer) else {
            // With a return at the end it may be whole.
            return if buffer.len() > self.limits.line + 1 { Err(RespError::TooLarge) } else { Ok(None) };
        };
        if end > self.limits.line + 1 {
            return Err(RespError::TooLarge);
        }
        let mut line = buffer.split_to(end + 1);
        line.truncate(end);
        if line.last() != Some(&b'\r') {
            return Err(RespError::LineEnd);
        }
        line.truncate(line.len() - 1);
        // A return within would be another end to another reader.
        if memchr::memchr(b'\r', &line).is_some() {
            return Err(RespError::LineEnd);
        }
        self.use_up(end + 1)?;
        Ok(Some(line.freeze()))
    }

    fn header(&mut self, line: Bytes) -> Result<Step, RespError> {
        let Some((kind, _)) = line.split_first() else { return Err(RespError::UnknownType(b'\r')) };
        let rest = line.slice(1..);
        let value = match *kind {
            b'+' => Value::Simple(rest),
            b'-' => Value::Error(rest),
            b':' => Value::Integer(number(&rest)?),
            b'_' if rest.is_empty() => Value::Nothing,
            b'#' => Value::Boolean(match &*rest {
                b"t" => true,
                b"f" => false,
                _ => return Err(RespError::Number),
            }),
            b',' => Value::Double(rest),
            b'(' => Value::BigNumber(rest),
            b'$' if &*rest == b"-1" => Value::Null,
            b'*' if &*rest == b"-1" => Value::NullArray,
            kind @ (b'$' | b'!' | b'=') => {
                let length = length(&rest, self.limits.value)?;
                self.bulk = Some(Bulk { kind, length, begun: BytesMut::new() });
                return Ok(Step::Opened);
            }
            kind @ (b'*' | b'%' | b'~' | b'>') => {
                let each = if kind == b'%' { 2 } else { 1 };
                let left = length(&rest, self.limits.items / each)? * each;
                if left == 0 {
                    return Ok(Step::Value(collected(kind, Vec::new())));
                }
                if self.open.len() >= self.limits.depth {
                    return Err(RespError::TooLarge);
                }
                self.open.push(Open { kind, left, items: Vec::new() });
                return Ok(Step::Opened);
            }
            kind if is_word(kind) && self.limits.inline && self.open.is_empty() => inline(&line)?,
            kind => return Err(RespError::UnknownType(kind)),
        };
        Ok(Step::Value(value))
    }

    /// The next piece of a string.
    fn string(&mut self, mut bulk: Bulk, buffer: &mut BytesMut) -> Result<Step, RespError> {
        let whole = bulk.length + 2;
        let rest = whole.saturating_sub(bulk.begun.len());
        if buffer.len() < rest {
            self.use_up(buffer.len())?;
            if bulk.begun.is_empty() {
                bulk.begun = buffer.split();
            } else {
                bulk.begun.unsplit(buffer.split());
            }
            self.bulk = Some(bulk);
            return Ok(Step::More);
        }
        self.use_up(rest)?;
        let mut text = buffer.split_to(rest);
        if !bulk.begun.is_empty() {
            bulk.begun.unsplit(text);
            text = bulk.begun;
        }
        if text.get(bulk.length..) != Some(b"\r\n") {
            return Err(RespError::LineEnd);
        }
        text.truncate(bulk.length);
        let text = text.freeze();
        Ok(Step::Value(match bulk.kind {
            b'!' => Value::BulkError(text),
            b'=' => Value::Verbatim(text),
            _ => Value::Bulk(text),
        }))
    }

    /// Puts a value into the array that waits for it, which may complete that, and so on.
    fn close(&mut self, mut value: Value) -> Option<Value> {
        while let Some(open) = self.open.last_mut() {
            open.items.push(value);
            open.left -= 1;
            if open.left > 0 {
                return None;
            }
            let Open { kind, items, .. } = self.open.pop()?;
            value = collected(kind, items);
        }
        Some(value)
    }
}

enum Step {
    Value(Value),
    Opened,
    More,
}

fn collected(kind: u8, items: Vec<Value>) -> Value {
    match kind {
        b'%' => Value::Map(items),
        b'~' => Value::Set(items),
        b'>' => Value::Push(items),
        _ => Value::Array(items),
    }
}

/// Whether a line that begins so is one of words.
fn is_word(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || octet == b' '
}

/// A line of words. Quotes, which Redis knows, are refused: their words would be others.
fn inline(line: &Bytes) -> Result<Value, RespError> {
    if let Some(at) = memchr::memchr2(b'"', b'\'', line) {
        return Err(RespError::UnknownType(line.get(at).copied().unwrap_or_default()));
    }
    let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    Ok(Value::Array(words.map(|word| Value::Bulk(line.slice_ref(word))).collect()))
}

fn number(text: &[u8]) -> Result<i64, RespError> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(RespError::Number)
}

fn length(text: &[u8], most: usize) -> Result<usize, RespError> {
    let length = usize::try_from(number(text)?).map_err(|_| RespError::Number)?;
    if length > most { Err(RespError::TooLarge) } else { Ok(length) }
}
