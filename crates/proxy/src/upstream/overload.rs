//! `sota.clusters.overload`: hosts whose connections fail are ejected, probed, tried once and taken back.
//!
//! A host is ejected when too many requests in a row, or too large a part of those in a window of time, failed on the
//! transport; statuses do not count. After a while the main thread connects to it. When that works, the next request
//! of the cluster goes to it: if it succeeds the host is back, if not it waits again.

use super::{
    config::ClusterConfig,
    host::{Host, HostState},
};
use sota_config::{ConfigError, ExtensionConfig, Node, TypedConfig, Value};
use sota_plugin::{
    info::PeerAddress,
    stats::{Scope, SharedCounter, SharedGauge},
};
use std::{
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// How a use of a host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered; the status says whether well. TCP: it was connected to.
    Answered,
    /// It could not be connected to, or its connection broke before the answer was complete.
    TransportFailure,
    /// It did not answer in time.
    Timeout,
    /// The request ended for reasons of its own: the client went away.
    Cancelled,
}

/// The constants, and what runs.
#[derive(Debug)]
pub(super) struct Overload {
    options: Options,
    /// Hosts that wait for their one request.
    trials: AtomicU32,
    stats: OnceLock<Stats>,
}

#[derive(Debug, Clone, PartialEq)]
struct Options {
    /// `window`: how long failures are counted together.
    window: Duration,
    /// `consecutive_failures`: ejects when more than so many follow each other.
    consecutive_failures: u32,
    /// `minimum_requests`: the ratio counts from so many requests in the window on.
    minimum_requests: u32,
    /// `failure_ratio`: ejects from this part of failures on.
    failure_ratio: f64,
    /// `ejection_time`: a host is left alone for so long.
    ejection_time: Duration,
    /// `probe_interval`: between looks at ejected hosts.
    probe_interval: Duration,
    /// `probe_timeout`: for a probe's connection.
    probe_timeout: Duration,
    /// `max_concurrency`: requests of the cluster at once.
    max_concurrency: u32,
}

#[derive(Debug)]
struct Stats {
    ejections_total: SharedCounter,
    ejections_active: SharedGauge,
    probes: SharedCounter,
    probe_failures: SharedCounter,
    trials: SharedCounter,
    trial_failures: SharedCounter,
}

/// A host's part; it outlives updates of the cluster.
#[derive(Debug, Default)]
pub(super) struct HostOverload {
    phase: AtomicU8,
    /// When the window, or the phase, began.
    since: AtomicU64,
    requests: AtomicU32,
    failures: AtomicU32,
    in_a_row: AtomicU32,
}

/// Requests run and are counted.
const CLOSED: u8 = 0;
/// No request, until a probe succeeds.
const EJECTED: u8 = 1;
/// The next request is for this host.
const TRIAL: u8 = 2;
/// The one request runs.
const TRYING: u8 = 3;

impl Overload {
    /// Reads the configuration; all fields have the original's constants as defaults.
    pub(super) fn read(config: &ExtensionConfig) -> Result<Self, ConfigError> {
        let error = |reason: String| ConfigError::new(config.path.as_str(), config.mark, reason);
        let mut options = Options {
            window: Duration::from_secs(10),
            consecutive_failures: 5,
            minimum_requests: 3,
            failure_ratio: 0.6,
            ejection_time: Duration::from_secs(30),
            probe_interval: Duration::from_secs(10),
            probe_timeout: Duration::from_millis(100),
            max_concurrency: u32::MAX,
        };
        let fields = match &config.config {
            TypedConfig::Value { node, .. } => node.pairs(),
            TypedConfig::Empty => &[],
            TypedConfig::Proto { .. } => return Err(error("is written as text, not as protobuf".to_owned())),
        };
        for (name, value) in fields {
            let at = |reason: &str| {
                let path = format!("{}.{name}", config.path);
                ConfigError::new(path, value.mark, reason)
            };
            let time = || duration(value).ok_or_else(|| at("is a positive duration such as 10s or 0.1s"));
            let count = || {
                value
                    .as_u64()
                    .and_then(|n| u32::try_from(n).ok())
                    .filter(|n| *n > 0)
                    .ok_or_else(|| at("is a number from 1"))
            };
            match &**name {
                "window" => options.window = time()?,
                "ejection_time" => options.ejection_time = time()?,
                "probe_interval" => options.probe_interval = time()?,
                "probe_timeout" => options.probe_timeout = time()?,
                "consecutive_failures" => options.consecutive_failures = count()?,
                "minimum_requests" => options.minimum_requests = count()?,
                "max_concurrency" => options.max_concurrency = count()?,
                "failure_ratio" => {
                    let ratio = value.as_f64().filter(|ratio| *ratio > 0.0 && *ratio <= 1.0);
                    options.failure_ratio = ratio.ok_or_else(|| at("is a number above 0 and up to 1"))?;
                }
                _ => {
                    return Err(at("unknown field; there are: window, consecutive_failures, minimum_requests, \
                         failure_ratio, ejection_time, probe_interval, probe_timeout, max_concurrency"));
                }
            }
        }
        Ok(Self { options, trials: AtomicU32::new(0), stats: OnceLock::new() })
    }

    /// Publishes the counters below `cluster.<name>.overload.`.
    pub(super) fn publish(&self, scope: &Scope) {
        self.stats.get_or_init(|| {
            let scope = scope.child("overload.");
            Stats {
                ejections_total: scope.shared_counter("ejections_total"),
                ejections_active: scope.shared_gauge("ejections_active"),
                probes: scope.shared_counter("probes"),
                probe_failures: scope.shared_counter("probe_failures"),
                trials: scope.shared_counter("trials"),
                trial_failures: scope.shared_counter("trial_failures"),
            }
        });
    }

    /// Requests of the cluster at once.
    pub(super) fn max_concurrency(&self) -> u32 {
        self.options.max_concurrency
    }

    /// Whether a host waits for its one request. One load where none does.
    pub(super) fn has_trials(&self) -> bool {
        self.trials.load(Relaxed) > 0
    }

    /// Whether this request is the one for which the host waits.
    pub(super) fn try_host(&self, host: &Host) -> bool {
        let state = host.state().overload();
        if state.phase.load(Relaxed) != TRIAL || !state.moves(TRIAL, TRYING) {
            return false;
        }
        state.since.store(now(), Relaxed);
        let _ = self.trials.fetch_update(Relaxed, Relaxed, |trials| trials.checked_sub(1));
        self.count(|stats| stats.trials.inc());
        true
    }

    /// Takes a host back without a trial: its cluster has no overload protection any more.
    pub(super) fn forget(state: &HostState) -> bool {
        state.overload().phase.swap(CLOSED, Relaxed) != CLOSED && state.set(HostState::EJECTED, false)
    }

    /// Notes how a use of a host ended; whether that changed its health.
    pub(super) fn report(&self, state: &HostState, outcome: Outcome) -> bool {
        let host = state.overload();
        match (host.phase.load(Relaxed), outcome) {
            (CLOSED, Outcome::Answered) => {
                self.enter_window(host);
                host.requests.fetch_add(1, Relaxed);
                if host.in_a_row.load(Relaxed) > 0 {
                    host.in_a_row.store(0, Relaxed);
                }
                false
            }
            (CLOSED, Outcome::TransportFailure) => self.failed(state, host),
            (TRYING, Outcome::Answered) => host.moves(TRYING, CLOSED) && self.take_back(state, host),
            (TRYING, Outcome::TransportFailure | Outcome::Timeout) => {
                if host.moves(TRYING, EJECTED) {
                    host.since.store(now(), Relaxed);
                    self.count(|stats| stats.trial_failures.inc());
                }
                false
            }
            (TRYING, Outcome::Cancelled) => {
                if host.moves(TRYING, TRIAL) {
                    self.trials.fetch_add(1, Relaxed);
                }
                false
            }
            _ => false,
        }
    }

    fn failed(&self, state: &HostState, host: &HostOverload) -> bool {
        self.enter_window(host);
        let requests = host.requests.fetch_add(1, Relaxed) + 1;
        let failures = host.failures.fetch_add(1, Relaxed) + 1;
        let in_a_row = host.in_a_row.fetch_add(1, Relaxed) + 1;
        let options = &self.options;
        let ratio = f64::from(failures) / f64::from(requests);
        let trips = in_a_row > options.consecutive_failures
            || requests >= options.minimum_requests && ratio >= options.failure_ratio;
        if !trips || !host.moves(CLOSED, EJECTED) {
            return false;
        }
        host.since.store(now(), Relaxed);
        self.count(|stats| {
            stats.ejections_total.inc();
            stats.ejections_active.inc();
        });
        state.set(HostState::EJECTED, true)
    }

    fn take_back(&self, state: &HostState, host: &HostOverload) -> bool {
        host.clear(now());
        self.count(|stats| stats.ejections_active.dec());
        state.set(HostState::EJECTED, false)
    }

    /// Begins a new window when the old one is over.
    fn enter_window(&self, host: &HostOverload) {
        let (now, since) = (now(), host.since.load(Relaxed));
        if now.saturating_sub(since) > millis(self.options.window)
            && host.since.compare_exchange(since, now, Relaxed, Relaxed).is_ok()
        {
            host.clear(now);
        }
    }

    fn count(&self, count: impl FnOnce(&Stats)) {
        if let Some(stats) = self.stats.get() {
            count(stats);
        }
    }
}

impl HostOverload {
    /// Whether this call changed the phase.
    fn moves(&self, from: u8, to: u8) -> bool {
        self.phase.compare_exchange(from, to, Relaxed, Relaxed).is_ok()
    }

    fn clear(&self, now: u64) {
        self.since.store(now, Relaxed);
        for counter in [&self.requests, &self.failures, &self.in_a_row] {
            counter.store(0, Relaxed);
        }
    }
}

/// Probes ejected hosts for as long as the cluster lives, on the main thread.
pub(super) async fn probe(config: Arc<ClusterConfig>) {
    let Some(overload) = config.overload() else { return };
    loop {
        tokio::time::sleep(overload.options.probe_interval).await;
        let hosts = config.hosts();
        for host in hosts.hosts() {
            overload.probe_host(host).await;
        }
        // Counted anew: hosts come and go, and bring their phase along.
        let waits = |host: &&Arc<Host>| host.state().overload().phase.load(Relaxed) == TRIAL;
        let trials = hosts.hosts().iter().filter(waits).count();
        overload.trials.store(u32::try_from(trials).unwrap_or(u32::MAX), Relaxed);
    }
}

impl Overload {
    async fn probe_host(&self, host: &Host) {
        let state = host.state().overload();
        let rests = now().saturating_sub(state.since.load(Relaxed));
        let rested = rests >= millis(self.options.ejection_time);
        match state.phase.load(Relaxed) {
            EJECTED if rested => {}
            // The one request was never heard of again.
            TRYING if rested && state.moves(TRYING, EJECTED) => {}
            _ => return,
        }
        self.count(|stats| stats.probes.inc());
        let connect = async {
            match host.address() {
                PeerAddress::Ip(address) => tokio::net::TcpStream::connect(address).await.is_ok(),
                PeerAddress::Pipe(path) => tokio::net::UnixStream::connect(path).await.is_ok(),
            }
        };
        if tokio::time::timeout(self.options.probe_timeout, connect).await == Ok(true) {
            state.moves(EJECTED, TRIAL);
        } else {
            self.count(|stats| stats.probe_failures.inc());
        }
    }
}

/// Milliseconds since somebody asked first.
fn now() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    millis(BEGAN.elapsed())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A duration that the reader knew as one, or text such as `10s`.
fn duration(node: &Node) -> Option<Duration> {
    let time = match &node.value {
        Value::String(text) => Duration::try_from_secs_f64(text.strip_suffix('s')?.trim().parse().ok()?).ok()?,
        _ => node.as_duration()?,
    };
    (!time.is_zero()).then_some(time)
}
