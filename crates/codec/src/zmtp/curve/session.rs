//! What is sealed behind the handshake: MESSAGE commands, each with one frame or command in it.

use super::super::frame::{Framing, write_header};
use super::super::{CurveStep, SendError, ZmtpError};
use super::seal::{TAG, nonce, open, seal};
use crypto_box::SalsaBox;
use std::ops::Range;

/// In a box: another frame follows.
const MORE: u8 = 1;
/// In a box: a command. (libzmq's; RFC 26 has no commands in boxes.)
const COMMAND: u8 = 2;

const NAME: &[u8] = b"\x07MESSAGE";
const HEAD: usize = NAME.len() + 8;
/// Octets of a MESSAGE beside its payload: name, nonce, tag, flags.
pub(in super::super) const OVERHEAD: usize = HEAD + TAG + 1;

/// Keys and nonces of an established connection.
pub(in super::super) struct Session {
    cipher: SalsaBox,
    send: &'static [u8],
    receive: &'static [u8],
    /// Of the last command sent, and received.
    sent: u64,
    received: u64,
}

/// What was in a box, and where in the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Opened {
    pub more: bool,
    pub command: bool,
    pub payload: Range<usize>,
}

impl Session {
    /// Of a client: HELLO was 1 and INITIATE 2, READY had `received`.
    pub(super) fn client(cipher: SalsaBox, received: u64) -> Self {
        Self { cipher, send: b"CurveZMQMESSAGEC", receive: b"CurveZMQMESSAGES", sent: 2, received }
    }

    /// Of a server: READY was 1, INITIATE had `received`.
    pub(super) fn server(cipher: SalsaBox, received: u64) -> Self {
        Self { cipher, send: b"CurveZMQMESSAGES", receive: b"CurveZMQMESSAGEC", sent: 1, received }
    }

    /// Appends a frame. As libzmq does: outside it looks like a message of one frame, MORE and COMMAND are inside.
    pub(in super::super) fn seal(
        &mut self,
        more: bool,
        command: bool,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        let sent = self.sent.checked_add(1).ok_or(SendError::TooLong)?;
        let length = payload.len().checked_add(OVERHEAD).ok_or(SendError::TooLong)?;
        self.sent = sent;
        write_header(Framing::V2, 0, length as u64, out);
        let unique = sent.to_be_bytes();
        out.extend_from_slice(NAME);
        out.extend_from_slice(&unique);
        let flags = (u8::from(more) * MORE) | (u8::from(command) * COMMAND);
        seal(&self.cipher, &nonce(self.send, &unique), &[&[flags], payload], out);
        Ok(())
    }

    /// Opens the body of a frame in its place.
    pub(in super::super) fn open(&mut self, body: &mut [u8]) -> Result<Opened, ZmtpError> {
        let failed = ZmtpError::Curve(CurveStep::Message);
        let size = body.len();
        let (head, sealed) = body.split_at_mut_checked(HEAD).ok_or(failed)?;
        let Some((&mut name, unique)) = head.split_first_chunk_mut::<8>() else { return Err(failed) };
        if name != NAME {
            return Err(ZmtpError::UnexpectedCommand);
        }
        let number = unique.first_chunk().map_or(0, |unique| u64::from_be_bytes(*unique));
        if number <= self.received {
            return Err(ZmtpError::Nonce);
        }
        let opened = open(&self.cipher, &nonce(self.receive, unique), sealed).ok_or(failed)?;
        let flags = *opened.first().ok_or(failed)?;
        if flags & !(MORE | COMMAND) != 0 {
            return Err(ZmtpError::ReservedFlags(flags));
        }
        self.received = number;
        Ok(Opened { more: flags & MORE != 0, command: flags & COMMAND != 0, payload: OVERHEAD..size })
    }
}
