//! Field lines (RFC 9112 §5), of heads and of trailers.
//!
//! One pass over the octets, eight at a time. A name that has an id needs no check of its letters: comparing it to find the
//! id was one. `tests` holds the parser against `httparse`.

use super::{DecodeOptions, Http1Error};
use sota_config::http::UnderscoreAction;
use sota_plugin::http::{HeaderId, Headers, Span, is_token};

#[cfg(test)]
mod tests;

/// What the field lines held besides fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ParsedFields<'a> {
    /// Octets up to and with the empty line.
    pub(super) consumed: usize,
    /// Value of the Host field, which does not go to the list.
    pub(super) host: Option<&'a [u8]>,
    /// Fields left out because of an underscore in their name.
    pub(super) dropped: usize,
}

/// Reads field lines up to the empty line into `headers`; `None` when that has not arrived. Host is set aside, and
/// two of it are an error. The size of what was consumed is the caller's to check.
pub(super) fn parse_fields<'a>(
    block: &'a [u8],
    options: &DecodeOptions,
    headers: &mut Headers,
) -> Result<Option<ParsedFields<'a>>, Http1Error> {
    headers.begin_block();
    let mut parsed = ParsedFields { consumed: 0, host: None, dropped: 0 };
    let mut lines = 0;
    loop {
        let line = match FieldLine::parse(block, parsed.consumed)? {
            Line::Partial => return Ok(None),
            Line::Empty => break,
            Line::Field(line) => line,
        };
        parsed.consumed = line.end;
        lines += 1;
        if lines > options.max_fields {
            return Err(Http1Error::TooManyFields);
        }
        if options.underscores != UnderscoreAction::Allow && line.id.is_none() {
            let name = block.get(line.name.start..line.name.end).unwrap_or_default();
            if memchr::memchr(b'_', name).is_some() {
                if options.underscores == UnderscoreAction::RejectRequest {
                    return Err(Http1Error::Underscore);
                }
                parsed.dropped += 1;
                continue;
            }
        }
        if line.id == Some(HeaderId::Host) {
            if parsed.host.is_some() {
                return Err(Http1Error::Authority);
            }
            parsed.host = block.get(line.value.start..line.value.end);
            continue;
        }
        headers.push_span(line.id, line.name, line.value, line.is_plain).map_err(|_| Http1Error::HeadTooLarge)?;
    }
    parsed.consumed += 2;
    headers.end_block(block.get(..parsed.consumed).unwrap_or_default());
    Ok(Some(parsed))
}

/// What stands at a place in the block.
enum Line {
    /// Its end has not arrived.
    Partial,
    /// The empty line behind the last field.
    Empty,
    Field(FieldLine),
}

struct FieldLine {
    id: Option<HeaderId>,
    name: Span,
    value: Span,
    /// It reads exactly `name: value\r\n`.
    is_plain: bool,
    /// Where the next line begins.
    end: usize,
}

impl FieldLine {
    #[inline]
    fn parse(block: &[u8], start: usize) -> Result<Line, Http1Error> {
        let rest = block.get(start..).unwrap_or_default();
        let name_len = match find(rest, is_name_end) {
            None => return Ok(Line::Partial),
            Some((len, b':')) if len > 0 => len,
            Some((0, b'\r')) => return end_of_block(rest.get(1)),
            Some((0, b'\n')) => return Err(Http1Error::BareLineFeed),
            Some(_) => return Err(Http1Error::Field),
        };
        let name = rest.get(..name_len).unwrap_or_default();
        let id = HeaderId::find(name);
        if id.is_none() && !is_token(name) {
            return Err(Http1Error::Field);
        }
        let behind = rest.get(name_len + 1..).unwrap_or_default();
        // Nearly always one blank and then the value.
        let blank = match behind {
            [b' ', next, ..] if !is_blank(*next) => 1,
            _ => behind.iter().take_while(|octet| is_blank(**octet)).count(),
        };
        let text = behind.get(blank..).unwrap_or_default();
        let Some(len) = value_len(text)? else { return Ok(Line::Partial) };
        let trailing = text.get(..len).unwrap_or_default().iter().rev().take_while(|octet| is_blank(**octet)).count();

        let value_start = start + name_len + 1 + blank;
        Ok(Line::Field(Self {
            id,
            name: Span { start, end: start + name_len },
            value: Span { start: value_start, end: value_start + len - trailing },
            is_plain: trailing == 0 && blank == 1 && behind.first() == Some(&b' '),
            end: value_start + len + 2,
        }))
    }
}

fn end_of_block(behind: Option<&u8>) -> Result<Line, Http1Error> {
    match behind {
        None => Ok(Line::Partial),
        Some(b'\n') => Ok(Line::Empty),
        Some(_) => Err(Http1Error::Field),
    }
}

/// Octets of a value up to its CR LF; `None` when that has not arrived. Tabs are the only controls it may have.
#[inline]
fn value_len(text: &[u8]) -> Result<Option<usize>, Http1Error> {
    let mut from = 0;
    loop {
        match find(text.get(from..).unwrap_or_default(), is_control) {
            None => return Ok(None),
            Some((at, b'\t')) => from += at + 1,
            Some((_, b'\n')) => return Err(Http1Error::BareLineFeed),
            Some((at, b'\r')) => match text.get(from + at + 1) {
                None => return Ok(None),
                Some(b'\n') => return Ok(Some(from + at)),
                Some(_) => return Err(Http1Error::Character),
            },
            Some(_) => return Err(Http1Error::Character),
        }
    }
}

const fn is_blank(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t')
}

/// The first octet for which `is_found` has a mark, and where it is.
#[inline]
fn find(bytes: &[u8], is_found: impl Fn(u64) -> u64) -> Option<(usize, u8)> {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut at = 0;
    for word in words {
        let marks = is_found(u64::from_le_bytes(*word));
        if marks != 0 {
            at += marks.trailing_zeros() as usize / 8;
            return bytes.get(at).map(|octet| (at, *octet));
        }
        at += 8;
    }
    // What follows the end must not be found: a letter is not.
    let mut last = [b'a'; 8];
    last.get_mut(..rest.len())?.copy_from_slice(rest);
    let marks = is_found(u64::from_le_bytes(last));
    at += marks.trailing_zeros() as usize / 8;
    bytes.get(at).map(|octet| (at, *octet))
}

const ONES: u64 = u64::from_le_bytes([1; 8]);
const HIGH: u64 = u64::from_le_bytes([0x80; 8]);

/// Marks octets below `limit`, of at most 128; those above the lowest mark may be wrong.
const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * limit as u64) & !word & HIGH
}

/// Marks octets that are `octet`; those above the lowest mark may be wrong.
const fn equal(word: u64, octet: u8) -> u64 {
    below(word ^ (ONES * octet as u64), 1)
}

/// Marks the colon, blanks and controls.
const fn is_name_end(word: u64) -> u64 {
    equal(word, b':') | below(word, b'!')
}

/// Marks controls (RFC 9110 §5.5), tabs included.
const fn is_control(word: u64) -> u64 {
    below(word, b' ') | equal(word, 0x7f)
}
