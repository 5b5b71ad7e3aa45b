//! The timeouts of a request: the route's, and what the request's own fields make of them.

use super::{retry_state::integer, route::ForwardAction};
use sota_plugin::http::{HeaderId, HeaderName, RequestHead, StatusCode};
use std::time::{Duration, Instant};

/// How long a forwarded request may take. `None` always means: without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the end of the response, all tries together.
    pub global: Option<Duration>,
    /// For each try; shorter than `global`.
    pub per_try: Option<Duration>,
    /// Without anything from the upstream on a try.
    pub per_try_idle: Option<Duration>,
    /// When a try takes longer than `per_try`, another one begins beside it.
    pub hedges: bool,
    /// For the stream, when the request itself says so (`x-envoy-upstream-stream-duration-ms`).
    pub max_stream_duration: Option<Duration>,
    /// What a request that takes too long is answered with: 504, or 204 when it asks for that
    /// (`x-envoy-upstream-rq-timeout-alt-response`).
    pub response_code: StatusCode,
    /// When all must be over, as a proxy before this one has said.
    deadline: Option<Instant>,
    tells_upstream: bool,
    tells_grpc: bool,
}

/// How the request's fields are read.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Tell the upstream how long it has (`x-envoy-expected-rq-timeout-ms`; not with `suppress_envoy_headers`).
    pub tells_upstream: bool,
    /// Believe a proxy before this one that has told us (`respect_expected_rq_timeout`).
    pub respects_expected: bool,
    /// The field in which proxies tell each other how long a request may still take as a whole.
    pub deadline_header: Option<&'a HeaderName>,
    /// Of the connection manager.
    pub max_stream_duration: Option<Duration>,
}

/// How long a stream may last in all: as the request's own `grpc-timeout` says within the route's limits, or else as the
/// route says, or else as the connection manager (`default`).
pub fn stream_duration(route: &ForwardAction, head: &RequestHead, default: Option<Duration>) -> Option<Duration> {
    let by_grpc = route.grpc_timeout.header_max.and_then(|max| Some((max, head.grpc_timeout()?)));
    let Some((max, asked)) = by_grpc else { return route.max_stream_duration.unwrap_or(default) };
    let most = if max.is_zero() { asked } else { asked.min(max) };
    Some(most.saturating_sub(route.grpc_timeout.header_offset.unwrap_or_default()))
}

impl Timeouts {
    /// Reads the route and the request's fields, takes those away that are for us, and tells the upstream how long it
    /// has. Values that are no numbers count for nothing.
    pub fn new(route: &ForwardAction, head: &mut RequestHead, reading: Reading<'_>) -> Self {
        let by_stream = route.grpc_timeout.is_by_stream;
        let grpc_max = route.grpc_timeout.max.filter(|_| !by_stream && head.is_grpc());
        let mut global = match grpc_max {
            // Compat: a route with a largest stream duration has no timeout but what the request asks for.
            _ if by_stream => None,
            Some(max) => grpc_timeout(head, max, route.grpc_timeout.offset),
            None => route.timeout,
        };
        let expected = millis_of(head, HeaderId::XEnvoyExpectedRqTimeoutMs).filter(|_| reading.respects_expected);
        if let Some(expected) = expected {
            global = expected;
        } else if let Some(asked) = take_millis(head, HeaderId::XEnvoyUpstreamRqTimeoutMs) {
            global = asked;
        }
        let deadline = reading.deadline_header.and_then(|name| {
            let millis = head.headers.get_str(name).and_then(integer)?;
            Instant::now().checked_add(Duration::from_millis(millis.max(1)))
        });
        let policy = route.retry_policy.as_ref();
        let mut per_try = policy.and_then(|policy| policy.per_try_timeout);
        if let Some(asked) = take_millis(head, HeaderId::XEnvoyUpstreamRqPerTryTimeoutMs) {
            per_try = asked;
        }
        if global.is_some_and(|global| per_try.is_some_and(|per_try| per_try >= global)) {
            per_try = None;
        }
        let hedges = match head.headers.get(HeaderId::XEnvoyHedgeOnPerTryTimeout) {
            Some(b"true") => true,
            Some(b"false") => false,
            _ => route.hedge_on_per_try_timeout,
        };
        let max_stream_duration = take_millis(head, HeaderId::XEnvoyUpstreamStreamDurationMs).flatten();
        let alternative = head.headers.remove(HeaderId::XEnvoyUpstreamRqTimeoutAltResponse) > 0;
        let timeouts = Self {
            global,
            per_try,
            per_try_idle: policy.and_then(|policy| policy.per_try_idle_timeout),
            hedges,
            max_stream_duration,
            response_code: if alternative { StatusCode::NO_CONTENT } else { StatusCode::GATEWAY_TIMEOUT },
            deadline,
            // What a proxy before us has said goes on as it is.
            tells_upstream: reading.tells_upstream,
            tells_grpc: grpc_max.is_some(),
        };
        timeouts.tell(head, Duration::ZERO);
        if by_stream
            && head.is_grpc()
            && let Some(longest) = stream_duration(route, head, reading.max_stream_duration)
        {
            head.set_grpc_timeout(longest);
        }
        timeouts
    }

    /// Before a try, `elapsed` after the request was whole: what the upstream has left.
    pub fn tell(&self, head: &mut RequestHead, elapsed: Duration) {
        let left = self.global.map(|global| global.saturating_sub(elapsed).max(Duration::from_millis(1)));
        let per_try = self.per_try.filter(|_| !self.hedges);
        let Some(expected) = per_try.into_iter().chain(left).min() else { return };
        if self.tells_upstream {
            set_millis(head, HeaderId::XEnvoyExpectedRqTimeoutMs, expected);
        }
        if self.tells_grpc {
            head.set_grpc_timeout(expected);
        }
    }

    /// How long the request may still take once it is whole: as the route says, and as a proxy before us has said.
    pub fn limit(&self, now: Instant) -> Option<Duration> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(now).max(Duration::from_millis(1)));
        self.global.into_iter().chain(left).min()
    }
}

/// What a gRPC request asks for, at most `max`; zero is without limit in both.
fn grpc_timeout(head: &RequestHead, max: Duration, offset: Option<Duration>) -> Option<Duration> {
    let mut asked = head.grpc_timeout().unwrap_or_default();
    if let Some(offset) = offset.filter(|offset| *offset < asked) {
        asked -= offset;
    }
    if !max.is_zero() && (asked.is_zero() || asked > max) {
        asked = max;
    }
    Some(asked).filter(|timeout| !timeout.is_zero())
}

/// What a field says in milliseconds, where 0 means without limit (`Some(None)`).
fn millis_of(head: &RequestHead, id: HeaderId) -> Option<Option<Duration>> {
    let millis = head.headers.get_str(id).and_then(integer);
    millis.map(|millis| Some(Duration::from_millis(millis)).filter(|time| !time.is_zero()))
}

fn take_millis(head: &mut RequestHead, id: HeaderId) -> Option<Option<Duration>> {
    let millis = millis_of(head, id);
    head.headers.remove(id);
    millis
}

pub(super) fn set_millis(head: &mut RequestHead, name: impl sota_plugin::http::AsHeaderName, time: Duration) {
    let mut buffer = itoa::Buffer::new();
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    head.headers.set_sanitized(name, buffer.format(millis));
}
