//! `/stats/prometheus`: the text format, version 0.0.4.
//!
//! All lines of one metric have to stand together, and a metric is what is left of a name without its tags. So every phase first looks at
//! all names of its kind and keeps a record of 32 bytes for each, sorts those, and then writes line by line, joining the name once more.

use super::{
    Inner,
    distribution::QUANTILES,
    merge::{MergedStats, Order, Origin, Summed},
    number::{write_general, write_integer, write_shortest},
    query::{BucketsMode, StatsQuery},
    tags::Tagged,
};
use sota_plugin::stats::{Kind, LABELLED, Reading, ScopeView};
use std::{
    borrow::Cow,
    {collections::BTreeMap, mem, sync::Arc, vec},
};

pub(super) struct PrometheusRenderer {
    phases: vec::IntoIter<&'static [Kind]>,
    scopes: Arc<[ScopeView]>,
    records: vec::IntoIter<Record>,
    /// The family whose lines are being written.
    family: Option<u32>,
}

struct Record {
    /// The rank of the metric among those of its kind.
    family: u32,
    origin: Origin,
    value: u64,
}

impl PrometheusRenderer {
    pub(super) fn new(query: &StatsQuery) -> Self {
        let mut phases: Vec<&'static [Kind]> = vec![&[Kind::Counter], &[Kind::Gauge]];
        if query.text_readouts {
            phases.push(&[Kind::TextReadout]);
        }
        phases.push(&[Kind::Histogram]);
        phases.retain(|kinds| kinds.iter().any(|kind| query.wants(*kind)));
        Self { phases: phases.into_iter(), scopes: Arc::new([]), records: Vec::new().into_iter(), family: None }
    }

    pub(super) fn step(&mut self, out: &mut Vec<u8>, store: &Inner, query: &StatsQuery) -> bool {
        let Some(record) = self.records.next() else {
            let Some(kinds) = self.phases.next() else { return false };
            self.begin_phase(kinds, store, query);
            return true;
        };
        let (scope, id) = record.origin;
        let Some(scope) = self.scopes.get(scope as usize) else { return true };
        let read = scope.get(id, |name, reading| {
            let text = match &reading {
                Reading::Text(text) => text.clone().unwrap_or_default(),
                _ => String::new(),
            };
            ([scope.prefix(), name].concat(), kind(&reading), text)
        });
        // None: its last handle is being dropped just now.
        let Some((name, kind, text)) = read else { return true };
        let Tagged { name: metric, tags } = store.tags.extract(&name);
        let line = Line { metric: sanitize(&metric), labels: labels(&tags) };

        if self.family.replace(record.family) != Some(record.family) {
            let summary = query.buckets == BucketsMode::Summary;
            line.write_type(out, kind, summary);
        }
        match kind {
            Kind::Counter | Kind::Gauge => line.write(out, "", "", |out| write_integer(out, record.value)),
            Kind::TextReadout => {
                let text = labels(&[("text_value", Cow::Borrowed(&text))]);
                line.write(out, "", &text, |out| out.push(b'0'));
            }
            Kind::Histogram => line.write_histogram(out, store, &name, query.buckets),
        }
        true
    }

    fn begin_phase(&mut self, kinds: &'static [Kind], store: &Inner, query: &StatsQuery) {
        let mut stats = MergedStats::new(store.registry.scopes(), kinds, Order::Tokens);
        let mut families: BTreeMap<String, u32> = BTreeMap::new();
        let mut records = Vec::new();
        while let Some((name, _, Summed { value, origin })) = stats.next_wanted(store, query) {
            let metric = Order::Tokens.key(&store.tags.extract(&name).name);
            let known = families.len() as u32;
            let family = *families.entry(metric).or_insert(known);
            records.push(Record { family, origin, value: value.number().unwrap_or_default() });
        }
        let mut ranks = vec![0; families.len()];
        for (rank, family) in families.into_values().enumerate() {
            if let Some(place) = ranks.get_mut(family as usize) {
                *place = rank as u32;
            }
        }
        for record in &mut records {
            record.family = ranks.get(record.family as usize).copied().unwrap_or_default();
        }
        // Stable: within a metric the order of the names stays.
        records.sort_by_key(|record| record.family);
        self.scopes = stats.scopes().clone();
        self.records = records.into_iter();
        self.family = None;
    }
}

/// The parts that all lines of a stat have.
struct Line {
    metric: String,
    labels: String,
}

impl Line {
    fn write_type(&self, out: &mut Vec<u8>, kind: Kind, summary: bool) {
        out.extend_from_slice(b"# TYPE ");
        out.extend_from_slice(self.metric.as_bytes());
        out.extend_from_slice(match (kind, summary) {
            (Kind::Counter, _) => b" counter\n",
            (Kind::Gauge | Kind::TextReadout, _) => b" gauge\n",
            (Kind::Histogram, false) => b" histogram\n",
            (Kind::Histogram, true) => b" summary\n",
        });
    }

    fn write(&self, out: &mut Vec<u8>, suffix: &str, label: &str, value: impl FnOnce(&mut Vec<u8>)) {
        out.extend_from_slice(self.metric.as_bytes());
        out.extend_from_slice(suffix.as_bytes());
        out.push(b'{');
        out.extend_from_slice(self.labels.as_bytes());
        if !self.labels.is_empty() && !label.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(label.as_bytes());
        out.extend_from_slice(b"} ");
        value(out);
        out.push(b'\n');
    }

    fn write_histogram(&self, out: &mut Vec<u8>, store: &Inner, name: &str, buckets: BucketsMode) {
        let histogram = store.histogram(name).unwrap_or_default();
        let unit = histogram.unit;
        let mut label = Vec::new();
        let distribution = if buckets == BucketsMode::Summary {
            for (quantile, value) in QUANTILES.into_iter().zip(histogram.interval.quantiles(unit)) {
                let label = quoted(&mut label, b"quantile=\"", |label| write_shortest(label, quantile));
                self.write(out, "", &label, |out| write_general(out, value, DIGITS));
            }
            &histogram.interval
        } else {
            let bounds = store.bounds.of(name);
            for (bound, count) in bounds.iter().zip(histogram.total.cumulative(bounds, unit)) {
                let label = quoted(&mut label, b"le=\"", |label| write_general(label, *bound, DIGITS));
                self.write(out, "_bucket", &label, |out| write_integer(out, count));
            }
            self.write(out, "_bucket", "le=\"+Inf\"", |out| write_integer(out, histogram.total.count()));
            &histogram.total
        };
        self.write(out, "_sum", "", |out| write_general(out, distribution.sum(unit), DIGITS));
        self.write(out, "_count", "", |out| write_integer(out, distribution.count()));
    }
}

/// Envoy asks for this many digits so that no number gets an exponent.
const DIGITS: usize = 32;

fn quoted(buffer: &mut Vec<u8>, begin: &[u8], value: impl FnOnce(&mut Vec<u8>)) -> String {
    buffer.clear();
    buffer.extend_from_slice(begin);
    value(buffer);
    buffer.push(b'"');
    String::from_utf8(mem::take(buffer)).unwrap_or_default()
}

fn kind(reading: &Reading<'_>) -> Kind {
    match reading {
        Reading::Counter { .. } => Kind::Counter,
        Reading::Gauge { .. } => Kind::Gauge,
        Reading::Histogram(_) => Kind::Histogram,
        Reading::Text(_) => Kind::TextReadout,
    }
}

/// `envoy_`, unless it has labels of its own, and the name with everything but letters, digits and underscores replaced.
fn sanitize(name: &str) -> String {
    let mut metric = String::with_capacity(name.len() + 6);
    match name.strip_prefix(LABELLED) {
        Some(name) => push_sanitized(&mut metric, name),
        None => {
            metric.push_str("envoy_");
            push_sanitized(&mut metric, name);
        }
    }
    metric
}

fn push_sanitized(out: &mut String, name: &str) {
    // By bytes, as Envoy does: a letter outside ASCII becomes as many underscores as it has bytes.
    out.extend(name.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte) } else { '_' }));
}

fn labels(tags: &[(&str, Cow<'_, str>)]) -> String {
    let mut labels = String::new();
    for (tag, value) in tags {
        if !labels.is_empty() {
            labels.push(',');
        }
        push_sanitized(&mut labels, tag);
        labels.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => labels.push_str(r"\\"),
                '\n' => labels.push_str(r"\n"),
                '"' => labels.push_str("\\\""),
                c => labels.push(c),
            }
        }
        labels.push('"');
    }
    labels
}
