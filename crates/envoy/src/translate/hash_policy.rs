//! What is hashed (`RouteAction.HashPolicy`, `envoy.type.v3.HashPolicy`) and which metadata hosts must have.

use super::{
    context::Cx,
    matcher::{Pseudo, header_name, regex_rewrite},
};
use sota_config::{
    Node,
    load_balancer::{HashPolicy, HashSource},
};
use std::sync::Arc;

/// `envoy.config.route.v3.RouteAction.HashPolicy`; `None` for one that hashes nothing.
pub(super) fn hash_policy(cx: &mut Cx<'_>, node: &Node) -> Option<HashPolicy> {
    let source = if let Some(cookie) = node.get("cookie") {
        let attributes = cookie.list("attributes").iter();
        HashSource::Cookie {
            name: cookie.str("name").to_owned(),
            ttl: cx.with("cookie", |cx| cx.duration(cookie, "ttl")),
            path: cookie.str("path").to_owned(),
            attributes: attributes.map(|of| (of.str("name").to_owned(), of.str("value").to_owned())).collect(),
        }
    } else if let Some(header) = node.get("header") {
        cx.with("header", |cx| {
            let name = header_name(cx, header, "header_name", Pseudo::Allowed)?;
            let rewrite = cx.optional(header, "regex_rewrite", regex_rewrite);
            Some(HashSource::Header { name, rewrite })
        })?
    } else if node.field("connection_properties").bool("source_ip") || node.has("source_ip") {
        HashSource::SourceIp
    } else if let Some(parameter) = node.get("query_parameter") {
        HashSource::QueryParameter(parameter.str("name").to_owned())
    } else {
        HashSource::FilterState(node.get("filter_state")?.str("key").to_owned())
    };
    Some(HashPolicy { source, terminal: node.bool("terminal") })
}

/// `metadata_match`: what it says in the namespace of balancing, sorted by key.
pub(super) fn metadata_match(node: &Node) -> Vec<(Arc<str>, Node)> {
    node.field("metadata_match").field("filter_metadata").field("envoy.lb").pairs().to_vec()
}
