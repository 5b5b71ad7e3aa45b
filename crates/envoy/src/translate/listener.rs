//! Listeners (`envoy.config.listener.v3.Listener`).

use super::{
    access_log::access_log,
    address::{AddressUse, address, socket_option, tcp_keepalive},
    context::Cx,
    extension::extension,
    filter_chain::filter_chain,
    filter_chain_overlap,
};
use sota_config::{
    ExtensionConfig, Mark, Node, Source, TypedConfig,
    listener::{FilterChain, Listener, ListenerFilter, ListenerFilterPredicate, TrafficDirection},
};
use std::{sync::Arc, time::Duration};

const ORIGINAL_DST: &str = "envoy.filters.listener.original_dst";
const DEFAULT_LISTENER_FILTERS_TIMEOUT: Duration = Duration::from_secs(15);
const DEFAULT_BUFFER_LIMIT: u32 = 1024 * 1024;
const DEFAULT_BACKLOG: u32 = 128;

/// A listener.
pub(super) fn listener(cx: &mut Cx<'_>, node: &Node) -> Option<Listener> {
    if !node.has("address") {
        cx.error(node.mark, "the field \"address\" is required");
    }
    let first = address(cx, node, "address", AddressUse::Bind);
    let mut addresses: Vec<_> = first.iter().cloned().collect();
    addresses.extend(cx.each(node, "additional_addresses", |cx, node| address(cx, node, "address", AddressUse::Bind)));
    let (filter_chains, default_filter_chain) = filter_chains(cx, node);
    let use_original_dst = node.bool("use_original_dst");
    let mut listener_filters = cx.each(node, "listener_filters", listener_filter);
    if use_original_dst {
        listener_filters.push(original_dst(cx, node));
    }
    let name = match (node.str("name"), &first) {
        ("", Some(address)) => address.to_string(),
        (name, _) => name.to_owned(),
    };
    let stat_prefix = node.str("stat_prefix");
    let listener = Listener {
        name,
        addresses,
        stat_prefix: (!stat_prefix.is_empty()).then(|| stat_prefix.to_owned()),
        filter_chains,
        default_filter_chain,
        listener_filters,
        listener_filters_timeout: cx.timeout(node, "listener_filters_timeout", Some(DEFAULT_LISTENER_FILTERS_TIMEOUT)),
        continue_on_listener_filters_timeout: node.bool("continue_on_listener_filters_timeout"),
        use_original_dst,
        bind_to_port: node.bool_or("bind_to_port", true),
        per_connection_buffer_limit_bytes: node
            .u32("per_connection_buffer_limit_bytes")
            .unwrap_or(DEFAULT_BUFFER_LIMIT),
        transparent: node.bool("transparent"),
        freebind: node.bool("freebind"),
        tcp_fast_open_queue_length: node.u32("tcp_fast_open_queue_length"),
        tcp_keepalive: node.get("tcp_keepalive").map(tcp_keepalive),
        tcp_backlog_size: node.u32("tcp_backlog_size").unwrap_or(DEFAULT_BACKLOG),
        socket_options: cx.each(node, "socket_options", socket_option),
        enable_reuse_port: node.bool_or("enable_reuse_port", true),
        exact_balance: node.field("connection_balance_config").has("exact_balance"),
        connection_limit: None,
        traffic_direction: match node.str("traffic_direction") {
            "INBOUND" => TrafficDirection::Inbound,
            "OUTBOUND" => TrafficDirection::Outbound,
            _ => TrafficDirection::Unspecified,
        },
        access_log: cx.each(node, "access_log", access_log),
        ignore_global_conn_limit: node.bool("ignore_global_conn_limit") || node.bool("bypass_overload_manager"),
        source: Some(Arc::new(Source::new(node))),
    };
    first.map(|_| listener)
}

fn filter_chains(cx: &mut Cx<'_>, node: &Node) -> (Vec<Arc<FilterChain>>, Option<Arc<FilterChain>>) {
    let chains: Vec<(Mark, FilterChain)> =
        cx.each(node, "filter_chains", |cx, node| Some((node.mark, filter_chain(cx, node))));
    let default = cx.optional(node, "default_filter_chain", |cx, node| Some(Arc::new(filter_chain(cx, node))));
    let is_udp = node.field("address").field("socket_address").str("protocol") == "UDP";
    if node.list("filter_chains").is_empty() && !node.has("default_filter_chain") && !is_udp {
        cx.error(node.mark, "no filter chains are specified");
    }
    // A range that was refused is missing in its match, which then could look like another's.
    let is_whole = node.list("filter_chains").iter().zip(&chains).all(|(node, (_, chain))| {
        let (node, made) = (node.field("filter_chain_match"), &chain.filter_chain_match);
        node.list("prefix_ranges").len() == made.prefix_ranges.len()
            && node.list("source_prefix_ranges").len() == made.source_prefix_ranges.len()
            && node.list("direct_source_prefix_ranges").len() == made.direct_source_prefix_ranges.len()
    });
    if is_whole {
        let places: Vec<_> = chains.iter().map(|(mark, chain)| (*mark, chain)).collect();
        filter_chain_overlap::check(cx, &places);
    }
    (chains.into_iter().map(|(_, chain)| Arc::new(chain)).collect(), default)
}

fn listener_filter(cx: &mut Cx<'_>, node: &Node) -> Option<ListenerFilter> {
    if node.has("config_discovery") {
        // Refused by the check; with --allow-unsupported nothing is known of the filter.
        cx.field_error(node, "config_discovery", "a filter without configuration cannot be built");
        return None;
    }
    let disabled = match node.get("filter_disabled") {
        Some(node) => Some(cx.with("filter_disabled", |cx| predicate(cx, node))?),
        None => None,
    };
    Some(ListenerFilter { config: extension(cx, node), disabled })
}

/// What `use_original_dst` stands for: the filter that restores the destination, behind those of the document.
fn original_dst(cx: &Cx<'_>, node: &Node) -> ListenerFilter {
    let config = ExtensionConfig {
        name: ORIGINAL_DST.to_owned(),
        config: TypedConfig::Empty,
        path: format!("{}.use_original_dst", cx.path()),
        mark: node.field("use_original_dst").mark,
    };
    ListenerFilter { config, disabled: None }
}

/// `ListenerFilterChainMatchPredicate`. The check bounds how deep it can be nested.
fn predicate(cx: &mut Cx<'_>, node: &Node) -> Option<ListenerFilterPredicate> {
    if let Some(rules) = node.get("or_match") {
        return Some(ListenerFilterPredicate::Or(cx.with("or_match", |cx| cx.each(rules, "rules", predicate))));
    }
    if let Some(rules) = node.get("and_match") {
        return Some(ListenerFilterPredicate::And(cx.with("and_match", |cx| cx.each(rules, "rules", predicate))));
    }
    if let Some(inner) = node.get("not_match") {
        let inner = cx.with("not_match", |cx| predicate(cx, inner))?;
        return Some(ListenerFilterPredicate::Not(Box::new(inner)));
    }
    if let Some(range) = node.get("destination_port_range") {
        let bound = |key: &str| u32::try_from(range.field(key).as_i64().unwrap_or(0).max(0)).unwrap_or(0);
        return Some(ListenerFilterPredicate::DestinationPort(bound("start")..bound("end")));
    }
    if node.has("any_match") && !node.bool("any_match") {
        cx.field_warning(node, "any_match", "false means the same as true here");
    }
    Some(ListenerFilterPredicate::Any)
}
