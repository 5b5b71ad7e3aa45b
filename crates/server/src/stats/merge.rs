//! All stats of some kinds, summed over shards and in the order of their names, one after the other.
//!
//! The prefixes are sorted; a name can only come from a prefix that is not greater than itself. So it is enough to have read the
//! prefixes up to the name that is next: what is in memory are the stats of one scope and of those it is nested in.

use super::Inner;
use super::query::StatsQuery;
use sota_plugin::stats::{Kind, Reading, ScopeView, StatId};
use std::{collections::BTreeMap, sync::Arc};

/// The stats of some kinds, in order.
pub(super) struct MergedStats {
    scopes: Arc<[ScopeView]>,
    next_scope: usize,
    order: Order,
    kinds: &'static [Kind],
    pending: BTreeMap<(String, Kind), Summed>,
}

/// What names are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Their bytes.
    Bytes,
    /// Their tokens, which the dots separate: `web.x` before `web-1.x`.
    Tokens,
}

/// A stat, summed over shards.
#[derive(Debug)]
pub(super) struct Summed {
    pub(super) value: Value,
    /// Where one of its parts is.
    pub(super) origin: Origin,
}

/// Where a stat is: which scope, and where in it.
pub(super) type Origin = (u32, StatId);

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Counter {
        value: u64,
        used: bool,
    },
    Gauge {
        value: i64,
        used: bool,
    },
    Text(Option<String>),
    /// What is shown of it comes from the last flush.
    Histogram,
}

impl MergedStats {
    pub(super) fn new(scopes: Vec<ScopeView>, kinds: &'static [Kind], order: Order) -> Self {
        let mut scopes = scopes;
        scopes.sort_by_cached_key(|scope| order.key(scope.prefix()));
        Self { scopes: scopes.into(), next_scope: 0, order, kinds, pending: BTreeMap::new() }
    }

    pub(super) fn scopes(&self) -> &Arc<[ScopeView]> {
        &self.scopes
    }

    /// The next one that exists by the configuration and that the query wants.
    pub(super) fn next_wanted(&mut self, store: &Inner, query: &StatsQuery) -> Option<(String, Kind, Summed)> {
        loop {
            let (name, kind, stat) = self.next()?;
            let used = match &stat.value {
                Value::Counter { used, .. } | Value::Gauge { used, .. } => *used,
                Value::Text(text) => text.is_some(),
                Value::Histogram => !query.used_only || store.histogram(&name).is_some(),
            };
            let wanted = query.wants(kind)
                && (used || !query.used_only)
                && query.filter.as_ref().is_none_or(|filter| filter.is_match(&name))
                && store.existence.allows(&name);
            if wanted {
                return Some((name, kind, stat));
            }
        }
    }

    fn next(&mut self) -> Option<(String, Kind, Summed)> {
        while let Some(scope) = self.scopes.get(self.next_scope) {
            let prefix = self.order.key(scope.prefix());
            if self.pending.first_key_value().is_some_and(|((name, _), _)| *name < prefix) {
                break;
            }
            self.read_scope();
        }
        let ((name, kind), stat) = self.pending.pop_first()?;
        Some((self.order.name(name), kind, stat))
    }

    fn read_scope(&mut self) {
        let Some(scope) = self.scopes.get(self.next_scope) else { return };
        let number = self.next_scope as u32;
        self.next_scope += 1;
        scope.visit(self.kinds, |id, name, reading| {
            let (kind, value) = match reading {
                Reading::Counter { value, used } => (Kind::Counter, Value::Counter { value, used }),
                Reading::Gauge { value, used } => (Kind::Gauge, Value::Gauge { value, used }),
                Reading::Text(text) => (Kind::TextReadout, Value::Text(text)),
                Reading::Histogram(_) => (Kind::Histogram, Value::Histogram),
            };
            let name = self.order.key(&[scope.prefix(), name].concat());
            match self.pending.entry((name, kind)) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(Summed { value, origin: (number, id) });
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => entry.get_mut().value.add(value),
            }
        });
    }
}

impl Value {
    fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::Counter { value, used }, Self::Counter { value: more, used: also }) => {
                *value = value.wrapping_add(more);
                *used |= also;
            }
            (Self::Gauge { value, used }, Self::Gauge { value: more, used: also }) => {
                *value = value.wrapping_add(more);
                *used |= also;
            }
            (Self::Text(text), Self::Text(other)) if text.is_none() => *text = other,
            _ => {}
        }
    }

    /// Counters and gauges as a number. A gauge whose parts were read at different moments may seem to be below 0; it is shown as 0.
    pub(super) fn number(&self) -> Option<u64> {
        match self {
            Self::Counter { value, .. } => Some(*value),
            Self::Gauge { value, .. } => Some(u64::try_from(*value).unwrap_or(0)),
            Self::Text(_) | Self::Histogram => None,
        }
    }
}

impl Order {
    /// A string that sorts by its bytes as the name does in this order.
    pub(super) fn key(self, name: &str) -> String {
        match self {
            Self::Bytes => name.to_owned(),
            // No other character is smaller than this one.
            Self::Tokens => name.replace('.', "\0"),
        }
    }

    /// The name of a key.
    pub(super) fn name(self, key: String) -> String {
        match self {
            Self::Bytes => key,
            Self::Tokens => key.replace('\0', "."),
        }
    }
}
