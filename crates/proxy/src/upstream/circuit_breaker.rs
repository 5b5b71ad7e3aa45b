//! Limits of a cluster at one priority, counted over all workers (Envoy's `ResourceManager`).

use sota_config::cluster::CircuitBreakerThresholds;
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
    fn a_limit_of_zero_admits_nobody() {
        let scope = Registry::new().shard();
        let breaker = CircuitBreaker::default();
        breaker.configure(&CircuitBreakerThresholds { max_retries: 0, ..Default::default() }, &scope);
        assert!(!breaker.take(Resource::Retries));
        assert_eq!((breaker.count(Resource::Retries), scope.shared_gauge("rq_retry_open").value()), (0, 0));
    }
}
