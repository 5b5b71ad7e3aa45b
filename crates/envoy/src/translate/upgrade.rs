//! Which upgrades pass, at the connection manager and at routes.

use super::{context::Cx, http_connection_manager::http_filters, tls::upstream_proxy_protocol};
use sota_config::{
    Node,
    upgrade::{ConnectConfig, RouteUpgrade, UpgradeConfig},
};
use std::sync::Arc;

/// The upgrade type that means the method CONNECT.
const CONNECT: &str = "CONNECT";

/// `upgrade_configs` of a connection manager.
pub(super) fn upgrades(cx: &mut Cx<'_>, node: &Node) -> Vec<UpgradeConfig> {
    refuse_repeated(cx, node);
    cx.each(node, "upgrade_configs", |cx, node| {
        Some(UpgradeConfig {
            upgrade_type: node.str("upgrade_type").to_owned(),
            enabled: node.bool_or("enabled", true),
            filters: if node.list("filters").is_empty() { Vec::new() } else { http_filters(cx, node, "filters") },
        })
    })
}

/// `upgrade_configs` of a route.
pub(super) fn route_upgrades(cx: &mut Cx<'_>, node: &Node) -> Vec<RouteUpgrade> {
    refuse_repeated(cx, node);
    cx.each(node, "upgrade_configs", |cx, node| {
        let upgrade_type = node.str("upgrade_type").to_owned();
        if node.has("connect_config") && !upgrade_type.eq_ignore_ascii_case(CONNECT) {
            cx.field_error(node, "connect_config", format!("it is for the upgrade type {CONNECT} only"));
        }
        let connect = cx.optional(node, "connect_config", |cx, node| {
            let header = |cx: &mut Cx<'_>, node: &Node| Some(Arc::new(upstream_proxy_protocol(cx, node)));
            let proxy_protocol = cx.optional(node, "proxy_protocol_config", header);
            Some(ConnectConfig { allow_post: node.bool("allow_post"), proxy_protocol })
        });
        Some(RouteUpgrade { upgrade_type, enabled: node.bool_or("enabled", true), connect })
    })
}

fn refuse_repeated(cx: &mut Cx<'_>, node: &Node) {
    let mut known: Vec<String> = Vec::new();
    for upgrade in node.list("upgrade_configs") {
        let upgrade_type = upgrade.str("upgrade_type").to_ascii_lowercase();
        if known.contains(&upgrade_type) {
            cx.error(upgrade.mark, format!("upgrade type \"{}\" stands there twice", upgrade_type.escape_debug()));
        }
        known.push(upgrade_type);
    }
}
