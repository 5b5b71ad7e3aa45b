//! Lines of statsd, DogStatsD and Graphite.
//!
//! What counters gained, what gauges are, and what histograms got since the last time. A histogram's values leave bucket by
//! bucket: one line stands for all values of a bucket, by its sample rate.

use crate::stats::{Snapshot, Stat, StatValue};
use sota_config::stats_sink::StatsdTags;
use sota_plugin::stats::Unit;
use std::fmt::Write;

/// How lines are written.
pub(super) struct StatsdFormat<'a> {
    pub(super) prefix: &'a str,
    pub(super) tags: StatsdTags,
}

impl StatsdFormat<'_> {
    /// Calls back with every line, without its end.
    pub(super) fn lines(&self, snapshot: &Snapshot, mut take: impl FnMut(&str)) {
        let mut line = String::new();
        for stat in &snapshot.stats {
            let (name, tags) = self.name(snapshot, stat);
            let mut put = |value: &dyn std::fmt::Display, kind: &str, rate: &str| {
                line.clear();
                // Writing to a string does not fail.
                let _ = write!(line, "{name}:{value}|{kind}{rate}{tags}");
                take(&line);
            };
            match &stat.value {
                StatValue::Counter { delta, .. } => put(delta, "c", ""),
                StatValue::Gauge(value) => put(value, "g", ""),
                StatValue::Histogram(histogram) => {
                    for (low, width, count) in histogram.interval().buckets(histogram.unit()) {
                        let middle = low + width / 2.0;
                        let rate = if count == 1 { String::new() } else { format!("|@{}", 1.0 / count as f64) };
                        match histogram.unit() {
                            Unit::Percent => put(&middle, "h", &rate),
                            // As Envoy says it, whatever the unit.
                            _ => put(&middle.floor(), "ms", &rate),
                        }
                    }
                }
            }
        }
    }

    /// The name with its prefix, and the tags behind the value.
    fn name(&self, snapshot: &Snapshot, stat: &Stat) -> (String, String) {
        let prefix = self.prefix;
        if self.tags == StatsdTags::InName {
            return (format!("{prefix}.{}", plain(&stat.name)), String::new());
        }
        let (name, tags) = snapshot.tagged(stat);
        let name = format!("{prefix}.{}", plain(&name));
        if tags.is_empty() {
            return (name, String::new());
        }
        if self.tags == StatsdTags::Graphite {
            let all = tags.iter().map(|(tag, value)| format!(";{}={}", plain(tag), plain(value)));
            return (name + &all.collect::<String>(), String::new());
        }
        let all: Vec<String> = tags.iter().map(|(tag, value)| format!("{}:{}", plain(tag), plain(value))).collect();
        (name, format!("|#{}", all.join(",")))
    }
}

/// Without what separates the parts of a line.
fn plain(text: &str) -> String {
    let is_special = |c: char| matches!(c, ':' | '|' | '#' | ',' | ';' | '@') || c.is_control();
    text.chars().map(|c| if is_special(c) { '_' } else { c }).collect()
}

/// Lines packed into datagrams of at most `most` octets, an end of line between them; 0: each alone. A line that is
/// longer goes alone.
pub(super) struct Datagrams {
    most: usize,
    packed: Vec<u8>,
}

impl Datagrams {
    pub(super) fn new(most: usize) -> Self {
        Self { most, packed: Vec::new() }
    }

    /// Takes a line; gives the datagram that is full.
    pub(super) fn push(&mut self, line: &str) -> Option<Vec<u8>> {
        let is_full = !self.packed.is_empty() && self.packed.len() + 1 + line.len() > self.most;
        let full = is_full.then(|| std::mem::take(&mut self.packed));
        if !self.packed.is_empty() {
            self.packed.push(b'\n');
        }
        self.packed.extend_from_slice(line.as_bytes());
        full
    }

    /// The last one.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        (!self.packed.is_empty()).then_some(self.packed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{CounterValues, Store};
    use sota_config::bootstrap::StatsConfig;

    fn lines(tags: StatsdTags) -> Vec<String> {
        let store = Store::new(&StatsConfig::default()).unwrap();
        let scope = store.shard();
        let cluster = scope.child("cluster.a|b:c.");
        cluster.counter("upstream_rq_503").add(3);
        scope.gauge("server.live").set(1);
        let histogram = scope.histogram("http.in.downstream_rq_time", Unit::Milliseconds);
        [5, 5, 5, 200].into_iter().for_each(|value| histogram.record(value));
        store.flush();
        let mut all = Vec::new();
        let format = StatsdFormat { prefix: "envoy", tags };
        format.lines(&store.snapshot(&mut CounterValues::new()), |line| all.push(line.to_owned()));
        all
    }

    #[test]
    fn names_values_and_rates() {
        assert_eq!(
            lines(StatsdTags::InName),
            [
                "envoy.cluster.a_b_c.upstream_rq_503:3|c",
                "envoy.http.in.downstream_rq_time:5|ms|@0.3333333333333333",
                "envoy.http.in.downstream_rq_time:205|ms",
                "envoy.server.live:1|g",
            ]
        );
        let dog = lines(StatsdTags::DogStatsd);
        assert_eq!(dog[0], "envoy.cluster.upstream_rq:3|c|#envoy.response_code:503,envoy.cluster_name:a_b_c");
        assert_eq!(dog[2], "envoy.http.downstream_rq_time:205|ms|#envoy.http_conn_manager_prefix:in");
        assert_eq!(dog[3], "envoy.server.live:1|g");
        assert_eq!(
            lines(StatsdTags::Graphite)[0],
            "envoy.cluster.upstream_rq;envoy.response_code=503;envoy.cluster_name=a_b_c:3|c"
        );
    }

    #[test]
    fn datagrams_are_filled_and_not_overfilled() {
        let pack = |most: usize| {
            let mut datagrams = Datagrams::new(most);
            let mut all: Vec<_> =
                ["aaa", "bbb", "cc", "a long line", "d"].iter().filter_map(|line| datagrams.push(line)).collect();
            all.extend(datagrams.finish());
            all.into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(pack(0), ["aaa", "bbb", "cc", "a long line", "d"]);
        assert_eq!(pack(7), ["aaa\nbbb", "cc", "a long line", "d"]);
        assert_eq!(pack(100), ["aaa\nbbb\ncc\na long line\nd"]);
    }
}
