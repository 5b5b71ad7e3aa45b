//! A downstream connection that speaks HTTP/2: many requests at once, each in a task of its own.
//!
//! The connection's task drives the codec, begins streams, and knows when the connection ends. A drain has two steps, as
//! in Envoy: GOAWAY that lets streams on their way in, and after the drain timeout one that does not; the connection is
//! closed behind the last stream.

use super::{connection::Connection, stream::Stream};
use crate::{
    cause,
    deadline::{Deadline, Deadlines},
    wire::{
        ServerStream,
        http2::{self, ConnectionEnd, Event, StreamEnd},
    },
};
use sota_codec::http2::{ConnectionError, ErrorCode, ErrorKind, ResetCause, StreamFault};
use sota_plugin::{
    access_log::{LogEntry, LogKind},
    http::Protocol,
    info::{Details, ResponseFlag, StreamInfo},
};
use std::{
    cell::Cell,
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
};

/// Serves a connection whose client speaks HTTP/2, until it ends.
pub(super) async fn serve(connection: Rc<Connection>) {
    let manager = &connection.manager;
    let stats = manager.http2_stats.get_or_init(|| manager.context.cx.stats().child("http2.").group());
    let codec = http2::Connection::server(&manager.config.http2, stats, &manager.context.local);
    let session = Session { connection: &connection, codec: &codec, has_said_goodbye: Cell::default() };
    let end = poll_fn(|cx| session.poll(cx)).await;
    connection.note_active_requests(codec.streams() > 0);
    let socket = &connection.downstream.socket;
    match end {
        ConnectionEnd::Closed | ConnectionEnd::Failed => connection.note_closed(),
        ConnectionEnd::KeepaliveTimeout => {}
        ConnectionEnd::Protocol(error) => {
            session.count(&error);
            // Who floods may not be reading: nothing is lost by closing at once.
            match error.kind {
                ErrorKind::Flood => {
                    let _ = poll_fn(|cx| Poll::Ready(codec.poll_flush(cx, socket))).await;
                }
                _ => connection.close(|cx| codec.poll_flush(cx, socket)).await,
            }
        }
        ConnectionEnd::Local => connection.close(|cx| codec.poll_flush(cx, socket)).await,
    }
}

struct Session<'a> {
    connection: &'a Rc<Connection>,
    codec: &'a Rc<http2::Connection>,
    /// The first GOAWAY of a drain was sent.
    has_said_goodbye: Cell<bool>,
}

impl Session<'_> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<ConnectionEnd> {
        let connection = self.connection;
        connection.deadlines.refresh(cx);
        connection.poll_drain(cx);
        loop {
            match self.codec.poll_event(cx, &connection.downstream.socket) {
                Poll::Ready(Event::Request(stream)) => self.begin(stream),
                // Too many at once: as if it had never come.
                Poll::Ready(Event::Refused(StreamFault::Refused)) => {}
                Poll::Ready(Event::Refused(fault)) => self.log_refused(fault.details()),
                Poll::Ready(Event::Settings | Event::GoAway(_)) => {}
                Poll::Ready(Event::Ended(end)) => return Poll::Ready(end),
                Poll::Pending => break,
            }
        }
        connection.count_bytes();
        self.watch_idle();
        self.drain();
        // A drain that is complete.
        self.codec.ended().map_or(Poll::Pending, Poll::Ready)
    }

    /// A request begins.
    fn begin(&self, stream: http2::ServerStream) {
        let connection = Rc::clone(self.connection);
        connection.deadlines.set(Deadline::ConnectionIdle, None);
        connection.begin_request();
        let local = &self.connection.manager.context.local;
        let deadlines = Deadlines::new(local.timer());
        local.spawn(true, async move {
            Stream::serve(&connection, &deadlines, ServerStream::Http2(stream)).await;
        });
    }

    /// A connection without streams is idle.
    fn watch_idle(&self) {
        let (connection, deadlines) = (self.connection, &self.connection.deadlines);
        if self.codec.streams() == 0 && !deadlines.is_set(Deadline::ConnectionIdle) && !connection.is_ending() {
            let idle = connection.manager.config.model.common.idle_timeout;
            deadlines.set_after(Deadline::ConnectionIdle, deadlines.now(), idle);
        }
    }

    /// The steps of a drain.
    fn drain(&self) {
        let deadlines = &self.connection.deadlines;
        if self.connection.is_ending() && !self.has_said_goodbye.replace(true) {
            self.codec.with_codec(|codec| codec.notify_shutdown());
            if !deadlines.is_set(Deadline::Drain) {
                let time = self.connection.manager.config.model.drain_timeout;
                deadlines.set_after(Deadline::Drain, deadlines.now(), Some(time));
            }
        }
        if deadlines.take_expired(Deadline::Drain) {
            self.codec.with_codec(|codec| codec.go_away(ErrorCode::NO_ERROR, b""));
        }
        if self.codec.is_drained() {
            self.codec.end(ConnectionEnd::Local);
        }
    }

    fn count(&self, error: &ConnectionError) {
        let stats = &self.connection.manager.stats;
        match error.kind {
            ErrorKind::Protocol => stats.downstream_cx_protocol_error.inc(),
            ErrorKind::Message => {
                stats.downstream_cx_protocol_error.inc();
                self.log_refused(error.message);
            }
            ErrorKind::PrematureResets => stats.downstream_rq_too_many_premature_resets.inc(),
            ErrorKind::Flood => {}
        }
    }

    /// A request whose head was at fault, so that there is no stream: it is counted and logged all the same.
    fn log_refused(&self, details: &'static str) {
        let manager = &self.connection.manager;
        self.connection.begin_request();
        manager.stats.downstream_rq_rx_reset.inc();
        manager.stats.downstream_rq_active.dec();
        let id = manager.context.local.process.next_stream_id();
        let mut info = StreamInfo::new(Rc::clone(&self.connection.downstream.info), id, Some(Protocol::Http2));
        info.timing.end = Some(info.timing.start);
        info.response_flags.set(ResponseFlag::DownstreamProtocolError);
        info.response_code_details = Some(details.into());
        cause::note_end(&mut info);
        manager.context.recorder.record(&info, None);
        manager.access_logs.log(&LogEntry::new(&info, LogKind::DownstreamEnd));
    }
}

/// Says in the facts of a stream why it is over before its time.
pub(super) fn note_end(end: StreamEnd, info: &mut StreamInfo) {
    let (flag, details): (_, Details) = match end {
        StreamEnd::Reset(cause @ ResetCause::Fault(_)) => {
            (ResponseFlag::DownstreamProtocolError, cause.details().into())
        }
        StreamEnd::Reset(cause) => (ResponseFlag::DownstreamRemoteReset, cause.details().into()),
        StreamEnd::Connection(ConnectionEnd::Protocol(error)) => match error.kind {
            ErrorKind::PrematureResets => {
                (ResponseFlag::DownstreamConnectionTermination, "too_many_premature_resets".into())
            }
            ErrorKind::Flood => (ResponseFlag::DownstreamProtocolError, "overload_error".into()),
            ErrorKind::Protocol | ErrorKind::Message => (ResponseFlag::DownstreamProtocolError, "codec_error".into()),
        },
        StreamEnd::Connection(ConnectionEnd::Closed | ConnectionEnd::Failed) => {
            (ResponseFlag::DownstreamConnectionTermination, "downstream_remote_disconnect".into())
        }
        StreamEnd::Connection(ConnectionEnd::KeepaliveTimeout | ConnectionEnd::Local) => {
            (ResponseFlag::DownstreamConnectionTermination, "downstream_local_disconnect".into())
        }
    };
    info.response_flags.set(flag);
    info.response_code_details = Some(details);
}
