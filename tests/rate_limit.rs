//! `envoy.filters.http.ratelimit` with a rate-limit service, as a whole process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "telemetry/collector.rs"]
#[allow(dead_code, reason = "others need more of it")]
mod collector;

use collector::Collector;
use prost::Message;
use sota_testkit::{Origin, ProxyProcess, Reply, Response, free_port, request};

/// `RateLimitRequest`.
#[derive(Clone, PartialEq, Message)]
struct RateLimitRequest {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(message, repeated, tag = "2")]
    descriptors: Vec<Descriptor>,
    #[prost(uint32, tag = "3")]
    hits_addend: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Descriptor {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Pair>,
}

#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// `RateLimitResponse`.
#[derive(Clone, PartialEq, Message)]
struct RateLimitResponse {
    #[prost(int32, tag = "1")]
    overall_code: i32,
    #[prost(message, repeated, tag = "2")]
    statuses: Vec<Status>,
    #[prost(message, repeated, tag = "3")]
    response_headers: Vec<Pair>,
    #[prost(message, repeated, tag = "4")]
    request_headers: Vec<Pair>,
    #[prost(bytes = "vec", tag = "5")]
    raw_body: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(message, optional, tag = "2")]
    limit: Option<Limit>,
    #[prost(uint32, tag = "3")]
    remaining: u32,
    #[prost(message, optional, tag = "4")]
    reset: Option<Seconds>,
}

#[derive(Clone, PartialEq, Message)]
struct Limit {
    #[prost(uint32, tag = "1")]
    requests_per_unit: u32,
    #[prost(int32, tag = "2")]
    unit: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Seconds {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

/// Refuses users that are called `greedy`, and sends nonsense for `mad`.
fn answer(message: &bytes::Bytes) -> Vec<u8> {
    let request = RateLimitRequest::decode(message.clone()).unwrap();
    let is = |name: &str| request.descriptors.iter().flat_map(|one| &one.entries).any(|entry| entry.value == name);
    if is("mad") {
        return vec![0x12, 99, 1];
    }
    let pair = |key: &str, value: &str| Pair { key: key.to_owned(), value: value.to_owned() };
    let over = is("greedy");
    RateLimitResponse {
        overall_code: if over { 2 } else { 1 },
        statuses: vec![Status {
            code: 1,
            limit: Some(Limit { requests_per_unit: 10, unit: 2 }),
            remaining: if over { 0 } else { 7 },
            reset: Some(Seconds { seconds: 30 }),
        }],
        response_headers: vec![pair("X-Said", "so")],
        request_headers: vec![pair("X-Seen", "yes")],
        raw_body: if over { b"too much".to_vec() } else { Vec::new() },
    }
    .encode_to_vec()
}

/// `service` 0: the cluster of the service is not there.
fn start(origin: u16, service: u16, more: &str) -> ProxyProcess {
    let text = format!(
        r#"node: {{id: node-1, cluster: us}}
static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              rate_limits: [{{actions: [{{generic_key: {{descriptor_value: host}}}}]}}]
              routes:
              - match: {{prefix: /free}}
                route: {{cluster: origin, rate_limits: [{{stage: 3, actions: [{{remote_address: {{}}}}]}}]}}
              - match: {{prefix: /own}}
                route: {{cluster: origin}}
                typed_per_filter_config:
                  envoy.filters.http.ratelimit:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute
                    domain: other
                    rate_limits: [{{actions: [{{destination_cluster: {{}}}}, {{source_cluster: {{}}}}]}}]
              - match: {{prefix: /both}}
                route:
                  cluster: origin
                  include_vh_rate_limits: true
                  rate_limits: [{{actions: [{{request_headers: {{header_name: x-user, descriptor_key: user}}}}]}}]
              - match: {{prefix: /user}}
                route:
                  cluster: origin
                  rate_limits: [{{actions: [{{request_headers: {{header_name: x-user, descriptor_key: user}}}}]}}]
              - match: {{prefix: /}}
                route: {{cluster: origin}}
          http_filters:
          - name: envoy.filters.http.ratelimit
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
              domain: shop
              timeout: 2s
              rate_limit_service: {{transport_api_version: V3, grpc_service: {{envoy_grpc: {{cluster_name: service}}}}}}
              {more}
          - name: envoy.filters.http.router
  clusters:
  - {{name: origin, load_assignment: {{cluster_name: origin, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {origin}}}}}}}}}]}}]}}}}
  - name: service
    http2_protocol_options: {{}}
    load_assignment: {{cluster_name: service, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {service}}}}}}}}}]}}]}}
"#
    );
    let text = if service == 0 { text.replace("{cluster_name: service}", "{cluster_name: nowhere}") } else { text };
    ProxyProcess::start(env!("CARGO_BIN_EXE_sota-mesh"), &text)
}

fn ask(proxy: &ProxyProcess, path: &str, user: &str) -> Response {
    let bytes = format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-user: {user}\r\nconnection: close\r\n\r\n");
    request(proxy.listener("front"), bytes)
}

/// Domain and entries of the request that came last.
fn asked(service: &Collector) -> (String, Vec<Vec<String>>) {
    let last = service.messages::<RateLimitRequest>("/ShouldRateLimit").pop().unwrap();
    let entries = |descriptor: &Descriptor| {
        descriptor.entries.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect()
    };
    (last.domain, last.descriptors.iter().map(entries).collect())
}

#[test]
fn the_service_decides_by_what_routes_say() {
    let (origin, service) = (Origin::http(|_| Reply::ok("hello")), Collector::answering(answer));
    let more = "enable_x_ratelimit_headers: DRAFT_VERSION_03
              enable_retry_after_header: true
              response_headers_to_add: [{header: {key: x-limited, value: '%REQ(x-user)%'}}]";
    let proxy = start(origin.port(), service.address.port(), more);

    let passed = ask(&proxy, "/user", "modest");
    assert_eq!((passed.status(), passed.header("x-said")), (200, Some("so")));
    assert_eq!(passed.header("x-ratelimit-limit"), Some("10, 10;w=60"));
    assert_eq!((passed.header("x-ratelimit-remaining"), passed.header("x-ratelimit-reset")), (Some("7"), Some("30")));
    assert_eq!(origin.last().header("x-seen"), Some("yes"));
    assert_eq!(asked(&service), ("shop".to_owned(), vec![vec!["user=modest".to_owned()]]));

    let refused = ask(&proxy, "/user", "greedy");
    assert_eq!((refused.status(), refused.text().as_str()), (429, "too much"));
    assert_eq!((refused.header("x-envoy-ratelimited"), refused.header("x-said")), (Some("true"), Some("so")));
    assert_eq!((refused.header("x-limited"), refused.header("retry-after")), (Some("greedy"), Some("30")));
    assert_eq!(refused.header("x-ratelimit-remaining"), Some("0"));

    ask(&proxy, "/both", "modest");
    assert_eq!(asked(&service).1, [["user=modest"], ["generic_key=host"]]);
    ask(&proxy, "/", "modest");
    assert_eq!(asked(&service).1, [["generic_key=host"]]);
    ask(&proxy, "/own", "modest");
    let (domain, entries) = asked(&service);
    assert_eq!(
        (domain.as_str(), entries[0].join(" ").as_str()),
        ("other", "destination_cluster=origin source_cluster=us")
    );
    let before = service.messages::<RateLimitRequest>("/ShouldRateLimit").len();
    assert_eq!(ask(&proxy, "/free", "modest").status(), 200);
    assert_eq!(service.messages::<RateLimitRequest>("/ShouldRateLimit").len(), before, "another stage");
    let stat = |name: &str| proxy.stat(&format!("cluster.origin.ratelimit.{name}"));
    assert_eq!((stat("ok"), stat("over_limit"), stat("error")), (4, 1, 0));
    assert_eq!(origin.requests(), 5);
}

#[test]
fn a_service_that_fails_lets_requests_pass_or_not_as_configured() {
    let origin = Origin::http(|_| Reply::ok("hello"));
    let open = start(origin.port(), free_port(), "");
    assert_eq!(ask(&open, "/user", "a").status(), 200);
    let stat = |proxy: &ProxyProcess, name: &str| proxy.stat(&format!("cluster.origin.ratelimit.{name}"));
    assert_eq!((stat(&open, "error"), stat(&open, "failure_mode_allowed")), (1, 1));
    let closed = start(origin.port(), free_port(), "failure_mode_deny: true");
    assert_eq!(ask(&closed, "/user", "a").status(), 500);
    assert_eq!((stat(&closed, "error"), stat(&closed, "failure_mode_allowed")), (1, 0));
    let requests = closed.admin("/requests?failed").text();
    assert!(requests.contains("RLSE") && requests.contains("rate-limit service of cluster"), "{requests}");
    let missing = start(origin.port(), 0, "");
    assert_eq!((ask(&missing, "/user", "a").status(), stat(&missing, "failure_mode_allowed")), (200, 1));
    // Nonsense is a failure, and so is silence beyond the timeout.
    let service = Collector::answering(answer);
    let mad = start(origin.port(), service.address.port(), "failure_mode_deny: true");
    assert_eq!((ask(&mad, "/user", "mad").status(), ask(&mad, "/user", "sane").status()), (500, 200));
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = start(
        origin.port(),
        silent.local_addr().unwrap().port(),
        "failure_mode_deny: true\n              status_on_error: {code: ServiceUnavailable}",
    );
    assert_eq!(ask(&slow, "/user", "a").status(), 503);
}
