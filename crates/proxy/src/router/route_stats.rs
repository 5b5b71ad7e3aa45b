//! Stats of a route that has a `stat_prefix`, and of virtual clusters.

use crate::upstream::StatusStats;
use sota_plugin::{
    stat_group,
    stats::{Group, Scope},
};

stat_group! {
    /// Below `vhost.<virtual host>.route.<stat_prefix>.` or `….vcluster.<name>.`, beside the counts per status.
    pub struct RouteCounters {
        /// Requests sent.
        upstream_rq_total: counter,
        /// Requests not answered in time.
        upstream_rq_timeout: counter,
        /// Retries.
        upstream_rq_retry: counter,
        /// Retries after exponential back-off.
        upstream_rq_retry_backoff_exponential: counter,
        /// Retries when the host said when.
        upstream_rq_retry_backoff_ratelimited: counter,
        /// Requests whose retries were used up.
        upstream_rq_retry_limit_exceeded: counter,
        /// Retries that a circuit breaker refused.
        upstream_rq_retry_overflow: counter,
        /// Retries that succeeded.
        upstream_rq_retry_success: counter,
    }
}

/// What is counted for a route or a virtual cluster on one worker.
#[derive(Debug)]
pub(super) struct RouteStats {
    pub(super) counters: Group<RouteCounters>,
    pub(super) responses: StatusStats,
}

impl RouteStats {
    /// `root` is the worker's.
    pub(super) fn for_route(root: &Scope, virtual_host: &str, prefix: &str) -> Self {
        Self::new(&root.child(&format!("vhost.{virtual_host}.route.{prefix}.")))
    }

    /// `root` is the worker's.
    pub(super) fn for_virtual_cluster(root: &Scope, virtual_host: &str, name: &str) -> Self {
        Self::new(&root.child(&format!("vhost.{virtual_host}.vcluster.{name}.")))
    }

    fn new(scope: &Scope) -> Self {
        Self { counters: scope.group(), responses: StatusStats::new(scope.clone()) }
    }
}
