//! Hands a connection to a terminal filter of an extension: a dispatcher.

use crate::{context::WorkerContext, downstream::Downstream, drain::DrainWatch, socket::Socket};
use sota_plugin::{
    LocalFuture,
    filter::{Connection, ConnectionIo, TerminalNetworkFilter},
    info::ConnectionInfo,
};
use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// After a dispatcher is done, what the peer still sends is read and dropped for this long: a close with unread bytes
/// would make the peer's system throw away what was sent to it last.
const LINGER: Duration = Duration::from_secs(1);
/// Octets that are read from a socket in one go.
const READ_SIZE: usize = 16 * 1024;

/// Runs the dispatcher, then closes the connection so that what was written arrives.
pub(super) fn serve(
    filter: Box<dyn TerminalNetworkFilter>,
    downstream: Downstream,
    context: &Rc<WorkerContext>,
) -> LocalFuture<()> {
    let Downstream { socket, info, drain, buffer_limit } = downstream;
    let socket = Rc::new(socket);
    let io = DispatcherIo { socket: Rc::clone(&socket), drain };
    let serving = filter.serve(Connection::new(Box::new(io), Rc::clone(&info), context.cx.clone(), buffer_limit));
    Box::pin(Serving { serving, is_lingering: false, socket, info, context: Rc::clone(context) })
}

/// A connection from its begin to its end. No `async fn`: most connections wait for most of their time, and what one
/// has in it counts.
struct Serving {
    serving: LocalFuture<()>,
    /// The dispatcher is done; `serving` is the rest.
    is_lingering: bool,
    socket: Rc<Socket>,
    info: Rc<ConnectionInfo>,
    context: Rc<WorkerContext>,
}

impl Future for Serving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.serving.as_mut().poll(cx));
            if self.is_lingering {
                return Poll::Ready(());
            }
            let (socket, info) = (&self.socket, &self.info);
            let mut summary = info.summary.take().unwrap_or_default();
            (summary.bytes_received, summary.bytes_sent) = (socket.bytes_received(), socket.bytes_sent());
            info.summary.replace(Some(summary));
            self.serving = Box::pin(linger(Rc::clone(socket), Rc::clone(&self.context)));
            self.is_lingering = true;
        }
    }
}

/// Half-closes and waits for the peer's end, but not for long.
async fn linger(socket: Rc<Socket>, context: Rc<WorkerContext>) {
    if socket.shutdown().await.is_err() {
        return;
    }
    let timer = context.local.timer();
    timer.set(Instant::now().checked_add(LINGER));
    poll_fn(|cx| {
        loop {
            socket.with_input(|bytes| (bytes.len(), ()));
            match socket.poll_fill(cx, READ_SIZE) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return timer.poll_expired(cx),
            }
        }
    })
    .await;
}

struct DispatcherIo {
    socket: Rc<Socket>,
    drain: DrainWatch,
}

impl ConnectionIo for DispatcherIo {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_read(cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_write(cx, buf)
    }

    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.socket.poll_write_vectored(cx, parts)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_write_all(cx, &[], &mut 0)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_shutdown(cx)
    }

    fn draining(&self) -> LocalFuture<()> {
        let watch = self.drain.another();
        Box::pin(async move { poll_fn(|cx| watch.poll_draining(cx)).await })
    }
}
