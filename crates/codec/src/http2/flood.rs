//! Counts what a hostile peer can send at little cost, with Envoy's limits and formulas.

use super::{
    ConnectionError, ErrorCode, ErrorKind,
    frame::{FrameHead, flag, kind},
    options::Options,
    output::Output,
};

/// Counts over the life of a connection.
#[derive(Debug, Default)]
pub(super) struct Flood {
    empty_in_a_row: u32,
    priority: u32,
    window_updates: u32,
    /// Streams that were opened by either side.
    pub(super) streams: u32,
    /// DATA frames that we sent.
    pub(super) data_sent: u32,
    /// Requests that are over, and those of them that were reset early.
    requests_over: u32,
    early_resets: u32,
}

impl Flood {
    /// Counts a frame. `payload` is its length without padding.
    pub(super) fn count(
        &mut self,
        head: FrameHead,
        payload: usize,
        options: &Options,
        counters: &mut Counters,
    ) -> Result<(), ConnectionError> {
        match head.kind {
            kind::HEADERS | kind::DATA | kind::CONTINUATION => {
                // A CONTINUATION has no END_STREAM flag, whatever stands at its place.
                let ends = head.kind != kind::CONTINUATION && head.has(flag::END_STREAM);
                if payload > 0 || ends {
                    self.empty_in_a_row = 0;
                    return Ok(());
                }
                self.empty_in_a_row += 1;
                if self.empty_in_a_row > options.max_consecutive_inbound_frames_with_empty_payload {
                    counters.inbound_empty_frames_flood += 1;
                    return Err(ConnectionError::flood("Too many consecutive frames with an empty payload"));
                }
            }
            kind::PRIORITY => {
                self.priority = self.priority.saturating_add(1);
                let allowed =
                    options.max_inbound_priority_frames_per_stream.saturating_mul(self.streams.saturating_add(1));
                if self.priority > allowed {
                    counters.inbound_priority_frames_flood += 1;
                    return Err(ConnectionError::flood("Too many PRIORITY frames"));
                }
            }
            kind::WINDOW_UPDATE => {
                self.window_updates = self.window_updates.saturating_add(1);
                let per_data = options.max_inbound_window_update_frames_per_data_frame_sent;
                let allowed = per_data.saturating_mul(self.data_sent).saturating_add(self.streams);
                if self.window_updates > allowed.saturating_mul(2).saturating_add(5) {
                    counters.inbound_window_update_frames_flood += 1;
                    return Err(ConnectionError::flood("Too many WINDOW_UPDATE frames"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks what waits to be written: a peer that asks and does not read must not make us keep the answers.
    pub(super) fn check_output(
        output: &Output,
        options: &Options,
        counters: &mut Counters,
    ) -> Result<(), ConnectionError> {
        if output.frames() > options.max_outbound_frames {
            counters.outbound_flood += 1;
            return Err(ConnectionError::flood("Too many frames in the outbound queue."));
        }
        if output.control_frames() > options.max_outbound_control_frames {
            counters.outbound_control_flood += 1;
            return Err(ConnectionError::flood("Too many control frames in the outbound queue."));
        }
        Ok(())
    }

    /// A request is over. `early`: the client reset it, or made us reset it, before there was a response.
    pub(super) fn request_over(&mut self, early: bool) {
        self.requests_over = self.requests_over.saturating_add(1);
        self.early_resets = self.early_resets.saturating_add(u32::from(early));
    }

    /// Envoy's measure of rapid reset: half of the total, or so many that half of the total is certain.
    pub(super) fn check_resets(&self, options: &Options, counters: &mut Counters) -> Result<(), ConnectionError> {
        let limit = options.premature_reset_total_stream_count;
        let measure = self.requests_over.max(limit);
        if self.early_resets == 0 || self.early_resets.saturating_mul(2) < measure {
            return Ok(());
        }
        counters.too_many_premature_resets += 1;
        Err(ConnectionError {
            code: ErrorCode::ENHANCE_YOUR_CALM,
            message: "too_many_premature_resets",
            kind: ErrorKind::PrematureResets,
        })
    }
}

/// What happened since the user last asked; the names are those of Envoy's `http2.` stats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Fields left out for an underscore in their name.
    pub dropped_headers_with_underscores: u32,
    /// GOAWAY frames sent, other than the notice of a drain.
    pub goaway_sent: u32,
    /// Notices of a drain sent.
    pub goaway_graceful_sent: u32,
    /// Heads and trailers over the limits.
    pub header_overflow: u32,
    /// Connections ended for empty frames.
    pub inbound_empty_frames_flood: u32,
    /// Connections ended for PRIORITY frames.
    pub inbound_priority_frames_flood: u32,
    /// Connections ended for WINDOW_UPDATE frames.
    pub inbound_window_update_frames_flood: u32,
    /// Connections ended for answers that the peer did not read.
    pub outbound_control_flood: u32,
    /// Connections ended for frames of any kind that the peer did not read.
    pub outbound_flood: u32,
    /// Requests refused for an underscore in a field name.
    pub requests_rejected_with_underscores_in_headers: u32,
    /// Malformed messages.
    pub rx_messaging_error: u32,
    /// RST_STREAM frames received for open streams.
    pub rx_reset: u32,
    /// Streams refused for being too many at once.
    pub stream_refused_errors: u32,
    /// Requests with trailers.
    pub trailers: u32,
    /// RST_STREAM frames sent.
    pub tx_reset: u32,
    /// Connections ended for early resets (Envoy: `downstream_rq_too_many_premature_resets`).
    pub too_many_premature_resets: u32,
}
