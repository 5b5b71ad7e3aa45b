//! A downstream connection. With HTTP/1 it serves one request after the other here; HTTP/2 goes on in `http2`.
//!
//! The future of a connection that waits is small: it holds no buffer and nothing of a stream, which lives in a box of its
//! own while there is one.

use super::{HttpConnectionManager, http2, stream::Stream};
use crate::{
    buffer::SMALL,
    deadline::{Deadline, Deadlines},
    downstream::Downstream,
    wire::{ServerStream, http1},
};
use sota_codec::{
    h2_preface::{self, GOAWAY_HTTP_1_1_REQUIRED, Preface},
    http1::empty_lines,
};
use sota_config::{http::CodecType, overload::ActionKind};
use sota_plugin::http::Protocol;
use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

/// A connection and what its streams share.
pub(super) struct Connection {
    pub(super) manager: Rc<HttpConnectionManager>,
    pub(super) downstream: Downstream,
    pub(super) deadlines: Deadlines,
    /// What is spoken, once that is known.
    protocol: Cell<Option<Protocol>>,
    /// Requests so far.
    requests: Cell<u64>,
    /// Accepted when its filter chain drained already: it may send one request.
    is_late: bool,
    /// The response that comes next says that it is the last.
    is_ending: Cell<bool>,
    /// Octets that were counted already: received, sent.
    counted: Cell<(u64, u64)>,
    /// The client has closed it.
    closed_by_client: Cell<bool>,
    /// A request was running when it ended.
    had_request: Cell<bool>,
}

/// What follows a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another request.
    Request,
    /// The end; what was written is delivered, and the client is left the time to read it.
    Close,
    /// The end; the client has gone or must see that something is missing.
    Drop,
    /// An answer to a client that speaks HTTP/2, and the end.
    RefuseHttp2,
}

/// A future in a box, made in it: to move one there would copy all of its room, which nothing is in yet.
fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}

impl Connection {
    pub(super) fn new(manager: Rc<HttpConnectionManager>, downstream: Downstream) -> Self {
        let deadlines = Deadlines::new(manager.context.local.timer());
        let stats = &manager.stats;
        stats.downstream_cx_total.inc();
        stats.downstream_cx_active.inc();
        let longest = manager.config.model.common.max_connection_duration;
        deadlines.set_after(Deadline::ConnectionDuration, downstream.info.start, longest);
        let is_late = downstream.drain.is_draining();
        if is_late {
            deadlines.set_after(Deadline::Drain, deadlines.now(), Some(manager.config.model.drain_timeout));
        }
        Self {
            is_late,
            manager,
            downstream,
            deadlines,
            protocol: Cell::new(None),
            requests: Cell::new(0),
            is_ending: Cell::new(false),
            counted: Cell::new((0, 0)),
            closed_by_client: Cell::new(false),
            had_request: Cell::new(false),
        }
    }

    /// Serves requests until the connection ends.
    pub(super) async fn serve(self) {
        let next = loop {
            if let Some(end) = self.wait_for_request().await {
                break end;
            }
            if self.protocol.get() == Some(Protocol::Http2) {
                return Box::pin(http2::serve(Rc::new(self))).await;
            }
            self.begin_request();
            match boxed(|| Stream::serve(&self, &self.deadlines, self.http1_stream())).await {
                Next::Request => {}
                end => break end,
            }
        };
        match next {
            Next::Request | Next::Drop => {}
            Next::Close => Box::pin(self.close(|_| Poll::Ready(Ok(())))).await,
            Next::RefuseHttp2 => Box::pin(self.refuse_http2()).await,
        }
    }

    /// Waits for the first octet of a request; otherwise says how the connection ends.
    async fn wait_for_request(&self) -> Option<Next> {
        let socket = &self.downstream.socket;
        let skip_empty_lines = || socket.with_input(|input| (empty_lines(input), ()));
        if self.protocol.get().is_some() {
            skip_empty_lines();
        }
        if self.knows_protocol() && socket.buffered() > 0 {
            return None;
        }
        let idle = self.manager.config.model.common.idle_timeout;
        self.deadlines.set_after(Deadline::ConnectionIdle, self.deadlines.now(), idle);
        poll_fn(|cx| {
            self.deadlines.refresh(cx);
            if let Some(end) = self.poll_end(cx) {
                return Poll::Ready(Some(end));
            }
            loop {
                match socket.poll_fill(cx, SMALL) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(read)) if read > 0 => {
                        let knows = self.knows_protocol();
                        if self.protocol.get() == Some(Protocol::Http11) {
                            skip_empty_lines();
                        }
                        if knows && socket.buffered() > 0 {
                            self.deadlines.set(Deadline::ConnectionIdle, None);
                            return Poll::Ready(None);
                        }
                    }
                    Poll::Ready(_) => {
                        self.closed_by_client.set(true);
                        return Poll::Ready(Some(Next::Drop));
                    }
                }
            }
        })
        .await
    }

    /// Whether it is known what is spoken: by what is configured, or by the client's first octets.
    fn knows_protocol(&self) -> bool {
        if self.protocol.get().is_some() {
            return true;
        }
        let downstream = &self.downstream;
        if downstream.socket.buffered() == 0 {
            return false;
        }
        let is_http2 = match self.manager.config.model.codec_type {
            CodecType::Http1 => false,
            CodecType::Http2 => true,
            // What was negotiated over TLS says the same: a client that speaks HTTP/2 begins with its preface.
            CodecType::Auto => match downstream.socket.with_input(|input| (0, h2_preface::detect(input))) {
                Preface::Partial => return false,
                detected => detected == Preface::Complete,
            },
        };
        let stats = &self.manager.stats;
        if is_http2 {
            stats.downstream_cx_http2_total.inc();
            stats.downstream_cx_http2_active.inc();
        } else {
            stats.downstream_cx_http1_total.inc();
            stats.downstream_cx_http1_active.inc();
        }
        self.protocol.set(Some(if is_http2 { Protocol::Http2 } else { Protocol::Http11 }));
        true
    }

    fn http1_stream(&self) -> ServerStream<'_> {
        let Downstream { socket, buffer_limit, .. } = &self.downstream;
        ServerStream::Http1(http1::ServerStream::new(socket, &self.manager.config.server, *buffer_limit))
    }

    /// Whether a connection without a request ends now.
    fn poll_end(&self, cx: &mut Context<'_>) -> Option<Next> {
        let stats = &self.manager.stats;
        if self.deadlines.take_expired(Deadline::ConnectionIdle) {
            stats.downstream_cx_idle_timeout.inc();
            self.begin_end();
        }
        self.note_age();
        // A client that never sent anything races with nobody.
        let is_unused = self.is_ending.get() && self.downstream.socket.bytes_received() == 0;
        if is_unused || self.deadlines.take_expired(Deadline::Drain) {
            return Some(Next::Close);
        }
        let is_awaited = self.is_late && self.requests.get() == 0;
        if !is_awaited && self.downstream.drain.poll_draining(cx).is_ready() {
            stats.downstream_cx_drain_close.inc();
            return Some(Next::Close);
        }
        None
    }

    /// The same for HTTP/2: its streams go on, and no new ones begin.
    pub(super) fn poll_drain(&self, cx: &mut Context<'_>) {
        let stats = &self.manager.stats;
        if self.deadlines.take_expired(Deadline::ConnectionIdle) {
            stats.downstream_cx_idle_timeout.inc();
            self.begin_end();
        }
        self.note_age();
        if self.downstream.drain.poll_draining(cx).is_ready() && !self.is_ending.get() {
            stats.downstream_cx_drain_close.inc();
            self.begin_end();
        }
    }

    /// Whether it is to end behind the streams that run.
    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.get()
    }

    /// The connection has reached its age: it ends behind the stream that runs, or soon.
    pub(super) fn note_age(&self) {
        if self.deadlines.take_expired(Deadline::ConnectionDuration) {
            self.manager.stats.downstream_cx_max_duration_reached.inc();
            self.begin_end();
        }
    }

    /// The connection ends behind the next response, or when the drain timeout is over.
    fn begin_end(&self) {
        if !self.is_ending.replace(true) {
            let time = self.manager.config.model.drain_timeout;
            self.deadlines.set_after(Deadline::Drain, self.deadlines.now(), Some(time));
        }
    }

    /// A stream begins.
    pub(super) fn begin_request(&self) {
        let stats = &self.manager.stats;
        self.requests.set(self.requests.get() + 1);
        self.had_request.set(true);
        stats.downstream_rq_active.inc();
        self.count_request();
        let most = self.manager.config.model.common.max_requests_per_connection.filter(|most| *most > 0);
        if most.is_some_and(|most| self.requests.get() >= u64::from(most)) {
            stats.downstream_cx_max_requests_reached.inc();
            self.is_ending.set(true);
        }
    }

    /// Counts a request: of the client, or what became of one by a redirect.
    pub(super) fn count_request(&self) {
        let stats = &self.manager.stats;
        stats.downstream_rq_total.inc();
        match self.protocol.get() {
            Some(Protocol::Http2) => stats.downstream_rq_http2_total.inc(),
            _ => stats.downstream_rq_http1_total.inc(),
        }
    }

    /// A stream has ended; `whole`: not because the connection did.
    pub(super) fn end_request(&self, whole: bool) {
        self.manager.stats.downstream_rq_active.dec();
        if self.protocol.get() != Some(Protocol::Http2) {
            self.had_request.set(!whole);
            self.count_bytes();
        }
    }

    /// Whether requests were running when it ended.
    pub(super) fn note_active_requests(&self, had_request: bool) {
        self.had_request.set(had_request);
    }

    /// The client has closed the connection or it failed.
    pub(super) fn note_closed(&self) {
        self.closed_by_client.set(true);
    }

    /// Whether the response that leaves now is the connection's last.
    pub(super) fn must_close(&self) -> bool {
        if self.is_ending.get() {
            return true;
        }
        // A process that is told to fail health checks wants its clients to go elsewhere.
        let process = &self.manager.context.local.process;
        let draining =
            self.downstream.drain.is_draining() || process.is_draining() || process.is_health_check_failing();
        if draining {
            self.manager.stats.downstream_cx_drain_close.inc();
            self.is_ending.set(true);
        } else if process.is_overloaded(ActionKind::DisableHttpKeepalive) {
            self.manager.stats.downstream_cx_overload_disable_keepalive.inc();
            self.is_ending.set(true);
        }
        self.is_ending.get()
    }

    pub(super) fn count_bytes(&self) {
        let socket = &self.downstream.socket;
        let (received, sent) = self.counted.replace((socket.bytes_received(), socket.bytes_sent()));
        let stats = &self.manager.stats;
        stats.downstream_cx_rx_bytes_total.add(socket.bytes_received() - received);
        stats.downstream_cx_tx_bytes_total.add(socket.bytes_sent() - sent);
    }

    /// Tells a client that speaks HTTP/2 what is spoken here.
    async fn refuse_http2(&self) {
        let mut done = 0;
        self.close(|cx| self.downstream.socket.poll_write_all(cx, GOAWAY_HTTP_1_1_REQUIRED, &mut done)).await;
    }

    /// Writes the rest by `farewell` and says that nothing follows it, then waits until the client has closed its side too: closing with
    /// unread bytes would make the system reset the connection, and the client might never see the last response.
    pub(super) async fn close(&self, mut farewell: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>) {
        let time = self.manager.config.model.delayed_close_timeout;
        let socket = &self.downstream.socket;
        self.deadlines.set_after(Deadline::Drain, self.deadlines.now(), Some(time.unwrap_or(Duration::ZERO)));
        let mut is_written = false;
        poll_fn(|cx| {
            self.deadlines.refresh(cx);
            if !is_written {
                match farewell(cx) {
                    Poll::Ready(Ok(())) if socket.poll_shutdown(cx).is_ready() => is_written = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    _ => {}
                }
            }
            loop {
                socket.with_input(|input| (input.len(), ()));
                match socket.poll_fill(cx, SMALL) {
                    Poll::Ready(Ok(read)) if read > 0 => {}
                    Poll::Ready(_) => {
                        self.closed_by_client.set(true);
                        return Poll::Ready(());
                    }
                    Poll::Pending => break,
                }
            }
            if self.deadlines.take_expired(Deadline::Drain) {
                if time.is_some() {
                    self.manager.stats.downstream_cx_delayed_close_timeout.inc();
                }
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.count_bytes();
        let stats = &self.manager.stats;
        stats.downstream_cx_active.dec();
        match self.protocol.get() {
            Some(Protocol::Http2) => stats.downstream_cx_http2_active.dec(),
            Some(_) => stats.downstream_cx_http1_active.dec(),
            None => {}
        }
        stats.downstream_cx_destroy.inc();
        let (by_client, had_request) = (self.closed_by_client.get(), self.had_request.get());
        if by_client {
            stats.downstream_cx_destroy_remote.inc();
        } else {
            stats.downstream_cx_destroy_local.inc();
        }
        if had_request {
            stats.downstream_cx_destroy_active_rq.inc();
            match by_client {
                true => stats.downstream_cx_destroy_remote_active_rq.inc(),
                false => stats.downstream_cx_destroy_local_active_rq.inc(),
            }
        }
        let age = u64::try_from(self.downstream.info.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        stats.downstream_cx_length_ms.record(age);
    }
}
