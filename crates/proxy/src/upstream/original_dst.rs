//! ORIGINAL_DST: the host is where the client wanted to go, or what a request header says.

use super::{
    cluster::LbContext,
    config::ClusterConfig,
    host::{Host, HostSpec, HostState},
};
use sota_config::cluster::{HealthStatus, OriginalDstConfig};
use sota_plugin::info::PeerAddress;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// A client chooses the addresses where a header says them: there are no more hosts than this.
const MOST_HOSTS: usize = 16 * 1024;
/// The header, unless configuration names another.
const HEADER: &str = "x-envoy-original-dst-host";

/// The hosts that were asked for, as all workers share them.
#[derive(Debug, Default)]
pub(super) struct OriginalHosts {
    hosts: Mutex<HashMap<SocketAddr, OriginalHost>>,
    /// Goes up when hosts are dropped.
    dropped: AtomicU64,
}

/// A host, and whether it was chosen since the last cleaning.
#[derive(Debug, Clone)]
pub(super) struct OriginalHost {
    pub(super) host: Arc<Host>,
    used: Arc<AtomicBool>,
}

impl OriginalHost {
    /// Notes that it is used.
    pub(super) fn touch(&self) {
        // Not written while it is set already: all workers read it.
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
    }
}

impl OriginalHosts {
    /// The host of an address, made when it is new; whether it is. `None`: there are too many.
    pub(super) fn get(&self, address: SocketAddr) -> Option<(OriginalHost, bool)> {
        let mut hosts = self.lock();
        if let Some(host) = hosts.get(&address) {
            host.touch();
            return Some((host.clone(), false));
        }
        if hosts.len() >= MOST_HOSTS {
            return None;
        }
        let spec = HostSpec {
            address: PeerAddress::Ip(address),
            hostname: "".into(),
            weight: 1,
            priority: 0,
            locality: Arc::default(),
            locality_weight: 0,
            health: HealthStatus::Unknown,
            metadata: None,
            health_check: None,
            additional_addresses: Arc::default(),
        };
        let host = OriginalHost { host: Arc::new(Host::new(spec, Arc::default())), used: Arc::new(true.into()) };
        hosts.insert(address, host.clone());
        Some((host, true))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// All of them, in no order.
    pub(super) fn all(&self) -> Vec<Arc<Host>> {
        self.lock().values().map(|host| Arc::clone(&host.host)).collect()
    }

    /// Goes up when hosts are dropped: workers then drop theirs.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Drops hosts that were not chosen since the last time and have no request; whether there were any.
    pub(super) fn clean(&self) -> bool {
        let mut any = false;
        self.lock().retain(|_, host| {
            let keep = host.used.swap(false, Relaxed) || host.host.state().counts().rq_active > 0;
            if !keep {
                host.host.state().set(HostState::REMOVED, true);
                any = true;
            }
            keep
        });
        if any {
            self.dropped.fetch_add(1, Relaxed);
        }
        any
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, OriginalHost>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a request wants to go. `Err`: the header is no address (the connection's destination is then in the value).
pub(super) fn destination(options: &OriginalDstConfig, cx: &LbContext<'_>) -> (Option<SocketAddr>, bool) {
    let mut invalid = false;
    let from_header = options.http_header.as_deref().zip(cx.request).and_then(|(name, request)| {
        let name = if name.is_empty() { HEADER } else { name };
        let value = request.headers.get_str(name)?;
        let address = value.trim().parse().ok();
        invalid = address.is_none();
        address
    });
    let restored = || cx.connection.filter(|connection| connection.local_restored)?.local.socket_address();
    let address = from_header.or_else(restored).map(|mut address: SocketAddr| {
        if let Some(port) = options.upstream_port_override {
            address.set_port(port);
        }
        address
    });
    (address, invalid)
}

/// Drops unused hosts from time to time, on the main thread.
pub(super) async fn clean_up(config: Arc<ClusterConfig>, interval: Duration) {
    let interval = if interval.is_zero() { Duration::from_secs(5) } else { interval };
    loop {
        tokio::time::sleep(interval).await;
        config.clean_original_hosts();
    }
}
