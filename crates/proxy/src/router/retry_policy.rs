//! Retry policies: when a request is tried again, where, and after how long.

use crate::upstream::Host;
use sota_config::{
    ConfigError, Mark, Node, Value,
    retry::{ResetHeader as ResetHeaderConfig, RetryHostPredicate, RetryPolicy as Config},
};
use sota_plugin::{
    http::{HeaderName, RequestHead, ResponseHead},
    matcher::HeaderMatcher,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A compiled retry policy of a route or a virtual host.
#[derive(Debug)]
pub struct RetryPolicy {
    pub(super) conditions: Conditions,
    pub(super) num_retries: u32,
    /// For each try.
    pub per_try_timeout: Option<Duration>,
    /// Without anything from the upstream on a try.
    pub per_try_idle_timeout: Option<Duration>,
    pub(super) status_codes: Box<[u16]>,
    headers: Box<[HeaderMatcher]>,
    request_headers: Box<[HeaderMatcher]>,
    host_predicates: Box<[RetryHostPredicate]>,
    /// How often a host is chosen anew to avoid one that should not be.
    pub host_selection_max_attempts: u32,
    /// After so many tries, and as many again, other priorities are preferred.
    pub previous_priorities: Option<u32>,
    pub(super) base_interval: Duration,
    pub(super) max_interval: Duration,
    reset_headers: Box<[ResetHeader]>,
    reset_max_interval: Duration,
}

/// The first back-off where nothing else is configured, and the longest of a request without a policy.
pub(super) const BASE_INTERVAL: Duration = Duration::from_millis(25);
pub(super) const MAX_INTERVAL: Duration = Duration::from_millis(250);
const SHORTEST: Duration = Duration::from_millis(1);

impl RetryPolicy {
    /// Conditions that do not exist are left out, as in Envoy. Fails for invalid header matchers.
    pub fn build(config: &Config) -> Result<Self, ConfigError> {
        let base_interval = config.base_interval.max(SHORTEST);
        let matchers = |field, configs| HeaderMatcher::build_all(configs).map_err(|e| e.at(field, Default::default()));
        let reset = config.rate_limited_back_off.as_ref();
        let reset_headers = reset.map(|reset| reset.reset_headers.as_slice()).unwrap_or_default();
        Ok(Self {
            conditions: config.retry_on.iter().flat_map(|list| list.split(',')).map(Conditions::named).collect(),
            num_retries: config.num_retries,
            per_try_timeout: config.per_try_timeout.filter(|timeout| !timeout.is_zero()),
            per_try_idle_timeout: config.per_try_idle_timeout.filter(|timeout| !timeout.is_zero()),
            status_codes: config.retriable_status_codes.as_slice().into(),
            headers: matchers("retriable_headers", &config.retriable_headers)?.into(),
            request_headers: matchers("retriable_request_headers", &config.retriable_request_headers)?.into(),
            host_predicates: config.host_predicates.as_slice().into(),
            host_selection_max_attempts: config.host_selection_max_attempts,
            previous_priorities: config.previous_priorities.filter(|frequency| *frequency > 0),
            base_interval,
            max_interval: config.max_interval.max(base_interval),
            reset_headers: reset_headers.iter().map(ResetHeader::build).collect::<Result<_, _>>()?,
            reset_max_interval: reset.map_or(Duration::ZERO, |reset| reset.max_interval),
        })
    }

    /// Whether requests like this one are tried again at all.
    pub(super) fn takes(&self, head: &RequestHead) -> bool {
        self.request_headers.is_empty() || self.request_headers.iter().any(|matcher| matcher.matches(head))
    }

    pub(super) fn has_header(&self, response: &ResponseHead) -> bool {
        self.headers.iter().any(|matcher| matcher.matches_response(response))
    }

    /// Whether another try looks at the host that is chosen.
    pub(super) fn chooses_host(&self) -> bool {
        !self.host_predicates.is_empty()
    }

    /// Whether another try should not go to this host.
    pub(super) fn avoids(&self, host: &Host, was_tried: impl Fn(&Host) -> bool) -> bool {
        self.host_predicates.iter().any(|predicate| match predicate {
            RetryHostPredicate::PreviousHosts => was_tried(host),
            RetryHostPredicate::OmitCanaryHosts => lb_metadata(host).bool("canary"),
            RetryHostPredicate::OmitHostMetadata(wanted) => has_all(lb_metadata(host), wanted),
        })
    }

    /// How long the response asks to wait, when it is to be believed.
    pub(super) fn reset_interval(&self, response: &ResponseHead) -> Option<Duration> {
        let mut intervals = self.reset_headers.iter().filter_map(|header| header.read(response));
        // Compat: a millisecond or less is not waited for.
        intervals.find(|wait| *wait <= self.reset_max_interval).filter(|wait| *wait > SHORTEST)
    }
}

/// What the endpoint's metadata says to load balancers.
fn lb_metadata(host: &Host) -> &Node {
    static NONE: Node = Node { value: Value::Null, mark: Mark::NONE };
    host.spec().metadata.as_deref().map_or(&NONE, |metadata| metadata.field("filter_metadata").field("envoy.lb"))
}

/// Whether `metadata` has every value that `wanted` has; a list has each of its elements.
fn has_all(metadata: &Node, wanted: &Node) -> bool {
    wanted.pairs().iter().all(|(key, value)| {
        metadata.get(key).is_some_and(|own| own == value || own.items().iter().any(|item| item == value))
    })
}

/// A field of a response that says how long to wait.
#[derive(Debug)]
struct ResetHeader {
    name: HeaderName,
    is_timestamp: bool,
}

impl ResetHeader {
    fn build(config: &ResetHeaderConfig) -> Result<Self, ConfigError> {
        let name = HeaderName::parse(config.name.as_bytes()).map_err(|reason| {
            let reason = format!("header name {:?}: {reason}", config.name);
            ConfigError::new("rate_limited_retry_back_off.reset_headers", Default::default(), reason)
        })?;
        Ok(Self { name, is_timestamp: config.is_timestamp })
    }

    fn read(&self, response: &ResponseHead) -> Option<Duration> {
        let seconds = Duration::from_secs(response.headers.get_str(&self.name).and_then(super::retry_state::integer)?);
        match self.is_timestamp {
            true => seconds.checked_sub(SystemTime::now().duration_since(UNIX_EPOCH).ok()?).filter(|d| !d.is_zero()),
            false => Some(seconds),
        }
    }
}

/// Conditions of `retry_on` and `x-envoy-retry-on`, and those about gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Conditions(pub(super) u32);

macro_rules! conditions {
    ($($name:ident = $bit:literal $text:literal,)*) => {
        impl Conditions {
            $(pub(super) const $name: Self = Self(1 << $bit);)*

            pub(super) fn named(name: &str) -> Self {
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
    pub(super) const GRPC: Self = Self(0b111_1100_0000_0000);

    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn of_grpc_status(status: u32) -> Self {
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
