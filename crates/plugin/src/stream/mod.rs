//! A connection that reads and writes like a socket: what dispatchers and clients of clusters are written on.

mod clock;
mod halves;
mod io;

pub use halves::{ReadHalf, WriteHalf};
pub use io::ConnectionIo;

use crate::{cx::WorkerCx, stats::Counter};
use bytes::BytesMut;
use halves::Shared;
use std::{
    io::{IoSlice, Result},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

/// A connection, downstream or upstream, as sequential code sees it.
///
/// Reading holds no memory while nothing has arrived, and never more than [`limit`](Self::limit) octets. Writing waits
/// while the peer does not read. With [timeouts](Self::set_idle_timeout), reading and writing fail with
/// [`TimedOut`](std::io::ErrorKind::TimedOut).
pub struct Stream {
    read: ReadHalf,
    write: WriteHalf,
}

impl Stream {
    /// For the data plane: wraps a transport. `limit` is the most octets that are held for it in each direction.
    pub fn new(io: Box<dyn ConnectionIo>, worker: WorkerCx, limit: usize) -> Self {
        let shared = Rc::new(Shared::new(io, worker, limit));
        Self { read: ReadHalf::new(&shared), write: WriteHalf::new(&shared) }
    }

    /// The most octets that may be held in each direction.
    pub fn limit(&self) -> usize {
        self.read.shared().limit
    }

    /// Octets that were read so far.
    pub fn bytes_read(&self) -> u64 {
        self.read.shared().read.get()
    }

    /// Octets that were written so far.
    pub fn bytes_written(&self) -> u64 {
        self.read.shared().written.get()
    }

    /// Fails reads and writes when nothing has moved, in either direction, for this long; `None`: never. To be set
    /// while nobody waits.
    pub fn set_idle_timeout(&mut self, timeout: Option<Duration>) {
        self.read.shared().clock.set_idle(timeout);
    }

    /// Fails all reads and writes that are not done in this time, counted from now; `None`: they have all the time. To
    /// be set while nobody waits.
    pub fn set_total_timeout(&mut self, timeout: Option<Duration>) {
        self.read.shared().clock.set_total(timeout);
    }

    /// Adds to these counters what is read and written from now on.
    pub fn count_octets(&mut self, read: &Counter, written: &Counter) {
        *self.read.shared().meter.borrow_mut() = Some(Box::new((read.clone(), written.clone())));
    }

    /// What has arrived and was not used. Decoders take from its front.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.read.buffer()
    }

    /// Waits for more in the [buffer](Self::buffer); how many octets came, 0: the peer has sent its last. A buffer that
    /// is full is an error of the kind [`InvalidData`](std::io::ErrorKind::InvalidData): nobody would ever empty it.
    pub async fn fill(&mut self) -> Result<usize> {
        self.read.fill().await
    }

    /// Reads what has arrived, at most `buf.len()` octets; 0: the peer has sent its last.
    pub async fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.read.read(buf).await
    }

    /// Reads a line without its end (`\n` or `\r\n`). The last line may lack it. `None`: the peer has sent its last.
    /// A line of over `max` octets is an error of the kind [`InvalidData`](std::io::ErrorKind::InvalidData); no more
    /// than that is held.
    pub async fn read_line(&mut self, max: usize) -> Result<Option<Vec<u8>>> {
        self.read.read_line(max).await
    }

    /// Writes everything.
    pub async fn write_all(&mut self, data: &[u8]) -> Result<()> {
        self.write.write_all(data).await
    }

    /// Half-close: the peer reads an end behind what was written. Reading goes on.
    pub async fn shutdown_write(&mut self) -> Result<()> {
        self.write.shutdown().await
    }

    /// Both directions at once, for two futures of one task.
    pub fn halves(&mut self) -> (&mut ReadHalf, &mut WriteHalf) {
        (&mut self.read, &mut self.write)
    }

    /// Both directions for tasks of their own. The connection is closed when both are dropped.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }

    /// Takes the halves of one stream together again.
    pub fn join(read: ReadHalf, write: WriteHalf) -> Option<Self> {
        Rc::ptr_eq(read.shared(), write.shared()).then_some(Self { read, write })
    }

    /// Gives the transport back, unless something was read and not used.
    pub(crate) fn into_io(self) -> Option<Box<dyn ConnectionIo>> {
        let Self { mut read, write } = self;
        let is_clean = read.buffer().is_empty();
        let shared = Rc::clone(read.shared());
        drop((read, write));
        Some(Rc::into_inner(shared)?.io.into_inner()).filter(|_| is_clean)
    }
}

impl futures_io::AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize>> {
        self.get_mut().read.poll_read(cx, buf)
    }
}

impl futures_io::AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        self.get_mut().write.poll_write(cx, buf)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        self.get_mut().write.poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.get_mut().write.poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.get_mut().write.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
