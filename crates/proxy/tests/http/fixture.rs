//! A connection manager on a worker of its own, in front of what a test configures.

use sota_config::{
    ExtensionConfig, Mark, TypedConfig,
    access_log::AccessLog,
    address::Address,
    bootstrap::NodeInfo,
    cluster::{Cluster, Discovery, Endpoint, HealthStatus, LoadAssignment, LocalityEndpoints},
    http::{
        CodecType, Http1Options, Http2Options, HttpConnectionManager as Model, HttpFilter, HttpFilterKind,
        LocalReplyConfig, RouteSource, RouterConfig,
    },
    load_balancer::{LbConfig, LbPolicy},
    route::{
        ClusterSpecifier, DirectResponse, PathMatcher, Route, RouteAction, RouteActionKind, RouteConfiguration,
        RouteMatch, VirtualHost,
    },
    secret::DataSource,
};
use sota_plugin::{
    Extension, FactoryContext, Registry,
    access_log::{AccessLogger, AccessLoggerConfig, LogEntry, LogFile, LogOpener},
    cx::WorkerCx,
    filter::HttpFilterConfig,
    format::{Format, FormatCx},
    info::{ConnectionInfo, PeerAddress},
    runtime::Runtime,
    stats::{Kind, Reading, Registry as Stats},
};
use sota_proxy::{
    context::WorkerContext,
    downstream::Downstream,
    drain::DrainSignal,
    http::{HttpConnectionManager, HttpConnectionManagerConfig},
    local::{Local, Process},
    socket::{Io, Socket},
    upstream::ClusterConfig,
};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

/// What is in front of the test's origins.
pub struct Setup {
    pub model: Model,
    pub clusters: Vec<Cluster>,
    pub filters: Vec<&'static Extension<dyn HttpFilterConfig>>,
    pub buffer_limit: usize,
}

impl Setup {
    /// One cluster, `origin`, that takes every request.
    pub fn to(origin: SocketAddr) -> Self {
        Self::with_routes(vec![route("/", "origin")]).cluster("origin", &[origin])
    }

    pub fn with_routes(routes: Vec<Route>) -> Self {
        let host = VirtualHost {
            name: "all".to_owned(),
            domains: vec!["*".to_owned()],
            routes: routes.into_iter().map(Arc::new).collect(),
            ..VirtualHost::default()
        };
        Self { model: model(host), clusters: Vec::new(), filters: Vec::new(), buffer_limit: 1 << 20 }
    }

    pub fn cluster(mut self, name: &str, hosts: &[SocketAddr]) -> Self {
        self.clusters.push(cluster(name, hosts));
        self
    }

    pub fn edit(mut self, edit: impl FnOnce(&mut Model)) -> Self {
        edit(&mut self.model);
        self
    }

    pub fn edit_cluster(mut self, edit: impl FnOnce(&mut Cluster)) -> Self {
        edit(self.clusters.last_mut().unwrap());
        self
    }

    /// Puts a filter before the router.
    pub fn filter(mut self, extension: &'static Extension<dyn HttpFilterConfig>) -> Self {
        let filters = &mut self.model.http_filters;
        let at = filters.len() - 1;
        filters.insert(at, http_filter(extension.name));
        self.filters.push(extension);
        self
    }

    pub fn start(self) -> Proxy {
        Proxy::start(self)
    }
}

pub fn http_filter(name: &str) -> HttpFilter {
    let kind = HttpFilterKind::Extension(extension(name));
    HttpFilter { name: name.to_owned(), kind, disabled: false, is_optional: false }
}

pub fn extension(name: &str) -> ExtensionConfig {
    ExtensionConfig { name: name.to_owned(), config: TypedConfig::Empty, path: String::new(), mark: Mark::NONE }
}

pub fn route_to(prefix: &str, action: RouteActionKind) -> Route {
    Route {
        name: String::new(),
        matcher: RouteMatch::path(PathMatcher::Prefix(prefix.to_owned())),
        action,
        request_headers: Default::default(),
        response_headers: Default::default(),
        typed_per_filter_config: Vec::new(),
        metadata: None,
        stat_prefix: String::new(),
        request_body_buffer_limit: None,
        tracing: None,
    }
}

pub fn route(prefix: &str, cluster: &str) -> Route {
    route_to(prefix, RouteActionKind::Forward(Box::new(action(cluster))))
}

pub fn direct(prefix: &str, status: u16, body: &str) -> Route {
    let body = Some(DataSource::Inline(body.as_bytes().to_vec()));
    route_to(prefix, RouteActionKind::DirectResponse(DirectResponse { status, body, body_format: None }))
}

pub fn action(cluster: &str) -> RouteAction {
    RouteAction {
        cluster: ClusterSpecifier::Cluster(cluster.to_owned()),
        cluster_not_found_response_code: 503,
        path_rewrite: None,
        host_rewrite: None,
        append_x_forwarded_host: false,
        timeout: Some(Duration::from_secs(15)),
        idle_timeout: None,
        max_stream_duration: None,
        grpc_timeout: Default::default(),
        retry_policy: None,
        hash_policy: Vec::new(),
        metadata_match: Vec::new(),
        hedge_on_per_try_timeout: None,
        mirrors: Vec::new(),
        internal_redirects: None,
        priority: Default::default(),
        rate_limits: Vec::new(),
        include_vh_rate_limits: false,
        upgrades: Vec::new(),
    }
}

fn cluster(name: &str, hosts: &[SocketAddr]) -> Cluster {
    let endpoint = |host: &SocketAddr| Endpoint {
        address: Address::Ip { ip: host.ip(), port: host.port(), ipv4_compat: false },
        hostname: String::new(),
        additional_addresses: Vec::new(),
        weight: 1,
        health: HealthStatus::Unknown,
        metadata: None,
        health_check: None,
    };
    let endpoints = hosts.iter().map(endpoint).collect();
    let locality = LocalityEndpoints { locality: Default::default(), priority: 0, weight: None, endpoints };
    Cluster {
        request_names: None,
        name: name.to_owned(),
        stat_name: String::new(),
        discovery: Discovery::Static,
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
        http1: Http1Options { enable_trailers: true, ..Http1Options::default() },
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

fn model(host: VirtualHost) -> Model {
    let router = RouterConfig { dynamic_stats: true, ..RouterConfig::default() };
    Model {
        stat_prefix: "test".to_owned(),
        codec_type: CodecType::Auto,
        routes: RouteSource::Inline(Arc::new(RouteConfiguration {
            name: "table".to_owned(),
            virtual_hosts: vec![host],
            max_direct_response_body_size_bytes: 4096,
            ..RouteConfiguration::default()
        })),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            kind: HttpFilterKind::Router(router),
            disabled: false,
            is_optional: false,
        }],
        common: Default::default(),
        http1: Http1Options { allow_absolute_url: true, enable_trailers: true, ..Http1Options::default() },
        http2: Http2Options::default(),
        stream_idle_timeout: Some(Duration::from_secs(300)),
        request_timeout: None,
        request_headers_timeout: None,
        drain_timeout: Duration::from_secs(5),
        delayed_close_timeout: Some(Duration::from_secs(1)),
        max_request_headers_kb: 60,
        server_name: "envoy".to_owned(),
        server_header_transformation: Default::default(),
        use_remote_address: false,
        xff_num_trusted_hops: 0,
        skip_xff_append: false,
        original_ip_detection: Vec::new(),
        early_header_mutations: Vec::new(),
        scheme_matches_upstream: false,
        internal_address_config: Default::default(),
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6: false,
        generate_request_id: true,
        preserve_external_request_id: false,
        add_proxy_protocol_connection_state: true,
        always_set_request_id_in_response: false,
        via: String::new(),
        normalize_path: false,
        merge_slashes: false,
        path_with_escaped_slashes_action: Default::default(),
        strip_port: Default::default(),
        strip_trailing_host_dot: false,
        stream_error_on_invalid_http_message: false,
        proxy_100_continue: false,
        scheme_override: None,
        add_user_agent: false,
        append_x_forwarded_port: false,
        forward_client_cert: Default::default(),
        client_cert_details: Default::default(),
        access_log: vec![AccessLog { filter: None, logger: extension("test.log") }],
        access_log_flush_interval: None,
        flush_access_log_on_new_request: false,
        tracing: None,
        pack_trace_reason: true,
        local_reply: LocalReplyConfig::default(),
        upgrades: Vec::new(),
    }
}

enum Command {
    Drain,
    End,
}

/// A worker that accepts and serves connections until it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    pub process: Arc<Process>,
    stats: Arc<Stats>,
    log: Lines,
    commands: tokio::sync::mpsc::UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    fn start(setup: Setup) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stats, process, log) = (Arc::new(Stats::new()), Arc::<Process>::default(), Lines::default());
        let (commands, received) = tokio::sync::mpsc::unbounded_channel();
        let (registry, lines) = (Arc::clone(&stats), log.clone());
        let shared = Arc::clone(&process);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
            runtime.block_on(async {
                let local = Local::new(0, shared, registry.shard());
                work(local, setup, listener, received, lines).await;
            });
        });
        Self { address, process, stats, log, commands, thread: Some(thread) }
    }

    /// Lines of the access log: code, flags, details, octets received and sent.
    pub fn log(&self) -> Vec<String> {
        self.log.0.lock().unwrap().clone()
    }

    /// Waits until so many streams were logged; the last line.
    #[track_caller]
    pub fn logged(&self, count: usize) -> String {
        sota_testkit::wait_until("access log", Duration::from_secs(5), || self.log().len() >= count);
        self.log()[count - 1].clone()
    }

    /// The value of a stat.
    pub fn stat(&self, name: &str) -> i64 {
        let mut all = BTreeMap::<String, i64>::new();
        for scope in self.stats.scopes() {
            scope.visit(&[Kind::Counter, Kind::Gauge], |_, stat, reading| {
                let value = match reading {
                    Reading::Counter { value, .. } => value.cast_signed(),
                    Reading::Gauge { value, .. } => value,
                    _ => 0,
                };
                *all.entry([scope.prefix(), stat].concat()).or_default() += value;
            });
        }
        all.get(name).copied().unwrap_or(0)
    }

    /// The names of all counters and gauges.
    pub fn stat_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for scope in self.stats.scopes() {
            scope.visit(&[Kind::Counter, Kind::Gauge], |_, stat, _| names.push([scope.prefix(), stat].concat()));
        }
        names
    }

    /// Waits until a stat has a value.
    #[track_caller]
    pub fn wait_for(&self, name: &str, value: i64) {
        let what = format!("{name} = {value} (is {})", self.stat(name));
        sota_testkit::wait_until(&what, Duration::from_secs(5), || self.stat(name) == value);
    }

    /// Begins draining the listener.
    pub fn drain(&self) {
        let _ = self.commands.send(Command::Drain);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the worker panicked");
        }
        assert!(
            std::thread::panicking() || self.process.panics.load(std::sync::atomic::Ordering::Relaxed) == 0,
            "a task panicked"
        );
    }
}

async fn work(
    local: Rc<Local>,
    setup: Setup,
    listener: std::net::TcpListener,
    mut commands: tokio::sync::mpsc::UnboundedReceiver<Command>,
    lines: Lines,
) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let context = WorkerContext::new(&local);
    let manager = build(&setup, lines, &context);
    let drain = DrainSignal::default();
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Drain) => drain.begin(),
                Some(Command::End) | None => return,
            },
            accepted = listener.accept() => {
                let (stream, peer) = accepted.unwrap();
                stream.set_nodelay(true).unwrap();
                let own = stream.local_addr().unwrap();
                let id = local.process.next_connection_id();
                let info = Rc::new(ConnectionInfo::new(id, PeerAddress::from(peer), PeerAddress::from(own)));
                let socket = Socket::new(Io::Tcp(stream));
                let downstream = Downstream { socket, info, drain: drain.watch(), buffer_limit: setup.buffer_limit };
                local.spawn(true, Rc::clone(&manager).serve(downstream));
            }
        }
    }
}

pub fn build(setup: &Setup, lines: Lines, context: &Rc<WorkerContext>) -> Rc<HttpConnectionManager> {
    let mut registry = Registry::default();
    for filter in &setup.filters {
        registry.http_filters.add(filter).unwrap();
    }
    registry.access_loggers.add(&LOGGER).unwrap();
    let logs: Arc<dyn LogOpener> = Arc::new(NoFiles(lines));
    let (runtime, node) = (Arc::new(Runtime::default()), NodeInfo::default());
    let cx = FactoryContext {
        registry: &registry,
        logs: &logs,
        runtime: &runtime,
        node: &node,
        secrets: &Arc::default(),
        clusters: None,
        stat_prefix: "",
        path: "",
        mark: Mark::NONE,
    };
    for cluster in &setup.clusters {
        context.clusters.set(&ClusterConfig::build(&Arc::new(cluster.clone()), &cx).unwrap());
    }
    let config = HttpConnectionManagerConfig::build(&Arc::new(setup.model.clone()), &cx).unwrap();
    HttpConnectionManager::for_worker(&config, context, &context.cx.stats().child("listener.test."))
}

/// What the test's logger has written.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

/// Every path is the list of lines.
struct NoFiles(Lines);

impl LogOpener for NoFiles {
    fn open(&self, _path: &str) -> Result<Arc<dyn LogFile>, std::io::Error> {
        Ok(Arc::new(self.0.clone()))
    }
}

impl LogFile for Lines {
    fn write(&self, lines: &[u8]) {
        self.0.lock().unwrap().push(String::from_utf8_lossy(lines).into_owned());
    }
}

static LOGGER: Extension<dyn AccessLoggerConfig> = Extension {
    name: "test.log",
    short_name: "log",
    type_urls: &[],
    build: |_, cx| Ok(Arc::new(Logger(cx.logs.open("").unwrap()))),
    build_route: None,
    route_type_urls: &[],
};

struct Logger(Arc<dyn LogFile>);

impl AccessLoggerConfig for Logger {
    fn for_worker(&self, _cx: &WorkerCx) -> Box<dyn AccessLogger> {
        let format = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED%/%BYTES_SENT%";
        Box::new(WorkerLogger(Arc::clone(&self.0), Format::text(format, false).unwrap()))
    }
}

struct WorkerLogger(Arc<dyn LogFile>, Format);

impl AccessLogger for WorkerLogger {
    fn log(&self, entry: &LogEntry<'_>) {
        let cx = FormatCx { request: entry.request, response: entry.response, ..FormatCx::new(entry.info, entry.kind) };
        let mut line = Vec::new();
        self.1.write(&cx, &mut line);
        self.0.write(&line);
    }
}
