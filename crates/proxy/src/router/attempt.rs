//! One attempt of a request: the connection it waits for, and then has.

use super::outgoing::Outgoing;
use crate::{
    upstream::{Cluster, HttpConnection, PoolFailure, WorkerHost},
    wire::{
        BodyError, ClientError, Part, ResponseEvent,
        http1::{ClientOptions, ClientStream},
    },
};
use bytes::Bytes;
use sota_plugin::{
    LocalFuture,
    http::{RequestHead, ResponseHead},
    info::StreamInfo,
};
use std::{
    rc::Rc,
    task::{Context, Poll, ready},
};

/// Waits for a connection.
pub(super) struct Connecting {
    pub(super) host: Rc<WorkerHost>,
    connection: LocalFuture<Result<HttpConnection, PoolFailure>>,
}

impl Connecting {
    pub(super) fn new(cluster: &Rc<Cluster>, host: Rc<WorkerHost>, priority: usize) -> Self {
        let (cluster, of) = (Rc::clone(cluster), Rc::clone(&host));
        Self { host, connection: Box::pin(async move { cluster.http_connection(&of, priority).await }) }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<HttpConnection, PoolFailure>> {
        self.connection.as_mut().poll(cx)
    }
}

/// A request on a connection.
pub(super) struct Attempt {
    pub(super) host: Rc<WorkerHost>,
    pub(super) connection: HttpConnection,
    stream: ClientStream,
    /// Chunks of the body that it has sent.
    sent: usize,
    /// Another attempt was begun beside it.
    pub(super) is_hedged: bool,
    /// The end of the request was written.
    has_ended: bool,
    /// The host takes no more of the request; what it has to say about that is in its response, if anywhere.
    is_deaf: bool,
}

impl Attempt {
    /// Puts the head into what will be sent. `limit`: the buffer limit in octets.
    pub(super) fn begin(
        host: Rc<WorkerHost>,
        connection: HttpConnection,
        head: &RequestHead,
        body: &Outgoing,
        options: &ClientOptions,
        limit: usize,
    ) -> Self {
        let end_stream = body.is_empty();
        let stream = ClientStream::begin(&connection.socket, head, end_stream, options, limit);
        Self { host, connection, stream, sent: 0, is_hedged: false, has_ended: end_stream, is_deaf: false }
    }

    /// Writes what was given and not written; ready when that is all, and the host takes more.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, body: &mut Outgoing, options: &ClientOptions) -> Poll<()> {
        while let Some(data) = body.current(self.sent) {
            ready!(self.poll_data(cx, data));
            body.advance(&mut self.sent);
        }
        if body.has_ended() && !self.has_ended {
            self.has_ended = true;
            self.is_deaf |= self.stream.end(body.trailers(), options).is_err();
        }
        if self.is_deaf { Poll::Pending } else { Poll::Ready(()) }
    }

    /// It is the only attempt from now on: what it has sent of the body need not be kept.
    pub(super) fn let_go(&mut self, body: &mut Outgoing) {
        body.stop_keeping(&mut self.sent);
    }

    /// Writes data. While it is pending, call again with the same data.
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<()> {
        if !self.is_deaf {
            self.is_deaf = ready!(self.stream.poll_data(cx, &self.connection.socket, data)).is_err();
        }
        Poll::Ready(())
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_deaf {
            self.is_deaf = ready!(self.stream.poll_flush(cx, &self.connection.socket)).is_err();
        }
        Poll::Ready(())
    }

    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        options: &ClientOptions,
        head: &mut ResponseHead,
    ) -> Poll<Result<ResponseEvent, ClientError>> {
        if self.has_ended {
            let _ = self.poll_flush(cx);
        }
        self.stream.poll_head(cx, &self.connection.socket, options, head)
    }

    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>, options: &ClientOptions) -> Poll<Result<Part, BodyError>> {
        self.stream.poll_part(cx, &self.connection.socket, options)
    }

    pub(super) fn with_data<R>(&mut self, f: impl FnOnce(&[u8]) -> (usize, R)) -> Option<R> {
        self.stream.with_data(&self.connection.socket, f)
    }

    pub(super) fn take_data(&mut self) -> Bytes {
        self.stream.take_data(&self.connection.socket)
    }

    pub(super) fn is_response_complete(&self) -> bool {
        self.stream.is_response_complete()
    }

    /// Whether nothing of the request has left.
    pub(super) fn is_unsent(&self) -> bool {
        self.stream.is_unsent(&self.connection.socket)
    }

    /// Adds what went over the wire to the stream's facts.
    pub(super) fn note_bytes(&self, info: &mut StreamInfo) {
        let upstream = &mut info.upstream;
        (upstream.wire_bytes_sent, upstream.wire_bytes_received) = self.stream.wire_bytes(&self.connection.socket);
        (upstream.header_bytes_sent, upstream.header_bytes_received) = self.stream.header_bytes();
    }

    /// The response is whole: the connection goes back to the pool, or is closed.
    pub(super) fn release(self) {
        if self.stream.may_reuse(&self.connection.socket) {
            self.connection.release();
        } else {
            self.connection.finish();
        }
    }
}
