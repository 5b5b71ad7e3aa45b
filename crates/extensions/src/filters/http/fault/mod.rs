//! `envoy.filters.http.fault`: delays or aborts a part of the requests and slows down responses, to see how the others
//! bear it.

mod settings;
#[cfg(test)]
mod tests;

use super::slow_body::{self, Pace};
use bytes::Bytes;
use settings::{Abort, Settings};
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{Bodies, DataStatus, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, LocalReply, Resume},
    http::{HeaderId, RequestHead},
    info::{ResponseFlag, StreamInfo},
    stat_group,
    stats::{Counter, Group, OVERFLOW, Scope, SharedGauge},
};
use std::{
    any::Any,
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.fault",
    short_name: "fault",
    type_urls: &["envoy.extensions.filters.http.fault.v3.HTTPFault"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["envoy.extensions.filters.http.fault.v3.HTTPFault"],
};

/// So many names of downstream clusters have counters of their own: they come from requests.
const MAX_CLUSTERS: usize = 100;

stat_group! {
    /// `http.<stat_prefix>.fault.`
    struct Stats {
        /// Requests aborted.
        aborts_injected: counter,
        /// Requests delayed.
        delays_injected: counter,
        /// Faults that were left out, as too many were active.
        faults_overflow: counter,
        /// Responses slowed down.
        response_rl_injected: counter,
    }
}

/// What a level of the route or the filter itself says.
struct Shared(Arc<Settings>);

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    Ok(Arc::new(Config { settings: read(config, cx)?, stat_prefix: format!("{}fault.", cx.stat_prefix) }))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    Ok(Arc::new(Shared(read(config, cx)?)))
}

fn read(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<Settings>, ConfigError> {
    let none = Node::map();
    let node = match config {
        TypedConfig::Value { node, .. } => node,
        _ => &none,
    };
    Settings::read(node, cx).map(Arc::new)
}

struct Config {
    settings: Arc<Settings>,
    stat_prefix: String,
}

impl HttpFilterConfig for Config {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        let scope = cx.stats().child(&self.stat_prefix);
        Box::new(Factory(Rc::new(Worker {
            settings: Arc::clone(&self.settings),
            stats: scope.group(),
            active: scope.shared_gauge("active_faults"),
            clusters: RefCell::default(),
            scope,
        })))
    }
}

struct Factory(Rc<Worker>);

/// The worker's part.
struct Worker {
    settings: Arc<Settings>,
    stats: Group<Stats>,
    /// Requests with a fault now, on all workers.
    active: SharedGauge,
    clusters: RefCell<HashMap<Box<str>, Rc<ClusterStats>>>,
    scope: Scope,
}

/// Of the requests that say they come from one service. A counter is there once it has counted.
struct ClusterStats {
    scope: Scope,
    aborts_injected: OnceCell<Counter>,
    delays_injected: OnceCell<Counter>,
}

impl ClusterStats {
    fn count_abort(&self) {
        self.aborts_injected.get_or_init(|| self.scope.counter("aborts_injected")).inc();
    }

    fn count_delay(&self) {
        self.delays_injected.get_or_init(|| self.scope.counter("delays_injected")).inc();
    }
}

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        Some(Box::new(Filter { worker: Rc::clone(&self.0), fault: Rc::default(), slow: None }))
    }
}

impl Worker {
    fn cluster(&self, name: &str) -> Rc<ClusterStats> {
        let mut clusters = self.clusters.borrow_mut();
        let name = if clusters.len() < MAX_CLUSTERS || clusters.contains_key(name) { name } else { OVERFLOW };
        if let Some(found) = clusters.get(name) {
            return Rc::clone(found);
        }
        let scope = self.scope.child(&format!("{name}."));
        let stats = Rc::new(ClusterStats { scope, aborts_injected: OnceCell::new(), delays_injected: OnceCell::new() });
        clusters.insert(name.into(), Rc::clone(&stats));
        stats
    }
}

struct Filter {
    worker: Rc<Worker>,
    fault: Rc<Fault>,
    slow: Option<Pace>,
}

/// Counts the request among those with a fault until it ends.
#[derive(Default)]
struct Fault(Cell<Option<SharedGauge>>);

impl Fault {
    /// False when too many requests have one.
    fn begin(&self, worker: &Worker, settings: &Settings) -> bool {
        let mine = self.0.take();
        if mine.is_none() {
            if u64::try_from(worker.active.value()).unwrap_or(0) >= settings.max_active_faults() {
                worker.stats.faults_overflow.inc();
                return false;
            }
            worker.active.inc();
        }
        self.0.set(mine.or_else(|| Some(worker.active.clone())));
        true
    }

    fn end(&self) {
        if let Some(active) = self.0.take() {
            active.dec();
        }
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.end();
    }
}

impl HttpFilter for Filter {
    fn bodies(&self) -> Bodies {
        Bodies::Response
    }

    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        let settings = cx.route_config().map_or(&self.worker.settings, |Shared(settings)| settings).clone();
        if !settings.concerns(head, cx) {
            return FilterStatus::Continue;
        }
        let cluster = head.headers.get_str(HeaderId::XEnvoyDownstreamServiceCluster);
        let counted = cluster
            .filter(|name| !name.is_empty() && settings.counts_downstream_clusters)
            .map(|name| self.worker.cluster(name));
        if let Some(rate) = settings.response_rate(head).filter(|_| self.fault.begin(&self.worker, &settings)) {
            self.worker.stats.response_rl_injected.inc();
            let interval = slow_body::FILL_INTERVAL;
            self.slow = Some(Pace { bucket: Arc::new(slow_body::bucket(rate, interval)), interval });
        }
        let delay = settings.delay(head, cluster).filter(|_| self.fault.begin(&self.worker, &settings));
        let Some(delay) = delay else {
            return match settings.abort(head, cluster).filter(|_| self.fault.begin(&self.worker, &settings)) {
                Some(abort) => {
                    note_metadata(&settings, cx);
                    FilterStatus::reply(injected(&self.worker, &settings, counted.as_deref(), abort))
                }
                None => FilterStatus::Continue,
            };
        };
        self.worker.stats.delays_injected.inc();
        if let Some(counted) = &counted {
            counted.count_delay();
        }
        note_metadata(&settings, cx);
        cx.info.response_flags.set(ResponseFlag::DelayInjected);
        let abort = settings.abort(head, cluster);
        let (worker, fault, sleep) = (Rc::clone(&self.worker), Rc::clone(&self.fault), cx.worker.sleep(delay));
        FilterStatus::wait(async move {
            sleep.await;
            match abort {
                Some(abort) => Resume::Reply(Box::new(injected(&worker, &settings, counted.as_deref(), abort))),
                None => {
                    if !settings.slows_responses() {
                        fault.end();
                    }
                    Resume::Continue
                }
            }
        })
    }

    fn on_response_data(&mut self, data: &mut Bytes, end_stream: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        self.slow.as_ref().map_or(DataStatus::Continue, |slow| slow.pass(data, end_stream, &Rc::new(()), cx))
    }
}

/// The reply that aborts, counted.
fn injected(worker: &Worker, settings: &Settings, cluster: Option<&ClusterStats>, abort: Abort) -> LocalReply {
    worker.stats.aborts_injected.inc();
    if let Some(cluster) = cluster {
        cluster.count_abort();
    }
    let mut reply = LocalReply::new(abort.status, settings.abort_body.clone(), "fault_filter_abort");
    reply.grpc_status = abort.grpc_status;
    reply.flag(ResponseFlag::FaultInjected)
}

fn note_metadata(settings: &Settings, cx: &mut StreamCx<'_>) {
    cx.info.metadata.merge(EXTENSION.name, settings.metadata.clone());
}
