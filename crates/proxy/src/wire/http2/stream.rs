//! One stream: what was received on it, and sending.

use super::{Connection, StreamEnd, connection::with_heads, held::Held};
use crate::wire::{BodyError, Part, WriteError, http1::content_length};
use bytes::Bytes;
use sota_codec::http2::{self as codec, ErrorCode, SendError, StreamId};
use sota_plugin::http::{Headers, RequestHead, ResponseHead};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// More heads that wait at once than this are a fault of the origin.
const MAX_HEADS: usize = 32;

/// The part of a stream that its connection knows.
pub(super) struct State {
    pub(super) id: StreamId,
    inbound: RefCell<Inbound>,
    /// The task that uses the stream.
    waker: Cell<Option<Waker>>,
}

#[derive(Default)]
struct Inbound {
    request: Option<Box<RequestHead>>,
    responses: VecDeque<(Box<ResponseHead>, bool)>,
    data: Held,
    /// Octets of data that [`Part::Data`] has told of. Whoever writes them has said how many they are: what arrives
    /// meanwhile is not among them.
    told: usize,
    trailers: Option<Box<Headers>>,
    /// The end has arrived.
    has_ended: bool,
    /// It was over before its time.
    end: Option<StreamEnd>,
    /// Octets of data that were taken so far.
    taken: u64,
    /// Octets of frames so far: of heads, and all.
    head_octets: u64,
    octets: u64,
}

impl State {
    pub(super) fn new(id: StreamId) -> Self {
        Self { id, inbound: RefCell::default(), waker: Cell::default() }
    }

    pub(super) fn with_request(id: StreamId, head: Box<RequestHead>, end_stream: bool, octets: u64) -> Self {
        let state = Self::new(id);
        let mut inbound = state.inbound.borrow_mut();
        inbound.request = Some(head);
        inbound.has_ended = end_stream;
        (inbound.head_octets, inbound.octets) = (octets, octets);
        drop(inbound);
        state
    }

    /// A head of a response; `false` when too many wait.
    pub(super) fn push_response(&self, head: Box<ResponseHead>, end_stream: bool, octets: u64) -> bool {
        let mut inbound = self.inbound.borrow_mut();
        inbound.octets += octets;
        inbound.head_octets = octets;
        inbound.has_ended |= end_stream;
        inbound.responses.push_back((head, end_stream));
        let is_bounded = inbound.responses.len() <= MAX_HEADS;
        drop(inbound);
        self.wake();
        is_bounded
    }

    pub(super) fn push_data(&self, data: &[u8], end_stream: bool, octets: u64) {
        let mut inbound = self.inbound.borrow_mut();
        inbound.octets += octets;
        inbound.has_ended |= end_stream;
        inbound.data.push(data);
        drop(inbound);
        self.wake();
    }

    pub(super) fn push_trailers(&self, trailers: Box<Headers>, octets: u64) {
        let mut inbound = self.inbound.borrow_mut();
        inbound.octets += octets;
        inbound.has_ended = true;
        inbound.trailers = Some(trailers);
        drop(inbound);
        self.wake();
    }

    /// Over before its time. A message that is whole can still be taken.
    pub(super) fn end(&self, end: StreamEnd) {
        let mut inbound = self.inbound.borrow_mut();
        inbound.end.get_or_insert(end);
        if !inbound.has_ended {
            inbound.data.clear();
            inbound.told = 0;
        }
        drop(inbound);
        self.wake();
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Has the task woken when something happens.
    fn watch(&self, cx: &mut Context<'_>) {
        let waker = self.waker.take().filter(|waker| waker.will_wake(cx.waker()));
        self.waker.set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
    }
}

/// A stream, as the one task that uses it has it. Dropped before both messages are whole, it is reset.
pub struct Stream {
    connection: Rc<Connection>,
    state: Rc<State>,
    /// While data is being sent: how many octets of it were taken.
    taken: Cell<Option<usize>>,
    /// Octets that are to come by what the head said.
    left: Cell<Option<u64>>,
    has_sent_all: Cell<bool>,
    code: Cell<ErrorCode>,
    head_octets_sent: Cell<u64>,
    octets_sent: Cell<u64>,
}

impl Stream {
    pub(super) fn new(connection: &Rc<Connection>, state: Rc<State>) -> Self {
        Self {
            connection: Rc::clone(connection),
            state,
            taken: Cell::new(None),
            left: Cell::new(None),
            has_sent_all: Cell::new(false),
            code: Cell::new(ErrorCode::CANCEL),
            head_octets_sent: Cell::new(0),
            octets_sent: Cell::new(0),
        }
    }

    /// Its connection.
    pub fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    /// Takes the head of the request (server).
    pub fn take_request(&self, head: &mut RequestHead) -> bool {
        let taken = self.state.inbound.borrow_mut().request.take();
        let Some(mut request) = taken else { return false };
        std::mem::swap(head, &mut request);
        with_heads(|heads| heads.give_request(request));
        true
    }

    /// The next head of the response, and whether nothing follows it (client).
    pub fn poll_response(&self, cx: &mut Context<'_>, head: &mut ResponseHead) -> Poll<Result<bool, StreamEnd>> {
        let mut inbound = self.state.inbound.borrow_mut();
        if let Some((mut response, end_stream)) = inbound.responses.pop_front() {
            std::mem::swap(head, &mut response);
            with_heads(|heads| heads.give_response(response));
            return Poll::Ready(Ok(end_stream));
        }
        if let Some(end) = inbound.end {
            return Poll::Ready(Err(end));
        }
        self.state.watch(cx);
        Poll::Pending
    }

    /// Why it is over before its time, if it is.
    pub fn ended(&self) -> Option<StreamEnd> {
        self.state.inbound.borrow().end
    }

    /// Whether the last octet of what is received was taken.
    pub fn is_received(&self) -> bool {
        let inbound = self.state.inbound.borrow();
        inbound.has_ended && inbound.data.len() == 0 && inbound.trailers.is_none()
    }

    /// Octets of data that were taken so far.
    pub fn body_received(&self) -> u64 {
        self.state.inbound.borrow().taken
    }

    /// Octets of frames received so far: of the head, and all.
    pub fn octets_received(&self) -> (u64, u64) {
        let inbound = self.state.inbound.borrow();
        (inbound.head_octets, inbound.octets)
    }

    /// Octets of frames sent so far: of the head, and all.
    pub fn octets_sent(&self) -> (u64, u64) {
        (self.head_octets_sent.get(), self.octets_sent.get())
    }

    /// The next part of the body that is received.
    pub fn poll_part(&self, cx: &mut Context<'_>) -> Poll<Result<Part, BodyError>> {
        let mut inbound = self.state.inbound.borrow_mut();
        let front = inbound.data.front().len();
        if front > 0 {
            if inbound.told == 0 {
                inbound.told = front;
            }
            return Poll::Ready(Ok(Part::Data(inbound.told)));
        }
        if let Some(trailers) = inbound.trailers.take() {
            return Poll::Ready(Ok(Part::Trailers(trailers)));
        }
        if inbound.has_ended {
            return Poll::Ready(Ok(Part::End));
        }
        if let Some(end) = inbound.end {
            return Poll::Ready(Err(end.into()));
        }
        self.state.watch(cx);
        Poll::Pending
    }

    /// Runs `f` on the data that [`Part::Data`] told of; it says how much of it is used up. It may send on another
    /// connection.
    pub fn with_data<R>(&self, f: impl FnOnce(&[u8]) -> (usize, R)) -> R {
        let mut inbound = self.state.inbound.borrow_mut();
        let told = inbound.told;
        let (used, result) = f(inbound.data.front().get(..told).unwrap_or_default());
        let used = inbound.data.consume(used.min(told));
        inbound.told -= used;
        inbound.taken += used as u64;
        drop(inbound);
        if used > 0 {
            self.connection.with_codec(|codec| codec.release(self.state.id, used));
        }
        result
    }

    /// Copies the data that [`Part::Data`] told of.
    pub fn take_data(&self) -> Bytes {
        self.with_data(|data| (data.len(), Bytes::copy_from_slice(data)))
    }

    /// Ready when it is over before its time.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<StreamEnd> {
        if let Some(end) = self.ended() {
            return Poll::Ready(end);
        }
        self.state.watch(cx);
        Poll::Pending
    }

    /// The head of what is sent is in the output, in so many octets.
    pub(super) fn begin_sending(&self, headers: &Headers, octets: usize, end_stream: bool) {
        self.head_octets_sent.set(octets as u64);
        self.octets_sent.set(octets as u64);
        self.left.set(if end_stream { None } else { content_length(headers) });
        self.has_sent_all.set(end_stream);
    }

    /// Sends a head of a response (server).
    pub(super) fn send_response(&self, head: &ResponseHead, end_stream: bool) -> Result<(), SendError> {
        let before = self.octets_sent.get();
        self.send(|codec, id| codec.send_response(id, head, end_stream))?;
        if !head.status.is_informational() {
            let octets = self.octets_sent.get();
            self.begin_sending(&head.headers, (octets - before) as usize, end_stream);
            self.octets_sent.set(octets);
        }
        Ok(())
    }

    fn send<R>(
        &self,
        f: impl FnOnce(&mut codec::Connection, StreamId) -> Result<R, SendError>,
    ) -> Result<R, SendError> {
        if self.connection.ended().is_some() {
            return Err(SendError::ConnectionClosed);
        }
        self.connection.with_codec(|codec| {
            let before = codec.output().len();
            let result = f(codec, self.state.id);
            self.octets_sent.set(self.octets_sent.get() + (codec.output().len() - before) as u64);
            result
        })
    }

    /// Sends data. While it is pending, call again with the same data.
    pub fn poll_data(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<(), WriteError>> {
        let taken = match (self.taken.take(), self.left.get()) {
            (Some(taken), _) => taken,
            (None, Some(left)) => {
                self.left.set(Some(left.checked_sub(data.len() as u64).ok_or(WriteError::Length)?));
                0
            }
            (None, None) => 0,
        };
        let rest = data.get(taken..).unwrap_or_default();
        if rest.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let accepted = self.send(|codec, id| codec.send_data(id, rest, false)).map_err(|_| gone())?;
        if accepted == rest.len() {
            return Poll::Ready(Ok(()));
        }
        self.taken.set(Some(taken + accepted));
        self.state.watch(cx);
        Poll::Pending
    }

    /// Ends what is sent.
    pub fn end(&self, trailers: Option<&Headers>) -> Result<(), WriteError> {
        if self.has_sent_all.get() {
            return Ok(());
        }
        if self.left.get().is_some_and(|left| left > 0) {
            return Err(WriteError::Length);
        }
        self.send(|codec, id| match trailers {
            Some(trailers) => codec.send_trailers(id, trailers),
            None => codec.send_data(id, &[], true).map(drop),
        })
        .map_err(|_| gone())?;
        self.has_sent_all.set(true);
        Ok(())
    }

    /// The end of what is sent is in the output.
    pub fn has_sent_all(&self) -> bool {
        self.has_sent_all.get()
    }

    /// The code that the stream is reset with, if it is dropped early.
    pub fn set_code(&self, code: ErrorCode) {
        self.code.set(code);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let id = self.state.id;
        if self.connection.ended().is_none() {
            // Without effect on a stream that is over.
            self.connection.with_codec(|codec| codec.reset(id, self.code.get()));
        }
        self.connection.remove(id);
    }
}

fn gone() -> WriteError {
    WriteError::Io(io::ErrorKind::BrokenPipe.into())
}
