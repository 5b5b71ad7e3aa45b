//! Where stats are sent (`envoy.config.metrics.v3.StatsSink`).

use crate::{address::Address, tracing::Collector};

/// A sink.
#[derive(Debug, Clone, PartialEq)]
pub enum StatsSink {
    /// statsd, DogStatsD or Graphite.
    Statsd(Statsd),
    /// Envoy's metrics service.
    MetricsService(MetricsService),
    /// OTLP.
    OpenTelemetry(OpenTelemetrySink),
}

/// `StatsdSink`, `DogStatsdSink`, `GraphiteStatsdSink`.
#[derive(Debug, Clone, PartialEq)]
pub struct Statsd {
    /// Where lines go.
    pub to: StatsdTarget,
    /// Before every name, with a dot; default `envoy`.
    pub prefix: String,
    /// How tags are written.
    pub tags: StatsdTags,
    /// Several lines go into a datagram of at most so many octets; 0: each has its own.
    pub max_bytes_per_datagram: usize,
}

/// Where lines of statsd go.
#[derive(Debug, Clone, PartialEq)]
pub enum StatsdTarget {
    /// Datagrams to this address, or to the Unix socket of this path.
    Datagrams(Address),
    /// A TCP connection to a host of this cluster.
    Tcp(String),
}

/// How tags are written in lines of statsd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsdTags {
    /// They stay in the name.
    InName,
    /// `name:1|c|#tag:value`
    DogStatsd,
    /// `name;tag=value:1|c`
    Graphite,
}

/// `MetricsServiceConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsService {
    /// The service, of gRPC.
    pub collector: Collector,
    /// Counters as what came since the last time, not since the start.
    pub report_counters_as_deltas: bool,
    /// Tags as labels, and names without them.
    pub emit_tags_as_labels: bool,
    /// Histograms as summaries.
    pub summaries: bool,
    /// Histograms as buckets.
    pub histograms: bool,
    /// At most so many families in a message; 0: all.
    pub batch_size: usize,
}

/// `envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenTelemetrySink {
    /// The collector.
    pub collector: Collector,
    /// What is known of this process.
    pub resource: Vec<(String, String)>,
    /// Counters as what came since the last time.
    pub report_counters_as_deltas: bool,
    /// Histograms likewise.
    pub report_histograms_as_deltas: bool,
    /// Tags as attributes; default true.
    pub emit_tags_as_attributes: bool,
    /// Names without tags; default true.
    pub use_tag_extracted_name: bool,
    /// Before every name, with a dot; empty: nothing.
    pub prefix: String,
}
