//! `envoy.config.core.v3.SubstitutionFormatString`, as the loggers have it in their field `log_format`.

use crate::data_source;
use sota_config::{
    ConfigError, Node,
    access_log::{Format as FormatConfig, FormatString},
};
use sota_plugin::{FactoryContext, format::Format};
use std::sync::Arc;

/// The format in `log_format`; Envoy's default without one.
pub(super) fn log_format(node: &Node, cx: &FactoryContext<'_>) -> Result<Format, ConfigError> {
    let Some(config) = node.get("log_format") else { return Ok(Format::default_access_log()) };
    let omit_empty = config.bool("omit_empty_values");
    if config.has("json_format") {
        return json(config, "json_format", "log_format.json_format", omit_empty, cx);
    }
    if let Some(source) = config.get("text_format_source") {
        const FIELD: &str = "log_format.text_format_source";
        let bytes = data_source::read(source, FIELD, cx)?;
        let format = String::from_utf8(bytes).map_err(|_| cx.error(FIELD, source.mark, "a format is UTF-8 text"))?;
        return Format::text(&format, omit_empty).map_err(|error| cx.error(FIELD, source.mark, error.reason));
    }
    text(config, "text_format", "log_format.text_format", omit_empty, cx)
}

/// The text in a field of this node; `path` is for errors.
pub(super) fn text(
    node: &Node,
    key: &str,
    path: &str,
    omit_empty: bool,
    cx: &FactoryContext<'_>,
) -> Result<Format, ConfigError> {
    let error = |error: ConfigError| cx.error(path, node.field(key).mark, error.reason);
    Format::text(node.str(key), omit_empty).map_err(error)
}

/// The JSON in a field of this node; `path` is for errors.
pub(super) fn json(
    node: &Node,
    key: &str,
    path: &str,
    omit_empty: bool,
    cx: &FactoryContext<'_>,
) -> Result<Format, ConfigError> {
    let json = node.field(key);
    let config = FormatString {
        format: FormatConfig::Json(Arc::new(json.clone())),
        omit_empty_values: omit_empty,
        content_type: None,
    };
    Format::build(&config).map_err(|error| cx.place(error.at(path, json.mark)))
}
