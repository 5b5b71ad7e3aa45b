//! A connection to a host that many requests share.

use super::{CallError, Malformed, Order, Protocol, Side, Status};
use crate::{
    LocalFuture,
    cx::WorkerCx,
    stream::{ReadHalf, WriteHalf},
    upstream::{ActiveRequest, Host, Outcome, UpstreamError},
};
use bytes::BytesMut;
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

/// Octets that wait to be written; a request beyond it is refused.
const MOST_UNWRITTEN: usize = 16 << 20;
/// Reads in one go, then the others of the worker have their turn.
const READS: usize = 16;

/// A connection to a host, made when it is begun. Requests that come before it is there wait for it.
pub(super) struct Link<P: Protocol> {
    protocol: Rc<P>,
    host: Host,
    timeout: Duration,
    heartbeat: Option<Duration>,
    state: RefCell<P::State>,
    /// Requests that wait for the handshake.
    held: RefCell<Vec<(u64, Rc<P::Request>)>>,
    unwritten: RefCell<Vec<u8>>,
    pending: RefCell<VecDeque<Pending<P>>>,
    next_id: Cell<u64>,
    /// When something came last, or the first of those that wait was sent; until the handshake is done, when it began.
    heard: Cell<Instant>,
    /// It takes requests.
    is_open: Cell<bool>,
    driver: RefCell<Option<Waker>>,
}

struct Pending<P: Protocol> {
    id: u64,
    sent: Instant,
    /// `None` for heartbeats.
    slot: Option<Rc<Slot<P::Response>>>,
    active: Option<ActiveRequest>,
}

/// Where an answer is put for whoever waits.
pub(super) struct Slot<T> {
    value: RefCell<Option<Result<T, CallError>>>,
    waker: RefCell<Option<Waker>>,
}

impl<T> Slot<T> {
    fn put(&self, value: Result<T, CallError>) {
        *self.value.borrow_mut() = Some(value);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Result<T, CallError>> {
        match self.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<P: Protocol> Link<P> {
    /// Begins a connection. `timeout` is for each answer. It ends when it is closed or the host leaves, then with the
    /// last answer; and when the host does not answer in time.
    pub(super) fn begin(
        protocol: &Rc<P>,
        host: &Host,
        worker: &WorkerCx,
        timeout: Duration,
        heartbeat: Option<Duration>,
    ) -> Rc<Self> {
        let link = Rc::new(Self {
            protocol: Rc::clone(protocol),
            host: host.clone(),
            timeout,
            heartbeat,
            state: RefCell::default(),
            held: RefCell::default(),
            unwritten: RefCell::default(),
            pending: RefCell::default(),
            next_id: Cell::new(0),
            heard: Cell::new(Instant::now()),
            is_open: Cell::new(true),
            driver: RefCell::default(),
        });
        protocol.begin(&mut link.state.borrow_mut(), Side::Client, &mut link.unwritten.borrow_mut());
        let driving = Driving(Rc::clone(&link));
        let worker_cx = worker.clone();
        worker.spawn_background(async move { driving.run(worker_cx).await });
        link
    }

    /// Where it goes to.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Whether it takes requests.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.get()
    }

    /// Takes no more requests, and ends when the last is answered.
    pub(super) fn close(&self) {
        self.is_open.set(false);
        self.wake();
    }

    /// Sends a request; the slot gets its answer. `active` is finished with it.
    pub(super) fn send(
        &self,
        request: &Rc<P::Request>,
        active: Option<ActiveRequest>,
    ) -> Result<Rc<Slot<P::Response>>, CallError> {
        if !self.is_open() {
            return Err(CallError::Closed);
        }
        if self.unwritten.borrow().len() > MOST_UNWRITTEN {
            return Err(CallError::Upstream(UpstreamError::Overflow));
        }
        let slot = Rc::new(Slot { value: RefCell::new(None), waker: RefCell::new(None) });
        self.enqueue(request, Some(Rc::clone(&slot)), active);
        Ok(slot)
    }

    fn enqueue(&self, request: &Rc<P::Request>, slot: Option<Rc<Slot<P::Response>>>, active: Option<ActiveRequest>) {
        let id = self.next_id.get();
        self.next_id.set(id.wrapping_add(1));
        let is_ready = self.is_ready();
        if is_ready {
            self.encode(id, request);
        } else {
            self.held.borrow_mut().push((id, Rc::clone(request)));
        }
        let sent = Instant::now();
        let mut pending = self.pending.borrow_mut();
        if pending.is_empty() && is_ready {
            self.heard.set(sent);
        }
        pending.push_back(Pending { id, sent, slot, active });
        drop(pending);
        self.wake();
    }

    fn encode(&self, id: u64, request: &P::Request) {
        let (state, out) = (&mut *self.state.borrow_mut(), &mut *self.unwritten.borrow_mut());
        self.protocol.encode_request(state, request, id, out);
    }

    fn is_ready(&self) -> bool {
        self.protocol.is_ready(&self.state.borrow())
    }

    /// Takes an answer out of what has come, and writes what the protocol says to it.
    fn decode(&self, buffer: &mut BytesMut) -> Result<Option<P::Response>, CallError> {
        let mut state = self.state.borrow_mut();
        let decoded = self.protocol.decode_response(&mut state, buffer);
        self.protocol.take_output(&mut state, &mut self.unwritten.borrow_mut());
        drop(state);
        if self.is_ready() {
            self.held.take().iter().for_each(|(id, request)| self.encode(*id, request));
        }
        decoded.map_err(CallError::Malformed)
    }

    fn wake(&self) {
        if let Some(waker) = &*self.driver.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Gives an answer to the request that it is for.
    fn deliver(&self, response: P::Response) -> Result<(), CallError> {
        let mut all = self.pending.borrow_mut();
        let pending = if P::ORDER == Order::ById {
            let id = self.protocol.response_id(&response);
            // A stranger is an answer that came too late.
            let Some(at) = all.iter().position(|pending| pending.id == id) else { return Ok(()) };
            all.remove(at)
        } else {
            all.pop_front()
        };
        drop(all);
        self.heard.set(Instant::now());
        let Some(pending) = pending else {
            return Err(CallError::Malformed(Malformed("an answer that nobody asked for".into())));
        };
        let outcome = match self.protocol.status(&response) {
            Status::Ok | Status::Rejected => Outcome::Success,
            Status::Failed => Outcome::Error,
        };
        pending.finish(outcome, Ok(response));
        Ok(())
    }

    fn fail_all(&self, error: &CallError) {
        self.is_open.set(false);
        let all = self.pending.take();
        for (place, pending) in all.into_iter().enumerate() {
            let outcome = match error {
                CallError::Upstream(_) => Outcome::NotConnected,
                // Those behind the first waited for it and not for the host.
                CallError::Timeout if place == 0 => Outcome::Timeout,
                _ => Outcome::TransportFailure,
            };
            pending.finish(outcome, Err(error.clone()));
        }
    }

    /// When the handshake or the first of those that wait has taken long enough; else when the next heartbeat is due.
    fn deadline(&self) -> Option<Instant> {
        if !self.is_ready() {
            return self.heard.get().checked_add(self.timeout);
        }
        let pending = self.pending.borrow();
        match pending.front() {
            Some(front) if P::ORDER == Order::ById => front.sent.checked_add(self.timeout),
            Some(_) => self.heard.get().checked_add(self.timeout),
            None => self.heard.get().checked_add(self.heartbeat?),
        }
    }

    /// What is to be done at the deadline.
    fn on_deadline(&self) -> Result<(), CallError> {
        if !self.is_ready() {
            return Err(CallError::Timeout);
        }
        let front = self.pending.borrow().front().map(|front| front.slot.is_some());
        match front {
            None => {
                self.heard.set(Instant::now());
                if let Some(heartbeat) = self.protocol.heartbeat() {
                    self.enqueue(&Rc::new(heartbeat), None, None);
                }
                Ok(())
            }
            // Its answer has a name: if it still comes, nobody mistakes it for another's.
            Some(true) if P::ORDER == Order::ById => {
                let pending = self.pending.borrow_mut().pop_front();
                if let Some(pending) = pending {
                    pending.finish(Outcome::Timeout, Err(CallError::Timeout));
                }
                Ok(())
            }
            Some(_) => Err(CallError::Timeout),
        }
    }
}

impl<P: Protocol> Pending<P> {
    fn finish(self, outcome: Outcome, result: Result<P::Response, CallError>) {
        if let Some(active) = self.active {
            active.finish(outcome);
        }
        if let Some(slot) = self.slot {
            slot.put(result);
        }
    }
}

/// The task of a link. However it ends, nobody waits in vain.
struct Driving<P: Protocol>(Rc<Link<P>>);

impl<P: Protocol> Drop for Driving<P> {
    fn drop(&mut self) {
        self.0.fail_all(&CallError::Closed);
    }
}

impl<P: Protocol> Driving<P> {
    async fn run(self, worker: WorkerCx) {
        let host = &self.0.host;
        let connection = match host.connect().await {
            Ok(connection) => connection,
            Err(error) => return self.0.fail_all(&CallError::Upstream(error)),
        };
        let (read, write) = connection.into_stream().split();
        self.0.heard.set(Instant::now());
        let mut wire = Wire {
            link: Rc::clone(&self.0),
            read,
            write,
            writing: Vec::new(),
            written: 0,
            draining: host.draining(),
            alarm: None,
            worker,
        };
        if let Err(error) = std::future::poll_fn(|cx| wire.poll(cx)).await {
            self.0.fail_all(&error);
        }
    }
}

/// What the task moves.
struct Wire<P: Protocol> {
    link: Rc<Link<P>>,
    read: ReadHalf,
    write: WriteHalf,
    writing: Vec<u8>,
    written: usize,
    draining: LocalFuture<()>,
    alarm: Option<(LocalFuture<()>, Instant)>,
    worker: WorkerCx,
}

impl<P: Protocol> Wire<P> {
    /// Ready when the connection is done with.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        match &mut *self.link.driver.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        self.poll_read(cx)?;
        while self.poll_deadline(cx)?.is_ready() {}
        self.poll_write(cx)?;
        if self.link.is_open() && self.draining.as_mut().poll(cx).is_ready() {
            self.link.is_open.set(false);
        }
        if self.link.is_open() || !self.link.pending.borrow().is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), CallError> {
        loop {
            if self.written == self.writing.len() {
                self.writing.clear();
                self.written = 0;
                std::mem::swap(&mut *self.link.unwritten.borrow_mut(), &mut self.writing);
                if self.writing.is_empty() {
                    let _ = self.write.poll_flush(cx).map_err(|_| CallError::Closed)?;
                    return Ok(());
                }
            }
            let rest = self.writing.get(self.written..).unwrap_or_default();
            match self.write.poll_write(cx, rest) {
                Poll::Ready(Ok(written)) => self.written += written,
                Poll::Ready(Err(_)) => return Err(CallError::Closed),
                Poll::Pending => return Ok(()),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<(), CallError> {
        for _ in 0..READS {
            while let Some(response) = self.link.decode(self.read.buffer())? {
                self.link.deliver(response)?;
            }
            match self.read.poll_fill(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Err(CallError::Closed),
                Poll::Pending => return Ok(()),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Ready when a deadline has passed and was seen to: look again.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let Some(at) = self.link.deadline() else { return Poll::Pending };
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Poll::Ready(self.link.on_deadline());
        }
        // A sleep that ends earlier only looks again.
        if self.alarm.as_ref().is_none_or(|(_, until)| *until > at) {
            self.alarm = Some((self.worker.sleep(left), at));
        }
        if let Some((sleep, _)) = &mut self.alarm {
            ready!(sleep.as_mut().poll(cx));
            self.alarm = None;
        }
        Poll::Ready(Ok(()))
    }
}
