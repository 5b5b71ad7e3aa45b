//! The HTTP connection manager and its filters.

use super::{
    access_log::access_log,
    address::cidr_range,
    config_source::config_source,
    context::Cx,
    early_mutations::early_header_mutations,
    extension::{extension, is_filter},
    http_options::{http_protocol_options, http1_options, http2_options},
    local_reply::local_reply,
    original_ip::original_ip_detection,
    route::route_configuration,
    tracing::tracing,
    upgrade::upgrades,
};
use sota_config::{
    Node,
    http::{
        ClientCertDetails, CodecType, EscapedSlashes, ForwardClientCert, HttpConnectionManager, HttpFilter,
        HttpFilterKind, InternalAddressConfig, RouteSource, RouterConfig, ServerHeaderTransformation, StripPort,
    },
};
use std::{sync::Arc, time::Duration};

/// The name of the router, by which it is found without `typed_config`.
const ROUTER: &str = "envoy.filters.http.router";
const ROUTER_MESSAGE: &str = "envoy.extensions.filters.http.router.v3.Router";

const DEFAULT_STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_DELAYED_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_MAX_REQUEST_HEADERS_KB: u32 = 60;
const DEFAULT_SERVER_NAME: &str = "envoy";

/// A connection manager; its inline routes are checked against the known clusters unless they say otherwise.
pub(super) fn http_connection_manager(cx: &mut Cx<'_>, node: &Node) -> Option<HttpConnectionManager> {
    let routes = routes(cx, node);
    let http_filters = http_filters(cx, node, "http_filters");
    if node.bool("strip_matching_host_port") && node.bool("strip_any_host_port") {
        cx.field_error(
            node,
            "strip_any_host_port",
            "only one of strip_matching_host_port and strip_any_host_port can be set",
        );
    }
    let options = node.field("access_log_options");
    for key in ["access_log_flush_interval", "flush_access_log_on_new_request"] {
        if !options.is_null() && (node.has(key) && node.field(key).as_bool() != Some(false)) {
            cx.field_error(node, key, format!("only one of access_log_options and {key} can be set"));
        }
    }
    let access_log_flush_interval = match options.has("access_log_flush_interval") {
        true => cx.with("access_log_options", |cx| cx.timeout(options, "access_log_flush_interval", None)),
        false => cx.timeout(node, "access_log_flush_interval", None),
    };
    Some(HttpConnectionManager {
        stat_prefix: node.str("stat_prefix").to_owned(),
        codec_type: match node.str("codec_type") {
            "HTTP1" => CodecType::Http1,
            "HTTP2" => CodecType::Http2,
            _ => CodecType::Auto,
        },
        common: cx.with("common_http_protocol_options", |cx| {
            http_protocol_options(cx, node.field("common_http_protocol_options"))
        }),
        http1: http1_options(node.field("http_protocol_options")),
        http2: cx.with("http2_protocol_options", |cx| http2_options(cx, node.field("http2_protocol_options"))),
        stream_idle_timeout: cx.timeout(node, "stream_idle_timeout", Some(DEFAULT_STREAM_IDLE_TIMEOUT)),
        request_timeout: cx.timeout(node, "request_timeout", None),
        request_headers_timeout: cx.timeout(node, "request_headers_timeout", None),
        drain_timeout: cx.duration(node, "drain_timeout").unwrap_or(DEFAULT_DRAIN_TIMEOUT),
        delayed_close_timeout: cx.timeout(node, "delayed_close_timeout", Some(DEFAULT_DELAYED_CLOSE_TIMEOUT)),
        max_request_headers_kb: node.u32("max_request_headers_kb").unwrap_or(DEFAULT_MAX_REQUEST_HEADERS_KB),
        server_name: match node.str("server_name") {
            "" => DEFAULT_SERVER_NAME.to_owned(),
            name => name.to_owned(),
        },
        server_header_transformation: match node.str("server_header_transformation") {
            "APPEND_IF_ABSENT" => ServerHeaderTransformation::AppendIfAbsent,
            "PASS_THROUGH" => ServerHeaderTransformation::PassThrough,
            _ => ServerHeaderTransformation::Overwrite,
        },
        use_remote_address: node.bool("use_remote_address"),
        xff_num_trusted_hops: node.u32("xff_num_trusted_hops").unwrap_or(0),
        skip_xff_append: node.bool("skip_xff_append"),
        original_ip_detection: original_ip_detection(cx, node),
        early_header_mutations: early_header_mutations(cx, node),
        internal_address_config: cx
            .optional(node, "internal_address_config", |cx, node| {
                Some(InternalAddressConfig {
                    unix_sockets: node.bool("unix_sockets"),
                    cidr_ranges: cx.each(node, "cidr_ranges", cidr_range),
                })
            })
            .unwrap_or_default(),
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6: node
            .bool("represent_ipv4_remote_address_as_ipv4_mapped_ipv6"),
        generate_request_id: node.bool_or("generate_request_id", true),
        preserve_external_request_id: node.bool("preserve_external_request_id"),
        add_proxy_protocol_connection_state: node.bool_or("add_proxy_protocol_connection_state", true),
        always_set_request_id_in_response: node.bool("always_set_request_id_in_response"),
        via: node.str("via").to_owned(),
        normalize_path: node.bool("normalize_path"),
        merge_slashes: node.bool("merge_slashes"),
        path_with_escaped_slashes_action: match node.str("path_with_escaped_slashes_action") {
            "REJECT_REQUEST" => EscapedSlashes::RejectRequest,
            "UNESCAPE_AND_REDIRECT" => EscapedSlashes::UnescapeAndRedirect,
            "UNESCAPE_AND_FORWARD" => EscapedSlashes::UnescapeAndForward,
            // Envoy's own default, unless a runtime key says otherwise.
            _ => EscapedSlashes::KeepUnchanged,
        },
        strip_port: match (node.bool("strip_any_host_port"), node.bool("strip_matching_host_port")) {
            (true, _) => StripPort::Any,
            (_, true) => StripPort::Matching,
            _ => StripPort::None,
        },
        strip_trailing_host_dot: node.bool("strip_trailing_host_dot"),
        stream_error_on_invalid_http_message: node.bool("stream_error_on_invalid_http_message"),
        proxy_100_continue: node.bool("proxy_100_continue"),
        scheme_override: match node.field("scheme_header_transformation").str("scheme_to_overwrite") {
            "" => None,
            scheme => Some(scheme.to_owned()),
        },
        scheme_matches_upstream: node.field("scheme_header_transformation").bool("match_upstream"),
        add_user_agent: node.bool("add_user_agent"),
        forward_client_cert: match node.str("forward_client_cert_details") {
            "FORWARD_ONLY" => ForwardClientCert::ForwardOnly,
            "APPEND_FORWARD" => ForwardClientCert::AppendForward,
            "SANITIZE_SET" => ForwardClientCert::SanitizeSet,
            "ALWAYS_FORWARD_ONLY" => ForwardClientCert::AlwaysForwardOnly,
            _ => ForwardClientCert::Sanitize,
        },
        client_cert_details: client_cert_details(node.field("set_current_client_cert_details")),
        append_x_forwarded_port: node.bool("append_x_forwarded_port"),
        access_log: cx.each(node, "access_log", access_log),
        access_log_flush_interval,
        flush_access_log_on_new_request: node.bool("flush_access_log_on_new_request")
            || options.bool("flush_access_log_on_new_request"),
        tracing: match node.has("tracing") {
            true => Some(cx.optional(node, "tracing", tracing)?),
            false => None,
        },
        pack_trace_reason: node.field("request_id_extension").field("typed_config").bool_or("pack_trace_reason", true),
        local_reply: cx.with("local_reply_config", |cx| local_reply(cx, node.field("local_reply_config"))),
        upgrades: upgrades(cx, node),
        http_filters,
        routes: routes?,
    })
}

fn routes(cx: &mut Cx<'_>, node: &Node) -> Option<RouteSource> {
    if let Some(rds) = node.get("rds") {
        return cx.with("rds", |cx| {
            if !rds.has("config_source") && !cx.is_refused() {
                cx.error(rds.mark, "the field \"config_source\" is required");
            }
            let source = Arc::new(cx.optional(rds, "config_source", config_source)?);
            Some(RouteSource::Rds { name: rds.str("route_config_name").to_owned(), source })
        });
    }
    if node.has("scoped_routes") {
        cx.field_error(node, "scoped_routes", "routes by scope are not supported");
        return None;
    }
    cx.optional(node, "route_config", |cx, node| {
        Some(RouteSource::Inline(Arc::new(route_configuration(cx, node, true))))
    })
}

/// The chain in the field `key`: the router ends it, and is nowhere else. Extensions that end one are not known here.
pub(super) fn http_filters(cx: &mut Cx<'_>, node: &Node, key: &'static str) -> Vec<HttpFilter> {
    let count = node.list(key).len();
    if count == 0 {
        cx.field_error(node, key, format!("there are no filters; the last one must be {ROUTER}"));
    }
    let mut position = 0;
    cx.each(node, key, |cx, node| {
        position += 1;
        http_filter(cx, node, key, position == count)
    })
}

fn http_filter(cx: &mut Cx<'_>, node: &Node, key: &str, is_last: bool) -> Option<HttpFilter> {
    let name = node.str("name");
    if node.has("config_discovery") {
        // Refused by the check; with --allow-unsupported nothing is known of the filter.
        cx.field_error(node, "config_discovery", "a filter without configuration cannot be built");
        return None;
    }
    let is_router = is_filter(node, ROUTER, ROUTER_MESSAGE);
    if is_router && !is_last {
        cx.error(node.mark, format!("terminal filter \"{name}\" ({ROUTER}) must be the last filter of {key}"));
    }
    if is_last && !is_router && !cx.is_refused() {
        cx.error(node.mark, format!("non-terminal filter \"{name}\" is the last one; {ROUTER} must end {key}"));
    }
    if is_last && node.bool("disabled") {
        cx.field_error(node, "disabled", "the terminal filter cannot be disabled");
    }
    let kind = match is_router {
        true => HttpFilterKind::Router(cx.with("typed_config", |cx| router(cx, node.field("typed_config")))),
        false => HttpFilterKind::Extension(extension(cx, node)),
    };
    Some(HttpFilter {
        name: name.to_owned(),
        kind,
        disabled: node.bool("disabled"),
        is_optional: node.bool("is_optional"),
    })
}

/// `envoy.extensions.filters.http.router.v3.Router`; a null node gives the defaults.
fn router(cx: &mut Cx<'_>, node: &Node) -> RouterConfig {
    RouterConfig {
        dynamic_stats: node.bool_or("dynamic_stats", true),
        respect_expected_rq_timeout: node.bool("respect_expected_rq_timeout"),
        suppress_envoy_headers: node.bool("suppress_envoy_headers"),
        upstream_log: cx.each(node, "upstream_log", access_log),
    }
}

/// `SetCurrentClientCertDetails`.
fn client_cert_details(node: &Node) -> ClientCertDetails {
    ClientCertDetails {
        subject: node.bool("subject"),
        cert: node.bool("cert"),
        chain: node.bool("chain"),
        dns: node.bool("dns"),
        uri: node.bool("uri"),
    }
}
