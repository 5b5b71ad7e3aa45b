//! Network filters between a socket and the terminal filter. To the terminal filter they look like a transport.

use crate::socket::Socket;
use bytes::BytesMut;
use sota_plugin::{
    LocalFuture,
    cx::WorkerCx,
    filter::{ConnectionCx, ConnectionIo, NetworkFilter, NetworkStatus},
    info::ConnectionInfo,
};
use std::{
    future::ready,
    io,
    rc::Rc,
    task::{self, Context, Poll},
};

/// Octets that are read from the socket in one go.
const READ_SIZE: usize = 16 * 1024;

/// A socket with filters in front.
pub(super) struct FilteredIo {
    socket: Socket,
    filters: Vec<Stage>,
    info: Rc<ConnectionInfo>,
    worker: WorkerCx,
    limit: usize,
    /// Passed by all filters, for the terminal.
    readable: BytesMut,
    /// Passed by all filters, for the socket.
    writable: BytesMut,
    /// The client's end has passed the filters.
    read_end: bool,
    /// The terminal's end has passed the filters.
    write_end: bool,
    /// Nothing is read any more, and this ends the connection.
    closing: Option<LocalFuture<()>>,
}

/// A filter with the bytes that it holds in each direction.
struct Stage {
    filter: Box<dyn NetworkFilter>,
    held_in: BytesMut,
    held_out: BytesMut,
}

impl FilteredIo {
    /// Tells every filter of the connection. An error: one of them closes it, once this is ready.
    pub(super) fn new(
        filters: Vec<Box<dyn NetworkFilter>>,
        socket: Socket,
        info: Rc<ConnectionInfo>,
        worker: WorkerCx,
        limit: usize,
    ) -> Result<Self, LocalFuture<()>> {
        let stage = |filter| Stage { filter, held_in: BytesMut::new(), held_out: BytesMut::new() };
        let filters = filters.into_iter().map(stage).collect();
        let mut io = Self {
            socket,
            filters,
            info,
            worker,
            limit,
            readable: BytesMut::new(),
            writable: BytesMut::new(),
            read_end: false,
            write_end: false,
            closing: None,
        };
        for stage in &mut io.filters {
            let mut cx = ConnectionCx { info: &io.info, worker: &io.worker };
            match stage.filter.on_new_connection(&mut cx) {
                NetworkStatus::Close => return Err(Box::pin(ready(()))),
                NetworkStatus::CloseAfter(delay) => {
                    let sleep = io.worker.sleep(delay);
                    return Err(Box::pin(async move {
                        sleep.await;
                        // Until now nobody has read from it.
                        drop(io);
                    }));
                }
                NetworkStatus::Continue | NetworkStatus::StopIteration => {}
            }
        }
        Ok(io)
    }

    /// Sends bytes from the client through the filters.
    fn filter_in(&mut self, data: BytesMut, end: bool) -> io::Result<()> {
        let mut data = data;
        let mut cx = ConnectionCx { info: &self.info, worker: &self.worker };
        for stage in &mut self.filters {
            stage.held_in.unsplit(data);
            match stage.filter.on_data(&mut stage.held_in, end, &mut cx) {
                NetworkStatus::Continue => data = stage.held_in.split(),
                NetworkStatus::StopIteration => return within(stage.held_in.len(), self.limit),
                NetworkStatus::Close => return Err(io::ErrorKind::ConnectionAborted.into()),
                NetworkStatus::CloseAfter(delay) => {
                    self.closing = Some(self.worker.sleep(delay));
                    return Ok(());
                }
            }
        }
        self.readable.unsplit(data);
        self.read_end = end;
        Ok(())
    }

    /// Sends bytes to the client through the filters, the last one first.
    fn filter_out(&mut self, data: BytesMut, end: bool) -> io::Result<()> {
        let mut data = data;
        let mut cx = ConnectionCx { info: &self.info, worker: &self.worker };
        for stage in self.filters.iter_mut().rev() {
            stage.held_out.unsplit(data);
            match stage.filter.on_write(&mut stage.held_out, end, &mut cx) {
                NetworkStatus::Continue => data = stage.held_out.split(),
                NetworkStatus::StopIteration => return within(stage.held_out.len(), self.limit),
                NetworkStatus::Close | NetworkStatus::CloseAfter(_) => {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
        }
        self.writable.unsplit(data);
        Ok(())
    }

    fn poll_drain_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.writable.is_empty() {
            let written = task::ready!(self.socket.poll_write(cx, &self.writable))?;
            let _ = self.writable.split_to(written.min(self.writable.len()));
        }
        Poll::Ready(Ok(()))
    }
}

/// A filter that holds more than the connection may buffer ends the connection: nobody would ever see those bytes.
fn within(held: usize, limit: usize) -> io::Result<()> {
    if held > limit { Err(io::Error::other("a network filter holds more than the buffer limit")) } else { Ok(()) }
}

impl ConnectionIo for FilteredIo {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        while self.readable.is_empty() && !self.read_end {
            if let Some(closing) = &mut self.closing {
                task::ready!(closing.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            let read = if self.socket.buffered() > 0 { 1 } else { task::ready!(self.socket.poll_fill(cx, READ_SIZE))? };
            let data = self.socket.with_input(|bytes| (bytes.len(), BytesMut::from(bytes)));
            self.filter_in(data, read == 0)?;
            if self.closing.is_some() {
                continue;
            }
            if read == 0 && !self.read_end {
                // A filter keeps its bytes for ever: the end is the end.
                return Poll::Ready(Ok(0));
            }
        }
        let take = self.readable.len().min(buf.len());
        let taken = self.readable.split_to(take);
        if let Some(room) = buf.get_mut(..take) {
            room.copy_from_slice(&taken);
        }
        Poll::Ready(Ok(take))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        task::ready!(self.poll_drain_writable(cx))?;
        self.filter_out(BytesMut::from(buf), false)?;
        // They are taken: what the socket does not want yet is sent before the next.
        let _ = self.poll_drain_writable(cx)?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain_writable(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.write_end {
            self.write_end = true;
            self.filter_out(BytesMut::new(), true)?;
        }
        task::ready!(self.poll_drain_writable(cx))?;
        self.socket.poll_shutdown(cx)
    }
}
