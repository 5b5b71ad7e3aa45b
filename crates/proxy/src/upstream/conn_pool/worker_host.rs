//! A worker's part of a host.

use super::{ConnPool, HttpConnection, Kind, PoolContext, PoolFailure, Resource, TcpConnection, UpstreamConnection};
use crate::{
    drain::{DrainSignal, DrainWatch},
    tls::TransportOptions,
    upstream::host::{Host, HostCounters, WorkerCounters},
};
use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
};

/// Pools of a host for requests that want other connections than the cluster has by itself. Beyond this the oldest one
/// is given up.
const MOST_SPECIAL: usize = 256;

/// A host as a worker has it: with the connections of this worker.
pub struct WorkerHost {
    host: Arc<Host>,
    pools: Rc<HostPools>,
}

impl WorkerHost {
    pub(in crate::upstream) fn new(host: &Arc<Host>, pools: Rc<HostPools>) -> Rc<Self> {
        for pool in pools.all() {
            pool.host.replace(Arc::clone(host));
        }
        Rc::new(Self { host: Arc::clone(host), pools })
    }

    /// The host.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// This worker's counters of it.
    pub fn counters(&self) -> &HostCounters {
        &self.pools.counters.counters
    }

    pub(in crate::upstream) fn pools(&self) -> &Rc<HostPools> {
        &self.pools
    }

    pub(in crate::upstream) async fn http_connection(
        &self,
        kind: Kind,
        priority: usize,
        options: Option<&TransportOptions>,
    ) -> Result<HttpConnection, PoolFailure> {
        HttpConnection::acquire(&self.pools.http(&self.host, kind, priority, options)).await
    }

    pub(in crate::upstream) fn idle_http_connection(
        &self,
        kind: Kind,
        priority: usize,
        options: Option<&TransportOptions>,
    ) -> Option<Result<HttpConnection, PoolFailure>> {
        HttpConnection::idle(&self.pools.http(&self.host, kind, priority, options))
    }

    pub(in crate::upstream) async fn tcp_connection(
        &self,
        priority: usize,
        options: Option<&TransportOptions>,
    ) -> Result<TcpConnection, PoolFailure> {
        let mut connection = match options {
            Some(options) => {
                TcpConnection::acquire(&self.pools.special(&self.host, Kind::Tcp, priority.min(1), options)).await?
            }
            None => TcpConnection::acquire(self.pools.get(&self.host, Kind::Tcp, priority)).await?,
        };
        if self.pools.context.config.model().close_connections_on_host_health_failure {
            connection.host_failure = Some(self.pools.failure.borrow().watch());
        }
        Ok(connection)
    }

    /// A connection of its own that is not counted as a request.
    pub(in crate::upstream) async fn open_connection(&self) -> Result<Box<UpstreamConnection>, PoolFailure> {
        Ok(self.pools.get(&self.host, Kind::Tcp, 0).acquire().await?.0)
    }

    /// A connection for one request of an extension's protocol, and whether it was used before.
    pub(in crate::upstream) async fn message_connection(
        &self,
        protocol: &'static str,
    ) -> Result<(Box<UpstreamConnection>, bool), PoolFailure> {
        let (connection, reused) = self.pools.message(&self.host, protocol).acquire().await?;
        connection.begin_request();
        Ok((connection, reused))
    }

    /// Counts a request of an extension. `None`: the circuit breaker is open, where it is asked.
    pub(in crate::upstream) fn begin_message(&self, limited: bool) -> Option<RequestPermit> {
        if !limited {
            return RequestPermit::take(self.pools.get(&self.host, Kind::Tcp, 0));
        }
        RequestPermit::take(&self.pools.message(&self.host, ""))
    }

    /// Ready once the host takes no more requests on the connections that it has.
    pub(in crate::upstream) fn watch_draining(&self) -> DrainWatch {
        self.pools.draining.watch()
    }
}

/// The pools of a host on this worker. They outlive updates that leave the address and the options as they are.
pub(in crate::upstream) struct HostPools {
    context: Rc<PoolContext>,
    counters: WorkerCounters,
    http1: [OnceCell<Rc<ConnPool>>; 2],
    http2: [OnceCell<Rc<ConnPool>>; 2],
    auto: [OnceCell<Rc<ConnPool>>; 2],
    tcp: [OnceCell<Rc<ConnPool>>; 2],
    /// Those of extensions, by what is spoken.
    message: RefCell<Vec<(&'static str, Rc<ConnPool>)>>,
    /// Those of requests that want other connections than the cluster has by itself.
    special: RefCell<Vec<Rc<ConnPool>>>,
    draining: DrainSignal,
    /// Given when the host fails its health checks, and then replaced.
    failure: RefCell<DrainSignal>,
    has_failed: Cell<bool>,
}

impl HostPools {
    /// `draining`: connections are for one request each, as nobody will look after them any more.
    pub(in crate::upstream) fn new(context: &Rc<PoolContext>, host: &Host, draining: bool) -> Rc<Self> {
        let signal = DrainSignal::default();
        if draining {
            signal.begin();
        }
        Rc::new(Self {
            context: Rc::clone(context),
            counters: host.state().worker_counters(),
            http1: Default::default(),
            http2: Default::default(),
            auto: Default::default(),
            tcp: Default::default(),
            message: RefCell::default(),
            special: RefCell::default(),
            draining: signal,
            failure: RefCell::default(),
            has_failed: Cell::new(false),
        })
    }

    fn get(&self, host: &Arc<Host>, kind: Kind, priority: usize) -> &Rc<ConnPool> {
        let pools = match kind {
            Kind::Http1 => &self.http1,
            Kind::Http2 => &self.http2,
            Kind::Auto => &self.auto,
            Kind::Tcp | Kind::Message => &self.tcp,
        };
        let priority = priority.min(1);
        let draining = self.draining.is_draining();
        let new = || {
            let options = TransportOptions::default();
            ConnPool::new(&self.context, host, &self.counters.counters, (kind, priority), options, draining)
        };
        pools[priority].get_or_init(new)
    }

    /// The pool of a request. Without TLS there are no options, but for whom the connection is for.
    fn http(&self, host: &Arc<Host>, kind: Kind, priority: usize, options: Option<&TransportOptions>) -> Rc<ConnPool> {
        match options.filter(|options| options.client.is_some() || self.context.tls(host).is_some()) {
            Some(options) => self.special(host, kind, priority.min(1), options),
            None => Rc::clone(self.get(host, kind, priority)),
        }
    }

    fn special(&self, host: &Arc<Host>, kind: Kind, priority: usize, options: &TransportOptions) -> Rc<ConnPool> {
        let mut pools = self.special.borrow_mut();
        let wanted = |pool: &&Rc<ConnPool>| pool.kind == kind && pool.priority == priority && pool.options == *options;
        if let Some(pool) = pools.iter().find(wanted) {
            return Rc::clone(pool);
        }
        // What options there are may be the clients' choice.
        if pools.len() >= MOST_SPECIAL {
            pools.retain(|pool| !pool.is_unused());
        }
        if pools.len() >= MOST_SPECIAL {
            pools.remove(0).drain();
        }
        let draining = self.draining.is_draining();
        let counters = &self.counters.counters;
        let pool = ConnPool::new(&self.context, host, counters, (kind, priority), options.clone(), draining);
        pools.push(Rc::clone(&pool));
        pool
    }

    fn message(&self, host: &Arc<Host>, protocol: &'static str) -> Rc<ConnPool> {
        let mut pools = self.message.borrow_mut();
        if let Some((_, pool)) = pools.iter().find(|(known, _)| *known == protocol) {
            return Rc::clone(pool);
        }
        let draining = self.draining.is_draining();
        let (counters, options) = (&self.counters.counters, TransportOptions::default());
        let pool = ConnPool::new(&self.context, host, counters, (Kind::Message, 0), options, draining);
        pools.push((protocol, Rc::clone(&pool)));
        pool
    }

    /// The host fails its health checks, or does not: where that is new, everything to it is closed that is not in a
    /// request.
    pub(in crate::upstream) fn note_health(&self, failed: bool) {
        if failed {
            self.close_idle();
        }
        if failed && !self.has_failed.replace(failed) {
            self.failure.take().begin();
        }
        self.has_failed.set(failed);
    }

    /// Closes idle connections; the pools go on.
    fn close_idle(&self) {
        for pool in self.all() {
            drop(pool.idle.take());
            pool.shared.borrow().iter().for_each(|connection| connection.close_if_idle());
        }
    }

    /// Closes idle connections now and the others when their requests end.
    pub(in crate::upstream) fn drain(&self) {
        self.draining.begin();
        for pool in self.all() {
            pool.drain();
        }
    }

    fn all(&self) -> Vec<Rc<ConnPool>> {
        let fixed = self.http1.iter().chain(&self.http2).chain(&self.auto).chain(&self.tcp).filter_map(OnceCell::get);
        let (message, special) = (self.message.borrow(), self.special.borrow());
        fixed.chain(message.iter().map(|(_, pool)| pool)).chain(special.iter()).cloned().collect()
    }
}

/// Counts a request while it runs.
pub(in crate::upstream) struct RequestPermit(Rc<ConnPool>);

impl RequestPermit {
    /// `None`: the circuit breaker is open.
    pub(super) fn take(pool: &Rc<ConnPool>) -> Option<Self> {
        let stats = pool.stats();
        // The limit is for HTTP; TCP only counts, as in Envoy.
        if pool.kind == Kind::Tcp {
            pool.breaker().take_anyway(Resource::Requests);
        } else if !pool.breaker().take(Resource::Requests) {
            stats.upstream_rq_active_overflow.inc();
            return None;
        }
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        pool.counters.rq_total.inc();
        pool.counters.rq_active.inc();
        if pool.context.count_active {
            pool.state.add_active();
        }
        Some(Self(Rc::clone(pool)))
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        let pool = &self.0;
        pool.stats().upstream_rq_active.dec();
        pool.counters.rq_active.dec();
        pool.breaker().give(Resource::Requests);
        if pool.context.count_active {
            pool.state.sub_active();
        }
    }
}
