//! Lines of event logs: what Envoy writes as JSON when hosts come and go.

use super::host::Host;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sota_config::{Node, Value as Tree};
use sota_plugin::{access_log::LogFile, info::PeerAddress};
use std::sync::Arc;

/// Writes one event.
pub(super) fn write(logs: &[Arc<dyn LogFile>], event: &Map<String, Value>) {
    // Serializing a tree of text and numbers cannot fail.
    let Ok(mut line) = serde_json::to_vec(event) else { return };
    line.push(b'\n');
    logs.iter().for_each(|log| log.write(&line));
}

/// The time now, with milliseconds.
pub(super) fn timestamp() -> Value {
    format!("{:.3}", Timestamp::now()).into()
}

/// An address in the form of `envoy.config.core.v3.Address`, with the fields that have their default.
pub(super) fn address(address: &PeerAddress) -> Value {
    match address {
        PeerAddress::Ip(address) => json!({ "socket_address": {
            "protocol": "TCP",
            "address": address.ip().to_string(),
            "port_value": address.port(),
            "resolver_name": "",
            "ipv4_compat": false,
            "network_namespace_filepath": "",
        } }),
        PeerAddress::Pipe(path) => json!({ "pipe": { "path": path.display().to_string(), "mode": 0 } }),
    }
}

/// Region, zone and sub-zone.
pub(super) fn locality(host: &Host) -> Value {
    let [region, zone, sub_zone] = &*host.spec().locality;
    json!({ "region": region, "zone": zone, "sub_zone": sub_zone })
}

/// The metadata that discovery gives, if there is some.
pub(super) fn metadata(host: &Host) -> Option<Value> {
    let filters = host.spec().metadata.as_ref()?.get("filter_metadata").map_or_else(|| json!({}), tree);
    Some(json!({ "filter_metadata": filters, "typed_filter_metadata": {} }))
}

fn tree(node: &Node) -> Value {
    match &node.value {
        Tree::Map(pairs) => Value::Object(pairs.iter().map(|(key, value)| (key.to_string(), tree(value))).collect()),
        Tree::List(items) => items.iter().map(tree).collect(),
        Tree::Bool(value) => (*value).into(),
        Tree::String(text) => (&**text).into(),
        _ => match node.as_i64() {
            Some(number) => number.into(),
            None => node.as_f64().into(),
        },
    }
}
