//! The overload manager, with a pressure that the test puts into a file. What is expected is what Envoy 1.40 does with the
//! same configuration.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Client, ProxyProcess, get, temp_dir, wait_until};
use std::{fs, path::Path, process::Command, time::Duration};

const BINARY: &str = env!("CARGO_BIN_EXE_sota-mesh");
const LIMIT: Duration = Duration::from_secs(20);
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const INJECTED: &str = "envoy.resource_monitors.injected_resource";

fn injected(folder: &Path) -> String {
    format!(
        "{{name: {INJECTED}, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig, filename: \
         {}/pressure}}}}",
        folder.display()
    )
}

fn config(monitors: &str, actions: &str) -> String {
    format!(
        "overload_manager:
  refresh_interval: 0.05s
  resource_monitors: [{monitors}]
  actions: [{actions}]
static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          local_reply_config:
            mappers:
            - filter: {{status_code_filter: {{comparison: {{op: GE, value: {{default_value: 400, runtime_key: unused}}}}}}}}
              headers_to_add: [{{header: {{key: x-cause, value: \"%SOTA_CAUSE%\"}}}}]
          route_config: {{virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}},
            direct_response: {{status: 200, body: {{inline_string: fine}}}}}}]}}]}}
          http_filters:
          - name: router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"
    )
}

fn action(name: &str, trigger: &str) -> String {
    format!("{{name: envoy.overload_actions.{name}, triggers: [{{name: {INJECTED}, {trigger}}}]}}")
}

struct Mesh {
    folder: sota_testkit::TempDir,
    proxy: ProxyProcess,
}

impl Mesh {
    fn start(actions: &str) -> Self {
        let folder = temp_dir();
        fs::write(folder.path().join("pressure"), "0").unwrap();
        let config = config(&injected(folder.path()), actions);
        let proxy = ProxyProcess::start_with(BINARY, &config, &["--concurrency", "1"]);
        Self { folder, proxy }
    }

    /// Sets the pressure, and waits until it was seen.
    fn press(&self, percent: u64) {
        let (new, file) = (self.folder.path().join("new"), self.folder.path().join("pressure"));
        fs::write(&new, format!("{}\n", percent as f64 / 100.0)).unwrap();
        fs::rename(new, file).unwrap();
        self.proxy.wait_stat(&format!("overload.{INJECTED}.pressure"), percent, LIMIT);
    }

    fn action(&self, name: &str, stat: &str) -> u64 {
        self.proxy.stat(&format!("overload.envoy.overload_actions.{name}.{stat}"))
    }
}

#[test]
fn requests_are_refused_while_the_pressure_is_high() {
    let mesh = Mesh::start(&action("stop_accepting_requests", "threshold: {value: 0.9}"));
    let mut client = Client::connect(mesh.proxy.listener("front"));
    assert_eq!(client.exchange(GET).status(), 200);
    mesh.press(95);
    assert_eq!(
        (mesh.action("stop_accepting_requests", "active"), mesh.action("stop_accepting_requests", "scale_percent")),
        (1, 100)
    );
    let refused = client.exchange(GET);
    assert_eq!((refused.status(), refused.text().as_str()), (503, "envoy overloaded"));
    assert!(refused.header("x-cause").unwrap().contains("overload_manager"), "{refused:?}");
    assert_eq!(mesh.proxy.stat("http.front.downstream_rq_overload_close"), 1);
    mesh.press(20);
    assert_eq!(client.exchange(GET).text(), "fine", "the same connection");
    assert_eq!(mesh.action("stop_accepting_requests", "active"), 0);
}

#[test]
fn a_scaled_action_is_taken_in_part() {
    let trigger = "scaled: {scaling_threshold: 0.5, saturation_threshold: 1.0}";
    let mesh = Mesh::start(&action("stop_accepting_requests", trigger));
    mesh.press(75);
    assert_eq!(
        (mesh.action("stop_accepting_requests", "active"), mesh.action("stop_accepting_requests", "scale_percent")),
        (0, 50)
    );
    let mut client = Client::connect(mesh.proxy.listener("front"));
    let refused = (0..400).filter(|_| client.exchange(GET).status() == 503).count();
    assert!((120..280).contains(&refused), "{refused} of 400");
}

#[test]
fn connections_end_with_their_response() {
    let mesh = Mesh::start(&action("disable_http_keepalive", "threshold: {value: 0.9}"));
    mesh.press(90);
    let mut client = Client::connect(mesh.proxy.listener("front"));
    let last = client.exchange(GET);
    assert_eq!((last.status(), last.header("connection")), (200, Some("close")));
    assert_eq!(mesh.proxy.stat("http.front.downstream_cx_overload_disable_keepalive"), 1);
    mesh.press(10);
    assert_eq!(Client::connect(mesh.proxy.listener("front")).exchange(GET).header("connection"), None);
}

#[test]
fn connections_are_rejected_or_wait() {
    let both = action("reject_incoming_connections", "threshold: {value: 0.5}")
        + ", "
        + &action("stop_accepting_connections", "threshold: {value: 0.9}");
    let mesh = Mesh::start(&both);
    let address = mesh.proxy.listener("front");
    mesh.press(60);
    let mut rejected = Client::connect(address);
    let _ = rejected.send(GET);
    assert!(rejected.read_exactly(1).0.is_empty());
    wait_until("counted", LIMIT, || mesh.proxy.stat("listener.127.0.0.1_0.downstream_cx_overload_reject") == 1);
    mesh.press(95);
    let mut waits = Client::connect(address);
    waits.send(GET).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(mesh.proxy.stat("http.front.downstream_rq_total"), 0);
    mesh.press(0);
    assert_eq!(waits.read_response(false).text(), "fine");
}

#[test]
fn memory_and_processors_are_measured() {
    let monitor = |name: &str, message: &str, fields: &str| {
        format!(
            "{{name: {name}, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.resource_monitors.{message}{fields}}}}}"
        )
    };
    let monitors = [
        monitor("heap", "fixed_heap.v3.FixedHeapConfig", ", max_heap_size_bytes: 1000000"),
        monitor("cpu", "cpu_utilization.v3.CpuUtilizationConfig", ""),
        monitor("absent", "injected_resource.v3.InjectedResourceConfig", ", filename: /nowhere/pressure"),
    ]
    .join(", ");
    let actions = "{name: envoy.overload_actions.shrink_heap, triggers: [{name: heap, threshold: {value: 0.95}}]}";
    let proxy = ProxyProcess::start_with(BINARY, &config(&monitors, actions), &["--concurrency", "1"]);
    wait_until("measured", LIMIT, || proxy.stat("overload.envoy.overload_actions.shrink_heap.shrink_count") > 1);
    assert!(proxy.stat("overload.heap.pressure") > 100, "a megabyte is less than any process has");
    assert!(proxy.stat("overload.cpu.pressure") <= 100 && proxy.stat("overload.cpu.failed_updates") == 0);
    assert!(proxy.stat("overload.absent.failed_updates") > 0);
    assert_eq!(proxy.log().matches("cannot measure absent").count(), 1, "told once");
    assert_eq!(get(proxy.listener("front"), "/").text(), "fine");
}

#[test]
fn mistakes_are_told() {
    let folder = temp_dir();
    let monitor = injected(folder.path());
    for (monitors, actions, reason) in [
        (
            monitor.clone(),
            action("no_such", "threshold: {value: 0.9}"),
            "the action \"envoy.overload_actions.no_such\"",
        ),
        (monitor.clone(), action("reduce_timeouts", "threshold: {value: 0.9}"), "reduce_timeouts\" is not supported"),
        (String::new(), action("shrink_heap", "threshold: {value: 0.9}"), "there is no monitor"),
        (monitor.clone(), action("shrink_heap", "threshold: {value: 1.5}"), "value"),
        (
            monitor.clone(),
            action("shrink_heap", "scaled: {scaling_threshold: 0.9, saturation_threshold: 0.8}"),
            "must be below",
        ),
        (format!("{monitor}, {monitor}"), String::new(), "there are two monitors"),
    ] {
        let path = folder.path().join("x.yaml");
        fs::write(&path, config(&monitors, &actions)).unwrap();
        let checked = Command::new(BINARY).args(["validate", "-c"]).arg(path).output().unwrap();
        let told = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(!checked.status.success() && told.contains(reason), "{actions}: {told}");
    }
}
