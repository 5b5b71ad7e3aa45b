//! Load balancers: which host of a cluster a request goes to.
//!
//! A balancer is prepared off the path of requests, whenever hosts, weights or health change, and once for each list of
//! hosts that it may be asked to choose from: each priority, each subset, each locality where localities have weights.
//! All workers share what was prepared, so a choice neither locks nor allocates unless the balancer does.

use crate::{
    http::RequestHead,
    info::{ConnectionInfo, PeerAddress},
};
use sota_config::Node;
use std::sync::Arc;

/// A balancer as configured: built once, shared by all threads.
pub trait LoadBalancerConfig: Send + Sync {
    /// Gets ready to choose among these hosts. They are those that may be used now: there may be none.
    fn prepare(&self, hosts: &[Arc<dyn BalancedHost>]) -> Arc<dyn LoadBalancer>;
}

/// A balancer for one list of hosts.
pub trait LoadBalancer: Send + Sync {
    /// The position of a host in the list that it was prepared for; `None`: no host will do (503 UH).
    fn choose(&self, cx: &ChoiceCx<'_>) -> Option<usize>;
}

/// What a choice may depend on.
#[derive(Debug, Default, Clone, Copy)]
pub struct ChoiceCx<'a> {
    /// The hash of the request, by the `hash_policy` of its route; `None` when nothing that it names was there.
    pub hash: Option<u64>,
    /// The request; `None` for TCP.
    pub request: Option<&'a RequestHead>,
    /// The downstream connection.
    pub connection: Option<&'a ConnectionInfo>,
    /// How often a host was already chosen for this attempt that the retry policy wants to avoid: 0 at first.
    pub attempt: u32,
}

/// A host to choose from.
pub trait BalancedHost: Send + Sync {
    /// Where it is.
    fn address(&self) -> &PeerAddress;

    /// Its name; empty when it has none.
    fn hostname(&self) -> &str;

    /// Its share, from 1.
    fn weight(&self) -> u32;

    /// Region, zone, sub-zone.
    fn locality(&self) -> &[String; 3];

    /// Its metadata (`envoy.config.core.v3.Metadata`).
    fn metadata(&self) -> Option<&Arc<Node>>;

    /// How many requests it has now, from all workers.
    fn active_requests(&self) -> u32;
}
