//! A host: what discovery says of it, and the state that outlives updates of the cluster.

use super::{config::literal_address, outlier::HostOutlier, overload::HostOverload, slow_start::WHOLE};
use sota_config::{
    Node,
    cluster::{Endpoint, HealthStatus, LocalityEndpoints},
    health_check::EndpointHealthCheck,
};
use sota_plugin::{
    info::PeerAddress,
    stats::{CounterCell, GaugeCell},
};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicU32, Ordering::Relaxed},
};

/// Envoy's limit of `priority`: there is a list for each up to the highest.
const MOST_PRIORITIES: u32 = 128;

/// What discovery says of a host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSpec {
    /// Where it is.
    pub address: PeerAddress,
    /// Other addresses of the same host, tried when the first takes long or fails.
    pub additional_addresses: Arc<[PeerAddress]>,
    /// Its name, for `host_rewrite: auto`; empty when it has none.
    pub hostname: Arc<str>,
    /// Its share, from 1.
    pub weight: u32,
    /// 0 is the highest.
    pub priority: u32,
    /// Region, zone, sub-zone.
    pub locality: Arc<[String; 3]>,
    /// The share of its locality; 0 when that has none.
    pub locality_weight: u32,
    /// The health that discovery gives.
    pub health: HealthStatus,
    /// Metadata, for matching and logs.
    pub metadata: Option<Arc<Node>>,
    /// How it is checked, where it says so itself.
    pub health_check: Option<Arc<EndpointHealthCheck>>,
}

impl HostSpec {
    /// An endpoint whose address is known: as given, or as its name was resolved.
    pub fn new(address: PeerAddress, endpoint: &Endpoint, of: &LocalityEndpoints, locality: &Arc<[String; 3]>) -> Self {
        Self {
            address,
            additional_addresses: match &*endpoint.additional_addresses {
                [] => Arc::default(),
                addresses => addresses.iter().filter_map(literal_address).collect(),
            },
            hostname: match endpoint.hostname.as_str() {
                // Shared by all that have none.
                "" => Arc::default(),
                name => name.into(),
            },
            weight: endpoint.weight.max(1),
            priority: of.priority.min(MOST_PRIORITIES),
            locality: Arc::clone(locality),
            locality_weight: of.weight.unwrap_or(0),
            health: endpoint.health,
            metadata: endpoint.metadata.clone(),
            health_check: endpoint.health_check.clone(),
        }
    }
}

/// The namespace of metadata that chooses the transport of a host.
const TRANSPORT_MATCH: &str = "envoy.transport_socket_match";

impl HostSpec {
    /// Whether it is left out of active health checks.
    pub(super) fn is_unchecked(&self) -> bool {
        self.health_check.as_ref().is_some_and(|check| check.disabled)
    }

    /// What its metadata says for the choice of its transport.
    pub(super) fn transport_match(&self, key: &str) -> Option<&Node> {
        let metadata = self.metadata.as_ref()?;
        metadata.get("filter_metadata").unwrap_or(metadata).get(TRANSPORT_MATCH)?.get(key)
    }
}

/// How far a host may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostHealth {
    /// May be used.
    Healthy,
    /// May be used when nothing better is.
    Degraded,
    /// May not be used, unless in panic.
    Unhealthy,
}

/// A host of a cluster. Immutable but for its [state](Self::state), which it shares with the hosts of the same address
/// before and after it.
#[derive(Debug)]
pub struct Host {
    spec: HostSpec,
    state: Arc<HostState>,
}

impl Host {
    pub(super) fn new(spec: HostSpec, state: Arc<HostState>) -> Self {
        Self { spec, state }
    }

    /// What discovery says of it.
    pub fn spec(&self) -> &HostSpec {
        &self.spec
    }

    /// Where it is.
    pub fn address(&self) -> &PeerAddress {
        &self.spec.address
    }

    /// Its name; empty when it has none.
    pub fn hostname(&self) -> &Arc<str> {
        &self.spec.hostname
    }

    /// Its share, from 1.
    pub fn weight(&self) -> u32 {
        self.spec.weight
    }

    /// Its share as it is now, in thousandths: a part of it in slow start.
    pub(super) fn effective_weight(&self) -> u64 {
        u64::from(self.spec.weight) * u64::from(WHOLE - self.state.held_back.load(Relaxed).min(WHOLE - 1))
    }

    /// What it shares with the hosts of the same address before and after it.
    pub fn state(&self) -> &Arc<HostState> {
        &self.state
    }

    /// Where it is checked: at its own address, unless it says otherwise.
    pub(super) fn check_address(&self) -> PeerAddress {
        let own = || self.spec.address.clone();
        let Some(check) = &self.spec.health_check else { return own() };
        let mut address = check.address.as_ref().and_then(literal_address).unwrap_or_else(own);
        if let (PeerAddress::Ip(address), Some(port)) = (&mut address, check.port) {
            address.set_port(port);
        }
        address
    }

    /// Whether it does not count for how many hosts there are: it waits for its first check, or has asked for that.
    pub(super) fn is_excluded(&self) -> bool {
        self.state.flags() & (HostState::PENDING_CHECK | HostState::EXCLUDED) != 0
    }

    /// Percent of success in the last interval of outlier detection: of answers and of connections, if it was compared.
    pub fn success_rates(&self) -> [Option<f64>; 2] {
        self.state.outlier.get().map_or([None; 2], |outlier| outlier.ejection().success_rates)
    }

    /// How far it may be used now.
    pub fn health(&self) -> HostHealth {
        let flags = self.state.flags();
        match self.spec.health {
            _ if flags & HostState::FAILED != 0 => HostHealth::Unhealthy,
            HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout => HostHealth::Unhealthy,
            HealthStatus::Degraded => HostHealth::Degraded,
            HealthStatus::Unknown | HealthStatus::Healthy if flags & HostState::DEGRADED_CHECK != 0 => {
                HostHealth::Degraded
            }
            HealthStatus::Unknown | HealthStatus::Healthy => HostHealth::Healthy,
        }
    }

    /// The health in the words of discovery, what we saw ourselves included.
    pub fn status(&self) -> HealthStatus {
        let flags = self.state.flags();
        match self.spec.health {
            _ if flags & HostState::FAILED != 0 => HealthStatus::Unhealthy,
            failed @ (HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout) => failed,
            _ if flags & HostState::DEGRADED_CHECK != 0 => HealthStatus::Degraded,
            other => other,
        }
    }

    /// The flags as `/clusters` prints them: `healthy`, or what is wrong, each word behind a slash (Envoy's
    /// `healthFlagsToString`).
    pub fn health_flags(&self) -> String {
        let flags = self.state.flags();
        let eds = match self.spec.health {
            HealthStatus::Unhealthy | HealthStatus::Timeout => "/failed_eds_health",
            HealthStatus::Draining => "/eds_status_draining",
            HealthStatus::Degraded => "/degraded_eds_health",
            HealthStatus::Unknown | HealthStatus::Healthy => "",
        };
        let (failed_eds, draining, degraded_eds) = match eds {
            "/failed_eds_health" => (eds, "", ""),
            "/eds_status_draining" => ("", eds, ""),
            _ => ("", "", eds),
        };
        let of_state = |flag: u32, name: &'static str| if flags & flag != 0 { name } else { "" };
        let text = [
            of_state(HostState::FAILED_CHECK, "/failed_active_hc"),
            of_state(HostState::EJECTED, "/failed_outlier_check"),
            failed_eds,
            of_state(HostState::DEGRADED_CHECK, "/degraded_active_hc"),
            degraded_eds,
            of_state(HostState::PENDING_REMOVAL, "/pending_dynamic_removal"),
            of_state(HostState::PENDING_CHECK, "/pending_active_hc"),
            of_state(HostState::EXCLUDED, "/excluded_via_immediate_hc_fail"),
            of_state(HostState::CHECK_TIMEOUT, "/active_hc_timeout"),
            draining,
        ]
        .concat();
        if text.is_empty() { "healthy".to_owned() } else { text }
    }
}

/// What stays with an address over updates of its cluster: health as we see it, and counters.
#[derive(Debug, Default)]
pub struct HostState {
    flags: AtomicU32,
    /// Requests that run on all workers; kept for balancers that ask.
    active: AtomicU32,
    counters: Mutex<Counters>,
    /// How much of its weight it does not have yet, in thousandths.
    held_back: AtomicU32,
    overload: HostOverload,
    /// Made when somebody watches the host.
    outlier: OnceLock<Box<HostOutlier>>,
}

#[derive(Debug, Default)]
struct Counters {
    /// Counts of workers that dropped their part, if any did.
    gone: Option<Box<HostCounts>>,
    workers: Vec<Arc<HostCounters>>,
}

impl Counters {
    fn gone(&self) -> HostCounts {
        self.gone.as_deref().copied().unwrap_or_default()
    }
}

impl HostState {
    /// Failed its active health check.
    pub const FAILED_CHECK: u32 = 1;
    /// Ejected for what its answers were like.
    pub const EJECTED: u32 = 2;
    /// Its active health check says that it is degraded.
    pub const DEGRADED_CHECK: u32 = 4;
    /// No host set has it any more.
    pub(super) const REMOVED: u32 = 8;
    /// New, and not to be counted before its first check.
    pub const PENDING_CHECK: u32 = 16;
    /// Failing by its own word, and not to be counted.
    pub const EXCLUDED: u32 = 32;
    /// Its last check was not answered in time.
    pub const CHECK_TIMEOUT: u32 = 64;
    /// Discovery has dropped it; it stays until it fails a check.
    pub const PENDING_REMOVAL: u32 = 128;
    /// Its first check has not been told yet.
    pub(super) const UNCHECKED: u32 = 256;
    /// A worker has heard that it fails.
    pub(super) const ASKED_TO_FAIL: u32 = 512;

    /// What active health checks say.
    pub(super) const OF_CHECKS: u32 = Self::FAILED_CHECK
        | Self::DEGRADED_CHECK
        | Self::PENDING_CHECK
        | Self::EXCLUDED
        | Self::CHECK_TIMEOUT
        | Self::UNCHECKED
        | Self::ASKED_TO_FAIL;

    const FAILED: u32 = Self::FAILED_CHECK | Self::EJECTED;

    /// The flags now.
    pub fn flags(&self) -> u32 {
        self.flags.load(Relaxed)
    }

    /// Whether all of `flags` are set.
    pub fn has(&self, flags: u32) -> bool {
        self.flags() & flags == flags
    }

    /// Sets or clears `flags`; whether that changed anything. The cluster has to be
    /// [refreshed](super::ClusterConfig::refresh) afterwards.
    pub fn set(&self, flags: u32, on: bool) -> bool {
        let before = if on { self.flags.fetch_or(flags, Relaxed) } else { self.flags.fetch_and(!flags, Relaxed) };
        (before & flags) != if on { flags } else { 0 }
    }

    /// Requests that run now, on all workers (kept only for least request).
    pub(super) fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    pub(super) fn add_active(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    pub(super) fn sub_active(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    /// How much of its weight it has, in thousandths from 1; whether that changed.
    pub(super) fn set_part(&self, part: u32) -> bool {
        let held_back = WHOLE.saturating_sub(part);
        self.held_back.swap(held_back, Relaxed) != held_back
    }

    pub(super) fn outlier(&self) -> &HostOutlier {
        self.outlier.get_or_init(Box::default)
    }

    pub(super) fn overload(&self) -> &HostOverload {
        &self.overload
    }

    /// One worker's counters.
    pub(super) fn worker_counters(self: &Arc<Self>) -> WorkerCounters {
        let counters = Arc::<HostCounters>::default();
        self.lock().workers.push(Arc::clone(&counters));
        WorkerCounters { counters, state: Arc::clone(self) }
    }

    /// The counters of all workers together.
    pub fn counts(&self) -> HostCounts {
        let counters = self.lock();
        counters.workers.iter().fold(counters.gone(), |sum, worker| sum.plus(worker))
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one worker counts for a host, by Envoy's names.
#[derive(Debug, Default)]
pub struct HostCounters {
    /// Connections begun.
    pub cx_total: CounterCell,
    /// Connections that exist or are being made.
    pub cx_active: GaugeCell,
    /// Connections that could not be made.
    pub cx_connect_fail: CounterCell,
    /// Requests sent.
    pub rq_total: CounterCell,
    /// Requests that run.
    pub rq_active: GaugeCell,
    /// Requests that wait for a connection.
    pub rq_pending_active: GaugeCell,
    /// Requests answered without a server error.
    pub rq_success: CounterCell,
    /// Requests that failed.
    pub rq_error: CounterCell,
    /// Requests that were not answered in time.
    pub rq_timeout: CounterCell,
}

/// [`HostCounters`] of all workers together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of HostCounters")]
pub struct HostCounts {
    pub cx_total: u64,
    pub cx_active: i64,
    pub cx_connect_fail: u64,
    pub rq_total: u64,
    pub rq_active: i64,
    pub rq_pending_active: i64,
    pub rq_success: u64,
    pub rq_error: u64,
    pub rq_timeout: u64,
}

impl HostCounts {
    fn plus(self, more: &HostCounters) -> Self {
        Self {
            cx_total: self.cx_total + more.cx_total.value(),
            cx_active: self.cx_active + more.cx_active.value(),
            cx_connect_fail: self.cx_connect_fail + more.cx_connect_fail.value(),
            rq_total: self.rq_total + more.rq_total.value(),
            rq_active: self.rq_active + more.rq_active.value(),
            rq_pending_active: self.rq_pending_active + more.rq_pending_active.value(),
            rq_success: self.rq_success + more.rq_success.value(),
            rq_error: self.rq_error + more.rq_error.value(),
            rq_timeout: self.rq_timeout + more.rq_timeout.value(),
        }
    }
}

/// A worker's [`HostCounters`]; the host keeps the sums when they go.
#[derive(Debug)]
pub(super) struct WorkerCounters {
    pub(super) counters: Arc<HostCounters>,
    state: Arc<HostState>,
}

impl Drop for WorkerCounters {
    fn drop(&mut self) {
        let mut all = self.state.lock();
        all.gone = Some(Box::new(all.gone().plus(&self.counters)));
        all.workers.retain(|other| !Arc::ptr_eq(other, &self.counters));
    }
}
