//! gRPC calls of our own, over clusters as requests take them: HTTP/2, pools, Unix sockets and all.
//!
//! A [`GrpcStream`] is one call with messages both ways. Its one task polls it: that sends what waits and says what came.

use crate::{
    upstream::{Cluster, Http2Place, HttpConnection, LbContext},
    wire::{BodyError, Part, ResponseEvent, http2::ClientStream},
};
use bytes::{Buf, Bytes, BytesMut};
use sota_plugin::{
    grpc::CallServices,
    http::{GrpcStatus, HeaderId, Headers, Method, RequestHead, ResponseHead, StatusCode},
};
use std::{
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, ready},
};

/// A longer message is refused before it is read.
const MAX_MESSAGE: usize = 64 << 20;
/// What stands before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

pub use sota_plugin::grpc::GrpcError;

/// One call. Dropped before its end, it is reset.
pub struct GrpcStream {
    stream: ClientStream,
    /// Given back behind the stream.
    _place: Http2Place,
    /// What waits to be sent, framed.
    outgoing: BytesMut,
    /// What came and is no whole message yet.
    incoming: BytesMut,
    /// Nothing follows what waits.
    ends: bool,
    has_head: bool,
    head: ResponseHead,
}

impl CallServices for GrpcStream {
    fn send(&mut self, message: &[u8]) {
        Self::send(self, message);
    }

    fn end(&mut self) {
        self.ends = true;
    }

    fn unsent(&self) -> usize {
        Self::unsent(self)
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, GrpcError>> {
        Self::poll_message(self, cx)
    }
}

impl GrpcStream {
    /// Begins a call of `path` on a host of the cluster. `metadata`: further fields, which must be valid ones.
    pub async fn open(
        cluster: &Rc<Cluster>,
        path: &str,
        authority: &str,
        metadata: &[(String, String)],
    ) -> Result<Self, GrpcError> {
        let host = cluster.choose_host(&LbContext::default()).ok_or(GrpcError::NoHost)?;
        let connection = cluster.http_connection(&host, None, 0).await;
        let HttpConnection::Http2(place) = connection.map_err(|failure| GrpcError::Connect(failure.details()))? else {
            return Err(GrpcError::NotHttp2);
        };
        let invalid = |_| GrpcError::Malformed("the authority or the path cannot be sent");
        let mut head = RequestHead::new(Method::Post, authority, path).map_err(invalid)?;
        head.headers.set_sanitized("te", "trailers");
        head.headers.set_sanitized(HeaderId::ContentType, "application/grpc");
        for (name, value) in metadata {
            head.headers
                .append(name.as_str(), value.as_bytes())
                .map_err(|_| GrpcError::Malformed("a field of initial_metadata cannot be sent"))?;
        }
        let stream = ClientStream::begin(&place.http2, &head, false);
        let stream = stream.map_err(|error| GrpcError::Lost(format!("the call cannot be begun: {error:?}")))?;
        Ok(Self {
            stream,
            _place: place,
            outgoing: BytesMut::new(),
            incoming: BytesMut::new(),
            ends: false,
            has_head: false,
            head: ResponseHead::default(),
        })
    }

    /// Puts a message behind those that wait to be sent; polling sends it.
    pub fn send(&mut self, message: &[u8]) {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        self.outgoing.extend_from_slice(&[0]);
        self.outgoing.extend_from_slice(&length.to_be_bytes());
        self.outgoing.extend_from_slice(message);
    }

    /// One message there, one back. Give it a timeout: it has none of its own.
    pub async fn unary(
        cluster: &Rc<Cluster>,
        path: &str,
        authority: &str,
        metadata: &[(String, String)],
        message: &[u8],
    ) -> Result<Bytes, GrpcError> {
        let mut call = Self::open(cluster, path, authority, metadata).await?;
        call.send(message);
        call.ends = true;
        let answer = call.message().await?;
        match call.message().await {
            Err(GrpcError::Status(GrpcStatus::OK, _)) => Ok(answer),
            Err(error) => Err(error),
            Ok(_) => Err(GrpcError::Malformed("there are two answers")),
        }
    }

    /// Octets that wait to be sent.
    pub fn unsent(&self) -> usize {
        self.outgoing.len()
    }

    /// The next message. Nothing is lost when it is not waited for to the end.
    pub async fn message(&mut self) -> Result<Bytes, GrpcError> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    /// Sends what waits; ready with the next message, or with the end of the call, which is always an error here.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, GrpcError>> {
        if !self.outgoing.is_empty()
            && let Poll::Ready(sent) = self.stream.poll_data(cx, &self.outgoing)
        {
            sent.map_err(|error| GrpcError::Lost(error.to_string()))?;
            self.outgoing.clear();
        }
        if self.ends && self.outgoing.is_empty() {
            self.ends = false;
            self.stream.end(None).map_err(|error| GrpcError::Lost(error.to_string()))?;
        }
        while !self.has_head {
            match ready!(self.stream.poll_head(cx, &mut self.head)) {
                Ok(ResponseEvent::Informational) => {}
                Ok(ResponseEvent::Head { end_stream }) => {
                    self.has_head = true;
                    if end_stream || self.head.status != StatusCode::OK {
                        return Poll::Ready(Err(self.ended(None)));
                    }
                }
                Err(error) => return Poll::Ready(Err(GrpcError::Lost(error.to_string()))),
            }
        }
        loop {
            if let Some(message) = self.take_message()? {
                return Poll::Ready(Ok(message));
            }
            match ready!(self.stream.poll_part(cx)) {
                Ok(Part::Data(_)) => self.incoming.extend_from_slice(&self.stream.take_data()),
                Ok(Part::Trailers(trailers)) => return Poll::Ready(Err(self.ended(Some(&trailers)))),
                Ok(Part::End) => return Poll::Ready(Err(self.ended(None))),
                Err(BodyError::Stream(end)) => return Poll::Ready(Err(GrpcError::Lost(end.to_string()))),
                Err(error) => return Poll::Ready(Err(GrpcError::Lost(error.to_string()))),
            }
        }
    }

    /// The first message of what came, if it is whole.
    fn take_message(&mut self) -> Result<Option<Bytes>, GrpcError> {
        let Some((&[is_compressed, a, b, c, d], _)) = self.incoming.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        if is_compressed != 0 {
            return Err(GrpcError::Malformed("a message is compressed, which was not offered"));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_MESSAGE {
            return Err(GrpcError::Malformed("a message is longer than 64 MiB"));
        }
        if self.incoming.len() < PREFIX + length {
            return Ok(None);
        }
        self.incoming.advance(PREFIX);
        let message = self.incoming.split_to(length).freeze();
        if self.incoming.is_empty() {
            // The memory of a large message goes with it.
            self.incoming = BytesMut::new();
        }
        Ok(Some(message))
    }

    fn ended(&self, trailers: Option<&Headers>) -> GrpcError {
        let fields = [trailers, Some(&self.head.headers)];
        let text = fields.into_iter().flatten().find_map(|fields| fields.get(HeaderId::GrpcMessage));
        let text = text.map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
        let status = GrpcStatus::of(trailers, Some(&self.head), Some(self.head.status));
        GrpcError::Status(status.unwrap_or(GrpcStatus::UNKNOWN), text)
    }
}
