//! How a cluster chooses among its hosts, as configured and built: what all its host sets are made by.

use super::{hash_policy::HashPolicies, load_balancer::Tables, zone_aware::ZoneAware};
use sota_config::{
    ConfigError,
    cluster::Cluster as Model,
    load_balancer::{ConsistentHashing, LbPolicy, Maglev, RingHash, Subsets},
};
use sota_plugin::FactoryContext;
use std::sync::Arc;

/// What `overprovisioning_factor` is where a document does not say it.
const OVERPROVISIONING_FACTOR: u32 = 140;

/// How a cluster chooses among its hosts.
#[derive(Debug)]
pub(super) struct Balancing {
    /// Percent by which a priority's health is overrated.
    pub(super) overprovisioning_factor: u32,
    /// In percent.
    pub(super) panic_threshold: f64,
    /// A locality is drawn before a host.
    pub(super) locality_weighted: bool,
    /// Requests keep to this proxy's locality.
    pub(super) zone_aware: Option<ZoneAware>,
    /// What the policy makes of lists of hosts, where it makes something of them.
    pub(super) tables: Option<Tables>,
    /// What is hashed, whatever the route says.
    pub(super) hash_policies: Option<HashPolicies>,
    pub(super) subsets: Option<Arc<Subsets>>,
}

impl Balancing {
    pub(super) fn build(model: &Model, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let config = &model.lb_config;
        let hashing = match &model.lb_policy {
            LbPolicy::RingHash(RingHash { hashing, .. }) | LbPolicy::Maglev(Maglev { hashing, .. }) => Some(hashing),
            _ => None,
        };
        let hash_policies = match hashing {
            Some(ConsistentHashing { hash_policy, .. }) if !hash_policy.is_empty() => {
                Some(HashPolicies::build(hash_policy).map_err(|error| cx.place(error))?)
            }
            _ => None,
        };
        Ok(Self {
            overprovisioning_factor: match model.load_assignment.overprovisioning_factor {
                0 => OVERPROVISIONING_FACTOR,
                factor => factor,
            },
            panic_threshold: config.healthy_panic_threshold,
            locality_weighted: config.locality_weighted
                && config.subsets.as_ref().is_none_or(|subsets| subsets.locality_weight_aware),
            zone_aware: ZoneAware::build(
                &config.zone_aware,
                &model.lb_policy,
                config.locality_weighted || config.subsets.is_some(),
                cx.runtime,
            ),
            tables: Tables::build(&model.lb_policy, cx)?,
            hash_policies,
            subsets: config.subsets.clone(),
        })
    }
}
