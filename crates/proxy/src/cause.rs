//! The cause of a failure as one sentence: what happened, and which setting or which place would have helped.
//!
//! A sentence is made where the facts are at hand, and only once something has failed: a stream that is answered pays nothing for it.
//! What needs no facts stands in a table here, by the response code details. `%SOTA_CAUSE%` prints it.

use sota_plugin::{
    filter::LocalReply,
    info::{ResponseFlag, StreamInfo},
};
use std::{fmt, time::Duration};

/// What the details of replies and resets mean, where one sentence says it for all streams. Sorted by the details.
const BY_DETAILS: &[(&str, &str)] = &[
    (
        "absolute_path_rejected",
        "the request target is an absolute URL, which is not allowed; see http_protocol_options.allow_absolute_url",
    ),
    ("cluster_not_found", "the route names a cluster that does not exist; see cluster_header, or add the cluster"),
    ("codec_error", "the client broke HTTP/2, so its connection was closed; see the http2 counters in /stats"),
    ("compression_failed", "the response could not be compressed; see the compressor filter and the log"),
    (
        "csrf_origin_mismatch",
        "the origin of the request is neither its host nor one of additional_origins of the csrf filter",
    ),
    (
        "decompression_failed",
        "the body of the request is not what its content-encoding says, or grows too much; see the decompressor filter",
    ),
    (
        "downstream_local_disconnect",
        "the proxy closed the client's connection while the request ran: it was drained, too old or did not answer pings; see \
         max_connection_duration and connection_keepalive",
    ),
    (
        "downstream_remote_disconnect",
        "the client closed its connection before the response was whole; see how long it waits",
    ),
    ("fault_filter_abort", "the fault filter aborted the request as configured; see its abort"),
    (
        "grpc_base_64_decode_failed",
        "the body of a grpc-web-text request is not base64; the client sends something else than its content-type says",
    ),
    (
        "health_check_failed",
        "the health_check filter was told to fail: by /healthcheck/fail, or the process is draining",
    ),
    (
        "health_check_failed_cluster_empty",
        "a cluster of the health_check filter has no hosts; see cluster_min_healthy_percentages",
    ),
    (
        "health_check_failed_cluster_unhealthy",
        "too few hosts of a cluster are healthy for the health_check filter; see cluster_min_healthy_percentages",
    ),
    (
        "health_check_failed_no_cluster_found",
        "a cluster that the health_check filter names does not exist; see cluster_min_healthy_percentages",
    ),
    (
        "http.invalid_authority",
        "the host of the request is malformed, has user information, or stands there twice; the client is at fault",
    ),
    (
        "http1.codec_error",
        "the client sent what is no HTTP/1: a malformed line, length or chunk; it may speak TLS or HTTP/2 to a plain port",
    ),
    (
        "http1.connection_header_rejected",
        "the Connection field of the request names fields that must not be removed; the client is at fault",
    ),
    (
        "http1.content_length_and_chunked_not_allowed",
        "the request has both content-length and transfer-encoding, so where it ends is not certain; see \
         http_protocol_options.allow_chunked_length",
    ),
    ("http1.content_length_not_allowed", "a request that has no body says content-length; the client is at fault"),
    (
        "http1.headers_too_large",
        "the head of the request is larger than max_request_headers_kb of the connection manager; shorten cookies or raise it",
    ),
    ("http1.invalid_characters", "a field of the request has a control character; the client is at fault"),
    ("http1.invalid_scheme", "the request target is an absolute URL of another scheme than http and https"),
    (
        "http1.invalid_transfer_encoding",
        "the request has another transfer-encoding than one chunked, which no proxy can frame; the client is at fault",
    ),
    ("http1.invalid_url", "the request target is no path, URL, authority or *; the client is at fault"),
    ("http1.too_many_headers", "the request has more fields than common_http_protocol_options.max_headers_count"),
    (
        "http1.transfer_encoding_not_allowed",
        "a request of HTTP/1.0 or CONNECT says transfer-encoding; the client is at fault",
    ),
    (
        "http1.unexpected_underscore",
        "a field name has an underscore; see common_http_protocol_options.headers_with_underscores_action",
    ),
    ("http2.remote_refuse", "the client took the request back with REFUSED_STREAM before it was answered"),
    ("http2.remote_reset", "the client gave the request up with RST_STREAM; see how long it waits"),
    ("http2.too_many_headers", "the request has more fields than common_http_protocol_options.max_headers_count"),
    (
        "http2.unexpected_underscore",
        "a field name has an underscore; see common_http_protocol_options.headers_with_underscores_action",
    ),
    (
        "local_rate_limited",
        "the token bucket of the local_ratelimit filter is empty; raise token_bucket.max_tokens or tokens_per_fill, or slow the client",
    ),
    ("low_version", "the request is of HTTP/1.0 or older; see http_protocol_options.accept_http_10"),
    (
        "max_connection_duration_reached",
        "the tunnel's connection reached common_http_protocol_options.max_connection_duration",
    ),
    ("missing_host_header", "the request has no host; see http_protocol_options.default_host_for_http_10"),
    ("missing_path_rejected", "the request has no path; the client is at fault"),
    (
        "overload_error",
        "the client floods its HTTP/2 connection with frames; see the max_*_frames of http2_protocol_options",
    ),
    (
        "path_normalization_failed",
        "the path cannot be normalised, or has what is refused; see normalize_path and path_with_escaped_slashes_action",
    ),
    (
        "rejecting_because_detection_failed",
        "the client's address is not where the configuration wants it; see original_ip_detection_extensions",
    ),
    (
        "request_payload_too_large",
        "the body of the request is larger than a filter may hold: max_request_bytes of the buffer filter, or \
         per_connection_buffer_limit_bytes of the listener",
    ),
    (
        "response_length_mismatch",
        "a filter changed the length of a body whose content-length had left; it has to remove that field first",
    ),
    (
        "response_payload_too_large",
        "the body of the response is larger than a filter may hold; see per_connection_buffer_limit_bytes of the listener",
    ),
    ("too_many_premature_resets", "the client resets nearly all its requests early, so its connection was closed"),
    ("tunnel_drained", "the tunnel was ended since its listener or the process drains; see --drain-time-s"),
    (
        "upgrade_failed",
        "the route does not allow the upgrade or CONNECT that the request asks for; see upgrade_configs",
    ),
    (
        "upgrade_not_accepted",
        "the upstream answered an upgrade with success but did not switch protocols; see whether it knows that upgrade",
    ),
    ("zmq_no_worker", "no ZeroMQ worker is connected to take the request"),
    ("zmq_reply_timeout", "no ZeroMQ worker answered in time; see the timeout of the zmq_bridge filter"),
    ("zmq_worker_lost", "the ZeroMQ worker that had the request disconnected before its answer"),
];

/// What these details mean, where one sentence says it.
pub fn of_details(details: &str) -> Option<&'static str> {
    let at = BY_DETAILS.binary_search_by_key(&details, |(details, _)| details).ok()?;
    BY_DETAILS.get(at).map(|(_, cause)| *cause)
}

/// Notes in the stream's facts why it was answered with this reply or ended by it. Answers that are no failures have no cause.
pub fn note(reply: &LocalReply, info: &mut StreamInfo) {
    info.cause = match &reply.cause {
        Some(cause) => Some(cause.clone()),
        None if reply.status.as_u16() < 400 || reply.verbatim => return,
        None if is_configured(&reply.details) => return,
        None => of_details(&reply.details).map_or_else(
            || Some(format!("the proxy answered by itself ({})", reply.details).into()),
            |cause| Some(cause.into()),
        ),
    };
}

/// Answers that the configuration asks for.
fn is_configured(details: &str) -> bool {
    matches!(details, "direct_response" | "cors_response" | "zmq_reply") || details.starts_with("custom_response")
}

/// Notes why a stream ended without an answer of ours; its details are there already.
pub fn note_end(info: &mut StreamInfo) {
    if info.cause.is_none()
        && let Some(cause) = info.response_code_details.as_deref().and_then(of_details)
    {
        info.cause = Some(cause.into());
    }
}

/// Why a TCP connection did not reach its cluster, or lost it.
pub fn note_tcp(cluster: Option<&str>, info: &mut StreamInfo) {
    let flags = info.response_flags;
    let cluster = cluster.unwrap_or_default();
    let host = info.upstream.address.as_ref().map(ToString::to_string).unwrap_or_default();
    let transport = info.upstream.transport_failure_reason.as_deref().unwrap_or_default();
    let cause = if flags.has(ResponseFlag::NoClusterFound) {
        "the cluster of the tcp_proxy does not exist; see its cluster or weighted_clusters".to_owned()
    } else if flags.has(ResponseFlag::NoHealthyUpstream) {
        format!("cluster {cluster} has no host that may be used; see /clusters")
    } else if flags.has(ResponseFlag::UpstreamOverflow) {
        format!("a circuit breaker of cluster {cluster} is open; see max_connections of its circuit_breakers")
    } else if flags.has(ResponseFlag::UpstreamConnectionFailure) {
        format!(
            "upstream {host} of cluster {cluster} cannot be reached: {transport}; see that it runs and listens there"
        )
    } else if flags.has(ResponseFlag::UpstreamRemoteReset) {
        format!("upstream {host} of cluster {cluster} reset the connection; see its log")
    } else {
        return;
    };
    info.cause = Some(cause.into());
}

/// A time as people write it: `250 ms`, `1.5 s`, `61 s`.
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        match millis {
            0..1_000 => write!(f, "{millis} ms"),
            1_000..10_000 if millis % 1_000 >= 100 => write!(f, "{}.{} s", millis / 1_000, millis % 1_000 / 100),
            _ => write!(f, "{} s", millis / 1_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_context::stream_info;
    use sota_plugin::http::StatusCode;

    #[test]
    fn the_table_is_sorted_and_says_something() {
        assert!(BY_DETAILS.is_sorted_by(|a, b| a.0 < b.0));
        for (details, cause) in BY_DETAILS {
            assert_eq!(of_details(details), Some(*cause));
            assert!(cause.len() > 20 && !cause.ends_with('.'), "{cause}");
        }
        assert_eq!(of_details("via_upstream"), None);
    }

    #[test]
    fn answers_that_are_no_failures_have_none() {
        let mut info = stream_info();
        for (status, details) in [(404, "direct_response"), (301, "anything"), (200, "anything")] {
            note(&LocalReply::new(StatusCode::from_u16(status).unwrap(), "", details), &mut info);
            assert_eq!(info.cause, None, "{details}");
        }
        note(&LocalReply::new(StatusCode::FORBIDDEN, "", "of_a_filter"), &mut info);
        assert_eq!(info.cause.as_deref(), Some("the proxy answered by itself (of_a_filter)"));
        note(&LocalReply::new(StatusCode::FORBIDDEN, "", "of_a_filter").cause("its own words"), &mut info);
        assert_eq!(info.cause.as_deref(), Some("its own words"));
    }

    #[test]
    fn spans() {
        for (millis, text) in [(0, "0 ms"), (250, "250 ms"), (1500, "1.5 s"), (2000, "2 s"), (61_400, "61 s")] {
            assert_eq!(Span(Duration::from_millis(millis)).to_string(), text);
        }
    }
}
