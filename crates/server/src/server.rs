//! The process: from a file that is read to a process that ends, on the main thread.

use crate::{
    admin,
    configuration::{self, Refused},
    endpoint_stats::EndpointStats,
    log_files::LogFiles,
    log_pattern::Pattern,
    logging::{LogFormat, Logging},
    memory,
    options::{Options, default_concurrency},
    overload::Overload,
    reload::Reload,
    resources::{BuildInputs, Change, Current, Resources},
    runtime::RuntimeLayers,
    server_stats::{AdminStats, RuntimeStats, SecretStats, ServerStats},
    sinks::Sinks,
    stats::Store,
    xds::{Cache, Report, SubscriptionStats, Xds},
};
use sota_config::{
    Node,
    bootstrap::{Bootstrap, RuntimeLayer, RuntimeSource},
};
use sota_plugin::{
    Registry,
    secrets::Refresh,
    stats::{Group, Scope},
};
use sota_proxy::{
    local::{Place, Process},
    worker::{WorkerCommand, Workers},
};
use std::{
    cell::{Cell, OnceCell, RefCell},
    process::ExitCode,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

/// How often histograms begin a new interval.
const DEFAULT_FLUSH: Duration = Duration::from_secs(5);
/// Never, for a process without an overload manager.
const FAR: Duration = Duration::from_secs(86_400);
/// How often files with secrets are looked at.
const SECRETS_INTERVAL: Duration = Duration::from_millis(500);
/// How often the end of the last connection is looked for while draining.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// Where the process is in its life. The names are those that `/server_info` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Names are resolved for the first time.
    PreInitializing,
    /// Listeners are handed to the workers.
    Initializing,
    /// Serving.
    Live,
    /// On the way out, or told to fail health checks.
    Draining,
}

/// The running process, as the admin interface sees it.
pub(crate) struct Server {
    /// How it was started.
    pub options: Options,
    /// How many workers there are.
    pub concurrency: usize,
    /// The process's log.
    pub logging: Logging,
    /// Access logs.
    pub logs: Arc<LogFiles>,
    /// What all threads share.
    pub process: Arc<Process>,
    /// Runtime values.
    pub runtime: RuntimeLayers,
    /// Everything that is counted.
    pub stats: Store,
    /// The main thread's part of it.
    pub scope: Scope,
    /// The workers.
    pub workers: Rc<Workers>,
    /// What is served.
    pub resources: Resources,
    /// The bootstrap that is served: the last one that was accepted, with what only a restart can change as it was.
    pub bootstrap: RefCell<Arc<Bootstrap>>,
    /// What the last accepted file changed that only a restart can change.
    pub needs_restart: RefCell<Vec<&'static str>>,
    /// When it started.
    pub started: Instant,
    state: Cell<State>,
    own_stats: Group<ServerStats>,
    endpoint_stats: RefCell<EndpointStats>,
    runtime_stats: Group<RuntimeStats>,
    runtime_updates: OnceCell<Group<SubscriptionStats>>,
    /// What the admin interface counts.
    pub admin_stats: Group<AdminStats>,
    /// What building needs.
    pub inputs: BuildInputs,
    xds: OnceCell<Xds>,
    sinks: OnceCell<Rc<Sinks>>,
    stop: Notify,
}

/// Starts the process and runs it to its end. The exit code is 0 for a regular end, 1 for a configuration that is
/// refused or an address that cannot be had.
pub fn start(options: Options, registry: Registry) -> ExitCode {
    let started = Instant::now();
    memory::refuse_huge_pages();
    let registry = Arc::new(registry);
    let logging = match Logging::install(
        options.log_level,
        &options.component_log_level,
        options.log_format.clone(),
        options.log_path.clone(),
    ) {
        Ok(logging) => logging,
        Err(error) => {
            let path = options.log_path.clone().unwrap_or_default();
            eprintln!("cannot open the log {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    };
    let run = || -> Result<(), Refused> {
        let (mut loaded, warnings) = configuration::read(&options.config, &registry, false)?;
        for line in warnings.lines() {
            tracing::warn!(target: "config", "{line}");
        }
        configuration::override_node(&mut loaded.bootstrap, &options);
        if let Some(pattern) = &loaded.bootstrap.log_pattern {
            let refused = |reason: String| Refused(format!("application_log_config: {reason}"));
            if matches!(options.log_format, LogFormat::Pattern(_)) {
                return Err(refused("the command line has a log format too; only one of them may".to_owned()));
            }
            logging.set_format(LogFormat::Pattern(Pattern::parse(pattern).map_err(refused)?));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(Default::default())
            .map_err(|error| Refused(format!("cannot start: {error}")))?;
        let bootstrap = Arc::new(loaded.bootstrap);
        let result = runtime.block_on(async {
            let server = Server::new(options.clone(), registry, logging, bootstrap, started)?;
            server.run().await
        });
        runtime.shutdown_background();
        result
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refused(text)) => {
            eprint!("{text}{}", if text.ends_with('\n') { "" } else { "\n" });
            ExitCode::FAILURE
        }
    }
}

/// Reads and builds a configuration without opening a socket, and prints what is wrong.
pub fn validate(options: &Options, registry: Registry) -> ExitCode {
    let registry = Arc::new(registry);
    let build = || -> Result<String, Refused> {
        let (loaded, warnings) = configuration::read(&options.config, &registry, true)?;
        if let Some(pattern) = &loaded.bootstrap.log_pattern {
            Pattern::parse(pattern).map_err(|reason| Refused(format!("application_log_config: {reason}")))?;
        }
        let (inputs, logs) = BuildInputs::unopened(&loaded.bootstrap, registry);
        Change::build(&Arc::new(loaded.bootstrap), &Current::default(), &inputs)
            .map_err(|errors| Refused(configuration::render(&errors, &options.config)))?;
        let missing = logs.take_missing();
        let file = options.config.path.display();
        match (missing.is_empty(), options.config.strict) {
            (true, _) => Ok(warnings),
            (false, true) => Err(Refused(missing.iter().map(|text| format!("{file}: {text}\n")).collect())),
            (false, false) => {
                let more = missing.iter().map(|text| format!("{file}: warning: {text}\n"));
                Ok(more.fold(warnings, |all, text| all + &text))
            }
        }
    };
    match build() {
        Ok(warnings) => {
            eprint!("{warnings}");
            println!("configuration '{}' OK", options.config.path.display());
            ExitCode::SUCCESS
        }
        Err(Refused(text)) => {
            eprint!("{text}{}", if text.ends_with('\n') { "" } else { "\n" });
            ExitCode::FAILURE
        }
    }
}

impl Server {
    fn new(
        options: Options,
        registry: Arc<Registry>,
        logging: Logging,
        bootstrap: Arc<Bootstrap>,
        started: Instant,
    ) -> Result<Rc<Self>, Refused> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: std::io::Error| Refused(format!("{what}: {error}"))
        };
        let concurrency = options.concurrency.unwrap_or_else(default_concurrency);
        let stats = Store::new(&bootstrap.stats_config).map_err(|error| Refused(error.to_string()))?;
        let scope = stats.shard();
        let process = Arc::new(Process::default());
        process.set_drain_time(options.drain_time);
        process.set_recent_requests(options.recent_requests);
        process.set_place(Place {
            local_cluster: bootstrap.local_cluster_name.as_deref().unwrap_or_default().into(),
            locality: bootstrap.node.locality(),
        });
        let logs = LogFiles::start(&scope).map_err(failed("cannot start the log thread"))?;
        let runtime = RuntimeLayers::new(&bootstrap.layered_runtime, &bootstrap.node.cluster);
        let disks = runtime.read_disks();
        let runtime_stats: Group<RuntimeStats> = scope.child("runtime.").group();
        runtime_stats.loaded(&runtime, disks);
        process.set_max_connections(max_connections(&bootstrap, &runtime));
        let workers =
            Workers::start(concurrency, &process, || stats.shard()).map_err(failed("cannot start workers"))?;
        let workers = Rc::new(workers);
        let (opener, values) = (Arc::clone(&logs) as _, Arc::clone(&runtime.runtime));
        let inputs = BuildInputs::new(&bootstrap, registry, opener, values, concurrency);
        let resources = Resources::new(&workers, &process, &scope);
        Ok(Rc::new(Self {
            concurrency,
            logging,
            logs,
            process,
            runtime,
            resources,
            own_stats: scope.child("server.").group(),
            endpoint_stats: RefCell::default(),
            runtime_stats,
            runtime_updates: OnceCell::new(),
            admin_stats: scope.child("http.admin.").group(),
            stats,
            scope,
            workers,
            bootstrap: RefCell::new(bootstrap),
            needs_restart: RefCell::default(),
            started,
            state: Cell::new(State::PreInitializing),
            inputs,
            xds: OnceCell::new(),
            sinks: OnceCell::new(),
            stop: Notify::new(),
            options,
        }))
    }

    /// Where the process is in its life.
    pub(crate) fn state(&self) -> State {
        match self.state.get() {
            State::Live if self.process.is_health_check_failing() => State::Draining,
            state => state,
        }
    }

    /// When the process started, by the clock on the wall.
    pub(crate) fn start_time(&self) -> SystemTime {
        SystemTime::now().checked_sub(self.started.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Brings the process's own gauges up to date.
    pub(crate) fn refresh_stats(&self) {
        self.own_stats.refresh(self);
        self.endpoint_stats.borrow_mut().refresh(&self.resources, &self.scope);
    }

    /// Merges histograms and sends all stats to the sinks.
    pub(crate) fn flush_stats(&self) {
        self.refresh_stats();
        self.stats.flush();
        if let Some(sinks) = self.sinks.get() {
            sinks.flush();
        }
    }

    /// Puts runtime values in force that are not read where they are used.
    pub(crate) fn apply_runtime(&self) {
        self.runtime_stats.loaded(&self.runtime, self.runtime.read_disks());
        self.process.set_max_connections(max_connections(&self.bootstrap.borrow(), &self.runtime));
    }

    /// Asks the process to end (`/quitquitquit`): as SIGINT does.
    pub(crate) fn quit(&self) {
        self.stop.notify_one();
    }

    /// Opens every log again (SIGUSR1, `/reopen_logs`).
    pub(crate) fn reopen_logs(&self) {
        self.logging.reopen();
        self.logs.reopen();
    }

    async fn run(self: &Rc<Self>) -> Result<(), Refused> {
        let first = Arc::clone(&self.bootstrap.borrow());
        let shown = |errors| Refused(configuration::render(&errors, &self.options.config));
        let change = Change::build(&first, &Current::default(), &self.inputs).map_err(shown)?;
        if let Some(admin) = &first.admin {
            admin::start(self, admin).map_err(Refused)?;
        }
        let signals = Signals::new().map_err(|error| Refused(format!("cannot listen for signals: {error}")))?;
        self.resources.apply(change).await.map_err(shown)?;
        self.state.set(State::Initializing);
        // Every worker serves once it answers.
        self.workers.ask(Duration::from_secs(10), |_| ()).await;
        if first.dynamic.is_empty() && !self.wants_discovery() {
            self.live();
        } else {
            let cache = self.open_xds_cache()?;
            let xds = self.xds.get_or_init(|| Xds::start(self, &first.dynamic, cache));
            tracing::info!(target: "main", "serving what the file says, and waiting for the control plane");
            let (server, initialized) = (Rc::clone(self), xds.initialized());
            tokio::task::spawn_local(async move {
                initialized.await;
                server.live();
            });
        }
        if let Some(sinks) = Sinks::start(self, &first.stats_sinks).map_err(Refused)? {
            let _ = self.sinks.set(sinks);
        }
        let flush = first.stats_flush_interval.filter(|interval| !interval.is_zero());
        self.serve(signals, tokio::time::interval(flush.unwrap_or(DEFAULT_FLUSH))).await;
        self.logs.flush();
        Ok(())
    }

    fn open_xds_cache(&self) -> Result<Option<Cache>, Refused> {
        let Some(folder) = &self.options.xds_cache else { return Ok(None) };
        let opened = Cache::open(folder, &self.inputs.node);
        opened.map(Some).map_err(|error| Refused(format!("cannot use --xds-cache {}: {error}", folder.display())))
    }

    /// What is awaited of control planes, and what is only remembered of them.
    pub(crate) fn discovery_report(&self) -> Report {
        self.xds.get().map(Xds::report).unwrap_or_default()
    }

    /// Whether what is served wants something of a control plane.
    fn wants_discovery(&self) -> bool {
        let bootstrap = self.bootstrap.borrow();
        let is_brought = |layer: &RuntimeLayer| matches!(layer.source, RuntimeSource::Rtds { .. });
        self.resources.wants_discovery()
            || !self.inputs.secrets.discovered().is_empty()
            || bootstrap.layered_runtime.iter().any(is_brought)
    }

    /// Everything that was wanted first is there.
    fn live(&self) {
        if self.state.get() == State::Initializing {
            self.state.set(State::Live);
        }
        tracing::info!(target: "main", "serving with {} workers", self.concurrency);
        self.own_stats.initialization_time_ms.record(millis(self.started.elapsed()));
        memory::release_files();
        memory::release_memory();
    }

    /// Until a signal says that it is over, and everything has been finished.
    async fn serve(self: &Rc<Self>, mut signals: Signals, mut flush: tokio::time::Interval) {
        let mut reload = Reload::new(self);
        let mut secrets = tokio::time::interval(SECRETS_INTERVAL);
        let secret_stats = OnceCell::new();
        let first = Arc::clone(&self.bootstrap.borrow());
        let mut overload = first.overload.as_ref().map(|model| Overload::new(model, &self.process, &self.scope));
        let mut overload_interval =
            tokio::time::interval(first.overload.as_ref().map_or(FAR, |model| model.refresh_interval));
        overload_interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let flushes_on_admin = self.bootstrap.borrow().stats_flush_on_admin;
        let delay = loop {
            tokio::select! {
                _ = signals.terminate.recv() => break self.options.drain_delay,
                _ = signals.interrupt.recv() => break Duration::ZERO,
                () = self.stop.notified() => break Duration::ZERO,
                _ = signals.reopen.recv() => self.reopen_logs(),
                _ = signals.hangup.recv() => reload.now().await,
                () = reload.file_changed() => reload.now().await,
                _ = overload_interval.tick(), if overload.is_some() => {
                    overload.as_mut().into_iter().for_each(Overload::refresh);
                }
                _ = secrets.tick() => {
                    self.refresh_secrets(&secret_stats);
                    self.refresh_runtime();
                }
                _ = flush.tick(), if !flushes_on_admin => self.flush_stats(),
            }
        };
        tokio::select! {
            () = self.drain(delay) => {}
            _ = signals.terminate.recv() => tracing::info!(target: "main", "a second signal: ending at once"),
            _ = signals.interrupt.recv() => tracing::info!(target: "main", "a second signal: ending at once"),
        }
    }

    /// A process without secrets that change has no stats of them.
    fn refresh_secrets(&self, stats: &OnceCell<Group<SecretStats>>) {
        let outcome = self.inputs.secrets.refresh();
        if outcome == Refresh::default() {
            return;
        }
        for reason in &outcome.reasons {
            tracing::warn!(target: "config", "changed secrets are refused, the old ones stay: {reason}");
        }
        let stats = stats.get_or_init(|| self.scope.child("sds.").group());
        stats.update_success.add(outcome.updated);
        stats.update_rejected.add(outcome.rejected);
    }

    /// Takes over a runtime layer that a control plane has brought; `None`: it has no values any more.
    pub(crate) fn set_runtime_layer(&self, resource: &str, values: Option<&Node>) {
        self.runtime.set(resource, values);
        self.apply_runtime();
    }

    /// What is counted of runtime layers that a control plane brings.
    pub(crate) fn runtime_updates(&self) -> &SubscriptionStats {
        self.runtime_updates.get_or_init(|| self.scope.child("runtime.").group())
    }

    /// Takes over runtime values from folders that have changed.
    fn refresh_runtime(&self) {
        if !self.runtime.has_disks() {
            return;
        }
        let disks = self.runtime.read_disks();
        if disks.has_read {
            self.runtime_stats.loaded(&self.runtime, disks);
            self.process.set_max_connections(max_connections(&self.bootstrap.borrow(), &self.runtime));
        }
    }

    /// Says that the process is going, goes on accepting for `delay`, then lets running requests finish.
    async fn drain(&self, delay: Duration) {
        let deadline = Instant::now() + self.options.shutdown_time;
        self.state.set(State::Draining);
        self.process.set_draining(true);
        tracing::info!(
            target: "main",
            "shutting down: accepting for {delay:?} more, {} connections are open",
            self.process.open_connections()
        );
        tokio::time::sleep(delay.min(self.options.shutdown_time)).await;
        self.resources.stop_accepting(|_| true);
        self.workers.publish(|| WorkerCommand::Drain(|_| true));
        // The workers answer when they have stopped accepting, so no connection begins unseen.
        self.workers.ask(Duration::from_secs(1), |_| ()).await;
        while Instant::now() < deadline {
            let running: usize =
                self.workers.ask(Duration::from_secs(1), |context| context.local.active_tasks()).await.iter().sum();
            if running == 0 {
                tracing::info!(target: "main", "every request is finished");
                return;
            }
            tokio::time::sleep(DRAIN_POLL).await;
        }
        tracing::warn!(target: "main", "{} connections did not finish in time", self.process.open_connections());
    }

    /// Reads the configuration again and serves the difference. A file that is refused changes nothing.
    pub(crate) async fn apply_file(self: &Rc<Self>) -> Result<String, Refused> {
        let (options, registry) = (self.options.config.clone(), Arc::clone(&self.inputs.registry));
        let (inputs, current) = (self.inputs.clone(), self.resources.current(self.bootstrap.borrow().secrets.clone()));
        let served = Arc::clone(&self.bootstrap.borrow());
        let all = self.options.clone();
        let build = tokio::task::spawn_blocking(move || {
            let (mut loaded, warnings) = configuration::read(&options, &registry, false)?;
            configuration::override_node(&mut loaded.bootstrap, &all);
            let needs_restart = keep_what_needs_a_restart(&served, &mut loaded.bootstrap);
            let bootstrap = Arc::new(loaded.bootstrap);
            let change = Change::build(&bootstrap, &current, &inputs)
                .map_err(|errors| Refused(configuration::render(&errors, &options)))?;
            Ok::<_, Refused>((bootstrap, change, needs_restart, warnings))
        });
        let built = build.await.map_err(|error| Refused(format!("building the configuration failed: {error}")))?;
        let (bootstrap, change, needs_restart, warnings) = built?;
        for line in warnings.lines() {
            tracing::warn!(target: "config", "{line}");
        }
        let summary = change.summary();
        let shown = |errors| Refused(configuration::render(&errors, &self.options.config));
        self.resources.apply(change).await.map_err(shown)?;
        if self.xds.get().is_some() || self.wants_discovery() {
            self.xds.get_or_init(|| Xds::start(self, &bootstrap.dynamic, None)).reloaded();
        }
        if !needs_restart.is_empty() {
            tracing::warn!(target: "config", "changes after a restart only: {}", needs_restart.join(", "));
        }
        *self.needs_restart.borrow_mut() = needs_restart;
        *self.bootstrap.borrow_mut() = bootstrap;
        Ok(summary)
    }
}

/// Keeps in `new` what cannot change while the process runs as it is in `served`; the names of what differed.
fn keep_what_needs_a_restart(served: &Bootstrap, new: &mut Bootstrap) -> Vec<&'static str> {
    fn keep<T: Clone + PartialEq>(served: &T, new: &mut T) -> bool {
        let differs = served != new;
        if differs {
            new.clone_from(served);
        }
        differs
    }
    let kept = [
        ("node", keep(&served.node, &mut new.node)),
        ("admin", keep(&served.admin, &mut new.admin)),
        ("dynamic_resources", keep(&served.dynamic, &mut new.dynamic)),
        ("stats_config", keep(&served.stats_config, &mut new.stats_config)),
        ("stats_flush_interval", keep(&served.stats_flush_interval, &mut new.stats_flush_interval)),
        ("stats_flush_on_admin", keep(&served.stats_flush_on_admin, &mut new.stats_flush_on_admin)),
        ("stats_sinks", keep(&served.stats_sinks, &mut new.stats_sinks)),
        ("layered_runtime", keep(&served.layered_runtime, &mut new.layered_runtime)),
        (
            "overload_manager",
            keep(&served.max_downstream_connections, &mut new.max_downstream_connections)
                | keep(&served.overload, &mut new.overload),
        ),
        ("application_log_config", keep(&served.log_pattern, &mut new.log_pattern)),
        ("typed_dns_resolver_config", keep(&served.dns_resolver, &mut new.dns_resolver)),
    ];
    kept.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

/// The limit of downstream connections, 0 for none: of the overload manager, or of the runtime key that was there before.
fn max_connections(bootstrap: &Bootstrap, runtime: &RuntimeLayers) -> u64 {
    let by_runtime = || runtime.runtime.integer("overload.global_downstream_max_connections", 0);
    bootstrap.max_downstream_connections.unwrap_or_else(by_runtime)
}

/// Whole milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The signals that mean something.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    reopen: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }
}
