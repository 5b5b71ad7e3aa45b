//! The TCP proxy (`envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`).

use super::{
    access_log::access_log,
    context::Cx,
    hash_policy::{hash_policy, metadata_match},
    route_action::check_weights,
};
use sota_config::{
    Mark, Node,
    tcp_proxy::{TcpProxy, WeightedCluster},
};
use std::time::Duration;

const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// A TCP proxy. Compat: Envoy loads one whose cluster is unknown, and closes its connections; in a file that is told.
pub(super) fn tcp_proxy(cx: &mut Cx<'_>, node: &Node) -> TcpProxy {
    let clusters = match node.get("cluster") {
        Some(cluster) => {
            let name = cluster.as_str().unwrap_or("");
            cx.with("cluster", |cx| known_cluster(cx, name, cluster.mark));
            vec![WeightedCluster { name: name.to_owned(), weight: 1, metadata_match: Vec::new() }]
        }
        None => {
            let weighted = node.field("weighted_clusters");
            cx.with("weighted_clusters", |cx| {
                check_weights(
                    cx,
                    weighted.mark,
                    weighted.list("clusters").iter().map(|c| c.u32("weight").unwrap_or(0)),
                );
                cx.each(weighted, "clusters", |cx, node| {
                    let name = node.str("name");
                    let mark = node.field("name").mark;
                    cx.with("name", |cx| known_cluster(cx, name, mark));
                    Some(WeightedCluster {
                        name: name.to_owned(),
                        weight: node.u32("weight").unwrap_or(0),
                        metadata_match: metadata_match(node),
                    })
                })
            })
        }
    };
    TcpProxy {
        stat_prefix: node.str("stat_prefix").to_owned(),
        clusters,
        idle_timeout: cx.timeout(node, "idle_timeout", Some(DEFAULT_IDLE_TIMEOUT)),
        max_downstream_connection_duration: cx.timeout(node, "max_downstream_connection_duration", None),
        max_connect_attempts: node.u32("max_connect_attempts").unwrap_or(1).max(1),
        hash_policy: cx.each(node, "hash_policy", hash_policy),
        metadata_match: metadata_match(node),
        access_log: cx.each(node, "access_log", access_log),
    }
}

fn known_cluster(cx: &mut Cx<'_>, name: &str, mark: Mark) {
    if cx.options.static_config
        && !name.is_empty()
        && let Some(exists) = cx.options.clusters
        && !exists(name)
    {
        cx.missing(mark, format!("unknown cluster \"{}\"; connections will be closed", name.escape_debug()));
    }
}
