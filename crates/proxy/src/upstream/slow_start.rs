//! Slow start: a host that is new, or well again, gets its part of the requests little by little.
//!
//! A task on the main thread says how much of its weight each host has; the orders of host sets are made by that.

use super::{
    config::ClusterConfig,
    host::{Host, HostState},
};
use sota_config::load_balancer::SlowStart;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Parts of a weight.
pub(super) const WHOLE: u32 = 1000;

/// How often weights are looked at: so many times within the window, within bounds.
const STEPS: u32 = 50;
const SHORTEST_STEP: Duration = Duration::from_millis(50);
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// Raises the weights of new hosts for as long as the cluster lives.
pub(super) async fn run(config: Arc<ClusterConfig>) {
    let Some(options) = &config.model().lb_config.slow_start else { return };
    let mut began = HashMap::<*const HostState, Instant>::new();
    loop {
        let set = config.hosts();
        if advance(options, set.hosts(), &mut began, Instant::now()) {
            config.refresh();
        }
        let step = (options.window / STEPS).clamp(SHORTEST_STEP, LONGEST_STEP);
        tokio::time::sleep(step).await;
    }
}

/// Whether the weight of a host has changed.
fn advance(
    options: &SlowStart,
    hosts: &[Arc<Host>],
    began: &mut HashMap<*const HostState, Instant>,
    now: Instant,
) -> bool {
    let mut before = std::mem::take(began);
    let mut changed = false;
    for host in hosts {
        let key = Arc::as_ptr(host.state());
        // One that fails its checks begins anew when it does not any more.
        let part = if host.state().has(HostState::FAILED_CHECK) {
            options.least_part()
        } else {
            let since = *began.entry(key).or_insert_with(|| before.remove(&key).unwrap_or(now));
            options.part(now.saturating_duration_since(since))
        };
        changed |= host.state().set_part(part);
    }
    changed
}

/// How much of its weight a host has.
pub(super) trait Parts {
    /// At the beginning.
    fn least_part(&self) -> u32;
    /// After so much of the window.
    fn part(&self, elapsed: Duration) -> u32;
}

impl Parts for SlowStart {
    fn least_part(&self) -> u32 {
        ((self.min_weight_percent / 100.0 * f64::from(WHOLE)) as u32).clamp(1, WHOLE)
    }

    fn part(&self, elapsed: Duration) -> u32 {
        if elapsed >= self.window {
            return WHOLE;
        }
        let time = elapsed.max(Duration::from_millis(1)).as_secs_f64() / self.window.as_secs_f64();
        let part = time.powf(1.0 / self.aggression);
        ((part * f64::from(WHOLE)) as u32).clamp(self.least_part(), WHOLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_grows_with_time() {
        let options = |aggression| SlowStart { window: Duration::from_secs(10), aggression, min_weight_percent: 10.0 };
        let parts = |aggression| [0, 1, 5, 9, 10].map(|s| options(aggression).part(Duration::from_secs(s)));
        assert_eq!(parts(1.0), [100, 100, 500, 900, 1000]);
        assert_eq!(parts(2.0), [100, 316, 707, 948, 1000]);
    }
}
