//! What a cluster counts, under Envoy's names.

use super::{load_balancer::Figures, subsets::SubsetTable};
use sota_config::{
    cluster::{Cluster, Discovery},
    load_balancer::LbPolicy,
};
use sota_plugin::{
    http::StatusCode,
    stat_group,
    stats::{Counter, Group, Histogram, Scope, SharedCounter, SharedGauge, Unit},
};
use std::{
    cell::{OnceCell, RefCell},
    ops::Deref,
};

stat_group! {
    /// `cluster.<name>.`: what a worker counts.
    pub struct ClusterStats {
        /// Connections begun.
        upstream_cx_total: counter,
        /// Connections that exist or are being made.
        upstream_cx_active: gauge,
        /// Connections begun for HTTP/1.
        upstream_cx_http1_total: counter,
        /// Connections begun for HTTP/2.
        upstream_cx_http2_total: counter,
        /// Connections that could not be made.
        upstream_cx_connect_fail: counter,
        /// Connections that were not made in time.
        upstream_cx_connect_timeout: counter,
        /// TCP proxy: hosts failed until no attempt was left.
        upstream_cx_connect_attempts_exceeded: counter,
        /// Sockets that could not be bound to their source address.
        bind_errors: counter,
        /// Connections that a circuit breaker did not allow.
        upstream_cx_overflow: counter,
        /// How long connecting took.
        upstream_cx_connect_ms: histogram(Milliseconds),
        /// How long connections lived.
        upstream_cx_length_ms: histogram(Milliseconds),
        /// Connections closed.
        upstream_cx_destroy: counter,
        /// Connections that we closed.
        upstream_cx_destroy_local: counter,
        /// Connections that the host closed.
        upstream_cx_destroy_remote: counter,
        /// Connections closed in the middle of a request.
        upstream_cx_destroy_with_active_rq: counter,
        /// Connections that we closed in the middle of a request.
        upstream_cx_destroy_local_with_active_rq: counter,
        /// Connections that the host closed in the middle of a request.
        upstream_cx_destroy_remote_with_active_rq: counter,
        /// Connections whose response asked for the close.
        upstream_cx_close_notify: counter,
        /// Octets received.
        upstream_cx_rx_bytes_total: counter,
        /// Octets received and not yet passed on.
        upstream_cx_rx_bytes_buffered: gauge,
        /// Octets sent.
        upstream_cx_tx_bytes_total: counter,
        /// Octets to be sent.
        upstream_cx_tx_bytes_buffered: gauge,
        /// Connections closed for having had no request for too long.
        upstream_cx_idle_timeout: counter,
        /// Connections closed after their largest number of requests.
        upstream_cx_max_requests: counter,
        /// Connections closed for their age.
        upstream_cx_max_duration_reached: counter,
        /// No host could be used.
        upstream_cx_none_healthy: counter,
        /// Connections on which the host broke the protocol.
        upstream_cx_protocol_error: counter,
        /// Requests that a connection had when it was closed.
        upstream_rq_per_cx: histogram(Unspecified),
        /// Requests sent.
        upstream_rq_total: counter,
        /// Requests that run.
        upstream_rq_active: gauge,
        /// Requests that a circuit breaker refused after a connection was there.
        upstream_rq_active_overflow: counter,
        /// Requests that had to wait for a connection.
        upstream_rq_pending_total: counter,
        /// Requests that wait for a connection.
        upstream_rq_pending_active: gauge,
        /// Requests that a circuit breaker refused.
        upstream_rq_pending_overflow: counter,
        /// Requests that waited for a connection that could not be made.
        upstream_rq_pending_failure_eject: counter,
        /// Requests given up before they had a connection.
        upstream_rq_cancelled: counter,
        /// Requests refused by maintenance mode.
        upstream_rq_maintenance_mode: counter,
        /// Requests not answered in time.
        upstream_rq_timeout: counter,
        /// Requests whose stream lasted too long.
        upstream_rq_max_duration_reached: counter,
        /// Attempts not answered in time.
        upstream_rq_per_try_timeout: counter,
        /// Attempts on which nothing moved for too long.
        upstream_rq_per_try_idle_timeout: counter,
        /// Requests that the host reset.
        upstream_rq_rx_reset: counter,
        /// Requests that the host reset without an error.
        upstream_rq_rx_reset_no_error: counter,
        /// Requests that we reset.
        upstream_rq_tx_reset: counter,
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
        /// Bodies that were too large to keep for a retry.
        retry_or_shadow_abandoned: counter,
        /// Internal redirects that failed.
        upstream_internal_redirect_failed_total: counter,
        /// Internal redirects followed.
        upstream_internal_redirect_succeeded_total: counter,
        /// The host's side was too slow for what came.
        upstream_flow_control_backed_up_total: counter,
        /// The host's side had taken what had piled up.
        upstream_flow_control_drained_total: counter,
        /// Reading from the host was stopped, as the client was too slow.
        upstream_flow_control_paused_reading_total: counter,
        /// Reading from the host went on.
        upstream_flow_control_resumed_reading_total: counter,
        /// All hosts were used, as too few are healthy.
        lb_healthy_panic: counter,
        /// A subset was there for a request.
        lb_subsets_selected: counter,
        /// No subset was there; the cluster's fallback had a host.
        lb_subsets_fallback: counter,
        /// Neither had a host; any was taken.
        lb_subsets_fallback_panic: counter,
        /// Original destinations that are no address.
        original_dst_host_invalid: counter,
        /// Fields left out for an underscore in their name.
        http1_dropped_headers_with_underscores = "http1.dropped_headers_with_underscores": counter,
        /// Metadata frames on HTTP/1.
        http1_metadata_not_supported_error = "http1.metadata_not_supported_error": counter,
        /// Heads refused for an underscore in a name.
        http1_requests_rejected_with_underscores_in_headers = "http1.requests_rejected_with_underscores_in_headers": counter,
        /// Responses that were asked for faster than they were taken.
        http1_response_flood = "http1.response_flood": counter,
    }
}

stat_group! {
    /// `cluster.<name>.`: what all threads count together of every cluster.
    pub(super) struct MembershipStats {
        membership_change: shared_counter,
        membership_total: shared_gauge,
        membership_healthy: shared_gauge,
        membership_degraded: shared_gauge,
        membership_excluded: shared_gauge,
        max_host_weight: shared_gauge,
        /// Hosts that were given the cluster's own transport socket.
        default_transport_matches = "default.total_match_count": shared_counter,
        update_attempt: shared_counter,
        update_success: shared_counter,
        update_failure: shared_counter,
        update_empty: shared_counter,
        update_no_rebuild: shared_counter,
        lb_subsets_active: shared_gauge,
        lb_subsets_created: shared_counter,
        lb_subsets_removed: shared_counter,
        /// Not counted by anything yet, as the next two; there because dashboards expect them.
        version: shared_gauge,
        warming_state: shared_gauge,
        upstream_rq_0rtt: shared_gauge,
    }
}

/// What all threads count together: discovery and membership.
#[derive(Debug)]
pub(super) struct DiscoveryStats {
    membership: Group<MembershipStats>,
    /// What was refused and what came too late; of clusters with endpoint discovery.
    pub(super) discovery: Option<[SharedCounter; 2]>,
    /// Clusters with subsets only.
    lb_subsets_duplicates: Option<SharedGauge>,
    /// Size (rings only), fewest and most entries of a host in the table of a hashing policy.
    table: Option<(Option<SharedGauge>, [SharedGauge; 2])>,
}

impl Deref for DiscoveryStats {
    type Target = MembershipStats;

    fn deref(&self) -> &MembershipStats {
        &self.membership
    }
}

impl DiscoveryStats {
    /// `scope` is the cluster's.
    pub(super) fn new(scope: &Scope, model: &Cluster) -> Self {
        let table = |size: Option<&'static str>, names: [&'static str; 2]| {
            (size.map(|name| scope.shared_gauge(name)), names.map(|name| scope.shared_gauge(name)))
        };
        Self {
            membership: scope.shared_group(),
            discovery: matches!(model.discovery, Discovery::Eds { .. })
                .then(|| ["update_rejected", "init_fetch_timeout"].map(|name| scope.shared_counter(name))),
            lb_subsets_duplicates: model
                .lb_config
                .subsets
                .as_ref()
                .map(|_| scope.shared_gauge("lb_subsets_single_host_per_subset_duplicate")),
            table: match &model.lb_policy {
                LbPolicy::RingHash(_) => Some(table(
                    Some("ring_hash_lb.size"),
                    ["ring_hash_lb.min_hashes_per_host", "ring_hash_lb.max_hashes_per_host"],
                )),
                LbPolicy::Maglev(_) => {
                    Some(table(None, ["maglev_lb.min_entries_per_host", "maglev_lb.max_entries_per_host"]))
                }
                _ => None,
            },
        }
    }

    /// The newest table of the balancer.
    pub(super) fn note_table(&self, figures: Figures) {
        let Some((size, [min, max])) = &self.table else { return };
        let value = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        if let Some(size) = size {
            size.set(value(figures.size));
        }
        min.set(value(figures.min));
        max.set(value(figures.max));
    }

    /// Subsets that came and went.
    pub(super) fn note_subsets(&self, now: Option<&SubsetTable>, before: Option<&SubsetTable>) {
        let Some(now) = now else { return };
        self.lb_subsets_created.add(now.not_in(before) as u64);
        self.lb_subsets_removed.add(before.map_or(0, |before| before.not_in(Some(now))) as u64);
        self.lb_subsets_active.set(now.len().cast_signed() as i64);
        if let Some(duplicates) = &self.lb_subsets_duplicates {
            duplicates.set(now.duplicates.cast_signed() as i64);
        }
    }
}

/// Counts of responses by their status: `upstream_rq_200`, `upstream_rq_2xx`, `upstream_rq_completed`, once for all and
/// once below `internal.` or `external.`. They exist from their first response on, as in Envoy.
#[derive(Debug)]
pub(super) struct ResponseStats {
    all: StatusStats,
    internal: OnceCell<StatusStats>,
    external: OnceCell<StatusStats>,
    retry: OnceCell<StatusStats>,
    scope: Scope,
}

impl ResponseStats {
    pub(super) fn new(scope: &Scope) -> Self {
        Self {
            all: StatusStats::new(scope.clone()),
            internal: OnceCell::new(),
            external: OnceCell::new(),
            retry: OnceCell::new(),
            scope: scope.clone(),
        }
    }

    pub(super) fn count(&self, status: StatusCode, internal: bool) {
        self.all.count(status);
        self.side(internal).count(status);
    }

    /// Counts a response that was dropped, below `retry.`.
    pub(crate) fn count_retried(&self, status: StatusCode) {
        self.retry.get_or_init(|| StatusStats::new(self.scope.child("retry."))).count(status);
    }

    pub(crate) fn record_time(&self, ms: u64, internal: bool) {
        self.all.record_time(ms);
        self.side(internal).record_time(ms);
    }

    fn side(&self, internal: bool) -> &StatusStats {
        let (side, prefix) = if internal { (&self.internal, "internal.") } else { (&self.external, "external.") };
        side.get_or_init(|| StatusStats::new(self.scope.child(prefix)))
    }
}

#[derive(Debug)]
pub(crate) struct StatusStats {
    scope: Scope,
    completed: OnceCell<Counter>,
    classes: [OnceCell<Counter>; 5],
    statuses: RefCell<Vec<(StatusCode, Counter)>>,
    time: OnceCell<Histogram>,
}

impl StatusStats {
    pub(crate) fn new(scope: Scope) -> Self {
        Self {
            scope,
            completed: OnceCell::new(),
            classes: Default::default(),
            statuses: RefCell::default(),
            time: OnceCell::new(),
        }
    }

    pub(crate) fn count(&self, status: StatusCode) {
        const CLASSES: [&str; 5] =
            ["upstream_rq_1xx", "upstream_rq_2xx", "upstream_rq_3xx", "upstream_rq_4xx", "upstream_rq_5xx"];
        self.completed.get_or_init(|| self.scope.counter("upstream_rq_completed")).inc();
        let class = usize::from(status.as_u16() / 100).wrapping_sub(1);
        if let (Some(cell), Some(name)) = (self.classes.get(class), CLASSES.get(class)) {
            cell.get_or_init(|| self.scope.counter(name)).inc();
        }
        if let Some((_, counter)) = self.statuses.borrow().iter().find(|(known, _)| *known == status) {
            counter.inc();
            return;
        }
        let counter = match class {
            0..5 => self.scope.counter_dyn(&format!("upstream_rq_{}", status.as_u16())),
            _ => self.scope.counter("upstream_rq_unknown"),
        };
        counter.inc();
        self.statuses.borrow_mut().push((status, counter));
    }

    pub(crate) fn record_time(&self, ms: u64) {
        self.time.get_or_init(|| self.scope.histogram("upstream_rq_time", Unit::Milliseconds)).record(ms);
    }
}
