//! The words behind handles.

use super::histogram::HistogramCell;
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// What a stat is when somebody reads it.
#[derive(Debug)]
pub enum Reading<'a> {
    /// The count since the start of the process or the last reset, and whether it was ever written.
    Counter {
        /// The count.
        value: u64,
        /// Whether it was ever written, if only by adding 0; a reset does not change that.
        used: bool,
    },
    /// The value now, and whether it was ever written.
    Gauge {
        /// Now.
        value: i64,
        /// Whether it was ever written, if only with 0.
        used: bool,
    },
    /// The distribution since the start of the process.
    Histogram(&'a HistogramCell),
    /// The text; `None` if it was never set.
    Text(Option<String>),
}

/// What kind of stat a cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
    /// A text.
    TextReadout,
}

/// A word that can be read by other threads than its writer.
pub trait Cell: Send + Sync {
    /// What kind of stat it is.
    fn kind(&self) -> Kind;

    /// The value now. Relaxed: a reader may be a moment behind, and two cells may be of different moments.
    fn read(&self) -> Reading<'_>;
}

/// A [`Counter`](super::Counter)'s word, of 63 bits.
// The highest bit says that it was written, if only by adding 0: Envoy shows such a counter with `usedonly`.
#[derive(Debug, Default)]
pub struct CounterCell(AtomicU64);

impl CounterCell {
    /// Adds 1.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`. Load and store, no read-modify-write: the shard's thread is the only writer.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n) | COUNTER_USED, Relaxed);
    }

    /// This shard's part of the value.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed) & !COUNTER_USED
    }
}

impl Cell for CounterCell {
    fn kind(&self) -> Kind {
        Kind::Counter
    }

    fn read(&self) -> Reading<'_> {
        read_counter(&self.0)
    }
}

/// A [`SharedCounter`](super::SharedCounter)'s word, of 63 bits.
#[derive(Debug, Default)]
pub struct SharedCounterCell(AtomicU64);

impl SharedCounterCell {
    /// Adds 1.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        if self.0.fetch_add(n, Relaxed) & COUNTER_USED == 0 {
            self.0.fetch_or(COUNTER_USED, Relaxed);
        }
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed) & !COUNTER_USED
    }
}

impl Cell for SharedCounterCell {
    fn kind(&self) -> Kind {
        Kind::Counter
    }

    fn read(&self) -> Reading<'_> {
        read_counter(&self.0)
    }
}

/// A [`Gauge`](super::Gauge)'s word, of 63 bits with sign.
// Twice the value, plus 1 once it was written: 0 and "never written" differ, as `usedonly` wants it.
#[derive(Debug, Default)]
pub struct GaugeCell(AtomicU64);

impl GaugeCell {
    /// Adds 1.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Subtracts 1.
    #[inline]
    pub fn dec(&self) {
        self.sub(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n << 1) | GAUGE_USED, Relaxed);
    }

    /// Subtracts `n`. A shard's part may go below 0: what one thread counted up another may count down.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n << 1) | GAUGE_USED, Relaxed);
    }

    /// Replaces this shard's part of the value.
    #[inline]
    pub fn set(&self, value: i64) {
        self.0.store(encode_gauge(value), Relaxed);
    }

    /// This shard's part of the value.
    #[inline]
    pub fn value(&self) -> i64 {
        decode_gauge(self.0.load(Relaxed))
    }
}

impl Cell for GaugeCell {
    fn kind(&self) -> Kind {
        Kind::Gauge
    }

    fn read(&self) -> Reading<'_> {
        read_gauge(&self.0)
    }
}

/// A [`SharedGauge`](super::SharedGauge)'s word, of 63 bits with sign.
#[derive(Debug, Default)]
pub struct SharedGaugeCell(AtomicU64);

impl SharedGaugeCell {
    /// Adds 1.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Subtracts 1.
    #[inline]
    pub fn dec(&self) {
        self.sub(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.mark_used(self.0.fetch_add(n << 1, Relaxed));
    }

    /// Subtracts `n`.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.mark_used(self.0.fetch_sub(n << 1, Relaxed));
    }

    /// Replaces the value.
    #[inline]
    pub fn set(&self, value: i64) {
        self.0.store(encode_gauge(value), Relaxed);
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> i64 {
        decode_gauge(self.0.load(Relaxed))
    }

    #[inline]
    fn mark_used(&self, before: u64) {
        if before & GAUGE_USED == 0 {
            self.0.fetch_or(GAUGE_USED, Relaxed);
        }
    }
}

impl Cell for SharedGaugeCell {
    fn kind(&self) -> Kind {
        Kind::Gauge
    }

    fn read(&self) -> Reading<'_> {
        read_gauge(&self.0)
    }
}

/// A [`TextReadout`](super::TextReadout)'s text. Locked: not for the request path.
#[derive(Debug, Default)]
pub struct TextCell(Mutex<Option<Box<str>>>);

impl TextCell {
    /// Replaces the text.
    pub fn set(&self, text: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.into());
    }
}

impl Cell for TextCell {
    fn kind(&self) -> Kind {
        Kind::TextReadout
    }

    fn read(&self) -> Reading<'_> {
        Reading::Text(self.0.lock().unwrap_or_else(PoisonError::into_inner).as_deref().map(str::to_owned))
    }
}

fn read_counter(word: &AtomicU64) -> Reading<'static> {
    let word = word.load(Relaxed);
    Reading::Counter { value: word & !COUNTER_USED, used: word & COUNTER_USED != 0 }
}

const COUNTER_USED: u64 = 1 << 63;
const GAUGE_USED: u64 = 1;

fn encode_gauge(value: i64) -> u64 {
    value.cast_unsigned() << 1 | GAUGE_USED
}

fn decode_gauge(word: u64) -> i64 {
    word.cast_signed() >> 1
}

fn read_gauge(word: &AtomicU64) -> Reading<'static> {
    let word = word.load(Relaxed);
    Reading::Gauge { value: decode_gauge(word), used: word & GAUGE_USED != 0 }
}
