//! The ZeroMQ filter against libzmq, by way of pyzmq, and against raw sockets: each test starts a proxy and runs
//! scenarios of `peers.py`, which are clients and workers alike.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bridge;
mod broker;
mod docs;
mod echo;
mod limits;
mod request_proxy;
mod security;

use sota_testkit::{Process, ProxyProcess, free_port};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long a scenario may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

fn python() -> Option<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    let has_zmq = Command::new(&python).args(["-c", "import zmq; assert zmq.has('curve')"]).output();
    if !has_zmq.is_ok_and(|done| done.status.success()) {
        return None;
    }
    let mut command = Command::new(python);
    command.arg(root.join("tests/zmq/peers.py"));
    Some(command)
}

/// Skips the test where there is no pyzmq.
macro_rules! need_pyzmq {
    () => {
        if crate::python().is_none() {
            sota_testkit::skip!("no pyzmq in .venv");
        }
    };
}
use need_pyzmq;

/// A proxy whose listener has a zmq filter, and ports for the workers of its cluster.
struct Mesh {
    proxy: ProxyProcess,
    workers: Vec<u16>,
}

impl Mesh {
    /// The filter with these fields (in YAML's flow style, with a comma behind each), and a cluster `workers` of so many
    /// hosts on ports that are free yet.
    fn start(concurrency: usize, fields: &str, workers: usize) -> Self {
        let workers: Vec<u16> = (0..workers).map(|_| free_port()).collect();
        let clusters = cluster("workers", &workers);
        Self { proxy: start(concurrency, &config(&listener("zmq", "127.0.0.1", fields), &clusters)), workers }
    }

    /// Runs a scenario to its end, which has to be a good one.
    #[track_caller]
    fn run(&self, scenario: &str, arguments: &[&str]) {
        run(&self.proxy, scenario, &self.workers, arguments);
    }
}

/// Starts a proxy with such a filter and runs a scenario.
#[track_caller]
fn mesh(concurrency: usize, fields: &str, workers: usize, scenario: &str) {
    Mesh::start(concurrency, fields, workers).run(scenario, &[]);
}

fn listener(name: &str, address: &str, fields: &str) -> String {
    filter(name, address, "sota.filters.network.zmq", fields)
}

/// A listener with this filter.
fn filter(name: &str, address: &str, filter: &str, fields: &str) -> String {
    format!(
        "  - name: {name}
    address: {{socket_address: {{address: \"{address}\", port_value: 0}}}}
    filter_chains:
    - filters:
      - name: zmq
        typed_config: {{{fields} \"@type\": type.sota.com/{filter}}}
"
    )
}

fn cluster(name: &str, ports: &[u16]) -> String {
    let endpoint = |port: &u16| {
        format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}")
    };
    let endpoints: Vec<_> = ports.iter().map(endpoint).collect();
    format!(
        "  - {{name: {name}, type: STATIC, connect_timeout: 1s, load_assignment: {{cluster_name: {name}, endpoints: \
         [{{lb_endpoints: [{}]}}]}}}}\n",
        endpoints.join(", ")
    )
}

fn config(listeners: &str, clusters: &str) -> String {
    format!("static_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}")
}

fn start(concurrency: usize, config: &str) -> ProxyProcess {
    ProxyProcess::start_with(env!("CARGO_BIN_EXE_sota-mesh"), config, &["--concurrency", &concurrency.to_string()])
}

/// Runs a scenario against the listener `zmq`.
#[track_caller]
fn run(proxy: &ProxyProcess, scenario: &str, workers: &[u16], arguments: &[&str]) {
    let mut process = spawn(proxy, scenario, workers, arguments);
    let code = process.wait(PATIENCE);
    assert_eq!(code, Some(0), "{scenario} {arguments:?}: {}\n--- proxy:\n{}", process.log(), proxy.log());
}

#[track_caller]
fn spawn(proxy: &ProxyProcess, scenario: &str, workers: &[u16], arguments: &[&str]) -> Process {
    let mut command = python().unwrap();
    let listener =
        proxy.admin("/listeners").text().lines().find_map(|line| Some(line.strip_prefix("zmq::")?.to_owned()));
    let port = listener.unwrap().rsplit(':').next().unwrap().to_owned();
    let workers: Vec<_> = workers.iter().map(ToString::to_string).collect();
    command
        .arg(scenario)
        .arg(port)
        .arg(proxy.admin_address().port().to_string())
        .arg(workers.join(","))
        .args(arguments);
    Process::spawn(command, &proxy.folder().join(format!("{scenario}.log")))
}
