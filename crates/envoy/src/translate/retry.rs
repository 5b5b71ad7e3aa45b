//! Retry policies (`envoy.config.route.v3.RetryPolicy`).

use super::context::Cx;
use sota_config::{Node, route::RetryPolicy};
use std::time::Duration;

const DEFAULT_BASE_INTERVAL: Duration = Duration::from_millis(25);
/// Envoy rounds shorter intervals up to this.
const MIN_BASE_INTERVAL: Duration = Duration::from_millis(1);

/// What `retry_on` may name: of HTTP, then of gRPC.
const CONDITIONS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// A retry policy.
pub(super) fn retry_policy(cx: &mut Cx<'_>, node: &Node) -> Option<RetryPolicy> {
    let retry_on: Vec<String> =
        node.str("retry_on").split(',').map(str::trim).filter(|c| !c.is_empty()).map(str::to_owned).collect();
    for condition in retry_on.iter().filter(|condition| !CONDITIONS.contains(&condition.as_str())) {
        // Compat: Envoy ignores it, in silence.
        let reason = format!("unknown condition \"{}\"; it never holds", condition.escape_debug());
        cx.field_warning(node, "retry_on", reason);
    }
    let back_off = node.field("retry_back_off");
    let (base_interval, max_interval) = cx.with("retry_back_off", |cx| {
        let base = cx.duration(back_off, "base_interval").map_or(DEFAULT_BASE_INTERVAL, |d| d.max(MIN_BASE_INTERVAL));
        let max = cx.duration(back_off, "max_interval");
        if max.is_some_and(|max| max.max(MIN_BASE_INTERVAL) < base) {
            cx.field_error(back_off, "max_interval", "it must be greater than or equal to base_interval");
        }
        (base, max.map_or_else(|| base.saturating_mul(10), |max| max.max(MIN_BASE_INTERVAL)))
    });
    let retriable_status_codes = cx.each(node, "retriable_status_codes", |cx, item| {
        let code = item.as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| (100..=599).contains(code));
        if code.is_none() {
            cx.error(item.mark, "a status code is a number from 100 to 599");
        }
        code
    });
    Some(RetryPolicy {
        retry_on,
        num_retries: node.u32("num_retries").unwrap_or(1),
        per_try_timeout: cx.timeout(node, "per_try_timeout", None),
        retriable_status_codes,
        base_interval,
        max_interval,
    })
}
