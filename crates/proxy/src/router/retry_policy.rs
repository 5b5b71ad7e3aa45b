//! When a request is tried again, and after how long.

use smallvec::SmallVec;
use sota_config::route::RetryPolicy as Config;
use sota_plugin::http::{AsHeaderName, HeaderId, HeaderName, RequestHead, ResponseHead, StatusCode};
use std::{sync::Arc, time::Duration};

/// A compiled retry policy of a route or a virtual host.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    conditions: Conditions,
    num_retries: u32,
    /// For each try.
    pub per_try_timeout: Option<Duration>,
    status_codes: Box<[u16]>,
    base_interval: Duration,
    max_interval: Duration,
}

/// The first back-off where nothing else is configured, and the longest of a request without a policy.
const BASE_INTERVAL: Duration = Duration::from_millis(25);
const MAX_INTERVAL: Duration = Duration::from_millis(250);
const SHORTEST: Duration = Duration::from_millis(1);

impl RetryPolicy {
    /// Conditions that do not exist are left out, as in Envoy.
    pub fn build(config: &Config) -> Self {
        let base_interval = config.base_interval.max(SHORTEST);
        Self {
            conditions: config.retry_on.iter().flat_map(|list| list.split(',')).map(Conditions::named).collect(),
            num_retries: config.num_retries,
            per_try_timeout: config.per_try_timeout.filter(|timeout| !timeout.is_zero()),
            status_codes: config.retriable_status_codes.as_slice().into(),
            base_interval,
            max_interval: config.max_interval.max(base_interval),
        }
    }
}

/// Conditions of `retry_on` and `x-envoy-retry-on`, and those about gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Conditions(u32);

macro_rules! conditions {
    ($($name:ident = $bit:literal $text:literal,)*) => {
        impl Conditions {
            $(const $name: Self = Self(1 << $bit);)*

            fn named(name: &str) -> Self {
                match name.trim() {
                    $($text => Self::$name,)*
                    _ => Self::default(),
                }
            }
        }
    };
}

conditions! {
    SERVER_ERROR = 0 "5xx",
    GATEWAY_ERROR = 1 "gateway-error",
    RESET = 2 "reset",
    RESET_BEFORE_REQUEST = 3 "reset-before-request",
    CONNECT_FAILURE = 4 "connect-failure",
    RETRIABLE_4XX = 5 "retriable-4xx",
    REFUSED_STREAM = 6 "refused-stream",
    RETRIABLE_STATUS_CODES = 7 "retriable-status-codes",
    RETRIABLE_HEADERS = 8 "retriable-headers",
    ENVOY_RATELIMITED = 9 "envoy-ratelimited",
    GRPC_CANCELLED = 10 "cancelled",
    GRPC_DEADLINE_EXCEEDED = 11 "deadline-exceeded",
    GRPC_INTERNAL = 12 "internal",
    GRPC_RESOURCE_EXHAUSTED = 13 "resource-exhausted",
    GRPC_UNAVAILABLE = 14 "unavailable",
}

impl Conditions {
    /// Those about gRPC, which `x-envoy-retry-grpc-on` may name; the others belong to `x-envoy-retry-on`.
    const GRPC: Self = Self(0b111_1100_0000_0000);

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn of_grpc_status(status: u32) -> Self {
        match status {
            1 => Self::GRPC_CANCELLED,
            4 => Self::GRPC_DEADLINE_EXCEEDED,
            8 => Self::GRPC_RESOURCE_EXHAUSTED,
            13 => Self::GRPC_INTERNAL,
            14 => Self::GRPC_UNAVAILABLE,
            _ => Self::default(),
        }
    }
}

impl FromIterator<Self> for Conditions {
    fn from_iter<I: IntoIterator<Item = Self>>(all: I) -> Self {
        Self(all.into_iter().fold(0, |set, one| set | one.0))
    }
}

/// How a try ended without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// No connection could be made, or not in time.
    ConnectFailure,
    /// A circuit breaker is open: never tried again.
    Overflow,
    /// The upstream refused the stream (HTTP/2 `REFUSED_STREAM`).
    RefusedStream,
    /// Anything else: the connection or the stream ended, the protocol was broken, the try took too long.
    Other,
}

/// Whether and when a request is tried again.
#[derive(Debug)]
pub struct RetryState {
    conditions: Conditions,
    remaining: u32,
    policy: Option<Arc<RetryPolicy>>,
    /// `x-envoy-retriable-status-codes`
    status_codes: SmallVec<[u16; 4]>,
    /// `x-envoy-retriable-header-names`
    header_names: SmallVec<[HeaderName; 1]>,
    next_interval: Duration,
}

/// Request fields that are for this proxy and go no further.
const CONSUMED: [HeaderId; 7] = [
    HeaderId::XEnvoyRetryOn,
    HeaderId::XEnvoyRetryGrpcOn,
    HeaderId::XEnvoyMaxRetries,
    HeaderId::XEnvoyHedgeOnPerTryTimeout,
    HeaderId::XEnvoyRetriableHeaderNames,
    HeaderId::XEnvoyRetriableStatusCodes,
    HeaderId::XEnvoyUpstreamRqPerTryTimeoutMs,
];

impl RetryState {
    /// Reads the policy and the request's `x-envoy-*` fields about retries, and takes those away. `None` when the
    /// request is never tried again.
    pub fn new(policy: Option<&Arc<RetryPolicy>>, head: &mut RequestHead) -> Option<Self> {
        let state = Self::read(policy, head);
        for id in CONSUMED {
            head.headers.remove(id);
        }
        state
    }

    fn read(policy: Option<&Arc<RetryPolicy>>, head: &RequestHead) -> Option<Self> {
        let conditions_of = |id| list(head, id).map(Conditions::named).collect::<Conditions>().0;
        let asked = (conditions_of(HeaderId::XEnvoyRetryOn) & !Conditions::GRPC.0)
            | (conditions_of(HeaderId::XEnvoyRetryGrpcOn) & Conditions::GRPC.0);
        let conditions = Conditions(policy.map_or(0, |policy| policy.conditions.0) | asked);
        if conditions == Conditions::default() {
            return None;
        }
        let max_retries = head.headers.get_str(HeaderId::XEnvoyMaxRetries).and_then(integer);
        let configured = policy.map_or(1, |policy| policy.num_retries);
        Some(Self {
            conditions,
            remaining: max_retries.map_or(configured, |max| u32::try_from(max).unwrap_or(u32::MAX)),
            policy: policy.cloned(),
            status_codes: list(head, HeaderId::XEnvoyRetriableStatusCodes)
                .filter_map(|code| code.parse().ok())
                .collect(),
            header_names: list(head, HeaderId::XEnvoyRetriableHeaderNames)
                .filter_map(|name| HeaderName::parse(name.as_bytes()).ok())
                .collect(),
            next_interval: policy.map_or(BASE_INTERVAL, |policy| policy.base_interval),
        })
    }

    /// Whether the policy wants another try after this response.
    pub fn wants_retry_after(&self, response: &ResponseHead) -> bool {
        if response.headers.contains(HeaderId::XEnvoyRatelimited) {
            return self.conditions.has(Conditions::ENVOY_RATELIMITED);
        }
        self.wants_for_status(response.status)
            || (self.conditions.has(Conditions::RETRIABLE_HEADERS)
                && self.header_names.iter().any(|name| response.headers.contains(name.as_name())))
            || (self.conditions.has(Conditions::GRPC) && self.wants_for_grpc(response))
    }

    fn wants_for_status(&self, status: StatusCode) -> bool {
        let (code, wants) = (status.as_u16(), |condition| self.conditions.has(condition));
        let configured = self.policy.as_ref().map(|policy| &*policy.status_codes).unwrap_or_default();
        (wants(Conditions::SERVER_ERROR) && status.is_server_error())
            || (wants(Conditions::GATEWAY_ERROR) && (502..=504).contains(&code))
            || (wants(Conditions::RETRIABLE_4XX) && status == StatusCode::CONFLICT)
            || (wants(Conditions::RETRIABLE_STATUS_CODES)
                && (configured.contains(&code) || self.status_codes.contains(&code)))
    }

    fn wants_for_grpc(&self, response: &ResponseHead) -> bool {
        let status = response.headers.get_str(HeaderId::GrpcStatus).and_then(|text| text.parse().ok());
        status.is_some_and(|status| self.conditions.has(Conditions::of_grpc_status(status)))
    }

    /// Whether the policy wants another try after one that brought no response. `request_started`: something of the
    /// request has left.
    pub fn wants_retry_after_reset(&self, reason: ResetReason, request_started: bool) -> bool {
        let wants = |condition| self.conditions.has(condition);
        match reason {
            ResetReason::Overflow => return false,
            ResetReason::ConnectFailure if wants(Conditions::CONNECT_FAILURE) => return true,
            ResetReason::RefusedStream if wants(Conditions::REFUSED_STREAM) => return true,
            _ => {}
        }
        (wants(Conditions::RESET_BEFORE_REQUEST) && !request_started)
            || wants(Conditions::RESET)
            || wants(Conditions::SERVER_ERROR)
            || wants(Conditions::GATEWAY_ERROR)
    }

    /// Uses one of the retries; `false` when none is left (`upstream_rq_retry_limit_exceeded`, flag `URX`).
    pub fn take_retry(&mut self) -> bool {
        match self.remaining.checked_sub(1) {
            Some(left) => {
                self.remaining = left;
                true
            }
            None => false,
        }
    }

    /// How long to wait before the next try: random up to an interval that doubles each time, in whole milliseconds.
    pub fn next_back_off(&mut self, random: u64) -> Duration {
        let longest = self.policy.as_ref().map_or(MAX_INTERVAL, |policy| policy.max_interval);
        let interval = self.next_interval;
        self.next_interval = interval.saturating_mul(2).min(longest);
        let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(random % millis)
    }
}

/// The elements of a request's field that is a list.
fn list(head: &RequestHead, id: HeaderId) -> impl Iterator<Item = &str> {
    let values = head.headers.get_all(id).filter_map(|value| std::str::from_utf8(value).ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

/// A decimal number as Envoy reads it in its own fields.
pub(super) fn integer(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sota_plugin::http::Method;

    fn policy(retry_on: &str) -> Arc<RetryPolicy> {
        Arc::new(RetryPolicy::build(&Config {
            retry_on: retry_on.split(',').map(str::to_owned).collect(),
            num_retries: 2,
            per_try_timeout: None,
            retriable_status_codes: vec![418],
            base_interval: Duration::from_millis(10),
            max_interval: Duration::from_millis(35),
        }))
    }

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::new(Method::Get, "h", "/").unwrap();
        head.headers = fields.iter().copied().collect();
        head
    }

    fn state(retry_on: &str) -> RetryState {
        RetryState::new(Some(&policy(retry_on)), &mut head(&[])).unwrap()
    }

    #[test]
    fn responses() {
        let response = |code, fields: &[(&str, &str)]| {
            let mut response = ResponseHead::new(StatusCode::from_u16(code).unwrap());
            response.headers = fields.iter().copied().collect();
            response
        };
        for (retry_on, code, fields, expected) in [
            ("5xx", 500, &[][..], true),
            ("5xx", 599, &[], true),
            ("5xx", 499, &[], false),
            ("gateway-error", 500, &[], false),
            ("gateway-error", 502, &[], true),
            ("gateway-error", 504, &[], true),
            ("retriable-4xx", 409, &[], true),
            ("retriable-4xx", 404, &[], false),
            ("retriable-status-codes", 418, &[], true),
            ("retriable-status-codes", 419, &[], false),
            ("reset,connect-failure", 503, &[], false),
            // A limit of rates counts for more than the status.
            ("5xx", 503, &[("x-envoy-ratelimited", "true")], false),
            ("envoy-ratelimited", 429, &[("x-envoy-ratelimited", "true")], true),
            ("cancelled", 200, &[("grpc-status", "1")], true),
            ("deadline-exceeded", 200, &[("grpc-status", "4")], true),
            ("internal", 200, &[("grpc-status", "13")], true),
            ("resource-exhausted", 200, &[("grpc-status", "8")], true),
            ("unavailable", 200, &[("grpc-status", "14")], true),
            ("unavailable", 200, &[("grpc-status", "13")], false),
            ("unavailable", 200, &[("grpc-status", "x")], false),
            ("nonsense, 5xx", 500, &[], true),
        ] {
            let wants = state(retry_on).wants_retry_after(&response(code, fields));
            assert_eq!(wants, expected, "{retry_on} {code} {fields:?}");
        }
    }

    #[test]
    fn resets() {
        use ResetReason::{ConnectFailure, Other, Overflow, RefusedStream};
        for (retry_on, reason, started, expected) in [
            ("5xx", Overflow, false, false),
            ("5xx", Other, true, true),
            ("gateway-error", ConnectFailure, false, true),
            ("reset", Other, true, true),
            ("reset", ConnectFailure, false, true),
            ("reset-before-request", Other, true, false),
            ("reset-before-request", Other, false, true),
            ("connect-failure", ConnectFailure, false, true),
            ("connect-failure", Other, false, false),
            ("refused-stream", RefusedStream, true, true),
            ("refused-stream", Other, true, false),
            ("retriable-4xx", Other, false, false),
        ] {
            let wants = state(retry_on).wants_retry_after_reset(reason, started);
            assert_eq!(wants, expected, "{retry_on} {reason:?} {started}");
        }
    }

    #[test]
    fn fields_override_and_are_consumed() {
        let mut request = head(&[
            ("x-envoy-retry-on", "retriable-status-codes,retriable-headers, cancelled"),
            ("x-envoy-retry-grpc-on", "unavailable,5xx"),
            ("x-envoy-max-retries", "3"),
            ("x-envoy-retriable-status-codes", "404, x,410"),
            ("x-envoy-retriable-header-names", "x-again"),
            ("x-envoy-hedge-on-per-try-timeout", "true"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
            ("x-kept", "1"),
        ]);
        let mut state = RetryState::new(None, &mut request).unwrap();
        assert_eq!(request.headers.iter().collect::<Vec<_>>(), [(&b"x-kept"[..], &b"1"[..])]);
        let wants = |status, name: &'static str, value: &'static str| {
            state.wants_retry_after(&ResponseHead::new(status).with(name, value))
        };
        assert!(wants(StatusCode::GONE, "x", "") && wants(StatusCode::NOT_FOUND, "x", ""));
        assert!(wants(StatusCode::OK, "x-again", "") && wants(StatusCode::OK, "grpc-status", "14"));
        // Each field names conditions of its own kind only.
        assert!(!wants(StatusCode::OK, "grpc-status", "1") && !wants(StatusCode::BAD_GATEWAY, "x", ""));
        assert_eq!((0..5).filter(|_| state.take_retry()).count(), 3);
    }

    #[test]
    fn no_policy_and_counts() {
        assert!(RetryState::new(None, &mut head(&[("x-envoy-max-retries", "3")])).is_none());
        assert!(RetryState::new(Some(&policy("nonsense")), &mut head(&[])).is_none());
        let count = |mut state: RetryState| (0..5).filter(|_| state.take_retry()).count();
        assert_eq!(count(state("5xx")), 2);
        let mut overridden = head(&[("x-envoy-max-retries", "0")]);
        assert_eq!(count(RetryState::new(Some(&policy("5xx")), &mut overridden).unwrap()), 0);
        let mut invalid = head(&[("x-envoy-max-retries", "-1")]);
        assert_eq!(count(RetryState::new(Some(&policy("5xx")), &mut invalid).unwrap()), 2);
        assert_eq!(count(RetryState::new(None, &mut head(&[("x-envoy-retry-on", "5xx")])).unwrap()), 1);
    }

    #[test]
    fn back_off_doubles_up_to_the_longest() {
        let mut state = state("5xx");
        let longest: Vec<_> = (0..4).map(|_| state.next_back_off(u64::MAX - u64::MAX % 700 - 1)).collect();
        assert_eq!(longest, [9, 19, 34, 34].map(Duration::from_millis));
        assert_eq!(state.next_back_off(35), Duration::ZERO);
        let mut default = RetryState::new(None, &mut head(&[("x-envoy-retry-on", "5xx")])).unwrap();
        assert_eq!(default.next_back_off(24), Duration::from_millis(24));
        assert_eq!(default.next_back_off(49), Duration::from_millis(49));
    }
}
