//! One request on its way to a host of its cluster, in as many attempts as that takes.
//!
//! The stream gives the request's body to a [`Forward`] as fast as that takes it, and asks it for the response. An attempt
//! that fails before its response has begun may be followed by another:
//!
//! - as the retry policy says, after a pause and within its limits; the body is kept for that, up to the buffer limit;
//! - without any policy, when a connection that had served other requests was closed before an octet of the answer: such a
//!   host has most likely never seen the request. It goes out once more on another connection if nothing of it had left,
//!   or if its method is idempotent (RFC 9110 §9.2.2) and its body, if any, is still there.
//!
//! With hedging, an attempt that takes longer than its timeout goes on while another begins; the first good response counts.

mod answer;
mod cause;
mod hedge;
mod retry;
mod sending;

use super::{
    SelectedRoute,
    attempt::{Attempt, Connecting},
    choice::RequestChoice,
    mirror::{self, Mirror, MirrorOptions},
    outgoing::{Behind, Outgoing},
    retry_state::RetryState,
    route_stats::{RouteCounters, RouteStats},
    timeouts::{Reading, Timeouts},
};
use crate::{
    access_log::WorkerAccessLogs,
    context::WorkerContext,
    deadline::{Deadline, Deadlines},
    trace::{AttemptSpan, Tracer},
    upstream::{Cluster, HeadSize, HostResult, RetryPermit, Tracked, WorkerHost},
    wire::{ResponseEvent, http1::ClientOptions},
};
use bytes::Bytes;
use sota_codec::http1::DecodeOptions;
use sota_plugin::{
    access_log::{LogEntry, LogKind},
    filter::LocalReply,
    http::{GrpcStatus, HeaderId, Headers, RequestHead, ResponseHead, StatusCode},
    info::{ResponseFlag, StreamInfo},
    stats::Scope,
};
use std::{
    net::IpAddr,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// The router filter of a connection manager, on one worker.
pub struct Router {
    /// Count responses per status.
    pub dynamic_stats: bool,
    /// Believe `x-envoy-expected-rq-timeout-ms` of a proxy before this one.
    pub respect_expected_rq_timeout: bool,
    /// How long a stream of the connection manager may last.
    pub max_stream_duration: Option<Duration>,
    /// Add no `x-envoy-*` field of our own.
    pub suppress_envoy_headers: bool,
    /// Tell hosts that want to know it who a client is, even if only its connection says that.
    pub tells_own_clients: bool,
    /// Logs of each attempt.
    pub upstream_logs: WorkerAccessLogs,
    /// The connection manager's, if it has one.
    pub tracer: Option<Rc<Tracer>>,
    /// This machine's, which copies of requests are from.
    pub machine_address: IpAddr,
    /// The root of the worker's stats.
    pub stats: Scope,
    /// The worker.
    pub context: Rc<WorkerContext>,
}

/// The parts of a stream that the router works with.
pub struct ForwardCx<'a> {
    /// The request, as the filters have left it.
    pub request: &'a mut RequestHead,
    /// Where the response's head goes.
    pub response: &'a mut ResponseHead,
    /// The stream's facts.
    pub info: &'a mut StreamInfo,
    /// The deadlines of its connection.
    pub deadlines: &'a Deadlines,
}

/// What there is of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Another head follows.
    Informational,
    /// Its head. `end_stream`: nothing follows it.
    Head { end_stream: bool },
    /// The head of a redirect that the route may want followed: it is either passed on by [`Forward::pass_on`], or not
    /// by [`Forward::leave`].
    Redirect { end_stream: bool },
}

/// A request that is forwarded.
pub struct Forward {
    router: Rc<Router>,
    cluster: Rc<Cluster>,
    route: Rc<SelectedRoute>,
    /// The number of the one that counts the request.
    virtual_cluster: Option<usize>,
    choice: RequestChoice,
    /// The server's name that the request asks for.
    server_name: Option<Box<str>>,
    options: ClientOptions,
    timeouts: Timeouts,
    retry: Option<RetryState>,
    permit: Option<RetryPermit>,
    body: Outgoing,
    mirrors: Vec<Mirror>,
    state: State,
    /// Attempts that took too long and still may answer, each with the head of its response as far as it has come.
    hedged: Vec<(Box<Attempt>, ResponseHead)>,
    /// Attempts, those on stale connections not counted.
    attempts: u32,
    /// A 100 was given out.
    has_continued: bool,
    /// Times that the request went out again after a stale connection.
    resends: u8,
    request_end: Option<Instant>,
    is_idempotent: bool,
    /// It may become a tunnel.
    is_tunnel: bool,
    /// What it carries goes to the host as it is.
    is_raw: bool,
    is_grpc: bool,
    /// How a gRPC call went will be in its trailers.
    awaits_grpc_status: bool,
    /// The attempt before took too long.
    was_timeout: bool,
    /// When something moved on the attempt last; noted only where there is a limit to that.
    last_moved: Option<Instant>,
    /// What was wrong with the attempt before this moment, in the codec's or the pool's words.
    fault: Option<Box<str>>,
    /// The span of the attempt that runs.
    span: Option<AttemptSpan>,
    /// The size of the head that the attempt has brought, where the cluster tracks that.
    response_size: Option<HeadSize>,
    /// The head of the response was given out.
    has_responded: bool,
    /// The host's side is too slow for the request.
    is_backed_up: bool,
    /// The client is too slow for the response.
    is_paused: bool,
    /// The most octets of a body that are kept.
    limit: usize,
}

enum State {
    /// Before the choice of a host.
    Choosing,
    Connecting(Connecting),
    /// On a connection: until the response is whole.
    Active(Box<Attempt>),
    /// Until [`Deadline::BackOff`].
    BackOff,
    Done,
}

/// A request goes out again after a stale connection so often.
const MAX_RESENDS: u8 = 8;
/// Bodies of idempotent requests without a retry policy are kept up to this size, in case the connection is stale.
const KEPT_FOR_RESEND: usize = 64 * 1024;
/// So many pieces of a response that nobody wants are taken, for the sake of its connection.
const MAX_UNWANTED: usize = 8;

impl Forward {
    /// Takes a request over and changes its head for the upstream; what comes of it stands in `place`. `end_stream`: it
    /// has no body. `limit`: the connection's buffer limit, in octets.
    pub fn begin<'p>(
        place: &'p mut Option<Self>,
        router: &Rc<Router>,
        cluster: Rc<Cluster>,
        route: Rc<SelectedRoute>,
        stream: &mut ForwardCx<'_>,
        (end_stream, tunnel): (bool, bool),
        limit: usize,
    ) -> Option<&'p Self> {
        let action = route.forward()?;
        let head = &mut *stream.request;
        let tell = !router.suppress_envoy_headers;
        let deadline_header = cluster.deadline_header();
        let reading = Reading {
            tells_upstream: tell,
            respects_expected: router.respect_expected_rq_timeout,
            deadline_header,
            max_stream_duration: router.max_stream_duration,
        };
        let timeouts = Timeouts::new(action, head, reading);
        let virtual_cluster = route.virtual_cluster(head).map(|(number, name)| {
            stream.info.virtual_cluster = name;
            number
        });
        if route.include_request_attempt_count() {
            head.headers.set_sanitized(HeaderId::XEnvoyAttemptCount, "1");
        }
        // Formats speak of the first attempt.
        stream.info.upstream.attempts = 1;
        route.finalize_request(head, stream.info, tell);
        let retry = RetryState::new(action.retry_policy.as_ref(), head);
        let is_idempotent = head.method.is_idempotent();
        let is_kept = retry.is_some() || action.internal_redirects.is_some();
        let is_raw = action.ends_tunnel(&head.method);
        let choice = RequestChoice::new(&route, &cluster, head, stream.info);
        let behind = match end_stream {
            _ if tunnel => Behind::Tunnel,
            true => Behind::Nothing,
            false => Behind::Body,
        };
        let forward = place.insert(Self {
            choice,
            server_name: cluster.request_name(head),
            options: client_options(&cluster),
            body: Outgoing::new(behind, is_kept || is_idempotent),
            limit: if is_kept { route.body_buffer_limit().unwrap_or(limit) } else { KEPT_FOR_RESEND.min(limit) },
            router: Rc::clone(router),
            cluster,
            route,
            virtual_cluster,
            timeouts,
            retry,
            permit: None,
            mirrors: Vec::new(),
            state: State::Choosing,
            hedged: Vec::new(),
            attempts: 0,
            has_continued: false,
            resends: 0,
            request_end: None,
            is_idempotent,
            is_tunnel: tunnel,
            is_raw,
            is_grpc: head.is_grpc(),
            awaits_grpc_status: false,
            was_timeout: false,
            last_moved: None,
            fault: None,
            span: None,
            response_size: None,
            has_responded: false,
            is_backed_up: false,
            is_paused: false,
        });
        if let Some(action) = forward.route.forward()
            && !action.mirrors.is_empty()
            && !tunnel
        {
            let options = MirrorOptions {
                priority: forward.priority(),
                timeout: forward.timeouts.global,
                limit,
                from: forward.router.machine_address,
            };
            let (context, request) = (&forward.router.context, (&*stream.request, &*stream.info));
            forward.mirrors = mirror::begin(&action.mirrors, context, request, end_stream, &options);
        }
        if end_stream && !tunnel {
            forward.note_request_end(stream.deadlines);
        }
        Some(forward)
    }

    /// The largest duration that the request asks for.
    pub fn max_stream_duration(&self) -> Option<Duration> {
        self.timeouts.max_stream_duration
    }

    /// Whether the whole request was given.
    pub fn has_whole_request(&self) -> bool {
        self.body.has_ended()
    }

    /// Whether data has to be given as [`Self::push`] takes it: it is kept for another attempt.
    pub fn keeps_body(&self) -> bool {
        self.body.keeps() || !self.mirrors.is_empty()
    }

    /// Ready when the next data may be given.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Active(attempt) = &mut self.state else { return Poll::Pending };
        attempt.poll_send(cx, &mut self.body, &self.options)
    }

    /// Gives data that stays where it is. While it is pending, call again with the same data.
    pub fn poll_data(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<()> {
        let State::Active(attempt) = &mut self.state else { return Poll::Pending };
        self.body.note_passed();
        let sent = attempt.poll_data(cx, data);
        if sent.is_pending() != self.is_backed_up {
            self.is_backed_up = sent.is_pending();
            let stats = self.cluster.stats();
            match self.is_backed_up {
                true => stats.upstream_flow_control_backed_up_total.inc(),
                false => stats.upstream_flow_control_drained_total.inc(),
            }
        }
        sent
    }

    /// Gives data.
    pub fn push(&mut self, data: Bytes) {
        if !self.mirrors.is_empty() && !data.is_empty() {
            let before = self.mirrors.len();
            self.mirrors.retain(|mirror| mirror.push(data.clone()));
            self.cluster.stats().retry_or_shadow_abandoned.add((before - self.mirrors.len()) as u64);
        }
        self.body.push(data);
        if self.body.keeps() && self.body.size() > self.limit {
            if self.retry.take().is_some() || self.route.internal_redirects().is_some() {
                self.cluster.stats().retry_or_shadow_abandoned.inc();
            }
            self.let_body_go();
        }
    }

    /// There will be no other attempt.
    fn let_body_go(&mut self) {
        match &mut self.state {
            State::Active(attempt) => attempt.let_go(&mut self.body),
            _ => self.body.stop_keeping(&mut 0),
        }
    }

    /// The request is whole.
    pub fn end(&mut self, trailers: Option<Box<Headers>>, deadlines: &Deadlines) {
        for mirror in self.mirrors.drain(..) {
            mirror.end(trailers.as_deref());
        }
        self.body.end(trailers);
        self.note_request_end(deadlines);
    }

    fn note_request_end(&mut self, deadlines: &Deadlines) {
        let now = deadlines.now();
        self.request_end = Some(now);
        // One direction of a tunnel may end long before the other.
        if matches!(self.state, State::Done) || self.is_tunnel {
            return;
        }
        deadlines.set_after(Deadline::Route, now, self.timeouts.limit(now));
        if matches!(self.state, State::Active(_)) && !self.has_responded {
            self.arm_try(now, deadlines);
        }
    }

    /// Starts the clocks of an attempt.
    fn arm_try(&mut self, now: Instant, deadlines: &Deadlines) {
        self.last_moved = Some(now);
        deadlines.set_after(Deadline::Try, now, self.timeouts.per_try);
        deadlines.set_after(Deadline::TryIdle, now, self.timeouts.per_try_idle);
    }

    /// Sends what was collected.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Active(attempt) = &mut self.state else { return Poll::Pending };
        attempt.poll_flush(cx)
    }

    /// Ready when the host has all of the request, and that it is all; or takes no more.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Active(attempt) = &mut self.state else { return Poll::Ready(()) };
        if attempt.is_deaf() {
            return Poll::Ready(());
        }
        if !self.body.has_ended() {
            return Poll::Pending;
        }
        ready!(attempt.poll_send(cx, &mut self.body, &self.options));
        attempt.poll_flush(cx)
    }

    /// The head of the response, or an answer in its place.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut ForwardCx<'_>,
    ) -> Poll<Result<Answer, Box<LocalReply>>> {
        loop {
            if !self.hedged.is_empty()
                && let Poll::Ready(event) = self.poll_hedged(cx, stream)
            {
                return Poll::Ready(event);
            }
            if stream.deadlines.any_expired() && matches!(self.state, State::Active(_)) && self.check_try(stream)? {
                continue;
            }
            match &mut self.state {
                State::Choosing => self.choose(stream)?,
                State::Connecting(connecting) => {
                    let result = ready!(connecting.poll(cx));
                    let host = Rc::clone(&connecting.host);
                    self.connected(host, result, stream)?;
                }
                State::Active(attempt) => match ready!(attempt.poll_head(cx, &self.options, stream.response)) {
                    // Once is enough for a client that waits.
                    Ok(ResponseEvent::Informational)
                        if stream.response.status == StatusCode::CONTINUE
                            && std::mem::replace(&mut self.has_continued, true) => {}
                    Ok(ResponseEvent::Informational) => return Poll::Ready(Ok(self.informed(stream))),
                    Ok(ResponseEvent::Head { end_stream }) => {
                        note_answer(&self.cluster, &attempt.host, stream.response);
                        if self.cluster.tracked().is_some_and(Tracked::sizes) {
                            self.response_size = Some(HeadSize::of_response(stream.response));
                        }
                        if !self.retries_after(end_stream, stream) {
                            return Poll::Ready(Ok(self.answered(end_stream, stream)));
                        }
                    }
                    Err(error) => self.broken(&error, stream)?,
                },
                State::BackOff if stream.deadlines.take_expired(Deadline::BackOff) => self.state = State::Choosing,
                State::BackOff | State::Done => return Poll::Pending,
            }
        }
    }

    /// The route's timeout is over.
    pub fn time_out(&mut self, info: &StreamInfo) -> Box<LocalReply> {
        let stats = self.cluster.stats();
        self.count_route(|route| route.upstream_rq_timeout.inc());
        for (attempt, _) in &self.hedged {
            stats.upstream_rq_timeout.inc();
            attempt.host.counters().rq_timeout.inc();
            self.note_timeout(&attempt.host);
            self.count_status(self.timeouts.response_code, Some(&attempt.host), info);
        }
        if let State::Active(attempt) = &self.state {
            stats.upstream_rq_timeout.inc();
            attempt.host.counters().rq_timeout.inc();
            if !self.has_responded {
                self.note_timeout(&attempt.host);
                self.count_status(self.timeouts.response_code, Some(&attempt.host), info);
            }
        } else if let State::Connecting(_) | State::BackOff = &self.state {
            stats.upstream_rq_timeout.inc();
            self.count_status(self.timeouts.response_code, None, info);
        }
        self.timeout_reply("response_timeout", self.too_late(info))
    }

    /// A host did not answer in time.
    fn note_timeout(&self, host: &WorkerHost) {
        self.cluster.note_result(host, HostResult::Timeout(self.timeouts.response_code));
    }

    fn timeout_reply(&self, details: &'static str, cause: String) -> Box<LocalReply> {
        let status = self.timeouts.response_code;
        let body = if status == StatusCode::GATEWAY_TIMEOUT { "upstream request timeout" } else { "" };
        let mut reply = LocalReply::new(status, body, details).flag(ResponseFlag::UpstreamRequestTimeout).cause(cause);
        self.finish_reply(&mut reply);
        Box::new(reply)
    }

    /// Drops the attempt with its connection.
    fn end_attempt(&mut self, stream: &mut ForwardCx<'_>) {
        stream.deadlines.set(Deadline::Try, None);
        stream.deadlines.set(Deadline::TryIdle, None);
        match std::mem::replace(&mut self.state, State::Done) {
            State::Active(attempt) => {
                self.settle_grpc(&attempt.host);
                attempt.note_bytes(stream.info);
                drop(attempt);
                self.log_attempt(stream);
            }
            State::Connecting(_) => self.log_attempt(stream),
            _ => {}
        }
    }

    /// A gRPC call that is over without having said how it went has failed.
    fn settle_grpc(&mut self, host: &WorkerHost) {
        if std::mem::take(&mut self.awaits_grpc_status) {
            host.counters().rq_error.inc();
        }
    }

    fn finish_reply(&self, reply: &mut LocalReply) {
        if self.route.include_attempt_count_in_response() {
            let mut text = itoa::Buffer::new();
            reply.headers.set_sanitized(HeaderId::XEnvoyAttemptCount, text.format(self.attempts));
        }
    }

    fn count_status(&self, status: StatusCode, host: Option<&WorkerHost>, info: &StreamInfo) {
        if self.router.dynamic_stats && !info.is_health_check {
            self.cluster.count_response(status, info.is_internal, host);
            self.each_stats(|stats| stats.responses.count(status));
        }
    }

    fn count_route(&self, count: impl Fn(&RouteCounters)) {
        self.each_stats(|stats| count(&stats.counters));
    }

    fn each_stats(&self, count: impl Fn(&RouteStats)) {
        self.route.count(&self.router.stats, self.virtual_cluster, count);
    }

    fn log_attempt(&mut self, stream: &ForwardCx<'_>) {
        if let Some(tracked) = self.cluster.tracked() {
            let upstream = &stream.info.upstream;
            let begun = stream.info.timing.upstream_first_tx;
            let took = begun.map_or(Duration::ZERO, |begun| stream.deadlines.now().saturating_duration_since(begun));
            tracked.record_try(took, self.timeouts.per_try);
            let bodies = (
                upstream.wire_bytes_sent.saturating_sub(upstream.header_bytes_sent),
                upstream.wire_bytes_received.saturating_sub(upstream.header_bytes_received),
            );
            tracked.record_sizes(HeadSize::of_request(stream.request), self.response_size.take(), bodies);
        }
        if let Some((tracer, span)) = self.router.tracer.as_ref().zip(self.span.take()) {
            let entry = LogEntry {
                request: Some(stream.request),
                response: self.has_responded.then_some(&*stream.response),
                ..LogEntry::new(stream.info, LogKind::UpstreamEnd)
            };
            tracer.finish_attempt(span, &entry, self.route.trace());
        }
        if !self.router.upstream_logs.is_empty() {
            self.router.upstream_logs.log(&LogEntry {
                request: Some(stream.request),
                response: self.has_responded.then_some(&*stream.response),
                ..LogEntry::new(stream.info, LogKind::UpstreamEnd)
            });
        }
    }
}

/// Tells what a host has answered to those who judge it by that: a call that has ended in its head counts by its own status.
fn note_answer(cluster: &Cluster, host: &WorkerHost, head: &ResponseHead) {
    let status = match GrpcStatus::in_fields(&head.headers) {
        Some(status) => StatusCode::from_u16(status.to_http()).unwrap_or(head.status),
        None => head.status,
    };
    cluster.note_result(host, HostResult::Status(status));
    if head.headers.get(HeaderId::XEnvoyImmediateHealthCheckFail).is_some() {
        cluster.fail_health_check(host);
    }
}

/// Counts how a gRPC call went, for the host.
fn count_grpc(host: &WorkerHost, fields: &Headers) {
    let counters = host.counters();
    let is_success = GrpcStatus::in_fields(fields).is_some_and(|status| status.to_http() < 500);
    if is_success { &counters.rq_success } else { &counters.rq_error }.inc();
}

pub(super) fn client_options(cluster: &Cluster) -> ClientOptions {
    let model = cluster.config().model();
    ClientOptions {
        decode: DecodeOptions {
            max_head_bytes: model.http.max_response_headers_kb as usize * 1024,
            max_fields: model.http.max_headers_count as usize,
            allow_chunked_length: model.http1.allow_chunked_length,
            underscores: model.http.headers_with_underscores_action,
            ..DecodeOptions::default()
        },
        names: model.http1.header_key_format,
        trailers: model.http1.enable_trailers,
        absolute_form: model.http1.send_fully_qualified_url,
    }
}
