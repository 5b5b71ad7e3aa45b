//! Hosts that fail, over real sockets: active health checks and outlier detection.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checks;
mod grpc;
mod outliers;
mod overload;
mod spread;

use sota_testkit::{ProxyProcess, get, wait_until};
use std::{net::SocketAddr, time::Duration};

const BINARY: &str = env!("CARGO_BIN_EXE_sota-mesh");
const LIMIT: Duration = Duration::from_secs(20);

/// A listener `main` before a cluster `web` with these hosts; `cluster` are more fields of it, `before` of the bootstrap.
fn config(before: &str, cluster: &str, hosts: &[SocketAddr]) -> String {
    let hosts: Vec<_> = hosts
        .iter()
        .map(|host| {
            let (address, port) = (host.ip(), host.port());
            format!("{{endpoint: {{address: {{socket_address: {{address: {address}, port_value: {port}}}}}}}}}")
        })
        .collect();
    let hosts = hosts.join(", ");
    format!(
        "{before}
static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, route: {{cluster: web}}}}]}}]
          http_filters: [{{name: envoy.filters.http.router}}]
  clusters:
  - name: web
    type: STATIC
    {cluster}
    load_assignment: {{cluster_name: web, endpoints: [{{lb_endpoints: [{hosts}]}}]}}
"
    )
}

/// The health flags of a host, as `/clusters` prints them.
fn flags(proxy: &ProxyProcess, host: SocketAddr) -> String {
    let text = proxy.admin("/clusters").text();
    let start = format!("web::{host}::health_flags::");
    text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or("absent").to_owned()
}

#[track_caller]
fn wait_flags(proxy: &ProxyProcess, host: SocketAddr, wanted: &str) {
    wait_until(&format!("{host} is {wanted}"), LIMIT, || flags(proxy, host) == wanted);
}

/// Waits until the workers have so many healthy hosts: they hear of a flag up to 50 ms later than it is shown.
#[track_caller]
fn wait_healthy(proxy: &ProxyProcess, hosts: u64) {
    proxy.wait_stat("cluster.web.membership_healthy", hosts, LIMIT);
}

/// Which hosts answer so many requests, by the bodies of their answers, sorted.
fn answers(proxy: &ProxyProcess, requests: usize) -> Vec<String> {
    let main = proxy.listener("main");
    let mut names: Vec<_> = (0..requests).map(|_| get(main, "/").text()).collect();
    names.sort();
    names
}
