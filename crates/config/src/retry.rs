//! What the router does beside sending a request once: retries, hedging, mirrors, internal redirects
//! (`envoy.config.route.v3`).

use crate::{
    http::HeaderMutation,
    matcher::{FractionalPercent, HeaderMatcher},
    node::Node,
};
use std::{sync::Arc, time::Duration};

/// `envoy.config.route.v3.RetryPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// The conditions, as named in `retry_on`.
    pub retry_on: Vec<String>,
    /// How many retries; default 1.
    pub num_retries: u32,
    /// For each try.
    pub per_try_timeout: Option<Duration>,
    /// Without anything from the upstream on a try.
    pub per_try_idle_timeout: Option<Duration>,
    /// Statuses for `retriable-status-codes`.
    pub retriable_status_codes: Vec<u16>,
    /// Fields of responses for `retriable-headers`: one of them must match.
    pub retriable_headers: Vec<HeaderMatcher>,
    /// Only requests that one of these matches are tried again; empty: all.
    pub retriable_request_headers: Vec<HeaderMatcher>,
    /// Hosts that another try should not go to.
    pub host_predicates: Vec<RetryHostPredicate>,
    /// How often a host is chosen anew to avoid those; default 1.
    pub host_selection_max_attempts: u32,
    /// `previous_priorities`: after so many tries (and as many again), priorities that were tried are left out.
    pub previous_priorities: Option<u32>,
    /// First back-off; default 25 ms.
    pub base_interval: Duration,
    /// Longest back-off; default ten times the first.
    pub max_interval: Duration,
    /// Back-off that the upstream asks for.
    pub rate_limited_back_off: Option<RateLimitedBackOff>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retry_on: Vec::new(),
            num_retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            retriable_status_codes: Vec::new(),
            retriable_headers: Vec::new(),
            retriable_request_headers: Vec::new(),
            host_predicates: Vec::new(),
            host_selection_max_attempts: 1,
            previous_priorities: None,
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(250),
            rate_limited_back_off: None,
        }
    }
}

/// `envoy.retry_host_predicates.*`: hosts that another try avoids.
#[derive(Debug, Clone, PartialEq)]
pub enum RetryHostPredicate {
    /// Those that were tried.
    PreviousHosts,
    /// Those whose metadata `envoy.lb` says `canary: true`.
    OmitCanaryHosts,
    /// Those whose metadata `envoy.lb` has all of these values.
    OmitHostMetadata(Arc<Node>),
}

/// `RetryPolicy.RateLimitedRetryBackOff`.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimitedBackOff {
    /// Fields of the response that say how long to wait; the first that can be read counts.
    pub reset_headers: Vec<ResetHeader>,
    /// Longer waits are not believed; default 300 s.
    pub max_interval: Duration,
}

/// A field that says how long to wait.
#[derive(Debug, Clone, PartialEq)]
pub struct ResetHeader {
    /// Its name in lower case.
    pub name: String,
    /// It is a time since 1970 in seconds, instead of a number of seconds.
    pub is_timestamp: bool,
}

/// `RouteAction.RequestMirrorPolicy`: a copy of requests goes to another cluster too.
#[derive(Debug, Clone, PartialEq)]
pub struct MirrorPolicy {
    /// Where to.
    pub cluster: MirrorCluster,
    /// Of how many requests; `None`: of all.
    pub fraction: Option<FractionalPercent>,
    /// Leave the host as it is, without `-shadow`.
    pub keep_host: bool,
    /// The host of the copies; empty: that of the request.
    pub host: String,
    /// Changes to the fields of the copies.
    pub mutations: Vec<HeaderMutation>,
}

/// Where copies go.
#[derive(Debug, Clone, PartialEq)]
pub enum MirrorCluster {
    /// To this cluster.
    Name(String),
    /// To the cluster that this field of the request names, if it is there.
    Header(String),
}

/// `envoy.config.route.v3.InternalRedirectPolicy`: redirects that the proxy follows itself.
#[derive(Debug, Clone, PartialEq)]
pub struct InternalRedirectPolicy {
    /// How many one request may take; default 1.
    pub max_redirects: u32,
    /// Which statuses are followed; default 302.
    pub statuses: Vec<u16>,
    /// All must agree.
    pub predicates: Vec<RedirectPredicate>,
    /// Follow from `https` to `http` and the other way round.
    pub allow_cross_scheme: bool,
    /// Fields of the redirect that the next request gets, in lower case.
    pub response_headers_to_copy: Vec<String>,
}

/// `envoy.internal_redirect_predicates.*`: whether a redirect is followed to a route.
#[derive(Debug, Clone, PartialEq)]
pub enum RedirectPredicate {
    /// Not to a route that this request was redirected to before from the same one.
    PreviousRoutes,
    /// Only to routes of these names.
    AllowListedRoutes(Vec<String>),
    /// Never from `http` to `https`.
    SafeCrossScheme,
}

/// What becomes of a gRPC request's own `grpc-timeout`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrpcTimeout {
    /// The route has `max_stream_duration`, whatever it says: there is no other timeout, and gRPC hosts are told this one.
    pub is_by_stream: bool,
    /// `max_grpc_timeout`: takes the place of the route's timeout, at most this; zero: without limit.
    pub max: Option<Duration>,
    /// `grpc_timeout_offset`: taken off.
    pub offset: Option<Duration>,
    /// `max_stream_duration.grpc_timeout_header_max`: the stream lasts as long, at most this; zero: without limit.
    pub header_max: Option<Duration>,
    /// `max_stream_duration.grpc_timeout_header_offset`: taken off.
    pub header_offset: Option<Duration>,
}
