//! The HTTP connection manager.

use super::{
    access_log::access_logs,
    filter::{self, ROUTER, filters},
    lower::{Fields, Lower, Place, list_of, text, wrap},
    route,
};
use sota_config::{Node, Value};

const MESSAGE: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const SHORT_FORMS: [&str; 3] = ["routes", "virtual_hosts", "filters"];
const ROUTE_CONFIGURATION: &str = "envoy.config.route.v3.RouteConfiguration";
/// What a route configuration and a virtual host are called that the document does not name.
const ROUTE_CONFIGURATION_NAME: &str = "local_route";
const VIRTUAL_HOST_NAME: &str = "local_service";

/// Envoy's fields, with `routes`, `virtual_hosts` and `filters` beside them. The router is added to the filters.
pub(super) fn connection_manager(lower: &mut Lower<'_>, node: &Node, place: &Place, label: &str) -> Node {
    let mut out = Fields::new(node);
    for (key, value) in node.pairs() {
        match &**key {
            "routes" | "virtual_hosts" => {}
            "filters" => {
                let at = lower.moved(&place.field(key), "http_filters");
                let written = filters(lower, value, &at, filter::HTTP);
                let made = with_router(lower, written, &at);
                out.push("http_filters", made);
            }
            _ => {
                let Some(name) = lower.known(key, value, MESSAGE, &SHORT_FORMS, place) else { continue };
                let at = place.field(name);
                let made = match name {
                    "access_log" => access_logs(lower, value, &at),
                    "http_filters" => filters(lower, value, &at, filter::HTTP),
                    "route_config" => route_configuration(lower, value, &at),
                    _ => value.clone(),
                };
                out.push(name, made);
            }
        }
    }
    if let Some(config) = own_routes(lower, node, place) {
        out.push("route_config", config);
    }
    if !out.has("http_filters") && matches!(node.value, Value::Map(_)) {
        let empty = Node { value: Value::List(Vec::new()), mark: node.mark };
        let made = with_router(lower, empty, &place.field("http_filters"));
        out.push("http_filters", made);
    }
    if !out.has("stat_prefix") {
        out.push_text("stat_prefix", if label.is_empty() { "http" } else { label });
    }
    out.or(node)
}

/// The router ends every chain; who writes it may.
fn with_router(lower: &mut Lower<'_>, filters: Node, place: &Place) -> Node {
    let Value::List(mut items) = filters.value else { return filters };
    if !items.iter().any(|filter| filter.str("name") == ROUTER) {
        let at = Place { written: place.written.clone(), made: format!("{}[{}]", place.made, items.len()) };
        lower.at(&at.written, at.made.clone());
        items.push(filter::filter(lower, &text(ROUTER, filters.mark), &at, filter::HTTP));
    }
    Node { value: Value::List(items), mark: filters.mark }
}

/// `routes` or `virtual_hosts` as a route configuration.
fn own_routes(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Option<Node> {
    let key = SHORT_FORMS.iter().find(|key| matches!(**key, "routes" | "virtual_hosts") && node.has(key))?;
    let value = node.field(key);
    let written = place.field(key);
    let other = ["virtual_hosts", "route_config", "rds"].iter().find(|other| *other != key && node.has(other));
    if let Some(other) = other {
        let at = node.field(other).mark;
        let reason = format!("\"{key}\" and \"{other}\" exclude each other; keep one of them");
        lower.error(&place.field(other), at, reason);
        if node.has("route_config") || node.has("rds") {
            return None;
        }
    }
    lower.at(&place.written, format!("{}.route_config", place.made));
    let hosts_at = format!("{}.route_config.virtual_hosts", place.made);
    let hosts = if *key == "routes" {
        for made in ["[0]", "[0].domains", "[0].name"] {
            lower.at(&place.written, format!("{hosts_at}{made}"));
        }
        let at = lower.at(&written.written, format!("{hosts_at}[0].routes"));
        let mut host = Fields::new(value);
        host.push_text("name", VIRTUAL_HOST_NAME);
        host.push("domains", list_of(text("*", value.mark)));
        host.push("routes", lower.list(value, &at, route::route));
        list_of(host.build())
    } else {
        let at = lower.at(&written.written, hosts_at);
        lower.list(value, &at, virtual_host)
    };
    let mut config = Fields::new(value);
    config.push_text("name", ROUTE_CONFIGURATION_NAME);
    config.push("virtual_hosts", hosts);
    Some(config.build())
}

fn route_configuration(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Node {
    let mut out = Fields::new(node);
    for (key, value) in node.pairs() {
        let Some(name) = lower.known(key, value, ROUTE_CONFIGURATION, &[], place) else { continue };
        let at = place.field(name);
        let made = match name {
            "virtual_hosts" => lower.list(value, &at, virtual_host),
            _ => route::shared_field(lower, name, value, &at),
        };
        out.push(name, made);
    }
    out.or(node)
}

/// A virtual host; without `name` it is called by its first domain.
fn virtual_host(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Node {
    let mut out = Fields::new(node);
    for (key, value) in node.pairs() {
        let Some(name) = lower.known(key, value, "envoy.config.route.v3.VirtualHost", &[], place) else { continue };
        let at = place.field(name);
        let made = match name {
            "routes" => lower.list(value, &at, route::route),
            "domains" if value.as_str().is_some() => {
                lower.at(&at.written, format!("{}[0]", at.made));
                list_of(value.clone())
            }
            _ => route::shared_field(lower, name, value, &at),
        };
        out.push(name, made);
    }
    if !out.has("name") {
        let domains = node.field("domains");
        let first = domains.as_str().or_else(|| domains.items().first().and_then(Node::as_str));
        let name = first.filter(|domain| *domain != "*").unwrap_or(VIRTUAL_HOST_NAME).to_owned();
        out.push_text("name", &name);
    }
    out.or(node)
}

/// A list of clusters with weights, without the message around it.
pub(super) fn weighted_clusters(lower: &mut Lower<'_>, value: &Node, place: &Place) -> Node {
    if !matches!(value.value, Value::List(_)) {
        return value.clone();
    }
    lower.below(place, "clusters");
    wrap("clusters", value.clone())
}
