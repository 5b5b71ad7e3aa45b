//! Hands a connection to a terminal filter of an extension: a dispatcher.

use crate::{context::WorkerContext, downstream::Downstream, drain::DrainWatch, local::Local, socket::Socket};
use sota_plugin::{
    LocalFuture,
    filter::{Connection, ConnectionIo, TerminalNetworkFilter},
};
use std::{
    future::poll_fn,
    io::{self, IoSlice},
    rc::Rc,
    task::{Context, Poll},
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
    let context = Rc::clone(context);
    Box::pin(async move {
        serving.await;
        let mut summary = info.summary.take().unwrap_or_default();
        (summary.bytes_received, summary.bytes_sent) = (socket.bytes_received(), socket.bytes_sent());
        info.summary.replace(Some(summary));
        // In a place of its own, which a connection that runs does not need.
        Box::pin(linger(&socket, &context.local)).await;
    })
}

/// Half-closes and waits for the peer's end, but not for long.
async fn linger(socket: &Socket, local: &Local) {
    if socket.shutdown().await.is_err() {
        return;
    }
    let timer = local.timer();
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
