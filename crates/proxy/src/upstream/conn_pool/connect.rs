//! Making a connection.

use super::{PoolContext, PoolFailure, PoolFailureKind, failure::system_text};
use crate::{socket::Io, socket_option};
use socket2::{Domain, SockAddr, Socket as Raw, Type};
use sota_config::{
    address::{Address, SocketOption, SocketState},
    cluster::Cluster as Model,
};
use sota_plugin::info::PeerAddress;
use std::{
    io,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    time::Instant,
};
use tokio::net::{TcpStream, UnixStream};

/// Connects within the cluster's `connect_timeout`, counted from `began`.
pub(super) async fn connect(context: &PoolContext, to: &PeerAddress, began: Instant) -> Result<Io, PoolFailure> {
    let timer = context.local.timer();
    timer.set(began.checked_add(context.config.model().connect_timeout));
    tokio::select! {
        biased;
        result = open(context, to) => result,
        () = timer.expired() => Err(PoolFailure::new(PoolFailureKind::Timeout, "")),
    }
}

async fn open(context: &PoolContext, to: &PeerAddress) -> Result<Io, PoolFailure> {
    let model = context.config.model();
    let immediate = |error: &io::Error| {
        let reason = format!("immediate connect error: {}|remote address:{to}", system_text(error));
        PoolFailure::new(PoolFailureKind::RemoteConnectionFailure, reason)
    };
    let delayed = |error: &io::Error| {
        let reason = format!("delayed connect error: {}", system_text(error));
        PoolFailure::new(PoolFailureKind::RemoteConnectionFailure, reason)
    };
    let local = |error: &io::Error| PoolFailure::new(PoolFailureKind::LocalConnectionFailure, system_text(error));
    match to {
        PeerAddress::Ip(address) => {
            let socket = tcp_socket(model, *address).map_err(|error| local(&error))?;
            if let Some(source) = source(model, *address) {
                bind(&socket, source).map_err(|error| {
                    context.stats.bind_errors.inc();
                    let reason = format!("failed to bind to {source}: {}", system_text(&error));
                    PoolFailure::new(PoolFailureKind::LocalConnectionFailure, reason)
                })?;
            }
            if let Some(bind) = &model.upstream_bind_config {
                set_options(&socket, &bind.socket_options, SocketState::Bound).map_err(|error| local(&error))?;
            }
            start(&socket, &SockAddr::from(*address)).map_err(|error| immediate(&error))?;
            let stream = TcpStream::from_std(OwnedFd::from(socket).into()).map_err(|error| local(&error))?;
            stream.writable().await.map_err(|error| delayed(&error))?;
            match stream.take_error() {
                Ok(None) => Ok(Io::Tcp(stream)),
                Ok(Some(error)) | Err(error) => Err(delayed(&error)),
            }
        }
        PeerAddress::Pipe(path) => {
            let connect = || {
                let socket = new_socket(Domain::UNIX)?;
                socket.connect(&unix_address(path)?)?;
                UnixStream::from_std(OwnedFd::from(socket).into())
            };
            connect().map(Io::Unix).map_err(|error| immediate(&error))
        }
    }
}

fn new_socket(domain: Domain) -> io::Result<Raw> {
    Raw::new(domain, Type::STREAM.nonblocking().cloexec(), None)
}

fn start(socket: &Raw, to: &SockAddr) -> io::Result<()> {
    match socket.connect(to) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        result => result,
    }
}

/// A path that begins with `@` is in the abstract namespace.
fn unix_address(path: &Path) -> io::Result<SockAddr> {
    match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => SockAddr::unix(std::ffi::OsStr::from_bytes(&[b"\0", name].concat())),
        None => SockAddr::unix(path),
    }
}

fn tcp_socket(model: &Model, to: SocketAddr) -> io::Result<Raw> {
    let socket = new_socket(Domain::for_address(to))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(keepalive) = &model.tcp_keepalive {
        socket_option::set_keepalive(&socket, keepalive)?;
    }
    if let Some(bind) = &model.upstream_bind_config {
        if bind.freebind {
            match to {
                SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
                SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
            }
        }
        set_options(&socket, &bind.socket_options, SocketState::Prebind)?;
    }
    Ok(socket)
}

/// The source address. One of the other family cannot reach the host: it is left out, as in Envoy.
fn source(model: &Model, to: SocketAddr) -> Option<SocketAddr> {
    match model.upstream_bind_config.as_ref()?.source_address.as_ref()? {
        Address::Ip { ip, port, .. } if ip.is_ipv4() == to.is_ipv4() => Some(SocketAddr::new(*ip, *port)),
        _ => None,
    }
}

fn bind(socket: &Raw, source: SocketAddr) -> io::Result<()> {
    if source.port() == 0 {
        // The port is chosen when the destination is known: more connections than ports are possible.
        socket_option::set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1_i32.to_ne_bytes())?;
    }
    socket.bind(&source.into())
}

fn set_options(socket: &Raw, options: &[SocketOption], state: SocketState) -> io::Result<()> {
    socket_option::set_all(socket, options, state).map_err(|(_, error)| error)
}
