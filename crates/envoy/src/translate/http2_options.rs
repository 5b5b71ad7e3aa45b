//! Options of HTTP/2 connections (`envoy.config.core.v3.Http2ProtocolOptions`).

use super::context::Cx;
use sota_config::{
    Node,
    http2::{Http2Keepalive, Http2Options},
};

const DEFAULT_JITTER: f64 = 15.0;

/// `Http2ProtocolOptions`; a null node gives the defaults.
pub(super) fn http2_options(cx: &mut Cx<'_>, node: &Node) -> Http2Options {
    let default = Http2Options::default();
    let number = |key: &str, default: u32| node.u32(key).unwrap_or(default);
    let override_stream_error = node.field("override_stream_error_on_invalid_http_message").as_bool();
    Http2Options {
        hpack_table_size: number("hpack_table_size", default.hpack_table_size),
        max_concurrent_streams: number("max_concurrent_streams", default.max_concurrent_streams),
        initial_stream_window_size: number("initial_stream_window_size", default.initial_stream_window_size),
        initial_connection_window_size: number(
            "initial_connection_window_size",
            default.initial_connection_window_size,
        ),
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
        // The older field counts where the newer one says nothing.
        override_stream_error_on_invalid_http_message: override_stream_error
            .or_else(|| node.bool("stream_error_on_invalid_http_messaging").then_some(true)),
        connection_keepalive: cx.optional(node, "connection_keepalive", |cx, node| {
            Some(Http2Keepalive {
                interval: cx.timeout(node, "interval", None),
                timeout: cx.duration(node, "timeout")?,
                interval_jitter: node.get("interval_jitter").map_or(DEFAULT_JITTER, |p| p.f64("value").unwrap_or(0.0)),
                connection_idle_interval: cx.timeout(node, "connection_idle_interval", None),
            })
        }),
    }
}
