//! `envoy.filters.network.direct_response`: sends a fixed text to each connection and closes it.

use crate::data_source;
use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext, LocalFuture,
    filter::{Connection, NetworkFilterConfig, TerminalNetworkFilter, terminal},
};
use std::sync::Arc;

/// The extension.
pub(crate) static EXTENSION: Extension<dyn NetworkFilterConfig> = Extension {
    name: "envoy.filters.network.direct_response",
    short_name: "direct_response",
    type_urls: &["envoy.extensions.filters.network.direct_response.v3.Config"],
    build,
    build_route: None,
    route_type_urls: &[],
};

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError> {
    let response = match config {
        TypedConfig::Value { node, .. } => data_source::read(node.field("response"), "response", cx)?,
        _ => Vec::new(),
    };
    Ok(terminal(DirectResponse { response: response.into() }))
}

#[derive(Clone)]
struct DirectResponse {
    response: Arc<[u8]>,
}

impl TerminalNetworkFilter for DirectResponse {
    fn serve(self: Box<Self>, mut connection: Connection) -> LocalFuture<()> {
        Box::pin(async move {
            // A peer that does not take it has closed: there is nobody to tell.
            let _ = connection.write_all(&self.response).await;
        })
    }
}
