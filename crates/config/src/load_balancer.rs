//! How a host is chosen: policies, what they hash, subsets (`Cluster.lb_policy`, `load_balancing_policy`).

use crate::{cluster::HealthStatus, extension::ExtensionConfig, node::Node};
use std::{sync::Arc, time::Duration};

/// How a host is chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum LbPolicy {
    /// Smooth weighted round robin.
    RoundRobin,
    /// The host with the fewest active requests of a few.
    LeastRequest(LeastRequest),
    /// At random.
    Random,
    /// The host that follows the hash on a ring.
    RingHash(RingHash),
    /// The host that the hash names in a table.
    Maglev(Maglev),
    /// An extension of the category of load balancers.
    Extension(ExtensionConfig),
    /// The cluster's own way (`ORIGINAL_DST`).
    ClusterProvided,
}

impl LbPolicy {
    /// Whether it wants to know how many requests each host has.
    pub fn counts_requests(&self) -> bool {
        match self {
            Self::LeastRequest(_) | Self::Extension(_) => true,
            Self::RingHash(RingHash { hashing, .. }) | Self::Maglev(Maglev { hashing, .. }) => {
                hashing.balance_factor.is_some()
            }
            Self::RoundRobin | Self::Random | Self::ClusterProvided => false,
        }
    }

    /// Whether it chooses by the hash of a request.
    pub fn hashes(&self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev(_) | Self::Extension(_))
    }
}

/// `LeastRequest`.
#[derive(Debug, Clone, PartialEq)]
pub struct LeastRequest {
    /// How many random hosts are compared; default 2.
    pub choice_count: u32,
    /// How much active requests take off a host's weight, where weights differ; default 1.
    pub active_request_bias: f64,
    /// Compare all hosts (`selection_method: FULL_SCAN`).
    pub full_scan: bool,
}

impl Default for LeastRequest {
    fn default() -> Self {
        Self { choice_count: 2, active_request_bias: 1.0, full_scan: false }
    }
}

/// `RingHash`.
#[derive(Debug, Clone, PartialEq)]
pub struct RingHash {
    /// Hashes names of hosts with MurmurHash2 instead of xxHash64.
    pub murmur_hash_2: bool,
    /// Entries of the ring, unless every host needs more; default 1024.
    pub minimum_ring_size: u64,
    /// The most entries; default 8 Mi, which is also the limit.
    pub maximum_ring_size: u64,
    /// What all hashing policies have.
    pub hashing: ConsistentHashing,
}

/// `Maglev`.
#[derive(Debug, Clone, PartialEq)]
pub struct Maglev {
    /// Entries of the table: a prime number, at most 5,000,011; default 65,537.
    pub table_size: u64,
    /// What all hashing policies have.
    pub hashing: ConsistentHashing,
}

/// `ConsistentHashingLbConfig`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConsistentHashing {
    /// Hosts stand for their host name instead of their address.
    pub use_hostname: bool,
    /// A host has at most this percentage of the mean of active requests, from 100; `None`: any number.
    pub balance_factor: Option<u32>,
    /// What is hashed, in place of what the route says.
    pub hash_policy: Vec<HashPolicy>,
}

/// `envoy.config.route.v3.RouteAction.HashPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct HashPolicy {
    /// What is hashed.
    pub source: HashSource,
    /// Those behind it do not count if there is a hash here.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq)]
pub enum HashSource {
    /// The values of a request header.
    Header {
        /// Its name.
        name: String,
        /// Expression (RE2) and substitution, applied to each value.
        rewrite: Option<(String, String)>,
    },
    /// A cookie.
    Cookie {
        /// Its name.
        name: String,
        /// When set, a client without the cookie is given one that lives for so long; zero is the session.
        ttl: Option<Duration>,
        /// The path of a cookie that is given; may be empty.
        path: String,
        /// Further attributes of a cookie that is given; a value may be empty.
        attributes: Vec<(String, String)>,
    },
    /// The client's address, without its port.
    SourceIp,
    /// The first query parameter of this name.
    QueryParameter(String),
    /// Filter state of this name, if it can be hashed.
    FilterState(String),
}

/// What all policies have in common (`CommonLbConfig` and beside it).
#[derive(Debug, Clone, PartialEq)]
pub struct LbConfig {
    /// Below this percentage of healthy hosts, all are used; default 50.
    pub healthy_panic_threshold: f64,
    /// New hosts get their part of the requests little by little; round robin and least request only.
    pub slow_start: Option<SlowStart>,
    /// A locality is drawn first, by the weights of localities.
    pub locality_weighted: bool,
    /// How requests keep to the locality of this proxy, where there is a local cluster.
    pub zone_aware: ZoneAware,
    /// In which health a host may be that a filter asks for; default unknown, healthy, degraded.
    pub override_host_statuses: Vec<HealthStatus>,
    /// New hosts do not count for anything before their first health check.
    pub ignore_new_hosts_until_first_hc: bool,
    /// Connections to all hosts are closed when the hosts change.
    pub close_connections_on_host_set_change: bool,
    /// Hosts are chosen among those whose metadata a route asks for.
    pub subsets: Option<Arc<Subsets>>,
}

impl Default for LbConfig {
    fn default() -> Self {
        Self {
            healthy_panic_threshold: 50.0,
            slow_start: None,
            locality_weighted: false,
            zone_aware: ZoneAware::default(),
            override_host_statuses: vec![HealthStatus::Unknown, HealthStatus::Healthy, HealthStatus::Degraded],
            ignore_new_hosts_until_first_hc: false,
            close_connections_on_host_set_change: false,
            subsets: None,
        }
    }
}

/// `ZoneAwareLbConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneAware {
    /// For so many of 100 requests (`upstream.zone_routing.enabled`); default all.
    pub routing_enabled: u32,
    /// Not below so many healthy hosts (`upstream.zone_routing.min_cluster_size`); default 6.
    pub min_cluster_size: u64,
    /// Where so few hosts are healthy that all would be used, none is.
    pub fail_traffic_on_panic: bool,
    /// With so many healthy hosts in the proxy's own locality every request stays, fair or not
    /// (`upstream.zone_routing.force_local_zone.min_size`); `force_locality_direct_routing` is 1.
    pub force_local_zone: Option<u64>,
    /// The weights of hosts are compared, not their number.
    pub by_weight: bool,
}

impl Default for ZoneAware {
    fn default() -> Self {
        Self {
            routing_enabled: 100,
            min_cluster_size: 6,
            fail_traffic_on_panic: false,
            force_local_zone: None,
            by_weight: false,
        }
    }
}

/// `SlowStartConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct SlowStart {
    /// How long it takes; above zero.
    pub window: Duration,
    /// Above 1 a host gets more sooner; default 1.
    pub aggression: f64,
    /// What a host has at least of its weight; default 10.
    pub min_weight_percent: f64,
}

/// `LbSubsetConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct Subsets {
    /// Which sets of keys make subsets.
    pub selectors: Vec<SubsetSelector>,
    /// Where no subset fits.
    pub fallback: SubsetFallback,
    /// The metadata (`envoy.lb`) of [`SubsetFallback::DefaultSubset`], sorted by key.
    pub default_subset: Vec<(Arc<str>, Node)>,
    /// Weights of localities count inside subsets.
    pub locality_weight_aware: bool,
    /// They shrink with the part of the locality that the subset leaves out.
    pub scale_locality_weight: bool,
    /// All hosts, where the fallback has none.
    pub panic_mode_any: bool,
    /// A list in an endpoint's metadata stands for any of its items.
    pub list_as_any: bool,
    /// A request with more keys than a selector has is matched without them.
    pub allow_redundant_keys: bool,
}

/// `LbSubsetSelector`.
#[derive(Debug, Clone, PartialEq)]
pub struct SubsetSelector {
    /// The keys, sorted.
    pub keys: Vec<Arc<str>>,
    /// A subset has one host: the first.
    pub single_host: bool,
    /// Where no subset of these keys fits; `None`: what the cluster says.
    pub fallback: Option<SubsetFallback>,
    /// The keys that are kept by [`SubsetFallback::KeysSubset`], sorted.
    pub fallback_keys: Vec<Arc<str>>,
}

/// What is done where no subset fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubsetFallback {
    /// There is no host.
    NoFallback,
    /// Any host.
    AnyEndpoint,
    /// The hosts of the default subset.
    DefaultSubset,
    /// Matched again with fewer keys.
    KeysSubset,
}
