//! Listeners and filter chains.

use super::{
    access_log::access_logs,
    filter::{self, any, filters},
    http,
    lower::{Fields, Lower, Place, list_of},
    shapes::address,
};
use sota_config::{Node, Value};

const LISTENER: &str = "envoy.config.listener.v3.Listener";
const FILTER_CHAIN: &str = "envoy.config.listener.v3.FilterChain";
const CHAIN_FORMS: [&str; 3] = ["http", "tcp", "filters"];
const CHAIN_AND_MATCH_FORMS: [&str; 4] = ["http", "tcp", "filters", "match"];
const HTTP_CONNECTION_MANAGER: (&str, &str) = (
    "envoy.filters.network.http_connection_manager",
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
);
const TCP_PROXY: (&str, &str) =
    ("envoy.filters.network.tcp_proxy", "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy");
const TCP_PROXY_MESSAGE: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const WEIGHTED_CLUSTERS: &str = "weighted_clusters";

/// A listener: Envoy's fields, and those of its only filter chain beside them.
pub(super) fn listener(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Node {
    let mut out = Fields::new(node);
    for (key, value) in node.pairs().iter().filter(|(key, _)| !CHAIN_FORMS.contains(&&**key)) {
        let Some(name) = lower.known(key, value, LISTENER, &CHAIN_FORMS, place) else { continue };
        let at = place.field(name);
        let made = match name {
            "address" => address(lower, value, &at),
            "additional_addresses" => lower.list(value, &at, additional_address),
            "filter_chains" => lower.list(value, &at, filter_chain),
            "default_filter_chain" => filter_chain(lower, value, &at),
            "listener_filters" => filters(lower, value, &at, filter::LISTENER),
            "access_log" => access_logs(lower, value, &at),
            _ => value.clone(),
        };
        out.push(name, made);
    }
    let label = node.str("name");
    let first = node.pairs().iter().find(|(key, _)| CHAIN_FORMS.contains(&&**key));
    if let Some((key, value)) = first {
        if out.has("filter_chains") {
            lower.error(
                &place.field(key),
                value.mark,
                format!("\"{key}\" beside \"filter_chains\": put it into one of the chains"),
            );
        } else {
            let made = Place { written: place.written.clone(), made: format!("{}.filter_chains[0]", place.made) };
            lower.at(&made.written, made.made.clone());
            let list = network_filters(lower, node, &made, label);
            out.push("filter_chains", list_of(super::lower::wrap("filters", list)));
        }
    }
    out.or(node)
}

fn additional_address(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Node {
    if node.as_str().is_none() {
        return node.clone();
    }
    let at = lower.below(place, "address");
    super::lower::wrap("address", address(lower, node, &at))
}

/// A filter chain: Envoy's fields, `match`, and the short forms of its filters.
fn filter_chain(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Node {
    let mut out = Fields::new(node);
    for (key, value) in node.pairs().iter().filter(|(key, _)| !CHAIN_FORMS.contains(&&**key)) {
        if &**key == "match" {
            lower.moved(&place.field(key), "filter_chain_match");
            out.push("filter_chain_match", value.clone());
        } else if let Some(name) = lower.known(key, value, FILTER_CHAIN, &CHAIN_AND_MATCH_FORMS, place) {
            out.push(name, value.clone());
        }
    }
    if CHAIN_FORMS.iter().any(|key| node.has(key)) {
        let list = network_filters(lower, node, place, node.str("name"));
        out.push("filters", list);
    }
    out.or(node)
}

/// `filters`, and behind them what `http` or `tcp` stands for. `label` names its stats unless they have a name.
fn network_filters(lower: &mut Lower<'_>, node: &Node, place: &Place, label: &str) -> Node {
    let at = place.field("filters");
    let written = node.field("filters");
    let mark = CHAIN_FORMS.iter().find_map(|key| node.get(key)).map_or(node.mark, |first| first.mark);
    if !matches!(written.value, Value::List(_) | Value::Null) {
        return written.clone();
    }
    let made = filters(lower, written, &at, filter::NETWORK);
    let mut items = made.items().to_vec();
    if let (Some(_), Some(tcp)) = (node.get("http"), node.get("tcp")) {
        lower.error(&place.field("tcp"), tcp.mark, "\"http\" and \"tcp\" exclude each other; keep one of them");
    }
    let terminal = [("http", HTTP_CONNECTION_MANAGER), ("tcp", TCP_PROXY)]
        .into_iter()
        .find_map(|(key, extension)| Some((key, extension, node.get(key)?)));
    if let Some((key, (name, url), value)) = terminal {
        let index = items.len();
        let written = place.field(key).written;
        lower.at(&written, format!("{}[{index}]", at.made));
        let inside = lower.at(&written, format!("{}[{index}].typed_config", at.made));
        let config = match key {
            "http" => http::connection_manager(lower, value, &inside, label),
            _ => tcp_proxy(lower, value, &inside, label),
        };
        let mut filter = Fields::new(value);
        filter.push_text("name", name);
        filter.push("typed_config", any(value, url, Some(&config)));
        items.push(filter.build());
    }
    Node { value: Value::List(items), mark }
}

/// A cluster's name, or the fields of a TCP proxy.
fn tcp_proxy(lower: &mut Lower<'_>, node: &Node, place: &Place, label: &str) -> Node {
    let mut out = Fields::new(node);
    if node.as_str().is_some() {
        lower.below(place, "cluster");
        out.push("cluster", node.clone());
    }
    for (key, value) in node.pairs() {
        let Some(name) = lower.known(key, value, TCP_PROXY_MESSAGE, &[], place) else { continue };
        let at = place.field(name);
        let made = match name {
            "access_log" => access_logs(lower, value, &at),
            WEIGHTED_CLUSTERS => http::weighted_clusters(lower, value, &at),
            _ => value.clone(),
        };
        out.push(name, made);
    }
    if !out.has("stat_prefix") {
        out.push_text("stat_prefix", if label.is_empty() { "tcp" } else { label });
    }
    if node.as_str().is_some() { out.build() } else { out.or(node) }
}
