//! Frames that concern streams and connection rather than messages, and faults of streams.

use super::{
    Connection, ConnectionError, ErrorCode, ErrorKind, Event, ResetCause, StreamFault, StreamId,
    flood::Flood,
    frame::{self, FrameHead, MAX_31, flag, u32_at},
    stream::{Half, Waiting},
};

impl Connection {
    pub(super) fn rst_stream<'a>(
        &mut self,
        stream: StreamId,
        code: ErrorCode,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        if self.is_idle(stream) {
            return Err(ConnectionError::protocol("RST_STREAM on an idle stream"));
        }
        let Some(entry) = self.streams.get(stream).filter(|entry| !entry.is_closed()) else { return Ok(None) };
        self.counters.rx_reset += 1;
        let early = self.is_early(entry.send, entry.opened_at);
        if let Some(entry) = self.streams.remove(stream) {
            self.give_back_connection(entry.unreleased);
        }
        self.request_over(early)?;
        Ok(Some(Event::Reset { stream, cause: ResetCause::Peer(code) }))
    }

    /// Whether a request that ends now without a response ends early (see `Flood::check_resets`).
    fn is_early(&self, send: Half, opened_at: u32) -> bool {
        send == Half::Head
            && self.now.wrapping_sub(opened_at) <= self.options.premature_reset_min_stream_lifetime_seconds
    }

    fn request_over(&mut self, early: bool) -> Result<(), ConnectionError> {
        if self.is_client {
            return Ok(());
        }
        self.flood.request_over(early);
        self.flood.check_resets(&self.options, &mut self.counters)
    }

    /// The peer's frames broke a rule that concerns one stream.
    pub(super) fn stream_fault<'a>(
        &mut self,
        stream: StreamId,
        fault: StreamFault,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        match fault {
            StreamFault::Field | StreamFault::Messaging => self.counters.rx_messaging_error += 1,
            StreamFault::TooLarge => self.counters.header_overflow += 1,
            StreamFault::Underscore => self.counters.requests_rejected_with_underscores_in_headers += 1,
            StreamFault::Refused => self.counters.stream_refused_errors += 1,
            _ => {}
        }
        if fault.is_message() && !self.options.stream_error_on_invalid_http_message {
            return Err(ConnectionError {
                code: ErrorCode::PROTOCOL_ERROR,
                message: fault.details(),
                kind: ErrorKind::Message,
            });
        }
        let early = match self.streams.get(stream) {
            Some(entry) => self.is_early(entry.send, entry.opened_at),
            None => true,
        };
        self.reset_stream(stream, fault.code());
        if fault != StreamFault::Refused {
            // CVE-2025-8671: a reset that the client provokes is as good to it as one of its own.
            self.request_over(early)?;
        }
        Flood::check_output(&self.output, &self.options, &mut self.counters)?;
        Ok(Some(Event::Reset { stream, cause: ResetCause::Fault(fault) }))
    }

    pub(super) fn settings<'a>(
        &mut self,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        if head.has(flag::ACK) {
            // Only now does the peer's encoder know of a smaller table.
            self.decoder.set_limit(self.options.hpack_table_size as usize);
            return Ok(None);
        }
        let before = self.peer.initial_window_size;
        self.peer.apply(payload, self.is_client)?;
        self.settings_seen = true;
        self.encoder.set_peer_limit(self.peer.header_table_size as usize);
        let change = i64::from(self.peer.initial_window_size) - i64::from(before);
        if change != 0 {
            for (id, stream) in self.streams.iter_mut() {
                let window = i32::try_from(i64::from(stream.send_window) + change);
                let too_large = ConnectionError::new(ErrorCode::FLOW_CONTROL_ERROR, "window too large");
                stream.send_window = window.map_err(|_| too_large)?;
                if stream.waiting == Waiting::Window && stream.send_window > 0 {
                    stream.waiting = Waiting::Queued;
                    self.queue.push_back(id);
                }
            }
        }
        frame::write_settings_ack(self.output.frame(true));
        Ok(Some(Event::Settings))
    }

    pub(super) fn goaway<'a>(&mut self, payload: &[u8]) -> Event<'a> {
        let last_stream = u32_at(payload, 0) & MAX_31;
        let debug = payload.get(8..).unwrap_or_default();
        let debug = debug.get(..debug.len().min(frame::MAX_DEBUG)).unwrap_or_default();
        self.goaway_received = Some(self.goaway_received.unwrap_or(MAX_31).min(last_stream));
        if self.is_client {
            self.unprocessed = self.streams.ids().filter(|id| *id > last_stream).collect();
            // Told in the order in which they were opened.
            self.unprocessed.sort_unstable_by(|a, b| b.cmp(a));
        }
        Event::GoAway { last_stream, code: ErrorCode(u32_at(payload, 4)), debug: debug.into() }
    }

    pub(super) fn window_update<'a>(
        &mut self,
        stream: StreamId,
        octets: u32,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        if stream == 0 {
            if octets == 0 {
                return Err(ConnectionError::protocol("window update of 0"));
            }
            let window = self.send_window.checked_add_unsigned(octets);
            let too_large = ConnectionError::new(ErrorCode::FLOW_CONTROL_ERROR, "connection window too large");
            self.send_window = window.ok_or(too_large)?;
            return Ok(None);
        }
        if self.is_idle(stream) {
            return Err(ConnectionError::protocol("WINDOW_UPDATE on an idle stream"));
        }
        let Some(entry) = self.streams.get_mut(stream).filter(|entry| !entry.is_closed()) else { return Ok(None) };
        if octets == 0 {
            return self.stream_fault(stream, StreamFault::Frame(ErrorCode::PROTOCOL_ERROR));
        }
        let Some(window) = entry.send_window.checked_add_unsigned(octets) else {
            return self.stream_fault(stream, StreamFault::FlowControl);
        };
        entry.send_window = window;
        if entry.waiting == Waiting::Window && window > 0 {
            entry.waiting = Waiting::Queued;
            self.queue.push_back(stream);
        }
        Ok(None)
    }
}
