//! Active health checks (`envoy.config.core.v3.HealthCheck`).

use crate::{address::Address, matcher::StringMatcher, node::Node, route::HeaderMutations};
use std::{ops::Range, time::Duration};

/// How the hosts of a cluster are checked.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// What is asked, and what is a good answer.
    pub kind: HealthCheckKind,
    /// For one check as a whole, the connection included.
    pub timeout: Duration,
    /// Between the checks of a healthy host.
    pub interval: Duration,
    /// The first check comes up to so much later, at random.
    pub initial_jitter: Duration,
    /// Added at random to every interval, up to so much.
    pub interval_jitter: Duration,
    /// Added at random to every interval, up to so many percent of it.
    pub interval_jitter_percent: u32,
    /// So many failures in a row that may be repeated make a host unhealthy.
    pub unhealthy_threshold: u32,
    /// So many successes in a row make a host healthy; the first check of all needs one.
    pub healthy_threshold: u32,
    /// One connection serves all checks of a host; default true.
    pub reuse_connection: bool,
    /// Between checks while the cluster never had a connection; default 60 s.
    pub no_traffic_interval: Duration,
    /// The same for healthy hosts; default `no_traffic_interval`.
    pub no_traffic_healthy_interval: Duration,
    /// Between the checks of an unhealthy host; default `interval`.
    pub unhealthy_interval: Duration,
    /// After a failure that does not make the host unhealthy yet; default `unhealthy_interval`.
    pub unhealthy_edge_interval: Duration,
    /// After a success that does not make the host healthy yet; default `interval`.
    pub healthy_edge_interval: Duration,
    /// Files for events, one JSON object a line.
    pub event_logs: Vec<String>,
    /// An event for every failure, not for the first check and for changes alone.
    pub always_log_failures: bool,
    /// An event for every success.
    pub always_log_success: bool,
    /// `tls_options.alpn_protocols`: offered in the place of the transport socket's.
    pub alpn_protocols: Vec<String>,
    /// `transport_socket_match_criteria`: chooses the transport socket in the place of the host's metadata.
    pub transport_match: Option<Vec<(String, Node)>>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum HealthCheckKind {
    /// An HTTP request.
    Http(Box<HttpHealthCheck>),
    /// A connection, with octets to send and to be answered.
    Tcp {
        /// Sent when the connection is there, and again for each check.
        send: Vec<u8>,
        /// Must arrive in this order, with anything between them. Empty: a connection is enough.
        receive: Vec<Vec<u8>>,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service asked about; empty is the server as a whole.
        service_name: String,
        /// `:authority`, unless the endpoint has a host name for it; empty: the cluster's name.
        authority: String,
        /// Added to the request.
        initial_metadata: HeaderMutations,
    },
}

/// `HttpHealthCheck`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpHealthCheck {
    /// `:authority`, unless the endpoint has a host name for it; empty: the cluster's name.
    pub host: String,
    /// The target of the request.
    pub path: String,
    /// Its method; default GET.
    pub method: String,
    /// Its body.
    pub send: Vec<u8>,
    /// Must stand in the response's body in this order.
    pub receive: Vec<Vec<u8>>,
    /// So many octets of the response's body are looked at; default 1024, 0: all, up to 1 MiB.
    pub response_buffer_size: usize,
    /// Fields added to and removed from the request.
    pub headers: HeaderMutations,
    /// Good statuses; default 200 alone.
    pub expected_statuses: Vec<Range<u16>>,
    /// Bad statuses that count towards the threshold, where others make the host unhealthy at once.
    pub retriable_statuses: Vec<Range<u16>>,
    /// HTTP/2 is spoken (`codec_client_type`).
    pub http2: bool,
    /// What `x-envoy-upstream-healthchecked-cluster` must say (`service_name_matcher`).
    pub service_name: Option<StringMatcher>,
}

/// `Endpoint.HealthCheckConfig`: how one endpoint is checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EndpointHealthCheck {
    /// Another port than that of traffic.
    pub port: Option<u16>,
    /// `:authority` of checks; empty: what the cluster says.
    pub hostname: String,
    /// Another address than that of traffic.
    pub address: Option<Address>,
    /// It is not checked, and healthy as far as checks go.
    pub disabled: bool,
}
