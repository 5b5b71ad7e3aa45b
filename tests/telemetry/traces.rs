//! Traces: what upstreams are told, which requests are sampled, and the spans that collectors get.

use crate::{BINARY, HTTP2, cluster, collector::Collector};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;
use sota_testkit::{Origin, ProxyProcess, Reply, Request, free_port, get, request, wait_until};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);
const EXPORT: &str = "TraceService/Export";
/// Spans leave soon.
const SOON: &str = "layered_runtime: {layers: [{name: static, static_layer: {tracing.opentelemetry.flush_interval_ms: 50, \
                    tracing.zipkin.flush_interval_ms: 50}}]}\n";

/// A listener `front` before a cluster `origin`. `tracing`: fields of the connection manager's; `route`: further fields of the
/// route; `listener`: of the listener.
fn config(origin: u16, tracing: &str, route: &str, listener: &str, clusters: &str) -> String {
    format!(
        r#"{SOON}node: {{id: node-1, cluster: shop, locality: {{zone: z1}}}}
static_resources:
  listeners:
  - name: front
    {listener}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          tracing: {{{tracing}}}
          route_config:
            virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: origin, retry_policy: {{retry_on: 5xx}}}} {route}}}]}}]
          http_filters: [{{name: envoy.filters.http.router}}]
  clusters:
{}{clusters}"#,
        cluster("origin", origin, "")
    )
}

fn otel(more: &str) -> String {
    format!(
        "provider: {{name: otel, typed_config: {{\"@type\": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, {more}}}}}"
    )
}

const GRPC: &str = "grpc_service: {envoy_grpc: {cluster_name: collector}}, service_name: shop";

/// All spans that came.
fn spans(requests: Vec<ExportTraceServiceRequest>) -> Vec<Span> {
    let resources = requests.into_iter().flat_map(|request| request.resource_spans);
    resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
}

fn tag<'s>(span: &'s Span, name: &str) -> &'s str {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text,
        _ => "",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The trace and the span in `traceparent`.
fn told(request: &Request) -> (String, String, String) {
    let text = request.header("traceparent").unwrap_or_else(|| panic!("no traceparent: {request:?}"));
    let parts: Vec<_> = text.split('-').collect();
    assert_eq!((parts.len(), parts[0]), (4, "00"));
    (parts[1].to_owned(), parts[2].to_owned(), parts[3].to_owned())
}

#[test]
fn open_telemetry_over_grpc() {
    let (origin, collector) = (Origin::named("one"), Collector::start());
    let tags = "custom_tags: [{tag: lit, literal: {value: l}}, {tag: env, environment: {name: NO_SUCH_VARIABLE, default_value: d}}, \
                {tag: req, request_header: {name: x-a, default_value: none}}, {tag: empty, request_header: {name: x-no}}, \
                {tag: fmt, value: \"%PROTOCOL%\"}, \
                {tag: meta, metadata: {kind: {route: {}}, metadata_key: {key: ns, path: [{key: a}]}, default_value: none}}]";
    let route = ", metadata: {filter_metadata: {ns: {a: of-the-route}}}, decorator: {operation: buy}, tracing: {custom_tags: [{tag: lit, literal: {value: of-route}}]}";
    let text = config(
        origin.port(),
        &format!("{tags}, verbose: true, max_path_tag_length: 8, {}", otel(GRPC)),
        route,
        "",
        &cluster("collector", collector.address.port(), HTTP2),
    );
    let proxy = ProxyProcess::start(BINARY, &text);
    let bytes =
        "GET /a/long/path HTTP/1.1\r\nhost: shop.example\r\nx-a: b\r\nuser-agent: test\r\nconnection: close\r\n\r\n";
    let answer = request(proxy.listener("front"), bytes);
    assert_eq!((answer.status(), answer.header("x-envoy-decorator-operation")), (200, Some("buy")));
    let (trace, parent, flags) = told(&origin.last());
    assert_eq!(flags, "01");
    let id = origin.last().header("x-request-id").unwrap().to_owned();
    assert_eq!(&id[14..15], "9", "{id}");

    let (span, resource) = collector.wait(EXPORT, |requests: Vec<ExportTraceServiceRequest>| {
        let resource = requests.first()?.resource_spans.first()?.resource.clone()?;
        Some((spans(requests).pop()?, resource))
    });
    assert_eq!((hex(&span.trace_id), hex(&span.span_id)), (trace, parent));
    assert_eq!((span.name.as_str(), span.kind()), ("buy", SpanKind::Server));
    assert!(span.parent_span_id.is_empty() && span.end_time_unix_nano > span.start_time_unix_nano, "{span:?}");
    assert!(span.status.as_ref().is_none_or(|status| status.code == 0));
    for (name, value) in [
        ("http.url", "http://shop.example/a/long/"),
        ("http.method", "GET"),
        ("http.protocol", "HTTP/1.1"),
        ("http.status_code", "200"),
        ("user_agent", "test"),
        ("downstream_cluster", "-"),
        ("upstream_cluster", "origin"),
        ("upstream_cluster.name", "origin"),
        ("component", "proxy"),
        ("response_flags", "-"),
        ("request_size", "0"),
        ("response_size", "3"),
        ("peer.address", "127.0.0.1"),
        ("node_id", "node-1"),
        ("zone", "z1"),
        ("guid:x-request-id", &id),
        ("lit", "of-route"),
        ("env", "d"),
        ("req", "b"),
        ("fmt", "HTTP/1.1"),
        ("meta", "of-the-route"),
        ("empty", ""),
    ] {
        assert_eq!(tag(&span, name), value, "{name} of {span:?}");
    }
    assert!(span.events.iter().any(|event| event.name == "first_upstream_rx_byte_received"), "{span:?}");
    let service = resource.attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
    assert!(format!("{service:?}").contains("shop"), "{service:?}");
    wait_until("stats", LIMIT, || proxy.stat("tracing.opentelemetry.reports_sent") >= 1);
}

#[test]
fn a_trace_goes_on_and_attempts_have_spans() {
    let collector = Collector::start();
    let origin = Origin::http(|request| match request.header("x-envoy-attempt-count") {
        _ if request.target() == "/fails" => Reply::status(503, ""),
        _ => Reply::ok(""),
    });
    let text = config(
        origin.port(),
        &format!("spawn_upstream_span: true, {}", otel(GRPC)),
        "",
        "traffic_direction: OUTBOUND",
        &cluster("collector", collector.address.port(), HTTP2),
    );
    let proxy = ProxyProcess::start(BINARY, &text);
    let bytes = "GET /fails HTTP/1.1\r\nhost: shop\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
                 tracestate: a=1\r\nconnection: close\r\n\r\n";
    assert_eq!(request(proxy.listener("front"), bytes).status(), 503);
    let seen = origin.seen();
    assert_eq!(seen.len(), 2, "a retry");
    assert_eq!(seen[0].header("tracestate"), Some("a=1"));
    let all = collector.wait(EXPORT, |requests| Some(spans(requests)).filter(|spans| spans.len() == 3));
    let own = all.iter().find(|span| hex(&span.parent_span_id) == "b7ad6b7169203331").unwrap();
    assert_eq!((own.name.as_str(), own.kind(), own.trace_state.as_str()), ("egress shop", SpanKind::Server, "a=1"));
    assert_eq!((tag(own, "error"), own.status.as_ref().unwrap().code), ("true", 2));
    for request in &seen {
        let (trace, span, _) = told(request);
        let span = all.iter().find(|known| hex(&known.span_id) == span).unwrap();
        assert_eq!((trace.as_str(), hex(&span.trace_id)), ("0af7651916cd43dd8448eb211c80319c", trace.clone()));
        assert_eq!((span.name.as_str(), span.kind()), ("router origin egress", SpanKind::Client));
        assert_eq!(span.parent_span_id, own.span_id);
        assert_eq!(tag(span, "upstream_address"), origin.address().to_string());
    }
}

#[test]
fn sampling() {
    let origin = Origin::named("one");
    let none = "client_sampling: {value: 100}, random_sampling: {value: 0}, overall_sampling: {value: 100}";
    let text = config(origin.port(), &format!("{none}, {}", otel("service_name: shop")), "", "", "");
    let proxy = ProxyProcess::start(BINARY, &text);
    let ask = |fields: &str| {
        let bytes = format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}connection: close\r\n\r\n");
        assert_eq!(request(proxy.listener("front"), bytes).status(), 200);
        let last = origin.last();
        (told(&last).2, last.header("x-request-id").unwrap()[14..15].to_owned())
    };
    let of = |flags: &str, reason: &str| (flags.to_owned(), reason.to_owned());
    assert_eq!(ask(""), of("00", "4"), "random sampling of nothing");
    assert_eq!(ask("x-client-trace-id: 1\r\n"), of("01", "b"));
    assert_eq!(ask("x-request-id: 01234567-89ab-9def-8123-456789abcdef\r\n"), of("01", "9"), "decided before");
    // Who is before has decided for the trace.
    let parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    assert_eq!(ask(parent), of("01", "4"));

    let sampler = "service_name: s, sampler: {name: s, typed_config: {\"@type\": \
                   type.googleapis.com/envoy.extensions.tracers.opentelemetry.samplers.v3.ParentBasedSamplerConfig, wrapped_sampler: \
                   {name: r, typed_config: {\"@type\": \
                   type.googleapis.com/envoy.extensions.tracers.opentelemetry.samplers.v3.TraceIdRatioBasedSamplerConfig, \
                   sampling_percentage: {numerator: 50}}}}}";
    let proxy = ProxyProcess::start(BINARY, &config(origin.port(), &otel(sampler), "", "", ""));
    let sampled = (0..200).filter(|_| {
        get(proxy.listener("front"), "/");
        told(&origin.last()).2 == "01"
    });
    let sampled = sampled.count();
    assert!((50..150).contains(&sampled), "{sampled} of 200");
}

#[test]
fn zipkin_and_b3() {
    let (origin, collector) = (Origin::named("one"), Origin::http(|_| Reply::status(202, "")));
    let zipkin = "provider: {name: zipkin, typed_config: {\"@type\": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, \
                  collector_cluster: collector, collector_endpoint: /api/v2/spans, collector_endpoint_version: HTTP_JSON}}";
    let clusters = cluster("collector", collector.port(), "");
    let proxy = ProxyProcess::start(BINARY, &config(origin.port(), zipkin, "", "", &clusters));
    let ask = |fields: &str| {
        let bytes = format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}connection: close\r\n\r\n");
        assert_eq!(request(proxy.listener("front"), bytes).status(), 200);
        origin.last()
    };
    let reported = |count: usize| {
        wait_until("the spans", LIMIT, || collector.requests() >= count as u64);
        let last = collector.last();
        assert_eq!((last.method(), last.target(), last.header("host")), ("POST", "/api/v2/spans", Some("collector")));
        assert_eq!(last.header("content-type"), Some("application/json"));
        serde_json::from_slice::<serde_json::Value>(&last.body).unwrap()[0].clone()
    };
    let fresh = ask("");
    let (trace, id) = (fresh.header("x-b3-traceid").unwrap(), fresh.header("x-b3-spanid").unwrap());
    assert_eq!((trace.len(), trace, fresh.header("x-b3-sampled")), (16, id, Some("1")));
    let span = reported(1);
    assert_eq!(
        (span["traceId"].as_str(), span["id"].as_str(), span["parentId"].as_str()),
        (Some(trace), Some(id), None)
    );
    assert_eq!((span["kind"].as_str(), span["name"].as_str()), (Some("SERVER"), Some("ingress")));
    assert_eq!(span["localEndpoint"]["serviceName"], "shop");
    assert_eq!(span["tags"]["http.status_code"], "200");
    assert!(span["timestamp"].as_u64().unwrap() > 0 && span["duration"].as_u64().unwrap() > 0);

    let single = ask("b3: 0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1-0000000000000005\r\n");
    assert_eq!(single.header("x-b3-traceid"), Some("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(single.header("x-b3-spanid"), Some("b7ad6b7169203331"), "a shared span");
    let span = reported(2);
    assert_eq!((span["shared"].as_bool(), span["parentId"].as_str()), (Some(true), Some("0000000000000005")));

    let several = ask("x-b3-traceid: 8448eb211c80319c\r\nx-b3-spanid: b7ad6b7169203331\r\nx-b3-sampled: 0\r\n");
    assert_eq!((several.header("x-b3-sampled"), several.header("x-b3-traceid")), (Some("0"), Some("8448eb211c80319c")));
    let bad = ask("x-b3-traceid: nonsense\r\nx-b3-spanid: 1\r\n");
    assert_eq!(bad.header("x-b3-traceid"), Some("nonsense"), "left alone");
}

#[test]
fn the_tracer_of_the_bootstrap_is_that_of_managers_that_name_none() {
    let (origin, collector) = (Origin::named("one"), Origin::http(|_| Reply::status(202, "")));
    let clusters = cluster("collector", collector.port(), "");
    let text = format!(
        "tracing: {{http: {{name: envoy.tracers.zipkin, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_cluster: collector, collector_endpoint: \
         /api/v2/spans, collector_endpoint_version: HTTP_JSON}}}}}}\n{}",
        config(origin.port(), "", "", "", &clusters)
    );
    let proxy = ProxyProcess::start(BINARY, &text);
    assert_eq!(get(proxy.listener("front"), "/").status(), 200);
    assert!(origin.last().header("x-b3-traceid").is_some());
    wait_until("the span", LIMIT, || collector.requests() == 1);
}

#[test]
fn a_collector_that_is_gone_costs_a_counter() {
    let origin = Origin::named("one");
    let small = format!("{GRPC}, max_cache_size: 8");
    let text = config(origin.port(), &otel(&small), "", "", &cluster("collector", free_port(), HTTP2));
    let proxy = ProxyProcess::start_with(BINARY, &text, &["--concurrency", "1"]);
    for _ in 0..200 {
        assert_eq!(get(proxy.listener("front"), "/").status(), 200);
    }
    wait_until("failures are counted", LIMIT, || proxy.stat("tracing.opentelemetry.reports_failed") > 0);
    assert!(proxy.stat("tracing.opentelemetry.spans_sent") + proxy.stat("tracing.opentelemetry.spans_dropped") <= 200);
}

#[test]
fn open_telemetry_over_http_with_detectors() {
    let (origin, collector) = (Origin::named("one"), Origin::named("ok"));
    let more = "http_service: {http_uri: {uri: \"http://collector.example/v1/traces\", cluster: collector, timeout: 1s}, \
                request_headers_to_add: [{header: {key: x-token, value: t}}]}, resource_detectors: [{name: static, typed_config: \
                {\"@type\": \
                type.googleapis.com/envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig, \
                attributes: {service.name: detected, key: value}}}]";
    let clusters = cluster("collector", collector.port(), "");
    let proxy = ProxyProcess::start(BINARY, &config(origin.port(), &otel(more), "", "", &clusters));
    assert_eq!(get(proxy.listener("front"), "/").status(), 200);
    wait_until("the spans", LIMIT, || collector.requests() == 1);
    let last = collector.last();
    assert_eq!((last.method(), last.target(), last.header("host")), ("POST", "/v1/traces", Some("collector.example")));
    assert_eq!((last.header("content-type"), last.header("x-token")), (Some("application/x-protobuf"), Some("t")));
    let request = ExportTraceServiceRequest::decode(&*last.body).unwrap();
    let resource = format!("{:?}", request.resource_spans[0].resource);
    assert!(resource.contains("detected") && resource.contains("value"), "{resource}");
    assert_eq!(spans(vec![request]).len(), 1);
}
