//! A compiled route with everything that it inherits.

use super::{
    cluster_specifier::ClusterSpecifier,
    filter_configs::FilterConfigs,
    internal_redirect::InternalRedirects,
    matching::RouteMatcher,
    mirror::MirrorPolicy,
    mutations::{Level, Mutations},
    redirect::{DirectResponse, Redirect},
    retry_policy::RetryPolicy,
    rewrite::{HostRewrite, PathRewrite},
    virtual_clusters::VirtualClusters,
};
use crate::trace::RouteTrace;
use crate::upstream::{HashPolicies, MetadataMatch};
use sota_config::{
    ConfigError, Node,
    retry::GrpcTimeout,
    route::{
        PathMatcher, PathRewrite as PathConfig, Route, RouteAction, RouteActionKind, RouteConfiguration,
        RoutingPriority, VirtualHost,
    },
    tls::UpstreamProxyProtocol,
    upgrade::RouteUpgrade,
};
use sota_plugin::{
    FactoryContext,
    http::{Method, StatusCode},
    rate_limit::{RateLimits, RouteRateLimits},
};
use std::{sync::Arc, time::Duration};

/// What all routes of a virtual host share.
#[derive(Debug)]
pub(super) struct HostContext<'a> {
    pub(super) table: &'a RouteConfiguration,
    pub(super) table_name: &'a Arc<str>,
    pub(super) table_level: &'a Level,
    pub(super) host: &'a VirtualHost,
    pub(super) host_name: Arc<str>,
    pub(super) host_level: Level,
    pub(super) filters: FilterConfigs,
    pub(super) retry_policy: Option<Arc<RetryPolicy>>,
    pub(super) virtual_clusters: Option<Arc<VirtualClusters>>,
    pub(super) rate_limits: Arc<RateLimits>,
    /// Where the virtual host stands.
    pub(super) path: String,
}

/// A compiled route.
#[derive(Debug)]
pub(super) struct RouteEntry {
    pub(super) name: Box<str>,
    pub(super) table: Arc<str>,
    pub(super) virtual_host: Arc<str>,
    pub(super) metadata: Option<Arc<Node>>,
    pub(super) virtual_host_metadata: Option<Arc<Node>>,
    pub(super) stat_prefix: Box<str>,
    pub(super) matcher: RouteMatcher,
    pub(super) action: Action,
    pub(super) mutations: Mutations,
    pub(super) filters: FilterConfigs,
    pub(super) include_request_attempt_count: bool,
    pub(super) include_attempt_count_in_response: bool,
    pub(super) virtual_clusters: Option<Arc<VirtualClusters>>,
    /// Octets of a body that are kept for another attempt.
    pub(super) body_buffer_limit: Option<usize>,
    /// `None`: nothing is limited.
    pub(super) rate_limits: Option<Box<RouteRateLimits>>,
    /// What it changes of traces.
    pub(super) trace: Option<Box<RouteTrace>>,
}

/// What a route does.
#[derive(Debug)]
pub(super) enum Action {
    Forward(Box<ForwardAction>),
    Redirect(Box<Redirect>),
    /// To the same with `https` (`require_tls`).
    ToHttps,
    DirectResponse(Box<DirectResponse>),
}

/// How a route forwards.
#[derive(Debug)]
pub struct ForwardAction {
    pub(super) cluster: ClusterSpecifier,
    pub(super) path_rewrite: Option<PathRewrite>,
    pub(super) host_rewrite: Option<HostRewrite>,
    pub(super) append_x_forwarded_host: bool,
    /// The status when the cluster does not exist.
    pub cluster_not_found_response_code: StatusCode,
    /// From the end of the request to the end of the response; `None`: no limit.
    pub timeout: Option<Duration>,
    /// Overrides the stream idle timeout of the connection manager; `Some(None)` switches it off.
    pub idle_timeout: Option<Option<Duration>>,
    /// Overrides the largest duration of streams; `Some(None)` switches it off.
    pub max_stream_duration: Option<Option<Duration>>,
    /// What a gRPC request's own timeout does.
    pub grpc_timeout: GrpcTimeout,
    /// The route's retry policy or its virtual host's.
    pub retry_policy: Option<Arc<RetryPolicy>>,
    /// Another try begins beside one that takes longer than its timeout.
    pub hedge_on_per_try_timeout: bool,
    /// Copies to other clusters.
    pub(super) mirrors: Box<[MirrorPolicy]>,
    /// Redirects of the upstream that are followed here.
    pub(super) internal_redirects: Option<InternalRedirects>,
    /// The upstream of another try is told whether the one before took too long.
    pub include_is_timeout_retry_header: bool,
    /// Which circuit breakers count.
    pub priority: RoutingPriority,
    pub(super) hash_policies: Option<HashPolicies>,
    pub(super) metadata_match: Option<MetadataMatch>,
    upgrades: Box<[RouteUpgrade]>,
}

impl RouteEntry {
    /// Findings go into `errors`; `None` when the route cannot be.
    pub(super) fn build(
        route: &Route,
        number: usize,
        host: &HostContext<'_>,
        cx: &FactoryContext<'_>,
        errors: &mut Vec<ConfigError>,
    ) -> Option<Self> {
        let path = format!("{}.routes[{number}]", host.path);
        let level = Level::build(&route.request_headers, &route.response_headers, &path, errors);
        let filters = host.filters.inherit(&route.typed_per_filter_config, cx, &path, errors);
        let matcher = RouteMatcher::build(&route.matcher, cx);
        let matcher = matcher.map_err(|error| errors.push(error.at(&format!("{path}.match"), cx.mark)));
        let (field, action) = match &route.action {
            RouteActionKind::Forward(action) => {
                let path = format!("{path}.route");
                (
                    "route",
                    ForwardAction::build(action, &route.matcher.path, host, &filters, cx, (&path, errors))
                        .map(Box::new)
                        .map(Action::Forward),
                )
            }
            RouteActionKind::Redirect(action) => {
                ("redirect", Redirect::build(action, &route.matcher.path).map(Box::new).map(Action::Redirect))
            }
            RouteActionKind::DirectResponse(action) => {
                let limit = host.table.max_direct_response_body_size_bytes;
                ("direct_response", DirectResponse::build(action, limit).map(Box::new).map(Action::DirectResponse))
            }
        };
        let action = action.map_err(|error| errors.push(error.at(&format!("{path}.{field}"), cx.mark)));
        let rate_limits = match &route.action {
            RouteActionKind::Forward(action) => RouteRateLimits {
                route: rate_limits(&action.rate_limits, &format!("{path}.route"), cx, errors),
                virtual_host: Arc::clone(&host.rate_limits),
                include_virtual_host: action.include_vh_rate_limits,
            },
            _ => RouteRateLimits::default(),
        };
        let trace = route.tracing.as_ref().map(|model| RouteTrace::build(model, cx)).transpose();
        let trace = trace.map_err(|error| errors.push(error.at(&path, cx.mark))).ok()?.map(Box::new);
        Some(Self {
            name: route.name.as_str().into(),
            table: Arc::clone(host.table_name),
            virtual_host: Arc::clone(&host.host_name),
            metadata: route.metadata.clone(),
            virtual_host_metadata: host.host.metadata.clone(),
            stat_prefix: route.stat_prefix.as_str().into(),
            matcher: matcher.ok()?,
            action: action.ok()?,
            mutations: Mutations::new(
                host.table_level,
                &host.host_level,
                &level,
                host.table.most_specific_header_mutations_wins,
            ),
            filters,
            include_request_attempt_count: host.host.include_request_attempt_count,
            include_attempt_count_in_response: host.host.include_attempt_count_in_response,
            virtual_clusters: host.virtual_clusters.clone(),
            body_buffer_limit: route
                .request_body_buffer_limit
                .or(host.host.request_body_buffer_limit)
                .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            rate_limits: (!rate_limits.is_empty()).then(|| Box::new(rate_limits)),
            trace,
        })
    }

    /// What answers requests of a virtual host that should have come over TLS.
    pub(super) fn to_https(host: &HostContext<'_>) -> Self {
        Self {
            name: "".into(),
            table: Arc::clone(host.table_name),
            virtual_host: Arc::clone(&host.host_name),
            metadata: None,
            virtual_host_metadata: host.host.metadata.clone(),
            stat_prefix: "".into(),
            matcher: RouteMatcher::never(),
            action: Action::ToHttps,
            mutations: Mutations::default(),
            filters: FilterConfigs::default(),
            include_request_attempt_count: false,
            include_attempt_count_in_response: false,
            virtual_clusters: None,
            body_buffer_limit: None,
            rate_limits: None,
            trace: None,
        }
    }

    pub(super) fn forward(&self) -> Option<&ForwardAction> {
        match &self.action {
            Action::Forward(forward) => Some(forward),
            _ => None,
        }
    }
}

/// Rate limits of a level that stands at `path`.
pub(super) fn rate_limits(
    items: &[Node],
    path: &str,
    cx: &FactoryContext<'_>,
    errors: &mut Vec<ConfigError>,
) -> Arc<RateLimits> {
    let limits = RateLimits::read(items).unwrap_or_else(|error| {
        errors.push(error.at(&format!("{path}.rate_limits"), cx.mark));
        RateLimits::default()
    });
    Arc::new(limits)
}

impl ForwardAction {
    fn build(
        action: &RouteAction,
        matched: &PathMatcher,
        host: &HostContext<'_>,
        filters: &FilterConfigs,
        cx: &FactoryContext<'_>,
        (path, errors): (&str, &mut Vec<ConfigError>),
    ) -> Result<Self, ConfigError> {
        let path_rewrite = match &action.path_rewrite {
            Some(PathConfig::Prefix(prefix)) if prefix.is_empty() => None,
            Some(rewrite) => Some(PathRewrite::build(rewrite, matched)?),
            None => None,
        };
        let code = action.cluster_not_found_response_code;
        // Those of the innermost level that has some.
        let levels = [&action.mirrors, &host.host.mirrors, &host.table.mirrors];
        let mirrors = levels.into_iter().find(|mirrors| !mirrors.is_empty()).map(Vec::as_slice).unwrap_or_default();
        let retry_policy = match &action.retry_policy {
            Some(policy) => {
                Some(Arc::new(RetryPolicy::build(policy).map_err(|error| error.at("retry_policy", cx.mark))?))
            }
            None => host.retry_policy.clone(),
        };
        Ok(Self {
            cluster: ClusterSpecifier::build(action, filters, cx, (path, errors))?,
            path_rewrite,
            host_rewrite: action.host_rewrite.as_ref().map(HostRewrite::build).transpose()?,
            append_x_forwarded_host: action.append_x_forwarded_host,
            cluster_not_found_response_code: StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
            timeout: action.timeout.filter(|timeout| !timeout.is_zero()),
            idle_timeout: action.idle_timeout,
            max_stream_duration: action.max_stream_duration,
            grpc_timeout: action.grpc_timeout.clone(),
            retry_policy,
            hedge_on_per_try_timeout: action.hedge_on_per_try_timeout.unwrap_or(host.host.hedge_on_per_try_timeout),
            mirrors: mirrors.iter().map(|mirror| MirrorPolicy::build(mirror, cx)).collect::<Result<_, _>>()?,
            internal_redirects: action.internal_redirects.as_ref().map(InternalRedirects::build).transpose()?,
            include_is_timeout_retry_header: host.host.include_is_timeout_retry_header,
            priority: action.priority,
            hash_policies: match &*action.hash_policy {
                [] => None,
                policies => Some(HashPolicies::build(policies)?),
            },
            metadata_match: metadata_match(&action.metadata_match),
            upgrades: action.upgrades.clone().into(),
        })
    }

    /// Whether an upgrade to this protocol may be, if the route says so.
    pub fn allows_upgrade(&self, upgrade_type: &[u8]) -> Option<bool> {
        let mut upgrades = self.upgrades.iter();
        let upgrade = upgrades.find(|known| known.upgrade_type.as_bytes().eq_ignore_ascii_case(upgrade_type))?;
        Some(upgrade.enabled)
    }

    /// Whether what requests of this method carry goes to the host as it is.
    pub fn ends_tunnel(&self, method: &Method) -> bool {
        let connect = self.upgrades.iter().find_map(|upgrade| upgrade.connect.as_ref());
        connect.is_some_and(|connect| *method == Method::Connect || connect.allow_post && *method == Method::Post)
    }

    /// What the host of such a tunnel is told first.
    pub fn tunnel_header(&self) -> Option<&Arc<UpstreamProxyProtocol>> {
        self.upgrades.iter().find_map(|upgrade| upgrade.connect.as_ref())?.proxy_protocol.as_ref()
    }

    /// What is hashed, for clusters that choose by a hash.
    pub fn hash_policies(&self) -> Option<&HashPolicies> {
        self.hash_policies.as_ref()
    }
}

pub(super) fn metadata_match(pairs: &[(Arc<str>, Node)]) -> Option<MetadataMatch> {
    (!pairs.is_empty()).then(|| MetadataMatch::new(pairs.iter().cloned()))
}
