//! The ZeroMQ filter against libzmq, by way of pyzmq, and against raw sockets: each test starts a proxy and runs one
//! scenario of `peers.py`, which is client and worker alike.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bridge;
mod broker;
mod echo;
mod limits;
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

/// A proxy with one listener, and ports for the workers of its clusters.
struct Mesh {
    proxy: ProxyProcess,
    workers: Vec<u16>,
}

impl Mesh {
    /// A listener whose zmq filter has this configuration (fields of YAML's flow style), and a cluster `workers` of so
    /// many hosts on ports that are free yet.
    fn start(concurrency: usize, fields: &str, workers: usize) -> Self {
        let workers: Vec<u16> = (0..workers).map(|_| free_port()).collect();
        let hosts: Vec<String> = workers.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        Self::start_with(concurrency, fields, workers, &format!("- {{name: workers, endpoints: [{}]}}", hosts.join(", ")))
    }

    fn start_with(concurrency: usize, fields: &str, workers: Vec<u16>, clusters: &str) -> Self {
        let config = format!(
            "listeners:
- name: zmq
  address: 127.0.0.1:0
  filters:
  - name: zmq
    config: {{{fields}}}
clusters:
- {{name: nobody, endpoints: []}}
{clusters}
"
        );
        Self { proxy: start(concurrency, &config), workers }
    }

    /// Runs a scenario to its end, which has to be a good one.
    #[track_caller]
    fn run(&self, scenario: &str) {
        self.run_with(scenario, &[]);
    }

    #[track_caller]
    fn run_with(&self, scenario: &str, arguments: &[&str]) {
        run(&self.proxy, "zmq", scenario, &self.workers, arguments);
    }
}

fn start(concurrency: usize, config: &str) -> ProxyProcess {
    // The admin address is added in Envoy's dialect.
    let config = config.replace("listeners:\n", "listeners:\n");
    ProxyProcess::start_with(env!("CARGO_BIN_EXE_sota-mesh"), &config, &["--concurrency", &concurrency.to_string()])
}

/// Runs a scenario against this listener.
#[track_caller]
fn run(proxy: &ProxyProcess, listener: &str, scenario: &str, workers: &[u16], arguments: &[&str]) {
    let mut command = python().unwrap();
    command.arg(scenario).arg(proxy.listener(listener).port().to_string()).arg(proxy.admin_address().port().to_string());
    command.arg(workers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")).args(arguments);
    let mut process = Process::spawn(command, &proxy.folder().join(format!("{scenario}.log")));
    let code = process.wait(PATIENCE);
    assert_eq!(code, Some(0), "{scenario} {arguments:?}: {}\n--- proxy:\n{}", process.log(), proxy.log());
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
