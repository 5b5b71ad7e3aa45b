//! The body of a request on its way out, kept for another attempt where there may be one.

use bytes::Bytes;
use sota_plugin::http::Headers;
use std::collections::VecDeque;

/// What comes behind the head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    /// Nothing.
    Nothing,
    /// A body.
    Body,
    /// A tunnel, once the host agrees.
    Tunnel,
}

/// Data that the router was given. While it is kept, another attempt can send it anew: clones of `Bytes`, no copies.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    chunks: VecDeque<Bytes>,
    /// Octets of all chunks.
    size: usize,
    /// Chunks stay when they were sent.
    keeps: bool,
    /// There is no body but a tunnel.
    is_tunnel: bool,
    /// Something was sent that is not there any more.
    is_lost: bool,
    ended: bool,
    trailers: Option<Box<Headers>>,
}

impl Outgoing {
    /// `keeps`: until told otherwise, what was sent is kept.
    pub(super) fn new(behind: Behind, keeps: bool) -> Self {
        let ended = behind == Behind::Nothing;
        Self { ended, keeps: keeps && !ended, is_tunnel: behind == Behind::Tunnel, ..Self::default() }
    }

    /// What comes behind the head, as far as that is known.
    pub(super) fn behind(&self) -> Behind {
        match self.is_empty() {
            _ if self.is_tunnel => Behind::Tunnel,
            true => Behind::Nothing,
            false => Behind::Body,
        }
    }

    /// Whether what is given is kept.
    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }

    /// Octets that are held.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Data that the router was given.
    pub(super) fn push(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.size += data.len();
            self.chunks.push_back(data);
        }
    }

    /// Data went out without having been here.
    pub(super) fn note_passed(&mut self) {
        self.is_lost = true;
    }

    /// The request is whole.
    pub(super) fn end(&mut self, trailers: Option<Box<Headers>>) {
        self.ended = true;
        self.trailers = trailers;
    }

    /// Whether the end is known.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether there is no data and no trailers behind the head.
    pub(super) fn is_empty(&self) -> bool {
        self.ended && self.chunks.is_empty() && self.trailers.is_none() && !self.is_lost
    }

    /// The trailers, once the end is known.
    pub(super) fn trailers(&self) -> Option<&Headers> {
        self.trailers.as_deref()
    }

    /// What is to be sent next by an attempt that has sent so many chunks.
    pub(super) fn current(&self, next: usize) -> Option<&Bytes> {
        self.chunks.get(next)
    }

    /// [`Self::current`] was sent.
    pub(super) fn advance(&mut self, next: &mut usize) {
        if self.keeps {
            *next += 1;
        } else if let Some(sent) = self.chunks.pop_front() {
            self.size -= sent.len();
            self.is_lost = true;
        }
    }

    /// Whether everything can be sent once more.
    pub(super) fn can_rewind(&self) -> bool {
        !self.is_lost
    }

    /// There will be no other attempt than the one that has sent so many chunks: what was sent is let go.
    pub(super) fn stop_keeping(&mut self, next: &mut usize) {
        self.keeps = false;
        for sent in self.chunks.drain(..std::mem::take(next).min(self.chunks.len())) {
            self.size -= sent.len();
            self.is_lost = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_data_is_sent_again_and_let_go() {
        let mut body = Outgoing::new(Behind::Body, true);
        body.push(Bytes::from_static(b"ab"));
        body.push(Bytes::from_static(b"c"));
        let (mut first, mut second) = (0, 0);
        body.advance(&mut first);
        assert_eq!(body.current(first).map(|data| &data[..]), Some(&b"c"[..]));
        assert!(body.can_rewind());
        assert_eq!((body.current(second).map(|data| data.len()), body.size()), (Some(2), 3));
        body.advance(&mut second);
        body.stop_keeping(&mut second);
        assert_eq!((second, body.size(), body.can_rewind()), (0, 1, false));
        assert_eq!(body.current(second).map(|data| data.len()), Some(1));
        body.advance(&mut second);
        assert!(body.current(second).is_none() && !body.is_empty());
    }

    #[test]
    fn a_request_without_body_can_always_be_sent_again() {
        let body = Outgoing::new(Behind::Nothing, true);
        assert!(body.is_empty() && body.can_rewind() && !body.keeps());
    }
}
