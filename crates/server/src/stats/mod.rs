//! The stats of the process: shards for all threads, sums over them, and the answers of `/stats`.
//!
//! Whoever counts holds handles of `sota_plugin::stats`. This module reads them: it joins names, sums shards, merges histograms once
//! per flush, and writes text, JSON and Prometheus in pieces, so that the answer of a large configuration is never in memory at once.

mod default_tags;
mod distribution;
mod json;
mod merge;
mod name_matcher;
mod number;
mod output;
mod prometheus;
mod query;
mod snapshot;
mod tags;
mod text;

pub(crate) use distribution::QUANTILES;
pub use output::Output;
pub use query::{BucketsMode, Format, StatsQuery};
pub(crate) use snapshot::{CounterValues, Snapshot, Stat, StatValue};

use distribution::Distribution;
use hashbrown::HashMap;
use name_matcher::{BucketBounds, Existence};
use regex::Regex;
use sota_config::bootstrap::StatsConfig;
use sota_plugin::stats::{Kind, Reading, Registry, Scope, Unit};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tags::TagExtractor;

/// All stats of a process, and how they are shown. A cheap handle.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

/// What is wrong in `stats_config`.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// A regular expression of a tag that cannot be read or is too large.
    #[error("{0}")]
    Regex(Box<regex::Error>),
    /// A matcher of names that cannot be.
    #[error("{0}")]
    Matcher(sota_config::ConfigError),
    /// A tag without a value that is none of Envoy's own.
    #[error("no default regular expression for tag \"{0}\": give it a regex or a fixed_value")]
    UnknownTag(String),
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    tags: TagExtractor,
    existence: Existence,
    bounds: BucketBounds,
    histograms: Mutex<HashMap<Box<str>, Arc<Merged>>>,
}

/// A histogram as of the last flush.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    unit: Unit,
    /// Since the start.
    total: Distribution,
    /// Between the last two flushes.
    interval: Distribution,
}

impl Store {
    /// An empty one. Fails on a regular expression or tag of `stats_config` that cannot be.
    pub fn new(config: &StatsConfig) -> Result<Self, StatsError> {
        Ok(Self(Arc::new(Inner {
            registry: Registry::new(),
            tags: TagExtractor::new(config)?,
            existence: Existence::new(&config.matcher)?,
            bounds: BucketBounds::new(&config.histogram_buckets)?,
            histograms: Mutex::default(),
        })))
    }

    /// The root scope of a new shard: one for each worker, one for the main thread.
    pub fn shard(&self) -> Scope {
        self.0.registry.shard()
    }

    /// Merges all histograms: their interval is from now on what came since the call before. To be called once per
    /// `stats_flush_interval`; histograms show nothing that came after it, as in Envoy.
    pub fn flush(&self) {
        let mut merged: HashMap<Box<str>, Merged> = HashMap::new();
        for scope in self.0.registry.scopes() {
            scope.visit(&[Kind::Histogram], |_, name, reading| {
                if let Reading::Histogram(cell) = reading
                    && cell.used()
                {
                    let name = [scope.prefix(), name].concat();
                    let histogram = merged.entry(name.into()).or_default();
                    histogram.unit = cell.unit();
                    histogram.total.add(cell);
                }
            });
        }
        let mut histograms = self.0.histograms();
        let with_interval = |(name, mut histogram): (Box<str>, Merged)| {
            histogram.interval = match histograms.get(&name) {
                Some(before) => histogram.total.since(&before.total),
                None => histogram.total.clone(),
            };
            (name, Arc::new(histogram))
        };
        *histograms = merged.into_iter().map(with_interval).collect();
    }

    /// `/reset_counters`: all counters are shown from 0 on.
    pub fn reset_counters(&self) {
        self.0.registry.reset_counters();
    }

    /// The answer to `/stats` or `/stats/prometheus`, in pieces. Before the first line of a kind Prometheus' format has to look at all
    /// names of that kind, which takes a moment where there are hundreds of thousands: the answer can be moved to another thread.
    pub fn output(&self, query: StatsQuery) -> Output {
        Output::new(self.0.clone(), query)
    }
}

impl Inner {
    fn histograms(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Merged>>> {
        // A panic can't leave the map in between: it is replaced as a whole.
        self.histograms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As of the last flush; `None` if it had no value then.
    fn histogram(&self, name: &str) -> Option<Arc<Merged>> {
        self.histograms().get(name).cloned()
    }
}

fn compile(regex: &str) -> Result<Regex, StatsError> {
    Regex::new(regex).map_err(|error| StatsError::Regex(Box::new(error)))
}

#[cfg(test)]
mod tests;
