//! HTTP/1.1 and HTTP/1.0 (RFC 9112), both roles.
//!
//! A connection uses these in order: [`decode_request`] or [`decode_response`] until there is a head, which tells how
//! the body is framed ([`BodyLength`], decided in one place: [`framing`]); a [`BodyDecoder`] for the body;
//! [`remove_hop_by_hop`] before the message is forwarded; [`encode_request_head`], [`encode_response_head`] and
//! [`encode_chunk`] towards the other side. What is ambiguous is an error and ends the connection: nothing is
//! forwarded that was not understood.
//!
//! ```
//! use sota_codec::http1::*;
//! use sota_plugin::http::RequestHead;
//!
//! let read = b"POST /a HTTP/1.1\r\nHost: b\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
//! let (options, mut progress, mut head) = (DecodeOptions::default(), HeadProgress::default(), RequestHead::default());
//! let RequestOutcome::Head(info) = decode_request(read, &options, &mut progress, &mut head)? else { unreachable!() };
//! remove_hop_by_hop(&mut head.headers, info.wants_upgrade)?;
//!
//! let mut out = Vec::new();
//! encode_request_head(&head, &HeadEncoding::new(info.body), &mut out);
//! let mut body = BodyDecoder::new(info.body, &options);
//! let (consumed, event) = body.decode(&read[info.consumed..])?;
//! assert_eq!((consumed, event), (2, BodyEvent::Data(b"hi")));
//! assert_eq!(out, b"POST /a HTTP/1.1\r\nhost: b\r\nContent-Length: 2\r\n\r\n");
//! # Ok::<(), Http1Error>(())
//! ```

mod body;
mod chunked;
mod connection;
mod encode;
mod error;
mod fields;
pub mod framing;
mod options;
mod request;
mod response;
mod target;
mod trailers;

#[cfg(test)]
mod tests;

pub use body::{BodyDecoder, BodyEvent};
pub use chunked::ChunkedDecoder;
pub use connection::{ConnectionTokens, connection_tokens, remove_hop_by_hop};
pub use encode::{
    CONTINUE, ChunkHead, ConnectionField, HeadEncoding, LAST_CHUNK, encode_chunk, encode_request_head,
    encode_response_head, encode_trailers,
};
pub use error::Http1Error;
pub(crate) use framing::content_length;
pub use framing::{BodyLength, RequestContext};
pub use options::{DecodeOptions, HeadProgress};
pub use request::{RequestInfo, RequestOutcome, decode_request, empty_lines, set_absolute_uri};
pub use response::{ResponseInfo, ResponseOutcome, decode_response};
pub(crate) use target::is_valid_authority;
pub(crate) use trailers::retain_allowed;
