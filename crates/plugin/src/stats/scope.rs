//! A prefix of stat names, seen from one shard.

use super::{
    Counter, Gauge, Group, Handle, Histogram, HistogramCell, SharedCounter, SharedGauge, StatGroup, TextReadout, Unit,
    cell::Cell,
    group::One,
    registry::{Key, SHARED, ScopeCore},
};
use std::{borrow::Cow, fmt, sync::Arc};

/// What stats are called that a [capped](Scope::capped) scope has no room for.
pub const OVERFLOW: &str = "_overflow";

/// A prefix such as `cluster.web.`, seen from one shard: a thread with cells of its own.
///
/// Cheap to clone. Making a handle takes a short lock and looks the name up, so handles are made in `build` functions and kept.
/// Asking again for a name gives the same stat, while one of its handles is alive the very same cell.
///
/// Two threads may use the same shard to make handles, but a cell has one writer: only one thread may write to counters,
/// gauges and histograms of one shard (a violation loses counts and nothing else). The `shared_` kinds are free of that.
#[derive(Clone)]
pub struct Scope {
    core: Arc<ScopeCore>,
    shard: u16,
    cap: Option<u32>,
}

impl Scope {
    pub(super) fn new(core: Arc<ScopeCore>, shard: u16) -> Self {
        Self { core, shard, cap: None }
    }

    /// The prefix of all names in here, with its dot; empty at the root.
    pub fn prefix(&self) -> &str {
        self.core.prefix()
    }

    /// The scope of a longer prefix, such as `upstream_rq_` or `cluster.web.`; dots are the caller's.
    pub fn child(&self, prefix: &str) -> Self {
        let admitted = self.cap.is_none_or(|cap| self.core.admit_child(prefix, cap));
        let joined = match admitted {
            true => [self.prefix(), prefix].concat(),
            false => [self.prefix(), OVERFLOW, "."].concat(),
        };
        Self { core: self.core.registry().scope_core(&joined), shard: self.shard, cap: None }
    }

    /// This scope for a family whose names come from traffic: only the first `limit` names (of stats, and as many of children),
    /// counted over all shards, are made, and all later ones are [`OVERFLOW`].
    #[must_use]
    pub fn capped(&self, limit: u32) -> Self {
        Self { cap: Some(limit), ..self.clone() }
    }

    /// This scope as another shard sees it; `shard` is any scope of that shard.
    #[must_use]
    pub fn in_shard_of(&self, shard: &Self) -> Self {
        Self { shard: shard.shard, ..self.clone() }
    }

    /// A family of stats.
    pub fn group<T: StatGroup>(&self) -> Group<T> {
        Group(self.core.member(Key::group::<T>(), self.shard, None, Default::default))
    }

    /// A family of stats with several writers: the same cells for every shard. All of them are of the shared kinds.
    pub fn shared_group<T: StatGroup>(&self) -> Group<T> {
        Group(self.core.member(Key::group::<T>(), SHARED, None, Default::default))
    }

    /// A counter of one writer.
    pub fn counter(&self, name: &'static str) -> Counter {
        self.single(Cow::Borrowed(name), self.shard, Default::default)
    }

    /// A counter of one writer whose name is made at run time.
    pub fn counter_dyn(&self, name: &str) -> Counter {
        self.single(Cow::Owned(name.to_owned()), self.shard, Default::default)
    }

    /// A gauge of one writer.
    pub fn gauge(&self, name: &'static str) -> Gauge {
        self.single(Cow::Borrowed(name), self.shard, Default::default)
    }

    /// A gauge of one writer whose name is made at run time.
    pub fn gauge_dyn(&self, name: &str) -> Gauge {
        self.single(Cow::Owned(name.to_owned()), self.shard, Default::default)
    }

    /// A counter of several writers: the same cell for every shard.
    pub fn shared_counter(&self, name: &'static str) -> SharedCounter {
        self.single(Cow::Borrowed(name), SHARED, Default::default)
    }

    /// A gauge of several writers: the same cell for every shard.
    pub fn shared_gauge(&self, name: &'static str) -> SharedGauge {
        self.single(Cow::Borrowed(name), SHARED, Default::default)
    }

    /// A distribution. The unit of the first one who asks counts.
    pub fn histogram(&self, name: &'static str, unit: Unit) -> Histogram {
        self.single(Cow::Borrowed(name), self.shard, || HistogramCell::new(unit))
    }

    /// A distribution whose name is made at run time.
    pub fn histogram_dyn(&self, name: &str, unit: Unit) -> Histogram {
        self.single(Cow::Owned(name.to_owned()), self.shard, || HistogramCell::new(unit))
    }

    /// A text: the same cell for every shard.
    pub fn text_readout(&self, name: &'static str) -> TextReadout {
        self.single(Cow::Borrowed(name), SHARED, Default::default)
    }

    fn single<V: Cell + Default + 'static>(
        &self,
        name: Cow<'static, str>,
        shard: u16,
        new: impl FnOnce() -> V,
    ) -> Handle<V> {
        Handle(self.core.member(Key::single::<V>(name), shard, self.cap, || One(new())))
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("prefix", &self.prefix()).field("shard", &self.shard).finish_non_exhaustive()
    }
}
