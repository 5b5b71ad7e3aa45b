//! Tracing: the fields `tracing` and `decorator`, tracers, samplers, detectors and tags.

use super::{context::Cx, extension::message_name, matcher::fractional_percent};
use sota_config::{
    Node,
    matcher::FractionalPercent,
    tracing::{
        Collector, CustomTag, Decorator, OpenTelemetry, Provider, RouteTracing, Sampler, TagValue, Tracing, Zipkin,
    },
};
use std::{sync::Arc, time::Duration};

const DEFAULT_MAX_PATH_TAG_LENGTH: u32 = 256;
const DEFAULT_CACHE_SIZE: u32 = 1024;
const DEFAULT_SERVICE_NAME: &str = "unknown_service:envoy";

/// `HttpConnectionManager.Tracing`.
pub(super) fn tracing(cx: &mut Cx<'_>, node: &Node) -> Option<Box<Tracing>> {
    let provider = match node.has("provider") {
        true => Some(Arc::new(cx.optional(node, "provider", provider)?)),
        false => cx.tracer.clone(),
    };
    let share = |key: &str, runtime: &str| percent(node.field(key), runtime);
    Some(Box::new(Tracing {
        provider,
        client_sampling: share("client_sampling", "tracing.client_enabled"),
        random_sampling: share("random_sampling", "tracing.random_sampling"),
        overall_sampling: share("overall_sampling", "tracing.global_enabled"),
        verbose: node.bool("verbose"),
        max_path_tag_length: node.u32("max_path_tag_length").unwrap_or(DEFAULT_MAX_PATH_TAG_LENGTH),
        custom_tags: cx.each(node, "custom_tags", custom_tag),
        spawn_upstream_span: node.bool("spawn_upstream_span"),
        operation: node.str("operation").to_owned(),
        upstream_operation: node.str("upstream_operation").to_owned(),
        no_context_propagation: node.bool("no_context_propagation"),
    }))
}

/// A `Percent`, in millionths; without one: all.
fn percent(node: &Node, runtime: &str) -> FractionalPercent {
    const DENOMINATOR: u32 = 1_000_000;
    let numerator = match node.is_null() {
        true => DENOMINATOR,
        false => (node.f64("value").unwrap_or(0.0).clamp(0.0, 100.0) * 10_000.0).round() as u32,
    };
    FractionalPercent { numerator, denominator: DENOMINATOR, runtime_key: Some(runtime.to_owned()) }
}

/// The fields `tracing` and `decorator` of a route.
pub(super) fn route_tracing(cx: &mut Cx<'_>, route: &Node) -> Option<Box<RouteTracing>> {
    let decorator = route.get("decorator").map(|node| Decorator {
        operation: node.str("operation").to_owned(),
        propagate: node.bool_or("propagate", true),
    });
    let node = route.field("tracing");
    if decorator.is_none() && node.is_null() {
        return None;
    }
    cx.with("tracing", |cx| {
        let mut share = |key: &'static str, runtime: &str| {
            // Compat: a route that says anything of tracing sets all three.
            (!node.is_null()).then(|| {
                let share = match node.get(key) {
                    Some(value) => cx.with(key, |cx| fractional_percent(cx, value)),
                    None => FractionalPercent { numerator: 100, denominator: 100, runtime_key: None },
                };
                FractionalPercent { runtime_key: Some(runtime.to_owned()), ..share }
            })
        };
        Some(Box::new(RouteTracing {
            client_sampling: share("client_sampling", "tracing.client_enabled"),
            random_sampling: share("random_sampling", "tracing.random_sampling"),
            overall_sampling: share("overall_sampling", "tracing.global_enabled"),
            custom_tags: cx.each(node, "custom_tags", custom_tag),
            operation: node.str("operation").to_owned(),
            upstream_operation: node.str("upstream_operation").to_owned(),
            decorator,
        }))
    })
}

/// `envoy.type.tracing.v3.CustomTag`.
fn custom_tag(cx: &mut Cx<'_>, node: &Node) -> Option<CustomTag> {
    let value = if let Some(literal) = node.get("literal") {
        TagValue::Constant(literal.str("value").to_owned())
    } else if let Some(variable) = node.get("environment") {
        let found = std::env::var(variable.str("name")).ok().filter(|value| !value.is_empty());
        TagValue::Constant(found.unwrap_or_else(|| variable.str("default_value").to_owned()))
    } else if let Some(header) = node.get("request_header") {
        TagValue::RequestHeader(header.str("name").to_owned(), header.str("default_value").to_owned())
    } else if let Some(metadata) = node.get("metadata") {
        let kind = metadata.field("kind");
        let source = [("request", "DYNAMIC"), ("route", "ROUTE"), ("cluster", "CLUSTER"), ("host", "UPSTREAM_HOST")];
        let source = source.iter().find(|(key, _)| kind.has(key)).map_or("DYNAMIC", |(_, source)| source);
        let key = metadata.field("metadata_key");
        let steps = key.list("path").iter().map(|step| step.str("key"));
        let path = steps.fold(key.str("key").to_owned(), |path, step| format!("{path}:{step}"));
        TagValue::Format(format!("%METADATA({source}:{path})%"), metadata.str("default_value").to_owned())
    } else if node.has("value") {
        TagValue::Format(node.str("value").to_owned(), String::new())
    } else {
        if !cx.is_refused() {
            cx.error(node.mark, "one of literal, environment, request_header, metadata and value is required");
        }
        return None;
    };
    Some(CustomTag { tag: node.str("tag").to_owned(), value })
}

/// `envoy.config.trace.v3.Tracing.Http`.
pub(super) fn provider(cx: &mut Cx<'_>, node: &Node) -> Option<Provider> {
    let config = node.field("typed_config");
    cx.with("typed_config", |cx| match message_name(node) {
        Some("envoy.config.trace.v3.OpenTelemetryConfig") => open_telemetry(cx, config).map(Provider::OpenTelemetry),
        Some("envoy.config.trace.v3.ZipkinConfig") => zipkin(cx, config).map(Provider::Zipkin),
        _ => {
            if !cx.is_refused() {
                cx.error(node.mark, format!("the tracer \"{}\" needs the typed_config of a tracer", node.str("name")));
            }
            None
        }
    })
}

fn open_telemetry(cx: &mut Cx<'_>, node: &Node) -> Option<OpenTelemetry> {
    let collector = match (node.has("grpc_service"), node.has("http_service")) {
        (true, true) => {
            cx.field_error(node, "http_service", "only one of grpc_service and http_service can be set");
            return None;
        }
        (true, false) => Some(cx.optional(node, "grpc_service", grpc_collector)?),
        (false, true) => Some(cx.optional(node, "http_service", http_collector)?),
        (false, false) => None,
    };
    let sampler = match node.has("sampler") {
        true => Some(cx.optional(node, "sampler", sampler)?),
        false => None,
    };
    let mut resource = detected(cx, node);
    let named = resource.iter().position(|(key, _)| key == "service.name").map(|at| resource.remove(at).1);
    let service_name = match node.str("service_name") {
        "" => named.unwrap_or_else(|| DEFAULT_SERVICE_NAME.to_owned()),
        name => name.to_owned(),
    };
    let max_cache_size = node.u32("max_cache_size").unwrap_or(DEFAULT_CACHE_SIZE).max(1);
    Some(OpenTelemetry { collector, service_name, resource, sampler, max_cache_size })
}

/// What `resource_detectors` know of this process; of what several know, the last one.
pub(super) fn detected(cx: &mut Cx<'_>, node: &Node) -> Vec<(String, String)> {
    let mut resource: Vec<(String, String)> = Vec::new();
    for (key, value) in cx.each(node, "resource_detectors", detector).into_iter().flatten() {
        resource.retain(|(known, _)| *known != key);
        resource.push((key, value));
    }
    resource
}

/// A gRPC service on a cluster (`envoy.config.core.v3.GrpcService`).
pub(super) fn grpc_collector(cx: &mut Cx<'_>, node: &Node) -> Option<Collector> {
    let Some(envoy) = node.get("envoy_grpc") else {
        if !cx.is_refused() {
            cx.error(node.mark, "the field \"envoy_grpc\" is required");
        }
        return None;
    };
    let cluster = envoy.str("cluster_name").to_owned();
    cx.with("envoy_grpc", |cx| check_cluster(cx, envoy, "cluster_name", &cluster))?;
    let field = |node: &Node| (node.str("key").to_ascii_lowercase(), node.str("value").to_owned());
    Some(Collector::Grpc {
        cluster,
        authority: envoy.str("authority").to_owned(),
        metadata: node.list("initial_metadata").iter().map(field).collect(),
        timeout: cx.duration(node, "timeout"),
    })
}

/// Where a static document has to have the cluster.
pub(super) fn check_cluster(cx: &mut Cx<'_>, node: &Node, key: &str, cluster: &str) -> Option<()> {
    if cx.options.static_config && cx.options.clusters.is_some_and(|exists| !exists(cluster)) {
        cx.field_error(node, key, format!("unknown cluster \"{}\"", cluster.escape_debug()));
        return None;
    }
    Some(())
}

/// `envoy.config.core.v3.HttpService`.
pub(super) fn http_collector(cx: &mut Cx<'_>, node: &Node) -> Option<Collector> {
    let uri = node.field("http_uri");
    cx.with("http_uri", |cx| {
        let cluster = uri.str("cluster").to_owned();
        check_cluster(cx, uri, "cluster", &cluster)?;
        let url = uri.str("uri");
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let headers = node.list("request_headers_to_add").iter().map(|option| {
            let header = option.field("header");
            (header.str("key").to_ascii_lowercase(), header.str("value").to_owned())
        });
        Some(Collector::Http {
            cluster,
            authority: authority.to_owned(),
            path: path.to_owned(),
            headers: headers.collect(),
            timeout: cx.duration(uri, "timeout").unwrap_or(Duration::from_secs(5)),
        })
    })
}

fn sampler(cx: &mut Cx<'_>, node: &Node) -> Option<Sampler> {
    const SAMPLERS: &str = "envoy.extensions.tracers.opentelemetry.samplers.v3.";
    let config = node.field("typed_config");
    let name = message_name(node).and_then(|name| name.strip_prefix(SAMPLERS)).unwrap_or_default().to_owned();
    cx.with("typed_config", |cx| match name.as_str() {
        "AlwaysOnSamplerConfig" => Some(Sampler::AlwaysOn),
        "ParentBasedSamplerConfig" => {
            let root = cx.optional(config, "wrapped_sampler", sampler)?;
            Some(Sampler::ParentBased(Box::new(root)))
        }
        "TraceIdRatioBasedSamplerConfig" => {
            let share =
                cx.with("sampling_percentage", |cx| fractional_percent(cx, config.field("sampling_percentage")));
            Some(Sampler::TraceIdRatio(share))
        }
        _ => {
            if !cx.is_refused() {
                cx.error(
                    node.mark,
                    format!("the sampler \"{}\" needs the typed_config of a sampler", node.str("name")),
                );
            }
            None
        }
    })
}

/// What a detector knows of this process.
fn detector(cx: &mut Cx<'_>, node: &Node) -> Option<Vec<(String, String)>> {
    const DETECTORS: &str = "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.";
    let config = node.field("typed_config");
    match message_name(node).and_then(|name| name.strip_prefix(DETECTORS)) {
        Some("EnvironmentResourceDetectorConfig") => {
            // OTEL_RESOURCE_ATTRIBUTES: key=value, with commas between.
            let text = std::env::var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
            let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
            Some(pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect())
        }
        Some("StaticConfigResourceDetectorConfig") => {
            let attributes = config.entries("attributes").iter();
            Some(
                attributes
                    .map(|(key, value)| (key.to_string(), value.as_str().unwrap_or_default().to_owned()))
                    .collect(),
            )
        }
        _ => {
            if !cx.is_refused() {
                cx.error(node.mark, format!("the detector \"{}\" needs the typed_config of one", node.str("name")));
            }
            None
        }
    }
}

fn zipkin(cx: &mut Cx<'_>, node: &Node) -> Option<Zipkin> {
    let collector = match node.has("collector_service") {
        true => cx.optional(node, "collector_service", http_collector)?,
        false => {
            let cluster = node.str("collector_cluster").to_owned();
            if cluster.is_empty() {
                if !cx.is_refused() {
                    cx.error(node.mark, "one of collector_cluster and collector_service is required");
                }
                return None;
            }
            check_cluster(cx, node, "collector_cluster", &cluster)?;
            let authority = match node.str("collector_hostname") {
                "" => cluster.clone(),
                name => name.to_owned(),
            };
            let path = node.str("collector_endpoint").to_owned();
            Collector::Http { cluster, authority, path, headers: Vec::new(), timeout: Duration::from_secs(5) }
        }
    };
    Some(Zipkin {
        collector,
        is_proto: node.str("collector_endpoint_version") == "HTTP_PROTO",
        trace_id_128bit: node.bool("trace_id_128bit"),
        shared_span_context: node.bool_or("shared_span_context", true),
        split_spans_for_request: node.bool("split_spans_for_request"),
        with_w3c: node.str("trace_context_option") == "USE_B3_WITH_W3C_PROPAGATION",
    })
}
