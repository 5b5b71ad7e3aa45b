//! From results of checks to the health of a host: thresholds, and when the next check is due.

use crate::upstream::host::HostState;
use sota_config::health_check::HealthCheck;
use std::{cell::Cell, time::Duration};

/// Why a check failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The host's answer says so.
    Active,
    /// The connection could not be made, or broke.
    Network,
    /// There was no answer in time.
    NetworkTimeout,
    /// The answer to a request said so.
    Passive,
}

impl Failure {
    /// As the event log names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Network => "NETWORK",
            Self::NetworkTimeout => "NETWORK_TIMEOUT",
            Self::Passive => "PASSIVE",
        }
    }

    /// Whether it may have nothing to do with the host.
    pub(super) fn is_network(self) -> bool {
        matches!(self, Self::Network | Self::NetworkTimeout)
    }
}

/// What a result changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transition {
    /// Nothing.
    Unchanged,
    /// Nothing yet: more of the same will.
    Pending,
    /// The host is to be used otherwise than before.
    Changed,
}

/// What is to be written about a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It is unhealthy from now on.
    Ejected,
    /// It is healthy from now on; after its first check of all.
    Added { first: bool },
    /// A check failed.
    Failed { first: bool },
    /// A check succeeded.
    Succeeded,
    /// It is degraded from now on.
    Degraded,
    /// It is not any more.
    NoLongerDegraded,
}

/// How far a host is on its way to another health.
#[derive(Debug)]
pub(super) struct Progress {
    is_first: Cell<bool>,
    successes: Cell<u32>,
    failures: Cell<u32>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { is_first: Cell::new(true), successes: Cell::new(0), failures: Cell::new(0) }
    }
}

impl Progress {
    /// A check succeeded.
    pub(super) fn succeed(
        &self,
        state: &HostState,
        model: &HealthCheck,
        degraded: bool,
        mut event: impl FnMut(Event),
    ) -> Transition {
        self.failures.set(0);
        let first = self.is_first.replace(false);
        let mut transition = Transition::Unchanged;
        if state.has(HostState::FAILED_CHECK) {
            self.successes.set(self.successes.get().saturating_add(1));
            // The first check of all makes the start quick.
            if first || self.successes.get() == model.healthy_threshold {
                let cleared = HostState::FAILED_CHECK | HostState::CHECK_TIMEOUT | HostState::EXCLUDED;
                state.set(cleared, false);
                transition = Transition::Changed;
                event(Event::Added { first });
            } else {
                transition = Transition::Pending;
            }
        }
        if transition != Transition::Changed && model.always_log_success {
            event(Event::Succeeded);
        }
        if state.set(HostState::PENDING_CHECK, false) {
            transition = Transition::Changed;
        }
        if state.set(HostState::DEGRADED_CHECK, degraded) {
            event(if degraded { Event::Degraded } else { Event::NoLongerDegraded });
            if transition == Transition::Unchanged {
                transition = Transition::Changed;
            }
        }
        transition
    }

    /// A check failed. `retriable`: only so many of them count as one.
    pub(super) fn fail(
        &self,
        state: &HostState,
        model: &HealthCheck,
        failure: Failure,
        retriable: bool,
        mut event: impl FnMut(Event),
    ) -> Transition {
        self.successes.set(0);
        let first = self.is_first.replace(false);
        let mut transition = Transition::Unchanged;
        if !state.has(HostState::FAILED_CHECK) {
            let at_once = !failure.is_network() && !retriable;
            if !at_once {
                self.failures.set(self.failures.get().saturating_add(1));
            }
            if at_once || self.failures.get() == model.unhealthy_threshold {
                state.set(HostState::FAILED_CHECK, true);
                transition = Transition::Changed;
                event(Event::Ejected);
            } else {
                transition = Transition::Pending;
            }
        }
        let timed_out = failure == Failure::NetworkTimeout && state.has(HostState::FAILED_CHECK);
        state.set(HostState::CHECK_TIMEOUT, timed_out);
        if state.set(HostState::PENDING_CHECK, false) {
            transition = Transition::Changed;
        }
        if first || model.always_log_failures {
            event(Event::Failed { first });
        }
        transition
    }
}

/// Between this check and the next, without jitter. `had_traffic`: the cluster has had a connection.
pub(super) fn interval(model: &HealthCheck, had_traffic: bool, is_success: bool, transition: Transition) -> Duration {
    let is_pending = transition == Transition::Pending;
    match (had_traffic, is_success, is_pending) {
        (true, false, true) => model.unhealthy_edge_interval,
        (true, false, false) => model.unhealthy_interval,
        (true, true, true) => model.healthy_edge_interval,
        (true, true, false) => model.interval,
        (false, true, false) => model.no_traffic_healthy_interval,
        (false, ..) => model.no_traffic_interval,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sota_config::health_check::HealthCheckKind;

    fn model() -> HealthCheck {
        let seconds = Duration::from_secs;
        HealthCheck {
            kind: HealthCheckKind::Tcp { send: Vec::new(), receive: Vec::new() },
            timeout: seconds(1),
            interval: seconds(1),
            initial_jitter: Duration::ZERO,
            interval_jitter: Duration::ZERO,
            interval_jitter_percent: 0,
            unhealthy_threshold: 2,
            healthy_threshold: 3,
            reuse_connection: true,
            no_traffic_interval: seconds(2),
            no_traffic_healthy_interval: seconds(3),
            unhealthy_interval: seconds(4),
            unhealthy_edge_interval: seconds(5),
            healthy_edge_interval: seconds(6),
            event_logs: Vec::new(),
            always_log_failures: false,
            always_log_success: false,
            alpn_protocols: Vec::new(),
            transport_match: None,
        }
    }

    /// A host as it is before its first check, and what is written about it.
    struct Fixture {
        model: HealthCheck,
        state: HostState,
        progress: Progress,
        events: Vec<Event>,
    }

    impl Fixture {
        fn new(model: HealthCheck) -> Self {
            let state = HostState::default();
            state.set(HostState::FAILED_CHECK, true);
            Self { model, state, progress: Progress::default(), events: Vec::new() }
        }

        fn succeed(&mut self, degraded: bool) -> Transition {
            self.progress.succeed(&self.state, &self.model, degraded, |event| self.events.push(event))
        }

        fn fail(&mut self, failure: Failure, retriable: bool) -> Transition {
            self.progress.fail(&self.state, &self.model, failure, retriable, |event| self.events.push(event))
        }

        fn failed(&self) -> bool {
            self.state.has(HostState::FAILED_CHECK)
        }
    }

    #[test]
    fn the_first_success_is_enough_and_later_ones_are_counted() {
        let mut host = Fixture::new(model());
        assert_eq!(host.succeed(false), Transition::Changed);
        assert!(!host.failed());
        assert_eq!(host.fail(Failure::Network, false), Transition::Pending);
        assert_eq!(host.succeed(false), Transition::Unchanged);
        assert_eq!(host.fail(Failure::Network, false), Transition::Pending);
        assert!(!host.failed(), "a success in between begins anew");
        assert_eq!(host.fail(Failure::NetworkTimeout, false), Transition::Changed);
        assert!(host.failed() && host.state.has(HostState::CHECK_TIMEOUT));
        assert_eq!(host.fail(Failure::Network, false), Transition::Unchanged);
        assert!(!host.state.has(HostState::CHECK_TIMEOUT));
        for expected in [Transition::Pending, Transition::Pending, Transition::Changed] {
            assert_eq!(host.succeed(false), expected);
        }
        assert!(!host.failed());
        assert_eq!(host.events, [Event::Added { first: true }, Event::Ejected, Event::Added { first: false }]);
    }

    #[test]
    fn an_answer_that_is_bad_counts_at_once_unless_it_is_retriable() {
        let mut host = Fixture::new(model());
        host.succeed(false);
        assert_eq!(host.fail(Failure::Active, true), Transition::Pending);
        assert_eq!(host.fail(Failure::Active, false), Transition::Changed);
        assert!(host.failed());
    }

    #[test]
    fn degraded_hosts_change_without_a_threshold() {
        let mut host = Fixture::new(model());
        host.succeed(false);
        assert_eq!(host.succeed(true), Transition::Changed);
        assert_eq!(host.succeed(true), Transition::Unchanged);
        assert_eq!(host.succeed(false), Transition::Changed);
        assert_eq!(host.events[1..], [Event::Degraded, Event::NoLongerDegraded]);
    }

    #[test]
    fn a_host_that_waits_for_its_first_check_changes_by_any_result() {
        let mut host = Fixture::new(HealthCheck { always_log_failures: true, ..model() });
        host.state.set(HostState::PENDING_CHECK, true);
        assert_eq!(host.fail(Failure::Network, false), Transition::Changed);
        assert_eq!(host.fail(Failure::Network, false), Transition::Unchanged);
        assert_eq!(host.events, [Event::Failed { first: true }, Event::Failed { first: false }]);
    }

    #[test]
    fn intervals_follow_the_state() {
        let model = model();
        let seconds = |had, success, transition| interval(&model, had, success, transition).as_secs();
        use Transition::{Changed, Pending, Unchanged};
        assert_eq!([seconds(true, true, Unchanged), seconds(true, true, Changed)], [1, 1]);
        assert_eq!([seconds(true, true, Pending), seconds(true, false, Pending)], [6, 5]);
        assert_eq!([seconds(true, false, Unchanged), seconds(true, false, Changed)], [4, 4]);
        assert_eq!([seconds(false, true, Changed), seconds(false, true, Pending)], [3, 2]);
        assert_eq!(seconds(false, false, Unchanged), 2);
    }
}
