//! The two directions in which messages pass the filters of a stream.

use super::filter_chain::Env;
use bytes::Bytes;
use sota_plugin::{
    cx::{ResponseEdit, StreamCx},
    filter::{Bodies, DataStatus, FilterStatus, HttpFilter, LocalReply},
    http::{Headers, RequestHead, ResponseHead, StatusCode},
};

/// One direction of a stream.
pub(super) trait Side {
    type Head: 'static;

    /// The place in the chain of the filter that comes at this position.
    fn index(position: usize, filters: usize) -> usize;
    fn looks_at_data(bodies: Bodies) -> bool;
    fn headers(head: &mut Self::Head) -> &mut Headers;
    fn too_large() -> LocalReply;
    fn clear_route(head: &Self::Head, env: &mut Env<'_>);
    fn edit(head: &mut Self::Head, edit: ResponseEdit);
    fn on_headers(
        f: &mut dyn HttpFilter,
        h: &mut Self::Head,
        end: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<Self::Head>;
    fn on_data(f: &mut dyn HttpFilter, data: &mut Bytes, end: bool, cx: &mut StreamCx<'_>) -> DataStatus;
    fn on_trailers(f: &mut dyn HttpFilter, trailers: &mut Headers, cx: &mut StreamCx<'_>) -> FilterStatus<Headers>;
}

/// From the client: the first filter is the first of the chain.
pub(super) struct RequestSide;

impl Side for RequestSide {
    type Head = RequestHead;

    fn index(position: usize, _filters: usize) -> usize {
        position
    }

    fn looks_at_data(bodies: Bodies) -> bool {
        matches!(bodies, Bodies::Request | Bodies::Both)
    }

    fn headers(head: &mut RequestHead) -> &mut Headers {
        &mut head.headers
    }

    fn too_large() -> LocalReply {
        LocalReply::new(StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large", REQUEST_TOO_LARGE)
    }

    fn clear_route(head: &RequestHead, env: &mut Env<'_>) {
        (env.reroute)(head, env.info);
    }

    fn edit(_head: &mut RequestHead, _edit: ResponseEdit) {}

    fn on_headers(
        f: &mut dyn HttpFilter,
        head: &mut RequestHead,
        end: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        f.on_request_headers(head, end, cx)
    }

    fn on_data(f: &mut dyn HttpFilter, data: &mut Bytes, end: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        f.on_request_data(data, end, cx)
    }

    fn on_trailers(f: &mut dyn HttpFilter, trailers: &mut Headers, cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        f.on_request_trailers(trailers, cx)
    }
}

/// To the client: the first filter is the last of the chain.
pub(super) struct ResponseSide;

impl Side for ResponseSide {
    type Head = ResponseHead;

    fn index(position: usize, filters: usize) -> usize {
        filters - 1 - position
    }

    fn looks_at_data(bodies: Bodies) -> bool {
        matches!(bodies, Bodies::Response | Bodies::Both)
    }

    fn headers(head: &mut ResponseHead) -> &mut Headers {
        &mut head.headers
    }

    fn too_large() -> LocalReply {
        LocalReply::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error", RESPONSE_TOO_LARGE)
    }

    fn clear_route(_head: &ResponseHead, _env: &mut Env<'_>) {}

    fn edit(head: &mut ResponseHead, edit: ResponseEdit) {
        edit(head);
    }

    fn on_headers(
        f: &mut dyn HttpFilter,
        head: &mut ResponseHead,
        end: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        f.on_response_headers(head, end, cx)
    }

    fn on_data(f: &mut dyn HttpFilter, data: &mut Bytes, end: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        f.on_response_data(data, end, cx)
    }

    fn on_trailers(f: &mut dyn HttpFilter, trailers: &mut Headers, cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        f.on_response_trailers(trailers, cx)
    }
}

/// Response code details of a request that is held and larger than the buffer limit.
pub(super) const REQUEST_TOO_LARGE: &str = "request_payload_too_large";
/// The same of a response.
pub(super) const RESPONSE_TOO_LARGE: &str = "response_payload_too_large";
