//! Writing messages to a socket.

use crate::{
    buffer::{SMALL, WriteBuffer},
    socket::Socket,
    wire::WriteError,
};
use sota_codec::http1::{BodyLength, ChunkHead, LAST_CHUNK, encode_trailers};
use sota_config::http::HeaderKeyFormat;
use sota_plugin::http::Headers;
use std::{
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

/// Data up to this size is copied behind what waits already: cheaper than a slice of its own.
const COPIED: usize = 4096;

/// Frames messages and writes them. What is small is collected and leaves with the next large piece or with
/// [`Self::poll_flush`]; what is large is written from where it lies.
#[derive(Default)]
pub struct Writer {
    /// Waits to be written. `None`: nothing, and no memory.
    out: Option<WriteBuffer>,
    /// Octets written of `out` and, with `in_data`, of the data behind it and of its tail.
    sent: usize,
    /// [`Self::poll_data`] is under way.
    in_data: bool,
    framing: Framing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Framing {
    /// No body, or it is complete.
    #[default]
    Done,
    /// So many octets are to come.
    Length(u64),
    Chunked,
    /// Until the connection is closed.
    Raw,
}

impl Writer {
    /// Writes a head with `encode`, whose body is framed like this.
    pub fn head(&mut self, body: BodyLength, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(self.out());
        self.framing = match body {
            BodyLength::Empty => Framing::Done,
            BodyLength::Length(length) => Framing::Length(length),
            BodyLength::Chunked => Framing::Chunked,
            BodyLength::UntilClose | BodyLength::Tunnel => Framing::Raw,
        };
    }

    /// Writes a whole message without a body: an informational response.
    pub fn interim(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(self.out());
    }

    /// What is written from now on has no frame.
    pub fn open_tunnel(&mut self) {
        self.framing = Framing::Raw;
    }

    /// Octets that wait to be written.
    pub fn waiting(&self) -> usize {
        self.out.as_ref().map_or(0, |out| out.len())
    }

    /// Writes data. While it is pending, call again with the same data.
    pub fn poll_data(&mut self, cx: &mut Context<'_>, socket: &Socket, data: &[u8]) -> Poll<Result<(), WriteError>> {
        if data.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if !self.in_data {
            if self.waiting() >= SMALL {
                ready!(self.poll_flush(cx, socket))?;
            }
            match &mut self.framing {
                Framing::Done => return Poll::Ready(Err(WriteError::Length)),
                Framing::Length(left) => {
                    *left = left.checked_sub(data.len() as u64).ok_or(WriteError::Length)?;
                }
                Framing::Chunked | Framing::Raw => {}
            }
            let chunked = self.framing == Framing::Chunked;
            if chunked {
                self.out().extend_from_slice(ChunkHead::new(data.len()).as_bytes());
            }
            if data.len() <= COPIED {
                let out = self.out();
                out.extend_from_slice(data);
                out.extend_from_slice(if chunked { b"\r\n" } else { b"" });
                return Poll::Ready(Ok(()));
            }
            self.in_data = true;
        }
        let out = self.out.as_ref().map_or(&[][..], |out| out);
        let tail: &[u8] = if self.framing == Framing::Chunked { b"\r\n" } else { b"" };
        let total = out.len() + data.len() + tail.len();
        while self.sent < total {
            let parts = rest_of([out, data, tail], self.sent);
            self.sent += ready!(socket.poll_write_vectored(cx, &parts))?;
        }
        self.in_data = false;
        self.clear();
        Poll::Ready(Ok(()))
    }

    /// Ends the message, with trailers where the framing has room for them.
    pub fn end(&mut self, trailers: Option<&Headers>, names: HeaderKeyFormat) -> Result<(), WriteError> {
        match std::mem::take(&mut self.framing) {
            Framing::Done | Framing::Length(0) | Framing::Raw => {}
            Framing::Length(_) => return Err(WriteError::Length),
            Framing::Chunked => match trailers {
                Some(trailers) if !trailers.is_empty() => encode_trailers(trailers, names, self.out()),
                _ => self.out().extend_from_slice(LAST_CHUNK),
            },
        }
        Ok(())
    }

    /// Writes what waits. Pending as long as [`Self::poll_data`] is, and then woken with it.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, socket: &Socket) -> Poll<io::Result<()>> {
        if self.in_data {
            return Poll::Pending;
        }
        if let Some(out) = &self.out {
            ready!(socket.poll_write_all(cx, out, &mut self.sent))?;
            self.clear();
        }
        socket.poll_flush(cx)
    }

    fn out(&mut self) -> &mut WriteBuffer {
        self.out.get_or_insert_with(WriteBuffer::new)
    }

    fn clear(&mut self) {
        self.out = None;
        self.sent = 0;
    }
}

/// What is left of three slices when `sent` octets of them are gone.
fn rest_of(parts: [&[u8]; 3], mut sent: usize) -> [IoSlice<'_>; 3] {
    parts.map(|part| {
        let gone = sent.min(part.len());
        sent -= gone;
        IoSlice::new(part.get(gone..).unwrap_or_default())
    })
}
