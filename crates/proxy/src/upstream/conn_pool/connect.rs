//! Making a connection.

use super::{Kind, PoolContext, PoolFailure, PoolFailureKind, failure::system_text};
use crate::{
    proxy_header,
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
    future::poll_fn,
    io,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::net::{TcpStream, UnixStream};

/// The next address is tried so much later (RFC 8305 §5, and Envoy).
const ATTEMPT_DELAY: Duration = Duration::from_millis(300);

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
    let bind_failed = || context.stats.bind_errors.inc();
    let mut io = match &*to.spec().additional_addresses {
        [] => open(context.config.model(), to.address(), bind_failed).await?,
        others => open_any(context, to.address(), others, &bind_failed).await?,
    };
    if let Some(model) = context.config.proxy_protocol(to.spec()) {
        let written = proxy_header::write(&mut io, model, options.client.as_deref()).await;
        written.map_err(|error| PoolFailure::new(PoolFailureKind::RemoteConnectionFailure, system_text(&error)))?;
    }
    let Some((tls, stats)) = context.tls(to) else { return Ok(Connected { io, tls: None }) };
    let spoken: &[&[u8]] = match kind {
        Kind::Http1 => &[b"http/1.1"],
        Kind::Http2 => &[b"h2"],
        Kind::Auto => &[b"h2", b"http/1.1"],
        Kind::Tcp | Kind::Message => &[],
    };
    match Box::pin(tls::connect(io, tls, to.hostname(), to.address().ip(), spoken, options)).await {
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

/// Connects to whichever address answers first (RFC 8305): a further one is tried when the one before it has failed, or
/// takes long. Families take turns, that of the first address first.
async fn open_any(
    context: &PoolContext,
    first: &PeerAddress,
    others: &[PeerAddress],
    bind_failed: &impl Fn(),
) -> Result<Io, PoolFailure> {
    let model = context.config.model();
    let mut next = by_turns(first, others).into_iter();
    let mut running = Vec::new();
    let mut failure = None;
    let timer = context.local.timer();
    poll_fn(|cx| {
        loop {
            let mut place = 0;
            let mut is_due = running.is_empty();
            while let Some(attempt) = running.get_mut(place) {
                match poll_boxed(attempt, cx) {
                    Poll::Ready(Ok(io)) => return Poll::Ready(Ok(io)),
                    Poll::Ready(Err(error)) => {
                        failure = Some(error);
                        drop(running.swap_remove(place));
                        is_due = true;
                    }
                    Poll::Pending => place += 1,
                }
            }
            if !is_due && (next.len() == 0 || timer.poll_expired(cx).is_pending()) {
                return Poll::Pending;
            }
            match next.next() {
                Some(address) => {
                    running.push(Box::pin(open(model, address, bind_failed)));
                    timer.set(Instant::now().checked_add(ATTEMPT_DELAY));
                }
                None if running.is_empty() => {
                    let none = || PoolFailure::new(PoolFailureKind::LocalConnectionFailure, "");
                    return Poll::Ready(Err(failure.take().unwrap_or_else(none)));
                }
                None => return Poll::Pending,
            }
        }
    })
    .await
}

fn poll_boxed<F: Future + ?Sized>(future: &mut Pin<Box<F>>, cx: &mut Context<'_>) -> Poll<F::Output> {
    future.as_mut().poll(cx)
}

/// The addresses, with families that take turns.
fn by_turns<'a>(first: &'a PeerAddress, others: &'a [PeerAddress]) -> Vec<&'a PeerAddress> {
    let is_v6 = |address: &PeerAddress| address.ip().is_some_and(|ip| ip.is_ipv6());
    let all = || std::iter::once(first).chain(others);
    let mut of_first = all().filter(|address| is_v6(address) == is_v6(first));
    let mut of_other = all().filter(|address| is_v6(address) != is_v6(first));
    let mut order = Vec::with_capacity(others.len() + 1);
    loop {
        let before = order.len();
        order.extend(of_first.next());
        order.extend(of_other.next());
        if order.len() == before {
            return order;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let address = |text: &str| PeerAddress::from(text.parse::<SocketAddr>().unwrap());
        let first = address("10.0.0.1:1");
        let others = ["10.0.0.2:1", "[::1]:1", "[::2]:1", "10.0.0.3:1", "[::3]:1"].map(address);
        let order: Vec<_> = by_turns(&first, &others).into_iter().map(ToString::to_string).collect();
        assert_eq!(order, ["10.0.0.1:1", "[::1]:1", "10.0.0.2:1", "[::2]:1", "10.0.0.3:1", "[::3]:1"]);
    }
}
