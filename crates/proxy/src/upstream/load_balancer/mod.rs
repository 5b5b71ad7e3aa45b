//! Choosing among hosts.
//!
//! Round robin, random and least request look at a [`List`] as it is. The others choose by a [`Table`], which is made
//! with the host set, off the path of requests, and shared by all workers.

mod bounded_load;
mod least_request;
mod maglev;
mod ring_hash;
mod table;

pub(super) use table::{Figures, Table, Tables};

use super::host_set::{HostSet, List};
use least_request::WeightedQueue;
use sota_config::load_balancer::{LbPolicy, LeastRequest};
use sota_plugin::load_balancer::ChoiceCx;
use std::{cell::RefCell, sync::atomic::Ordering::Relaxed};

/// How a worker chooses, with what it remembers of its choices.
#[derive(Debug)]
pub(super) enum LoadBalancer {
    /// Along the schedule, with the cursor of all workers.
    RoundRobin,
    /// The least busy of a few, by weight where weights differ.
    LeastRequest(LeastRequest, RefCell<WeightedQueue>),
    /// Any, whatever its weight, as in Envoy.
    Random,
    /// By the table of the list.
    Table,
}

/// What is known of the request and the cluster.
pub(super) struct Choice<'a> {
    /// As an extension sees it.
    pub(super) cx: ChoiceCx<'a>,
    /// The hash, or a random number in its place.
    pub(super) hash: u64,
    /// Requests that the cluster has now, from all workers.
    pub(super) active: &'a dyn Fn() -> u32,
}

impl LoadBalancer {
    /// `None` for policies of the cluster itself.
    pub(super) fn new(policy: &LbPolicy) -> Option<Self> {
        match policy {
            LbPolicy::RoundRobin => Some(Self::RoundRobin),
            LbPolicy::LeastRequest(options) => Some(Self::LeastRequest(options.clone(), RefCell::default())),
            LbPolicy::Random => Some(Self::Random),
            LbPolicy::RingHash(_) | LbPolicy::Maglev(_) | LbPolicy::Extension(_) => Some(Self::Table),
            LbPolicy::ClusterProvided => None,
        }
    }

    /// A position in the set's hosts.
    pub(super) fn choose(&self, set: &HostSet, list: &List, choice: &Choice<'_>) -> Option<usize> {
        let chosen = match self {
            Self::RoundRobin => {
                let place = match list.order.len() {
                    0 => return None,
                    1 => 0,
                    places => list.cursor.fetch_add(1, Relaxed) % places,
                };
                list.order.get(place).copied()
            }
            Self::Random => any(&list.hosts),
            Self::LeastRequest(options, queue) if list.weighted => {
                queue.borrow_mut().choose(set, list, options.active_request_bias)
            }
            Self::LeastRequest(options, _) => least_request::choose(set, list, options),
            Self::Table => list.table.as_deref()?.choose(set.hosts(), choice),
        };
        chosen.map(|chosen| chosen as usize)
    }
}

fn any(hosts: &[u32]) -> Option<u32> {
    match hosts.len() {
        0 => None,
        count => hosts.get(fastrand::usize(..count)).copied(),
    }
}
