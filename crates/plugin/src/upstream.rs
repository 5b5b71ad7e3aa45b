//! Clusters as extensions use them: find a cluster, choose a host, get a connection, say what came of it.
//!
//! ```no_run
//! # use sota_plugin::{filter::Connection, upstream::{HostChoice, Outcome}};
//! # async fn ask(connection: &Connection, key_hash: u64, question: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = connection.worker().cluster("workers")?;
//! let host = cluster.choose(&HostChoice { hash: Some(key_hash), ..HostChoice::default() })?;
//! let request = host.begin_request()?;
//! let mut upstream = host.pooled("my-protocol").await?;
//! upstream.write_all(&question).await?;
//! // ... read the answer ...
//! upstream.give_back();
//! request.finish(Outcome::Success);
//! # Ok(())
//! # }
//! ```
//!
//! Everything here belongs to one worker. Connect timeout, source address, keep-alive, circuit breakers, the stats of
//! cluster and host and the ejection of bad hosts are the cluster's own, and need nothing from the extension.

use crate::{
    LocalFuture,
    info::{ConnectionInfo, PeerAddress, ResponseFlag, UpstreamInfo},
    stream::Stream,
};
use sota_config::Node;
use std::{
    any::Any,
    fmt,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

/// Why a cluster gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// There is no cluster of this name.
    #[error("there is no cluster \"{0}\"")]
    UnknownCluster(Arc<str>),
    /// No host of the cluster may be used.
    #[error("cluster \"{0}\" has no healthy host")]
    NoHost(Arc<str>),
    /// A circuit breaker is open.
    #[error("a circuit breaker of the cluster is open")]
    Overflow,
    /// The host was not connected to within the cluster's `connect_timeout`.
    #[error("the host did not answer in time")]
    ConnectTimeout,
    /// The host could not be connected to; what the system said.
    #[error("{0}")]
    ConnectFailure(Box<str>),
}

impl UpstreamError {
    /// The flag by which access logs tell it.
    pub fn flag(&self) -> ResponseFlag {
        match self {
            Self::UnknownCluster(_) => ResponseFlag::NoClusterFound,
            Self::NoHost(_) => ResponseFlag::NoHealthyUpstream,
            Self::Overflow => ResponseFlag::UpstreamOverflow,
            Self::ConnectTimeout | Self::ConnectFailure(_) => ResponseFlag::UpstreamConnectionFailure,
        }
    }
}

/// What a balancer may look at.
#[derive(Default, Clone, Copy)]
pub struct HostChoice<'a> {
    /// The hash by which policies that hash choose.
    pub hash: Option<u64>,
    /// The downstream connection, for clusters whose host is its original destination.
    pub connection: Option<&'a ConnectionInfo>,
    /// Hosts that failed before, and that another choice should avoid if it can.
    pub excluded: &'a [Host],
}

/// What the data plane does for [`Cluster`].
pub trait ClusterServices {
    /// The name.
    fn name(&self) -> &Arc<str>;
    /// The cluster's metadata.
    fn metadata(&self) -> Option<&Arc<Node>>;
    /// A host by the cluster's policy.
    fn choose(&self, choice: &HostChoice<'_>) -> Option<Host>;
    /// All hosts, whatever their health.
    fn hosts(&self) -> Vec<Host>;
    /// A number that changes when hosts come or go.
    fn version(&self) -> u64;
    /// Leave for a retry, held until the retry is done.
    fn begin_retry(&self) -> Option<Box<dyn Any>>;
}

/// A cluster of this worker, as it was when it was [found](crate::cx::WorkerCx::cluster). Cheap to clone.
#[derive(Clone)]
pub struct Cluster(Rc<dyn ClusterServices>);

impl Cluster {
    /// For the data plane.
    pub fn new(services: Rc<dyn ClusterServices>) -> Self {
        Self(services)
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        self.0.name()
    }

    /// The host for a request, by the cluster's load-balancing policy.
    pub fn choose(&self, choice: &HostChoice<'_>) -> Result<Host, UpstreamError> {
        self.0.choose(choice).ok_or_else(|| UpstreamError::NoHost(Arc::clone(self.name())))
    }

    /// All hosts, whatever their health: for protocols that talk to every one of them.
    pub fn hosts(&self) -> Vec<Host> {
        self.0.hosts()
    }

    /// A number that changes when hosts come or go, to know when to look at [`Self::hosts`] again.
    pub fn version(&self) -> u64 {
        self.0.version()
    }

    /// Leave for sending a request once more, within the circuit breaker's `max_retries`; held until the retry is done.
    pub fn begin_retry(&self) -> Option<Box<dyn Any>> {
        self.0.begin_retry()
    }

    /// Notes the cluster and the host in what access logs print.
    pub fn describe(&self, host: Option<&Host>, info: &mut UpstreamInfo) {
        info.cluster = Some(Arc::clone(self.name()));
        info.cluster_metadata = self.0.metadata().cloned();
        if let Some(host) = host {
            info.address = Some(host.address().clone());
            info.hostname = Some(Arc::clone(host.hostname())).filter(|name| !name.is_empty());
            info.host_metadata = host.metadata().cloned();
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cluster").field(self.name()).finish()
    }
}

/// What the data plane does for [`Host`].
pub trait HostServices {
    /// The same number for the same host of a cluster, as long as somebody has it.
    fn id(&self) -> usize;
    /// Where it is.
    fn address(&self) -> &PeerAddress;
    /// Its name; empty when it has none.
    fn hostname(&self) -> &Arc<str>;
    /// Its metadata.
    fn metadata(&self) -> Option<&Arc<Node>>;
    /// Ready once the host has left the cluster, or the cluster is gone or has new options for its connections.
    fn draining(&self) -> LocalFuture<()>;
    /// What the data plane knows it by.
    fn as_any(&self) -> &dyn Any;
    /// A new connection.
    fn connect(&self) -> LocalFuture<Result<UpstreamConnection, UpstreamError>>;
    /// A connection out of a pool.
    fn pooled(&self, protocol: &'static str) -> LocalFuture<Result<UpstreamConnection, UpstreamError>>;
    /// Counts a request that begins; dropping what is returned counts its end. `limited`: only within the limit.
    fn begin_request(&self, limited: bool) -> Result<Box<dyn RequestServices>, UpstreamError>;
}

/// A host of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct Host(Rc<dyn HostServices>);

impl Host {
    /// For the data plane.
    pub fn new(services: Rc<dyn HostServices>) -> Self {
        Self(services)
    }

    /// The same number for the same host of a cluster, as long as somebody has it: to keep connections of one's own.
    pub fn id(&self) -> usize {
        self.0.id()
    }

    /// For the data plane: what it was made of.
    pub fn services(&self) -> &dyn Any {
        self.0.as_any()
    }

    /// Where it is.
    pub fn address(&self) -> &PeerAddress {
        self.0.address()
    }

    /// Its name; empty when it has none.
    pub fn hostname(&self) -> &Arc<str> {
        self.0.hostname()
    }

    /// Its metadata.
    pub fn metadata(&self) -> Option<&Arc<Node>> {
        self.0.metadata()
    }

    /// Ready once the host has left the cluster, or the cluster is gone or has new options for its connections: finish
    /// what runs on connections to it, and begin nothing.
    pub fn draining(&self) -> LocalFuture<()> {
        self.0.draining()
    }

    /// A connection of one's own, at most within the cluster's `connect_timeout`. Dropping it closes it. It may carry
    /// any number of requests: each is counted by [`Self::begin_request`].
    pub fn connect(&self) -> LocalFuture<Result<UpstreamConnection, UpstreamError>> {
        self.0.connect()
    }

    /// A connection for one request at a time: an idle one, or a new one when there is none. `protocol` names what is
    /// spoken on it: connections are not given to anybody else. [`UpstreamConnection::give_back`] keeps it for the
    /// next; `idle_timeout` and `max_requests_per_connection` of the cluster's HTTP options hold.
    pub fn pooled(&self, protocol: &'static str) -> LocalFuture<Result<UpstreamConnection, UpstreamError>> {
        self.0.pooled(protocol)
    }

    /// Counts a request, within the circuit breaker's `max_requests`: `upstream_rq_total`, `upstream_rq_active`, the
    /// load that least request looks at.
    pub fn begin_request(&self) -> Result<ActiveRequest, UpstreamError> {
        Ok(ActiveRequest { services: self.0.begin_request(true)?, began: Instant::now() })
    }

    /// The same beyond the limit: for protocols whose clients do not expect to be refused.
    pub fn count_request(&self) -> Result<ActiveRequest, UpstreamError> {
        Ok(ActiveRequest { services: self.0.begin_request(false)?, began: Instant::now() })
    }
}

impl PartialEq for Host {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Host {}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Host").field(self.address()).finish()
    }
}

/// How a request to a host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The host answered, and the answer is no fault of the host.
    Success,
    /// The host answered that it failed.
    Error,
    /// The host did not answer in time.
    Timeout,
    /// The connection broke, or the host did not speak the protocol.
    TransportFailure,
    /// There was no connection. What that says of the host is counted by whoever tried to connect.
    NotConnected,
}

/// What the data plane does for [`ActiveRequest`].
pub trait RequestServices {
    /// Counts how it ended and how long it took since `began`.
    fn finish(&self, outcome: Outcome, began: Instant);
}

/// A request that is counted while it lives. Dropped without [`Self::finish`], it was given up by us: nobody is blamed.
#[must_use]
pub struct ActiveRequest {
    services: Box<dyn RequestServices>,
    began: Instant,
}

impl ActiveRequest {
    /// Counts how it ended: `rq_success`, `rq_error` and `rq_timeout` of the host, `upstream_rq_timeout` and
    /// `upstream_rq_time` of the cluster, and the ejection of hosts that fail.
    pub fn finish(self, outcome: Outcome) {
        self.services.finish(outcome, self.began);
    }

    /// When it began.
    pub fn began(&self) -> Instant {
        self.began
    }
}

/// A connection to a host: a [`Stream`] with its facts. Dropping it closes it.
pub struct UpstreamConnection {
    stream: Stream,
    facts: ConnectionFacts,
}

/// What is known about a connection to a host.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionFacts {
    /// Unique in this process.
    pub id: u64,
    /// Our end; `None` for Unix sockets.
    pub local_address: Option<SocketAddr>,
    /// When connecting began.
    pub connect_start: Instant,
    /// When it was there.
    pub connect_complete: Instant,
    /// Whether somebody used it before: what a protocol says first was said.
    pub is_reused: bool,
}

impl UpstreamConnection {
    /// For the data plane.
    pub fn new(stream: Stream, facts: ConnectionFacts) -> Self {
        Self { stream, facts }
    }

    /// What is known about it.
    pub fn facts(&self) -> &ConnectionFacts {
        &self.facts
    }

    /// Keeps a [pooled](Host::pooled) connection for the next request: this one's answer was read to its end. With
    /// anything left unread it is closed all the same.
    pub fn give_back(self) {
        if let Some(io) = self.stream.into_io() {
            io.give_back();
        }
    }

    /// Only the stream: to [split](Stream::split) it.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Notes the connection in what access logs print.
    pub fn describe(&self, info: &mut UpstreamInfo) {
        info.local = self.facts.local_address;
        info.connection_id = Some(self.facts.id);
    }
}

impl Deref for UpstreamConnection {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl DerefMut for UpstreamConnection {
    fn deref_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }
}
