//! The part of a cluster that all threads share. How its hosts change stands in `members`.

mod members;

use super::{
    balancing::Balancing,
    circuit_breaker::{CircuitBreaker, Resource},
    dns::ResolverSettings,
    health_check::HealthChecker,
    host::{Host, HostSpec, HostState},
    host_set::HostSet,
    original_dst::OriginalHosts,
    outlier::{HostResult, Outlier},
    overload::{Outcome, Overload},
    stats::DiscoveryStats,
};
use crate::tls::ClientContext;
use sota_config::{
    ConfigErrors, Node,
    address::Address,
    cluster::{Cluster as Model, Discovery},
    load_balancer::LbPolicy,
    secret::SecretRef,
    tls::UpstreamProxyProtocol,
};
use sota_plugin::{
    FactoryContext,
    cx::ClusterHealth,
    http::HeaderName,
    info::{CertificateInfo, PeerAddress},
    stats::Scope,
};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// A worker makes host sets of so many hosts itself, which takes some tens of microseconds.
const MOST_AT_ONCE: usize = 256;

/// What a host's metadata must say, and how it is then spoken to; `None`: as plain text.
type TransportSocketMatch = (Vec<(String, Node)>, Option<Arc<ClientContext>>);

/// A cluster as all threads share it: its model, the hosts it has now, its circuit breakers.
#[derive(Debug)]
pub struct ClusterConfig {
    name: Arc<str>,
    alias: Option<Arc<str>>,
    model: Arc<Model>,
    hosts: Mutex<Hosts>,
    /// Goes up with each host set. Workers compare it before they choose a host.
    version: AtomicU64,
    balancing: Balancing,
    /// A thread is about to make a host set.
    is_refreshing: AtomicBool,
    deadline_header: Option<HeaderName>,
    overload: Option<Overload>,
    outlier: Option<Outlier>,
    health_checker: Option<Arc<HealthChecker>>,
    resolver: Option<ResolverSettings>,
    tls: Option<Arc<ClientContext>>,
    /// By metadata of hosts; the first that matches counts.
    tls_matches: Vec<TransportSocketMatch>,
    across: Arc<Across>,
    stats: OnceLock<DiscoveryStats>,
}

/// What goes on over updates of the cluster.
#[derive(Debug, Default)]
struct Across {
    breakers: [CircuitBreaker; 2],
    /// Goes up when the health of a host changes.
    health: AtomicU64,
    /// Hosts of ORIGINAL_DST.
    original: OriginalHosts,
    /// There was a connection to a host.
    has_had_connections: AtomicBool,
}

/// What became of asking a control plane for endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscoveryNote {
    /// It was asked.
    Attempt,
    /// The stream to it is lost.
    Failure,
    /// What it sent was refused.
    Rejected,
    /// It did not answer in time.
    Timeout,
}

#[derive(Debug, Default)]
struct Hosts {
    set: Arc<HostSet>,
    /// [`Across::health`] when the set was made.
    health: u64,
    /// The states of hosts before an update of the cluster, until discovery has spoken.
    known: HashMap<PeerAddress, Arc<HostState>>,
}

impl ClusterConfig {
    /// Checks and builds a cluster that did not exist before. Errors name the field of the cluster.
    pub fn build(model: &Arc<Model>, cx: &FactoryContext<'_>) -> Result<Arc<Self>, ConfigErrors> {
        Self::build_next(model, None, cx)
    }

    /// Builds the successor of a cluster of the same name: hosts of the same address keep their health and counters,
    /// and circuit breakers go on counting. Nothing of `before` changes until workers get the new one.
    pub fn build_next(
        model: &Arc<Model>,
        before: Option<&Self>,
        cx: &FactoryContext<'_>,
    ) -> Result<Arc<Self>, ConfigErrors> {
        let mut errors = Vec::new();
        if matches!(model.discovery, Discovery::OriginalDst(_)) != (model.lb_policy == LbPolicy::ClusterProvided) {
            let reason = "lb_policy CLUSTER_PROVIDED belongs to type ORIGINAL_DST, and the other way round";
            errors.push(cx.error("lb_policy", Default::default(), reason));
        }
        let specs = match &model.discovery {
            Discovery::Static => static_hosts(model, cx, &mut errors),
            _ => Vec::new(),
        };
        let overload = model.overload.as_ref().map(Overload::read).transpose();
        let overload = overload.map_err(|error| errors.push(error)).ok().flatten();
        if overload.is_some() && model.outlier_detection.is_some() {
            let reason = "sota.clusters.overload ejects hosts already: they exclude each other";
            errors.push(cx.error("outlier_detection", Default::default(), reason));
        }
        let outlier = model.outlier_detection.as_ref().map(|options| Outlier::new(options, cx.runtime));
        let health_checker = HealthChecker::build(model, cx).map_err(|error| errors.push(error)).ok().flatten();
        let deadline_header = model.deadline_header.as_ref().map(|name| HeaderName::parse(name.as_bytes())).transpose();
        let deadline_header = deadline_header.map_err(|reason| {
            let reason = format!("deadline header: {reason}");
            errors.push(cx.error("typed_extension_protocol_options", Default::default(), reason));
        });
        let deadline_header = deadline_header.ok().flatten();
        let resolver = model.dns_resolver.as_ref().map(ResolverSettings::read).transpose();
        let resolver = resolver.map_err(|error| errors.push(error)).ok().flatten();
        if matches!(model.discovery, Discovery::LogicalDns(_)) {
            let endpoints: usize = model.load_assignment.localities.iter().map(|of| of.endpoints.len()).sum();
            if endpoints != 1 {
                let reason = "a cluster of type LOGICAL_DNS has exactly one endpoint";
                errors.push(cx.error("load_assignment", Default::default(), reason));
            }
        }
        let tls = model.transport_socket.as_ref().map(|model| ClientContext::new(model, cx)).transpose();
        let tls = tls.map_err(|error| errors.push(error)).ok().flatten();
        let mut tls_matches = Vec::new();
        for of in &model.transport_socket_matches {
            match of.transport.as_ref().map(|model| ClientContext::new(model, cx)).transpose() {
                Ok(context) => tls_matches.push((of.criteria.clone(), context)),
                Err(error) => errors.push(error),
            }
        }
        let balancing = Balancing::build(model, cx).map_err(|error| errors.push(error)).ok();
        let Some(balancing) = balancing.filter(|_| errors.is_empty()) else { return Err(ConfigErrors(errors)) };
        let known = before.map(|before| {
            let hosts = before.hosts();
            hosts.hosts().iter().map(|host| (host.address().clone(), Arc::clone(host.state()))).collect()
        });
        let config = Arc::new(Self {
            name: model.name.as_str().into(),
            alias: Some(&*model.stat_name).filter(|name| !name.is_empty()).map(Into::into),
            model: Arc::clone(model),
            hosts: Mutex::new(Hosts { known: known.unwrap_or_default(), ..Hosts::default() }),
            version: AtomicU64::new(0),
            balancing,
            is_refreshing: AtomicBool::new(false),
            deadline_header,
            overload,
            outlier,
            health_checker: health_checker.map(Arc::new),
            resolver,
            tls,
            tls_matches,
            across: before.map(|before| Arc::clone(&before.across)).unwrap_or_default(),
            stats: OnceLock::new(),
        });
        match (&model.discovery, before) {
            (Discovery::Static, _) => {
                config.set_hosts(specs);
            }
            // The same names as before: their hosts serve until they are resolved anew.
            (Discovery::StrictDns(_) | Discovery::LogicalDns(_), Some(before))
                if model.load_assignment == before.model.load_assignment
                    && matches!(model.discovery, Discovery::LogicalDns(_))
                        == matches!(before.model.discovery, Discovery::LogicalDns(_)) =>
            {
                config.set_hosts(before.hosts().hosts().iter().map(|host| host.spec().clone()).collect());
            }
            _ => {}
        }
        Ok(config)
    }

    /// The cluster's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The name that it has in stats, where that is another.
    pub fn alias(&self) -> Option<&Arc<str>> {
        self.alias.as_ref()
    }

    /// The model it was built from.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The hosts it has now.
    pub fn hosts(&self) -> Arc<HostSet> {
        let mut hosts = self.lock();
        if self.is_original() {
            // A view for admin: workers find these hosts by their address.
            return Arc::new(HostSet::new(self.across.original.all(), &HostSet::default(), &self.balancing));
        }
        if hosts.health != self.across.health.load(Ordering::Acquire) {
            let same = hosts.set.hosts().to_vec();
            self.replace(&mut hosts, same);
        }
        Arc::clone(&hosts.set)
    }

    /// Goes up when [`Self::hosts`] changes.
    pub fn version(&self) -> u64 {
        if self.is_original() {
            return self.across.original.dropped();
        }
        self.version.load(Ordering::Acquire) + self.across.health.load(Ordering::Acquire)
    }

    /// The limits of a priority: 0 default, 1 high.
    pub fn breaker(&self, priority: usize) -> &CircuitBreaker {
        &self.across.breakers[priority.min(1)]
    }

    /// How it chooses among its hosts.
    pub(super) fn balancing(&self) -> &Balancing {
        &self.balancing
    }

    /// Requests that run on all workers.
    pub(super) fn active_requests(&self) -> u32 {
        self.across.breakers.iter().map(|breaker| breaker.count(Resource::Requests)).sum()
    }

    /// How many hosts there are and may be used.
    pub fn health(&self) -> ClusterHealth {
        let hosts = self.hosts();
        ClusterHealth { total: hosts.hosts().len(), healthy: hosts.healthy(), degraded: hosts.degraded() }
    }

    /// Begins to publish stats and puts the limits in force. Each thread that gets the cluster calls it (workers in
    /// [`Clusters::set`](super::Clusters::set)) with its root scope; what it publishes is the same cells for all.
    pub fn publish(&self, root: &Scope) {
        let scope = self.scope(root);
        for (breaker, limits, prefix) in [
            (&self.across.breakers[0], &self.model.circuit_breakers[0], "circuit_breakers.default."),
            (&self.across.breakers[1], &self.model.circuit_breakers[1], "circuit_breakers.high."),
        ] {
            let mut limits = limits.clone();
            if let Some(overload) = &self.overload {
                limits.max_requests = limits.max_requests.min(overload.max_concurrency());
            }
            breaker.configure(&limits, &scope.child(prefix));
        }
        match &self.overload {
            Some(overload) => overload.publish(&scope),
            None => self.forget_overload(),
        }
        if let Some(outlier) = &self.outlier {
            outlier.publish(&scope);
        }
        let mut first = false;
        let stats = self.stats.get_or_init(|| {
            first = true;
            DiscoveryStats::new(&scope, &self.model)
        });
        if first {
            let set = self.hosts();
            if !set.hosts().is_empty() {
                stats.membership_change.inc();
                stats.default_transport_matches.add(set.hosts().len() as u64);
            }
            self.publish_members(stats, &set);
            stats.note_subsets(set.subsets(), None);
        }
    }

    /// The scope of the cluster's stats.
    pub fn scope(&self, root: &Scope) -> Scope {
        let name = if self.model.stat_name.is_empty() { &self.model.name } else { &self.model.stat_name };
        // As in Envoy, colons would split the name for some sinks.
        root.child(&format!("cluster.{}.", name.replace(':', "_")))
    }

    /// Notes how a use of a host ended.
    pub(super) fn report(self: &Arc<Self>, host: &Host, outcome: Outcome) {
        if let Some(overload) = &self.overload
            && overload.report(host.state(), outcome)
        {
            self.refresh_from_worker();
        }
    }

    /// Notes what became of a use of a host, where somebody wants to know. On any thread.
    pub(super) fn note_result(self: &Arc<Self>, host: &Host, result: HostResult) {
        if let Some(outlier) = &self.outlier {
            outlier.note(host.state(), result);
        }
        if self.overload.is_some() {
            let outcome = match result {
                HostResult::Connected => return,
                HostResult::ConnectFailed => Outcome::TransportFailure,
                HostResult::Timeout(_) => Outcome::Timeout,
                _ => Outcome::Answered,
            };
            self.report(host, outcome);
        }
    }

    /// The outlier detection, when there is one.
    pub(super) fn outlier(&self) -> Option<&Outlier> {
        self.outlier.as_ref()
    }

    /// The active health checks, when there are some.
    pub(super) fn health_checker(&self) -> Option<&Arc<HealthChecker>> {
        self.health_checker.as_ref()
    }

    /// The answer of a host to a request said that it fails its health checks. On any thread.
    pub(super) fn fail_check(&self, host: &Host) {
        if let Some(checker) = &self.health_checker
            && !host.spec().is_unchecked()
        {
            host.state().set(HostState::EXCLUDED | HostState::ASKED_TO_FAIL, true);
            checker.wake.notify_one();
        }
    }

    /// Whether the first checks of all its hosts are done, if it has any.
    pub(super) fn is_checked(&self) -> bool {
        self.health_checker.is_none() || !self.hosts().hosts().iter().any(|host| host.state().has(HostState::UNCHECKED))
    }

    /// Notes that a connection to a host was begun.
    pub(super) fn note_connection(&self) {
        if !self.across.has_had_connections.load(Ordering::Relaxed) {
            self.across.has_had_connections.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there was ever a connection to a host, those of checks not counted.
    pub(super) fn has_had_connections(&self) -> bool {
        self.across.has_had_connections.load(Ordering::Relaxed)
    }

    /// What a predecessor of this cluster has found out of its hosts in ways that this one has not.
    fn forget_overload(&self) {
        let hosts = self.hosts();
        let forget = |host: &&Arc<Host>| {
            let state = host.state();
            let was_overloaded = Overload::forget(state);
            let was_ejected = self.outlier.is_none() && state.set(HostState::EJECTED, false);
            let is_unchecked = self.health_checker.is_none() || host.spec().is_unchecked();
            let was_checked = is_unchecked && state.set(HostState::OF_CHECKS, false);
            was_overloaded || was_ejected || was_checked
        };
        if hosts.hosts().iter().filter(forget).count() > 0 {
            self.refresh();
        }
    }

    /// In which field hosts are told how long a request may still take as a whole, where they are.
    pub fn deadline_header(&self) -> Option<&HeaderName> {
        self.deadline_header.as_ref()
    }

    /// The overload protection, when there is one.
    pub(super) fn overload(&self) -> Option<&Overload> {
        self.overload.as_ref()
    }

    /// What connections to a host are encrypted with, if they are.
    pub(super) fn tls(&self, host: &HostSpec) -> Option<&Arc<ClientContext>> {
        self.tls_by(|key| host.transport_match(key))
    }

    /// The same for a check of the host, whose own metadata may count instead.
    pub(super) fn check_tls(&self, host: &HostSpec, own: Option<&[(String, Node)]>) -> Option<&Arc<ClientContext>> {
        match own {
            Some(own) => self.tls_by(|key| own.iter().find(|(name, _)| name == key).map(|(_, value)| value)),
            None => self.tls(host),
        }
    }

    fn tls_by<'n>(&self, value: impl Fn(&str) -> Option<&'n Node>) -> Option<&Arc<ClientContext>> {
        let matches = |criteria: &[(String, Node)]| criteria.iter().all(|(key, wanted)| value(key) == Some(wanted));
        match self.tls_matches.iter().find(|(criteria, _)| matches(criteria)) {
            Some((_, context)) => context.as_ref(),
            None => self.tls.as_ref(),
        }
    }

    /// Whether some of its hosts are told who the client is before anything else.
    pub(super) fn tells_addresses(&self) -> bool {
        let matches = &self.model.transport_socket_matches;
        self.model.proxy_protocol.is_some() || matches.iter().any(|of| of.proxy_protocol.is_some())
    }

    /// How this host is told.
    pub(super) fn proxy_protocol(&self, host: &HostSpec) -> Option<&UpstreamProxyProtocol> {
        if !self.tells_addresses() {
            return None;
        }
        let matches = |criteria: &[(String, Node)]| {
            criteria.iter().all(|(key, wanted)| host.transport_match(key) == Some(wanted))
        };
        match self.model.transport_socket_matches.iter().find(|of| matches(&of.criteria)) {
            Some(of) => of.proxy_protocol.as_deref(),
            None => self.model.proxy_protocol.as_deref(),
        }
    }

    /// The certificates that it shows to hosts over TLS, now.
    pub fn certificates(&self) -> Vec<Arc<CertificateInfo>> {
        let matched = self.tls_matches.iter().filter_map(|(_, tls)| tls.as_ref());
        self.tls.iter().chain(matched).flat_map(|tls| tls.certificates()).collect()
    }

    /// The secrets without which its hosts cannot be spoken to, and which have not come yet.
    pub fn missing_secrets(&self) -> Vec<SecretRef> {
        let matched = self.tls_matches.iter().filter_map(|(_, tls)| tls.as_ref());
        self.tls.iter().chain(matched).flat_map(|tls| tls.missing()).collect()
    }

    /// How names are resolved, when the cluster says so itself.
    pub(super) fn resolver(&self) -> Option<&ResolverSettings> {
        self.resolver.as_ref()
    }

    fn is_original(&self) -> bool {
        matches!(self.model.discovery, Discovery::OriginalDst(_))
    }

    pub(super) fn discovery_stats(&self) -> Option<&DiscoveryStats> {
        self.stats.get()
    }

    fn lock(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn static_hosts(model: &Model, cx: &FactoryContext<'_>, errors: &mut Vec<sota_config::ConfigError>) -> Vec<HostSpec> {
    let mut specs: Vec<HostSpec> = Vec::new();
    for (i, of) in model.load_assignment.localities.iter().enumerate() {
        let locality = Arc::new(of.locality.clone());
        for (j, endpoint) in of.endpoints.iter().enumerate() {
            match literal_address(&endpoint.address) {
                Some(address) => specs.push(HostSpec::new(address, endpoint, of, &locality)),
                None => errors.push(cx.error(
                    &format!("load_assignment.endpoints[{i}].lb_endpoints[{j}].endpoint.address"),
                    Default::default(),
                    format!("{} is no IP address; use type STRICT_DNS or LOGICAL_DNS for names", endpoint.address),
                )),
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    specs.retain(|spec| seen.insert(spec.address.clone()));
    specs
}

/// The address, unless it is a name.
pub(super) fn literal_address(address: &Address) -> Option<PeerAddress> {
    match address {
        Address::Ip { ip, port, .. } => Some(SocketAddr::new(*ip, *port).into()),
        Address::Pipe { path, .. } => Some(PeerAddress::Pipe(path.clone())),
        Address::Name { .. } => None,
    }
}

/// The IP address and port of an `envoy.config.core.v3.Address` that is a tree.
pub(super) fn node_address(node: &Node) -> Option<SocketAddr> {
    let socket = node.field("socket_address");
    let port = socket.uint("port_value").map_or(Some(53), |port| u16::try_from(port).ok())?;
    Some(SocketAddr::new(socket.str("address").parse().ok()?, port))
}
