//! A worker's part of a cluster.

use super::{
    circuit_breaker::Resource,
    config::ClusterConfig,
    conn_pool::{HostPools, HttpConnection, Kind, PoolContext, PoolFailure, TcpConnection, WorkerHost},
    hash_policy::HashPolicies,
    host::{Host, HostState},
    host_set::{Drawn, HostSet, List},
    load_balancer::{Choice, LoadBalancer},
    metadata_match::MetadataMatch,
    original_dst::{self, OriginalHost},
    outlier::HostResult,
    overload::{Outcome, Overload},
    stats::{ClusterStats, ResponseStats},
    subsets::{Candidates, Outcome as SubsetOutcome},
    tracked::Tracked,
    zone_aware::{Choice as ZoneChoice, LocalCluster, ZoneCache, ZoneStats, Zones},
};
use crate::{local::Local, proxy_header::ToldClient, tls::TransportOptions};
use sota_config::cluster::{Discovery, OriginalDstConfig, UpstreamProtocol};
use sota_plugin::{
    http::{HeaderName, Protocol, RequestHead, StatusCode},
    info::{ApplicationProtocols, ConnectionInfo, HostOverride},
    load_balancer::ChoiceCx,
    stats::Group,
};
use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

/// What a balancer may look at.
#[derive(Default, Clone, Copy)]
pub struct LbContext<'a> {
    /// The hash by which policies that hash choose.
    pub hash: Option<u64>,
    /// The metadata that the host must have, where the cluster has subsets.
    pub metadata: Option<&'a MetadataMatch>,
    /// The host that a filter asks for.
    pub host_override: Option<&'a HostOverride>,
    /// The downstream connection, for its original destination.
    pub connection: Option<&'a ConnectionInfo>,
    /// The request, for clusters whose host stands in a header.
    pub request: Option<&'a RequestHead>,
    /// Hosts that this choice should avoid.
    pub avoids: Option<&'a dyn Fn(&Host) -> bool>,
    /// How often to choose again for that (`host_selection_retry_max_attempts`).
    pub attempts: u32,
    /// Priorities that this choice leaves out while others have hosts, as bits.
    pub avoided_priorities: u128,
}

/// A cluster as a worker has it.
pub struct Cluster {
    config: Arc<ClusterConfig>,
    context: Rc<PoolContext>,
    responses: ResponseStats,
    tracked: Option<Box<Tracked>>,
    balancer: Option<LoadBalancer>,
    hosts: RefCell<Hosts>,
    original: RefCell<HashMap<SocketAddr, (OriginalHost, Rc<WorkerHost>)>>,
    zones: RefCell<ZoneCache>,
    zone_stats: OnceCell<Group<ZoneStats>>,
    siblings: Rc<LocalCluster>,
    version: Cell<u64>,
    /// It is in no table any more: only streams that run have it.
    retired: Cell<bool>,
}

#[derive(Default)]
struct Hosts {
    set: Arc<HostSet>,
    /// In the order of the set, made when they are used first.
    workers: Vec<Option<Rc<WorkerHost>>>,
}

impl Cluster {
    /// `before` is the cluster of this name until now: what suits both stays.
    pub(super) fn new(
        local: &Rc<Local>,
        config: &Arc<ClusterConfig>,
        before: Option<&Self>,
        siblings: &Rc<LocalCluster>,
    ) -> Rc<Self> {
        let scope = config.scope(&local.stats);
        let before = before.filter(|before| before.context.suits(config.model()));
        let cluster = Self {
            config: Arc::clone(config),
            context: match before {
                Some(before) => Rc::clone(&before.context),
                None => PoolContext::new(local, config, scope.group()),
            },
            responses: ResponseStats::new(&scope),
            tracked: Tracked::new(config.model().track, &scope),
            balancer: LoadBalancer::new(&config.model().lb_policy),
            hosts: RefCell::default(),
            original: RefCell::default(),
            zones: RefCell::default(),
            zone_stats: OnceCell::new(),
            siblings: Rc::clone(siblings),
            version: Cell::new(0),
            retired: Cell::new(false),
        };
        if let Some(before) = before {
            // A copy: requests that run keep the old cluster, which may still look at its hosts.
            let hosts = before.hosts.borrow();
            cluster.original.borrow_mut().clone_from(&before.original.borrow());
            *cluster.hosts.borrow_mut() = Hosts { set: Arc::clone(&hosts.set), workers: hosts.workers.clone() };
        }
        cluster.refresh();
        Rc::new(cluster)
    }

    /// A worker's part that is in no table, for looking at choices: what it counts nobody sees if nobody sees the stats
    /// of `local`.
    pub(crate) fn detached(local: &Rc<Local>, config: &Arc<ClusterConfig>) -> Rc<Self> {
        let cluster = Self::new(local, config, None, &Rc::default());
        cluster.retired.set(true);
        cluster
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        self.config.name()
    }

    /// What all threads share.
    pub fn config(&self) -> &Arc<ClusterConfig> {
        &self.config
    }

    /// What is hashed to choose a host: what the cluster says, or else the route; nothing if it does not choose by a
    /// hash.
    pub fn hash_policies<'a>(
        &'a self,
        of_route: impl FnOnce() -> Option<&'a HashPolicies>,
    ) -> Option<&'a HashPolicies> {
        if !self.config.model().lb_policy.hashes() {
            return None;
        }
        self.config.balancing().hash_policies.as_ref().or_else(of_route)
    }

    /// Whether hosts are chosen by metadata.
    pub fn has_subsets(&self) -> bool {
        self.config.balancing().subsets.is_some()
    }

    /// The counters, for what the router counts itself.
    pub fn stats(&self) -> &Group<ClusterStats> {
        &self.context.stats
    }

    /// The host for a request; `None` when there is none that may be used. Counts `upstream_cx_none_healthy` then.
    pub fn choose_host(&self, cx: &LbContext<'_>) -> Option<Rc<WorkerHost>> {
        if self.version.get() != self.config.version() {
            self.refresh();
        }
        if let Discovery::OriginalDst(options) = &self.config.model().discovery {
            return self.original_host(options, cx);
        }
        if let Some(wanted) = cx.host_override {
            match self.overriding_host(wanted) {
                None if wanted.strict => {
                    self.stats().upstream_cx_none_healthy.inc();
                    return None;
                }
                None => {}
                host => return host,
            }
        }
        if let Some(overload) = self.config.overload().filter(|overload| overload.has_trials() && !self.retired.get())
            && let Some(host) = self.trial(overload)
        {
            return Some(host);
        }
        let hash = match self.config.model().lb_policy.hashes() {
            true => Some(cx.hash.unwrap_or_else(|| fastrand::u64(..))),
            false => None,
        };
        let mut chosen = self.choose(cx, hash, 0);
        if let Some(avoids) = cx.avoids {
            for attempt in 1..=cx.attempts {
                if !chosen.as_ref().is_some_and(|host| avoids(host.host())) {
                    break;
                }
                chosen = self.choose(cx, hash, attempt);
            }
        }
        if chosen.is_none() {
            self.stats().upstream_cx_none_healthy.inc();
        }
        chosen
    }

    /// All hosts, whatever their health.
    pub fn all_hosts(&self) -> Vec<Rc<WorkerHost>> {
        if self.version.get() != self.config.version() {
            self.refresh();
        }
        let mut hosts = self.hosts.borrow_mut();
        let Hosts { set, workers } = &mut *hosts;
        (0..set.hosts().len()).filter_map(|place| self.worker_host(set, workers, place)).collect()
    }

    /// `hash` where the policy chooses by it; `attempt` counts choices that were to be avoided.
    fn choose(&self, cx: &LbContext<'_>, hash: Option<u64>, attempt: u32) -> Option<Rc<WorkerHost>> {
        let mut hosts = self.hosts.borrow_mut();
        let Hosts { set, workers } = &mut *hosts;
        let balancer = self.balancer.as_ref()?;
        let random = || hash.unwrap_or_else(|| fastrand::u64(..));
        let choice = Choice {
            cx: ChoiceCx { hash: cx.hash, request: cx.request, connection: cx.connection, attempt },
            hash: hash.unwrap_or_default(),
            active: &|| self.config.active_requests(),
        };
        let choose = |list: &List, panic| {
            if panic {
                self.stats().lb_healthy_panic.inc();
            }
            balancer.choose(set, list, &choice)
        };
        let chosen = match set.subsets() {
            None => {
                let drawn = set.view().draw_part(cx.avoided_priorities, random)?;
                self.in_zone(set, &drawn, |list| choose(list, drawn.panic))?
            }
            Some(subsets) => {
                let (chosen, outcome) =
                    subsets.choose(cx.metadata, set.view(), cx.avoided_priorities, &random, |candidates| {
                        match candidates {
                            Candidates::Host(place) => Some(place),
                            Candidates::List(list, panic) => choose(list, panic),
                        }
                    });
                let stats = self.stats();
                match outcome {
                    SubsetOutcome::Selected => stats.lb_subsets_selected.inc(),
                    SubsetOutcome::Fallback if chosen.is_some() => stats.lb_subsets_fallback.inc(),
                    SubsetOutcome::Panic if chosen.is_some() => stats.lb_subsets_fallback_panic.inc(),
                    _ => {}
                }
                chosen
            }
        };
        self.worker_host(set, workers, chosen?)
    }

    /// Calls back with the hosts that were drawn, or with those of them that zone-aware routing leaves. `None`: it leaves none.
    fn in_zone<R>(&self, set: &HostSet, drawn: &Drawn<'_>, choose: impl FnOnce(&List) -> R) -> Option<R> {
        let balancing = self.config.balancing();
        let Some(config) = &balancing.zone_aware else { return Some(choose(drawn.list)) };
        if drawn.panic && config.fails_on_panic() {
            self.stats().lb_healthy_panic.inc();
            return None;
        }
        let siblings = self.siblings.config.borrow();
        let Some(local) = siblings.as_ref().filter(|_| drawn.is_first && !drawn.panic) else {
            return Some(choose(drawn.list));
        };
        let stats = self.zone_stats.get_or_init(|| self.config.scope(&self.context.local.stats).group());
        let mut zones = self.zones.borrow_mut();
        let zones = zones.refresh(self.version.get(), local, |proxies, before| {
            let local = (&self.siblings.locality, proxies);
            Zones::new(set, local, config, balancing.panic_threshold, before, stats)
        });
        match zones.choose(drawn.degraded, config, stats, || fastrand::u64(..)) {
            ZoneChoice::Anywhere => Some(choose(drawn.list)),
            ZoneChoice::Among(list) => Some(choose(list)),
            ZoneChoice::Nowhere => None,
        }
    }

    /// The host that a filter asks for, if there is one and its health allows it.
    fn overriding_host(&self, wanted: &HostOverride) -> Option<Rc<WorkerHost>> {
        let mut hosts = self.hosts.borrow_mut();
        let Hosts { set, workers } = &mut *hosts;
        let place = set.place_of(&wanted.address)?;
        let status = set.hosts().get(place)?.status();
        let allowed = self.config.model().lb_config.override_host_statuses.contains(&status);
        if allowed { self.worker_host(set, workers, place) } else { None }
    }

    fn worker_host(
        &self,
        set: &HostSet,
        workers: &mut [Option<Rc<WorkerHost>>],
        place: usize,
    ) -> Option<Rc<WorkerHost>> {
        let (host, slot) = (set.hosts().get(place)?, workers.get_mut(place)?);
        let worker =
            slot.get_or_insert_with(|| WorkerHost::new(host, HostPools::new(&self.context, host, self.retired.get())));
        Some(Rc::clone(worker))
    }

    /// An ejected host that waits for one request.
    fn trial(&self, overload: &Overload) -> Option<Rc<WorkerHost>> {
        let mut hosts = self.hosts.borrow_mut();
        let Hosts { set, workers } = &mut *hosts;
        let place = set.hosts().iter().position(|host| overload.try_host(host))?;
        self.worker_host(set, workers, place)
    }

    fn original_host(&self, options: &OriginalDstConfig, cx: &LbContext<'_>) -> Option<Rc<WorkerHost>> {
        let (address, invalid) = original_dst::destination(options, cx);
        if invalid {
            self.stats().original_dst_host_invalid.inc();
        }
        let host = address.and_then(|address| {
            if let Some((host, worker)) = self.original.borrow().get(&address) {
                host.touch();
                return Some(Rc::clone(worker));
            }
            let host = self.config.original_host(address)?;
            let worker = WorkerHost::new(&host.host, HostPools::new(&self.context, &host.host, self.retired.get()));
            self.original.borrow_mut().insert(address, (host, Rc::clone(&worker)));
            Some(worker)
        });
        if host.is_none() {
            self.stats().upstream_cx_none_healthy.inc();
        }
        host
    }

    /// Notes how a use of a host ended: for ejection, and in the host's counters.
    pub fn report(&self, host: &WorkerHost, outcome: Outcome) {
        if outcome == Outcome::Timeout {
            host.counters().rq_timeout.inc();
        }
        self.config.report(host.host(), outcome);
    }

    /// Notes what became of a use of a host: for outlier detection and overload protection, where the cluster has them.
    pub fn note_result(&self, host: &WorkerHost, result: HostResult) {
        self.config.note_result(host.host(), result);
    }

    /// Notes that a host says of itself that it fails its health checks (`x-envoy-immediate-health-check-fail`).
    pub fn fail_health_check(&self, host: &WorkerHost) {
        self.config.fail_check(host.host());
    }

    /// Takes over the newest host set. Done before each choice; a command may ask for it where nothing is chosen.
    pub fn refresh(&self) {
        // The version first: a set that is newer than it costs a look more, an older one would stay.
        let version = self.config.version();
        self.original.borrow_mut().retain(|_, (host, worker)| {
            let removed = host.host.state().has(HostState::REMOVED);
            if removed {
                worker.pools().drain();
            }
            !removed
        });
        if matches!(self.config.model().discovery, Discovery::OriginalDst(_)) {
            self.version.set(version);
            return;
        }
        let set = self.config.hosts();
        let mut hosts = self.hosts.borrow_mut();
        let mut old: HashMap<*const _, Rc<WorkerHost>> =
            hosts.workers.drain(..).flatten().map(|worker| (Arc::as_ptr(worker.host().state()), worker)).collect();
        let members = |set: &HostSet| -> Vec<_> { set.hosts().iter().map(|host| Arc::as_ptr(host.state())).collect() };
        let closes = self.config.model().lb_config.close_connections_on_host_set_change
            && !hosts.set.hosts().is_empty()
            && members(&hosts.set) != members(&set);
        let next = |host: &Arc<Host>| {
            if closes {
                return None;
            }
            let worker = old.remove(&Arc::as_ptr(host.state()))?;
            Some(if Arc::ptr_eq(worker.host(), host) {
                worker
            } else {
                WorkerHost::new(host, Rc::clone(worker.pools()))
            })
        };
        let workers = set.hosts().iter().map(next).collect();
        *hosts = Hosts { set, workers };
        if self.config.model().close_connections_on_host_health_failure {
            for worker in hosts.workers.iter().flatten() {
                worker.pools().note_health(worker.host().state().has(HostState::FAILED_CHECK));
            }
        }
        drop(hosts);
        self.version.set(version);
        for worker in old.into_values() {
            worker.pools().drain();
        }
    }

    /// It leaves the table: hosts that were not used until now keep no connections, and all others close theirs, unless
    /// they go on in `next`.
    pub(super) fn retire(&self, next: Option<&Self>) {
        self.retired.set(true);
        if next.is_some_and(|next| Rc::ptr_eq(&self.context, &next.context)) {
            return;
        }
        for worker in self.hosts.borrow().workers.iter().flatten() {
            worker.pools().drain();
        }
        for (_, worker) in self.original.borrow().values() {
            worker.pools().drain();
        }
    }

    /// A connection for one HTTP/1 request; priority 0 is the default, 1 high. Waits until one is there, at most for
    /// `connect_timeout` of the connection that is made for it. `downstream`: what the client speaks.
    pub async fn http_connection(
        &self,
        host: &WorkerHost,
        downstream: Option<Protocol>,
        priority: usize,
    ) -> Result<HttpConnection, PoolFailure> {
        self.http_connection_with(host, downstream, priority, None).await
    }

    /// The same, on a connection with these options.
    pub(crate) async fn http_connection_with(
        &self,
        host: &WorkerHost,
        downstream: Option<Protocol>,
        priority: usize,
        options: Option<&TransportOptions>,
    ) -> Result<HttpConnection, PoolFailure> {
        host.http_connection(self.http_kind(downstream), priority, options).await
    }

    /// The same where nothing has to be waited for: no future is made. `None`: wait.
    pub(crate) fn idle_http_connection(
        &self,
        host: &WorkerHost,
        downstream: Option<Protocol>,
        priority: usize,
        options: Option<&TransportOptions>,
    ) -> Option<Result<HttpConnection, PoolFailure>> {
        host.idle_http_connection(self.http_kind(downstream), priority, options)
    }

    /// The server's name that a request asks for, where the cluster takes it from requests.
    pub(crate) fn request_name(&self, head: &RequestHead) -> Option<Box<str>> {
        let names = self.config.model().request_names.as_ref()?;
        let own = names.header.as_deref().and_then(|name| head.get(name.as_bytes()));
        host_only(own.filter(|value| !value.is_empty()).unwrap_or_else(|| head.authority())).map(Into::into)
    }

    /// How connections for a request differ from what the cluster configures; `None`: in nothing.
    pub(crate) fn transport_options(
        &self,
        protocols: Option<&ApplicationProtocols>,
        server_name: Option<&str>,
        downstream: Option<Protocol>,
        connection: Option<&ConnectionInfo>,
    ) -> Option<TransportOptions> {
        let client = connection.and_then(|connection| self.told_client(connection));
        if protocols.is_none() && server_name.is_none() && client.is_none() {
            return None;
        }
        let is_old =
            || downstream == Some(Protocol::Http10) && self.config.model().protocol == UpstreamProtocol::Downstream;
        let protocols = protocols.map(|protocols| match self.http_kind(downstream) {
            // Of both, the first that the cluster would speak, as with Envoy.
            Kind::Http2 | Kind::Auto => Arc::clone(&protocols.http2),
            _ if is_old() => Arc::clone(&protocols.http10),
            _ => Arc::clone(&protocols.http11),
        });
        let server_name = server_name.map(Into::into);
        let options = TransportOptions { protocols: protocols.unwrap_or_default(), server_name, client };
        (options != TransportOptions::default()).then_some(options)
    }

    /// Whom hosts are told that a connection is for, where they are told.
    fn told_client(&self, connection: &ConnectionInfo) -> Option<Arc<ToldClient>> {
        self.config.tells_addresses().then(|| Arc::new(ToldClient::of(connection)))
    }

    fn http_kind(&self, downstream: Option<Protocol>) -> Kind {
        match self.config.model().protocol {
            UpstreamProtocol::Http1 => Kind::Http1,
            UpstreamProtocol::Http2 => Kind::Http2,
            UpstreamProtocol::Downstream if downstream == Some(Protocol::Http2) => Kind::Http2,
            UpstreamProtocol::Downstream => Kind::Http1,
            UpstreamProtocol::Auto => Kind::Auto,
        }
    }

    /// A connection of its own for TCP; priority 0 is the default, 1 high.
    /// `connection` is the client's.
    pub async fn tcp_connection(
        &self,
        host: &WorkerHost,
        priority: usize,
        connection: Option<&ConnectionInfo>,
    ) -> Result<TcpConnection, PoolFailure> {
        let options = self.transport_options(None, None, None, connection);
        host.tcp_connection(priority, options.as_ref()).await
    }

    /// Leave for one retry, held until the retry is done. `None` counts `upstream_rq_retry_overflow`.
    pub fn try_retry(&self, priority: usize) -> Option<RetryPermit> {
        if self.config.breaker(priority).take(Resource::Retries) {
            return Some(RetryPermit { config: Arc::clone(&self.config), priority });
        }
        self.stats().upstream_rq_retry_overflow.inc();
        None
    }

    /// Counts the status of a response, be it the host's or one of ours for want of one. `internal`: the request is
    /// from an internal address. `host` is counted a success or an error when it is known.
    pub fn count_response(&self, status: StatusCode, internal: bool, host: Option<&WorkerHost>) {
        self.responses.count(status, internal);
        if let Some(host) = host {
            let counters = host.counters();
            if status.is_server_error() { &counters.rq_error } else { &counters.rq_success }.inc();
        }
    }

    /// Counts the status of a response that was dropped for another try.
    pub fn count_retried(&self, status: StatusCode) {
        self.responses.count_retried(status);
    }

    /// In which field hosts are told how long a request may still take as a whole, where they are.
    pub fn deadline_header(&self) -> Option<&HeaderName> {
        self.config.deadline_header()
    }

    /// What is only counted where it is asked for.
    pub(crate) fn tracked(&self) -> Option<&Tracked> {
        self.tracked.as_deref()
    }

    /// Counts how long a request took, from its last octet that was sent to the last of the answer.
    pub fn record_response_time(&self, time: Duration, internal: bool) {
        self.responses.record_time(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), internal);
    }
}

/// Leave for one retry.
pub struct RetryPermit {
    config: Arc<ClusterConfig>,
    priority: usize,
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.config.breaker(self.priority).give(Resource::Retries);
    }
}
/// The host of an authority, without port and brackets.
fn host_only(authority: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(authority).ok()?;
    let host = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => text.rsplit_once(':').map_or(text, |(host, _)| host),
    };
    (!host.is_empty()).then_some(host)
}
