//! `istio.metadata_exchange` as a network filter: both sides of a TCP connection say who they are before its first octet,
//! if TLS has agreed on `istio-peer-exchange`. This proxy never agrees on that, so there is nothing to do.

use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::WorkerCx,
    filter::{NetworkFilterConfig, NetworkFilterFactory, NetworkFilterInstance},
    info::ConnectionInfo,
};
use std::{rc::Rc, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn NetworkFilterConfig> = Extension {
    name: "istio.metadata_exchange",
    short_name: "istio_metadata_exchange",
    type_urls: &["envoy.tcp.metadataexchange.config.MetadataExchange"],
    build,
    build_route: None,
    route_type_urls: &[],
};

fn build(_: &TypedConfig, _: &FactoryContext<'_>) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError> {
    Ok(Arc::new(Exchange))
}

struct Exchange;

impl NetworkFilterConfig for Exchange {
    fn is_terminal(&self) -> bool {
        false
    }

    fn for_worker(&self, _: &WorkerCx) -> Box<dyn NetworkFilterFactory> {
        Box::new(Self)
    }
}

impl NetworkFilterFactory for Exchange {
    fn new_filter(&self, _: &Rc<ConnectionInfo>) -> NetworkFilterInstance {
        NetworkFilterInstance::None
    }
}
