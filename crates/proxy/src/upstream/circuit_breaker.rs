//! Limits of a cluster at one priority, counted over all workers (Envoy's `ResourceManager`).

use sota_config::cluster::{CircuitBreakerThresholds, RetryBudget};
use sota_plugin::stats::{Scope, SharedGauge};
use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Connections that exist or are being made.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests that run.
    Requests,
    /// Retries that run.
    Retries,
}

/// The counts and limits of one priority. They outlive updates of the cluster.
#[derive(Debug, Default)]
pub struct CircuitBreaker {
    connections: Limited,
    pending: Limited,
    requests: Limited,
    retries: Limited,
    budget: Budget,
}

/// Retries in proportion to requests. `percent` is in hundredths; [`NO_BUDGET`]: there is none.
#[derive(Debug)]
struct Budget {
    percent: AtomicU32,
    min_concurrency: AtomicU32,
}

const NO_BUDGET: u32 = u32::MAX;

impl Default for Budget {
    fn default() -> Self {
        Self { percent: AtomicU32::new(NO_BUDGET), min_concurrency: AtomicU32::new(0) }
    }
}

impl Budget {
    fn configure(&self, budget: Option<RetryBudget>) {
        // 100 % of it are 10,000: an `f64` of that size loses nothing.
        let percent = budget.map_or(NO_BUDGET, |budget| (budget.percent.clamp(0.0, 100.0) * 100.0) as u32);
        self.percent.store(percent, Relaxed);
        self.min_concurrency.store(budget.map_or(0, |budget| budget.min_concurrency), Relaxed);
    }

    /// How many retries so many requests allow.
    fn limit(&self, requests: u32) -> Option<u32> {
        let percent = Some(self.percent.load(Relaxed)).filter(|percent| *percent != NO_BUDGET)?;
        let share = u64::from(requests) * u64::from(percent) / 10_000;
        Some(u32::try_from(share).unwrap_or(u32::MAX).max(self.min_concurrency.load(Relaxed)))
    }
}

/// On a cache line of its own: all workers write to it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Limited {
    count: AtomicU32,
    limit: AtomicU32,
    track_remaining: AtomicBool,
    gauges: OnceLock<(SharedGauge, Option<SharedGauge>)>,
}

impl CircuitBreaker {
    /// Sets the limits and publishes the gauges. `scope` is that of the priority: `cluster.web.circuit_breakers.default.`.
    /// Only the default priority has the `remaining_*` gauges, as in Envoy.
    pub(super) fn configure(&self, limits: &CircuitBreakerThresholds, scope: &Scope) {
        let all = [
            (&self.connections, limits.max_connections, "cx_open", "remaining_cx"),
            (&self.pending, limits.max_pending_requests, "rq_pending_open", "remaining_pending"),
            (&self.requests, limits.max_requests, "rq_open", "remaining_rq"),
            (&self.retries, limits.max_retries, "rq_retry_open", "remaining_retries"),
        ];
        self.budget.configure(limits.retry_budget);
        for (limited, limit, open, remaining) in all {
            limited.limit.store(limit, Relaxed);
            limited.track_remaining.store(limits.track_remaining, Relaxed);
            limited.gauges.get_or_init(|| {
                (scope.shared_gauge(open), limits.track_remaining.then(|| scope.shared_gauge(remaining)))
            });
            limited.note(limited.count.load(Relaxed));
        }
    }

    /// Takes one, if the limit allows. Each that is taken must be [given back](Self::give).
    #[must_use]
    pub fn take(&self, resource: Resource) -> bool {
        let limited = self.of(resource);
        if resource == Resource::Retries
            && let Some(limit) = self.budget.limit(self.count(Resource::Requests) + self.count(Resource::Pending))
        {
            limited.limit.store(limit, Relaxed);
        }
        let before = limited.count.fetch_add(1, Relaxed);
        if before >= limited.limit.load(Relaxed) {
            limited.count.fetch_sub(1, Relaxed);
            return false;
        }
        limited.grew(before + 1);
        true
    }

    /// Takes one beyond the limit.
    pub(super) fn take_anyway(&self, resource: Resource) {
        let limited = self.of(resource);
        limited.grew(limited.count.fetch_add(1, Relaxed) + 1);
    }

    /// Gives one back.
    pub fn give(&self, resource: Resource) {
        let limited = self.of(resource);
        let before = limited.count.fetch_sub(1, Relaxed);
        let limit = limited.limit.load(Relaxed);
        if before == limit || limited.track_remaining.load(Relaxed) {
            limited.note(before.saturating_sub(1));
        }
    }

    /// How many are taken.
    pub fn count(&self, resource: Resource) -> u32 {
        self.of(resource).count.load(Relaxed)
    }

    fn of(&self, resource: Resource) -> &Limited {
        match resource {
            Resource::Connections => &self.connections,
            Resource::Pending => &self.pending,
            Resource::Requests => &self.requests,
            Resource::Retries => &self.retries,
        }
    }
}

impl Limited {
    fn grew(&self, count: u32) {
        if count >= self.limit.load(Relaxed) || self.track_remaining.load(Relaxed) {
            self.note(count);
        }
    }

    /// Publishes what the gauges say for this count. Rare: at the limit, or where the remaining is asked for.
    fn note(&self, count: u32) {
        let limit = self.limit.load(Relaxed);
        if let Some((open, remaining)) = self.gauges.get() {
            open.set(i64::from(count > 0 && count >= limit));
            if let Some(remaining) = remaining {
                remaining.set(i64::from(limit.saturating_sub(count)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sota_plugin::stats::Registry;

    #[test]
    fn limits_are_exact_over_threads_and_gauges_follow() {
        let registry = Registry::new();
        let scope = registry.shard().child("cluster.web.circuit_breakers.default.");
        let breaker = CircuitBreaker::default();
        let limits = CircuitBreakerThresholds { max_requests: 5, track_remaining: true, ..Default::default() };
        breaker.configure(&limits, &scope);
        let (open, remaining) = (scope.shared_gauge("rq_open"), scope.shared_gauge("remaining_rq"));
        assert_eq!((open.value(), remaining.value()), (0, 5));
        let taken: u32 = std::thread::scope(|threads| {
            let run = || (0..100).filter(|_| breaker.take(Resource::Requests)).count() as u32;
            let all: Vec<_> = (0..4).map(|_| threads.spawn(run)).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // A refused attempt may be seen by another one that would have had room, never the other way round.
        assert!(taken <= 5 && breaker.count(Resource::Requests) == taken);
        while breaker.take(Resource::Requests) {}
        assert_eq!((breaker.count(Resource::Requests), open.value(), remaining.value()), (5, 1, 0));
        breaker.give(Resource::Requests);
        assert_eq!((open.value(), remaining.value()), (0, 1));
        breaker.take_anyway(Resource::Connections);
        assert_eq!(scope.shared_gauge("remaining_cx").value(), 1023);
    }

    #[test]
    fn a_budget_follows_the_requests() {
        let breaker = CircuitBreaker::default();
        let budget = Some(RetryBudget { percent: 25.0, min_concurrency: 2 });
        let limits = CircuitBreakerThresholds { max_retries: 0, retry_budget: budget, ..Default::default() };
        breaker.configure(&limits, &Registry::new().shard());
        let take = |count| (0..count).filter(|_| breaker.take(Resource::Retries)).count();
        assert_eq!(take(5), 2, "a few are always allowed");
        (0..12).for_each(|_| breaker.take_anyway(Resource::Requests));
        (0..5).for_each(|_| breaker.take_anyway(Resource::Pending));
        assert_eq!(take(5), 2, "four of seventeen");
        (0..12).for_each(|_| breaker.give(Resource::Requests));
        breaker.give(Resource::Retries);
        assert_eq!(take(1), 0, "and fewer again when there are fewer");
    }

    #[test]
    fn a_limit_of_zero_admits_nobody() {
        let scope = Registry::new().shard();
        let breaker = CircuitBreaker::default();
        breaker.configure(&CircuitBreakerThresholds { max_retries: 0, ..Default::default() }, &scope);
        assert!(!breaker.take(Resource::Retries));
        assert_eq!((breaker.count(Resource::Retries), scope.shared_gauge("rq_retry_open").value()), (0, 0));
    }
}
