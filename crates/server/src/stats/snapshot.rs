//! All stats at one moment, for those that send them away.

use super::{
    Merged, Store,
    distribution::Distribution,
    merge::{MergedStats, Order, Value},
    query::StatsQuery,
    tags::Tags,
};
use hashbrown::HashMap;
use sota_plugin::stats::{Kind, LABELLED, Unit};
use std::{sync::Arc, time::SystemTime};

/// All stats that were ever written, in the order of their names. Texts are not among them: no sink takes them.
pub(crate) struct Snapshot {
    /// When it was taken.
    pub(crate) time: SystemTime,
    /// When the one before it was.
    pub(crate) since: SystemTime,
    /// The stats.
    pub(crate) stats: Vec<Stat>,
    store: Store,
}

/// One stat.
pub(crate) struct Stat {
    /// Its whole name.
    pub(crate) name: String,
    /// What it says.
    pub(crate) value: StatValue,
}

/// What a stat says.
pub(crate) enum StatValue {
    /// Since the start, and since the snapshot before.
    Counter { value: u64, delta: u64 },
    /// Now.
    Gauge(u64),
    /// As of the last flush.
    Histogram(Arc<Merged>),
}

/// What counters were at the last snapshot.
pub(crate) struct CounterValues {
    values: HashMap<Box<str>, u64>,
    time: SystemTime,
}

impl CounterValues {
    /// Nothing was counted before this moment.
    pub(crate) fn new() -> Self {
        Self { values: HashMap::new(), time: SystemTime::now() }
    }
}

impl Store {
    /// Takes a snapshot. Where there are many stats it takes a moment: not for a thread that others wait for.
    pub(crate) fn snapshot(&self, before: &mut CounterValues) -> Snapshot {
        const KINDS: &[Kind] = &[Kind::Counter, Kind::Gauge, Kind::Histogram];
        let query = StatsQuery { used_only: true, ..StatsQuery::default() };
        let mut merged = MergedStats::new(self.0.registry.scopes(), KINDS, Order::Bytes);
        let (mut stats, mut values) = (Vec::new(), HashMap::with_capacity(before.values.len()));
        while let Some((name, _, stat)) = merged.next_wanted(&self.0, &query) {
            let value = match stat.value {
                Value::Counter { value, .. } => {
                    // Less than before: the counter was reset, or made anew.
                    let old = before.values.get(&*name).copied().filter(|old| *old <= value).unwrap_or(0);
                    values.insert(name.as_str().into(), value);
                    StatValue::Counter { value, delta: value - old }
                }
                Value::Histogram => match self.0.histogram(&name) {
                    Some(histogram) => StatValue::Histogram(histogram),
                    None => continue,
                },
                Value::Text(_) => continue,
                gauge @ Value::Gauge { .. } => StatValue::Gauge(gauge.number().unwrap_or(0)),
            };
            stats.push(Stat { name, value });
        }
        let time = SystemTime::now();
        let since = before.time;
        *before = CounterValues { values, time };
        Snapshot { time, since, stats, store: self.clone() }
    }
}

impl Snapshot {
    /// The name of a stat without its tags, and the tags.
    pub(crate) fn tagged<'a>(&'a self, stat: &'a Stat) -> (String, Tags<'a>) {
        let tagged = self.store.0.tags.extract(&stat.name);
        let name = tagged.name.strip_prefix(LABELLED).map(str::to_owned).unwrap_or(tagged.name);
        (name, tagged.tags)
    }

    /// The bounds of a histogram's buckets, ascending.
    pub(crate) fn bounds(&self, stat: &Stat) -> Arc<[f64]> {
        Arc::clone(self.store.0.bounds.of(&stat.name))
    }
}

impl Merged {
    /// Of what its values are.
    pub(crate) fn unit(&self) -> Unit {
        self.unit
    }

    /// The values between the last two flushes.
    pub(crate) fn interval(&self) -> &Distribution {
        &self.interval
    }

    /// The values since the start.
    pub(crate) fn total(&self) -> &Distribution {
        &self.total
    }
}
