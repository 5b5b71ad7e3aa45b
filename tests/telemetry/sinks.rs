//! Sinks of stats: what they send is decoded here.

use crate::{BINARY, HTTP2, cluster, collector::Collector};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    metrics::v1::{Metric, metric::Data, number_data_point::Value},
};
use sota_testkit::{Origin, ProxyProcess, free_port, get, temp_dir, wait_until};
use std::{
    collections::BTreeMap,
    io::Read,
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(20);

/// A listener `front` before a cluster `origin`; `sinks` are the entries of `stats_sinks`.
fn start(origin: &Origin, sinks: &[String], clusters: &str, more: &str) -> ProxyProcess {
    let sinks: String = sinks.iter().map(|sink| format!("- {sink}\n")).collect();
    let text = format!(
        r#"node: {{id: node-1, cluster: shop}}
stats_flush_interval: 0.1s
{more}
stats_sinks:
{sinks}static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config: {{virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: origin}}}}]}}]}}
          http_filters: [{{name: envoy.filters.http.router}}]
  clusters:
{}{clusters}"#,
        cluster("origin", origin.port(), "")
    );
    let proxy = ProxyProcess::start(BINARY, &text);
    for _ in 0..3 {
        assert_eq!(get(proxy.listener("front"), "/").status(), 200);
    }
    proxy
}

fn sink(message: &str, fields: &str) -> String {
    format!("{{name: sink, typed_config: {{\"@type\": type.googleapis.com/{message}, {fields}}}}}")
}

fn udp(port: u16) -> String {
    format!("address: {{socket_address: {{protocol: UDP, address: 127.0.0.1, port_value: {port}}}}}")
}

/// Reads lines until `done`; the sums of what counters gained, and how often each other name came.
fn lines(
    mut read: impl FnMut(&mut [u8]) -> usize,
    done: impl Fn(&BTreeMap<String, f64>) -> bool,
) -> BTreeMap<String, f64> {
    let (mut sums, mut buffer) = (BTreeMap::new(), vec![0; 65536]);
    let deadline = Instant::now() + LIMIT;
    while !done(&sums) {
        assert!(Instant::now() < deadline, "{sums:?}");
        let count = read(&mut buffer);
        let text = std::str::from_utf8(&buffer[..count]).unwrap();
        for line in text.lines() {
            let (name, rest) = line.split_once(':').unwrap_or_else(|| panic!("{line}"));
            let (value, rest) = rest.split_once('|').unwrap_or_else(|| panic!("{line}"));
            let (kind, tags) = rest.split_once("|#").unwrap_or((rest, ""));
            assert!(["c", "g", "ms"].contains(&kind.split('|').next().unwrap()), "{line}");
            let name = if tags.is_empty() { name.to_owned() } else { format!("{name}#{tags}") };
            *sums.entry(name).or_default() += if kind == "c" { value.parse::<f64>().unwrap() } else { 1.0 };
        }
    }
    sums
}

#[test]
fn statsd_over_udp_and_tcp() {
    let (origin, socket) = (Origin::named("one"), UdpSocket::bind("127.0.0.1:0").unwrap());
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sinks = [
        sink("envoy.config.metrics.v3.StatsdSink", &udp(socket.local_addr().unwrap().port())),
        sink("envoy.config.metrics.v3.StatsdSink", "tcp_cluster_name: statsd, prefix: mine"),
    ];
    let _proxy = start(&origin, &sinks, &cluster("statsd", listener.local_addr().unwrap().port(), ""), "");
    let is_whole = |sums: &BTreeMap<String, f64>, prefix: &str| {
        sums.get(&format!("{prefix}.cluster.origin.upstream_rq_200")) == Some(&3.0)
            && sums.contains_key(&format!("{prefix}.http.front.downstream_rq_time"))
            && sums.contains_key(&format!("{prefix}.server.live"))
    };
    lines(|buffer| socket.recv(buffer).unwrap(), |sums| is_whole(sums, "envoy"));
    let (mut connection, _) = listener.accept().unwrap();
    let mut rest = Vec::new();
    let read = |buffer: &mut [u8]| {
        // Whole lines only.
        loop {
            if let Some(end) = rest.iter().rposition(|octet| *octet == b'\n') {
                let whole: Vec<u8> = rest.drain(..=end).collect();
                buffer[..whole.len()].copy_from_slice(&whole);
                return whole.len();
            }
            let mut part = [0; 4096];
            let count = connection.read(&mut part).unwrap();
            assert!(count > 0, "closed");
            rest.extend_from_slice(&part[..count]);
        }
    };
    lines(read, |sums| is_whole(sums, "mine"));
}

#[test]
fn dog_statsd_packs_datagrams_for_a_unix_socket() {
    let (origin, folder) = (Origin::named("one"), temp_dir());
    let path = folder.path().join("dog");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let fields = format!("address: {{pipe: {{path: {}}}}}, max_bytes_per_datagram: 1400", path.display());
    let _proxy = start(&origin, &[sink("envoy.config.metrics.v3.DogStatsdSink", &fields)], "", "");
    let mut longest = 0;
    let read = |buffer: &mut [u8]| {
        let count = socket.recv(buffer).unwrap();
        assert!(count <= 1400, "{count}");
        longest = longest.max(count);
        count
    };
    let wanted = "envoy.cluster.upstream_rq#envoy.response_code:200,envoy.cluster_name:origin";
    lines(read, |sums| sums.get(wanted) == Some(&3.0));
    assert!(longest > 700, "lines share datagrams: {longest}");
}

/// What is looked at of `envoy.service.metrics.v3.StreamMetricsMessage`.
#[derive(Clone, PartialEq, prost::Message)]
struct StreamMetricsMessage {
    #[prost(message, optional, tag = "1")]
    identifier: Option<Identifier>,
    #[prost(message, repeated, tag = "2")]
    envoy_metrics: Vec<MetricFamily>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Identifier {
    #[prost(message, optional, tag = "1")]
    node: Option<Node>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Node {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    cluster: String,
}

/// `io.prometheus.client.MetricFamily`.
#[derive(Clone, PartialEq, prost::Message)]
struct MetricFamily {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<PrometheusMetric>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PrometheusMetric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<Label>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Number>,
    #[prost(message, optional, tag = "4")]
    summary: Option<Summary>,
    #[prost(int64, tag = "6")]
    timestamp_ms: i64,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(double, tag = "1")]
    value: f64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Summary {
    #[prost(uint64, tag = "1")]
    sample_count: u64,
    #[prost(message, repeated, tag = "3")]
    quantile: Vec<Quantile>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Quantile {
    #[prost(double, tag = "1")]
    quantile: f64,
    #[prost(double, tag = "2")]
    value: f64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    sample_count: u64,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Bucket {
    #[prost(uint64, tag = "1")]
    cumulative_count: u64,
    #[prost(double, tag = "2")]
    upper_bound: f64,
}

#[test]
fn the_metrics_service_gets_families() {
    let (origin, collector) = (Origin::named("one"), Collector::start());
    let service = |more: &str| {
        sink(
            "envoy.config.metrics.v3.MetricsServiceConfig",
            &format!("transport_api_version: V3, grpc_service: {{envoy_grpc: {{cluster_name: collector}}}}, {more}"),
        )
    };
    let sinks = [service("emit_tags_as_labels: true, batch_size: 50")];
    let _proxy = start(&origin, &sinks, &cluster("collector", collector.address.port(), HTTP2), "");
    let first = collector.wait("/StreamMetrics", |messages: Vec<StreamMetricsMessage>| {
        let wanted = |family: &MetricFamily| {
            let metric = family.metric.first()?;
            let has =
                |name: &str, value: &str| metric.label.iter().any(|label| label.name == name && label.value == value);
            let is_it = family.name == "cluster.upstream_rq"
                && has("envoy.response_code", "200")
                && has("envoy.cluster_name", "origin");
            (is_it && metric.counter.as_ref()?.value == 3.0 && metric.timestamp_ms > 0).then_some(family.kind)
        };
        let kind = messages.iter().flat_map(|message| &message.envoy_metrics).find_map(wanted)?;
        assert_eq!(kind, 0, "a counter");
        let all: Vec<_> = messages.iter().flat_map(|message| message.envoy_metrics.clone()).collect();
        let of_kind = |kind: i32| {
            let family = all.iter().find(|family| family.name == "http.downstream_rq_time" && family.kind == kind);
            family.and_then(|family| family.metric.first()).cloned()
        };
        let (summary, histogram) = (of_kind(2)?.summary?, of_kind(4)?.histogram?);
        assert!(summary.quantile.len() == 10 && histogram.bucket.len() == 19);
        assert!(histogram.bucket.last()?.cumulative_count == histogram.sample_count, "{histogram:?}");
        assert!(all.iter().any(|family| family.name == "server.live" && family.metric[0].gauge.is_some()));
        assert!(messages.iter().all(|message| message.envoy_metrics.len() <= 50));
        assert!(messages.iter().skip(1).all(|message| message.identifier.is_none()), "once per stream");
        messages.into_iter().next()
    });
    let node = first.identifier.unwrap().node.unwrap();
    assert_eq!((node.id.as_str(), node.cluster.as_str()), ("node-1", "shop"));
}

#[test]
fn open_telemetry_gets_metrics() {
    let (origin, collector) = (Origin::named("one"), Collector::start());
    let fields = "grpc_service: {envoy_grpc: {cluster_name: collector}}, prefix: mesh, report_histograms_as_deltas: true, \
                  resource_detectors: [{name: static, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.tracers.\
                  opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig, attributes: {service.name: shop}}}]";
    let sinks = [sink("envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig", fields)];
    let _proxy = start(&origin, &sinks, &cluster("collector", collector.address.port(), HTTP2), "");
    collector.wait("MetricsService/Export", |requests: Vec<ExportMetricsServiceRequest>| {
        let resource = requests.first()?.resource_metrics.first()?.resource.clone()?;
        assert_eq!(resource.attributes[0].key, "service.name");
        let metrics: Vec<Metric> = requests
            .into_iter()
            .flat_map(|request| request.resource_metrics)
            .flat_map(|resource| resource.scope_metrics)
            .flat_map(|scope| scope.metrics)
            .collect();
        let find = |name: &str| {
            metrics.iter().filter(|metric| metric.name == name).filter_map(|metric| metric.data.clone()).next_back()
        };
        let Some(Data::Sum(sum)) = find("mesh.cluster.upstream_rq") else { return None };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "{sum:?}");
        let point = sum.data_points.iter().find(|point| {
            let text = format!("{:?}", point.attributes);
            text.contains("envoy.response_code") && text.contains("200") && text.contains("origin")
        })?;
        assert!(point.start_time_unix_nano > 0 && point.time_unix_nano > point.start_time_unix_nano);
        let Some(Data::Gauge(live)) = find("mesh.server.live") else { return None };
        assert_eq!(live.data_points[0].value, Some(Value::AsInt(1)));
        let times = metrics.iter().filter(|metric| metric.name == "mesh.http.downstream_rq_time");
        let seen: u64 = times
            .filter_map(|metric| match &metric.data {
                Some(Data::Histogram(histogram)) => {
                    assert_eq!(histogram.aggregation_temporality, 1);
                    let point = &histogram.data_points[0];
                    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                    assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
                    Some(point.count)
                }
                _ => None,
            })
            .sum();
        (point.value == Some(Value::AsInt(3)) && seen == 3).then_some(())
    });
}

#[test]
fn sinks_that_are_gone_harm_nothing_and_a_flush_may_wait_for_admin() {
    let (origin, socket) = (Origin::named("one"), UdpSocket::bind("127.0.0.1:0").unwrap());
    let sinks = [
        sink("envoy.config.metrics.v3.StatsdSink", "tcp_cluster_name: gone"),
        sink(
            "envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig",
            "grpc_service: {envoy_grpc: {cluster_name: gone}}",
        ),
        sink("envoy.config.metrics.v3.StatsdSink", &udp(socket.local_addr().unwrap().port())),
    ];
    let proxy = start(&origin, &sinks, &cluster("gone", free_port(), HTTP2), "stats_flush_on_admin: true");
    socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    assert!(socket.recv(&mut [0; 1000]).is_err(), "nobody has asked for stats");
    assert_eq!(proxy.stat("http.front.downstream_rq_2xx"), 3);
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    lines(|buffer| socket.recv(buffer).unwrap(), |sums| sums.contains_key("envoy.server.live"));
    wait_until("both are told of", LIMIT, || {
        let log = proxy.log();
        log.contains("stats cannot be sent to statsd") && log.contains("stats cannot be sent to the collector")
    });
}
