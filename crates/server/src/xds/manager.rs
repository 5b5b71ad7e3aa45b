//! What is wanted of all sources, what came, and in which order it is served.
//!
//! Clusters are first. When each has its hosts, or has waited long enough, listeners are asked for; a listener is served
//! once it has its routes. Whatever is being replaced serves until its successor is ready.

use super::{
    Answer, Command, Event, Kind, Update,
    build::{Before, Builder, Built, Outcome},
    file,
    stats::SubscriptionStats,
    stream::Stream,
};
use crate::server::Server;
use bytes::Bytes;
use sota_config::{
    Node, Value,
    cluster::{Discovery as DiscoveryKind, LoadAssignment},
    config_source::{ConfigSource, DynamicResources, SourceKind},
};
use sota_plugin::stats::Group;
use sota_proxy::{
    context::WorkerContext,
    listener::{ListenSocket, ListenerConfig},
    local::Local,
    router::{Brought, DynamicRoutes},
    upstream::{ClusterConfig, Discovery, DiscoveryNote},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, btree_map::Entry},
    rc::Rc,
    sync::{Arc, Weak},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::{
    Notify,
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

/// So many events are taken before what waits is looked at.
const BATCH: usize = 1024;

/// The other end of the manager.
pub(crate) struct Xds {
    events: UnboundedSender<Event>,
    ready: Rc<Ready>,
}

#[derive(Default)]
struct Ready {
    is: std::cell::Cell<bool>,
    changed: Notify,
}

impl Xds {
    /// Begins to ask for everything that the configuration wants.
    pub(crate) fn start(server: &Rc<Server>, dynamic: &DynamicResources) -> Self {
        let (events, receiver) = unbounded_channel();
        let ready = Rc::new(Ready::default());
        let mut manager = Manager::new(server, dynamic, &events, &ready);
        tokio::task::spawn_local(async move { manager.run(receiver).await });
        Self { events, ready }
    }

    /// Ready when everything that was wanted first is there, or has been waited for long enough.
    pub(crate) fn initialized(&self) -> impl Future<Output = ()> + use<> {
        let ready = Rc::clone(&self.ready);
        async move {
            while !ready.is.get() {
                ready.changed.notified().await;
            }
        }
    }

    /// The file of the process was read again: its clusters and listeners may want other things.
    pub(crate) fn reloaded(&self) {
        let _ = self.events.send(Event::Reloaded);
    }
}

/// A source that is asked.
struct Source {
    kind: SourceKind,
    /// Of a source for one kind.
    of: Option<Kind>,
    commands: UnboundedSender<Command>,
}

/// A resource that is asked for by its name.
struct Named<T> {
    fingerprint: Option<u64>,
    value: Option<Arc<T>>,
    /// Nobody waits for it any more.
    is_late: bool,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self { fingerprint: None, value: None, is_late: false }
    }
}

/// A cluster that has no hosts yet.
struct WarmingCluster {
    config: Arc<ClusterConfig>,
    discovery: Discovery,
    /// It will be served once its hosts are checked.
    awaits_checks: bool,
    version: String,
    generation: u64,
}

/// A listener that has no routes yet.
struct WarmingListener {
    config: Arc<ListenerConfig>,
    sockets: Option<Arc<Vec<ListenSocket>>>,
    version: String,
}

/// Places and names: the same name may come from several sources.
type Key = (usize, String);

struct Manager {
    server: Rc<Server>,
    context: Rc<WorkerContext>,
    node: Bytes,
    dynamic: DynamicResources,
    events: UnboundedSender<Event>,
    ready: Rc<Ready>,
    sources: Vec<Source>,
    /// What was accepted last, by name.
    clusters: BTreeMap<String, u64>,
    listeners: BTreeMap<String, u64>,
    endpoints: BTreeMap<Key, Named<LoadAssignment>>,
    routes: BTreeMap<Key, Named<Brought>>,
    /// Connection managers that use a table, those of draining listeners too.
    users: BTreeMap<Key, Vec<Weak<DynamicRoutes>>>,
    warming_clusters: BTreeMap<String, WarmingCluster>,
    warming_listeners: BTreeMap<String, WarmingListener>,
    /// Kinds that were asked for as a whole, and those of them that have been answered or waited for.
    asked: BTreeSet<Kind>,
    arrived: BTreeSet<Kind>,
    generation: u64,
    cds: Option<Group<SubscriptionStats>>,
    lds: Option<Group<SubscriptionStats>>,
}

impl Manager {
    fn new(
        server: &Rc<Server>,
        dynamic: &DynamicResources,
        events: &UnboundedSender<Event>,
        ready: &Rc<Ready>,
    ) -> Self {
        let local = Local::new(server.concurrency, Arc::clone(&server.process), server.scope.clone());
        Self {
            context: WorkerContext::new(&local),
            node: node_bytes(server),
            dynamic: dynamic.clone(),
            events: events.clone(),
            ready: Rc::clone(ready),
            sources: Vec::new(),
            clusters: BTreeMap::new(),
            listeners: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            routes: BTreeMap::new(),
            users: BTreeMap::new(),
            warming_clusters: BTreeMap::new(),
            warming_listeners: BTreeMap::new(),
            asked: BTreeSet::new(),
            arrived: BTreeSet::new(),
            generation: 0,
            cds: dynamic.clusters.as_ref().map(|_| server.scope.child("cluster_manager.cds.").group()),
            lds: dynamic.listeners.as_ref().map(|_| server.scope.child("listener_manager.lds.").group()),
            server: Rc::clone(server),
        }
    }

    async fn run(&mut self, mut events: UnboundedReceiver<Event>) {
        self.want_endpoints();
        self.want_routes();
        self.ask_for_all(Kind::Clusters, self.dynamic.clusters.clone());
        self.advance();
        let mut batch = Vec::new();
        while events.recv_many(&mut batch, BATCH).await > 0 {
            for event in batch.drain(..) {
                self.take(event).await;
            }
            self.serve_waiting_clusters();
            self.serve_waiting_listeners();
            self.advance();
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Update(update) => self.update(update).await,
            Event::Lost(source) => self.lost(source),
            Event::Warm(name, generation) => {
                if self.warming_clusters.get(&name).is_some_and(|cluster| cluster.generation == generation) {
                    self.serve_cluster(&name);
                }
            }
            Event::Late(kind, source, name) => self.late(kind, source, name),
            Event::Reloaded => {
                self.want_endpoints();
                self.want_routes();
            }
        }
    }

    /// The source, begun when it is asked for the first time.
    fn source(&mut self, kind: &SourceKind, of: Kind) -> usize {
        let own = match kind {
            SourceKind::Ads => None,
            SourceKind::Grpc(_) | SourceKind::File(_) => Some(of),
        };
        if let Some(found) = self.sources.iter().position(|source| source.kind == *kind && source.of == own) {
            return found;
        }
        let id = self.sources.len();
        let (commands, receiver) = unbounded_channel();
        let grpc = match kind {
            SourceKind::Ads => self.dynamic.ads.clone(),
            SourceKind::Grpc(source) => Some(Arc::clone(source)),
            SourceKind::File(file) => {
                tokio::task::spawn_local(file::watch(file.clone(), id, of, receiver, self.events.clone()));
                self.sources.push(Source { kind: kind.clone(), of: own, commands });
                return id;
            }
        };
        match grpc {
            Some(source) => {
                let stream = Stream {
                    id,
                    source,
                    kind: own,
                    server: Rc::clone(&self.server),
                    context: Rc::clone(&self.context),
                    node: self.node.clone(),
                    commands: receiver,
                    events: self.events.clone(),
                    stats: self.server.scope.child("control_plane.").group(),
                    subscriptions: BTreeMap::new(),
                    stream: 0,
                };
                tokio::task::spawn_local(stream.run());
            }
            None => tracing::error!(target: "config", "a resource is to come from ads, and there is no ads_config"),
        }
        self.sources.push(Source { kind: kind.clone(), of: own, commands });
        id
    }

    fn tell(&self, source: usize, command: Command) {
        if let Some(source) = self.sources.get(source) {
            let _ = source.commands.send(command);
        }
    }

    /// Asks for all resources of a kind; one without a source has arrived.
    fn ask_for_all(&mut self, kind: Kind, source: Option<ConfigSource>) {
        if !self.asked.insert(kind) {
            return;
        }
        let Some(source) = source else {
            self.arrived.insert(kind);
            return;
        };
        let id = self.source(&source.kind, kind);
        self.stats(kind).inspect(|stats| stats.update_attempt.inc());
        self.tell(id, Command::Watch(kind, None));
        self.wait(&source, Event::Late(kind, id, String::new()));
    }

    /// Has an event happen when the source has had its time.
    fn wait(&self, source: &ConfigSource, event: Event) {
        if let Some(timeout) = source.initial_fetch_timeout {
            let events = self.events.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(timeout).await;
                let _ = events.send(event);
            });
        }
    }

    /// Of kinds that are asked for as a whole.
    fn stats(&self, kind: Kind) -> Option<&SubscriptionStats> {
        match kind {
            Kind::Clusters => self.cds.as_deref(),
            Kind::Listeners => self.lds.as_deref(),
            Kind::Endpoints | Kind::Routes => None,
        }
    }

    /// What comes next: listeners behind clusters, and the process is ready behind those.
    fn advance(&mut self) {
        let clusters = self.arrived.contains(&Kind::Clusters) && self.warming_clusters.is_empty();
        if clusters && self.endpoints.values().all(|endpoints| endpoints.value.is_some() || endpoints.is_late) {
            self.ask_for_all(Kind::Listeners, self.dynamic.listeners.clone());
        }
        let routes = self.routes.values().all(|routes| routes.value.is_some() || routes.is_late);
        if self.arrived.contains(&Kind::Listeners) && self.warming_listeners.is_empty() && routes {
            self.ready.is.set(true);
            self.ready.changed.notify_waiters();
        }
        self.server.resources.note_warming(self.warming_clusters.len(), self.warming_listeners.len());
    }

    fn lost(&mut self, source: usize) {
        for (kind, config) in [(Kind::Clusters, &self.dynamic.clusters), (Kind::Listeners, &self.dynamic.listeners)] {
            let is_it = |config: &ConfigSource| self.sources.get(source).is_some_and(|of| of.kind == config.kind);
            if self.asked.contains(&kind) && config.as_ref().is_some_and(is_it) {
                self.stats(kind).inspect(|stats| stats.update_failure.inc());
            }
        }
        for config in self.eds_clusters(source).values().flatten() {
            config.note_discovery(DiscoveryNote::Failure);
        }
    }

    fn late(&mut self, kind: Kind, source: usize, name: String) {
        match kind {
            Kind::Clusters | Kind::Listeners => {
                if self.arrived.insert(kind) {
                    self.stats(kind).inspect(|stats| stats.init_fetch_timeout.inc());
                }
            }
            Kind::Endpoints => {
                if let Some(endpoints) = self.endpoints.get_mut(&(source, name)) {
                    endpoints.is_late = true;
                }
            }
            Kind::Routes => {
                if let Some(routes) = self.routes.get_mut(&(source, name)) {
                    routes.is_late = true;
                }
            }
        }
    }

    async fn update(&mut self, update: Update) {
        let Update { source, kind, stream, is_whole, mut response } = update;
        let (version, nonce) = (response.version.clone(), response.nonce.clone());
        let removed = std::mem::take(&mut response.removed);
        let (accepted, errors) = match kind {
            Kind::Clusters => self.update_clusters(response, is_whole, &removed).await,
            Kind::Listeners => self.update_listeners(response, is_whole, &removed).await,
            Kind::Endpoints => self.update_endpoints(source, response).await,
            Kind::Routes => self.update_routes(source, response).await,
        };
        let error = (!errors.is_empty()).then(|| errors.join("\n"));
        if let Some(error) = &error {
            tracing::warn!(target: "config", "resources are refused: {error}");
        }
        self.arrived.insert(kind);
        if let Some(stats) = self.stats(kind) {
            stats.update_attempt.inc();
            if error.is_some() {
                stats.update_rejected.inc();
            } else {
                stats.update_success.inc();
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                stats.update_time.set(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
            }
        }
        self.tell(source, Command::Answer(Answer { kind, stream, nonce, version, accepted, removed, error }));
        // Behind the answer, as Envoy has it.
        match kind {
            Kind::Clusters => self.want_endpoints(),
            Kind::Listeners => self.want_routes(),
            Kind::Endpoints | Kind::Routes => {}
        }
    }

    fn builder(&self) -> Builder {
        let mut clusters = HashSet::new();
        self.server.resources.each_cluster(|cluster| {
            clusters.insert(cluster.config.name().to_string());
        });
        clusters.extend(self.warming_clusters.keys().cloned());
        Builder {
            inputs: self.server.inputs.clone(),
            allow_unsupported: self.server.options.config.allow_unsupported,
            allow_unknown_fields: !self.server.options.config.reject_unknown_dynamic_fields,
            clusters: Arc::new(clusters),
        }
    }

    async fn update_clusters(
        &mut self,
        response: sota_envoy::discovery::Response,
        is_whole: bool,
        removed: &[String],
    ) -> Outcomes {
        let resources = &self.server.resources;
        let mut known = BTreeMap::new();
        resources.each_cluster(|cluster| {
            let name = cluster.config.name().to_string();
            let served = Some(Arc::clone(&cluster.config));
            known.insert(name.clone(), Before { fingerprint: self.clusters.get(&name).copied(), served });
        });
        for (name, fingerprint) in &self.clusters {
            known.entry(name.clone()).or_insert(Before { fingerprint: Some(*fingerprint), served: None });
        }
        let builder = self.builder();
        let built = off_thread(move || builder.clusters(&response, &known)).await;
        let gone: Vec<String> = match is_whole {
            true => self.clusters.keys().filter(|name| !built.iter().any(|of| of.name == **name)).cloned().collect(),
            false => removed.to_vec(),
        };
        let mut outcomes = Outcomes::default();
        for Built { name, version, fingerprint, result } in built {
            if self.server.resources.is_static_cluster(&name) {
                tracing::warn!(target: "config", "the cluster \"{name}\" of the file stays as it is");
                continue;
            }
            match result {
                Outcome::Bad(reason) => {
                    outcomes.1.push(format!("Error adding/updating cluster(s) {name}: {reason}"));
                    continue;
                }
                Outcome::Again => {}
                Outcome::Same => {
                    // What was on the way in its place is not wanted any more.
                    self.warming_clusters.remove(&name);
                    self.clusters.insert(name.clone(), fingerprint);
                }
                Outcome::New(config) => {
                    self.clusters.insert(name.clone(), fingerprint);
                    self.warm_cluster(config, &version);
                }
            }
            outcomes.0.push((name, version));
        }
        for name in gone {
            if self.clusters.remove(&name).is_some() {
                self.warming_clusters.remove(&name);
                self.server.resources.remove_cluster(&name);
            }
        }
        outcomes
    }

    fn warm_cluster(&mut self, config: Arc<ClusterConfig>, version: &str) {
        let name = config.name().to_string();
        let discovery = self.server.resources.start_discovery(&config);
        self.generation += 1;
        let generation = self.generation;
        if matches!(config.model().discovery, DiscoveryKind::Eds { .. }) {
            let key = self.endpoints_key(&config);
            if let Some(endpoints) = key.and_then(|key| self.endpoints.get(&key)?.value.clone()) {
                config.set_endpoints(&endpoints);
            }
        } else if !discovery.is_initialized() {
            let (warm, events, of) = (discovery.initialized(), self.events.clone(), name.clone());
            tokio::task::spawn_local(async move {
                warm.await;
                let _ = events.send(Event::Warm(of, generation));
            });
        }
        let version = version.to_owned();
        self.warming_clusters
            .insert(name.clone(), WarmingCluster { config, discovery, version, generation, awaits_checks: false });
        if self.is_warm(&name) {
            self.serve_cluster(&name);
        }
    }

    fn is_warm(&mut self, name: &str) -> bool {
        let Some(cluster) = self.warming_clusters.get(name) else { return false };
        let (config, initialized) = (Arc::clone(&cluster.config), cluster.discovery.is_initialized());
        match self.endpoints_key(&config) {
            Some(key) => match self.endpoints.get(&key) {
                Some(of) if of.is_late => true,
                // Hosts that have come may have to be checked first.
                Some(of) if of.value.is_some() && !initialized => {
                    self.await_checks(name);
                    false
                }
                of => of.is_some_and(|of| of.value.is_some()),
            },
            None => initialized,
        }
    }

    /// Serves a cluster once each of its hosts was checked.
    fn await_checks(&mut self, name: &str) {
        let Some(cluster) = self.warming_clusters.get_mut(name).filter(|cluster| !cluster.awaits_checks) else {
            return;
        };
        cluster.awaits_checks = true;
        let (warm, events) = (cluster.discovery.initialized(), self.events.clone());
        let (name, generation) = (name.to_owned(), cluster.generation);
        tokio::task::spawn_local(async move {
            warm.await;
            let _ = events.send(Event::Warm(name, generation));
        });
    }

    fn serve_cluster(&mut self, name: &str) {
        if let Some(WarmingCluster { config, discovery, version, .. }) = self.warming_clusters.remove(name) {
            if self
                .endpoints_key(&config)
                .is_some_and(|key| self.endpoints.get(&key).is_none_or(|of| of.value.is_none()))
            {
                config.note_discovery(DiscoveryNote::Timeout);
            }
            self.server.resources.serve_cluster(&config, discovery, Some(version));
        }
    }

    fn serve_waiting_clusters(&mut self) {
        let names: Vec<_> = self.warming_clusters.keys().cloned().collect();
        for name in names {
            if self.is_warm(&name) {
                self.serve_cluster(&name);
            }
        }
    }

    /// Where the endpoints of a cluster come from, if from a source.
    fn endpoints_key(&mut self, config: &ClusterConfig) -> Option<Key> {
        let DiscoveryKind::Eds { service_name, source } = &config.model().discovery else { return None };
        Some((self.source(&source.kind, Kind::Endpoints), service_name.clone()))
    }

    /// All clusters with endpoints, served or warming.
    fn all_eds_clusters(&self) -> Vec<Arc<ClusterConfig>> {
        let mut all = self.server.resources.eds_clusters();
        let is_eds = |config: &ClusterConfig| matches!(config.model().discovery, DiscoveryKind::Eds { .. });
        let warming = self.warming_clusters.values().map(|cluster| &cluster.config);
        all.extend(warming.filter(|config| is_eds(config)).cloned());
        all
    }

    /// Those of them that use endpoints of a source, by the endpoints' name.
    fn eds_clusters(&mut self, source: usize) -> HashMap<String, Vec<Arc<ClusterConfig>>> {
        let mut by_name: HashMap<String, Vec<_>> = HashMap::new();
        for config in self.all_eds_clusters() {
            if let Some((_, name)) = self.endpoints_key(&config).filter(|(of, _)| *of == source) {
                by_name.entry(name).or_default().push(config);
            }
        }
        by_name
    }

    /// Asks for the endpoints of the clusters that there are.
    fn want_endpoints(&mut self) {
        let all = self.all_eds_clusters();
        let mut wanted: BTreeMap<Key, Arc<ConfigSource>> = BTreeMap::new();
        for config in all {
            if let (Some(key), DiscoveryKind::Eds { source, .. }) =
                (self.endpoints_key(&config), &config.model().discovery)
            {
                if let Some(endpoints) = self.endpoints.get(&key).and_then(|of| of.value.as_ref())
                    && config.hosts().hosts().is_empty()
                {
                    config.set_endpoints(endpoints);
                }
                if !self.endpoints.contains_key(&key) {
                    config.note_discovery(DiscoveryNote::Attempt);
                }
                wanted.insert(key, Arc::clone(source));
            }
        }
        self.endpoints.retain(|key, _| wanted.contains_key(key));
        for ((id, name), source) in &wanted {
            if let Entry::Vacant(new) = self.endpoints.entry((*id, name.clone())) {
                new.insert(Named::default());
                self.wait(source, Event::Late(Kind::Endpoints, *id, name.clone()));
            }
        }
        self.tell_names(Kind::Endpoints, wanted.into_keys());
    }

    /// Tells every source of named resources which ones are wanted.
    fn tell_names(&self, kind: Kind, wanted: impl Iterator<Item = Key>) {
        let mut names: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for (id, source) in self.sources.iter().enumerate() {
            if source.of.is_none_or(|of| of == kind) {
                names.insert(id, BTreeSet::new());
            }
        }
        for (id, name) in wanted {
            names.entry(id).or_default().insert(name);
        }
        for (id, names) in names {
            self.tell(id, Command::Watch(kind, Some(names)));
        }
    }

    async fn update_endpoints(&mut self, source: usize, response: sota_envoy::discovery::Response) -> Outcomes {
        let known = known(&self.endpoints, source);
        let builder = self.builder();
        let built = off_thread(move || builder.endpoints(&response, &known)).await;
        let users = self.eds_clusters(source);
        let mut outcomes = Outcomes::default();
        for Built { name, version, fingerprint, result } in built {
            let key = (source, name.clone());
            match result {
                Outcome::Bad(reason) => {
                    let users = users.get(&name).into_iter().flatten();
                    users.for_each(|config| config.note_discovery(DiscoveryNote::Rejected));
                    outcomes.1.push(format!("Error updating endpoints of {name}: {reason}"));
                    continue;
                }
                Outcome::Again => {}
                Outcome::Same => {
                    if let Some(named) = self.endpoints.get_mut(&key) {
                        named.fingerprint = Some(fingerprint);
                    }
                }
                Outcome::New(endpoints) => {
                    if let Some(named) = self.endpoints.get_mut(&key) {
                        named.fingerprint = Some(fingerprint);
                        named.value = Some(Arc::clone(&endpoints));
                        for config in users.get(&name).into_iter().flatten() {
                            config.set_endpoints(&endpoints);
                        }
                    }
                }
            }
            outcomes.0.push((name, version));
        }
        outcomes
    }

    async fn update_listeners(
        &mut self,
        response: sota_envoy::discovery::Response,
        is_whole: bool,
        removed: &[String],
    ) -> Outcomes {
        let mut known = BTreeMap::new();
        self.server.resources.each_listener(|listener| {
            let name = listener.config.model.name.clone();
            let served = Some(Arc::clone(&listener.config));
            known.insert(name.clone(), Before { fingerprint: self.listeners.get(&name).copied(), served });
        });
        for (name, fingerprint) in &self.listeners {
            known.entry(name.clone()).or_insert(Before { fingerprint: Some(*fingerprint), served: None });
        }
        let builder = self.builder();
        let built = off_thread(move || builder.listeners(&response, &known)).await;
        let gone: Vec<String> = match is_whole {
            true => self.listeners.keys().filter(|name| !built.iter().any(|of| of.name == **name)).cloned().collect(),
            false => removed.to_vec(),
        };
        // First, so that their addresses are free.
        for name in gone {
            if self.listeners.remove(&name).is_some() {
                self.warming_listeners.remove(&name);
                self.server.resources.remove_listener(&name);
            }
        }
        let mut outcomes = Outcomes::default();
        for Built { name, version, fingerprint, result } in built {
            if self.server.resources.is_static_listener(&name) {
                tracing::warn!(target: "config", "the listener \"{name}\" of the file stays as it is");
                continue;
            }
            let failed = match result {
                Outcome::Bad(reason) => Some(reason),
                Outcome::Again => None,
                Outcome::Same => {
                    self.warming_listeners.remove(&name);
                    self.listeners.insert(name.clone(), fingerprint);
                    None
                }
                Outcome::New(config) => match self.warm_listener(config, &version) {
                    Ok(()) => {
                        self.listeners.insert(name.clone(), fingerprint);
                        None
                    }
                    Err(reason) => Some(reason),
                },
            };
            match failed {
                Some(reason) => outcomes.1.push(format!("Error adding/updating listener(s) {name}: {reason}")),
                None => outcomes.0.push((name, version)),
            }
        }
        outcomes
    }

    fn warm_listener(&mut self, config: Arc<ListenerConfig>, version: &str) -> Result<(), String> {
        let name = config.model.name.clone();
        // The sockets of one that never served.
        self.warming_listeners.remove(&name);
        let sockets = self.server.resources.open_listener(&config)?;
        for routes in config.dynamic_routes() {
            self.use_routes(routes);
        }
        let version = version.to_owned();
        self.warming_listeners.insert(name.clone(), WarmingListener { config, sockets, version });
        if self.has_routes(&name) {
            self.serve_listener(&name);
        }
        Ok(())
    }

    /// Gives a connection manager the table that it wants, now and whenever there is another.
    fn use_routes(&mut self, routes: &Arc<DynamicRoutes>) {
        let key = self.routes_key(routes);
        if routes.brought().is_none()
            && let Some(brought) = self.routes.get(&key).and_then(|of| of.value.as_ref())
        {
            routes.set(brought);
        }
        let users = self.users.entry(key).or_default();
        users.retain(|user| user.strong_count() > 0);
        if !users.iter().any(|user| user.as_ptr() == Arc::as_ptr(routes)) {
            users.push(Arc::downgrade(routes));
        }
    }

    fn routes_key(&mut self, routes: &DynamicRoutes) -> Key {
        (self.source(&routes.source().kind, Kind::Routes), routes.name().to_owned())
    }

    fn has_routes(&mut self, listener: &str) -> bool {
        let Some(listener) = self.warming_listeners.get(listener) else { return false };
        let config = Arc::clone(&listener.config);
        config.dynamic_routes().all(|routes| {
            let key = self.routes_key(routes);
            self.routes.get(&key).is_some_and(|of| of.value.is_some() || of.is_late)
        })
    }

    fn serve_listener(&mut self, name: &str) {
        if let Some(WarmingListener { config, sockets, version }) = self.warming_listeners.remove(name) {
            self.server.resources.serve_listener(&config, sockets, Some(version));
        }
    }

    fn serve_waiting_listeners(&mut self) {
        let names: Vec<_> = self.warming_listeners.keys().cloned().collect();
        for name in names {
            if self.has_routes(&name) {
                self.serve_listener(&name);
            }
        }
    }

    /// Asks for the routes of the listeners that there are.
    fn want_routes(&mut self) {
        let mut all = Vec::new();
        self.server.resources.each_listener(|listener| all.push(Arc::clone(&listener.config)));
        all.extend(self.warming_listeners.values().map(|listener| Arc::clone(&listener.config)));
        let mut wanted: BTreeMap<Key, Arc<ConfigSource>> = BTreeMap::new();
        for routes in all.iter().flat_map(|config| config.dynamic_routes()) {
            self.use_routes(routes);
            wanted.insert(self.routes_key(routes), Arc::clone(routes.source()));
        }
        self.routes.retain(|key, _| wanted.contains_key(key));
        self.users.retain(|key, _| wanted.contains_key(key));
        for ((id, name), source) in &wanted {
            if let Entry::Vacant(new) = self.routes.entry((*id, name.clone())) {
                new.insert(Named::default());
                self.wait(source, Event::Late(Kind::Routes, *id, name.clone()));
            }
        }
        self.tell_names(Kind::Routes, wanted.into_keys());
    }

    async fn update_routes(&mut self, source: usize, response: sota_envoy::discovery::Response) -> Outcomes {
        let known = known(&self.routes, source);
        let builder = self.builder();
        let built = off_thread(move || builder.routes(&response, &known)).await;
        let mut outcomes = Outcomes::default();
        for Built { name, version, fingerprint, result } in built {
            let key = (source, name.clone());
            match result {
                Outcome::Bad(reason) => {
                    outcomes.1.push(format!("Error updating route configuration {name}: {reason}"));
                    continue;
                }
                Outcome::Again => {}
                Outcome::Same => {
                    if let Some(named) = self.routes.get_mut(&key) {
                        named.fingerprint = Some(fingerprint);
                    }
                }
                Outcome::New(table) => {
                    if let Some(named) = self.routes.get_mut(&key) {
                        named.fingerprint = Some(fingerprint);
                        let version = version.as_str().into();
                        let brought = Brought { table, version, last_updated: SystemTime::now() };
                        let users = self.users.get(&key).into_iter().flatten();
                        users.filter_map(Weak::upgrade).for_each(|user| user.set(&brought));
                        named.value = Some(Arc::new(brought));
                    }
                }
            }
            outcomes.0.push((name, version));
        }
        outcomes
    }
}

/// Names and versions in force, and what is wrong with the others.
type Outcomes = (Vec<(String, String)>, Vec<String>);

/// What is known of the named resources of a source.
fn known<T>(all: &BTreeMap<Key, Named<T>>, source: usize) -> BTreeMap<String, Before<T>> {
    let own = all.iter().filter(|((id, _), _)| *id == source);
    own.map(|((_, name), of)| (name.clone(), Before { fingerprint: of.fingerprint, served: of.value.clone() }))
        .collect()
}

/// Runs something long beside the main thread. A panic in it is a fault of ours, and brings nothing.
async fn off_thread<T: Send + 'static>(build: impl FnOnce() -> Vec<T> + Send + 'static) -> Vec<T> {
    tokio::task::spawn_blocking(build).await.unwrap_or_else(|error| {
        tracing::error!(target: "config", "building resources failed: {error}");
        Vec::new()
    })
}

/// The node of the bootstrap, as the command line changes it, with who we are where it does not say that.
fn node_bytes(server: &Server) -> Bytes {
    let bootstrap = server.bootstrap.borrow();
    let info = &bootstrap.node;
    let mut fields: Vec<(Arc<str>, Node)> = info.node.as_ref().map(|node| node.pairs().to_vec()).unwrap_or_default();
    fields.retain(|(key, _)| !matches!(&**key, "id" | "cluster"));
    fields.push(("id".into(), Node::string(info.id.as_str())));
    fields.push(("cluster".into(), Node::string(info.cluster.as_str())));
    if !fields.iter().any(|(key, _)| &**key == "user_agent_name") {
        fields.push(("user_agent_name".into(), Node::string("sota-mesh")));
        fields.push(("user_agent_version".into(), Node::string(env!("CARGO_PKG_VERSION"))));
    }
    let node = Node::new(Value::Map(fields));
    sota_envoy::encode(&node, "envoy.config.core.v3.Node").map(Bytes::from).unwrap_or_else(|error| {
        tracing::error!(target: "config", "the node cannot be said: {error}");
        Bytes::new()
    })
}
