//! What is wanted of all sources, what came, and in which order it is served.
//!
//! Clusters are first. When each has its hosts, or has waited long enough, listeners are asked for; a listener is served
//! once it has its routes. Whatever is being replaced serves until its successor is ready.

mod clusters;
mod endpoints;
mod listeners;
mod report;
mod routes;
mod runtimes;
mod secrets;

pub(crate) use report::Report;

use super::{
    Answer, Command, Event, Kind, REMEMBERED, Update,
    build::{Before, Builder, name_of},
    cache::Cache,
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
    secret::{Secret, SecretRef},
};
use sota_envoy::discovery::Resource;
use sota_plugin::stats::Group;
use sota_proxy::{
    context::WorkerContext,
    listener::{ListenSocket, ListenerConfig},
    local::Local,
    router::{Brought, DynamicRoutes},
    upstream::{ClusterConfig, Discovery, DiscoveryNote},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashSet},
    rc::Rc,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::sync::{
    Notify,
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

/// So many events are taken before what waits is looked at.
const BATCH: usize = 1024;
/// How often it is looked whether secrets are used by nobody any more: connections use them longer than configuration does.
const UNUSED_SECRETS: Duration = Duration::from_secs(1);

/// The other end of the manager.
pub(crate) struct Xds {
    events: UnboundedSender<Event>,
    ready: Rc<Ready>,
}

#[derive(Default)]
struct Ready {
    is: std::cell::Cell<bool>,
    changed: Notify,
    report: RefCell<Report>,
}

impl Xds {
    /// Begins to ask for everything that the configuration wants.
    pub(crate) fn start(server: &Rc<Server>, dynamic: &DynamicResources, cache: Option<Cache>) -> Self {
        let (events, receiver) = unbounded_channel();
        let ready = Rc::new(Ready::default());
        let mut manager = Manager::new(server, dynamic, &events, &ready, cache);
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

    /// What is awaited, and what is only remembered.
    pub(crate) fn report(&self) -> Report {
        self.ready.report.borrow().clone()
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
    /// The secret that it is for; empty for sources of other kinds. A control plane of secrets wants a stream for each.
    secret: String,
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

/// A secret that is asked for, with the names under which it is used.
struct NamedSecret {
    named: Named<Secret>,
    users: Vec<SecretRef>,
    stats: Group<SubscriptionStats>,
}

struct Manager {
    server: Rc<Server>,
    context: Rc<WorkerContext>,
    node: Bytes,
    dynamic: DynamicResources,
    events: UnboundedSender<Event>,
    ready: Rc<Ready>,
    cache: Option<Cache>,
    /// What is served from the cache: the source has not answered.
    remembered: BTreeSet<(usize, Kind)>,
    sources: Vec<Source>,
    /// What was accepted last, by name.
    clusters: BTreeMap<String, u64>,
    listeners: BTreeMap<String, u64>,
    endpoints: BTreeMap<Key, Named<LoadAssignment>>,
    routes: BTreeMap<Key, Named<Brought>>,
    secrets: BTreeMap<Key, NamedSecret>,
    runtimes: BTreeMap<Key, Named<Node>>,
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
        cache: Option<Cache>,
    ) -> Self {
        let local = Local::new(server.concurrency, Arc::clone(&server.process), server.scope.clone());
        Self {
            context: WorkerContext::new(&local),
            node: node_bytes(server),
            dynamic: dynamic.clone(),
            events: events.clone(),
            ready: Rc::clone(ready),
            cache,
            remembered: BTreeSet::new(),
            sources: Vec::new(),
            clusters: BTreeMap::new(),
            listeners: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            routes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            runtimes: BTreeMap::new(),
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
        self.want_runtimes();
        self.want_endpoints();
        self.want_secrets();
        self.want_routes();
        self.advance();
        let mut batch = Vec::new();
        loop {
            let due = self.cache.as_ref().and_then(Cache::due);
            let count = tokio::select! {
                count = events.recv_many(&mut batch, BATCH) => count,
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    self.cache.iter_mut().for_each(Cache::save);
                    continue;
                }
                () = tokio::time::sleep(UNUSED_SECRETS), if !self.secrets.is_empty() => {
                    self.forget_unused_secrets();
                    continue;
                }
            };
            if count == 0 {
                return;
            }
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
                let cluster = self.warming_clusters.get(&name).filter(|cluster| cluster.generation == generation);
                if let Some(missing) = cluster.map(|cluster| cluster.config.missing_secrets())
                    && self.is_past_waiting(&missing)
                {
                    self.serve_cluster(&name);
                }
            }
            Event::Late(kind, source, name) => self.late(kind, source, name),
            Event::Reloaded => {
                self.want_endpoints();
                self.want_secrets();
                self.want_routes();
            }
        }
    }

    /// The source, begun when it is asked for the first time.
    fn source(&mut self, kind: &SourceKind, of: Kind) -> usize {
        self.source_of(kind, of, "")
    }

    /// The same; a source for secrets alone is for one of them.
    fn source_of(&mut self, kind: &SourceKind, of: Kind, secret: &str) -> usize {
        let own = match kind {
            SourceKind::Ads => None,
            SourceKind::Grpc(_) | SourceKind::File(_) => Some(of),
        };
        let secret = if own.is_some() { secret } else { "" };
        let is_it = |source: &Source| source.kind == *kind && source.of == own && source.secret == secret;
        if let Some(found) = self.sources.iter().position(is_it) {
            return found;
        }
        let secret = secret.to_owned();
        let id = self.sources.len();
        let (commands, receiver) = unbounded_channel();
        let grpc = match kind {
            SourceKind::Ads => self.dynamic.ads.clone(),
            SourceKind::Grpc(source) => Some(Arc::clone(source)),
            SourceKind::File(file) => {
                tokio::task::spawn_local(file::watch(file.clone(), id, of, receiver, self.events.clone()));
                self.sources.push(Source { kind: kind.clone(), of: own, secret, commands });
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
        self.sources.push(Source { kind: kind.clone(), of: own, secret, commands });
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
        self.recall(id, kind, None);
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
            Kind::Runtimes | Kind::Endpoints | Kind::Secrets | Kind::Routes => None,
        }
    }

    /// What comes next: clusters behind runtime values, listeners behind clusters, and the process is ready behind those.
    fn advance(&mut self) {
        if self.has_runtimes() {
            self.ask_for_all(Kind::Clusters, self.dynamic.clusters.clone());
        }
        let clusters = self.arrived.contains(&Kind::Clusters) && self.warming_clusters.is_empty();
        if clusters
            && self.has_secrets()
            && self.endpoints.values().all(|endpoints| endpoints.value.is_some() || endpoints.is_late)
        {
            self.ask_for_all(Kind::Listeners, self.dynamic.listeners.clone());
        }
        let routes = self.routes.values().all(|routes| routes.value.is_some() || routes.is_late);
        if self.arrived.contains(&Kind::Listeners) && self.warming_listeners.is_empty() && routes && self.has_secrets()
        {
            self.ready.is.set(true);
            self.ready.changed.notify_waiters();
        }
        self.server.resources.note_warming(self.warming_clusters.len(), self.warming_listeners.len());
        self.ready.report.replace(self.report());
    }

    fn lost(&mut self, source: usize) {
        for (kind, config) in [(Kind::Clusters, &self.dynamic.clusters), (Kind::Listeners, &self.dynamic.listeners)] {
            let is_it = |config: &ConfigSource| self.sources.get(source).is_some_and(|of| of.kind == config.kind);
            if self.asked.contains(&kind) && config.as_ref().is_some_and(is_it) {
                self.stats(kind).inspect(|stats| stats.update_failure.inc());
            }
        }
        self.note_lost_secrets(source);
        self.note_lost_runtimes(source);
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
            Kind::Runtimes => self.late_runtime(&(source, name)),
            Kind::Secrets => self.late_secret(&(source, name)),
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
        let label = self.sources.get(source).and_then(Source::label).filter(|_| self.cache.is_some());
        let named = |resource: &Resource| (name_of(kind, resource), resource.clone());
        let came: Vec<_> = label.iter().flat_map(|_| response.resources.iter().map(named)).collect();
        let (accepted, errors) = match kind {
            Kind::Clusters => self.update_clusters(response, is_whole, &removed).await,
            Kind::Listeners => self.update_listeners(response, is_whole, &removed).await,
            Kind::Endpoints => self.update_endpoints(source, response).await,
            Kind::Runtimes => self.update_runtimes(source, response, &removed).await,
            Kind::Secrets => self.update_secrets(source, response).await,
            Kind::Routes => self.update_routes(source, response).await,
        };
        let error = (!errors.is_empty()).then(|| errors.join("\n"));
        if let Some(error) = &error {
            tracing::warn!(target: "config", "resources are refused: {error}");
        }
        self.arrived.insert(kind);
        if let Some((cache, label)) = self.cache.as_mut().zip(label) {
            cache.keep(&label, kind, &version, came, &accepted, (is_whole, &removed));
            if stream != REMEMBERED {
                self.remembered.remove(&(source, kind));
                cache.forget(&label, kind);
            }
        }
        if let Some(stats) = self.stats(kind) {
            stats.update_attempt.inc();
            if error.is_some() {
                stats.update_rejected.inc();
            } else {
                stats.note_success();
            }
        }
        self.tell(source, Command::Answer(Answer { kind, stream, nonce, version, accepted, removed, error }));
        // Behind the answer, as Envoy has it.
        match kind {
            Kind::Clusters => {
                self.want_endpoints();
                self.want_secrets();
            }
            Kind::Listeners => {
                self.want_secrets();
                self.want_routes();
            }
            Kind::Runtimes | Kind::Endpoints | Kind::Secrets | Kind::Routes => {}
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

    /// Tells every source of named resources which ones are wanted.
    fn tell_names(&mut self, kind: Kind, wanted: impl Iterator<Item = Key>) {
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
            self.recall(id, kind, Some(&names));
            self.tell(id, Command::Watch(kind, Some(names)));
        }
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
pub(crate) fn node_bytes(server: &Server) -> Bytes {
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
