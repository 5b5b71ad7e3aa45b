//! The quick start: `conf/simple.yaml` over two servers, `conf/line.yaml`, and what a client sees when a server is gone.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Client, Load, Origin, Process, ProxyProcess, free_port, get, is_listening, temp_dir, wait_until};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_sota-mesh");

/// A file of `conf`, its listener on a port that the system picks.
fn conf(name: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)).unwrap();
    text.replace("0.0.0.0", "127.0.0.1").replace("8888", "0")
}

/// `conf/simple.yaml` over these two servers instead of 8889 and 8890.
fn simple(first: u16, second: u16) -> String {
    conf("simple.yaml").replace("8889", &first.to_string()).replace("8890", &second.to_string())
}

#[test]
fn requests_alternate_at_any_concurrency() {
    for concurrency in ["1", "3"] {
        let (first, second) = (Origin::named("first"), Origin::named("second"));
        let config = simple(first.port(), second.port());
        let proxy = ProxyProcess::start_with(BINARY, &config, &["--concurrency", concurrency]);
        let address = proxy.listener("listener_https");

        let mut client = Client::connect(address);
        let answers: Vec<String> =
            (0..6).map(|_| client.exchange("GET / HTTP/1.1\r\nhost: test.example\r\n\r\n").text()).collect();
        assert!(answers.windows(2).all(|pair| pair[0] != pair[1]), "concurrency {concurrency}: {answers:?}");
        assert!(answers.iter().all(|name| name == "first" || name == "second"), "{answers:?}");

        let before = first.requests();
        for _ in 0..4 {
            assert_eq!(get(address, "/sleep").text(), "first");
        }
        assert_eq!(first.requests(), before + 4);
        for _ in 0..4 {
            assert_eq!(get(address, "/bar").text(), "second");
        }
        assert_eq!(first.requests(), before + 4);
    }
}

#[test]
fn lines_are_answered() {
    let proxy = ProxyProcess::start(BINARY, &conf("line.yaml"));
    let mut client = Client::connect(proxy.listener("listener_line"));
    client.send("a=1&b=2\n").unwrap();
    let expected = br#"receive:url.Values{"a":[]string{"1"}, "b":[]string{"2"}}"#;
    let (answer, _) = client.read_exactly(expected.len() + 2);
    assert_eq!(String::from_utf8_lossy(&answer), format!("{}\r\n", String::from_utf8_lossy(expected)));
}

#[test]
fn nobody_listening_is_503_and_no_route_is_404() {
    let (first, second) = (Origin::named("first"), Origin::named("second"));
    let config = simple(first.port(), second.port()).replace("domains: [\"*\"]", "domains: [\"test.example\"]");
    drop(second);
    let proxy = ProxyProcess::start(BINARY, &config);
    let address = proxy.listener("listener_https");

    let refused = get(address, "/bar");
    assert_eq!(refused.status(), 503);
    assert!(
        refused.text().starts_with(
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
        ),
        "{refused:?}"
    );
    assert_eq!(get(address, "/sleep").text(), "first");

    let unknown = Client::connect(address).exchange("GET / HTTP/1.1\r\nhost: other.example\r\n\r\n");
    assert_eq!((unknown.status(), unknown.body.len()), (404, 0));
}

/// Every request gets the right body or a local reply of 503: none is lost, cut or answered wrongly.
#[test]
fn a_server_that_dies_under_load_costs_local_replies_only() {
    let (first, second) = (Origin::named("server"), Origin::named("server"));
    let proxy = ProxyProcess::start(BINARY, &simple(first.port(), second.port()));
    let mut load = Load::get("/", 4, Duration::from_secs(20)).rate(400);
    load.expected_body = Some(b"server".to_vec());
    let running = load.start(proxy.listener("listener_https"));
    wait_until("both serve", Duration::from_secs(10), || first.requests() > 20 && second.requests() > 20);
    drop(second);
    let seen = first.requests();
    wait_until("the other serves on", Duration::from_secs(10), || first.requests() > seen + 100);
    let outcomes = running.stop();

    let local = outcomes.statuses.get(&503).copied().unwrap_or(0);
    assert_eq!(outcomes.ok() + local, outcomes.total(), "{outcomes:?}");
    assert_eq!(outcomes.wrong_body, 0, "{outcomes:?}");
    assert!(outcomes.ok() > 100 && local > 0, "{outcomes:?}");
}

/// The demo server, which the tests of its own package build; alone, this test builds it.
fn demo_server() -> PathBuf {
    let binary = Path::new(BINARY).with_file_name("httpserver");
    if !binary.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo).args(["build", "-q", "-p", "sota-samples", "--bin", "httpserver"]).status();
        assert!(built.is_ok_and(|status| status.success()) && binary.exists(), "{}", binary.display());
    }
    binary
}

#[test]
fn the_demo_servers_answer_in_turn() {
    let folder = temp_dir();
    let servers = [free_port(), free_port()].map(|port| {
        let mut command = Command::new(demo_server());
        command.arg(port.to_string());
        let process = Process::spawn(command, &folder.path().join(port.to_string()));
        wait_until("the server listens", Duration::from_secs(10), || is_listening((Ipv4Addr::LOCALHOST, port).into()));
        (port, process)
    });
    let [(first, one), (second, two)] = servers;
    let proxy = ProxyProcess::start(BINARY, &simple(first, second));
    let address = proxy.listener("listener_https");
    for _ in 0..3 {
        let answer = get(address, "/");
        assert_eq!(answer.status(), 200);
        // A line of JSON with the request's fields, as the proxy sends them.
        let text = answer.text();
        assert!(text.starts_with('{') && text.contains("X-Request-Id"), "{text}");
    }
    let printed = |process: &Process| process.log().matches("X-Request-Id").count();
    wait_until("both have printed their requests", Duration::from_secs(10), || printed(&one) + printed(&two) == 3);
    assert!(printed(&one) >= 1 && printed(&two) >= 1, "{} {}", printed(&one), printed(&two));
    for (path, process) in [("/sleep", &one), ("/bar", &two)] {
        let before = printed(process);
        assert_eq!(get(address, path).status(), 200);
        wait_until("its server has printed it", Duration::from_secs(10), || printed(process) == before + 1);
    }
}
