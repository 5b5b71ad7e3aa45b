//! What follows from a result: flags, counters, events, and the host set that workers take over.

use super::{Checks, Failure, Progress, Transition, progress::Event};
use crate::upstream::{
    config::ClusterConfig,
    dns::TellWorkers,
    events,
    host::{Host, HostState},
};
use serde_json::{Map, Value, json};
use sota_config::health_check::HealthCheckKind;
use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    time::Duration,
};
use tokio::sync::Notify;

/// After one host set the next may come so much later.
const PAUSE: Duration = Duration::from_millis(50);

/// Collects changes until they are told.
pub(super) struct Reporter {
    changed: Notify,
    /// Hosts that were checked for the first time.
    checked: RefCell<Vec<Arc<HostState>>>,
    has_sinks: bool,
    /// A host has failed since the last time.
    has_failed: Cell<bool>,
    tell_workers: TellWorkers,
}

impl Reporter {
    pub(super) fn new(config: &ClusterConfig, tell_workers: TellWorkers) -> Self {
        Self {
            changed: Notify::new(),
            checked: RefCell::default(),
            has_failed: Cell::new(false),
            tell_workers,
            has_sinks: config.health_checker().is_some_and(|checker| !checker.logs.is_empty()),
        }
    }

    /// There is something to be told.
    pub(super) fn changed(&self) {
        self.changed.notify_one();
    }
}

impl Checks {
    /// Tells the workers of what has changed, one host set after the other.
    pub(super) async fn report(&self) {
        loop {
            self.reporter.changed.notified().await;
            let checked = self.reporter.checked.take();
            self.config.apply_health();
            if self.reporter.has_failed.take() && self.config.model().close_connections_on_host_health_failure {
                (self.reporter.tell_workers)(self.config.name());
            }
            for state in &checked {
                state.set(HostState::UNCHECKED, false);
            }
            self.checker.checked.notify_waiters();
            self.count_healthy();
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn count_healthy(&self) {
        let set = self.config.hosts();
        let checked = || set.hosts().iter().filter(|host| !host.spec().is_unchecked());
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let healthy = checked().filter(|host| !host.state().has(HostState::FAILED_CHECK)).count();
        let degraded = checked().filter(|host| host.state().has(HostState::DEGRADED_CHECK)).count();
        self.stats.healthy.set(gauge(healthy));
        self.stats.degraded.set(gauge(degraded));
    }

    /// A check succeeded.
    pub(super) fn succeeded(&self, host: &Arc<Host>, progress: &Progress, degraded: bool) -> Transition {
        let state = host.state();
        self.stats.success.inc();
        let event = |event| self.log(host, event, Failure::Active, None);
        let transition = progress.succeed(state, &self.checker.model, degraded, event);
        if let Some(outlier) = self.config.outlier()
            && !state.has(HostState::FAILED_CHECK)
        {
            outlier.note_passed_check(state);
        }
        self.note(state, transition)
    }

    /// A check failed, or a worker has heard that the host fails.
    pub(super) fn failed(
        &self,
        host: &Arc<Host>,
        progress: &Progress,
        failure: Failure,
        retriable: bool,
        status: Option<u16>,
    ) -> Transition {
        self.stats.failure.inc();
        match failure {
            Failure::Network | Failure::NetworkTimeout => self.stats.network_failure.inc(),
            Failure::Passive => self.stats.passive_failure.inc(),
            Failure::Active => {}
        }
        let event = |event| self.log(host, event, failure, status);
        let transition = progress.fail(host.state(), &self.checker.model, failure, retriable, event);
        if transition == Transition::Changed {
            self.reporter.has_failed.set(true);
        }
        self.note(host.state(), transition)
    }

    fn note(&self, state: &Arc<HostState>, transition: Transition) -> Transition {
        if state.has(HostState::UNCHECKED) {
            self.reporter.checked.borrow_mut().push(Arc::clone(state));
            self.reporter.changed();
        } else if transition == Transition::Changed {
            self.reporter.changed();
        }
        transition
    }

    fn log(&self, host: &Host, event: Event, failure: Failure, status: Option<u16>) {
        if !self.reporter.has_sinks {
            return;
        }
        let mut line = Map::new();
        let mut set = |key: &str, value: Value| line.insert(key.to_owned(), value);
        set(
            "health_checker_type",
            match &self.checker.model.kind {
                HealthCheckKind::Http(_) => "HTTP",
                HealthCheckKind::Tcp { .. } => "TCP",
                HealthCheckKind::Grpc { .. } => "GRPC",
            }
            .into(),
        );
        set("host", events::address(&host.check_address()));
        set("cluster_name", (&**self.config.name()).into());
        set("timestamp", events::timestamp());
        let (kind, status) = (failure.name(), status.unwrap_or(0));
        let (key, details) = match event {
            Event::Ejected => ("eject_unhealthy_event", json!({ "failure_type": kind, "http_status_code": status })),
            Event::Added { first } => ("add_healthy_event", json!({ "first_check": first })),
            Event::Failed { first } => (
                "health_check_failure_event",
                json!({ "failure_type": kind, "first_check": first, "http_status_code": status }),
            ),
            Event::Succeeded => ("successful_health_check_event", json!({})),
            Event::Degraded => ("degraded_healthy_host", json!({})),
            Event::NoLongerDegraded => ("no_longer_degraded_host", json!({})),
        };
        set(key, details);
        if let Some(metadata) = events::metadata(host) {
            set("metadata", metadata);
        }
        set("locality", events::locality(host));
        events::write(&self.checker.logs, &line);
    }
}
