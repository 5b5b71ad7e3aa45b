//! Routes: match, action and the rest side by side.

use super::{
    http::weighted_clusters,
    lower::{Fields, Lower, Place, field_of, wrap},
    matcher,
    shapes::{data_source, headers_to_add},
};
use sota_config::{Node, Value};

const ROUTE: &str = "envoy.config.route.v3.Route";
const MATCH: &str = "envoy.config.route.v3.RouteMatch";
const ACTION: &str = "envoy.config.route.v3.RouteAction";
/// What people write most, for suggestions.
const SHORT_FORMS: [&str; 12] = [
    "prefix",
    "path",
    "regex",
    "path_separated_prefix",
    "headers",
    "query_parameters",
    "cluster",
    "weighted_clusters",
    "timeout",
    "prefix_rewrite",
    "retry_policy",
    "host_rewrite_literal",
];

/// A route. Fields of its match and of its forwarding may stand beside its own.
pub(super) fn route(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Node {
    let mut out = Fields::new(node);
    let mut matched = Fields::new(node);
    let mut action = Fields::new(node);
    for (key, value) in node.pairs() {
        if &**key == "regex" {
            lower.at(&place.field(key).written, format!("{}.match.safe_regex", place.made));
            lower.at(&place.field(key).written, format!("{}.match.safe_regex.regex", place.made));
            matched.push("safe_regex", wrap("regex", value.clone()));
        } else if let Some(name) = field_of(ROUTE, key) {
            let at = place.field(name);
            let made = match name {
                "direct_response" => direct_response(lower, value, &at),
                _ => shared_field(lower, name, value, &at),
            };
            out.push(name, made);
        } else if let Some(name) = field_of(MATCH, key) {
            let at = lower.at(&place.field(key).written, format!("{}.match.{name}", place.made));
            let made = match name {
                "headers" => lower.list(value, &at, matcher::header),
                "query_parameters" => lower.list(value, &at, matcher::query_parameter),
                "cookies" => lower.list(value, &at, matcher::cookie),
                _ => value.clone(),
            };
            matched.push(name, made);
        } else if let Some(name) = field_of(ACTION, key) {
            let at = lower.at(&place.field(key).written, format!("{}.route.{name}", place.made));
            let made = match name {
                "weighted_clusters" => weighted_clusters(lower, value, &at),
                _ => value.clone(),
            };
            action.push(name, made);
        } else {
            lower.known(key, value, ROUTE, &SHORT_FORMS, place);
        }
    }
    for (key, lifted) in [("match", matched), ("route", action)] {
        if lifted.is_empty() {
            continue;
        }
        lower.at(&place.written, format!("{}.{key}", place.made));
        if let Some(own) = node.get(key) {
            let reason = format!("\"{key}\" has fields of its own, and others of them stand beside it; put all inside");
            lower.error(&place.field(key), own.mark, reason);
        } else {
            out.push(key, lifted.build());
        }
    }
    out.or(node)
}

/// Fields that routes, virtual hosts and route configurations have alike.
pub(super) fn shared_field(lower: &mut Lower<'_>, name: &str, value: &Node, place: &Place) -> Node {
    match name {
        "request_headers_to_add" | "response_headers_to_add" => headers_to_add(lower, value, place),
        _ => value.clone(),
    }
}

/// A direct response, whose body may be plain text.
fn direct_response(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Node {
    let Value::Map(entries) = &node.value else { return node.clone() };
    let mut out = Fields::new(node);
    for (key, value) in entries {
        match &**key {
            "body" => {
                let made = data_source(lower, value, &place.field(key));
                out.push(key, made);
            }
            _ => out.push(key, value.clone()),
        }
    }
    out.build()
}
