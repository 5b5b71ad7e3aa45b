//! The timeouts of a request: the route's, and what the request's own `x-envoy-*` fields make of them.

use super::{retry_policy::integer, route::ForwardAction};
use sota_plugin::http::{HeaderId, RequestHead, StatusCode};
use std::time::Duration;

/// How long a forwarded request may take. `None` always means: without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the end of the response, all tries together.
    pub global: Option<Duration>,
    /// For each try; shorter than `global`.
    pub per_try: Option<Duration>,
    /// For the stream, when the request itself says so (`x-envoy-upstream-stream-duration-ms`).
    pub max_stream_duration: Option<Duration>,
    /// What a request that takes too long is answered with: 504, or 204 when it asks for that
    /// (`x-envoy-upstream-rq-timeout-alt-response`).
    pub response_code: StatusCode,
}

impl Timeouts {
    /// Reads the route and the request's fields, takes those away, and tells the upstream how long it has
    /// (`x-envoy-expected-rq-timeout-ms`; not with `suppress_envoy_headers`, when `tell_upstream` is false). Values that
    /// are no numbers count for nothing.
    pub fn new(route: &ForwardAction, head: &mut RequestHead, tell_upstream: bool) -> Self {
        // Compat: a route with a largest stream duration has no timeout but what the request asks for.
        let configured = if route.max_stream_duration.is_some() { None } else { route.timeout };
        let mut global = configured;
        if let Some(asked) = take_millis(head, HeaderId::XEnvoyUpstreamRqTimeoutMs) {
            global = asked;
        }
        let mut per_try = route.retry_policy.as_ref().and_then(|policy| policy.per_try_timeout);
        if let Some(asked) = take_millis(head, HeaderId::XEnvoyUpstreamRqPerTryTimeoutMs) {
            per_try = asked;
        }
        if global.is_some_and(|global| per_try.is_some_and(|per_try| per_try >= global)) {
            per_try = None;
        }
        if tell_upstream && let Some(expected) = per_try.or(global) {
            set_millis(head, expected);
        }
        let max_stream_duration = take_millis(head, HeaderId::XEnvoyUpstreamStreamDurationMs).flatten();
        let alternative = head.headers.remove(HeaderId::XEnvoyUpstreamRqTimeoutAltResponse) > 0;
        let response_code = if alternative { StatusCode::NO_CONTENT } else { StatusCode::GATEWAY_TIMEOUT };
        Self { global, per_try, max_stream_duration, response_code }
    }

    /// Before another try, `elapsed` after the first began to wait: what the upstream has left.
    pub fn tell_retry(&self, head: &mut RequestHead, elapsed: Duration) {
        let left = self.global.map(|global| global.saturating_sub(elapsed).max(Duration::from_millis(1)));
        let expected = match (self.per_try, left) {
            (Some(per_try), Some(left)) => Some(per_try.min(left)),
            (per_try, left) => per_try.or(left),
        };
        if let Some(expected) = expected {
            set_millis(head, expected);
        }
    }
}

/// Takes a field away; what it says in milliseconds, where 0 means without limit (`Some(None)`).
fn take_millis(head: &mut RequestHead, id: HeaderId) -> Option<Option<Duration>> {
    let millis = head.headers.get_str(id).and_then(integer);
    head.headers.remove(id);
    millis.map(|millis| Some(Duration::from_millis(millis)).filter(|time| !time.is_zero()))
}

fn set_millis(head: &mut RequestHead, time: Duration) {
    let mut buffer = itoa::Buffer::new();
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    head.headers.set_sanitized(HeaderId::XEnvoyExpectedRqTimeoutMs, buffer.format(millis));
}
