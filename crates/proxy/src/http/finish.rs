//! The one place where a stream that has ended becomes counters, samples and entries of access logs.

use super::{
    connection::Next,
    http2::note_end,
    stream::{Progress, Stop, Stream},
};
use crate::{
    cause,
    deadline::Deadline,
    wire::http2::{ConnectionEnd, StreamEnd},
};
use sota_plugin::{
    access_log::{LogEntry, LogKind},
    info::StreamInfo,
};
use std::time::Instant;

impl Stream<'_> {
    /// The stream has ended; what follows it on the connection?
    pub(super) fn finish(&self, ended: &Result<(), Stop>) -> Next {
        let connection = self.connection;
        let manager = &connection.manager;
        let stats = &manager.stats;
        let now = self.deadlines.now();
        self.deadlines.clear_stream();
        let next = self.note_end(ended, now);
        connection.end_request(ended.is_ok());
        self.leave_tunnel();
        if matches!(ended, Err(Stop::Http2)) {
            stats.downstream_cx_http2_refused.inc();
            return next;
        }
        self.conclude(now, self.progress.get() == Progress::Done);
        next
    }

    /// The filters are done, and the access log gets its entry. `is_answered`: with a response.
    pub(super) fn conclude(&self, now: Instant, is_answered: bool) {
        self.with_response_chain(|chain, env| {
            for filter in &mut chain.filters {
                filter.complete(env);
            }
        });
        if is_answered {
            let took = self.info.borrow().timing.since_start(now).as_millis();
            self.manager().stats.downstream_rq_time.record(u64::try_from(took).unwrap_or(u64::MAX));
        }
        let request = self.request.borrow();
        let request = self.has_request.get().then_some(&**request);
        self.manager().context.recorder.record(&self.info.borrow(), request);
        self.log(LogKind::DownstreamEnd);
    }

    /// Completes the stream's facts.
    fn note_end(&self, ended: &Result<(), Stop>, now: Instant) -> Next {
        let connection = self.connection;
        let socket = &connection.downstream.socket;
        self.abandon_forward();
        let mut info = self.info.borrow_mut();
        let stats = &connection.manager.stats;
        self.note_octets(&mut info, now);
        match ended {
            Ok(()) => {
                info.timing.downstream_last_tx = Some(now);
                if self.codec.may_persist() && !self.closes_after() { Next::Request } else { Next::Close }
            }
            Err(Stop::ClientGone) => {
                stats.downstream_rq_rx_reset.inc();
                let gone = StreamEnd::Connection(ConnectionEnd::Closed);
                let end = match self.codec.http2() {
                    Some(stream) => stream.ended().unwrap_or(gone),
                    None => {
                        connection.note_closed();
                        gone
                    }
                };
                note_end(end, &mut info);
                cause::note_end(&mut info);
                Next::Drop
            }
            Err(Stop::Http2) => Next::RefuseHttp2,
            Err(Stop::Reset(details)) => {
                stats.downstream_rq_tx_reset.inc();
                info.response_code_details = Some(details.clone());
                cause::note_end(&mut info);
                if self.codec.ends_with_connection() {
                    // An orderly close would make what is missing look complete.
                    socket.reset_on_close();
                    return Next::Drop;
                }
                Next::Close
            }
            Err(Stop::Reply(_)) => Next::Close,
        }
    }

    /// Notes the end, and what came and went until then.
    pub(super) fn note_octets(&self, info: &mut StreamInfo, now: Instant) {
        info.timing.end = Some(now);
        info.bytes_received = self.codec.body_received();
        if let Some(stream) = self.codec.http2() {
            info.downstream_wire_bytes_received = stream.stream().octets_received().1;
            info.downstream_wire_bytes_sent = stream.stream().octets_sent().1;
            return;
        }
        let socket = &self.connection.downstream.socket;
        let (received, sent) = self.bytes_before;
        // What follows the request belongs to the next one; all of a request that could not be read is its own.
        let next = if self.head.get().is_some() { socket.buffered() as u64 } else { 0 };
        info.downstream_wire_bytes_received = socket.bytes_received() - received - next;
        info.downstream_wire_bytes_sent = socket.bytes_sent() - sent;
    }

    /// Writes an entry to the access logs.
    pub(super) fn log(&self, kind: LogKind) {
        let logs = &self.connection.manager.access_logs;
        let tracer = self.manager().tracer.as_ref().filter(|_| kind == LogKind::DownstreamEnd);
        if logs.is_empty() && tracer.is_none() {
            return;
        }
        let info = self.info.borrow();
        let (request, response) = (self.request.borrow(), self.response.borrow());
        let (trailers, reply) = (self.response_trailers.borrow(), self.reply_text.borrow());
        let entry = LogEntry {
            request: self.has_request.get().then_some(&**request),
            response: info.response_code.is_some().then_some(&**response),
            response_trailers: trailers.as_deref(),
            local_reply_body: std::str::from_utf8(&reply).unwrap_or_default(),
            ..LogEntry::new(&info, kind)
        };
        if let Some(tracer) = tracer {
            tracer.finish(&entry, self.route.borrow().as_ref().and_then(|route| route.trace()));
        }
        logs.log(&entry);
    }

    /// The log flush interval is over.
    pub(super) fn log_periodically(&self) {
        self.log(LogKind::DownstreamPeriodic);
        let interval = self.manager().config.model.access_log_flush_interval;
        self.deadlines.set_after(Deadline::LogFlush, self.deadlines.now(), interval);
    }
}
