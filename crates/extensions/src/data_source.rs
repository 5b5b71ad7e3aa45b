//! `envoy.config.core.v3.DataSource`, read when a filter is built.

use sota_config::{ConfigError, Node};
use sota_plugin::FactoryContext;

/// The bytes of a data source; none when it is absent. `field` is for errors.
pub(crate) fn read(source: &Node, field: &str, cx: &FactoryContext<'_>) -> Result<Vec<u8>, ConfigError> {
    if let Some(path) = source.field("filename").as_str() {
        return std::fs::read(path).map_err(|error| {
            cx.error(
                &format!("{field}.filename"),
                source.field("filename").mark,
                format!("cannot read {path}: {error}"),
            )
        });
    }
    if let Some(name) = source.field("environment_variable").as_str() {
        return std::env::var(name).map(String::into_bytes).map_err(|_| {
            let mark = source.field("environment_variable").mark;
            cx.error(&format!("{field}.environment_variable"), mark, format!("there is no environment variable {name}"))
        });
    }
    let inline = source.get("inline_bytes").or_else(|| source.get("inline_string"));
    Ok(inline.and_then(Node::as_bytes).unwrap_or_default().to_vec())
}
