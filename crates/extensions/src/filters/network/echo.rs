//! `envoy.filters.network.echo`: sends back what it receives.

use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext, LocalFuture,
    filter::{Connection, NetworkFilterConfig, TerminalNetworkFilter, terminal},
    future::{First, race},
};
use std::sync::Arc;

/// The extension.
pub(crate) static EXTENSION: Extension<dyn NetworkFilterConfig> = Extension {
    name: "envoy.filters.network.echo",
    short_name: "echo",
    type_urls: &["envoy.extensions.filters.network.echo.v3.Echo"],
    build,
    build_route: None,
    route_type_urls: &[],
};

fn build(_: &TypedConfig, _: &FactoryContext<'_>) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError> {
    Ok(terminal(Echo))
}

/// It has no configuration.
#[derive(Clone, Copy)]
struct Echo;

impl TerminalNetworkFilter for Echo {
    fn serve(self: Box<Self>, mut connection: Connection) -> LocalFuture<()> {
        Box::pin(async move {
            let mut buffer = vec![0; 16 * 1024];
            let mut draining = connection.take_drain_notice();
            // A peer that has sent its last gets everything back first, as from Envoy.
            while let First::One(Ok(read @ 1..)) = race(connection.read(&mut buffer), &mut draining).await {
                let Some(data) = buffer.get(..read) else { return };
                if connection.write_all(data).await.is_err() {
                    return;
                }
            }
        })
    }
}
