//! What routes do: forward, redirect, answer.

use super::{
    access_log::format_string,
    context::Cx,
    data_source::data_source,
    extension::message_name,
    hash_policy::{hash_policy, metadata_match},
    header_mutations,
    matcher::{Pseudo, header_name, regex_rewrite},
    mirror::{internal_redirects, mirrors},
    retry::retry_policy,
    route::{RouteScope, per_filter_config},
    upgrade::route_upgrades,
};
use sota_config::{
    Mark, Node,
    retry::GrpcTimeout,
    route::{
        ClusterSpecifier, DirectResponse, HostRewrite, PathRewrite, RedirectAction, RouteAction, RouteActionKind,
        RoutingPriority, WeightedCluster, WeightedClusters,
    },
    secret::DataSource,
};
use std::time::Duration;

const URI_TEMPLATE_REWRITE: &str = "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// The action of a route.
pub(super) fn action(cx: &mut Cx<'_>, node: &Node, scope: RouteScope, virtual_host: &str) -> Option<RouteActionKind> {
    // How errors name the route: what a person finds it by.
    let route = Place { route: node.str("name"), virtual_host };
    if node.has("route") {
        return cx.optional(node, "route", |cx, node| {
            forward(cx, node, scope, route).map(|action| RouteActionKind::Forward(Box::new(action)))
        });
    }
    if node.has("redirect") {
        return cx.optional(node, "redirect", redirect).map(RouteActionKind::Redirect);
    }
    cx.optional(node, "direct_response", |cx, node| direct_response(cx, node, scope))
        .map(RouteActionKind::DirectResponse)
}

/// The names of a route.
#[derive(Clone, Copy)]
struct Place<'a> {
    route: &'a str,
    virtual_host: &'a str,
}

impl Place<'_> {
    fn unknown_cluster(self, cluster: &str) -> String {
        let route = if self.route.is_empty() { "a route".to_owned() } else { format!("route \"{}\"", self.route) };
        format!("{route} of virtual host \"{}\": unknown cluster \"{}\"", self.virtual_host, cluster.escape_debug())
    }
}

fn forward(cx: &mut Cx<'_>, node: &Node, scope: RouteScope, place: Place<'_>) -> Option<RouteAction> {
    let cluster = cluster_specifier(cx, node, scope, place);
    let host_rewrite = host_rewrite(cx, node);
    let path_rewrite = path_rewrite(cx, node);
    let rewrites = ["prefix_rewrite", "path_rewrite", "regex_rewrite", "path_rewrite_policy"];
    let mut rewrites = rewrites.into_iter().filter(|key| node.has(key) && node.field(key).as_str() != Some(""));
    if let (Some(first), Some(second)) = (rewrites.next(), rewrites.next()) {
        cx.field_error(node, second, format!("specify only one of {first} and {second}"));
    }
    let idle_timeout = node.has("idle_timeout").then(|| cx.timeout(node, "idle_timeout", None));
    let max_stream_duration = cx.optional(node, "max_stream_duration", |cx, node| {
        node.has("max_stream_duration").then(|| cx.timeout(node, "max_stream_duration", None))
    });
    Some(RouteAction {
        timeout: cx.timeout(node, "timeout", Some(DEFAULT_TIMEOUT)),
        idle_timeout,
        max_stream_duration,
        grpc_timeout: grpc_timeout(cx, node),
        hedge_on_per_try_timeout: node.get("hedge_policy").map(|hedge| hedge.bool("hedge_on_per_try_timeout")),
        mirrors: mirrors(cx, node, scope),
        internal_redirects: cx.optional(node, "internal_redirect_policy", internal_redirects),
        retry_policy: cx.optional(node, "retry_policy", retry_policy),
        cluster: cluster?,
        cluster_not_found_response_code: match node.str("cluster_not_found_response_code") {
            "NOT_FOUND" => 404,
            "INTERNAL_SERVER_ERROR" => 500,
            _ => 503,
        },
        path_rewrite,
        host_rewrite,
        append_x_forwarded_host: node.bool("append_x_forwarded_host"),
        hash_policy: cx.each(node, "hash_policy", hash_policy),
        metadata_match: metadata_match(node),
        priority: if node.str("priority") == "HIGH" { RoutingPriority::High } else { RoutingPriority::Default },
        rate_limits: node.list("rate_limits").to_vec(),
        include_vh_rate_limits: node.bool("include_vh_rate_limits"),
        upgrades: route_upgrades(cx, node),
    })
}

fn grpc_timeout(cx: &mut Cx<'_>, node: &Node) -> GrpcTimeout {
    let stream = node.field("max_stream_duration");
    GrpcTimeout {
        is_by_stream: node.has("max_stream_duration"),
        max: cx.duration(node, "max_grpc_timeout"),
        offset: cx.duration(node, "grpc_timeout_offset"),
        header_max: cx.with("max_stream_duration", |cx| cx.duration(stream, "grpc_timeout_header_max")),
        header_offset: cx.with("max_stream_duration", |cx| cx.duration(stream, "grpc_timeout_header_offset")),
    }
}

fn cluster_specifier(cx: &mut Cx<'_>, node: &Node, scope: RouteScope, place: Place<'_>) -> Option<ClusterSpecifier> {
    if let Some(cluster) = node.get("cluster") {
        let name = cluster.as_str()?;
        cx.with("cluster", |cx| known_cluster(cx, name, cluster.mark, scope, place));
        return Some(ClusterSpecifier::Cluster(name.to_owned()));
    }
    if node.has("cluster_header") {
        return header_name(cx, node, "cluster_header", Pseudo::Allowed).map(ClusterSpecifier::ClusterHeader);
    }
    let weighted = node.get("weighted_clusters")?;
    cx.with("weighted_clusters", |cx| {
        let clusters = cx.each(weighted, "clusters", |cx, node| weighted_cluster(cx, node, scope, place));
        let weights = weighted.list("clusters").iter().map(|c| c.u32("weight").unwrap_or(0));
        check_weights(cx, weighted.mark, weights);
        let header_name = match weighted.has("header_name") {
            true => Some(header_name(cx, weighted, "header_name", Pseudo::Refused)?),
            false => None,
        };
        let runtime_key_prefix = non_empty(weighted, "runtime_key_prefix");
        let use_hash_policy = weighted.bool("use_hash_policy");
        Some(ClusterSpecifier::Weighted(WeightedClusters {
            clusters,
            runtime_key_prefix,
            header_name,
            use_hash_policy,
        }))
    })
}

/// Weights are shares of their sum, which must be above 0 and within 32 bits..
pub(super) fn check_weights(cx: &mut Cx<'_>, mark: Mark, weights: impl ExactSizeIterator<Item = u32>) {
    let count = weights.len();
    let sum: u64 = weights.map(u64::from).sum();
    if count > 0 && sum == 0 {
        cx.error(mark, "the sum of the weights must be greater than 0");
    } else if u32::try_from(sum).is_err() {
        cx.error(mark, format!("the sum of the weights is {sum}; it must not exceed {}", u32::MAX));
    }
}

fn weighted_cluster(cx: &mut Cx<'_>, node: &Node, scope: RouteScope, place: Place<'_>) -> Option<WeightedCluster> {
    let name = node.str("name");
    let has_header = !node.str("cluster_header").is_empty();
    if name.is_empty() != has_header {
        cx.error(node.mark, "exactly one of name and cluster_header is required");
    }
    let cluster_header = match has_header {
        true => Some(header_name(cx, node, "cluster_header", Pseudo::Allowed)?),
        false => None,
    };
    if !name.is_empty() {
        let mark = node.field("name").mark;
        cx.with("name", |cx| known_cluster(cx, name, mark, scope, place));
    }
    let (request_headers, response_headers) = header_mutations::both(cx, node);
    Some(WeightedCluster {
        name: name.to_owned(),
        cluster_header,
        weight: node.u32("weight").unwrap_or(0),
        request_headers,
        response_headers,
        typed_per_filter_config: per_filter_config(cx, node),
        host_rewrite: non_empty(node, "host_rewrite_literal"),
        metadata_match: metadata_match(node),
    })
}

fn known_cluster(cx: &mut Cx<'_>, name: &str, mark: Mark, scope: RouteScope, place: Place<'_>) {
    if scope.validate_clusters
        && !name.is_empty()
        && let Some(exists) = cx.options.clusters
        && !exists(name)
    {
        cx.error(mark, place.unknown_cluster(name));
    }
}

fn path_rewrite(cx: &mut Cx<'_>, node: &Node) -> Option<PathRewrite> {
    if let Some(prefix) = non_empty(node, "prefix_rewrite") {
        return Some(PathRewrite::Prefix(prefix));
    }
    if let Some(policy) = node.get("path_rewrite_policy") {
        if message_name(policy) != Some(URI_TEMPLATE_REWRITE) {
            if !cx.with("path_rewrite_policy", |cx| cx.is_refused()) {
                cx.field_error(node, "path_rewrite_policy", format!("the only policy is {URI_TEMPLATE_REWRITE}"));
            }
            return None;
        }
        return Some(PathRewrite::Template(policy.field("typed_config").str("path_template_rewrite").to_owned()));
    }
    if let Some(format) = non_empty(node, "path_rewrite") {
        return Some(PathRewrite::Format(format));
    }
    let (pattern, substitution) = cx.optional(node, "regex_rewrite", regex_rewrite)?;
    Some(PathRewrite::Regex { pattern, substitution })
}

fn host_rewrite(cx: &mut Cx<'_>, node: &Node) -> Option<HostRewrite> {
    if let Some(host) = non_empty(node, "host_rewrite_literal") {
        return Some(HostRewrite::Literal(host));
    }
    if node.bool("auto_host_rewrite") {
        return Some(HostRewrite::Auto);
    }
    if node.has("host_rewrite_header") {
        return header_name(cx, node, "host_rewrite_header", Pseudo::Allowed).map(HostRewrite::Header);
    }
    if let Some(format) = non_empty(node, "host_rewrite") {
        return Some(HostRewrite::Format(format));
    }
    let (pattern, substitution) = cx.optional(node, "host_rewrite_path_regex", regex_rewrite)?;
    Some(HostRewrite::PathRegex { pattern, substitution })
}

fn redirect(cx: &mut Cx<'_>, node: &Node) -> Option<RedirectAction> {
    let port = node.u32("port_redirect").unwrap_or(0);
    Some(RedirectAction {
        response_code: match node.str("response_code") {
            "FOUND" => 302,
            "SEE_OTHER" => 303,
            "TEMPORARY_REDIRECT" => 307,
            "PERMANENT_REDIRECT" => 308,
            _ => 301,
        },
        https: node.bool("https_redirect"),
        scheme: non_empty(node, "scheme_redirect"),
        host: non_empty(node, "host_redirect"),
        port: u16::try_from(port).ok().filter(|port| *port != 0),
        path: non_empty(node, "path_redirect"),
        path_rewrite: path_rewrite(cx, node),
        strip_query: node.bool("strip_query"),
    })
}

fn direct_response(cx: &mut Cx<'_>, node: &Node, scope: RouteScope) -> Option<DirectResponse> {
    let body = cx.optional(node, "body", |cx, body| {
        let source = data_source(cx, body)?;
        let size = match &source {
            DataSource::Inline(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            DataSource::File(path) => std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
            DataSource::Environment(name) => {
                std::env::var_os(name).and_then(|value| u64::try_from(value.len()).ok()).unwrap_or(0)
            }
        };
        if size > u64::from(scope.max_direct_response_body) {
            let most = scope.max_direct_response_body;
            cx.error(body.mark, format!("the body has {size} bytes; max_direct_response_body_size_bytes is {most}"));
        }
        Some(source)
    });
    let body_format = cx.optional(node, "body_format", format_string);
    Some(DirectResponse { status: u16::try_from(node.uint("status")?).ok()?, body, body_format })
}

/// A text field that is there and not empty.
fn non_empty(node: &Node, key: &str) -> Option<String> {
    node.get(key).and_then(Node::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}
