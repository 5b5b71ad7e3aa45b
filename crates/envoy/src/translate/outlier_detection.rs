//! Outlier detection (`envoy.config.cluster.v3.OutlierDetection`).

use super::context::Cx;
use sota_config::{
    Node,
    outlier_detection::{Enforcing, OutlierDetection},
};
use std::sync::Arc;

/// What a cluster says of it.
pub(super) fn outlier_detection(cx: &mut Cx<'_>, node: &Node) -> Option<Arc<OutlierDetection>> {
    let default = OutlierDetection::default();
    let number = |key: &str, default: u32| node.u32(key).unwrap_or(default);
    let base = cx.duration(node, "base_ejection_time").unwrap_or(default.base_ejection_time);
    let longest = cx.duration(node, "max_ejection_time").unwrap_or_else(|| default.max_ejection_time.max(base));
    if longest < base {
        cx.field_error(node, "max_ejection_time", "it must not be smaller than base_ejection_time");
    }
    let enforcing = &default.enforcing;
    Some(Arc::new(OutlierDetection {
        interval: cx.duration(node, "interval").unwrap_or(default.interval),
        base_ejection_time: base,
        max_ejection_time: longest,
        max_ejection_time_jitter: cx.duration(node, "max_ejection_time_jitter").unwrap_or_default(),
        max_ejection_percent: number("max_ejection_percent", default.max_ejection_percent),
        always_eject_one_host: node.bool("always_eject_one_host"),
        split_external_local_origin_errors: node.bool("split_external_local_origin_errors"),
        successful_active_health_check_uneject_host: node.bool_or("successful_active_health_check_uneject_host", true),
        consecutive_5xx: number("consecutive_5xx", default.consecutive_5xx),
        consecutive_gateway_failure: number("consecutive_gateway_failure", default.consecutive_gateway_failure),
        consecutive_local_origin_failure: number(
            "consecutive_local_origin_failure",
            default.consecutive_local_origin_failure,
        ),
        success_rate_minimum_hosts: number("success_rate_minimum_hosts", default.success_rate_minimum_hosts),
        success_rate_request_volume: number("success_rate_request_volume", default.success_rate_request_volume),
        success_rate_stdev_factor: number("success_rate_stdev_factor", default.success_rate_stdev_factor),
        failure_percentage_threshold: number("failure_percentage_threshold", default.failure_percentage_threshold),
        failure_percentage_minimum_hosts: number(
            "failure_percentage_minimum_hosts",
            default.failure_percentage_minimum_hosts,
        ),
        failure_percentage_request_volume: number(
            "failure_percentage_request_volume",
            default.failure_percentage_request_volume,
        ),
        enforcing: Enforcing {
            consecutive_5xx: number("enforcing_consecutive_5xx", enforcing.consecutive_5xx),
            consecutive_gateway_failure: number(
                "enforcing_consecutive_gateway_failure",
                enforcing.consecutive_gateway_failure,
            ),
            consecutive_local_origin_failure: number(
                "enforcing_consecutive_local_origin_failure",
                enforcing.consecutive_local_origin_failure,
            ),
            success_rate: number("enforcing_success_rate", enforcing.success_rate),
            local_origin_success_rate: number(
                "enforcing_local_origin_success_rate",
                enforcing.local_origin_success_rate,
            ),
            failure_percentage: number("enforcing_failure_percentage", enforcing.failure_percentage),
            failure_percentage_local_origin: number(
                "enforcing_failure_percentage_local_origin",
                enforcing.failure_percentage_local_origin,
            ),
        },
    }))
}
