//! Making a connection.

use super::{Kind, PoolContext, PoolFailure, PoolFailureKind, failure::system_text};
use crate::{
    socket::Io,
    socket_option,
    tls::{self, TransportOptions},
    upstream::host::Host,
};
use socket2::{Domain, SockAddr, Socket as Raw, Type};
use sota_config::{
    address::{Address, SocketOption, SocketState},
    cluster::Cluster as Model,
};
use sota_plugin::info::{PeerAddress, TlsInfo};
use std::{
    io,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    rc::Rc,
    time::Instant,
};
use tokio::net::{TcpStream, UnixStream};

/// A connection that was made.
pub(super) struct Connected {
    /// It.
    pub(super) io: Io,
    /// What TLS has agreed on.
    pub(super) tls: Option<Rc<TlsInfo>>,
}

/// Connects within the cluster's `connect_timeout`, counted from `began`, the handshake included.
pub(super) async fn connect(
    context: &PoolContext,
    to: &Host,
    kind: Kind,
    options: &TransportOptions,
    began: Instant,
) -> Result<Connected, PoolFailure> {
    let timer = context.local.timer();
    timer.set(began.checked_add(context.config.model().connect_timeout));
    tokio::select! {
        biased;
        result = open_secured(context, to, kind, options) => result,
        () = timer.expired() => Err(PoolFailure::new(PoolFailureKind::Timeout, "")),
    }
}

async fn open_secured(
    context: &PoolContext,
    to: &Host,
    kind: Kind,
    options: &TransportOptions,
) -> Result<Connected, PoolFailure> {
    let io = open(context.config.model(), to.address(), || context.stats.bind_errors.inc()).await?;
    let Some((tls, stats)) = context.tls(to) else { return Ok(Connected { io, tls: None }) };
    let protocol: Option<&[u8]> = match kind {
        Kind::Http1 => Some(b"http/1.1"),
        Kind::Http2 => Some(b"h2"),
        Kind::Tcp | Kind::Message => None,
    };
    match Box::pin(tls::connect(io, tls, to.hostname(), to.address().ip(), protocol, options)).await {
        Ok(secured) => {
            stats.succeeded(&secured.info, false);
            Ok(Connected { io: secured.io, tls: Some(Rc::new(secured.info)) })
        }
        Err(failure) => {
            stats.failed(&failure);
            Err(PoolFailure::new(PoolFailureKind::RemoteConnectionFailure, failure.to_string()))
        }
    }
}

/// A connection without TLS. `bind_failed` is told when the source address cannot be had.
pub(in crate::upstream) async fn open(
    model: &Model,
    to: &PeerAddress,
    bind_failed: impl Fn(),
) -> Result<Io, PoolFailure> {
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
                    bind_failed();
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
