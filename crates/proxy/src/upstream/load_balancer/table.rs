//! What policies make of a list of hosts before requests come.

use super::{Choice, bounded_load::BoundedLoad, maglev::MaglevTable, ring_hash::Ring};
use crate::upstream::{host::Host, locality::normalize, metadata_match::NAMESPACE};
use sota_config::{
    ConfigError,
    load_balancer::{ConsistentHashing, LbPolicy, Maglev, RingHash},
};
use sota_plugin::{
    FactoryContext,
    load_balancer::{BalancedHost, LoadBalancer, LoadBalancerConfig},
};
use std::{borrow::Cow, fmt, sync::Arc};

/// A policy that prepares lists of hosts.
pub(in crate::upstream) enum Tables {
    Ring(RingHash),
    Maglev(Maglev),
    Extension(Arc<dyn LoadBalancerConfig>),
}

/// A list of hosts as the policy prepared it.
pub(in crate::upstream) struct Table {
    kind: Kind,
    /// The list, as positions in the set.
    hosts: Box<[u32]>,
    bounded: Option<BoundedLoad>,
}

enum Kind {
    Ring(Ring),
    Maglev(MaglevTable),
    Extension(Arc<dyn LoadBalancer>),
}

/// The size of a table, and the fewest and the most entries that a host has in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) struct Figures {
    pub(in crate::upstream) size: u64,
    pub(in crate::upstream) min: u64,
    pub(in crate::upstream) max: u64,
}

impl Tables {
    /// `None`: the policy needs no table.
    pub(in crate::upstream) fn build(policy: &LbPolicy, cx: &FactoryContext<'_>) -> Result<Option<Self>, ConfigError> {
        Ok(match policy {
            LbPolicy::RingHash(ring) => Some(Self::Ring(ring.clone())),
            LbPolicy::Maglev(maglev) => Some(Self::Maglev(maglev.clone())),
            LbPolicy::Extension(config) => {
                let extension = cx.registry.load_balancers.resolve(config)?;
                Some(Self::Extension((extension.build)(&config.config, &cx.at(config))?))
            }
            LbPolicy::RoundRobin | LbPolicy::LeastRequest(_) | LbPolicy::Random | LbPolicy::ClusterProvided => None,
        })
    }

    /// Whether one table has the hosts of all localities, with the weights of both.
    pub(in crate::upstream) fn spans_localities(&self) -> bool {
        !matches!(self, Self::Extension(_))
    }

    /// The part of each host of a list in all their weight.
    pub(in crate::upstream) fn shares(&self, hosts: &[Arc<Host>], list: &[u32]) -> Vec<(u32, f64)> {
        let mut shares = Vec::with_capacity(list.len());
        normalize(hosts, list, 1.0, &mut shares);
        shares
    }

    /// Prepares hosts, each with its share; `None`: there are none.
    pub(in crate::upstream) fn prepare(&self, set: &[Arc<Host>], shares: &[(u32, f64)]) -> Option<Arc<Table>> {
        if shares.is_empty() {
            return None;
        }
        let members: Vec<&Arc<Host>> = shares.iter().filter_map(|(place, _)| set.get(*place as usize)).collect();
        let weights: Vec<f64> = shares.iter().map(|(_, share)| *share).collect();
        let (kind, hashing) = match self {
            Self::Ring(ring) => {
                let keys = members.iter().map(|host| hash_key(host, &ring.hashing));
                (Kind::Ring(Ring::new(ring, keys, &weights)), Some(&ring.hashing))
            }
            Self::Maglev(maglev) => {
                let keys: Vec<_> = members.iter().map(|host| hash_key(host, &maglev.hashing)).collect();
                (Kind::Maglev(MaglevTable::new(maglev.table_size, &keys, &weights)), Some(&maglev.hashing))
            }
            Self::Extension(config) => {
                let hosts: Vec<Arc<dyn BalancedHost>> =
                    members.iter().map(|host| Arc::clone(host) as Arc<dyn BalancedHost>).collect();
                (Kind::Extension(config.prepare(&hosts)), None)
            }
        };
        let factor = hashing.and_then(|hashing| hashing.balance_factor);
        Some(Arc::new(Table {
            kind,
            hosts: shares.iter().map(|(place, _)| *place).collect(),
            bounded: factor.map(|factor| BoundedLoad::new(factor, weights)),
        }))
    }
}

/// What a host stands for on a ring: its metadata may say.
fn hash_key<'a>(host: &'a Host, hashing: &ConsistentHashing) -> Cow<'a, str> {
    let metadata = host.spec().metadata.as_ref();
    let key = metadata.and_then(|metadata| metadata.get("filter_metadata")?.get(NAMESPACE)?.get("hash_key")?.as_str());
    match key {
        Some(key) if !key.is_empty() => Cow::Borrowed(key),
        _ if hashing.use_hostname => Cow::Borrowed(host.hostname()),
        _ => Cow::Owned(host.address().to_string()),
    }
}

impl Table {
    /// A position in `set`.
    pub(super) fn choose(&self, set: &[Arc<Host>], choice: &Choice<'_>) -> Option<u32> {
        let attempt = choice.cx.attempt;
        let chosen = match &self.kind {
            Kind::Ring(ring) => ring.choose(choice.hash, attempt),
            Kind::Maglev(table) => table.choose(choice.hash, attempt),
            Kind::Extension(balancer) => balancer.choose(&choice.cx).and_then(|chosen| u32::try_from(chosen).ok()),
        }?;
        let chosen = match &self.bounded {
            None => chosen,
            Some(bounded) => {
                let active = |n: u32| {
                    let place = self.hosts.get(n as usize).copied().unwrap_or(u32::MAX);
                    set.get(place as usize).map_or(0, |host| host.state().active())
                };
                bounded.choose(chosen, choice.hash, (choice.active)(), active)
            }
        };
        self.hosts.get(chosen as usize).copied()
    }

    /// Name prefix of its gauges, and their values.
    pub(in crate::upstream) fn figures(&self) -> Option<Figures> {
        match &self.kind {
            Kind::Ring(ring) => Some(ring.figures()),
            Kind::Maglev(table) => Some(table.figures()),
            Kind::Extension(_) => None,
        }
    }
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(ring) => ring.fmt(f),
            Self::Maglev(maglev) => maglev.fmt(f),
            Self::Extension(_) => f.write_str("Extension"),
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("hosts", &self.hosts.len()).finish_non_exhaustive()
    }
}

impl BalancedHost for Host {
    fn address(&self) -> &sota_plugin::info::PeerAddress {
        self.address()
    }

    fn hostname(&self) -> &str {
        self.hostname()
    }

    fn weight(&self) -> u32 {
        self.weight()
    }

    fn locality(&self) -> &[String; 3] {
        &self.spec().locality
    }

    fn metadata(&self) -> Option<&Arc<sota_config::Node>> {
        self.spec().metadata.as_ref()
    }

    fn active_requests(&self) -> u32 {
        self.state().active()
    }
}
