//! Clusters: which hosts there are, which of them a request goes to, and the connections to them.
//!
//! A [`ClusterConfig`] is what all threads share: the model, the current [`HostSet`], circuit breakers. Each worker
//! makes a [`Cluster`] of it, with a connection pool per host and priority. The main thread replaces the host set
//! (discovery, health); workers notice by its version, at the next choice of a host.

mod balancing;
mod circuit_breaker;
mod cluster;
mod clusters;
mod config;
pub mod conn_pool;
mod dns;
mod events;
mod hash_policy;
mod health_check;
mod host;
mod host_set;
mod load_balancer;
mod locality;
mod metadata_match;
mod original_dst;
mod outlier;
mod outlier_detector;
mod overload;
mod priority;
mod schedule;
mod services;
mod slow_start;
mod stats;
mod subsets;
mod tracked;
mod zone_aware;

pub use circuit_breaker::{CircuitBreaker, Resource};
pub use cluster::{Cluster, LbContext, RetryPermit};
pub use clusters::Clusters;
pub use config::{ClusterConfig, DiscoveryNote};
pub use conn_pool::{
    ConnectionFacts, Http2Place, HttpConnection, OwnConnection, PoolFailure, PoolFailureKind, TcpConnection,
    UpstreamConnection, WorkerHost,
};
pub use dns::{Discovery, DiscoveryCx, TellWorkers, check_resolver};
pub use hash_policy::{HashPolicies, RequestHash};
pub use host::{Host, HostCounts, HostHealth, HostSpec, HostState};
pub use host_set::{HostSet, PriorityHosts};
pub use metadata_match::MetadataMatch;
pub use outlier::HostResult;
pub use overload::Outcome;
pub(crate) use services::for_extensions;
pub use stats::ClusterStats;
pub(crate) use stats::StatusStats;
pub(crate) use tracked::{HeadSize, Tracked};

#[cfg(test)]
mod tests;
