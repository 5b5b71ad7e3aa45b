//! Circuit breakers of clusters.

use sota_config::{
    Node,
    cluster::{CircuitBreakerThresholds, RetryBudget},
};

/// The thresholds of the default and of the high priority; of several for one the first counts, as in Envoy.
pub(super) fn circuit_breakers(node: &Node) -> [CircuitBreakerThresholds; 2] {
    ["DEFAULT", "HIGH"].map(|priority| {
        node.list("thresholds")
            .iter()
            // The default priority is the first value of its enum, so it may be left out.
            .find(|t| if t.has("priority") { t.str("priority") == priority } else { priority == "DEFAULT" })
            .map_or_else(CircuitBreakerThresholds::default, thresholds)
    })
}

fn thresholds(node: &Node) -> CircuitBreakerThresholds {
    let default = CircuitBreakerThresholds::default();
    CircuitBreakerThresholds {
        max_connections: node.u32("max_connections").unwrap_or(default.max_connections),
        max_pending_requests: node.u32("max_pending_requests").unwrap_or(default.max_pending_requests),
        max_requests: node.u32("max_requests").unwrap_or(default.max_requests),
        max_retries: node.u32("max_retries").unwrap_or(default.max_retries),
        retry_budget: node.get("retry_budget").map(|budget| RetryBudget {
            percent: budget.get("budget_percent").map_or(20.0, |percent| percent.f64("value").unwrap_or(0.0)),
            min_concurrency: budget.u32("min_retry_concurrency").unwrap_or(3),
        }),
        track_remaining: node.bool("track_remaining"),
    }
}
