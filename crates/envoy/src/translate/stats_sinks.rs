//! `stats_sinks` of the bootstrap.

use super::{
    address::{AddressUse, address},
    context::Cx,
    extension::message_name,
    tracing::{check_cluster, detected, grpc_collector, http_collector},
};
use sota_config::{
    Node,
    stats_sink::{MetricsService, OpenTelemetrySink, StatsSink, Statsd, StatsdTags, StatsdTarget},
};

const DEFAULT_PREFIX: &str = "envoy";

/// One of `stats_sinks`.
pub(super) fn stats_sink(cx: &mut Cx<'_>, node: &Node) -> Option<StatsSink> {
    let config = node.field("typed_config");
    cx.with("typed_config", |cx| match message_name(node) {
        Some("envoy.config.metrics.v3.StatsdSink") => statsd(cx, config, StatsdTags::InName).map(StatsSink::Statsd),
        Some("envoy.config.metrics.v3.DogStatsdSink") => {
            statsd(cx, config, StatsdTags::DogStatsd).map(StatsSink::Statsd)
        }
        Some("envoy.extensions.stat_sinks.graphite_statsd.v3.GraphiteStatsdSink") => {
            statsd(cx, config, StatsdTags::Graphite).map(StatsSink::Statsd)
        }
        Some("envoy.config.metrics.v3.MetricsServiceConfig") => {
            metrics_service(cx, config).map(StatsSink::MetricsService)
        }
        Some("envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig") => {
            open_telemetry(cx, config).map(StatsSink::OpenTelemetry)
        }
        _ => {
            if !cx.is_refused() {
                cx.error(node.mark, format!("the sink \"{}\" needs the typed_config of a sink", node.str("name")));
            }
            None
        }
    })
}

fn statsd(cx: &mut Cx<'_>, node: &Node, tags: StatsdTags) -> Option<Statsd> {
    let to = if node.has("tcp_cluster_name") {
        let cluster = node.str("tcp_cluster_name");
        check_cluster(cx, node, "tcp_cluster_name", cluster)?;
        StatsdTarget::Tcp(cluster.to_owned())
    } else if node.has("address") {
        StatsdTarget::Datagrams(address(cx, node, "address", AddressUse::Datagrams)?)
    } else {
        cx.error(node.mark, "an address is missing: where lines are sent");
        return None;
    };
    Some(Statsd {
        to,
        prefix: match node.str("prefix") {
            "" => DEFAULT_PREFIX.to_owned(),
            prefix => prefix.to_owned(),
        },
        tags,
        max_bytes_per_datagram: node.uint("max_bytes_per_datagram").and_then(|most| most.try_into().ok()).unwrap_or(0),
    })
}

fn metrics_service(cx: &mut Cx<'_>, node: &Node) -> Option<MetricsService> {
    let mode = node.str("histogram_emit_mode");
    Some(MetricsService {
        collector: cx.optional(node, "grpc_service", grpc_collector)?,
        report_counters_as_deltas: node.bool("report_counters_as_deltas"),
        emit_tags_as_labels: node.bool("emit_tags_as_labels"),
        summaries: mode != "HISTOGRAM",
        histograms: mode != "SUMMARY",
        batch_size: node.u32("batch_size").unwrap_or(0) as usize,
    })
}

fn open_telemetry(cx: &mut Cx<'_>, node: &Node) -> Option<OpenTelemetrySink> {
    let collector = match node.has("http_service") {
        true => cx.optional(node, "http_service", http_collector)?,
        false => cx.optional(node, "grpc_service", grpc_collector)?,
    };
    Some(OpenTelemetrySink {
        collector,
        resource: detected(cx, node),
        report_counters_as_deltas: node.bool("report_counters_as_deltas"),
        report_histograms_as_deltas: node.bool("report_histograms_as_deltas"),
        emit_tags_as_attributes: node.bool_or("emit_tags_as_attributes", true),
        use_tag_extracted_name: node.bool_or("use_tag_extracted_name", true),
        prefix: node.str("prefix").to_owned(),
    })
}
