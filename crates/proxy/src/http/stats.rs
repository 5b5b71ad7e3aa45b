//! Counters of a connection manager, with Envoy's names.

use sota_plugin::{http::StatusCode, stat_group};

stat_group! {
    /// Below `http.<stat_prefix>.`; see "HTTP connection manager: statistics" of Envoy's documentation for each.
    pub(crate) struct HttpStats {
        downstream_cx_total: counter,
        downstream_cx_active: gauge,
        downstream_cx_http1_total: counter,
        downstream_cx_http1_active: gauge,
        downstream_cx_http2_total: counter,
        downstream_cx_http2_active: gauge,
        /// Clients that began with HTTP/2 where only HTTP/1 is spoken. (Ours; not one of Envoy's.)
        downstream_cx_http2_refused: counter,
        downstream_cx_protocol_error: counter,
        downstream_cx_length_ms: histogram(Milliseconds),
        downstream_cx_destroy: counter,
        downstream_cx_destroy_active_rq: counter,
        downstream_cx_destroy_local: counter,
        downstream_cx_destroy_local_active_rq: counter,
        downstream_cx_destroy_remote: counter,
        downstream_cx_destroy_remote_active_rq: counter,
        downstream_cx_rx_bytes_total: counter,
        downstream_cx_tx_bytes_total: counter,
        downstream_cx_delayed_close_timeout: counter,
        downstream_cx_drain_close: counter,
        downstream_cx_overload_disable_keepalive: counter,
        downstream_rq_overload_close: counter,
        downstream_cx_idle_timeout: counter,
        downstream_cx_max_duration_reached: counter,
        downstream_cx_max_requests_reached: counter,
        downstream_cx_upgrades_total: counter,
        downstream_cx_upgrades_active: gauge,
        downstream_rq_total: counter,
        downstream_rq_http1_total: counter,
        downstream_rq_http2_total: counter,
        downstream_rq_active: gauge,
        downstream_rq_time: histogram(Milliseconds),
        downstream_rq_failed_path_normalization: counter,
        downstream_rq_header_timeout: counter,
        downstream_rq_idle_timeout: counter,
        downstream_rq_max_duration_reached: counter,
        downstream_rq_non_relative_path: counter,
        downstream_rq_redirected_with_normalized_path: counter,
        downstream_rq_rejected_via_ip_detection: counter,
        downstream_rq_response_before_rq_complete: counter,
        downstream_rq_rx_reset: counter,
        downstream_rq_tx_reset: counter,
        downstream_rq_timeout: counter,
        downstream_rq_too_large: counter,
        downstream_rq_too_many_premature_resets: counter,
        downstream_rq_ws_on_non_ws_route: counter,
        rs_too_large: counter,
        no_route: counter,
        no_cluster: counter,
        passthrough_internal_redirect_bad_location: counter,
        passthrough_internal_redirect_no_route: counter,
        passthrough_internal_redirect_predicate: counter,
        passthrough_internal_redirect_too_many_redirects: counter,
        passthrough_internal_redirect_unsafe_scheme: counter,
        rq_total: counter,
        rq_direct_response: counter,
        rq_redirect: counter,
        rq_reset_after_downstream_response_started: counter,
    }
}

stat_group! {
    /// Below `http.<stat_prefix>.`, and once more below the listener's `listener.<address>.`.
    pub(crate) struct ResponseStats {
        downstream_rq_completed: counter,
        downstream_rq_1xx: counter,
        downstream_rq_2xx: counter,
        downstream_rq_3xx: counter,
        downstream_rq_4xx: counter,
        downstream_rq_5xx: counter,
    }
}

impl ResponseStats {
    /// Counts the head of a response.
    pub(super) fn count(&self, status: StatusCode) {
        self.downstream_rq_completed.inc();
        match status.class() {
            1 => self.downstream_rq_1xx.inc(),
            2 => self.downstream_rq_2xx.inc(),
            3 => self.downstream_rq_3xx.inc(),
            4 => self.downstream_rq_4xx.inc(),
            5 => self.downstream_rq_5xx.inc(),
            _ => {}
        }
    }
}

stat_group! {
    /// Below `http1.`: what the codec of all connections counts.
    pub(crate) struct CodecStats {
        dropped_headers_with_underscores: counter,
        requests_rejected_with_underscores_in_headers: counter,
    }
}
