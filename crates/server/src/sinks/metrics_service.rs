//! Messages to Envoy's metrics service (`envoy.service.metrics.v3.StreamMetricsMessage`), which are made of Prometheus' families.

use crate::stats::{Merged, QUANTILES, Snapshot, Stat, StatValue};
use sota_codec::protobuf::Message;
use sota_config::stats_sink::MetricsService;
use std::time::SystemTime;

/// The method that takes them.
pub(super) const METHOD: &str = "/envoy.service.metrics.v3.MetricsService/StreamMetrics";

// `io.prometheus.client.MetricType`.
const COUNTER: u64 = 0;
const GAUGE: u64 = 1;
const SUMMARY: u64 = 2;
const HISTOGRAM: u64 = 4;

/// The messages of a snapshot. `node` goes into the first one of a stream.
pub(super) fn encode(config: &MetricsService, snapshot: &Snapshot, node: Option<&[u8]>) -> Vec<Vec<u8>> {
    let now = snapshot.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let writer = Writer { config, snapshot, now: u64::try_from(now.as_millis()).unwrap_or(u64::MAX) };
    let families: Vec<Message> = snapshot.stats.iter().flat_map(|stat| writer.families(stat)).collect();
    let size = if config.batch_size == 0 { families.len() } else { config.batch_size };
    let batches = families.chunks(size.max(1)).enumerate().map(|(number, batch)| {
        let mut message = Message::new();
        if let Some(node) = node.filter(|_| number == 0) {
            message.message(1, |out| {
                out.bytes(1, node);
            });
        }
        for family in batch {
            message.always_bytes(2, family.as_bytes());
        }
        message.into_bytes()
    });
    batches.collect()
}

struct Writer<'a> {
    config: &'a MetricsService,
    snapshot: &'a Snapshot,
    /// In milliseconds.
    now: u64,
}

impl Writer<'_> {
    fn families(&self, stat: &Stat) -> Vec<Message> {
        match &stat.value {
            StatValue::Counter { value, delta } => {
                let value = if self.config.report_counters_as_deltas { *delta } else { *value };
                vec![self.family(stat, COUNTER, |out| number(out, 3, value))]
            }
            StatValue::Gauge(value) => vec![self.family(stat, GAUGE, |out| number(out, 2, *value))],
            StatValue::Histogram(merged) => {
                let mut families = Vec::new();
                if self.config.summaries {
                    families.push(self.family(stat, SUMMARY, |out| summary(out, merged)));
                }
                if self.config.histograms {
                    let bounds = self.snapshot.bounds(stat);
                    families.push(self.family(stat, HISTOGRAM, |out| histogram(out, merged, &bounds)));
                }
                families
            }
        }
    }

    /// A `MetricFamily` with one `Metric`.
    fn family(&self, stat: &Stat, kind: u64, value: impl FnOnce(&mut Message)) -> Message {
        let (name, tags) = match self.config.emit_tags_as_labels {
            true => self.snapshot.tagged(stat),
            false => (stat.name.clone(), Vec::new()),
        };
        let mut family = Message::new();
        family.string(1, &name).always_uint(3, kind).message(4, |out| {
            for (tag, value) in tags {
                out.message(1, |out| {
                    out.always_bytes(1, tag.as_bytes()).always_bytes(2, value.as_bytes());
                });
            }
            value(out);
            out.uint(6, self.now);
        });
        family
    }
}

/// A `Counter` or a `Gauge`.
fn number(out: &mut Message, field: u32, value: u64) {
    out.message(field, |out| {
        out.double(1, value as f64);
    });
}

/// What came since the last flush, as in Envoy.
fn summary(out: &mut Message, merged: &Merged) {
    let (interval, unit) = (merged.interval(), merged.unit());
    out.message(4, |out| {
        out.always_uint(1, interval.count()).double(2, interval.sum(unit));
        for (quantile, value) in QUANTILES.into_iter().zip(interval.quantiles(unit)) {
            out.message(3, |out| {
                out.double(1, quantile).double(2, value);
            });
        }
    });
}

fn histogram(out: &mut Message, merged: &Merged, bounds: &[f64]) {
    let (interval, unit) = (merged.interval(), merged.unit());
    out.message(7, |out| {
        out.always_uint(1, interval.count()).double(2, interval.sum(unit));
        for (bound, count) in bounds.iter().zip(interval.cumulative(bounds, unit)) {
            out.message(3, |out| {
                out.always_uint(1, count).double(2, *bound);
            });
        }
    });
}
