//! Statistics as the data plane and the authors of extensions hold them.
//!
//! A [`Scope`] is a prefix such as `cluster.web.` seen from one *shard*; every thread has a shard of its own. From a scope come
//! handles, made while something is built and kept: the request path only adds to them.
//!
//! - A [`Counter`] or [`Gauge`] is a word that one thread writes with a plain load and store, and that the main thread sums over
//!   the shards when somebody asks. [`SharedCounter`] and [`SharedGauge`] are for values with several writers.
//! - A family of stats with fixed names is a [`Group`] (see [`stat_group!`](crate::stat_group)): one allocation, eight bytes a
//!   counter. Handles made one by one cost about 200 bytes each, so large families are groups.
//! - A [`Histogram`] has log-linear buckets of two significant digits, those of Envoy's histogram library.
//!
//! Names are joined when they are printed and not before. A stat exists from the first time it is asked for, in any shard, until the
//! last scope and handle of its prefix is gone, so the stats of a removed cluster leave with it, while a worker that drops and remakes
//! its part of a living cluster loses no count.
//!
//! ```
//! use sota_plugin::{stat_group, stats::Registry};
//!
//! stat_group! {
//!     /// What a listener counts.
//!     pub struct ListenerStats {
//!         /// Connections accepted.
//!         downstream_cx_total: counter,
//!         /// Connections open now.
//!         downstream_cx_active: gauge,
//!         /// How long connections lived.
//!         downstream_cx_length_ms: histogram(Milliseconds),
//!     }
//! }
//!
//! let registry = Registry::new();
//! let scope = registry.shard().child("listener.0.0.0.0_80.");
//! let stats = scope.group::<ListenerStats>();
//! stats.downstream_cx_total.inc();
//! stats.downstream_cx_length_ms.record(12);
//! let resets = scope.counter("resets");
//! resets.add(2);
//! ```

mod cell;
mod group;
mod histogram;
mod labelled;
mod registry;
mod scope;

pub use cell::{Cell, CounterCell, GaugeCell, Kind, Reading, SharedCounterCell, SharedGaugeCell, TextCell};
pub use group::{Group, Handle, StatGroup};
pub use histogram::{Bucket, HistogramCell, Unit};
pub use labelled::{LABELLED, LABELS, labels, push_label};
pub use registry::{Registry, ScopeView, StatId};
pub use scope::{OVERFLOW, Scope};

/// A number that only grows, written by one thread.
pub type Counter = Handle<CounterCell>;
/// A number that goes up and down, written by one thread; shards add up.
pub type Gauge = Handle<GaugeCell>;
/// A counter with several writers: one atomic addition.
pub type SharedCounter = Handle<SharedCounterCell>;
/// A gauge with several writers: one atomic addition.
pub type SharedGauge = Handle<SharedGaugeCell>;
/// A distribution, written by one thread.
pub type Histogram = Handle<HistogramCell>;
/// A text, such as a version.
pub type TextReadout = Handle<TextCell>;

#[cfg(test)]
mod tests;
