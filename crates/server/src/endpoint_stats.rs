//! `track_cluster_stats.per_endpoint_stats`: the counters of each endpoint as stats. They are counted by the hosts anyway, and
//! are brought here when somebody looks.

use crate::resources::Resources;
use sota_plugin::{
    stat_group,
    stats::{Group, Scope},
};
use sota_proxy::upstream::{Host, HostHealth};
use std::collections::HashMap;

stat_group! {
    /// `cluster.<name>.endpoint.<address>.`, with `_` for the colons of the address.
    struct Counts {
        cx_connect_fail: shared_counter,
        cx_total: shared_counter,
        rq_error: shared_counter,
        rq_success: shared_counter,
        rq_timeout: shared_counter,
        rq_total: shared_counter,
        cx_active: shared_gauge,
        rq_active: shared_gauge,
        rq_pending_active: shared_gauge,
        /// 1 while it may be used.
        healthy: shared_gauge,
    }
}

/// The endpoints that are told of, by the prefix of their stats.
#[derive(Default)]
pub(crate) struct EndpointStats(HashMap<String, Endpoint>);

struct Endpoint {
    stats: Group<Counts>,
    /// What was added so far.
    told: [u64; 6],
}

impl EndpointStats {
    /// Brings them up to date. Those of hosts that are gone leave.
    pub(crate) fn refresh(&mut self, resources: &Resources, root: &Scope) {
        let mut before = std::mem::take(&mut self.0);
        resources.each_cluster(|cluster| {
            let model = cluster.config.model();
            if !model.track.per_endpoint_stats {
                return;
            }
            for host in cluster.config.hosts().hosts() {
                let address = host.address().to_string().replace(':', "_");
                let prefix = format!("cluster.{}.endpoint.{address}.", model.stat_name);
                let mut endpoint = before
                    .remove(&prefix)
                    .unwrap_or_else(|| Endpoint { stats: root.child(&prefix).shared_group(), told: [0; 6] });
                endpoint.tell(host);
                self.0.insert(prefix, endpoint);
            }
        });
    }
}

impl Endpoint {
    fn tell(&mut self, host: &Host) {
        let (counts, stats) = (host.state().counts(), &self.stats);
        let counters = [
            (counts.cx_connect_fail, &stats.cx_connect_fail),
            (counts.cx_total, &stats.cx_total),
            (counts.rq_error, &stats.rq_error),
            (counts.rq_success, &stats.rq_success),
            (counts.rq_timeout, &stats.rq_timeout),
            (counts.rq_total, &stats.rq_total),
        ];
        for ((value, counter), told) in counters.into_iter().zip(&mut self.told) {
            // Less than before: another host has the address now.
            counter.add(value.checked_sub(*told).unwrap_or(value));
            *told = value;
        }
        stats.cx_active.set(counts.cx_active);
        stats.rq_active.set(counts.rq_active);
        stats.rq_pending_active.set(counts.rq_pending_active);
        stats.healthy.set(i64::from(host.health() != HostHealth::Unhealthy));
    }
}
