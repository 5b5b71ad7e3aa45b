//! A connection to a host, and what is counted for it.

use super::{ConnPool, Kind, Resource, connect::Connected};
use crate::socket::{Io, Socket};
use sota_plugin::info::TlsInfo;
use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Waker},
    time::Instant,
};

/// A connection to a host. Dropping it closes it.
pub struct UpstreamConnection {
    /// The socket.
    pub socket: Socket,
    /// Unique in this process.
    pub id: u64,
    /// Our end; `None` for Unix sockets.
    pub local_address: Option<SocketAddr>,
    /// What TLS has agreed on.
    pub tls: Option<Rc<TlsInfo>>,
    /// When connecting began.
    pub connect_start: Instant,
    /// When it was there.
    pub connect_complete: Instant,
    counted: Counted,
    counted_bytes: Cell<(u64, u64)>,
    last_used: Cell<Option<Instant>>,
}

impl UpstreamConnection {
    pub(super) fn new(connected: Connected, counted: Counted) -> Self {
        let Connected { io, tls } = connected;
        let context = &counted.pool.context;
        let now = Instant::now();
        counted.note_connected(now);
        let local_address = match io.transport() {
            Io::Tcp(stream) => stream.local_addr().ok(),
            _ => None,
        };
        Self {
            socket: Socket::new(io),
            id: context.local.process.next_connection_id(),
            local_address,
            tls,
            connect_start: counted.began,
            connect_complete: now,
            counted,
            counted_bytes: Cell::new((0, 0)),
            last_used: Cell::new(None),
        }
    }

    /// How many requests it has had, the one that runs included.
    pub fn requests(&self) -> u32 {
        self.counted.requests()
    }

    /// Notes that the host closed or reset it: for stats when it is dropped.
    pub fn closed_by_peer(&self) {
        self.counted.by_peer.set(true);
    }

    pub(super) fn begin_request(&self) {
        self.counted.begin_request();
        self.counted.in_request.set(true);
    }

    /// Between its requests it may be given back: to the idle ones, where it has not ended.
    pub(in crate::upstream) fn give_back(self: Box<Self>) {
        self.end_request();
        let pool = Rc::clone(self.pool());
        pool.give_back(self);
    }

    pub(super) fn end_request(&self) {
        self.counted.in_request.set(false);
        self.last_used.set(Some(self.counted.pool.context.local.now()));
    }

    /// When its last request was done.
    pub(super) fn last_used(&self) -> Option<Instant> {
        self.last_used.get()
    }

    /// Whether it may have no request any more.
    pub(super) fn is_used_up(&self) -> bool {
        self.requests() >= self.counted.pool.context.max_requests || self.socket.has_ended()
    }

    /// When it is too old for another request.
    pub(super) fn expires(&self) -> Option<Instant> {
        self.connect_complete.checked_add(self.counted.pool.context.max_age?)
    }

    /// Between requests: whether the host has closed it or has sent something unasked. The waker is called when it
    /// does so later.
    pub(super) fn is_stale(&self, waker: Option<&Waker>) -> bool {
        let Some(waker) = waker else { return self.socket.is_stale() };
        self.socket.has_ended()
            || self.socket.buffered() > 0
            || self.socket.poll_fill(&mut Context::from_waker(waker), 1).is_ready()
    }

    /// Adds to the counters what was moved since the last time.
    pub(in crate::upstream) fn count_bytes(&self) {
        let now = (self.socket.bytes_received(), self.socket.bytes_sent());
        let before = self.counted_bytes.replace(now);
        let stats = self.counted.pool.stats();
        stats.upstream_cx_rx_bytes_total.add(now.0.saturating_sub(before.0));
        stats.upstream_cx_tx_bytes_total.add(now.1.saturating_sub(before.1));
    }

    pub(super) fn pool(&self) -> &Rc<ConnPool> {
        &self.counted.pool
    }
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        self.count_bytes();
        if self.socket.has_ended() {
            self.closed_by_peer();
        }
    }
}

/// Counts a connection from the moment it is begun until it is gone.
pub(super) struct Counted {
    pool: Rc<ConnPool>,
    began: Instant,
    connected: Cell<bool>,
    by_peer: Cell<bool>,
    in_request: Cell<bool>,
    requests: Cell<u32>,
}

impl Counted {
    /// The circuit breaker has let it through already.
    pub(super) fn new(pool: &Rc<ConnPool>) -> Self {
        let stats = pool.stats();
        stats.upstream_cx_total.inc();
        stats.upstream_cx_active.inc();
        match pool.kind {
            Kind::Http1 => stats.upstream_cx_http1_total.inc(),
            Kind::Http2 => stats.upstream_cx_http2_total.inc(),
            // Of the one it is not yet known what it will speak.
            Kind::Auto | Kind::Tcp | Kind::Message => {}
        }
        pool.counters.cx_total.inc();
        pool.counters.cx_active.inc();
        pool.connections.set(pool.connections.get() + 1);
        Self {
            pool: Rc::clone(pool),
            began: Instant::now(),
            connected: Cell::new(false),
            by_peer: Cell::new(false),
            in_request: Cell::new(false),
            requests: Cell::new(0),
        }
    }

    /// The host is to blame that it ends.
    pub(super) fn blame_peer(&self) {
        self.by_peer.set(true);
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn pool(&self) -> &Rc<ConnPool> {
        &self.pool
    }

    /// It is there.
    pub(super) fn note_connected(&self, now: Instant) {
        self.pool.stats().upstream_cx_connect_ms.record(millis(self.began, now));
        self.connected.set(true);
    }

    /// Requests so far, those that run included.
    pub(super) fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// Counts a request; whether it is the last that it may have.
    pub(super) fn begin_request(&self) -> bool {
        self.requests.set(self.requests.get() + 1);
        let is_last = self.requests.get() == self.pool.context.max_requests;
        if is_last {
            self.pool.stats().upstream_cx_max_requests.inc();
        }
        is_last
    }

    /// Whether requests run on it.
    pub(super) fn note_in_request(&self, in_request: bool) {
        self.in_request.set(in_request);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let stats = self.pool.stats();
        let (by_peer, in_request) = (self.by_peer.get(), self.in_request.get());
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        if by_peer { &stats.upstream_cx_destroy_remote } else { &stats.upstream_cx_destroy_local }.inc();
        if in_request {
            stats.upstream_cx_destroy_with_active_rq.inc();
            let side = match by_peer {
                true => &stats.upstream_cx_destroy_remote_with_active_rq,
                false => &stats.upstream_cx_destroy_local_with_active_rq,
            };
            side.inc();
        }
        stats.upstream_cx_length_ms.record(millis(self.began, Instant::now()));
        if self.connected.get() && matches!(self.pool.kind, Kind::Http1 | Kind::Http2 | Kind::Auto) {
            stats.upstream_rq_per_cx.record(u64::from(self.requests.get()));
        }
        self.pool.counters.cx_active.dec();
        self.pool.breaker().give(Resource::Connections);
        self.pool.lost();
    }
}

fn millis(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_millis()).unwrap_or(u64::MAX)
}
