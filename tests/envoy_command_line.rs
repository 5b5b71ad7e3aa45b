//! Started as if it were Envoy: its command line as Istio's pilot-agent gives it, and what such a bootstrap holds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Client, Process, ProxyProcess, temp_dir};
use std::{fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration};

const BINARY: &str = env!("CARGO_BIN_EXE_sota-mesh");
const LIMIT: Duration = Duration::from_secs(20);

/// What Istio's bootstrap has beside the usual, with a limit small enough to reach.
const BOOTSTRAP: &str = r#"
application_log_config: {log_format: {text_format: "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t"}}
node: {id: sidecar~1.2.3.4~foo~bar, cluster: istio-proxy, locality: {}, metadata: {ISTIO_VERSION: "1.32", LABELS: {a: b}}}
layered_runtime:
  layers:
  - {name: global config, static_layer: {re2.max_program_size.error_level: "32768"}}
  - {name: admin, admin_layer: {}}
bootstrap_extensions:
- name: envoy.bootstrap.internal_listener
  typed_config:
    "@type": type.googleapis.com/udpa.type.v1.TypedStruct
    type_url: type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener
    value: {buffer_size_kb: 64}
overload_manager:
  resource_monitors:
  - name: envoy.resource_monitors.global_downstream_max_connections
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
      max_active_downstream_connections: 2
static_resources:
  listeners:
  - name: limited
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains: [{filters: [{name: envoy.filters.network.echo}]}]
  - name: unlimited
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    bypass_overload_manager: true
    filter_chains: [{filters: [{name: envoy.filters.network.echo}]}]
"#;

/// The options of pilot-agent that do not depend on the file.
const AGENT: &[&str] = &[
    "--drain-time-s",
    "45",
    "--drain-strategy",
    "immediate",
    "--local-address-ip-version",
    "v4",
    "--file-flush-interval-msec",
    "1000",
    "--disable-hot-restart",
    "--allow-unknown-static-fields",
    "-l",
    "info",
    "--component-log-level",
    "misc:error",
    "--concurrency",
    "1",
];

/// The program under the name `envoy`.
fn envoy(folder: &Path) -> Command {
    let link = folder.join("envoy");
    symlink(BINARY, &link).unwrap();
    Command::new(link)
}

fn echoes(client: &mut Client) -> bool {
    client.send("ping").is_ok() && client.read_exactly(4).0 == b"ping"
}

/// Runs `envoy` to its end; exit code and what it printed.
#[track_caller]
fn run(bootstrap: Option<&str>, arguments: &[&str]) -> (Option<i32>, String) {
    let folder = temp_dir();
    let mut command = envoy(folder.path());
    if let Some(text) = bootstrap {
        let file = folder.path().join("bootstrap.json");
        fs::write(&file, text).unwrap();
        command.arg("-c").arg(file);
    }
    command.args(arguments);
    let mut process = Process::spawn(command, &folder.path().join("log"));
    (process.wait(LIMIT), process.log())
}

#[test]
fn started_as_pilot_agent_does() {
    let folder = temp_dir();
    let more = "{\"node\":{\"metadata\":{\"LABELS\":{\"c\":\"d\"}}},\"static_resources\":{\"listeners\":[{\"name\":\"more\",\
        \"address\":{\"socket_address\":{\"address\":\"127.0.0.1\",\"port_value\":0}},\
        \"filter_chains\":[{\"filters\":[{\"name\":\"envoy.filters.network.echo\"}]}]}]}}";
    let arguments = [AGENT, &["--config-yaml", more, "--service-zone", "here"]].concat();
    let mut proxy = ProxyProcess::launch(envoy(folder.path()), BOOTSTRAP, &arguments);

    // The listener of --config-yaml is there beside those of the file, and the node is merged.
    assert!(echoes(&mut Client::connect(proxy.listener("more"))));
    let node = proxy.admin("/config_dump").text();
    for part in ["sidecar~1.2.3.4~foo~bar", "\"ISTIO_VERSION\": \"1.32\"", "\"c\": \"d\"", "\"zone\": \"here\""] {
        assert!(node.contains(part), "{part}: {node}");
    }
    assert!(!node.contains("\"a\": \"b\""), "a value of the metadata is replaced whole: {node}");

    // The overload manager's limit counts all connections, and holds where the listener does not say otherwise.
    let limit = Duration::from_secs(10);
    proxy.wait_stat("server.total_connections", 0, limit);
    let mut held: Vec<Client> = (0..2).map(|_| Client::connect(proxy.listener("limited"))).collect();
    assert!(held.iter_mut().all(echoes));
    assert!(!echoes(&mut Client::connect(proxy.listener("limited"))), "a third connection is served");
    assert!(echoes(&mut Client::connect(proxy.listener("unlimited"))));
    let stats = proxy.admin("/stats?filter=downstream_global_cx_overflow").text();
    assert!(stats.lines().any(|line| line.ends_with("overflow: 1")), "{stats}");

    // What pilot-agent asks until it is ready.
    let state = proxy.admin("/stats?usedonly&filter=^(server\\.state|listener_manager\\.workers_started)").text();
    assert!(state.contains("listener_manager.workers_started: 1\n") && state.contains("server.state: 0\n"), "{state}");
    assert_eq!(proxy.admin_post("/drain_listeners?inboundonly&graceful&skip_exit").text(), "OK\n");

    drop(held);
    let started = std::time::Instant::now();
    proxy.terminate();
    assert_eq!(proxy.wait(LIMIT), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10), "SIGTERM ends an Envoy soon");
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("serving with")).unwrap_or_else(|| panic!("{log}"));
    let fields: Vec<_> = line.split('\t').collect();
    assert!(
        matches!(fields.as_slice(), [time, "info", source, _, thread]
            if time.ends_with('Z') && source.starts_with("envoy main ") && thread.starts_with("thread=")),
        "{line}"
    );
}

#[test]
fn a_bootstrap_is_only_checked() {
    let json = "{\"static_resources\":{\"clusters\":[]},\"unheard_of\":1}";
    let (code, text) = run(Some(json), &["--mode", "validate", "--allow-unknown-static-fields"]);
    assert!(code == Some(0) && text.contains("OK") && text.contains("unheard_of"), "{code:?} {text}");
    let (code, text) = run(Some(json), &["--mode", "validate"]);
    assert!(code == Some(1) && text.contains("unheard_of"), "{code:?} {text}");
    let (code, text) = run(None, &["--mode", "validate", "--config-yaml", "admin: {}"]);
    assert!(code == Some(0), "without a file: {text}");
    let (code, text) = run(Some("{}"), &["--mode", "validate", "--config-yaml", "admin: {addres: 1}"]);
    assert!(code == Some(1) && text.contains("addres") && text.contains("--config-yaml"), "{code:?} {text}");
    let (code, text) = run(Some("{}"), &["--mode", "validate", "--config-yaml", "a: [", "-l", "off"]);
    assert!(code == Some(1) && text.contains("--config-yaml") && !text.contains("panicked"), "{code:?} {text}");
}

#[test]
fn what_is_refused_has_a_name() {
    for (bootstrap, reason) in [
        (
            "bootstrap_extensions: [{name: x, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]",
            "\"x\"",
        ),
        ("overload_manager: {actions: [{name: a, triggers: [{name: b, threshold: {value: 0.5}}]}]}", "actions"),
        ("application_log_config: {log_format: {text_format: \"%q\"}}", "%q"),
    ] {
        let (code, text) = run(Some(bootstrap), &["--mode", "validate"]);
        assert!(code == Some(1) && text.contains(reason), "{reason}: {code:?} {text}");
    }
    let both = "application_log_config: {log_format: {text_format: \"%v\"}}";
    let (code, text) = run(Some(both), &["--log-format", "%v"]);
    assert!(code == Some(1) && text.contains("only one"), "{code:?} {text}");
    let (code, text) = run(None, &["--version"]);
    assert!(code == Some(0) && text.contains("envoy  version: sota-mesh/"), "{code:?} {text}");
    assert_eq!(run(None, &[]).0, Some(2));
}

#[test]
fn log_lines_as_json() {
    let config = format!(
        "application_log_config: {{log_format: {{json_format: {{level: \"%l\", message: \"%j\"}}}}}}\n{}",
        "static_resources: {}\n"
    );
    let folder = temp_dir();
    let mut proxy = ProxyProcess::launch(envoy(folder.path()), &config, &["--concurrency", "1"]);
    proxy.terminate();
    assert_eq!(proxy.wait(LIMIT), Some(0));
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("serving with")).unwrap_or_else(|| panic!("{log}"));
    let object: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(object["level"], "info");
}
