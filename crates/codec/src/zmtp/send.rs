//! What is sent, in the form that the peer's version and the mechanism have for it.

use super::connection::State;
use super::frame::{COMMAND, Framing, MORE, write_header};
use super::heartbeat::tenths;
use super::{Command, Connection, Frame, Message, SendError, Version};

impl Connection {
    /// Appends a message. All of it or, with an error, nothing.
    pub fn send_message(&mut self, message: &Message, out: &mut Vec<u8>) -> Result<(), SendError> {
        self.send_frames(message.frames(), out)
    }

    /// Appends a message of these frames. All of it or, with an error, nothing.
    pub fn send_frames<'f>(
        &mut self,
        frames: impl IntoIterator<Item = &'f [u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        let mut frames = frames.into_iter().peekable();
        if frames.peek().is_none() {
            return Err(SendError::EmptyMessage);
        }
        let start = out.len();
        while let Some(payload) = frames.next() {
            if let Err(error) = self.send_frame(payload, frames.peek().is_some(), out) {
                out.truncate(start);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Appends one frame. A message ends with the first that has not `more`; until then other messages must wait.
    #[inline]
    pub fn send_frame(&mut self, payload: &[u8], more: bool, out: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_sending()?;
        if let Some(session) = &mut self.session {
            return session.seal(more, false, payload, out);
        }
        write_header(self.framing, if more { MORE } else { 0 }, payload.len() as u64, out);
        out.extend_from_slice(payload);
        Ok(())
    }

    /// Passes a piece of another connection's frame on, as it comes: the first piece brings the header with it. Not
    /// for CURVE, unless the piece is the whole frame.
    pub fn send_piece(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<(), SendError> {
        if frame.is_first() {
            if frame.is_last() {
                return self.send_frame(frame.payload, frame.more, out);
            }
            self.begin_frame(frame.length, frame.more, out)?;
        }
        self.continue_frame(frame.payload, out)
    }

    /// Appends the header of a frame of `length` octets, which are to follow with [`Self::continue_frame`]. Nothing
    /// else can be sent before they have.
    pub fn begin_frame(&mut self, length: u64, more: bool, out: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_sending()?;
        if self.session.is_some() {
            return Err(SendError::WholeFramesOnly);
        }
        if length >= i64::MAX as u64 {
            return Err(SendError::TooLong);
        }
        write_header(self.framing, if more { MORE } else { 0 }, length, out);
        self.unsent = length;
        Ok(())
    }

    /// Appends octets of a frame that was begun.
    pub fn continue_frame(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), SendError> {
        if !self.is_ready() {
            return Err(SendError::NotReady);
        }
        self.unsent = self.unsent.checked_sub(payload.len() as u64).ok_or(SendError::FrameOverflow)?;
        out.extend_from_slice(payload);
        Ok(())
    }

    /// Counts octets of a frame that was begun as sent: the caller writes them behind what was appended so far, from
    /// where they lie.
    pub fn skip_frame(&mut self, octets: u64) -> Result<(), SendError> {
        self.unsent = self.unsent.checked_sub(octets).ok_or(SendError::FrameOverflow)?;
        Ok(())
    }

    /// Appends a subscription in the peer's form: a command to 3.1 and later, a message to others.
    pub fn subscribe(&mut self, topic: &[u8], out: &mut Vec<u8>) -> Result<(), SendError> {
        self.send_subscription(1, Command::Subscribe(topic), topic, out)
    }

    /// Appends the end of a subscription.
    pub fn cancel(&mut self, topic: &[u8], out: &mut Vec<u8>) -> Result<(), SendError> {
        self.send_subscription(0, Command::Cancel(topic), topic, out)
    }

    fn send_subscription(
        &mut self,
        first: u8,
        command: Command<'_>,
        topic: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        self.check_sending()?;
        if self.version >= Version::V3_1 {
            return self.send_command(&command, out);
        }
        self.send_frame(&[&[first], topic].concat(), false, out)
    }

    /// Appends a PING with up to 16 octets that come back, and the time to live of the options.
    pub fn ping(&mut self, context: &[u8], out: &mut Vec<u8>) -> Result<(), SendError> {
        let ttl = tenths(self.options.heartbeat.ttl);
        self.send_command(&Command::Ping { ttl, context }, out)
    }

    /// Appends a command. It may stand between the frames of a message.
    pub fn send_command(&mut self, command: &Command<'_>, out: &mut Vec<u8>) -> Result<(), SendError> {
        self.check_sending()?;
        if self.version < Version::V3_0 {
            return Err(SendError::Version);
        }
        let mut body = Vec::new();
        command.write(&mut body)?;
        if let Some(session) = &mut self.session {
            return session.seal(false, true, &body, out);
        }
        write_header(Framing::V2, COMMAND, body.len() as u64, out);
        out.extend_from_slice(&body);
        Ok(())
    }

    #[inline]
    fn check_sending(&self) -> Result<(), SendError> {
        match self.state {
            State::Traffic if self.unsent == 0 => Ok(()),
            State::Traffic => Err(SendError::FrameOpen),
            _ => Err(SendError::NotReady),
        }
    }
}
