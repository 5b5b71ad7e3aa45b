//! One request with its answer.

use super::{Worker, stats::Active};
use crate::{
    LocalFuture,
    access_log::{LogEntry, LogKind},
    hash::xx_hash64,
    info::{ConnectionInfo, ResponseFlag, StreamInfo},
    protocol::{Call, CallError, Protocol, Status},
    upstream::{Cluster, Host, HostChoice, UpstreamError},
};
use std::{rc::Rc, time::Instant};

/// A request that is under way.
pub(super) struct Exchange<P: Protocol> {
    worker: Rc<Worker<P>>,
    request: Rc<P::Request>,
    info: StreamInfo,
    /// Hosts that failed.
    tried: Vec<Host>,
    retries: u32,
    _active: Active,
}

/// An attempt: where it went, and what will come of it.
struct Attempt<T> {
    at: Option<(Cluster, Host)>,
    call: Call<T>,
}

impl<P: Protocol> Exchange<P> {
    /// Sends it; the future is for the answer.
    pub(super) fn begin(
        worker: &Rc<Worker<P>>,
        connection: &Rc<ConnectionInfo>,
        request: P::Request,
    ) -> LocalFuture<P::Response> {
        let id = worker.client.worker().next_stream_id();
        let mut exchange = Self {
            worker: Rc::clone(worker),
            request: Rc::new(request),
            info: StreamInfo::new(Rc::clone(connection), id, None),
            tried: Vec::new(),
            retries: 0,
            _active: worker.stats.begin_request(),
        };
        let first = exchange.attempt();
        Box::pin(exchange.finish(first))
    }

    /// Finds a route and a host, and sends.
    fn attempt(&mut self) -> Attempt<P::Response> {
        match self.choose() {
            Ok((cluster, host)) => {
                cluster.describe(Some(&host), &mut self.info.upstream);
                self.info.upstream.attempts += 1;
                self.info.timing.upstream_first_tx.get_or_insert_with(Instant::now);
                let call = self.worker.client.send(&host, &self.request);
                Attempt { at: Some((cluster, host)), call }
            }
            Err(error) => Attempt { at: None, call: Call::failed(error) },
        }
    }

    fn choose(&mut self) -> Result<(Cluster, Host), CallError> {
        let (model, client) = (&self.worker.model, &self.worker.client);
        let protocol = client.protocol();
        let route = model.route(&**protocol, &self.request).ok_or(CallError::NoRoute)?;
        if self.info.upstream.attempts == 0 {
            self.retries = route.retries;
        }
        let cluster = client.worker().cluster(&route.cluster)?;
        let value = route.hash.as_ref().and_then(|name| protocol.metadata(&self.request, name));
        let choice = HostChoice {
            hash: value.map(|value| xx_hash64(&value, 0)),
            connection: Some(&self.info.connection),
            excluded: &self.tried,
        };
        match cluster.choose(&choice) {
            Ok(host) => Ok((cluster, host)),
            Err(error) => {
                cluster.describe(None, &mut self.info.upstream);
                Err(error.into())
            }
        }
    }

    async fn finish(mut self, first: Attempt<P::Response>) -> P::Response {
        let mut attempt = first;
        let mut permit = None;
        let result = loop {
            let result = attempt.call.await;
            let Some((cluster, host)) = attempt.at.filter(|_| self.may_repeat(&result)) else { break result };
            drop(permit.take());
            permit = cluster.begin_retry();
            if permit.is_none() {
                break result;
            }
            self.retries -= 1;
            self.tried.push(host);
            self.worker.stats.group.rq_retry.inc();
            attempt = self.attempt();
        };
        drop(permit);
        self.note(&result);
        result.unwrap_or_else(|error| self.worker.client.protocol().failure(&self.request, &error))
    }

    /// Whether another host may do better, and nothing is done twice that must not be.
    fn may_repeat(&self, result: &Result<P::Response, CallError>) -> bool {
        let protocol = self.worker.client.protocol();
        let is_idempotent = || protocol.is_idempotent(&self.request);
        self.retries > 0
            && match result {
                Ok(response) => protocol.status(response) == Status::Failed && is_idempotent(),
                Err(CallError::Upstream(UpstreamError::ConnectTimeout | UpstreamError::ConnectFailure(_))) => true,
                Err(CallError::Closed | CallError::Timeout | CallError::Malformed(_)) => is_idempotent(),
                Err(CallError::Upstream(_) | CallError::NoRoute) => false,
            }
    }

    /// Counts it, and writes it down.
    fn note(&mut self, result: &Result<P::Response, CallError>) {
        let stats = &self.worker.stats.group;
        match result {
            Ok(response) => match self.worker.client.protocol().status(response) {
                Status::Ok => &stats.rq_success,
                Status::Rejected => &stats.rq_rejected,
                Status::Failed => &stats.rq_failed,
            }
            .inc(),
            Err(error) => {
                stats.rq_unanswered.inc();
                match error {
                    CallError::NoRoute => stats.rq_no_route.inc(),
                    CallError::Timeout => stats.rq_timeout.inc(),
                    _ => {}
                }
                self.info.response_flags.set(flag(error));
                self.info.response_code_details = Some(error.to_string().into());
            }
        }
        if !self.worker.access_logs.is_empty() {
            self.info.timing.end = Some(Instant::now());
            self.worker.access_logs.log(&LogEntry::new(&self.info, LogKind::DownstreamEnd));
        }
    }
}

/// The flag by which the access log tells it.
fn flag(error: &CallError) -> ResponseFlag {
    match error {
        CallError::Upstream(error) => error.flag(),
        CallError::Timeout => ResponseFlag::UpstreamRequestTimeout,
        CallError::Closed => ResponseFlag::UpstreamConnectionTermination,
        CallError::Malformed(_) => ResponseFlag::UpstreamProtocolError,
        CallError::NoRoute => ResponseFlag::NoRouteFound,
    }
}
