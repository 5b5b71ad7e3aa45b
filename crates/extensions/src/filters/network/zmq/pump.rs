//! One ZMTP connection as it runs: bytes come in and become events for a handler, messages of a queue go out. Both
//! directions are one task, which waits for the socket, the queue and the clock alike. While nothing is to be done it
//! holds no buffers.

use super::outbox::{Hop, Outbox, Outgoing};
use futures_io::{AsyncRead, AsyncWrite};
use sota_codec::zmtp::{self, Assembler, Credentials, Event, Message, Options, Peer, ZmtpError};
use sota_plugin::{LocalFuture, cx::WorkerCx, filter::Connection, stream::Stream};
use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// Octets that are read in one go, and about as many are put together before they are written.
const CHUNK: usize = 64 * 1024;
/// A payload of so many octets is written from where it lies, without being copied behind its header.
const LARGE: usize = 16 * 1024;
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
    output: Cell<Vec<u8>>,
}

impl Scratch {
    fn take_input(&self) -> Vec<u8> {
        let mut input = self.input.take();
        input.resize(CHUNK, 0);
        input
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
    pub(super) options: Arc<Options>,
    pub(super) patience: Patience,
    pub(super) scratch: Rc<Scratch>,
}

/// Runs a connection until it ends. What is in the queue then is left there.
pub(super) async fn run<T: Transport, H: Handler>(
    io: &mut T,
    worker: &WorkerCx,
    surroundings: &Surroundings,
    outbox: &Outbox,
    handler: &mut H,
) -> End {
    let mut pump = Pump::new(io, worker, surroundings, outbox, handler);
    poll_fn(|cx| pump.poll(cx)).await
}

struct Pump<'a, T, H> {
    worker: &'a WorkerCx,
    io: &'a mut T,
    surroundings: &'a Surroundings,
    outbox: &'a Outbox,
    handler: &'a mut H,
    zmtp: zmtp::Connection,
    assembler: Assembler,
    /// What was read and could not be taken yet.
    held: Vec<u8>,
    /// To be written, `written` of it are.
    out: Vec<u8>,
    written: usize,
    /// A message of which not all is in `out`.
    sending: Option<Sending>,
    begun: Instant,
    /// Until when the codec was told of time.
    told: Instant,
    /// The peer's longest silence that it wants us to endure.
    peer_ttl: Duration,
    /// Since when nothing could be written.
    stalled: Option<Instant>,
    alarm: Option<(Instant, LocalFuture<()>)>,
    ended: bool,
}

/// A message that is being sent.
struct Sending {
    message: Arc<Message>,
    /// The frame that is next.
    frame: usize,
    /// Octets of its payload that were written, if its header is in `out`.
    payload: Option<usize>,
}

impl<'a, T: Transport, H: Handler> Pump<'a, T, H> {
    fn new(
        io: &'a mut T,
        worker: &'a WorkerCx,
        surroundings: &'a Surroundings,
        outbox: &'a Outbox,
        handler: &'a mut H,
    ) -> Self {
        let mut out = Vec::new();
        let zmtp = zmtp::Connection::new(Arc::clone(&surroundings.options), &mut out);
        let now = Instant::now();
        Self {
            worker,
            io,
            surroundings,
            outbox,
            handler,
            zmtp,
            assembler: Assembler::default(),
            held: Vec::new(),
            out,
            written: 0,
            sending: None,
            begun: now,
            told: now,
            peer_ttl: Duration::ZERO,
            stalled: None,
            alarm: None,
            ended: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.out.capacity() == 0 {
            self.out = self.surroundings.scratch.output.take();
        }
        let end = match self.poll_all(cx) {
            Ok(Some(end)) | Err(end) => Poll::Ready(end),
            Ok(None) => Poll::Pending,
        };
        if end.is_ready() {
            // What the peer is told at the end, such as an ERROR. It is small, and nobody waits for it.
            let _ = self.poll_flush(cx);
        }
        if self.out.is_empty() {
            let mut spare = std::mem::take(&mut self.out);
            if spare.capacity() <= 4 * CHUNK {
                spare.clear();
                self.surroundings.scratch.output.set(spare);
            }
        }
        end
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Result<Option<End>, End> {
        for _ in 0..ROUNDS {
            let read = self.poll_input(cx)?;
            let wrote = self.poll_output(cx)?;
            if self.ended && self.held.is_empty() {
                return self.zmtp.finish().map(|()| Some(End::Closed)).map_err(End::from);
            }
            if !read && !wrote {
                self.poll_clock(cx)?;
                return Ok(self.poll_drained(cx));
            }
        }
        cx.waker().wake_by_ref();
        Ok(None)
    }

    /// Ends a connection that is drained, as soon as nothing is under way.
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Option<End> {
        let draining = self.io.poll_draining(cx).is_ready();
        let is_idle = self.out.is_empty() && self.sending.is_none() && self.outbox.is_empty() && self.handler.is_idle();
        (draining && is_idle).then_some(End::Drained)
    }

    /// Takes what has come. Whether it is worth trying again.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if !self.held.is_empty() {
            let mut held = std::mem::take(&mut self.held);
            let taken = self.take(&held, cx)?;
            held.drain(..taken);
            self.held = held;
            if !self.held.is_empty() {
                return Ok(false);
            }
        }
        // A peer that does not read is not listened to: it would make us hold ever more.
        if self.ended || self.out.len() - self.written > CHUNK || !self.has_room(cx) {
            return Ok(false);
        }
        let mut input = self.surroundings.scratch.take_input();
        let result = self.read(&mut input, cx);
        self.surroundings.scratch.input.set(input);
        result
    }

    fn read(&mut self, input: &mut [u8], cx: &mut Context<'_>) -> Result<bool, End> {
        let read = match Pin::new(self.io.stream()).poll_read(cx, input) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(error)) => return Err(End::Io(error)),
            Poll::Ready(Ok(0)) => {
                self.ended = true;
                return Ok(true);
            }
            Poll::Ready(Ok(read)) => read,
        };
        let bytes = input.get(..read).unwrap_or_default();
        let taken = self.take(bytes, cx)?;
        self.held.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        Ok(true)
    }

    fn has_room(&mut self, cx: &mut Context<'_>) -> bool {
        !self.zmtp.is_ready() || self.handler.poll_room(cx).is_ready()
    }

    /// Takes bytes of the peer, as long as there is room for what they bring. How many were taken.
    fn take(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Result<usize, End> {
        let mut at = 0;
        loop {
            if at < bytes.len() && !self.has_room(cx) {
                return Ok(at);
            }
            let (taken, event) = self.zmtp.recv(bytes.get(at..).unwrap_or_default(), &mut self.out)?;
            at += taken;
            let mut verdict = None;
            match event {
                Event::NeedMore | Event::Blocked => return Ok(at),
                Event::Frame(frame) => {
                    if let Some(message) = self.assembler.push(&frame) {
                        self.handler.on_message(message)?;
                    }
                }
                Event::Ready(peer) => self.handler.on_ready(peer)?,
                Event::Authenticate(credentials) => verdict = Some(self.handler.authenticate(credentials)),
                Event::Subscribe(topic) => self.handler.on_subscription(topic, true)?,
                Event::Cancel(topic) => self.handler.on_subscription(topic, false)?,
                Event::Ping { ttl, .. } => self.peer_ttl = ttl,
                // The connection has failed with it: the next call says so.
                Event::Refused(_) | Event::Pong(_) | Event::Command(_) => {}
            }
            // Neither can fail: the verdict was asked for.
            let _ = match verdict {
                None => Ok(()),
                Some(true) => self.zmtp.allow(&mut self.out),
                Some(false) => self.zmtp.deny(b"400", &mut self.out),
            };
        }
    }

    /// Writes as long as there is something and the peer takes it. Whether something was written.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut wrote = false;
        loop {
            self.fill(cx)?;
            if self.out.is_empty() && self.sending.is_none() {
                self.stalled = None;
                return Ok(wrote);
            }
            match self.poll_flush(cx) {
                Poll::Pending => {
                    self.stalled.get_or_insert_with(Instant::now);
                    return Ok(wrote);
                }
                Poll::Ready(Err(error)) => return Err(End::Io(error)),
                Poll::Ready(Ok(())) => {
                    self.stalled = None;
                    wrote = true;
                }
            }
        }
    }

    /// Puts messages of the queue into `out`, up to about a chunk.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while self.zmtp.is_ready() && self.out.len() < CHUNK {
            if let Some(sending) = &self.sending {
                if sending.payload.is_some() {
                    return Ok(());
                }
                self.send_frames();
                continue;
            }
            let Poll::Ready(outgoing) = self.outbox.poll_pop(cx) else { return Ok(()) };
            match outgoing {
                Outgoing::Message { hop, skip, message } => self.send_message(hop, skip, message),
                // A topic is no longer than the limits that it has passed, so that these can't fail.
                Outgoing::Subscribe(topic) => drop(self.zmtp.subscribe(&topic, &mut self.out)),
                Outgoing::Cancel(topic) => drop(self.zmtp.cancel(&topic, &mut self.out)),
                Outgoing::Close(reason) => return Err(End::Handler(reason)),
            }
        }
        Ok(())
    }

    fn send_message(&mut self, hop: Option<Hop>, skip: usize, message: Arc<Message>) {
        if message.frame_count() <= skip {
            return;
        }
        if let Some(hop) = hop {
            let _ = self.zmtp.send_frame(&hop, true, &mut self.out);
        }
        self.sending = Some(Sending { message, frame: skip, payload: None });
        self.send_frames();
    }

    /// Goes on with the message that is being sent, up to a payload that is written from where it lies.
    fn send_frames(&mut self) {
        let Some(sending) = &mut self.sending else { return };
        while let Some(payload) = sending.message.frame(sending.frame) {
            let more = sending.frame + 1 < sending.message.frame_count();
            if payload.len() >= LARGE && self.zmtp.begin_frame(payload.len() as u64, more, &mut self.out).is_ok() {
                sending.payload = Some(0);
                return;
            }
            // It can't fail: the handshake is done and no frame is open.
            let _ = self.zmtp.send_frame(payload, more, &mut self.out);
            sending.frame += 1;
        }
        self.sending = None;
        self.handler.on_sent();
    }

    /// Writes `out`, and a payload behind it.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            self.written += ready!(write(self.io.stream(), rest, cx))?;
        }
        self.out.clear();
        self.written = 0;
        if let Some(Sending { message, frame, payload: Some(written) }) = &mut self.sending {
            let payload = message.frame(*frame).unwrap_or_default();
            while let Some(rest) = payload.get(*written..).filter(|rest| !rest.is_empty()) {
                *written += ready!(write(self.io.stream(), rest, cx))?;
            }
            // All of it went by the codec.
            let _ = self.zmtp.skip_frame(payload.len() as u64);
            if let Some(sending) = &mut self.sending {
                sending.frame += 1;
                sending.payload = None;
            }
            self.send_frames();
        }
        Pin::new(self.io.stream()).poll_flush(cx)
    }

    /// Does what is due, and waits for what is next.
    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        loop {
            let now = Instant::now();
            self.on_time(now)?;
            if !self.out.is_empty() && self.stalled.is_none() {
                // A PING, or the socket type: it is written before we wait.
                self.poll_output(cx)?;
            }
            let Some(next) = self.next_time() else {
                self.alarm = None;
                return Ok(());
            };
            let alarm = match &mut self.alarm {
                Some(alarm) if alarm.0 <= next => alarm,
                place => place.insert((next, self.worker.sleep(next.saturating_duration_since(now)))),
            };
            if alarm.1.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.alarm = None;
        }
    }

    fn on_time(&mut self, now: Instant) -> Result<(), End> {
        let elapsed = now.saturating_duration_since(self.told);
        if elapsed >= TICK {
            // The codec counts whole milliseconds.
            let elapsed = Duration::from_millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
            self.told += elapsed;
            self.zmtp.on_elapsed(elapsed, &mut self.out)?;
        }
        if self.zmtp.waits_for_socket_type() && now >= self.begun + self.surroundings.patience.face {
            self.zmtp.declare_socket_type(&mut self.out)?;
        }
        let write = self.surroundings.patience.write;
        if !write.is_zero() && self.stalled.is_some_and(|since| now >= since + write) {
            return Err(End::WriteTimeout);
        }
        if self.handler.deadline().is_some_and(|deadline| now >= deadline) {
            self.handler.on_deadline(now)?;
        }
        Ok(())
    }

    /// When something is to be looked at.
    fn next_time(&self) -> Option<Instant> {
        let options = &self.surroundings.options;
        let after = |since: Instant, time: Duration| (!time.is_zero()).then(|| since + time.max(TICK));
        let codec = if self.zmtp.is_ready() {
            let times = [options.heartbeat.interval, options.heartbeat.timeout, self.peer_ttl];
            let shortest = times.into_iter().filter(|time| !time.is_zero()).min();
            shortest.and_then(|time| after(self.told, time / 4))
        } else if self.zmtp.waits_for_socket_type() {
            after(self.begun, self.surroundings.patience.face)
        } else {
            None
        };
        let handshake = if self.zmtp.is_ready() { None } else { after(self.begun, options.handshake_timeout + TICK) };
        let write = self.stalled.and_then(|since| after(since, self.surroundings.patience.write));
        [codec, handshake, write, self.handler.deadline()].into_iter().flatten().min()
    }
}

fn write(io: &mut Stream, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let written = ready!(Pin::new(io).poll_write(cx, bytes))?;
    Poll::Ready(if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) })
}
