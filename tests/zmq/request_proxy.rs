//! Requests with one answer each: `sota.filters.network.zmq_request_proxy`.

use super::{cluster, config, filter, need_pyzmq, run, start};
use sota_testkit::free_port;
use std::process::Command;

const LOG: &str = "access_log: [{name: file, typed_config: {\"@type\": \
    type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: LOG, log_format: \
    {text_format_source: {inline_string: \"%UPSTREAM_CLUSTER% %RESPONSE_FLAGS% %UPSTREAM_REQUEST_ATTEMPT_COUNT%\\n\"}}}}],";

/// Runs a scenario; `{..}` of the fields is what stands between the braces of the filter's configuration.
#[track_caller]
fn mesh(fields: &str, workers: usize, scenario: &str) {
    let workers: Vec<u16> = (0..workers).map(|_| free_port()).collect();
    let folder = sota_testkit::temp_dir();
    let log = folder.path().join("access.log");
    let fields = format!("stat_prefix: x, {fields}").replace("LOG", log.to_str().unwrap());
    let listener = filter("zmq", "127.0.0.1", "sota.filters.network.zmq_request_proxy", &fields);
    let clusters = cluster("workers", &workers) + &cluster("nobody", &[free_port()]);
    let proxy = start(1, &config(&listener, &clusters));
    run(&proxy, scenario, &workers, &[log.to_str().unwrap()]);
}

#[test]
fn requests_are_answered_in_their_envelopes() {
    need_pyzmq!();
    let routes = "routes: [{match: [{name: frame0, prefix: 'lost.'}], cluster: nobody}, {cluster: workers}],";
    mesh(&format!("heartbeat_interval: 100ms, {routes} {LOG}"), 2, "proxied_requests");
}

#[test]
fn equal_frames_go_to_one_worker() {
    need_pyzmq!();
    let listener = "sota.filters.network.zmq_request_proxy";
    let fields = "stat_prefix: x, routes: [{cluster: workers, hash: frame1}],";
    let workers = [free_port(), free_port(), free_port()];
    let clusters = cluster("workers", &workers).replace("type: STATIC", "type: STATIC, lb_policy: MAGLEV");
    run(&start(2, &config(&filter("zmq", "127.0.0.1", listener, fields), &clusters)), "proxied_by_hash", &workers, &[]);
}

#[test]
fn a_request_may_go_to_another_worker() {
    need_pyzmq!();
    mesh("timeout: 600ms, idempotent: true, routes: [{cluster: workers, retries: 2}],", 2, "proxied_retries");
    mesh("timeout: 600ms, routes: [{cluster: workers, retries: 2}],", 1, "proxied_once");
}

#[test]
fn both_sides_prove_who_they_are() {
    need_pyzmq!();
    mesh(
        "security: {plain: {users: [{username: me, password: {inline_string: secret}}]}}, \
         upstream_security: {plain: {username: mesh, password: {inline_string: other}}}, routes: [{cluster: workers}],",
        1,
        "proxied_secured",
    );
}

#[test]
fn whoever_speaks_something_else_is_closed() {
    need_pyzmq!();
    mesh("max_message_bytes: 1000, routes: [{cluster: workers}],", 1, "proxied_garbage");
}

#[test]
fn mistakes_are_told() {
    for (fields, told) in [
        ("stat_prefix: x, routes: [{cluster: nobody}],", "nobody"),
        ("stat_prefix: x, routes: [],", "a route is needed"),
        ("stat_prefix: x, max_message_bytes: 0, routes: [{cluster: workers}],", "max_message_bytes: must be above 0"),
        ("stat_prefix: x, securty: {}, routes: [{cluster: workers}],", "unknown field \"securty\""),
        ("stat_prefix: x, security: {}, routes: [{cluster: workers}],", "security: "),
    ] {
        let listener = filter("zmq", "127.0.0.1", "sota.filters.network.zmq_request_proxy", fields);
        let folder = sota_testkit::temp_dir();
        let path = folder.path().join("zmq.yaml");
        std::fs::write(&path, config(&listener, &cluster("workers", &[1]))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sota-mesh"));
        let checked = command.args(["validate", "-c"]).arg(path).output().unwrap();
        let text = String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
        assert!(!checked.status.success() && text.contains(told), "{fields}: {text}");
    }
}
