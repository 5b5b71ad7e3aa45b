//! The hosts of a cluster: what discovery brings, what their health changes, and how workers are told.

use super::{ClusterConfig, DiscoveryNote, Hosts, MOST_AT_ONCE, literal_address};
use crate::upstream::{
    host::{Host, HostSpec, HostState},
    host_set::HostSet,
    load_balancer::Table,
    original_dst::OriginalHost,
    slow_start::Parts,
    stats::DiscoveryStats,
};
use sota_config::cluster::{Discovery, HealthStatus, LoadAssignment};
use sota_plugin::info::PeerAddress;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

impl ClusterConfig {
    /// Replaces the hosts by what discovery says now. Hosts of known addresses keep their state. Whether anything
    /// changed.
    pub fn set_hosts(&self, specs: Vec<HostSpec>) -> bool {
        let mut hosts = self.lock();
        let before = Arc::clone(&hosts.set);
        let mut old: HashMap<&PeerAddress, &Arc<Host>> =
            before.hosts().iter().map(|host| (host.address(), host)).collect();
        let (mut added, mut changed) = (0, false);
        let mut next: Vec<Arc<Host>> = specs
            .into_iter()
            .map(|spec| match old.remove(&spec.address) {
                Some(host) if *host.spec() == spec => Arc::clone(host),
                Some(host) => {
                    changed = true;
                    Arc::new(Host::new(spec, Arc::clone(host.state())))
                }
                None => {
                    added += 1;
                    let state = match hosts.known.get(&spec.address) {
                        Some(known) => Arc::clone(known),
                        None => self.new_state(&spec),
                    };
                    state.set(HostState::REMOVED, false);
                    Arc::new(Host::new(spec, state))
                }
            })
            .collect();
        for host in &next {
            if host.state().set(HostState::PENDING_REMOVAL, false) {
                changed = true;
            }
        }
        let kept = self.keep_healthy(&mut old);
        for host in kept {
            changed |= host.state().set(HostState::PENDING_REMOVAL, true);
            next.push(host);
        }
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

    /// The state of a new host: where hosts are checked, it is not well before it was.
    fn new_state(&self, spec: &HostSpec) -> Arc<HostState> {
        let state = Arc::<HostState>::default();
        if let Some(slow_start) = &self.model.lb_config.slow_start {
            state.set_part(slow_start.least_part());
        }
        if self.health_checker.is_some() && !spec.is_unchecked() {
            state.set(HostState::FAILED_CHECK | HostState::UNCHECKED, true);
            state.set(HostState::PENDING_CHECK, self.model.lb_config.ignore_new_hosts_until_first_hc);
        }
        state
    }

    /// Hosts that discovery has dropped and that stay, as their checks say that they are well. They leave `dropped`.
    fn keep_healthy(&self, dropped: &mut HashMap<&PeerAddress, &Arc<Host>>) -> Vec<Arc<Host>> {
        if self.health_checker.is_none() || self.model.ignore_health_on_host_removal {
            return Vec::new();
        }
        let mut kept = Vec::new();
        dropped.retain(|_, host| {
            let failed = host.state().has(HostState::FAILED_CHECK) || host.spec().health == HealthStatus::Unhealthy;
            let goes = failed || host.spec().is_unchecked();
            if !goes {
                kept.push(Arc::clone(host));
            }
            goes
        });
        kept
    }

    /// Takes account of what checks have found: hosts that discovery has dropped go when they fail.
    pub(in crate::upstream) fn apply_health(&self) {
        let mut hosts = self.lock();
        let is_over = |host: &Arc<Host>| {
            host.state().has(HostState::PENDING_REMOVAL) && host.state().has(HostState::FAILED_CHECK)
        };
        let (over, next): (Vec<_>, Vec<_>) = hosts.set.hosts().iter().cloned().partition(is_over);
        for host in &over {
            host.state().set(HostState::REMOVED, true);
        }
        if !over.is_empty()
            && let Some(stats) = self.stats.get()
        {
            stats.membership_change.inc();
        }
        self.replace(&mut hosts, next);
        hosts.health = self.across.health.fetch_add(1, Ordering::AcqRel) + 1;
    }

    /// Takes the endpoints over that a control plane has brought. Whether anything changed.
    pub fn set_endpoints(&self, endpoints: &LoadAssignment) -> bool {
        if let Some(stats) = self.stats.get() {
            stats.update_success.inc();
        }
        self.set_hosts(known_hosts(endpoints))
    }

    /// Counts an attempt to get endpoints from a control plane, or how it failed.
    pub fn note_discovery(&self, note: DiscoveryNote) {
        let Some(stats) = self.stats.get() else { return };
        match note {
            DiscoveryNote::Attempt => stats.update_attempt.inc(),
            DiscoveryNote::Failure => stats.update_failure.inc(),
            DiscoveryNote::Rejected => stats.discovery.iter().for_each(|[rejected, _]| rejected.inc()),
            DiscoveryNote::Timeout => stats.discovery.iter().for_each(|[_, late]| late.inc()),
        }
    }

    /// Replaces the host by one that may have another address: the state and the connections stay.
    pub(in crate::upstream) fn set_logical_host(&self, specs: Vec<HostSpec>) -> bool {
        let hosts = self.lock();
        let state = hosts.set.hosts().first().map(|host| Arc::clone(host.state()));
        let same = |host: &Arc<Host>, spec: &HostSpec| host.spec() == spec;
        match (state, specs.into_iter().next()) {
            (Some(state), Some(spec)) if !hosts.set.hosts().first().is_some_and(|host| same(host, &spec)) => {
                let mut hosts = hosts;
                self.replace(&mut hosts, vec![Arc::new(Host::new(spec, state))]);
                true
            }
            (None, Some(spec)) => {
                drop(hosts);
                self.set_hosts(vec![spec])
            }
            _ => {
                if let Some(stats) = self.stats.get() {
                    stats.update_no_rebuild.inc();
                }
                false
            }
        }
    }

    /// The host of an original destination, made when it is new.
    pub(in crate::upstream) fn original_host(&self, address: SocketAddr) -> Option<OriginalHost> {
        let (host, is_new) = self.across.original.get(address)?;
        if is_new {
            self.publish_original_hosts();
        }
        Some(host)
    }

    pub(in crate::upstream) fn clean_original_hosts(&self) {
        if self.across.original.clean() {
            self.publish_original_hosts();
        }
    }

    fn publish_original_hosts(&self) {
        if let Some(stats) = self.stats.get() {
            let hosts = self.across.original.len().cast_signed() as i64;
            stats.membership_change.inc();
            stats.membership_total.set(hosts);
            stats.membership_healthy.set(hosts);
        }
    }

    /// Takes account of changed health flags, in this cluster and those before and after it.
    pub fn refresh(&self) {
        let mut hosts = self.lock();
        let same = hosts.set.hosts().to_vec();
        // Workers see the new version when the set is there, so none of them waits for it.
        self.replace(&mut hosts, same);
        hosts.health = self.across.health.fetch_add(1, Ordering::AcqRel) + 1;
    }

    /// The same from a worker, which has no time for large sets and for tables: a thread makes them, one at a time.
    pub(super) fn refresh_from_worker(self: &Arc<Self>) {
        let is_small = self.balancing.tables.is_none()
            && self.balancing.subsets.is_none()
            && self.lock().set.hosts().len() <= MOST_AT_ONCE;
        if is_small {
            return self.refresh();
        }
        if self.is_refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        let config = Arc::clone(self);
        let refresh = move || {
            // What changes from here on needs another look.
            config.is_refreshing.store(false, Ordering::Release);
            config.refresh();
        };
        if std::thread::Builder::new().name("hosts".to_owned()).spawn(refresh).is_err() {
            self.is_refreshing.store(false, Ordering::Release);
            self.refresh();
        }
    }

    pub(super) fn replace(&self, hosts: &mut Hosts, next: Vec<Arc<Host>>) {
        hosts.health = self.across.health.load(Ordering::Acquire);
        let before = std::mem::take(&mut hosts.set);
        hosts.set = Arc::new(HostSet::new(next, &before, &self.balancing));
        if let Some(stats) = self.stats.get() {
            self.publish_members(stats, &hosts.set);
            stats.note_subsets(hosts.set.subsets(), before.subsets());
        }
        self.version.fetch_add(1, Ordering::Release);
        if let Some(checker) = &self.health_checker {
            checker.wake.notify_one();
        }
    }

    pub(super) fn publish_members(&self, stats: &DiscoveryStats, set: &HostSet) {
        stats.membership_total.set(set.hosts().len().cast_signed() as i64);
        stats.membership_healthy.set(set.healthy().cast_signed() as i64);
        stats.membership_degraded.set(set.degraded().cast_signed() as i64);
        stats.membership_excluded.set(set.excluded().cast_signed() as i64);
        if let Some(figures) = set.last_table().and_then(Table::figures) {
            stats.note_table(figures);
        }
        // Envoy looks at the weights that discovery brings, not at the document's.
        if !matches!(self.model.discovery, Discovery::Static) {
            stats.max_host_weight.set(set.hosts().iter().map(|host| i64::from(host.weight())).max().unwrap_or(0));
        }
    }
}

/// The hosts of endpoints that have addresses; of several with one address the first counts.
fn known_hosts(endpoints: &LoadAssignment) -> Vec<HostSpec> {
    let mut seen = std::collections::HashSet::new();
    let mut specs = Vec::new();
    for of in &endpoints.localities {
        let locality = Arc::new(of.locality.clone());
        for endpoint in &of.endpoints {
            if let Some(address) = literal_address(&endpoint.address)
                && seen.insert(address.clone())
            {
                specs.push(HostSpec::new(address, endpoint, of, &locality));
            }
        }
    }
    specs
}
