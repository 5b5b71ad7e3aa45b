use super::{Status, as_json, as_markdown, as_text, messages};
use crate::table::{Kind, Message, Support};
use std::{collections::BTreeSet, fs, path::Path};

/// The page in `docs/` is what this program says. `UPDATE_DOCS=1 cargo test -p sota-envoy` writes it anew.
#[test]
fn the_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/support.md");
    let page = as_markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).expect("docs/ can be written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "{} is not what the table says; run with UPDATE_DOCS=1", path.display());
}

#[test]
fn every_form_tells_the_same() {
    let (text, json) = (as_text(), as_json());
    let parsed: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    for message in messages() {
        assert!(text.contains(message.name));
        for field in &message.fields {
            let shown = parsed["messages"][message.name][field.name]["status"].as_str();
            assert_eq!(shown, Some(field.status.word()), "{}.{}", message.name, field.name);
            assert!(text.contains(field.name));
        }
    }
}

#[test]
fn security_is_marked() {
    let all = messages();
    let find = |message: &str, field: &str| {
        all.iter()
            .find(|m| m.name == message)
            .and_then(|m| m.fields.iter().find(|f| f.name == field))
            .unwrap_or_else(|| panic!("{message}.{field} is not in the table"))
            .clone()
    };
    let matches = find("envoy.config.cluster.v3.Cluster", "transport_socket_matcher");
    assert!(matches.is_security && matches.status == Status::Refused);
    let inert = find("envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue", "read_only");
    assert_eq!(inert.status, Status::Inert);
    let codec = find("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "codec_type");
    assert!(codec.refused_values.iter().any(|(value, _)| *value == "HTTP3"));
}

/// A supported field of a message that the table does not list would refuse everything inside.
#[test]
fn supported_fields_hold_listed_messages() {
    let mut missing = BTreeSet::new();
    for message in Message::all().filter(|m| m.is_listed()) {
        for field in message.fields().filter(|f| f.support() == Support::Full) {
            let kind = field.map_entry().map_or_else(|| field.kind(), |(_, value)| value.kind());
            if let Kind::Message(inner) = kind
                && !inner.is_listed()
                && inner.well_known().is_none()
            {
                missing.insert(format!("{}.{}: {}", message.name(), field.name(), inner.name()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// A listed message that nothing supported leads to can only come in an Any; a name there must be an extension's.
#[test]
fn listed_messages_can_be_reached() {
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    for message in Message::all().filter(|m| m.is_listed()) {
        for field in message.fields().filter(|f| f.support() == Support::Full) {
            let kind = field.map_entry().map_or_else(|| field.kind(), |(_, value)| value.kind());
            if let Kind::Message(inner) = kind {
                reached.insert(inner.name());
            }
        }
    }
    for message in Message::all().filter(|m| m.is_listed() && !reached.contains(m.name())) {
        let name = message.name();
        assert!(
            name.starts_with("envoy.extensions.")
                || name == "envoy.config.bootstrap.v3.Bootstrap"
                || name.starts_with("envoy.service.discovery.v3.")
                || name == "envoy.service.runtime.v3.Runtime"
                || ["istio.", "io.istio.", "stats.", "envoy.tcp."].iter().any(|package| name.starts_with(package))
                || name.starts_with("envoy.type.matcher.v3.Http")
                || ["envoy.config.trace.v3.", "envoy.config.metrics.v3."]
                    .iter()
                    .any(|package| name.starts_with(package))
                || matches!(
                    name,
                    "envoy.config.rbac.v3.Action"
                        | "envoy.config.route.v3.FilterConfig"
                        | "envoy.config.route.v3.RouteList"
                ),
            "{name}"
        );
    }
}
