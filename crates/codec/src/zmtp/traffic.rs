//! Messages and commands behind the handshake.

use super::connection::{Place, Step};
use super::curve::OVERHEAD;
use super::frame::{COMMAND, FrameHeader, Framing, LONG, MORE};
use super::{Command, Connection, CurveStep, Limits, SocketType, Version, ZmtpError};

/// A frame whose header has come.
#[derive(Debug)]
pub(super) struct OpenFrame {
    pub length: u64,
    pub have: u64,
    pub more: bool,
    pub kind: Kind,
}

impl OpenFrame {
    pub(super) fn new(length: u64, more: bool, kind: Kind) -> Self {
        Self { length, have: 0, more, kind }
    }
}

/// What a frame is, and so whether it is given in pieces or whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Part of a message: in pieces.
    Message,
    /// The only frame of a message to a publisher: its first octet tells.
    SubscriptionOrMessage,
    /// `01 topic` or `00 topic`: whole.
    Subscription,
    /// Whole.
    Command,
    /// A box of CURVE's: whole, because nothing of it is true before all of it is.
    Sealed,
    /// Of the handshake: whole.
    Handshake,
}

impl Kind {
    /// Whether a frame that lies whole in the input need not be copied.
    pub(super) const fn may_stay_in_input(self) -> bool {
        matches!(self, Self::Command | Self::Subscription)
    }
}

/// What has come of a message.
#[derive(Debug, Default)]
pub(super) struct MessageCount {
    frames: u32,
    bytes: u64,
}

impl MessageCount {
    /// Counts a frame. Whether it is the first of its message.
    fn add(&mut self, length: u64, more: bool, limits: &Limits) -> Result<bool, ZmtpError> {
        let is_first = self.frames == 0;
        self.frames = self.frames.saturating_add(1);
        self.bytes = self.bytes.saturating_add(length);
        if length > limits.max_frame_bytes {
            return Err(ZmtpError::FrameTooLarge);
        }
        if self.bytes > limits.max_message_bytes {
            return Err(ZmtpError::MessageTooLarge);
        }
        if self.frames > limits.max_frames_per_message {
            return Err(ZmtpError::TooManyFrames);
        }
        if !more {
            *self = Self::default();
        }
        Ok(is_first)
    }

    /// Whether frames have come and more are to follow.
    pub(super) fn is_within(&self) -> bool {
        self.frames > 0
    }
}

/// A buffer larger than this is given back when it is not used.
const KEPT: usize = 1024;

impl Connection {
    /// The next event behind the handshake.
    #[inline]
    pub(super) fn traffic(&mut self, input: &[u8], at: &mut usize, out: &mut Vec<u8>) -> Result<Step, ZmtpError> {
        if self.open.is_none() {
            let rest = input.get(*at..).unwrap_or_default();
            let (taken, header) = self.header.read(rest, self.framing)?;
            *at += taken;
            let Some(header) = header else { return Ok(self.need_more(out)) };
            self.open = Some(self.on_header(header)?);
        }
        let rest = input.get(*at..).unwrap_or_default();
        let Some(open) = &mut self.open else { return Ok(self.need_more(out)) };
        if open.kind == Kind::SubscriptionOrMessage {
            match rest.first() {
                None => return Ok(self.need_more(out)),
                Some(0 | 1) if open.length - 1 > self.options.limits.max_topic_bytes as u64 => {
                    return Err(ZmtpError::TopicTooLong);
                }
                Some(0 | 1) => open.kind = Kind::Subscription,
                Some(_) => open.kind = Kind::Message,
            }
        }
        if open.kind != Kind::Message {
            return match self.gather_kind(input, at) {
                Some((kind, place)) => self.on_whole(kind, place, input),
                None => Ok(self.need_more(out)),
            };
        }
        let missing = open.length - open.have;
        if rest.is_empty() && missing > 0 {
            return Ok(self.need_more(out));
        }
        let size = usize::try_from(missing).map_or(rest.len(), |missing| missing.min(rest.len()));
        let (offset, length, more) = (open.have, open.length, open.more);
        open.have += size as u64;
        if open.have == open.length {
            self.open = None;
        }
        let start = *at;
        *at += size;
        Ok(Step::Piece { at: Place::Input(start..*at), offset, length, more })
    }

    /// Octets of the message frame that is being received which come next and are given as they are: those may be read
    /// to where they shall lie, if the codec is [told](Self::skip_received).
    pub fn payload_left(&self) -> u64 {
        let open = self.open.as_ref().filter(|open| open.kind == Kind::Message && self.is_ready());
        open.map_or(0, |open| open.length - open.have)
    }

    /// So many octets of [`Self::payload_left`], fewer than all, were received without [`Self::recv`].
    pub fn skip_received(&mut self, octets: u64) {
        let left = self.payload_left();
        debug_assert!(octets < left, "the end of a frame is for `recv`");
        if let Some(open) = self.open.as_mut().filter(|_| octets < left) {
            open.have += octets;
            self.heartbeat.heard();
        }
    }

    fn gather_kind(&mut self, input: &[u8], at: &mut usize) -> Option<(Kind, Place)> {
        let kind = self.open.as_ref()?.kind;
        self.gather(input, at).map(|place| (kind, place))
    }

    /// Everything was taken: the time to answer PINGs, and to hold nothing.
    fn need_more(&mut self, out: &mut Vec<u8>) -> Step {
        if self.unsent == 0
            && let Some((context, length)) = self.heartbeat.take_pong()
        {
            let context = context.get(..length).unwrap_or_default();
            // It can't fail: a peer that sent PING takes commands.
            let _ = self.send_command(&Command::Pong(context), out);
        }
        if self.scratch.is_empty() && self.scratch.capacity() > KEPT {
            self.scratch = Vec::new();
        }
        Step::NeedMore
    }

    /// Whether a frame may be at all, and what it is.
    fn on_header(&mut self, header: FrameHeader) -> Result<OpenFrame, ZmtpError> {
        let FrameHeader { flags, length } = header;
        let known = match (self.framing, self.version) {
            (Framing::V1, _) => MORE,
            (_, Version::V1_0 | Version::V2_0) => MORE | LONG,
            _ => MORE | LONG | COMMAND,
        };
        if flags & !known != 0 && !self.options.lenient {
            return Err(ZmtpError::ReservedFlags(flags));
        }
        let limits = &self.options.limits;
        let more = flags & MORE != 0;
        let is_command = flags & known & COMMAND != 0;
        if is_command && more {
            return Err(ZmtpError::CommandWithMore);
        }
        if self.session.is_some() {
            // RFC 37 has MESSAGE as a command; libzmq sends it as a message. MORE is inside the box.
            return match length.checked_sub(OVERHEAD as u64) {
                _ if more => Err(ZmtpError::UnexpectedMessage),
                None => Err(ZmtpError::Curve(CurveStep::Message)),
                Some(payload) if payload > limits.max_frame_bytes.max(limits.max_command_bytes as u64) => {
                    Err(ZmtpError::FrameTooLarge)
                }
                Some(_) => Ok(OpenFrame::new(length, false, Kind::Sealed)),
            };
        }
        if is_command {
            return match length {
                _ if length > limits.max_command_bytes as u64 => Err(ZmtpError::CommandTooLarge),
                _ => Ok(OpenFrame::new(length, false, Kind::Command)),
            };
        }
        let is_first = self.message.add(length, more, limits)?;
        let may_subscribe = is_first && !more && length > 0 && self.is_publisher();
        let kind = if may_subscribe { Kind::SubscriptionOrMessage } else { Kind::Message };
        Ok(OpenFrame::new(length, more, kind))
    }

    fn on_whole(&mut self, kind: Kind, place: Place, input: &[u8]) -> Result<Step, ZmtpError> {
        match kind {
            Kind::Sealed => self.on_sealed(),
            Kind::Command => {
                let body = match &place {
                    Place::Input(range) => input.get(range.clone()),
                    Place::Scratch(range) => self.scratch.get(range.clone()),
                };
                match Command::parse(body.unwrap_or_default(), self.options.lenient)? {
                    Command::Ping { ttl, context } => {
                        Ok(Step::Ping { answered: self.heartbeat.on_ping(ttl, context), ttl })
                    }
                    Command::Subscribe(topic) | Command::Cancel(topic)
                        if topic.len() > self.options.limits.max_topic_bytes =>
                    {
                        Err(ZmtpError::TopicTooLong)
                    }
                    Command::Subscribe(_) | Command::Cancel(_) if !self.is_publisher() => {
                        Err(ZmtpError::UnexpectedCommand)
                    }
                    _ => Ok(Step::Command(place)),
                }
            }
            _ => Ok(Step::Subscription(place)),
        }
    }

    /// A box, whole in the scratch buffer.
    fn on_sealed(&mut self) -> Result<Step, ZmtpError> {
        let session = self.session.as_mut().ok_or(ZmtpError::UnexpectedMessage)?;
        let opened = session.open(&mut self.scratch)?;
        let limits = &self.options.limits;
        let length = opened.payload.len() as u64;
        let place = Place::Scratch(opened.payload.clone());
        if opened.command {
            return match length {
                _ if opened.more => Err(ZmtpError::CommandWithMore),
                _ if length > limits.max_command_bytes as u64 => Err(ZmtpError::CommandTooLarge),
                _ => self.on_whole(Kind::Command, place, &[]),
            };
        }
        let is_first = self.message.add(length, opened.more, limits)?;
        if is_first && !opened.more && self.is_publisher() {
            let first = self.scratch.get(opened.payload.start).filter(|_| length > 0);
            match first {
                Some(0 | 1) if length - 1 > limits.max_topic_bytes as u64 => return Err(ZmtpError::TopicTooLong),
                Some(0 | 1) => return Ok(Step::Subscription(place)),
                _ => {}
            }
        }
        Ok(Step::Piece { at: place, offset: 0, length, more: opened.more })
    }

    fn is_publisher(&self) -> bool {
        self.socket_type.is_some_and(SocketType::is_publisher)
    }
}
