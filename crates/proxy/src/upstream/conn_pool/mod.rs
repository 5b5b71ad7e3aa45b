//! A worker's connections to one host at one priority (Envoy's `ConnPoolImplBase`).
//!
//! A request takes the connection that was idle for the shortest time. When there is none it waits, in the order of
//! arrival, for the first that becomes free, be it a new one or one that another request has done with. A connection
//! that cannot be made fails all that wait, so that each can look for another host.

mod connect;
mod connection;
mod failure;
mod http;
mod keeper;
mod shared;
mod tcp;
mod wait;
mod worker_host;

pub(super) use connect::open;
pub use connection::UpstreamConnection;
pub use failure::{PoolFailure, PoolFailureKind};
pub use http::{ConnectionFacts, HttpConnection, OwnConnection};
pub use shared::{Http2Place, SharedConnection};
pub use tcp::TcpConnection;
pub use worker_host::WorkerHost;

pub(super) use worker_host::{HostPools, RequestPermit};

use super::{
    circuit_breaker::{CircuitBreaker, Resource},
    config::ClusterConfig,
    host::{Host, HostCounters, HostHealth, HostState},
    stats::ClusterStats,
};
use crate::{
    local::Local,
    tls::{ClientContext, TlsStats, TransportOptions},
    wire::http2::{Http2Stats, Options},
};
use connect::Connected;
use connection::Counted;
use sota_config::cluster::Cluster as Model;
use sota_plugin::stats::Group;
use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};
use wait::{Delivered, Slot};

/// Idle connections of a pool beyond this are closed: as many as the circuit breaker allows by default.
const MOST_IDLE: usize = 1024;

/// Streams at once, before an HTTP/2 host has said how many (RFC 9113 §6.5.2: not fewer, if it follows the advice).
const ASSUMED_STREAMS: u32 = 100;

/// What the pools of a cluster have in common on a worker.
pub(super) struct PoolContext {
    pub(super) local: Rc<Local>,
    pub(super) stats: Group<ClusterStats>,
    /// For connection options; those that pools look at are equal in all clusters that share this.
    pub(super) config: Arc<ClusterConfig>,
    idle_timeout: Option<Duration>,
    max_requests: u32,
    max_age: Option<Duration>,
    /// Whether the balancer asks how many requests run.
    count_active: bool,
    http2: OnceCell<(Options, Group<Http2Stats>)>,
    /// What is counted of handshakes.
    tls_stats: OnceCell<TlsStats>,
}

impl PoolContext {
    pub(super) fn new(local: &Rc<Local>, config: &Arc<ClusterConfig>, stats: Group<ClusterStats>) -> Rc<Self> {
        let http = &config.model().http;
        Rc::new(Self {
            local: Rc::clone(local),
            stats,
            idle_timeout: http.idle_timeout.filter(|timeout| !timeout.is_zero()),
            max_requests: http.max_requests_per_connection.filter(|most| *most > 0).unwrap_or(u32::MAX),
            max_age: http.max_connection_duration.filter(|age| !age.is_zero()),
            count_active: config.model().lb_policy.counts_requests(),
            config: Arc::clone(config),
            http2: OnceCell::new(),
            tls_stats: OnceCell::new(),
        })
    }

    /// How HTTP/2 is spoken, and what is counted of it.
    fn http2(&self) -> &(Options, Group<Http2Stats>) {
        self.http2.get_or_init(|| {
            let model = self.config.model();
            let stats = self.config.scope(&self.local.stats).child("http2.").group();
            let head = model.http.max_response_headers_kb as usize * 1024;
            (Options::new(&model.http2, head, &model.http, false), stats)
        })
    }

    /// What connections are encrypted with, and what is counted of it.
    fn tls(&self, host: &Host) -> Option<(&ClientContext, &TlsStats)> {
        let stats = || TlsStats::new(&self.config.scope(&self.local.stats));
        self.config.tls(host.spec()).map(|context| (&**context, self.tls_stats.get_or_init(stats)))
    }

    /// Whether pools of the one configuration may go on under the other.
    pub(super) fn suits(&self, other: &Model) -> bool {
        let own = self.config.model();
        own.connect_timeout == other.connect_timeout
            && own.http == other.http
            && own.http2 == other.http2
            && own.stat_name == other.stat_name
            && own.upstream_bind_config == other.upstream_bind_config
            && own.tcp_keepalive == other.tcp_keepalive
            && own.transport_socket == other.transport_socket
            && own.proxy_protocol == other.proxy_protocol
            && own.transport_socket_matches == other.transport_socket_matches
            && own.preconnect_ratio == other.preconnect_ratio
            && own.close_connections_on_host_health_failure == other.close_connections_on_host_health_failure
            && own.lb_policy.counts_requests() == other.lb_policy.counts_requests()
    }
}

/// What a pool's connections are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum Kind {
    /// HTTP/1: one request after the other.
    Http1,
    /// HTTP/2: many requests side by side.
    Http2,
    /// One of these, as TLS agrees on for each connection (ALPN).
    Auto,
    /// One use each.
    Tcp,
    /// An extension's protocol: one request after the other.
    Message,
}

/// The connections of one worker to one host at one priority.
pub(super) struct ConnPool {
    context: Rc<PoolContext>,
    /// The host of a logical name changes its address.
    host: RefCell<Arc<Host>>,
    state: Arc<HostState>,
    counters: Arc<HostCounters>,
    kind: Kind,
    priority: usize,
    options: TransportOptions,
    /// The one that was used last is the last.
    idle: RefCell<Vec<Idle>>,
    /// Those that requests share.
    shared: RefCell<Vec<Rc<SharedConnection>>>,
    /// The last connection was one that requests share.
    shares: Cell<bool>,
    /// Streams that the host has allowed at once on the last connection.
    known_limit: Cell<u32>,
    waiting: RefCell<VecDeque<Rc<Slot>>>,
    /// All connections: being made, in use, idle.
    connections: Cell<usize>,
    connecting: Cell<usize>,
    draining: Cell<bool>,
    /// Wakes the task that watches idle connections.
    keeper: RefCell<Option<Waker>>,
    /// When that task wakes by itself.
    wakes_at: Cell<Option<Instant>>,
}

struct Idle {
    connection: Box<UpstreamConnection>,
    /// It is closed then.
    until: Option<Instant>,
}

impl ConnPool {
    fn new(
        context: &Rc<PoolContext>,
        host: &Arc<Host>,
        counters: &Arc<HostCounters>,
        (kind, priority): (Kind, usize),
        options: TransportOptions,
        draining: bool,
    ) -> Rc<Self> {
        Rc::new(Self {
            context: Rc::clone(context),
            host: RefCell::new(Arc::clone(host)),
            state: Arc::clone(host.state()),
            counters: Arc::clone(counters),
            kind,
            priority,
            options,
            idle: RefCell::default(),
            shared: RefCell::default(),
            shares: Cell::new(kind == Kind::Http2),
            known_limit: Cell::new(ASSUMED_STREAMS),
            waiting: RefCell::default(),
            connections: Cell::new(0),
            connecting: Cell::new(0),
            draining: Cell::new(draining),
            keeper: RefCell::new(None),
            wakes_at: Cell::new(None),
        })
    }

    fn stats(&self) -> &ClusterStats {
        &self.context.stats
    }

    /// Whether nobody uses it or waits for it.
    fn is_unused(&self) -> bool {
        self.connections.get() == 0 && self.waiting.borrow().is_empty()
    }

    fn breaker(&self) -> &CircuitBreaker {
        self.context.config.breaker(self.priority)
    }

    /// A connection, and whether it was used before. Not for pools whose connections are shared.
    async fn acquire(self: &Rc<Self>) -> Result<(Box<UpstreamConnection>, bool), PoolFailure> {
        if let Some(connection) = self.take_idle() {
            return Ok((connection, true));
        }
        match self.wait().await? {
            Delivered::Own(connection) => {
                let reused = connection.requests() > 0;
                Ok((connection, reused))
            }
            Delivered::Shared(_) => Err(PoolFailure::overflow("max_pending_requests")),
        }
    }

    /// Waits for whatever becomes free first.
    async fn wait(self: &Rc<Self>) -> Result<Delivered, PoolFailure> {
        if !self.breaker().take(Resource::Pending) {
            self.stats().upstream_rq_pending_overflow.inc();
            return Err(PoolFailure::overflow("max_pending_requests"));
        }
        let slot = self.enqueue();
        self.connect_more();
        slot.wait().await
    }

    /// The connection that was used last, unless nothing can be sent on it any more.
    fn take_idle(&self) -> Option<Box<UpstreamConnection>> {
        loop {
            let Idle { connection, .. } = self.idle.borrow_mut().pop()?;
            if !connection.is_stale(None) {
                return Some(connection);
            }
            connection.closed_by_peer();
        }
    }

    /// Makes connections for those that wait, as far as the circuit breaker allows; a pool without any connection may
    /// have one in any case, or nobody would ever wake those that wait.
    fn connect_more(self: &Rc<Self>) {
        while self.waiting.borrow().len() > self.connecting.get() * self.requests_per_connection() {
            let allowed = self.breaker().take(Resource::Connections);
            if !allowed {
                self.stats().upstream_cx_overflow.inc();
                if self.connections.get() > 0 {
                    return;
                }
                self.breaker().take_anyway(Resource::Connections);
            }
            self.begin_connecting();
            if !allowed {
                return;
            }
        }
    }

    /// Makes connections before they are needed, where that is wanted: so many for each request of HTTP/1, to hosts that
    /// are well. A few at a time, as in Envoy.
    fn preconnect(self: &Rc<Self>) {
        const AT_ONCE: usize = 3;
        let ratio = self.context.config.model().preconnect_ratio;
        if ratio <= 1.0 || self.kind != Kind::Http1 || self.draining.get() {
            return;
        }
        for _ in 0..AT_ONCE {
            let spare = self.idle.borrow().len() + self.connecting.get();
            let active = self.connections.get().saturating_sub(spare);
            let wanted = (self.waiting.borrow().len() + active) as f64 * ratio;
            let is_enough = wanted <= (spare + active) as f64;
            if is_enough
                || self.host.borrow().health() != HostHealth::Healthy
                || !self.breaker().take(Resource::Connections)
            {
                return;
            }
            self.begin_connecting();
        }
    }

    /// The circuit breaker has let it through already.
    fn begin_connecting(self: &Rc<Self>) {
        let counted = Counted::new(self);
        self.connecting.set(self.connecting.get() + 1);
        let pool = Rc::clone(self);
        self.context.local.spawn(false, async move { pool.connect(counted).await });
    }

    /// What is spoken on a new connection, which is counted; of HTTP/1.1 and HTTP/2, TLS may say (ALPN).
    fn is_http2(&self, connected: &Connected) -> bool {
        let is_http2 = match self.kind {
            Kind::Auto => connected.tls.as_ref().is_some_and(|tls| &*tls.alpn == "h2"),
            kind => kind == Kind::Http2,
        };
        if self.kind == Kind::Auto {
            let stats = self.stats();
            if is_http2 { &stats.upstream_cx_http2_total } else { &stats.upstream_cx_http1_total }.inc();
            self.shares.set(is_http2);
        }
        is_http2
    }

    async fn connect(self: Rc<Self>, counted: Counted) {
        let host = Arc::clone(&self.host.borrow());
        self.context.config.note_connection();
        let connecting = Connecting(&self.connecting);
        let result = connect::connect(&self.context, &host, self.kind, &self.options, counted.began()).await;
        drop(connecting);
        match result {
            Ok(connected) if self.is_http2(&connected) => self.share(connected, counted),
            Ok(connected) => self.offer(Box::new(UpstreamConnection::new(connected, counted))),
            Err(failure) => {
                match failure.kind {
                    PoolFailureKind::Timeout => self.stats().upstream_cx_connect_timeout.inc(),
                    PoolFailureKind::RemoteConnectionFailure => counted.blame_peer(),
                    PoolFailureKind::LocalConnectionFailure | PoolFailureKind::Overflow => {}
                }
                self.stats().upstream_cx_connect_fail.inc();
                self.counters.cx_connect_fail.inc();
                // Before this connection's place becomes free: it is not for those that fail now.
                self.fail_waiting(&failure);
            }
        }
    }

    /// A connection that a request has done with, in a state in which the next one may use it.
    fn give_back(self: &Rc<Self>, connection: Box<UpstreamConnection>) {
        connection.count_bytes();
        let failed = self.state.has(HostState::FAILED_CHECK)
            && self.context.config.model().close_connections_on_host_health_failure;
        if self.draining.get() || failed || self.state.has(HostState::REMOVED) || connection.is_used_up() {
            return;
        }
        if connection.expires().is_some_and(|at| at <= self.context.local.now()) {
            self.stats().upstream_cx_max_duration_reached.inc();
            return;
        }
        self.offer(connection);
    }

    /// To the first that waits, or else to the idle ones.
    fn offer(self: &Rc<Self>, connection: Box<UpstreamConnection>) {
        let next = self.waiting.borrow_mut().pop_front();
        if let Some(slot) = next {
            self.left_queue();
            slot.deliver(Delivered::Own(connection));
        } else if !self.draining.get() && self.idle.borrow().len() < MOST_IDLE && self.kind != Kind::Tcp {
            self.keep(connection);
        }
    }

    /// Closes idle connections now and all others when they are given back.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        let idle = self.idle.take();
        drop(idle);
        self.shared.borrow().iter().for_each(|connection| connection.drain());
    }

    /// One connection less.
    fn lost(self: &Rc<Self>) {
        self.connections.set(self.connections.get().saturating_sub(1));
        if !self.waiting.borrow().is_empty() {
            self.connect_more();
        }
    }
}

/// Counts a connection that is being made, also when its task ends in a panic.
struct Connecting<'a>(&'a Cell<usize>);

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
