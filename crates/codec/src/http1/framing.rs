//! How long a message's body is. This is the only place that decides it (RFC 9112 §6.3), and what is ambiguous ends
//! here: two parties that disagree on where a message ends can be made to see different messages.

use super::Http1Error;
use sota_plugin::http::{HeaderId, Headers, Method, Protocol, StatusCode};

/// The framing of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    Empty,
    /// Exactly so many octets; `Content-Length` says so. May be 0.
    Length(u64),
    /// Chunks (RFC 9112 §7.1).
    Chunked,
    /// Everything until the connection ends. Responses only.
    UntilClose,
    /// No HTTP any more: the octets that follow belong to another protocol, in both directions.
    Tunnel,
}

/// What a response's framing depends on besides the response: the request that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestContext {
    /// The request was HEAD.
    pub is_head: bool,
    /// The request was CONNECT.
    pub is_connect: bool,
    /// The request asked for an upgrade.
    pub wants_upgrade: bool,
}

impl RequestContext {
    /// For a request with this method.
    pub fn new(method: &Method, wants_upgrade: bool) -> Self {
        Self { is_head: *method == Method::Head, is_connect: *method == Method::Connect, wants_upgrade }
    }
}

/// The message whose framing is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Message<'a> {
    /// A request.
    Request(&'a Method),
    /// A response, and what it responds to.
    Response(StatusCode, RequestContext),
}

/// The framing, and whether the connection must end after the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    /// The body.
    pub body: BodyLength,
    /// The message was not above doubt (length and chunks at once, RFC 9112 §6.1).
    pub must_close: bool,
}

/// Decides a message's framing and puts `Content-Length` right: it is removed where it means nothing, and written
/// anew if it had leading zeros. `Transfer-Encoding` stays for the hop-by-hop removal.
pub fn message_framing(
    message: Message<'_>,
    protocol: Protocol,
    headers: &mut Headers,
    allow_chunked_length: bool,
) -> Result<Framing, Http1Error> {
    let chunked = is_chunked(protocol, headers)?;
    let length = content_length(headers)?;
    let mut framing = Framing { body: BodyLength::Empty, must_close: false };
    match message {
        Message::Response(StatusCode::SWITCHING_PROTOCOLS, request) => {
            if !request.wants_upgrade {
                return Err(Http1Error::UnexpectedSwitch);
            }
            forbid_body(headers, chunked, length)?;
            framing.body = BodyLength::Tunnel;
            return Ok(framing);
        }
        Message::Response(status, _) if status.is_informational() || status == StatusCode::NO_CONTENT => {
            forbid_body(headers, chunked, length)?;
            return Ok(framing);
        }
        Message::Response(status, request) if request.is_connect && status.is_success() => {
            // RFC 9110 §9.3.6: the client must ignore both fields.
            headers.remove(HeaderId::ContentLength);
            headers.remove(HeaderId::TransferEncoding);
            framing.body = BodyLength::Tunnel;
            return Ok(framing);
        }
        Message::Request(Method::Connect) => {
            forbid_body(headers, chunked, length)?;
            return Ok(framing);
        }
        _ => {}
    }
    if chunked && length.is_some() {
        if !allow_chunked_length {
            return Err(Http1Error::LengthAndEncoding);
        }
        headers.remove(HeaderId::ContentLength);
        framing.must_close = true;
    }
    let never_has_body = match message {
        Message::Request(_) => false,
        Message::Response(status, request) => request.is_head || status == StatusCode::NOT_MODIFIED,
    };
    framing.body = match (never_has_body, chunked, length, message) {
        (true, ..) => BodyLength::Empty,
        (_, true, ..) => BodyLength::Chunked,
        (_, false, Some(length), _) => BodyLength::Length(length),
        (_, false, None, Message::Request(_)) => BodyLength::Empty,
        (_, false, None, Message::Response(..)) => BodyLength::UntilClose,
    };
    Ok(framing)
}

/// Exactly one `chunked` is the only coding there is; HTTP/1.0 has none.
fn is_chunked(protocol: Protocol, headers: &Headers) -> Result<bool, Http1Error> {
    let mut values = headers.get_all(HeaderId::TransferEncoding);
    let Some(value) = values.next() else { return Ok(false) };
    if protocol == Protocol::Http10 {
        return Err(Http1Error::TransferEncodingNotAllowed);
    }
    if values.next().is_some() || !value.eq_ignore_ascii_case(b"chunked") {
        return Err(Http1Error::TransferEncoding);
    }
    Ok(true)
}

/// One field of digits that fit 64 bits. Lists are refused even if their elements agree.
pub(crate) fn content_length(headers: &mut Headers) -> Result<Option<u64>, Http1Error> {
    let mut values = headers.get_all(HeaderId::ContentLength);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Http1Error::ContentLength);
    }
    let length = value
        .iter()
        .try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
        .ok_or(Http1Error::ContentLength)?;
    drop(values);
    if value.len() > 1 && value.first() == Some(&b'0') {
        // Some servers read a leading zero as octal; what leaves here has one reading.
        headers.set(HeaderId::ContentLength, length.to_string().as_bytes()).map_err(|_| Http1Error::ContentLength)?;
    }
    Ok(Some(length))
}

/// For messages that cannot have a body. A length of 0 says nothing wrong and is removed (RFC 9110 §8.6).
fn forbid_body(headers: &mut Headers, chunked: bool, length: Option<u64>) -> Result<(), Http1Error> {
    if chunked {
        return Err(Http1Error::TransferEncodingNotAllowed);
    }
    match length {
        None => Ok(()),
        Some(0) => {
            headers.remove(HeaderId::ContentLength);
            Ok(())
        }
        Some(_) => Err(Http1Error::ContentLengthNotAllowed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BodyLength::{Chunked, Empty, Length, Tunnel, UntilClose};
    use Http1Error as E;
    use Protocol::{Http10, Http11};

    fn decide(message: Message<'_>, protocol: Protocol, fields: &[(&str, &str)]) -> Result<BodyLength, E> {
        let mut headers: Headers = fields.iter().copied().collect();
        message_framing(message, protocol, &mut headers, false).map(|framing| framing.body)
    }

    const TE: &str = "transfer-encoding";
    const CL: &str = "content-length";

    #[test]
    fn requests() {
        type Row = (Protocol, &'static [(&'static str, &'static str)], Result<BodyLength, E>);
        let rows: &[Row] = &[
            (Http11, &[], Ok(Empty)),
            (Http11, &[(CL, "0")], Ok(Length(0))),
            (Http11, &[(CL, "10")], Ok(Length(10))),
            (Http11, &[(CL, "0010")], Ok(Length(10))),
            (Http11, &[(CL, "18446744073709551615")], Ok(Length(u64::MAX))),
            (Http11, &[(CL, "18446744073709551616")], Err(E::ContentLength)),
            (Http11, &[(CL, "99999999999999999999999999")], Err(E::ContentLength)),
            (Http11, &[(CL, "")], Err(E::ContentLength)),
            (Http11, &[(CL, "+1")], Err(E::ContentLength)),
            (Http11, &[(CL, "-1")], Err(E::ContentLength)),
            (Http11, &[(CL, "0x10")], Err(E::ContentLength)),
            (Http11, &[(CL, "1e3")], Err(E::ContentLength)),
            (Http11, &[(CL, "1 0")], Err(E::ContentLength)),
            (Http11, &[(CL, "1_0")], Err(E::ContentLength)),
            (Http11, &[(CL, "10,10")], Err(E::ContentLength)),
            (Http11, &[(CL, "10, 11")], Err(E::ContentLength)),
            (Http11, &[(CL, "10"), (CL, "10")], Err(E::ContentLength)),
            (Http11, &[(CL, "10"), (CL, "11")], Err(E::ContentLength)),
            (Http11, &[(TE, "chunked")], Ok(Chunked)),
            (Http11, &[(TE, "CHUNKED")], Ok(Chunked)),
            (Http11, &[(TE, "")], Err(E::TransferEncoding)),
            (Http11, &[(TE, "xchunked")], Err(E::TransferEncoding)),
            (Http11, &[(TE, "chunkedx")], Err(E::TransferEncoding)),
            (Http11, &[(TE, "identity")], Err(E::TransferEncoding)),
            (Http11, &[(TE, "gzip")], Err(E::TransferEncoding)),
            (Http11, &[(TE, "gzip, chunked")], Err(E::TransferEncoding)),
            (Http11, &[(TE, "chunked, identity")], Err(E::TransferEncoding)),
            (Http11, &[(TE, "chunked, chunked")], Err(E::TransferEncoding)),
            (Http11, &[(TE, "chunked,")], Err(E::TransferEncoding)),
            (Http11, &[(TE, ",chunked")], Err(E::TransferEncoding)),
            (Http11, &[(TE, "\"chunked\"")], Err(E::TransferEncoding)),
            (Http11, &[(TE, "chunked;q=1")], Err(E::TransferEncoding)),
            (Http11, &[(TE, "chunked"), (TE, "chunked")], Err(E::TransferEncoding)),
            (Http11, &[(TE, "chunked"), (TE, "identity")], Err(E::TransferEncoding)),
            (Http11, &[(TE, "identity"), (TE, "chunked")], Err(E::TransferEncoding)),
            (Http11, &[(TE, "chunked"), (CL, "3")], Err(E::LengthAndEncoding)),
            (Http11, &[(CL, "3"), (TE, "chunked")], Err(E::LengthAndEncoding)),
            (Http11, &[(CL, "0"), (TE, "chunked")], Err(E::LengthAndEncoding)),
            (Http11, &[(CL, "x"), (TE, "chunked")], Err(E::ContentLength)),
            (Http11, &[(CL, "3"), (TE, "identity")], Err(E::TransferEncoding)),
            (Http10, &[(TE, "chunked")], Err(E::TransferEncodingNotAllowed)),
            (Http10, &[(TE, "identity")], Err(E::TransferEncodingNotAllowed)),
            (Http10, &[(CL, "3")], Ok(Length(3))),
            (Http10, &[], Ok(Empty)),
        ];
        for (protocol, fields, expected) in rows {
            for method in [Method::Get, Method::Head, Method::Post] {
                assert_eq!(decide(Message::Request(&method), *protocol, fields), *expected, "{protocol} {fields:?}");
            }
        }
        let connect = Message::Request(&Method::Connect);
        assert_eq!(decide(connect, Http11, &[]), Ok(Empty));
        assert_eq!(decide(connect, Http11, &[(CL, "0")]), Ok(Empty));
        assert_eq!(decide(connect, Http11, &[(CL, "1")]), Err(E::ContentLengthNotAllowed));
        assert_eq!(decide(connect, Http11, &[(TE, "chunked")]), Err(E::TransferEncodingNotAllowed));
    }

    #[test]
    fn responses() {
        let get = RequestContext::default();
        let head = RequestContext { is_head: true, ..get };
        let connect = RequestContext { is_connect: true, ..get };
        let upgrade = RequestContext { wants_upgrade: true, ..get };
        type Row = (u16, RequestContext, Protocol, &'static [(&'static str, &'static str)], Result<BodyLength, E>);
        let rows: &[Row] = &[
            (200, get, Http11, &[], Ok(UntilClose)),
            (200, get, Http10, &[], Ok(UntilClose)),
            (200, get, Http11, &[(CL, "5")], Ok(Length(5))),
            (200, get, Http11, &[(TE, "chunked")], Ok(Chunked)),
            (200, get, Http11, &[(TE, "gzip")], Err(E::TransferEncoding)),
            (200, get, Http11, &[(TE, "gzip, chunked")], Err(E::TransferEncoding)),
            (200, get, Http11, &[(TE, "chunked"), (CL, "5")], Err(E::LengthAndEncoding)),
            (200, get, Http10, &[(TE, "chunked")], Err(E::TransferEncodingNotAllowed)),
            (200, get, Http11, &[(CL, "5"), (CL, "6")], Err(E::ContentLength)),
            (200, get, Http11, &[(CL, "5,5")], Err(E::ContentLength)),
            (200, head, Http11, &[(CL, "5")], Ok(Empty)),
            (200, head, Http11, &[(TE, "chunked")], Ok(Empty)),
            (200, head, Http11, &[], Ok(Empty)),
            (200, head, Http11, &[(CL, "5"), (TE, "chunked")], Err(E::LengthAndEncoding)),
            (304, get, Http11, &[(CL, "5")], Ok(Empty)),
            (304, get, Http11, &[(TE, "chunked")], Ok(Empty)),
            (204, get, Http11, &[], Ok(Empty)),
            (204, get, Http11, &[(CL, "0")], Ok(Empty)),
            (204, get, Http11, &[(CL, "5")], Err(E::ContentLengthNotAllowed)),
            (204, get, Http11, &[(TE, "chunked")], Err(E::TransferEncodingNotAllowed)),
            (204, head, Http11, &[(TE, "chunked")], Err(E::TransferEncodingNotAllowed)),
            (100, get, Http11, &[], Ok(Empty)),
            (103, get, Http11, &[(CL, "5")], Err(E::ContentLengthNotAllowed)),
            (101, get, Http11, &[], Err(E::UnexpectedSwitch)),
            (101, connect, Http11, &[], Err(E::UnexpectedSwitch)),
            (101, upgrade, Http11, &[], Ok(Tunnel)),
            (101, upgrade, Http11, &[(CL, "5")], Err(E::ContentLengthNotAllowed)),
            (200, upgrade, Http11, &[(CL, "5")], Ok(Length(5))),
            (200, upgrade, Http11, &[], Ok(UntilClose)),
            (200, connect, Http11, &[], Ok(Tunnel)),
            (200, connect, Http11, &[(CL, "5"), (TE, "chunked")], Ok(Tunnel)),
            (403, connect, Http11, &[(CL, "5")], Ok(Length(5))),
        ];
        for (status, context, protocol, fields, expected) in rows {
            let message = Message::Response(StatusCode::from_u16(*status).unwrap(), *context);
            assert_eq!(decide(message, *protocol, fields), *expected, "{status} {context:?} {fields:?}");
        }
    }

    #[test]
    fn a_tolerated_length_is_dropped_and_the_connection_closed() {
        let mut headers: Headers = [(CL, "5"), (TE, "chunked")].into_iter().collect();
        let framing = message_framing(Message::Request(&Method::Post), Http11, &mut headers, true);
        assert_eq!(framing, Ok(Framing { body: Chunked, must_close: true }));
        assert!(!headers.contains(CL) && headers.contains(TE));
    }

    #[test]
    fn lengths_leave_without_leading_zeros_and_zero_not_at_all_where_there_is_no_body() {
        let mut headers: Headers = [(CL, "007")].into_iter().collect();
        message_framing(Message::Request(&Method::Post), Http11, &mut headers, false).unwrap();
        assert_eq!(headers.get(CL), Some(&b"7"[..]));
        let mut headers: Headers = [(CL, "0")].into_iter().collect();
        let message = Message::Response(StatusCode::NO_CONTENT, RequestContext::default());
        message_framing(message, Http11, &mut headers, false).unwrap();
        assert!(headers.is_empty());
    }
}
