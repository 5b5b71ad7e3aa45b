//! Clusters and endpoints (`envoy.config.cluster.v3`, `envoy.config.endpoint.v3`).

use crate::{
    address::{Address, BindConfig, TcpKeepalive},
    config_source::ConfigSource,
    extension::ExtensionConfig,
    health_check::{EndpointHealthCheck, HealthCheck},
    http::{Http1Options, Http2Options, HttpProtocolOptions},
    load_balancer::{LbConfig, LbPolicy},
    node::Node,
    outlier_detection::OutlierDetection,
    source::Source,
    tls::{TransportMatch, UpstreamProxyProtocol, UpstreamTls},
};
use std::{sync::Arc, time::Duration};

/// A cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// `alt_stat_name`: stats are below `cluster.<this>.`.
    pub stat_name: String,
    /// Where its hosts are from.
    pub discovery: Discovery,
    /// The endpoints of the document.
    pub load_assignment: LoadAssignment,
    /// For a connection to be made; default 5 s.
    pub connect_timeout: Duration,
    /// `preconnect_policy.per_upstream_preconnect_ratio`: connections of HTTP/1 to a host for each request that it has;
    /// from 1, the default, which makes none before they are needed.
    pub preconnect_ratio: f64,
    /// Soft limit of bytes buffered for a connection; default 1 MiB.
    pub per_connection_buffer_limit_bytes: u32,
    /// How a host is chosen.
    pub lb_policy: LbPolicy,
    /// Details of choosing.
    pub lb_config: LbConfig,
    /// Limits: default priority, high priority.
    pub circuit_breakers: [CircuitBreakerThresholds; 2],
    /// Which HTTP is spoken.
    pub protocol: UpstreamProtocol,
    /// Options of HTTP upstream.
    pub http: HttpProtocolOptions,
    /// Server names from requests; `None`: those of the transport.
    pub request_names: Option<RequestNames>,
    /// Options of HTTP/1.1 upstream.
    pub http1: Http1Options,
    /// Options of HTTP/2 upstream.
    pub http2: Http2Options,
    /// Source address of connections.
    pub upstream_bind_config: Option<BindConfig>,
    /// Keep-alive of connections.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// The transport; `None` is plain TCP.
    pub transport_socket: Option<Arc<UpstreamTls>>,
    /// What is said before it.
    pub proxy_protocol: Option<Arc<UpstreamProxyProtocol>>,
    /// The transports of hosts with certain metadata; the first that matches counts.
    pub transport_socket_matches: Vec<TransportMatch>,
    /// Metadata, for filters and logs.
    pub metadata: Option<Arc<Node>>,
    /// The resolver; `None`: the bootstrap's, or else the system's.
    pub dns_resolver: Option<ExtensionConfig>,
    /// How hosts are checked.
    pub health_check: Option<Arc<HealthCheck>>,
    /// Which hosts are ejected for what they answer.
    pub outlier_detection: Option<Arc<OutlierDetection>>,
    /// Close connections to hosts that fail their checks.
    pub close_connections_on_host_health_failure: bool,
    /// Take hosts out at once when discovery drops them.
    pub ignore_health_on_host_removal: bool,
    /// `sota.clusters.deadline`: tells hosts in this field, in milliseconds, how long the request may still take as a
    /// whole.
    pub deadline_header: Option<String>,
    /// The extension `sota.clusters.overload` (the original's ejection loop), when configured.
    pub overload: Option<ExtensionConfig>,
    /// Stats that are only kept where they are asked for.
    pub track: TrackClusterStats,
    /// The cluster as read, for `/config_dump`.
    pub source: Option<Arc<Source>>,
}

/// `envoy.config.cluster.v3.TrackClusterStats`: stats that cost more than they are worth to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrackClusterStats {
    /// How much of its timeout a request and an attempt used.
    pub timeout_budgets: bool,
    /// Sizes of heads and bodies.
    pub request_response_sizes: bool,
    /// The counters of each endpoint, which are in `/clusters` anyway.
    pub per_endpoint_stats: bool,
}

/// `envoy.config.core.v3.UpstreamHttpProtocolOptions`: the server name (SNI) of a connection with TLS is the host that
/// the request names, and connections are shared by requests that name the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestNames {
    /// The field that has the name, in lower case; `None`: the authority (`auto_sni`).
    pub header: Option<String>,
}

/// Which HTTP is spoken with a cluster's hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// What the client speaks.
    Downstream,
    /// What TLS agrees on (ALPN).
    Auto,
}

/// Where a cluster's hosts are from.
#[derive(Debug, Clone, PartialEq)]
pub enum Discovery {
    /// The document.
    Static,
    /// Every address that the names resolve to is a host.
    StrictDns(DnsConfig),
    /// One host that changes its address.
    LogicalDns(DnsConfig),
    /// Endpoint discovery by a control plane, under this service name.
    Eds {
        /// The name asked for.
        service_name: String,
        /// Who is asked.
        source: Arc<ConfigSource>,
    },
    /// The connection's restored destination is the host.
    OriginalDst(OriginalDstConfig),
}

/// How names are resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsConfig {
    /// Between resolutions; default 5 s.
    pub refresh_rate: Duration,
    /// Use the answers' time to live instead.
    pub respect_dns_ttl: bool,
    /// Added at random to the time between resolutions.
    pub jitter: Duration,
    /// Back-off after failures: first and longest; default `refresh_rate` for both.
    pub failure_refresh_rate: Option<(Duration, Duration)>,
    /// Which addresses are asked for.
    pub lookup_family: DnsLookupFamily,
}

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DnsLookupFamily {
    /// IPv6, or else IPv4.
    #[default]
    Auto,
    /// IPv4 only.
    V4Only,
    /// IPv6 only.
    V6Only,
    /// IPv4, or else IPv6.
    V4Preferred,
    /// Both.
    All,
}

/// `OriginalDstLbConfig`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OriginalDstConfig {
    /// Take the address from a request header (`x-envoy-original-dst-host` unless named).
    pub http_header: Option<String>,
    /// Replaces the port.
    pub upstream_port_override: Option<u16>,
    /// Hosts that nobody used for this long are dropped; default 5 s.
    pub cleanup_interval: Duration,
}

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadAssignment {
    /// Endpoints by locality.
    pub localities: Vec<LocalityEndpoints>,
    /// Percent by which a priority's health is overrated; default 140.
    pub overprovisioning_factor: u32,
}

/// The endpoints of one locality at one priority.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocalityEndpoints {
    /// Region, zone, sub-zone.
    pub locality: [String; 3],
    /// 0 is the highest.
    pub priority: u32,
    /// The locality's share.
    pub weight: Option<u32>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Its address.
    pub address: Address,
    /// Other addresses of the same host, tried when the first takes long or fails.
    pub additional_addresses: Vec<Address>,
    /// Its host name, for `host_rewrite: auto`; empty when none.
    pub hostname: String,
    /// Its share; default 1.
    pub weight: u32,
    /// What discovery says of it.
    pub health: HealthStatus,
    /// Metadata, for matching and logs.
    pub metadata: Option<Arc<Node>>,
    /// How it is checked, where it says so itself.
    pub health_check: Option<Arc<EndpointHealthCheck>>,
}

/// What discovery says of an endpoint's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HealthStatus {
    /// Nothing: taken as healthy.
    #[default]
    Unknown,
    /// Healthy.
    Healthy,
    /// Unhealthy.
    Unhealthy,
    /// Being taken out.
    Draining,
    /// Its checks timed out.
    Timeout,
    /// Usable when nothing better is.
    Degraded,
}

/// `CircuitBreakers.Thresholds`; `u32::MAX` is no limit in practice.
#[derive(Debug, Clone, PartialEq)]
pub struct CircuitBreakerThresholds {
    /// Connections; default 1024.
    pub max_connections: u32,
    /// Requests that wait for a connection; default 1024.
    pub max_pending_requests: u32,
    /// Requests; default 1024.
    pub max_requests: u32,
    /// Retries at once; default 3.
    pub max_retries: u32,
    /// Limits retries in proportion to requests, in the place of `max_retries`.
    pub retry_budget: Option<RetryBudget>,
    /// Publish `remaining_*` gauges.
    pub track_remaining: bool,
}

/// `CircuitBreakers.Thresholds.RetryBudget`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Retries at once, in percent of the requests that run or wait; default 20.
    pub percent: f64,
    /// So many are always allowed; default 3.
    pub min_concurrency: u32,
}

impl Default for CircuitBreakerThresholds {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
            track_remaining: false,
        }
    }
}
