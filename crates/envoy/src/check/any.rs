//! What an `Any` holds: found by its type URL, checked when the table knows it, left alone when an extension owns it.

use super::{Walker, message::describe, suggest};
use crate::table::{Message, WellKnown};
use sota_config::{Node, Value};
use std::sync::Arc;

/// The key that names the type of an `Any`.
pub(crate) const TYPE_KEY: &str = "@type";
/// What stands before the name in the type URLs of Envoy.
const URL_PREFIX: &str = "type.googleapis.com/";

/// Packages of the filters that decide who gets in. To leave one of them out would let everybody in, even where the
/// configuration calls it optional.
const GUARDS: [&str; 8] = [
    "envoy.extensions.filters.http.api_key_auth.",
    "envoy.extensions.filters.http.basic_auth.",
    "envoy.extensions.filters.http.ext_authz.",
    "envoy.extensions.filters.http.jwt_authn.",
    "envoy.extensions.filters.http.oauth2.",
    "envoy.extensions.filters.http.rbac.",
    "envoy.extensions.filters.network.ext_authz.",
    "envoy.extensions.filters.network.rbac.",
];

impl Walker<'_> {
    /// An `Any`. `is_optional` comes from the message around it: a type that is unknown or not supported is then no
    /// error, unless it is one of [`GUARDS`].
    pub(super) fn any(&mut self, node: &Node, enforce: bool, is_optional: bool) -> Node {
        let Value::Map(entries) = &node.value else {
            self.error(node.mark, format!("expected a map with \"{TYPE_KEY}\", got {}", describe(node)));
            return Node { value: Value::Map(Vec::new()), mark: node.mark };
        };
        if entries.is_empty() {
            return node.clone();
        }
        let Some((_, url_node)) = entries.iter().find(|(key, _)| &**key == TYPE_KEY) else {
            self.error(node.mark, format!("\"{TYPE_KEY}\" is missing; it names the type of this configuration"));
            return node.clone();
        };
        let Value::String(url) = &url_node.value else {
            self.error(url_node.mark, format!("\"{TYPE_KEY}\" must be text, got {}", describe(url_node)));
            return node.clone();
        };
        let claimed = (self.options.claims)(url);
        if std::mem::take(&mut self.is_alternative) && enforce && !claimed {
            let known = Message::find(type_name(url)).is_some_and(|message| message.is_listed());
            if !known {
                self.warning(url_node.mark, format!("the type \"{url}\" is not supported; the next one counts"));
                return Node { value: Value::Map(Vec::new()), mark: node.mark };
            }
        }
        let Some(message) = Message::find(type_name(url)) else {
            if !is_optional && !claimed {
                self.error(url_node.mark, unknown_type(url));
            }
            return node.clone();
        };
        let is_typed_struct = message.short_name() == "TypedStruct";
        let listed = message.is_listed() || message.well_known().is_some() || is_typed_struct;
        let may_be_left_out = is_optional && !GUARDS.iter().any(|package| message.name().starts_with(package));
        if enforce && !listed && !may_be_left_out && !claimed {
            self.error(url_node.mark, format!("the type \"{url}\" is not supported"));
        }
        let enforce = enforce && listed;
        let inner = match message.well_known() {
            // An Any in an Any, a Duration…: these have no fields to put beside @type.
            Some(form) => {
                let value = match (node.get("value"), form) {
                    (Some(value), _) => self.at_field("value", |walker| {
                        walker.deeper(value.mark, |walker| walker.well_known(value, form, enforce, false))
                    }),
                    (None, WellKnown::Empty) => None,
                    (None, _) => {
                        self.error(node.mark, format!("\"value\" is missing: {} stands there", message.short_name()));
                        None
                    }
                };
                for (key, value) in entries.iter().filter(|(key, _)| !matches!(&**key, TYPE_KEY | "value")) {
                    self.unknown(
                        value.mark,
                        format!("unknown field \"{key}\" beside the \"value\" of {}", message.short_name()),
                    );
                }
                value.map(|value| vec![(Arc::from("value"), value)]).unwrap_or_default()
            }
            None if is_typed_struct => self.typed_struct(node, message, enforce),
            None => pairs(self.fields(node, message, Some(TYPE_KEY), enforce)),
        };
        let mut out = Vec::with_capacity(inner.len() + 1);
        out.push((Arc::from(TYPE_KEY), url_node.clone()));
        out.extend(inner);
        Node { value: Value::Map(out), mark: node.mark }
    }

    /// A `TypedStruct`: a type URL, and the message's JSON as a `Struct`.
    fn typed_struct(&mut self, node: &Node, message: Message, enforce: bool) -> Vec<(Arc<str>, Node)> {
        let mut entries = pairs(self.fields(node, message, Some(TYPE_KEY), false));
        let url = entries.iter().find(|(key, _)| &**key == "type_url").map(|(_, url)| url.clone());
        let Some(url_node) = url else { return entries };
        let url = url_node.as_str().unwrap_or("");
        let inner = Message::find(type_name(url)).filter(|inner| inner.well_known().is_none());
        let claimed = (self.options.claims)(url);
        match inner {
            None if !claimed => self.at_field("type_url", |walker| walker.error(url_node.mark, unknown_type(url))),
            Some(inner) if enforce && !inner.is_listed() && !claimed => {
                self.at_field("type_url", |walker| {
                    walker.error(url_node.mark, format!("the type \"{url}\" is not supported"));
                });
            }
            _ => {}
        }
        if let (Some(inner), Some((_, value))) = (inner, entries.iter_mut().find(|(key, _)| &**key == "value")) {
            let listed = inner.is_listed();
            *value = self.at_field("value", |walker| walker.message(value, inner, enforce && listed));
        }
        entries
    }
}

/// The message's name in a type URL.
pub(crate) fn type_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

fn pairs(node: Node) -> Vec<(Arc<str>, Node)> {
    if let Value::Map(entries) = node.value { entries } else { Vec::new() }
}

fn unknown_type(url: &str) -> String {
    if !url.contains('/') && Message::find(url).is_none() {
        return format!("\"{url}\" is no type URL; it begins with \"{URL_PREFIX}\"");
    }
    let near = suggest::nearest_types(type_name(url));
    if near.is_empty() {
        return format!("unknown type \"{url}\"");
    }
    let near: Vec<_> = near.into_iter().map(|name| format!("\"{URL_PREFIX}{name}\"")).collect();
    format!("unknown type \"{url}\"; did you mean {}?", near.join(" or "))
}
