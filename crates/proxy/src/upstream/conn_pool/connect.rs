//! Making a connection.
#![allow(unsafe_code, reason = "socket options by number have no safe interface")]

use super::{PoolContext, PoolFailure, PoolFailureKind, failure::system_text};
use crate::socket::Io;
use socket2::{Domain, SockAddr, Socket as Raw, TcpKeepalive, Type};
use sota_config::{
    address::{Address, SocketOption, SocketState},
    cluster::Cluster as Model,
};
use sota_plugin::info::PeerAddress;
use std::{
    io,
    net::SocketAddr,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::{Duration, Instant},
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
        let seconds = |n: u32| Duration::from_secs(u64::from(n));
        let mut wanted = TcpKeepalive::new();
        if let Some(time) = keepalive.time_s {
            wanted = wanted.with_time(seconds(time));
        }
        if let Some(interval) = keepalive.interval_s {
            wanted = wanted.with_interval(seconds(interval));
        }
        if let Some(probes) = keepalive.probes {
            wanted = wanted.with_retries(probes);
        }
        socket.set_keepalive(true)?;
        socket.set_tcp_keepalive(&wanted)?;
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
        set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1_i32.to_ne_bytes())?;
    }
    socket.bind(&source.into())
}

fn set_options(socket: &Raw, options: &[SocketOption], state: SocketState) -> io::Result<()> {
    options
        .iter()
        .filter(|option| option.state == state)
        .try_for_each(|option| set_option(socket, option.level, option.name, &option.value))
}

fn set_option(socket: &Raw, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open while `socket` lives, and the kernel reads `length` octets of `value` only.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
