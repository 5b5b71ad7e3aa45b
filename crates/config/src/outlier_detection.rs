//! Outlier detection (`envoy.config.cluster.v3.OutlierDetection`).

use std::time::Duration;

/// Which hosts are ejected for what became of the requests sent to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Between looks at rates, and at hosts that may come back; default 10 s.
    pub interval: Duration,
    /// Of the first ejection; it grows with each; default 30 s.
    pub base_ejection_time: Duration,
    /// The longest; default 300 s, or `base_ejection_time` if that is longer.
    pub max_ejection_time: Duration,
    /// Added at random, up to so much; default 0.
    pub max_ejection_time_jitter: Duration,
    /// So many percent of the hosts are ejected at most; default 10.
    pub max_ejection_percent: u32,
    /// One host may be ejected whatever `max_ejection_percent` says.
    pub always_eject_one_host: bool,
    /// Failures to connect and timeouts are counted apart from what hosts answer.
    pub split_external_local_origin_errors: bool,
    /// A successful active check ends an ejection; default true.
    pub successful_active_health_check_uneject_host: bool,
    /// Statuses of 500 and above in a row; default 5.
    pub consecutive_5xx: u32,
    /// 502, 503 and 504 in a row; default 5.
    pub consecutive_gateway_failure: u32,
    /// Failures to connect and timeouts in a row, where they are counted apart; default 5.
    pub consecutive_local_origin_failure: u32,
    /// Hosts with enough requests that a comparison of success rates needs; default 5.
    pub success_rate_minimum_hosts: u32,
    /// Requests in an interval from which a host is compared; default 100.
    pub success_rate_request_volume: u32,
    /// Thousandths of the standard deviation below the mean that eject; default 1900.
    pub success_rate_stdev_factor: u32,
    /// Percent of failures that eject; default 85.
    pub failure_percentage_threshold: u32,
    /// Hosts with enough requests that this needs; default 5.
    pub failure_percentage_minimum_hosts: u32,
    /// Requests in an interval from which a host's percentage counts; default 50.
    pub failure_percentage_request_volume: u32,
    /// How often, in percent, what was detected ejects.
    pub enforcing: Enforcing,
}

/// How often, in percent, what was detected ejects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforcing {
    /// Default 100.
    pub consecutive_5xx: u32,
    /// Default 0.
    pub consecutive_gateway_failure: u32,
    /// Default 100.
    pub consecutive_local_origin_failure: u32,
    /// Default 100.
    pub success_rate: u32,
    /// Default 100.
    pub local_origin_success_rate: u32,
    /// Default 0.
    pub failure_percentage: u32,
    /// Default 0.
    pub failure_percentage_local_origin: u32,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one_host: false,
            split_external_local_origin_errors: false,
            successful_active_health_check_uneject_host: true,
            consecutive_5xx: 5,
            consecutive_gateway_failure: 5,
            consecutive_local_origin_failure: 5,
            success_rate_minimum_hosts: 5,
            success_rate_request_volume: 100,
            success_rate_stdev_factor: 1900,
            failure_percentage_threshold: 85,
            failure_percentage_minimum_hosts: 5,
            failure_percentage_request_volume: 50,
            enforcing: Enforcing {
                consecutive_5xx: 100,
                consecutive_gateway_failure: 0,
                consecutive_local_origin_failure: 100,
                success_rate: 100,
                local_origin_success_rate: 100,
                failure_percentage: 0,
                failure_percentage_local_origin: 0,
            },
        }
    }
}
