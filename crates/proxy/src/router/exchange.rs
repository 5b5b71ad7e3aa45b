//! One request and its response on a connection to a host, in either protocol.

use super::{outgoing::Behind, raw_exchange::RawExchange};
use crate::{
    upstream::{ConnectionFacts, Http2Place, HttpConnection, OwnConnection, TcpConnection},
    wire::{
        BodyError, ClientError, Part, ResponseEvent, WriteError,
        http1::{self, ClientOptions},
        http2::{self, ConnectionEnd, StreamEnd},
    },
};
use bytes::Bytes;
use sota_codec::http2::SendError;
use sota_plugin::{
    http::{Headers, Protocol, RequestHead, ResponseHead},
    info::StreamInfo,
};
use std::{
    io,
    task::{Context, Poll},
};

/// A request on its connection. What it has of the connection is given back by [`Self::release`], or closed.
pub(super) enum Exchange {
    Http1 {
        stream: http1::ClientStream,
        connection: OwnConnection,
    },
    // The stream is over before its place is free.
    Http2 {
        stream: http2::ClientStream,
        place: Http2Place,
    },
    /// A tunnel ends here.
    Raw(RawExchange),
}

/// A connection for a request.
pub(super) enum Link {
    Http(HttpConnection),
    /// For what a tunnel carries.
    Raw(TcpConnection),
}

impl Link {
    /// What is known of it.
    pub(super) fn facts(&self) -> ConnectionFacts {
        match self {
            Self::Http(connection) => connection.facts(),
            Self::Raw(connection) => RawExchange::facts(connection),
        }
    }

    /// The version of HTTP that is spoken, if it is HTTP.
    pub(super) fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Http(connection) => Some(connection.facts().protocol),
            Self::Raw(_) => None,
        }
    }
}

/// Why a request could not be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BeginError {
    /// The connection takes no more requests since a moment ago: another one may.
    TooLate,
    /// The connection has ended before its first request.
    Ended(ConnectionEnd),
    /// It cannot be said in this protocol.
    InvalidHead,
}

impl Exchange {
    /// Puts the head into what will be sent. `limit`: the buffer limit in octets.
    pub(super) fn begin(
        connection: Link,
        head: &RequestHead,
        behind: Behind,
        options: &ClientOptions,
        limit: usize,
    ) -> Result<Self, BeginError> {
        match connection {
            Link::Raw(connection) => Ok(Self::Raw(RawExchange::begin(connection, &options.decode, limit))),
            Link::Http(HttpConnection::Http1(connection)) => {
                let follows = (behind != Behind::Body, behind == Behind::Tunnel);
                let stream = http1::ClientStream::begin(&connection.socket, head, follows, options, limit);
                Ok(Self::Http1 { stream, connection })
            }
            Link::Http(HttpConnection::Http2(place)) => {
                match http2::ClientStream::begin(&place.http2, head, behind == Behind::Nothing) {
                    Ok(stream) => Ok(Self::Http2 { stream, place }),
                    Err(SendError::InvalidHead | SendError::ExtendedConnect) => Err(BeginError::InvalidHead),
                    Err(_) => Err(match place.http2.ended() {
                        Some(end) if !place.reused => BeginError::Ended(end),
                        _ => BeginError::TooLate,
                    }),
                }
            }
        }
    }

    /// What is known of the connection.
    pub(super) fn facts(&self) -> ConnectionFacts {
        match self {
            Self::Http1 { connection, .. } => connection.facts(),
            Self::Http2 { place, .. } => place.facts(),
            Self::Raw(raw) => RawExchange::facts(&raw.connection),
        }
    }

    /// Notes that the host has closed the connection; with HTTP/2 that is known already.
    pub(super) fn closed_by_peer(&self) {
        match self {
            Self::Http1 { connection, .. } => connection.closed_by_peer(),
            Self::Raw(raw) => raw.connection.closed_by_peer(),
            Self::Http2 { .. } => {}
        }
    }

    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>> {
        match self {
            Self::Http1 { stream, connection } => stream.poll_data(cx, &connection.socket, data),
            Self::Http2 { stream, .. } => stream.poll_data(cx, data),
            Self::Raw(raw) => raw.poll_data(cx, data),
        }
    }

    pub(super) fn end(&mut self, trailers: Option<&Headers>, options: &ClientOptions) -> Result<(), WriteError> {
        match self {
            Self::Http1 { stream, .. } => stream.end(trailers, options),
            Self::Http2 { stream, .. } => stream.end(trailers),
            Self::Raw(raw) => {
                raw.end();
                Ok(())
            }
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http1 { stream, connection } => stream.poll_flush(cx, &connection.socket),
            // The connection's own task writes.
            Self::Http2 { .. } => Poll::Ready(Ok(())),
            Self::Raw(raw) => raw.poll_flush(cx),
        }
    }

    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        options: &ClientOptions,
        head: &mut ResponseHead,
    ) -> Poll<Result<ResponseEvent, ClientError>> {
        match self {
            Self::Http1 { stream, connection } => stream.poll_head(cx, &connection.socket, options, head),
            Self::Http2 { stream, .. } => stream.poll_head(cx, head),
            Self::Raw(_) => Poll::Ready(Ok(RawExchange::answer(head))),
        }
    }

    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>, options: &ClientOptions) -> Poll<Result<Part, BodyError>> {
        match self {
            Self::Http1 { stream, connection } => stream.poll_part(cx, &connection.socket, options),
            Self::Http2 { stream, .. } => stream.poll_part(cx),
            Self::Raw(raw) => raw.poll_part(cx),
        }
    }

    pub(super) fn with_data<R>(&mut self, f: impl FnOnce(&[u8]) -> (usize, R)) -> Option<R> {
        match self {
            Self::Http1 { stream, connection } => stream.with_data(&connection.socket, f),
            Self::Http2 { stream, .. } => Some(stream.with_data(f)),
            Self::Raw(raw) => Some(raw.with_data(f)),
        }
    }

    pub(super) fn take_data(&mut self) -> Bytes {
        match self {
            Self::Http1 { stream, connection } => stream.take_data(&connection.socket),
            Self::Http2 { stream, .. } => stream.take_data(),
            Self::Raw(raw) => raw.take_data(),
        }
    }

    pub(super) fn is_response_complete(&self) -> bool {
        match self {
            Self::Http1 { stream, .. } => stream.is_response_complete(),
            Self::Http2 { stream, .. } => stream.is_response_complete(),
            Self::Raw(raw) => raw.is_complete(),
        }
    }

    /// Whether nothing of the request has left.
    pub(super) fn is_unsent(&self) -> bool {
        match self {
            Self::Http1 { stream, connection } => stream.is_unsent(&connection.socket),
            Self::Http2 { .. } | Self::Raw(_) => false,
        }
    }

    /// Whether the host has said nothing at all.
    pub(super) fn is_unanswered(&self) -> bool {
        match self {
            Self::Http1 { stream, connection } => stream.wire_bytes(&connection.socket).1 == 0,
            Self::Http2 { stream, .. } => stream.stream().octets_received().1 == 0,
            Self::Raw(raw) => raw.octets().1 == 0,
        }
    }

    /// Whether the host says that it never looked at the request, so that it may be sent again whatever it is.
    pub(super) fn was_left_behind(&self) -> bool {
        match self {
            Self::Http1 { .. } | Self::Raw(_) => false,
            Self::Http2 { stream, .. } => {
                matches!(stream.stream().ended(), Some(StreamEnd::Reset(sota_codec::http2::ResetCause::Unprocessed)))
            }
        }
    }

    /// Whether giving it up now resets a stream; with HTTP/1 there is only the connection to close.
    pub(super) fn leaves_a_stream(&self) -> bool {
        match self {
            Self::Http1 { .. } | Self::Raw(_) => false,
            Self::Http2 { stream, .. } => stream.stream().ended().is_none(),
        }
    }

    /// Adds what went over the wire to the stream's facts.
    pub(super) fn note_bytes(&self, info: &mut StreamInfo) {
        let ((sent, received), (head_sent, head_received)) = match self {
            Self::Http1 { stream, connection } => (stream.wire_bytes(&connection.socket), stream.header_bytes()),
            Self::Http2 { stream, .. } => {
                let (head_sent, sent) = stream.stream().octets_sent();
                let (head_received, received) = stream.stream().octets_received();
                ((sent, received), (head_sent, head_received))
            }
            Self::Raw(raw) => (raw.octets(), (0, 0)),
        };
        let upstream = &mut info.upstream;
        (upstream.wire_bytes_sent, upstream.wire_bytes_received) = (sent, received);
        (upstream.header_bytes_sent, upstream.header_bytes_received) = (head_sent, head_received);
    }

    /// The response is whole: the connection goes back to the pool, or is closed.
    pub(super) fn release(self) {
        match self {
            Self::Http1 { stream, connection } if stream.may_reuse(&connection.socket) => connection.release(),
            Self::Http1 { connection, .. } => connection.finish(),
            Self::Http2 { .. } | Self::Raw(_) => {}
        }
    }
}
