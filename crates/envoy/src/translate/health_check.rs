//! Active health checks (`envoy.config.core.v3.HealthCheck`) and what endpoints say about theirs.

use super::{
    address::{AddressUse, address},
    context::Cx,
    extension::message_name,
    header_mutations::header_mutations,
    matcher::string_matcher,
};
use sota_config::{
    Node,
    health_check::{EndpointHealthCheck, HealthCheck, HealthCheckKind, HttpHealthCheck},
};
use std::{ops::Range, sync::Arc, time::Duration};

const FILE_SINK: &str = "envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink";
const DEFAULT_NO_TRAFFIC_INTERVAL: Duration = Duration::from_secs(60);
const DEFAULT_RESPONSE_BUFFER: u64 = 1024;
/// The most octets of a response that are looked at.
const MOST_RESPONSE_BUFFER: u64 = 1 << 20;

/// The checks of a cluster, if it has some.
pub(super) fn health_check(cx: &mut Cx<'_>, node: &Node) -> Option<Arc<HealthCheck>> {
    if node.list("health_checks").len() > 1 {
        cx.field_error(node, "health_checks", "a cluster has one health check at most");
        return None;
    }
    cx.each(node, "health_checks", |cx, node| one(cx, node).map(Arc::new)).pop()
}

fn one(cx: &mut Cx<'_>, node: &Node) -> Option<HealthCheck> {
    let kind = if node.has("http_health_check") {
        cx.optional(node, "http_health_check", http)?
    } else if node.has("tcp_health_check") {
        cx.optional(node, "tcp_health_check", tcp)?
    } else if node.has("grpc_health_check") {
        cx.optional(node, "grpc_health_check", grpc)?
    } else {
        if !cx.is_refused() {
            cx.error(node.mark, "it needs one of http_health_check, tcp_health_check and grpc_health_check");
        }
        return None;
    };
    // Both are required by the rules of the message.
    let (timeout, interval) = (cx.duration(node, "timeout")?, cx.duration(node, "interval")?);
    let no_traffic_interval = cx.duration(node, "no_traffic_interval").unwrap_or(DEFAULT_NO_TRAFFIC_INTERVAL);
    let unhealthy_interval = cx.duration(node, "unhealthy_interval").unwrap_or(interval);
    let older_log = Some(node.str("event_log_path")).filter(|path| !path.is_empty()).map(str::to_owned);
    Some(HealthCheck {
        kind,
        timeout,
        interval,
        initial_jitter: cx.duration(node, "initial_jitter").unwrap_or_default(),
        interval_jitter: cx.duration(node, "interval_jitter").unwrap_or_default(),
        interval_jitter_percent: node.u32("interval_jitter_percent").unwrap_or(0),
        unhealthy_threshold: node.u32("unhealthy_threshold").unwrap_or(1),
        healthy_threshold: node.u32("healthy_threshold").unwrap_or(1),
        reuse_connection: node.bool_or("reuse_connection", true),
        no_traffic_interval,
        no_traffic_healthy_interval: cx.duration(node, "no_traffic_healthy_interval").unwrap_or(no_traffic_interval),
        unhealthy_interval,
        unhealthy_edge_interval: cx.duration(node, "unhealthy_edge_interval").unwrap_or(unhealthy_interval),
        healthy_edge_interval: cx.duration(node, "healthy_edge_interval").unwrap_or(interval),
        event_logs: older_log.into_iter().chain(cx.each(node, "event_logger", event_logger)).collect(),
        always_log_failures: node.bool("always_log_health_check_failures"),
        always_log_success: node.bool("always_log_health_check_success"),
        alpn_protocols: node.field("tls_options").strings("alpn_protocols"),
        transport_match: node
            .get("transport_socket_match_criteria")
            .map(|criteria| criteria.pairs().iter().map(|(key, value)| (key.to_string(), value.clone())).collect()),
    })
}

fn event_logger(cx: &mut Cx<'_>, node: &Node) -> Option<String> {
    if message_name(node) != Some(FILE_SINK) {
        if !cx.is_refused() {
            cx.error(
                node.mark,
                format!("events go to files only: a configuration of the type {FILE_SINK} belongs here"),
            );
        }
        return None;
    }
    let path = node.field("typed_config").str("event_log_path");
    (!path.is_empty()).then(|| path.to_owned())
}

fn http(cx: &mut Cx<'_>, node: &Node) -> Option<HealthCheckKind> {
    let method = match node.str("method") {
        "" | "METHOD_UNSPECIFIED" => "GET",
        "CONNECT" => {
            cx.field_error(node, "method", "CONNECT opens a tunnel, which is no answer");
            return None;
        }
        method => method,
    };
    let send = cx.optional(node, "send", payload).unwrap_or_default();
    if !send.is_empty() && matches!(method, "GET" | "HEAD" | "DELETE" | "TRACE") {
        cx.field_error(node, "send", format!("a {method} request has no body: set another method"));
    }
    let expected = statuses(cx, node, "expected_statuses");
    let retriable = statuses(cx, node, "retriable_statuses");
    let service_name = match node.has("service_name_matcher") {
        true => Some(cx.optional(node, "service_name_matcher", string_matcher)?),
        false => None,
    };
    let most = node.uint("response_buffer_size").unwrap_or(DEFAULT_RESPONSE_BUFFER);
    let most = if most == 0 { MOST_RESPONSE_BUFFER } else { most.min(MOST_RESPONSE_BUFFER) };
    Some(HealthCheckKind::Http(Box::new(HttpHealthCheck {
        host: node.str("host").to_owned(),
        path: node.str("path").to_owned(),
        method: method.to_owned(),
        send,
        receive: cx.each(node, "receive", payload),
        response_buffer_size: usize::try_from(most).unwrap_or(0),
        headers: header_mutations(cx, node, "request_headers_to_add", "request_headers_to_remove"),
        expected_statuses: if expected.is_empty() { std::iter::once(200..201).collect() } else { expected },
        retriable_statuses: retriable,
        http2: node.str("codec_client_type") == "HTTP2",
        service_name,
    })))
}

/// Half-open ranges of statuses, as Envoy takes them: within 100 to 600.
fn statuses(cx: &mut Cx<'_>, node: &Node, key: &str) -> Vec<Range<u16>> {
    cx.each(node, key, |cx, node| {
        let bound = |key: &str| node.field(key).as_i64().unwrap_or(0);
        let (start, end) = (bound("start"), bound("end"));
        let range = u16::try_from(start).ok().zip(u16::try_from(end).ok());
        match range.filter(|(start, end)| start < end && *start >= 100 && *end <= 600) {
            Some((start, end)) => Some(start..end),
            None => {
                let reason = format!("[{start}, {end}) is no range of statuses: those are from 100 to below 600");
                cx.error(node.mark, reason);
                None
            }
        }
    })
}

fn tcp(cx: &mut Cx<'_>, node: &Node) -> Option<HealthCheckKind> {
    Some(HealthCheckKind::Tcp {
        send: cx.optional(node, "send", payload).unwrap_or_default(),
        receive: cx.each(node, "receive", payload),
    })
}

fn grpc(cx: &mut Cx<'_>, node: &Node) -> Option<HealthCheckKind> {
    Some(HealthCheckKind::Grpc {
        service_name: node.str("service_name").to_owned(),
        authority: node.str("authority").to_owned(),
        initial_metadata: header_mutations(cx, node, "initial_metadata", ""),
    })
}

/// Octets: as hexadecimal digits in `text`, or as they are.
fn payload(cx: &mut Cx<'_>, node: &Node) -> Option<Vec<u8>> {
    if let Some(octets) = node.field("binary").as_bytes() {
        return Some(octets.to_vec());
    }
    let text = node.str("text");
    let pairs = text.as_bytes().chunks(2);
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let octet = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let octets: Option<Vec<u8>> = pairs.map(octet).collect();
    if octets.is_none() {
        cx.field_error(node, "text", "these are not pairs of hexadecimal digits");
    }
    octets
}

/// `Endpoint.HealthCheckConfig`.
pub(super) fn endpoint_health_check(cx: &mut Cx<'_>, node: &Node) -> Option<Arc<EndpointHealthCheck>> {
    Some(Arc::new(EndpointHealthCheck {
        port: node.u32("port_value").filter(|port| *port > 0).and_then(|port| u16::try_from(port).ok()),
        hostname: node.str("hostname").to_owned(),
        address: address(cx, node, "address", AddressUse::Host),
        disabled: node.bool("disable_active_health_check"),
    }))
}
