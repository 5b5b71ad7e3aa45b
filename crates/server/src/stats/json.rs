//! `/stats?format=json`.

use super::{
    Inner, Merged,
    distribution::{Distribution, QUANTILES},
    merge::{Summed, Value},
    number::{write_integer, write_json},
    output::ListRenderer,
    query::BucketsMode,
    text::bound_counts,
};
use sota_plugin::stats::Unit;

pub(super) struct JsonRenderer {
    buckets: BucketsMode,
    any: bool,
    any_histogram: bool,
}

impl JsonRenderer {
    pub(super) fn new(buckets: BucketsMode) -> Self {
        Self { buckets, any: false, any_histogram: false }
    }
}

impl ListRenderer for JsonRenderer {
    fn begin(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"stats":["#);
    }

    fn stat(&mut self, out: &mut Vec<u8>, store: &Inner, name: &str, stat: &Summed) {
        // All histograms are in one entry, so there is a comma before the first of them and between them.
        if self.any {
            out.push(b',');
        }
        self.any = true;
        if stat.value == Value::Histogram {
            if !self.any_histogram {
                self.any_histogram = true;
                out.extend_from_slice(br#"{"histograms":"#);
                self.begin_histograms(out);
            }
            let histogram = store.histogram(name).unwrap_or_default();
            return self.histogram(out, store, name, &histogram);
        }
        out.extend_from_slice(br#"{"name":"#);
        write_string(out, name);
        out.extend_from_slice(br#","value":"#);
        match &stat.value {
            Value::Text(text) => write_string(out, text.as_deref().unwrap_or_default()),
            value => write_integer(out, value.number().unwrap_or_default()),
        }
        out.push(b'}');
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.any_histogram {
            out.extend_from_slice(match self.buckets {
                BucketsMode::Cumulative | BucketsMode::Disjoint => b"]}",
                BucketsMode::Unset | BucketsMode::Summary | BucketsMode::Detailed => b"]}}",
            });
        }
        out.extend_from_slice(b"]}");
    }
}

impl JsonRenderer {
    fn begin_histograms(&self, out: &mut Vec<u8>) {
        let (percentages, values): (&[u8], &[u8]) = match self.buckets {
            BucketsMode::Unset | BucketsMode::Summary => (br#"{"supported_quantiles":"#, br#","computed_quantiles":["#),
            BucketsMode::Detailed => (br#"{"supported_percentiles":"#, br#","details":["#),
            BucketsMode::Cumulative | BucketsMode::Disjoint => return out.push(b'['),
        };
        out.extend_from_slice(percentages);
        write_array(out, QUANTILES, |out, quantile| write_json(out, quantile * 100.0));
        out.extend_from_slice(values);
    }

    fn histogram(&self, out: &mut Vec<u8>, store: &Inner, name: &str, histogram: &Merged) {
        out.extend_from_slice(br#"{"name":"#);
        write_string(out, name);
        match self.buckets {
            BucketsMode::Unset | BucketsMode::Summary => {
                out.extend_from_slice(br#","values":"#);
                write_quantiles(out, histogram);
            }
            BucketsMode::Detailed => {
                out.extend_from_slice(br#","totals":"#);
                write_buckets(out, &histogram.total, histogram.unit);
                out.extend_from_slice(br#","intervals":"#);
                write_buckets(out, &histogram.interval, histogram.unit);
                out.extend_from_slice(br#","percentiles":"#);
                write_quantiles(out, histogram);
            }
            BucketsMode::Cumulative | BucketsMode::Disjoint => {
                out.extend_from_slice(br#","buckets":"#);
                let counts = bound_counts(histogram, store.bounds.of(name), self.buckets);
                write_array(out, counts, |out, (bound, interval, total)| {
                    out.extend_from_slice(br#"{"upper_bound":"#);
                    write_json(out, bound);
                    out.extend_from_slice(br#","interval":"#);
                    write_integer(out, interval);
                    out.extend_from_slice(br#","cumulative":"#);
                    write_integer(out, total);
                    out.push(b'}');
                });
            }
        }
        out.push(b'}');
    }
}

fn write_quantiles(out: &mut Vec<u8>, histogram: &Merged) {
    let totals = histogram.total.quantiles(histogram.unit);
    let intervals = histogram.interval.quantiles(histogram.unit);
    write_array(out, totals.into_iter().zip(intervals), |out, (total, interval)| {
        out.extend_from_slice(br#"{"cumulative":"#);
        write_json(out, total);
        out.extend_from_slice(br#","interval":"#);
        write_json(out, interval);
        out.push(b'}');
    });
}

fn write_buckets(out: &mut Vec<u8>, distribution: &Distribution, unit: Unit) {
    write_array(out, distribution.buckets(unit), |out, (lower_bound, width, count)| {
        out.extend_from_slice(br#"{"lower_bound":"#);
        write_json(out, lower_bound);
        out.extend_from_slice(br#","width":"#);
        write_json(out, width);
        out.extend_from_slice(br#","count":"#);
        write_integer(out, count);
        out.push(b'}');
    });
}

fn write_array<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Vec<u8>, T)) {
    out.push(b'[');
    for (n, item) in items.into_iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    // A vector takes whatever is written to it, and a string always is JSON.
    let written = serde_json::to_writer(&mut *out, text);
    debug_assert!(written.is_ok());
}
