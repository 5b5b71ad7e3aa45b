//! One request and its response, phase by phase.
//!
//! [`Stream::exchange`] is the whole story in order. While one of its phases waits, [`Stream::run`] keeps the rest going:
//! the request goes on being sent, deadlines are watched, and so is the client. A phase that cannot go on says why with a
//! [`Stop`]; an answer of our own then takes the place of the response, as long as none has left.

use super::{
    FilterFactory, HttpConnectionManager,
    connection::{Connection, Next},
    filter_chain::{Env, Filters, Passage, Passed},
    filter_side::{RequestSide, ResponseSide},
    follow::Again,
    tunnel::{Tunnel, TunnelClock},
};
use crate::{
    deadline::{Deadline, Deadlines},
    router::{Answer, Followed, Forward, ForwardCx, Routes, SelectedRoute},
    upstream::Cluster,
    wire::{BodyError, Part, RequestError, RequestStart, ServerStream},
};
use bytes::Bytes;
use sota_codec::http1::{Http1Error, RequestInfo};
use sota_plugin::{
    filter::LocalReply,
    http::{Headers, RequestHead, ResponseHead},
    info::{Details, StreamInfo},
};
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

/// A stream. Its parts are borrowed for the length of one poll, so that its two directions can go on side by side.
pub(super) struct Stream<'c> {
    pub(super) connection: &'c Connection,
    /// Those of an HTTP/1 connection are its stream's, too.
    pub(super) deadlines: &'c Deadlines,
    pub(super) codec: ServerStream<'c>,
    pub(super) request: RefCell<Box<RequestHead>>,
    pub(super) response: RefCell<Box<ResponseHead>>,
    pub(super) response_trailers: RefCell<Option<Box<Headers>>>,
    pub(super) info: RefCell<StreamInfo>,
    pub(super) chain: RefCell<Chain<'c>>,
    /// The table that the stream began with.
    pub(super) routes: Option<Rc<Routes>>,
    pub(super) route: RefCell<Option<Rc<SelectedRoute>>>,
    pub(super) cluster: RefCell<Option<Rc<Cluster>>>,
    pub(super) forward: RefCell<Option<Forward>>,
    /// The body of an answer of our own, until it is sent; and its text, for logs.
    pub(super) reply_body: RefCell<Option<Bytes>>,
    pub(super) reply_text: RefCell<Bytes>,
    /// Data of the response that the filters have let go and the client has not taken.
    sending: RefCell<Option<(Bytes, bool)>>,
    pub(super) head: Cell<Option<RequestInfo>>,
    /// There is a head to show to loggers and formats.
    pub(super) has_request: Cell<bool>,
    pub(super) progress: Cell<Progress>,
    pub(super) idle_timeout: Cell<Option<Duration>>,
    /// The end of the request was given to the filters.
    pub(super) request_ended: Cell<bool>,
    pub(super) has_filters: Cell<bool>,
    /// Redirects that the request has followed.
    pub(super) followed: RefCell<Followed>,
    /// The body of a request that goes elsewhere, until the filters have taken it.
    pub(super) again: RefCell<Option<Again>>,
    /// Where the stream's filters are from.
    pub(super) factories: Cell<&'c [FilterFactory]>,
    pub(super) tunnel: Cell<Tunnel>,
    /// The upstream's direction of a tunnel is over.
    response_ended: Cell<bool>,
    pub(super) tunnel_clock: RefCell<Option<TunnelClock>>,
    /// The request is being read: the client's end will be seen there.
    is_reading: Cell<bool>,
    /// The connection ends behind this response.
    closes: Cell<bool>,
    /// Decides on whatever is left to chance, for the whole stream.
    pub(super) random: u64,
    /// Octets on the connection before the stream: received and used, sent.
    pub(super) bytes_before: (u64, u64),
}

/// How far a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Progress {
    /// The head of the request is being read.
    #[default]
    Head,
    /// There is a request.
    Request,
    /// The head of the response has left.
    Responding,
    /// The response has left.
    Done,
}

/// The filters of a stream and what passes them.
#[derive(Default)]
pub(super) struct Chain<'c> {
    pub(super) filters: Filters<'c>,
    pub(super) request: Passage<RequestSide>,
    pub(super) response: Passage<ResponseSide>,
}

/// Why a phase does not go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// The proxy answers itself.
    Reply(Box<LocalReply>),
    /// The stream ends as it is; its facts say why.
    Reset(Details),
    /// The client has closed the connection, or given the stream up.
    ClientGone,
    /// The client speaks HTTP/2.
    Http2,
}

impl From<Box<LocalReply>> for Stop {
    fn from(reply: Box<LocalReply>) -> Self {
        Self::Reply(reply)
    }
}

impl<'c> Stream<'c> {
    /// Serves the request that begins on the connection.
    pub(super) async fn serve(connection: &'c Connection, deadlines: &'c Deadlines, codec: ServerStream<'c>) -> Next {
        let stream = Self::new(connection, deadlines, codec);
        let ended = stream.run().await;
        let next = stream.finish(&ended);
        connection.manager.keep_heads(stream.request.into_inner(), stream.response.into_inner());
        next
    }

    fn new(connection: &'c Connection, deadlines: &'c Deadlines, codec: ServerStream<'c>) -> Self {
        let (manager, downstream) = (&connection.manager, &connection.downstream);
        let socket = &downstream.socket;
        let info = StreamInfo::begun_at(
            deadlines.now(),
            Rc::clone(&downstream.info),
            manager.context.local.process.next_stream_id(),
            Some(codec.protocol()),
        );
        Self::arm(connection, deadlines, info.timing.start);
        let (request, response) = manager.take_heads();
        Self {
            connection,
            deadlines,
            codec,
            request: RefCell::new(request),
            response: RefCell::new(response),
            response_trailers: RefCell::default(),
            info: RefCell::new(info),
            chain: RefCell::default(),
            routes: manager.routes(),
            route: RefCell::default(),
            cluster: RefCell::default(),
            forward: RefCell::default(),
            reply_body: RefCell::default(),
            reply_text: RefCell::default(),
            sending: RefCell::default(),
            head: Cell::default(),
            has_request: Cell::default(),
            progress: Cell::default(),
            idle_timeout: Cell::new(manager.config.model.stream_idle_timeout),
            request_ended: Cell::default(),
            has_filters: Cell::default(),
            followed: RefCell::default(),
            again: RefCell::default(),
            factories: Cell::new(&manager.filters),
            tunnel: Cell::default(),
            response_ended: Cell::default(),
            tunnel_clock: RefCell::default(),
            is_reading: Cell::default(),
            closes: Cell::default(),
            random: fastrand::u64(..),
            bytes_before: (socket.bytes_received() - socket.buffered() as u64, socket.bytes_sent()),
        }
    }

    pub(super) fn manager(&self) -> &'c HttpConnectionManager {
        &self.connection.manager
    }

    /// The connection ends behind this response.
    pub(super) fn close_after(&self) {
        self.closes.set(true);
    }

    /// Whether the connection ends behind this response.
    pub(super) fn closes_after(&self) -> bool {
        self.closes.get()
    }

    /// Something has moved on the stream.
    pub(super) fn touch(&self) {
        if let Some(idle) = self.idle_timeout.get() {
            self.deadlines.set_after(Deadline::StreamIdle, self.deadlines.now(), Some(idle));
        }
    }

    /// Calls the filters of the request with what they need.
    pub(super) fn with_chain<R>(&self, f: impl FnOnce(&mut Chain<'c>, &mut Env<'_>) -> R) -> R {
        self.call_filters(None, f)
    }

    /// The same for those of the response, which see the request.
    pub(super) fn with_response_chain<R>(&self, f: impl FnOnce(&mut Chain<'c>, &mut Env<'_>) -> R) -> R {
        self.call_filters(Some(&self.request.borrow()), f)
    }

    fn call_filters<R>(&self, request: Option<&RequestHead>, f: impl FnOnce(&mut Chain<'c>, &mut Env<'_>) -> R) -> R {
        let reroute = |head: &RequestHead, info: &mut StreamInfo| self.choose_route(head, info);
        let mut env = Env {
            info: &mut self.info.borrow_mut(),
            request,
            worker: &self.manager().context.cx,
            limit: self.connection.downstream.buffer_limit,
            reroute: &reroute,
        };
        f(&mut self.chain.borrow_mut(), &mut env)
    }

    /// Runs the stream to its end, whatever happens.
    async fn run(&self) -> Result<(), Stop> {
        let mut ended = self.beside(self.exchange()).await;
        while let Err(Stop::Reply(reply)) = ended {
            if self.progress.get() >= Progress::Responding {
                ended = Err(self.reset_instead(&reply));
                break;
            }
            self.begin_reply(*reply);
            ended = self.beside(self.respond()).await;
        }
        if matches!(ended, Err(Stop::Reset(_))) {
            self.leave_rest().await;
        }
        ended
    }

    /// What was collected of a response that will not be whole still leaves, as far as it goes at once.
    async fn leave_rest(&self) {
        let _ = poll_fn(|cx| Poll::Ready(self.codec.poll_flush(cx))).await;
    }

    /// The phases.
    async fn exchange(&self) -> Result<(), Stop> {
        poll_fn(|cx| self.poll_head(cx)).await?;
        self.prepare()?;
        let end_stream = loop {
            let end_stream = poll_fn(|cx| self.poll_request_filters(cx)).await?;
            self.start_router(end_stream)?;
            if let Some(end_stream) = poll_fn(|cx| self.poll_upstream_head(cx)).await? {
                break end_stream;
            }
        };
        self.check_consent()?;
        self.chain.borrow_mut().response.begin(end_stream);
        self.respond().await
    }

    /// The last phases: the response passes the filters and leaves.
    async fn respond(&self) -> Result<(), Stop> {
        poll_fn(|cx| self.poll_send_head(cx)).await?;
        poll_fn(|cx| self.poll_send_body(cx)).await?;
        match self.is_tunnel() {
            true => poll_fn(|cx| self.poll_finish_tunnel(cx)).await,
            false => Ok(()),
        }
    }

    /// Runs phases while the request is sent on, and deadlines and the client are watched.
    async fn beside(&self, phases: impl Future<Output = Result<(), Stop>>) -> Result<(), Stop> {
        let mut phases = pin!(phases);
        let mut is_first = true;
        poll_fn(|cx| {
            loop {
                self.deadlines.refresh(cx);
                self.check_deadlines()?;
                if self.is_tunnel() {
                    self.poll_tunnel_clock(cx)?;
                }
                // A client that has gone gets no answer, but what it has sent is taken first, as with Envoy.
                let watches = !self.is_reading.replace(false) && !std::mem::take(&mut is_first);
                // The one direction of a tunnel may end before the other.
                let may_end = self.is_tunnel() && self.codec.http2().is_none();
                if watches && !may_end && self.codec.poll_closed(cx).is_ready() {
                    return Poll::Ready(Err(Stop::ClientGone));
                }
                if let Poll::Ready(ended) = phases.as_mut().poll(cx) {
                    return Poll::Ready(ended);
                }
                if let Poll::Ready(Err(stop)) = self.poll_send_request(cx) {
                    return Poll::Ready(Err(stop));
                }
                if self.progress.get() < Progress::Responding {
                    // An informational response.
                    let _ = self.codec.poll_flush(cx);
                }
                if watches || self.is_reading.get() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let Poll::Ready(start) = self.codec.poll_head(cx, &mut self.request.borrow_mut()) else {
            self.is_reading.set(true);
            return Poll::Pending;
        };
        self.deadlines.set(Deadline::RequestHeaders, None);
        Poll::Ready(match start {
            Ok(RequestStart::Head(head)) => {
                self.note_head(&head);
                Ok(())
            }
            Ok(RequestStart::Http2Preface) => Err(Stop::Http2),
            Err(RequestError::Closed) => Err(Stop::ClientGone),
            Err(RequestError::Malformed(error)) => Err(self.refuse(error)),
        })
    }

    /// The head of the request goes through the filters, with as much of the body as they hold it for.
    /// Says whether nothing follows it.
    fn poll_request_filters(&self, cx: &mut Context<'_>) -> Poll<Result<bool, Stop>> {
        match ready!(self.poll_filtered_request(cx))? {
            Passed::Head { end_stream } => Poll::Ready(Ok(end_stream)),
            // Nothing else comes before the head.
            _ => Poll::Pending,
        }
    }

    /// What comes out of the request's filters next.
    fn poll_filtered_request(&self, cx: &mut Context<'_>) -> Poll<Result<Passed, Stop>> {
        loop {
            let passed = self.with_chain(|chain, env| {
                let head = &mut *self.request.borrow_mut();
                chain.request.poll(cx, &mut chain.filters, head, env)
            });
            match ready!(passed)? {
                Passed::NeedMore if self.push_again() => {}
                Passed::NeedMore if self.request_ended.get() || self.holds_tunnel() => return Poll::Pending,
                Passed::NeedMore => {
                    let part = ready!(self.poll_request_part(cx))?;
                    let passage = &mut self.chain.borrow_mut().request;
                    match part {
                        // The end comes by itself, as it does in Envoy.
                        Part::Data(_) => passage.push_data(self.codec.take_data(), false),
                        Part::Trailers(trailers) => {
                            passage.push_trailers(trailers);
                            self.note_request_end();
                        }
                        Part::End => {
                            passage.push_data(Bytes::new(), true);
                            self.note_request_end();
                        }
                    }
                }
                passed => return Poll::Ready(Ok(passed)),
            }
        }
    }

    /// The next part of the request's body, as it comes from the client.
    fn poll_request_part(&self, cx: &mut Context<'_>) -> Poll<Result<Part, Stop>> {
        let Poll::Ready(part) = self.codec.poll_part(cx) else {
            self.is_reading.set(true);
            return Poll::Pending;
        };
        self.touch();
        Poll::Ready(match part {
            Ok(part) => Ok(part),
            Err(BodyError::Io(_) | BodyError::Stream(_) | BodyError::Malformed(Http1Error::Truncated)) => {
                Err(Stop::ClientGone)
            }
            Err(BodyError::Malformed(error)) => Err(self.refuse(error)),
        })
    }

    /// Moves the request's body to the router, for as long as both sides can.
    pub(super) fn poll_send_request(&self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let mut forward = self.forward.borrow_mut();
        let Some(forward) = &mut *forward else { return Poll::Pending };
        loop {
            ready!(forward.poll_ready(cx));
            if forward.has_whole_request() || self.holds_tunnel() {
                let _ = forward.poll_flush(cx);
                return Poll::Pending;
            }
            let chain = self.chain.borrow();
            let unseen =
                chain.request.is_open(&chain.filters) && !forward.keeps_body() && self.again.borrow().is_none();
            drop(chain);
            if unseen {
                match self.poll_request_part(cx)? {
                    Poll::Ready(Part::Data(_)) => {
                        let sent = self.codec.with_data(|data| match forward.poll_data(cx, data) {
                            Poll::Ready(()) => (data.len(), true),
                            Poll::Pending => (0, false),
                        });
                        if !sent {
                            return Poll::Pending;
                        }
                    }
                    Poll::Ready(Part::End) => self.end_request(forward, None),
                    Poll::Ready(Part::Trailers(trailers)) => {
                        self.chain.borrow_mut().request.push_trailers(trailers);
                        self.note_request_end();
                    }
                    Poll::Pending => {
                        let _ = forward.poll_flush(cx);
                        return Poll::Pending;
                    }
                }
                if self.codec.is_request_complete() && !self.request_ended.get() {
                    self.end_request(forward, None);
                }
            } else {
                match self.poll_filtered_request(cx)? {
                    Poll::Ready(Passed::Data { data, end_stream }) => {
                        forward.push(data);
                        if end_stream {
                            self.end_request(forward, None);
                        }
                    }
                    Poll::Ready(Passed::Trailers(trailers)) => self.end_request(forward, Some(trailers)),
                    Poll::Ready(_) => {}
                    Poll::Pending => {
                        let _ = forward.poll_flush(cx);
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn end_request(&self, forward: &mut Forward, trailers: Option<Box<Headers>>) {
        self.note_request_end();
        forward.end(trailers, self.deadlines);
    }

    /// The head of the upstream's response. Says whether nothing follows it; or `None`: the request begins anew.
    fn poll_upstream_head(&self, cx: &mut Context<'_>) -> Poll<Result<Option<bool>, Stop>> {
        loop {
            let event = {
                let mut forward = self.forward.borrow_mut();
                let Some(forward) = &mut *forward else { return Poll::Ready(Ok(Some(true))) };
                ready!(self.with_parts(|parts| forward.poll_head(cx, parts)))?
            };
            self.touch();
            match event {
                Answer::Informational => self.send_informational(),
                Answer::Head { end_stream } => return Poll::Ready(Ok(Some(end_stream))),
                Answer::Redirect { .. } if self.follow(cx) => return Poll::Ready(Ok(None)),
                Answer::Redirect { end_stream } => return Poll::Ready(Ok(Some(self.pass_on(end_stream)))),
            }
        }
    }

    /// The response has come to its end: whether that is new. A tunnel's other direction goes on.
    fn complete(&self, forward: &mut Forward) -> bool {
        match self.is_tunnel() {
            true => !self.response_ended.replace(true),
            false => self.with_parts(|parts| forward.complete(parts)),
        }
    }

    /// Gives the router the parts of the stream that it works with.
    pub(super) fn with_parts<R>(&self, f: impl FnOnce(&mut ForwardCx<'_>) -> R) -> R {
        f(&mut ForwardCx {
            request: &mut self.request.borrow_mut(),
            response: &mut self.response.borrow_mut(),
            info: &mut self.info.borrow_mut(),
            deadlines: self.deadlines,
        })
    }

    /// The head of the response goes through the filters, with as much of the body as they hold it for, and leaves.
    fn poll_send_head(&self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        match ready!(self.poll_filtered_response(cx))? {
            Passed::Head { end_stream } => {
                self.send_head(end_stream);
                Poll::Ready(Ok(()))
            }
            // Nothing else comes before the head.
            _ => Poll::Pending,
        }
    }

    /// What comes out of the response's filters next.
    fn poll_filtered_response(&self, cx: &mut Context<'_>) -> Poll<Result<Passed, Stop>> {
        loop {
            let passed = self.with_response_chain(|chain, env| {
                let head = &mut *self.response.borrow_mut();
                chain.response.poll(cx, &mut chain.filters, head, env)
            });
            match ready!(passed)? {
                Passed::NeedMore => {
                    let reply = self.reply_body.borrow_mut().take();
                    if let Some(body) = reply {
                        self.chain.borrow_mut().response.push_data(body, true);
                        continue;
                    }
                    let mut forward = self.forward.borrow_mut();
                    let Some(forward) = &mut *forward else { return Poll::Pending };
                    let part = ready!(forward.poll_part(cx, &self.info)).map_err(|fault| self.upstream_fault(fault))?;
                    self.touch();
                    let passage = &mut self.chain.borrow_mut().response;
                    match part {
                        Part::Data(_) => {
                            let data = forward.take_data();
                            let ended = forward.is_response_complete();
                            if ended {
                                self.complete(forward);
                            }
                            passage.push_data(data, ended);
                        }
                        Part::Trailers(trailers) => {
                            self.complete(forward);
                            passage.push_trailers(trailers);
                        }
                        Part::End if self.complete(forward) => {
                            passage.push_data(Bytes::new(), true);
                        }
                        // The end was pushed before.
                        Part::End => return Poll::Pending,
                    }
                }
                passed => return Poll::Ready(Ok(passed)),
            }
        }
    }

    /// The body of the response leaves, and with it the response.
    fn poll_send_body(&self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        while self.progress.get() < Progress::Done {
            if let Some((data, end_stream)) = &*self.sending.borrow() {
                ready!(self.codec.poll_data(cx, data)).map_err(|error| self.write_fault(&error))?;
                self.note_sent(data.len());
                if *end_stream {
                    self.end_response(None)?;
                }
            }
            self.sending.take();
            if self.progress.get() == Progress::Done {
                break;
            }
            let chain = self.chain.borrow();
            let unseen = chain.response.is_open(&chain.filters) && self.reply_body.borrow().is_none();
            drop(chain);
            let passed = if unseen { self.poll_move_body(cx) } else { self.poll_filtered_response(cx) };
            match passed? {
                Poll::Ready(Passed::Data { data, end_stream }) => *self.sending.borrow_mut() = Some((data, end_stream)),
                Poll::Ready(Passed::Trailers(trailers)) => self.end_response(Some(trailers))?,
                Poll::Ready(_) => {}
                Poll::Pending => {
                    ready!(self.codec.poll_flush(cx)).map_err(|_| Stop::ClientGone)?;
                    return Poll::Pending;
                }
            }
        }
        self.codec.poll_flush(cx).map_err(|_| Stop::ClientGone)
    }

    /// Moves data of the response from the one socket to the other, as it is.
    fn poll_move_body(&self, cx: &mut Context<'_>) -> Poll<Result<Passed, Stop>> {
        let mut forward = self.forward.borrow_mut();
        let Some(forward) = &mut *forward else {
            return Poll::Ready(Ok(Passed::Data { data: Bytes::new(), end_stream: true }));
        };
        loop {
            match ready!(forward.poll_part(cx, &self.info)).map_err(|fault| self.upstream_fault(fault))? {
                Part::Data(_) => {
                    let written = forward.with_data(|data| match self.codec.poll_data(cx, data) {
                        Poll::Ready(Ok(())) => (data.len(), Poll::Ready(Ok(data.len()))),
                        Poll::Ready(Err(error)) => (0, Poll::Ready(Err(error))),
                        Poll::Pending => (0, Poll::Pending),
                    });
                    let Some(Poll::Ready(written)) = written else { return Poll::Pending };
                    self.note_sent(written.map_err(|error| self.write_fault(&error))?);
                    self.touch();
                    if forward.is_response_complete() {
                        self.complete(forward);
                        return Poll::Ready(Ok(Passed::Data { data: Bytes::new(), end_stream: true }));
                    }
                }
                Part::Trailers(trailers) => {
                    self.complete(forward);
                    self.chain.borrow_mut().response.push_trailers(trailers);
                    return Poll::Ready(Ok(Passed::NeedMore));
                }
                Part::End => {
                    self.complete(forward);
                    return Poll::Ready(Ok(Passed::Data { data: Bytes::new(), end_stream: true }));
                }
            }
        }
    }
}
