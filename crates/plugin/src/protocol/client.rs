//! Sending requests to hosts.

use super::{
    Malformed, Order, Protocol, Status,
    link::{Link, Slot},
};
use crate::{
    LocalFuture,
    cx::WorkerCx,
    upstream::{Host, Outcome, UpstreamError},
};
use std::{
    cell::RefCell,
    collections::HashMap,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No cluster, no host, no connection.
    #[error("{0}")]
    Upstream(#[from] UpstreamError),
    /// The host did not answer in time.
    #[error("the host did not answer in time")]
    Timeout,
    /// The connection was closed before the answer came.
    #[error("the connection was closed before the answer")]
    Closed,
    /// The host does not speak the protocol.
    #[error("the host does not speak the protocol: {0}")]
    Malformed(Malformed),
    /// No route fits the request.
    #[error("no route fits the request")]
    NoRoute,
}

/// How a client behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// For an answer, and for a handshake. With [`Order::InOrder`] it begins anew with each answer, as the next is only begun then.
    pub timeout: Duration,
    /// A connection that was silent for this long is asked whether it is there; `None`: never.
    pub heartbeat: Option<Duration>,
    /// Whether the circuit breaker's `max_requests` holds.
    pub limited: bool,
}

/// Sends requests to hosts; one for a worker.
pub struct Client<P: Protocol> {
    protocol: Rc<P>,
    worker: WorkerCx,
    options: Options,
    /// By host.
    links: RefCell<HashMap<usize, Rc<Link<P>>>>,
}

impl<P: Protocol> Client<P> {
    /// A client without a connection.
    pub fn new(protocol: &Rc<P>, worker: &WorkerCx, options: Options) -> Rc<Self> {
        Rc::new(Self { protocol: Rc::clone(protocol), worker: worker.clone(), options, links: RefCell::default() })
    }

    /// The protocol.
    pub fn protocol(&self) -> &Rc<P> {
        &self.protocol
    }

    /// The worker.
    pub fn worker(&self) -> &WorkerCx {
        &self.worker
    }

    /// Sends a request. With a shared connection it is on its way when this returns, whether or not anybody waits for
    /// the answer.
    pub fn send(&self, host: &Host, request: &Rc<P::Request>) -> Call<P::Response> {
        if P::ORDER == Order::OneByOne {
            return Call(State::Waits(Box::pin(one_by_one::<P>(
                Rc::clone(&self.protocol),
                self.worker.clone(),
                self.options,
                host.clone(),
                Rc::clone(request),
            ))));
        }
        self.send_on(&self.link(host), request)
    }

    /// Sends a request on a connection of one's own.
    pub fn send_alone(&self, dedicated: &Dedicated<P>, request: &Rc<P::Request>) -> Call<P::Response> {
        self.send_on(&dedicated.0, request)
    }

    fn send_on(&self, link: &Link<P>, request: &Rc<P::Request>) -> Call<P::Response> {
        let host = link.host();
        let active = if self.options.limited { host.begin_request() } else { host.count_request() };
        let sent = active.map_err(CallError::from).and_then(|active| link.send(request, Some(active)));
        Call(match sent {
            Ok(slot) => State::Sent(slot),
            Err(error) => State::Failed(error),
        })
    }

    /// A connection that only its holder sends on, such as for a transaction.
    pub fn dedicated(&self, host: &Host) -> Dedicated<P> {
        let link = Link::begin(&self.protocol, host, &self.worker, self.options.timeout, None);
        Dedicated(link)
    }

    fn link(&self, host: &Host) -> Rc<Link<P>> {
        let mut links = self.links.borrow_mut();
        if let Some(link) = links.get(&host.id())
            && link.is_open()
        {
            return Rc::clone(link);
        }
        // Rare enough to look after those of hosts that are gone.
        links.retain(|_, link| link.is_open());
        let link = Link::begin(&self.protocol, host, &self.worker, self.options.timeout, self.options.heartbeat);
        links.insert(host.id(), Rc::clone(&link));
        link
    }
}

impl<P: Protocol> Drop for Client<P> {
    fn drop(&mut self) {
        self.links.borrow().values().for_each(|link| link.close());
    }
}

/// A connection that only its holder sends on. Dropped, it ends with its last answer.
pub struct Dedicated<P: Protocol>(Rc<Link<P>>);

impl<P: Protocol> Drop for Dedicated<P> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A request that is under way: a future of its answer.
#[must_use]
pub struct Call<T>(State<T>);

enum State<T> {
    Sent(Rc<Slot<T>>),
    Waits(LocalFuture<Result<T, CallError>>),
    Failed(CallError),
}

impl<T> Call<T> {
    /// One that failed before it began.
    pub fn failed(error: CallError) -> Self {
        Self(State::Failed(error))
    }
}

impl<T> Future for Call<T> {
    type Output = Result<T, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            State::Sent(slot) => slot.poll(cx),
            State::Waits(future) => future.as_mut().poll(cx),
            State::Failed(error) => Poll::Ready(Err(error.clone())),
        }
    }
}

/// A request that has a connection for itself.
async fn one_by_one<P: Protocol>(
    protocol: Rc<P>,
    worker: WorkerCx,
    options: Options,
    host: Host,
    request: Rc<P::Request>,
) -> Result<P::Response, CallError> {
    let active = if options.limited { host.begin_request() } else { host.count_request() }?;
    let mut connection = match host.pooled(P::NAME).await {
        Ok(connection) => connection,
        Err(error) => {
            active.finish(Outcome::NotConnected);
            return Err(error.into());
        }
    };
    let exchange = async {
        let (mut state, mut out) = (P::State::default(), Vec::new());
        protocol.encode_request(&mut state, &request, 0, &mut out);
        connection.write_all(&out).await.map_err(|_| CallError::Closed)?;
        loop {
            let decoded = protocol.decode_response(&mut state, connection.buffer()).map_err(CallError::Malformed)?;
            if let Some(response) = decoded {
                return Ok(response);
            }
            if !matches!(connection.fill().await, Ok(1..)) {
                return Err(CallError::Closed);
            }
        }
    };
    let result = worker.timeout(options.timeout, exchange).await.unwrap_or(Err(CallError::Timeout));
    match &result {
        Ok(response) => {
            connection.give_back();
            active.finish(if protocol.status(response) == Status::Failed { Outcome::Error } else { Outcome::Success });
        }
        Err(CallError::Timeout) => active.finish(Outcome::Timeout),
        Err(_) => active.finish(Outcome::TransportFailure),
    }
    result
}
