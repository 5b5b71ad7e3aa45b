//! From HTTP to ZeroMQ and back.

use super::{cluster, config, need_pyzmq, run, start};
use sota_testkit::free_port;

fn http(fields: &str) -> String {
    format!(
        "  - name: zmq
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config: {{virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}},
            direct_response: {{status: 200, body: {{inline_string: not bridged}}}}}}]}}]}}
          http_filters:
          - name: zmq_bridge
            typed_config: {{\"@type\": type.sota.com/sota.filters.http.zmq_bridge, path_prefix: /rpc/, {fields}}}
          - name: envoy.filters.http.router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"
    )
}

#[test]
fn a_post_is_a_request() {
    need_pyzmq!();
    let workers = [free_port()];
    let listener = http("workers: {cluster: workers}, max_request_bytes: 200000");
    run(&start(2, &config(&listener, &cluster("workers", &workers))), "bridge", &workers, &[]);
}

#[test]
fn what_goes_wrong_has_a_status() {
    need_pyzmq!();
    let workers = [free_port()];
    let listener = http("front_frames: [front], workers: {cluster: workers, timeout: 700ms, worker_wait: 500ms}");
    run(&start(1, &config(&listener, &cluster("workers", &workers))), "bridge_fails", &workers, &[]);
}
