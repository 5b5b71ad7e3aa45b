//! Field lines (RFC 9112 §5), of heads and of trailers.

use super::{DecodeOptions, Http1Error};
use sota_config::http::UnderscoreAction;
use sota_plugin::http::{Headers, Span};

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

/// Most heads have fewer fields, so their parse needs no memory but the stack's.
const USUAL_FIELDS: usize = 40;

/// Reads field lines up to the empty line into `headers`; `None` when that has not arrived. Host is set aside, and
/// two of it are an error. The size of what was consumed is the caller's to check.
pub(super) fn parse_fields<'a>(
    block: &'a [u8],
    options: &DecodeOptions,
    headers: &mut Headers,
) -> Result<Option<ParsedFields<'a>>, Http1Error> {
    let mut usual = [httparse::EMPTY_HEADER; USUAL_FIELDS];
    match httparse::parse_headers(block, &mut usual) {
        Ok(httparse::Status::Complete((consumed, lines))) => load(block, consumed, lines, options, headers).map(Some),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            // No more slots than there can be lines in what has arrived.
            let most = options.max_fields.saturating_add(1).min(block.len() / 2 + 1);
            let mut many = vec![httparse::EMPTY_HEADER; most];
            match httparse::parse_headers(block, &mut many) {
                Ok(httparse::Status::Complete((consumed, lines))) => {
                    load(block, consumed, lines, options, headers).map(Some)
                }
                Ok(httparse::Status::Partial) => Ok(None),
                Err(error) => Err(translate(error)),
            }
        }
        Err(error) => Err(translate(error)),
    }
}

fn load<'a>(
    block: &'a [u8],
    consumed: usize,
    lines: &[httparse::Header<'a>],
    options: &DecodeOptions,
    headers: &mut Headers,
) -> Result<ParsedFields<'a>, Http1Error> {
    if lines.len() > options.max_fields {
        return Err(Http1Error::TooManyFields);
    }
    let section = block.get(..consumed).unwrap_or_default();
    if !section.ends_with(b"\r\n") {
        return Err(Http1Error::BareLineFeed);
    }
    headers.load(section);
    let mut parsed = ParsedFields { consumed, host: None, dropped: 0 };
    let base = section.as_ptr() as usize;
    for line in lines {
        let name = line.name.as_bytes();
        // Names and values are slices of the section, so addresses tell where they stand in it.
        let name_start = (name.as_ptr() as usize).wrapping_sub(base);
        let value_start = (line.value.as_ptr() as usize).wrapping_sub(base);
        let name_span = Span { start: name_start, end: name_start.wrapping_add(name.len()) };
        let value_span = Span { start: value_start, end: value_start.wrapping_add(line.value.len()) };
        let behind = section.get(value_span.end..).unwrap_or_default();
        let tight = behind.starts_with(b"\r\n");
        if !tight && !ends_in_crlf(behind) {
            return Err(Http1Error::BareLineFeed);
        }
        if options.underscores != UnderscoreAction::Allow && memchr::memchr(b'_', name).is_some() {
            if options.underscores == UnderscoreAction::RejectRequest {
                return Err(Http1Error::Underscore);
            }
            parsed.dropped += 1;
            continue;
        }
        if name.len() == 4 && name.eq_ignore_ascii_case(b"host") {
            if parsed.host.replace(line.value).is_some() {
                return Err(Http1Error::Authority);
            }
            continue;
        }
        let is_line = tight && section.get(name_span.end..value_span.start) == Some(b": ");
        headers.push_span(name_span, value_span, is_line).map_err(|_| Http1Error::HeadTooLarge)?;
    }
    Ok(parsed)
}

/// Optional white space, then CR LF. (The parser takes LF alone.)
fn ends_in_crlf(behind: &[u8]) -> bool {
    let end = behind.iter().position(|c| !matches!(c, b' ' | b'\t')).unwrap_or(behind.len());
    behind.get(end..).unwrap_or_default().starts_with(b"\r\n")
}

fn translate(error: httparse::Error) -> Http1Error {
    match error {
        httparse::Error::TooManyHeaders => Http1Error::TooManyFields,
        httparse::Error::HeaderValue => Http1Error::Character,
        _ => Http1Error::Field,
    }
}
