//! Facts about a downstream connection.

use super::{FilterState, Metadata, ResponseFlags, TlsInfo, UpstreamInfo};
use sota_config::listener::TrafficDirection;
use std::{
    cell::{Cell, OnceCell, RefCell},
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime},
};

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerAddress {
    /// IPv4 or IPv6. IPv4 that came over an IPv6 socket is IPv4 here.
    Ip(SocketAddr),
    /// A Unix socket; the client's end usually has no path.
    Pipe(PathBuf),
}

impl PeerAddress {
    /// The IP address and port.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Pipe(_) => None,
        }
    }

    /// The IP address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket_address().map(|address| address.ip())
    }

    /// The port.
    pub fn port(&self) -> Option<u16> {
        self.socket_address().map(|address| address.port())
    }
}

/// As Envoy prints it: `10.0.0.1:80`, `[::1]:80`, `/run/x.sock`.
impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Pipe(path) => path.display().fmt(f),
        }
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

/// A type-length-value that the PROXY protocol brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyTlv {
    /// The type.
    pub kind: u8,
    /// The value.
    pub value: Box<[u8]>,
}

/// What is known of a client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeerCertificate {
    /// There is none, as on every connection without TLS.
    #[default]
    Absent,
    /// The client has shown one that was not checked, or not found valid.
    Presented,
    /// It was found valid.
    Validated,
}

/// What became of a connection. Not of one that speaks HTTP: its streams have all of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectionSummary {
    /// Octets from the client.
    pub bytes_received: u64,
    /// Octets to the client.
    pub bytes_sent: u64,
    /// What went wrong.
    pub response_flags: ResponseFlags,
}

/// What is known about a downstream connection. Listener filters fill it in; afterwards it does not change, but for
/// metadata and filter state.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Unique in this process.
    pub id: u64,
    /// When it was accepted.
    pub start_time: SystemTime,
    /// When it was accepted, for durations.
    pub start: Instant,
    /// The client: the socket's peer, unless the PROXY protocol said otherwise. (`x-forwarded-for` is a stream's matter.)
    pub remote: PeerAddress,
    /// Where the client wanted to: the socket's own address, unless a listener filter restored another destination.
    pub local: PeerAddress,
    /// The socket's own peer and address, where they are others. Most connections have none, and shall be small.
    direct: Option<Box<(PeerAddress, PeerAddress)>>,
    /// Whether `local` was restored.
    pub local_restored: bool,
    /// The server name of the TLS client hello, in lower case.
    pub server_name: Option<Box<str>>,
    /// `tls` or `raw_buffer`, as a listener filter saw it; empty when nobody looked.
    pub transport_protocol: &'static str,
    /// The application protocols that the client offers or was seen to speak.
    pub application_protocols: Box<[Box<str>]>,
    /// What is known of the client's certificate.
    pub peer_certificate: Cell<PeerCertificate>,
    /// What TLS has agreed on; empty without it, and before the handshake is done.
    pub tls: OnceCell<Box<TlsInfo>>,
    /// Why the handshake has failed (`%DOWNSTREAM_TRANSPORT_FAILURE_REASON%`).
    pub transport_failure_reason: OnceCell<Box<str>>,
    /// What the PROXY protocol brought, as far as configuration keeps it.
    pub proxy_tlvs: Box<[ProxyTlv]>,
    /// The name of the filter chain; empty when it has none.
    pub filter_chain_name: Arc<str>,
    /// The name of the listener.
    pub listener_name: Arc<str>,
    /// Which way the traffic of the listener goes.
    pub traffic_direction: TrafficDirection,
    /// Metadata from listener and network filters, which access logs of connections print.
    pub metadata: RefCell<Metadata>,
    /// State of filters that lives as long as the connection.
    pub filter_state: RefCell<FilterState>,
    /// Why we closed it, in Envoy's words (`%CONNECTION_TERMINATION_DETAILS%`).
    pub termination_details: RefCell<Option<super::Details>>,
    /// What whoever served it says at its end, for the access logs of the listener.
    pub summary: RefCell<Option<Box<ConnectionSummary>>>,
    /// Where the octets of a TCP connection have gone: noted at its end, if a filter has put something here.
    pub upstream: RefCell<Option<Box<UpstreamInfo>>>,
}

impl ConnectionInfo {
    /// Whether the listener says that its traffic leaves this machine's service (`traffic_direction: OUTBOUND`).
    pub fn is_outbound(&self) -> bool {
        self.traffic_direction == TrafficDirection::Outbound
    }

    /// Whether somebody before us has said who the client is, or where it wanted to.
    pub fn is_restored(&self) -> bool {
        self.direct.is_some()
    }

    /// The socket's own peer.
    pub fn direct_remote(&self) -> &PeerAddress {
        self.direct.as_ref().map_or(&self.remote, |direct| &direct.0)
    }

    /// The socket's own address.
    pub fn direct_local(&self) -> &PeerAddress {
        self.direct.as_ref().map_or(&self.local, |direct| &direct.1)
    }

    /// Says who the client is, when it is not the socket's peer.
    pub fn restore_remote(&mut self, remote: PeerAddress) {
        self.keep_direct();
        self.remote = remote;
    }

    /// Says where the client wanted to, when that is not the socket's address.
    pub fn restore_local(&mut self, local: PeerAddress) {
        self.keep_direct();
        self.local = local;
        self.local_restored = true;
    }

    fn keep_direct(&mut self) {
        self.direct.get_or_insert_with(|| Box::new((self.remote.clone(), self.local.clone())));
    }

    /// A connection about which nothing is known but its ends.
    pub fn new(id: u64, remote: PeerAddress, local: PeerAddress) -> Self {
        Self {
            id,
            start_time: SystemTime::now(),
            start: Instant::now(),
            remote,
            local,
            direct: None,
            local_restored: false,
            server_name: None,
            transport_protocol: "",
            application_protocols: Box::default(),
            peer_certificate: Cell::default(),
            tls: OnceCell::new(),
            transport_failure_reason: OnceCell::new(),
            proxy_tlvs: Box::default(),
            filter_chain_name: Arc::default(),
            listener_name: Arc::default(),
            traffic_direction: TrafficDirection::default(),
            metadata: RefCell::default(),
            filter_state: RefCell::default(),
            termination_details: RefCell::default(),
            summary: RefCell::default(),
            upstream: RefCell::default(),
        }
    }
}
