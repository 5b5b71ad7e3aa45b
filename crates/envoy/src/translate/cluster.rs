//! Clusters (`envoy.config.cluster.v3.Cluster`).

use super::{
    address::{AddressUse, bind_config, tcp_keepalive},
    circuit_breakers::circuit_breakers,
    config_source::config_source,
    context::Cx,
    endpoint::load_assignment,
    extension::{any_extension, extension, message_name},
    health_check::health_check,
    http_options::{http_protocol_options, http1_options, http2_options},
    load_balancer::load_balancing,
    matcher::{Pseudo, header_name},
    outlier_detection::outlier_detection,
    tls,
};
use crate::check::{TYPE_KEY, type_name};
use sota_config::{
    ExtensionConfig, Node, Source,
    cluster::{
        Cluster, Discovery, DnsConfig, DnsLookupFamily, LoadAssignment, OriginalDstConfig, RequestNames,
        TrackClusterStats, UpstreamProtocol,
    },
    http::{Http1Options, Http2Options, HttpProtocolOptions},
};
use std::{sync::Arc, time::Duration};

/// The extension that ejects, probes and tries hosts; it is configured beside the protocol options.
const OVERLOAD: &str = "sota.clusters.overload";
/// Tells hosts how long a request may still take.
const DEADLINE: &str = "sota.clusters.deadline";
const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// The message of `envoy.clusters.dns`.
const DNS_CLUSTER: &str = "envoy.extensions.clusters.dns.v3.DnsCluster";
/// The one filter of connections to hosts that is known.
const METADATA_EXCHANGE: &str = "envoy.tcp.metadataexchange.config.MetadataExchange";
/// Another name under which Envoy finds the same options.
const PROTOCOL_OPTIONS_NAME: &str = "envoy.upstreams.http.http_protocol_options";

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_BUFFER_LIMIT: u32 = 1024 * 1024;
const DEFAULT_DNS_REFRESH_RATE: Duration = Duration::from_secs(5);
const DEFAULT_CLEANUP_INTERVAL: Duration = Duration::from_secs(5);

/// A cluster.
pub(super) fn cluster(cx: &mut Cx<'_>, node: &Node) -> Option<Cluster> {
    let discovery = discovery(cx, node)?;
    let load_assignment = endpoints(cx, node, &discovery);
    let options = protocol_options(cx, node);
    cx.each(node, "filters", upstream_filter);
    let upstream_bind_config = cx.optional(node, "upstream_bind_config", |cx, node| Some(bind_config(cx, node)));
    let (mut transport_socket, proxy_protocol) = tls::upstream(cx, node);
    let mut transport_socket_matches = cx.each(node, "transport_socket_matches", tls::transport_match);
    if options.checks_request_names {
        let inner = transport_socket_matches.iter_mut().filter_map(|found| found.transport.as_mut());
        for transport in transport_socket.iter_mut().chain(inner) {
            Arc::make_mut(transport).checks_request_name = true;
        }
    }
    let name = node.str("name");
    let (lb_policy, lb_config) = load_balancing(cx, node, &discovery)?;
    Some(Cluster {
        name: name.to_owned(),
        stat_name: match node.str("alt_stat_name") {
            "" => name.to_owned(),
            stat_name => stat_name.to_owned(),
        },
        lb_policy,
        lb_config,
        discovery,
        load_assignment,
        connect_timeout: cx.duration(node, "connect_timeout").unwrap_or(DEFAULT_CONNECT_TIMEOUT),
        track: track(node),
        proxy_protocol,
        preconnect_ratio: node.field("preconnect_policy").f64("per_upstream_preconnect_ratio").unwrap_or(1.0),
        per_connection_buffer_limit_bytes: node
            .u32("per_connection_buffer_limit_bytes")
            .unwrap_or(DEFAULT_BUFFER_LIMIT),
        circuit_breakers: circuit_breakers(node.field("circuit_breakers")),
        protocol: options.protocol,
        http: options.http,
        request_names: options.request_names,
        http1: options.http1,
        http2: options.http2,
        upstream_bind_config,
        tcp_keepalive: node.field("upstream_connection_options").get("tcp_keepalive").map(tcp_keepalive),
        transport_socket,
        transport_socket_matches,
        metadata: node.get("metadata").map(|metadata| Arc::new(metadata.clone())),
        dns_resolver: dns_resolver(cx, node),
        health_check: health_check(cx, node),
        outlier_detection: cx.optional(node, "outlier_detection", outlier_detection),
        close_connections_on_host_health_failure: node.bool("close_connections_on_host_health_failure"),
        ignore_health_on_host_removal: node.bool("ignore_health_on_host_removal"),
        deadline_header: options.deadline_header,
        overload: options.overload,
        source: Some(Arc::new(Source::new(node))),
    })
}

fn track(node: &Node) -> TrackClusterStats {
    let track = node.field("track_cluster_stats");
    TrackClusterStats {
        timeout_budgets: track.bool("timeout_budgets") || node.bool("track_timeout_budgets"),
        request_response_sizes: track.bool("request_response_sizes"),
        per_endpoint_stats: track.bool("per_endpoint_stats"),
    }
}

/// The resolver that the cluster type names, or else the cluster.
fn dns_resolver(cx: &mut Cx<'_>, node: &Node) -> Option<ExtensionConfig> {
    let typed = node.field("cluster_type").field("typed_config");
    let of_type = cx.with("cluster_type.typed_config", |cx| {
        cx.optional(typed, "typed_dns_resolver_config", |cx, node| Some(extension(cx, node)))
    });
    of_type.or_else(|| cx.optional(node, "typed_dns_resolver_config", |cx, node| Some(extension(cx, node))))
}

/// A network filter of connections to hosts. Of the exchange of metadata nothing is done: see `tls` of the data plane.
fn upstream_filter(cx: &mut Cx<'_>, node: &Node) -> Option<()> {
    let config = extension(cx, node);
    let message = config.config.type_url().map_or("", type_name);
    if message != METADATA_EXCHANGE {
        cx.error(node.mark, format!("there is no filter \"{message}\" for connections to hosts"));
    }
    None
}

/// `None`: it was told what is wrong.
fn discovery(cx: &mut Cx<'_>, node: &Node) -> Option<Discovery> {
    if let Some(custom) = node.get("cluster_type") {
        return cx.with("cluster_type", |cx| custom_type(cx, custom));
    }
    Some(match node.str("type") {
        "STRICT_DNS" => Discovery::StrictDns(dns_config(cx, node)),
        "LOGICAL_DNS" => Discovery::LogicalDns(dns_config(cx, node)),
        "ORIGINAL_DST" => Discovery::OriginalDst(original_dst(cx, node)),
        "EDS" => eds(cx, node)?,
        _ => Discovery::Static,
    })
}

/// `cluster_type`: of Envoy's extensions there is the one that resolves names.
fn custom_type(cx: &mut Cx<'_>, node: &Node) -> Option<Discovery> {
    if message_name(node) != Some(DNS_CLUSTER) {
        if !cx.is_refused() {
            cx.error(
                node.mark,
                format!("a cluster type of the message {DNS_CLUSTER} belongs here; otherwise write type"),
            );
        }
        return None;
    }
    cx.optional(node, "typed_config", |cx, config| {
        let dns = dns_config(cx, config);
        Some(match config.bool("all_addresses_in_single_endpoint") {
            true => Discovery::LogicalDns(dns),
            false => Discovery::StrictDns(dns),
        })
    })
}

fn eds(cx: &mut Cx<'_>, node: &Node) -> Option<Discovery> {
    let config = node.field("eds_cluster_config");
    if !config.has("eds_config") {
        if !cx.with("eds_cluster_config", |cx| cx.is_refused()) {
            cx.field_error(node, "eds_cluster_config", "clusters of type EDS need eds_config, which says who is asked");
        }
        return None;
    }
    let source = cx.with("eds_cluster_config", |cx| cx.optional(config, "eds_config", config_source))?;
    let name = match config.str("service_name") {
        "" => node.str("name"),
        name => name,
    };
    // Names of the new scheme are those of collections, which are not asked for.
    if name.starts_with("xdstp:") {
        cx.field_error(node, "eds_cluster_config", "names of the scheme xdstp are not asked for yet");
        return None;
    }
    Some(Discovery::Eds { service_name: name.to_owned(), source: Arc::new(source) })
}

fn dns_config(cx: &mut Cx<'_>, node: &Node) -> DnsConfig {
    let failure_refresh_rate = cx.optional(node, "dns_failure_refresh_rate", |cx, node| {
        let base = cx.duration(node, "base_interval")?;
        let max = cx.duration(node, "max_interval");
        if max.is_some_and(|max| max < base) {
            cx.field_error(node, "max_interval", "it must be greater than or equal to base_interval");
        }
        Some((base, max.unwrap_or_else(|| base.saturating_mul(10))))
    });
    DnsConfig {
        refresh_rate: cx.duration(node, "dns_refresh_rate").unwrap_or(DEFAULT_DNS_REFRESH_RATE),
        respect_dns_ttl: node.bool("respect_dns_ttl"),
        jitter: cx.duration(node, "dns_jitter").unwrap_or_default(),
        failure_refresh_rate,
        lookup_family: match node.str("dns_lookup_family") {
            "V4_ONLY" => DnsLookupFamily::V4Only,
            "V6_ONLY" => DnsLookupFamily::V6Only,
            "V4_PREFERRED" => DnsLookupFamily::V4Preferred,
            "ALL" => DnsLookupFamily::All,
            _ => DnsLookupFamily::Auto,
        },
    }
}

fn original_dst(cx: &mut Cx<'_>, node: &Node) -> OriginalDstConfig {
    let cleanup_interval = cx.duration(node, "cleanup_interval").unwrap_or(DEFAULT_CLEANUP_INTERVAL);
    let config = node.field("original_dst_lb_config");
    let http_header = cx.with("original_dst_lb_config", |cx| {
        let named = config.has("http_header_name") && !config.str("http_header_name").is_empty();
        match (config.bool("use_http_header"), named) {
            (true, true) => header_name(cx, config, "http_header_name", Pseudo::Allowed),
            (true, false) => Some("x-envoy-original-dst-host".to_owned()),
            (false, true) => {
                cx.field_error(config, "http_header_name", "set use_http_header to true beside it");
                None
            }
            (false, false) => None,
        }
    });
    OriginalDstConfig {
        http_header,
        upstream_port_override: config.u32("upstream_port_override").and_then(|port| u16::try_from(port).ok()),
        cleanup_interval,
    }
}

fn endpoints(cx: &mut Cx<'_>, node: &Node, discovery: &Discovery) -> LoadAssignment {
    let usage = match discovery {
        Discovery::StrictDns(_) | Discovery::LogicalDns(_) => AddressUse::Dns,
        _ => AddressUse::Host,
    };
    let assignment = node.field("load_assignment");
    let endpoints = cx.with("load_assignment", |cx| load_assignment(cx, assignment, usage));
    match discovery {
        Discovery::OriginalDst(_) if !assignment.is_null() => {
            cx.field_error(node, "load_assignment", "clusters of type ORIGINAL_DST must have no load assignment");
        }
        Discovery::LogicalDns(_) => {
            let localities = assignment.list("endpoints");
            if localities.len() != 1 || localities.iter().any(|l| l.list("lb_endpoints").len() != 1) {
                let reason = "clusters of type LOGICAL_DNS must have one locality with one endpoint";
                cx.field_error(node, "load_assignment", reason);
            }
        }
        _ => {}
    }
    endpoints
}

/// What `typed_extension_protocol_options` and the older fields beside it say.
#[derive(Default)]
struct ProtocolOptions {
    protocol: UpstreamProtocol,
    http: HttpProtocolOptions,
    http1: Http1Options,
    http2: Http2Options,
    request_names: Option<RequestNames>,
    checks_request_names: bool,
    deadline_header: Option<String>,
    overload: Option<ExtensionConfig>,
}

fn protocol_options(cx: &mut Cx<'_>, node: &Node) -> ProtocolOptions {
    let has_tls = node.has("transport_socket") || node.has("transport_socket_matches");
    let older_names = request_names(cx, node, has_tls);
    let (mut overload, mut deadline_header) = (None, None);
    let mut typed = None;
    cx.entries(node, "typed_extension_protocol_options", |cx, name, any| -> Option<()> {
        match name {
            PROTOCOL_OPTIONS | PROTOCOL_OPTIONS_NAME if type_name(any.str(TYPE_KEY)) == PROTOCOL_OPTIONS => {
                typed = Some(typed_options(cx, any, has_tls));
            }
            PROTOCOL_OPTIONS | PROTOCOL_OPTIONS_NAME => {
                cx.error(any.mark, format!("a configuration of the type {PROTOCOL_OPTIONS} belongs here"));
            }
            DEADLINE => deadline_header = deadline(cx, any),
            OVERLOAD => overload = Some(any_extension(cx, name.to_owned(), any)),
            _ => cx.error(any.mark, format!("there are no protocol options of the name \"{}\"", name.escape_debug())),
        }
        None
    });
    let older = cx.with("common_http_protocol_options", |cx| {
        http_protocol_options(cx, node.field("common_http_protocol_options"))
    });
    let http2 = cx.with("http2_protocol_options", |cx| http2_options(cx, node.field("http2_protocol_options")));
    // Envoy: the typed options replace the older fields altogether.
    let mut options = typed.unwrap_or_else(|| ProtocolOptions {
        protocol: match node.str("protocol_selection") {
            "USE_DOWNSTREAM_PROTOCOL" => UpstreamProtocol::Downstream,
            _ if node.has("http2_protocol_options") => UpstreamProtocol::Http2,
            _ => UpstreamProtocol::Http1,
        },
        http: older,
        http1: http1_options(node.field("http_protocol_options")),
        http2,
        request_names: older_names.0,
        checks_request_names: older_names.1,
        ..ProtocolOptions::default()
    });
    let requests = &mut options.http.max_requests_per_connection;
    *requests = requests.or_else(|| node.u32("max_requests_per_connection").filter(|requests| *requests > 0));
    ProtocolOptions { deadline_header, overload, ..options }
}

/// `sota.clusters.deadline`: a `Struct` with `header`.
fn deadline(cx: &mut Cx<'_>, any: &Node) -> Option<String> {
    let fields = any.get("value").unwrap_or(any);
    for (key, value) in fields.pairs().iter().filter(|(key, _)| !matches!(&**key, TYPE_KEY | "header")) {
        cx.error(value.mark, format!("unknown field \"{}\"; there is \"header\"", key.escape_debug()));
    }
    let header = header_name(cx, fields, "header", Pseudo::Refused);
    if !fields.has("header") {
        cx.error(any.mark, "\"header\" is missing: the field that says how many milliseconds are left");
    }
    header
}

/// `envoy.config.core.v3.UpstreamHttpProtocolOptions`, which only TLS reads; and whether certificates are checked by it.
fn request_names(cx: &mut Cx<'_>, node: &Node, has_tls: bool) -> (Option<RequestNames>, bool) {
    const FIELD: &str = "upstream_http_protocol_options";
    let Some(names) = node.get(FIELD).filter(|_| has_tls) else { return (None, false) };
    let header = cx.with(FIELD, |cx| header_name(cx, names, "override_auto_sni_header", Pseudo::Allowed));
    let (sends, checks) = (names.bool("auto_sni") || header.is_some(), names.bool("auto_san_validation"));
    if checks && !sends {
        cx.field_error(
            node,
            FIELD,
            "auto_san_validation needs auto_sni: the name that is checked is the one that is sent",
        );
    }
    (sends.then_some(RequestNames { header }), checks)
}

/// `envoy.extensions.upstreams.http.v3.HttpProtocolOptions`.
fn typed_options(cx: &mut Cx<'_>, node: &Node, has_tls: bool) -> ProtocolOptions {
    // For a cluster with TLS it is told already that there is none.
    if node.has("auto_config") && !has_tls {
        cx.field_error(node, "auto_config", "it chooses by ALPN, which only TLS has: write explicit_http_config");
    }
    let (request_names, checks_request_names) = request_names(cx, node, has_tls);
    let kinds = ["explicit_http_config", "use_downstream_protocol_config", "auto_config"];
    let kind = kinds.into_iter().find(|kind| node.has(kind)).unwrap_or_default();
    let config = node.field(kind);
    let http2 = cx.with(kind, |cx| {
        cx.with("http2_protocol_options", |cx| http2_options(cx, config.field("http2_protocol_options")))
    });
    ProtocolOptions {
        protocol: match kind {
            "use_downstream_protocol_config" => UpstreamProtocol::Downstream,
            "auto_config" => UpstreamProtocol::Auto,
            _ if config.has("http2_protocol_options") => UpstreamProtocol::Http2,
            _ => UpstreamProtocol::Http1,
        },
        http: cx.with("common_http_protocol_options", |cx| {
            http_protocol_options(cx, node.field("common_http_protocol_options"))
        }),
        http1: http1_options(config.field("http_protocol_options")),
        http2,
        request_names,
        checks_request_names,
        ..ProtocolOptions::default()
    }
}
