//! Every extension that comes with sota-mesh, each in a file of its own, in the folders of Envoy's categories. This is
//! the one list of them.

mod data_source;
mod filters;

#[cfg(test)]
mod testing;

use filters::{listener, network};
use sota_plugin::{Registry, extension::DuplicateExtension};

/// Adds every built-in extension.
pub fn register(registry: &mut Registry) -> Result<(), DuplicateExtension> {
    for extension in [
        &listener::http_inspector::EXTENSION,
        &listener::original_dst::EXTENSION,
        &listener::proxy_protocol::EXTENSION,
        &listener::tls_inspector::EXTENSION,
    ] {
        registry.listener_filters.add(extension)?;
    }
    for extension in [&network::direct_response::EXTENSION, &network::echo::EXTENSION, &network::simple_line::EXTENSION]
    {
        registry.network_filters.add(extension)?;
    }
    Ok(())
}
