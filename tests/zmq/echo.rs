//! Without routes: messages come back.

use super::{Mesh, config, listener, mesh, need_pyzmq, run, start};
use sota_testkit::{Client, ProxyProcess, free_port};
use std::path::Path;
use std::process::Command;

#[test]
fn req_and_dealer_get_their_messages_back() {
    need_pyzmq!();
    let mesh = Mesh::start(2, "", 0);
    for scenario in ["echo_req", "echo_dealer", "echo_pipeline", "echo_identities", "echo_monitor"] {
        mesh.run(scenario, &[]);
    }
}

#[test]
fn a_router_that_names_us() {
    need_pyzmq!();
    mesh(1, "", 0, "echo_router");
}

#[test]
fn wrong_types_are_closed_and_counted() {
    need_pyzmq!();
    mesh(1, "", 0, "wrong_types");
}

#[test]
fn every_version_is_spoken() {
    need_pyzmq!();
    mesh(1, "min_version: '1.0',", 0, "old_versions");
}

#[test]
fn every_octet_is_as_it_should_be() {
    need_pyzmq!();
    let mesh = Mesh::start(1, "", 0);
    mesh.run("golden", &[]);
    mesh.run("random_splits", &[]);
}

#[test]
fn heartbeats_both_ways() {
    need_pyzmq!();
    mesh(1, "heartbeat: {interval: 200ms, timeout: 400ms},", 0, "heartbeats");
}

#[test]
fn over_ipv6() {
    need_pyzmq!();
    let proxy = start(1, &config(&listener("zmq", "::1", ""), ""));
    run(&proxy, "ipv6", &[], &[]);
}

#[test]
fn over_a_unix_socket() {
    need_pyzmq!();
    let folder = sota_testkit::temp_dir();
    let path = folder.path().join("zmq.sock").to_str().unwrap().to_owned();
    let local = listener("ipc", "::1", "")
        .replace("socket_address: {address: \"::1\", port_value: 0}", &format!("pipe: {{path: {path}}}"));
    let proxy = start(1, &config(&(local + &listener("zmq", "127.0.0.1", "")), ""));
    run(&proxy, "ipc", &[], &[&path]);
}

/// The demo client of the original, through the proxy. It is there where all of the workspace is tested.
#[test]
fn the_demo_client_hears_itself() {
    let client = Path::new(env!("CARGO_BIN_EXE_sota-mesh")).with_file_name("zmqclient");
    if !client.exists() {
        sota_testkit::skip!("zmqclient is not built: test the whole workspace");
    }
    let proxy = start(1, &config(&listener("zmq", "127.0.0.1", ""), ""));
    let done = Command::new(client).arg(proxy.listener("zmq").to_string()).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success() && text.starts_with("Sending  Hello 0\nReceived  Hello 0\n"), "{text}");
    assert_eq!(text.lines().count(), 20);
}

/// `conf/zmq.yaml` as it is, but for the port, and its native twin.
#[test]
fn the_configuration_of_the_original() {
    need_pyzmq!();
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    for file in ["zmq.yaml", "zmq.sota.yaml"] {
        let checked = Command::new(env!("CARGO_BIN_EXE_sota-mesh"))
            .args(["validate", "-c"])
            .arg(conf.join(file))
            .output()
            .unwrap();
        assert!(checked.status.success(), "{file}: {}", String::from_utf8_lossy(&checked.stderr));
    }
    let text = std::fs::read_to_string(conf.join("zmq.yaml")).unwrap();
    let proxy = start(1, &text.replace("8888", "0").replace("listener_zmq", "zmq"));
    run(&proxy, "echo_req", &[], &[]);
}

#[test]
fn http_and_zmtp_share_a_port() {
    need_pyzmq!();
    let config = "static_resources:
  listeners:
  - name: zmq
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    listener_filters:
    - name: sota.filters.listener.zmq_inspector
    filter_chains:
    - filter_chain_match: {application_protocols: [zmtp]}
      filters:
      - name: sota.filters.network.zmq
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config: {virtual_hosts: [{name: all, domains: ['*'], routes: [{match: {prefix: /},
            direct_response: {status: 200, body: {inline_string: http here}}}]}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
";
    run(&start(1, config), "shared_port", &[], &[]);
}

#[test]
fn clients_come_back_after_a_restart() {
    need_pyzmq!();
    let text =
        config(&listener("zmq", "127.0.0.1", ""), "").replace("port_value: 0", &format!("port_value: {}", free_port()));
    let first = start(1, &text);
    let mut client = super::spawn(&first, "echo_reconnects", &[], &[]);
    client.wait_for_log("answered 10", super::PATIENCE);
    // The log of the client is in its folder.
    let mut first = first;
    first.kill();
    let _second: ProxyProcess = start(1, &text);
    assert_eq!(client.wait(super::PATIENCE), Some(0), "{}", client.log());
}

/// What a connection that does nothing costs the proxy.
#[test]
fn idle_connections_are_small() {
    const CONNECTIONS: u64 = 1000;
    let proxy = start(1, &config(&listener("zmq", "127.0.0.1", ""), ""));
    let address = proxy.listener("zmq");
    let connect = || {
        let mut client = Client::connect(address);
        // 2.0, a REQ without identity; the answer is our greeting.
        client.send(b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\x03\0\0").unwrap();
        assert_eq!(client.read_exactly(14).0.len(), 14);
        client
    };
    // What is made once is not counted.
    let mut clients: Vec<Client> = (0..200).map(|_| connect()).collect();
    let before = proxy.rss_anon_kib();
    clients.extend((0..CONNECTIONS).map(|_| connect()));
    assert_eq!(proxy.stat("zmq.cx_active"), CONNECTIONS + 200);
    let each = (proxy.rss_anon_kib() - before) * 1024 / CONNECTIONS;
    println!("{each} octets each");
    // An unoptimised build has larger futures; what the bench measures is in docs/performance.md.
    assert!(each <= 3072, "{each} octets for each connection");
}
