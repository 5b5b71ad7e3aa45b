//! Listeners, filter chains and their match (`envoy.config.listener.v3`).

use crate::{
    access_log::AccessLog,
    address::{Address, CidrRange, SocketOption, TcpKeepalive},
    extension::ExtensionConfig,
    http::HttpConnectionManager,
    source::Source,
    tcp_proxy::TcpProxy,
    tls::DownstreamTls,
};
use std::{ops::Range, sync::Arc, time::Duration};

/// A listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Its name; made from the address when the document gives none.
    pub name: String,
    /// Its addresses: `address`, then `additional_addresses`.
    pub addresses: Vec<Address>,
    /// `stat_prefix`: replaces the address in stat names.
    pub stat_prefix: Option<String>,
    /// Its filter chains, in document order.
    pub filter_chains: Vec<Arc<FilterChain>>,
    /// For connections that no chain matches.
    pub default_filter_chain: Option<Arc<FilterChain>>,
    /// Listener filters, in order.
    pub listener_filters: Vec<ListenerFilter>,
    /// How long listener filters may take; `None`: as long as they like. Default 15 s.
    pub listener_filters_timeout: Option<Duration>,
    /// Go on with what is known instead of closing when that time is over.
    pub continue_on_listener_filters_timeout: bool,
    /// Hand a connection to the listener of its restored destination.
    pub use_original_dst: bool,
    /// Whether to open a socket at all.
    pub bind_to_port: bool,
    /// Soft limit of bytes buffered for a connection; default 1 MiB.
    pub per_connection_buffer_limit_bytes: u32,
    /// `IP_TRANSPARENT`.
    pub transparent: bool,
    /// `IP_FREEBIND`.
    pub freebind: bool,
    /// `TCP_FASTOPEN` queue length.
    pub tcp_fast_open_queue_length: Option<u32>,
    /// Keep-alive of accepted connections.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Length of the accept queue; default 128.
    pub tcp_backlog_size: u32,
    /// Further socket options.
    pub socket_options: Vec<SocketOption>,
    /// One socket per worker (default true).
    pub enable_reuse_port: bool,
    /// `connection_balance_config.exact_balance`.
    pub exact_balance: bool,
    /// Connections this listener may have at once (runtime key `envoy.resource_limits.listener.NAME.connection_limit`).
    pub connection_limit: Option<u64>,
    /// Which way the traffic goes, for admin and drain.
    pub traffic_direction: TrafficDirection,
    /// Logs of connections that no chain matched.
    pub access_log: Vec<AccessLog>,
    /// Not counted by and not refused for the process-wide connection limit.
    pub ignore_global_conn_limit: bool,
    /// The listener as read, for `/config_dump`. Equal documents give equal listeners.
    pub source: Option<Arc<Source>>,
}

/// Which way traffic through a listener goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrafficDirection {
    /// Not said.
    #[default]
    Unspecified,
    /// From outside to here.
    Inbound,
    /// From here to outside.
    Outbound,
}

/// A listener filter.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerFilter {
    /// The filter.
    pub config: ExtensionConfig,
    /// Connections that skip it.
    pub disabled: Option<ListenerFilterPredicate>,
}

/// `ListenerFilterChainMatchPredicate`.
#[derive(Debug, Clone, PartialEq)]
pub enum ListenerFilterPredicate {
    /// One must agree.
    Or(Vec<Self>),
    /// All must agree.
    And(Vec<Self>),
    /// The opposite.
    Not(Box<Self>),
    /// Every connection.
    Any,
    /// The destination port lies in this range.
    DestinationPort(Range<u32>),
}

/// A filter chain.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterChain {
    /// Its name; empty when the document gives none.
    pub name: String,
    /// Which connections it takes; an empty match takes all.
    pub filter_chain_match: FilterChainMatch,
    /// Network filters in order; the last one is terminal.
    pub filters: Vec<NetworkFilter>,
    /// The transport; `None` is plain TCP.
    pub transport_socket: Option<Arc<DownstreamTls>>,
    /// How long the transport's handshake may take.
    pub transport_socket_connect_timeout: Option<Duration>,
}

/// `envoy.config.listener.v3.FilterChainMatch`: an empty list takes everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FilterChainMatch {
    /// Destination port.
    pub destination_port: Option<u16>,
    /// Destination ranges.
    pub prefix_ranges: Vec<CidrRange>,
    /// Server names: exact, or `*.` and a suffix.
    pub server_names: Vec<String>,
    /// `raw_buffer` or `tls`; empty takes both.
    pub transport_protocol: String,
    /// ALPN names, or what `http_inspector` found.
    pub application_protocols: Vec<String>,
    /// Ranges of the socket's own peer.
    pub direct_source_prefix_ranges: Vec<CidrRange>,
    /// Where the source is.
    pub source_type: SourceType,
    /// Source ranges.
    pub source_prefix_ranges: Vec<CidrRange>,
    /// Source ports.
    pub source_ports: Vec<u16>,
}

/// Where the source of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SourceType {
    /// Anywhere.
    #[default]
    Any,
    /// This host.
    SameIpOrLoopback,
    /// Another host.
    External,
}

/// A network filter: the two that are the spine, or an extension.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkFilter {
    /// Its name in the document.
    pub name: String,
    /// What it is.
    pub kind: NetworkFilterKind,
}

/// What a network filter is.
#[derive(Debug, Clone, PartialEq)]
pub enum NetworkFilterKind {
    /// `envoy.filters.network.http_connection_manager`.
    HttpConnectionManager(Arc<HttpConnectionManager>),
    /// `envoy.filters.network.tcp_proxy`.
    TcpProxy(Arc<TcpProxy>),
    /// Any other.
    Extension(ExtensionConfig),
}
