//! Route configurations (`envoy.config.route.v3.RouteConfiguration`).

use super::{context::Cx, extension::any_extension, header_mutations, mirror::mirrors, virtual_host};
use crate::check::{TYPE_KEY, type_name};
use sota_config::{
    Node, Source,
    route::{PerFilterConfig, RouteConfiguration},
};
use std::{collections::HashSet, sync::Arc};

const DEFAULT_MAX_DIRECT_RESPONSE_BODY: u32 = 4096;
const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";

/// What the routes below need to know of their configuration.
#[derive(Clone, Copy)]
pub(super) struct RouteScope {
    /// Unknown clusters are errors.
    pub(super) validate_clusters: bool,
    /// Largest body of a direct response.
    pub(super) max_direct_response_body: u32,
}

/// A route configuration. `validate_by_default`: what counts when it does not say `validate_clusters`.
pub(super) fn route_configuration(cx: &mut Cx<'_>, node: &Node, validate_by_default: bool) -> RouteConfiguration {
    let validate_clusters = node.field("validate_clusters").as_bool();
    let max_direct_response_body_size_bytes =
        node.u32("max_direct_response_body_size_bytes").unwrap_or(DEFAULT_MAX_DIRECT_RESPONSE_BODY);
    let scope = RouteScope {
        validate_clusters: validate_clusters.unwrap_or(validate_by_default),
        max_direct_response_body: max_direct_response_body_size_bytes,
    };
    let mut domains = HashSet::new();
    let virtual_hosts =
        cx.each(node, "virtual_hosts", |cx, node| Some(virtual_host::virtual_host(cx, node, scope, &mut domains)));
    let (request_headers, response_headers) = header_mutations::both(cx, node);
    RouteConfiguration {
        name: node.str("name").to_owned(),
        virtual_hosts,
        request_headers,
        response_headers,
        internal_only_headers: node
            .strings("internal_only_headers")
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        most_specific_header_mutations_wins: node.bool("most_specific_header_mutations_wins"),
        validate_clusters,
        ignore_port_in_host_matching: node.bool("ignore_port_in_host_matching"),
        max_direct_response_body_size_bytes,
        mirrors: mirrors(cx, node, scope),
        typed_per_filter_config: per_filter_config(cx, node),
        source: Some(Arc::new(Source::new(node))),
    }
}

/// `typed_per_filter_config`: plain configurations, or with `FilterConfig` around them.
pub(super) fn per_filter_config(cx: &mut Cx<'_>, node: &Node) -> Vec<PerFilterConfig> {
    cx.entries(node, "typed_per_filter_config", |cx, filter, any| {
        if type_name(any.str(TYPE_KEY)) != FILTER_CONFIG {
            let config = Some(any_extension(cx, filter.to_owned(), any));
            return Some(PerFilterConfig { filter: filter.to_owned(), config, disabled: false, is_optional: false });
        }
        let disabled = any.bool("disabled");
        if !disabled && !any.has("config") {
            cx.error(
                any.mark,
                "there is neither \"config\" nor \"disabled\"; write \"config: {}\" to switch the filter on",
            );
        }
        // An empty configuration switches the filter on where the chain has it switched off.
        let config = cx.optional(any, "config", |cx, inner| {
            (!disabled && inner.has(TYPE_KEY)).then(|| any_extension(cx, filter.to_owned(), inner))
        });
        Some(PerFilterConfig { filter: filter.to_owned(), config, disabled, is_optional: any.bool("is_optional") })
    })
}
