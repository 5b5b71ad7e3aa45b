//! One connection: greeting, handshake, traffic.

use super::curve::Session;
use super::frame::{Framing, HeaderReader};
use super::greeting::Greeting;
use super::handshake::{Handshake, credentials, refusal};
use super::heartbeat::Heartbeat;
use super::traffic::{MessageCount, OpenFrame};
use super::{Command, Credentials, Event, Frame, Options, Peer, SocketType, Version, ZmtpError, command};
use std::{fmt, ops::Range, sync::Arc, time::Duration};

/// A ZMTP connection, either side of it, without its socket: bytes of the peer go in, [`Event`]s come out, and what is
/// to be sent is appended to a buffer of the caller's. It holds no bytes but the beginning of a frame's header, a
/// command or subscription that is not whole, and with CURVE the frame that can't be opened before it is whole.
pub struct Connection {
    pub(super) options: Arc<Options>,
    pub(super) state: State,
    /// Ours; unknown while it depends on the peer's.
    pub(super) socket_type: Option<SocketType>,
    /// Known when the greeting is done.
    pub(super) version: Version,
    pub(super) framing: Framing,
    pub(super) header: HeaderReader,
    /// The frame that is being received.
    pub(super) open: Option<OpenFrame>,
    pub(super) message: MessageCount,
    /// What has to be whole before it is understood.
    pub(super) scratch: Vec<u8>,
    /// What is in it was told to the caller, so that the next call may forget it.
    pub(super) scratch_told: bool,
    pub(super) session: Option<Box<Session>>,
    pub(super) peer: Option<Box<Peer>>,
    /// To be told next.
    pub(super) ready: bool,
    pub(super) subscribed_to_all: bool,
    pub(super) heartbeat: Heartbeat,
    /// Octets that are missing of a frame that is being sent in pieces.
    pub(super) unsent: u64,
}

/// Where a connection is.
pub(super) enum State {
    Greeting(Box<Greeting>),
    /// Before 3.0: the peer's identity is to come. Its type is known of 2.0.
    Identity {
        socket_type: Option<SocketType>,
        any_flags: bool,
    },
    Handshake(Box<Handshake>),
    Traffic,
    Failed(ZmtpError),
}

/// Where bytes are that an event is about.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Input(Range<usize>),
    Scratch(Range<usize>),
}

/// An event without its bytes.
pub(super) enum Step {
    NeedMore,
    Authenticate,
    Blocked,
    Ready,
    SubscribeAll,
    Piece {
        at: Place,
        offset: u64,
        length: u64,
        more: bool,
    },
    /// `01 topic` or `00 topic`.
    Subscription(Place),
    Ping {
        answered: bool,
        ttl: u16,
    },
    Command(Place),
    Refused,
}

impl Connection {
    /// A new connection, in whichever direction it was made. Appends to `out` what is sent first.
    pub fn new(options: Arc<Options>, out: &mut Vec<u8>) -> Self {
        let is_client = options.security.mechanism() != super::Mechanism::Null && !options.security.is_server();
        let waits = options.auto_face && !is_client;
        Self {
            state: State::Greeting(Box::new(Greeting::start(&options, out))),
            socket_type: (!waits).then_some(options.socket_type),
            version: options.max_version,
            framing: Framing::V2,
            header: HeaderReader::default(),
            open: None,
            message: MessageCount::default(),
            scratch: Vec::new(),
            scratch_told: false,
            session: None,
            peer: None,
            ready: false,
            subscribed_to_all: false,
            heartbeat: Heartbeat::new(&options),
            unsent: 0,
            options,
        }
    }

    /// Takes bytes of the peer up to and with the next event; says how many. Call it with the rest, even if there is
    /// none, until [`Event::NeedMore`]: then everything was taken. Answers are appended to `out`; they are small, and
    /// few as long as the caller stops reading while it can't write.
    ///
    /// # Errors
    ///
    /// The connection is to be closed; what is in `out` may still be sent. Every later call fails the same way.
    pub fn recv<'a>(&'a mut self, input: &'a [u8], out: &mut Vec<u8>) -> Result<(usize, Event<'a>), ZmtpError> {
        if !input.is_empty() {
            self.heartbeat.heard();
        }
        let mut at = 0;
        match self.advance(input, &mut at, out).and_then(|step| self.event(step, input)) {
            Ok(event) => Ok((at, event)),
            // Not in place of the arm above: the event borrows.
            Err(error) => Err(error),
        }
    }

    /// The peer's facts, once the handshake is done and until [they are given up](Self::forget_peer).
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_deref()
    }

    /// Gives the peer's facts up: whoever needs them has copied them.
    pub fn forget_peer(&mut self) {
        self.peer = None;
    }

    /// Whether the handshake is done and nothing has failed.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Traffic)
    }

    /// What it was made with.
    pub fn options(&self) -> &Arc<Options> {
        &self.options
    }

    /// The peer has ended the connection: an error if that is within a greeting, handshake, frame or message, of
    /// which nothing may be delivered then.
    pub fn finish(&self) -> Result<(), ZmtpError> {
        match &self.state {
            State::Failed(error) => Err(*error),
            State::Traffic if self.open.is_none() && !self.header.is_within() && !self.message.is_within() => Ok(()),
            _ => Err(ZmtpError::Truncated),
        }
    }

    /// Time has passed since the last call (or the beginning). To be called some times a second at best, at least
    /// as often as any of the times in the options: they are measured by this alone. May append a PING to `out`.
    pub fn on_elapsed(&mut self, elapsed: Duration, out: &mut Vec<u8>) -> Result<(), ZmtpError> {
        let due = match &self.state {
            State::Failed(error) => return Err(*error),
            State::Traffic if self.version < Version::V3_0 => return Ok(()),
            State::Traffic => self.heartbeat.elapsed(elapsed, self.unsent == 0, &self.options),
            _ => self.heartbeat.elapsed_in_handshake(elapsed, &self.options).map(|()| false),
        };
        match due {
            Ok(false) => {}
            // It can't fail: the version has it and no frame of ours is open.
            Ok(true) => {
                let _ = self.ping(b"", out);
            }
            Err(error) => self.state = State::Failed(error),
        }
        due.map(|_| ())
    }

    fn advance(&mut self, input: &[u8], at: &mut usize, out: &mut Vec<u8>) -> Result<Step, ZmtpError> {
        if std::mem::take(&mut self.scratch_told) {
            self.scratch.clear();
        }
        let step = loop {
            if self.ready || self.subscribed_to_all {
                break Ok(self.told_once());
            }
            let step = match &self.state {
                State::Traffic => break self.traffic(input, at, out),
                State::Failed(error) => return Err(*error),
                State::Handshake(handshake) if handshake.waits_for_verdict() => break Ok(Step::Blocked),
                State::Greeting(_) => self.greet(input, at, out),
                State::Identity { .. } => self.identity(input, at),
                State::Handshake(_) => self.shake_hands(input, at, out),
            };
            if let Some(step) = step.transpose() {
                break step;
            }
        };
        if let Err(error) = step {
            self.state = State::Failed(error);
        }
        step
    }

    fn told_once(&mut self) -> Step {
        if std::mem::take(&mut self.ready) {
            return Step::Ready;
        }
        self.subscribed_to_all = false;
        Step::SubscribeAll
    }

    /// Puts the bytes to a step.
    fn event<'a>(&'a self, step: Step, input: &'a [u8]) -> Result<Event<'a>, ZmtpError> {
        let bytes = |place: Place| match place {
            Place::Input(range) => input.get(range).unwrap_or_default(),
            Place::Scratch(range) => self.scratch.get(range).unwrap_or_default(),
        };
        Ok(match step {
            Step::NeedMore => Event::NeedMore,
            Step::Blocked => Event::Blocked,
            Step::Ready => self.peer.as_deref().map_or(Event::NeedMore, Event::Ready),
            Step::SubscribeAll => Event::Subscribe(b""),
            Step::Piece { at, offset, length, more } => {
                Event::Frame(Frame { payload: bytes(at), offset, length, more })
            }
            Step::Subscription(place) => match bytes(place) {
                [0, topic @ ..] => Event::Cancel(topic),
                [_, topic @ ..] => Event::Subscribe(topic),
                [] => Event::NeedMore,
            },
            Step::Ping { answered, ttl } => Event::Ping { answered, ttl: Duration::from_millis(u64::from(ttl) * 100) },
            Step::Command(place) => match Command::parse(bytes(place), self.options.lenient)? {
                Command::Subscribe(topic) => Event::Subscribe(topic),
                Command::Cancel(topic) => Event::Cancel(topic),
                Command::Pong(context) => Event::Pong(context),
                other => Event::Command(other),
            },
            Step::Authenticate => Event::Authenticate(self.credentials()?),
            Step::Refused => Event::Refused(refusal(&self.scratch)?.unwrap_or_default()),
        })
    }

    fn credentials(&self) -> Result<Credentials<'_>, ZmtpError> {
        if let State::Handshake(handshake) = &self.state
            && let Handshake::CurveServer { server, .. } = &**handshake
            && let Some(client) = server.client()
        {
            return Ok(Credentials::Curve(client));
        }
        let (username, password) = credentials(command::split(&self.scratch)?.1)?;
        Ok(Credentials::Plain { username, password })
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Greeting(_) => "greeting",
            State::Identity { .. } => "identity",
            State::Handshake(_) => "handshake",
            State::Traffic => "traffic",
            State::Failed(_) => "failed",
        };
        f.debug_struct("Connection").field("state", &state).field("peer", &self.peer).finish_non_exhaustive()
    }
}
