//! Clusters with real hosts, on workers of their own.

mod balancing;
mod choosing;
mod extension;
mod limits;
mod pools;
mod protocols;
mod services;
mod updates;
mod zones;

use super::*;
use crate::local::{Local, Process};
use sota_config::{
    Mark,
    address::Address,
    bootstrap::NodeInfo,
    cluster::{Cluster as Model, Discovery as Source, Endpoint, HealthStatus, LoadAssignment, LocalityEndpoints},
    load_balancer::{LbConfig, LbPolicy, LeastRequest},
};
use sota_plugin::{
    FactoryContext,
    access_log::{LogFile, LogOpener},
    stats::{Kind, Reading, Registry},
};
use std::{
    collections::BTreeMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

struct NoLogs;

impl LogOpener for NoLogs {
    fn open(&self, _: &str) -> std::io::Result<Arc<dyn LogFile>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// Calls back with a context in which clusters can be built.
pub(super) fn with_factory<R>(f: impl FnOnce(&FactoryContext<'_>) -> R) -> R {
    let logs: Arc<dyn LogOpener> = Arc::new(NoLogs);
    f(&FactoryContext {
        registry: &sota_plugin::Registry::default(),
        logs: &logs,
        runtime: &Arc::default(),
        node: &NodeInfo::default(),
        secrets: &Arc::default(),
        stat_prefix: "",
        clusters: None,
        path: "static_resources.clusters[0]",
        mark: Mark::NONE,
    })
}

pub(super) fn build(model: Model) -> Arc<ClusterConfig> {
    with_factory(|cx| ClusterConfig::build(&Arc::new(model), cx).unwrap())
}

pub(super) fn build_next(model: Model, before: &ClusterConfig) -> Arc<ClusterConfig> {
    with_factory(|cx| ClusterConfig::build_next(&Arc::new(model), Some(before), cx).unwrap())
}

pub(super) fn discover(worker: &Worker, config: &Arc<ClusterConfig>) -> Discovery {
    Discovery::start(
        config,
        &DiscoveryCx { local: &worker.local, resolver: None, outlier_log: None, tell_workers: Rc::new(|_| {}) },
    )
}

pub(super) fn endpoint(address: Address) -> Endpoint {
    Endpoint {
        address,
        additional_addresses: Vec::new(),
        hostname: String::new(),
        weight: 1,
        health: HealthStatus::Unknown,
        metadata: None,
        health_check: None,
    }
}

pub(super) fn at(address: SocketAddr) -> Endpoint {
    endpoint(Address::Ip { ip: address.ip(), port: address.port(), ipv4_compat: false })
}

/// An endpoint that nobody connects to.
fn named(last: u8, weight: u32) -> Endpoint {
    Endpoint { weight, ..at(SocketAddr::from(([10, 0, 0, last], 80))) }
}

pub(super) fn model(endpoints: Vec<Endpoint>) -> Model {
    let locality = LocalityEndpoints { locality: Default::default(), priority: 0, weight: None, endpoints };
    Model {
        request_names: None,
        name: "web".to_owned(),
        stat_name: String::new(),
        discovery: Source::Static,
        load_assignment: LoadAssignment { localities: vec![locality], overprovisioning_factor: 140 },
        connect_timeout: Duration::from_secs(5),
        preconnect_ratio: 1.0,
        track: Default::default(),
        proxy_protocol: None,
        per_connection_buffer_limit_bytes: 1 << 20,
        lb_policy: LbPolicy::RoundRobin,
        lb_config: LbConfig::default(),
        circuit_breakers: Default::default(),
        protocol: Default::default(),
        http: Default::default(),
        http1: Default::default(),
        http2: Default::default(),
        upstream_bind_config: None,
        tcp_keepalive: None,
        transport_socket: None,
        transport_socket_matches: Vec::new(),
        metadata: None,
        dns_resolver: None,
        health_check: None,
        outlier_detection: None,
        close_connections_on_host_health_failure: false,
        ignore_health_on_host_removal: false,
        deadline_header: None,
        overload: None,
        source: None,
    }
}

/// A worker with its table, and all stats of the process.
pub(super) struct Worker {
    pub(super) clusters: Clusters,
    pub(super) local: Rc<Local>,
    pub(super) registry: Registry,
}

impl Worker {
    fn cluster(&self, config: &Arc<ClusterConfig>) -> Rc<Cluster> {
        self.clusters.set(config);
        self.clusters.get(config.name()).unwrap()
    }

    /// The sum of a stat over all threads.
    pub(super) fn stat(&self, name: &str) -> i64 {
        stat(&self.registry, name)
    }
}

pub(super) fn stat(registry: &Registry, name: &str) -> i64 {
    let mut all = BTreeMap::<String, i64>::new();
    for scope in registry.scopes() {
        scope.visit(&[Kind::Counter, Kind::Gauge, Kind::Histogram], |_, stat, reading| {
            let value = match reading {
                Reading::Counter { value, .. } => value.cast_signed(),
                Reading::Gauge { value, .. } => value,
                Reading::Histogram(cell) => {
                    let mut count = 0;
                    cell.visit(|_, n| count += n.cast_signed());
                    count
                }
                Reading::Text(_) => 0,
            };
            *all.entry([scope.prefix(), stat].concat()).or_default() += value;
        });
    }
    *all.get(name).unwrap_or_else(|| panic!("no stat {name}"))
}

/// Runs a test on a worker, for at most ten seconds.
pub(super) fn on_worker<F: Future<Output = ()>>(test: impl FnOnce(Rc<Worker>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async {
        let registry = Registry::new();
        let local = Local::new(0, Arc::new(Process::default()), registry.shard());
        let worker = Rc::new(Worker { clusters: Clusters::new(&local), local: Rc::clone(&local), registry });
        let mut test = Box::pin(test(worker));
        let test = local.clocked(test.as_mut());
        tokio::time::timeout(Duration::from_secs(10), test).await.expect("the test takes too long");
    });
}

/// Waits until `done`, for at most two seconds.
pub(super) async fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// One GET over a connection of its own choice; the response's octets.
pub(super) async fn get(connection: &OwnConnection) -> String {
    connection.socket.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    loop {
        connection.socket.fill(16 * 1024).await.unwrap();
        let whole = connection.socket.with_input(|input| {
            let text = String::from_utf8_lossy(input).into_owned();
            let done = text.split_once("\r\n\r\n").is_some_and(|(_, body)| !body.is_empty());
            (if done { input.len() } else { 0 }, done.then_some(text))
        });
        if let Some(text) = whole {
            return text;
        }
    }
}

/// A connection for one HTTP/1 request.
async fn own(cluster: &Cluster, host: &WorkerHost, priority: usize) -> Result<OwnConnection, PoolFailure> {
    match cluster.http_connection(host, None, priority).await? {
        HttpConnection::Http1(own) => Ok(own),
        HttpConnection::Http2(_) => panic!("HTTP/2 was not asked for"),
    }
}
