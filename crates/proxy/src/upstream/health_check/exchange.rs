//! One request and its response on a connection of a check.

use super::{
    Checks, Failed,
    peer::{Peer, Speaks},
};
use crate::{
    socket::Socket,
    upstream::host::Host,
    wire::{
        ClientError, Part, ResponseEvent,
        http1::{self, ClientOptions},
        http2,
    },
};
use bytes::Bytes;
use sota_codec::http1::DecodeOptions;
use sota_plugin::http::{Headers, RequestHead, ResponseHead, StatusCode};
use std::{future::poll_fn, rc::Rc};

/// Octets that wait to be sent at most.
const BUFFER: usize = 64 * 1024;

/// What a host answered.
pub(super) struct Answer {
    pub(super) head: ResponseHead,
    /// The beginning of the body, as far as it was asked for.
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<Box<Headers>>,
}

/// Why there is no answer.
enum Broken {
    /// The connection was closed before an octet of the answer: where it is an old one, nobody has seen the request.
    Stale,
    Lost,
}

impl Checks {
    /// Sends a request and reads the whole response. A kept connection that the host has closed in the meantime is
    /// replaced once: that says nothing about its health.
    pub(super) async fn exchange(
        &self,
        host: &Host,
        peer: &mut Option<Peer>,
        speaks: Speaks,
        request: &RequestHead,
        body: &[u8],
        most: usize,
    ) -> Result<Answer, Failed> {
        if let Some(known) = peer.take()
            && is_usable(&known)
        {
            match self.on(known, peer, request, body, most).await {
                Ok(answer) => return Ok(answer),
                Err(Broken::Stale) => {}
                Err(Broken::Lost) => return Err(Failed::NETWORK),
            }
        }
        let new = self.connect(host, speaks).await?;
        self.on(new, peer, request, body, most).await.map_err(|_| Failed::NETWORK)
    }

    /// The same on this connection, which goes to `keep` where it may be used again.
    async fn on(
        &self,
        peer: Peer,
        keep: &mut Option<Peer>,
        request: &RequestHead,
        body: &[u8],
        most: usize,
    ) -> Result<Answer, Broken> {
        match peer {
            Peer::Plain(socket) => {
                let (answer, may_reuse) = self.on_http1(&socket, request, body, most).await?;
                *keep = may_reuse.then_some(Peer::Plain(socket));
                Ok(answer)
            }
            Peer::Http2(peer) => {
                let connection = peer.usable().map(Rc::clone).ok_or(Broken::Stale)?;
                let answer = on_http2(&connection, request, body, most).await?;
                *keep = peer.usable().is_some().then_some(Peer::Http2(peer));
                Ok(answer)
            }
        }
    }

    async fn on_http1(
        &self,
        socket: &Socket,
        request: &RequestHead,
        body: &[u8],
        most: usize,
    ) -> Result<(Answer, bool), Broken> {
        let options = self.client_options();
        let mut stream = http1::ClientStream::begin(socket, request, (body.is_empty(), false), &options, BUFFER);
        if !body.is_empty() {
            poll_fn(|cx| stream.poll_data(cx, socket, body)).await.map_err(|_| Broken::Lost)?;
            stream.end(None, &options).map_err(|_| Broken::Lost)?;
        }
        // What cannot be written was closed, which the reading tells.
        let _ = poll_fn(|cx| stream.poll_flush(cx, socket)).await;
        let mut answer = Answer::new();
        let end_stream = loop {
            match poll_fn(|cx| stream.poll_head(cx, socket, &options, &mut answer.head)).await {
                Ok(ResponseEvent::Informational) => {}
                Ok(ResponseEvent::Head { end_stream }) => break end_stream,
                Err(ClientError::Closed { unanswered: true, .. }) => return Err(Broken::Stale),
                Err(_) => return Err(Broken::Lost),
            }
        };
        if end_stream {
            return Ok((answer, stream.may_reuse(socket)));
        }
        loop {
            match poll_fn(|cx| stream.poll_part(cx, socket, &options)).await.map_err(|_| Broken::Lost)? {
                Part::Data(_) => {
                    stream.with_data(socket, |data| (data.len(), answer.take(data, most)));
                }
                Part::Trailers(trailers) => answer.trailers = Some(trailers),
                Part::End => break,
            }
        }
        Ok((answer, stream.may_reuse(socket)))
    }

    fn client_options(&self) -> ClientOptions {
        let model = self.config.model();
        ClientOptions {
            decode: DecodeOptions {
                max_head_bytes: model.http.max_response_headers_kb as usize * 1024,
                max_fields: model.http.max_headers_count as usize,
                ..DecodeOptions::default()
            },
            names: model.http1.header_key_format,
            trailers: false,
            absolute_form: false,
        }
    }
}

async fn on_http2(
    connection: &Rc<http2::Connection>,
    request: &RequestHead,
    body: &[u8],
    most: usize,
) -> Result<Answer, Broken> {
    let stream = http2::ClientStream::begin(connection, request, body.is_empty()).map_err(|_| Broken::Stale)?;
    if !body.is_empty() {
        poll_fn(|cx| stream.poll_data(cx, body)).await.map_err(|_| Broken::Lost)?;
        stream.end(None).map_err(|_| Broken::Lost)?;
    }
    let mut answer = Answer::new();
    let lost = |_| match stream.stream().octets_received().1 {
        0 => Broken::Stale,
        _ => Broken::Lost,
    };
    let end_stream = loop {
        match poll_fn(|cx| stream.poll_head(cx, &mut answer.head)).await.map_err(lost)? {
            ResponseEvent::Informational => {}
            ResponseEvent::Head { end_stream } => break end_stream,
        }
    };
    if end_stream {
        return Ok(answer);
    }
    loop {
        match poll_fn(|cx| stream.poll_part(cx)).await.map_err(|_| Broken::Lost)? {
            Part::Data(_) => {
                let data: Bytes = stream.take_data();
                answer.take(&data, most);
            }
            Part::Trailers(trailers) => answer.trailers = Some(trailers),
            Part::End => break,
        }
    }
    Ok(answer)
}

fn is_usable(peer: &Peer) -> bool {
    match peer {
        Peer::Plain(socket) => !socket.is_stale(),
        Peer::Http2(peer) => peer.usable().is_some(),
    }
}

impl Answer {
    fn new() -> Self {
        Self { head: ResponseHead::new(StatusCode::OK), body: Vec::new(), trailers: None }
    }

    /// Keeps the beginning of the body.
    fn take(&mut self, data: &[u8], most: usize) {
        let room = most.saturating_sub(self.body.len()).min(data.len());
        self.body.extend_from_slice(data.get(..room).unwrap_or_default());
    }
}

/// Whether each of `wanted` stands in `octets`, in this order.
pub(super) fn has_in_order(mut octets: &[u8], wanted: &[Vec<u8>]) -> bool {
    wanted.iter().all(|wanted| {
        let Some(at) = memchr::memmem::find(octets, wanted) else { return false };
        octets = octets.get(at + wanted.len()..).unwrap_or_default();
        true
    })
}

#[cfg(test)]
mod tests {
    use super::has_in_order;

    #[test]
    fn parts_stand_in_order_with_anything_between_them() {
        let parts = |parts: &[&str]| -> Vec<Vec<u8>> { parts.iter().map(|part| part.as_bytes().to_vec()).collect() };
        assert!(has_in_order(b"..PONG..OK", &parts(&["PONG", "OK"])));
        assert!(!has_in_order(b"OK..PONG", &parts(&["PONG", "OK"])));
        assert!(!has_in_order(b"ab", &parts(&["ab", "b"])), "they do not overlap");
        assert!(has_in_order(b"", &[]));
    }
}
