//! A worker, connections, streams and logs for the tests of extensions.

use sota_config::{ConfigErrors, Mark, Node, TypedConfig, bootstrap::NodeInfo};
use sota_envoy::CheckOptions;
use sota_plugin::{
    FactoryContext, LocalFuture,
    access_log::{LogFile, LogOpener},
    cx::{ClusterHealth, Effects, StreamCx, WorkerCx, WorkerServices},
    filter::{ListenerCx, ListenerFilter, Peek},
    http::{Headers, Protocol, RequestHead},
    info::{ConnectionInfo, RouteInfo, StreamInfo},
    rate_limit::RouteRateLimits,
    runtime::Runtime,
    stats::{Kind, Reading, Registry},
    upstream::Cluster,
};
use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// A worker on which time stands still and tasks never run.
pub(crate) fn worker() -> WorkerCx {
    FakeWorker::default().cx()
}

/// A worker whose time goes on when a test says so.
#[derive(Clone, Default)]
pub(crate) struct FakeWorker(Rc<WorkerState>);

#[derive(Default)]
struct WorkerState {
    stats: Registry,
    is_failing: Cell<bool>,
    clusters: RefCell<HashMap<String, ClusterHealth>>,
    /// How often sleeping has ended; sleeps that began before are over.
    wakes: Rc<Cell<u32>>,
    slept: RefCell<Vec<Duration>>,
    tasks: RefCell<Vec<LocalFuture<()>>>,
}

impl FakeWorker {
    pub(crate) fn cx(&self) -> WorkerCx {
        WorkerCx::new(0, self.0.stats.shard(), Rc::clone(&self.0) as _)
    }

    /// Ends every sleep and runs the tasks as far as they go.
    pub(crate) fn sleep_ends(&self) {
        self.0.wakes.set(self.0.wakes.get() + 1);
        let tasks = self.0.tasks.take();
        let mut cx = Context::from_waker(Waker::noop());
        let left = tasks.into_iter().filter_map(|mut task| task.as_mut().poll(&mut cx).is_pending().then_some(task));
        self.0.tasks.borrow_mut().extend(left);
    }

    /// How many tasks there are.
    pub(crate) fn tasks(&self) -> usize {
        self.0.tasks.borrow().len()
    }

    /// How long tasks wanted to sleep.
    pub(crate) fn slept(&self) -> Vec<Duration> {
        self.0.slept.borrow().clone()
    }

    pub(crate) fn fail_health_checks(&self, failing: bool) {
        self.0.is_failing.set(failing);
    }

    pub(crate) fn set_cluster(&self, name: &str, health: ClusterHealth) {
        self.0.clusters.borrow_mut().insert(name.to_owned(), health);
    }

    /// The counters that are not 0, by name.
    pub(crate) fn counters(&self) -> Vec<(String, u64)> {
        let mut found = BTreeMap::new();
        for scope in self.0.stats.scopes() {
            scope.visit(&[Kind::Counter], |_, name, reading| {
                if let Reading::Counter { value: value @ 1.., .. } = reading {
                    *found.entry(format!("{}{name}", scope.prefix())).or_default() += value;
                }
            });
        }
        found.into_iter().collect()
    }
}

impl WorkerServices for WorkerState {
    fn sleep(&self, time: Duration) -> LocalFuture<()> {
        self.slept.borrow_mut().push(time);
        let (wakes, begun) = (Rc::clone(&self.wakes), self.wakes.get());
        Box::pin(std::future::poll_fn(move |_| if wakes.get() > begun { Poll::Ready(()) } else { Poll::Pending }))
    }

    fn spawn(&self, task: LocalFuture<()>, _: bool) {
        self.tasks.borrow_mut().push(task);
    }

    fn is_draining(&self) -> bool {
        false
    }

    fn is_health_check_failing(&self) -> bool {
        self.is_failing.get()
    }

    fn cluster_health(&self, cluster: &str) -> Option<ClusterHealth> {
        self.clusters.borrow().get(cluster).copied()
    }

    fn cluster(&self, _: &str, _: &WorkerCx) -> Option<Cluster> {
        None
    }

    fn next_stream_id(&self) -> u64 {
        0
    }
}

/// Logs that keep what they are given, piece by piece. What stands below `/refused/` cannot be opened.
#[derive(Default)]
pub(crate) struct Logs(Arc<Mutex<HashMap<String, Vec<String>>>>);

struct OpenLog(Arc<Mutex<HashMap<String, Vec<String>>>>, String);

impl Logs {
    pub(crate) fn written(&self, path: &str) -> Vec<String> {
        self.0.lock().unwrap().get(path).cloned().unwrap_or_default()
    }
}

impl LogOpener for Logs {
    fn open(&self, path: &str) -> Result<Arc<dyn LogFile>, io::Error> {
        if path.starts_with("/refused/") {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Arc::new(OpenLog(Arc::clone(&self.0), path.to_owned())))
    }
}

impl LogFile for OpenLog {
    fn write(&self, lines: &[u8]) {
        let text = String::from_utf8(lines.to_vec()).unwrap();
        self.0.lock().unwrap().entry(self.1.clone()).or_default().push(text);
    }
}

/// What there is while an extension is built; it stands at `here` and its stats below `http.test.`.
pub(crate) fn factory_cx<R>(logs: &Arc<Logs>, then: impl FnOnce(&FactoryContext<'_>) -> R) -> R {
    let logs: Arc<dyn LogOpener> = Arc::clone(logs) as _;
    then(&FactoryContext {
        registry: &sota_plugin::Registry::default(),
        logs: &logs,
        runtime: &Arc::new(Runtime::default()),
        node: &NodeInfo { cluster: "our-cluster".into(), ..NodeInfo::default() },
        secrets: &Arc::default(),
        stat_prefix: "http.test.",
        clusters: None,
        path: "here",
        mark: Mark::NONE,
    })
}

/// The same for extensions that open no log.
pub(crate) fn building<R>(then: impl FnOnce(&FactoryContext<'_>) -> R) -> R {
    factory_cx(&Arc::default(), then)
}

/// YAML as the configuration of one of Envoy's messages, checked and normalised.
pub(crate) fn config(message: &str, yaml: &str) -> TypedConfig {
    let options = CheckOptions {
        static_config: true,
        allow_unknown_fields: false,
        allow_unsupported: false,
        relaxed: false,
        claims: &|_| false,
    };
    let (node, errors) = sota_envoy::check(&parse(yaml), message, &options);
    assert!(!errors.is_fatal(), "{errors}");
    TypedConfig::Value { type_url: Some(message.to_owned()), node: Arc::new(node) }
}

/// YAML as the configuration of an extension, as it stands.
pub(crate) fn unchecked(yaml: &str) -> TypedConfig {
    TypedConfig::Value { type_url: None, node: Arc::new(parse(yaml)) }
}

fn parse(yaml: &str) -> Node {
    sota_envoy::parse_text(yaml.as_bytes()).unwrap_or_else(|errors: ConfigErrors| panic!("{errors}"))
}

/// A connection from 127.0.0.1:1 to 127.0.0.1:2.
pub(crate) fn connection() -> ConnectionInfo {
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port)).into();
    ConnectionInfo::new(0, address(1), address(2))
}

/// A stream of HTTP/1.1 without a route.
pub(crate) fn stream() -> StreamInfo {
    StreamInfo::new(Rc::new(connection()), 1, Some(Protocol::Http11))
}

/// A route with configuration of filters.
#[derive(Default)]
pub(crate) struct Route {
    /// From the most general level to the most specific, for every filter.
    pub(crate) configs: Vec<Arc<dyn Any + Send + Sync>>,
    /// It answers itself.
    pub(crate) is_direct: bool,
    /// Where it forwards to.
    pub(crate) cluster: String,
    pub(crate) rate_limits: Option<RouteRateLimits>,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Route")
    }
}

impl RouteInfo for Route {
    fn name(&self) -> &str {
        "route"
    }

    fn is_forwarding(&self) -> bool {
        !self.is_direct
    }

    fn cluster_name(&self) -> &str {
        &self.cluster
    }

    fn rate_limits(&self) -> Option<&RouteRateLimits> {
        self.rate_limits.as_ref()
    }

    fn virtual_host(&self) -> &str {
        "host"
    }

    fn route_configuration(&self) -> &str {
        "table"
    }

    fn metadata(&self) -> Option<&Arc<Node>> {
        None
    }

    fn filter_configs<'a>(&'a self, _: &'a str) -> Box<dyn Iterator<Item = &'a (dyn Any + Send + Sync)> + 'a> {
        Box::new(self.configs.iter().map(|config| &**config))
    }

    fn filter_config(&self, _: &str) -> Option<&(dyn Any + Send + Sync)> {
        self.configs.last().map(|config| &**config)
    }
}

/// What a stream has beside its filter.
pub(crate) struct Stream {
    pub(crate) worker: FakeWorker,
    pub(crate) info: StreamInfo,
    pub(crate) request: RequestHead,
    pub(crate) buffered: bytes::BytesMut,
    pub(crate) effects: Effects,
}

impl Stream {
    pub(crate) fn new(worker: &FakeWorker, request: RequestHead, route: Option<Route>) -> Self {
        let mut info = stream();
        info.route = route.map(|route| Rc::new(route) as _);
        let effects = Effects::default();
        Self { worker: worker.clone(), info, request, buffered: bytes::BytesMut::new(), effects }
    }

    /// Calls a hook of the request's side, which is given the head.
    pub(crate) fn on_request<R>(&mut self, hook: impl FnOnce(&mut RequestHead, &mut StreamCx<'_>) -> R) -> R {
        let mut cx = StreamCx {
            info: &mut self.info,
            request: None,
            worker: &self.worker.cx(),
            buffered: &mut self.buffered,
            effects: &mut self.effects,
            filter_name: "filter",
        };
        hook(&mut self.request, &mut cx)
    }

    /// Calls a hook of the response's side.
    pub(crate) fn on_response<R>(&mut self, hook: impl FnOnce(&mut StreamCx<'_>) -> R) -> R {
        hook(&mut StreamCx {
            info: &mut self.info,
            request: Some(&self.request),
            worker: &self.worker.cx(),
            buffered: &mut self.buffered,
            effects: &mut self.effects,
            filter_name: "filter",
        })
    }
}

/// A request with fields.
pub(crate) fn request(method: sota_plugin::http::Method, path: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::new(method, "h", path).unwrap();
    for (name, value) in fields {
        head.headers.append(*name, value).unwrap();
    }
    head
}

/// The fields, as `name: value`.
pub(crate) fn lines(headers: &Headers) -> Vec<String> {
    headers.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii())).collect()
}

/// Shows bytes to a listener filter: its answer, and what it made of the connection.
pub(crate) fn peek(
    filter: &mut dyn ListenerFilter,
    bytes: &[u8],
    prepare: impl FnOnce(&mut ConnectionInfo),
) -> (Peek, ConnectionInfo) {
    let mut info = connection();
    prepare(&mut info);
    let answer = filter.on_peek(bytes, false, &mut ListenerCx { info: &mut info, original_destination: &|| None });
    (answer, info)
}
