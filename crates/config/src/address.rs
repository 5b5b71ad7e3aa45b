//! Addresses and address ranges (`envoy.config.core.v3.Address`, `CidrRange`).

use std::{fmt, net::IpAddr, path::PathBuf};

pub use ipnet::IpNet as CidrRange;

/// Where to listen or to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port; port 0 asks the kernel for one when listening.
    Ip {
        /// The address.
        ip: IpAddr,
        /// The port.
        port: u16,
        /// `ipv4_compat`: an IPv6 wildcard that takes IPv4 too.
        ipv4_compat: bool,
    },
    /// A host name to resolve (clusters of the DNS types only).
    Name {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket; a path that begins with `@` is in the abstract namespace.
    Pipe {
        /// The path.
        path: PathBuf,
        /// Permission bits of the socket file; 0 leaves the umask's.
        mode: u32,
    },
}

impl fmt::Display for Address {
    /// As Envoy prints it in stats, logs and admin: `10.0.0.1:80`, `[::1]:80`, `/run/x.sock`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip { ip: IpAddr::V4(ip), port, .. } => write!(f, "{ip}:{port}"),
            Self::Ip { ip: IpAddr::V6(ip), port, .. } => write!(f, "[{ip}]:{port}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Pipe { path, .. } => write!(f, "{}", path.display()),
        }
    }
}

/// A socket option to set by number (`envoy.config.core.v3.SocketOption`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOption {
    /// `SOL_SOCKET`, `IPPROTO_TCP`…
    pub level: i32,
    /// The option's number.
    pub name: i32,
    /// Its value: the four bytes of an int, or a buffer.
    pub value: Vec<u8>,
    /// When to set it.
    pub state: SocketState,
}

/// When a socket option is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SocketState {
    /// Before `bind`.
    #[default]
    Prebind,
    /// After `bind`, before `listen`.
    Bound,
    /// After `listen`.
    Listening,
}

/// TCP keep-alive of a connection (`envoy.config.core.v3.TcpKeepalive`); absent values leave the system's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Probes without an answer before the connection is dead.
    pub probes: Option<u32>,
    /// Seconds without traffic before the first probe.
    pub time_s: Option<u32>,
    /// Seconds between probes.
    pub interval_s: Option<u32>,
}

/// Source address and options of upstream connections (`envoy.config.core.v3.BindConfig`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BindConfig {
    /// The address to bind; the port may be 0.
    pub source_address: Option<Address>,
    /// `IP_FREEBIND`.
    pub freebind: bool,
    /// Further options.
    pub socket_options: Vec<SocketOption>,
}
