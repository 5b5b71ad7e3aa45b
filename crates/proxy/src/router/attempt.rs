//! One attempt of a request: the connection it waits for, and then has.

use super::{
    exchange::{BeginError, Exchange, Link},
    outgoing::{Behind, Outgoing},
};
use crate::{
    proxy_header::{self, ToldClient},
    tls::TransportOptions,
    upstream::{Cluster, HttpConnection, PoolFailure, PoolFailureKind, WorkerHost},
    wire::{BodyError, ClientError, Part, ResponseEvent, http1::ClientOptions},
};
use bytes::Bytes;
use sota_config::tls::UpstreamProxyProtocol;
use sota_plugin::{
    LocalFuture,
    http::{Protocol, RequestHead, ResponseHead},
    info::ConnectionInfo,
};
use std::{
    ops::Deref,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

/// Waits for a connection.
pub(super) struct Connecting {
    pub(super) host: Rc<WorkerHost>,
    connection: Acquired,
}

enum Acquired {
    /// At once: until it is told.
    Now(Option<Result<Link, PoolFailure>>),
    Later(LocalFuture<Result<Link, PoolFailure>>),
}

impl Connecting {
    /// For octets as they are.
    pub(super) fn raw(
        cluster: &Rc<Cluster>,
        host: Rc<WorkerHost>,
        priority: usize,
        downstream: &Rc<ConnectionInfo>,
        header: Option<&Arc<UpstreamProxyProtocol>>,
    ) -> Self {
        let (cluster, of, downstream) = (Rc::clone(cluster), Rc::clone(&host), Rc::clone(downstream));
        let header = header.cloned();
        let connection = async move {
            let connection = cluster.tcp_connection(&of, priority, Some(&downstream)).await?;
            if let Some(model) = header {
                let written = proxy_header::write_on(&connection.socket, &model, &ToldClient::of(&downstream)).await;
                written
                    .map_err(|error| PoolFailure::new(PoolFailureKind::RemoteConnectionFailure, error.to_string()))?;
            }
            Ok(Link::Raw(connection))
        };
        Self { host, connection: Acquired::Later(Box::pin(connection)) }
    }

    /// For a request. `downstream`: what the client speaks. `tunnel`: it asks for one.
    pub(super) fn new(
        cluster: &Rc<Cluster>,
        host: Rc<WorkerHost>,
        downstream: Option<Protocol>,
        priority: usize,
        options: Option<TransportOptions>,
        tunnel: bool,
    ) -> Self {
        // A tunnel may have to wait although there is one.
        if !tunnel && let Some(now) = cluster.idle_http_connection(&host, downstream, priority, options.as_ref()) {
            return Self { host, connection: Acquired::Now(Some(now.map(Link::Http))) };
        }
        let (cluster, of) = (Rc::clone(cluster), Rc::clone(&host));
        let connection = async move {
            let connection = cluster.http_connection_with(&of, downstream, priority, options.as_ref()).await?;
            if let HttpConnection::Http2(place) = &connection
                && tunnel
            {
                // Whether it takes one is among them (RFC 8441 §3).
                place.http2.peer_settings().await;
            }
            Ok(Link::Http(connection))
        };
        Self { host, connection: Acquired::Later(Box::pin(connection)) }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Link, PoolFailure>> {
        match &mut self.connection {
            Acquired::Now(connection) => connection.take().map_or(Poll::Pending, Poll::Ready),
            Acquired::Later(connection) => connection.as_mut().poll(cx),
        }
    }
}

/// A request on a connection.
pub(super) struct Attempt {
    pub(super) host: Rc<WorkerHost>,
    exchange: Exchange,
    /// Chunks of the body that it has sent.
    sent: usize,
    /// Another attempt was begun beside it.
    pub(super) is_hedged: bool,
    /// The end of the request was written.
    has_ended: bool,
    /// The host takes no more of the request; what it has to say about that is in its response, if anywhere.
    is_deaf: bool,
}

impl Attempt {
    /// Puts the head into what will be sent. `limit`: the buffer limit in octets.
    pub(super) fn begin(
        host: Rc<WorkerHost>,
        connection: Link,
        head: &RequestHead,
        body: &Outgoing,
        options: &ClientOptions,
        limit: usize,
    ) -> Result<Self, BeginError> {
        let behind = body.behind();
        let exchange = Exchange::begin(connection, head, behind, options, limit)?;
        let has_ended =
            behind == Behind::Nothing && matches!(exchange, Exchange::Http1 { .. } | Exchange::Http2 { .. });
        Ok(Self { host, exchange, sent: 0, is_hedged: false, has_ended, is_deaf: false })
    }

    /// Writes what was given and not written; ready when that is all, and the host takes more.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, body: &mut Outgoing, options: &ClientOptions) -> Poll<()> {
        while let Some(data) = body.current(self.sent) {
            ready!(self.poll_data(cx, data));
            body.advance(&mut self.sent);
        }
        if body.has_ended() && !self.has_ended {
            self.has_ended = true;
            self.is_deaf |= self.exchange.end(body.trailers(), options).is_err();
        }
        if self.is_deaf { Poll::Pending } else { Poll::Ready(()) }
    }

    /// It is the only attempt from now on: what it has sent of the body need not be kept.
    pub(super) fn let_go(&mut self, body: &mut Outgoing) {
        body.stop_keeping(&mut self.sent);
    }

    /// Writes data. While it is pending, call again with the same data.
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<()> {
        if !self.is_deaf {
            self.is_deaf = ready!(self.exchange.poll_data(cx, data)).is_err();
        }
        Poll::Ready(())
    }

    /// Whether the host takes no more.
    pub(super) fn is_deaf(&self) -> bool {
        self.is_deaf
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_deaf {
            self.is_deaf = ready!(self.exchange.poll_flush(cx)).is_err();
        }
        Poll::Ready(())
    }

    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        options: &ClientOptions,
        head: &mut ResponseHead,
    ) -> Poll<Result<ResponseEvent, ClientError>> {
        if self.has_ended {
            let _ = self.poll_flush(cx);
        }
        self.exchange.poll_head(cx, options, head)
    }

    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>, options: &ClientOptions) -> Poll<Result<Part, BodyError>> {
        self.exchange.poll_part(cx, options)
    }

    pub(super) fn with_data<R>(&mut self, f: impl FnOnce(&[u8]) -> (usize, R)) -> Option<R> {
        self.exchange.with_data(f)
    }

    pub(super) fn take_data(&mut self) -> Bytes {
        self.exchange.take_data()
    }

    /// The response is whole: the connection goes back to the pool, or is closed.
    pub(super) fn release(self) {
        self.exchange.release();
    }
}

impl Deref for Attempt {
    type Target = Exchange;

    fn deref(&self) -> &Exchange {
        &self.exchange
    }
}
