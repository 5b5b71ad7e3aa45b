//! Clusters and endpoints.

use super::{
    filter::{any, find},
    lower::{Fields, Lower, Place, list_of, text, wrap},
    shapes::{address, is_host_name},
};
use crate::native::NAMED_URL_PREFIX;
use sota_config::{Node, Value};

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const SHORT_FORMS: [&str; 4] = ["endpoints", "protocol", "deadline_header", "overload"];
const ENDPOINT: &str = "envoy.config.endpoint.v3.LbEndpoint";
const ENDPOINT_FORMS: [&str; 3] = ["address", "hostname", "weight"];
const OVERLOAD: &str = "sota.clusters.overload";
const DEADLINE: &str = "sota.clusters.deadline";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const CATEGORY: &str = "envoy.clusters";

/// A cluster: Envoy's fields, with `endpoints` and `overload` beside them.
pub(super) fn cluster(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Node {
    let mut out = Fields::new(node);
    for (key, value) in node.pairs() {
        match &**key {
            "endpoints" => {
                if let Some(other) = node.get("load_assignment") {
                    let reason = "\"endpoints\" and \"load_assignment\" exclude each other; keep one of them";
                    lower.error(&place.field("load_assignment"), other.mark, reason);
                    continue;
                }
                let made = load_assignment(lower, node, value, place);
                out.push("load_assignment", made);
            }
            // Together, below.
            "overload" | "deadline_header" | "protocol" | "typed_extension_protocol_options" => {}
            _ => {
                if let Some(name) = lower.known(key, value, CLUSTER, &SHORT_FORMS, place) {
                    out.push(name, value.clone());
                }
            }
        }
    }
    let options = protocol_options(lower, node, place);
    if !options.is_empty() {
        out.push("typed_extension_protocol_options", options.build());
    }
    let endpoints = node.list("endpoints");
    if !out.has("type") && endpoints.iter().any(|endpoint| is_host_name(endpoint_address(endpoint))) {
        out.push_text("type", "STRICT_DNS");
    }
    out.or(node)
}

/// What an endpoint of either form says of its address.
fn endpoint_address(endpoint: &Node) -> &Node {
    endpoint.get("address").unwrap_or(endpoint)
}

/// A list of endpoints, as one locality.
fn load_assignment(lower: &mut Lower<'_>, cluster: &Node, value: &Node, place: &Place) -> Node {
    let written = place.field("endpoints").written;
    lower.at(&written, format!("{}.load_assignment", place.made));
    let at = lower.at(&written, format!("{}.load_assignment.endpoints[0].lb_endpoints", place.made));
    let endpoints = lower.list(value, &at, endpoint);
    let mut out = Fields::new(value);
    // The cluster's own name is required, and told when it is missing; here it must only be something.
    let name = Some(cluster.str("name")).filter(|name| !name.is_empty()).unwrap_or("endpoints");
    out.push("cluster_name", text(name, value.mark));
    out.push("endpoints", list_of(wrap("lb_endpoints", endpoints)));
    out.build()
}

/// An address, or a map with `address`, `weight`, `hostname` and fields of Envoy's `LbEndpoint`.
fn endpoint(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Node {
    if node.as_str().is_some() {
        lower.below(place, "endpoint");
        let at = lower.below(place, "endpoint.address");
        return wrap("endpoint", wrap("address", address(lower, node, &at)));
    }
    let mut out = Fields::new(node);
    let mut inner = Fields::new(node);
    for (key, value) in node.pairs() {
        let written = place.field(key).written;
        match &**key {
            "address" => {
                let at = lower.at(&written, format!("{}.endpoint.address", place.made));
                inner.push(key, address(lower, value, &at));
            }
            "hostname" => {
                lower.at(&written, format!("{}.endpoint.hostname", place.made));
                inner.push(key, value.clone());
            }
            "weight" => {
                lower.moved(&place.field(key), "load_balancing_weight");
                out.push("load_balancing_weight", value.clone());
            }
            _ => {
                if let Some(name) = lower.known(key, value, ENDPOINT, &ENDPOINT_FORMS, place) {
                    out.push(name, value.clone());
                }
            }
        }
    }
    if !inner.is_empty() {
        lower.at(&place.written, format!("{}.endpoint", place.made));
        out.push("endpoint", inner.build());
    }
    out.or(node)
}

/// The options of extensions: as they are, and what stands beside the cluster's own fields.
fn protocol_options(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Fields {
    let mut out = Fields::new(node);
    for (key, value) in node.field("typed_extension_protocol_options").pairs() {
        out.push(key, value.clone());
    }
    if let Some(value) = node.get("protocol") {
        let made = http_options(lower, value, place);
        out.push(HTTP_OPTIONS, made);
    }
    for (key, name) in [("overload", OVERLOAD), ("deadline_header", DEADLINE)] {
        let Some(value) = node.get(key) else { continue };
        let url = find(lower, CATEGORY, name).map_or_else(|| format!("{NAMED_URL_PREFIX}{name}"), |found| found.url());
        let written = place.field(key).written;
        lower.at(&written, format!("{}.typed_extension_protocol_options[{name:?}]", place.made));
        let config = match value.value {
            // A switch is enough where the defaults are.
            Value::Bool(true) if key == "overload" => Node { value: Value::Map(Vec::new()), mark: value.mark },
            _ if key == "deadline_header" => wrap("header", value.clone()),
            _ => value.clone(),
        };
        out.push(name, any(value, &url, Some(&config)));
    }
    out
}

/// Which HTTP is spoken: a word in the place of `HttpProtocolOptions`.
fn http_options(lower: &mut Lower<'_>, value: &Node, place: &Place) -> Node {
    let empty = || Node { value: Value::Map(Vec::new()), mark: value.mark };
    let written = place.field("protocol").written;
    lower.at(&written, format!("{}.typed_extension_protocol_options[{HTTP_OPTIONS:?}]", place.made));
    let options = match value.as_str() {
        Some("http2") => wrap("explicit_http_config", wrap("http2_protocol_options", empty())),
        Some("downstream") => wrap("use_downstream_protocol_config", empty()),
        Some("auto") => wrap("auto_config", empty()),
        other => {
            if other != Some("http1") {
                let reason = "the protocol is http1, http2, downstream or auto";
                lower.error(&place.field("protocol"), value.mark, reason);
            }
            wrap("explicit_http_config", wrap("http_protocol_options", empty()))
        }
    };
    any(value, &format!("type.googleapis.com/{HTTP_OPTIONS}"), Some(&options))
}
