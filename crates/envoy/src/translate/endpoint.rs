//! Endpoints (`envoy.config.endpoint.v3.ClusterLoadAssignment`).

use super::{
    address::{AddressUse, address},
    context::Cx,
    health_check::endpoint_health_check,
    load_balancer::health_status,
};
use sota_config::{
    Node,
    address::Address,
    cluster::{Endpoint, LoadAssignment, LocalityEndpoints},
};
use std::{collections::HashMap, sync::Arc};

const DEFAULT_OVERPROVISIONING_FACTOR: u32 = 140;

/// A load assignment; a null node has no endpoints.
pub(super) fn load_assignment(cx: &mut Cx<'_>, node: &Node, usage: AddressUse) -> LoadAssignment {
    let localities = cx.each(node, "endpoints", |cx, node| Some(locality(cx, node, usage)));
    let mut sums: HashMap<u32, u64> = HashMap::new();
    for locality in &localities {
        *sums.entry(locality.priority).or_default() += u64::from(locality.weight.unwrap_or(0));
    }
    for (priority, sum) in sums {
        if u32::try_from(sum).is_err() {
            let reason =
                format!("the weights of the localities of priority {priority} add up to {sum}, over {}", u32::MAX);
            cx.field_error(node, "endpoints", reason);
        }
    }
    LoadAssignment {
        localities,
        overprovisioning_factor: node
            .field("policy")
            .u32("overprovisioning_factor")
            .unwrap_or(DEFAULT_OVERPROVISIONING_FACTOR),
    }
}

fn locality(cx: &mut Cx<'_>, node: &Node, usage: AddressUse) -> LocalityEndpoints {
    let place = node.field("locality");
    let endpoints = cx.each(node, "lb_endpoints", |cx, node| endpoint(cx, node, usage));
    let sum: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
    if u32::try_from(sum).is_err() {
        let reason = format!("the weights of the endpoints add up to {sum}, over {}", u32::MAX);
        cx.field_error(node, "lb_endpoints", reason);
    }
    LocalityEndpoints {
        locality: ["region", "zone", "sub_zone"].map(|key| place.str(key).to_owned()),
        priority: node.u32("priority").unwrap_or(0),
        weight: node.u32("load_balancing_weight"),
        endpoints,
    }
}

/// `envoy.config.endpoint.v3.LbEndpoint`.
fn endpoint(cx: &mut Cx<'_>, node: &Node, usage: AddressUse) -> Option<Endpoint> {
    if cx.is_refused() && !node.has("endpoint") {
        return None;
    }
    let inner = node.field("endpoint");
    let place = cx.with("endpoint", |cx| {
        if !inner.has("address") && !cx.is_refused() {
            let mark = if inner.is_null() { node.mark } else { inner.mark };
            cx.error(mark, "the field \"address\" is required");
        }
        address(cx, inner, "address", usage)
    })?;
    let hostname = match (inner.str("hostname"), &place) {
        // Envoy: a host of a DNS cluster is called as it was asked for.
        ("", Address::Name { host, .. }) => host.clone(),
        ("", Address::Ip { ip, .. }) if usage == AddressUse::Dns => ip.to_string(),
        (hostname, _) => hostname.to_owned(),
    };
    let additional_addresses = cx.with("endpoint", |cx| {
        cx.each(inner, "additional_addresses", |cx, node| address(cx, node, "address", AddressUse::Host))
    });
    if !additional_addresses.is_empty() && !matches!(place, Address::Ip { .. }) {
        cx.with("endpoint", |cx| {
            let reason = "only an endpoint with an IP address has more addresses";
            cx.field_error(inner, "additional_addresses", reason);
        });
    }
    Some(Endpoint {
        address: place,
        additional_addresses,
        hostname,
        weight: node.u32("load_balancing_weight").unwrap_or(1),
        health: health_status(node.str("health_status")),
        metadata: node.get("metadata").map(|metadata| Arc::new(metadata.clone())),
        health_check: cx.with("endpoint", |cx| cx.optional(inner, "health_check_config", endpoint_health_check)),
    })
}
