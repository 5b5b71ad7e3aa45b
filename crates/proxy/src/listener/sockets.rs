//! Listening sockets: opened by the main thread, before any worker knows of the listener, so that an address that
//! cannot be had is an error of the configuration.

use crate::socket_option;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use sota_config::{
    address::{Address, SocketOption, SocketState},
    listener::Listener,
};
use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// An address that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listener \"{listener}\": cannot listen on {address}: {source}")]
pub struct ListenError {
    listener: String,
    address: String,
    source: io::Error,
}

/// The sockets of one address: one for each worker, or one that all share.
#[derive(Debug)]
pub struct ListenSocket {
    /// What configuration says.
    pub configured: Address,
    /// Where it really listens: the port that the system gave included.
    pub bound: BoundAddress,
    sockets: Vec<Socket>,
    path: Option<PathBuf>,
}

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundAddress {
    /// IPv4 or IPv6.
    Ip(SocketAddr),
    /// A Unix socket, as configuration writes its path.
    Pipe(PathBuf),
}

impl std::fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Pipe(path) => path.display().fmt(f),
        }
    }
}

impl ListenSocket {
    /// Opens every address of a listener for so many workers. Either all can be had or none is kept. `beside` says
    /// which addresses this process listens on already: others must be free, although the sockets of all workers could
    /// share one with another process.
    pub fn open_all(
        listener: &Listener,
        workers: usize,
        beside: impl Fn(SocketAddr) -> bool,
    ) -> Result<Vec<Self>, ListenError> {
        listener
            .addresses
            .iter()
            .map(|address| {
                Self::open(listener, address, workers, &beside).map_err(|source| ListenError {
                    listener: listener.name.clone(),
                    address: address.to_string(),
                    source,
                })
            })
            .collect()
    }

    fn open(
        listener: &Listener,
        address: &Address,
        workers: usize,
        beside: &impl Fn(SocketAddr) -> bool,
    ) -> io::Result<Self> {
        match address {
            Address::Ip { ip, port, ipv4_compat } => {
                let mut requested = SocketAddr::new(*ip, *port);
                let count = if listener.enable_reuse_port { workers.max(1) } else { 1 };
                if listener.enable_reuse_port && *port != 0 && !beside(requested) {
                    drop(open_tcp(
                        &Listener { enable_reuse_port: false, ..listener.clone() },
                        requested,
                        *ipv4_compat,
                    )?);
                }
                let mut sockets = Vec::with_capacity(count);
                for _ in 0..count {
                    let socket = open_tcp(listener, requested, *ipv4_compat)?;
                    // The others join the first at the port that the system gave to it.
                    requested = local_address(&socket).unwrap_or(requested);
                    sockets.push(socket);
                }
                Ok(Self { configured: address.clone(), bound: BoundAddress::Ip(requested), sockets, path: None })
            }
            Address::Pipe { path, mode } => {
                let socket = open_unix(listener, path, *mode)?;
                let file = (!is_abstract(path)).then(|| path.clone());
                let bound = BoundAddress::Pipe(path.clone());
                Ok(Self { configured: address.clone(), bound, sockets: vec![socket], path: file })
            }
            Address::Name { .. } => Err(io::Error::new(io::ErrorKind::InvalidInput, "a host name is no address")),
        }
    }

    /// Whether each worker has a socket of its own, over which the system spreads connections.
    pub fn is_per_worker(&self) -> bool {
        self.sockets.len() > 1
    }

    /// A handle for one worker.
    pub fn for_worker(&self, worker: usize) -> io::Result<OwnedFd> {
        let socket = self.sockets.get(worker % self.sockets.len().max(1)).ok_or(io::ErrorKind::NotFound)?;
        Ok(socket.try_clone()?.into())
    }
}

impl Drop for ListenSocket {
    /// A Unix socket leaves no file behind.
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

fn open_tcp(listener: &Listener, address: SocketAddr, ipv4_compat: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if listener.enable_reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(!ipv4_compat)?;
    }
    if listener.freebind || listener.transparent {
        if address.is_ipv6() { socket.set_freebind_v6(true)? } else { socket.set_freebind_v4(true)? }
    }
    if listener.transparent {
        let (level, name) = if address.is_ipv6() {
            (libc::SOL_IPV6, libc::IPV6_TRANSPARENT)
        } else {
            (libc::SOL_IP, libc::IP_TRANSPARENT)
        };
        socket_option::set(&socket, level, name, &1_i32.to_ne_bytes())?;
    }
    if let Some(keepalive) = &listener.tcp_keepalive {
        socket_option::set_keepalive(&socket, keepalive)?;
    }
    set_options(&socket, &listener.socket_options, SocketState::Prebind)?;
    socket.bind(&address.into())?;
    set_options(&socket, &listener.socket_options, SocketState::Bound)?;
    if let Some(length) = listener.tcp_fast_open_queue_length {
        let length = i32::try_from(length).unwrap_or(i32::MAX);
        socket_option::set(&socket, libc::SOL_TCP, libc::TCP_FASTOPEN, &length.to_ne_bytes())?;
    }
    socket.listen(i32::try_from(listener.tcp_backlog_size).unwrap_or(i32::MAX))?;
    set_options(&socket, &listener.socket_options, SocketState::Listening)?;
    Ok(socket)
}

fn open_unix(listener: &Listener, path: &Path, mode: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = unix_address(path)?;
    if let Err(error) = socket.bind(&address) {
        // A file may have been left by a process that died: it is taken over only if nobody answers there.
        if error.kind() != io::ErrorKind::AddrInUse || !is_abandoned(path, &address) {
            return Err(error);
        }
        fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    if mode != 0 && !is_abstract(path) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    socket.listen(i32::try_from(listener.tcp_backlog_size).unwrap_or(i32::MAX))?;
    Ok(socket)
}

/// The address of a Unix socket; `@name` is in the abstract namespace.
fn unix_address(path: &Path) -> io::Result<SockAddr> {
    match path.as_os_str().as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => {
            let name = [b"\0", name].concat();
            let name = String::from_utf8(name).map_err(|_| io::ErrorKind::InvalidInput)?;
            SockAddr::unix(name)
        }
        None => SockAddr::unix(path),
    }
}

fn is_abstract(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().starts_with(b"@")
}

/// A socket file at which nobody listens.
fn is_abandoned(path: &Path, address: &SockAddr) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let refused = || {
        let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        probe.set_nonblocking(true)?;
        probe.connect(address)
    };
    is_socket && matches!(refused(), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

fn local_address(socket: &Socket) -> Option<SocketAddr> {
    socket.local_addr().ok().and_then(|address| address.as_socket())
}

/// Sets the options of one state; the error names the one that the system refused.
fn set_options(socket: &Socket, options: &[SocketOption], state: SocketState) -> io::Result<()> {
    socket_option::set_all(socket, options, state)
        .map_err(|(option, e)| io::Error::new(e.kind(), format!("socket option {}/{}: {e}", option.level, option.name)))
}

/// The destination that a redirected connection had before (`SO_ORIGINAL_DST`, IPv4 and IPv6).
pub(super) fn original_destination(socket: &socket2::SockRef<'_>, local: IpAddr) -> Option<SocketAddr> {
    if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() }.ok()?.as_socket()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::Ipv4Addr, os::unix::net::UnixListener};

    fn listener(address: Address) -> Listener {
        Listener { addresses: vec![address], ..super::super::tests::listener() }
    }

    #[test]
    fn workers_share_the_port_that_the_system_gave() {
        let address = Address::Ip { ip: Ipv4Addr::LOCALHOST.into(), port: 0, ipv4_compat: false };
        let sockets = ListenSocket::open_all(&listener(address), 3, |_| false).unwrap();
        let BoundAddress::Ip(bound) = sockets[0].bound else { panic!("an IP address was asked for") };
        assert_ne!(bound.port(), 0);
        assert_eq!(sockets[0].sockets.len(), 3);
        for socket in &sockets[0].sockets {
            assert_eq!(local_address(socket), Some(bound));
        }
        // A port in use is an error that names listener and address.
        let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let held = std::net::TcpListener::bind(taken).unwrap();
        let address = Address::Ip { ip: taken.ip(), port: taken.port(), ipv4_compat: false };
        let error = ListenSocket::open_all(&listener(address), 1, |_| false).unwrap_err().to_string();
        assert!(error.contains("listener \"l\": cannot listen on 127.0.0.1:"), "{error}");
        drop(held);
    }

    #[test]
    fn a_unix_socket_is_taken_over_only_if_nobody_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let address = Address::Pipe { path: path.clone(), mode: 0o600 };
        let alive = UnixListener::bind(&path).unwrap();
        assert!(ListenSocket::open_all(&listener(address.clone()), 1, |_| false).is_err());
        drop(alive);
        let sockets = ListenSocket::open_all(&listener(address.clone()), 2, |_| false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!sockets[0].is_per_worker());
        drop(sockets);
        assert!(!path.exists());
        fs::write(&path, "data").unwrap();
        assert!(
            ListenSocket::open_all(&listener(address), 1, |_| false).is_err(),
            "a file that is no socket is left alone"
        );
        assert!(path.exists());
    }
}
