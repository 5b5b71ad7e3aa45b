//! `envoy.config.core.v3.SubstitutionFormatString`.

use crate::data_source;
use sota_config::{
    ConfigError, Node,
    access_log::{Format as FormatConfig, FormatString},
};
use sota_plugin::{FactoryContext, format::Format};
use std::sync::Arc;

/// The format in the field `log_format` of a logger; Envoy's default without one.
pub(crate) fn log_format(node: &Node, cx: &FactoryContext<'_>) -> Result<Format, ConfigError> {
    node.get("log_format")
        .map_or_else(|| Ok(Format::default_access_log()), |config| substitution(config, "log_format", cx))
}

/// A format string at `path`, which is for errors.
pub(crate) fn substitution(config: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<Format, ConfigError> {
    let omit_empty = config.bool("omit_empty_values");
    if config.has("json_format") {
        return json(config, "json_format", &format!("{path}.json_format"), omit_empty, cx);
    }
    if let Some(source) = config.get("text_format_source") {
        let field = format!("{path}.text_format_source");
        let bytes = data_source::read(source, &field, cx)?;
        let format = String::from_utf8(bytes).map_err(|_| cx.error(&field, source.mark, "a format is UTF-8 text"))?;
        return Format::text(&format, omit_empty).map_err(|error| cx.error(&field, source.mark, error.reason));
    }
    text(config, "text_format", &format!("{path}.text_format"), omit_empty, cx)
}

/// The text in a field of this node; `path` is for errors.
pub(crate) fn text(
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
pub(crate) fn json(
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
