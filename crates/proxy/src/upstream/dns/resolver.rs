//! Resolvers of the main thread.

use super::settings::{QuerySettings, ResolverSettings};
use hickory_resolver::{
    Resolver as Hickory, TokioResolver,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig,
        ResolverOpts, ServerOrderingStrategy,
    },
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    system_conf::read_system_conf,
};
use sota_config::cluster::DnsLookupFamily;
use std::{
    cell::RefCell,
    fmt,
    net::{IpAddr, SocketAddr},
    rc::{Rc, Weak},
    time::Duration,
};

/// A name is asked for no longer than this in all, search domains and retries included.
const LONGEST_RESOLUTION: Duration = Duration::from_secs(60);
/// What Envoy takes for the time to live where the system's library gives none.
const SYSTEM_TTL: Duration = Duration::from_secs(60);

thread_local! {
    /// The resolvers of this thread: equal settings share one.
    static MADE: RefCell<Vec<Made>> = const { RefCell::new(Vec::new()) };
}

struct Made {
    settings: ResolverSettings,
    family: DnsLookupFamily,
    resolver: Weak<Resolver>,
}

/// The resolver of these settings.
pub(super) fn resolver(settings: &ResolverSettings, family: DnsLookupFamily) -> Rc<Resolver> {
    MADE.with_borrow_mut(|made| {
        made.retain(|made| made.resolver.strong_count() > 0);
        let same = made.iter().find(|made| made.settings == *settings && made.family == family);
        if let Some(resolver) = same.and_then(|made| made.resolver.upgrade()) {
            return resolver;
        }
        let resolver = Rc::new(Resolver::new(settings, family));
        made.push(Made { settings: settings.clone(), family, resolver: Rc::downgrade(&resolver) });
        resolver
    })
}

/// Resolves names to addresses of a family.
pub(super) struct Resolver {
    family: DnsLookupFamily,
    by: By,
}

enum By {
    System,
    Queries {
        resolver: Box<TokioResolver>,
        no_search: bool,
    },
    /// It could not be made, as `/etc/resolv.conf` cannot be read.
    Nothing(String),
}

/// What a name resolves to: at least one address.
pub(super) struct Answer {
    pub(super) addresses: Vec<IpAddr>,
    /// The shortest time to live.
    pub(super) ttl: Option<Duration>,
}

/// Why a name does not resolve.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no such name, or it has no address of the family.
    Empty,
    /// Nobody gave an answer.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no address"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

impl Resolver {
    fn new(settings: &ResolverSettings, family: DnsLookupFamily) -> Self {
        let by = match settings {
            ResolverSettings::System => By::System,
            ResolverSettings::Queries(settings) => match hickory(settings, family) {
                Ok(resolver) => By::Queries { resolver: Box::new(resolver), no_search: settings.no_search },
                Err(error) => By::Nothing(error.to_string()),
            },
        };
        Self { family, by }
    }

    /// Addresses in the order of preference.
    pub(super) async fn resolve(&self, host: &str) -> Result<Answer, Failure> {
        let answer = tokio::time::timeout(LONGEST_RESOLUTION, async {
            match &self.by {
                By::System => self.ask_system(host).await,
                By::Queries { resolver, no_search } => self.ask(resolver, host, *no_search).await,
                By::Nothing(reason) => Err(Failure::Failed(reason.clone())),
            }
        });
        let answer = answer.await.map_err(|_| Failure::Failed("timed out".to_owned()))??;
        if answer.addresses.is_empty() { Err(Failure::Empty) } else { Ok(answer) }
    }

    async fn ask(&self, resolver: &TokioResolver, host: &str, no_search: bool) -> Result<Answer, Failure> {
        // A dot at the end says that the name is whole.
        let whole = if no_search && !host.ends_with('.') { format!("{host}.") } else { host.to_owned() };
        match resolver.lookup_ip(whole).await {
            Ok(found) => {
                let ttl = found.as_lookup().answers().iter().map(|record| record.ttl).min();
                let addresses = found.iter().filter(|ip| self.wants(*ip)).collect();
                Ok(Answer { addresses, ttl: ttl.map(|ttl| Duration::from_secs(ttl.into())) })
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Err(Failure::Empty),
            Err(error) => Err(Failure::Failed(error.to_string())),
        }
    }

    async fn ask_system(&self, host: &str) -> Result<Answer, Failure> {
        let found = tokio::net::lookup_host((host, 0)).await.map_err(|error| Failure::Failed(error.to_string()))?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for ip in found.map(|address| address.ip()).filter(|ip| self.wants(*ip)) {
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        let preferred = match self.family {
            DnsLookupFamily::Auto => IpAddr::is_ipv6,
            DnsLookupFamily::V4Preferred => IpAddr::is_ipv4,
            _ => return Ok(Answer { addresses, ttl: Some(SYSTEM_TTL) }),
        };
        if addresses.iter().any(preferred) {
            addresses.retain(preferred);
        }
        Ok(Answer { addresses, ttl: Some(SYSTEM_TTL) })
    }

    fn wants(&self, ip: IpAddr) -> bool {
        match self.family {
            DnsLookupFamily::V4Only => ip.is_ipv4(),
            DnsLookupFamily::V6Only => ip.is_ipv6(),
            _ => true,
        }
    }
}

fn hickory(settings: &QuerySettings, family: DnsLookupFamily) -> Result<TokioResolver, NetError> {
    let own = || settings.servers.iter().map(|server| name_server(*server, settings.tcp)).collect::<Vec<_>>();
    let (config, mut options) = match read_system_conf() {
        Ok((system, options))
            if settings.servers.is_empty() || settings.as_fallback && !system.name_servers().is_empty() =>
        {
            (system, options)
        }
        // Search domains are the system's in any case.
        Ok((system, options)) => {
            let (domain, search, _) = system.into_parts();
            (ResolverConfig::from_parts(domain, search, own()), options)
        }
        Err(error) if settings.servers.is_empty() => return Err(error),
        Err(_) => (ResolverConfig::from_parts(None, Vec::new(), own()), ResolverOpts::default()),
    };
    options.ip_strategy = match family {
        DnsLookupFamily::Auto => LookupIpStrategy::Ipv6thenIpv4,
        DnsLookupFamily::V4Only => LookupIpStrategy::Ipv4Only,
        DnsLookupFamily::V6Only => LookupIpStrategy::Ipv6Only,
        DnsLookupFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
        DnsLookupFamily::All => LookupIpStrategy::Ipv4AndIpv6,
    };
    // When to ask again is our decision.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Always;
    options.timeout = settings.timeout.unwrap_or(options.timeout);
    options.attempts = settings.tries.map_or(options.attempts, |tries| tries.saturating_sub(1));
    if settings.rotate {
        options.server_ordering_strategy = ServerOrderingStrategy::RoundRobin;
    }
    if settings.tcp {
        options.try_tcp_on_error = true;
    }
    Hickory::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build()
}

fn name_server(address: SocketAddr, tcp: bool) -> NameServerConfig {
    let connection = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = address.port();
        connection
    };
    let connections = match tcp {
        true => vec![connection(ProtocolConfig::Tcp)],
        false => vec![connection(ProtocolConfig::Udp), connection(ProtocolConfig::Tcp)],
    };
    NameServerConfig::new(address.ip(), true, connections)
}
