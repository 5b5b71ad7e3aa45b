//! The way of a connection from its greeting to its first message.

use super::connection::{Place, State, Step};
use super::frame::{COMMAND, Framing, LONG, MORE, write_header};
use super::greeting::{Decision, Greeted};
use super::handshake::{Done, Handshake, Progress, Scope, settle};
use super::metadata::Metadata;
use super::spoken::looks_most_like;
use super::traffic::{Kind, OpenFrame};
use super::{Command, Connection, Peer, SendError, SocketType, Version, ZmtpError};
use std::sync::Arc;

/// Octets of a handshake command beside its metadata: CURVE's INITIATE has 257, PLAIN's HELLO 518 and no metadata.
const HANDSHAKE_OVERHEAD: u64 = 600;

impl Connection {
    /// Whether the peer waits for our socket type while we wait for its (see
    /// [`Options::auto_face`](super::Options::auto_face)).
    pub fn waits_for_socket_type(&self) -> bool {
        self.socket_type.is_none()
            && match &self.state {
                State::Greeting(greeting) => greeting.waits_for_socket_type(),
                State::Handshake(handshake) => handshake.waits_for_socket_type(),
                _ => false,
            }
    }

    /// Waits no longer: our socket type is that of the options. To be called after a second or so; does nothing if
    /// the type is settled.
    ///
    /// # Errors
    ///
    /// As [`Self::recv`].
    pub fn declare_socket_type(&mut self, out: &mut Vec<u8>) -> Result<(), ZmtpError> {
        if self.socket_type.is_some() {
            return Ok(());
        }
        self.socket_type = Some(self.options.socket_type);
        let options = Arc::clone(&self.options);
        match &mut self.state {
            State::Greeting(greeting) => match greeting.decide(&options, self.socket_type, out) {
                Ok(Decision::Greeted(greeted)) => self.on_greeted(greeted, out),
                Ok(Decision::Need(_)) => Ok(()),
                Err(error) => {
                    self.state = State::Failed(error);
                    Err(error)
                }
            },
            State::Handshake(handshake) => {
                handshake.declare(&mut Scope { options: &options, socket_type: &mut self.socket_type, out });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The credentials of [`Event::Authenticate`](super::Event::Authenticate) are good: the handshake goes on. Call
    /// [`Self::recv`] then, even without bytes.
    pub fn allow(&mut self, out: &mut Vec<u8>) -> Result<(), SendError> {
        let options = Arc::clone(&self.options);
        let State::Handshake(handshake) = &mut self.state else { return Err(SendError::NotAsked) };
        let mut scope = Scope { options: &options, socket_type: &mut self.socket_type, out };
        match handshake.allow(&mut scope).ok_or(SendError::NotAsked)? {
            Progress::Done(done) => self.establish(*done),
            _ => Ok(()),
        }
        .map_err(|error| {
            self.state = State::Failed(error);
            SendError::NotReady
        })
    }

    /// The credentials are not good: appends an ERROR with a reason, up to 255 octets (libzmq gives a status: `400`
    /// for bad credentials, `300` for a temporary failure, `500` for an internal one). The connection has failed
    /// with that and is to be closed when `out` is sent.
    pub fn deny(&mut self, reason: &[u8], out: &mut Vec<u8>) -> Result<(), SendError> {
        match &self.state {
            State::Handshake(handshake) if handshake.waits_for_verdict() => {}
            _ => return Err(SendError::NotAsked),
        }
        let mut body = Vec::new();
        Command::Error(reason).write(&mut body)?;
        write_header(Framing::V2, COMMAND, body.len() as u64, out);
        out.extend_from_slice(&body);
        self.state = State::Failed(ZmtpError::Denied);
        Ok(())
    }

    pub(super) fn greet(&mut self, input: &[u8], at: &mut usize, out: &mut Vec<u8>) -> Result<Option<Step>, ZmtpError> {
        let State::Greeting(greeting) = &mut self.state else { return Ok(None) };
        let rest = input.get(*at..).unwrap_or_default();
        let (taken, greeted) = greeting.advance(rest, &self.options, self.socket_type, out)?;
        *at += taken;
        let Some(greeted) = greeted else { return Ok(Some(Step::NeedMore)) };
        self.on_greeted(greeted, out).map(|()| None)
    }

    fn on_greeted(&mut self, greeted: Greeted, out: &mut Vec<u8>) -> Result<(), ZmtpError> {
        let options = Arc::clone(&self.options);
        let identity = options.wire_identity();
        match greeted {
            Greeted::V1 { begun, have } => {
                self.version = Version::V1_0;
                self.framing = Framing::V1;
                // There are no types in 1.0.
                self.socket_type.get_or_insert(options.socket_type);
                if options.max_version > Version::V1_0 {
                    // The signature was the beginning of it.
                    out.extend_from_slice(identity);
                }
                let begun = begun.get(..have).unwrap_or_default();
                let (_, header) = self.header.read(begun, Framing::V1)?;
                if let Some(header) = header {
                    self.open_identity(header.length)?;
                }
                self.state = State::Identity { socket_type: None, any_flags: have > 1 };
            }
            Greeted::V2 { version, socket_type, sent } => {
                self.version = version;
                self.framing = if version == Version::V1_0 { Framing::V1 } else { Framing::V2 };
                let theirs = SocketType::from_octet(socket_type).ok_or(ZmtpError::SocketTypeOctet(socket_type))?;
                let mut scope = Scope { options: &options, socket_type: &mut self.socket_type, out };
                let ours = settle(Some(theirs), &mut scope)?;
                if !sent {
                    out.push(ours.octet());
                }
                write_header(self.framing, 0, identity.len() as u64, out);
                out.extend_from_slice(identity);
                self.state = State::Identity { socket_type: Some(theirs), any_flags: false };
            }
            Greeted::V3(version) => {
                self.version = version;
                let mut scope = Scope { options: &options, socket_type: &mut self.socket_type, out };
                self.state = State::Handshake(Box::new(Handshake::start(&mut scope)?));
            }
        }
        Ok(())
    }

    fn open_identity(&mut self, length: u64) -> Result<(), ZmtpError> {
        if length > 255 {
            return Err(ZmtpError::IdentityTooLong);
        }
        self.open = Some(OpenFrame::new(length, false, Kind::Handshake));
        Ok(())
    }

    /// Before 3.0: the frame with the peer's identity.
    pub(super) fn identity(&mut self, input: &[u8], at: &mut usize) -> Result<Option<Step>, ZmtpError> {
        let State::Identity { socket_type, any_flags } = self.state else { return Ok(None) };
        if self.open.is_none() {
            let rest = input.get(*at..).unwrap_or_default();
            let (taken, header) = self.header.read(rest, self.framing)?;
            *at += taken;
            let Some(header) = header else { return Ok(Some(Step::NeedMore)) };
            let is_short_v1 = self.version == Version::V1_0 && socket_type.is_none();
            if is_short_v1 && !any_flags && header.flags != 0 {
                // It was taken for 1.0 because it is nothing else.
                let length = u8::try_from(header.length + 1).unwrap_or(u8::MAX);
                return Err(ZmtpError::NotZmtp(looks_most_like(&[length, header.flags])));
            }
            if header.flags & MORE != 0 {
                return Err(ZmtpError::Identity);
            }
            if header.flags & !LONG != 0 && !self.options.lenient {
                return Err(ZmtpError::ReservedFlags(header.flags));
            }
            self.open_identity(header.length)?;
        }
        if self.gather(input, at).is_none() {
            return Ok(Some(Step::NeedMore));
        }
        let metadata = Metadata { socket_type, identity: self.scratch.as_slice().into(), properties: Vec::new() };
        self.establish(Done { metadata, ..Done::default() })?;
        // Only a peer without a revision, libzmq 2, filters by itself and sends no subscriptions.
        self.subscribed_to_all = socket_type.is_none() && self.socket_type.is_some_and(SocketType::is_publisher);
        Ok(None)
    }

    /// Since 3.0: the commands of the mechanism.
    pub(super) fn shake_hands(
        &mut self,
        input: &[u8],
        at: &mut usize,
        out: &mut Vec<u8>,
    ) -> Result<Option<Step>, ZmtpError> {
        if std::mem::take(&mut self.scratch_told) {
            self.scratch.clear();
        }
        if self.open.is_none() {
            let rest = input.get(*at..).unwrap_or_default();
            let (taken, header) = self.header.read(rest, self.framing)?;
            *at += taken;
            let Some(header) = header else { return Ok(Some(Step::NeedMore)) };
            if header.flags & COMMAND == 0 {
                return Err(ZmtpError::UnexpectedMessage);
            }
            if header.flags & MORE != 0 {
                return Err(ZmtpError::CommandWithMore);
            }
            if header.flags & !(COMMAND | LONG) != 0 && !self.options.lenient {
                return Err(ZmtpError::ReservedFlags(header.flags));
            }
            if header.length > self.options.limits.max_metadata_bytes as u64 + HANDSHAKE_OVERHEAD {
                return Err(ZmtpError::MetadataTooLarge);
            }
            self.open = Some(OpenFrame::new(header.length, false, Kind::Handshake));
        }
        if self.gather(input, at).is_none() {
            return Ok(Some(Step::NeedMore));
        }
        let options = Arc::clone(&self.options);
        let State::Handshake(handshake) = &mut self.state else { return Ok(None) };
        let mut scope = Scope { options: &options, socket_type: &mut self.socket_type, out };
        match handshake.on_command(&mut self.scratch, &mut scope)? {
            Progress::Continue => Ok(None),
            Progress::Verdict => Ok(Some(Step::Authenticate)),
            Progress::Refused => {
                self.state = State::Failed(ZmtpError::Refused);
                Ok(Some(Step::Refused))
            }
            Progress::Done(done) => self.establish(*done).map(|()| None),
        }
    }

    fn establish(&mut self, done: Done) -> Result<(), ZmtpError> {
        let Metadata { socket_type, identity, properties } = done.metadata;
        if self.options.refuse_reserved_identity && identity.first() == Some(&0) {
            return Err(ZmtpError::ReservedIdentity);
        }
        self.peer = Some(Box::new(Peer {
            version: self.version,
            socket_type,
            our_socket_type: self.socket_type.unwrap_or(self.options.socket_type),
            mechanism: self.options.security.mechanism(),
            identity,
            username: done.username,
            public_key: done.public_key,
            properties,
        }));
        self.session = done.session;
        self.heartbeat.begin();
        self.state = State::Traffic;
        self.ready = true;
        // The handshake's memory, keys among it, is not kept.
        self.scratch = Vec::new();
        self.scratch_told = false;
        Ok(())
    }

    /// Collects an open frame; where it is, once it is whole. It has no more octets than a limit allows, and memory
    /// grows with what has come.
    pub(super) fn gather(&mut self, input: &[u8], at: &mut usize) -> Option<Place> {
        let open = self.open.as_mut()?;
        let rest = input.get(*at..).unwrap_or_default();
        let missing = usize::try_from(open.length - open.have).unwrap_or(usize::MAX);
        let piece = rest.get(..missing).unwrap_or(rest);
        let start = *at;
        *at += piece.len();
        if open.have == 0 && piece.len() == missing && open.kind.may_stay_in_input() {
            self.open = None;
            return Some(Place::Input(start..*at));
        }
        self.scratch.extend_from_slice(piece);
        open.have += piece.len() as u64;
        if open.have < open.length {
            return None;
        }
        self.open = None;
        self.scratch_told = true;
        Some(Place::Scratch(0..self.scratch.len()))
    }
}
