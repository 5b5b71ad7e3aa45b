//! Responses (RFC 9113 §8.3.2).

use super::{BodyOctets, Gate};
use crate::{
    http1::content_length,
    http2::{
        StreamFault,
        hpack::{FieldSink, Name, Pseudo},
        options::Options,
    },
};
use sota_config::http::UnderscoreAction;
use sota_plugin::http::{HeaderId, Protocol, ResponseHead, StatusCode};

/// What a response answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::http2) struct Answers {
    pub(in crate::http2) is_head: bool,
    /// CONNECT, plain or extended.
    pub(in crate::http2) is_connect: bool,
}

/// Takes the fields of a response.
pub(in crate::http2) struct ResponseSink<'a> {
    gate: Gate,
    head: &'a mut ResponseHead,
    has_status: bool,
}

impl<'a> ResponseSink<'a> {
    /// `head` is overwritten.
    pub(in crate::http2) fn new(options: &Options, head: &'a mut ResponseHead) -> Self {
        head.recycle();
        head.protocol = Protocol::Http2;
        Self { gate: Gate::new(options, UnderscoreAction::Allow), head, has_status: false }
    }

    fn status(&mut self, value: &[u8]) -> Result<(), StreamFault> {
        if self.gate.regular || std::mem::replace(&mut self.has_status, true) {
            return Err(StreamFault::Field);
        }
        let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = value else { return Err(StreamFault::Field) };
        let code = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
        self.head.status = StatusCode::from_u16(code).ok_or(StreamFault::Field)?;
        Ok(())
    }

    /// Checks the whole, when the block has been read.
    pub(in crate::http2) fn finish(self, end_stream: bool, answers: Answers) -> Result<BodyOctets, StreamFault> {
        if let Some(fault) = self.gate.fault {
            return Err(fault);
        }
        let status = self.head.status;
        // RFC 9113 §8.6: there is no 101; §8.1: an informational response never ends a stream.
        let informational = status.is_informational();
        if !self.has_status || status == StatusCode::SWITCHING_PROTOCOLS || informational && end_stream {
            return Err(StreamFault::Messaging);
        }
        let length = content_length(&mut self.head.headers).map_err(|_| StreamFault::Messaging)?;
        if informational || status == StatusCode::NO_CONTENT {
            if length.is_some_and(|length| length > 0) {
                return Err(StreamFault::Messaging);
            }
            self.head.headers.remove(HeaderId::ContentLength);
            return Ok(Some(0));
        }
        if answers.is_connect && status.is_success() {
            self.head.headers.remove(HeaderId::ContentLength);
            return Ok(None);
        }
        if answers.is_head || status == StatusCode::NOT_MODIFIED {
            return Ok(Some(0));
        }
        if end_stream && length.is_some_and(|length| length > 0) {
            return Err(StreamFault::Messaging);
        }
        Ok(length)
    }
}

impl FieldSink for ResponseSink<'_> {
    fn field(&mut self, name: Name<'_>, value: &[u8]) {
        if !self.gate.admit(name, value) {
            return;
        }
        match name {
            Name::Pseudo(Pseudo::Status) => {
                if let Err(fault) = self.status(value) {
                    self.gate.fail(fault);
                }
            }
            _ => self.gate.regular(name, value, &mut self.head.headers),
        }
    }
}
