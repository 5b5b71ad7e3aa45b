//! `envoy.filters.network.sni_cluster`: the TCP proxy of a connection goes to the cluster that has the name which the
//! client's TLS hello says. Without one, it goes where it is configured to.

use crate::filter_state::TCP_PROXY_CLUSTER;
use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    filter::{ConnectionCx, NetworkFilter, NetworkFilterConfig, NetworkStatus, per_connection},
};
use std::{rc::Rc, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn NetworkFilterConfig> = Extension {
    name: "envoy.filters.network.sni_cluster",
    short_name: "sni_cluster",
    type_urls: &["envoy.extensions.filters.network.sni_cluster.v3.SniCluster"],
    build,
    build_route: None,
    route_type_urls: &[],
};

fn build(_: &TypedConfig, _: &FactoryContext<'_>) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError> {
    Ok(per_connection((), |_| SniCluster))
}

/// It has no configuration.
struct SniCluster;

impl NetworkFilter for SniCluster {
    fn on_new_connection(&mut self, cx: &mut ConnectionCx<'_>) -> NetworkStatus {
        if let Some(name) = cx.info.server_name.as_deref().filter(|name| !name.is_empty()) {
            cx.info.filter_state.borrow_mut().set(TCP_PROXY_CLUSTER, Rc::new(name.to_owned()));
        }
        NetworkStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, connection};

    #[test]
    fn a_name_becomes_the_cluster() {
        let worker = FakeWorker::default().cx();
        for (name, cluster) in [(Some("a.example"), Some("a.example")), (Some(""), None), (None, None)] {
            let mut info = connection();
            info.server_name = name.map(Into::into);
            let info = Rc::new(info);
            SniCluster.on_new_connection(&mut ConnectionCx { info: &info, worker: &worker });
            assert_eq!(info.filter_state.borrow().text(TCP_PROXY_CLUSTER).as_deref(), cluster);
        }
    }
}
