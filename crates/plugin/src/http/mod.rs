//! HTTP messages as filters, routes and loggers see them: heads and trailers, whatever protocol they came by.
//!
//! A head is made for the request path: it owns two byte buffers and one vector of entries, all of which are
//! reused when the head is ([`RequestHead::recycle`]), so a parsed message allocates nothing in the steady state.
//! Everything that goes in is checked (RFC 9110 §5.5, §5.6.2): an encoder can write what it finds.

mod grpc;
mod header_id;
mod header_name;
mod headers;
mod method;
mod request;
mod response;
mod status;

pub use grpc::{GrpcStatus, grpc_message};
pub use header_id::HeaderId;
pub use header_name::{AsHeaderName, HeaderName, NameRef, is_token};
pub use headers::{Field, Headers, InvalidField, Span};
pub use method::Method;
pub use request::{InvalidTarget, Protocol, RequestHead, Scheme};
pub use response::ResponseHead;
pub use status::StatusCode;
