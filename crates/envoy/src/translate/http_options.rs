//! Options of HTTP connections, downstream and upstream (`envoy.config.core.v3`).

use super::context::Cx;
use sota_config::{
    Node,
    http::{HeaderKeyFormat, Http1Options, HttpProtocolOptions, UnderscoreAction},
};

/// `envoy.config.core.v3.HttpProtocolOptions`; a null node gives the defaults.
pub(super) fn http_protocol_options(cx: &mut Cx<'_>, node: &Node) -> HttpProtocolOptions {
    let default = HttpProtocolOptions::default();
    HttpProtocolOptions {
        idle_timeout: cx.timeout(node, "idle_timeout", default.idle_timeout),
        max_connection_duration: cx.timeout(node, "max_connection_duration", None),
        max_stream_duration: cx.timeout(node, "max_stream_duration", None),
        max_headers_count: node.u32("max_headers_count").unwrap_or(default.max_headers_count),
        max_requests_per_connection: node.u32("max_requests_per_connection").filter(|requests| *requests > 0),
        headers_with_underscores_action: match node.str("headers_with_underscores_action") {
            "REJECT_REQUEST" => UnderscoreAction::RejectRequest,
            "DROP_HEADER" => UnderscoreAction::DropHeader,
            _ => UnderscoreAction::Allow,
        },
        max_response_headers_kb: node.u32("max_response_headers_kb").unwrap_or(default.max_response_headers_kb),
    }
}

/// `envoy.config.core.v3.Http1ProtocolOptions`; a null node gives the defaults.
pub(super) fn http1_options(node: &Node) -> Http1Options {
    Http1Options {
        allow_absolute_url: node.bool_or("allow_absolute_url", true),
        accept_http_10: node.bool("accept_http_10"),
        default_host_for_http_10: node.str("default_host_for_http_10").to_owned(),
        header_key_format: match node.field("header_key_format").has("proper_case_words") {
            true => HeaderKeyFormat::ProperCase,
            // The one formatter that the support table has keeps the case, which is also the default here.
            false => HeaderKeyFormat::Preserve,
        },
        enable_trailers: node.bool("enable_trailers"),
        allow_chunked_length: node.bool("allow_chunked_length"),
        override_stream_error_on_invalid_http_message: node
            .field("override_stream_error_on_invalid_http_message")
            .as_bool(),
        send_fully_qualified_url: node.bool("send_fully_qualified_url"),
    }
}
