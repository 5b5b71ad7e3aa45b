//! The part of a cluster that all threads share.

use super::{
    circuit_breaker::CircuitBreaker,
    host::{Host, HostSpec, HostState},
    host_set::HostSet,
    stats::DiscoveryStats,
};
use sota_config::{
    ConfigErrors,
    address::Address,
    cluster::{Cluster as Model, Discovery, LbPolicy},
};
use sota_plugin::{FactoryContext, cx::ClusterHealth, info::PeerAddress, stats::Scope};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// A cluster as all threads share it: its model, the hosts it has now, its circuit breakers.
#[derive(Debug)]
pub struct ClusterConfig {
    name: Arc<str>,
    model: Arc<Model>,
    hosts: Mutex<Hosts>,
    /// Goes up with each host set. Workers compare it before they choose a host.
    version: AtomicU64,
    breakers: Arc<[CircuitBreaker; 2]>,
    stats: OnceLock<DiscoveryStats>,
}

#[derive(Debug, Default)]
struct Hosts {
    set: Arc<HostSet>,
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
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        let known = before.map(|before| {
            let hosts = before.hosts();
            hosts.hosts().iter().map(|host| (host.address().clone(), Arc::clone(host.state()))).collect()
        });
        let config = Arc::new(Self {
            name: model.name.as_str().into(),
            model: Arc::clone(model),
            hosts: Mutex::new(Hosts { set: Arc::default(), known: known.unwrap_or_default() }),
            version: AtomicU64::new(0),
            breakers: before.map(|before| Arc::clone(&before.breakers)).unwrap_or_default(),
            stats: OnceLock::new(),
        });
        if matches!(model.discovery, Discovery::Static) {
            config.set_hosts(specs);
        }
        Ok(config)
    }

    /// The cluster's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The model it was built from.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The hosts it has now.
    pub fn hosts(&self) -> Arc<HostSet> {
        Arc::clone(&self.lock().set)
    }

    /// Goes up when [`Self::hosts`] changes.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The limits of a priority: 0 default, 1 high.
    pub fn breaker(&self, priority: usize) -> &CircuitBreaker {
        &self.breakers[priority.min(1)]
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
            (&self.breakers[0], &self.model.circuit_breakers[0], "circuit_breakers.default."),
            (&self.breakers[1], &self.model.circuit_breakers[1], "circuit_breakers.high."),
        ] {
            breaker.configure(limits, &scope.child(prefix));
        }
        let mut first = false;
        let stats = self.stats.get_or_init(|| {
            first = true;
            DiscoveryStats::new(&scope)
        });
        if first {
            let set = self.hosts();
            if !set.hosts().is_empty() {
                stats.membership_change.inc();
                stats.default_transport_matches.add(set.hosts().len() as u64);
            }
            publish_members(stats, &set);
        }
    }

    /// The scope of the cluster's stats.
    pub fn scope(&self, root: &Scope) -> Scope {
        let name = if self.model.stat_name.is_empty() { &self.model.name } else { &self.model.stat_name };
        // As in Envoy, colons would split the name for some sinks.
        root.child(&format!("cluster.{}.", name.replace(':', "_")))
    }

    /// Replaces the hosts by what discovery says now. Hosts of known addresses keep their state. Whether anything
    /// changed.
    pub fn set_hosts(&self, specs: Vec<HostSpec>) -> bool {
        let mut hosts = self.lock();
        let before = Arc::clone(&hosts.set);
        let mut old: HashMap<&PeerAddress, &Arc<Host>> =
            before.hosts().iter().map(|host| (host.address(), host)).collect();
        let (mut added, mut changed) = (0, false);
        let next: Vec<Arc<Host>> = specs
            .into_iter()
            .map(|spec| match old.remove(&spec.address) {
                Some(host) if *host.spec() == spec => Arc::clone(host),
                Some(host) => {
                    changed = true;
                    Arc::new(Host::new(spec, Arc::clone(host.state())))
                }
                None => {
                    added += 1;
                    let state = hosts.known.get(&spec.address).cloned().unwrap_or_default();
                    state.set(HostState::REMOVED, false);
                    Arc::new(Host::new(spec, state))
                }
            })
            .collect();
        for host in old.values() {
            host.state().set(HostState::REMOVED, true);
        }
        let membership_changed = added > 0 || !old.is_empty();
        hosts.known = HashMap::new();
        if !changed && !membership_changed && next.len() == before.hosts().len() {
            if let Some(stats) = self.stats.get() {
                stats.update_no_rebuild.inc();
            }
            return false;
        }
        if let Some(stats) = self.stats.get() {
            stats.default_transport_matches.add(added);
            if membership_changed {
                stats.membership_change.inc();
            }
        }
        self.replace(&mut hosts, next);
        true
    }

    /// Takes account of changed health flags.
    pub fn refresh(&self) {
        let mut hosts = self.lock();
        let same = hosts.set.hosts().to_vec();
        self.replace(&mut hosts, same);
    }

    fn replace(&self, hosts: &mut Hosts, next: Vec<Arc<Host>>) {
        let factor = match self.model.load_assignment.overprovisioning_factor {
            0 => 140,
            factor => factor,
        };
        let threshold = self.model.lb_config.healthy_panic_threshold;
        hosts.set = Arc::new(HostSet::new(next, &hosts.set, factor, threshold));
        if let Some(stats) = self.stats.get() {
            publish_members(stats, &hosts.set);
        }
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(super) fn discovery_stats(&self) -> Option<&DiscoveryStats> {
        self.stats.get()
    }

    fn lock(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn publish_members(stats: &DiscoveryStats, set: &HostSet) {
    stats.membership_total.set(set.hosts().len().cast_signed() as i64);
    stats.membership_healthy.set(set.healthy().cast_signed() as i64);
    stats.membership_degraded.set(set.degraded().cast_signed() as i64);
    stats.max_host_weight.set(set.hosts().iter().map(|host| i64::from(host.weight())).max().unwrap_or(0));
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
