//! Reading and writing on sockets of the system: the runtime knows when one is ready, the system call is made here.
//!
//! Calls of the C library are points where a thread can be cancelled: in a process of several threads, getting in and out
//! of that state costs more than some parts of the request's way. The calls here go to the kernel directly.

use rustix::{
    io::{Errno, writev},
    net::{RecvFlags, SendFlags, recv, send},
};
use std::{
    io::{self, IoSlice},
    os::fd::AsFd,
    task::{Context, Poll, ready},
};
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
    task::coop,
};

/// A socket whose readiness the runtime watches.
pub(super) trait SystemSocket: AsFd {
    /// Calls `f` if the socket is known to be ready, and forgets that it is when `f` would block.
    fn try_io<R>(&self, interest: Interest, f: impl FnOnce() -> io::Result<R>) -> io::Result<R>;
    /// Ready when there may be something to read.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ready when something may be written.
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

macro_rules! system_socket {
    ($($socket:ty),*) => {$(
        impl SystemSocket for $socket {
            fn try_io<R>(&self, interest: Interest, f: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
                self.try_io(interest, f)
            }

            fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }

            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(cx)
            }
        }
    )*};
}

system_socket!(TcpStream, UnixStream);

/// Whether the runtime has heard of nothing to read since it was last all read. No system call.
pub(super) fn is_quiet(socket: &impl SystemSocket) -> bool {
    matches!(socket.try_io(Interest::READABLE, || Ok(())), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Reads into `buf` what has arrived; 0 at the end.
pub(super) fn poll_read(socket: &impl SystemSocket, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
    // Reading is what a task must not do for ever while others wait.
    let progress = ready!(coop::poll_proceed(cx));
    loop {
        let read = socket.try_io(Interest::READABLE, || again(|| recv(socket, &mut *buf, RecvFlags::empty())));
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(socket.poll_read_ready(cx))?,
            Err(error) => return Poll::Ready(Err(error)),
            Ok((_, read)) => {
                progress.made_progress();
                if read > 0 && read < buf.len() {
                    forget(socket, Interest::READABLE);
                }
                return Poll::Ready(Ok(read));
            }
        }
    }
}

/// Writes a part of `data`.
pub(super) fn poll_write(socket: &impl SystemSocket, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
    poll_send(socket, cx, data.len(), || send(socket, data, SendFlags::NOSIGNAL))
}

/// Writes a part of `parts`, in one call.
pub(super) fn poll_write_vectored(
    socket: &impl SystemSocket,
    cx: &mut Context<'_>,
    parts: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let len = parts.iter().map(|part| part.len()).sum();
    poll_send(socket, cx, len, || writev(socket, parts))
}

fn poll_send(
    socket: &impl SystemSocket,
    cx: &mut Context<'_>,
    len: usize,
    send: impl Fn() -> Result<usize, Errno>,
) -> Poll<io::Result<usize>> {
    loop {
        match socket.try_io(Interest::WRITABLE, || again(&send)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(socket.poll_write_ready(cx))?,
            Err(error) => return Poll::Ready(Err(error)),
            Ok(written) => {
                if written > 0 && written < len {
                    forget(socket, Interest::WRITABLE);
                }
                return Poll::Ready(Ok(written));
            }
        }
    }
}

/// What was read or written was all there was: the next call would block, so it is saved.
fn forget(socket: &impl SystemSocket, interest: Interest) {
    let _ = socket.try_io::<()>(interest, || Err(io::ErrorKind::WouldBlock.into()));
}

/// Calls once more what a signal has interrupted.
fn again<R>(call: impl FnMut() -> Result<R, Errno>) -> io::Result<R> {
    Ok(rustix::io::retry_on_intr(call)?)
}
