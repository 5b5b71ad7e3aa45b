//! One ZMTP connection as it runs: bytes come in and become events for a handler, messages of a queue go out. Both
//! directions are one task, which waits for the socket, the queue and the clock alike. While nothing is to be done it
//! holds no buffers.

use super::outbox::{Hop, Outbox, Outgoing};
use futures_io::{AsyncRead, AsyncWrite};
use sota_codec::zmtp::{self, Assembler, Credentials, Event, Message, Options, Peer, ZmtpError};
use sota_plugin::{LocalFuture, cx::WorkerCx, filter::Connection, stream::Stream};
use std::{
    cell::{Cell, RefCell},
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// Octets of a long message that are read in one go.
const READ_SIZE: usize = 256 * 1024;
/// Octets that are read in one go otherwise; about as many are put together before they are written.
const CHUNK: usize = 64 * 1024;
/// A payload of so many octets is written from where it lies, without being copied behind its header.
const LARGE: usize = 16 * 1024;
/// The memory of large messages that were sent is kept for the next ones, so much of it on each worker.
const KEPT: usize = 5 * 1024 * 1024;
/// Rounds of reading and writing before other tasks get their turn.
const ROUNDS: usize = 8;
/// The codec is told of time in steps of at least this.
const TICK: Duration = Duration::from_millis(20);

/// What a connection goes over.
pub(super) trait Transport {
    /// What is read and written.
    fn stream(&mut self) -> &mut Stream;

    /// Ready once the connection shall finish what runs and end.
    fn poll_draining(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Transport for Connection {
    fn stream(&mut self) -> &mut Stream {
        self
    }

    fn poll_draining(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        pin!(self.draining()).poll(cx)
    }
}

/// What a connection is for.
pub(super) trait Handler {
    /// Whether who says this may come in; asked of PLAIN's and CURVE's server only.
    fn authenticate(&mut self, _credentials: Credentials<'_>) -> bool {
        false
    }

    /// The handshake is done.
    fn on_ready(&mut self, peer: &Peer) -> Result<(), End>;

    /// Whether a message of the peer could be taken now. If not, nothing is read, and so the peer has to wait.
    fn poll_room(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// A message of the peer.
    fn on_message(&mut self, message: Message) -> Result<(), End>;

    /// To a publisher: the peer wants what begins with this, or takes one such wish back.
    fn on_subscription(&mut self, _topic: &[u8], _wanted: bool) -> Result<(), End> {
        Ok(())
    }

    /// A message was handed to the system's buffer.
    fn on_sent(&mut self) {}

    /// When [`Self::on_deadline`] is to be called.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The time has come.
    fn on_deadline(&mut self, _now: Instant) -> Result<(), End> {
        Ok(())
    }

    /// Whether the connection may be ended now when it is to be drained.
    fn is_idle(&self) -> bool {
        true
    }
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// The peer has ended it, at the end of a message.
    Closed,
    /// It was drained.
    Drained,
    /// A fault of the peer's.
    Failed(ZmtpError),
    /// The peer does not read.
    WriteTimeout,
    /// The transport failed.
    Io(io::Error),
    /// The handler wants no more of it, for this reason.
    Handler(&'static str),
}

impl From<ZmtpError> for End {
    fn from(error: ZmtpError) -> Self {
        Self::Failed(error)
    }
}

/// Buffers that the connections of a worker lend each other: one at a time uses them.
#[derive(Default)]
pub(super) struct Scratch {
    input: Cell<Vec<u8>>,
    moving: Cell<Option<Box<Moving>>>,
    messages: RefCell<Vec<Vec<u8>>>,
}

impl Scratch {
    fn take_input(&self) -> Vec<u8> {
        let mut input = self.input.take();
        input.resize(READ_SIZE, 0);
        input
    }

    fn take_message(&self) -> Option<Vec<u8>> {
        self.messages.borrow_mut().pop()
    }

    /// Keeps the memory of a message that nobody else sends.
    fn give_message(&self, message: Arc<Message>) {
        let is_large = message.payload_bytes() > CHUNK;
        if let Some(memory) = is_large.then(|| Arc::into_inner(message)).flatten().map(Message::into_memory) {
            let mut messages = self.messages.borrow_mut();
            if messages.iter().map(Vec::len).sum::<usize>() + memory.len() <= KEPT {
                messages.push(memory);
            }
        }
    }
}

/// Waits that are not the codec's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a peer that does not tell its socket type before it knows ours.
    pub(super) face: Duration,
    /// For a peer that does not read; zero: for ever.
    pub(super) write: Duration,
}

/// What the connections of one kind have in common on a worker.
pub(super) struct Surroundings {
    pub(super) worker: WorkerCx,
    pub(super) options: Arc<Options>,
    pub(super) patience: Patience,
    pub(super) scratch: Rc<Scratch>,
}

/// A connection, which as a future runs until it ends. What is in the queue then is left there.
pub(super) struct Pump<T, H> {
    io: T,
    surroundings: Rc<Surroundings>,
    outbox: Rc<Outbox>,
    handler: H,
    zmtp: zmtp::Connection,
    /// `None` while nothing moves.
    moving: Option<Box<Moving>>,
    begun: Instant,
    /// Until when the codec was told of time.
    told: Instant,
    /// The peer's longest silence that it wants us to endure, in milliseconds.
    peer_ttl: u32,
    alarm: Option<Box<(Instant, LocalFuture<()>)>>,
    ended: bool,
}

/// What is only there while something moves.
#[derive(Default)]
struct Moving {
    assembler: Assembler,
    /// What was read and could not be taken yet.
    held: Vec<u8>,
    /// To be written, `written` of it are.
    out: Vec<u8>,
    written: usize,
    /// A message of which not all is in `out`.
    sending: Option<Sending>,
    /// Since when nothing could be written.
    stalled: Option<Instant>,
}

impl Moving {
    fn is_over(&self) -> bool {
        self.out.is_empty() && self.held.is_empty() && self.sending.is_none() && !self.assembler.is_within()
    }
}

impl Sending {
    /// What is left of the payload that is written from where it lies.
    fn rest(&self) -> &[u8] {
        let payload = self.payload.and_then(|written| self.message.frame(self.frame)?.get(written..));
        payload.unwrap_or_default()
    }
}

impl<T: Transport + Unpin, H: Handler + Unpin> Future for Pump<T, H> {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let this = &mut *self;
        let mut moving = this.moving.take().or_else(|| this.surroundings.scratch.moving.take()).unwrap_or_default();
        let end = match this.poll_all(&mut moving, cx) {
            Ok(Some(end)) | Err(end) => Poll::Ready(end),
            Ok(None) => Poll::Pending,
        };
        if end.is_ready() {
            // What the peer is told at the end, such as an ERROR. It is small, and nobody waits for it.
            let _ = this.poll_flush(&mut moving, cx);
        }
        if !moving.is_over() {
            this.moving = Some(moving);
        } else if moving.out.capacity() <= 4 * CHUNK {
            this.surroundings.scratch.moving.set(Some(moving));
        }
        end
    }
}

/// A message that is being sent.
struct Sending {
    message: Arc<Message>,
    /// The frame that is next.
    frame: usize,
    /// Octets of its payload that were written, if its header is in `out`.
    payload: Option<usize>,
}

impl<T: Transport, H: Handler> Pump<T, H> {
    pub(super) fn new(io: T, surroundings: &Rc<Surroundings>, outbox: &Rc<Outbox>, handler: H) -> Self {
        let mut out = Vec::new();
        let zmtp = zmtp::Connection::new(Arc::clone(&surroundings.options), &mut out);
        let now = Instant::now();
        Self {
            io,
            surroundings: Rc::clone(surroundings),
            outbox: Rc::clone(outbox),
            handler,
            zmtp,
            moving: Some(Box::new(Moving { out, ..Moving::default() })),
            begun: now,
            told: now,
            peer_ttl: 0,
            alarm: None,
            ended: false,
        }
    }

    /// What it goes over.
    pub(super) fn transport(&self) -> &T {
        &self.io
    }

    fn poll_all(&mut self, moving: &mut Moving, cx: &mut Context<'_>) -> Result<Option<End>, End> {
        for _ in 0..ROUNDS {
            let read = self.poll_input(moving, cx)?;
            let wrote = self.poll_output(moving, cx)?;
            if self.ended && moving.held.is_empty() {
                return self.zmtp.finish().map(|()| Some(End::Closed)).map_err(End::from);
            }
            if !read && !wrote {
                self.poll_clock(moving, cx)?;
                return Ok(self.poll_drained(moving, cx));
            }
        }
        cx.waker().wake_by_ref();
        Ok(None)
    }

    /// Ends a connection that is drained, as soon as nothing is under way.
    fn poll_drained(&mut self, moving: &Moving, cx: &mut Context<'_>) -> Option<End> {
        let draining = self.io.poll_draining(cx).is_ready();
        let is_idle =
            moving.out.is_empty() && moving.sending.is_none() && self.outbox.is_empty() && self.handler.is_idle();
        (draining && is_idle).then_some(End::Drained)
    }

    /// Takes what has come. Whether it is worth trying again.
    fn poll_input(&mut self, moving: &mut Moving, cx: &mut Context<'_>) -> Result<bool, End> {
        if !moving.held.is_empty() {
            let mut held = std::mem::take(&mut moving.held);
            let taken = self.take(moving, &held, cx)?;
            held.drain(..taken);
            moving.held = held;
            if !moving.held.is_empty() {
                return Ok(false);
            }
        }
        // A peer that does not read is not listened to: it would make us hold ever more.
        if self.ended || moving.out.len() - moving.written > CHUNK || !self.has_room(cx) {
            return Ok(false);
        }
        // The end of a frame goes by the codec. What was lent is there: it may be filled at once.
        let left = usize::try_from(self.zmtp.payload_left().saturating_sub(1)).unwrap_or(usize::MAX);
        let room = moving.assembler.room(left);
        if left > CHUNK && room.len() > CHUNK {
            let Some(read) = self.poll_read(room, cx)? else { return Ok(false) };
            moving.assembler.advance(read);
            self.zmtp.skip_received(read as u64);
            return Ok(true);
        }
        let mut input = self.surroundings.scratch.take_input();
        // Within a long message more of it is read at once; what is held back of others is less than that.
        let most = if moving.assembler.capacity() > CHUNK { READ_SIZE } else { CHUNK };
        let result = self.read(moving, input.get_mut(..most).unwrap_or_default(), cx);
        self.surroundings.scratch.input.set(input);
        result
    }

    fn read(&mut self, moving: &mut Moving, input: &mut [u8], cx: &mut Context<'_>) -> Result<bool, End> {
        let Some(read) = self.poll_read(input, cx)? else { return Ok(false) };
        let bytes = input.get(..read).unwrap_or_default();
        let taken = self.take(moving, bytes, cx)?;
        moving.held.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        Ok(true)
    }

    /// Octets that have come, 0 at the end; `None`: it has to be waited for.
    fn poll_read(&mut self, room: &mut [u8], cx: &mut Context<'_>) -> Result<Option<usize>, End> {
        match Pin::new(self.io.stream()).poll_read(cx, room) {
            Poll::Pending => Ok(None),
            Poll::Ready(Err(error)) => Err(End::Io(error)),
            Poll::Ready(Ok(read)) => {
                self.ended |= read == 0;
                Ok(Some(read))
            }
        }
    }

    fn has_room(&mut self, cx: &mut Context<'_>) -> bool {
        !self.zmtp.is_ready() || self.handler.poll_room(cx).is_ready()
    }

    /// Takes bytes of the peer, as long as there is room for what they bring. How many were taken.
    fn take(&mut self, moving: &mut Moving, bytes: &[u8], cx: &mut Context<'_>) -> Result<usize, End> {
        let mut at = 0;
        loop {
            if at < bytes.len() && !self.has_room(cx) {
                return Ok(at);
            }
            let (taken, event) = self.zmtp.recv(bytes.get(at..).unwrap_or_default(), &mut moving.out)?;
            at += taken;
            let mut verdict = None;
            match event {
                Event::NeedMore | Event::Blocked => return Ok(at),
                Event::Frame(frame) => {
                    let is_large = frame.length > CHUNK as u64;
                    if is_large
                        && frame.is_first()
                        && !frame.is_last()
                        && let Some(memory) = self.surroundings.scratch.take_message()
                    {
                        moving.assembler.lend(memory);
                    }
                    if let Some(message) = moving.assembler.push(&frame) {
                        self.handler.on_message(message)?;
                    }
                }
                Event::Ready(peer) => {
                    self.handler.on_ready(peer)?;
                    self.zmtp.forget_peer();
                }
                Event::Authenticate(credentials) => verdict = Some(self.handler.authenticate(credentials)),
                Event::Subscribe(topic) => self.handler.on_subscription(topic, true)?,
                Event::Cancel(topic) => self.handler.on_subscription(topic, false)?,
                Event::Ping { ttl, .. } => {
                    self.peer_ttl = u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX);
                }
                // The connection has failed with it: the next call says so.
                Event::Refused(_) | Event::Pong(_) | Event::Command(_) => {}
            }
            // Neither can fail: the verdict was asked for.
            let _ = match verdict {
                None => Ok(()),
                Some(true) => self.zmtp.allow(&mut moving.out),
                Some(false) => self.zmtp.deny(b"400", &mut moving.out),
            };
        }
    }

    /// Writes as long as there is something and the peer takes it. Whether something was written.
    fn poll_output(&mut self, moving: &mut Moving, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut wrote = false;
        loop {
            self.fill(moving, cx)?;
            if moving.out.is_empty() && moving.sending.is_none() {
                moving.stalled = None;
                return Ok(wrote);
            }
            match self.poll_flush(moving, cx) {
                Poll::Pending => {
                    moving.stalled.get_or_insert_with(Instant::now);
                    return Ok(wrote);
                }
                Poll::Ready(Err(error)) => return Err(End::Io(error)),
                Poll::Ready(Ok(())) => {
                    moving.stalled = None;
                    wrote = true;
                }
            }
        }
    }

    /// Puts messages of the queue into `out`, up to about a chunk.
    fn fill(&mut self, moving: &mut Moving, cx: &mut Context<'_>) -> Result<(), End> {
        while self.zmtp.is_ready() && moving.out.len() < CHUNK {
            if let Some(sending) = &moving.sending {
                if sending.payload.is_some() {
                    return Ok(());
                }
                self.send_frames(moving);
                continue;
            }
            let Poll::Ready(outgoing) = self.outbox.poll_pop(cx) else { return Ok(()) };
            match outgoing {
                Outgoing::Message { hop, skip, message } => self.send_message(moving, hop, skip, message),
                // A topic is no longer than the limits that it has passed, so that these can't fail.
                Outgoing::Subscribe(topic) => drop(self.zmtp.subscribe(&topic, &mut moving.out)),
                Outgoing::Cancel(topic) => drop(self.zmtp.cancel(&topic, &mut moving.out)),
                Outgoing::Close(reason) => return Err(End::Handler(reason)),
            }
        }
        Ok(())
    }

    fn send_message(&mut self, moving: &mut Moving, hop: Option<Hop>, skip: usize, message: Arc<Message>) {
        if message.frame_count() <= skip {
            return;
        }
        if let Some(hop) = hop {
            let _ = self.zmtp.send_frame(&hop, true, &mut moving.out);
        }
        moving.sending = Some(Sending { message, frame: skip, payload: None });
        self.send_frames(moving);
    }

    /// Goes on with the message that is being sent, up to a payload that is written from where it lies.
    fn send_frames(&mut self, moving: &mut Moving) {
        let Some(sending) = &mut moving.sending else { return };
        while let Some(payload) = sending.message.frame(sending.frame) {
            let more = sending.frame + 1 < sending.message.frame_count();
            if payload.len() >= LARGE && self.zmtp.begin_frame(payload.len() as u64, more, &mut moving.out).is_ok() {
                sending.payload = Some(0);
                return;
            }
            // It can't fail: the handshake is done and no frame is open.
            let _ = self.zmtp.send_frame(payload, more, &mut moving.out);
            sending.frame += 1;
        }
        if let Some(sent) = moving.sending.take() {
            self.surroundings.scratch.give_message(sent.message);
        }
        self.handler.on_sent();
    }

    /// Writes `out`, and a payload behind it, with one system call if the peer takes so much.
    fn poll_flush(&mut self, moving: &mut Moving, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let out = moving.out.get(moving.written..).unwrap_or_default();
            let payload = moving.sending.as_ref().map_or(&[][..], Sending::rest);
            if out.is_empty() && payload.is_empty() {
                break;
            }
            let parts = [IoSlice::new(out), IoSlice::new(payload)];
            let written = match ready!(Pin::new(self.io.stream()).poll_write_vectored(cx, &parts))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => written,
            };
            let of_out = written.min(out.len());
            moving.written += of_out;
            if let Some(Sending { payload: Some(done), .. }) = &mut moving.sending {
                *done += written - of_out;
            }
        }
        moving.out.clear();
        moving.written = 0;
        if let Some(Sending { payload: payload @ Some(_), frame, .. }) = &mut moving.sending {
            // All of it went by the codec.
            let _ = self.zmtp.skip_frame(payload.take().unwrap_or_default() as u64);
            *frame += 1;
            self.send_frames(moving);
        }
        Pin::new(self.io.stream()).poll_flush(cx)
    }

    /// Does what is due, and waits for what is next.
    fn poll_clock(&mut self, moving: &mut Moving, cx: &mut Context<'_>) -> Result<(), End> {
        loop {
            let now = Instant::now();
            self.on_time(moving, now)?;
            if !moving.out.is_empty() && moving.stalled.is_none() {
                // A PING, or the socket type: it is written before we wait.
                self.poll_output(moving, cx)?;
            }
            let Some(next) = self.next_time(moving) else {
                self.alarm = None;
                return Ok(());
            };
            let alarm = match &mut self.alarm {
                Some(alarm) if alarm.0 <= next => alarm,
                place => {
                    place.insert(Box::new((next, self.surroundings.worker.sleep(next.saturating_duration_since(now)))))
                }
            };
            if alarm.1.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.alarm = None;
        }
    }

    fn on_time(&mut self, moving: &mut Moving, now: Instant) -> Result<(), End> {
        let elapsed = now.saturating_duration_since(self.told);
        if elapsed >= TICK {
            // The codec counts whole milliseconds.
            let elapsed = Duration::from_millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
            self.told += elapsed;
            self.zmtp.on_elapsed(elapsed, &mut moving.out)?;
        }
        if self.zmtp.waits_for_socket_type() && now >= self.begun + self.surroundings.patience.face {
            self.zmtp.declare_socket_type(&mut moving.out)?;
        }
        let write = self.surroundings.patience.write;
        if !write.is_zero() && moving.stalled.is_some_and(|since| now >= since + write) {
            return Err(End::WriteTimeout);
        }
        if self.handler.deadline().is_some_and(|deadline| now >= deadline) {
            self.handler.on_deadline(now)?;
        }
        Ok(())
    }

    /// When something is to be looked at.
    fn next_time(&self, moving: &Moving) -> Option<Instant> {
        let options = &self.surroundings.options;
        let after = |since: Instant, time: Duration| (!time.is_zero()).then(|| since + time.max(TICK));
        let codec = if self.zmtp.is_ready() {
            let peer_ttl = Duration::from_millis(self.peer_ttl.into());
            let times = [options.heartbeat.interval, options.heartbeat.timeout, peer_ttl];
            let shortest = times.into_iter().filter(|time| !time.is_zero()).min();
            shortest.and_then(|time| after(self.told, time / 4))
        } else if self.zmtp.waits_for_socket_type() {
            after(self.begun, self.surroundings.patience.face)
        } else {
            None
        };
        let handshake = if self.zmtp.is_ready() { None } else { after(self.begun, options.handshake_timeout + TICK) };
        let write = moving.stalled.and_then(|since| after(since, self.surroundings.patience.write));
        [codec, handshake, write, self.handler.deadline()].into_iter().flatten().min()
    }
}
