//! The bootstrap, and what its resources must be beside each other.

use super::{
    TranslateOptions,
    access_log::access_log,
    address::{AddressUse, address, bind_config},
    cluster::cluster,
    config_source::dynamic_resources,
    context::{Cx, PathMap},
    extension::{extension, message_name},
    listener::listener,
    listener_addresses,
    overload::overload_manager,
    runtime::{layered_runtime, static_number},
    stats_config::stats_config,
    stats_sinks::stats_sink,
    tls,
    tracing::provider,
};
use crate::check::type_name;
use sota_config::{
    ConfigErrors, Node, Source, Value,
    bootstrap::{Admin, Bootstrap, NodeInfo},
};
use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    sync::Arc,
};

/// A checked `envoy.config.bootstrap.v3.Bootstrap`. What is wrong is left out of the result and told; `paths` are
/// those of the document that it was made from, and `findings` what the check has told. `strict` and `elsewhere` are
/// those of [`TranslateOptions`].
pub(crate) fn bootstrap(
    node: &Node,
    (strict, elsewhere): (bool, bool),
    paths: Option<&PathMap>,
    findings: &ConfigErrors,
) -> (Bootstrap, ConfigErrors) {
    let resources = node.field("static_resources");
    let names: HashSet<&str> = resources.list("clusters").iter().map(|cluster| cluster.str("name")).collect();
    let exists = |name: &str| names.contains(name);
    let options = TranslateOptions { clusters: Some(&exists), tracer: None, static_config: true, strict, elsewhere };
    let mut cx = Cx::new(&options, paths, findings);
    let result = translate(&mut cx, node, &names);
    (result, cx.into_errors())
}

fn translate(cx: &mut Cx<'_>, node: &Node, cluster_names: &HashSet<&str>) -> Bootstrap {
    let resources = node.field("static_resources");
    let runtime = node.field("layered_runtime");
    let layered_runtime = cx.with("layered_runtime", |cx| layered_runtime(cx, runtime));
    cx.tracer = cx.with("tracing", |cx| cx.optional(node.field("tracing"), "http", provider).map(Arc::new));
    let mut listeners = Vec::new();
    let clusters = cx.with("static_resources", |cx| {
        let mut index = 0;
        cx.each(resources, "listeners", |cx, node| {
            if let Some(mut made) = listener(cx, node) {
                let key = format!("envoy.resource_limits.listener.{}.connection_limit", made.name);
                made.connection_limit = static_number(&layered_runtime, &key);
                listeners.push((index, node.mark, made));
            }
            index += 1;
            Some(())
        });
        duplicate_clusters(cx, resources);
        cx.each(resources, "clusters", |cx, node| cluster(cx, node).map(Arc::new))
    });
    let secrets =
        cx.with("static_resources", |cx| cx.each(resources, "secrets", |cx, node| tls::secret(cx, node).map(Arc::new)));
    let places: Vec<_> = listeners.iter().map(|(index, mark, listener)| (*index, *mark, listener)).collect();
    listener_addresses::check(cx, &places);

    extensions(cx, node);
    let manager = node.field("cluster_manager");
    let local = manager.str("local_cluster_name");
    if !local.is_empty() && !cluster_names.contains(local) {
        cx.with("cluster_manager", |cx| {
            let reason = format!("local cluster \"{}\" must be defined in static_resources", local.escape_debug());
            cx.field_error(manager, "local_cluster_name", reason);
        });
    }
    let (max_downstream_connections, overload) =
        cx.with("overload_manager", |cx| overload_manager(cx, node.field("overload_manager")));
    Bootstrap {
        node: node_info(node),
        admin: cx.optional(node, "admin", admin),
        listeners: listeners.into_iter().map(|(.., listener)| Arc::new(listener)).collect(),
        clusters,
        secrets,
        routes: Vec::new(),
        dynamic: cx.with("dynamic_resources", |cx| dynamic_resources(cx, node.field("dynamic_resources"))),
        stats_config: cx.optional(node, "stats_config", |cx, node| Some(stats_config(cx, node))).unwrap_or_default(),
        stats_flush_interval: cx.duration(node, "stats_flush_interval"),
        tracer: cx.tracer.clone(),
        stats_flush_on_admin: node.bool("stats_flush_on_admin"),
        stats_sinks: cx.each(node, "stats_sinks", stats_sink),
        layered_runtime,
        dns_resolver: cx.optional(node, "typed_dns_resolver_config", |cx, node| Some(extension(cx, node))),
        outlier_event_log: Some(manager.field("outlier_detection").str("event_log_path"))
            .filter(|path| !path.is_empty())
            .map(str::to_owned),
        local_cluster_name: (!local.is_empty()).then(|| local.to_owned()),
        upstream_bind_config: cx.with("cluster_manager", |cx| {
            cx.optional(manager, "upstream_bind_config", |cx, node| Some(bind_config(cx, node)))
        }),
        max_downstream_connections,
        overload,
        log_pattern: log_pattern(node.field("application_log_config").field("log_format")),
        source: Some(Arc::new(Source::with_marks(node))),
    }
}

/// What may stand in `bootstrap_extensions`.
fn extensions(cx: &mut Cx<'_>, node: &Node) {
    const INTERNAL_LISTENER: &str = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener";
    cx.each(node, "bootstrap_extensions", |cx, extension| {
        let any = extension.field("typed_config");
        let inner = type_name(any.str("type_url"));
        let named = if inner.is_empty() { message_name(extension).unwrap_or_default() } else { inner };
        if named != INTERNAL_LISTENER {
            let reason =
                format!("the bootstrap extension \"{}\" is not supported", extension.str("name").escape_debug());
            cx.field_error(extension, "name", reason);
        }
        Some(())
    });
}

/// Compat: Envoy too takes the JSON form as the pattern that its text is, with the keys in order.
fn log_pattern(format: &Node) -> Option<String> {
    if let Some(text) = format.get("text_format") {
        return text.as_str().map(str::to_owned);
    }
    format.get("json_format").map(|node| {
        let mut out = String::new();
        write_json(node, &mut out);
        out
    })
}

fn write_json(node: &Node, out: &mut String) {
    match &node.value {
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            for (index, (key, value)) in entries.into_iter().enumerate() {
                let _ = write!(out, "{}{}:", if index == 0 { '{' } else { ',' }, quoted(key));
                write_json(value, out);
            }
            out.push_str(if node.pairs().is_empty() { "{}" } else { "}" });
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                out.push(if index == 0 { '[' } else { ',' });
                write_json(item, out);
            }
            out.push_str(if items.is_empty() { "[]" } else { "]" });
        }
        Value::String(text) => out.push_str(&quoted(text)),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        _ => match node.as_f64() {
            Some(number) => {
                let _ = write!(out, "{number}");
            }
            None => out.push_str("null"),
        },
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn node_info(node: &Node) -> NodeInfo {
    let inner = node.field("node");
    NodeInfo {
        id: inner.str("id").to_owned(),
        cluster: inner.str("cluster").to_owned(),
        node: node.get("node").map(|inner| Arc::new(inner.clone())),
    }
}

fn admin(cx: &mut Cx<'_>, node: &Node) -> Option<Admin> {
    if !node.has("address") {
        // Compat: Envoy then starts no interface, and says so.
        cx.warning(node.mark, "there is no \"address\", so there is no admin interface");
        return None;
    }
    let address = address(cx, node, "address", AddressUse::Bind);
    let access_log = cx.each(node, "access_log", access_log);
    Some(Admin { address: address?, access_log })
}

fn duplicate_clusters(cx: &mut Cx<'_>, resources: &Node) {
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (index, node) in resources.list("clusters").iter().enumerate() {
        let name = node.str("name");
        if let Some(other) = names.insert(name, index).filter(|_| !name.is_empty()) {
            let reason = format!("the name \"{}\" is that of clusters[{other}] already", name.escape_debug());
            cx.with(&format!("clusters[{index}]"), |cx| cx.field_error(node, "name", reason));
        }
    }
}
