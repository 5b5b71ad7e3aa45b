//! A connection and its driver.

use super::{
    Http2Stats, MAX_OUTPUT, ServerStream, Stream,
    keepalive::{Due, Keepalive},
    stream::State,
};
use crate::{
    buffer::{LARGE, SMALL, WriteBuffer},
    local::Local,
    socket::Socket,
};
use sota_codec::http2::{
    self as codec, ConnectionError, ErrorCode, HeadPool, IdHasher, ResetCause, SendError, StreamFault, StreamId,
};
use sota_config::http::{Http2Keepalive, Http2Options, HttpProtocolOptions};
use sota_plugin::{http::RequestHead, stats::Group};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    hash::BuildHasherDefault,
    io,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

/// How HTTP/2 is spoken on a listener or with a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// Settings and limits. [`codec::Options::max_output`] is to be [`MAX_OUTPUT`].
    pub codec: Arc<codec::Options>,
    /// Pings.
    pub keepalive: Option<Http2Keepalive>,
}

impl Options {
    /// As configured. `max_head_bytes`: of a head that is received. `stream_errors`: whether an invalid message ends
    /// the stream only, where the options do not say.
    pub fn new(model: &Http2Options, max_head_bytes: usize, common: &HttpProtocolOptions, stream_errors: bool) -> Self {
        let codec = codec::Options {
            hpack_table_size: model.hpack_table_size,
            max_concurrent_streams: model.max_concurrent_streams,
            initial_stream_window: model.initial_stream_window,
            initial_connection_window: model.initial_connection_window,
            allow_connect: model.allow_connect,
            stream_error_on_invalid_http_message: model.stream_error_on_invalid_http_message.unwrap_or(stream_errors),
            max_head_bytes,
            max_fields: common.max_headers_count as usize,
            underscores: common.headers_with_underscores_action,
            max_output: MAX_OUTPUT,
            max_outbound_frames: model.max_outbound_frames,
            max_outbound_control_frames: model.max_outbound_control_frames,
            max_consecutive_inbound_frames_with_empty_payload: model.max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream: model.max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent: model
                .max_inbound_window_update_frames_per_data_frame_sent,
            ..codec::Options::default()
        };
        Self { codec: Arc::new(codec), keepalive: model.keepalive.clone() }
    }
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionEnd {
    /// The peer has closed it.
    #[error("the peer has closed the connection")]
    Closed,
    /// It failed.
    #[error("the connection failed")]
    Failed,
    /// The peer broke the protocol. GOAWAY waits to be written.
    #[error(transparent)]
    Protocol(ConnectionError),
    /// The peer has not answered a ping.
    #[error("the peer does not answer")]
    KeepaliveTimeout,
    /// We have closed it.
    #[error("the connection was closed")]
    Local,
}

/// Why a stream is over before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamEnd {
    /// It was reset.
    #[error("{}", .0.details())]
    Reset(ResetCause),
    /// Its connection is over.
    #[error(transparent)]
    Connection(#[from] ConnectionEnd),
}

/// What concerns more than one stream that is known.
pub enum Event {
    /// A request.
    Request(ServerStream),
    /// A request at fault. It was answered with RST_STREAM.
    Refused(StreamFault),
    /// The peer's settings arrived, for the first time or changed.
    Settings,
    /// The peer will close: no new stream can be opened. What it will not answer is told to the streams.
    GoAway(ErrorCode),
    /// The connection is over; its streams know. What waits may be written by [`Connection::poll_flush`].
    Ended(ConnectionEnd),
}

thread_local! {
    /// Heads that go round.
    static HEADS: RefCell<HeadPool> = RefCell::default();
}

/// Runs `f` on the thread's heads.
pub(super) fn with_heads<R>(f: impl FnOnce(&mut HeadPool) -> R) -> R {
    HEADS.with_borrow_mut(f)
}

/// A connection, shared by its driver and its streams.
pub struct Connection {
    codec: RefCell<codec::Connection>,
    streams: RefCell<HashMap<StreamId, Rc<State>, BuildHasherDefault<IdHasher>>>,
    pub(super) stats: Group<Http2Stats>,
    keepalive: Option<Keepalive>,
    /// Wakes the driver.
    driver: Cell<Option<Waker>>,
    /// The codec writes to memory of the thread.
    has_memory: Cell<bool>,
    /// Tasks that wait for the peer's first settings.
    settings_awaited: RefCell<Vec<Waker>>,
    ended: Cell<Option<ConnectionEnd>>,
    begin: Instant,
    /// Octets to read at once.
    block: Cell<usize>,
}

impl Connection {
    /// The server's end.
    pub fn server(options: &Options, stats: &Group<Http2Stats>, local: &Local) -> Rc<Self> {
        Self::new(codec::Connection::server(Arc::clone(&options.codec)), options, stats, local)
    }

    /// The client's end.
    pub fn client(options: &Options, stats: &Group<Http2Stats>, local: &Local) -> Rc<Self> {
        Self::new(codec::Connection::client(Arc::clone(&options.codec)), options, stats, local)
    }

    fn new(codec: codec::Connection, options: &Options, stats: &Group<Http2Stats>, local: &Local) -> Rc<Self> {
        let begin = Instant::now();
        let keepalive = options.keepalive.as_ref();
        Rc::new(Self {
            codec: RefCell::new(codec),
            streams: RefCell::default(),
            stats: stats.clone(),
            keepalive: keepalive.map(|options| Keepalive::new(options.clone(), local.timer(), begin)),
            driver: Cell::default(),
            has_memory: Cell::default(),
            ended: Cell::default(),
            settings_awaited: RefCell::default(),
            begin,
            block: Cell::new(SMALL),
        })
    }

    /// Opens a stream with a request (client).
    pub fn open(self: &Rc<Self>, head: &RequestHead, end_stream: bool) -> Result<Stream, SendError> {
        if self.ended.get().is_some() {
            return Err(SendError::ConnectionClosed);
        }
        if let Some(payload) = self.keepalive.as_ref().and_then(|keepalive| keepalive.reused(Instant::now())) {
            self.with_codec(|codec| codec.ping(payload));
        }
        let (id, octets) = self.with_codec(|codec| {
            let before = codec.output().len();
            let id = codec.send_request(head, end_stream)?;
            Ok::<_, SendError>((id, codec.output().len() - before))
        })?;
        let stream = Stream::new(self, self.add(State::new(id)));
        stream.begin_sending(&head.headers, octets, end_stream);
        Ok(stream)
    }

    /// Whether another stream can be opened now (client).
    pub fn can_open(&self) -> bool {
        self.ended.get().is_none() && self.codec.borrow().can_open()
    }

    /// Whether the peer has said what it allows.
    pub fn has_peer_settings(&self) -> bool {
        self.codec.borrow().has_peer_settings()
    }

    /// Until the peer has said what it allows, or the connection is over.
    pub async fn peer_settings(&self) {
        poll_fn(|cx| {
            if self.has_peer_settings() || self.ended.get().is_some() {
                return Poll::Ready(());
            }
            self.settings_awaited.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn tell_settings(&self) {
        self.settings_awaited.take().into_iter().for_each(Waker::wake);
    }

    /// How many streams may be open at once, as both sides say; none once no more can be opened (client).
    pub fn stream_limit(&self) -> u32 {
        let codec = self.codec.borrow();
        match self.ended.get() {
            None if codec.takes_streams() => codec.stream_limit(),
            _ => 0,
        }
    }

    /// Streams that exist.
    pub fn streams(&self) -> usize {
        self.streams.borrow().len()
    }

    /// Whether GOAWAY was said for good, no stream is left, and all is written.
    pub fn is_drained(&self) -> bool {
        self.streams() == 0 && self.codec.borrow().is_drained()
    }

    /// Why it is over, if it is.
    pub fn ended(&self) -> Option<ConnectionEnd> {
        self.ended.get()
    }

    /// Runs `f` on the codec; what it leaves to be written is written.
    pub fn with_codec<R>(&self, f: impl FnOnce(&mut codec::Connection) -> R) -> R {
        let mut codec = self.codec.borrow_mut();
        if codec.output().is_empty() && !self.has_memory.replace(true) {
            let mut memory = WriteBuffer::new();
            codec.swap_output_memory(&mut memory);
        }
        let result = f(&mut codec);
        if !codec.output().is_empty() {
            self.wake();
        }
        result
    }

    /// Has the driver polled.
    fn wake(&self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    /// Drives the connection to the next event: reads, hands on, writes. To be polled as long as the connection
    /// lives, always with the same socket.
    pub fn poll_event(self: &Rc<Self>, cx: &mut Context<'_>, socket: &Socket) -> Poll<Event> {
        let waker = self.driver.take().filter(|waker| waker.will_wake(cx.waker()));
        self.driver.set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
        if let Some(end) = self.ended.get() {
            return Poll::Ready(Event::Ended(end));
        }
        self.poll_keepalive(cx);
        loop {
            if let Some(end) = self.ended.get() {
                return Poll::Ready(Event::Ended(end));
            }
            match self.next_event(socket) {
                Ok(Some(event)) => return Poll::Ready(event),
                Ok(None) => {}
                Err(error) => {
                    self.end(ConnectionEnd::Protocol(error));
                    continue;
                }
            }
            if let Poll::Ready(Err(_)) = self.poll_flush(cx, socket) {
                self.end(ConnectionEnd::Failed);
                continue;
            }
            match socket.poll_fill(cx, self.block.get()) {
                Poll::Pending => {
                    self.block.set(SMALL);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => self.end(ConnectionEnd::Closed),
                Poll::Ready(Err(_)) => self.end(ConnectionEnd::Failed),
                Poll::Ready(Ok(read)) => {
                    // A peer that fills the memory has more.
                    self.block.set(if read >= SMALL { LARGE } else { SMALL });
                    let now = Instant::now();
                    self.codec.borrow_mut().set_time(now.saturating_duration_since(self.begin).as_secs() as u32);
                    if let Some(keepalive) = &self.keepalive {
                        keepalive.received(now);
                    }
                }
            }
        }
    }

    fn poll_keepalive(&self, cx: &mut Context<'_>) {
        let Some(keepalive) = &self.keepalive else { return };
        match keepalive.poll(cx) {
            Due::Nothing => {}
            Due::Ping(payload) => self.codec.borrow_mut().ping(payload),
            Due::TimedOut => {
                self.stats.keepalive_timeout.inc();
                self.end(ConnectionEnd::KeepaliveTimeout);
            }
        }
    }

    /// Writes what waits.
    pub fn poll_flush(&self, cx: &mut Context<'_>, socket: &Socket) -> Poll<io::Result<()>> {
        let mut codec = self.codec.borrow_mut();
        self.stats.add(&codec.take_counters());
        loop {
            while let Some(stream) = codec.next_sendable() {
                if let Some(state) = self.streams.borrow().get(&stream) {
                    state.wake();
                }
            }
            if codec.output().is_empty() {
                break;
            }
            let written = ready!(socket.poll_write(cx, codec.output()))?;
            codec.written(written);
        }
        // What is layered on a transport may hold octets back.
        ready!(socket.poll_write_all(cx, &[], &mut 0))?;
        if self.has_memory.replace(false) {
            codec.swap_output_memory(&mut WriteBuffer::default());
        }
        Poll::Ready(Ok(()))
    }

    /// The next event in what was read; `None` when there is none left.
    fn next_event(self: &Rc<Self>, socket: &Socket) -> Result<Option<Event>, ConnectionError> {
        let mut codec = self.codec.borrow_mut();
        loop {
            let told = socket.with_input(|input| {
                let mut rest = input;
                let event = with_heads(|heads| codec.recv(&mut rest, heads));
                let told = event.map(|event| event.map(|event| self.dispatch(event, &mut codec)));
                (input.len() - rest.len(), told)
            })?;
            match told {
                None => return Ok(None),
                Some(Some(event)) => return Ok(Some(event)),
                Some(None) => {}
            }
        }
    }

    /// Gives an event to its stream, or makes one for the driver of it.
    fn dispatch(self: &Rc<Self>, event: codec::Event<'_>, codec: &mut codec::Connection) -> Option<Event> {
        let octets = codec.take_message_octets();
        match event {
            codec::Event::Request { stream, head, end_stream } => {
                let state = self.add(State::with_request(stream, head, end_stream, octets));
                return Some(Event::Request(ServerStream::new(Stream::new(self, state))));
            }
            codec::Event::Response { stream, head, end_stream } => match self.find(stream) {
                Some(state) if !state.push_response(head, end_stream, octets) => {
                    codec.reset(stream, ErrorCode::ENHANCE_YOUR_CALM);
                    let fault = StreamFault::Frame(ErrorCode::ENHANCE_YOUR_CALM);
                    state.end(ResetCause::Fault(fault).into());
                }
                _ => {}
            },
            codec::Event::Data { stream, data, end_stream } => match self.find(stream) {
                Some(state) => state.push_data(data, end_stream, octets),
                None => codec.release(stream, data.len()),
            },
            codec::Event::Trailers { stream, trailers } => {
                if let Some(state) = self.find(stream) {
                    state.push_trailers(trailers, octets);
                }
            }
            codec::Event::Reset { stream, cause } => match (self.find(stream), cause) {
                (Some(state), cause) => state.end(cause.into()),
                (None, ResetCause::Fault(fault)) => return Some(Event::Refused(fault)),
                (None, _) => {}
            },
            codec::Event::Settings => {
                self.tell_settings();
                return Some(Event::Settings);
            }
            codec::Event::GoAway { code, .. } => return Some(Event::GoAway(code)),
            codec::Event::Pong { payload } => {
                if let Some(keepalive) = &self.keepalive {
                    keepalive.pong(payload, Instant::now());
                }
            }
        }
        None
    }

    fn find(&self, stream: StreamId) -> Option<Rc<State>> {
        self.streams.borrow().get(&stream).cloned()
    }

    fn add(&self, state: State) -> Rc<State> {
        let state = Rc::new(state);
        self.streams.borrow_mut().insert(state.id, Rc::clone(&state));
        self.stats.streams_active.inc();
        state
    }

    /// A stream is over on our side, too.
    pub(super) fn remove(&self, stream: StreamId) {
        let mut streams = self.streams.borrow_mut();
        if streams.remove(&stream).is_none() {
            return;
        }
        self.stats.streams_active.dec();
        if streams.is_empty() {
            // What has to be done when there is none left is the driver's business.
            if streams.capacity() > KEPT_ROOM {
                *streams = HashMap::default();
            }
            self.wake();
        }
    }

    /// Ends the connection: nothing is read any more, and the streams are told.
    pub fn end(&self, end: ConnectionEnd) {
        if self.ended.get().is_some() {
            return;
        }
        self.ended.set(Some(end));
        self.stats.add(&self.codec.borrow_mut().take_counters());
        for state in self.streams.borrow().values() {
            state.end(end.into());
        }
        self.tell_settings();
        self.wake();
    }

    /// Octets of memory that an idle connection owns, about.
    pub fn memory(&self) -> usize {
        self.codec.borrow().memory()
            + self.streams.borrow().capacity() * size_of::<(StreamId, Rc<State>)>()
            + size_of::<Self>()
    }
}

/// With more room than this an empty map is freed.
const KEPT_ROOM: usize = 14;

impl From<ResetCause> for StreamEnd {
    fn from(cause: ResetCause) -> Self {
        Self::Reset(cause)
    }
}
