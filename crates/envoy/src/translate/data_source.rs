//! Data sources (`envoy.config.core.v3.DataSource`) and what is read from them at load.

use super::context::Cx;
use sota_config::{Node, secret::DataSource};

/// A data source. One that names what is not there on this host is told, and stands as an empty one: so a configuration
/// can be checked on a host that it is not meant for.
pub(super) fn data_source(cx: &mut Cx<'_>, node: &Node) -> Option<DataSource> {
    let (key, source) = named(node)?;
    if let DataSource::Inline(_) = source {
        return Some(source);
    }
    match source.read() {
        Ok(_) => Some(source),
        Err(reason) => {
            cx.with(key, |cx| cx.absent(node.field(key).mark, reason));
            Some(DataSource::Inline(Vec::new()))
        }
    }
}

/// The bytes of a data source, read now. Empty when they cannot be had, which is told.
pub(super) fn contents(cx: &mut Cx<'_>, node: &Node) -> Option<Vec<u8>> {
    let (key, source) = named(node)?;
    let read = source.read().map_err(|reason| cx.with(key, |cx| cx.absent(node.field(key).mark, reason)));
    Some(read.unwrap_or_default())
}

/// The field that is set, and what it says.
fn named(node: &Node) -> Option<(&'static str, DataSource)> {
    let text = |key: &str| node.get(key).and_then(Node::as_str);
    if let Some(path) = text("filename") {
        return Some(("filename", DataSource::File(path.into())));
    }
    if let Some(name) = text("environment_variable") {
        return Some(("environment_variable", DataSource::Environment(name.to_owned())));
    }
    let key = if node.has("inline_bytes") { "inline_bytes" } else { "inline_string" };
    Some((key, DataSource::Inline(node.get(key)?.as_bytes()?.to_vec())))
}
