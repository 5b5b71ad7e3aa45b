//! One message merged into another, as protobuf does it (`Message::MergeFrom`): `--config-yaml` over the file.
//!
//! Messages merge field by field, repeated fields grow, maps take the newer value of a key, everything else is replaced;
//! a member of a oneof takes the place of the others. An `Any` is replaced whole.

use crate::table::{Field, Kind, Message};
use sota_config::{Mark, Node, Value};
use std::sync::Arc;

/// Merges `newer`, a checked tree of the same message, into `into`. Places of `newer` are forgotten: they are those of
/// another text.
pub(crate) fn merge(into: &mut Node, newer: &Node, message: Message) {
    let Value::Map(entries) = &mut into.value else {
        *into = unmarked(newer);
        return;
    };
    for (key, value) in newer.pairs() {
        let field = message.field_by_key(key);
        if let Some(oneof) = field.and_then(Field::oneof) {
            let is_other = |other: &str| {
                other != &**key
                    && message.field_by_key(other).and_then(Field::oneof).is_some_and(|found| found == oneof)
            };
            entries.retain(|(other, _)| !is_other(other));
        }
        match entries.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => merge_field(known, value, field),
            None => entries.push((Arc::clone(key), unmarked(value))),
        }
    }
}

fn merge_field(into: &mut Node, newer: &Node, field: Option<Field>) {
    match (&mut into.value, &newer.value, field) {
        (Value::Map(known), Value::Map(entries), Some(field)) if field.is_map() => merge_map(known, entries),
        (Value::List(items), Value::List(more), Some(field)) if field.is_repeated() => {
            items.extend(more.iter().map(unmarked));
        }
        (Value::Map(known), Value::Map(entries), Some(field)) => match field.kind() {
            // The one field of a Struct is a map.
            Kind::Message(message) if message.name() == "google.protobuf.Struct" => merge_map(known, entries),
            Kind::Message(message) if message.well_known().is_none() => merge(into, newer, message),
            _ => *into = unmarked(newer),
        },
        _ => *into = unmarked(newer),
    }
}

fn merge_map(known: &mut Vec<(Arc<str>, Node)>, entries: &[(Arc<str>, Node)]) {
    for (key, value) in entries {
        match known.iter_mut().find(|(name, _)| name == key) {
            Some((_, slot)) => *slot = unmarked(value),
            None => known.push((Arc::clone(key), unmarked(value))),
        }
    }
}

/// The same tree without places.
fn unmarked(node: &Node) -> Node {
    let value = match &node.value {
        Value::Map(entries) => {
            Value::Map(entries.iter().map(|(key, value)| (Arc::clone(key), unmarked(value))).collect())
        }
        Value::List(items) => Value::List(items.iter().map(unmarked).collect()),
        other => other.clone(),
    };
    Node { value, mark: Mark::NONE }
}

#[cfg(test)]
mod tests {
    use super::merge;
    use crate::{parse_text, table::Message};
    use sota_config::Node;

    fn merged(file: &str, newer: &str) -> Node {
        let mut node = parse_text(file.as_bytes()).expect("YAML");
        let newer = parse_text(newer.as_bytes()).expect("YAML");
        merge(&mut node, &newer, Message::find("envoy.config.bootstrap.v3.Bootstrap").expect("Bootstrap"));
        node
    }

    #[test]
    fn as_protobuf_does() {
        let node = merged(
            "node: {id: a, cluster: b, metadata: {x: {y: 1}, z: 2}}\nstatic_resources: {clusters: [{name: one}]}\n",
            "node: {id: c, metadata: {x: {q: 3}}}\nstatic_resources: {clusters: [{name: two}]}\nadmin: {profile_path: p}\n",
        );
        assert_eq!((node.field("node").str("id"), node.field("node").str("cluster")), ("c", "b"));
        let metadata = node.field("node").field("metadata");
        assert!(metadata.field("x").get("y").is_none(), "a value of a Struct is replaced whole");
        assert_eq!((metadata.field("x").uint("q"), metadata.uint("z")), (Some(3), Some(2)));
        let names: Vec<_> = node.field("static_resources").list("clusters").iter().map(|c| c.str("name")).collect();
        assert_eq!(names, ["one", "two"]);
        assert_eq!(node.field("admin").str("profile_path"), "p");
    }

    #[test]
    fn a_member_of_a_oneof_displaces_the_other() {
        let node = merged(
            "dynamic_resources: {lds_config: {ads: {}, initial_fetch_timeout: 0s}}\n",
            "dynamic_resources: {lds_config: {path_config_source: {path: /x}}}\n",
        );
        let source = node.field("dynamic_resources").field("lds_config");
        assert!(!source.has("ads") && source.has("initial_fetch_timeout"));
        assert_eq!(source.field("path_config_source").str("path"), "/x");
    }
}
