//! What happened to an attempt, as one sentence that names the host and the setting (`%SOTA_CAUSE%`). Made when an attempt has
//! failed for good, never before.

use super::{Forward, State};
use crate::{cause::Span, deadline::Deadlines, router::failure::ResetReason};
use sota_plugin::info::{ResponseFlag, StreamInfo};
use std::time::Duration;

/// What is worth knowing of the connection of an attempt, after it is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkState {
    /// A request was sent on it before.
    reused: bool,
    /// How long it had been idle before this request.
    rest: Option<Duration>,
    /// Nothing of a response had come.
    unanswered: bool,
}

impl Forward {
    /// The connection of the attempt that runs.
    pub(super) fn link(&self, deadlines: &Deadlines) -> Option<LinkState> {
        let State::Active(attempt) = &self.state else { return None };
        let facts = attempt.facts();
        let rest = facts.last_used.map(|at| deadlines.now().saturating_duration_since(at));
        Some(LinkState { reused: facts.reused, rest, unanswered: attempt.is_unanswered() })
    }

    /// `upstream ADDRESS of cluster NAME`.
    fn host(&self, info: &StreamInfo) -> String {
        let cluster = self.cluster.name();
        match &info.upstream.address {
            Some(address) => format!("upstream {address} of cluster {cluster}"),
            None => format!("cluster {cluster}"),
        }
    }

    /// No host may be chosen.
    pub(super) fn no_host(&self) -> String {
        let (name, health) = (self.cluster.name(), self.cluster.config().health());
        match health.total {
            0 => format!(
                "cluster {name} has no hosts; see its endpoints, its name in DNS or what the control plane sends"
            ),
            total => format!(
                "no host of cluster {name} may take the request: {} of {total} are healthy; see /clusters, its health checks, \
                 subsets and common_lb_config.healthy_panic_threshold",
                health.healthy
            ),
        }
    }

    /// An attempt has failed before its response, and no other follows.
    pub(super) fn no_response(
        &self,
        reason: ResetReason,
        transport: &str,
        link: Option<LinkState>,
        info: &StreamInfo,
    ) -> String {
        let host = self.host(info);
        let cluster = self.cluster.name();
        let fault = self.fault.as_deref().unwrap_or("no reason given");
        let mut cause = match (reason, link) {
            (ResetReason::LocalConnectionFailure, _) => format!(
                "a connection to {host} could not be begun: {transport}; see upstream_bind_config and the limit of open files"
            ),
            (ResetReason::RemoteConnectionFailure, _) if transport.contains("TLS") => {
                format!(
                    "{host} and the proxy do not agree on TLS: {transport}; see the transport_socket of the cluster"
                )
            }
            (ResetReason::RemoteConnectionFailure, _) => {
                format!("{host} cannot be reached: {transport}; see that it runs and listens there")
            }
            (ResetReason::ConnectionTimeout, _) => format!(
                "{host} did not accept a connection within {}; see its load and the network, or raise connect_timeout of the \
                 cluster",
                Span(self.cluster.config().model().connect_timeout)
            ),
            (ResetReason::ConnectionTermination, Some(LinkState { reused: true, rest, unanswered: true })) => {
                let rest = rest.map_or_else(String::new, |rest| format!(" after {}", Span(rest)));
                format!(
                    "{host} closed an idle reused connection{rest}; set idle_timeout of the cluster's \
                     common_http_protocol_options below the keep-alive time of the host"
                )
            }
            (ResetReason::ConnectionTermination, _) => format!(
                "{host} closed the connection without an answer; see its log, and whether the protocol of the cluster is the \
                 one that it speaks"
            ),
            (ResetReason::RemoteReset, _) => format!("{host} reset the request's stream ({fault}); see its log"),
            (ResetReason::RemoteRefusedStreamReset, _) => format!(
                "{host} refused the stream before it looked at it: it is draining or full; retry_on: refused-stream sends it \
                 elsewhere"
            ),
            (ResetReason::Overflow, _) => {
                let limits = self.cluster.config().model().circuit_breakers.get(self.priority());
                let limit = limits.map_or(0, |limits| match fault {
                    "max_requests" => limits.max_requests,
                    _ => limits.max_pending_requests,
                });
                format!(
                    "a circuit breaker of cluster {cluster} is open: {fault} is {limit}; raise it in circuit_breakers.thresholds, \
                     or add hosts"
                )
            }
            (ResetReason::ProtocolError, _) => format!(
                "what {host} answered is no response that can be passed on ({fault}); see whether the protocol of the cluster is \
                 the one that it speaks"
            ),
            (ResetReason::LocalReset, _) => format!("the request to {host} was given up"),
        };
        if info.response_flags.has(ResponseFlag::UpstreamRetryLimitExceeded) {
            cause.push_str(&format!(" (attempt {}; num_retries of the retry_policy is used up)", self.attempts));
        } else if self.attempts > 1 {
            cause.push_str(&format!(" (attempt {})", self.attempts));
        }
        cause
    }

    /// The response had begun and will not be whole.
    pub(super) fn cut_off(&self, reason: ResetReason, info: &StreamInfo) -> String {
        let host = self.host(info);
        match (reason, self.fault.as_deref()) {
            (ResetReason::ConnectionTermination, _) => {
                format!("{host} closed the connection in the middle of its response; see its log")
            }
            (ResetReason::ProtocolError, Some(fault)) => {
                format!("{host} broke the framing in the middle of its response ({fault}); see its log")
            }
            (_, fault) => {
                let fault = fault.unwrap_or("no reason given");
                format!("{host} reset the stream in the middle of its response ({fault}); see its log")
            }
        }
    }

    /// The route's timeout is over.
    pub(super) fn too_late(&self, info: &StreamInfo) -> String {
        let (host, limit) = (self.host(info), Span(self.timeouts.global.unwrap_or_default()));
        match &self.state {
            State::Connecting(_) | State::Choosing => format!(
                "there was no connection to {host} within the timeout of the route ({limit}); see its connect_timeout and \
                 circuit_breakers"
            ),
            State::BackOff => format!(
                "{} attempts at {host} and the pauses between them took longer than the timeout of the route ({limit})",
                self.attempts
            ),
            _ if self.has_responded => format!(
                "the response of {host} was not whole within the timeout of the route ({limit}); raise timeout, or set it to 0 for \
                 streams"
            ),
            _ => format!(
                "{host} did not answer within the timeout of the route ({limit}); see its load, or raise timeout"
            ),
        }
    }

    /// An attempt took too long, or nothing moved on it.
    pub(super) fn try_too_late(&self, is_idle: bool, info: &StreamInfo) -> String {
        let host = self.host(info);
        let attempts = self.attempts;
        match is_idle {
            true => {
                let limit = Span(self.timeouts.per_try_idle.unwrap_or_default());
                format!(
                    "nothing came from {host} for per_try_idle_timeout of the retry_policy ({limit}; attempt {attempts})"
                )
            }
            false => {
                let limit = Span(self.timeouts.per_try.unwrap_or_default());
                format!(
                    "{host} did not answer within per_try_timeout of the retry_policy ({limit}; attempt {attempts}); see its load, or \
                     raise per_try_timeout or num_retries"
                )
            }
        }
    }
}
