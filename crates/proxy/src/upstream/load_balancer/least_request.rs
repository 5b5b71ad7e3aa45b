//! Least request: among hosts of equal weight the least busy of a few random ones, otherwise a queue by earliest
//! deadline whose weights shrink with the requests that run.

use super::any;
use crate::upstream::{
    host::Host,
    host_set::{HostSet, List},
};
use sota_config::load_balancer::LeastRequest;
use std::{
    cmp::{Ordering as Order, Reverse},
    collections::BinaryHeap,
    sync::Arc,
};

/// The least busy of a few, or of all.
pub(super) fn choose(set: &HostSet, list: &List, options: &LeastRequest) -> Option<u32> {
    let active = |chosen: u32| set.hosts().get(chosen as usize).map_or(u32::MAX, |host| host.state().active());
    if options.full_scan {
        return least_of_all(&list.hosts, active);
    }
    (1..options.choice_count.max(2)).fold(any(&list.hosts), |best, _| {
        let other = any(&list.hosts);
        if other.map(active) < best.map(active) { other } else { best }
    })
}

/// Of equals any, each with the same chance.
fn least_of_all(hosts: &[u32], active: impl Fn(u32) -> u32) -> Option<u32> {
    let mut best: Option<(u32, u32)> = None;
    let mut equals = 0;
    for host in hosts.iter().copied() {
        let now = active(host);
        match best {
            Some((_, least)) if now > least => {}
            Some((_, least)) if now == least => {
                equals += 1;
                if fastrand::u32(..equals) == 0 {
                    best = Some((host, now));
                }
            }
            _ => (best, equals) = (Some((host, now)), 1),
        }
    }
    best.map(|(host, _)| host)
}

/// Envoy's way of least request with weights.
#[derive(Debug, Default)]
pub(in crate::upstream) struct WeightedQueue {
    of: Option<Arc<[u32]>>,
    places: BinaryHeap<Reverse<Place>>,
    turn: u64,
}

#[derive(Debug)]
struct Place {
    deadline: f64,
    turn: u64,
    host: u32,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Order {
        self.deadline.total_cmp(&other.deadline).then(self.turn.cmp(&other.turn))
    }
}

impl WeightedQueue {
    pub(super) fn choose(&mut self, set: &HostSet, list: &List, bias: f64) -> Option<u32> {
        let interval = |host: u32| set.hosts().get(host as usize).map_or(1.0, |host| interval(host, bias));
        if !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &list.hosts)) {
            self.of = Some(Arc::clone(&list.hosts));
            self.places.clear();
            for host in list.hosts.iter().copied() {
                self.add(interval(host), host);
            }
            // So that workers do not all begin with the same host.
            for _ in 0..fastrand::usize(..=list.hosts.len()) {
                self.step(&interval);
            }
        }
        self.step(&interval)
    }

    fn step(&mut self, interval: &impl Fn(u32) -> f64) -> Option<u32> {
        let Reverse(place) = self.places.pop()?;
        self.add(place.deadline + interval(place.host), place.host);
        Some(place.host)
    }

    fn add(&mut self, deadline: f64, host: u32) {
        self.turn += 1;
        self.places.push(Reverse(Place { deadline, turn: self.turn, host }));
    }
}

/// The weight is divided by the requests that run, the next one included, to the power of the bias.
fn interval(host: &Host, bias: f64) -> f64 {
    let active = f64::from(host.state().active()) + 1.0;
    let active = if bias == 1.0 { active } else { active.powf(bias) };
    active / host.effective_weight() as f64
}
