//! The limits of the system: what happens when there are no file descriptors left, and how connections are spread.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Client, ProxyProcess, wait_until};
use std::process::Command;
use std::time::Duration;

const CONFIG: &str = "static_resources:
  listeners:
  - name: echoing
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.echo
";

/// Whether the other side returns what it is sent.
fn echoes(client: &mut Client) -> bool {
    client.send("ping").is_ok() && client.read_exactly(4).0 == b"ping"
}

#[test]
fn accepting_pauses_without_file_descriptors_and_recovers() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 80 && exec \"$0\" start \"$@\"", env!("CARGO_BIN_EXE_sota-mesh")]);
    let proxy = ProxyProcess::launch(command, CONFIG, &["--concurrency", "1"]);
    let address = proxy.listener("echoing");
    let mut first = Client::connect(address);
    assert!(echoes(&mut first));

    let mut others: Vec<Client> = (0..100).map(|_| Client::connect(address)).collect();
    wait_until("every descriptor is used", Duration::from_secs(10), || proxy.open_files() >= 80);
    let before = proxy.cpu_time();
    std::thread::sleep(Duration::from_millis(500));
    let spent = proxy.cpu_time() - before;
    assert!(spent < Duration::from_millis(150), "spins: {spent:?} of 500 ms");
    assert!(echoes(&mut first), "a connection that was there suffers");

    // With room again those that wait in the queue are served.
    let mut last = others.pop().unwrap();
    others.clear();
    assert!(echoes(&mut last));
    let stats = proxy.admin("/stats").text();
    let errors =
        stats.lines().filter_map(|line| line.split_once(".downstream_cx_accept_error: ")?.1.parse::<u64>().ok());
    assert!(errors.sum::<u64>() > 0, "{stats}");
}

#[test]
fn an_exact_balance_is_exact() {
    let config =
        CONFIG.replace("    filter_chains:", "    connection_balance_config: {exact_balance: {}}\n    filter_chains:");
    let proxy = ProxyProcess::start_with(env!("CARGO_BIN_EXE_sota-mesh"), &config, &["--concurrency", "3"]);
    let address = proxy.listener("echoing");
    let mut clients: Vec<Client> = (0..30).map(|_| Client::connect(address)).collect();
    assert!(clients.iter_mut().all(echoes));
    let text = proxy.admin("/stats?filter=worker_.*downstream_cx_active").text();
    let counts: Vec<_> = text.lines().filter_map(|line| Some(line.split_once(": ")?.1)).collect();
    assert_eq!(counts, ["10"; 3], "{text}");
}
