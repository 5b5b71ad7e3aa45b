//! `/stats` as text.

use super::{
    Inner, Merged,
    distribution::{Distribution, QUANTILES},
    merge::{Summed, Value},
    number::{write_general, write_integer, write_shortest},
    output::ListRenderer,
    query::BucketsMode,
};
use sota_plugin::stats::Unit;

pub(super) struct TextRenderer {
    buckets: BucketsMode,
}

impl TextRenderer {
    pub(super) fn new(buckets: BucketsMode) -> Self {
        Self { buckets }
    }
}

impl ListRenderer for TextRenderer {
    fn begin(&mut self, _: &mut Vec<u8>) {}

    fn stat(&mut self, out: &mut Vec<u8>, store: &Inner, name: &str, stat: &Summed) {
        out.extend_from_slice(name.as_bytes());
        match &stat.value {
            Value::Text(text) => {
                out.extend_from_slice(b": \"");
                out.extend_from_slice(text.as_deref().unwrap_or_default().as_bytes());
                out.push(b'"');
            }
            Value::Histogram => match store.histogram(name) {
                None => out.extend_from_slice(b": No recorded values"),
                Some(histogram) => self.histogram(out, store, name, &histogram),
            },
            value => {
                out.extend_from_slice(b": ");
                write_integer(out, value.number().unwrap_or_default());
            }
        }
        out.push(b'\n');
    }

    fn end(&mut self, _: &mut Vec<u8>) {}
}

impl TextRenderer {
    fn histogram(&self, out: &mut Vec<u8>, store: &Inner, name: &str, histogram: &Merged) {
        let unit = histogram.unit;
        match self.buckets {
            BucketsMode::Unset | BucketsMode::Summary => {
                out.extend_from_slice(b": ");
                write_quantiles(out, histogram);
            }
            BucketsMode::Cumulative | BucketsMode::Disjoint => {
                out.extend_from_slice(b":");
                let bounds = store.bounds.of(name);
                for (bound, interval, total) in bound_counts(histogram, bounds, self.buckets) {
                    out.extend_from_slice(b" B");
                    write_general(out, bound, 6);
                    out.push(b'(');
                    write_integer(out, interval);
                    out.push(b',');
                    write_integer(out, total);
                    out.push(b')');
                }
            }
            BucketsMode::Detailed => {
                out.extend_from_slice(b":\n  totals=");
                write_buckets(out, &histogram.total, unit);
                out.extend_from_slice(b"\n  intervals=");
                write_buckets(out, &histogram.interval, unit);
                out.extend_from_slice(b"\n  summary=");
                write_quantiles(out, histogram);
            }
        }
    }
}

/// Per bound: the bound, how many values of the interval, and how many of all.
pub(super) fn bound_counts(
    histogram: &Merged,
    bounds: &[f64],
    mode: BucketsMode,
) -> impl Iterator<Item = (f64, u64, u64)> {
    let counts = |distribution: &Distribution| {
        let mut counts = distribution.cumulative(bounds, histogram.unit);
        if mode == BucketsMode::Disjoint {
            let mut below = 0;
            for count in &mut counts {
                (*count, below) = (*count - below, *count);
            }
        }
        counts
    };
    let counts = counts(&histogram.interval).into_iter().zip(counts(&histogram.total));
    bounds.iter().copied().zip(counts).map(|(bound, (interval, total))| (bound, interval, total))
}

fn write_quantiles(out: &mut Vec<u8>, histogram: &Merged) {
    let values =
        histogram.interval.quantiles(histogram.unit).into_iter().zip(histogram.total.quantiles(histogram.unit));
    for (n, (quantile, (interval, total))) in QUANTILES.iter().zip(values).enumerate() {
        out.extend_from_slice(if n == 0 { b"P" } else { b" P" });
        write_general(out, quantile * 100.0, 6);
        out.push(b'(');
        write_shortest(out, interval);
        out.push(b',');
        write_shortest(out, total);
        out.push(b')');
    }
}

fn write_buckets(out: &mut Vec<u8>, distribution: &Distribution, unit: Unit) {
    for (n, (lower_bound, width, count)) in distribution.buckets(unit).enumerate() {
        out.extend_from_slice(if n == 0 { b"" } else { b", " });
        write_general(out, lower_bound, 15);
        out.push(b',');
        write_general(out, width, 15);
        out.push(b':');
        write_integer(out, count);
    }
}
