//! `envoy.config.core.v3.DataSource`, read when a filter is built.

use sota_config::{ConfigError, Node, secret::DataSource};
use sota_plugin::FactoryContext;

/// The bytes of a data source; none when it is absent. `field` is for errors.
pub(crate) fn read(source: &Node, field: &str, cx: &FactoryContext<'_>) -> Result<Vec<u8>, ConfigError> {
    let (key, named) = if let Some(path) = source.field("filename").as_str() {
        ("filename", DataSource::File(path.into()))
    } else if let Some(name) = source.field("environment_variable").as_str() {
        ("environment_variable", DataSource::Environment(name.to_owned()))
    } else {
        let inline = source.get("inline_bytes").or_else(|| source.get("inline_string"));
        return Ok(inline.and_then(Node::as_bytes).unwrap_or_default().to_vec());
    };
    let error = |reason| cx.error(&format!("{field}.{key}"), source.field(key).mark, reason);
    cx.logs.read(&named).map_err(error)
}
