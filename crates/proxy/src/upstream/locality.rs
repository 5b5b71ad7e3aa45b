//! Localities with weights: which one a request goes to (Envoy's `locality_weighted_lb_config`).

use super::{
    host::Host,
    host_set::{List, ViewOptions},
    schedule,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// The localities of a host set by numbers, in the order of their names.
#[derive(Debug, Default)]
pub(super) struct LocalityIds {
    /// The locality of each host of the set.
    of: Vec<u32>,
    /// How many hosts there are, by priority and locality.
    hosts: BTreeMap<(u32, u32), usize>,
}

impl LocalityIds {
    pub(super) fn new(hosts: &[Arc<Host>]) -> Self {
        let mut names: BTreeMap<&[String; 3], u32> = hosts.iter().map(|host| (&*host.spec().locality, 0)).collect();
        for (id, slot) in (0..).zip(names.values_mut()) {
            *slot = id;
        }
        let of: Vec<u32> =
            hosts.iter().map(|host| names.get(&*host.spec().locality).copied().unwrap_or_default()).collect();
        let mut counts = BTreeMap::new();
        for (host, id) in hosts.iter().zip(&of) {
            *counts.entry((host.spec().priority, *id)).or_default() += 1;
        }
        Self { of, hosts: counts }
    }

    /// Hosts of a list by locality, in the order of localities.
    fn group(&self, list: &[u32]) -> BTreeMap<u32, Vec<u32>> {
        let mut groups = BTreeMap::<u32, Vec<u32>>::new();
        for place in list {
            groups.entry(self.of.get(*place as usize).copied().unwrap_or_default()).or_default().push(*place);
        }
        groups
    }

    /// The part of each host of a list in all its weight: that of its locality, then its own. They add up to 1, or
    /// there are none.
    pub(super) fn shares(&self, hosts: &[Arc<Host>], list: &[u32]) -> Vec<(u32, f64)> {
        let groups = self.group(list);
        let sum: u64 = groups.values().map(|group| u64::from(weight_of(hosts, group))).sum();
        let mut shares = Vec::with_capacity(list.len());
        for group in groups.values() {
            let weight = weight_of(hosts, group);
            if weight > 0 {
                normalize(hosts, group, f64::from(weight) / sum as f64, &mut shares);
            }
        }
        shares
    }
}

/// Adds the hosts with their parts of `whole`.
pub(super) fn normalize(hosts: &[Arc<Host>], list: &[u32], whole: f64, shares: &mut Vec<(u32, f64)>) {
    let weight = |place: &u32| hosts.get(*place as usize).map_or(0, |host| host.weight());
    let sum: u64 = list.iter().map(|place| u64::from(weight(place))).sum();
    shares.extend(list.iter().map(|place| (*place, f64::from(weight(place)) * whole / sum as f64)));
}

/// The weight of the locality that these hosts share.
fn weight_of(hosts: &[Arc<Host>], group: &[u32]) -> u32 {
    group.first().and_then(|place| hosts.get(*place as usize)).map_or(0, |host| host.spec().locality_weight)
}

/// The localities of one priority that have weight and hosts which may be used.
#[derive(Debug, Default)]
pub(super) struct Localities {
    lists: Vec<List>,
    ids: Vec<u32>,
    /// The order in which they are drawn, as positions in `lists`.
    order: Vec<u32>,
    cursor: Arc<AtomicUsize>,
}

impl Localities {
    /// `eligible` are the hosts of `all` that may be used. A locality's weight shrinks with the part of its hosts that
    /// may not, as far as the overprovisioning factor does not make up for it.
    pub(super) fn new(
        hosts: &[Arc<Host>],
        all: &List,
        eligible: &List,
        before: Option<&Self>,
        options: &ViewOptions<'_>,
    ) -> Self {
        /// Of a weight, so that shrunk ones are still different.
        const PARTS: f64 = 1000.0;
        let all = options.localities.group(&all.hosts);
        let factor = f64::from(options.balancing.overprovisioning_factor) / 100.0;
        let (mut ids, mut lists, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (id, group) in options.localities.group(&eligible.hosts) {
            let Some(members) = all.get(&id) else { continue };
            let mut weight = f64::from(weight_of(hosts, &group));
            if options.scale_localities {
                let priority = hosts.get(group[0] as usize).map_or(0, |host| host.spec().priority);
                let whole = options.localities.hosts.get(&(priority, id)).copied().unwrap_or(members.len());
                weight = (weight * members.len() as f64 / whole as f64).round();
            }
            let is_counted = |place: &&u32| hosts.get(**place as usize).is_none_or(|host| !host.is_excluded());
            let counted = members.iter().filter(is_counted).count().max(1);
            let available = (factor * group.len() as f64 / counted as f64).min(1.0);
            let effective = (weight * available * PARTS).round() as u64;
            if effective > 0 {
                let cursor = before.and_then(|before| before.cursor_of(id)).unwrap_or_default();
                lists.push(List::new(hosts, group, &cursor));
                ids.push(id);
                weights.push(effective);
            }
        }
        let cursor = before.map(|before| Arc::clone(&before.cursor)).unwrap_or_default();
        Self { order: schedule::order(&weights), lists, ids, cursor }
    }

    fn cursor_of(&self, id: u32) -> Option<Arc<AtomicUsize>> {
        let place = self.ids.iter().position(|other| *other == id)?;
        self.lists.get(place).map(|list| Arc::clone(&list.cursor))
    }

    pub(super) fn lists_mut(&mut self) -> impl Iterator<Item = &mut List> {
        self.lists.iter_mut()
    }

    /// The locality whose turn it is; `None`: there is none with weight.
    pub(super) fn draw(&self) -> Option<&List> {
        let place = match self.order.len() {
            0 => return None,
            1 => 0,
            places => self.cursor.fetch_add(1, Relaxed) % places,
        };
        self.lists.get(*self.order.get(place)? as usize)
    }
}
