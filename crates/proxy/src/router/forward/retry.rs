//! What follows an attempt that failed: another one, or an answer.

use super::{Forward, ForwardCx, MAX_RESENDS, State};
use crate::{
    deadline::Deadline,
    router::{
        attempt::Attempt,
        failure::{ResetReason, UpstreamFault},
        retry_state::BackOff,
    },
    upstream::{HostResult, WorkerHost},
    wire::{ClientError, http2::StreamEnd},
};
use sota_config::route::RoutingPriority;
use sota_plugin::{
    filter::LocalReply,
    http::{HeaderId, Protocol},
    info::ResponseFlag,
};
use std::rc::Rc;

impl Forward {
    /// The connection has ended, or what it brings is no response.
    pub(super) fn broken(&mut self, error: &ClientError, stream: &mut ForwardCx<'_>) -> Result<(), Box<LocalReply>> {
        let State::Active(attempt) = &self.state else { return Ok(()) };
        let host = Rc::clone(&attempt.host);
        let reason = match error {
            ClientError::Closed { unanswered, failed } => {
                attempt.closed_by_peer();
                if *unanswered && self.resends(stream) {
                    return Ok(());
                }
                // Compat: half a response is no HTTP.
                if *unanswered || *failed { ResetReason::ConnectionTermination } else { ResetReason::ProtocolError }
            }
            ClientError::Malformed(error) => {
                self.fault = Some(error.to_string().into());
                ResetReason::ProtocolError
            }
            ClientError::Stream(end) => {
                if attempt.is_unanswered() && self.resends(stream) {
                    return Ok(());
                }
                self.fault = Some(end.to_string().into());
                self.note_stream_end(*end)
            }
        };
        if reason == ResetReason::ProtocolError && !matches!(error, ClientError::Stream(_)) {
            self.cluster.stats().upstream_cx_protocol_error.inc();
        }
        self.failed(reason, "", Some(&host), stream)
    }

    /// Whether a request that the host has most likely never seen goes out once more, on another connection.
    fn resends(&mut self, stream: &mut ForwardCx<'_>) -> bool {
        let State::Active(attempt) = &self.state else { return false };
        // An HTTP/2 host that closes a connection says which requests it leaves behind.
        let is_stale = attempt.facts().reused && attempt.facts().protocol == Protocol::Http11;
        let is_safe = attempt.was_left_behind() || (is_stale && (self.is_idempotent || attempt.is_unsent()));
        if !is_safe || attempt.is_hedged || self.resends >= MAX_RESENDS || !self.body.can_rewind() {
            return false;
        }
        let host = Rc::clone(&attempt.host);
        self.resends += 1;
        self.end_attempt(stream);
        self.connect(host, stream.info);
        true
    }

    /// Counts a stream that is over before its time.
    pub(super) fn note_stream_end(&self, end: StreamEnd) -> ResetReason {
        let (reason, stats) = (ResetReason::from(end), self.cluster.stats());
        match reason {
            ResetReason::RemoteReset | ResetReason::RemoteRefusedStreamReset => stats.upstream_rq_rx_reset.inc(),
            ResetReason::ConnectionTermination => stats.upstream_rq_pending_failure_eject.inc(),
            _ => stats.upstream_rq_tx_reset.inc(),
        }
        reason
    }

    /// Counts an attempt that we end before its time.
    pub(super) fn note_given_up(&self, attempt: &Attempt) {
        if attempt.leaves_a_stream() {
            self.cluster.stats().upstream_rq_tx_reset.inc();
        }
    }

    /// Counts an attempt that takes too long, or on which nothing moves.
    pub(super) fn count_try_timeout(&self, is_idle: bool) {
        let stats = self.cluster.stats();
        if is_idle { &stats.upstream_rq_per_try_idle_timeout } else { &stats.upstream_rq_per_try_timeout }.inc();
        if let State::Active(attempt) = &self.state {
            attempt.host.counters().rq_timeout.inc();
        }
    }

    pub(super) fn try_timed_out(&mut self, is_idle: bool, stream: &mut ForwardCx<'_>) -> Result<(), Box<LocalReply>> {
        self.count_try_timeout(is_idle);
        let State::Active(attempt) = &self.state else { return Ok(()) };
        let host = Rc::clone(&attempt.host);
        self.note_given_up(attempt);
        self.note_timeout(&host);
        let is_started = !attempt.is_unsent();
        self.end_attempt(stream);
        if self.retries(ResetReason::LocalReset, is_started, Some(&host), stream) {
            self.was_timeout = true;
            return Ok(());
        }
        self.state = State::Done;
        let status = self.timeouts.response_code;
        self.count_status(status, Some(&host), stream.info);
        let cause = self.try_too_late(is_idle, stream.info);
        let details = if is_idle { "upstream_per_try_idle_timeout" } else { "upstream_per_try_timeout" };
        Err(self.timeout_reply(details, cause))
    }

    /// An attempt has brought no response: another one, or an answer.
    pub(super) fn failed(
        &mut self,
        reason: ResetReason,
        transport: &str,
        host: Option<&Rc<WorkerHost>>,
        stream: &mut ForwardCx<'_>,
    ) -> Result<(), Box<LocalReply>> {
        let is_started = matches!(&self.state, State::Active(attempt) if !attempt.is_unsent());
        let is_hedged = matches!(&self.state, State::Active(attempt) if attempt.is_hedged);
        let link = self.link(stream.deadlines);
        if let Some(host) = host.filter(|_| reason != ResetReason::Overflow) {
            self.cluster.note_result(host, HostResult::ConnectFailed);
        }
        self.end_attempt(stream);
        if !is_hedged && self.retries(reason, is_started, host, stream) {
            self.was_timeout = false;
            return Ok(());
        }
        self.count_status(reason.status(), host.map(|host| &**host), stream.info);
        if self.falls_back(stream) {
            return Ok(());
        }
        self.state = State::Done;
        stream.deadlines.set(Deadline::Route, None);
        let cause = self.no_response(reason, transport, link, stream.info).into();
        let (is_retry, transport) = (self.attempts > 1, transport.to_owned());
        let fault = UpstreamFault { reason, transport, is_retry, is_late: false, cause };
        let mut reply = fault.into_reply(stream.info);
        if reason == ResetReason::Overflow {
            // No host was asked.
            let upstream = &mut stream.info.upstream;
            (upstream.address, upstream.hostname, upstream.host_metadata) = (None, None, None);
            if !self.router.suppress_envoy_headers {
                reply.headers.set_sanitized(HeaderId::XEnvoyOverloaded, "true");
            }
        }
        self.finish_reply(&mut reply);
        Err(reply)
    }

    /// Whether another attempt follows one that brought no response.
    fn retries(
        &mut self,
        reason: ResetReason,
        is_started: bool,
        host: Option<&Rc<WorkerHost>>,
        stream: &mut ForwardCx<'_>,
    ) -> bool {
        let wants = self.retry.as_ref().is_some_and(|retry| retry.wants_retry_after_reset(reason.into(), is_started));
        let Some(next) = wants.then(|| self.take_retry(stream)).flatten() else { return false };
        if let Some(host) = host {
            host.counters().rq_error.inc();
        }
        self.state = next;
        true
    }

    /// Whether another attempt follows a response. That response is dropped then.
    pub(super) fn retries_after(&mut self, end_stream: bool, stream: &mut ForwardCx<'_>) -> bool {
        let Some(retry) = &mut self.retry else { return false };
        if !retry.wants_retry_after(stream.response) {
            if self.attempts > 1 {
                self.cluster.stats().upstream_rq_retry_success.inc();
                self.count_route(|route| route.upstream_rq_retry_success.inc());
            }
            return false;
        }
        let mut next = None;
        if matches!(&self.state, State::Active(attempt) if !attempt.is_hedged) {
            retry.note_response(stream.response);
            next = self.take_retry(stream);
        }
        if next.is_none() && self.hedged.is_empty() {
            return false;
        }
        let is_last = next.is_none();
        if let State::Active(attempt) = std::mem::replace(&mut self.state, next.unwrap_or(State::Done)) {
            self.was_timeout = false;
            attempt.host.counters().rq_error.inc();
            if !is_last && self.router.dynamic_stats {
                self.cluster.count_retried(stream.response.status);
            }
            attempt.note_bytes(stream.info);
            if end_stream {
                attempt.release();
            } else {
                self.note_given_up(&attempt);
            }
            self.log_attempt(stream);
        }
        if is_last {
            self.falls_back(stream);
        }
        true
    }

    /// Uses one retry, if the policy and the circuit breaker have one left. The state in which it begins: a pause comes
    /// first.
    pub(super) fn take_retry(&mut self, stream: &mut ForwardCx<'_>) -> Option<State> {
        if !self.body.can_rewind() {
            return None;
        }
        let retry = self.retry.as_mut()?;
        let stats = self.cluster.stats();
        if !retry.take_retry() {
            stats.upstream_rq_retry_limit_exceeded.inc();
            self.count_route(|route| route.upstream_rq_retry_limit_exceeded.inc());
            stream.info.response_flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
            return None;
        }
        self.permit = None;
        let high = self.route.forward().is_some_and(|action| action.priority == RoutingPriority::High);
        self.permit = self.cluster.try_retry(usize::from(high));
        if self.permit.is_none() {
            self.count_route(|route| route.upstream_rq_retry_overflow.inc());
            stream.info.response_flags.set(ResponseFlag::UpstreamOverflow);
            return None;
        }
        stats.upstream_rq_retry.inc();
        let pause = match retry.next_back_off(fastrand::u64(..)) {
            BackOff::Exponential(pause) => {
                stats.upstream_rq_retry_backoff_exponential.inc();
                self.count_route(|route| route.upstream_rq_retry_backoff_exponential.inc());
                pause
            }
            BackOff::RateLimited(pause) => {
                stats.upstream_rq_retry_backoff_ratelimited.inc();
                self.count_route(|route| route.upstream_rq_retry_backoff_ratelimited.inc());
                pause
            }
        };
        self.count_route(|route| route.upstream_rq_retry.inc());
        stream.deadlines.set(Deadline::Try, None);
        stream.deadlines.set(Deadline::TryIdle, None);
        if pause.is_zero() {
            return Some(State::Choosing);
        }
        stream.deadlines.set_after(Deadline::BackOff, stream.deadlines.now(), Some(pause));
        Some(State::BackOff)
    }
}
