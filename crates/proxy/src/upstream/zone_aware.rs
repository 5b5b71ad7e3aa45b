//! Zone-aware routing (Envoy's `zone_aware_lb_config`): requests stay in this proxy's locality as far as that is fair.
//!
//! The *local cluster* is that of this proxy and its equals. Where a locality has as large a part of the hosts as of the proxies,
//! its proxies keep to it. Where it has less, they send the rest to localities that have hosts to spare, in proportion to that.
//! Only hosts of priority 0 are looked at, as with Envoy.

use super::{
    config::ClusterConfig,
    host::{Host, HostHealth},
    host_set::{HostSet, List},
};
use crate::local::Place;
use sota_config::{
    load_balancer::{LbPolicy, ZoneAware as Model},
    matcher::FractionalPercent as Share,
};
use sota_plugin::{matcher::FractionalPercent, runtime::Runtime, stat_group};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicUsize},
};

/// The whole of what shares are parts of.
const WHOLE: u64 = 10_000;

stat_group! {
    /// `cluster.<name>.`: where requests went for the sake of this proxy's locality.
    pub(super) struct ZoneStats {
        /// The hosts, or those of the local cluster, have changed.
        lb_recalculate_zone_structures: counter,
        /// Too few hosts are healthy: requests go anywhere.
        lb_zone_cluster_too_small: counter,
        /// The local cluster does not have this proxy's locality, or is in panic.
        lb_local_cluster_not_ok: counter,
        /// To this locality, as all are.
        lb_zone_routing_all_directly: counter,
        /// To this locality, as a part is.
        lb_zone_routing_sampled: counter,
        /// To another one.
        lb_zone_routing_cross_zone: counter,
        /// No locality has hosts to spare.
        lb_zone_no_capacity_left: counter,
    }
}

/// The cluster of this proxy and its equals, as a worker knows it.
#[derive(Default)]
pub(super) struct LocalCluster {
    name: Box<str>,
    /// Region, zone, sub-zone of this proxy.
    pub(super) locality: [String; 3],
    /// The cluster, once it is there.
    pub(super) config: RefCell<Option<Arc<ClusterConfig>>>,
}

impl LocalCluster {
    pub(super) fn new(place: Option<&Place>) -> Self {
        let Some(place) = place else { return Self::default() };
        Self { name: place.local_cluster.clone(), locality: place.locality.clone(), config: RefCell::default() }
    }

    /// A cluster is there, or no more.
    pub(super) fn note(&self, name: &str, config: Option<&Arc<ClusterConfig>>) {
        if *self.name == *name {
            self.config.replace(config.cloned());
        }
    }
}

/// What is configured.
#[derive(Debug)]
pub(super) struct ZoneAware {
    model: Model,
    enabled: FractionalPercent,
    runtime: Arc<Runtime>,
}

impl ZoneAware {
    /// `None`: the policy, or weights of localities, leave nothing to choose.
    pub(super) fn build(model: &Model, policy: &LbPolicy, weighted: bool, runtime: &Arc<Runtime>) -> Option<Self> {
        let chooses = matches!(policy, LbPolicy::RoundRobin | LbPolicy::LeastRequest(_) | LbPolicy::Random);
        let enabled = Share {
            numerator: model.routing_enabled,
            denominator: 100,
            runtime_key: Some("upstream.zone_routing.enabled".to_owned()),
        };
        (chooses && !weighted).then(|| Self {
            model: model.clone(),
            enabled: FractionalPercent::build(&enabled, runtime),
            runtime: Arc::clone(runtime),
        })
    }

    /// Whether there is no answer, rather than any host, where too few are healthy.
    pub(super) fn fails_on_panic(&self) -> bool {
        self.model.fail_traffic_on_panic
    }
}

/// What comes of the hosts of a cluster, of those of the local cluster, and of this proxy's locality.
pub(super) struct Zones {
    routing: Routing,
    /// The healthy and the degraded hosts of each locality, this proxy's first if it has any.
    localities: Vec<(Arc<[String; 3]>, [List; 2])>,
    local_in_panic: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Routing {
    /// Requests go anywhere.
    Off,
    /// All stay.
    Direct,
    /// So many of 10,000 stay. The others go to localities by what those have to spare, which is summed up here in their order.
    Residual { stay: u64, spare: Vec<u64> },
}

/// Among which hosts a request's is chosen.
#[derive(Debug)]
pub(super) enum Choice<'a> {
    /// As if there were no zones.
    Anywhere,
    /// These.
    Among(&'a List),
    /// None.
    Nowhere,
}

impl Zones {
    /// `before` gives the cursors. `panic_threshold`: in percent.
    pub(super) fn new(
        set: &HostSet,
        local: (&[String; 3], &HostSet),
        config: &ZoneAware,
        panic_threshold: f64,
        before: Option<&Self>,
        stats: &ZoneStats,
    ) -> Self {
        stats.lb_recalculate_zone_structures.inc();
        let (own, proxies) = local;
        let groups = by_locality(set.hosts());
        // The own one first, then by name.
        let names = groups.keys().filter(|name| ***name == *own).chain(groups.keys().filter(|name| ***name != *own));
        let localities: Vec<_> = names
            .filter_map(|name| {
                let old = before.and_then(|before| before.localities.iter().find(|(other, _)| other == name));
                let places = groups.get(name)?;
                let list = |number: usize, health: HostHealth| {
                    let cursor =
                        old.map_or_else(Arc::<AtomicUsize>::default, |(_, lists)| Arc::clone(&lists[number].cursor));
                    let has =
                        |place: &&u32| set.hosts().get(**place as usize).is_some_and(|host| host.health() == health);
                    List::new(set.hosts(), places.iter().filter(has).copied().collect(), &cursor)
                };
                Some((Arc::clone(name), [list(0, HostHealth::Healthy), list(1, HostHealth::Degraded)]))
            })
            .collect();
        let routing = if localities.len() < 2 { Routing::Off } else { routing(set, &localities, local, config, stats) };
        let available = proxies.healthy() + proxies.degraded();
        let counted = proxies.hosts().len().saturating_sub(proxies.excluded());
        let part = if counted == 0 { 0.0 } else { 100.0 * available as f64 / counted as f64 };
        Self { routing, localities, local_in_panic: part < panic_threshold.min(100.0) }
    }

    /// Where the next request goes, among healthy or among degraded hosts.
    pub(super) fn choose(
        &self,
        degraded: bool,
        config: &ZoneAware,
        stats: &ZoneStats,
        random: impl Fn() -> u64,
    ) -> Choice<'_> {
        if self.routing == Routing::Off || !config.enabled.sample(random()) {
            return Choice::Anywhere;
        }
        if self.local_in_panic {
            stats.lb_local_cluster_not_ok.inc();
            return if config.fails_on_panic() { Choice::Nowhere } else { Choice::Anywhere };
        }
        let chosen = match &self.routing {
            Routing::Residual { stay, spare } => self.sampled(*stay, spare, stats, random),
            _ => {
                stats.lb_zone_routing_all_directly.inc();
                0
            }
        };
        self.localities.get(chosen).map_or(Choice::Anywhere, |(_, lists)| Choice::Among(&lists[usize::from(degraded)]))
    }

    fn sampled(&self, stay: u64, spare: &[u64], stats: &ZoneStats, random: impl Fn() -> u64) -> usize {
        if random() % WHOLE < stay {
            stats.lb_zone_routing_sampled.inc();
            return 0;
        }
        stats.lb_zone_routing_cross_zone.inc();
        match spare.last() {
            Some(all) if *all > 0 => {
                let at = random() % all;
                spare.iter().position(|sum| at < *sum).unwrap_or_default()
            }
            _ => {
                stats.lb_zone_no_capacity_left.inc();
                (random() % self.localities.len().max(1) as u64) as usize
            }
        }
    }
}

/// Places of the hosts of priority 0.
fn by_locality(hosts: &[Arc<Host>]) -> BTreeMap<Arc<[String; 3]>, Vec<u32>> {
    let mut groups = BTreeMap::<_, Vec<u32>>::new();
    for (place, host) in (0..).zip(hosts).filter(|(_, host)| host.spec().priority == 0) {
        groups.entry(Arc::clone(&host.spec().locality)).or_default().push(place);
    }
    groups
}

fn routing(
    set: &HostSet,
    localities: &[(Arc<[String; 3]>, [List; 2])],
    (own, proxies): (&[String; 3], &HostSet),
    config: &ZoneAware,
    stats: &ZoneStats,
) -> Routing {
    let (model, runtime) = (&config.model, &config.runtime);
    let forced = match runtime.integer("upstream.zone_routing.force_local_zone.min_size", 0) {
        0 => model.force_local_zone,
        hosts => Some(hosts),
    };
    let groups = by_locality(proxies.hosts());
    if groups.len() < 2 && forced.is_none() {
        return Routing::Off;
    }
    if !groups.contains_key(own) {
        stats.lb_local_cluster_not_ok.inc();
        return Routing::Off;
    }
    let healthy = |lists: &[List; 2]| lists[0].hosts.len() as u64;
    let hosts: u64 = localities.iter().map(|(_, lists)| healthy(lists)).sum();
    if hosts < runtime.integer("upstream.zone_routing.min_cluster_size", model.min_cluster_size) {
        stats.lb_zone_cluster_too_small.inc();
        return Routing::Off;
    }

    // Of the hosts, and of the proxies. Without hosts of a locality its proxies do not matter.
    let measure = |set: &HostSet, places: &[u32]| -> u64 {
        let found = places.iter().filter_map(|place| set.hosts().get(*place as usize));
        let healthy = found.filter(|host| host.health() == HostHealth::Healthy);
        healthy.map(|host| if model.by_weight { host.weight().into() } else { 1 }).sum()
    };
    let sizes: Vec<_> = localities.iter().map(|(_, lists)| measure(set, &lists[0].hosts)).collect();
    let proxies: BTreeMap<_, _> = groups.iter().map(|(name, places)| (name, measure(proxies, places))).collect();
    let (all_hosts, all_proxies): (u64, u64) = (sizes.iter().sum(), proxies.values().sum());
    let part = |of: u64, all: u64| (WHOLE * of).checked_div(all).unwrap_or(0);
    let parts: Vec<(u64, u64)> = localities
        .iter()
        .zip(&sizes)
        .map(|((name, _), size)| match size {
            0 => (0, 0),
            size => (part(*size, all_hosts), part(proxies.get(name).copied().unwrap_or(0), all_proxies)),
        })
        .collect();
    let has_own = localities.first().is_some_and(|(name, _)| **name == *own);
    let (upstream, local) = parts.first().copied().unwrap_or_default();
    let is_enough = forced.is_some_and(|least| localities.first().is_some_and(|(_, lists)| healthy(lists) >= least));
    if has_own && (is_enough || upstream > 0 && upstream >= local) {
        return Routing::Direct;
    }
    let stay = if has_own { (upstream * WHOLE).checked_div(local).unwrap_or(0) } else { 0 };
    let mut sum = 0;
    let spare = parts.iter().enumerate().map(|(number, (upstream, local))| {
        // The own one has what it could take already.
        if number > 0 || !has_own {
            sum += upstream.saturating_sub(*local);
        }
        sum
    });
    Routing::Residual { stay, spare: spare.collect() }
}

/// What a worker remembers of the zones of a cluster.
#[derive(Default)]
pub(super) struct ZoneCache {
    zones: Option<Zones>,
    /// The version of the cluster's hosts, and the local cluster with that of its own.
    from: Option<(u64, Arc<ClusterConfig>, u64)>,
}

impl ZoneCache {
    /// The zones as they are now, made anew where hosts have changed. `version`: of the cluster's hosts.
    pub(super) fn refresh(
        &mut self,
        version: u64,
        local: &Arc<ClusterConfig>,
        make: impl FnOnce(&HostSet, Option<&Zones>) -> Zones,
    ) -> &Zones {
        let local_version = local.version();
        let is_fresh = self.from.as_ref().is_some_and(|(own, cluster, other)| {
            *own == version && Arc::ptr_eq(cluster, local) && *other == local_version
        });
        let zones = match self.zones.take() {
            Some(zones) if is_fresh => zones,
            before => {
                self.from = Some((version, Arc::clone(local), local_version));
                make(&local.hosts(), before.as_ref())
            }
        };
        self.zones.insert(zones)
    }
}
