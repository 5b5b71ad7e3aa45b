//! Active health checks: each host is asked again and again whether it is well. All of it runs on the main thread.
//!
//! A task per host asks; what it finds is a flag of the host. Workers learn of changed flags as of changed hosts: by a
//! host set that is made at most every 50 ms.

mod exchange;
mod grpc;
mod http;
mod peer;
mod progress;
mod report;
mod tcp;

use super::{
    config::ClusterConfig,
    dns::TellWorkers,
    host::{Host, HostState},
};
use crate::{local::Local, tls::TlsStats};
use peer::Peer;
use progress::{Failure, Progress, Transition};
use report::Reporter;
use sota_config::{
    ConfigError,
    cluster::Cluster as Model,
    health_check::{HealthCheck, HealthCheckKind},
};
use sota_plugin::{
    FactoryContext,
    access_log::{LogFile, open_error},
    matcher::{HeaderMutations, StringMatcher},
    runtime::Runtime,
    stat_group,
    stats::Group,
};
use std::{cell::OnceCell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};
use tokio::{sync::Notify, task::JoinHandle};

stat_group! {
    /// `cluster.<name>.health_check.`
    struct HealthCheckStats {
        /// Checks begun.
        attempt: counter,
        /// Checks that succeeded.
        success: counter,
        /// Checks that failed, for whatever reason, and answers that said that the host fails.
        failure: counter,
        /// Hosts that said so in an answer to a request.
        passive_failure: counter,
        /// Checks that failed on the network, or took too long.
        network_failure: counter,
        /// Checks that looked at the name of the service.
        verify_cluster: counter,
        /// Hosts that are well.
        healthy: gauge,
        /// Hosts that are degraded.
        degraded: gauge,
    }
}

/// The checks of a cluster as all threads share them.
pub(super) struct HealthChecker {
    model: Arc<HealthCheck>,
    /// Changes to requests.
    mutations: HeaderMutations,
    service_name: Option<StringMatcher>,
    runtime: Arc<Runtime>,
    logs: Vec<Arc<dyn LogFile>>,
    /// Hosts have come or gone, or a worker has seen one fail.
    pub(super) wake: Notify,
    /// Hosts were checked for the first time.
    pub(super) checked: Notify,
}

impl std::fmt::Debug for HealthChecker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HealthChecker").field("model", &self.model).finish_non_exhaustive()
    }
}

impl HealthChecker {
    /// `None`: the cluster has none.
    pub(super) fn build(model: &Model, cx: &FactoryContext<'_>) -> Result<Option<Self>, ConfigError> {
        let Some(model) = &model.health_check else { return Ok(None) };
        let place = |error: ConfigError| cx.error("health_checks[0]", Default::default(), error.reason);
        let (mutations, service_name) = match &model.kind {
            HealthCheckKind::Http(http) => (&http.headers, http.service_name.as_ref()),
            HealthCheckKind::Grpc { initial_metadata, .. } => (initial_metadata, None),
            HealthCheckKind::Tcp { .. } => (&Default::default(), None),
        };
        let open = |path: &String| cx.logs.open(path).map_err(|error| place(open_error(path, &error)));
        Ok(Some(Self {
            mutations: HeaderMutations::build(mutations).map_err(place)?,
            service_name: service_name.map(StringMatcher::build).transpose().map_err(place)?,
            runtime: Arc::clone(cx.runtime),
            logs: model.event_logs.iter().map(open).collect::<Result<_, _>>()?,
            wake: Notify::new(),
            checked: Notify::new(),
            model: Arc::clone(model),
        }))
    }
}

/// Ends its task when it is dropped.
struct Task(JoinHandle<()>);

impl Task {
    fn spawn(task: impl Future<Output = ()> + 'static) -> Self {
        Self(tokio::task::spawn_local(task))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the tasks of a cluster have in common.
struct Checks {
    config: Arc<ClusterConfig>,
    checker: Arc<HealthChecker>,
    local: Rc<Local>,
    stats: Group<HealthCheckStats>,
    tls_stats: OnceCell<TlsStats>,
    reporter: Reporter,
}

/// A host that is checked.
struct Session {
    host: Arc<Host>,
    progress: Rc<Progress>,
    _task: Task,
}

/// Checks the hosts of a cluster for as long as it lives.
pub(super) async fn run(config: Arc<ClusterConfig>, local: Rc<Local>, tell_workers: TellWorkers) {
    let Some(checker) = config.health_checker().cloned() else { return };
    let checks = Rc::new(Checks {
        reporter: Reporter::new(&config, tell_workers),
        stats: config.scope(&local.stats).child("health_check.").group(),
        tls_stats: OnceCell::new(),
        checker: Arc::clone(&checker),
        config: Arc::clone(&config),
        local,
    });
    let reporting = Rc::clone(&checks);
    let _reporter = Task::spawn(async move { reporting.report().await });
    let mut sessions = HashMap::<*const HostState, Session>::new();
    loop {
        let set = config.hosts();
        let mut before = std::mem::take(&mut sessions);
        for host in set.hosts() {
            let key = Arc::as_ptr(host.state());
            if host.spec().is_unchecked() {
                continue;
            }
            let session = match before.remove(&key) {
                Some(session) if session.is_for(host) => session,
                known => Session::begin(&checks, host, known.map(|session| Rc::clone(&session.progress))),
            };
            if host.state().set(HostState::ASKED_TO_FAIL, false) {
                checks.failed(host, &session.progress, Failure::Passive, false, None);
            }
            sessions.insert(key, session);
        }
        checks.reporter.changed();
        checker.wake.notified().await;
    }
}

impl Session {
    fn begin(checks: &Rc<Checks>, host: &Arc<Host>, progress: Option<Rc<Progress>>) -> Self {
        let progress = progress.unwrap_or_default();
        let task = check_host(Rc::clone(checks), Arc::clone(host), Rc::clone(&progress));
        Self { host: Arc::clone(host), progress, _task: Task::spawn(task) }
    }

    /// Whether the host is checked in the same way as it was.
    fn is_for(&self, host: &Arc<Host>) -> bool {
        let (old, new) = (self.host.spec(), host.spec());
        Arc::ptr_eq(&self.host, host)
            || old.address == new.address
                && old.hostname == new.hostname
                && old.health_check == new.health_check
                && old.metadata == new.metadata
    }
}

/// Checks one host, again and again.
async fn check_host(checks: Rc<Checks>, host: Arc<Host>, progress: Rc<Progress>) {
    let model = Arc::clone(&checks.checker.model);
    let jitter = model.initial_jitter;
    if !jitter.is_zero() {
        tokio::time::sleep(jitter.mul_f64(fastrand::f64())).await;
    }
    let mut peer = None;
    loop {
        checks.stats.attempt.inc();
        let check = Box::pin(checks.check(&host, &mut peer));
        let result = tokio::time::timeout(model.timeout, checks.local.clocked(Box::pin(check).as_mut())).await;
        let (is_success, transition) = match result {
            Ok(Ok(Passed { degraded })) => (true, checks.succeeded(&host, &progress, degraded)),
            Ok(Err(Failed { failure, retriable, status })) => {
                (false, checks.failed(&host, &progress, failure, retriable, status))
            }
            Err(_) => {
                peer = None;
                (false, checks.failed(&host, &progress, Failure::NetworkTimeout, false, None))
            }
        };
        if !model.reuse_connection {
            peer = None;
        }
        tokio::time::sleep(checks.wait(is_success, transition)).await;
    }
}

/// A check that was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Passed {
    /// The host asks to be used only when nothing better is.
    degraded: bool,
}

/// A check that was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failed {
    failure: Failure,
    /// It counts towards the threshold only.
    retriable: bool,
    /// What the host answered.
    status: Option<u16>,
}

impl Failed {
    /// The connection could not be made, or broke.
    const NETWORK: Self = Self { failure: Failure::Network, retriable: false, status: None };

    /// The host's answer says so.
    const fn answer(retriable: bool, status: Option<u16>) -> Self {
        Self { failure: Failure::Active, retriable, status }
    }
}

impl Checks {
    /// One check. The connection stays in `peer` where it may be used again.
    async fn check(&self, host: &Arc<Host>, peer: &mut Option<Peer>) -> Result<Passed, Failed> {
        match &self.checker.model.kind {
            HealthCheckKind::Http(http) => self.check_http(http, host, peer).await,
            HealthCheckKind::Grpc { service_name, authority, .. } => {
                self.check_grpc(service_name, authority, host, peer).await
            }
            HealthCheckKind::Tcp { send, receive } => self.check_tcp(send, receive, host, peer).await,
        }
    }

    /// `:authority` of a check: the endpoint's name for it, the one configured, or the cluster's.
    fn authority<'a>(&'a self, host: &'a Host, configured: &'a str) -> &'a str {
        let own = host.spec().health_check.as_ref().map_or("", |check| &check.hostname);
        [own, configured].into_iter().find(|name| !name.is_empty()).unwrap_or(self.config.name())
    }

    /// Until the next check.
    fn wait(&self, is_success: bool, transition: Transition) -> Duration {
        let model = &self.checker.model;
        let base = progress::interval(model, self.config.has_had_connections(), is_success, transition);
        let percent = base.saturating_mul(model.interval_jitter_percent) / 100;
        let wait = base
            .saturating_add(percent.mul_f64(fastrand::f64()))
            .saturating_add(model.interval_jitter.mul_f64(fastrand::f64()));
        let millis = |key: &str, default: u64| Duration::from_millis(self.checker.runtime.integer(key, default));
        // As in Envoy never at once, which would be a loop without end.
        wait.min(millis("health_check.max_interval", u64::MAX))
            .max(millis("health_check.min_interval", 0))
            .max(Duration::from_millis(1))
    }
}
