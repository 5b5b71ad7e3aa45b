//! Options of HTTP connections, downstream and upstream (`envoy.config.core.v3`).

use super::context::Cx;
use sota_config::{
    Node,
    http::{HeaderKeyFormat, Http1Options, Http2Keepalive, Http2Options, HttpProtocolOptions, UnderscoreAction},
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

/// Percent of the interval.
const DEFAULT_JITTER: f64 = 15.0;

/// `envoy.config.core.v3.Http2ProtocolOptions`; a null node gives the defaults.
pub(super) fn http2_options(cx: &mut Cx<'_>, node: &Node) -> Http2Options {
    let default = Http2Options::default();
    let number = |key, default| node.u32(key).unwrap_or(default);
    // The older name counts where the newer one is not used.
    let older = node.bool("stream_error_on_invalid_http_messaging").then_some(true);
    Http2Options {
        hpack_table_size: number("hpack_table_size", default.hpack_table_size),
        max_concurrent_streams: number("max_concurrent_streams", default.max_concurrent_streams),
        initial_stream_window: number("initial_stream_window_size", default.initial_stream_window),
        initial_connection_window: number("initial_connection_window_size", default.initial_connection_window),
        allow_connect: node.bool("allow_connect"),
        max_outbound_frames: number("max_outbound_frames", default.max_outbound_frames),
        max_outbound_control_frames: number("max_outbound_control_frames", default.max_outbound_control_frames),
        max_consecutive_inbound_frames_with_empty_payload: number(
            "max_consecutive_inbound_frames_with_empty_payload",
            default.max_consecutive_inbound_frames_with_empty_payload,
        ),
        max_inbound_priority_frames_per_stream: number(
            "max_inbound_priority_frames_per_stream",
            default.max_inbound_priority_frames_per_stream,
        ),
        max_inbound_window_update_frames_per_data_frame_sent: number(
            "max_inbound_window_update_frames_per_data_frame_sent",
            default.max_inbound_window_update_frames_per_data_frame_sent,
        ),
        stream_error_on_invalid_http_message: node
            .field("override_stream_error_on_invalid_http_message")
            .as_bool()
            .or(older),
        keepalive: cx.optional(node, "connection_keepalive", keepalive),
    }
}

/// `envoy.config.core.v3.KeepaliveSettings`.
fn keepalive(cx: &mut Cx<'_>, node: &Node) -> Option<Http2Keepalive> {
    Some(Http2Keepalive {
        interval: cx.duration(node, "interval"),
        // Required, as the check says.
        timeout: cx.duration(node, "timeout").unwrap_or_default(),
        jitter: match node.has("interval_jitter") {
            true => node.field("interval_jitter").f64("value").unwrap_or_default(),
            false => DEFAULT_JITTER,
        },
        idle_interval: cx.duration(node, "connection_idle_interval"),
    })
}
