//! Filter chains, their match and their network filters.

use super::{
    address::cidr_range,
    context::Cx,
    extension::{extension, is_filter},
    http_connection_manager::http_connection_manager,
    tcp_proxy::tcp_proxy,
    tls,
};
use sota_config::{
    Node,
    listener::{FilterChain, FilterChainMatch, NetworkFilter, NetworkFilterKind, SourceType},
};
use std::sync::Arc;

const HTTP_CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";
const HTTP_CONNECTION_MANAGER_MESSAGE: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
const TCP_PROXY_MESSAGE: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// A filter chain.
pub(super) fn filter_chain(cx: &mut Cx<'_>, node: &Node) -> FilterChain {
    let count = node.list("filters").len();
    let mut position = 0;
    let filters = cx.each(node, "filters", |cx, node| {
        position += 1;
        network_filter(cx, node, position == count)
    });
    FilterChain {
        name: node.str("name").to_owned(),
        filter_chain_match: cx
            .optional(node, "filter_chain_match", |cx, node| Some(filter_chain_match(cx, node)))
            .unwrap_or_default(),
        filters,
        transport_socket: tls::downstream(cx, node),
        transport_socket_connect_timeout: cx.timeout(node, "transport_socket_connect_timeout", None),
    }
}

/// `envoy.config.listener.v3.FilterChainMatch`.
fn filter_chain_match(cx: &mut Cx<'_>, node: &Node) -> FilterChainMatch {
    let server_names = cx.each(node, "server_names", |cx, item| {
        let name = item.as_str()?;
        if name.strip_prefix("*.").unwrap_or(name).contains('*') {
            cx.error(item.mark, "partial wildcards are not supported in server names; write \"*.\" and a suffix");
        } else if name.bytes().any(|b| b.is_ascii_uppercase()) {
            // Compat: the name of a connection is compared in lower case.
            cx.warning(item.mark, "server names are compared in lower case; this one matches no connection");
        }
        Some(name.to_owned())
    });
    FilterChainMatch {
        destination_port: node.u32("destination_port").and_then(|port| u16::try_from(port).ok()),
        prefix_ranges: cx.each(node, "prefix_ranges", cidr_range),
        server_names,
        transport_protocol: node.str("transport_protocol").to_owned(),
        application_protocols: node.strings("application_protocols"),
        direct_source_prefix_ranges: cx.each(node, "direct_source_prefix_ranges", cidr_range),
        source_type: match node.str("source_type") {
            "SAME_IP_OR_LOOPBACK" => SourceType::SameIpOrLoopback,
            "EXTERNAL" => SourceType::External,
            _ => SourceType::Any,
        },
        source_prefix_ranges: cx.each(node, "source_prefix_ranges", cidr_range),
        source_ports: node
            .list("source_ports")
            .iter()
            .filter_map(|port| port.as_u64().and_then(|port| u16::try_from(port).ok()))
            .collect(),
    }
}

/// A network filter. Of the two that are known here, each ends the chain.
fn network_filter(cx: &mut Cx<'_>, node: &Node, is_last: bool) -> Option<NetworkFilter> {
    let name = node.str("name");
    if node.has("config_discovery") {
        // Refused by the check; with --allow-unsupported nothing is known of the filter.
        cx.field_error(node, "config_discovery", "a filter without configuration cannot be built");
        return None;
    }
    let is_manager = is_filter(node, HTTP_CONNECTION_MANAGER, HTTP_CONNECTION_MANAGER_MESSAGE);
    let is_proxy = is_filter(node, TCP_PROXY, TCP_PROXY_MESSAGE);
    if !is_manager && !is_proxy {
        return Some(NetworkFilter { name: name.to_owned(), kind: NetworkFilterKind::Extension(extension(cx, node)) });
    }
    if !is_last {
        cx.error(node.mark, format!("terminal filter \"{name}\" must be the last filter of its chain"));
    }
    let Some(config) = node.get("typed_config") else {
        cx.error(node.mark, format!("the filter \"{name}\" needs a \"typed_config\""));
        return None;
    };
    let kind = cx.with("typed_config", |cx| {
        Some(match is_manager {
            true => NetworkFilterKind::HttpConnectionManager(Arc::new(http_connection_manager(cx, config)?)),
            false => NetworkFilterKind::TcpProxy(Arc::new(tcp_proxy(cx, config))),
        })
    })?;
    Some(NetworkFilter { name: name.to_owned(), kind })
}
