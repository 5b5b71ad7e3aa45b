//! The state of a connection, and what concerns it as a whole: windows, drain, failure.

use super::{
    ConnectionError, ErrorCode, SendError, StreamId,
    flood::{Counters, Flood},
    frame::{self, MAX_31},
    hpack::{Decoder, Encoder},
    options::Options,
    output::Output,
    recv::{Block, Reading},
    settings::{self, DEFAULT_WINDOW, PeerSettings},
    stream::Streams,
};
use crate::h2_preface::PREFACE;
use std::{collections::VecDeque, sync::Arc};

/// One end of an HTTP/2 connection; see the [module](super) for the order of calls.
#[derive(Debug)]
pub struct Connection {
    pub(super) options: Arc<Options>,
    pub(super) is_client: bool,
    pub(super) output: Output,
    pub(super) encoder: Encoder,
    pub(super) decoder: Decoder,
    pub(super) streams: Streams,
    pub(super) peer: PeerSettings,
    pub(super) flood: Flood,
    pub(super) counters: Counters,
    pub(super) reading: Reading,
    /// The beginning of a frame whose rest has not arrived. Never of DATA, which is passed on as it comes.
    pub(super) partial: Vec<u8>,
    /// A field block whose CONTINUATION has not arrived.
    pub(super) block: Option<Box<Block>>,
    pub(super) failed: Option<ConnectionError>,
    /// The peer's first SETTINGS arrived.
    pub(super) settings_seen: bool,
    /// Server: the highest stream that the client opened.
    pub(super) last_peer_stream: StreamId,
    /// Client: the next stream to open.
    pub(super) next_stream: StreamId,
    /// The last stream that our GOAWAY promises to look at.
    pub(super) goaway_sent: Option<StreamId>,
    pub(super) goaway_received: Option<StreamId>,
    pub(super) send_window: i32,
    pub(super) recv_window: i32,
    /// Octets that were released and not given back to the peer yet.
    released: u32,
    /// Streams that want to send and wait for the connection.
    pub(super) queue: VecDeque<StreamId>,
    /// Streams that we reset lately: what the peer sent before it knew is ignored.
    resets: VecDeque<StreamId>,
    /// Highest stream that fell out of `resets`.
    forgotten: StreamId,
    /// Streams that the peer's GOAWAY leaves behind, to be told one by one.
    pub(super) unprocessed: Vec<StreamId>,
    /// Octets of message frames since [`Self::take_message_octets`].
    pub(super) message_octets: u64,
    pub(super) now: u32,
}

/// So many resets are remembered; frames for older ones count as in flight, too.
const REMEMBERED_RESETS: usize = 128;

impl Connection {
    /// The server's end. Its SETTINGS are in the output.
    pub fn server(options: Arc<Options>) -> Self {
        Self::new(options, false)
    }

    /// The client's end. Its preface is in the output.
    pub fn client(options: Arc<Options>) -> Self {
        Self::new(options, true)
    }

    fn new(options: Arc<Options>, is_client: bool) -> Self {
        let mut output = Output::default();
        if is_client {
            output.push_preface(PREFACE);
        }
        settings::write(&options, is_client, output.frame(false));
        let window = options.initial_connection_window.clamp(DEFAULT_WINDOW, MAX_31);
        if window > DEFAULT_WINDOW {
            frame::write_window_update(output.frame(false), 0, window - DEFAULT_WINDOW);
        }
        let mut decoder = Decoder::new();
        let table = options.hpack_table_size as usize;
        decoder.set_limit(table.max(4096));
        Self {
            encoder: Encoder::new(table),
            decoder,
            output,
            is_client,
            streams: Streams::default(),
            peer: PeerSettings::default(),
            flood: Flood::default(),
            counters: Counters::default(),
            reading: if is_client { Reading::Head } else { Reading::Preface(0) },
            partial: Vec::new(),
            block: None,
            failed: None,
            settings_seen: false,
            last_peer_stream: 0,
            next_stream: 1,
            goaway_sent: None,
            goaway_received: None,
            send_window: DEFAULT_WINDOW as i32,
            recv_window: window as i32,
            released: 0,
            queue: VecDeque::new(),
            resets: VecDeque::new(),
            forgotten: 0,
            unprocessed: Vec::new(),
            message_octets: 0,
            now: 0,
            options,
        }
    }

    /// What is to be written to the socket. Empty when there is nothing.
    #[inline]
    pub fn output(&self) -> &[u8] {
        self.output.pending()
    }

    /// So many octets of [`Self::output`] were written.
    pub fn written(&mut self, octets: usize) {
        self.output.written(octets);
    }

    /// While nothing waits to be written: swaps the connection's output memory for the caller's. A worker lends its
    /// large buffer this way before it reads and takes it back when all is written, so that an idle connection owns
    /// none. Without effect while something waits.
    pub fn swap_output_memory(&mut self, memory: &mut Vec<u8>) {
        self.output.swap_memory(memory);
    }

    /// Gives back what memory a connection without streams does not need. The HPACK tables stay.
    pub fn trim(&mut self) {
        self.output.trim();
        self.streams.trim();
        self.queue.shrink_to_fit();
        self.resets.shrink_to_fit();
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
    }

    /// Octets of memory that the connection owns beside itself, about.
    pub fn memory(&self) -> usize {
        self.output.memory()
            + self.streams.memory()
            + self.encoder.memory()
            + self.decoder.memory()
            + self.partial.capacity()
            + self.block.as_ref().map_or(0, |block| block.memory())
            + (self.queue.capacity() + self.resets.capacity() + self.unprocessed.capacity()) * size_of::<StreamId>()
    }

    /// The time in seconds from any beginning, coarse. It serves only to tell early resets from late ones; a
    /// connection that is never told holds every reset without a response for early.
    pub fn set_time(&mut self, seconds: u32) {
        self.now = seconds;
    }

    /// What the peer allows. Until its settings arrive, the protocol's defaults.
    pub fn peer_settings(&self) -> &PeerSettings {
        &self.peer
    }

    /// Whether the peer's settings have arrived.
    pub fn has_peer_settings(&self) -> bool {
        self.settings_seen
    }

    /// Streams of which at least one direction is open.
    pub fn live_streams(&self) -> u32 {
        self.streams.live()
    }

    /// How many streams a client may have open at once, as both sides say.
    pub fn stream_limit(&self) -> u32 {
        self.peer.max_concurrent_streams.min(self.options.max_concurrent_streams)
    }

    /// Whether a client may still open streams, now or when others have ended.
    pub fn takes_streams(&self) -> bool {
        matches!(self.open_error(), None | Some(SendError::TooManyStreams))
    }

    /// Whether a client may open another stream now.
    pub fn can_open(&self) -> bool {
        self.is_client && self.open_error().is_none()
    }

    /// What happened since this was last asked.
    pub fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.counters)
    }

    /// Octets of the HEADERS, CONTINUATION and DATA frames that were begun since this was last asked: those of the
    /// stream that an event is about, if it is asked at each.
    pub fn take_message_octets(&mut self) -> u64 {
        std::mem::take(&mut self.message_octets)
    }

    /// Sends PING; the answer comes as [`super::Event::Pong`] with the same payload. The caller has the clock.
    pub fn ping(&mut self, payload: [u8; 8]) {
        if self.failed.is_none() {
            frame::write_ping(self.output.frame(false), payload, false);
        }
    }

    /// First step of a drain: tells the peer to open no more streams, and still serves those that are on their way.
    pub fn notify_shutdown(&mut self) {
        if self.failed.is_none() && self.goaway_sent.is_none() {
            self.goaway_sent = Some(MAX_31);
            self.counters.goaway_graceful_sent += 1;
            frame::write_goaway(self.output.frame(false), MAX_31, ErrorCode::NO_ERROR, b"");
        }
    }

    /// Second step of a drain, about a round trip later, or the end at once: streams that the peer opens from now
    /// on are ignored, which it knows to be safe to repeat. Those that are open go on.
    pub fn go_away(&mut self, code: ErrorCode, debug: &[u8]) {
        let last = self.last_peer_stream;
        if self.failed.is_none() && self.goaway_sent.is_none_or(|sent| sent > last) {
            self.goaway_sent = Some(last);
            self.counters.goaway_sent += 1;
            frame::write_goaway(self.output.frame(false), last, code, debug);
        }
    }

    /// Whether nothing more can happen: one side has said GOAWAY for good, no stream is live and all is written.
    pub fn is_drained(&self) -> bool {
        let said = self.goaway_sent.is_some_and(|last| last < MAX_31) || self.goaway_received.is_some();
        (said || self.failed.is_some()) && self.output.len() == 0 && (self.streams.live() == 0 || self.failed.is_some())
    }

    /// Lets the peer send `octets` more: they were part of [`super::Event::Data`] and have been written or dropped.
    /// What is held back is what makes the peer wait. Without effect on a stream that was reset.
    pub fn release(&mut self, stream: StreamId, octets: usize) {
        let Some(entry) = self.streams.get_mut(stream) else { return };
        let octets = u32::try_from(octets).unwrap_or(u32::MAX).min(entry.unreleased);
        entry.unreleased -= octets;
        if entry.is_closed() && entry.unreleased == 0 {
            self.streams.remove(stream);
        }
        self.give_back(stream, octets);
    }

    /// Gives octets back to the windows of stream and connection, by WINDOW_UPDATE when half a window has come
    /// together.
    pub(super) fn give_back(&mut self, stream: StreamId, octets: u32) {
        self.give_back_connection(octets);
        if self.failed.is_some() {
            return;
        }
        let Some(entry) = self.streams.get_mut(stream).filter(|entry| entry.recv != super::stream::Half::Ended) else {
            return;
        };
        entry.released += octets;
        if entry.released >= self.options.initial_stream_window.max(DEFAULT_WINDOW) / 2 {
            frame::write_window_update(self.output.frame(false), stream, entry.released);
            entry.recv_window = entry.recv_window.saturating_add_unsigned(entry.released);
            entry.released = 0;
        }
    }

    /// The connection's window alone: for octets of streams that are gone.
    pub(super) fn give_back_connection(&mut self, octets: u32) {
        self.released += octets;
        let window = self.options.initial_connection_window.clamp(DEFAULT_WINDOW, MAX_31);
        if self.released >= window / 2 && self.failed.is_none() {
            frame::write_window_update(self.output.frame(false), 0, self.released);
            self.recv_window = self.recv_window.saturating_add_unsigned(self.released);
            self.released = 0;
        }
    }

    /// Ends a stream by RST_STREAM. What the user holds of it counts as released; on a stream that has closed that
    /// is all. A server may do this with `NO_ERROR` behind a complete response, when it does not want the rest
    /// of the request (RFC 9113 §8.1).
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        let Some(entry) = self.streams.get(stream) else { return };
        if entry.is_closed() {
            let held = entry.unreleased;
            self.streams.remove(stream);
            return self.give_back_connection(held);
        }
        self.reset_stream(stream, code);
        if !self.is_client {
            self.flood.request_over(false);
        }
    }

    /// Sends RST_STREAM and forgets the stream, if there is one.
    pub(super) fn reset_stream(&mut self, stream: StreamId, code: ErrorCode) {
        if self.failed.is_none() {
            frame::write_rst_stream(self.output.frame(true), stream, code);
            self.counters.tx_reset += 1;
        }
        self.remember_reset(stream);
        if let Some(entry) = self.streams.remove(stream) {
            self.give_back_connection(entry.unreleased);
        }
    }

    pub(super) fn remember_reset(&mut self, stream: StreamId) {
        if self.resets.len() >= REMEMBERED_RESETS
            && let Some(oldest) = self.resets.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest);
        }
        self.resets.push_back(stream);
    }

    /// Whether frames for a closed stream may have been in flight when we closed it or refused to look at it.
    pub(super) fn may_be_in_flight(&self, stream: StreamId) -> bool {
        stream <= self.forgotten
            || self.goaway_sent.is_some_and(|last| !self.is_client && stream > last)
            || self.resets.contains(&stream)
    }

    /// Whether nobody has opened this stream yet.
    pub(super) fn is_idle(&self, stream: StreamId) -> bool {
        let ours = if self.is_client { stream < self.next_stream } else { stream <= self.last_peer_stream };
        stream.is_multiple_of(2) || !ours
    }

    /// Says GOAWAY; nothing is read or sent from now on.
    pub(super) fn fail(&mut self, error: ConnectionError) {
        let debug = error.message.as_bytes();
        frame::write_goaway(self.output.frame(false), self.last_peer_stream, error.code, debug);
        self.counters.goaway_sent += 1;
        self.failed = Some(error);
    }
}
