//! An immutable view of a cluster's hosts: who there is, who may be used, and in which order.

use super::{
    host::{Host, HostHealth},
    priority::{self, Availability, PriorityLoad},
    schedule,
};
use std::sync::{Arc, atomic::AtomicUsize};

/// The hosts of a cluster at one moment.
#[derive(Debug, Default)]
pub struct HostSet {
    hosts: Vec<Arc<Host>>,
    priorities: Vec<PriorityHosts>,
    /// The priority that has all the load, where there is one.
    only: Option<usize>,
    /// The overprovisioning factor in percent.
    factor: u32,
}

/// The hosts of one priority, as positions in the set.
#[derive(Debug, Default)]
pub struct PriorityHosts {
    pub(super) all: List,
    pub(super) healthy: List,
    pub(super) degraded: List,
    pub(super) load: PriorityLoad,
    /// Where round robin goes on; the sets of a cluster share it.
    pub(super) cursor: Arc<AtomicUsize>,
}

impl PriorityHosts {
    fn availability(&self) -> Availability {
        Availability {
            total: self.all.hosts.len() as u32,
            healthy: self.healthy.hosts.len() as u32,
            degraded: self.degraded.hosts.len() as u32,
        }
    }
}

/// Hosts among which a balancer chooses.
#[derive(Debug, Default, Clone)]
pub(super) struct List {
    pub(super) hosts: Arc<[u32]>,
    /// The order of round robin.
    pub(super) order: Arc<[u32]>,
    /// Whether weights differ.
    pub(super) weighted: bool,
}

impl List {
    fn new(set: &[Arc<Host>], hosts: Vec<u32>) -> Self {
        let weights: Vec<u32> = hosts.iter().filter_map(|i| set.get(*i as usize)).map(|host| host.weight()).collect();
        let weighted = weights.windows(2).any(|pair| pair[0] != pair[1]);
        let hosts: Arc<[u32]> = hosts.into();
        let order = match weighted {
            false => Arc::clone(&hosts),
            true => schedule::order(&weights).iter().filter_map(|i| hosts.get(*i as usize).copied()).collect(),
        };
        Self { hosts, order, weighted }
    }
}

impl HostSet {
    /// Counts, orders and percentages of these hosts by what their health is now. `before` gives the cursors.
    pub(super) fn new(hosts: Vec<Arc<Host>>, before: &Self, factor: u32, threshold: f64) -> Self {
        let count =
            hosts.iter().map(|host| host.spec().priority as usize + 1).max().unwrap_or(1).max(before.priorities.len());
        let mut by_priority = vec![(Vec::new(), Vec::new(), Vec::new()); count];
        for (i, host) in (0_u32..).zip(&hosts) {
            let Some((all, healthy, degraded)) = by_priority.get_mut(host.spec().priority as usize) else { continue };
            all.push(i);
            match host.health() {
                HostHealth::Healthy => healthy.push(i),
                HostHealth::Degraded => degraded.push(i),
                HostHealth::Unhealthy => {}
            }
        }
        let availability: Vec<_> = by_priority
            .iter()
            .map(|(all, healthy, degraded)| Availability {
                total: all.len() as u32,
                healthy: healthy.len() as u32,
                degraded: degraded.len() as u32,
            })
            .collect();
        let loads = priority::loads(&availability, factor, threshold);
        let only = loads.iter().position(|load| load.healthy == 100);
        let mut priorities = Vec::with_capacity(count);
        for (i, ((all, healthy, degraded), load)) in by_priority.into_iter().zip(loads).enumerate() {
            let all_healthy = all.len() == healthy.len();
            let all = List::new(&hosts, all);
            let healthy = if all_healthy { all.clone() } else { List::new(&hosts, healthy) };
            let cursor = before.priorities.get(i).map(|old| Arc::clone(&old.cursor)).unwrap_or_default();
            priorities.push(PriorityHosts { all, healthy, degraded: List::new(&hosts, degraded), load, cursor });
        }
        Self { hosts, priorities, only, factor }
    }

    /// All hosts, in the order of discovery.
    pub fn hosts(&self) -> &[Arc<Host>] {
        &self.hosts
    }

    /// By priority, 0 first.
    pub fn priorities(&self) -> &[PriorityHosts] {
        &self.priorities
    }

    /// How many hosts are healthy.
    pub fn healthy(&self) -> usize {
        self.priorities.iter().map(|priority| priority.healthy.hosts.len()).sum()
    }

    /// How many hosts are degraded.
    pub fn degraded(&self) -> usize {
        self.priorities.iter().map(|priority| priority.degraded.hosts.len()).sum()
    }

    /// The hosts among which to choose, of a priority that is drawn by its share; and whether it is in panic. `avoided`:
    /// priorities, as bits, that are left out while others have hosts.
    pub(super) fn draw(&self, avoided: u128, random: impl FnOnce() -> u64) -> Option<(&PriorityHosts, &List, bool)> {
        let (priority, degraded) = match self.only {
            _ if avoided != 0 => {
                let percent = (random() % 100 + 1) as u32;
                self.draw_other(avoided, percent).or_else(|| self.draw_priority(percent))?
            }
            Some(only) => (self.priorities.get(only)?, false),
            None => self.draw_priority((random() % 100 + 1) as u32)?,
        };
        if priority.load.panic {
            return Some((priority, &priority.all, true));
        }
        Some((priority, if degraded { &priority.degraded } else { &priority.healthy }, false))
    }

    /// `percent` is 1 to 100; healthy shares of all priorities come before the degraded ones.
    fn draw_priority(&self, percent: u32) -> Option<(&PriorityHosts, bool)> {
        let shares = self.priorities.iter().map(|priority| (priority, false, priority.load.healthy));
        let mut sum = 0;
        shares
            .chain(self.priorities.iter().map(|priority| (priority, true, priority.load.degraded)))
            .find(|(_, _, share)| {
                sum += share;
                percent <= sum
            })
            .map(|(priority, degraded, _)| (priority, degraded))
    }

    /// The same as if the priorities of `avoided` had no hosts. `None`: no other has any that may be used.
    fn draw_other(&self, avoided: u128, percent: u32) -> Option<(&PriorityHosts, bool)> {
        let is_avoided =
            |number: usize| u32::try_from(number).is_ok_and(|n| avoided.checked_shr(n).unwrap_or(0) & 1 != 0);
        let availability = self.priorities.iter().enumerate().map(|(number, priority)| {
            if is_avoided(number) { Availability::default() } else { priority.availability() }
        });
        let availability: Vec<_> = availability.collect();
        if availability.iter().all(|priority| priority.healthy + priority.degraded == 0) {
            return None;
        }
        let loads = priority::loads(&availability, self.factor, 0.0);
        let mut sum = 0;
        let healthy = loads.iter().zip(&self.priorities).map(|(load, priority)| (priority, false, load.healthy));
        let degraded = loads.iter().zip(&self.priorities).map(|(load, priority)| (priority, true, load.degraded));
        let mut shares = healthy.chain(degraded);
        shares
            .find(|(_, _, share)| {
                sum += share;
                percent <= sum
            })
            .map(|(priority, degraded, _)| (priority, degraded))
    }
}
