//! The native dialect: Envoy's resources with short forms for what nearly every configuration says.
//!
//! A document is *lowered*: each short form is replaced by the fields of Envoy's messages that it stands for, and the
//! result is checked and translated like any other document. So whatever Envoy's field can say, can be said here, and
//! there is one reader. Nodes keep the marks of what they were made from, and a [`PathMap`] leads back from a path of
//! the made document to that of the written one.
//!
//! `docs/native-configuration.md` is the description for people.

mod access_log;
mod cluster;
mod filter;
mod http;
mod listener;
mod lower;
mod matcher;
mod route;
mod shapes;

use crate::translate::PathMap;
use lower::{Fields, Lower, Place};
use sota_config::{ConfigError, Node, Value, dialect::Extensions};

/// A document with one of these keys at its top is in the native dialect.
pub(crate) const KEYS: [&str; 6] =
    ["listeners", "clusters", "admin_address", "admin_access_log", "node_id", "node_cluster"];

/// Type URLs of extensions that have none, followed by their name. Never in a document that a person wrote.
pub(crate) const NAMED_URL_PREFIX: &str = "native.sota/";

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// A document in Envoy's shape, made from a native one.
pub(crate) struct Lowered {
    pub(crate) node: Node,
    /// From the paths of `node` to those of the document.
    pub(crate) paths: PathMap,
    /// What the short forms got wrong.
    pub(crate) errors: Vec<ConfigError>,
}

/// Lowers a document; one in Envoy's shape stays as it is but for the short forms in it.
pub(crate) fn lower(document: &Node, extensions: &dyn Extensions, allow_unknown_fields: bool) -> Lowered {
    let mut lower = Lower::new(extensions, allow_unknown_fields);
    let root = Place::root();
    let node = bootstrap(&mut lower, document, &root);
    Lowered { node, paths: lower.paths, errors: lower.errors }
}

fn bootstrap(lower: &mut Lower<'_>, document: &Node, place: &Place) -> Node {
    let mut out = Fields::new(document);
    let mut resources = Vec::new();
    let mut node_fields = Vec::new();
    let mut admin_fields = Vec::new();
    for (key, value) in document.pairs() {
        let at = place.field(key);
        match &**key {
            "listeners" | "clusters" => {
                let at = lower.moved(&at, &format!("static_resources.{key}"));
                resources.push((key.clone(), self::resources(lower, key, value, &at)));
            }
            "static_resources" | "staticResources" => {
                let mut inner = Fields::new(value);
                for (key, value) in value.pairs() {
                    let made = self::resources(lower, key, value, &at.field(key));
                    inner.push(key, made);
                }
                out.push("static_resources", inner.or(value));
            }
            "node_id" | "node_cluster" => {
                let name = key.strip_prefix("node_").unwrap_or(key);
                lower.moved(&at, &format!("node.{name}"));
                node_fields.push((name.into(), value.clone()));
            }
            "admin_address" => {
                let at = lower.moved(&at, "admin.address");
                admin_fields.push(("address".into(), shapes::address(lower, value, &at)));
            }
            "admin_access_log" => {
                let at = lower.moved(&at, "admin.access_log");
                admin_fields.push(("access_log".into(), access_log::access_logs(lower, value, &at)));
            }
            _ => match lower.known(key, value, BOOTSTRAP, &KEYS, place) {
                Some(name) => out.push(name, value.clone()),
                None => continue,
            },
        }
    }
    for (key, fields) in [("static_resources", resources), ("node", node_fields), ("admin", admin_fields)] {
        if let Some((_, first)) = fields.first() {
            let mark = first.mark;
            out.push(key, Node { value: Value::Map(fields), mark });
        }
    }
    out.or(document)
}

/// The listeners or clusters of a document.
fn resources(lower: &mut Lower<'_>, key: &str, value: &Node, place: &Place) -> Node {
    match key {
        "listeners" => lower.list(value, place, listener::listener),
        "clusters" => lower.list(value, place, cluster::cluster),
        _ => value.clone(),
    }
}
