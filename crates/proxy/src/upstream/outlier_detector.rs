//! The detector of outliers: which hosts are ejected, for how long, and what is written about it. On the main thread.

use super::{
    config::ClusterConfig,
    events,
    host::{Host, HostState},
    outlier::{HostOutlier, Outlier, OutlierStats, Rate},
};
use serde_json::{Map, Value, json};
use sota_plugin::{access_log::LogFile, stats::SharedCounterCell};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

/// After hosts have changed, the next ones may so much later: workers take over a host set at a time.
const PAUSE: Duration = Duration::from_millis(50);

/// Watches the hosts of a cluster for as long as it lives.
pub(super) async fn watch(config: Arc<ClusterConfig>, log: Option<Arc<dyn LogFile>>) {
    let Some(outlier) = config.outlier() else { return };
    let detector = Detector { config: &config, outlier, logs: log.into_iter().collect() };
    let mut next = Instant::now() + detector.interval();
    loop {
        let changed = tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {
                let changed = detector.evaluate(Instant::now());
                next = Instant::now() + detector.interval();
                changed
            }
            () = outlier.wake.notified() => detector.take_detected(Instant::now()),
        };
        if changed {
            config.refresh();
        }
        detector.count_ejected();
        if changed {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

struct Detector<'a> {
    config: &'a ClusterConfig,
    outlier: &'a Outlier,
    logs: Vec<Arc<dyn LogFile>>,
}

/// Why a host is ejected.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cause {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    /// Of connections; the mean and the least that is good enough.
    SuccessRate(bool, f64, f64),
    /// Of connections.
    FailurePercentage(bool),
}

/// A counter of [`OutlierStats`].
type Pick = fn(&OutlierStats) -> &SharedCounterCell;

impl Cause {
    /// As the event log names it.
    fn name(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "CONSECUTIVE_5XX",
            Self::ConsecutiveGatewayFailure => "CONSECUTIVE_GATEWAY_FAILURE",
            Self::ConsecutiveLocalOriginFailure => "CONSECUTIVE_LOCAL_ORIGIN_FAILURE",
            Self::SuccessRate(false, ..) => "SUCCESS_RATE",
            Self::SuccessRate(true, ..) => "SUCCESS_RATE_LOCAL_ORIGIN",
            Self::FailurePercentage(false) => "FAILURE_PERCENTAGE",
            Self::FailurePercentage(true) => "FAILURE_PERCENTAGE_LOCAL_ORIGIN",
        }
    }

    /// The counters of what was detected and of what ejected.
    fn counters(self) -> [Pick; 2] {
        match self {
            Self::Consecutive5xx => {
                [|s| &s.ejections_detected_consecutive_5xx, |s| &s.ejections_enforced_consecutive_5xx]
            }
            Self::ConsecutiveGatewayFailure => [
                |s| &s.ejections_detected_consecutive_gateway_failure,
                |s| &s.ejections_enforced_consecutive_gateway_failure,
            ],
            Self::ConsecutiveLocalOriginFailure => [
                |s| &s.ejections_detected_consecutive_local_origin_failure,
                |s| &s.ejections_enforced_consecutive_local_origin_failure,
            ],
            Self::SuccessRate(false, ..) => {
                [|s| &s.ejections_detected_success_rate, |s| &s.ejections_enforced_success_rate]
            }
            Self::SuccessRate(true, ..) => [
                |s| &s.ejections_detected_local_origin_success_rate,
                |s| &s.ejections_enforced_local_origin_success_rate,
            ],
            Self::FailurePercentage(false) => {
                [|s| &s.ejections_detected_failure_percentage, |s| &s.ejections_enforced_failure_percentage]
            }
            Self::FailurePercentage(true) => [
                |s| &s.ejections_detected_local_origin_failure_percentage,
                |s| &s.ejections_enforced_local_origin_failure_percentage,
            ],
        }
    }
}

impl Detector<'_> {
    fn interval(&self) -> Duration {
        let configured = u64::try_from(self.outlier.options.interval.as_millis()).unwrap_or(u64::MAX);
        let interval = self.outlier.runtime.integer("outlier_detection.interval_ms", configured);
        Duration::from_millis(interval.max(1))
    }

    fn time(&self, key: &str, configured: Duration) -> Duration {
        let configured = u64::try_from(configured.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.outlier.runtime.integer(&format!("outlier_detection.{key}"), configured))
    }

    fn count(&self, count: impl FnOnce(&OutlierStats)) {
        if let Some(stats) = self.outlier.stats.get() {
            count(stats);
        }
    }

    fn count_ejected(&self) {
        let ejected = ejected(self.config.hosts().hosts());
        self.count(|stats| stats.ejections_active.set(i64::try_from(ejected).unwrap_or(i64::MAX)));
    }

    /// Looks at the hosts that have reached a threshold; whether one was ejected.
    fn take_detected(&self, now: Instant) -> bool {
        let set = self.config.hosts();
        let mut changed = false;
        for host in set.hosts() {
            let outlier = host.state().outlier();
            if outlier.detected.load(Relaxed) == 0 {
                continue;
            }
            let detected = outlier.detected.swap(0, Relaxed);
            let passed = detected & HostOutlier::CHECK_PASSED != 0 && !host.state().has(HostState::FAILED_CHECK);
            if passed && host.state().has(HostState::EJECTED) {
                changed |= uneject(host, now);
                self.log_return(host, now);
            }
            for (kind, cause, counter) in [
                (
                    HostOutlier::CONSECUTIVE_GATEWAY_FAILURE,
                    Cause::ConsecutiveGatewayFailure,
                    &outlier.consecutive_gateway_failure,
                ),
                (HostOutlier::CONSECUTIVE_5XX, Cause::Consecutive5xx, &outlier.consecutive_5xx),
                (
                    HostOutlier::CONSECUTIVE_LOCAL_ORIGIN_FAILURE,
                    Cause::ConsecutiveLocalOriginFailure,
                    &outlier.consecutive_local_origin_failure,
                ),
            ] {
                if detected & kind != 0 && !host.state().has(HostState::EJECTED) {
                    changed |= self.detect(host, set.hosts(), cause, now);
                    if cause == Cause::Consecutive5xx {
                        self.count(|stats| stats.ejections_consecutive_5xx.inc());
                    }
                    // It is told again after as many more.
                    counter.store(0, Relaxed);
                }
            }
        }
        changed
    }

    /// The end of an interval; whether the health of a host has changed.
    fn evaluate(&self, now: Instant) -> bool {
        let set = self.config.hosts();
        let hosts = set.hosts();
        let mut changed = false;
        for host in hosts {
            changed |= self.check_return(host, now);
            host.state().outlier().ejection().success_rates = [None; 2];
        }
        changed |= self.compare_rates(hosts, false, now, |outlier| &outlier.external);
        changed |= self.compare_rates(hosts, true, now, |outlier| &outlier.local_origin);
        let interval = self.interval();
        for host in hosts.iter().filter(|host| !host.state().has(HostState::EJECTED)) {
            let mut ejection = host.state().outlier().ejection();
            if ejection.returned_at.is_some_and(|at| now.saturating_duration_since(at) >= interval) {
                ejection.back_off = ejection.back_off.saturating_sub(1);
            }
        }
        changed
    }

    fn check_return(&self, host: &Host, now: Instant) -> bool {
        if !host.state().has(HostState::EJECTED) {
            return false;
        }
        let options = &self.outlier.options;
        let base = self.time("base_ejection_time_ms", options.base_ejection_time);
        let longest = self.time("max_ejection_time_ms", options.max_ejection_time);
        let ejection = host.state().outlier().ejection().clone();
        let rest = base.saturating_mul(ejection.back_off.max(1)).min(longest).saturating_add(ejection.jitter);
        // Ejected by a predecessor of this cluster that kept no time: it has waited long enough.
        if ejection.ejected_at.is_some_and(|at| now.saturating_duration_since(at) < rest) {
            return false;
        }
        let changed = uneject(host, now);
        self.log_return(host, now);
        changed
    }

    /// Compares the rates of an interval, of answers or of connections.
    fn compare_rates(
        &self,
        hosts: &[Arc<Host>],
        of_connections: bool,
        now: Instant,
        rate: fn(&HostOutlier) -> &Rate,
    ) -> bool {
        let (options, outlier) = (&self.outlier.options, self.outlier);
        let rates: Vec<_> = hosts.iter().map(|host| (host, rate(host.state().outlier()).take())).collect();
        let minimum = |key: &str, configured| outlier.number(key, configured) as usize;
        let rate_hosts = minimum("success_rate_minimum_hosts", options.success_rate_minimum_hosts);
        let percentage_hosts = minimum("failure_percentage_minimum_hosts", options.failure_percentage_minimum_hosts);
        if hosts.len() < rate_hosts && hosts.len() < percentage_hosts {
            return false;
        }
        let rate_volume = outlier.number("success_rate_request_volume", options.success_rate_request_volume);
        let percentage_volume =
            outlier.number("failure_percentage_request_volume", options.failure_percentage_request_volume);
        let (mut for_rate, mut for_percentage) = (Vec::new(), Vec::new());
        for (host, rate) in rates {
            let Some((rate, volume)) = rate.filter(|_| !host.state().has(HostState::EJECTED)) else { continue };
            if volume >= rate_volume.min(percentage_volume) {
                host.state().outlier().ejection().success_rates[usize::from(of_connections)] = Some(rate);
            }
            if volume >= rate_volume {
                for_rate.push((host, rate));
            }
            if volume >= percentage_volume {
                for_percentage.push((host, rate));
            }
        }
        let mut changed = false;
        if !for_rate.is_empty() && for_rate.len() >= rate_hosts {
            let factor = outlier.number("success_rate_stdev_factor", options.success_rate_stdev_factor);
            let (mean, least) = threshold(for_rate.iter().map(|(_, rate)| *rate), f64::from(factor) / 1000.0);
            for (host, _) in for_rate.iter().filter(|(_, rate)| *rate < least) {
                self.count(|stats| stats.ejections_success_rate.inc());
                changed |= self.detect(host, hosts, Cause::SuccessRate(of_connections, mean, least), now);
            }
        }
        if !for_percentage.is_empty() && for_percentage.len() >= percentage_hosts {
            let most = outlier.number("failure_percentage_threshold", options.failure_percentage_threshold);
            for (host, _) in for_percentage.iter().filter(|(_, rate)| 100.0 - rate >= f64::from(most)) {
                changed |= self.detect(host, hosts, Cause::FailurePercentage(of_connections), now);
            }
        }
        changed
    }

    /// A host is an outlier: ejects it, if it may be; whether it was.
    fn detect(&self, host: &Arc<Host>, hosts: &[Arc<Host>], cause: Cause, now: Instant) -> bool {
        let [detected, enforced] = cause.counters();
        self.count(|stats| detected(stats).inc());
        let options = &self.outlier.options;
        let most = self.outlier.number("max_ejection_percent", options.max_ejection_percent).min(100);
        let ejected = ejected(hosts);
        let percent = 100.0 * (ejected + 1) as f64 / hosts.len() as f64;
        if percent > f64::from(most) && !(options.always_eject_one_host && ejected == 0) {
            self.count(|stats| stats.ejections_overflow.inc());
            return false;
        }
        if matches!(cause, Cause::Consecutive5xx | Cause::SuccessRate(false, ..)) {
            self.count(|stats| stats.ejections_total.inc());
        }
        let is_enforced = fastrand::u32(..100) < self.enforcing(cause);
        let changed = is_enforced && {
            self.count(|stats| {
                stats.ejections_enforced_total.inc();
                enforced(stats).inc();
            });
            self.eject(host, now)
        };
        self.log_ejection(host, cause, is_enforced, now);
        changed
    }

    fn enforcing(&self, cause: Cause) -> u32 {
        let enforcing = &self.outlier.options.enforcing;
        let (key, configured) = match cause {
            Cause::Consecutive5xx => ("enforcing_consecutive_5xx", enforcing.consecutive_5xx),
            Cause::ConsecutiveGatewayFailure => {
                ("enforcing_consecutive_gateway_failure", enforcing.consecutive_gateway_failure)
            }
            Cause::ConsecutiveLocalOriginFailure => {
                ("enforcing_consecutive_local_origin_failure", enforcing.consecutive_local_origin_failure)
            }
            Cause::SuccessRate(false, ..) => ("enforcing_success_rate", enforcing.success_rate),
            Cause::SuccessRate(true, ..) => {
                ("enforcing_local_origin_success_rate", enforcing.local_origin_success_rate)
            }
            Cause::FailurePercentage(false) => ("enforcing_failure_percentage", enforcing.failure_percentage),
            Cause::FailurePercentage(true) => {
                ("enforcing_failure_percentage_local_origin", enforcing.failure_percentage_local_origin)
            }
        };
        self.outlier.number(key, configured)
    }

    fn eject(&self, host: &Host, now: Instant) -> bool {
        let options = &self.outlier.options;
        let base = self.time("base_ejection_time_ms", options.base_ejection_time);
        let longest = self.time("max_ejection_time_ms", options.max_ejection_time);
        let jitter = self.time("max_ejection_time_jitter_ms", options.max_ejection_time_jitter);
        let mut ejection = host.state().outlier().ejection();
        ejection.count = ejection.count.saturating_add(1);
        ejection.ejected_at = Some(now);
        let most = u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX - 1);
        ejection.jitter = Duration::from_millis(fastrand::u64(..=most));
        if base.saturating_mul(ejection.back_off) < longest.saturating_add(base) {
            ejection.back_off = ejection.back_off.saturating_add(1);
        }
        drop(ejection);
        host.state().set(HostState::EJECTED, true)
    }

    fn log_ejection(&self, host: &Host, cause: Cause, is_enforced: bool, now: Instant) {
        if self.logs.is_empty() {
            return;
        }
        let ejection = host.state().outlier().ejection().clone();
        let mut event = self.event(host, cause.name(), "EJECT", ejection.returned_at, now);
        event.insert("enforced".into(), is_enforced.into());
        let whole = |rate: f64| rate.max(0.0) as u32;
        let rate = |of_connections: bool| ejection.success_rates[usize::from(of_connections)].map_or(0, whole);
        let (key, details) = match cause {
            Cause::SuccessRate(of_connections, mean, least) => (
                "eject_success_rate_event",
                json!({
                    "host_success_rate": rate(of_connections),
                    "cluster_average_success_rate": whole(mean),
                    "cluster_success_rate_ejection_threshold": whole(least),
                }),
            ),
            Cause::FailurePercentage(of_connections) => {
                ("eject_failure_percentage_event", json!({ "host_success_rate": rate(of_connections) }))
            }
            _ => ("eject_consecutive_event", json!({})),
        };
        event.insert(key.into(), details);
        events::write(&self.logs, &event);
    }

    fn log_return(&self, host: &Host, now: Instant) {
        if self.logs.is_empty() {
            return;
        }
        let ejected_at = host.state().outlier().ejection().ejected_at;
        let mut event = self.event(host, Cause::Consecutive5xx.name(), "UNEJECT", ejected_at, now);
        event.insert("enforced".into(), false.into());
        events::write(&self.logs, &event);
    }

    fn event(
        &self,
        host: &Host,
        cause: &str,
        action: &str,
        before: Option<Instant>,
        now: Instant,
    ) -> Map<String, Value> {
        let mut event = Map::new();
        let mut set = |key: &str, value: Value| event.insert(key.to_owned(), value);
        set("type", cause.into());
        set("timestamp", events::timestamp());
        if let Some(before) = before {
            set("secs_since_last_action", now.saturating_duration_since(before).as_secs().to_string().into());
        }
        set("cluster_name", (&**self.config.name()).into());
        set("upstream_url", host.address().to_string().into());
        set("action", action.into());
        set("num_ejections", host.state().outlier().ejection().count.into());
        event
    }
}

/// Takes a host back; whether that changed anything.
pub(super) fn uneject(host: &Host, now: Instant) -> bool {
    let outlier = host.state().outlier();
    outlier.forget_failures();
    outlier.ejection().returned_at = Some(now);
    host.state().set(HostState::EJECTED, false)
}

fn ejected(hosts: &[Arc<Host>]) -> usize {
    hosts.iter().filter(|host| host.state().has(HostState::EJECTED)).count()
}

/// The mean of success rates, and the least that is good enough: so many standard deviations below it.
fn threshold(rates: impl Iterator<Item = f64> + Clone, factor: f64) -> (f64, f64) {
    let count = rates.clone().count() as f64;
    let mean = rates.clone().sum::<f64>() / count;
    let variance = rates.map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    (mean, mean - factor * variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_documentation() {
        assert_eq!(threshold([50.0, 100.0, 100.0, 100.0, 100.0].into_iter(), 1.9), (90.0, 52.0));
    }
}
