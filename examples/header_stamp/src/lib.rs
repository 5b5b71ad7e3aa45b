//! `example.header_stamp`: an HTTP filter that adds a field to each response.

use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::StreamCx,
    de::read_config,
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, per_stream},
    http::{HeaderName, ResponseHead},
};
use std::{any::Any, sync::Arc};

/// The extension, which the binary adds to its registry.
pub static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "example.header_stamp",
    short_name: "header_stamp",
    type_urls: &["example.HeaderStamp"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["example.HeaderStamp"],
};

/// What a configuration may say.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default = "default_header")]
    header: String,
    value: String,
}

fn default_header() -> String {
    "x-stamp".to_owned()
}

/// What is made of it, once for all threads.
struct Stamp {
    header: HeaderName,
    value: String,
}

impl Stamp {
    fn read(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let config: Config = read_config(config, cx)?;
        let header = HeaderName::parse(config.header.as_bytes())
            .map_err(|error| cx.error("header", cx.mark, format!("{:?}: {error}", config.header)))?;
        Ok(Self { header, value: config.value })
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    Ok(per_stream(Stamp::read(config, cx)?, |stamp, _info| Some(Filter(Arc::clone(stamp)))))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    Ok(Arc::new(Stamp::read(config, cx)?))
}

/// The filter of one stream.
struct Filter(Arc<Stamp>);

impl HttpFilter for Filter {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        let stamp: &Stamp = cx.route_config().unwrap_or(&self.0);
        head.headers.append_sanitized(&stamp.header, &stamp.value);
        FilterStatus::Continue
    }
}

#[cfg(test)]
mod tests;
