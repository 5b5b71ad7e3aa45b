//! A worker's part of a cluster.

use super::{
    circuit_breaker::Resource,
    config::ClusterConfig,
    conn_pool::{HostPools, HttpConnection, PoolContext, PoolFailure, TcpConnection, WorkerHost},
    host::Host,
    host_set::HostSet,
    load_balancer::LoadBalancer,
    stats::{ClusterStats, ResponseStats},
};
use crate::local::Local;
use sota_plugin::{
    http::{RequestHead, StatusCode},
    info::ConnectionInfo,
    stats::Group,
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

/// What a balancer may look at.
#[derive(Default, Clone, Copy)]
pub struct LbContext<'a> {
    /// The hash by which policies that hash choose.
    pub hash: Option<u64>,
    /// The downstream connection, for its original destination.
    pub connection: Option<&'a ConnectionInfo>,
    /// The request, for clusters whose host stands in a header.
    pub request: Option<&'a RequestHead>,
    /// Hosts that failed before and that another choice should avoid.
    pub excluded: &'a [Rc<WorkerHost>],
    /// How often to choose again to avoid them (`host_selection_retry_max_attempts`); 0 is the default, once.
    pub attempts: u32,
}

/// A cluster as a worker has it.
pub struct Cluster {
    config: Arc<ClusterConfig>,
    context: Rc<PoolContext>,
    responses: ResponseStats,
    balancer: Option<LoadBalancer>,
    hosts: RefCell<Hosts>,
    version: Cell<u64>,
}

#[derive(Default)]
struct Hosts {
    set: Arc<HostSet>,
    /// In the order of the set, made when they are used first.
    workers: Vec<Option<Rc<WorkerHost>>>,
}

impl Cluster {
    /// `before` is the cluster of this name until now: what suits both stays.
    pub(super) fn new(local: &Rc<Local>, config: &Arc<ClusterConfig>, before: Option<&Self>) -> Rc<Self> {
        let scope = config.scope(&local.stats);
        let before = before.filter(|before| before.context.suits(config.model()));
        let cluster = Self {
            config: Arc::clone(config),
            context: match before {
                Some(before) => Rc::clone(&before.context),
                None => PoolContext::new(local, config, scope.group()),
            },
            responses: ResponseStats::new(&scope),
            balancer: LoadBalancer::new(&config.model().lb_policy),
            hosts: RefCell::default(),
            version: Cell::new(0),
        };
        if let Some(before) = before {
            // A copy: requests that run keep the old cluster, which may still look at its hosts.
            let hosts = before.hosts.borrow();
            *cluster.hosts.borrow_mut() = Hosts { set: Arc::clone(&hosts.set), workers: hosts.workers.clone() };
        }
        cluster.refresh();
        Rc::new(cluster)
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        self.config.name()
    }

    /// What all threads share.
    pub fn config(&self) -> &Arc<ClusterConfig> {
        &self.config
    }

    /// The counters, for what the router counts itself.
    pub fn stats(&self) -> &Group<ClusterStats> {
        &self.context.stats
    }

    /// The host for a request; `None` when there is none that may be used. Counts `upstream_cx_none_healthy` then.
    pub fn choose_host(&self, cx: &LbContext<'_>) -> Option<Rc<WorkerHost>> {
        if self.version.get() != self.config.version() {
            self.refresh();
        }
        let attempts = if cx.excluded.is_empty() { 0 } else { cx.attempts.max(1) };
        let mut chosen = self.choose();
        for _ in 0..attempts {
            match &chosen {
                Some(host)
                    if cx.excluded.iter().any(|other| Arc::ptr_eq(other.host().state(), host.host().state())) =>
                {
                    chosen = self.choose();
                }
                _ => break,
            }
        }
        if chosen.is_none() {
            self.stats().upstream_cx_none_healthy.inc();
        }
        chosen
    }

    fn choose(&self) -> Option<Rc<WorkerHost>> {
        let mut hosts = self.hosts.borrow_mut();
        let Hosts { set, workers } = &mut *hosts;
        let (priority, list, panic) = set.draw(|| fastrand::u64(..))?;
        if panic {
            self.stats().lb_healthy_panic.inc();
        }
        let chosen = self.balancer.as_ref()?.choose(set, priority, list)?;
        let (host, slot) = (set.hosts().get(chosen)?, workers.get_mut(chosen)?);
        let worker = slot.get_or_insert_with(|| WorkerHost::new(host, HostPools::new(&self.context, host)));
        Some(Rc::clone(worker))
    }

    /// Takes over the newest host set. Done before each choice; a command may ask for it where nothing is chosen.
    pub fn refresh(&self) {
        let version = self.config.version();
        let set = self.config.hosts();
        let mut hosts = self.hosts.borrow_mut();
        let mut old: HashMap<*const _, Rc<WorkerHost>> =
            hosts.workers.drain(..).flatten().map(|worker| (Arc::as_ptr(worker.host().state()), worker)).collect();
        let next = |host: &Arc<Host>| {
            let worker = old.remove(&Arc::as_ptr(host.state()))?;
            Some(if Arc::ptr_eq(worker.host(), host) {
                worker
            } else {
                WorkerHost::new(host, Rc::clone(worker.pools()))
            })
        };
        let workers = set.hosts().iter().map(next).collect();
        *hosts = Hosts { set, workers };
        drop(hosts);
        self.version.set(version);
        for worker in old.into_values() {
            worker.pools().drain();
        }
    }

    /// Closes all idle connections now, and the others when their requests end.
    pub(super) fn drain(&self) {
        for worker in self.hosts.borrow().workers.iter().flatten() {
            worker.pools().drain();
        }
    }

    /// Whether its pools go on in `next`.
    pub(super) fn shares_pools_with(&self, next: &Self) -> bool {
        Rc::ptr_eq(&self.context, &next.context)
    }

    /// A connection for one HTTP/1 request; priority 0 is the default, 1 high. Waits until one is there, at most for
    /// `connect_timeout` of the connection that is made for it.
    pub async fn http_connection(&self, host: &WorkerHost, priority: usize) -> Result<HttpConnection, PoolFailure> {
        host.http_connection(priority).await
    }

    /// A connection of its own for TCP; priority 0 is the default, 1 high.
    pub async fn tcp_connection(&self, host: &WorkerHost, priority: usize) -> Result<TcpConnection, PoolFailure> {
        host.tcp_connection(priority).await
    }

    /// Leave for one retry, held until the retry is done. `None` counts `upstream_rq_retry_overflow`.
    pub fn try_retry(&self, priority: usize) -> Option<RetryPermit> {
        if self.config.breaker(priority).take(Resource::Retries) {
            return Some(RetryPermit { config: Arc::clone(&self.config), priority });
        }
        self.stats().upstream_rq_retry_overflow.inc();
        None
    }

    /// Counts the status of a response, be it the host's or one of ours for want of one. `internal`: the request is
    /// from an internal address. `host` is counted a success or an error when it is known.
    pub fn count_response(&self, status: StatusCode, internal: bool, host: Option<&WorkerHost>) {
        self.responses.count(status, internal);
        if let Some(host) = host {
            let counters = host.counters();
            if status.is_server_error() { &counters.rq_error } else { &counters.rq_success }.inc();
        }
    }

    /// Counts how long a request took, from its last octet that was sent to the last of the answer.
    pub fn record_response_time(&self, time: Duration, internal: bool) {
        self.responses.record_time(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), internal);
    }
}

/// Leave for one retry.
pub struct RetryPermit {
    config: Arc<ClusterConfig>,
    priority: usize,
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.config.breaker(self.priority).give(Resource::Retries);
    }
}
