//! Named extensions with an `Any`: the part of the document that an extension is built from.

use super::context::Cx;
use crate::{
    check::{TYPE_KEY, type_name},
    native::NAMED_URL_PREFIX,
};
use sota_config::{ExtensionConfig, Node, TypedConfig, Value};
use std::sync::Arc;

/// A message with `name` and `typed_config`, such as a filter.
pub(super) fn extension(cx: &mut Cx<'_>, node: &Node) -> ExtensionConfig {
    let name = node.str("name").to_owned();
    match node.get("typed_config") {
        Some(any) => cx.with("typed_config", |cx| any_extension(cx, name, any)),
        None => ExtensionConfig { name, config: TypedConfig::Empty, path: cx.path(), mark: node.mark },
    }
}

/// An extension of which only the `Any` stands at the current path.
pub(super) fn any_extension(cx: &mut Cx<'_>, name: String, any: &Node) -> ExtensionConfig {
    ExtensionConfig { name, config: typed_config(any), path: cx.path(), mark: any.mark }
}

/// What a checked `Any` holds. A `TypedStruct` is unwrapped: the type that it names, with its value.
fn typed_config(any: &Node) -> TypedConfig {
    let url = any.str(TYPE_KEY);
    if url.is_empty() {
        return TypedConfig::Empty;
    }
    if matches!(type_name(url), "xds.type.v3.TypedStruct" | "udpa.type.v1.TypedStruct") {
        let node = any.get("value").cloned().unwrap_or_else(Node::map);
        return TypedConfig::Value { type_url: Some(any.str("type_url").to_owned()), node: Arc::new(node) };
    }
    let fields: Vec<_> = any.pairs().iter().filter(|(key, _)| &**key != TYPE_KEY).cloned().collect();
    if let [(key, Node { value: Value::Bytes(bytes), .. })] = fields.as_slice()
        && &**key == "value"
    {
        // From wire bytes, of a message that only an extension knows.
        return TypedConfig::Proto { type_url: url.to_owned(), bytes: bytes.clone() };
    }
    let node = Arc::new(Node { value: Value::Map(fields), mark: any.mark });
    // The native dialect configures an extension that has no type URL by its name alone.
    let type_url = (!url.starts_with(NAMED_URL_PREFIX)).then(|| url.to_owned());
    TypedConfig::Value { type_url, node }
}

/// The message name of an `Any`, when there is one.
pub(super) fn message_name(node: &Node) -> Option<&str> {
    node.get("typed_config").map(|any| type_name(any.str(TYPE_KEY)))
}

/// Whether a filter is this one of the spine: by its type, or without configuration by its name.
pub(super) fn is_filter(node: &Node, name: &str, message: &str) -> bool {
    match message_name(node) {
        Some(found) => found == message,
        None => node.str("name") == name,
    }
}
