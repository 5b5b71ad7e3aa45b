//! Merged histograms and what is computed from them, as circllhist does it in Envoy 1.40.

use sota_plugin::stats::{Bucket, HistogramCell, Unit};

/// Counts per bucket, ascending; only buckets that have any.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Distribution(Vec<(Bucket, u64)>);

/// The quantiles that Envoy shows.
pub(crate) const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];

impl Distribution {
    /// Adds the counts of one shard.
    pub(super) fn add(&mut self, cell: &HistogramCell) {
        cell.visit(|bucket, count| match self.0.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(found) => {
                if let Some((_, sum)) = self.0.get_mut(found) {
                    *sum = sum.saturating_add(count);
                }
            }
            Err(place) => self.0.insert(place, (bucket, count)),
        });
    }

    /// What came since `earlier`. Where less is there than was (the histogram was made anew), nothing did.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let before = |bucket: &Bucket| match earlier.0.binary_search_by_key(bucket, |(bucket, _)| *bucket) {
            Ok(found) => earlier.0.get(found).map_or(0, |(_, count)| *count),
            Err(_) => 0,
        };
        let counts = self.0.iter().map(|(bucket, count)| (*bucket, count.saturating_sub(before(bucket))));
        Self(counts.filter(|(_, count)| *count != 0).collect())
    }

    /// How many values there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The sum of all values, as if each was in the middle of its bucket.
    pub(crate) fn sum(&self, unit: Unit) -> f64 {
        // Not `sum()`, which is -0 for nothing at all.
        let sum = self.0.iter().fold(0.0, |sum, (bucket, count)| sum + midpoint(*bucket) * *count as f64);
        sum / divisor(unit)
    }

    /// The values at [`QUANTILES`]; NaN where there is no value at all.
    pub(crate) fn quantiles(&self, unit: Unit) -> [f64; QUANTILES.len()] {
        let total = self.count() as f64;
        let mut buckets = self.0.iter();
        let mut current = buckets.next();
        let mut below = 0.0;
        QUANTILES.map(|quantile| {
            let target = total * quantile;
            while let Some((_, count)) = current {
                if below + *count as f64 >= target || buckets.len() == 0 {
                    break;
                }
                below += *count as f64;
                current = buckets.next();
            }
            let Some((bucket, count)) = current else { return f64::NAN };
            // n values in a bucket stand at 1/(n+1), 2/(n+1) ... of its width.
            let rank = (target - below).ceil().clamp(1.0, *count as f64);
            (bucket.lower_bound() + rank / (*count as f64 + 1.0) * bucket.width()) / divisor(unit)
        })
    }

    /// For each bound how many values are at most that: all of a bucket that the bound lies in count. `bounds` ascend.
    pub(crate) fn cumulative(&self, bounds: &[f64], unit: Unit) -> Vec<u64> {
        let mut buckets = self.0.iter().peekable();
        let mut sum = 0u64;
        let count_up_to = |bound: &f64| {
            while let Some((_, count)) = buckets.next_if(|(bucket, _)| bucket.lower_bound() <= bound * divisor(unit)) {
                sum = sum.saturating_add(*count);
            }
            sum
        };
        bounds.iter().map(count_up_to).collect()
    }

    /// Lower bound, width and count of every bucket.
    pub(crate) fn buckets(&self, unit: Unit) -> impl Iterator<Item = (f64, f64, u64)> {
        // Not a division: Envoy multiplies here, and the last digit shows it.
        let factor = 1.0 / divisor(unit);
        self.0.iter().map(move |(bucket, count)| (bucket.lower_bound() * factor, bucket.width() * factor, *count))
    }
}

fn divisor(unit: Unit) -> f64 {
    if unit == Unit::Percent { Unit::PERCENT_SCALE as f64 } else { 1.0 }
}

/// Where a bucket's values are on the average if they thin out as 1/x: the harmonic mean of its bounds.
fn midpoint(bucket: Bucket) -> f64 {
    let (low, width) = (bucket.lower_bound(), bucket.width());
    if width == 0.0 { low } else { low + width * (low / (low + (low + width))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(values: &[u64]) -> Distribution {
        let cell = HistogramCell::new(Unit::Unspecified);
        values.iter().for_each(|value| cell.record(*value));
        let mut distribution = Distribution::default();
        distribution.add(&cell);
        distribution
    }

    /// The numbers of all these tests were recorded with Envoy 1.40 from the same values.
    const VALUES: [u64; 13] = [0, 1, 5, 9, 12, 12, 104, 250, 999, 1_234, 55_555, 3, 77];

    #[test]
    fn quantiles_are_those_of_envoy() {
        let quantiles = distribution(&VALUES).quantiles(Unit::Unspecified);
        let expected = [0.0, 5.05, 12.666666666666666, 255.0, 1250.0, 55500.0, 55500.0, 55500.0, 55500.0, 55500.0];
        assert_eq!(quantiles, expected);
        let ones = distribution(&[1; 13]).quantiles(Unit::Unspecified);
        assert_eq!(ones[..4], [1.0071428571428571, 1.0285714285714285, 1.05, 1.0714285714285714]);
        assert_eq!(ones[4..6], [1.0857142857142856, 1.092857142857143]);
        assert!(distribution(&[]).quantiles(Unit::Unspecified).iter().all(|value| value.is_nan()));
    }

    #[test]
    fn sums_take_the_middle_of_a_bucket() {
        assert_eq!(distribution(&VALUES).sum(Unit::Unspecified), 58_218.787_037_690_01);
        assert_eq!(distribution(&[1; 13]).sum(Unit::Unspecified), 13.619_047_619_047_62);
        assert_eq!(distribution(&[77]).sum(Unit::Unspecified), 77.496_774_193_548_39);
        assert!(distribution(&[]).sum(Unit::Unspecified).is_sign_positive());
        let percent = VALUES.map(|value| value * Unit::PERCENT_SCALE);
        assert_eq!(distribution(&percent).sum(Unit::Percent), 58_218.787_037_690_02);
    }

    #[test]
    fn a_bound_counts_the_whole_bucket_it_lies_in() {
        let bounds = [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0];
        let expected = [1, 2, 4, 5, 7, 7, 9, 10, 10, 11, 12];
        assert_eq!(distribution(&VALUES).cumulative(&bounds, Unit::Unspecified), expected);
        let percent = VALUES.map(|value| value * Unit::PERCENT_SCALE);
        assert_eq!(distribution(&percent).cumulative(&bounds, Unit::Percent), expected);
    }

    #[test]
    fn buckets_of_percent_show_the_digit_that_envoy_loses() {
        let percent = distribution(&[Unit::PERCENT_SCALE]);
        let buckets: Vec<_> = percent.buckets(Unit::Percent).collect();
        assert_eq!(buckets, [(1.0, 0.09999999999999999, 1)]);
    }

    #[test]
    fn an_interval_is_what_came_since() {
        let (before, after) = (distribution(&[1, 12, 12]), distribution(&[1, 12, 12, 12, 77]));
        assert_eq!(after.since(&before), distribution(&[12, 77]));
        assert_eq!(after.since(&after), Distribution::default());
        assert_eq!(before.since(&after), Distribution::default());
        assert_eq!(after.count(), 5);
    }

    #[test]
    fn shards_add_up() {
        let mut sum = distribution(&[1, 500]);
        let other = HistogramCell::new(Unit::Unspecified);
        [0, 1, 70].iter().for_each(|value| other.record(*value));
        sum.add(&other);
        assert_eq!(sum, distribution(&[0, 1, 1, 70, 500]));
    }
}
