//! The retries of one request: what the policy and the request itself make of them.

use super::retry_policy::{BASE_INTERVAL, Conditions, MAX_INTERVAL, RetryPolicy};
use crate::upstream::Host;
use smallvec::SmallVec;
use sota_plugin::http::{AsHeaderName, HeaderId, HeaderName, RequestHead, ResponseHead, StatusCode};
use std::{sync::Arc, time::Duration};

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
    /// What the last response asked for.
    reset_interval: Option<Duration>,
    /// Hosts of all tries, where the policy asks for them.
    tried: Vec<Arc<Host>>,
}

/// The pause before another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackOff {
    /// Longer with each.
    Exponential(Duration),
    /// As the upstream has asked for.
    RateLimited(Duration),
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
        if conditions == Conditions::default() || policy.is_some_and(|policy| !policy.takes(head)) {
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
            reset_interval: None,
            tried: Vec::new(),
        })
    }

    /// Whether the policy wants another try after this response.
    pub fn wants_retry_after(&self, response: &ResponseHead) -> bool {
        if response.headers.contains(HeaderId::XEnvoyRatelimited) {
            return self.conditions.has(Conditions::ENVOY_RATELIMITED);
        }
        self.wants_for_status(response.status)
            || (self.conditions.has(Conditions::RETRIABLE_HEADERS)
                && (self.header_names.iter().any(|name| response.headers.contains(name.as_name()))
                    || self.policy.as_ref().is_some_and(|policy| policy.has_header(response))))
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

    /// Notes how long the response of this try asks to wait before the next.
    pub fn note_response(&mut self, response: &ResponseHead) {
        self.reset_interval = self.policy.as_ref().and_then(|policy| policy.reset_interval(response));
    }

    /// How long to wait before the next try, in whole milliseconds: as long as the upstream has asked for and up to half
    /// as much more at random; or random up to an interval that doubles each time.
    pub fn next_back_off(&mut self, random: u64) -> BackOff {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        if let Some(asked) = self.reset_interval.take() {
            let more = random % (millis(asked) / 2).max(1);
            return BackOff::RateLimited(asked.saturating_add(Duration::from_millis(more)));
        }
        let longest = self.policy.as_ref().map_or(MAX_INTERVAL, |policy| policy.max_interval);
        let interval = self.next_interval;
        self.next_interval = interval.saturating_mul(2).min(longest);
        BackOff::Exponential(Duration::from_millis(random % millis(interval)))
    }

    /// A try goes to this host.
    pub fn note_host(&mut self, host: &Arc<Host>) {
        let policy = self.policy.as_ref();
        if policy.is_some_and(|policy| policy.chooses_host() || policy.previous_priorities.is_some()) {
            self.tried.push(Arc::clone(host));
        }
    }

    /// How often another try chooses a host anew, when it avoids any.
    pub fn host_attempts(&self) -> Option<u32> {
        let policy = self.policy.as_ref().filter(|policy| policy.chooses_host())?;
        Some(policy.host_selection_max_attempts)
    }

    /// Whether another try should not go to this host.
    pub fn avoids(&self, host: &Host) -> bool {
        let was_tried = |host: &Host| self.tried.iter().any(|tried| tried.address() == host.address());
        self.policy.as_ref().is_some_and(|policy| policy.avoids(host, was_tried))
    }

    /// Priorities of the hosts that were tried, as bits, where the next try should look for another one
    /// (`previous_priorities`).
    pub fn avoided_priorities(&self) -> u128 {
        let frequency = self.policy.as_ref().and_then(|policy| policy.previous_priorities);
        // Compat: those of tries that came after the last update are not avoided yet.
        let counted = frequency.map_or(0, |every| self.tried.len() - self.tried.len() % every as usize);
        let priorities = self.tried.iter().take(counted).map(|host| host.spec().priority);
        priorities.fold(0, |bits, priority| bits | 1_u128.checked_shl(priority).unwrap_or(0))
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
    use sota_config::retry::{RateLimitedBackOff, ResetHeader, RetryPolicy as Config};
    use sota_plugin::http::Method;

    fn policy(retry_on: &str) -> Arc<RetryPolicy> {
        build(Config {
            retry_on: retry_on.split(',').map(str::to_owned).collect(),
            num_retries: 2,
            retriable_status_codes: vec![418],
            base_interval: Duration::from_millis(10),
            max_interval: Duration::from_millis(35),
            ..Config::default()
        })
    }

    fn build(config: Config) -> Arc<RetryPolicy> {
        Arc::new(RetryPolicy::build(&config).unwrap())
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
        let wait = |state: &mut RetryState, random| match state.next_back_off(random) {
            BackOff::Exponential(wait) => wait,
            BackOff::RateLimited(_) => panic!("nobody asked for it"),
        };
        let longest: Vec<_> = (0..4).map(|_| wait(&mut state, u64::MAX - u64::MAX % 700 - 1)).collect();
        assert_eq!(longest, [9, 19, 34, 34].map(Duration::from_millis));
        assert_eq!(wait(&mut state, 35), Duration::ZERO);
        let mut default = RetryState::new(None, &mut head(&[("x-envoy-retry-on", "5xx")])).unwrap();
        assert_eq!(wait(&mut default, 24), Duration::from_millis(24));
        assert_eq!(wait(&mut default, 49), Duration::from_millis(49));
    }

    #[test]
    fn the_upstream_says_how_long_to_wait() {
        let header = |name: &str, is_timestamp| ResetHeader { name: name.to_owned(), is_timestamp };
        let policy = build(Config {
            retry_on: vec!["5xx".to_owned()],
            rate_limited_back_off: Some(RateLimitedBackOff {
                reset_headers: vec![header("retry-after", false), header("x-reset", true)],
                max_interval: Duration::from_secs(100),
            }),
            ..Config::default()
        });
        let mut state = RetryState::new(Some(&policy), &mut head(&[])).unwrap();
        let mut asked = |fields: &[(&str, String)], random| {
            let mut response = ResponseHead::new(StatusCode::SERVICE_UNAVAILABLE);
            response.headers = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            state.note_response(&response);
            match state.next_back_off(random) {
                BackOff::RateLimited(wait) => Some(wait),
                BackOff::Exponential(_) => None,
            }
        };
        let in_seconds = |seconds: u64| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            (now + seconds).to_string()
        };
        assert_eq!(asked(&[("retry-after", "2".to_owned())], 999), Some(Duration::from_millis(2999)));
        assert_eq!(asked(&[("retry-after", "2".to_owned())], 1000), Some(Duration::from_secs(2)));
        for value in ["0", "101", "-1", "soon", ""] {
            assert_eq!(asked(&[("retry-after", value.to_owned())], 0), None, "{value:?}");
        }
        let wait = asked(&[("retry-after", "x".to_owned()), ("x-reset", in_seconds(10))], 0).unwrap();
        assert!((8500..=10_000).contains(&wait.as_millis()), "{wait:?}");
        assert_eq!(asked(&[("x-reset", in_seconds(0))], 0), None);
        assert_eq!(asked(&[], 0), None);
    }

    #[test]
    fn some_requests_and_some_fields_only() {
        let matcher = |name: &str| sota_config::matcher::HeaderMatcher {
            name: name.to_owned(),
            condition: sota_config::matcher::HeaderCondition::Present(true),
            invert: false,
            treat_missing_as_empty: false,
        };
        let policy = build(Config {
            retry_on: vec!["retriable-headers".to_owned()],
            retriable_headers: vec![matcher("x-again")],
            retriable_request_headers: vec![matcher("x-safe"), matcher("x-sound")],
            ..Config::default()
        });
        assert!(RetryState::new(Some(&policy), &mut head(&[("x-other", "1")])).is_none());
        let state = RetryState::new(Some(&policy), &mut head(&[("x-sound", "1")])).unwrap();
        assert!(state.wants_retry_after(&ResponseHead::new(StatusCode::OK).with("x-again", "")));
        assert!(!state.wants_retry_after(&ResponseHead::new(StatusCode::OK)));
    }
}
