//! The head of a response.

use super::{
    BodyLength, DecodeOptions, HeadProgress, Http1Error, RequestContext, connection_tokens,
    fields::parse_fields,
    framing::{Message, message_framing},
};
use sota_plugin::http::{Protocol, ResponseHead, StatusCode};

/// What the bytes so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseOutcome {
    /// A head that is not complete. Call again with all its bytes when there are more.
    NeedMore,
    /// A head, written to the caller's [`ResponseHead`]. If it is informational and the body is not a tunnel, another
    /// follows; the caller bounds how many.
    Head(ResponseInfo),
}

/// Facts about a response that are no fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseInfo {
    /// Octets of the head; the body begins behind them.
    pub consumed: usize,
    /// The body's framing.
    pub body: BodyLength,
    /// Whether the connection may live on after the message.
    pub keep_alive: bool,
    /// Fields that were dropped for an underscore in their name.
    pub dropped_fields: usize,
}

/// Reads a response head from the beginning of `buf` into `head`, which is overwritten. `request` tells what is
/// answered. On an error, what `head` holds is unspecified.
pub fn decode_response(
    buf: &[u8],
    options: &DecodeOptions,
    request: RequestContext,
    progress: &mut HeadProgress,
    head: &mut ResponseHead,
) -> Result<ResponseOutcome, Http1Error> {
    let outcome =
        if progress.should_parse(buf) { parse(buf, options, request, head)? } else { ResponseOutcome::NeedMore };
    if outcome != ResponseOutcome::NeedMore {
        *progress = HeadProgress::default();
    }
    match outcome {
        ResponseOutcome::NeedMore if buf.len() > options.max_head_bytes => Err(Http1Error::HeadTooLarge),
        ResponseOutcome::Head(info) if info.consumed > options.max_head_bytes => Err(Http1Error::HeadTooLarge),
        _ => Ok(outcome),
    }
}

fn parse(
    buf: &[u8],
    options: &DecodeOptions,
    request: RequestContext,
    head: &mut ResponseHead,
) -> Result<ResponseOutcome, Http1Error> {
    let Some(line_end) = memchr::memchr(b'\n', buf) else {
        check_partial_line(buf)?;
        return Ok(ResponseOutcome::NeedMore);
    };
    let (line, block) = buf.split_at_checked(line_end + 1).ok_or(Http1Error::StatusLine)?;
    let line = line.strip_suffix(b"\r\n").ok_or(Http1Error::BareLineFeed)?;
    (head.protocol, head.status) = parse_status_line(line)?;
    let Some(fields) = parse_fields(block, options, &mut head.headers)? else { return Ok(ResponseOutcome::NeedMore) };
    let framing = message_framing(
        Message::Response(head.status, request),
        head.protocol,
        &mut head.headers,
        options.allow_chunked_length,
    )?;
    let persists = connection_tokens(&head.headers).persists(head.protocol);
    let delimited = !matches!(framing.body, BodyLength::UntilClose | BodyLength::Tunnel);
    Ok(ResponseOutcome::Head(ResponseInfo {
        consumed: line_end + 1 + fields.consumed,
        body: framing.body,
        keep_alive: persists && delimited && !framing.must_close,
        dropped_fields: fields.dropped,
    }))
}

/// `HTTP/1.x SP status [SP [reason]]`. The reason is checked, for it came from a stranger, and forgotten.
fn parse_status_line(line: &[u8]) -> Result<(Protocol, StatusCode), Http1Error> {
    let (version, rest) = line.split_first_chunk::<9>().ok_or(Http1Error::StatusLine)?;
    let protocol = match version {
        b"HTTP/1.1 " => Protocol::Http11,
        b"HTTP/1.0 " => Protocol::Http10,
        _ => return Err(Http1Error::StatusLine),
    };
    let (digits, reason) = rest.split_first_chunk::<3>().ok_or(Http1Error::StatusLine)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(Http1Error::StatusLine);
    }
    let code = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    let status = StatusCode::from_u16(code).ok_or(Http1Error::StatusLine)?;
    let printable = |c: &u8| (*c >= b' ' && *c != 0x7f) || *c == b'\t';
    match reason {
        [] => Ok((protocol, status)),
        [b' ', text @ ..] if text.iter().all(printable) => Ok((protocol, status)),
        _ => Err(Http1Error::StatusLine),
    }
}

/// Whatever does not begin like a status line is refused before its line ends.
fn check_partial_line(line: &[u8]) -> Result<(), Http1Error> {
    const BEGIN: &[u8] = b"HTTP/1.";
    let common = line.len().min(BEGIN.len());
    if line.get(..common) == BEGIN.get(..common) { Ok(()) } else { Err(Http1Error::StatusLine) }
}
