//! Log-linear histograms: two significant digits, as circllhist, the library that Envoy counts with.
//!
//! A bucket is 0, or one of 90 per power of ten (10 to 99 times 10^n). Counts are kept per power of ten, made when a value falls
//! into it: an unused histogram is 24 bytes, a used one 400, and each power of ten that occurs another 720.

use super::cell::{Cell, Kind, Reading};
use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// What a histogram's values are (`Histogram::Unit` in Envoy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unit {
    /// Plain numbers.
    #[default]
    Unspecified,
    /// Bytes.
    Bytes,
    /// 10^-6 s.
    Microseconds,
    /// 10^-3 s.
    Milliseconds,
    /// Parts of [`Unit::PERCENT_SCALE`]; printed as a fraction.
    Percent,
}

impl Unit {
    /// What 100 % is recorded as with [`Unit::Percent`].
    pub const PERCENT_SCALE: u64 = 1_000_000;
}

/// A [`Histogram`](super::Histogram)'s counts. One writer, any number of readers; recording takes no lock.
#[derive(Debug, Default)]
pub struct HistogramCell {
    counts: OnceLock<Box<Counts>>,
    unit: Unit,
}

#[derive(Debug, Default)]
struct Counts {
    below_ten: [AtomicU64; 10],
    decades: [OnceLock<Box<[AtomicU64; PER_DECADE]>>; DECADES],
}

impl HistogramCell {
    /// An empty one.
    pub fn new(unit: Unit) -> Self {
        Self { counts: OnceLock::new(), unit }
    }

    /// What its values are.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Counts one value.
    #[inline]
    pub fn record(&self, value: u64) {
        let counts = self.counts.get_or_init(Box::default);
        let cell = match Bucket::of(value).position() {
            Position::BelowTen(n) => counts.below_ten.get(n),
            Position::Decade(decade, n) => counts
                .decades
                .get(decade)
                .and_then(|decade| decade.get_or_init(|| Box::new([const { AtomicU64::new(0) }; PER_DECADE])).get(n)),
        };
        if let Some(cell) = cell {
            cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// Whether a value was ever recorded.
    pub fn used(&self) -> bool {
        self.counts.get().is_some()
    }

    /// Calls back with every bucket that has a count, in ascending order.
    pub fn visit(&self, mut each: impl FnMut(Bucket, u64)) {
        let Some(counts) = self.counts.get() else { return };
        let mut visit = |first: usize, cells: &[AtomicU64]| {
            for (n, cell) in cells.iter().enumerate() {
                let count = cell.load(Relaxed);
                if count != 0 {
                    each(Bucket((first + n) as u16), count);
                }
            }
        };
        visit(0, &counts.below_ten);
        for (n, decade) in counts.decades.iter().enumerate() {
            if let Some(cells) = decade.get() {
                visit(10 + n * PER_DECADE, cells.as_slice());
            }
        }
    }
}

impl Cell for HistogramCell {
    fn kind(&self) -> Kind {
        Kind::Histogram
    }

    fn read(&self) -> Reading<'_> {
        Reading::Histogram(self)
    }
}

/// One bucket; ordered as the values in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(u16);

enum Position {
    BelowTen(usize),
    Decade(usize, usize),
}

impl Bucket {
    /// The bucket that a value falls into: its two leading digits.
    #[inline]
    pub fn of(value: u64) -> Self {
        if value < 10 {
            return Self(value as u16);
        }
        let decade = value.ilog10() as usize - 1;
        let digits = value / POWERS_OF_TEN[decade];
        Self((10 + decade * PER_DECADE) as u16 + (digits - 10) as u16)
    }

    /// The smallest value in it.
    pub fn lower_bound(self) -> f64 {
        match self.position() {
            Position::BelowTen(n) => n as f64,
            Position::Decade(decade, n) => (n + 10) as f64 * power_of_ten(decade),
        }
    }

    /// How far it reaches from its lower bound: a tenth for 1 to 9, since the second digit is behind the point; none for 0.
    pub fn width(self) -> f64 {
        match self.position() {
            Position::BelowTen(0) => 0.0,
            Position::BelowTen(_) => 0.1,
            Position::Decade(decade, _) => power_of_ten(decade),
        }
    }

    fn position(self) -> Position {
        match usize::from(self.0) {
            n @ 0..10 => Position::BelowTen(n),
            n => Position::Decade((n - 10) / PER_DECADE, (n - 10) % PER_DECADE),
        }
    }
}

fn power_of_ten(exponent: usize) -> f64 {
    POWERS_OF_TEN.get(exponent).copied().unwrap_or(u64::MAX) as f64
}

const PER_DECADE: usize = 90;
/// From 10..99 to 10^19..2^64.
const DECADES: usize = 19;

const POWERS_OF_TEN: [u64; DECADES] = {
    let mut powers = [1; DECADES];
    let mut n = 1;
    while n < DECADES {
        powers[n] = powers[n - 1] * 10;
        n += 1;
    }
    powers
};
