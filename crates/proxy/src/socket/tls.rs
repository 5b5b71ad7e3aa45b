//! A transport with TLS on it. From the handshake on, this is all there is.

use super::Io;
use crate::buffer::ReadBuffer;
use rustls::Connection;
use std::{
    io::{self, IoSlice, Read, Write},
    task::{Context, Poll, ready},
};

/// A connection that is encrypted. What the library holds is bounded: a record that arrives, what was decrypted of it,
/// and 64 KiB that wait to be sent.
pub struct TlsStream {
    wire: Wire,
    session: Connection,
    /// The peer has said that it sends no more.
    ended: bool,
}

impl TlsStream {
    pub(crate) fn new(wire: Wire, session: Connection) -> Self {
        Self { wire, session, ended: false }
    }

    /// What is below.
    pub fn transport(&self) -> &Io {
        &self.wire.io
    }

    /// Reads what was decrypted. An end without a farewell is an error: somebody may have cut the rest off.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.session.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) if !buf.is_empty() => {
                    self.ended = true;
                    return Poll::Ready(Ok(0));
                }
                result => return Poll::Ready(result),
            }
            ready!(self.wire.poll(cx, |wire| self.session.read_tls(wire)))?;
            let processed = self.session.process_new_packets();
            // Alerts and answers to what is no data; a peer that does not read must not keep us from reading.
            if self.session.wants_write() {
                let _ = self.poll_send(cx)?;
            }
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    /// Encrypts a part of `data` and begins to send it.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |session| session.writer().write(data))
    }

    /// The same of several parts, which share records.
    pub(crate) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |session| session.writer().write_vectored(parts))
    }

    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut Connection) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        // One portion waits at most: otherwise a slow peer would make us hold the data twice.
        ready!(self.poll_send(cx))?;
        let written = write(&mut self.session)?;
        let _ = self.poll_send(cx)?;
        Poll::Ready(Ok(written))
    }

    /// Sends what was encrypted.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let sent = ready!(self.wire.poll(cx, |wire| self.session.write_tls(wire)))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Says that nothing follows, and half-closes.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended || self.session.wants_write() {
            self.session.send_close_notify();
        }
        ready!(self.poll_send(cx))?;
        self.wire.io.poll_shutdown(cx)
    }
}

/// A transport with what was read from it before.
pub(crate) struct Wire {
    io: Io,
    early: ReadBuffer,
}

impl Wire {
    pub(crate) fn new(io: Io, early: ReadBuffer) -> Self {
        Self { io, early }
    }

    /// Lets the library read or write; pending where it would have to wait.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        f: impl FnOnce(&mut Blocking<'_, '_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        match f(&mut Blocking { wire: self, cx }) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }
}

/// A transport as the library wants it: `WouldBlock` where it is pending.
pub(crate) struct Blocking<'w, 'c> {
    wire: &'w mut Wire,
    cx: &'w mut Context<'c>,
}

fn or_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Read for Blocking<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let early = self.wire.early.unread();
        let take = early.len().min(buf.len());
        if let (Some(room), Some(bytes)) = (buf.get_mut(..take), early.get(..take))
            && take > 0
        {
            room.copy_from_slice(bytes);
            self.wire.early.consume(take);
            return Ok(take);
        }
        or_block(self.wire.io.poll_read(self.cx, buf))
    }
}

impl Write for Blocking<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        or_block(self.wire.io.poll_write(self.cx, buf))
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        or_block(self.wire.io.poll_write_vectored(self.cx, parts))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
