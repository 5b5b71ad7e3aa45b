//! `envoy.filters.http.ratelimit`: asks a rate-limit service whether a request may go on.

mod service;

use crate::{header_options, http_status, matchers};
use service::Response;
pub(crate) use service::fuzz_response;
use sota_codec::protobuf::Malformed;
use sota_config::{ConfigError, Node, TypedConfig, matcher::FractionalPercent as Share};
use sota_plugin::{
    Extension, FactoryContext,
    access_log::LogKind,
    cx::{StreamCx, WorkerCx},
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, LocalReply, Resume},
    format::FormatCx,
    grpc::{GrpcError, GrpcService},
    http::{HeaderId, HeaderName, RequestHead, ResponseHead, StatusCode},
    info::{ResponseFlag, StreamInfo},
    matcher::{FractionalPercent, HeaderMutations},
    rate_limit::{Descriptor, RateLimits},
    runtime::Runtime,
    stat_group,
    stats::Group,
};
use std::{any::Any, cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.ratelimit",
    short_name: "ratelimit",
    type_urls: &["envoy.extensions.filters.http.ratelimit.v3.RateLimit"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute"],
};

const DEFAULT_TIMEOUT: Duration = Duration::from_millis(20);
const LIMITED: &str = "request_rate_limited";
const FAILED: &str = "rate_limiter_error";
/// Where the service's metadata stands, unless configured otherwise.
const NAMESPACE: &str = "envoy.filters.http.ratelimit";
/// Filter state with the number of hits that a request counts for.
const HITS: &str = "envoy.ratelimit.hits_addend";
const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// The gRPC status "resource exhausted".
const RESOURCE_EXHAUSTED: u32 = 8;

stat_group! {
    /// `cluster.<route's cluster>.ratelimit.`
    struct Stats {
        /// The service let the request through.
        ok: counter,
        /// The service could not be asked.
        error: counter,
        /// The service refused the request.
        over_limit: counter,
        /// The service could not be asked, and the request went on.
        failure_mode_allowed: counter,
    }
}

/// `envoy.extensions.filters.http.ratelimit.v3.RateLimit`
struct Settings {
    domain: String,
    stage: u32,
    /// Only of internal, or only of external requests.
    only_internal: Option<bool>,
    service: GrpcService,
    timeout: Duration,
    denies_on_failure: bool,
    /// For this share of requests in place of the above.
    denied_share: Option<FractionalPercent>,
    grpc_status: Option<u32>,
    x_ratelimit_headers: bool,
    tells_limited: bool,
    retry_after: bool,
    limited_status: StatusCode,
    failed_status: StatusCode,
    response_headers: HeaderMutations,
    enabled: FractionalPercent,
    enforced: FractionalPercent,
    rate_limits: RateLimits,
    stat_prefix: String,
    namespace: String,
    local_cluster: String,
    runtime: Arc<Runtime>,
}

/// `RateLimitPerRoute`
struct PerRoute {
    virtual_host_limits: VirtualHostLimits,
    rate_limits: RateLimits,
    domain: String,
}

/// Whether the rate limits of the virtual host count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VirtualHostLimits {
    /// Where the route has none.
    Override,
    Include,
    Ignore,
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let TypedConfig::Value { node, .. } = config else {
        return Err(cx.error("", cx.mark, "the rate limit filter needs a configuration with \"domain\""));
    };
    let here = format!("{}.rate_limit_service", cx.path);
    // Compat: the cluster of the service may be missing; asking it fails then.
    let within = FactoryContext { path: &here, clusters: None, ..*cx };
    let share = |field: &str, key: &str| {
        matchers::fraction(node, field, cx).unwrap_or_else(|| {
            let all = Share { numerator: 100, denominator: 100, runtime_key: Some(key.to_owned()) };
            FractionalPercent::build(&all, cx.runtime)
        })
    };
    Ok(Arc::new(Config(Arc::new(Settings {
        domain: node.str("domain").to_owned(),
        stage: node.u32("stage").unwrap_or(0),
        only_internal: match node.str("request_type") {
            "internal" => Some(true),
            "external" => Some(false),
            _ => None,
        },
        service: GrpcService::read(node.field("rate_limit_service"), "grpc_service", &within)?,
        timeout: node.duration("timeout").unwrap_or(DEFAULT_TIMEOUT),
        denies_on_failure: node.bool("failure_mode_deny"),
        denied_share: matchers::fraction(node, "failure_mode_deny_percent", cx),
        grpc_status: node.bool("rate_limited_as_resource_exhausted").then_some(RESOURCE_EXHAUSTED),
        x_ratelimit_headers: node.str("enable_x_ratelimit_headers") == "DRAFT_VERSION_03",
        tells_limited: !node.bool("disable_x_envoy_ratelimited_header"),
        retry_after: node.bool("enable_retry_after_header"),
        limited_status: http_status::error(node, "rate_limited_status", StatusCode::TOO_MANY_REQUESTS, cx)?,
        failed_status: http_status::error(node, "status_on_error", StatusCode::INTERNAL_SERVER_ERROR, cx)?,
        response_headers: header_options::additions(node, "response_headers_to_add", cx)?,
        enabled: share("filter_enabled", "ratelimit.http_filter_enabled"),
        enforced: share("filter_enforced", "ratelimit.http_filter_enforcing"),
        rate_limits: read_limits(node, cx)?,
        stat_prefix: match node.str("stat_prefix") {
            "" => String::new(),
            prefix => format!("{prefix}."),
        },
        namespace: match node.str("metadata_namespace") {
            "" => NAMESPACE.to_owned(),
            namespace => namespace.to_owned(),
        },
        local_cluster: cx.node.cluster.clone(),
        runtime: Arc::clone(cx.runtime),
    }))))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    let empty = Node::map();
    let node = if let TypedConfig::Value { node, .. } = config { node } else { &empty };
    Ok(Arc::new(PerRoute {
        virtual_host_limits: match node.str("vh_rate_limits") {
            "INCLUDE" => VirtualHostLimits::Include,
            "IGNORE" => VirtualHostLimits::Ignore,
            _ => VirtualHostLimits::Override,
        },
        rate_limits: read_limits(node, cx)?,
        domain: node.str("domain").to_owned(),
    }))
}

fn read_limits(node: &Node, cx: &FactoryContext<'_>) -> Result<RateLimits, ConfigError> {
    RateLimits::read(node.list("rate_limits")).map_err(|error| cx.place(error.at("rate_limits", node.mark)))
}

impl Settings {
    /// What the request is counted by; nothing: nobody is asked.
    fn descriptors(&self, route: Option<&PerRoute>, head: &RequestHead, info: &StreamInfo) -> Vec<Descriptor> {
        let enabled = |key: &str| {
            self.runtime.integer(&format!("ratelimit.{key}.http_filter_enabled"), 100) > fastrand::u64(..100)
        };
        let mut out = Vec::new();
        let mut add = |limits: &RateLimits| {
            limits.descriptors((self.stage, &enabled), &self.local_cluster, head, info, &mut out);
        };
        let own = route.map(|route| &route.rate_limits).filter(|limits| !limits.is_empty());
        if let Some(own) = own.or_else(|| Some(&self.rate_limits).filter(|limits| !limits.is_empty())) {
            add(own);
            return out;
        }
        let Some(limits) = info.route.as_ref().and_then(|route| route.rate_limits()) else { return out };
        add(&limits.route);
        let includes = match route.map_or(VirtualHostLimits::Override, |route| route.virtual_host_limits) {
            _ if limits.include_virtual_host => true,
            VirtualHostLimits::Include => true,
            VirtualHostLimits::Ignore => false,
            VirtualHostLimits::Override => limits.route.is_empty(),
        };
        if includes {
            add(&limits.virtual_host);
        }
        out
    }

    async fn ask(&self, worker: &WorkerCx, message: &[u8]) -> Result<Response, String> {
        let asked = self.service.unary(worker, service::METHOD, message, self.timeout).await;
        let answer = asked.map_err(|error: GrpcError| error.to_string())?;
        Response::decode(&answer).map_err(|error: Malformed| error.to_string())
    }

    /// The answer to a request that is one too many.
    fn refusal(&self, response: &mut Response, head: &RequestHead, info: &StreamInfo) -> LocalReply {
        let mut reply = LocalReply::new(self.limited_status, std::mem::take(&mut response.body), LIMITED)
            .flag(ResponseFlag::RateLimited);
        if self.tells_limited {
            reply.headers.set_sanitized(HeaderId::XEnvoyRatelimited, "true");
        }
        for (name, value) in &response.response_headers {
            reply.headers.append_sanitized(name.as_str(), value);
        }
        let cx = FormatCx { request: Some(head), ..FormatCx::new(info, LogKind::NotSet) };
        self.response_headers.apply(&mut reply.headers, &cx);
        if self.retry_after
            && let Some(seconds) = response.reset()
        {
            reply.headers.set_sanitized(HeaderId::RetryAfter, seconds.to_string());
        }
        reply.grpc_status = self.grpc_status;
        reply
    }

    fn denies(&self) -> bool {
        match &self.denied_share {
            Some(share) => share.sample(fastrand::u64(..)),
            None => self.denies_on_failure,
        }
    }
}

struct Config(Arc<Settings>);

impl HttpFilterConfig for Config {
    fn for_worker(&self, _: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        Box::new(Factory { settings: Arc::clone(&self.0), stats: Rc::default() })
    }
}

/// Counters by cluster: only of those that there are.
type ByCluster = Rc<RefCell<HashMap<Box<str>, Group<Stats>>>>;

struct Factory {
    settings: Arc<Settings>,
    stats: ByCluster,
}

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        let (settings, stats) = (Arc::clone(&self.settings), Rc::clone(&self.stats));
        Some(Box::new(Filter { settings, stats, answer: Rc::default() }))
    }
}

struct Filter {
    settings: Arc<Settings>,
    stats: ByCluster,
    /// What the service said of a request that it let through.
    answer: Rc<RefCell<Option<Response>>>,
}

impl Filter {
    fn count(stats: &ByCluster, prefix: &str, cx: &StreamCx<'_>, count: impl FnOnce(&Stats)) {
        let name = cx.info.route.as_ref().map_or("", |route| route.cluster_name());
        if cx.worker.cluster_health(name).is_none() {
            return;
        }
        let mut stats = stats.borrow_mut();
        if !stats.contains_key(name) {
            let scope = cx.worker.stats().child(&format!("cluster.{name}.ratelimit.{prefix}"));
            stats.insert(name.into(), scope.group());
        }
        if let Some(stats) = stats.get(name) {
            count(stats);
        }
    }
}

impl HttpFilter for Filter {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        let settings = &self.settings;
        let is_other = settings.only_internal.is_some_and(|internal| internal != cx.info.is_internal);
        if is_other || !settings.enabled.sample(fastrand::u64(..)) {
            return FilterStatus::Continue;
        }
        let route = cx.route_config::<PerRoute>();
        let descriptors = settings.descriptors(route, head, cx.info);
        if descriptors.is_empty() {
            return FilterStatus::Continue;
        }
        let domain = route.map(|route| route.domain.as_str()).filter(|domain| !domain.is_empty());
        let hits = cx.info.filter_state.text(HITS).and_then(|hits| hits.parse().ok()).unwrap_or(0);
        let message = service::request(domain.unwrap_or(&settings.domain), &descriptors, hits);
        let (settings, stats, worker) = (Arc::clone(settings), Rc::clone(&self.stats), cx.worker.clone());
        let place = Rc::clone(&self.answer);
        FilterStatus::wait(async move {
            let answer = settings.ask(&worker, &message).await;
            Resume::decide(move |head: &mut RequestHead, cx: &mut StreamCx<'_>| {
                let prefix = settings.stat_prefix.as_str();
                match answer {
                    Ok(mut response) => {
                        if let Some(metadata) = response.metadata.take() {
                            cx.info.metadata.merge(&settings.namespace, metadata);
                        }
                        let is_over = response.is_over_limit;
                        Self::count(&stats, prefix, cx, |stats| {
                            if is_over { &stats.over_limit } else { &stats.ok }.inc()
                        });
                        if is_over && settings.enforced.sample(fastrand::u64(..)) {
                            let reply = settings.refusal(&mut response, head, cx.info);
                            // What the service says of its limits is told with every answer.
                            response.response_headers.clear();
                            place.replace(Some(response));
                            return Err(Box::new(reply));
                        }
                        for (name, value) in std::mem::take(&mut response.request_headers) {
                            head.headers.append_sanitized(name.as_str(), value);
                        }
                        place.replace(Some(response));
                        Ok(())
                    }
                    Err(reason) => {
                        Self::count(&stats, prefix, cx, |stats| stats.error.inc());
                        if settings.denies() {
                            let reply = LocalReply::new(settings.failed_status, "", FAILED)
                                .flag(ResponseFlag::RateLimitServiceError)
                                .cause(format!(
                                    "the rate-limit service of cluster {:?} could not be asked: {reason}; the filter's failure_mode_deny makes that an error",
                                    settings.service.cluster
                                ));
                            return Err(Box::new(reply));
                        }
                        Self::count(&stats, prefix, cx, |stats| stats.failure_mode_allowed.inc());
                        Ok(())
                    }
                }
            })
        })
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        _end_stream: bool,
        _cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        if let Some(response) = self.answer.take() {
            for (name, value) in &response.response_headers {
                head.headers.append_sanitized(name.as_str(), value);
            }
            if let Some((limit, remaining, reset)) =
                response.x_ratelimit_headers().filter(|_| self.settings.x_ratelimit_headers)
            {
                head.headers.append_sanitized(&X_LIMIT, limit);
                head.headers.append_sanitized(&X_REMAINING, remaining.to_string());
                head.headers.append_sanitized(&X_RESET, reset.to_string());
            }
        }
        FilterStatus::Continue
    }
}
