//! The two directions of a stream.

use super::{
    ConnectionIo,
    clock::{Clock, Wait},
};
use crate::{cx::WorkerCx, stats::Counter};
use bytes::BytesMut;
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::{Error, ErrorKind, IoSlice, Result},
    rc::Rc,
    task::{Context, Poll, ready},
};

/// Octets that are read in one go.
const READ_SIZE: usize = 64 * 1024;

thread_local! {
    /// Where reads go first, so that a connection that waits holds no buffer.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What both directions have in common.
pub(super) struct Shared {
    pub(super) io: RefCell<Box<dyn ConnectionIo>>,
    pub(super) worker: WorkerCx,
    pub(super) limit: usize,
    pub(super) clock: Clock,
    pub(super) read: Cell<u64>,
    pub(super) written: Cell<u64>,
    /// Counters of octets read and written.
    pub(super) meter: RefCell<Option<Box<(Counter, Counter)>>>,
}

impl Shared {
    pub(super) fn new(io: Box<dyn ConnectionIo>, worker: WorkerCx, limit: usize) -> Self {
        let io = RefCell::new(io);
        let (read, written) = (Cell::new(0), Cell::new(0));
        Self { io, worker, limit, clock: Clock::default(), read, written, meter: RefCell::default() }
    }

    fn count_read(&self, octets: usize) {
        self.read.set(self.read.get() + octets as u64);
        if let Some(meter) = &*self.meter.borrow() {
            meter.0.add(octets as u64);
        }
    }

    fn count_written(&self, octets: usize) {
        self.written.set(self.written.get() + octets as u64);
        if let Some(meter) = &*self.meter.borrow() {
            meter.1.add(octets as u64);
        }
    }

    /// Does I/O under the timeouts.
    fn poll_io<T>(
        &self,
        wait: &mut Wait,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut dyn ConnectionIo, &mut Context<'_>) -> Poll<Result<T>>,
    ) -> Poll<Result<T>> {
        let result = act(&mut **self.io.borrow_mut(), cx);
        if result.is_ready() {
            self.clock.note_moved();
            return result;
        }
        ready!(wait.poll_expired(&self.clock, &self.worker, cx));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

/// The direction from the peer.
pub struct ReadHalf {
    shared: Rc<Shared>,
    buffer: BytesMut,
    wait: Wait,
}

impl ReadHalf {
    pub(super) fn new(shared: &Rc<Shared>) -> Self {
        Self { shared: Rc::clone(shared), buffer: BytesMut::new(), wait: Wait::default() }
    }

    pub(super) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    /// What has arrived and was not used.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// As [`Stream::fill`](super::Stream::fill).
    pub async fn fill(&mut self) -> Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// [`Self::fill`] for futures that are written by hand.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize>> {
        let room = self.shared.limit.saturating_sub(self.buffer.len());
        if room == 0 {
            return Poll::Ready(Err(Error::new(ErrorKind::InvalidData, "more than the buffer limit")));
        }
        let Self { shared, buffer, wait } = self;
        // Taken, not borrowed: a transport may be made of another stream.
        let mut scratch = SCRATCH.take();
        scratch.resize(READ_SIZE, 0);
        let space = scratch.get_mut(..room.min(READ_SIZE)).unwrap_or_default();
        let result = shared.poll_io(wait, cx, |io, cx| io.poll_read(cx, space));
        match &result {
            Poll::Ready(Ok(read)) => buffer.extend_from_slice(scratch.get(..*read).unwrap_or_default()),
            // Whatever memory it had: nobody knows for how long nothing comes.
            Poll::Pending if buffer.is_empty() => *buffer = BytesMut::new(),
            _ => {}
        }
        SCRATCH.set(scratch);
        let read = ready!(result)?;
        shared.count_read(read);
        Poll::Ready(Ok(read))
    }

    /// As [`Stream::read`](super::Stream::read).
    pub async fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// [`Self::read`] for futures that are written by hand.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize>> {
        let Self { shared, buffer, wait } = self;
        if buffer.is_empty() {
            let read = ready!(shared.poll_io(wait, cx, |io, cx| io.poll_read(cx, buf)))?;
            shared.count_read(read);
            return Poll::Ready(Ok(read));
        }
        let take = buf.len().min(buffer.len());
        let taken = buffer.split_to(take);
        if let Some(room) = buf.get_mut(..take) {
            room.copy_from_slice(&taken);
        }
        Poll::Ready(Ok(take))
    }

    /// As [`Stream::read_line`](super::Stream::read_line).
    pub async fn read_line(&mut self, max: usize) -> Result<Option<Vec<u8>>> {
        let mut seen = 0;
        loop {
            if let Some(end) = memchr::memchr(b'\n', self.buffer.get(seen..).unwrap_or_default()) {
                let mut line = self.buffer.split_to(seen + end + 1);
                line.truncate(seen + end);
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                return if line.len() > max { Err(line_too_long()) } else { Ok(Some(line.to_vec())) };
            }
            seen = self.buffer.len();
            // The carriage return may be there already.
            if seen > max + 1 {
                return Err(line_too_long());
            }
            if self.fill().await? == 0 {
                let line = self.buffer.split();
                return Ok(Some(line.to_vec()).filter(|line| !line.is_empty()));
            }
        }
    }
}

fn line_too_long() -> Error {
    Error::new(ErrorKind::InvalidData, "line too long")
}

/// The direction to the peer.
pub struct WriteHalf {
    shared: Rc<Shared>,
    wait: Wait,
}

impl WriteHalf {
    pub(super) fn new(shared: &Rc<Shared>) -> Self {
        Self { shared: Rc::clone(shared), wait: Wait::default() }
    }

    pub(super) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    /// As [`Stream::write_all`](super::Stream::write_all).
    pub async fn write_all(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let written = poll_fn(|cx| self.poll_write(cx, data)).await?;
            if written == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            data = data.get(written..).unwrap_or_default();
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Writes a part of `data`; pending while the peer does not read.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize>> {
        let Self { shared, wait } = self;
        let written = ready!(shared.poll_io(wait, cx, |io, cx| io.poll_write(cx, data)))?;
        shared.count_written(written);
        Poll::Ready(Ok(written))
    }

    /// Writes a part of `parts`, which follow one another, with one system call.
    pub fn poll_write_vectored(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        let Self { shared, wait } = self;
        let written = ready!(shared.poll_io(wait, cx, |io, cx| io.poll_write_vectored(cx, parts)))?;
        shared.count_written(written);
        Poll::Ready(Ok(written))
    }

    /// Sends what filters in between still hold.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { shared, wait } = self;
        shared.poll_io(wait, cx, |io, cx| io.poll_flush(cx))
    }

    /// Half-close: the peer reads an end behind what was written.
    pub async fn shutdown(&mut self) -> Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// [`Self::shutdown`] for futures that are written by hand.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { shared, wait } = self;
        shared.poll_io(wait, cx, |io, cx| io.poll_shutdown(cx))
    }
}
