//! The HTTP connection manager.
//!
//! A [`connection`] waits for a request and runs a [`stream`] for each. The stream's phases are in files of their own:
//! `request` makes the head ready and finds the route, `filter_chain` takes messages through the filters, `send` lets the
//! response out, `reply` puts an answer of our own in its place, and `finish` counts and logs.

mod connection;
mod filter_chain;
mod filter_side;
mod finish;
mod follow;
pub mod forwarded;
mod http2;
pub mod local_reply;
pub mod machine_address;
pub mod normalize;
mod referer;
mod reply;
mod request;
pub mod request_id;
pub mod response;
mod send;
mod stats;
mod stream;
mod tunnel;

use crate::{
    access_log::{AccessLogs, WorkerAccessLogs},
    context::WorkerContext,
    downstream::Downstream,
    router::{DynamicRoutes, RequestMutations, RouteTable, Router, Routes},
    trace::{TraceConfig, Tracer},
    wire::{
        http1::ServerOptions,
        http2::{Http2Stats, Options as Http2Options},
    },
};
use connection::Connection;
use forwarded::ForwardedRules;
use local_reply::LocalReplies;
use normalize::Normalization;
use response::{DateCache, ResponseFields};
use sota_codec::http1::DecodeOptions;
use sota_config::{
    ConfigErrors, Mark,
    http::{HttpConnectionManager as Model, HttpFilter, HttpFilterKind, RouteSource, RouterConfig},
};
use sota_plugin::{
    FactoryContext,
    filter::{HttpFilterConfig, HttpFilterFactory},
    http::{RequestHead, ResponseHead, StatusCode},
    stats::{Group, Scope},
};
use stats::{CodecStats, HttpStats, ResponseStats};
use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
};

/// A configured connection manager, shared by all threads.
pub struct HttpConnectionManagerConfig {
    model: Arc<Model>,
    server: ServerOptions,
    http2: Http2Options,
    /// The table of the document.
    routes: Option<Arc<RouteTable>>,
    /// Where a control plane brings it.
    dynamic_routes: Option<Arc<DynamicRoutes>>,
    filters: Vec<FilterConfig>,
    upgrades: Vec<UpgradeEntry<FilterConfig>>,
    router: RouterConfig,
    access_logs: Arc<AccessLogs>,
    upstream_logs: Arc<AccessLogs>,
    local_replies: LocalReplies,
    normalization: Normalization,
    early_mutations: RequestMutations,
    forwarded: ForwardedRules,
    response_fields: ResponseFields,
    trace: Option<Arc<TraceConfig>>,
}

struct FilterConfig {
    name: Box<str>,
    is_disabled: bool,
    config: Arc<dyn HttpFilterConfig>,
}

/// An upgrade of which the connection manager has something to say.
struct UpgradeEntry<F> {
    upgrade_type: Box<str>,
    is_enabled: bool,
    /// Filters of its own.
    filters: Option<Vec<F>>,
}

impl HttpConnectionManagerConfig {
    /// Builds filters, routes, logs and rules; fails with every error there is.
    pub fn build(model: &Arc<Model>, cx: &FactoryContext<'_>) -> Result<Arc<Self>, ConfigErrors> {
        let mut errors = Vec::new();
        let stat_prefix = stat_prefix(model);
        let cx = &FactoryContext { stat_prefix: &stat_prefix, ..*cx };
        let (filters, router) = build_filters(&model.http_filters, "http_filters", cx, &mut errors);
        let upgrades = build_upgrades(model, cx, &mut errors);
        let routes = match &model.routes {
            RouteSource::Inline(table) => {
                let path = format!("{}.route_config", cx.path);
                take(RouteTable::build(table, &FactoryContext { path: &path, ..*cx }), &mut errors)
            }
            RouteSource::Rds { .. } => None,
        };
        let dynamic_routes = match &model.routes {
            RouteSource::Inline(_) => None,
            RouteSource::Rds { name, source } => Some(DynamicRoutes::new(name, source)),
        };
        let access_logs = take(AccessLogs::build(&model.access_log, cx), &mut errors);
        let upstream_logs = take(AccessLogs::build(&router.upstream_log, cx), &mut errors);
        let early_mutations = RequestMutations::build(&model.early_header_mutations).unwrap_or_else(|error| {
            errors.push(error.at(&format!("{}.early_header_mutation_extensions", cx.path), cx.mark));
            RequestMutations::default()
        });
        let trace = model.tracing.as_ref().map(|tracing| TraceConfig::build(tracing, cx)).transpose();
        let trace = trace.unwrap_or_else(|error| {
            errors.push(error.at(&format!("{}.tracing", cx.path), cx.mark));
            None
        });
        let local_replies = take(LocalReplies::build(&model.local_reply, cx), &mut errors);
        let (Some(access_logs), Some(upstream_logs), Some(local_replies), true) =
            (access_logs, upstream_logs, local_replies, errors.is_empty())
        else {
            return Err(ConfigErrors(errors));
        };
        Ok(Arc::new(Self {
            server: server_options(model),
            http2: http2_options(model),
            routes,
            dynamic_routes,
            filters,
            upgrades,
            router,
            access_logs,
            upstream_logs,
            local_replies,
            normalization: Normalization::build(model),
            early_mutations,
            forwarded: ForwardedRules::build(model, cx.node, machine_address::machine_address()),
            response_fields: ResponseFields::build(model),
            trace,
            model: Arc::clone(model),
        }))
    }

    /// What it was built from.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Names of the HTTP filters before the router, and whether the chain switches them off.
    pub(crate) fn filters(&self) -> impl Iterator<Item = (&str, bool)> {
        self.filters.iter().map(|filter| (&*filter.name, filter.is_disabled))
    }

    /// Where a control plane brings the routes, if they do not stand in the document.
    pub fn dynamic_routes(&self) -> Option<&Arc<DynamicRoutes>> {
        self.dynamic_routes.as_ref()
    }

    /// The route table of the document, if the routes stand there.
    pub fn routes(&self) -> Option<&Arc<RouteTable>> {
        self.routes.as_ref()
    }
}

/// Takes the value, or collects the errors.
fn take<T>(result: Result<T, ConfigErrors>, errors: &mut Vec<sota_config::ConfigError>) -> Option<T> {
    result.map_err(|found| errors.extend(found.0)).ok()
}

fn build_upgrades(
    model: &Model,
    cx: &FactoryContext<'_>,
    errors: &mut Vec<sota_config::ConfigError>,
) -> Vec<UpgradeEntry<FilterConfig>> {
    let upgrades = model.upgrades.iter().enumerate().map(|(number, upgrade)| UpgradeEntry {
        upgrade_type: upgrade.upgrade_type.as_str().into(),
        is_enabled: upgrade.enabled,
        filters: (!upgrade.filters.is_empty()).then(|| {
            let field = format!("upgrade_configs[{number}].filters");
            build_filters(&upgrade.filters, &field, cx, errors).0
        }),
    });
    upgrades.collect()
}

/// `field`: where they stand.
fn build_filters(
    chain: &[HttpFilter],
    field: &str,
    cx: &FactoryContext<'_>,
    errors: &mut Vec<sota_config::ConfigError>,
) -> (Vec<FilterConfig>, RouterConfig) {
    let mut filters = Vec::new();
    let mut router = None;
    let count = chain.len();
    for (number, filter) in chain.iter().enumerate() {
        let is_last = number + 1 == count;
        match &filter.kind {
            HttpFilterKind::Router(config) if is_last => router = Some(config.clone()),
            HttpFilterKind::Router(_) => {
                let reason = "the router ends the chain: no filter may follow it";
                errors.push(cx.error(&format!("{field}[{number}]"), Mark::NONE, reason));
            }
            HttpFilterKind::Extension(config) => {
                let extension = match cx.registry.http_filters.resolve(config) {
                    Ok(extension) => extension,
                    Err(error) if filter.is_optional => {
                        tracing::warn!("{error}; the filter is optional and left out");
                        continue;
                    }
                    Err(error) => {
                        errors.push(error);
                        continue;
                    }
                };
                match (extension.build)(&config.config, &cx.at(config)) {
                    Ok(config) => {
                        let (name, is_disabled) = (filter.name.as_str().into(), filter.disabled);
                        filters.push(FilterConfig { name, is_disabled, config });
                    }
                    Err(error) => errors.push(error),
                }
            }
        }
    }
    let router = router.unwrap_or_else(|| {
        let reason = "the last HTTP filter must be envoy.filters.http.router";
        errors.push(cx.error(field, Mark::NONE, reason));
        RouterConfig { dynamic_stats: true, ..RouterConfig::default() }
    });
    (filters, router)
}

fn stat_prefix(model: &Model) -> String {
    format!("http.{}.", model.stat_prefix)
}

fn server_options(model: &Model) -> ServerOptions {
    ServerOptions {
        decode: DecodeOptions {
            max_head_bytes: model.max_request_headers_kb as usize * 1024,
            max_fields: model.common.max_headers_count as usize,
            allow_absolute_form: model.http1.allow_absolute_url,
            allow_chunked_length: model.http1.allow_chunked_length,
            underscores: model.common.headers_with_underscores_action,
            ..DecodeOptions::default()
        },
        names: model.http1.header_key_format,
        trailers: model.http1.enable_trailers,
    }
}

fn http2_options(model: &Model) -> Http2Options {
    let max_head_bytes = model.max_request_headers_kb as usize * 1024;
    Http2Options::new(&model.http2, max_head_bytes, &model.common, model.stream_error_on_invalid_http_message)
}

/// A connection manager on one worker.
pub struct HttpConnectionManager {
    config: Arc<HttpConnectionManagerConfig>,
    context: Rc<WorkerContext>,
    stats: Group<HttpStats>,
    /// Of the manager and of its listener.
    response_stats: [Group<ResponseStats>; 2],
    codec_stats: Group<CodecStats>,
    /// There once a client speaks HTTP/2, as in Envoy.
    http2_stats: OnceCell<Group<Http2Stats>>,
    routes: RefCell<Option<Rc<Routes>>>,
    /// Of [`Self::routes`], where a control plane brings them.
    routes_version: Cell<u64>,
    filters: Vec<FilterFactory>,
    upgrades: Vec<UpgradeEntry<FilterFactory>>,
    router: Rc<Router>,
    tracer: Option<Rc<Tracer>>,
    access_logs: WorkerAccessLogs,
    dates: DateCache,
    /// Heads of streams that have ended, with their memory.
    heads: RefCell<Vec<(Box<RequestHead>, Box<ResponseHead>)>>,
}

struct FilterFactory {
    name: Box<str>,
    is_disabled: bool,
    factory: Box<dyn HttpFilterFactory>,
}

/// So many heads are kept for the next streams.
const KEPT_HEADS: usize = 64;

impl HttpConnectionManager {
    /// The worker's part. `listener`: what the listener counts stands below this.
    pub fn for_worker(
        config: &Arc<HttpConnectionManagerConfig>,
        context: &Rc<WorkerContext>,
        listener: &Scope,
    ) -> Rc<Self> {
        let cx = &context.cx;
        let prefix = stat_prefix(&config.model);
        let factories = |filters: &[FilterConfig]| {
            let factories = filters.iter().map(|filter| FilterFactory {
                name: filter.name.clone(),
                is_disabled: filter.is_disabled,
                factory: filter.config.for_worker(cx),
            });
            factories.collect::<Vec<_>>()
        };
        let upgrades = config.upgrades.iter().map(|upgrade| UpgradeEntry {
            upgrade_type: upgrade.upgrade_type.clone(),
            is_enabled: upgrade.is_enabled,
            filters: upgrade.filters.as_deref().map(factories),
        });
        let tracer = config.trace.as_ref().map(|config| Tracer::new(config, context));
        Rc::new(Self {
            context: Rc::clone(context),
            stats: cx.stats().child(&prefix).group(),
            response_stats: [cx.stats(), listener].map(|scope| scope.child(&prefix).group()),
            codec_stats: cx.stats().child("http1.").group(),
            http2_stats: OnceCell::new(),
            routes: RefCell::new(config.routes.as_ref().map(Routes::for_worker)),
            routes_version: Cell::new(0),
            filters: factories(&config.filters),
            upgrades: upgrades.collect(),
            router: Rc::new(Router {
                dynamic_stats: config.router.dynamic_stats,
                max_stream_duration: config.model.common.max_stream_duration,
                respect_expected_rq_timeout: config.router.respect_expected_rq_timeout,
                suppress_envoy_headers: config.router.suppress_envoy_headers,
                tells_own_clients: config.model.add_proxy_protocol_connection_state,
                upstream_logs: config.upstream_logs.for_worker(cx),
                tracer: tracer.clone(),
                machine_address: machine_address::machine_address(),
                stats: cx.stats().clone(),
                context: Rc::clone(context),
            }),
            tracer,
            access_logs: config.access_logs.for_worker(cx),
            dates: DateCache::default(),
            heads: RefCell::default(),
            config: Arc::clone(config),
        })
    }

    /// The routes for the next stream, which keeps them.
    fn routes(&self) -> Option<Rc<Routes>> {
        if let Some(dynamic) = &self.config.dynamic_routes {
            let version = dynamic.version();
            if version != self.routes_version.get() {
                self.routes.replace(dynamic.brought().map(|brought| Routes::for_worker(&brought.table)));
                self.routes_version.set(version);
            }
        }
        self.routes.borrow().clone()
    }

    /// Serves a connection until it ends.
    // No `async fn`, whose future would have room for the connection twice.
    pub fn serve(self: Rc<Self>, downstream: Downstream) -> impl Future<Output = ()> + 'static {
        Connection::new(self, downstream).serve()
    }

    fn count_response(&self, status: StatusCode) {
        self.response_stats.iter().for_each(|stats| stats.count(status));
    }

    fn take_heads(&self) -> (Box<RequestHead>, Box<ResponseHead>) {
        self.heads.borrow_mut().pop().unwrap_or_default()
    }

    fn keep_heads(&self, mut request: Box<RequestHead>, mut response: Box<ResponseHead>) {
        let mut heads = self.heads.borrow_mut();
        if heads.len() < KEPT_HEADS {
            request.recycle();
            response.recycle();
            heads.push((request, response));
        }
    }
}
