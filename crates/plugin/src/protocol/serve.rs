//! Reading requests from a connection and writing their answers.

use super::{Malformed, Order, Protocol, Side};
use crate::{LocalFuture, filter::Connection};
use bytes::BytesMut;
use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    task::{Context, Poll},
    time::Duration,
};

/// For the handshake of a client.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What becomes of a request.
pub enum Answer<T> {
    /// It is answered.
    Now(T),
    /// It will be.
    Later(LocalFuture<T>),
    /// It is answered, and with it the connection ends.
    Last(T),
}

/// Why serving ended.
#[derive(Debug)]
pub enum End {
    /// The client has sent its last, and has every answer.
    Finished,
    /// Draining: the client has every answer.
    Drained,
    /// After an [`Answer::Last`].
    Closed,
    /// The client does not speak the protocol. What it asked before is answered.
    Malformed(Malformed),
    /// The connection broke, or a timeout passed.
    Failed(io::Error),
}

/// Serves a connection: `answer` is called with each request as it arrives, and the answers are written in the order
/// of the requests, or, where they have ids, as they come. At most `most` requests are under way; then nothing is read.
pub async fn serve<P: Protocol>(
    connection: &mut Connection,
    protocol: &P,
    most: usize,
    mut answer: impl FnMut(P::Request) -> Answer<P::Response>,
) -> End {
    let limit = connection.limit();
    let mut draining = connection.take_drain_notice();
    let (mut state, mut out) = (P::State::default(), Vec::new());
    protocol.begin(&mut state, Side::Server, &mut out);
    let mut patience = (!protocol.is_ready(&state)).then(|| connection.worker().sleep(HANDSHAKE_TIMEOUT));
    let (read, write) = connection.halves();
    let mut queue = Queue::<P> { protocol, state, waiting: VecDeque::new(), out, closing: false };
    let (mut written, mut ended, mut malformed) = (0, false, None);
    poll_fn(|cx| {
        loop {
            if let Some(sleep) = &mut patience {
                if queue.is_ready() {
                    patience = None;
                } else if sleep.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(End::Failed(io::ErrorKind::TimedOut.into()));
                }
            }
            queue.poll_answers(cx);
            while let Some(rest) = queue.out.get(written..).filter(|rest| !rest.is_empty()) {
                match write.poll_write(cx, rest) {
                    Poll::Ready(Ok(n @ 1..)) => written += n,
                    Poll::Ready(Ok(_)) => return Poll::Ready(End::Failed(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Err(error)) => return Poll::Ready(End::Failed(error)),
                    Poll::Pending => break,
                }
            }
            let is_written = written == queue.out.len();
            if is_written {
                queue.out.clear();
                written = 0;
                match write.poll_flush(cx) {
                    Poll::Ready(Err(error)) => return Poll::Ready(End::Failed(error)),
                    Poll::Pending if queue.closing || ended || malformed.is_some() => return Poll::Pending,
                    _ => {}
                }
            }
            if is_written && queue.waiting.is_empty() {
                if queue.closing {
                    return Poll::Ready(malformed.take().map_or(End::Closed, End::Malformed));
                }
                if let Some(error) = &malformed {
                    protocol.refuse(error, &mut queue.out);
                    queue.closing = true;
                    continue;
                }
                if ended {
                    return Poll::Ready(End::Finished);
                }
                if draining.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(End::Drained);
                }
            }
            let is_last = queue.closing || ended || malformed.is_some();
            if is_last || queue.waiting.len() >= most || queue.out.len() > limit {
                return Poll::Pending;
            }
            let mut decoded = false;
            while queue.waiting.len() < most && !queue.closing && malformed.is_none() {
                match queue.decode(read.buffer()) {
                    Ok(Some(request)) => queue.push(request, &mut answer),
                    Ok(None) => break,
                    Err(error) => malformed = Some(error),
                }
                decoded = true;
            }
            // What is to be written now may be an answer, or what the protocol itself says.
            if decoded || (is_written && !queue.out.is_empty()) {
                continue;
            }
            match read.poll_fill(cx) {
                Poll::Ready(Ok(0)) => ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(End::Failed(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Requests that are under way, and answers that are not written.
struct Queue<'a, P: Protocol> {
    protocol: &'a P,
    state: P::State,
    waiting: VecDeque<(u64, LocalFuture<P::Response>)>,
    out: Vec<u8>,
    closing: bool,
}

impl<P: Protocol> Queue<'_, P> {
    fn is_ready(&self) -> bool {
        self.protocol.is_ready(&self.state)
    }

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<P::Request>, Malformed> {
        let decoded = self.protocol.decode_request(&mut self.state, buffer);
        self.protocol.take_output(&mut self.state, &mut self.out);
        decoded
    }

    fn push(&mut self, request: P::Request, answer: &mut impl FnMut(P::Request) -> Answer<P::Response>) {
        let id = self.protocol.request_id(&request);
        match answer(request) {
            Answer::Later(future) => self.waiting.push_back((id, future)),
            Answer::Last(response) => {
                self.closing = true;
                self.put(id, response);
            }
            Answer::Now(response) => self.put(id, response),
        }
    }

    fn put(&mut self, id: u64, response: P::Response) {
        if self.waiting.is_empty() || P::ORDER == Order::ById {
            self.protocol.encode_response(&mut self.state, &response, id, &mut self.out);
        } else {
            self.waiting.push_back((id, Box::pin(std::future::ready(response))));
        }
    }

    /// Writes the answers that are there. Where they have an order only the first is asked: what the others wait for
    /// goes on without them.
    fn poll_answers(&mut self, cx: &mut Context<'_>) {
        let mut at = 0;
        while let Some((id, future)) = self.waiting.get_mut(at) {
            match future.as_mut().poll(cx) {
                Poll::Ready(response) => {
                    self.protocol.encode_response(&mut self.state, &response, *id, &mut self.out);
                    self.waiting.remove(at);
                }
                Poll::Pending if P::ORDER == Order::ById => at += 1,
                Poll::Pending => return,
            }
        }
    }
}
