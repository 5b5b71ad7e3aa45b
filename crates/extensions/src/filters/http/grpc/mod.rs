//! What the filters for gRPC share.

pub(super) mod calls;
pub(super) mod frames;

use sota_plugin::http::{HeaderId, ResponseHead, StatusCode};

/// The content type of gRPC.
pub(super) const CONTENT_TYPE: &str = "application/grpc";

/// Whether this is the response to a gRPC call: a head that is all of it has its status, any other its content type.
pub(super) fn is_response(head: &ResponseHead, end_stream: bool) -> bool {
    if end_stream {
        return head.headers.contains(HeaderId::GrpcStatus);
    }
    let content_type = head.headers.get(HeaderId::ContentType).unwrap_or_default();
    let rest = content_type.strip_prefix(CONTENT_TYPE.as_bytes());
    head.status == StatusCode::OK && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}
