//! Every extension that comes with sota-mesh, each in a file of its own, in the folders of Envoy's categories. This is
//! the one list of them.

mod access_loggers;
mod compression;
mod cookie;
mod data_source;
mod filter_state;
mod filters;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod header_options;
mod http_status;
mod istio;
mod lazy_stats;
mod match_tree;
mod matchers;
mod rbac;

#[cfg(test)]
mod testing;

use access_loggers::{file, grpc, open_telemetry, stream};
use filters::{http, listener, network};
use sota_plugin::{Registry, extension::DuplicateExtension};

/// Adds every built-in extension.
pub fn register(registry: &mut Registry) -> Result<(), DuplicateExtension> {
    for extension in [
        &listener::http_inspector::EXTENSION,
        &listener::original_dst::EXTENSION,
        &listener::proxy_protocol::EXTENSION,
        &listener::tls_inspector::EXTENSION,
        &listener::zmq_inspector::EXTENSION,
    ] {
        registry.listener_filters.add(extension)?;
    }
    for extension in [
        &network::connection_limit::EXTENSION,
        &network::direct_response::EXTENSION,
        &network::echo::EXTENSION,
        &network::local_ratelimit::EXTENSION,
        &network::rbac::EXTENSION,
        &network::redis_proxy::EXTENSION,
        &network::set_filter_state::EXTENSION,
        &network::simple_line::EXTENSION,
        &network::sni_cluster::EXTENSION,
        &network::zmq::EXTENSION,
        &network::zmq::request_proxy::EXTENSION,
        &istio::metadata_exchange::EXTENSION,
        &istio::stats::NETWORK,
    ] {
        registry.network_filters.add(extension)?;
    }
    for extension in [
        &http::admission_control::EXTENSION,
        &http::bandwidth_limit::EXTENSION,
        &http::buffer::EXTENSION,
        &http::compressor::EXTENSION,
        &http::cors::EXTENSION,
        &http::csrf::EXTENSION,
        &http::custom_response::EXTENSION,
        &http::decompressor::EXTENSION,
        &http::fault::EXTENSION,
        &http::grpc_http1_bridge::EXTENSION,
        &http::grpc_stats::EXTENSION,
        &http::grpc_web::EXTENSION,
        &http::header_mutation::EXTENSION,
        &http::header_to_metadata::EXTENSION,
        &http::health_check::EXTENSION,
        &http::local_ratelimit::EXTENSION,
        &http::ratelimit::EXTENSION,
        &http::rbac::EXTENSION,
        &http::set_filter_state::EXTENSION,
        &http::set_metadata::EXTENSION,
        &http::sota_router::EXTENSION,
        &http::zmq_bridge::EXTENSION,
        &http::stateful_session::EXTENSION,
        &istio::alpn::EXTENSION,
        &istio::peer_metadata::EXTENSION,
        &istio::stats::HTTP,
    ] {
        registry.http_filters.add(extension)?;
    }
    for extension in
        [&file::EXTENSION, &grpc::HTTP, &grpc::TCP, &open_telemetry::EXTENSION, &stream::STDOUT, &stream::STDERR]
    {
        registry.access_loggers.add(extension)?;
    }
    for (alias, extension) in [
        ("envoy.file_access_log", &file::EXTENSION),
        ("envoy.stdout_access_log", &stream::STDOUT),
        ("envoy.stderr_access_log", &stream::STDERR),
        ("envoy.http_grpc_access_log", &grpc::HTTP),
        ("envoy.tcp_grpc_access_log", &grpc::TCP),
    ] {
        registry.access_loggers.add_alias(alias, extension)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_a_name_of_its_own() {
        let mut registry = Registry::default();
        register(&mut registry).unwrap();
        for name in ["envoy.access_loggers.file", "envoy.file_access_log", "file"] {
            assert!(std::ptr::eq(registry.access_loggers.find(name).unwrap(), &file::EXTENSION), "{name}");
        }
        assert!(register(&mut registry).is_ok(), "the same extensions under the same names are no conflict");
    }
}
