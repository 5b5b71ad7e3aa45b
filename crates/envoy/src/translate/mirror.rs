//! Requests that go elsewhere too, or again: mirrors and internal redirects.

use super::{
    context::Cx,
    extension::is_filter,
    header_mutations::header_mutation,
    matcher::{Pseudo, header_name, header_name_text, runtime_fraction},
    route::RouteScope,
};
use sota_config::{
    Node,
    retry::{InternalRedirectPolicy, MirrorCluster, MirrorPolicy, RedirectPredicate},
};

/// The statuses that may be followed, as in Envoy; others are left out.
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];
const DEFAULT_REDIRECTS: [u16; 1] = [302];

/// `request_mirror_policies` of a route, a virtual host or a route configuration.
pub(super) fn mirrors(cx: &mut Cx<'_>, node: &Node, scope: RouteScope) -> Vec<MirrorPolicy> {
    cx.each(node, "request_mirror_policies", |cx, node| mirror(cx, node, scope))
}

fn mirror(cx: &mut Cx<'_>, node: &Node, scope: RouteScope) -> Option<MirrorPolicy> {
    let name = node.str("cluster");
    let cluster = match (name.is_empty(), node.str("cluster_header").is_empty()) {
        (false, true) => {
            let known = |clusters: &dyn Fn(&str) -> bool| clusters(name);
            if scope.validate_clusters && !cx.options.clusters.is_none_or(known) {
                cx.field_error(node, "cluster", format!("unknown shadow cluster \"{}\"", name.escape_debug()));
            }
            MirrorCluster::Name(name.to_owned())
        }
        (true, false) => MirrorCluster::Header(header_name(cx, node, "cluster_header", Pseudo::Allowed)?),
        _ => {
            cx.error(node.mark, "a mirror has either a cluster or a cluster_header");
            return None;
        }
    };
    let fraction = cx.optional(node, "runtime_fraction", |cx, node| Some(runtime_fraction(cx, node)));
    let host = node.str("host_rewrite_literal").to_owned();
    let keep_host = node.bool("disable_shadow_host_suffix_append") || !host.is_empty();
    let mutations = cx.each(node, "request_headers_mutations", header_mutation);
    Some(MirrorPolicy { cluster, fraction, keep_host, host, mutations })
}

/// `envoy.config.route.v3.InternalRedirectPolicy`.
pub(super) fn internal_redirects(cx: &mut Cx<'_>, node: &Node) -> Option<InternalRedirectPolicy> {
    let statuses = cx.each(node, "redirect_response_codes", |cx, item| {
        let code = item.as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| REDIRECTS.contains(code));
        if code.is_none() {
            // Compat: Envoy leaves it out, in silence.
            cx.warning(item.mark, "no redirect that can be followed; it is left out");
        }
        code
    });
    let names = node.strings("response_headers_to_copy");
    let response_headers_to_copy = cx.with("response_headers_to_copy", |cx| {
        names.iter().filter_map(|name| header_name_text(cx, name, node.mark, Pseudo::Refused)).collect()
    });
    Some(InternalRedirectPolicy {
        max_redirects: node.u32("max_internal_redirects").unwrap_or(1),
        statuses: if node.list("redirect_response_codes").is_empty() { DEFAULT_REDIRECTS.into() } else { statuses },
        predicates: cx.each(node, "predicates", predicate),
        allow_cross_scheme: node.bool("allow_cross_scheme_redirect"),
        response_headers_to_copy,
    })
}

fn predicate(cx: &mut Cx<'_>, node: &Node) -> Option<RedirectPredicate> {
    let is = |name: &str, message: &str| {
        let (name, message) = (format!("envoy.internal_redirect_predicates.{name}"), format!("{name}.v3.{message}"));
        is_filter(node, &name, &format!("envoy.extensions.internal_redirect.{message}"))
    };
    if is("previous_routes", "PreviousRoutesConfig") {
        return Some(RedirectPredicate::PreviousRoutes);
    }
    if is("allow_listed_routes", "AllowListedRoutesConfig") {
        let names = node.field("typed_config").strings("allowed_route_names");
        return Some(RedirectPredicate::AllowListedRoutes(names));
    }
    if is("safe_cross_scheme", "SafeCrossSchemeConfig") {
        return Some(RedirectPredicate::SafeCrossScheme);
    }
    if !cx.is_refused() {
        let name = node.str("name").escape_debug();
        cx.error(node.mark, format!("there is no internal redirect predicate of the name \"{name}\""));
    }
    None
}
