//! Virtual hosts and their routes.

use super::{
    context::Cx,
    extension::message_name,
    header_mutations,
    match_tree::match_tree,
    matcher::header_matcher,
    mirror::mirrors,
    retry::retry_policy,
    route::{RouteScope, per_filter_config},
    route_action,
    route_match::route_match,
    tracing::route_tracing,
};
use sota_config::{
    Node,
    route::{Route, TlsRequirement, VirtualCluster, VirtualHost},
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
    let matcher = cx.optional(node, "matcher", |cx, node| {
        match_tree(cx, node, &mut |cx, action| matcher_routes(cx, action, scope, &name))
    });
    if node.has("matcher") && !node.list("routes").is_empty() {
        cx.field_error(node, "matcher", "\"routes\" and \"matcher\" exclude each other");
    }
    let (request_headers, response_headers) = header_mutations::both(cx, node);
    VirtualHost {
        domains: own,
        routes,
        metadata: node.get("metadata").map(|metadata| Arc::new(metadata.clone())),
        matcher,
        require_tls: match node.str("require_tls") {
            "EXTERNAL_ONLY" => TlsRequirement::ExternalOnly,
            "ALL" => TlsRequirement::All,
            _ => TlsRequirement::None,
        },
        virtual_clusters: cx.each(node, "virtual_clusters", |cx, node| {
            if node.list("headers").is_empty() {
                cx.error(node.mark, "a virtual cluster says in \"headers\" which requests it counts");
            }
            let headers = cx.each(node, "headers", header_matcher);
            Some(VirtualCluster { name: node.str("name").to_owned(), headers })
        }),
        request_body_buffer_limit: body_buffer_limit(cx, node),
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
        request_body_buffer_limit: body_buffer_limit(cx, node),
        tracing: route_tracing(cx, node),
    })
}

/// The routes at a leaf of a matcher: one, or a list of which the first that matches counts.
fn matcher_routes(cx: &mut Cx<'_>, node: &Node, scope: RouteScope, virtual_host: &str) -> Option<Vec<Arc<Route>>> {
    const ROUTE: &str = "envoy.config.route.v3.Route";
    const ROUTE_LIST: &str = "envoy.config.route.v3.RouteList";
    let config = node.field("typed_config");
    cx.with("typed_config", |cx| match message_name(node) {
        Some(ROUTE) => route(cx, config, scope, virtual_host).map(|route| vec![Arc::new(route)]),
        Some(ROUTE_LIST) => {
            Some(cx.each(config, "routes", |cx, node| route(cx, node, scope, virtual_host).map(Arc::new)))
        }
        _ => {
            cx.error(node.mark, format!("the action must be a {ROUTE} or a {ROUTE_LIST}"));
            None
        }
    })
}

/// `request_body_buffer_limit`, or its older form.
fn body_buffer_limit(cx: &mut Cx<'_>, node: &Node) -> Option<u64> {
    const OLD: &str = "per_request_buffer_limit_bytes";
    if node.has(OLD) && node.has("request_body_buffer_limit") {
        cx.field_error(node, OLD, "\"request_body_buffer_limit\" has taken its place; write only that");
    }
    node.uint("request_body_buffer_limit").or_else(|| node.uint(OLD))
}
