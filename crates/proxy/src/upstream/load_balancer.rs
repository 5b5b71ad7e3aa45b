//! Choosing among the hosts of a priority.

use super::{
    host::Host,
    host_set::{HostSet, List, PriorityHosts},
};
use sota_config::cluster::LbPolicy;
use std::{
    cell::RefCell,
    cmp::{Ordering as Order, Reverse},
    collections::BinaryHeap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// How a worker chooses, with what it remembers of its choices.
#[derive(Debug)]
pub(super) enum LoadBalancer {
    /// Along the schedule, with the cursor of all workers.
    RoundRobin,
    /// The least busy of a few, by weight where weights differ.
    LeastRequest {
        /// How many are compared.
        choice_count: u32,
        /// The queue of weighted choices and the list it was made of.
        queue: RefCell<WeightedQueue>,
    },
    /// Any, whatever its weight, as in Envoy.
    Random,
}

impl LoadBalancer {
    /// `None` for policies of the cluster itself.
    pub(super) fn new(policy: &LbPolicy) -> Option<Self> {
        match policy {
            LbPolicy::RoundRobin => Some(Self::RoundRobin),
            LbPolicy::LeastRequest { choice_count } => {
                Some(Self::LeastRequest { choice_count: (*choice_count).max(2), queue: RefCell::default() })
            }
            LbPolicy::Random => Some(Self::Random),
            LbPolicy::ClusterProvided => None,
        }
    }

    /// A position in the set's hosts.
    pub(super) fn choose(&self, set: &HostSet, priority: &PriorityHosts, list: &List) -> Option<usize> {
        let chosen = match self {
            Self::RoundRobin => {
                let place = match list.order.len() {
                    0 => return None,
                    1 => 0,
                    places => priority.cursor.fetch_add(1, Relaxed) % places,
                };
                list.order.get(place)
            }
            Self::Random => any(&list.hosts),
            Self::LeastRequest { queue, .. } if list.weighted => {
                return queue.borrow_mut().choose(set, list).map(|chosen| chosen as usize);
            }
            Self::LeastRequest { choice_count, .. } => {
                let active =
                    |chosen: &u32| set.hosts().get(*chosen as usize).map_or(u32::MAX, |host| host.state().active());
                (1..*choice_count).fold(any(&list.hosts), |best, _| {
                    let other = any(&list.hosts);
                    if other.map(active) < best.map(active) { other } else { best }
                })
            }
        };
        chosen.map(|chosen| *chosen as usize)
    }
}

fn any(hosts: &[u32]) -> Option<&u32> {
    match hosts.len() {
        0 => None,
        count => hosts.get(fastrand::usize(..count)),
    }
}

/// Envoy's way of least request with weights: a queue by earliest deadline, whose weights shrink with the requests
/// that run.
#[derive(Debug, Default)]
pub(super) struct WeightedQueue {
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
    fn choose(&mut self, set: &HostSet, list: &List) -> Option<u32> {
        let of = |host: u32| set.hosts().get(host as usize);
        if !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &list.hosts)) {
            self.of = Some(Arc::clone(&list.hosts));
            self.places.clear();
            for host in list.hosts.iter().copied() {
                let deadline = of(host).map_or(1.0, |host| interval(host));
                self.add(deadline, host);
            }
            // So that workers do not all begin with the same host.
            for _ in 0..fastrand::usize(..=list.hosts.len()) {
                self.step(&of);
            }
        }
        self.step(&of)
    }

    fn step<'a>(&mut self, of: &impl Fn(u32) -> Option<&'a Arc<Host>>) -> Option<u32> {
        let Reverse(place) = self.places.pop()?;
        self.add(place.deadline + of(place.host).map_or(1.0, |host| interval(host)), place.host);
        Some(place.host)
    }

    fn add(&mut self, deadline: f64, host: u32) {
        self.turn += 1;
        self.places.push(Reverse(Place { deadline, turn: self.turn, host }));
    }
}

/// `active_request_bias` is 1: the weight is divided by the requests that run, the next one included.
fn interval(host: &Host) -> f64 {
    (f64::from(host.state().active()) + 1.0) / f64::from(host.weight())
}
