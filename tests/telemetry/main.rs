//! Telemetry of the whole process, taken by collectors that decode it with the protocols' own definitions.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access_logs;
mod collector;
mod sinks;
mod traces;

const BINARY: &str = env!("CARGO_BIN_EXE_sota-mesh");

/// The address of a static endpoint, as an entry of `load_assignment`.
fn cluster(name: &str, port: u16, more: &str) -> String {
    format!(
        "  - {{name: {name}, {more} load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
         {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}\n"
    )
}

/// What makes a cluster speak HTTP/2.
const HTTP2: &str = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": \
                     type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: \
                     {http2_protocol_options: {}}}},";
