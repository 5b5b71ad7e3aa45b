//! What routes match (`envoy.config.route.v3.RouteMatch`).

use super::{
    access_log::optional_fraction,
    context::Cx,
    extension::message_name,
    matcher::{cookie_matcher, filter_state_matcher, header_matcher, metadata_matcher, query_parameter_matcher, regex},
};
use sota_config::{
    Node,
    route::{PathMatcher, RouteMatch, TlsContextMatch},
};

const URI_TEMPLATE: &str = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";

/// The match of a route.
pub(super) fn route_match(cx: &mut Cx<'_>, node: &Node) -> Option<RouteMatch> {
    let path = path_matcher(cx, node);
    let tls = node.field("tls_context");
    let rest = RouteMatch {
        case_sensitive: node.bool_or("case_sensitive", true),
        headers: cx.each(node, "headers", header_matcher),
        query_parameters: cx.each(node, "query_parameters", query_parameter_matcher),
        cookies: cx.each(node, "cookies", cookie_matcher),
        runtime_fraction: optional_fraction(cx, node, "runtime_fraction"),
        grpc: node.has("grpc"),
        tls_context: TlsContextMatch {
            presented: tls.field("presented").as_bool(),
            validated: tls.field("validated").as_bool(),
        },
        dynamic_metadata: cx.each(node, "dynamic_metadata", metadata_matcher),
        filter_state: cx.each(node, "filter_state", filter_state_matcher),
        ..RouteMatch::path(path?)
    };
    // A condition that could not be read was told, and leaves no route that takes more than it should.
    let is_whole = rest.cookies.len() == node.list("cookies").len()
        && rest.dynamic_metadata.len() == node.list("dynamic_metadata").len()
        && rest.filter_state.len() == node.list("filter_state").len();
    is_whole.then_some(rest)
}

fn path_matcher(cx: &mut Cx<'_>, node: &Node) -> Option<PathMatcher> {
    let text = |key: &str| node.get(key).and_then(Node::as_str).map(str::to_owned);
    if let Some(text) = text("path") {
        Some(PathMatcher::Exact(text))
    } else if let Some(text) = text("prefix") {
        Some(PathMatcher::Prefix(text))
    } else if let Some(text) = text("path_separated_prefix") {
        Some(PathMatcher::PathSeparatedPrefix(text))
    } else if node.has("connect_matcher") {
        Some(PathMatcher::Connect)
    } else if let Some(policy) = node.get("path_match_policy") {
        if message_name(policy) != Some(URI_TEMPLATE) {
            if !cx.with("path_match_policy", |cx| cx.is_refused()) {
                cx.field_error(node, "path_match_policy", format!("the only policy is {URI_TEMPLATE}"));
            }
            return None;
        }
        Some(PathMatcher::Template(policy.field("typed_config").str("path_template").to_owned()))
    } else {
        cx.optional(node, "safe_regex", regex).map(PathMatcher::Regex)
    }
}
