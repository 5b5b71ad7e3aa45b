//! The state of one stream (RFC 9113 §5.1), and the map of them.

use super::{StreamId, message::Answers};
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// What a direction has seen or sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Half {
    /// No final head yet.
    Head,
    /// The head; data and trailers may follow.
    Body,
    /// The end.
    Ended,
}

/// Whether the user waits to send data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    No,
    /// For the stream's own window.
    Window,
    /// In the connection's queue: for its window, for room in the output, or only to be told.
    Queued,
}

/// One stream. Windows may be negative (RFC 9113 §6.9.2).
#[derive(Debug)]
pub(super) struct Stream {
    /// What we may send.
    pub(super) send_window: i32,
    /// What the peer may send.
    pub(super) recv_window: i32,
    /// Octets that the user has and did not release.
    pub(super) unreleased: u32,
    /// Octets that were released and not given back to the peer yet.
    pub(super) released: u32,
    /// Octets that must still come by `content-length`.
    pub(super) body_left: Option<u64>,
    /// When it was opened, by the user's coarse time.
    pub(super) opened_at: u32,
    pub(super) recv: Half,
    pub(super) send: Half,
    pub(super) waiting: Waiting,
    /// What the request was.
    pub(super) answers: Answers,
    /// The request is an extended CONNECT, which the user sees as an HTTP/1 upgrade.
    pub(super) is_upgrade: bool,
    /// CONNECT was accepted: there are neither heads nor trailers any more (RFC 9113 §8.5).
    pub(super) is_tunnel: bool,
    /// Client: what the request wanted to upgrade to.
    pub(super) protocol: Option<Box<[u8]>>,
}

impl Stream {
    pub(super) fn new(send_window: i32, recv_window: i32, opened_at: u32) -> Self {
        Self {
            send_window,
            recv_window,
            unreleased: 0,
            released: 0,
            body_left: None,
            opened_at,
            recv: Half::Head,
            send: Half::Head,
            waiting: Waiting::No,
            answers: Answers::default(),
            is_upgrade: false,
            is_tunnel: false,
            protocol: None,
        }
    }

    /// Both directions have ended.
    pub(super) fn is_closed(&self) -> bool {
        self.recv == Half::Ended && self.send == Half::Ended
    }
}

/// Open streams, and closed ones of which the user still holds data.
#[derive(Debug, Default)]
pub(super) struct Streams {
    map: HashMap<StreamId, Stream, BuildHasherDefault<IdHasher>>,
    /// Streams that are not closed.
    live: u32,
}

/// With more room than this an empty map is freed.
const KEPT_ROOM: usize = 7;

impl Streams {
    #[inline]
    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.map.get_mut(&id)
    }

    #[inline]
    pub(super) fn get(&self, id: StreamId) -> Option<&Stream> {
        self.map.get(&id)
    }

    /// Streams of which at least one direction is open.
    pub(super) fn live(&self) -> u32 {
        self.live
    }

    pub(super) fn insert(&mut self, id: StreamId, stream: Stream) {
        self.live += 1;
        self.map.insert(id, stream);
    }

    /// Takes a stream out, whatever its state.
    pub(super) fn remove(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.map.remove(&id)?;
        self.live -= u32::from(!stream.is_closed());
        if self.map.is_empty() && self.map.capacity() > KEPT_ROOM {
            self.map = HashMap::default();
        }
        Some(stream)
    }

    /// Ends directions of a stream; says whether it closed just now. It stays while the user holds data of it.
    pub(super) fn end(&mut self, id: StreamId, recv: bool, send: bool) -> bool {
        let Some(stream) = self.map.get_mut(&id).filter(|stream| !stream.is_closed()) else { return false };
        if recv {
            stream.recv = Half::Ended;
        }
        if send {
            stream.send = Half::Ended;
        }
        if !stream.is_closed() {
            return false;
        }
        self.live -= 1;
        if stream.unreleased == 0 {
            self.remove(id);
        }
        true
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (StreamId, &mut Stream)> {
        self.map.iter_mut().map(|(id, stream)| (*id, stream))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = StreamId> {
        self.map.keys().copied()
    }

    /// Frees what an empty map owns.
    pub(super) fn trim(&mut self) {
        if self.map.is_empty() {
            self.map = HashMap::default();
        }
    }

    /// Octets of memory, about.
    pub(super) fn memory(&self) -> usize {
        self.map.capacity() * (size_of::<(StreamId, Stream)>() + 2)
    }
}

/// For maps by [`StreamId`]: identifiers count up, so one multiplication spreads them.
#[derive(Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        for octet in octets {
            self.write_u32(u32::from(*octet));
        }
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0 ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
