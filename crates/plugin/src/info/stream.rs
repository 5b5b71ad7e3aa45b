//! Facts about a stream: one request with its response, or one TCP connection that is proxied.

use super::{ConnectionInfo, FilterState, Metadata, PeerAddress, ResponseFlags, TlsInfo, TraceInfo};
use crate::{
    http::{Protocol, StatusCode},
    rate_limit::RouteRateLimits,
};
use sota_config::Node;
use std::{
    any::Any,
    borrow::Cow,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Response code details and the like: nearly always a constant.
pub type Details = Cow<'static, str>;

/// What is known about a stream. It grows while the stream lives; the access log prints it at the end.
#[derive(Debug)]
pub struct StreamInfo {
    /// The downstream connection.
    pub connection: Rc<ConnectionInfo>,
    /// Unique in this process.
    pub stream_id: u64,
    /// The protocol of the request; `None` for TCP.
    pub protocol: Option<Protocol>,
    /// When it began.
    pub start_time: SystemTime,
    /// When what happened.
    pub timing: Timing,
    /// Where the request is from as far as trusted (`x-forwarded-for`): `%DOWNSTREAM_REMOTE_ADDRESS%`. `None`: the
    /// connection's.
    pub remote: Option<PeerAddress>,
    /// Octets of the request's body, or from the client (TCP).
    pub bytes_received: u64,
    /// Octets of the response's body, or to the client (TCP).
    pub bytes_sent: u64,
    /// Octets on the wire from the client, heads and framing included.
    pub downstream_wire_bytes_received: u64,
    /// Octets on the wire to the client.
    pub downstream_wire_bytes_sent: u64,
    /// Octets of the head on the wire from the client.
    pub downstream_header_bytes_received: u64,
    /// Octets of the head on the wire to the client.
    pub downstream_header_bytes_sent: u64,
    /// The status of the response that left, or was about to.
    pub response_code: Option<StatusCode>,
    /// Who answered and why, in Envoy's words.
    pub response_code_details: Option<Details>,
    /// What went wrong.
    pub response_flags: ResponseFlags,
    /// The same as one sentence, with the setting that would have helped (`%SOTA_CAUSE%`). `None`: nothing failed.
    pub cause: Option<Box<str>>,
    /// The route, once one is chosen.
    pub route: Option<Rc<dyn RouteInfo>>,
    /// The name of the virtual cluster that counts the request, if its virtual host has some.
    pub virtual_cluster: Option<Arc<str>>,
    /// The upstream side, once there is one.
    pub upstream: UpstreamInfo,
    /// Metadata of filters.
    pub metadata: Metadata,
    /// State of filters.
    pub filter_state: FilterState,
    /// The `x-request-id` of the request.
    pub request_id: Option<Box<str>>,
    /// Answered as a health check, which access logs may leave out.
    pub is_health_check: bool,
    /// The request is from an internal address (`x-envoy-internal`).
    pub is_internal: bool,
    /// Whether the request is traced.
    pub is_traced: bool,
    /// The trace that it belongs to, where there is a tracer.
    pub trace: Option<Box<TraceInfo>>,
    /// The request came as a gRPC call, whatever filters have made of it.
    pub is_grpc: bool,
}

impl StreamInfo {
    /// A stream that begins now.
    pub fn new(connection: Rc<ConnectionInfo>, stream_id: u64, protocol: Option<Protocol>) -> Self {
        Self::begun_at(Instant::now(), connection, stream_id, protocol)
    }

    /// A stream that begins now, where the monotonic clock was read already.
    #[inline]
    pub fn begun_at(now: Instant, connection: Rc<ConnectionInfo>, stream_id: u64, protocol: Option<Protocol>) -> Self {
        Self {
            connection,
            stream_id,
            protocol,
            start_time: SystemTime::now(),
            timing: Timing::new(now),
            remote: None,
            bytes_received: 0,
            bytes_sent: 0,
            downstream_wire_bytes_received: 0,
            downstream_wire_bytes_sent: 0,
            downstream_header_bytes_received: 0,
            downstream_header_bytes_sent: 0,
            response_code: None,
            response_code_details: None,
            response_flags: ResponseFlags::default(),
            cause: None,
            route: None,
            virtual_cluster: None,
            upstream: UpstreamInfo::default(),
            metadata: Metadata::default(),
            filter_state: FilterState::default(),
            request_id: None,
            is_health_check: false,
            is_internal: false,
            is_traced: false,
            trace: None,
            is_grpc: false,
        }
    }

    /// Where the request is from, as far as trusted.
    pub fn remote(&self) -> &PeerAddress {
        self.remote.as_ref().unwrap_or(&self.connection.remote)
    }

    /// From the beginning to the end, or to now.
    pub fn duration(&self) -> Duration {
        self.timing.since_start(self.timing.end.unwrap_or_else(Instant::now))
    }
}

/// When what happened on a stream. All instants are of the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// The stream began: the first octet of its head.
    pub start: Instant,
    /// The last octet of the request was received.
    pub request_end: Option<Instant>,
    /// The first octet of the request was sent upstream.
    pub upstream_first_tx: Option<Instant>,
    /// The last octet of the request was sent upstream.
    pub upstream_last_tx: Option<Instant>,
    /// The first octet of the response was received.
    pub upstream_first_rx: Option<Instant>,
    /// The last octet of the response was received.
    pub upstream_last_rx: Option<Instant>,
    /// The first octet of the response was sent downstream.
    pub downstream_first_tx: Option<Instant>,
    /// The last octet of the response was sent downstream.
    pub downstream_last_tx: Option<Instant>,
    /// The connection upstream was begun (new connections only).
    pub upstream_connect_start: Option<Instant>,
    /// The connection upstream was there.
    pub upstream_connect_complete: Option<Instant>,
    /// The stream ended.
    pub end: Option<Instant>,
}

impl Timing {
    /// Begun at this instant, nothing else yet.
    pub const fn new(start: Instant) -> Self {
        Self {
            start,
            request_end: None,
            upstream_first_tx: None,
            upstream_last_tx: None,
            upstream_first_rx: None,
            upstream_last_rx: None,
            downstream_first_tx: None,
            downstream_last_tx: None,
            upstream_connect_start: None,
            upstream_connect_complete: None,
            end: None,
        }
    }

    /// From the beginning to `then`.
    pub fn since_start(&self, then: Instant) -> Duration {
        then.saturating_duration_since(self.start)
    }
}

/// The upstream side of a stream: of its last attempt where there were several.
#[derive(Debug, Default)]
pub struct UpstreamInfo {
    /// The cluster's name.
    pub cluster: Option<Arc<str>>,
    /// The name that it has in stats, where that is another (`alt_stat_name`).
    pub cluster_alias: Option<Arc<str>>,
    /// The cluster's metadata.
    pub cluster_metadata: Option<Arc<Node>>,
    /// The host's address.
    pub address: Option<PeerAddress>,
    /// The host's name; empty when it has none.
    pub hostname: Option<Arc<str>>,
    /// The host's metadata.
    pub host_metadata: Option<Arc<Node>>,
    /// Our end of the connection.
    pub local: Option<SocketAddr>,
    /// What TLS has agreed on; `None` without it.
    pub tls: Option<Rc<TlsInfo>>,
    /// Unique in this process.
    pub connection_id: Option<u64>,
    /// The protocol spoken upstream.
    pub protocol: Option<Protocol>,
    /// How many attempts were made.
    pub attempts: u32,
    /// The attempts before the last, which is described above (`%UPSTREAM_HOSTS_ATTEMPTED%` and its kin).
    pub earlier_attempts: Vec<UpstreamAttempt>,
    /// Why the connection failed (`%UPSTREAM_TRANSPORT_FAILURE_REASON%`).
    pub transport_failure_reason: Option<Details>,
    /// Octets on the wire to the upstream.
    pub wire_bytes_sent: u64,
    /// Octets on the wire from the upstream.
    pub wire_bytes_received: u64,
    /// Octets of the head on the wire to the upstream.
    pub header_bytes_sent: u64,
    /// Octets of the head on the wire from the upstream.
    pub header_bytes_received: u64,
    /// How many hosts failed to connect before (TCP).
    pub connect_attempts: u32,
    /// The host that a filter asks for, such as the one that a session belongs to. The first attempt goes there in
    /// place of the balancer's choice if the cluster has a host of this address whose health allows it
    /// (`override_host_status`); retries do not.
    ///
    /// A filter sets it in the hook for the request's head: `cx.info.upstream.host_override = Some(..)`. In the hook
    /// for the response's head, [`Self::address`] says which host it was in the end.
    pub host_override: Option<HostOverride>,
    /// The application protocols that a filter wants to be offered on a connection with TLS, whatever the cluster says.
    /// Set in the hook for the request's head; requests that want others share no connection.
    pub application_protocols: Option<Arc<ApplicationProtocols>>,
}

/// Application protocols (ALPN) by the HTTP that is spoken with the host; an empty list changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplicationProtocols {
    /// For clients of HTTP/1.0, where the cluster speaks what its clients speak.
    pub http10: Arc<[String]>,
    /// For HTTP/1.1.
    pub http11: Arc<[String]>,
    /// For HTTP/2.
    pub http2: Arc<[String]>,
}

/// A host that a filter asks for, whatever the balancer would choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostOverride {
    /// Its address, as an endpoint of the cluster.
    pub address: PeerAddress,
    /// Without that host there is none (503 UH); otherwise the balancer chooses then.
    pub strict: bool,
}

/// An attempt that was not the last.
#[derive(Debug, Clone)]
pub struct UpstreamAttempt {
    /// The host's address.
    pub address: PeerAddress,
    /// The host's name; empty when it has none.
    pub hostname: Option<Arc<str>>,
    /// The connection, once there was one.
    pub connection_id: Option<u64>,
}

/// A route as filters and loggers see it. Streams keep the one they were given.
pub trait RouteInfo: std::fmt::Debug {
    /// The route's name; empty when it has none.
    fn name(&self) -> &str;

    /// Whether it sends requests to a cluster; false when it answers them itself (redirects, direct responses).
    fn is_forwarding(&self) -> bool {
        true
    }

    /// The cluster that it sends this request to; empty when there is none.
    fn cluster_name(&self) -> &str {
        ""
    }

    /// The rate limits of the route and its virtual host.
    fn rate_limits(&self) -> Option<&RouteRateLimits> {
        None
    }

    /// The name of its virtual host.
    fn virtual_host(&self) -> &str;

    /// The name of the route configuration.
    fn route_configuration(&self) -> &str;

    /// The route's metadata.
    fn metadata(&self) -> Option<&Arc<Node>>;

    /// The metadata of its virtual host.
    fn virtual_host_metadata(&self) -> Option<&Arc<Node>> {
        None
    }

    /// Configuration of this filter (by its name in the chain) at each level that has some: route configuration,
    /// virtual host, route, weighted cluster.
    fn filter_configs<'a>(&'a self, filter: &'a str) -> Box<dyn Iterator<Item = &'a (dyn Any + Send + Sync)> + 'a>;

    /// The most specific of them.
    fn filter_config(&self, filter: &str) -> Option<&(dyn Any + Send + Sync)>;
}
