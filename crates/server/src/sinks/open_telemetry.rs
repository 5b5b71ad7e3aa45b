//! Metrics in OTLP (`opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceRequest`).

use crate::stats::{Merged, Snapshot, Stat, StatValue};
use sota_codec::protobuf::Message;
use sota_config::stats_sink::OpenTelemetrySink;
use std::{
    borrow::Cow,
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

/// The method that takes them.
pub(super) const METHOD: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

// `AggregationTemporality`.
const DELTA: u64 = 1;
const CUMULATIVE: u64 = 2;

/// The kinds of metrics, by their fields in `Metric`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Gauge = 5,
    Sum = 7,
    Histogram = 9,
}

/// A request with all stats of a snapshot. `start`: from when on sums count.
pub(super) fn encode(config: &OpenTelemetrySink, snapshot: &Snapshot, start: SystemTime) -> Vec<u8> {
    // Stats whose names differ in tags alone are one metric.
    let mut metrics: BTreeMap<(String, Kind), Vec<Message>> = BTreeMap::new();
    for stat in &snapshot.stats {
        let (name, tags) = snapshot.tagged(stat);
        let name = if config.use_tag_extracted_name { name } else { stat.name.clone() };
        let name = if config.prefix.is_empty() { name } else { format!("{}.{name}", config.prefix) };
        let tags = if config.emit_tags_as_attributes { tags } else { Vec::new() };
        let (kind, point) = point(config, snapshot, stat, start, &tags);
        metrics.entry((name, kind)).or_default().push(point);
    }
    let mut request = Message::new();
    request.message(1, |out| {
        out.message(1, |out| config.resource.iter().for_each(|(key, value)| attribute(out, 1, key, value)));
        out.message(2, |out| {
            for ((name, kind), points) in &metrics {
                out.message(2, |out| metric(out, config, name, *kind, points));
            }
        });
    });
    request.into_bytes()
}

/// A `KeyValue` with a string.
fn attribute(out: &mut Message, field: u32, key: &str, value: &str) {
    out.message(field, |out| {
        out.string(1, key).message(2, |out| {
            out.always_bytes(1, value.as_bytes());
        });
    });
}

fn metric(out: &mut Message, config: &OpenTelemetrySink, name: &str, kind: Kind, points: &[Message]) {
    out.string(1, name).message(kind as u32, |out| {
        for point in points {
            out.always_bytes(1, point.as_bytes());
        }
        let temporality = |is_delta: bool| if is_delta { DELTA } else { CUMULATIVE };
        match kind {
            Kind::Gauge => {}
            Kind::Sum => {
                out.uint(2, temporality(config.report_counters_as_deltas)).uint(3, 1);
            }
            Kind::Histogram => {
                out.uint(2, temporality(config.report_histograms_as_deltas));
            }
        }
    });
}

/// A data point.
fn point(
    config: &OpenTelemetrySink,
    snapshot: &Snapshot,
    stat: &Stat,
    start: SystemTime,
    tags: &[(&str, Cow<'_, str>)],
) -> (Kind, Message) {
    let mut out = Message::new();
    let begin = |is_delta: bool| nanos(if is_delta { snapshot.since } else { start });
    let kind = match &stat.value {
        StatValue::Counter { value, delta } => {
            let is_delta = config.report_counters_as_deltas;
            tags.iter().for_each(|(tag, value)| attribute(&mut out, 7, tag, value));
            out.fixed64(2, begin(is_delta)).fixed64(6, if is_delta { *delta } else { *value });
            Kind::Sum
        }
        StatValue::Gauge(value) => {
            tags.iter().for_each(|(tag, value)| attribute(&mut out, 7, tag, value));
            out.fixed64(6, *value);
            Kind::Gauge
        }
        StatValue::Histogram(merged) => {
            let is_delta = config.report_histograms_as_deltas;
            tags.iter().for_each(|(tag, value)| attribute(&mut out, 9, tag, value));
            out.fixed64(2, begin(is_delta));
            histogram(&mut out, merged, is_delta, &snapshot.bounds(stat));
            Kind::Histogram
        }
    };
    out.fixed64(3, nanos(snapshot.time));
    (kind, out)
}

fn histogram(out: &mut Message, merged: &Merged, is_delta: bool, bounds: &[f64]) {
    let (values, unit) = (if is_delta { merged.interval() } else { merged.total() }, merged.unit());
    let mut counts = values.cumulative(bounds, unit);
    counts.push(values.count());
    let mut below = 0;
    for count in &mut counts {
        (*count, below) = (count.saturating_sub(below), *count);
    }
    out.fixed64(4, values.count()).double(5, values.sum(unit)).packed_fixed64(6, &counts).packed_double(7, bounds);
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
