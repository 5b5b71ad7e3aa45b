//! Octets to frames, and frames to events.

use super::{
    Connection, ConnectionError, ErrorCode, Event, HeadPool, ResetCause, StreamFault, StreamId,
    flood::Flood,
    frame::{self, FrameHead, HEAD_LEN, MAX_31, MAX_PAYLOAD, flag, kind, u32_at},
    stream::Half,
};
use crate::h2_preface::PREFACE;

/// What the next octets are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reading {
    /// The client's preface, of which so many octets have come.
    Preface(usize),
    /// A frame's head.
    Head,
    /// A payload that is looked at when it is whole.
    Payload(FrameHead),
    /// The first octet of padded DATA.
    PadLength(FrameHead),
    /// Data to pass on, then padding to skip.
    Data { stream: StreamId, left: u32, padding: u32, end_stream: bool },
    /// Octets that mean nothing.
    Skip(u32),
}

/// A field block that is not complete.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: StreamId,
    pub(super) end_stream: bool,
    pub(super) octets: Vec<u8>,
}

impl Block {
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.octets.capacity()
    }
}

/// Takes up to `len` octets off the input.
fn take<'a>(input: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at_checked(len).unwrap_or((input, &[]));
    *input = rest;
    taken
}

impl Connection {
    /// Reads on in `input` up to the next event and takes what was read off it; `None` when all of it is read. To be
    /// called until it says `None`.
    ///
    /// # Errors
    /// The connection is over. GOAWAY is in the output; when that is written the socket is to be closed. The
    /// streams are gone without further events.
    pub fn recv<'a>(
        &mut self,
        input: &mut &'a [u8],
        pool: &mut HeadPool,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        if let Some(error) = self.failed {
            *input = &[];
            return Err(error);
        }
        let result = self.advance(input, pool);
        if let Err(error) = result {
            *input = &[];
            self.fail(error);
        }
        result
    }

    fn advance<'a>(&mut self, input: &mut &'a [u8], pool: &mut HeadPool) -> Result<Option<Event<'a>>, ConnectionError> {
        while let Some(stream) = self.unprocessed.pop() {
            if let Some(entry) = self.streams.remove(stream) {
                self.remember_reset(stream);
                self.give_back_connection(entry.unreleased);
                return Ok(Some(Event::Reset { stream, cause: ResetCause::Unprocessed }));
            }
        }
        loop {
            let event = match self.reading {
                Reading::Preface(seen) => {
                    let expected = PREFACE.get(seen..).unwrap_or_default();
                    let octets = take(input, expected.len());
                    if !expected.starts_with(octets) {
                        return Err(ConnectionError::protocol("invalid connection preface"));
                    }
                    let seen = seen + octets.len();
                    self.reading = if seen == PREFACE.len() { Reading::Head } else { Reading::Preface(seen) };
                    if seen < PREFACE.len() {
                        return Ok(None);
                    }
                    None
                }
                Reading::Head => {
                    let Some(head) = self.frame_head(input) else { return Ok(None) };
                    self.begin_frame(head)?
                }
                Reading::Payload(head) => {
                    let len = head.len as usize;
                    if self.partial.is_empty() && input.len() >= len {
                        let payload = take(input, len);
                        self.reading = Reading::Head;
                        self.frame(head, payload, pool)?
                    } else {
                        let missing = len.saturating_sub(self.partial.len());
                        self.partial.extend_from_slice(take(input, missing));
                        if self.partial.len() < len {
                            return Ok(None);
                        }
                        let payload = std::mem::take(&mut self.partial);
                        self.reading = Reading::Head;
                        self.frame(head, &payload, pool)?
                    }
                }
                Reading::PadLength(head) => {
                    let Some((padding, rest)) = input.split_first() else { return Ok(None) };
                    *input = rest;
                    self.begin_data(head, u32::from(*padding) + 1, 1)?
                }
                Reading::Data { left: 0, padding, .. } | Reading::Skip(padding) => {
                    let skipped = take(input, padding as usize).len() as u32;
                    if skipped < padding {
                        self.reading = Reading::Skip(padding - skipped);
                        return Ok(None);
                    }
                    self.reading = Reading::Head;
                    None
                }
                Reading::Data { stream, left, padding, end_stream } => {
                    let data = take(input, left as usize);
                    if data.is_empty() {
                        return Ok(None);
                    }
                    let left = left - data.len() as u32;
                    self.reading = Reading::Data { stream, left, padding, end_stream };
                    // The user may have reset it since the frame began.
                    self.streams.get(stream).is_some().then(|| self.data(stream, data, end_stream && left == 0))
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// The next nine octets, when they are there.
    fn frame_head(&mut self, input: &mut &[u8]) -> Option<FrameHead> {
        if self.partial.is_empty()
            && let Some((octets, rest)) = input.split_first_chunk::<HEAD_LEN>()
        {
            *input = rest;
            return Some(FrameHead::parse(octets));
        }
        let octets = take(input, HEAD_LEN - self.partial.len().min(HEAD_LEN));
        self.partial.extend_from_slice(octets);
        let head = FrameHead::parse(self.partial.first_chunk::<HEAD_LEN>()?);
        self.partial.clear();
        Some(head)
    }

    /// Checks a frame's head and decides how its payload is read.
    fn begin_frame<'a>(&mut self, head: FrameHead) -> Result<Option<Event<'a>>, ConnectionError> {
        if head.len > MAX_PAYLOAD {
            return Err(ConnectionError::frame_size("frame larger than SETTINGS_MAX_FRAME_SIZE"));
        }
        if !self.settings_seen && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(ConnectionError::protocol("the first frame is not SETTINGS"));
        }
        if let Some(block) = &self.block
            && (head.kind != kind::CONTINUATION || head.stream != block.stream)
        {
            return Err(ConnectionError::protocol("a field block is interrupted"));
        }
        let of_connection = head.stream == 0;
        let valid = match head.kind {
            kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM => !of_connection,
            kind::SETTINGS | kind::PING | kind::GOAWAY => of_connection,
            kind::CONTINUATION => self.block.is_some(),
            // Push is switched off.
            kind::PUSH_PROMISE => false,
            _ => true,
        };
        if !valid {
            return Err(ConnectionError::protocol("unexpected frame, or on the wrong stream"));
        }
        let valid = match head.kind {
            kind::RST_STREAM | kind::WINDOW_UPDATE => head.len == 4,
            kind::SETTINGS if head.has(flag::ACK) => head.len == 0,
            kind::SETTINGS => head.len.is_multiple_of(6),
            kind::PING => head.len == 8,
            kind::GOAWAY => head.len >= 8,
            _ => true,
        };
        if !valid {
            return Err(ConnectionError::frame_size("frame of the wrong size"));
        }
        if let kind::DATA | kind::HEADERS | kind::CONTINUATION = head.kind {
            self.message_octets += HEAD_LEN as u64 + u64::from(head.len);
        }
        match head.kind {
            kind::DATA if head.has(flag::PADDED) => {
                if head.len == 0 {
                    return Err(ConnectionError::frame_size("padded frame without pad length"));
                }
                self.reading = Reading::PadLength(head);
                Ok(None)
            }
            kind::DATA => self.begin_data(head, 0, 0),
            kind::HEADERS..=kind::CONTINUATION => {
                self.reading = Reading::Payload(head);
                Ok(None)
            }
            // RFC 9113 §5.5: unknown types are ignored.
            _ => {
                self.reading = Reading::Skip(head.len);
                Ok(None)
            }
        }
    }

    /// DATA, when its length and that of its padding are known, of which `read` octets are read.
    fn begin_data<'a>(
        &mut self,
        head: FrameHead,
        padding: u32,
        read: u32,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        let FrameHead { len, stream, .. } = head;
        let Some(data) = len.checked_sub(padding) else {
            return Err(ConnectionError::protocol("more padding than payload"));
        };
        self.flood.count(head, data as usize, &self.options, &mut self.counters)?;
        self.recv_window = match self.recv_window.checked_sub_unsigned(len) {
            Some(window) if window >= 0 => window,
            _ => return Err(ConnectionError::new(ErrorCode::FLOW_CONTROL_ERROR, "connection window exceeded")),
        };
        let end_stream = head.has(flag::END_STREAM);
        self.reading = Reading::Skip(len - read);
        let Some(entry) = self.streams.get_mut(stream).filter(|entry| !entry.is_closed()) else {
            if self.is_idle(stream) {
                return Err(ConnectionError::protocol("DATA on an idle stream"));
            }
            if !self.may_be_in_flight(stream) {
                return Err(ConnectionError::new(ErrorCode::STREAM_CLOSED, "DATA on a closed stream"));
            }
            self.give_back_connection(len);
            return Ok(None);
        };
        let too_long = entry.body_left.is_some_and(|left| u64::from(data) > left);
        let too_short = end_stream && entry.body_left.is_some_and(|left| u64::from(data) < left);
        let fault = match entry.recv {
            Half::Ended => Some(StreamFault::Closed),
            Half::Head => Some(StreamFault::Messaging),
            Half::Body if i64::from(len) > i64::from(entry.recv_window) => Some(StreamFault::FlowControl),
            Half::Body if too_long || too_short => Some(StreamFault::Length),
            Half::Body => None,
        };
        if let Some(fault) = fault {
            self.give_back_connection(len);
            return self.stream_fault(stream, fault);
        }
        entry.recv_window = entry.recv_window.saturating_sub_unsigned(len);
        entry.unreleased += data;
        entry.body_left = entry.body_left.map(|left| left - u64::from(data));
        if padding > 0 {
            self.give_back(stream, padding);
        }
        if data > 0 {
            self.reading = Reading::Data { stream, left: data, padding: padding - read, end_stream };
            return Ok(None);
        }
        Ok(end_stream.then(|| self.data(stream, &[], true)))
    }

    fn data<'a>(&mut self, stream: StreamId, data: &'a [u8], end_stream: bool) -> Event<'a> {
        if end_stream {
            self.end(stream, true, false);
        }
        Event::Data { stream, data, end_stream }
    }

    /// Ends directions of a stream.
    pub(super) fn end(&mut self, stream: StreamId, recv: bool, send: bool) {
        if self.streams.end(stream, recv, send) && !self.is_client {
            self.flood.request_over(false);
        }
    }

    /// A frame that is whole, other than DATA.
    fn frame<'a>(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        pool: &mut HeadPool,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        let event = match head.kind {
            kind::HEADERS => self.headers(head, payload, pool)?,
            kind::CONTINUATION => self.continuation(head, payload, pool)?,
            kind::PRIORITY => {
                self.flood.count(head, payload.len(), &self.options, &mut self.counters)?;
                // RFC 9113 §5.3.2: what it says is ignored.
                if payload.len() != 5 && self.streams.get(head.stream).is_some_and(|entry| !entry.is_closed()) {
                    return self.stream_fault(head.stream, StreamFault::Frame(ErrorCode::FRAME_SIZE_ERROR));
                }
                None
            }
            kind::RST_STREAM => self.rst_stream(head.stream, ErrorCode(u32_at(payload, 0)))?,
            kind::SETTINGS => self.settings(head, payload)?,
            kind::PING => {
                let payload = payload.first_chunk().copied().unwrap_or_default();
                if head.has(flag::ACK) {
                    Some(Event::Pong { payload })
                } else {
                    frame::write_ping(self.output.frame(true), payload, true);
                    None
                }
            }
            kind::GOAWAY => Some(self.goaway(payload)),
            kind::WINDOW_UPDATE => {
                self.flood.count(head, payload.len(), &self.options, &mut self.counters)?;
                self.window_update(head.stream, u32_at(payload, 0) & MAX_31)?
            }
            _ => None,
        };
        Flood::check_output(&self.output, &self.options, &mut self.counters)?;
        Ok(event)
    }
}
