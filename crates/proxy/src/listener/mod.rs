//! Listeners: sockets, listener filters, the choice of a filter chain.
//!
//! [`ListenerConfig`] is built once and shared; each worker makes a [`WorkerListener`] of it. An update is a new
//! generation of both that keeps the sockets and every filter chain that did not change, so only connections of changed
//! or removed chains are drained.

mod accept;
mod filter_chain_match;
mod listener_filters;
mod sockets;
mod stats;

#[cfg(test)]
mod tests;

pub use accept::{Adopted, ListenerTable};
pub use filter_chain_match::FilterChainIndex;
pub(crate) use filter_chain_match::{Criterion, Rejection};
pub use sockets::{BoundAddress, ListenError, ListenSocket};
pub use stats::stat_name;

use crate::{
    access_log::AccessLogs,
    connection::{FilterChainConfig, TerminalConfig},
    router::DynamicRoutes,
};
use sota_config::{
    ConfigErrors,
    listener::{FilterChain, FilterChainMatch, Listener, ListenerFilterPredicate},
    secret::SecretRef,
};
use sota_plugin::{FactoryContext, filter::ListenerFilterConfig, info::CertificateInfo};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

/// A listener, built and shared by all workers.
pub struct ListenerConfig {
    /// What it was built from.
    pub model: Arc<Listener>,
    listener_filters: Vec<(Option<ListenerFilterPredicate>, Arc<dyn ListenerFilterConfig>)>,
    chains: Vec<Arc<FilterChainConfig>>,
    default_chain: Option<Arc<FilterChainConfig>>,
    index: FilterChainIndex,
    connection_limit: usize,
    load: Arc<Load>,
    access_logs: Arc<AccessLogs>,
}

/// How many connections a listener has, over all of its generations.
#[derive(Debug)]
struct Load {
    total: AtomicUsize,
    by_worker: Box<[AtomicUsize]>,
    /// Held from looking at every worker to counting at one, where the balance is exact.
    choosing: Mutex<()>,
}

/// One connection as [`Load`] counts it, until it is dropped.
#[derive(Debug)]
struct Seat {
    load: Arc<Load>,
    worker: usize,
}

impl ListenerConfig {
    /// Builds a listener for so many workers, with every error there is. `previous` is the generation that this one
    /// replaces: filter chains that are equal are taken from it.
    pub fn build(
        model: &Arc<Listener>,
        previous: Option<&Self>,
        workers: usize,
        cx: &FactoryContext<'_>,
    ) -> Result<Arc<Self>, ConfigErrors> {
        let mut errors = Vec::new();
        let mut listener_filters = Vec::new();
        for filter in &model.listener_filters {
            let built = cx.registry.listener_filters.resolve(&filter.config);
            match built.and_then(|extension| (extension.build)(&filter.config.config, &cx.at(&filter.config))) {
                Ok(config) => listener_filters.push((filter.disabled.clone(), config)),
                Err(error) => errors.push(error),
            }
        }
        let mut build_chain = |chain: &Arc<FilterChain>, place: &str| {
            let path = format!("{}.{place}", cx.path);
            let cx = FactoryContext { path: &path, ..*cx };
            let kept = previous.and_then(|previous| previous.chain_like(chain));
            kept.map_or_else(|| FilterChainConfig::build(chain, &cx), Ok).map_err(|found| errors.extend(found.0)).ok()
        };
        let chains = model.filter_chains.iter().enumerate();
        let chains: Vec<_> =
            chains.filter_map(|(at, chain)| build_chain(chain, &format!("filter_chains[{at}]"))).collect();
        let default_chain = model.default_filter_chain.as_ref();
        let default_chain = default_chain.and_then(|chain| build_chain(chain, "default_filter_chain"));
        let access_logs = AccessLogs::build(&model.access_log, cx).map_err(|e| errors.extend(e.0)).unwrap_or_default();
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        let key = format!("envoy.resource_limits.listener.{}.connection_limit", model.name);
        let limit = cx.runtime.integer(&key, model.connection_limit.unwrap_or(u64::MAX));
        let load = previous.map_or_else(|| Arc::new(Load::new(workers)), |previous| Arc::clone(&previous.load));
        Ok(Arc::new(Self {
            index: FilterChainIndex::new(chains.iter().map(|chain| chain.model.filter_chain_match.clone())),
            model: Arc::clone(model),
            listener_filters,
            chains,
            default_chain,
            connection_limit: usize::try_from(limit).unwrap_or(usize::MAX),
            load,
            access_logs,
        }))
    }

    /// Connections that are open now, on all workers.
    pub fn connections(&self) -> usize {
        self.load.total.load(Ordering::Relaxed)
    }

    /// The certificates that it shows to clients over TLS, now.
    pub fn certificates(&self) -> Vec<Arc<CertificateInfo>> {
        self.chains.iter().chain(&self.default_chain).flat_map(|chain| chain.certificates()).collect()
    }

    /// The secrets without which connections cannot be accepted, and which have not come yet.
    pub fn missing_secrets(&self) -> Vec<SecretRef> {
        self.chains.iter().chain(&self.default_chain).flat_map(|chain| chain.missing_secrets()).collect()
    }

    /// Its filter chains but the default one.
    pub(crate) fn chains(&self) -> &[Arc<FilterChainConfig>] {
        &self.chains
    }

    /// The chain for connections that no other takes.
    pub(crate) fn default_chain(&self) -> Option<&Arc<FilterChainConfig>> {
        self.default_chain.as_ref()
    }

    /// Where its connection managers find routes that a control plane brings.
    pub fn dynamic_routes(&self) -> impl Iterator<Item = &Arc<DynamicRoutes>> {
        self.chains.iter().chain(&self.default_chain).filter_map(|chain| match chain.terminal() {
            TerminalConfig::Http(manager) => manager.dynamic_routes(),
            _ => None,
        })
    }

    /// Finds chains; results are positions in [`Self::chains`].
    pub(crate) fn index(&self) -> &FilterChainIndex {
        &self.index
    }

    fn chain_like(&self, model: &FilterChain) -> Option<Arc<FilterChainConfig>> {
        self.chains.iter().chain(&self.default_chain).find(|chain| is_same_chain(&chain.model, model)).cloned()
    }
}

/// Whether a chain may live on under another match. The match is the listener's matter, so only the rest is compared.
fn is_same_chain(old: &FilterChain, new: &FilterChain) -> bool {
    let without_match =
        |chain: &FilterChain| FilterChain { filter_chain_match: FilterChainMatch::default(), ..chain.clone() };
    old == new || without_match(old) == without_match(new)
}

impl Load {
    fn new(workers: usize) -> Self {
        let by_worker = (0..workers.max(1)).map(|_| AtomicUsize::new(0)).collect();
        Self { total: AtomicUsize::new(0), by_worker, choosing: Mutex::new(()) }
    }

    /// Counts a connection which worker `own` accepted at the one that shall take it, before that knows of it: of
    /// connections that come together each sees those before it.
    fn seat(self: &Arc<Self>, own: usize, exact: bool) -> Seat {
        let _choosing = exact.then(|| self.choosing.lock().unwrap_or_else(PoisonError::into_inner));
        self.seat_at(self.pick_worker(own, exact))
    }

    /// Counts a connection at this worker.
    fn seat_at(self: &Arc<Self>, worker: usize) -> Seat {
        self.enter(worker);
        Seat { load: Arc::clone(self), worker }
    }

    /// The worker that shall take a connection which this one accepted: the least loaded with `exact`, otherwise
    /// another one only when this has over one and a half times the mean.
    fn pick_worker(&self, own: usize, exact: bool) -> usize {
        let load = |worker: usize| self.by_worker.get(worker).map_or(0, |load| load.load(Ordering::Relaxed));
        let mine = load(own);
        let mean = self.total.load(Ordering::Relaxed) / self.by_worker.len();
        // A handful of connections is no imbalance.
        if !exact && mine <= mean + mean / 2 + 8 {
            return own;
        }
        (0..self.by_worker.len()).min_by_key(|worker| (load(*worker), *worker != own)).unwrap_or(own)
    }

    fn enter(&self, worker: usize) {
        self.total.fetch_add(1, Ordering::Relaxed);
        if let Some(load) = self.by_worker.get(worker) {
            load.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn leave(&self, worker: usize) {
        self.total.fetch_sub(1, Ordering::Relaxed);
        if let Some(load) = self.by_worker.get(worker) {
            load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Seat {
    /// The worker that shall take the connection.
    fn worker(&self) -> usize {
        self.worker
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.load.leave(self.worker);
    }
}
