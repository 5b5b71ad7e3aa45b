//! Filters by their short names: of listeners, networks and HTTP.

use super::{
    NAMED_URL_PREFIX,
    lower::{Fields, Lower, Place, text},
};
use crate::check::{TYPE_KEY, nearest};
use sota_config::{Node, Value};

pub(super) const LISTENER: &str = "envoy.filters.listener";
pub(super) const NETWORK: &str = "envoy.filters.network";
pub(super) const HTTP: &str = "envoy.filters.http";

pub(super) const ROUTER: &str = "envoy.filters.http.router";
const ROUTER_URL: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

const FIELDS: [&str; 2] = ["name", "config"];

/// The filters of a list, each a name, or a map with `name` and perhaps `config`.
pub(super) fn filters(lower: &mut Lower<'_>, value: &Node, place: &Place, category: &str) -> Node {
    lower.list(value, place, |lower, node, place| filter(lower, node, place, category))
}

/// One filter. Envoy's form with `typed_config` stays as it is; a name alone stands for a configuration without
/// fields, where the extension has a type for it.
pub(super) fn filter(lower: &mut Lower<'_>, node: &Node, place: &Place, category: &str) -> Node {
    let message = match category {
        LISTENER => "envoy.config.listener.v3.ListenerFilter",
        NETWORK => "envoy.config.listener.v3.Filter",
        _ => "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
    };
    if let Some(name) = node.as_str() {
        lower.below(place, "name");
        let mut out = Fields::new(node);
        let found = find(lower, category, name);
        out.push_text("name", found.as_ref().map_or(name, |found| &found.name));
        if let Some(url) = found.and_then(|found| found.type_url) {
            lower.below(place, "typed_config");
            out.push("typed_config", any(node, &url, None));
        }
        return out.build();
    }
    let mut out = Fields::new(node);
    let found = find(lower, category, node.str("name"));
    for (key, value) in node.pairs() {
        match &**key {
            "config" => {
                let at = lower.moved(&place.field("config"), "typed_config");
                match found.as_ref().map(|found| found.url()) {
                    Some(url) => out.push("typed_config", any(value, &url, Some(value))),
                    None => unknown(lower, category, node, &at),
                }
            }
            "name" => match &found {
                Some(found) => out.push("name", text(&found.name, value.mark)),
                None => out.push("name", value.clone()),
            },
            _ => {
                if let Some(name) = lower.known(key, value, message, &FIELDS, place) {
                    out.push(name, value.clone());
                }
            }
        }
    }
    if !out.has("typed_config")
        && let Some(url) = found.and_then(|found| found.type_url)
    {
        lower.below(place, "typed_config");
        out.push("typed_config", any(node, &url, None));
    }
    out.or(node)
}

/// An extension that was found by its name.
pub(super) struct Found {
    pub(super) name: String,
    type_url: Option<String>,
}

impl Found {
    /// The type of its configuration, or one that stands for its name.
    pub(super) fn url(&self) -> String {
        self.type_url.clone().unwrap_or_else(|| format!("{NAMED_URL_PREFIX}{}", self.name))
    }
}

/// The extension of a full or short name; the router is known without a registry.
pub(super) fn find(lower: &Lower<'_>, category: &str, name: &str) -> Option<Found> {
    if category == HTTP && matches!(name, "router" | ROUTER) {
        return Some(Found { name: ROUTER.to_owned(), type_url: Some(ROUTER_URL.to_owned()) });
    }
    let found = lower.extensions.find(category, name)?;
    Some(Found { name: found.name, type_url: found.type_url })
}

/// An `Any` of this type, with the fields of `config`.
pub(super) fn any(place: &Node, url: &str, config: Option<&Node>) -> Node {
    let mut entries = vec![(TYPE_KEY.into(), text(url, place.mark))];
    match config.map(|config| &config.value) {
        None | Some(Value::Null) => {}
        Some(Value::Map(fields)) => entries.extend(fields.iter().filter(|(key, _)| &**key != TYPE_KEY).cloned()),
        // No message is written like this; under this key the check will say so.
        Some(_) => entries.extend(config.map(|config| ("config".into(), config.clone()))),
    }
    Node { value: Value::Map(entries), mark: place.mark }
}

/// Tells that a configuration was given for a name that no extension has.
pub(super) fn unknown(lower: &mut Lower<'_>, category: &str, node: &Node, place: &Place) {
    let name = node.str("name");
    let names = lower.extensions.names(category);
    let reason = match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => format!("unknown extension \"{}\"; did you mean \"{near}\"?", name.escape_debug()),
        None => format!("unknown extension \"{}\" of the category {category}", name.escape_debug()),
    };
    lower.error(place, node.get("name").map_or(node.mark, |name| name.mark), reason);
}
