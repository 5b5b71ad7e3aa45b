//! Short forms of small messages: addresses, header values, data sources.

use super::lower::{Fields, Lower, Place, text, wrap};
use sota_config::{Node, Value};

/// `"HOST:PORT"` or `"unix:PATH"` as an `Address`; anything but text stays as it is.
pub(super) fn address(lower: &mut Lower<'_>, value: &Node, place: &Place) -> Node {
    let Some(written) = value.as_str() else { return value.clone() };
    if let Some(path) = written.strip_prefix("unix:") {
        lower.below(place, "pipe");
        lower.below(place, "pipe.path");
        return wrap("pipe", wrap("path", text(path, value.mark)));
    }
    let split = written.rsplit_once(':').and_then(|(host, port)| {
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?,
            // Without brackets it is not clear where an IPv6 address ends.
            None if host.contains(':') => return None,
            None => host,
        };
        (!host.is_empty()).then_some(host).zip(port.parse::<u16>().ok())
    });
    let Some((host, port)) = split else {
        let reason = format!(
            "\"{}\" is no address: write \"HOST:PORT\", \"[IPV6]:PORT\" or \"unix:PATH\"",
            written.escape_debug()
        );
        lower.error(place, value.mark, reason);
        // Something that is complete, so that nothing more is told about it.
        return wrap("pipe", wrap("path", text("@", value.mark)));
    };
    for made in ["socket_address", "socket_address.address", "socket_address.port_value"] {
        lower.below(place, made);
    }
    let mut fields = Fields::new(value);
    fields.push("address", text(host, value.mark));
    fields.push("port_value", Node { value: Value::Int(i64::from(port)), mark: value.mark });
    wrap("socket_address", fields.build())
}

/// Whether an address in its short form names something that must be resolved.
pub(super) fn is_host_name(value: &Node) -> bool {
    match value.as_str() {
        Some(text) if text.starts_with("unix:") => false,
        Some(text) => text
            .rsplit_once(':')
            .is_some_and(|(host, _)| host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err()),
        None => {
            let address = value.field("socket_address").str("address");
            !address.is_empty() && address.parse::<std::net::IpAddr>().is_err()
        }
    }
}

/// `{NAME: VALUE}` as a list of `HeaderValueOption`; a list stays as it is.
pub(super) fn headers_to_add(lower: &mut Lower<'_>, value: &Node, place: &Place) -> Node {
    let Value::Map(entries) = &value.value else { return value.clone() };
    let items = entries.iter().enumerate().map(|(index, (name, item))| {
        lower.at(&format!("{}[{name:?}]", place.written), format!("{}[{index}]", place.made));
        for made in ["header", "header.key", "header.value"] {
            lower.at(&format!("{}[{name:?}]", place.written), format!("{}[{index}].{made}", place.made));
        }
        let mut header = Fields::new(item);
        header.push("key", text(name, item.mark));
        header.push("value", item.clone());
        wrap("header", header.build())
    });
    Node { value: Value::List(items.collect()), mark: value.mark }
}

/// Text as a `DataSource`; a map stays as it is.
pub(super) fn data_source(lower: &mut Lower<'_>, value: &Node, place: &Place) -> Node {
    if value.as_str().is_none() {
        return value.clone();
    }
    lower.below(place, "inline_string");
    wrap("inline_string", value.clone())
}
