//! HTTP/2 connections, which many requests share.
//!
//! Each has a task that drives it: it notices when the host closes or drains the connection, when nobody has used it for
//! too long, and when there is room for requests that wait.

use super::{
    ConnPool, ConnectionFacts, PoolFailure, RequestPermit, connect::Connected, connection::Counted, wait::Delivered,
};
use crate::{
    socket::{Io, Socket},
    timer::Timer,
    wire::http2::{Connection, ConnectionEnd, Event},
};
use sota_plugin::{http::Protocol, info::TlsInfo};
use std::{
    cell::Cell,
    future::poll_fn,
    net::SocketAddr,
    ops::Deref,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Instant,
};

/// An HTTP/2 connection to a host.
pub struct SharedConnection {
    /// The connection itself.
    pub http2: Rc<Connection>,
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
    /// Requests that have a place.
    active: Cell<u32>,
    /// Since when there is none.
    idle_since: Cell<Instant>,
    /// It takes no more requests.
    draining: Cell<bool>,
    /// The host has said that it will close it.
    is_leaving: Cell<bool>,
    /// Wakes its task.
    task: Cell<Option<Waker>>,
}

impl SharedConnection {
    /// Begins a connection on a socket, with the task that drives it.
    pub(super) fn begin(connected: Connected, counted: Counted) -> Rc<Self> {
        let Connected { io, tls } = connected;
        let context = Rc::clone(&counted.pool().context);
        let now = Instant::now();
        counted.note_connected(now);
        let (options, stats) = context.http2();
        let connection = Rc::new(Self {
            http2: Connection::client(options, stats, &context.local),
            id: context.local.process.next_connection_id(),
            tls,
            local_address: match io.transport() {
                Io::Tcp(stream) => stream.local_addr().ok(),
                _ => None,
            },
            connect_start: counted.began(),
            connect_complete: now,
            counted,
            counted_bytes: Cell::new((0, 0)),
            active: Cell::new(0),
            idle_since: Cell::new(now),
            draining: Cell::new(false),
            is_leaving: Cell::new(false),
            task: Cell::new(None),
        });
        let timer = context.local.timer();
        context.local.spawn(false, Rc::clone(&connection).drive(Socket::new(io), timer));
        connection
    }

    fn has_room(&self) -> bool {
        let mut limit = self.http2.stream_limit();
        if !self.http2.has_peer_settings() {
            limit = limit.min(self.counted.pool().known_limit.get());
        }
        !self.draining.get() && self.active.get() < limit
    }

    /// Takes no more requests, and ends behind those that run.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        self.wake();
    }

    /// Ends it if it has no requests.
    pub(super) fn close_if_idle(&self) {
        if self.active.get() == 0 {
            self.drain();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.task.take() {
            waker.wake();
        }
    }

    async fn drive(self: Rc<Self>, socket: Socket, timer: Timer) {
        loop {
            match poll_fn(|cx| self.poll(cx, &socket, &timer)).await {
                Some(Event::Settings) => {
                    let pool = self.counted.pool();
                    pool.known_limit.set(self.http2.stream_limit());
                    pool.serve_waiting();
                    // Fewer than was thought may have found a place.
                    pool.connect_more();
                }
                Some(Event::GoAway(_)) => {
                    // A drain says it twice.
                    if !self.is_leaving.replace(true) {
                        self.counted.pool().stats().upstream_cx_close_notify.inc();
                    }
                    self.drain();
                }
                // A server that sends requests is refused by the codec.
                Some(Event::Request(_) | Event::Refused(_)) => {}
                Some(Event::Ended(end)) => {
                    self.note_end(end);
                    // A last word, if it leaves at once.
                    poll_fn(|cx| Poll::Ready(self.http2.poll_flush(cx, &socket).is_ready())).await;
                    return;
                }
                None => self.http2.end(ConnectionEnd::Local),
            }
        }
    }

    /// The next event; `None`: the connection is to end.
    fn poll(&self, cx: &mut Context<'_>, socket: &Socket, timer: &Timer) -> Poll<Option<Event>> {
        self.task.set(Some(cx.waker().clone()));
        let event = self.http2.poll_event(cx, socket);
        self.count_bytes(socket);
        if let Poll::Ready(event) = event {
            return Poll::Ready(Some(event));
        }
        let pool = self.counted.pool();
        loop {
            let now = pool.context.local.now();
            let oldest = pool.context.max_age.and_then(|age| self.connect_complete.checked_add(age));
            if oldest.is_some_and(|at| at <= now) && !self.draining.replace(true) {
                pool.stats().upstream_cx_max_duration_reached.inc();
            }
            let is_idle = self.active.get() == 0;
            if is_idle && self.draining.get() {
                return Poll::Ready(None);
            }
            let idle = pool.context.idle_timeout.filter(|_| is_idle);
            let until = idle.and_then(|idle| self.idle_since.get().checked_add(idle));
            if until.is_some_and(|until| until <= now) {
                pool.stats().upstream_cx_idle_timeout.inc();
                return Poll::Ready(None);
            }
            timer.set(until.into_iter().chain(oldest.filter(|_| !self.draining.get())).min());
            if timer.poll_expired(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn note_end(&self, end: ConnectionEnd) {
        self.draining.set(true);
        match end {
            ConnectionEnd::Closed | ConnectionEnd::Failed => self.counted.blame_peer(),
            ConnectionEnd::Protocol(_) => self.counted.pool().stats().upstream_cx_protocol_error.inc(),
            ConnectionEnd::KeepaliveTimeout | ConnectionEnd::Local => {}
        }
        self.counted.note_in_request(self.active.get() > 0);
        self.counted.pool().shared.borrow_mut().retain(|other| !std::ptr::eq(&**other, self));
    }

    fn count_bytes(&self, socket: &Socket) {
        let now = (socket.bytes_received(), socket.bytes_sent());
        let before = self.counted_bytes.replace(now);
        let stats = self.counted.pool().stats();
        stats.upstream_cx_rx_bytes_total.add(now.0.saturating_sub(before.0));
        stats.upstream_cx_tx_bytes_total.add(now.1.saturating_sub(before.1));
    }
}

/// A place for one request on a connection.
pub(super) struct Place(Rc<SharedConnection>);

impl Place {
    fn new(connection: &Rc<SharedConnection>) -> Self {
        connection.active.set(connection.active.get() + 1);
        Self(Rc::clone(connection))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connection = &self.0;
        connection.active.set(connection.active.get().saturating_sub(1));
        if connection.active.get() == 0 {
            connection.idle_since.set(connection.counted.pool().context.local.now());
            connection.wake();
        }
        connection.counted.pool().serve_waiting();
    }
}

/// A place on an HTTP/2 connection that one request has. Dropped, the place is free.
pub struct Http2Place {
    // First, so that the request is counted as over before the next one takes the place.
    _permit: RequestPermit,
    place: Place,
    /// Whether a request was sent on the connection before.
    pub reused: bool,
}

impl Http2Place {
    /// One on a connection that has room.
    pub(super) fn idle(pool: &Rc<ConnPool>) -> Option<Result<Self, PoolFailure>> {
        pool.take_place().map(|place| Self::begin(pool, place))
    }

    pub(super) fn begin(pool: &Rc<ConnPool>, place: Place) -> Result<Self, PoolFailure> {
        let Some(permit) = RequestPermit::take(pool) else { return Err(PoolFailure::overflow("max_requests")) };
        let counted = &place.0.counted;
        let reused = counted.requests() > 0;
        if counted.begin_request() {
            place.0.draining.set(true);
        }
        Ok(Self { _permit: permit, place, reused })
    }
}

impl Http2Place {
    /// What is known of the connection.
    pub fn facts(&self) -> ConnectionFacts {
        ConnectionFacts {
            id: self.id,
            local_address: self.local_address,
            tls: self.tls.clone(),
            connect_start: self.connect_start,
            connect_complete: self.connect_complete,
            reused: self.reused,
            last_used: None,
            protocol: Protocol::Http2,
        }
    }
}

impl Deref for Http2Place {
    type Target = SharedConnection;

    fn deref(&self) -> &SharedConnection {
        &self.place.0
    }
}

impl ConnPool {
    fn take_place(&self) -> Option<Place> {
        self.shared.borrow().iter().find(|connection| connection.has_room()).map(Place::new)
    }

    /// A connection was made.
    pub(super) fn share(self: &Rc<Self>, connected: Connected, counted: Counted) {
        let connection = SharedConnection::begin(connected, counted);
        self.shared.borrow_mut().push(Rc::clone(&connection));
        self.serve_waiting();
        if self.draining.get() {
            connection.drain();
        }
    }

    /// Gives places to those that wait, as far as there are some.
    fn serve_waiting(self: &Rc<Self>) {
        while !self.waiting.borrow().is_empty()
            && let Some(place) = self.take_place()
        {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(slot) = next else { return };
            self.left_queue();
            slot.deliver(Delivered::Shared(place));
        }
    }

    /// How many requests a connection that is being made will take, for all that is known.
    pub(super) fn requests_per_connection(&self) -> usize {
        if !self.shares.get() {
            return 1;
        }
        self.context.http2().0.codec.max_concurrent_streams.min(self.known_limit.get()).max(1) as usize
    }
}
