//! Hosts by name: STRICT_DNS and LOGICAL_DNS. All of it runs on the main thread.
//!
//! Each name is resolved on its own, again and again: after the refresh rate or the answer's time to live, and after a
//! failure with growing waits. What was resolved last stays until there is something new: neither a failure nor an
//! empty answer takes hosts away.

mod resolver;
mod settings;

pub(super) use settings::ResolverSettings;

use super::{
    config::{ClusterConfig, literal_address},
    host::HostSpec,
};
use crate::local::Local;
use resolver::{Answer, Failure, Resolver};
use sota_config::{
    ConfigError, ExtensionConfig,
    address::Address,
    cluster::{Discovery as Kind, DnsConfig},
};
use sota_plugin::access_log::LogFile;
use std::{
    cell::{Cell, RefCell},
    mem,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, task::JoinHandle};

/// No name is resolved more often than this, whatever is configured.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// Checks `typed_dns_resolver_config` of the bootstrap. (A cluster's own is checked when the cluster is built.)
pub fn check_resolver(config: &ExtensionConfig) -> Result<(), ConfigError> {
    ResolverSettings::read(config).map(|_| ())
}

/// Has the workers look at the hosts of the cluster of this name at once.
pub type TellWorkers = Rc<dyn Fn(&Arc<str>)>;

/// What keeping the hosts of clusters needs of the main thread.
#[derive(Clone)]
pub struct DiscoveryCx<'a> {
    /// Its own part, for connections that are made there.
    pub local: &'a Rc<Local>,
    /// The bootstrap's resolver, for clusters that name none.
    pub resolver: Option<&'a ExtensionConfig>,
    /// Where it is written which hosts are ejected, if anywhere.
    pub outlier_log: Option<Arc<dyn LogFile>>,
    /// Has the workers look at the hosts of a cluster at once.
    pub tell_workers: TellWorkers,
}

/// Keeps a cluster's hosts as discovery says. Dropping it stops that.
pub struct Discovery {
    tasks: Vec<JoinHandle<()>>,
    ready: Rc<Ready>,
    config: Arc<ClusterConfig>,
}

#[derive(Default)]
struct Ready {
    is: Cell<bool>,
    changed: Notify,
}

impl Ready {
    fn set(&self) {
        self.is.set(true);
        self.changed.notify_waiters();
    }
}

impl Discovery {
    /// Starts what the cluster needs, within the main thread's runtime: resolving names, dropping unused original
    /// destinations, checking hosts, ejecting them, probing ejected ones. Clusters that need nothing are initialized at
    /// once.
    pub fn start(config: &Arc<ClusterConfig>, cx: &DiscoveryCx<'_>) -> Self {
        config.publish(&cx.local.stats);
        let resolver = || match (config.resolver(), cx.resolver.map(ResolverSettings::read)) {
            (Some(own), _) => own.clone(),
            (None, Some(Ok(default))) => default,
            (None, Some(Err(error))) => {
                tracing::error!("{error}; the default is used");
                ResolverSettings::default()
            }
            (None, None) => ResolverSettings::default(),
        };
        let ready = Rc::new(Ready::default());
        let mut tasks = Vec::new();
        match &config.model().discovery {
            Kind::StrictDns(dns) => tasks.extend(start_names(config, dns, false, &resolver(), &ready)),
            Kind::LogicalDns(dns) => tasks.extend(start_names(config, dns, true, &resolver(), &ready)),
            Kind::OriginalDst(options) => {
                ready.set();
                tasks.push(tokio::task::spawn_local(super::original_dst::clean_up(
                    Arc::clone(config),
                    options.cleanup_interval,
                )));
            }
            Kind::Static | Kind::Eds { .. } => ready.set(),
        }
        if config.overload().is_some() {
            tasks.push(tokio::task::spawn_local(super::overload::probe(Arc::clone(config))));
        }
        if config.outlier().is_some() {
            let watch = super::outlier_detector::watch(Arc::clone(config), cx.outlier_log.clone());
            tasks.push(tokio::task::spawn_local(watch));
        }
        if config.model().lb_config.slow_start.is_some() {
            tasks.push(tokio::task::spawn_local(super::slow_start::run(Arc::clone(config))));
        }
        if config.health_checker().is_some() {
            let checks = super::health_check::run(Arc::clone(config), Rc::clone(cx.local), Rc::clone(&cx.tell_workers));
            tasks.push(tokio::task::spawn_local(checks));
        }
        Self { tasks, ready, config: Arc::clone(config) }
    }

    /// Whether there was a first answer or failure, and every host was checked once, where hosts are. As in Envoy the
    /// first of several names is enough.
    pub fn is_initialized(&self) -> bool {
        self.ready.is.get() && self.config.is_checked()
    }

    /// Waits for [`Self::is_initialized`].
    pub fn initialized(&self) -> impl Future<Output = ()> + use<> {
        let (ready, config) = (Rc::clone(&self.ready), Arc::clone(&self.config));
        async move {
            while !ready.is.get() {
                ready.changed.notified().await;
            }
            let Some(checker) = config.health_checker() else { return };
            loop {
                let mut checked = std::pin::pin!(checker.checked.notified());
                checked.as_mut().enable();
                if config.is_checked() {
                    return;
                }
                checked.await;
            }
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The names of a cluster, with what they resolved to last.
struct Names {
    config: Arc<ClusterConfig>,
    dns: DnsConfig,
    logical: bool,
    resolver: Rc<Resolver>,
    hosts: RefCell<Vec<Vec<HostSpec>>>,
    /// Names without a first result, while the hosts of the cluster's predecessor serve.
    awaited: Cell<usize>,
    ready: Rc<Ready>,
}

/// One name.
struct Target {
    /// Its place in the document's order.
    place: usize,
    host: String,
    port: u16,
    /// Everything but the address.
    template: HostSpec,
}

fn start_names(
    config: &Arc<ClusterConfig>,
    dns: &DnsConfig,
    logical: bool,
    settings: &ResolverSettings,
    ready: &Rc<Ready>,
) -> Vec<JoinHandle<()>> {
    let (mut hosts, mut targets) = (Vec::new(), Vec::new());
    for of in &config.model().load_assignment.localities {
        let locality = Arc::new(of.locality.clone());
        for endpoint in &of.endpoints {
            let (host, literal) = match &endpoint.address {
                Address::Name { host, port } => {
                    (host.clone(), host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, *port).into()))
                }
                Address::Ip { ip, .. } => (ip.to_string(), literal_address(&endpoint.address)),
                Address::Pipe { .. } => (String::new(), literal_address(&endpoint.address)),
            };
            let unresolved = SocketAddr::from(([0, 0, 0, 0], 0)).into();
            let mut template = HostSpec::new(unresolved, endpoint, of, &locality);
            if template.hostname.is_empty() {
                template.hostname = host.as_str().into();
            }
            if logical {
                template.priority = 0;
            }
            match (literal, &endpoint.address) {
                (Some(address), _) => hosts.push(vec![HostSpec { address, ..template }]),
                (None, Address::Name { port, .. }) => {
                    targets.push(Target { place: hosts.len(), host, port: *port, template });
                    hosts.push(Vec::new());
                }
                (None, _) => {}
            }
        }
    }
    let names = Rc::new(Names {
        config: Arc::clone(config),
        dns: dns.clone(),
        logical,
        resolver: resolver::resolver(settings, dns.lookup_family),
        hosts: RefCell::new(hosts),
        awaited: Cell::new(if config.hosts().hosts().is_empty() { 0 } else { targets.len() }),
        ready: Rc::clone(ready),
    });
    names.publish();
    if targets.is_empty() {
        // Addresses only: they resolve to themselves.
        if let Some(stats) = config.discovery_stats() {
            stats.update_attempt.add(names.hosts.borrow().len() as u64);
            stats.update_success.add(names.hosts.borrow().len() as u64);
        }
        ready.set();
    }
    targets.into_iter().map(|target| tokio::task::spawn_local(Rc::clone(&names).keep(target))).collect()
}

impl Names {
    /// Resolves one name for as long as the cluster lives.
    async fn keep(self: Rc<Self>, target: Target) {
        let mut failures = Backoff::new(&self.dns);
        let mut first = true;
        loop {
            if let Some(stats) = self.config.discovery_stats() {
                stats.update_attempt.inc();
            }
            let result = self.resolver.resolve(&target.host).await;
            if mem::take(&mut first) {
                self.awaited.set(self.awaited.get().saturating_sub(1));
            }
            let wait = self.take(&target, result, &mut failures);
            self.ready.set();
            let jitter = self.dns.jitter.mul_f64(fastrand::f64());
            tokio::time::sleep(wait.saturating_add(jitter).max(SHORTEST_WAIT)).await;
        }
    }

    /// Takes an answer over; how long it is good for.
    fn take(&self, target: &Target, result: Result<Answer, Failure>, failures: &mut Backoff) -> Duration {
        let stats = self.config.discovery_stats();
        match result {
            Ok(answer) => {
                if let Some(stats) = stats {
                    stats.update_success.inc();
                }
                failures.reset();
                self.update(target, &answer.addresses);
                match answer.ttl {
                    Some(ttl) if self.dns.respect_dns_ttl && !ttl.is_zero() => ttl,
                    _ => self.dns.refresh_rate,
                }
            }
            Err(failure) => {
                if let Some(stats) = stats {
                    stats.update_failure.inc();
                    if matches!(failure, Failure::Empty) {
                        stats.update_empty.inc();
                    }
                }
                tracing::debug!(cluster = %self.config.name(), name = target.host, "resolving failed: {failure}");
                failures.next()
            }
        }
    }

    fn update(&self, target: &Target, addresses: &[IpAddr]) {
        let many = if self.logical { 1 } else { addresses.len() };
        let mut specs: Vec<HostSpec> = Vec::new();
        for ip in addresses.iter().take(many) {
            let address = SocketAddr::new(*ip, target.port).into();
            if specs.iter().all(|spec| spec.address != address) {
                specs.push(HostSpec { address, ..target.template.clone() });
            }
        }
        // Name servers rotate their answers; the order of hosts stays, so that nothing changes for nothing.
        specs.sort_by_key(|spec| spec.address.socket_address());
        let mut hosts = self.hosts.borrow_mut();
        if let Some(place) = hosts.get_mut(target.place) {
            *place = specs;
        }
        drop(hosts);
        self.publish();
    }

    fn publish(&self) {
        let mut seen = std::collections::HashSet::new();
        let hosts = self.hosts.borrow();
        let all: Vec<_> = hosts.iter().flatten().filter(|spec| seen.insert(spec.address.clone())).cloned().collect();
        if all.is_empty() || self.awaited.get() > 0 {
            return;
        }
        match self.logical {
            true => self.config.set_logical_host(all),
            false => self.config.set_hosts(all),
        };
    }
}

/// Waits after failures: twice as long each time, with half of it at random.
struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
    grows: bool,
}

impl Backoff {
    fn new(dns: &DnsConfig) -> Self {
        let (first, most) = dns.failure_refresh_rate.unwrap_or((dns.refresh_rate, dns.refresh_rate));
        Self { first, most: most.max(first), next: first, grows: dns.failure_refresh_rate.is_some() }
    }

    fn reset(&mut self) {
        self.next = self.first;
    }

    fn next(&mut self) -> Duration {
        let wait = self.next;
        if !self.grows {
            return wait;
        }
        self.next = wait.saturating_mul(2).min(self.most);
        wait.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests;
