//! Copies of requests that go to other clusters too. What comes back is dropped, and so is a copy that cannot keep up.

use super::{
    exchange::{Exchange, Link},
    outgoing::Behind,
    request_mutations::RequestMutations,
};
use crate::{
    context::WorkerContext,
    upstream::{Cluster, LbContext},
    wire::{Part, ResponseEvent, http1::ClientOptions},
};
use bytes::Bytes;
use sota_config::{
    ConfigError, Mark,
    retry::{MirrorCluster, MirrorPolicy as Config},
};
use sota_plugin::{
    FactoryContext,
    http::{HeaderId, HeaderName, Headers, Method, RequestHead, ResponseHead, StatusCode},
    info::StreamInfo,
    matcher::FractionalPercent,
};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

/// A compiled [`sota_config::retry::MirrorPolicy`].
#[derive(Debug)]
pub(super) struct MirrorPolicy {
    cluster: Target,
    fraction: Option<FractionalPercent>,
    keep_host: bool,
    host: Box<[u8]>,
    mutations: RequestMutations,
}

#[derive(Debug)]
enum Target {
    Name(Arc<str>),
    Header(HeaderName),
}

impl MirrorPolicy {
    /// Fails for names, formats and patterns that are wrong.
    pub(super) fn build(config: &Config, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let error = |reason: String| ConfigError::new("request_mirror_policies", Mark::NONE, reason);
        Ok(Self {
            cluster: match &config.cluster {
                MirrorCluster::Name(name) => Target::Name(name.as_str().into()),
                MirrorCluster::Header(name) => Target::Header(
                    HeaderName::parse_any(name.as_bytes())
                        .map_err(|reason| error(format!("header name {name:?}: {reason}")))?,
                ),
            },
            fraction: config.fraction.as_ref().map(|fraction| FractionalPercent::build(fraction, cx.runtime)),
            keep_host: config.keep_host,
            host: config.host.as_bytes().into(),
            mutations: RequestMutations::build(&config.mutations)
                .map_err(|error| error.at("request_mirror_policies.request_headers_mutations", Mark::NONE))?,
        })
    }

    /// The cluster to which this request is copied.
    fn target(&self, context: &WorkerContext, head: &RequestHead) -> Option<Rc<Cluster>> {
        if self.fraction.as_ref().is_some_and(|fraction| !fraction.sample(fastrand::u64(..))) {
            return None;
        }
        match &self.cluster {
            Target::Name(name) => context.clusters.get(name),
            Target::Header(name) => context.clusters.get(std::str::from_utf8(head.get(name)?).ok()?),
        }
    }

    /// The head of the copy, which is from this machine.
    fn copy(&self, head: &RequestHead, info: &StreamInfo, from: IpAddr) -> RequestHead {
        let mut copy = head.clone();
        self.mutations.apply(&mut copy, info);
        if !self.host.is_empty() {
            let _ = copy.set_authority(&self.host);
        } else if !self.keep_host {
            let _ = copy.set_authority(&shadow_host(head.authority()));
        }
        copy.headers.set_sanitized(HeaderId::XEnvoyInternal, "true");
        let _ = copy.headers.append_to(HeaderId::XForwardedFor, ",", from.to_string().as_bytes());
        copy
    }
}

/// `a.example:80` becomes `a.example-shadow:80`.
fn shadow_host(host: &[u8]) -> Vec<u8> {
    let port = host.iter().rposition(|c| *c == b':').filter(|at| !host.get(*at..).unwrap_or_default().contains(&b']'));
    let (name, port) = host.split_at(port.unwrap_or(host.len()));
    [name, b"-shadow", port].concat()
}

/// How copies are sent.
pub(super) struct MirrorOptions {
    /// Which circuit breakers count.
    pub(super) priority: usize,
    /// For the whole of it.
    pub(super) timeout: Option<Duration>,
    /// The most octets of the body that may wait.
    pub(super) limit: usize,
    /// Whom they are from.
    pub(super) from: IpAddr,
}

/// Begins the copies of a request. `end_stream`: it has no body.
pub(super) fn begin(
    policies: &[MirrorPolicy],
    context: &WorkerContext,
    (head, info): (&RequestHead, &StreamInfo),
    end_stream: bool,
    options: &MirrorOptions,
) -> Vec<Mirror> {
    if head.method == Method::Connect {
        return Vec::new();
    }
    let mirrors = policies.iter().filter_map(|policy| {
        let cluster = policy.target(context, head)?;
        let body = Rc::new(Body { has_ended: Cell::new(end_stream), ..Body::default() });
        let (client, local) = (super::forward::client_options(&cluster), &context.local);
        let timer = local.timer();
        timer.set(options.timeout.and_then(|timeout| Instant::now().checked_add(timeout)));
        let copy = Copy { cluster, head: policy.copy(head, info, options.from), body: Rc::clone(&body), client };
        let (priority, limit) = (options.priority, options.limit);
        local.spawn(false, async move {
            tokio::select! {
                biased;
                () = copy.send(priority, limit) => {}
                () = timer.expired() => {
                    copy.cluster.stats().upstream_rq_timeout.inc();
                    copy.cluster.count_response(StatusCode::GATEWAY_TIMEOUT, true, None);
                }
            }
        });
        Some(Mirror { body, limit: options.limit })
    });
    mirrors.collect()
}

/// The body of a copy, as far as it has come and was not sent.
#[derive(Default)]
struct Body {
    chunks: RefCell<VecDeque<Bytes>>,
    size: Cell<usize>,
    trailers: RefCell<Option<Box<Headers>>>,
    has_ended: Cell<bool>,
    /// The rest will not come, or was too much.
    is_abandoned: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Body {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn abandon(&self) {
        self.is_abandoned.set(true);
        self.chunks.take();
        self.wake();
    }
}

/// The end of a copy where the request's body is put in. Dropped before the body is whole, the copy ends.
pub(super) struct Mirror {
    body: Rc<Body>,
    limit: usize,
}

impl Mirror {
    /// Data of the body. Whether the copy goes on: too much may wait already.
    pub(super) fn push(&self, data: Bytes) -> bool {
        let size = self.body.size.get() + data.len();
        if size > self.limit {
            self.body.abandon();
            return false;
        }
        self.body.size.set(size);
        self.body.chunks.borrow_mut().push_back(data);
        self.body.wake();
        true
    }

    /// The request is whole.
    pub(super) fn end(&self, trailers: Option<&Headers>) {
        *self.body.trailers.borrow_mut() = trailers.cloned().map(Box::new);
        self.body.has_ended.set(true);
        self.body.wake();
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if !self.body.has_ended.get() {
            self.body.abandon();
        }
    }
}

struct Copy {
    cluster: Rc<Cluster>,
    head: RequestHead,
    body: Rc<Body>,
    client: ClientOptions,
}

impl Copy {
    async fn send(&self, priority: usize, limit: usize) {
        let cx = LbContext { request: Some(&self.head), ..LbContext::default() };
        let unavailable = || self.cluster.count_response(StatusCode::SERVICE_UNAVAILABLE, true, None);
        let Some(host) = self.cluster.choose_host(&cx) else { return unavailable() };
        let server_name = self.cluster.request_name(&self.head);
        let options = self.cluster.transport_options(None, server_name.as_deref(), None, None);
        let connection = self.cluster.http_connection_with(&host, None, priority, options.as_ref()).await;
        let Ok(connection) = connection else { return unavailable() };
        let end_stream = self.body.has_ended.get() && self.body.chunks.borrow().is_empty();
        let behind = if end_stream { Behind::Nothing } else { Behind::Body };
        let Ok(mut exchange) = Exchange::begin(Link::Http(connection), &self.head, behind, &self.client, limit) else {
            return unavailable();
        };
        let mut response = ResponseHead::new(StatusCode::OK);
        let mut has_ended = end_stream;
        let is_whole = poll_fn(|cx| {
            if self.body.is_abandoned.get() {
                return Poll::Ready(None);
            }
            self.poll_body(cx, &mut exchange, &mut has_ended);
            loop {
                match ready!(exchange.poll_head(cx, &self.client, &mut response)) {
                    Ok(ResponseEvent::Informational) => {}
                    Ok(ResponseEvent::Head { .. }) => return Poll::Ready(Some(true)),
                    Err(_) => return Poll::Ready(Some(false)),
                }
            }
        })
        .await;
        match is_whole {
            Some(true) => self.cluster.count_response(response.status, true, Some(&host)),
            Some(false) => return self.cluster.count_response(StatusCode::SERVICE_UNAVAILABLE, true, Some(&host)),
            None => return,
        }
        let is_whole = poll_fn(|cx| {
            if self.body.is_abandoned.get() {
                return Poll::Ready(false);
            }
            self.poll_body(cx, &mut exchange, &mut has_ended);
            loop {
                match ready!(exchange.poll_part(cx, &self.client)) {
                    Ok(Part::Data(_)) => {
                        exchange.with_data(|data| (data.len(), ()));
                    }
                    Ok(Part::Trailers(_)) => {}
                    Ok(Part::End) => return Poll::Ready(true),
                    Err(_) => return Poll::Ready(false),
                }
            }
        })
        .await;
        if is_whole && has_ended {
            exchange.release();
        }
    }

    /// Sends what has come of the body.
    fn poll_body(&self, cx: &mut Context<'_>, exchange: &mut Exchange, has_ended: &mut bool) {
        self.body.waker.set(Some(cx.waker().clone()));
        loop {
            let next = self.body.chunks.borrow().front().cloned();
            let Some(data) = next else { break };
            match exchange.poll_data(cx, &data) {
                Poll::Ready(Ok(())) => {
                    self.body.size.set(self.body.size.get() - data.len());
                    self.body.chunks.borrow_mut().pop_front();
                }
                // What the host has to say about that is in its response.
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
        }
        if self.body.has_ended.get() && !std::mem::replace(has_ended, true) {
            let _ = exchange.end(self.body.trailers.borrow().as_deref(), &self.client);
        }
        let _ = exchange.poll_flush(cx);
    }
}

#[cfg(test)]
mod tests {
    use super::shadow_host;

    #[test]
    fn hosts_of_copies() {
        for (host, copy) in [
            ("a", "a-shadow"),
            ("a.example:80", "a.example-shadow:80"),
            ("[::1]", "[::1]-shadow"),
            ("[::1]:80", "[::1]-shadow:80"),
        ] {
            assert_eq!(shadow_host(host.as_bytes()), copy.as_bytes(), "{host}");
        }
    }
}
