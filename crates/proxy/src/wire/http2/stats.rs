//! Counters of HTTP/2 codecs, with Envoy's names.

use sota_codec::http2::Counters;
use sota_plugin::stat_group;

stat_group! {
    /// Below `http2.` (downstream) and `cluster.<name>.http2.`; see "HTTP/2 codec statistics" of Envoy's documentation.
    pub struct Http2Stats {
        dropped_headers_with_underscores: counter,
        goaway_sent: counter,
        goaway_graceful_sent: counter,
        header_overflow: counter,
        inbound_empty_frames_flood: counter,
        inbound_priority_frames_flood: counter,
        inbound_window_update_frames_flood: counter,
        keepalive_timeout: counter,
        outbound_control_flood: counter,
        outbound_flood: counter,
        requests_rejected_with_underscores_in_headers: counter,
        rx_messaging_error: counter,
        rx_reset: counter,
        stream_refused_errors: counter,
        trailers: counter,
        tx_reset: counter,
        streams_active: gauge,
    }
}

impl Http2Stats {
    /// Adds what a codec has counted.
    pub(super) fn add(&self, counted: &Counters) {
        if *counted == Counters::default() {
            return;
        }
        macro_rules! add {
            ($($name:ident)*) => { $(self.$name.add(u64::from(counted.$name));)* };
        }
        add! {
            dropped_headers_with_underscores goaway_sent goaway_graceful_sent header_overflow
            inbound_empty_frames_flood inbound_priority_frames_flood inbound_window_update_frames_flood
            outbound_control_flood outbound_flood requests_rejected_with_underscores_in_headers
            rx_messaging_error rx_reset stream_refused_errors trailers tx_reset
        }
    }
}
