//! Outlier detection: hosts are ejected for what became of the requests sent to them, and come back after a while.
//!
//! Workers count, in atomics of the host; whoever counts up to a threshold wakes the detector. Everything else is done by
//! its task on the main thread, in [`detector`](super::outlier_detector).

use super::host::HostState;
use sota_config::outlier_detection::OutlierDetection;
use sota_plugin::{
    http::StatusCode,
    runtime::Runtime,
    stat_group,
    stats::{Group, Scope},
};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// What became of a use of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostResult {
    /// It answered with this status; with gRPC the status that stands for the call's.
    Status(StatusCode),
    /// A connection to it is there, on which something follows that has a result of its own.
    Connected,
    /// A connection to it is there, and that is all there is to know.
    ConnectedForGood,
    /// It could not be connected to, or the connection broke.
    ConnectFailed,
    /// It did not answer in time; the status that the client is given.
    Timeout(StatusCode),
    /// It answered well, in a protocol without statuses.
    RequestSucceeded,
    /// It answered with an error, in a protocol without statuses.
    RequestFailed,
}

stat_group! {
    /// `cluster.<name>.outlier_detection.`
    pub(super) struct OutlierStats {
        /// Hosts that are ejected.
        ejections_active: shared_gauge,
        /// Of the older counters: ejected or would have been, for statuses of 500 and above.
        ejections_consecutive_5xx: shared_counter,
        /// Detected, whether it ejected or not.
        ejections_detected_consecutive_5xx: shared_counter,
        /// The same for 502, 503 and 504.
        ejections_detected_consecutive_gateway_failure: shared_counter,
        /// The same for failures to connect.
        ejections_detected_consecutive_local_origin_failure: shared_counter,
        /// The same for the percentage of failures.
        ejections_detected_failure_percentage: shared_counter,
        /// The same for the percentage of failures to connect.
        ejections_detected_local_origin_failure_percentage: shared_counter,
        /// The same for the success rate of connecting.
        ejections_detected_local_origin_success_rate: shared_counter,
        /// The same for the success rate.
        ejections_detected_success_rate: shared_counter,
        /// Ejected.
        ejections_enforced_consecutive_5xx: shared_counter,
        /// The same for 502, 503 and 504.
        ejections_enforced_consecutive_gateway_failure: shared_counter,
        /// The same for failures to connect.
        ejections_enforced_consecutive_local_origin_failure: shared_counter,
        /// The same for the percentage of failures.
        ejections_enforced_failure_percentage: shared_counter,
        /// The same for the percentage of failures to connect.
        ejections_enforced_local_origin_failure_percentage: shared_counter,
        /// The same for the success rate of connecting.
        ejections_enforced_local_origin_success_rate: shared_counter,
        /// The same for the success rate.
        ejections_enforced_success_rate: shared_counter,
        /// All that ejected.
        ejections_enforced_total: shared_counter,
        /// Detected, and not ejected as too many are.
        ejections_overflow: shared_counter,
        /// Of the older counters: below the success rate of the others.
        ejections_success_rate: shared_counter,
        /// Of the older counters.
        ejections_total: shared_counter,
    }
}

/// The detection of a cluster.
#[derive(Debug)]
pub(super) struct Outlier {
    pub(super) options: OutlierDetection,
    pub(super) runtime: Arc<Runtime>,
    /// A threshold was reached.
    pub(super) wake: Notify,
    pub(super) stats: OnceLock<Group<OutlierStats>>,
}

/// A host's part; it outlives updates of the cluster.
#[derive(Debug, Default)]
pub(super) struct HostOutlier {
    pub(super) consecutive_5xx: AtomicU32,
    pub(super) consecutive_gateway_failure: AtomicU32,
    pub(super) consecutive_local_origin_failure: AtomicU32,
    /// Answers of this interval.
    pub(super) external: Rate,
    /// Connections of this interval, where they are counted apart.
    pub(super) local_origin: Rate,
    /// Thresholds that were reached, as bits, until the detector has seen them.
    pub(super) detected: AtomicU32,
    ejection: Mutex<Ejection>,
}

/// What the detector remembers of a host.
#[derive(Debug, Default, Clone)]
pub(super) struct Ejection {
    /// How often it was ejected.
    pub(super) count: u32,
    /// By how much `base_ejection_time` is multiplied.
    pub(super) back_off: u32,
    pub(super) ejected_at: Option<Instant>,
    pub(super) returned_at: Option<Instant>,
    pub(super) jitter: Duration,
    /// Percent of success in the last interval: of answers, of connections.
    pub(super) success_rates: [Option<f64>; 2],
}

/// Successes and all, counted in one step.
#[derive(Debug, Default)]
pub(super) struct Rate(AtomicU64);

impl Rate {
    fn note(&self, succeeded: bool) {
        self.0.fetch_add(1 << 32 | u64::from(succeeded), Relaxed);
    }

    /// Percent of success and how many there were since the last time; `None`: there were none.
    pub(super) fn take(&self) -> Option<(f64, u32)> {
        let value = self.0.swap(0, Relaxed);
        let (total, succeeded) = ((value >> 32) as u32, value as u32);
        (total > 0).then(|| (f64::from(succeeded) * 100.0 / f64::from(total), total))
    }
}

impl HostOutlier {
    /// 500 and above in a row.
    pub(super) const CONSECUTIVE_5XX: u32 = 1;
    /// 502, 503 and 504 in a row.
    pub(super) const CONSECUTIVE_GATEWAY_FAILURE: u32 = 2;
    /// Failures to connect in a row.
    pub(super) const CONSECUTIVE_LOCAL_ORIGIN_FAILURE: u32 = 4;
    /// It has passed an active check.
    pub(super) const CHECK_PASSED: u32 = 8;

    pub(super) fn ejection(&self) -> MutexGuard<'_, Ejection> {
        self.ejection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing in a row any more.
    pub(super) fn forget_failures(&self) {
        for counter in
            [&self.consecutive_5xx, &self.consecutive_gateway_failure, &self.consecutive_local_origin_failure]
        {
            counter.store(0, Relaxed);
        }
    }
}

/// Back to zero, without a write where it is there already: all workers read it.
fn clear(counter: &AtomicU32) {
    if counter.load(Relaxed) != 0 {
        counter.store(0, Relaxed);
    }
}

impl Outlier {
    pub(super) fn new(options: &OutlierDetection, runtime: &Arc<Runtime>) -> Self {
        Self { options: options.clone(), runtime: Arc::clone(runtime), wake: Notify::new(), stats: OnceLock::new() }
    }

    /// `scope` is the cluster's.
    pub(super) fn publish(&self, scope: &Scope) {
        self.stats.get_or_init(|| scope.child("outlier_detection.").group());
    }

    /// A number of the configuration, unless the runtime has another.
    pub(super) fn number(&self, key: &str, configured: u32) -> u32 {
        let value = self.runtime.integer(&format!("outlier_detection.{key}"), configured.into());
        u32::try_from(value).unwrap_or(u32::MAX)
    }

    /// Notes what became of a use of a host. On any thread.
    pub(super) fn note(&self, state: &HostState, result: HostResult) {
        let host = state.outlier();
        let status = match (self.options.split_external_local_origin_errors, result) {
            (_, HostResult::Status(status)) | (false, HostResult::Timeout(status)) => status,
            (false, HostResult::Connected) => return,
            (false, HostResult::ConnectedForGood | HostResult::RequestSucceeded) => StatusCode::OK,
            (false, HostResult::RequestFailed) => StatusCode::INTERNAL_SERVER_ERROR,
            (false, HostResult::ConnectFailed) | (true, HostResult::RequestFailed) => StatusCode::SERVICE_UNAVAILABLE,
            (true, HostResult::RequestSucceeded) => {
                self.note_connection(host, true);
                StatusCode::OK
            }
            (true, HostResult::Connected | HostResult::ConnectedForGood) => return self.note_connection(host, true),
            (true, HostResult::ConnectFailed | HostResult::Timeout(_)) => return self.note_connection(host, false),
        };
        self.note_status(host, status);
    }

    /// An ejected host has passed an active check.
    pub(super) fn note_passed_check(&self, state: &HostState) {
        if self.options.successful_active_health_check_uneject_host && state.has(HostState::EJECTED) {
            state.outlier().detected.fetch_or(HostOutlier::CHECK_PASSED, Relaxed);
            self.wake.notify_one();
        }
    }

    fn note_status(&self, host: &HostOutlier, status: StatusCode) {
        host.external.note(!status.is_server_error());
        if !status.is_server_error() {
            clear(&host.consecutive_5xx);
            clear(&host.consecutive_gateway_failure);
            return;
        }
        if matches!(status.as_u16(), 502..=504) {
            let limit = self.number("consecutive_gateway_failure", self.options.consecutive_gateway_failure);
            self.count(host, &host.consecutive_gateway_failure, limit, HostOutlier::CONSECUTIVE_GATEWAY_FAILURE);
        } else {
            clear(&host.consecutive_gateway_failure);
        }
        let limit = self.number("consecutive_5xx", self.options.consecutive_5xx);
        self.count(host, &host.consecutive_5xx, limit, HostOutlier::CONSECUTIVE_5XX);
    }

    fn note_connection(&self, host: &HostOutlier, succeeded: bool) {
        host.local_origin.note(succeeded);
        if succeeded {
            clear(&host.consecutive_local_origin_failure);
            return;
        }
        let limit = self.number("consecutive_local_origin_failure", self.options.consecutive_local_origin_failure);
        let counter = &host.consecutive_local_origin_failure;
        self.count(host, counter, limit, HostOutlier::CONSECUTIVE_LOCAL_ORIGIN_FAILURE);
    }

    /// One more in a row; at the limit the detector is told.
    fn count(&self, host: &HostOutlier, counter: &AtomicU32, limit: u32, kind: u32) {
        if counter.fetch_add(1, Relaxed).wrapping_add(1) == limit {
            host.detected.fetch_or(kind, Relaxed);
            self.wake.notify_one();
        }
    }
}
