//! Reading a body from a socket.

use crate::{
    buffer::{LARGE, SMALL},
    socket::Socket,
    wire::{BodyError, Part},
};
use bytes::Bytes;
use sota_codec::http1::{BodyDecoder, BodyEvent, BodyLength, DecodeOptions, Http1Error};
use std::task::{Context, Poll, ready};

/// Takes a body apart. Holds no data: that stays in the socket's input.
#[derive(Debug)]
pub struct BodyReader {
    decoder: BodyDecoder,
    /// Octets of data at the front of the socket's input.
    pending: usize,
    /// How much is read at once, and how much at most.
    block: usize,
    largest: usize,
    received: u64,
}

impl BodyReader {
    /// A reader behind the head. `limit`: the connection's buffer limit in octets.
    pub fn new(length: BodyLength, options: &DecodeOptions, limit: usize) -> Self {
        let largest = limit.clamp(SMALL, LARGE);
        let block = match length {
            BodyLength::Length(length) if length > SMALL as u64 => largest,
            _ => SMALL,
        };
        Self { decoder: BodyDecoder::new(length, options), pending: 0, block, largest, received: 0 }
    }

    /// Whether the whole message was taken.
    pub fn is_complete(&self) -> bool {
        self.pending == 0 && self.decoder.is_complete()
    }

    /// Octets of data so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// What is there already; `None` when more has to be read.
    pub fn next_part(&mut self, socket: &Socket) -> Result<Option<Part>, Http1Error> {
        if self.pending > 0 {
            return Ok(Some(Part::Data(self.pending)));
        }
        let decoder = &mut self.decoder;
        let part = socket.with_input(|input| match decoder.decode(input) {
            Ok((used, BodyEvent::Data(data))) => (used - data.len(), Ok(Some(Part::Data(data.len())))),
            Ok((used, BodyEvent::Trailers(trailers))) => (used, Ok(Some(Part::Trailers(trailers)))),
            Ok((used, BodyEvent::End)) => (used, Ok(Some(Part::End))),
            Ok((used, BodyEvent::NeedMore)) => (used, Ok(None)),
            Err(error) => (0, Err(error)),
        })?;
        if let Some(Part::Data(n)) = part {
            self.pending = n;
            self.received += n as u64;
        }
        Ok(part)
    }

    /// What comes next; reads from the socket only when nothing is there.
    pub fn poll_part(&mut self, cx: &mut Context<'_>, socket: &Socket) -> Poll<Result<Part, BodyError>> {
        loop {
            if let Some(part) = self.next_part(socket)? {
                return Poll::Ready(Ok(part));
            }
            let read = ready!(socket.poll_fill(cx, self.block))?;
            if read == 0 {
                self.decoder.finish()?;
                return Poll::Ready(Ok(Part::End));
            }
            if read >= SMALL / 2 {
                self.block = self.largest;
            }
        }
    }

    /// Runs `f` on the data that [`Part::Data`] told of; it says how much of it is used up.
    pub fn with_data<R>(&mut self, socket: &Socket, f: impl FnOnce(&[u8]) -> (usize, R)) -> R {
        let pending = self.pending;
        let (used, result) = socket.with_input(|input| {
            let (used, result) = f(input.get(..pending).unwrap_or_default());
            let used = used.min(pending);
            (used, (used, result))
        });
        self.pending -= used;
        result
    }

    /// Copies the data that [`Part::Data`] told of.
    pub fn take_data(&mut self, socket: &Socket) -> Bytes {
        self.with_data(socket, |data| (data.len(), Bytes::copy_from_slice(data)))
    }
}
