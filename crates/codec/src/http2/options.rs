//! What a connection offers, accepts and bears.

use sota_config::http::UnderscoreAction;

/// Settings and limits of a connection (Envoy: `Http2ProtocolOptions`, whose defaults these are). Shared by all
/// connections of a listener or cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Octets of the HPACK tables, ours and the peer's (`hpack_table_size`); default 4096.
    pub hpack_table_size: u32,
    /// Streams that the peer may have open (`max_concurrent_streams`), and for a client how many it opens at most
    /// even if the peer allows more; default 1024.
    pub max_concurrent_streams: u32,
    /// Octets that the peer may send on a stream before some are released (`initial_stream_window_size`),
    /// 65,535 to 2^31-1; default 16 MiB.
    pub initial_stream_window: u32,
    /// The same for all streams together (`initial_connection_window_size`), 65,535 to 2^31-1; default 24 MiB.
    pub initial_connection_window: u32,
    /// Take extended CONNECT (`allow_connect`, RFC 8441); default false.
    pub allow_connect: bool,
    /// A malformed message ends its stream only, as RFC 9113 §8.1.1 wants it; otherwise the connection
    /// (`override_stream_error_on_invalid_http_message`, whose default in Envoy is false); default true.
    pub stream_error_on_invalid_http_message: bool,
    /// Octets of names and values of a head or of trailers (`max_request_headers_kb`); default 60 KiB.
    pub max_head_bytes: usize,
    /// Fields of a head or of trailers, pseudo-header fields and cookie crumbs counted (`max_headers_count`);
    /// default 100.
    pub max_fields: usize,
    /// What to do with names that have an underscore; requests only; default nothing.
    pub underscores: UnderscoreAction,
    /// Octets that wait in the output before DATA is no longer taken; default 256 KiB.
    pub max_output: usize,
    /// Frames of any kind that wait in the output (`max_outbound_frames`); default 10,000.
    pub max_outbound_frames: u32,
    /// PING and SETTINGS answers and RST_STREAM that wait in the output (`max_outbound_control_frames`);
    /// default 1000.
    pub max_outbound_control_frames: u32,
    /// HEADERS, CONTINUATION and DATA in a row without payload and without end of stream
    /// (`max_consecutive_inbound_frames_with_empty_payload`); default 1.
    pub max_consecutive_inbound_frames_with_empty_payload: u32,
    /// PRIORITY frames, in proportion to streams opened plus one (`max_inbound_priority_frames_per_stream`);
    /// default 100.
    pub max_inbound_priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames: at most `5 + 2 * (streams opened + this * DATA frames sent)`
    /// (`max_inbound_window_update_frames_per_data_frame_sent`); default 10.
    pub max_inbound_window_update_frames_per_data_frame_sent: u32,
    /// After so many streams, half of them reset early, the connection ends; or sooner, when half of this number
    /// were (runtime `overload.premature_reset_total_stream_count`); server only; default 500.
    pub premature_reset_total_stream_count: u32,
    /// A reset within this many seconds and without a response is early
    /// (runtime `overload.premature_reset_min_stream_lifetime_seconds`); default 1.
    pub premature_reset_min_stream_lifetime_seconds: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window: 16 * 1024 * 1024,
            initial_connection_window: 24 * 1024 * 1024,
            allow_connect: false,
            stream_error_on_invalid_http_message: true,
            max_head_bytes: 60 * 1024,
            max_fields: 100,
            underscores: UnderscoreAction::Allow,
            max_output: 256 * 1024,
            max_outbound_frames: 10_000,
            max_outbound_control_frames: 1000,
            max_consecutive_inbound_frames_with_empty_payload: 1,
            max_inbound_priority_frames_per_stream: 100,
            max_inbound_window_update_frames_per_data_frame_sent: 10,
            premature_reset_total_stream_count: 500,
            premature_reset_min_stream_lifetime_seconds: 1,
        }
    }
}

impl Options {
    /// Octets of an encoded field block that may be kept until its end arrives. A list within the limits fits even
    /// when nothing of it is compressed: an encoded field is at most 8 octets longer than its parts for any length
    /// there can be.
    pub(super) fn max_block_bytes(&self) -> usize {
        self.max_head_bytes.saturating_add(self.max_fields.saturating_mul(8)).saturating_add(1024)
    }
}
