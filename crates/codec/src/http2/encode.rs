//! Heads and trailers to field blocks.

use super::{
    SendError,
    hpack::{Encoder, Name, Pseudo},
};
use crate::http1::connection_tokens;
use sota_plugin::http::{Field, HeaderId, Headers, Method, RequestHead, ResponseHead, StatusCode};

/// What a request's head becomes in HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestForm {
    Plain,
    Connect,
    /// An HTTP/1 upgrade, sent as an extended CONNECT (RFC 8441).
    Upgrade,
}

/// Sorts a request: `Connection: upgrade` with an `Upgrade` field is an upgrade.
pub(super) fn request_form(head: &RequestHead) -> RequestForm {
    if head.method == Method::Connect {
        RequestForm::Connect
    } else if head.headers.get(HeaderId::Upgrade).is_some_and(|value| !value.is_empty())
        && connection_tokens(&head.headers).upgrade
    {
        RequestForm::Upgrade
    } else {
        RequestForm::Plain
    }
}

/// Appends the block of a request.
pub(super) fn request(
    encoder: &mut Encoder,
    head: &RequestHead,
    form: RequestForm,
    out: &mut Vec<u8>,
) -> Result<(), SendError> {
    let authority = head.authority();
    if form == RequestForm::Connect && authority.is_empty() {
        return Err(SendError::InvalidHead);
    }
    encoder.begin(out);
    let method = if form == RequestForm::Plain { head.method.as_str() } else { "CONNECT" };
    encoder.field(Name::Pseudo(Pseudo::Method), method.as_bytes(), out);
    if form != RequestForm::Connect {
        encoder.field(Name::Pseudo(Pseudo::Scheme), head.scheme.as_str().as_bytes(), out);
    }
    // One that was sent empty is another thing than none.
    if let Some(authority) = head.get(HeaderId::Host) {
        encoder.field(Name::Pseudo(Pseudo::Authority), authority, out);
    }
    if form != RequestForm::Connect {
        let path = Some(head.path()).filter(|path| !path.is_empty()).unwrap_or(b"/");
        encoder.field(Name::Pseudo(Pseudo::Path), path, out);
    }
    if form == RequestForm::Upgrade {
        let protocol = head.headers.get(HeaderId::Upgrade).unwrap_or_default();
        encoder.field(Name::Pseudo(Pseudo::Protocol), protocol, out);
    }
    fields(encoder, &head.headers, form != RequestForm::Plain, out);
    Ok(())
}

/// Appends the block of a response. `is_tunnel`: a successful answer to a CONNECT, extended or not, which has no
/// length.
pub(super) fn response(
    encoder: &mut Encoder,
    head: &ResponseHead,
    status: StatusCode,
    is_tunnel: bool,
    out: &mut Vec<u8>,
) {
    encoder.begin(out);
    encoder.field(Name::Pseudo(Pseudo::Status), status.as_str().as_bytes(), out);
    let no_length = is_tunnel || status.is_informational() || status == StatusCode::NO_CONTENT;
    fields(encoder, &head.headers, no_length, out);
}

/// Appends the block of trailers.
pub(super) fn trailers(encoder: &mut Encoder, headers: &Headers, out: &mut Vec<u8>) {
    encoder.begin(out);
    fields(encoder, headers, true, out);
}

fn fields(encoder: &mut Encoder, headers: &Headers, drop_length: bool, out: &mut Vec<u8>) {
    for Field { id, name, value } in headers.fields() {
        match id {
            // Whoever translates from HTTP/1 has removed these; never let one through (RFC 9113 §8.2.2).
            Some(
                HeaderId::Connection
                | HeaderId::KeepAlive
                | HeaderId::ProxyConnection
                | HeaderId::TransferEncoding
                | HeaderId::Upgrade
                | HeaderId::Host,
            ) => {}
            Some(HeaderId::Te) if !value.eq_ignore_ascii_case(b"trailers") => {}
            Some(HeaderId::ContentLength) if drop_length => {}
            Some(id) => encoder.field(Name::Known(id), value, out),
            None => other(encoder, name, value, out),
        }
    }
}

/// Names as they came by HTTP/1 are put into lower case (RFC 9113 §8.2).
fn other(encoder: &mut Encoder, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    if !name.iter().any(u8::is_ascii_uppercase) {
        return encoder.field(Name::Other(name), value, out);
    }
    let mut usual = [0; 64];
    if let Some(lower) = usual.get_mut(..name.len()) {
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        encoder.field(Name::Other(lower), value, out);
    } else {
        encoder.field(Name::Other(&name.to_ascii_lowercase()), value, out);
    }
}
