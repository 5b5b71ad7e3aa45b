//! Layers of runtime values (`envoy.config.bootstrap.v3.LayeredRuntime`).

use super::{config_source::config_source, context::Cx};
use sota_config::{
    Node, Value,
    bootstrap::{RuntimeLayer, RuntimeSource},
};
use std::{collections::HashSet, sync::Arc};

/// The layers, lowest first.
pub(super) fn layered_runtime(cx: &mut Cx<'_>, node: &Node) -> Vec<RuntimeLayer> {
    let mut names = HashSet::new();
    let mut has_admin = false;
    cx.each(node, "layers", |cx, node| {
        let name = node.str("name");
        if !name.is_empty() && !names.insert(name.to_owned()) {
            cx.field_error(node, "name", format!("the layer \"{}\" is there already", name.escape_debug()));
        }
        let source = if let Some(values) = node.get("static_layer") {
            RuntimeSource::Static(Arc::new(values.clone()))
        } else if node.has("admin_layer") {
            if std::mem::replace(&mut has_admin, true) {
                cx.field_error(node, "admin_layer", "there is an admin layer already; at most one may be specified");
            }
            RuntimeSource::Admin
        } else if let Some(rtds) = node.get("rtds_layer") {
            let source = cx.optional(rtds, "rtds_config", config_source);
            if source.is_none() {
                cx.field_error(rtds, "rtds_config", "where the values come from is needed here");
            }
            RuntimeSource::Rtds { name: rtds.str("name").to_owned(), source: Arc::new(source?) }
        } else if let Some(disk) = node.get("disk_layer") {
            if disk.str("symlink_root").is_empty() {
                cx.field_error(disk, "symlink_root", "the link or folder to watch is needed here");
            }
            RuntimeSource::Disk {
                symlink_root: disk.str("symlink_root").to_owned(),
                subdirectory: disk.str("subdirectory").to_owned(),
                append_service_cluster: disk.bool("append_service_cluster"),
            }
        } else {
            // Refused by the check; with --allow-unsupported the layer has no values.
            return None;
        };
        Some(RuntimeLayer { name: name.to_owned(), source })
    })
}

/// A whole number of the highest static layer that has it. Keys are dotted, nested, or both.
pub(super) fn static_number(layers: &[RuntimeLayer], key: &str) -> Option<u64> {
    layers.iter().rev().find_map(|layer| match &layer.source {
        RuntimeSource::Static(values) => find(values, key)?.as_u64(),
        RuntimeSource::Admin | RuntimeSource::Disk { .. } | RuntimeSource::Rtds { .. } => None,
    })
}

fn find<'a>(node: &'a Node, key: &str) -> Option<&'a Node> {
    node.pairs().iter().find_map(|(name, value)| {
        let rest = key.strip_prefix(&**name)?;
        match rest.strip_prefix('.') {
            _ if rest.is_empty() => Some(value),
            Some(rest) if matches!(value.value, Value::Map(_)) => find(value, rest),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::find;
    use crate::parse_text;

    #[test]
    fn keys_are_dotted_or_nested() {
        let node = parse_text(b"a.b: {c.d: 1}\na: {b.c: {e: 2}}\n").expect("YAML");
        assert_eq!(find(&node, "a.b.c.d").and_then(|n| n.as_u64()), Some(1));
        assert_eq!(find(&node, "a.b.c.e").and_then(|n| n.as_u64()), Some(2));
        assert!(find(&node, "a.b.c").is_some_and(|n| n.as_u64().is_none()));
        assert!(find(&node, "a.bc").is_none());
    }
}
