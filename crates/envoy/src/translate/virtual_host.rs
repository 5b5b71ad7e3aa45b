//! Virtual hosts and the match of their routes.

use super::{
    access_log::optional_fraction,
    context::Cx,
    header_mutations,
    matcher::{header_matcher, query_parameter_matcher, regex},
    mirror::mirrors,
    retry::retry_policy,
    route::{RouteScope, per_filter_config},
    route_action,
};
use sota_config::{
    Node,
    route::{PathMatcher, Route, RouteMatch, VirtualHost},
};
use std::{collections::HashSet, sync::Arc};

/// A virtual host. `domains` are those of the virtual hosts before.
pub(super) fn virtual_host(
    cx: &mut Cx<'_>,
    node: &Node,
    scope: RouteScope,
    domains: &mut HashSet<String>,
) -> VirtualHost {
    let name = node.str("name").to_owned();
    let own = cx.each(node, "domains", |cx, item| {
        let domain = item.as_str().filter(|domain| !domain.is_empty())?.to_lowercase();
        if !domains.insert(domain.clone()) {
            let what = if domain == "*" { "the wildcard domain \"*\"" } else { "the domain" };
            let shown = if domain == "*" { String::new() } else { format!(" \"{}\"", domain.escape_debug()) };
            cx.error(item.mark, format!("{what}{shown} is given twice; domains are unique over all virtual hosts"));
            return None;
        }
        if domain.trim_start_matches('*').trim_end_matches('*').contains('*') {
            cx.warning(item.mark, "a \"*\" in the middle stands for itself; it is a wildcard only at an end");
        }
        Some(domain)
    });
    let routes = cx.each(node, "routes", |cx, node| route(cx, node, scope, &name).map(Arc::new));
    let (request_headers, response_headers) = header_mutations::both(cx, node);
    VirtualHost {
        domains: own,
        routes,
        request_headers,
        response_headers,
        typed_per_filter_config: per_filter_config(cx, node),
        include_request_attempt_count: node.bool("include_request_attempt_count"),
        include_attempt_count_in_response: node.bool("include_attempt_count_in_response"),
        retry_policy: cx.optional(node, "retry_policy", retry_policy),
        rate_limits: node.list("rate_limits").to_vec(),
        hedge_on_per_try_timeout: node.field("hedge_policy").bool("hedge_on_per_try_timeout"),
        include_is_timeout_retry_header: node.bool("include_is_timeout_retry_header"),
        mirrors: mirrors(cx, node, scope),
        name,
    }
}

fn route(cx: &mut Cx<'_>, node: &Node, scope: RouteScope, virtual_host: &str) -> Option<Route> {
    let matcher = cx.optional(node, "match", route_match);
    let action = route_action::action(cx, node, scope, virtual_host);
    let (request_headers, response_headers) = header_mutations::both(cx, node);
    let typed_per_filter_config = per_filter_config(cx, node);
    Some(Route {
        name: node.str("name").to_owned(),
        matcher: matcher?,
        action: action?,
        request_headers,
        response_headers,
        typed_per_filter_config,
        metadata: node.get("metadata").map(|metadata| Arc::new(metadata.clone())),
        stat_prefix: node.str("stat_prefix").to_owned(),
    })
}

fn route_match(cx: &mut Cx<'_>, node: &Node) -> Option<RouteMatch> {
    let text = |key: &str| node.get(key).and_then(Node::as_str).map(str::to_owned);
    let path = if let Some(text) = text("path") {
        Some(PathMatcher::Exact(text))
    } else if let Some(text) = text("prefix") {
        Some(PathMatcher::Prefix(text))
    } else if let Some(text) = text("path_separated_prefix") {
        Some(PathMatcher::PathSeparatedPrefix(text))
    } else {
        cx.optional(node, "safe_regex", regex).map(PathMatcher::Regex)
    };
    let headers = cx.each(node, "headers", header_matcher);
    let query_parameters = cx.each(node, "query_parameters", query_parameter_matcher);
    let runtime_fraction = optional_fraction(cx, node, "runtime_fraction");
    Some(RouteMatch {
        path: path?,
        case_sensitive: node.bool_or("case_sensitive", true),
        headers,
        query_parameters,
        runtime_fraction,
    })
}
