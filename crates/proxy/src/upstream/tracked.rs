//! `track_cluster_stats`: what a cluster counts only where that is asked for.

use sota_config::cluster::TrackClusterStats;
use sota_plugin::{
    http::{RequestHead, ResponseHead},
    stat_group,
    stats::{Group, Scope},
};
use std::time::Duration;

stat_group! {
    /// `cluster.<name>.`: of each attempt.
    struct SizeStats {
        /// Octets of its fields, pseudo-header fields included.
        upstream_rq_headers_size: histogram(Bytes),
        /// How many there are.
        upstream_rq_headers_count: histogram(Unspecified),
        /// Octets of its body, with the framing of HTTP/1.
        upstream_rq_body_size: histogram(Bytes),
        /// The same of the response, if there was one.
        upstream_rs_headers_size: histogram(Bytes),
        upstream_rs_headers_count: histogram(Unspecified),
        upstream_rs_body_size: histogram(Bytes),
    }
}

stat_group! {
    /// `cluster.<name>.`: parts of a timeout, in percent. Without a timeout it is 0: nothing of an infinite time is used.
    struct BudgetStats {
        /// Of the route's, by a request that was answered.
        upstream_rq_timeout_budget_percent_used: histogram(Unspecified),
        /// Of the try's, by each attempt.
        upstream_rq_timeout_budget_per_try_percent_used: histogram(Unspecified),
    }
}

/// A worker's part of it.
pub(crate) struct Tracked {
    sizes: Option<Group<SizeStats>>,
    budgets: Option<Group<BudgetStats>>,
}

/// How large a head is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadSize {
    octets: usize,
    fields: usize,
}

impl HeadSize {
    /// Of a request.
    pub(crate) fn of_request(head: &RequestHead) -> Self {
        let pseudo = 2 + usize::from(!head.authority().is_empty()) + usize::from(!head.path().is_empty());
        Self { octets: head.byte_size(), fields: head.headers.len() + pseudo }
    }

    /// Of a response.
    pub(crate) fn of_response(head: &ResponseHead) -> Self {
        Self { octets: head.byte_size(), fields: head.headers.len() + 1 }
    }
}

impl Tracked {
    /// `None`: nothing is asked for.
    pub(super) fn new(which: TrackClusterStats, scope: &Scope) -> Option<Box<Self>> {
        (which.request_response_sizes || which.timeout_budgets).then(|| {
            Box::new(Self {
                sizes: which.request_response_sizes.then(|| scope.group()),
                budgets: which.timeout_budgets.then(|| scope.group()),
            })
        })
    }

    /// Whether sizes are wanted.
    pub(crate) fn sizes(&self) -> bool {
        self.sizes.is_some()
    }

    /// An attempt is over, with so many octets of body on each side.
    pub(crate) fn record_sizes(&self, request: HeadSize, response: Option<HeadSize>, (sent, received): (u64, u64)) {
        let Some(sizes) = &self.sizes else { return };
        sizes.upstream_rq_headers_size.record(request.octets as u64);
        sizes.upstream_rq_headers_count.record(request.fields as u64);
        sizes.upstream_rq_body_size.record(sent);
        if let Some(response) = response {
            sizes.upstream_rs_headers_size.record(response.octets as u64);
            sizes.upstream_rs_headers_count.record(response.fields as u64);
            sizes.upstream_rs_body_size.record(received);
        }
    }

    /// An attempt took so long.
    pub(crate) fn record_try(&self, took: Duration, timeout: Option<Duration>) {
        if let Some(budgets) = &self.budgets {
            budgets.upstream_rq_timeout_budget_per_try_percent_used.record(percent(took, timeout));
        }
    }

    /// A request was answered after so long.
    pub(crate) fn record_request(&self, took: Duration, timeout: Option<Duration>) {
        if let Some(budgets) = &self.budgets {
            budgets.upstream_rq_timeout_budget_percent_used.record(percent(took, timeout));
        }
    }
}

fn percent(took: Duration, timeout: Option<Duration>) -> u64 {
    let timeout = timeout.map_or(0, |timeout| timeout.as_millis());
    let part = (took.as_millis() * 100).checked_div(timeout).unwrap_or(0);
    u64::try_from(part).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_timeout() {
        let ms = Duration::from_millis;
        assert_eq!(percent(ms(250), Some(ms(1000))), 25);
        assert_eq!(percent(ms(1500), Some(ms(1000))), 150);
        assert_eq!((percent(ms(5), None), percent(ms(5), Some(ms(0)))), (0, 0));
    }
}
