//! An attempt on its way to a host: the choice, the connection, the head that goes out.

use super::{Forward, ForwardCx, MAX_RESENDS, State};
use crate::{
    deadline::{Deadline, Deadlines},
    router::{
        attempt::{Attempt, Connecting},
        exchange::{BeginError, Link},
        failure::ResetReason,
        timeouts::set_millis,
    },
    upstream::{Host, HostResult, LbContext, PoolFailure, WorkerHost},
    wire::http2::StreamEnd,
};
use sota_config::route::RoutingPriority;
use sota_plugin::{
    filter::LocalReply,
    http::{HeaderId, RequestHead, StatusCode},
    info::{ResponseFlag, StreamInfo, UpstreamAttempt},
};
use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

impl Forward {
    pub(super) fn choose(&mut self, stream: &mut ForwardCx<'_>) -> Result<(), Box<LocalReply>> {
        self.attempts += 1;
        stream.info.upstream.attempts = self.attempts;
        let connection = Rc::clone(&stream.info.connection);
        let mut context = LbContext {
            connection: Some(&connection),
            request: Some(stream.request),
            ..self.choice.context(&self.route, self.attempts == 1)
        };
        let retry = self.retry.as_ref().filter(|_| self.attempts > 1);
        let avoids = |host: &Host| retry.is_some_and(|retry| retry.avoids(host));
        if let Some(retry) = retry {
            context.avoided_priorities = retry.avoided_priorities();
            context.attempts = retry.host_attempts().unwrap_or(0);
            context.avoids = Some(&avoids);
        }
        let chosen = self.cluster.choose_host(&context);
        let Some(host) = chosen else {
            let mut reply =
                LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream", "no_healthy_upstream")
                    .flag(ResponseFlag::NoHealthyUpstream)
                    .cause(self.no_host());
            self.count_status(reply.status, None, stream.info);
            self.finish_reply(&mut reply);
            self.state = State::Done;
            return Err(Box::new(reply));
        };
        if let Some(retry) = &mut self.retry {
            retry.note_host(host.host());
        }
        self.connect(host, stream.info);
        Ok(())
    }

    pub(super) fn connect(&mut self, host: Rc<WorkerHost>, info: &mut StreamInfo) {
        let upstream = &mut info.upstream;
        if self.attempts > 1
            && let Some(address) = upstream.address.take()
        {
            upstream.earlier_attempts.push(UpstreamAttempt {
                address,
                hostname: upstream.hostname.take(),
                connection_id: upstream.connection_id.take(),
            });
        }
        upstream.address = Some(host.host().address().clone());
        upstream.hostname = Some(Arc::clone(host.host().hostname()));
        upstream.host_metadata = host.host().spec().metadata.clone();
        let priority = self.priority();
        self.state = State::Connecting(match self.is_raw {
            true => {
                let header = self.route.forward().and_then(|action| action.tunnel_header());
                Connecting::raw(&self.cluster, host, priority, &info.connection, header)
            }
            false => {
                let wanted = (info.upstream.application_protocols.as_deref(), self.server_name.as_deref());
                let told = Some(&*info.connection).filter(|from| self.router.tells_own_clients || from.is_restored());
                let options = self.cluster.transport_options(wanted.0, wanted.1, info.protocol, told);
                Connecting::new(&self.cluster, host, info.protocol, priority, options, self.is_tunnel)
            }
        });
    }

    pub(super) fn priority(&self) -> usize {
        let high = self.route.forward().is_some_and(|action| action.priority == RoutingPriority::High);
        usize::from(high)
    }

    pub(super) fn connected(
        &mut self,
        host: Rc<WorkerHost>,
        result: Result<Link, PoolFailure>,
        stream: &mut ForwardCx<'_>,
    ) -> Result<(), Box<LocalReply>> {
        match result {
            Ok(connection) => {
                self.cluster.note_result(&host, HostResult::Connected);
                match self.send(&host, connection, stream) {
                    Ok(()) => Ok(()),
                    // It ended between the two.
                    Err(BeginError::TooLate) if self.resends < MAX_RESENDS => {
                        self.resends += 1;
                        self.connect(host, stream.info);
                        Ok(())
                    }
                    Err(error) => {
                        let reason = match error {
                            BeginError::TooLate => ResetReason::ConnectionTermination,
                            BeginError::Ended(end) => StreamEnd::from(end).into(),
                            BeginError::InvalidHead => {
                                self.fault = Some("the request cannot be told in its protocol".into());
                                ResetReason::ProtocolError
                            }
                        };
                        self.failed(reason, "", Some(&host), stream)
                    }
                }
            }
            Err(failure) => {
                let reason = ResetReason::from(failure.kind);
                self.fault = (!failure.limit.is_empty()).then(|| failure.limit.into());
                self.failed(reason, &failure.reason, Some(&host), stream)
            }
        }
    }

    /// Begins the request on a connection.
    pub(super) fn send(
        &mut self,
        host: &Rc<WorkerHost>,
        connection: Link,
        stream: &mut ForwardCx<'_>,
    ) -> Result<(), BeginError> {
        let now = stream.deadlines.now();
        let (head, info) = (&mut *stream.request, &mut *stream.info);
        let tell = !self.router.suppress_envoy_headers;
        self.route.rewrite_host(head, host.host().hostname(), tell);
        if self.attempts > 1 {
            if self.route.include_request_attempt_count() {
                let mut text = itoa::Buffer::new();
                head.headers.set_sanitized(HeaderId::XEnvoyAttemptCount, text.format(self.attempts));
            }
            if self.route.forward().is_some_and(|action| action.include_is_timeout_retry_header) {
                head.headers
                    .set_sanitized(HeaderId::XEnvoyIsTimeoutRetry, if self.was_timeout { "true" } else { "false" });
            }
            self.timeouts.tell(head, self.elapsed(now));
        }
        self.tell_deadline(head, now, stream.deadlines);
        if let Some(tracer) = &self.router.tracer {
            self.span = tracer.inject(&mut head.headers, info);
        }
        let facts = connection.facts();
        info.upstream.local = facts.local_address;
        info.upstream.tls = facts.tls;
        info.upstream.connection_id = Some(facts.id);
        info.upstream.protocol = connection.protocol();
        if !facts.reused {
            info.timing.upstream_connect_start = Some(facts.connect_start);
            info.timing.upstream_connect_complete = Some(facts.connect_complete);
        }
        info.timing.upstream_first_tx = Some(now);
        self.count_route(|route| route.upstream_rq_total.inc());
        let attempt = Attempt::begin(Rc::clone(host), connection, head, &self.body, &self.options, self.limit)?;
        self.state = State::Active(Box::new(attempt));
        if self.request_end.is_some() {
            self.arm_try(now, stream.deadlines);
        }
        Ok(())
    }

    pub(super) fn note_moved(&mut self) {
        if self.timeouts.per_try_idle.is_some() {
            self.last_moved = Some(self.router.context.local.now());
        }
    }

    /// Since the request was whole.
    pub(super) fn elapsed(&self, now: Instant) -> Duration {
        self.request_end.map_or(Duration::ZERO, |end| now.saturating_duration_since(end))
    }

    /// Tells the host how long the request may still take as a whole, where the cluster is to.
    pub(super) fn tell_deadline(&self, head: &mut RequestHead, now: Instant, deadlines: &Deadlines) {
        let Some(name) = self.cluster.deadline_header() else { return };
        let route = match deadlines.at(Deadline::Route) {
            Some(at) => Some(at.saturating_duration_since(now)),
            None => self.timeouts.limit(now),
        };
        let stream = deadlines.at(Deadline::StreamDuration).map(|at| at.saturating_duration_since(now));
        match route.into_iter().chain(stream).min() {
            Some(left) => set_millis(head, name, left.max(Duration::from_millis(1))),
            None => {
                head.headers.remove(name);
            }
        }
    }
}
