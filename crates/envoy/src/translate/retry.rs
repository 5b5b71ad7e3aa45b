//! Retry policies (`envoy.config.route.v3.RetryPolicy`).

use super::{
    context::Cx,
    extension::is_filter,
    matcher::{Pseudo, header_matcher, header_name},
};
use sota_config::{
    Node,
    retry::{RateLimitedBackOff, ResetHeader, RetryHostPredicate, RetryPolicy},
};
use std::{sync::Arc, time::Duration};

const DEFAULT_BASE_INTERVAL: Duration = Duration::from_millis(25);
const DEFAULT_MAX_RESET: Duration = Duration::from_secs(300);
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
    let max_attempts = node.get("host_selection_retry_max_attempts").and_then(Node::as_i64).filter(|most| *most > 0);
    Some(RetryPolicy {
        retry_on,
        num_retries: node.u32("num_retries").unwrap_or(1),
        per_try_timeout: cx.timeout(node, "per_try_timeout", None),
        per_try_idle_timeout: cx.timeout(node, "per_try_idle_timeout", None),
        retriable_status_codes,
        retriable_headers: cx.each(node, "retriable_headers", header_matcher),
        retriable_request_headers: cx.each(node, "retriable_request_headers", header_matcher),
        host_predicates: cx.each(node, "retry_host_predicate", host_predicate),
        host_selection_max_attempts: max_attempts.map_or(1, |most| u32::try_from(most).unwrap_or(u32::MAX)),
        previous_priorities: cx.optional(node, "retry_priority", retry_priority),
        base_interval,
        max_interval,
        rate_limited_back_off: cx.optional(node, "rate_limited_retry_back_off", rate_limited_back_off),
    })
}

/// Whether this is the extension of this name among those of retries.
fn is(node: &Node, kind: &str, name: &str, message: &str) -> bool {
    is_filter(node, &format!("envoy.{kind}.{name}"), &format!("envoy.extensions.retry.{message}"))
}

fn host_predicate(cx: &mut Cx<'_>, node: &Node) -> Option<RetryHostPredicate> {
    let is = |name, message| is(node, "retry_host_predicates", name, message);
    if is("previous_hosts", "host.previous_hosts.v3.PreviousHostsPredicate") {
        return Some(RetryHostPredicate::PreviousHosts);
    }
    if is("omit_canary_hosts", "host.omit_canary_hosts.v3.OmitCanaryHostsPredicate") {
        return Some(RetryHostPredicate::OmitCanaryHosts);
    }
    if is("omit_host_metadata", "host.omit_host_metadata.v3.OmitHostMetadataConfig") {
        let metadata = node.field("typed_config").field("metadata_match").field("filter_metadata").field("envoy.lb");
        return Some(RetryHostPredicate::OmitHostMetadata(Arc::new(metadata.clone())));
    }
    unknown(cx, node, "retry host predicate");
    None
}

fn retry_priority(cx: &mut Cx<'_>, node: &Node) -> Option<u32> {
    const MESSAGE: &str = "priority.previous_priorities.v3.PreviousPrioritiesConfig";
    if is(node, "retry_priorities", "previous_priorities", MESSAGE) {
        let frequency = node.field("typed_config").get("update_frequency").and_then(Node::as_i64);
        if frequency.is_none_or(|frequency| frequency <= 0) {
            cx.error(node.mark, "previous_priorities needs an update_frequency above 0");
        }
        return frequency.and_then(|frequency| u32::try_from(frequency).ok()).filter(|frequency| *frequency > 0);
    }
    unknown(cx, node, "retry priority");
    None
}

fn unknown(cx: &mut Cx<'_>, node: &Node, what: &str) {
    if !cx.is_refused() {
        cx.error(node.mark, format!("there is no {what} of the name \"{}\"", node.str("name").escape_debug()));
    }
}

fn rate_limited_back_off(cx: &mut Cx<'_>, node: &Node) -> Option<RateLimitedBackOff> {
    let reset_headers = cx.each(node, "reset_headers", |cx, node| {
        let name = header_name(cx, node, "name", Pseudo::Refused)?;
        Some(ResetHeader { name, is_timestamp: node.str("format") == "UNIX_TIMESTAMP" })
    });
    let max_interval = cx.duration(node, "max_interval").unwrap_or(DEFAULT_MAX_RESET);
    Some(RateLimitedBackOff { reset_headers, max_interval })
}
