//! A connection for one HTTP request, of its own or shared.

use super::{ConnPool, Http2Place, Kind, PoolFailure, RequestPermit, UpstreamConnection, wait::Delivered};
use sota_plugin::{http::Protocol, info::TlsInfo};
use std::{net::SocketAddr, ops::Deref, rc::Rc, time::Instant};

/// A connection for one request.
pub enum HttpConnection {
    /// HTTP/1: for this request alone.
    Http1(OwnConnection),
    /// HTTP/2: beside others.
    Http2(Http2Place),
}

/// What is known of it.
#[derive(Debug, Clone)]
pub struct ConnectionFacts {
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
    /// Whether a request was sent on it before.
    pub reused: bool,
    /// When the request before this one was done; `None` where it had none, or has several at once.
    pub last_used: Option<Instant>,
    /// What is spoken.
    pub protocol: Protocol,
}

impl HttpConnection {
    pub(super) async fn acquire(pool: &Rc<ConnPool>) -> Result<Self, PoolFailure> {
        if let Some(idle) = Self::idle(pool) {
            return idle;
        }
        match pool.wait().await? {
            Delivered::Own(connection) => {
                let reused = connection.requests() > 0;
                OwnConnection::begin(pool, connection, reused).map(Self::Http1)
            }
            Delivered::Shared(place) => Http2Place::begin(pool, place).map(Self::Http2),
        }
    }

    /// One that is there already.
    pub(super) fn idle(pool: &Rc<ConnPool>) -> Option<Result<Self, PoolFailure>> {
        if pool.kind != Kind::Http1
            && let Some(place) = Http2Place::idle(pool)
        {
            return Some(place.map(Self::Http2));
        }
        OwnConnection::idle(pool).map(|own| own.map(Self::Http1))
    }

    /// What is known of it.
    pub fn facts(&self) -> ConnectionFacts {
        match self {
            Self::Http1(own) => own.facts(),
            Self::Http2(place) => place.facts(),
        }
    }
}

/// A connection that one request has for itself. Dropping it closes it; [`Self::release`] keeps it for others.
pub struct OwnConnection {
    permit: RequestPermit,
    connection: Box<UpstreamConnection>,
    /// Whether a request was sent on it before: if it is closed before an octet of the answer came, the request may
    /// never have been seen.
    pub reused: bool,
}

impl OwnConnection {
    /// One of those that are idle.
    pub(super) fn idle(pool: &Rc<ConnPool>) -> Option<Result<Self, PoolFailure>> {
        pool.take_idle().map(|connection| Self::begin(pool, connection, true))
    }

    fn begin(pool: &Rc<ConnPool>, connection: Box<UpstreamConnection>, reused: bool) -> Result<Self, PoolFailure> {
        match RequestPermit::take(pool) {
            Some(permit) => {
                connection.begin_request();
                pool.preconnect();
                Ok(Self { permit, connection, reused })
            }
            None => {
                pool.offer(connection);
                Err(PoolFailure::overflow("max_requests"))
            }
        }
    }

    /// What is known of it.
    pub fn facts(&self) -> ConnectionFacts {
        ConnectionFacts {
            id: self.id,
            local_address: self.local_address,
            tls: self.tls.clone(),
            connect_start: self.connect_start,
            connect_complete: self.connect_complete,
            reused: self.reused,
            last_used: self.last_used(),
            protocol: Protocol::Http11,
        }
    }

    /// The request is done, and the next may follow. Something that was read and not used, or a connection that ended,
    /// closes it all the same.
    pub fn release(self) {
        let Self { permit, connection, .. } = self;
        drop(permit);
        connection.end_request();
        let pool = Rc::clone(connection.pool());
        pool.give_back(connection);
    }

    /// The request is done, and the connection is closed: the response asked for it, or its end was the body's.
    pub fn finish(self) {
        self.connection.end_request();
    }
}

impl Deref for OwnConnection {
    type Target = UpstreamConnection;

    fn deref(&self) -> &UpstreamConnection {
        &self.connection
    }
}
