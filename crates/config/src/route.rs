//! Route configurations (`envoy.config.route.v3`).

use crate::{
    access_log::FormatString,
    extension::ExtensionConfig,
    load_balancer::HashPolicy,
    match_tree::MatchTree,
    matcher::{
        CookieMatcher, FilterStateMatcher, FractionalPercent, HeaderMatcher, MetadataMatcher, QueryParameterMatcher,
    },
    node::Node,
    retry::{GrpcTimeout, InternalRedirectPolicy, MirrorPolicy, RetryPolicy},
    source::Source,
    tracing::RouteTracing,
    upgrade::RouteUpgrade,
};
use std::{sync::Arc, time::Duration};

/// A route configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteConfiguration {
    /// Its name.
    pub name: String,
    /// Virtual hosts in document order; domains are unique over all of them.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Changes to all requests and responses.
    pub request_headers: HeaderMutations,
    /// Changes to all responses.
    pub response_headers: HeaderMutations,
    /// Fields that only internal clients may set.
    pub internal_only_headers: Vec<String>,
    /// Apply the route's mutations last, so that it wins (`most_specific_header_mutations_wins`).
    pub most_specific_header_mutations_wins: bool,
    /// Whether unknown clusters are errors; `None`: yes for static files.
    pub validate_clusters: Option<bool>,
    /// Match domains without the host's port.
    pub ignore_port_in_host_matching: bool,
    /// Largest body of a direct response; default 4096.
    pub max_direct_response_body_size_bytes: u32,
    /// Copies of virtual hosts that have none.
    pub mirrors: Vec<MirrorPolicy>,
    /// Filter configuration for all.
    pub typed_per_filter_config: Vec<PerFilterConfig>,
    /// The configuration as read, for `/config_dump`.
    pub source: Option<Arc<Source>>,
}

/// A virtual host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VirtualHost {
    /// Its name.
    pub name: String,
    /// Domains: exact, `*.suffix`, `prefix.*` or `*`.
    pub domains: Vec<String>,
    /// Routes; the first match counts. Empty with `matcher`.
    pub routes: Vec<Arc<Route>>,
    /// Metadata, for logs and formats.
    pub metadata: Option<Arc<Node>>,
    /// Chooses among routes in the place of a list.
    pub matcher: Option<MatchTree<Vec<Arc<Route>>>>,
    /// Whose requests are redirected to `https`.
    pub require_tls: TlsRequirement,
    /// Kinds of requests that are counted for themselves; the first match counts.
    pub virtual_clusters: Vec<VirtualCluster>,
    /// Octets of a request's body that are kept for another attempt; `None`: the connection's buffer limit.
    pub request_body_buffer_limit: Option<u64>,
    /// Changes to requests.
    pub request_headers: HeaderMutations,
    /// Changes to responses.
    pub response_headers: HeaderMutations,
    /// Filter configuration.
    pub typed_per_filter_config: Vec<PerFilterConfig>,
    /// `x-envoy-attempt-count` to the upstream.
    pub include_request_attempt_count: bool,
    /// `x-envoy-attempt-count` to the client.
    pub include_attempt_count_in_response: bool,
    /// The retry policy of routes that have none.
    pub retry_policy: Option<RetryPolicy>,
    /// Rate limits (`envoy.config.route.v3.RateLimit`, checked), for filters that count requests.
    pub rate_limits: Vec<Node>,
    /// Hedging of routes that say nothing of it.
    pub hedge_on_per_try_timeout: bool,
    /// `x-envoy-is-timeout-retry` to the upstream of another attempt.
    pub include_is_timeout_retry_header: bool,
    /// Copies of routes that have none; empty: those of the route configuration.
    pub mirrors: Vec<MirrorPolicy>,
}

/// Whose requests have to be encrypted (`VirtualHost.TlsRequirementType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsRequirement {
    /// Nobody's.
    #[default]
    None,
    /// Those of clients that are not internal.
    ExternalOnly,
    /// All.
    All,
}

/// `envoy.config.route.v3.VirtualCluster`.
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualCluster {
    /// Stats are below `vhost.<virtual host>.vcluster.<name>.`.
    pub name: String,
    /// Which requests it counts.
    pub headers: Vec<HeaderMatcher>,
}

/// Configuration of an HTTP filter at a route, virtual host or weighted cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct PerFilterConfig {
    /// The filter's name in the chain.
    pub filter: String,
    /// Its configuration; `None`: only switched on or off.
    pub config: Option<ExtensionConfig>,
    /// Switches the filter off here.
    pub disabled: bool,
    /// Not an error when no such extension is known.
    pub is_optional: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Its name; may be empty.
    pub name: String,
    /// Which requests it takes.
    pub matcher: RouteMatch,
    /// What it does.
    pub action: RouteActionKind,
    /// Changes to requests.
    pub request_headers: HeaderMutations,
    /// Changes to responses.
    pub response_headers: HeaderMutations,
    /// Filter configuration.
    pub typed_per_filter_config: Vec<PerFilterConfig>,
    /// Metadata, for filters and logs.
    pub metadata: Option<Arc<Node>>,
    /// Stats of the route below `vhost.<vhost>.route.<stat_prefix>.`.
    pub stat_prefix: String,
    /// Overrides the virtual host's.
    pub request_body_buffer_limit: Option<u64>,
    /// What it changes of traces (`tracing`, `decorator`).
    pub tracing: Option<Box<RouteTracing>>,
}

/// Which requests a route takes: all parts must agree.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteMatch {
    /// The path without query.
    pub path: PathMatcher,
    /// Whether letters' case counts (default true; not for regular expressions).
    pub case_sensitive: bool,
    /// Headers.
    pub headers: Vec<HeaderMatcher>,
    /// Query parameters.
    pub query_parameters: Vec<QueryParameterMatcher>,
    /// Cookies.
    pub cookies: Vec<CookieMatcher>,
    /// A part of the requests.
    pub runtime_fraction: Option<FractionalPercent>,
    /// Only gRPC calls.
    pub grpc: bool,
    /// The client's certificate.
    pub tls_context: TlsContextMatch,
    /// Metadata that filters have set.
    pub dynamic_metadata: Vec<MetadataMatcher>,
    /// State that filters have set.
    pub filter_state: Vec<FilterStateMatcher>,
}

impl RouteMatch {
    /// Everything that has this path.
    pub fn path(path: PathMatcher) -> Self {
        Self {
            path,
            case_sensitive: true,
            headers: Vec::new(),
            query_parameters: Vec::new(),
            cookies: Vec::new(),
            runtime_fraction: None,
            grpc: false,
            tls_context: TlsContextMatch::default(),
            dynamic_metadata: Vec::new(),
            filter_state: Vec::new(),
        }
    }
}

/// `RouteMatch.TlsContextMatchOptions`; `None` does not care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TlsContextMatch {
    /// Whether the client has shown a certificate.
    pub presented: Option<bool>,
    /// Whether that was found valid.
    pub validated: Option<bool>,
}

/// How a path is matched.
#[derive(Debug, Clone, PartialEq)]
pub enum PathMatcher {
    /// The whole path.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// The path itself or what is below it.
    PathSeparatedPrefix(String),
    /// RE2 syntax against the whole path.
    Regex(String),
    /// A URI template against the whole path (`envoy.path.match.uri_template.uri_template_matcher`).
    Template(String),
    /// CONNECT requests, whatever their path.
    Connect,
}

/// What a route does.
#[derive(Debug, Clone, PartialEq)]
pub enum RouteActionKind {
    /// Forward.
    Forward(Box<RouteAction>),
    /// Redirect.
    Redirect(RedirectAction),
    /// Answer.
    DirectResponse(DirectResponse),
}

/// `envoy.config.route.v3.RouteAction`.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteAction {
    /// Where to.
    pub cluster: ClusterSpecifier,
    /// The status when the cluster is unknown: 503, 404 or 500.
    pub cluster_not_found_response_code: u16,
    /// The path sent upstream.
    pub path_rewrite: Option<PathRewrite>,
    /// The host sent upstream.
    pub host_rewrite: Option<HostRewrite>,
    /// Append the original host to `x-forwarded-host`.
    pub append_x_forwarded_host: bool,
    /// From the end of the request to the end of the response; `None`: no limit. Default 15 s.
    pub timeout: Option<Duration>,
    /// Overrides the connection manager's stream idle timeout; `Some(None)` switches it off.
    pub idle_timeout: Option<Option<Duration>>,
    /// Overrides the stream's largest duration; `Some(None)` switches it off.
    pub max_stream_duration: Option<Option<Duration>>,
    /// What a gRPC request's own timeout does.
    pub grpc_timeout: GrpcTimeout,
    /// Retries.
    pub retry_policy: Option<RetryPolicy>,
    /// What is hashed, for clusters that choose by a hash.
    pub hash_policy: Vec<HashPolicy>,
    /// The metadata (`envoy.lb`) that hosts must have in clusters with subsets, sorted by key.
    pub metadata_match: Vec<(Arc<str>, Node)>,
    /// Send another attempt beside one that takes longer than `per_try_timeout`; `None`: as the virtual host says.
    pub hedge_on_per_try_timeout: Option<bool>,
    /// Copies to other clusters; empty: those of the virtual host.
    pub mirrors: Vec<MirrorPolicy>,
    /// Redirects that are followed here.
    pub internal_redirects: Option<InternalRedirectPolicy>,
    /// Which circuit breakers count.
    pub priority: RoutingPriority,
    /// Rate limits (`envoy.config.route.v3.RateLimit`, checked), for filters that count requests.
    pub rate_limits: Vec<Node>,
    /// The virtual host's rate limits count as well.
    pub include_vh_rate_limits: bool,
    /// Which upgrades pass; before what the connection manager says.
    pub upgrades: Vec<RouteUpgrade>,
}

/// Which circuit breakers count a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RoutingPriority {
    /// The usual ones.
    #[default]
    Default,
    /// Those of high priority.
    High,
}

/// Where a route forwards to.
#[derive(Debug, Clone, PartialEq)]
pub enum ClusterSpecifier {
    /// A cluster.
    Cluster(String),
    /// The cluster that this request header names.
    ClusterHeader(String),
    /// One of several.
    Weighted(WeightedClusters),
}

/// `envoy.config.route.v3.WeightedCluster`.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedClusters {
    /// The clusters; the sum of their weights fits `u32` and is above 0.
    pub clusters: Vec<WeightedCluster>,
    /// Runtime keys `<prefix>.<cluster>` override the weights.
    pub runtime_key_prefix: Option<String>,
    /// A request header whose number chooses, in the place of chance.
    pub header_name: Option<String>,
    /// The hash of the route's policies chooses, in the place of chance.
    pub use_hash_policy: bool,
}

/// A cluster of several with its share and changes of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedCluster {
    /// The cluster's name; empty with `cluster_header`.
    pub name: String,
    /// The request header that names the cluster.
    pub cluster_header: Option<String>,
    /// Its share.
    pub weight: u32,
    /// Changes to requests.
    pub request_headers: HeaderMutations,
    /// Changes to responses.
    pub response_headers: HeaderMutations,
    /// Filter configuration.
    pub typed_per_filter_config: Vec<PerFilterConfig>,
    /// The host sent upstream.
    pub host_rewrite: Option<String>,
    /// Further metadata that hosts must have, sorted by key.
    pub metadata_match: Vec<(Arc<str>, Node)>,
}

/// How the path is rewritten.
#[derive(Debug, Clone, PartialEq)]
pub enum PathRewrite {
    /// Replaces what the prefix, path or path-separated prefix matched.
    Prefix(String),
    /// Replaces every match in the path; `\1` names a group.
    Regex {
        /// RE2 syntax.
        pattern: String,
        /// With `\0`–`\9`.
        substitution: String,
    },
    /// A URI template with the variables of the path's (`envoy.path.rewrite.uri_template.uri_template_rewriter`).
    Template(String),
    /// A format string that makes the whole path.
    Format(String),
}

/// How the host is rewritten.
#[derive(Debug, Clone, PartialEq)]
pub enum HostRewrite {
    /// A fixed host.
    Literal(String),
    /// The endpoint's host name (clusters of the DNS types).
    Auto,
    /// The value of a request header.
    Header(String),
    /// A format string.
    Format(String),
    /// The path with a substitution applied.
    PathRegex {
        /// RE2 syntax.
        pattern: String,
        /// With `\0`–`\9`.
        substitution: String,
    },
}

/// `envoy.config.route.v3.RedirectAction`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RedirectAction {
    /// 301, 302, 303, 307 or 308.
    pub response_code: u16,
    /// `https_redirect`.
    pub https: bool,
    /// `scheme_redirect`.
    pub scheme: Option<String>,
    /// `host_redirect`.
    pub host: Option<String>,
    /// `port_redirect`.
    pub port: Option<u16>,
    /// `path_redirect`.
    pub path: Option<String>,
    /// `prefix_rewrite`, `regex_rewrite` or `path_rewrite`.
    pub path_rewrite: Option<PathRewrite>,
    /// Leave the query out.
    pub strip_query: bool,
}

/// `envoy.config.route.v3.DirectResponseAction`.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectResponse {
    /// The status, 200–599.
    pub status: u16,
    /// The body.
    pub body: Option<crate::secret::DataSource>,
    /// Makes the body; the one above is its `%LOCAL_REPLY_BODY%`.
    pub body_format: Option<FormatString>,
}

/// Fields to add and remove.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderMutations {
    /// Fields to add, in order.
    pub add: Vec<HeaderValueOption>,
    /// Names to remove, in lower case.
    pub remove: Vec<String>,
}

impl HeaderMutations {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// `envoy.config.core.v3.HeaderValueOption`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderValueOption {
    /// The name in lower case.
    pub name: String,
    /// A format string.
    pub value: String,
    /// What happens when the field is there already.
    pub append_action: AppendAction,
    /// Add the field even when its value is empty.
    pub keep_empty_value: bool,
}

/// `HeaderAppendAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppendAction {
    /// Add another.
    #[default]
    AppendIfExistsOrAdd,
    /// Only when it is missing.
    AddIfAbsent,
    /// Replace or add.
    OverwriteIfExistsOrAdd,
    /// Replace, never add.
    OverwriteIfExists,
}
