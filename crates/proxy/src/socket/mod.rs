//! A connected socket with the bytes that were read from it and not used yet.
//!
//! Reading goes straight into memory that the thread owns: a connection that waits holds no buffer. Reading and
//! writing borrow the socket for the length of one poll, so the two directions of a connection can be two futures of
//! one task.

mod splice;
mod system;
mod tls;

pub use splice::{Splice, SpliceError, Spliced};
pub use tls::TlsStream;
pub(crate) use tls::Wire;

use crate::buffer::ReadBuffer;
use socket2::SockRef;
use sota_plugin::filter::ConnectionIo;
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use system::SystemSocket;
use tokio::{
    io::AsyncWrite,
    net::{TcpStream, UnixStream},
    task::coop,
};

/// The transport of a connection.
pub enum Io {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// Something that is layered on a transport: network filters that look at the bytes.
    Layered(Box<dyn ConnectionIo>),
    /// TLS on one of the others.
    Tls(Box<TlsStream>),
}

impl Io {
    /// What is below TLS.
    pub fn transport(&self) -> &Self {
        match self {
            Self::Tls(tls) => tls.transport(),
            plain => plain,
        }
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => system::poll_read(stream, cx, buf),
            Self::Unix(stream) => system::poll_read(stream, cx, buf),
            Self::Layered(io) => io.poll_read(cx, buf),
            Self::Tls(tls) => tls.poll_read(cx, buf),
        }
    }

    /// Whether a read would find nothing, as far as the runtime knows. Of layers it is not known.
    fn is_quiet(&self) -> bool {
        match self {
            Self::Tcp(stream) => system::is_quiet(stream),
            Self::Unix(stream) => system::is_quiet(stream),
            Self::Layered(_) | Self::Tls(_) => false,
        }
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => SystemSocket::poll_read_ready(stream, cx),
            Self::Unix(stream) => SystemSocket::poll_read_ready(stream, cx),
            Self::Layered(_) | Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether there is something to read, an end or an error: an octet of it is lost. Asks the system only when the
    /// runtime has heard of something, and nobody is woken later.
    fn has_input(&mut self) -> bool {
        let mut octet = [0];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut octet),
            Self::Unix(stream) => stream.try_read(&mut octet),
            Self::Layered(io) => return io.poll_read(&mut Context::from_waker(Waker::noop()), &mut octet).is_ready(),
            Self::Tls(tls) => return tls.poll_read(&mut Context::from_waker(Waker::noop()), &mut octet).is_ready(),
        };
        !matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => system::poll_write(stream, cx, data),
            Self::Unix(stream) => system::poll_write(stream, cx, data),
            Self::Layered(io) => io.poll_write(cx, data),
            Self::Tls(tls) => tls.poll_write(cx, data),
        }
    }

    pub(crate) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => system::poll_write_vectored(stream, cx, parts),
            Self::Unix(stream) => system::poll_write_vectored(stream, cx, parts),
            Self::Layered(io) => {
                let first = parts.iter().find(|part| !part.is_empty());
                io.poll_write(cx, first.map_or(&[][..], |part| part))
            }
            Self::Tls(tls) => tls.poll_write_vectored(cx, parts),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Layered(io) => io.poll_flush(cx),
            Self::Tls(tls) => tls.poll_flush(cx),
        }
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Layered(io) => io.poll_shutdown(cx),
            Self::Tls(tls) => tls.poll_shutdown(cx),
        }
    }
}

/// A connected socket. All methods take `&self`: a connection's two directions share it.
pub struct Socket {
    io: RefCell<Io>,
    input: RefCell<ReadBuffer>,
    received: Cell<u64>,
    sent: Cell<u64>,
    ended: Cell<bool>,
    /// The task that the runtime wakes when something arrives, by the address that its waker has; 0: none for sure.
    awaited_by: Cell<usize>,
}

impl Socket {
    /// A socket from which nothing was read yet.
    pub fn new(io: Io) -> Self {
        Self {
            io: RefCell::new(io),
            input: RefCell::new(ReadBuffer::new()),
            received: Cell::new(0),
            sent: Cell::new(0),
            ended: Cell::new(false),
            awaited_by: Cell::new(0),
        }
    }

    /// Octets received so far.
    pub fn bytes_received(&self) -> u64 {
        self.received.get()
    }

    /// Octets sent so far.
    pub fn bytes_sent(&self) -> u64 {
        self.sent.get()
    }

    /// Whether the peer has sent its last.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Runs `f` on the bytes that were read and not used; it says how many it uses up. `f` must not read from or wait
    /// for this socket.
    pub fn with_input<R>(&self, f: impl FnOnce(&[u8]) -> (usize, R)) -> R {
        let mut input = self.input.borrow_mut();
        let (used, result) = f(input.unread());
        input.consume(used);
        result
    }

    /// Takes the bytes that were read and not used.
    pub fn take_input(&self) -> ReadBuffer {
        self.input.take()
    }

    /// How many bytes were read and not used.
    pub fn buffered(&self) -> usize {
        self.input.borrow().unread().len()
    }

    /// Reads what has arrived behind what is unused, of which there are `max` octets at most. 0: the peer has sent
    /// its last, or there are `max` already.
    pub fn poll_fill(&self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<usize>> {
        let mut io = self.io.borrow_mut();
        ready!(self.poll_arrival(&io, cx))?;
        let read = ready!(self.input.borrow_mut().poll_fill(max, |room| io.poll_read(cx, room)))?;
        if let Some(read) = read {
            self.received.set(self.received.get() + read as u64);
            self.ended.set(read == 0);
        }
        Poll::Ready(Ok(read.unwrap_or(0)))
    }

    /// Reads into memory of the caller's: first what was read and not used.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.buffered() > 0 {
            return Poll::Ready(Ok(self.with_input(|bytes| {
                let take = bytes.len().min(buf.len());
                if let (Some(room), Some(bytes)) = (buf.get_mut(..take), bytes.get(..take)) {
                    room.copy_from_slice(bytes);
                }
                (take, take)
            })));
        }
        if self.has_ended() {
            return Poll::Ready(Ok(0));
        }
        let read = ready!(self.io.borrow_mut().poll_read(cx, buf))?;
        self.received.set(self.received.get() + read as u64);
        self.ended.set(read == 0 && !buf.is_empty());
        Poll::Ready(Ok(read))
    }

    /// Ready when a read may find something. A task is polled for many reasons: while nothing has arrived since it was
    /// told to wait, it need not be noted again, which takes a lock.
    fn poll_arrival(&self, io: &Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A waker that is registered lives, so its address is nobody else's.
        let task = cx.waker().data().addr();
        let awaited_by = self.awaited_by.take();
        if !io.is_quiet() {
            return Poll::Ready(Ok(()));
        }
        if awaited_by != task {
            // Without budget the runtime registers nothing: it calls again.
            let is_registered = coop::has_budget_remaining();
            if io.poll_read_ready(cx)?.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if !is_registered {
                return Poll::Pending;
            }
        }
        self.awaited_by.set(task);
        Poll::Pending
    }

    /// [`Self::poll_fill`] as a future.
    pub async fn fill(&self, max: usize) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx, max)).await
    }

    /// Writes a part of `data`.
    pub fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.io.borrow_mut().poll_write(cx, data))?;
        self.note_sent(written)
    }

    /// Writes a part of `parts`.
    pub fn poll_write_vectored(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = ready!(self.io.borrow_mut().poll_write_vectored(cx, parts))?;
        self.note_sent(written)
    }

    fn note_sent(&self, written: usize) -> Poll<io::Result<usize>> {
        self.sent.set(self.sent.get() + written as u64);
        Poll::Ready(if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) })
    }

    /// Writes `data`, of which `done` octets were written before; ready when all are. The caller keeps `done`.
    pub fn poll_write_all(&self, cx: &mut Context<'_>, data: &[u8], done: &mut usize) -> Poll<io::Result<()>> {
        while let Some(rest) = data.get(*done..).filter(|rest| !rest.is_empty()) {
            *done += ready!(self.poll_write(cx, rest))?;
        }
        self.poll_flush(cx)
    }

    /// Sends what the transport holds back: one that encrypts may hold some.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.borrow_mut().poll_flush(cx)
    }

    /// Writes everything.
    pub async fn write_all(&self, data: &[u8]) -> io::Result<()> {
        let mut done = 0;
        poll_fn(|cx| self.poll_write_all(cx, data, &mut done)).await
    }

    /// Half-close: the peer reads an end behind what was written.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.borrow_mut().poll_shutdown(cx)
    }

    /// [`Self::poll_shutdown`] as a future.
    pub async fn shutdown(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// Makes the close that follows a reset: what was not delivered is thrown away.
    pub fn reset_on_close(&self) {
        if let Io::Tcp(stream) = self.io.borrow().transport() {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// For a connection that waits for nothing: whether the peer has closed it or sent something unasked, of which an
    /// octet is lost. Costs no system call while nothing has arrived.
    pub fn is_stale(&self) -> bool {
        self.awaited_by.set(0);
        self.ended.get() || self.buffered() > 0 || self.io.borrow_mut().has_input()
    }

    /// Gives the transport and the bytes that were read and not used.
    pub fn into_parts(self) -> (Io, ReadBuffer) {
        (self.io.into_inner(), self.input.into_inner())
    }

    /// The same from parts: bytes that were read by somebody else come first.
    pub fn from_parts(io: Io, input: ReadBuffer) -> Self {
        let socket = Self::new(io);
        socket.received.set(input.unread().len() as u64);
        *socket.input.borrow_mut() = input;
        socket
    }

    /// Runs `f` on the transport, below TLS: for socket options and addresses.
    pub fn with_io<R>(&self, f: impl FnOnce(&Io) -> R) -> R {
        f(self.io.borrow().transport())
    }
}
