//! `envoy.filters.http.local_ratelimit`: answers with 429 what is more than a token bucket of this process allows.

mod limiter;
#[cfg(test)]
mod tests;

use crate::{header_options, http_status, lazy_stats::LazyStats, matchers};
use limiter::{Bucket, Limiter, Limits};
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    access_log::LogKind,
    cx::{StreamCx, WorkerCx},
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, LocalReply},
    format::FormatCx,
    http::{HeaderId, HeaderName, RequestHead, ResponseHead, StatusCode},
    info::{FilterStateValue, ResponseFlag, StreamInfo},
    matcher::{FractionalPercent, HeaderMutations},
    rate_limit::{Descriptor, RateLimits},
    stat_group,
};
use std::{any::Any, cell::RefCell, rc::Rc, sync::Arc, time::Instant};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.local_ratelimit",
    short_name: "local_ratelimit",
    type_urls: &["envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"],
};

const DETAILS: &str = "local_rate_limited";
const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// The gRPC status "resource exhausted".
const RESOURCE_EXHAUSTED: u32 = 8;

stat_group! {
    /// `<stat_prefix>.http_local_rate_limit.`
    struct Stats {
        /// Requests that were counted.
        enabled: shared_counter,
        /// Those that were answered with the configured status.
        enforced: shared_counter,
        /// Those that were too many, answered or not.
        rate_limited: shared_counter,
        /// Those that were not.
        ok: shared_counter,
        /// Those that were too many for a descriptor in shadow mode.
        shadow_mode: shared_counter,
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let TypedConfig::Value { node, .. } = config else {
        return Err(cx.error("", cx.mark, "the local rate limit filter needs a configuration with \"stat_prefix\""));
    };
    Ok(Arc::new(Config(Arc::new(Settings::read(node, cx)?))))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    match config {
        TypedConfig::Value { node, .. } if node.has("token_bucket") => {
            Ok(Arc::new(Shared(Arc::new(Settings::read(node, cx)?))))
        }
        _ => Err(cx.error("", cx.mark, "local rate limit token bucket must be set for per filter configs")),
    }
}

struct Config(Arc<Settings>);

/// What a level of the route says.
struct Shared(Arc<Settings>);

/// `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`
struct Settings {
    status: StatusCode,
    limits: Limits,
    /// The buckets that all connections share.
    limiter: Limiter,
    is_per_connection: bool,
    /// `None`: never.
    enabled: Option<FractionalPercent>,
    enforced: Option<FractionalPercent>,
    request_headers: HeaderMutations,
    response_headers: HeaderMutations,
    stage: u32,
    x_ratelimit_headers: bool,
    retry_after: bool,
    virtual_host_limits: VirtualHostLimits,
    grpc_status: Option<u32>,
    /// Count instead of the route's.
    rate_limits: RateLimits,
    local_cluster: String,
    stats: LazyStats<Stats>,
}

/// `envoy.extensions.common.ratelimit.v3.VhRateLimitsOptions`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VirtualHostLimits {
    /// Where the route has none.
    Override,
    Include,
    Ignore,
}

impl Settings {
    fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let limits = Limits::read(node, cx)?;
        let rate_limits = RateLimits::read(node.list("rate_limits"));
        let grpc_status = node.bool("rate_limited_as_resource_exhausted").then_some(RESOURCE_EXHAUSTED);
        Ok(Self {
            status: http_status::error(node, "status", StatusCode::TOO_MANY_REQUESTS, cx)?,
            limiter: Limiter::new(&limits),
            limits,
            is_per_connection: node.bool("local_rate_limit_per_downstream_connection"),
            enabled: matchers::fraction(node, "filter_enabled", cx),
            enforced: matchers::fraction(node, "filter_enforced", cx),
            request_headers: header_options::additions(node, "request_headers_to_add_when_not_enforced", cx)?,
            response_headers: header_options::additions(node, "response_headers_to_add", cx)?,
            stage: node.u32("stage").unwrap_or(0),
            x_ratelimit_headers: node.str("enable_x_ratelimit_headers") == "DRAFT_VERSION_03",
            retry_after: node.bool("enable_retry_after_header"),
            virtual_host_limits: match node.str("vh_rate_limits") {
                "INCLUDE" => VirtualHostLimits::Include,
                "IGNORE" => VirtualHostLimits::Ignore,
                _ => VirtualHostLimits::Override,
            },
            grpc_status,
            rate_limits: rate_limits.map_err(|error| cx.place(error.at("rate_limits", node.mark)))?,
            local_cluster: cx.node.cluster.clone(),
            stats: LazyStats::new(format!("{}.http_local_rate_limit.", node.str("stat_prefix"))),
        })
    }

    fn descriptors(&self, head: &RequestHead, info: &StreamInfo) -> Vec<Descriptor> {
        let mut out = Vec::new();
        let stage = (self.stage, &(|_: &str| false) as &dyn Fn(&str) -> bool);
        let mut add = |limits: &RateLimits| limits.descriptors(stage, &self.local_cluster, head, info, &mut out);
        if !self.limits.has_descriptors() {
            return out;
        }
        if !self.rate_limits.is_empty() {
            add(&self.rate_limits);
            return out;
        }
        let Some(limits) = info.route.as_ref().and_then(|route| route.rate_limits()) else { return out };
        add(&limits.route);
        let includes = match self.virtual_host_limits {
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

    /// The limiter that counts requests of this connection.
    fn with_limiter<R>(self: &Arc<Self>, info: &StreamInfo, f: impl FnOnce(&Limiter) -> R) -> R {
        if !self.is_per_connection {
            return f(&self.limiter);
        }
        let mut state = info.connection.filter_state.borrow_mut();
        if state.get::<ConnectionLimiters>(ConnectionLimiters::NAME).is_none() {
            state.set(ConnectionLimiters::NAME, Rc::new(ConnectionLimiters::default()));
        }
        let Some(limiters) = state.get::<ConnectionLimiters>(ConnectionLimiters::NAME) else { return f(&self.limiter) };
        let mut limiters = limiters.0.borrow_mut();
        let at = limiters.iter().position(|(settings, _)| Arc::ptr_eq(settings, self)).unwrap_or_else(|| {
            limiters.push((Arc::clone(self), Limiter::new(&self.limits)));
            limiters.len() - 1
        });
        limiters.get(at).map_or_else(|| unreachable!("it was found or added"), |(_, limiter)| f(limiter))
    }

    fn reply(&self, bucket: Option<&Bucket>, head: &RequestHead, info: &StreamInfo, now: Instant) -> LocalReply {
        let mut reply = LocalReply::new(self.status, DETAILS, DETAILS).flag(ResponseFlag::RateLimited);
        let cx = FormatCx { request: Some(head), ..FormatCx::new(info, LogKind::NotSet) };
        self.response_headers.apply(&mut reply.headers, &cx);
        if self.retry_after && self.status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = bucket.map_or(1, |bucket| reset_seconds(bucket, now).max(1));
            if !reply.headers.contains(HeaderId::RetryAfter) {
                reply.headers.set_sanitized(HeaderId::RetryAfter, seconds.to_string());
            }
        }
        reply.grpc_status = self.grpc_status;
        reply
    }
}

/// Whole seconds in which an empty bucket gets a token.
// Compat: Envoy does not count from when the last one came.
fn reset_seconds(bucket: &Bucket, now: Instant) -> u64 {
    if bucket.tokens.available(now) > 0 { 0 } else { (1.0 / bucket.tokens.rate() + 0.001) as u64 }
}

/// The limiters of a connection, by what configures them.
#[derive(Default)]
struct ConnectionLimiters(RefCell<Vec<(Arc<Settings>, Limiter)>>);

impl ConnectionLimiters {
    const NAME: &str = "per_connection_local_rate_limiter";
}

impl FilterStateValue for ConnectionLimiters {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl HttpFilterConfig for Config {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        self.0.stats.get(cx);
        Box::new(Factory(Arc::clone(&self.0)))
    }
}

struct Factory(Arc<Settings>);

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        Some(Box::new(Filter { settings: Arc::clone(&self.0), shown: None }))
    }
}

struct Filter {
    settings: Arc<Settings>,
    /// The bucket that the response tells of.
    shown: Option<Arc<Bucket>>,
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
        if let Some(Shared(settings)) = cx.route_config() {
            self.settings = Arc::clone(settings);
        }
        let settings = &self.settings;
        let samples = |share: &Option<FractionalPercent>| share.as_ref().is_some_and(|s| s.sample(fastrand::u64(..)));
        if !samples(&settings.enabled) {
            return FilterStatus::Continue;
        }
        let stats = settings.stats.get(cx.worker);
        stats.enabled.inc();
        let descriptors = settings.descriptors(head, cx.info);
        let now = Instant::now();
        let verdict = settings.with_limiter(cx.info, |limiter| limiter.check(&descriptors, now));
        let is_shadow = verdict.bucket.as_ref().is_some_and(|bucket| bucket.is_shadow);
        let bucket = verdict.bucket.clone();
        self.shown = verdict.bucket.filter(|_| verdict.x_ratelimit_headers.unwrap_or(settings.x_ratelimit_headers));
        if verdict.is_allowed {
            stats.ok.inc();
            return FilterStatus::Continue;
        }
        stats.rate_limited.inc();
        if is_shadow {
            stats.shadow_mode.inc();
        }
        if is_shadow || !samples(&settings.enforced) {
            settings.request_headers.apply_request(head, cx.info);
            return FilterStatus::Continue;
        }
        stats.enforced.inc();
        FilterStatus::reply(settings.reply(bucket.as_deref(), head, cx.info, now))
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        _end_stream: bool,
        _cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        if let Some(bucket) = &self.shown {
            let now = Instant::now();
            head.headers.append_sanitized(&X_LIMIT, bucket.tokens.max().to_string());
            head.headers.append_sanitized(&X_REMAINING, bucket.tokens.available(now).to_string());
            head.headers.append_sanitized(&X_RESET, reset_seconds(bucket, now).to_string());
        }
        FilterStatus::Continue
    }
}
