//! How a cluster chooses its hosts: `lb_policy` with the messages beside it, and `load_balancing_policy`, to one model.

use super::{context::Cx, extension::any_extension, hash_policy::hash_policy};
use crate::check::{TYPE_KEY, type_name};
use sota_config::{
    Node,
    cluster::{Discovery, HealthStatus},
    load_balancer::{
        ConsistentHashing, LbConfig, LbPolicy, LeastRequest, Maglev, RingHash, SlowStart, SubsetFallback,
        SubsetSelector, Subsets, ZoneAware,
    },
};
use std::sync::Arc;

const DEFAULT_PANIC_THRESHOLD: f64 = 50.0;
/// In percent.
const DEFAULT_MIN_WEIGHT: f64 = 10.0;
const DEFAULT_CHOICE_COUNT: u32 = 2;
const DEFAULT_MINIMUM_RING_SIZE: u64 = 1024;
const DEFAULT_MAXIMUM_RING_SIZE: u64 = 8 * 1024 * 1024;
const DEFAULT_TABLE_SIZE: u64 = 65_537;
/// The package of Envoy's own policies.
const POLICIES: &str = "envoy.extensions.load_balancing_policies.";
/// Policies that hold policies are nested this deep at most.
const MOST_NESTED: u32 = 8;

/// How hosts are chosen; `None`: what is wrong was told.
pub(super) fn load_balancing(cx: &mut Cx<'_>, node: &Node, discovery: &Discovery) -> Option<(LbPolicy, LbConfig)> {
    let mut config = common(cx, node.field("common_lb_config"));
    let by_list = node.has("load_balancing_policy") || node.str("lb_policy") == "LOAD_BALANCING_POLICY_CONFIG";
    let policy = if by_list {
        by_extension(cx, node, &mut config)?
    } else {
        config.subsets = cx.optional(node, "lb_subset_config", subsets);
        let beside = match node.str("lb_policy") {
            "LEAST_REQUEST" => "least_request_lb_config",
            "" | "ROUND_ROBIN" => "round_robin_lb_config",
            _ => "",
        };
        config.slow_start = cx.with(beside, |cx| slow_start(cx, node.field(beside)));
        by_enum(cx, node)?
    };
    let hashing = node.field("common_lb_config").field("consistent_hashing_lb_config");
    if hashing.bool("use_hostname_for_hashing") && !matches!(discovery, Discovery::StrictDns(_)) {
        cx.with("common_lb_config.consistent_hashing_lb_config", |cx| {
            let reason = "only clusters of type STRICT_DNS have names to hash";
            cx.field_error(hashing, "use_hostname_for_hashing", reason);
        });
    }
    let is_original_dst = matches!(discovery, Discovery::OriginalDst(_));
    let field = if by_list { "load_balancing_policy" } else { "lb_policy" };
    match policy {
        LbPolicy::ClusterProvided if !is_original_dst => {
            cx.field_error(node, field, "only clusters of type ORIGINAL_DST bring a policy of their own");
            None
        }
        LbPolicy::ClusterProvided if config.subsets.is_some() => {
            cx.field_error(node, "lb_subset_config", "lb_policy CLUSTER_PROVIDED has no subsets");
            None
        }
        LbPolicy::ClusterProvided => Some((policy, config)),
        _ if is_original_dst => {
            cx.field_error(node, field, "clusters of type ORIGINAL_DST take CLUSTER_PROVIDED only");
            None
        }
        _ => Some((policy, config)),
    }
}

fn common(cx: &mut Cx<'_>, node: &Node) -> LbConfig {
    let statuses = node.get("override_host_status").map(|set| set.list("statuses")).filter(|list| !list.is_empty());
    let default = LbConfig::default();
    cx.with("common_lb_config", |_| LbConfig {
        healthy_panic_threshold: node
            .get("healthy_panic_threshold")
            .map_or(DEFAULT_PANIC_THRESHOLD, |percent| percent.f64("value").unwrap_or(0.0)),
        slow_start: None,
        locality_weighted: node.has("locality_weighted_lb_config"),
        zone_aware: zone_aware(node.field("zone_aware_lb_config")),
        override_host_statuses: statuses.map_or(default.override_host_statuses, |statuses| {
            statuses.iter().map(|status| health_status(status.as_str().unwrap_or_default())).collect()
        }),
        ignore_new_hosts_until_first_hc: node.bool("ignore_new_hosts_until_first_hc"),
        close_connections_on_host_set_change: node.bool("close_connections_on_host_set_change"),
        subsets: None,
    })
}

/// `ZoneAwareLbConfig`; a null node gives the defaults.
fn zone_aware(node: &Node) -> ZoneAware {
    let default = ZoneAware::default();
    ZoneAware {
        routing_enabled: node.get("routing_enabled").map_or(default.routing_enabled, |percent| {
            percent.f64("value").unwrap_or(0.0).clamp(0.0, 100.0).round() as u32
        }),
        min_cluster_size: node.uint("min_cluster_size").unwrap_or(default.min_cluster_size),
        fail_traffic_on_panic: node.bool("fail_traffic_on_panic"),
        force_local_zone: match node.get("force_local_zone") {
            Some(zone) => Some(zone.uint("min_size").unwrap_or(1)),
            None => node.bool("force_locality_direct_routing").then_some(1),
        },
        by_weight: node.str("locality_basis") == "HEALTHY_HOSTS_WEIGHT",
    }
}

/// A value of `envoy.config.core.v3.HealthStatus`.
pub(super) fn health_status(name: &str) -> HealthStatus {
    match name {
        "HEALTHY" => HealthStatus::Healthy,
        "UNHEALTHY" => HealthStatus::Unhealthy,
        "DRAINING" => HealthStatus::Draining,
        "TIMEOUT" => HealthStatus::Timeout,
        "DEGRADED" => HealthStatus::Degraded,
        _ => HealthStatus::Unknown,
    }
}

fn by_enum(cx: &mut Cx<'_>, node: &Node) -> Option<LbPolicy> {
    let hashing = node.field("common_lb_config").field("consistent_hashing_lb_config");
    Some(match node.str("lb_policy") {
        "LEAST_REQUEST" => LbPolicy::LeastRequest(least_request(node.field("least_request_lb_config"))),
        "RANDOM" => LbPolicy::Random,
        "RING_HASH" => {
            let config = node.field("ring_hash_lb_config");
            LbPolicy::RingHash(cx.with("ring_hash_lb_config", |cx| ring_hash(cx, config, hashing))?)
        }
        "MAGLEV" => {
            let config = node.field("maglev_lb_config");
            LbPolicy::Maglev(cx.with("maglev_lb_config", |cx| maglev(cx, config, hashing))?)
        }
        "CLUSTER_PROVIDED" => LbPolicy::ClusterProvided,
        _ => LbPolicy::RoundRobin,
    })
}

fn least_request(node: &Node) -> LeastRequest {
    LeastRequest {
        choice_count: node.u32("choice_count").unwrap_or(DEFAULT_CHOICE_COUNT),
        active_request_bias: node.get("active_request_bias").and_then(|bias| bias.f64("default_value")).unwrap_or(1.0),
        full_scan: node.str("selection_method") == "FULL_SCAN" || node.bool("enable_full_scan"),
    }
}

/// `slow_start_config`; `None`: there is none, or its window is empty.
fn slow_start(cx: &mut Cx<'_>, node: &Node) -> Option<SlowStart> {
    cx.optional(node, "slow_start_config", |cx, node| {
        let aggression = node.get("aggression").and_then(|value| value.f64("default_value")).unwrap_or(1.0);
        if aggression <= 0.0 || aggression.is_nan() {
            cx.field_error(node, "aggression", "it must be above 0");
            return None;
        }
        let least =
            node.get("min_weight_percent").map_or(DEFAULT_MIN_WEIGHT, |least| least.f64("value").unwrap_or(0.0));
        let window = cx.duration(node, "slow_start_window").unwrap_or_default();
        (!window.is_zero()).then_some(SlowStart { window, aggression, min_weight_percent: least })
    })
}

fn ring_hash(cx: &mut Cx<'_>, node: &Node, hashing: &Node) -> Option<RingHash> {
    let minimum_ring_size = node.uint("minimum_ring_size").unwrap_or(DEFAULT_MINIMUM_RING_SIZE);
    let maximum_ring_size = node.uint("maximum_ring_size").unwrap_or(DEFAULT_MAXIMUM_RING_SIZE);
    if minimum_ring_size > maximum_ring_size {
        let reason = format!("it is {minimum_ring_size}, over maximum_ring_size, which is {maximum_ring_size}");
        cx.field_error(node, "minimum_ring_size", reason);
        return None;
    }
    Some(RingHash {
        murmur_hash_2: node.str("hash_function") == "MURMUR_HASH_2",
        minimum_ring_size,
        maximum_ring_size,
        hashing: consistent_hashing(cx, hashing),
    })
}

fn maglev(cx: &mut Cx<'_>, node: &Node, hashing: &Node) -> Option<Maglev> {
    let table_size = node.uint("table_size").unwrap_or(DEFAULT_TABLE_SIZE);
    if !is_prime(table_size) {
        cx.field_error(node, "table_size", format!("it must be a prime number; {table_size} is none"));
        return None;
    }
    Some(Maglev { table_size, hashing: consistent_hashing(cx, hashing) })
}

fn is_prime(number: u64) -> bool {
    number > 1 && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| !number.is_multiple_of(divisor))
}

fn consistent_hashing(cx: &mut Cx<'_>, node: &Node) -> ConsistentHashing {
    ConsistentHashing {
        use_hostname: node.bool("use_hostname_for_hashing"),
        balance_factor: node.u32("hash_balance_factor").filter(|factor| *factor > 0),
        hash_policy: cx.with("consistent_hashing_lb_config", |cx| cx.each(node, "hash_policy", hash_policy)),
    }
}

/// `load_balancing_policy`: the first policy that there is.
fn by_extension(cx: &mut Cx<'_>, node: &Node, config: &mut LbConfig) -> Option<LbPolicy> {
    let Some(list) = node.get("load_balancing_policy") else {
        cx.field_error(node, "lb_policy", "load_balancing_policy must say which policy");
        return None;
    };
    if node.has("lb_subset_config") {
        cx.field_error(node, "lb_subset_config", "load_balancing_policy says so itself: it cannot stand beside it");
    }
    let partial = ["zone_aware_lb_config", "locality_weighted_lb_config", "consistent_hashing_lb_config"];
    for field in partial.iter().filter(|field| node.field("common_lb_config").has(field)) {
        cx.with("common_lb_config", |cx| {
            let reason = "load_balancing_policy says so itself: it cannot stand beside it";
            cx.field_error(node.field("common_lb_config"), field, reason);
        });
    }
    cx.with("load_balancing_policy", |cx| first(cx, list, config, 0))
}

fn first(cx: &mut Cx<'_>, list: &Node, config: &mut LbConfig, depth: u32) -> Option<LbPolicy> {
    if depth > MOST_NESTED {
        cx.error(list.mark, format!("policies are nested more than {MOST_NESTED} deep"));
        return None;
    }
    let (mut found, mut known) = (None, false);
    cx.each(list, "policies", |cx, policy| -> Option<()> {
        let any = policy.field("typed_extension_config").field("typed_config");
        // The check has emptied those of types that there are not.
        if !known && any.has(TYPE_KEY) {
            known = true;
            let name = policy.field("typed_extension_config").str("name").to_owned();
            found = cx.with("typed_extension_config.typed_config", |cx| one(cx, name, any, config, depth));
        }
        None
    });
    if !known {
        cx.error(list.mark, "none of these load balancing policies is supported");
    }
    found
}

fn one(cx: &mut Cx<'_>, name: String, node: &Node, config: &mut LbConfig, depth: u32) -> Option<LbPolicy> {
    let message = type_name(node.str(TYPE_KEY));
    let of_localities = |config: &mut LbConfig| {
        let node = node.field("locality_lb_config");
        config.locality_weighted |= node.has("locality_weighted_lb_config");
        config.zone_aware = zone_aware(node.field("zone_aware_lb_config"));
    };
    let Some(policy) = message.strip_prefix(POLICIES) else {
        return Some(LbPolicy::Extension(any_extension(cx, name, node)));
    };
    Some(match policy {
        "round_robin.v3.RoundRobin" => {
            of_localities(config);
            config.slow_start = slow_start(cx, node);
            LbPolicy::RoundRobin
        }
        "random.v3.Random" => {
            of_localities(config);
            LbPolicy::Random
        }
        "least_request.v3.LeastRequest" => {
            of_localities(config);
            config.slow_start = slow_start(cx, node);
            LbPolicy::LeastRequest(least_request(node))
        }
        "ring_hash.v3.RingHash" => {
            config.locality_weighted |= node.has("locality_weighted_lb_config");
            // The fields of the policy itself are the older form.
            let hashing = node.get("consistent_hashing_lb_config").unwrap_or(node);
            LbPolicy::RingHash(ring_hash(cx, node, hashing)?)
        }
        "maglev.v3.Maglev" => {
            config.locality_weighted |= node.has("locality_weighted_lb_config");
            LbPolicy::Maglev(maglev(cx, node, node.field("consistent_hashing_lb_config"))?)
        }
        "cluster_provided.v3.ClusterProvided" => LbPolicy::ClusterProvided,
        "wrr_locality.v3.WrrLocality" => {
            config.locality_weighted = true;
            cx.optional(node, "endpoint_picking_policy", |cx, list| first(cx, list, config, depth + 1))?
        }
        "subset.v3.Subset" if config.subsets.is_none() => {
            config.subsets = subsets(cx, node);
            cx.optional(node, "subset_lb_policy", |cx, list| first(cx, list, config, depth + 1))?
        }
        "subset.v3.Subset" => {
            cx.error(node.mark, "subsets have no subsets");
            return None;
        }
        _ => LbPolicy::Extension(any_extension(cx, name, node)),
    })
}

/// `LbSubsetConfig`, and `Subset` alike; `None`: it has no selectors, which switches it off.
fn subsets(cx: &mut Cx<'_>, node: &Node) -> Option<Arc<Subsets>> {
    let selectors = cx.each(node, "subset_selectors", selector);
    if selectors.is_empty() {
        return None;
    }
    Some(Arc::new(Subsets {
        selectors,
        fallback: fallback(node.str("fallback_policy")).unwrap_or(SubsetFallback::NoFallback),
        default_subset: node.field("default_subset").pairs().to_vec(),
        locality_weight_aware: node.bool("locality_weight_aware"),
        scale_locality_weight: node.bool("scale_locality_weight"),
        panic_mode_any: node.bool("panic_mode_any"),
        list_as_any: node.bool("list_as_any"),
        allow_redundant_keys: node.bool("allow_redundant_keys"),
    }))
}

fn fallback(name: &str) -> Option<SubsetFallback> {
    match name {
        "NO_FALLBACK" => Some(SubsetFallback::NoFallback),
        "ANY_ENDPOINT" => Some(SubsetFallback::AnyEndpoint),
        "DEFAULT_SUBSET" => Some(SubsetFallback::DefaultSubset),
        "KEYS_SUBSET" => Some(SubsetFallback::KeysSubset),
        _ => None,
    }
}

fn selector(cx: &mut Cx<'_>, node: &Node) -> Option<SubsetSelector> {
    let keys = sorted(node.strings("keys"));
    let fallback_keys = sorted(node.strings("fallback_keys_subset"));
    let fallback = fallback(node.str("fallback_policy"));
    let problem = match fallback {
        _ if keys.is_empty() => Some(("keys", "a selector needs keys")),
        Some(SubsetFallback::KeysSubset) if fallback_keys.is_empty() => {
            Some(("fallback_keys_subset", "KEYS_SUBSET needs it"))
        }
        Some(SubsetFallback::KeysSubset) if fallback_keys.iter().any(|key| !keys.contains(key)) => {
            Some(("fallback_keys_subset", "its keys must be keys of the selector"))
        }
        Some(SubsetFallback::KeysSubset) if fallback_keys.len() == keys.len() => {
            Some(("fallback_keys_subset", "it must have fewer keys than the selector"))
        }
        Some(SubsetFallback::KeysSubset) => None,
        _ if !fallback_keys.is_empty() => Some(("fallback_keys_subset", "only KEYS_SUBSET takes it")),
        _ => None,
    };
    if let Some((field, reason)) = problem {
        cx.field_error(node, field, reason);
        return None;
    }
    Some(SubsetSelector { keys, single_host: node.bool("single_host_per_subset"), fallback, fallback_keys })
}

fn sorted(keys: Vec<String>) -> Vec<Arc<str>> {
    let mut keys: Vec<Arc<str>> = keys.into_iter().map(Into::into).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}
