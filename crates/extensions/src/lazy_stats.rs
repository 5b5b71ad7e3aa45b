//! Stats of what routes configure: made by the worker that first needs them, then shared by all.

use sota_plugin::{
    cx::WorkerCx,
    stats::{Group, StatGroup},
};
use std::sync::OnceLock;

/// A family of stats, all of kinds that several threads may write, below a prefix.
pub(crate) struct LazyStats<T: StatGroup> {
    prefix: String,
    group: OnceLock<Group<T>>,
}

impl<T: StatGroup> LazyStats<T> {
    pub(crate) fn new(prefix: String) -> Self {
        Self { prefix, group: OnceLock::new() }
    }

    pub(crate) fn get(&self, worker: &WorkerCx) -> &Group<T> {
        self.group.get_or_init(|| worker.stats().child(&self.prefix).group())
    }
}
