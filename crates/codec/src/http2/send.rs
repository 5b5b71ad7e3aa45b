//! Heads, data and trailers to frames in the output.

use super::{
    Connection, SendError, StreamId, encode,
    encode::RequestForm,
    frame::{FrameHead, MAX_31, MAX_PAYLOAD, flag, kind},
    message::Answers,
    stream::{Half, Waiting},
};
use sota_plugin::http::{HeaderId, Headers, Method, RequestHead, ResponseHead, StatusCode};

impl Connection {
    /// Why no stream can be opened.
    pub(super) fn open_error(&self) -> Option<SendError> {
        let most = self.peer.max_concurrent_streams.min(self.options.max_concurrent_streams);
        if self.failed.is_some() {
            Some(SendError::ConnectionClosed)
        } else if self.goaway_received.is_some() || self.goaway_sent.is_some() || self.next_stream > MAX_31 {
            Some(SendError::GoingAway)
        } else if self.streams.live() >= most {
            Some(SendError::TooManyStreams)
        } else {
            None
        }
    }

    /// Client: opens a stream with a request. A head in the form of an HTTP/1 upgrade goes as extended CONNECT
    /// (RFC 8441), for which the peer's settings must have arrived and allow it. Fields that HTTP/2 does not have
    /// are left out.
    pub fn send_request(&mut self, head: &RequestHead, end_stream: bool) -> Result<StreamId, SendError> {
        if !self.is_client {
            return Err(SendError::InvalidHead);
        }
        if let Some(error) = self.open_error() {
            return Err(error);
        }
        let form = encode::request_form(head);
        if form == RequestForm::Upgrade && !self.peer.enable_connect_protocol {
            return Err(SendError::ExtendedConnect);
        }
        let stream = self.next_stream;
        let encoder = &mut self.encoder;
        self.output
            .push_block(stream, end_stream, MAX_PAYLOAD as usize, |out| encode::request(encoder, head, form, out))?;
        self.next_stream += 2;
        self.flood.streams = self.flood.streams.saturating_add(1);
        let mut entry = self.new_stream();
        entry.send = if end_stream { Half::Ended } else { Half::Body };
        entry.answers = Answers { is_head: head.method == Method::Head, is_connect: form != RequestForm::Plain };
        if form == RequestForm::Upgrade {
            entry.is_upgrade = true;
            entry.protocol = head.headers.get(HeaderId::Upgrade).map(Into::into);
        }
        self.streams.insert(stream, entry);
        Ok(stream)
    }

    /// Server: sends a response, or an informational one, of which there may be many. 101 is only for an upgrade
    /// that came as extended CONNECT, and goes as 200.
    pub fn send_response(&mut self, stream: StreamId, head: &ResponseHead, end_stream: bool) -> Result<(), SendError> {
        if self.sendable(stream)? != Half::Head || self.is_client {
            return Err(SendError::InvalidHead);
        }
        let Some(entry) = self.streams.get_mut(stream) else { return Err(SendError::Closed) };
        let status = match head.status {
            StatusCode::SWITCHING_PROTOCOLS if entry.is_upgrade => StatusCode::OK,
            StatusCode::SWITCHING_PROTOCOLS => return Err(SendError::InvalidHead),
            status => status,
        };
        if status.is_informational() && end_stream {
            return Err(SendError::InvalidHead);
        }
        let is_tunnel = entry.answers.is_connect && status.is_success();
        if !status.is_informational() {
            entry.send = Half::Body;
        }
        let encoder = &mut self.encoder;
        self.output.push_block(stream, end_stream, MAX_PAYLOAD as usize, |out| {
            encode::response(encoder, head, status, is_tunnel, out);
            Ok(())
        })?;
        if end_stream {
            self.end(stream, false, true);
        }
        Ok(())
    }

    /// Sends data, as much as the windows and the output take; says how much that was. When it is less than all of
    /// it, the stream is not ended, and [`Self::next_sendable`] names the stream when it may go on. `end_stream`
    /// without data always succeeds, and takes no frame of its own behind a head or data that still wait.
    pub fn send_data(&mut self, stream: StreamId, data: &[u8], end_stream: bool) -> Result<usize, SendError> {
        if self.sendable(stream)? != Half::Body {
            return Err(SendError::Closed);
        }
        let room = self.room();
        let Some(entry) = self.streams.get_mut(stream) else { return Err(SendError::Closed) };
        let window = usize::try_from(entry.send_window.min(self.send_window)).unwrap_or(0);
        let accepted = data.len().min(window).min(room);
        let whole = accepted == data.len();
        // 2^14 octets: a larger frame would make the other streams wait.
        let mut parts = data.get(..accepted).unwrap_or_default().chunks(MAX_PAYLOAD as usize).peekable();
        while let Some(part) = parts.next() {
            let ends = end_stream && whole && parts.peek().is_none();
            let flags = if ends { flag::END_STREAM } else { 0 };
            self.output.push(FrameHead { len: part.len() as u32, kind: kind::DATA, flags, stream }, part);
            self.flood.data_sent = self.flood.data_sent.saturating_add(1);
        }
        if data.is_empty() && end_stream && !self.output.end_with_last(stream) {
            self.output.push(FrameHead { len: 0, kind: kind::DATA, flags: flag::END_STREAM, stream }, &[]);
        }
        // At most the windows, which are positive then.
        entry.send_window -= accepted as i32;
        self.send_window -= accepted as i32;
        if !whole {
            if entry.send_window <= 0 {
                entry.waiting = Waiting::Window;
            } else if entry.waiting != Waiting::Queued {
                entry.waiting = Waiting::Queued;
                self.queue.push_back(stream);
            }
        } else if end_stream {
            self.end(stream, false, true);
        }
        Ok(accepted)
    }

    /// How many octets [`Self::send_data`] would take now.
    pub fn capacity(&self, stream: StreamId) -> usize {
        match self.streams.get(stream) {
            Some(entry) if entry.send == Half::Body && self.failed.is_none() => {
                usize::try_from(entry.send_window.min(self.send_window)).unwrap_or(0).min(self.room())
            }
            _ => 0,
        }
    }

    /// Sends trailers, which end the stream; all data must have been taken before. Fields that HTTP/2 does not have
    /// are left out, and without fields it is an empty DATA frame.
    pub fn send_trailers(&mut self, stream: StreamId, trailers: &Headers) -> Result<(), SendError> {
        if trailers.is_empty() {
            return self.send_data(stream, &[], true).map(drop);
        }
        if self.sendable(stream)? != Half::Body {
            return Err(SendError::Closed);
        }
        let encoder = &mut self.encoder;
        self.output.push_block(stream, true, MAX_PAYLOAD as usize, |out| {
            encode::trailers(encoder, trailers, out);
            Ok::<(), SendError>(())
        })?;
        self.end(stream, false, true);
        Ok(())
    }

    /// A stream whose [`Self::send_data`] took less than all and would take something now. Each is named once; the
    /// streams take turns. To be asked after [`Self::recv`] and [`Self::written`] until it says `None`.
    pub fn next_sendable(&mut self) -> Option<StreamId> {
        // With half of the output free again, so that many small steps are not many wake-ups.
        if self.send_window <= 0 || self.output.len() > self.options.max_output / 2 || self.failed.is_some() {
            return None;
        }
        while let Some(stream) = self.queue.pop_front() {
            let Some(entry) = self.streams.get_mut(stream).filter(|entry| entry.waiting == Waiting::Queued) else {
                continue;
            };
            if entry.send_window > 0 {
                entry.waiting = Waiting::No;
                return Some(stream);
            }
            entry.waiting = Waiting::Window;
        }
        None
    }

    /// The state of a sending direction that has not ended.
    fn sendable(&self, stream: StreamId) -> Result<Half, SendError> {
        if self.failed.is_some() {
            return Err(SendError::ConnectionClosed);
        }
        let send = self.streams.get(stream).map(|entry| entry.send);
        send.filter(|send| *send != Half::Ended).ok_or(SendError::Closed)
    }

    /// Octets of data that the output takes: not less than a frame while there is any room, so that frames are not
    /// cut small.
    fn room(&self) -> usize {
        let left = self.options.max_output.saturating_sub(self.output.len());
        // Half of the frames are left to answers, so that data alone never passes the flood limit.
        if left == 0 || self.output.frames() >= self.options.max_outbound_frames / 2 {
            return 0;
        }
        left.max(MAX_PAYLOAD as usize)
    }
}
