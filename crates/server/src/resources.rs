//! Listeners and clusters that are served now, and how they are replaced: everything that is new is built and every
//! address opened before the first worker is told of a change, so a bad configuration changes nothing.

use crate::{configuration, log_files::UnopenedLogs, runtime::RuntimeLayers};
use sota_config::{
    ConfigError, ConfigErrors, ExtensionConfig, Mark, Node,
    address::Address,
    bootstrap::{Bootstrap, NodeInfo},
    cluster::Discovery as DiscoveryKind,
    secret::Secret,
    tracing::Provider,
};
use sota_plugin::{
    FactoryContext, Registry,
    access_log::{LogFile, LogOpener, open_error},
    runtime::Runtime,
    secrets::Secrets,
    stat_group,
    stats::{Group, Scope},
};
use sota_proxy::{
    listener::{BoundAddress, ListenSocket, ListenerConfig},
    local::{Local, Process},
    upstream::{Cluster, ClusterConfig, Clusters, Discovery, DiscoveryCx},
    worker::{WorkerCommand, Workers},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// How long the first resolution of names may hold up a start or a reload.
const WARMING: Duration = Duration::from_secs(10);

stat_group! {
    /// `listener_manager.`
    struct ListenerManagerStats {
        listener_added: counter,
        listener_modified: counter,
        listener_removed: counter,
        listener_stopped: counter,
        listener_create_success: counter,
        listener_create_failure: counter,
        listener_in_place_updated: counter,
        total_filter_chains_draining: gauge,
        total_listeners_active: gauge,
        total_listeners_draining: gauge,
        total_listeners_warming: gauge,
        workers_started: gauge,
    }
}

stat_group! {
    /// `cluster_manager.`
    struct ClusterManagerStats {
        cluster_added: counter,
        cluster_modified: counter,
        cluster_removed: counter,
        cluster_updated: counter,
        active_clusters: gauge,
        warming_clusters: gauge,
    }
}

/// What building needs; shared with the thread that builds.
#[derive(Clone)]
pub(crate) struct BuildInputs {
    /// Every extension.
    pub registry: Arc<Registry>,
    /// Where access logs are opened.
    pub logs: Arc<dyn LogOpener>,
    /// Runtime values.
    pub runtime: Arc<Runtime>,
    /// Who this proxy is.
    pub node: Arc<NodeInfo>,
    /// Secrets by name.
    pub secrets: Arc<Secrets>,
    /// The tracer of connection managers that name none.
    pub tracer: Option<Arc<Provider>>,
    /// How many workers there are.
    pub workers: usize,
}

impl BuildInputs {
    pub(crate) fn new(
        bootstrap: &Bootstrap,
        registry: Arc<Registry>,
        logs: Arc<dyn LogOpener>,
        runtime: Arc<Runtime>,
        workers: usize,
    ) -> Self {
        Self {
            registry,
            logs,
            runtime,
            node: Arc::new(bootstrap.node.clone()),
            secrets: Arc::new(Secrets::new(configuration::read_secrets)),
            tracer: bootstrap.tracer.clone(),
            workers,
        }
    }

    /// For a configuration that is looked at and not served: nothing is opened, and what is not on this host is noted.
    pub(crate) fn unopened(bootstrap: &Bootstrap, registry: Arc<Registry>) -> (Self, Arc<UnopenedLogs>) {
        let logs = Arc::new(UnopenedLogs::default());
        let runtime = RuntimeLayers::new(&bootstrap.layered_runtime, &bootstrap.node.cluster).runtime;
        let inputs = Self::new(bootstrap, registry, Arc::clone(&logs) as _, runtime, 1);
        let note = Arc::clone(&logs);
        let secrets = Secrets::new(configuration::read_secrets).elsewhere(move |reason| note.note(reason));
        (Self { secrets: Arc::new(secrets), ..inputs }, logs)
    }
}

/// A listener that is served.
pub(crate) struct ActiveListener {
    /// It, built.
    pub config: Arc<ListenerConfig>,
    /// Its sockets; none with `bind_to_port: false`.
    pub sockets: Arc<Vec<ListenSocket>>,
    /// Since when.
    pub last_updated: SystemTime,
    /// The version that a control plane gave it; `None`: it stands in the file.
    pub version: Option<String>,
}

/// A cluster that is known.
pub(crate) struct ActiveCluster {
    /// It, built.
    pub config: Arc<ClusterConfig>,
    /// Since when.
    pub last_updated: SystemTime,
    /// The version that a control plane gave it; `None`: it stands in the file.
    pub version: Option<String>,
    /// Resolves its names for as long as it lives.
    _discovery: Discovery,
}

/// What is served now.
pub(crate) struct Resources {
    workers: Rc<Workers>,
    local: Rc<Local>,
    listeners: RefCell<BTreeMap<String, ActiveListener>>,
    clusters: RefCell<BTreeMap<String, ActiveCluster>>,
    /// Of the file that is served, for clusters that name none.
    resolver: RefCell<Option<ExtensionConfig>>,
    /// Where it is written which hosts are ejected.
    outlier_log: RefCell<Option<Arc<dyn LogFile>>>,
    listener_stats: Group<ListenerManagerStats>,
    cluster_stats: Group<ClusterManagerStats>,
}

/// A configuration that is built and not served yet.
pub(crate) struct Change {
    listeners: Vec<Arc<ListenerConfig>>,
    removed_listeners: Vec<String>,
    clusters: Vec<Arc<ClusterConfig>>,
    removed_clusters: Vec<String>,
    outlier_log: Option<Arc<dyn LogFile>>,
    bootstrap: Arc<Bootstrap>,
}

/// What is served now, for the thread that builds what comes next.
#[derive(Default)]
pub(crate) struct Current {
    listeners: BTreeMap<String, Arc<ListenerConfig>>,
    clusters: BTreeMap<String, Arc<ClusterConfig>>,
    secrets: Vec<Arc<Secret>>,
}

impl Change {
    /// Builds everything in which `bootstrap` differs from what is served, with every error there is.
    pub(crate) fn build(
        bootstrap: &Arc<Bootstrap>,
        current: &Current,
        inputs: &BuildInputs,
    ) -> Result<Self, ConfigErrors> {
        let clusters = bootstrap.clusters.iter().enumerate().map(|(at, cluster)| (cluster.name.clone(), at)).collect();
        Self::build_at(bootstrap, current, inputs, &Places { listeners: HashMap::new(), clusters })
    }

    /// What is wrong with what is left of a file that is wrong in other places too.
    pub(crate) fn errors(bootstrap: &Bootstrap, registry: &Arc<Registry>) -> ConfigErrors {
        let (inputs, _) = BuildInputs::unopened(bootstrap, Arc::clone(registry));
        let document = bootstrap.source.as_ref().map_or_else(Node::map, |source| source.node());
        let named = |list: &str| -> HashMap<String, usize> {
            let items = document.field("static_resources").list(list).iter().enumerate();
            items.map(|(at, item)| (item.str("name").to_owned(), at)).collect()
        };
        let places = Places { listeners: named("listeners"), clusters: named("clusters") };
        Self::build_at(&Arc::new(bootstrap.clone()), &Current::default(), &inputs, &places).err().unwrap_or_default()
    }

    fn build_at(
        bootstrap: &Arc<Bootstrap>,
        current: &Current,
        inputs: &BuildInputs,
        places: &Places,
    ) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        inputs.secrets.replace_named(&bootstrap.secrets);
        let mut change = Self {
            listeners: Vec::new(),
            removed_listeners: gone(current.listeners.keys(), |name| {
                bootstrap.listeners.iter().any(|l| l.name == *name)
            }),
            clusters: Vec::new(),
            removed_clusters: gone(current.clusters.keys(), |name| bootstrap.clusters.iter().any(|c| c.name == *name)),
            outlier_log: None,
            bootstrap: Arc::clone(bootstrap),
        };
        if let Some(path) = &bootstrap.outlier_event_log {
            match inputs.logs.open(path) {
                Ok(log) => change.outlier_log = Some(log),
                Err(error) => {
                    let place = "cluster_manager.outlier_detection.event_log_path";
                    errors.push(open_error(path, &error).at(place, Mark::NONE));
                }
            }
        }
        let exists = |name: &str| places.clusters.contains_key(name);
        let everywhere = FactoryContext {
            registry: &inputs.registry,
            logs: &inputs.logs,
            runtime: &inputs.runtime,
            node: &inputs.node,
            secrets: &inputs.secrets,
            stat_prefix: "",
            clusters: Some(&exists),
            path: "",
            mark: Mark::NONE,
        };
        for (at, model) in bootstrap.clusters.iter().enumerate() {
            let previous = current.clusters.get(&model.name);
            if previous.is_some_and(|old| *old.model() == *model) {
                continue;
            }
            let at = places.clusters.get(&*model.name).copied().unwrap_or(at);
            let path = format!("static_resources.clusters[{at}]");
            match ClusterConfig::build_next(
                model,
                previous.map(|old| &**old),
                &FactoryContext { path: &path, ..everywhere },
            ) {
                Ok(config) => change.clusters.push(config),
                Err(found) => errors.extend(found.0),
            }
        }
        for (at, model) in bootstrap.listeners.iter().enumerate() {
            let previous = current.listeners.get(&model.name);
            if previous.is_some_and(|old| old.model == *model) {
                continue;
            }
            let at = places.listeners.get(&*model.name).copied().unwrap_or(at);
            let path = format!("static_resources.listeners[{at}]");
            let cx = FactoryContext { path: &path, ..everywhere };
            match ListenerConfig::build(model, previous.map(|old| &**old), inputs.workers, &cx) {
                Ok(config) => change.listeners.push(config),
                Err(found) => errors.extend(found.0),
            }
        }
        if errors.is_empty() {
            return Ok(change);
        }
        inputs.secrets.replace_named(&current.secrets);
        if let Some(source) = &bootstrap.source {
            let document = source.node();
            errors.iter_mut().filter(|e| e.mark == Mark::NONE).for_each(|e| e.mark = document.mark_at(&e.path));
        }
        Err(ConfigErrors(errors))
    }

    /// What it brings: every listener with its addresses, where nothing is served yet.
    pub(crate) fn listeners(&self) -> Vec<(Arc<ListenerConfig>, Vec<Address>)> {
        self.listeners.iter().map(|listener| (Arc::clone(listener), listener.model.addresses.clone())).collect()
    }

    /// The cluster of this name, if it brings that.
    pub(crate) fn cluster(&self, name: &str) -> Option<Arc<ClusterConfig>> {
        self.clusters.iter().find(|cluster| **cluster.name() == *name).cloned()
    }

    /// What differs, in words.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} listeners added or changed, {} removed; {} clusters added or changed, {} removed",
            self.listeners.len(),
            self.removed_listeners.len(),
            self.clusters.len(),
            self.removed_clusters.len()
        )
    }
}

/// Where the resources of a file stand in it. Of a file with errors some may be missing in the model.
struct Places {
    listeners: HashMap<String, usize>,
    clusters: HashMap<String, usize>,
}

fn gone<'a>(names: impl Iterator<Item = &'a String>, is_there: impl Fn(&String) -> bool) -> Vec<String> {
    names.filter(|name| !is_there(name)).cloned().collect()
}

impl Resources {
    /// Nothing yet.
    pub(crate) fn new(workers: &Rc<Workers>, process: &Arc<Process>, scope: &Scope) -> Self {
        Self {
            workers: Rc::clone(workers),
            local: Local::new(workers.len(), Arc::clone(process), scope.clone()),
            listeners: RefCell::default(),
            clusters: RefCell::default(),
            resolver: RefCell::default(),
            outlier_log: RefCell::default(),
            listener_stats: scope.child("listener_manager.").group(),
            cluster_stats: scope.child("cluster_manager.").group(),
        }
    }

    /// What of the file is served now, with these secrets.
    pub(crate) fn current(&self, secrets: Vec<Arc<Secret>>) -> Current {
        let listeners = self.listeners.borrow();
        let clusters = self.clusters.borrow();
        Current {
            listeners: listeners
                .iter()
                .filter(|(_, active)| active.version.is_none())
                .map(|(name, active)| (name.clone(), Arc::clone(&active.config)))
                .collect(),
            clusters: clusters
                .iter()
                .filter(|(_, active)| active.version.is_none())
                .map(|(name, active)| (name.clone(), Arc::clone(&active.config)))
                .collect(),
            secrets,
        }
    }

    /// Serves a change: opens the addresses that are new, and only then tells the workers. Clusters come first, and
    /// listeners wait for the first resolution of their names.
    pub(crate) async fn apply(&self, change: Change) -> Result<(), ConfigErrors> {
        let opened = self.open_sockets(&change)?;
        let warming = self.set_clusters(&change);
        if tokio::time::timeout(WARMING, warming).await.is_err() {
            tracing::warn!(target: "upstream", "some names did not resolve within {WARMING:?}; starting without them");
        }
        self.cluster_stats.warming_clusters.set(0);
        for name in &change.removed_listeners {
            self.remove_listener(name);
        }
        for (config, sockets) in change.listeners.iter().zip(opened) {
            self.serve_listener(config, sockets, None);
        }
        for name in &change.removed_clusters {
            self.remove_cluster(name);
        }
        self.listener_stats.workers_started.set(1);
        Ok(())
    }

    /// New sockets for each listener that needs some.
    fn open_sockets(&self, change: &Change) -> Result<Vec<Option<Arc<Vec<ListenSocket>>>>, ConfigErrors> {
        let mut errors = Vec::new();
        let mut opened = Vec::with_capacity(change.listeners.len());
        for config in &change.listeners {
            match self.open_listener(config) {
                Ok(sockets) => opened.push(sockets),
                Err(error) => {
                    let name = &config.model.name;
                    let at = change.bootstrap.listeners.iter().position(|listener| listener.name == *name);
                    let path = at.map(|at| format!("static_resources.listeners[{at}]")).unwrap_or_default();
                    errors.push(ConfigError::new(path, Mark::NONE, error));
                }
            }
        }
        if errors.is_empty() { Ok(opened) } else { Err(ConfigErrors(errors)) }
    }

    /// New sockets for a listener. One whose addresses and socket options are as before keeps its own (`None`), so that
    /// connections which wait to be accepted are not lost.
    pub(crate) fn open_listener(&self, config: &ListenerConfig) -> Result<Option<Arc<Vec<ListenSocket>>>, String> {
        let listeners = self.listeners.borrow();
        let model = &config.model;
        if listeners.get(&model.name).is_some_and(|old| has_same_sockets(&old.config.model, model)) {
            return Ok(None);
        }
        if !model.bind_to_port {
            return Ok(Some(Arc::default()));
        }
        let is_ours = |address| {
            let bound =
                |listener: &ActiveListener| listener.sockets.iter().any(|s| s.bound == BoundAddress::Ip(address));
            listeners.values().any(bound)
        };
        ListenSocket::open_all(model, self.workers.len(), is_ours).map(|sockets| Some(Arc::new(sockets))).map_err(
            |error| {
                self.listener_stats.listener_create_failure.inc();
                error.to_string()
            },
        )
    }

    /// Makes clusters known; the future is ready when each has its first hosts, or has failed to get some.
    fn set_clusters(&self, change: &Change) -> impl Future<Output = ()> + use<> {
        self.resolver.borrow_mut().clone_from(&change.bootstrap.dns_resolver);
        self.outlier_log.borrow_mut().clone_from(&change.outlier_log);
        let mut warming = Vec::new();
        for config in &change.clusters {
            let discovery = self.start_discovery(config);
            warming.push(discovery.initialized());
            self.serve_cluster(config, discovery, None);
        }
        self.cluster_stats.warming_clusters.set(as_gauge(warming.len()));
        async move {
            for cluster in warming {
                cluster.await;
            }
        }
    }

    /// Begins to look for the hosts of a cluster that is not served yet.
    pub(crate) fn start_discovery(&self, config: &Arc<ClusterConfig>) -> Discovery {
        let (resolver, outlier_log) = (self.resolver.borrow(), self.outlier_log.borrow().clone());
        let workers = Rc::clone(&self.workers);
        let tell_workers = move |name: &Arc<str>| workers.publish(|| WorkerCommand::RefreshCluster(Arc::clone(name)));
        let cx = DiscoveryCx {
            local: &self.local,
            resolver: resolver.as_ref(),
            outlier_log,
            tell_workers: Rc::new(tell_workers),
        };
        Discovery::start(config, &cx)
    }

    /// Tells the workers of a cluster, in the place of the one of its name.
    pub(crate) fn serve_cluster(&self, config: &Arc<ClusterConfig>, discovery: Discovery, version: Option<String>) {
        let active = ActiveCluster {
            config: Arc::clone(config),
            last_updated: SystemTime::now(),
            version,
            _discovery: discovery,
        };
        match self.clusters.borrow_mut().insert(config.name().to_string(), active) {
            Some(_) => self.cluster_stats.cluster_modified.inc(),
            None => self.cluster_stats.cluster_added.inc(),
        }
        self.workers.publish(|| WorkerCommand::SetCluster(Arc::clone(config)));
        self.cluster_stats.active_clusters.set(as_gauge(self.clusters.borrow().len()));
    }

    /// Has the workers forget a cluster; requests that run finish.
    pub(crate) fn remove_cluster(&self, name: &str) {
        if self.clusters.borrow_mut().remove(name).is_none() {
            return;
        }
        self.workers.publish(|| WorkerCommand::RemoveCluster(name.to_owned()));
        self.cluster_stats.cluster_removed.inc();
        self.cluster_stats.active_clusters.set(as_gauge(self.clusters.borrow().len()));
    }

    /// Tells the workers of a listener, in the place of the one of its name. Without sockets those of that one stay.
    pub(crate) fn serve_listener(
        &self,
        config: &Arc<ListenerConfig>,
        sockets: Option<Arc<Vec<ListenSocket>>>,
        version: Option<String>,
    ) {
        let name = &config.model.name;
        self.workers.publish(|| WorkerCommand::SetListener(Arc::clone(config), sockets.clone()));
        let mut listeners = self.listeners.borrow_mut();
        let old = listeners.remove(name);
        match &old {
            Some(_) if sockets.is_none() => self.listener_stats.listener_in_place_updated.inc(),
            Some(_) => self.listener_stats.listener_modified.inc(),
            None => self.listener_stats.listener_added.inc(),
        }
        self.listener_stats.listener_create_success.add(self.workers.len() as u64);
        let sockets = sockets.or_else(|| old.map(|old| old.sockets)).unwrap_or_default();
        let active = ActiveListener { config: Arc::clone(config), sockets, last_updated: SystemTime::now(), version };
        listeners.insert(name.clone(), active);
        self.listener_stats.total_listeners_active.set(as_gauge(listeners.len()));
    }

    /// Has the workers stop a listener; its connections drain.
    pub(crate) fn remove_listener(&self, name: &str) {
        if self.listeners.borrow_mut().remove(name).is_none() {
            return;
        }
        self.workers.publish(|| WorkerCommand::RemoveListener(name.to_owned()));
        self.listener_stats.listener_removed.inc();
        self.listener_stats.total_listeners_active.set(as_gauge(self.listeners.borrow().len()));
    }

    /// How many wait for their hosts and routes.
    pub(crate) fn note_warming(&self, clusters: usize, listeners: usize) {
        self.cluster_stats.warming_clusters.set(as_gauge(clusters));
        self.listener_stats.total_listeners_warming.set(as_gauge(listeners));
    }

    /// Whether the file has a cluster of this name.
    pub(crate) fn is_static_cluster(&self, name: &str) -> bool {
        self.clusters.borrow().get(name).is_some_and(|cluster| cluster.version.is_none())
    }

    /// Whether the file has a listener of this name.
    pub(crate) fn is_static_listener(&self, name: &str) -> bool {
        self.listeners.borrow().get(name).is_some_and(|listener| listener.version.is_none())
    }

    /// Whether a resource of the file wants others that do not stand in it.
    pub(crate) fn wants_discovery(&self) -> bool {
        let has_routes = |listener: &ActiveListener| listener.config.dynamic_routes().next().is_some();
        !self.eds_clusters().is_empty() || self.listeners.borrow().values().any(has_routes)
    }

    /// Clusters whose endpoints a control plane brings.
    pub(crate) fn eds_clusters(&self) -> Vec<Arc<ClusterConfig>> {
        let clusters = self.clusters.borrow();
        let all = clusters.values().map(|cluster| &cluster.config);
        all.filter(|config| matches!(config.model().discovery, DiscoveryKind::Eds { .. })).cloned().collect()
    }

    /// Closes the sockets of the listeners that `which` picks; their connections go on.
    pub(crate) fn stop_accepting(&self, which: fn(&ListenerConfig) -> bool) {
        self.workers.publish(|| WorkerCommand::StopAccepting(which));
        for active in self.listeners.borrow_mut().values_mut().filter(|active| which(&active.config)) {
            active.sockets = Arc::default();
            self.listener_stats.listener_stopped.inc();
        }
    }

    /// Every listener, by name, with the addresses at which it listens.
    pub(crate) fn listeners(&self) -> Vec<(Arc<ListenerConfig>, Vec<Address>)> {
        let address = |socket: &ListenSocket| match &socket.bound {
            BoundAddress::Ip(address) => Address::Ip { ip: address.ip(), port: address.port(), ipv4_compat: false },
            BoundAddress::Pipe(path) => Address::Pipe { path: path.clone(), mode: 0 },
        };
        let listeners = self.listeners.borrow();
        let listener = |of: &ActiveListener| {
            // Without sockets of its own (`bind_to_port: false`) it has the addresses of its configuration.
            let bound: Vec<_> = of.sockets.iter().map(address).collect();
            let addresses = if bound.is_empty() { of.config.model.addresses.clone() } else { bound };
            (Arc::clone(&of.config), addresses)
        };
        listeners.values().map(listener).collect()
    }

    /// The cluster of this name.
    pub(crate) fn cluster(&self, name: &str) -> Option<Arc<ClusterConfig>> {
        self.clusters.borrow().get(name).map(|cluster| Arc::clone(&cluster.config))
    }

    /// The part of a cluster that the main thread has in `clusters`, as the cluster is now.
    pub(crate) fn own_cluster(&self, clusters: &Clusters, name: &str) -> Option<Rc<Cluster>> {
        let config = self.cluster(name)?;
        if !clusters.get(name).is_some_and(|cluster| Arc::ptr_eq(cluster.config(), &config)) {
            clusters.set(&config);
        }
        clusters.get(name)
    }

    /// Shows every listener, by name.
    pub(crate) fn each_listener(&self, mut show: impl FnMut(&ActiveListener)) {
        self.listeners.borrow().values().for_each(&mut show);
    }

    /// Shows every cluster, by name.
    pub(crate) fn each_cluster(&self, mut show: impl FnMut(&ActiveCluster)) {
        self.clusters.borrow().values().for_each(&mut show);
    }
}

/// Whether the sockets of one listener can serve the other.
fn has_same_sockets(old: &sota_config::listener::Listener, new: &sota_config::listener::Listener) -> bool {
    old.addresses == new.addresses
        && old.bind_to_port == new.bind_to_port
        && old.enable_reuse_port == new.enable_reuse_port
        && old.transparent == new.transparent
        && old.freebind == new.freebind
        && old.tcp_fast_open_queue_length == new.tcp_fast_open_queue_length
        && old.tcp_keepalive == new.tcp_keepalive
        && old.tcp_backlog_size == new.tcp_backlog_size
        && old.socket_options == new.socket_options
}

fn as_gauge(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
