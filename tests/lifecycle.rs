//! The life of the process: draining on signals, and a configuration that changes while it is served.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Client, Origin, ProxyProcess, Reply, get, is_listening, wait_until};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_sota-mesh");
const LIMIT: Duration = Duration::from_secs(10);
const GET: &str = "GET / HTTP/1.1\r\nhost: test.example\r\n\r\n";
/// SIGHUP and SIGINT as Linux numbers them.
const HANGUP: i32 = 1;
const INTERRUPT: i32 = 2;

/// Listeners that answer with a body of their own.
fn answering(listeners: &[(&str, &str)]) -> String {
    let mut text = "static_resources:\n  listeners:\n".to_owned();
    for (name, body) in listeners {
        text.push_str(&listener(name, &format!("direct_response: {{status: 200, body: {{inline_string: {body}}}}}")));
    }
    text
}

fn listener(name: &str, action: &str) -> String {
    format!(
        "  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
              - match: {{prefix: /}}
                {action}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"
    )
}

/// A listener before this server.
fn forwarding(port: u16) -> String {
    format!(
        "static_resources:\n  listeners:\n{}  clusters:
  - name: origin
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}
",
        listener("main", "route: {cluster: origin}")
    )
}

#[test]
fn terminate_drains_and_lets_running_requests_finish() {
    let origin = Origin::http(|_| {
        Reply::default().wait(Duration::from_secs(4)).send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow")
    });
    let config = forwarding(origin.port());
    let mut proxy = ProxyProcess::start_with(BINARY, &config, &["--concurrency", "2", "--drain-delay-s", "1"]);
    let address = proxy.listener("main");
    let mut running = Client::connect(address);
    running.send(GET).unwrap();
    wait_until("the request is on its way", LIMIT, || origin.requests() == 1);

    proxy.terminate();
    wait_until("/ready says no", LIMIT, || proxy.admin("/ready").status() == 503);
    assert!(is_listening(address), "refused before the delay is over");
    wait_until("no more connections", LIMIT, || !is_listening(address));
    let response = running.read_response(false);
    assert_eq!((response.status(), response.text().as_str()), (200, "slow"));
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(proxy.wait(LIMIT), Some(0));
}

#[test]
fn interrupt_ends_without_the_delay_and_a_second_signal_at_once() {
    let origin = Origin::http(|_| Reply::silence());
    let mut proxy = ProxyProcess::start(BINARY, &forwarding(origin.port()));
    let address = proxy.listener("main");
    let mut running = Client::connect(address);
    running.send(GET).unwrap();
    wait_until("the request is on its way", LIMIT, || origin.requests() == 1);
    proxy.signal(INTERRUPT);
    wait_until("no more connections", LIMIT, || !is_listening(address));
    assert!(proxy.ended().is_none(), "ended before its request");
    proxy.signal(INTERRUPT);
    assert_eq!(proxy.wait(LIMIT), Some(0));
}

#[test]
fn a_changed_file_is_applied_as_a_difference() {
    for arguments in [&["--concurrency", "2"][..], &["--concurrency", "2", "--watch"]] {
        let watched = arguments.contains(&"--watch");
        let proxy = ProxyProcess::start_with(BINARY, &answering(&[("kept", "one"), ("changed", "one")]), arguments);
        let (kept, changed) = (proxy.listener("kept"), proxy.listener("changed"));
        let mut client = Client::connect(kept);
        assert_eq!(client.exchange(GET).text(), "one");

        let change = |config: &str| {
            proxy.rewrite_config(config);
            if !watched {
                proxy.signal(HANGUP);
            }
        };
        change(&answering(&[("kept", "one"), ("changed", "two")]));
        proxy.wait_stat("server.config_reload.success", 1, LIMIT);
        wait_until("the new answer", LIMIT, || get(changed, "/").text() == "two");
        let response = client.exchange(GET);
        assert_eq!((response.text().as_str(), response.header("connection")), ("one", None));

        change("static_resources: {listeners: [{name: kept, colour: red}]}\n");
        proxy.wait_stat("server.config_reload.failure", 1, LIMIT);
        assert!(proxy.log().contains("colour"), "{}", proxy.log());
        assert_eq!(get(changed, "/").text(), "two");
        assert_eq!(client.exchange(GET).text(), "one");
    }
}
