//! The head of a request.

use super::{
    BodyLength, DecodeOptions, HeadProgress, Http1Error, connection_tokens,
    fields::parse_fields,
    framing::{Message, message_framing},
    target::{Target, is_valid_authority, parse_target},
};
use crate::h2_preface::{self, Preface};
use sota_plugin::http::{HeaderId, Method, Protocol, RequestHead, Scheme, is_token};

/// What the bytes so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// A head that is not complete. Call again with all its bytes when there are more.
    NeedMore,
    /// The connection preface of HTTP/2.
    Http2Preface,
    /// A head, written to the caller's [`RequestHead`].
    Head(RequestInfo),
}

/// Facts about a request that are no fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestInfo {
    /// Octets of the head; the body begins behind them.
    pub consumed: usize,
    /// The body's framing.
    pub body: BodyLength,
    /// Whether the connection may live on after the message.
    pub keep_alive: bool,
    /// `Expect: 100-continue` on HTTP/1.1: the client waits before it sends the body.
    pub expects_continue: bool,
    /// `Connection: upgrade` and `Upgrade` on HTTP/1.1. The connection stays HTTP until a 101 is sent. An upgrade to
    /// `h2c` is not counted: it is obsolete (RFC 9113 §3.1) and its fields go with the other hop-by-hop fields.
    pub wants_upgrade: bool,
    /// The target was in absolute form.
    pub is_absolute_form: bool,
    /// There was no Host and no authority in the target: HTTP/1.0 only.
    pub host_missing: bool,
    /// Fields that were dropped for an underscore in their name.
    pub dropped_fields: usize,
}

/// A longer token is no method.
const MAX_METHOD: usize = 64;

/// Reads a request head from the beginning of `buf` into `head`, which is overwritten. Empty lines before it are
/// skipped (RFC 9112 §2.2). On an error, what `head` holds is unspecified.
pub fn decode_request(
    buf: &[u8],
    options: &DecodeOptions,
    progress: &mut HeadProgress,
    head: &mut RequestHead,
) -> Result<RequestOutcome, Http1Error> {
    if !progress.should_parse(buf) {
        return if buf.len() > options.max_head_bytes {
            Err(Http1Error::HeadTooLarge)
        } else {
            Ok(RequestOutcome::NeedMore)
        };
    }
    let outcome = parse(buf, options, head)?;
    if outcome != RequestOutcome::NeedMore {
        *progress = HeadProgress::default();
    }
    match outcome {
        RequestOutcome::NeedMore if buf.len() > options.max_head_bytes => Err(Http1Error::HeadTooLarge),
        RequestOutcome::Head(info) if info.consumed > options.max_head_bytes => Err(Http1Error::HeadTooLarge),
        _ => Ok(outcome),
    }
}

/// Octets of empty lines at the beginning of `buf`: what a connection without a request may throw away.
pub fn empty_lines(buf: &[u8]) -> usize {
    let mut rest = buf;
    while let Some(next) = rest.strip_prefix(b"\r\n") {
        rest = next;
    }
    buf.len() - rest.len()
}

fn parse(buf: &[u8], options: &DecodeOptions, head: &mut RequestHead) -> Result<RequestOutcome, Http1Error> {
    let skipped = empty_lines(buf);
    let buf = buf.get(skipped..).unwrap_or_default();
    if buf.first() == Some(&b'P') {
        match h2_preface::detect(buf) {
            Preface::Complete => return Ok(RequestOutcome::Http2Preface),
            Preface::Partial => return Ok(RequestOutcome::NeedMore),
            Preface::Other => {}
        }
    }
    let Some(line_end) = memchr::memchr(b'\n', buf) else {
        check_partial_line(buf)?;
        return Ok(RequestOutcome::NeedMore);
    };
    let (line, block) = buf.split_at_checked(line_end + 1).ok_or(Http1Error::RequestLine)?;
    let line = line.strip_suffix(b"\r\n").ok_or(Http1Error::BareLineFeed)?;
    let (method, target, protocol) = split_request_line(line)?;
    head.method = Method::from_bytes(method).ok_or(Http1Error::Method)?;
    if !options.allow_custom_methods && !head.method.is_registered() {
        return Err(Http1Error::Method);
    }
    head.protocol = protocol;
    let target = parse_target(&head.method, target)?;
    let Some(fields) = parse_fields(block, options, &mut head.headers)? else { return Ok(RequestOutcome::NeedMore) };

    set_target(head, target, fields.host, options)?;
    let host_missing = fields.host.is_none() && head.authority().is_empty();
    if host_missing && protocol != Protocol::Http10 {
        return Err(Http1Error::MissingHost);
    }
    if fields.host.is_some() && head.authority().is_empty() {
        head.note_empty_host();
    }
    let framing =
        message_framing(Message::Request(&head.method), protocol, &mut head.headers, options.allow_chunked_length)?;
    let tokens = connection_tokens(&head.headers);
    let is_11 = protocol == Protocol::Http11;
    Ok(RequestOutcome::Head(RequestInfo {
        consumed: skipped + line_end + 1 + fields.consumed,
        body: framing.body,
        keep_alive: tokens.persists(protocol) && !framing.must_close,
        expects_continue: is_11 && expects_continue(head),
        wants_upgrade: is_11 && tokens.upgrade && asks_for_upgrade(head),
        is_absolute_form: matches!(target, Target::Absolute { .. }),
        host_missing,
        dropped_fields: fields.dropped,
    }))
}

/// `method SP target SP version` with exactly these two spaces.
fn split_request_line(line: &[u8]) -> Result<(&[u8], &[u8], Protocol), Http1Error> {
    let (rest, version) = line.split_last_chunk::<9>().ok_or(Http1Error::RequestLine)?;
    let protocol = match version {
        b" HTTP/1.1" => Protocol::Http11,
        b" HTTP/1.0" => Protocol::Http10,
        [b' ', b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(Http1Error::Version),
        _ => return Err(Http1Error::RequestLine),
    };
    let space = memchr::memchr(b' ', rest).ok_or(Http1Error::RequestLine)?;
    let (method, target) = rest.split_at_checked(space).ok_or(Http1Error::RequestLine)?;
    if method.len() > MAX_METHOD {
        return Err(Http1Error::Method);
    }
    Ok((method, target.get(1..).unwrap_or_default(), protocol))
}

/// Something that will never be a request line is refused before its line ends: TLS on a plain port, for instance.
fn check_partial_line(line: &[u8]) -> Result<(), Http1Error> {
    let method = memchr::memchr(b' ', line).and_then(|end| line.get(..end)).unwrap_or(line);
    if method.len() > MAX_METHOD || !(line == b"\r" || line.is_empty() || is_token(method)) {
        return Err(Http1Error::Method);
    }
    Ok(())
}

/// Points a request at an absolute URI, such as that of a redirect. Its fragment, if it has one, is nobody's business but
/// the client's and is left out.
pub fn set_absolute_uri(head: &mut RequestHead, uri: &[u8]) -> Result<(), Http1Error> {
    let uri = memchr::memchr(b'#', uri).and_then(|end| uri.get(..end)).unwrap_or(uri);
    match parse_target(&Method::Get, uri)? {
        target @ Target::Absolute { .. } => set_target(head, target, None, &DecodeOptions::default()),
        _ => Err(Http1Error::Target),
    }
}

/// Fills authority, path and scheme. The authority of an absolute-form target wins over Host (RFC 9112 §3.2.2), and
/// so does CONNECT's; Host must be valid all the same.
fn set_target(
    head: &mut RequestHead,
    target: Target<'_>,
    host: Option<&[u8]>,
    options: &DecodeOptions,
) -> Result<(), Http1Error> {
    let host = host.unwrap_or_default();
    if !is_valid_authority(host) {
        return Err(Http1Error::Authority);
    }
    head.scheme = Scheme::Http;
    let set = match target {
        Target::Origin(path) => head.set_target(host, path),
        Target::Asterisk => head.set_target(host, b"*"),
        Target::Authority(authority) => head.set_target(authority, b""),
        Target::Absolute { .. } if !options.allow_absolute_form => return Err(Http1Error::AbsoluteForm),
        Target::Absolute { scheme, authority, rest } => {
            head.scheme = scheme;
            match rest {
                [b'/', ..] => head.set_target(authority, rest),
                [] if head.method == Method::Options => head.set_target(authority, b"*"),
                _ => head.set_target(authority, &[b"/", rest].concat()),
            }
        }
    };
    set.map_err(|_| Http1Error::Target)
}

fn asks_for_upgrade(head: &RequestHead) -> bool {
    head.headers.get(HeaderId::Upgrade).is_some_and(|value| !value.is_empty() && !value.eq_ignore_ascii_case(b"h2c"))
}

fn expects_continue(head: &RequestHead) -> bool {
    head.headers.get(HeaderId::Expect).is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"))
}
