//! Options of HTTP/2 connections, downstream and upstream (`envoy.config.core.v3.Http2ProtocolOptions`).

use std::time::Duration;

/// `Http2ProtocolOptions`, with Envoy's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Http2Options {
    /// Octets of the HPACK tables; default 4096.
    pub hpack_table_size: u32,
    /// Streams at once on a connection; default 1024.
    pub max_concurrent_streams: u32,
    /// Octets that the peer may send on a stream before some are taken; default 16 MiB.
    pub initial_stream_window_size: u32,
    /// The same for all streams together; default 24 MiB.
    pub initial_connection_window_size: u32,
    /// Take extended CONNECT (RFC 8441).
    pub allow_connect: bool,
    /// Frames that may wait to be written; default 10,000.
    pub max_outbound_frames: u32,
    /// PING, SETTINGS and RST_STREAM among them; default 1000.
    pub max_outbound_control_frames: u32,
    /// Frames without payload and without end of stream in a row; default 1.
    pub max_consecutive_inbound_frames_with_empty_payload: u32,
    /// PRIORITY frames for each stream; default 100.
    pub max_inbound_priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames for each DATA frame sent; default 10.
    pub max_inbound_window_update_frames_per_data_frame_sent: u32,
    /// Whether an invalid message ends its stream only (true) or the connection; `None`: as the connection manager says,
    /// upstream the connection.
    pub override_stream_error_on_invalid_http_message: Option<bool>,
    /// Pings; `None`: none.
    pub connection_keepalive: Option<Http2Keepalive>,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window_size: 16 * 1024 * 1024,
            initial_connection_window_size: 24 * 1024 * 1024,
            allow_connect: false,
            max_outbound_frames: 10_000,
            max_outbound_control_frames: 1000,
            max_consecutive_inbound_frames_with_empty_payload: 1,
            max_inbound_priority_frames_per_stream: 100,
            max_inbound_window_update_frames_per_data_frame_sent: 10,
            override_stream_error_on_invalid_http_message: None,
            connection_keepalive: None,
        }
    }
}

/// `envoy.config.core.v3.KeepaliveSettings`.
#[derive(Debug, Clone, PartialEq)]
pub struct Http2Keepalive {
    /// Between two pings; `None`: only when an idle connection is used again.
    pub interval: Option<Duration>,
    /// For the answer.
    pub timeout: Duration,
    /// The interval is longer by up to so many percent of it, at random; default 15.
    pub interval_jitter: f64,
    /// A connection that was idle for so long is asked before it is used again (upstream).
    pub connection_idle_interval: Option<Duration>,
}
