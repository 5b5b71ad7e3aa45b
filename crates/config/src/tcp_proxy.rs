//! The TCP proxy (`envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`).

use crate::{access_log::AccessLog, load_balancer::HashPolicy, node::Node};
use std::{sync::Arc, time::Duration};

/// Forwards bytes both ways between the connection and one of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpProxy {
    /// `stat_prefix`: stats are below `tcp.<prefix>.`.
    pub stat_prefix: String,
    /// Where to, with weights; a plain `cluster` is one entry of weight 1.
    pub clusters: Vec<WeightedCluster>,
    /// Close after this long without a byte either way; `None`: never. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// Close after this long whatever happens.
    pub max_downstream_connection_duration: Option<Duration>,
    /// How many hosts to try before giving up; at least 1.
    pub max_connect_attempts: u32,
    /// What is hashed, for clusters that choose by a hash.
    pub hash_policy: Vec<HashPolicy>,
    /// The metadata (`envoy.lb`) that hosts must have in clusters with subsets, sorted by key.
    pub metadata_match: Vec<(Arc<str>, Node)>,
    /// Access logs, written when the connection ends.
    pub access_log: Vec<AccessLog>,
}

/// A cluster with its share.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedCluster {
    /// The cluster's name.
    pub name: String,
    /// Its share of the sum of all weights.
    pub weight: u32,
    /// Further metadata that hosts must have, sorted by key.
    pub metadata_match: Vec<(Arc<str>, Node)>,
}
