//! The life of the process: draining on signals, and a configuration that changes while it is served.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_envoy::{CheckOptions, check, encode, parse_text};
use sota_testkit::{Client, Origin, Process, ProxyProcess, Reply, free_port, get, is_listening, temp_dir, wait_until};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

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
fn connections_without_requests_do_not_hold_up_the_end() {
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = host.local_addr().unwrap().port();
    // It greets, and keeps its connections until the test is over.
    let greeting = b"\xff\0\0\0\0\0\0\0\x01\x7f";
    thread::spawn(move || {
        let mut kept = Vec::new();
        for connection in host.incoming() {
            let mut connection = connection.unwrap();
            let mut greeted = [0; 10];
            connection.read_exact(&mut greeted).unwrap();
            connection.write_all(greeting).unwrap();
            kept.push(connection);
        }
    });
    let filters = [
        ("line", "{name: simple_line}"),
        ("echo", "{name: envoy.filters.network.echo}"),
        (
            "zmq",
            "{name: zmq, typed_config: {\"@type\": type.sota.com/sota.filters.network.zmq, passthrough_cluster: host}}",
        ),
    ];
    for (name, filter) in filters {
        let config = format!(
            "static_resources:
  listeners:
  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains: [{{filters: [{filter}]}}]
  clusters:
  - name: host
    load_assignment:
      cluster_name: host
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}
"
        );
        let mut proxy = ProxyProcess::start(BINARY, &config);
        let mut silent = Client::connect(proxy.listener(name));
        let mut idle = Client::connect(proxy.listener(name));
        let (asked, length) = match name {
            "line" => (&b"a=1\n"[..], "receive:url.Values{\"a\":[]string{\"1\"}}\r\n".len()),
            _ => (&greeting[..], 10),
        };
        idle.send(asked).unwrap();
        assert_eq!(idle.read_exactly(length).0.len(), length, "{name}");
        proxy.signal(INTERRUPT);
        assert_eq!(proxy.wait(LIMIT), Some(0), "{name}");
        assert!(idle.read_to_end().0.is_empty() && silent.read_to_end().0.is_empty());
    }
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

#[test]
fn what_only_a_restart_can_change_is_named_and_stays() {
    let node = |id: &str| format!("node: {{id: {id}, cluster: test}}\n{}", answering(&[("main", "one")]));
    let proxy = ProxyProcess::start_with(BINARY, &node("first"), &["--concurrency", "1"]);
    for (reload, id, is_named) in [(1, "second", true), (2, "first", false), (3, "third", true)] {
        proxy.rewrite_config(&node(id));
        proxy.signal(HANGUP);
        proxy.wait_stat("server.config_reload.success", reload, LIMIT);
        let info = proxy.admin("/server_info").text();
        assert!(info.contains("\"id\": \"first\""), "{info}");
        let named = info.contains("\"needs_restart\": [\n  \"node\"\n ]");
        assert_eq!((named, info.contains("needs_restart")), (is_named, is_named), "{info}");
    }
    assert!(proxy.log().contains("changes after a restart only: node"), "{}", proxy.log());
}

#[test]
fn what_does_not_finish_is_cut_when_the_shutdown_time_is_over() {
    let origin = Origin::http(|_| Reply::silence());
    let arguments = ["--concurrency", "1", "--drain-delay-s", "0", "--shutdown-time-s", "1"];
    let mut proxy = ProxyProcess::start_with(BINARY, &forwarding(origin.port()), &arguments);
    let mut running = Client::connect(proxy.listener("main"));
    running.send(GET).unwrap();
    wait_until("the request is on its way", LIMIT, || origin.requests() == 1);
    let told = Instant::now();
    proxy.terminate();
    assert_eq!(proxy.wait(LIMIT), Some(0));
    assert!(told.elapsed() >= Duration::from_secs(1), "{:?}", told.elapsed());
    assert!(proxy.log().contains("1 connections did not finish in time"), "{}", proxy.log());
    assert_ne!(running.read_response(false).status(), 200);
}

/// The answer to one line on a Unix socket that echoes.
fn echoed(path: &Path) -> Option<String> {
    let mut stream = UnixStream::connect(path).ok()?;
    stream.write_all(b"ping\n").ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line)
}

#[test]
fn a_unix_socket_that_nobody_answers_is_taken_over() {
    let folder = temp_dir();
    let path = folder.path().join("x.sock");
    let config = format!(
        "static_resources:
  listeners:
  - name: echoing
    address: {{pipe: {{path: {}}}}}
    filter_chains: [{{filters: [{{name: envoy.filters.network.echo}}]}}]
",
        path.display()
    );
    let mut first = ProxyProcess::start(BINARY, &config);
    assert_eq!(echoed(&path).as_deref(), Some("ping\n"));

    // Somebody answers: the second gives up and the first goes on.
    let file = folder.path().join("second.yaml");
    fs::write(&file, &config).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["start", "--concurrency", "1", "-c"]).arg(&file);
    let mut second = Process::spawn(command, &folder.path().join("log"));
    assert_eq!(second.wait(LIMIT), Some(1), "{}", second.log());
    assert!(second.log().contains("echoing") && second.log().contains("x.sock"), "{}", second.log());
    assert_eq!(echoed(&path).as_deref(), Some("ping\n"));

    // A killed process leaves its socket behind.
    first.kill();
    assert!(path.exists() && echoed(&path).is_none());
    let mut third = ProxyProcess::start(BINARY, &config);
    assert_eq!(echoed(&path).as_deref(), Some("ping\n"));
    third.signal(INTERRUPT);
    assert_eq!(third.wait(LIMIT), Some(0));
    assert!(!path.exists(), "an orderly end leaves nothing behind");
}

#[test]
fn a_bootstrap_in_protobuf_is_served() {
    let (folder, port) = (temp_dir(), free_port());
    let text = answering(&[("main", "from-bytes")]).replace("port_value: 0", &format!("port_value: {port}"));
    let options = CheckOptions {
        static_config: true,
        allow_unknown_fields: false,
        allow_unsupported: false,
        relaxed: false,
        claims: &|_| false,
    };
    const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
    let (node, findings) = check(&parse_text(text.as_bytes()).unwrap(), BOOTSTRAP, &options);
    assert!(!findings.is_fatal(), "{findings}");
    let file = folder.path().join("x.pb");
    fs::write(&file, encode(&node, BOOTSTRAP).unwrap()).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["start", "--concurrency", "1", "-c"]).arg(&file);
    let mut process = Process::spawn(command, &folder.path().join("log"));
    let address = (Ipv4Addr::LOCALHOST, port).into();
    wait_until("it listens", LIMIT, || is_listening(address));
    assert_eq!(get(address, "/").text(), "from-bytes");
    process.kill();

    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 3]).unwrap();
    let output = Command::new(BINARY).args(["validate", "-c"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}
