//! A tunnel that ends here: its octets go to a host as they are, and what the host sends is the body of a response that
//! we make ourselves.

use crate::{
    socket::Socket,
    upstream::{ConnectionFacts, TcpConnection},
    wire::{
        BodyError, Part, ResponseEvent, WriteError,
        http1::{BodyReader, Writer},
    },
};
use bytes::Bytes;
use sota_codec::http1::{BodyLength, DecodeOptions};
use sota_plugin::http::{Protocol, ResponseHead, StatusCode};
use std::{
    io,
    task::{Context, Poll, ready},
};

/// Octets both ways on a connection of their own.
pub(super) struct RawExchange {
    pub(super) connection: TcpConnection,
    reader: BodyReader,
    writer: Writer,
    /// The client's side is over.
    has_ended: bool,
}

impl RawExchange {
    /// `limit`: the buffer limit in octets.
    pub(super) fn begin(connection: TcpConnection, decode: &DecodeOptions, limit: usize) -> Self {
        let mut writer = Writer::default();
        writer.head(BodyLength::Tunnel, |_| {});
        let reader = BodyReader::new(BodyLength::Tunnel, decode, limit);
        Self { connection, reader, writer, has_ended: false }
    }

    /// What is known of the connection.
    pub(super) fn facts(connection: &TcpConnection) -> ConnectionFacts {
        ConnectionFacts {
            id: connection.id,
            local_address: connection.local_address,
            tls: connection.tls.clone(),
            connect_start: connection.connect_start,
            connect_complete: connection.connect_complete,
            reused: false,
            last_used: None,
            protocol: Protocol::Http11,
        }
    }

    fn socket(&self) -> &Socket {
        &self.connection.socket
    }

    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>> {
        self.writer.poll_data(cx, &self.connection.socket, data)
    }

    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.writer.poll_flush(cx, &self.connection.socket))?;
        match self.has_ended {
            true => self.connection.socket.poll_shutdown(cx),
            false => Poll::Ready(Ok(())),
        }
    }

    /// The connection is there: that is the response, as Envoy has it.
    pub(super) fn answer(head: &mut ResponseHead) -> ResponseEvent {
        head.status = StatusCode::OK;
        ResponseEvent::Head { end_stream: false }
    }

    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, BodyError>> {
        self.reader.poll_part(cx, &self.connection.socket)
    }

    pub(super) fn with_data<R>(&mut self, f: impl FnOnce(&[u8]) -> (usize, R)) -> R {
        self.reader.with_data(&self.connection.socket, f)
    }

    pub(super) fn take_data(&mut self) -> Bytes {
        self.reader.take_data(&self.connection.socket)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.reader.is_complete()
    }

    /// Octets sent and received.
    pub(super) fn octets(&self) -> (u64, u64) {
        (self.socket().bytes_sent(), self.socket().bytes_received())
    }
}
