//! Clusters, hosts and connections as extensions see them.

use super::{
    cluster::{Cluster, LbContext},
    conn_pool::{PoolFailure, PoolFailureKind, RequestPermit, UpstreamConnection, WorkerHost},
    outlier::HostResult,
    overload::Outcome,
};
use sota_config::Node;
use sota_plugin::{
    LocalFuture,
    cx::WorkerCx,
    http::StatusCode,
    info::PeerAddress,
    stream::{ConnectionIo, Stream},
    upstream::{
        self, ClusterServices, ConnectionFacts, Host, HostChoice, HostServices, RequestServices, UpstreamError,
    },
};
use std::{
    any::Any,
    cell::Cell,
    future::poll_fn,
    io::{self, IoSlice},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

/// A cluster for an extension on this worker.
pub(crate) fn for_extensions(cluster: Rc<Cluster>, worker: &WorkerCx) -> upstream::Cluster {
    upstream::Cluster::new(Rc::new(ClusterAccess { cluster, worker: worker.clone() }))
}

struct ClusterAccess {
    cluster: Rc<Cluster>,
    worker: WorkerCx,
}

impl ClusterAccess {
    fn host(&self, host: Rc<WorkerHost>) -> Host {
        Host::new(Rc::new(HostAccess { cluster: Rc::clone(&self.cluster), host, worker: self.worker.clone() }))
    }
}

impl ClusterServices for ClusterAccess {
    fn name(&self) -> &Arc<str> {
        self.cluster.name()
    }

    fn metadata(&self) -> Option<&Arc<Node>> {
        self.cluster.config().model().metadata.as_ref()
    }

    fn choose(&self, choice: &HostChoice<'_>) -> Option<Host> {
        let known = |host: &Host| host.services().downcast_ref().map(|access: &HostAccess| Rc::clone(&access.host));
        let excluded: Vec<_> = choice.excluded.iter().filter_map(known).collect();
        let is_excluded = |host: &super::Host| {
            excluded.iter().any(|other: &Rc<WorkerHost>| Arc::ptr_eq(other.host().state(), host.state()))
        };
        let avoids = (!excluded.is_empty()).then_some(&is_excluded as &dyn Fn(&super::Host) -> bool);
        let (hash, connection) = (choice.hash, choice.connection);
        let cx = LbContext { hash, connection, avoids, attempts: 1, ..LbContext::default() };
        self.cluster.choose_host(&cx).map(|host| self.host(host))
    }

    fn hosts(&self) -> Vec<Host> {
        self.cluster.all_hosts().into_iter().map(|host| self.host(host)).collect()
    }

    fn version(&self) -> u64 {
        self.cluster.config().version()
    }

    fn begin_retry(&self) -> Option<Box<dyn Any>> {
        let permit = self.cluster.try_retry(0)?;
        self.cluster.stats().upstream_rq_retry.inc();
        Some(Box::new(permit))
    }
}

#[derive(Clone)]
struct HostAccess {
    cluster: Rc<Cluster>,
    host: Rc<WorkerHost>,
    worker: WorkerCx,
}

impl HostAccess {
    /// A connection for the extension. A host that cannot be connected to is noted, for its ejection.
    fn finish(
        &self,
        result: Result<(Box<UpstreamConnection>, bool), PoolFailure>,
        is_pooled: bool,
    ) -> Result<upstream::UpstreamConnection, UpstreamError> {
        let (connection, is_reused) = result.map_err(|failure| {
            let error = match failure.kind {
                PoolFailureKind::Overflow => return UpstreamError::Overflow,
                PoolFailureKind::Timeout => UpstreamError::ConnectTimeout,
                PoolFailureKind::LocalConnectionFailure | PoolFailureKind::RemoteConnectionFailure => {
                    UpstreamError::ConnectFailure(failure.reason.as_ref().into())
                }
            };
            self.cluster.note_result(&self.host, HostResult::ConnectFailed);
            error
        })?;
        if !is_pooled {
            self.cluster.note_result(&self.host, HostResult::ConnectedForGood);
        }
        let facts = ConnectionFacts {
            id: connection.id,
            local_address: connection.local_address,
            connect_start: connection.connect_start,
            connect_complete: connection.connect_complete,
            is_reused,
        };
        let limit = self.cluster.config().model().per_connection_buffer_limit_bytes as usize;
        let stream = Stream::new(Box::new(UpstreamIo { connection, is_pooled }), self.worker.clone(), limit);
        Ok(upstream::UpstreamConnection::new(stream, facts))
    }
}

impl HostServices for HostAccess {
    fn id(&self) -> usize {
        Arc::as_ptr(self.host.host().state()).addr()
    }

    fn address(&self) -> &PeerAddress {
        self.host.host().address()
    }

    fn hostname(&self) -> &Arc<str> {
        self.host.host().hostname()
    }

    fn metadata(&self) -> Option<&Arc<Node>> {
        self.host.host().spec().metadata.as_ref()
    }

    fn draining(&self) -> LocalFuture<()> {
        let watch = self.host.watch_draining();
        Box::pin(async move { poll_fn(|cx| watch.poll_draining(cx)).await })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn connect(&self) -> LocalFuture<Result<upstream::UpstreamConnection, UpstreamError>> {
        let access = self.clone();
        Box::pin(async move {
            let result = access.host.open_connection().await;
            access.finish(result.map(|connection| (connection, false)), false)
        })
    }

    fn pooled(&self, protocol: &'static str) -> LocalFuture<Result<upstream::UpstreamConnection, UpstreamError>> {
        let access = self.clone();
        Box::pin(async move {
            let result = access.host.message_connection(protocol).await;
            access.finish(result, true)
        })
    }

    fn begin_request(&self, limited: bool) -> Result<Box<dyn RequestServices>, UpstreamError> {
        let permit = self.host.begin_message(limited).ok_or(UpstreamError::Overflow)?;
        Ok(Box::new(Request { access: self.clone(), is_finished: Cell::new(false), _permit: permit }))
    }
}

struct Request {
    access: HostAccess,
    is_finished: Cell<bool>,
    _permit: RequestPermit,
}

impl RequestServices for Request {
    fn finish(&self, outcome: upstream::Outcome, began: Instant) {
        self.is_finished.set(true);
        let HostAccess { cluster, host, .. } = &self.access;
        let counters = host.counters();
        match outcome {
            upstream::Outcome::Success => {
                counters.rq_success.inc();
                cluster.note_result(host, HostResult::RequestSucceeded);
            }
            upstream::Outcome::Error => {
                counters.rq_error.inc();
                cluster.note_result(host, HostResult::RequestFailed);
            }
            upstream::Outcome::Timeout => {
                counters.rq_error.inc();
                cluster.stats().upstream_rq_timeout.inc();
                counters.rq_timeout.inc();
                cluster.note_result(host, HostResult::Timeout(StatusCode::GATEWAY_TIMEOUT));
            }
            upstream::Outcome::TransportFailure => {
                counters.rq_error.inc();
                cluster.note_result(host, HostResult::ConnectFailed);
            }
            upstream::Outcome::NotConnected => counters.rq_error.inc(),
        }
        if matches!(outcome, upstream::Outcome::Success | upstream::Outcome::Error) {
            cluster.record_response_time(began.elapsed(), false);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.is_finished.get() {
            self.access.cluster.report(&self.access.host, Outcome::Cancelled);
        }
    }
}

/// A connection to a host below a stream.
struct UpstreamIo {
    connection: Box<UpstreamConnection>,
    is_pooled: bool,
}

impl UpstreamIo {
    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &result {
            Poll::Ready(Ok(_)) => self.connection.count_bytes(),
            Poll::Ready(Err(_)) => self.connection.closed_by_peer(),
            Poll::Pending => {}
        }
        result
    }
}

impl ConnectionIo for UpstreamIo {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.note(self.connection.socket.poll_read(cx, buf))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.note(self.connection.socket.poll_write(cx, buf))
    }

    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.note(self.connection.socket.poll_write_vectored(cx, parts))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.note(self.connection.socket.poll_write_all(cx, &[], &mut 0))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.socket.poll_shutdown(cx)
    }

    fn give_back(self: Box<Self>) {
        let Self { connection, is_pooled } = *self;
        if is_pooled {
            connection.give_back();
        }
    }
}
