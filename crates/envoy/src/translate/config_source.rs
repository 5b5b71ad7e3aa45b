//! Sources of resources (`envoy.config.core.v3.ConfigSource`, `ApiConfigSource`).

use super::context::Cx;
use sota_config::{
    Node,
    config_source::{ConfigSource, DynamicResources, FileSource, GrpcSource, SourceKind},
};
use std::{path::PathBuf, sync::Arc, time::Duration};

const DEFAULT_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// `envoy.config.bootstrap.v3.Bootstrap.DynamicResources`.
pub(super) fn dynamic_resources(cx: &mut Cx<'_>, node: &Node) -> DynamicResources {
    let listeners = cx.optional(node, "lds_config", config_source);
    let clusters = cx.optional(node, "cds_config", config_source);
    let ads = cx.optional(node, "ads_config", api_config_source).map(Arc::new);
    for (key, source) in [("lds_config", &listeners), ("cds_config", &clusters)] {
        if ads.is_none() && !node.has("ads_config") && source.as_ref().is_some_and(|of| of.kind == SourceKind::Ads) {
            cx.field_error(node, key, "it says ads, and there is no ads_config");
        }
    }
    DynamicResources { listeners, clusters, ads }
}

/// A source; `None` when it was told what is wrong with it.
pub(super) fn config_source(cx: &mut Cx<'_>, node: &Node) -> Option<ConfigSource> {
    let initial_fetch_timeout = cx.timeout(node, "initial_fetch_timeout", Some(DEFAULT_FETCH_TIMEOUT));
    let kind = if node.has("ads") {
        SourceKind::Ads
    } else if let Some(file) = node.get("path_config_source") {
        let folder = file.field("watched_directory").str("path");
        SourceKind::File(FileSource {
            path: PathBuf::from(file.str("path")),
            watched_directory: (!folder.is_empty()).then(|| PathBuf::from(folder)),
        })
    } else if node.has("path") {
        SourceKind::File(FileSource { path: PathBuf::from(node.str("path")), watched_directory: None })
    } else if node.has("api_config_source") {
        SourceKind::Grpc(Arc::new(cx.optional(node, "api_config_source", api_config_source)?))
    } else {
        if !cx.is_refused() {
            cx.error(node.mark, "one of ads, api_config_source and path_config_source is required");
        }
        return None;
    };
    Some(ConfigSource { kind, initial_fetch_timeout })
}

fn api_config_source(cx: &mut Cx<'_>, node: &Node) -> Option<GrpcSource> {
    let is_delta = match node.str("api_type") {
        "GRPC" => false,
        "DELTA_GRPC" => true,
        _ if cx.is_refused() => return None,
        _ => {
            cx.field_error(node, "api_type", "write GRPC or DELTA_GRPC");
            return None;
        }
    };
    if node.str("transport_api_version") != "V3" {
        cx.field_error(node, "transport_api_version", "write V3: there is no other version of discovery any more");
        return None;
    }
    let services = node.list("grpc_services");
    let [service] = services else {
        // Envoy's second service is a fallback, which a runtime guard has to allow.
        cx.field_error(node, "grpc_services", format!("there must be one service, not {}", services.len()));
        return None;
    };
    cx.with("grpc_services[0]", |cx| grpc_service(cx, service, is_delta, node))
}

fn grpc_service(cx: &mut Cx<'_>, service: &Node, is_delta: bool, source: &Node) -> Option<GrpcSource> {
    let Some(envoy) = service.get("envoy_grpc") else {
        if !cx.is_refused() {
            cx.error(service.mark, "the field \"envoy_grpc\" is required");
        }
        return None;
    };
    let cluster = envoy.str("cluster_name").to_owned();
    if cx.options.clusters.is_some_and(|exists| !exists(&cluster)) && cx.options.static_config {
        cx.with("envoy_grpc", |cx| {
            let reason = format!("unknown cluster \"{}\"; it must stand in static_resources", cluster.escape_debug());
            cx.field_error(envoy, "cluster_name", reason);
        });
        return None;
    }
    let field = |node: &Node| (node.str("key").to_ascii_lowercase(), node.str("value").to_owned());
    Some(GrpcSource {
        is_delta,
        cluster,
        authority: envoy.str("authority").to_owned(),
        metadata: service.list("initial_metadata").iter().map(field).collect(),
        is_node_sent_once: source.bool("set_node_on_first_message_only"),
    })
}
