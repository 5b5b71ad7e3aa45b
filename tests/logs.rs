//! The logs of the whole process: what access logs say, rotation, and files that cannot be written.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Client, Process, ProxyProcess, get, temp_dir, wait_until};
use std::{fs, path::Path, process::Command, time::Duration};

const BINARY: &str = env!("CARGO_BIN_EXE_sota-mesh");
const LIMIT: Duration = Duration::from_secs(10);
/// SIGUSR1 as Linux numbers it.
const REOPEN: i32 = 10;

/// A listener `main` before a port where nobody listens, with an access log.
fn config(log: &Path) -> String {
    format!(
        "static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {}
              log_format: {{text_format: \"%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\\n\"}}
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
              - {{match: {{path: /here}}, direct_response: {{status: 200}}}}
              - {{match: {{path: /refused}}, route: {{cluster: refused}}}}
              - {{match: {{path: /empty}}, route: {{cluster: empty}}}}
          http_filters:
          - name: envoy.filters.http.router
  clusters:
  - name: refused
    load_assignment:
      cluster_name: refused
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}}}}}]}}]
  - name: empty
",
        log.display()
    )
}

/// Waits until the file has these lines and no other.
#[track_caller]
fn wait_for_lines(file: &Path, lines: &[&str]) {
    let read = || fs::read_to_string(file).unwrap_or_default();
    wait_until(&format!("{lines:?} in {}", file.display()), LIMIT, || read().lines().count() >= lines.len());
    let text = read();
    assert!(text.lines().zip(lines).all(|(line, wanted)| line.starts_with(wanted)), "{lines:?} are not:\n{text}");
    assert_eq!(text.lines().count(), lines.len(), "{text}");
}

#[test]
fn flags_tell_why_an_answer_is_ours() {
    let folder = temp_dir();
    let log = folder.path().join("access.log");
    let proxy = ProxyProcess::start_with(BINARY, &config(&log), &["--concurrency", "1"]);
    let address = proxy.listener("main");
    let answers = ["/refused", "/empty", "/nowhere", "/here"].map(|path| get(address, path).status());
    assert_eq!(answers, [503, 503, 404, 200]);
    let mut client = Client::connect(address);
    assert_eq!(client.exchange("GET /%0a HTTP/1.1\r\nhost: a\r\nx: \u{1}\r\n\r\n").status(), 400);
    wait_for_lines(
        &log,
        &[
            "/refused 503 UF upstream_reset_before_response_started{remote_connection_failure|",
            "/empty 503 UH no_healthy_upstream",
            "/nowhere 404 NR route_not_found",
            "/here 200 - direct_response",
            "- 400 DPE http1.",
        ],
    );
}

#[test]
fn logs_are_opened_again_after_rotation() {
    for by_signal in [true, false] {
        let folder = temp_dir();
        let [log, rotated, own, own_rotated] =
            ["access.log", "access.log.1", "own.log", "own.log.1"].map(|name| folder.path().join(name));
        let arguments = ["--concurrency", "1", "--log-path", own.to_str().unwrap()];
        let proxy = ProxyProcess::start_with(BINARY, &config(&log), &arguments);
        let address = proxy.listener("main");
        assert_eq!(get(address, "/here").status(), 200);
        wait_for_lines(&log, &["/here 200"]);
        fs::rename(&log, &rotated).unwrap();
        fs::rename(&own, &own_rotated).unwrap();
        if by_signal {
            proxy.signal(REOPEN);
        } else {
            assert_eq!(proxy.admin_post("/reopen_logs").text(), "OK\n");
        }
        wait_until("both files are there again", LIMIT, || log.exists() && own.exists());
        assert_eq!(get(address, "/nowhere").status(), 404);
        wait_for_lines(&log, &["/nowhere 404 NR"]);
        wait_for_lines(&rotated, &["/here 200"]);
        assert!(fs::read_to_string(&own_rotated).unwrap().contains("serving with 1 workers"));
    }
}

#[test]
fn a_log_that_cannot_be_opened_ends_the_start() {
    let folder = temp_dir();
    let file = folder.path().join("x.yaml");
    fs::write(&file, config(Path::new("/nowhere/access.log"))).unwrap();
    for arguments in [&[][..], &["--log-path", "/nowhere/own.log"]] {
        let mut command = Command::new(BINARY);
        command.args(["start", "--concurrency", "1", "-c"]).arg(&file).args(arguments);
        let mut process = Process::spawn(command, &folder.path().join("log"));
        assert_eq!(process.wait(LIMIT), Some(1), "{}", process.log());
        let path = if arguments.is_empty() { "/nowhere/access.log" } else { "/nowhere/own.log" };
        assert!(process.log().contains(path), "{}", process.log());
    }
}

#[test]
fn a_full_disk_costs_lines_and_no_requests() {
    let proxy = ProxyProcess::start(BINARY, &config(Path::new("/dev/full")));
    let mut client = Client::connect(proxy.listener("main"));
    for _ in 0..20 {
        assert_eq!(client.exchange("GET /here HTTP/1.1\r\nhost: a\r\n\r\n").status(), 200);
    }
    wait_until("failures are counted", LIMIT, || proxy.stat("filesystem.write_failed") > 0);
    assert!(proxy.stat("filesystem.write_failed") <= 20);
    let told = proxy.log().lines().filter(|line| line.contains("/dev/full")).count();
    assert_eq!(told, 1, "{}", proxy.log());
}

#[test]
fn the_log_of_a_listener_has_each_connection() {
    let folder = temp_dir();
    let log = folder.path().join("listener.log");
    let listener = |name: &str, filter: &str| {
        format!(
            "  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    access_log:
    - name: envoy.access_loggers.file
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
        path: {}
        log_format: {{text_format: \"{name} %BYTES_RECEIVED% %BYTES_SENT% %RESPONSE_FLAGS% %CONNECTION_TERMINATION_DETAILS%\\n\"}}
    filter_chains:
    - filters:
      - name: sota.filters.network.{filter}
",
            log.display()
        )
    };
    let config =
        format!("static_resources:\n  listeners:\n{}{}", listener("line", "simple_line"), listener("mq", "zmq"));
    let proxy = ProxyProcess::start(BINARY, &config);
    let mut client = Client::connect(proxy.listener("line"));
    client.send("a=1\r\n").unwrap();
    assert!(client.read_exactly(39).0.starts_with(b"receive:"));
    drop(client);
    wait_for_lines(&log, &["line 5 39 - -"]);
    let mut client = Client::connect(proxy.listener("mq"));
    client.send("GET / HTTP/1.1\r\n\r\n").unwrap();
    client.read_to_end();
    wait_for_lines(&log, &["line 5 39 - -", "mq 18 "]);
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.ends_with(" DPE not_zmtp\n"), "{text}");
}
