//! Trailer fields (RFC 9110 §6.5).

use super::{DecodeOptions, Http1Error, fields::parse_fields};
use sota_plugin::http::{HeaderId, Headers};

/// Parses trailer lines, empty line included, and leaves out what must not be in trailers.
pub(super) fn parse(lines: &[u8], max_fields: usize) -> Result<Box<Headers>, Http1Error> {
    let mut fields = Box::new(Headers::new());
    let options = DecodeOptions { max_fields, ..DecodeOptions::default() };
    let Some(parsed) = parse_fields(lines, &options, &mut fields)? else { return Err(Http1Error::Field) };
    if parsed.consumed != lines.len() {
        return Err(Http1Error::BareLineFeed);
    }
    retain_allowed(&mut fields);
    Ok(fields)
}

/// Leaves out what must not be in trailers.
pub(crate) fn retain_allowed(fields: &mut Headers) {
    fields.retain(|field| field.id.is_none_or(is_allowed) && !is_content_field(field.name));
}

/// Whether a field may stand in trailers: not if it frames, routes, authenticates or describes the content, which
/// were all decided when the head was read (RFC 9110 §6.5.1).
pub(super) fn is_allowed(id: HeaderId) -> bool {
    !matches!(
        id,
        HeaderId::TransferEncoding
            | HeaderId::ContentLength
            | HeaderId::ContentEncoding
            | HeaderId::ContentType
            | HeaderId::ContentRange
            | HeaderId::Host
            | HeaderId::Connection
            | HeaderId::KeepAlive
            | HeaderId::ProxyConnection
            | HeaderId::Upgrade
            | HeaderId::Te
            | HeaderId::Trailer
            | HeaderId::Expect
            | HeaderId::MaxForwards
            | HeaderId::Range
            | HeaderId::CacheControl
            | HeaderId::IfMatch
            | HeaderId::IfNoneMatch
            | HeaderId::IfModifiedSince
            | HeaderId::Authorization
            | HeaderId::ProxyAuthorization
            | HeaderId::ProxyAuthenticate
            | HeaderId::WwwAuthenticate
            | HeaderId::Cookie
            | HeaderId::SetCookie
            | HeaderId::Age
            | HeaderId::Date
            | HeaderId::Expires
            | HeaderId::Location
            | HeaderId::RetryAfter
            | HeaderId::Vary
    )
}

/// Fields of the same kind that have no id.
fn is_content_field(name: &[u8]) -> bool {
    ["if-unmodified-since", "if-range", "pragma", "warning"]
        .iter()
        .any(|field| name.eq_ignore_ascii_case(field.as_bytes()))
}

/// Refuses a line end without CR as soon as it is seen. `new` may begin in the middle of a line end.
pub(super) fn check_line_ends(new: &[u8]) -> Result<(), Http1Error> {
    for at in memchr::memchr_iter(b'\n', new) {
        if at.checked_sub(1).and_then(|before| new.get(before)).is_some_and(|c| *c != b'\r') {
            return Err(Http1Error::BareLineFeed);
        }
    }
    Ok(())
}
