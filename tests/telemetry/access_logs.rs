//! Access logs that go to a service: what it gets is decoded here.

use crate::{BINARY, HTTP2, cluster, collector::Collector};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
};
use sota_testkit::{Origin, ProxyProcess, Reply, free_port, get, request, wait_until};
use std::{
    collections::HashMap,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(20);

/// What is looked at of `envoy.service.accesslog.v3.StreamAccessLogsMessage`.
#[derive(Clone, PartialEq, prost::Message)]
struct StreamAccessLogsMessage {
    #[prost(message, optional, tag = "1")]
    identifier: Option<Identifier>,
    #[prost(message, optional, tag = "2")]
    http_logs: Option<HttpEntries>,
    #[prost(message, optional, tag = "3")]
    tcp_logs: Option<TcpEntries>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Identifier {
    #[prost(message, optional, tag = "1")]
    node: Option<Node>,
    #[prost(string, tag = "2")]
    log_name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Node {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    cluster: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HttpEntries {
    #[prost(message, repeated, tag = "1")]
    log_entry: Vec<HttpEntry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HttpEntry {
    #[prost(message, optional, tag = "1")]
    common: Option<Common>,
    #[prost(int32, tag = "2")]
    protocol: i32,
    #[prost(message, optional, tag = "3")]
    request: Option<RequestProperties>,
    #[prost(message, optional, tag = "4")]
    response: Option<ResponseProperties>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Common {
    #[prost(message, optional, tag = "2")]
    remote: Option<Address>,
    #[prost(message, optional, tag = "5")]
    start_time: Option<Seconds>,
    #[prost(message, optional, tag = "10")]
    last_upstream_rx: Option<Seconds>,
    #[prost(message, optional, tag = "13")]
    upstream: Option<Address>,
    #[prost(string, tag = "15")]
    upstream_cluster: String,
    #[prost(message, optional, tag = "16")]
    flags: Option<Flags>,
    #[prost(string, tag = "19")]
    route_name: String,
    #[prost(message, optional, tag = "23")]
    duration: Option<Seconds>,
    #[prost(uint32, tag = "24")]
    attempts: u32,
    #[prost(uint64, tag = "29")]
    sent: u64,
    #[prost(int32, tag = "33")]
    kind: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Address {
    #[prost(message, optional, tag = "1")]
    socket: Option<SocketAddress>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SocketAddress {
    #[prost(string, tag = "2")]
    address: String,
    #[prost(uint32, tag = "3")]
    port: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Seconds {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Flags {
    #[prost(bool, tag = "6")]
    upstream_connection_failure: bool,
    #[prost(bool, tag = "9")]
    no_route_found: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestProperties {
    #[prost(int32, tag = "1")]
    method: i32,
    #[prost(string, tag = "2")]
    scheme: String,
    #[prost(string, tag = "3")]
    authority: String,
    #[prost(string, tag = "5")]
    path: String,
    #[prost(string, tag = "6")]
    user_agent: String,
    #[prost(string, tag = "9")]
    request_id: String,
    #[prost(uint64, tag = "12")]
    body_bytes: u64,
    #[prost(map = "string, string", tag = "13")]
    headers: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseProperties {
    #[prost(message, optional, tag = "1")]
    code: Option<Number>,
    #[prost(uint64, tag = "3")]
    body_bytes: u64,
    #[prost(map = "string, string", tag = "4")]
    headers: HashMap<String, String>,
    #[prost(string, tag = "6")]
    details: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(uint32, tag = "1")]
    value: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TcpEntries {
    #[prost(message, repeated, tag = "1")]
    log_entry: Vec<TcpEntry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TcpEntry {
    #[prost(message, optional, tag = "1")]
    common: Option<Common>,
    #[prost(message, optional, tag = "2")]
    bytes: Option<Moved>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Moved {
    #[prost(uint64, tag = "1")]
    received: u64,
    #[prost(uint64, tag = "2")]
    sent: u64,
}

/// An entry of `access_log`.
fn log(kind: &str, common: &str, more: &str) -> String {
    format!(
        "{{name: log, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.{kind}GrpcAccessLogConfig, \
         common_config: {{log_name: mine, transport_api_version: V3, grpc_service: {{envoy_grpc: {{cluster_name: service}}}}, \
         {common}}}, {more}}}}}"
    )
}

fn start(origin: u16, service: u16, http: &str, tcp: &str) -> ProxyProcess {
    let text = format!(
        r#"node: {{id: node-1, cluster: shop}}
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
          access_log: [{http}]
          route_config:
            virtual_hosts: [{{name: all, domains: ["shop"], routes: [{{name: everything, match: {{prefix: /}}, route: {{cluster: origin}}}}]}}]
          http_filters: [{{name: envoy.filters.http.router}}]
  - name: tcp
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: origin
          access_log: [{tcp}]
  clusters:
{}{}"#,
        cluster("origin", origin, ""),
        cluster("service", service, HTTP2)
    );
    ProxyProcess::start(BINARY, &text)
}

#[test]
fn a_service_gets_what_happened_on_streams_and_connections() {
    let origin =
        Origin::http(|_| Reply::default().send("HTTP/1.1 201 Created\r\ncontent-length: 5\r\nx-out: o\r\n\r\nhello"));
    let service = Collector::start();
    let http = log(
        "Http",
        "buffer_flush_interval: 0.05s",
        "additional_request_headers_to_log: [X-In, absent], additional_response_headers_to_log: [x-out]",
    );
    let proxy = start(origin.port(), service.address.port(), &http, &log("Tcp", "buffer_size_bytes: 1", ""));
    let bytes = "POST /a?b=c HTTP/1.1\r\nhost: shop\r\nx-in: i\r\nuser-agent: test\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc";
    assert_eq!(request(proxy.listener("front"), bytes).status(), 201);
    let id = origin.last().header("x-request-id").unwrap().to_owned();
    assert_eq!(
        request(proxy.listener("front"), "GET / HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n").status(),
        404
    );
    let mut connection = TcpStream::connect(proxy.listener("tcp")).unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    connection.set_read_timeout(Some(LIMIT)).unwrap();
    assert!(connection.read(&mut [0; 4096]).unwrap() > 0);
    drop(connection);

    let messages = service.wait("/StreamAccessLogs", |messages: Vec<StreamAccessLogsMessage>| {
        let http: usize =
            messages.iter().filter_map(|message| message.http_logs.as_ref()).map(|logs| logs.log_entry.len()).sum();
        (http == 2 && messages.iter().any(|message| message.tcp_logs.is_some())).then_some(messages)
    });
    let identifier = messages.iter().find_map(|message| message.identifier.clone()).unwrap();
    let node = identifier.node.unwrap();
    assert_eq!((identifier.log_name.as_str(), node.id.as_str(), node.cluster.as_str()), ("mine", "node-1", "shop"));
    let entries: Vec<_> =
        messages.iter().filter_map(|message| message.http_logs.clone()).flat_map(|logs| logs.log_entry).collect();
    let entry = entries.iter().find(|entry| entry.request.as_ref().unwrap().authority == "shop").unwrap();
    let (common, request, response) =
        (entry.common.as_ref().unwrap(), entry.request.as_ref().unwrap(), entry.response.as_ref().unwrap());
    assert_eq!((entry.protocol, request.method, request.scheme.as_str()), (2, 3, "http"));
    assert_eq!((request.path.as_str(), request.user_agent.as_str(), &request.request_id), ("/a?b=c", "test", &id));
    assert_eq!(
        (request.body_bytes, request.headers.get("x-in").map(String::as_str), request.headers.len()),
        (3, Some("i"), 1)
    );
    assert_eq!(
        (response.code.as_ref().unwrap().value, response.body_bytes, response.details.as_str()),
        (201, 5, "via_upstream")
    );
    assert_eq!(response.headers.get("x-out").map(String::as_str), Some("o"));
    assert_eq!(
        (common.upstream_cluster.as_str(), common.route_name.as_str(), common.attempts),
        ("origin", "everything", 1)
    );
    let host = common.upstream.as_ref().unwrap().socket.as_ref().unwrap();
    assert_eq!((host.address.as_str(), host.port), ("127.0.0.1", u32::from(origin.port())));
    assert_eq!(common.remote.as_ref().unwrap().socket.as_ref().unwrap().address, "127.0.0.1");
    assert!(common.start_time.as_ref().unwrap().seconds > 1_700_000_000 && common.sent > 50 && common.kind == 6);
    let (part, whole) = (common.last_upstream_rx.as_ref().unwrap(), common.duration.as_ref().unwrap());
    assert!((part.seconds, part.nanos) <= (whole.seconds, whole.nanos) && common.flags.is_none());
    let refused = entries.iter().find(|entry| entry.request.as_ref().unwrap().authority == "other").unwrap();
    assert!(refused.common.as_ref().unwrap().flags.as_ref().unwrap().no_route_found);
    let tcp =
        messages.iter().filter_map(|message| message.tcp_logs.clone()).flat_map(|logs| logs.log_entry).next().unwrap();
    assert_eq!(tcp.common.unwrap().kind, 3);
    let moved = tcp.bytes.unwrap();
    assert!(moved.received > 30 && moved.sent > 40, "{moved:?}");
    assert_eq!(proxy.stat("access_logs.grpc_access_log.logs_written"), 3);
    assert_eq!(proxy.stat("access_logs.grpc_access_log.logs_dropped"), 0);
}

#[test]
fn a_service_that_is_gone_costs_a_counter() {
    let origin = Origin::named("one");
    let proxy = start(origin.port(), free_port(), &log("Http", "buffer_flush_interval: 0.05s", ""), "");
    for _ in 0..5 {
        assert_eq!(
            request(proxy.listener("front"), "GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").status(),
            200
        );
    }
    wait_until("entries are lost", LIMIT, || proxy.stat("access_logs.grpc_access_log.logs_dropped") == 5);
    assert_eq!(get(proxy.listener("front"), "/").status(), 404);
}

/// A value as text, whatever its kind.
fn shown(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => format!("#{number}"),
        Some(Value::BoolValue(flag)) => format!("?{flag}"),
        Some(Value::ArrayValue(list)) => list.values.iter().map(|item| shown(Some(item)) + ";").collect(),
        Some(Value::KvlistValue(list)) => {
            list.values.iter().map(|pair| format!("{}={};", pair.key, shown(pair.value.as_ref()))).collect()
        }
        _ => String::new(),
    }
}

fn find(pairs: &[KeyValue], key: &str) -> String {
    shown(pairs.iter().find(|pair| pair.key == key).unwrap_or_else(|| panic!("no {key}: {pairs:?}")).value.as_ref())
}

#[test]
fn open_telemetry_gets_log_records() {
    let (origin, service) = (Origin::named("one"), Collector::start());
    let log = "{name: otel, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig, \
               common_config: {log_name: mine, transport_api_version: V3, buffer_flush_interval: 0.05s, grpc_service: {envoy_grpc: {cluster_name: service}}}, \
               resource_attributes: {values: [{key: k8s.cluster, value: {string_value: east}}]}, \
               body: {string_value: \"%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE%\"}, \
               attributes: {values: [{key: agent, value: {string_value: \"%REQ(USER-AGENT)%\"}}, {key: number, value: {int_value: 7}}, \
               {key: list, value: {array_value: {values: [{bool_value: true}, {string_value: \"%ROUTE_NAME%\"}]}}}, \
               {key: map, value: {kvlist_value: {values: [{key: code, value: {string_value: \"%RESPONSE_CODE%\"}}]}}}]}}}";
    let proxy = start(origin.port(), service.address.port(), log, "");
    let bytes = b"GET /a HTTP/1.1\r\nhost: shop\r\nuser-agent: t\xe9st\r\nconnection: close\r\n\r\n";
    assert_eq!(request(proxy.listener("front"), bytes).status(), 200);
    let (resource, record) = service.wait("LogsService/Export", |requests: Vec<ExportLogsServiceRequest>| {
        let logs = requests.into_iter().flat_map(|request| request.resource_logs).next()?;
        let record = logs.scope_logs.first()?.log_records.first()?.clone();
        Some((logs.resource?.attributes, record))
    });
    for (key, value) in
        [("log_name", "mine"), ("cluster_name", "shop"), ("node_name", "node-1"), ("k8s.cluster", "east")]
    {
        assert_eq!(find(&resource, key), value);
    }
    assert_eq!(shown(record.body.as_ref()), "GET /a 200");
    assert!(find(&record.attributes, "agent").starts_with('t'));
    assert_eq!(
        (find(&record.attributes, "number").as_str(), find(&record.attributes, "list").as_str()),
        ("#7", "?true;everything;")
    );
    assert_eq!(find(&record.attributes, "map"), "code=200;");
    assert!(record.time_unix_nano > 1_700_000_000_000_000_000);
    wait_until("the count", LIMIT, || proxy.stat("access_logs.open_telemetry_access_log.logs_written") == 1);
}
