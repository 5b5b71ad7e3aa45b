//! An immutable view of a cluster's hosts: who there is, who may be used, and in which order.

use super::{
    balancing::Balancing,
    host::{Host, HostHealth},
    load_balancer::Table,
    locality::{Localities, LocalityIds},
    priority::{self, Availability, PriorityLoad},
    schedule,
    subsets::SubsetTable,
};
use sota_plugin::info::PeerAddress;
use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, atomic::AtomicUsize},
};

/// The hosts of a cluster at one moment.
#[derive(Debug, Default)]
pub struct HostSet {
    hosts: Vec<Arc<Host>>,
    view: View,
    subsets: Option<SubsetTable>,
    /// Made when somebody asks for a host by its address.
    places: OnceLock<HashMap<PeerAddress, usize>>,
}

/// Hosts by priority: all of a cluster, or those of a subset.
#[derive(Debug, Default)]
pub(super) struct View {
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
    /// The healthy and the degraded ones by locality, where localities are drawn by their weights.
    pub(super) localities: Option<Box<[Localities; 2]>>,
    pub(super) load: PriorityLoad,
    /// Hosts that do not count for how many there are.
    excluded: u32,
}

impl PriorityHosts {
    /// Its share of all requests in percent, by its healthy and by its degraded hosts, and whether it is in panic.
    pub(crate) fn share(&self) -> (u32, u32, bool) {
        (self.load.healthy, self.load.degraded, self.load.panic)
    }

    fn availability(&self) -> Availability {
        Availability {
            total: (self.all.hosts.len() as u32).saturating_sub(self.excluded),
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
    /// Where round robin goes on; successive lists of a place share it.
    pub(super) cursor: Arc<AtomicUsize>,
    /// What a policy with tables chooses by.
    pub(super) table: Option<Arc<Table>>,
}

/// Hosts of a priority that was drawn.
pub(super) struct Drawn<'a> {
    pub(super) list: &'a List,
    /// So few hosts are available that all are used.
    pub(super) panic: bool,
    /// The degraded ones.
    pub(super) degraded: bool,
    /// The priority is 0.
    pub(super) is_first: bool,
}

/// What a view is made by.
#[derive(Clone, Copy)]
pub(super) struct ViewOptions<'a> {
    pub(super) balancing: &'a Balancing,
    pub(super) localities: &'a LocalityIds,
    /// Of a subset: the part of each locality that it has counts.
    pub(super) scale_localities: bool,
}

impl List {
    pub(super) fn new(set: &[Arc<Host>], hosts: Vec<u32>, cursor: &Arc<AtomicUsize>) -> Self {
        let weights: Vec<u64> =
            hosts.iter().filter_map(|i| set.get(*i as usize)).map(|host| host.effective_weight()).collect();
        let weighted = weights.windows(2).any(|pair| pair[0] != pair[1]);
        let hosts: Arc<[u32]> = hosts.into();
        let order = match weighted {
            false => Arc::clone(&hosts),
            true => schedule::order(&weights).iter().filter_map(|i| hosts.get(*i as usize).copied()).collect(),
        };
        Self { hosts, order, weighted, cursor: Arc::clone(cursor), table: None }
    }
}

impl View {
    /// Counts, orders and percentages of `members`, ascending positions in `hosts`, by what their health is now.
    /// `before` gives the cursors.
    pub(super) fn new(
        hosts: &[Arc<Host>],
        members: impl Iterator<Item = u32>,
        before: Option<&Self>,
        options: &ViewOptions<'_>,
    ) -> Self {
        let before = before.map(|before| &*before.priorities).unwrap_or_default();
        let mut parts: Vec<[Vec<u32>; 3]> = vec![Default::default(); before.len().max(1)];
        for place in members {
            let Some(host) = hosts.get(place as usize) else { continue };
            let priority = host.spec().priority as usize;
            if parts.len() <= priority {
                parts.resize_with(priority + 1, Default::default);
            }
            let [all, healthy, degraded] = &mut parts[priority];
            all.push(place);
            match host.health() {
                HostHealth::Healthy => healthy.push(place),
                HostHealth::Degraded => degraded.push(place),
                HostHealth::Unhealthy => {}
            }
        }
        let count = |hosts: &Vec<u32>| u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let excluded = |all: &Vec<u32>| {
            let is_excluded = |place: &&u32| hosts.get(**place as usize).is_some_and(|host| host.is_excluded());
            u32::try_from(all.iter().filter(is_excluded).count()).unwrap_or(u32::MAX)
        };
        let availability: Vec<_> = parts
            .iter()
            .map(|[all, healthy, degraded]| Availability {
                total: count(all) - excluded(all),
                healthy: count(healthy),
                degraded: count(degraded),
            })
            .collect();
        let balancing = options.balancing;
        let loads = priority::loads(&availability, balancing.overprovisioning_factor, balancing.panic_threshold);
        let only = loads.iter().position(|load| load.healthy == 100);
        let priorities = parts
            .into_iter()
            .zip(loads)
            .enumerate()
            .map(|(number, (parts, load))| PriorityHosts::new(hosts, parts, load, before.get(number), options))
            .collect();
        Self { priorities, only, factor: balancing.overprovisioning_factor }
    }

    /// The hosts among which to choose, of a priority that is drawn by its share; and whether it is in panic. `avoided`:
    /// priorities, as bits, that are left out while others have hosts.
    pub(super) fn draw(&self, avoided: u128, random: impl FnOnce() -> u64) -> Option<(&List, bool)> {
        self.draw_part(avoided, random).map(|drawn| (drawn.list, drawn.panic))
    }

    /// The same with where the hosts are from.
    pub(super) fn draw_part(&self, avoided: u128, random: impl FnOnce() -> u64) -> Option<Drawn<'_>> {
        let (priority, degraded) = match self.only {
            _ if avoided != 0 => {
                let percent = (random() % 100 + 1) as u32;
                self.draw_other(avoided, percent).or_else(|| self.draw_priority(percent))?
            }
            Some(only) => (self.priorities.get(only)?, false),
            None => self.draw_priority((random() % 100 + 1) as u32)?,
        };
        let is_first = self.priorities.first().is_some_and(|first| std::ptr::eq(first, priority));
        let drawn = |list, panic| Some(Drawn { list, panic, degraded, is_first });
        if priority.load.panic {
            return drawn(&priority.all, true);
        }
        if let Some(localities) = &priority.localities
            && let Some(list) = localities[usize::from(degraded)].draw()
        {
            return drawn(list, false);
        }
        drawn(if degraded { &priority.degraded } else { &priority.healthy }, false)
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

impl PriorityHosts {
    fn new(
        hosts: &[Arc<Host>],
        [all, healthy, degraded]: [Vec<u32>; 3],
        load: PriorityLoad,
        before: Option<&Self>,
        options: &ViewOptions<'_>,
    ) -> Self {
        let cursor = before.map(|before| Arc::clone(&before.all.cursor)).unwrap_or_default();
        let all_healthy = all.len() == healthy.len();
        let mut all = List::new(hosts, all, &cursor);
        let mut healthy = if all_healthy { all.clone() } else { List::new(hosts, healthy, &cursor) };
        let mut degraded = List::new(hosts, degraded, &cursor);
        let balancing = options.balancing;
        let is_weighted = balancing.locality_weighted;
        let mut localities = None;
        if let Some(tables) = balancing.tables.as_ref().filter(|tables| tables.spans_localities()) {
            // The weights of localities are in the table.
            for list in if load.panic { vec![&mut all] } else { vec![&mut healthy, &mut degraded] } {
                let shares = match is_weighted {
                    true => options.localities.shares(hosts, &list.hosts),
                    false => tables.shares(hosts, &list.hosts),
                };
                list.table = tables.prepare(hosts, &shares);
            }
        } else {
            let prepare = |list: &mut List| {
                if let Some(tables) = &balancing.tables {
                    list.table = tables.prepare(hosts, &tables.shares(hosts, &list.hosts));
                }
            };
            if is_weighted && !load.panic {
                let old = before.and_then(|before| before.localities.as_deref());
                let mut made = [(&healthy, 0), (&degraded, 1)]
                    .map(|(list, part)| Localities::new(hosts, &all, list, old.map(|old| &old[part]), options));
                made.iter_mut().flat_map(Localities::lists_mut).for_each(prepare);
                localities = Some(Box::new(made));
            }
            for list in if load.panic { vec![&mut all] } else { vec![&mut healthy, &mut degraded] } {
                prepare(list);
            }
        }
        let excluded =
            all.hosts.iter().filter(|place| hosts.get(**place as usize).is_some_and(|host| host.is_excluded()));
        let excluded = u32::try_from(excluded.count()).unwrap_or(u32::MAX);
        Self { all, healthy, degraded, localities, load, excluded }
    }
}

impl HostSet {
    /// The view of these hosts by what their health is now. `before` gives the cursors.
    pub(super) fn new(hosts: Vec<Arc<Host>>, before: &Self, balancing: &Balancing) -> Self {
        let ids = if balancing.locality_weighted { LocalityIds::new(&hosts) } else { LocalityIds::default() };
        let options = ViewOptions { balancing, localities: &ids, scale_localities: false };
        let count = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let view = View::new(&hosts, 0..count, Some(&before.view), &options);
        let subsets = balancing
            .subsets
            .as_ref()
            .map(|subsets| SubsetTable::new(subsets, &hosts, before.subsets.as_ref(), &options));
        Self { hosts, view, subsets, places: OnceLock::new() }
    }

    /// All hosts, in the order of discovery.
    pub fn hosts(&self) -> &[Arc<Host>] {
        &self.hosts
    }

    /// By priority, 0 first.
    pub fn priorities(&self) -> &[PriorityHosts] {
        &self.view.priorities
    }

    /// How many hosts are healthy.
    pub fn healthy(&self) -> usize {
        self.priorities().iter().map(|priority| priority.healthy.hosts.len()).sum()
    }

    /// How many hosts are degraded.
    pub fn degraded(&self) -> usize {
        self.priorities().iter().map(|priority| priority.degraded.hosts.len()).sum()
    }

    /// How many hosts do not count.
    pub(super) fn excluded(&self) -> usize {
        self.priorities().iter().map(|priority| priority.excluded as usize).sum()
    }

    /// All hosts by priority.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// The subsets, where the cluster has some.
    pub(super) fn subsets(&self) -> Option<&SubsetTable> {
        self.subsets.as_ref()
    }

    /// The position of the host of this address.
    pub(super) fn place_of(&self, address: &PeerAddress) -> Option<usize> {
        let places = || self.hosts.iter().enumerate().map(|(place, host)| (host.address().clone(), place)).collect();
        self.places.get_or_init(places).get(address).copied()
    }

    /// The table of the last priority that has one, for its figures.
    pub(super) fn last_table(&self) -> Option<&Table> {
        let lists = self.priorities().iter().flat_map(|priority| [&priority.all, &priority.healthy]);
        lists.rev().find_map(|list| list.table.as_deref())
    }
}
