//! The peers of the kit against each other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Client, End, EnvoyProcess, Load, Origin, Process, Reply, get, wait_until};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: sota_testkit::alloc::Counting = sota_testkit::alloc::Counting;

#[test]
fn an_origin_keeps_connections_and_records() {
    let origin = Origin::http(|request| Reply::ok(format!("{} {}", request.method(), request.target())));
    let mut client = Client::connect(origin.address());
    let first = client.exchange("GET /a HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((first.status(), first.text().as_str(), first.end), (200, "GET /a", End::Complete));
    let second = client
        .exchange("POST /b HTTP/1.1\r\nHost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n");
    assert_eq!(second.text(), "POST /b");
    let seen = origin.last();
    assert_eq!((seen.body.as_slice(), seen.trailers.value("t"), seen.nth), (&b"abc"[..], Some("1"), 1));
    assert_eq!((origin.connections(), origin.requests()), (1, 2));
    assert!(origin.recorded()[0].starts_with(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST /b"));
    drop(client);
    wait_until("the connection ended", Duration::from_secs(2), || origin.open_connections() == 0);
}

#[test]
fn a_client_tells_the_ends_apart() {
    let origin = Origin::http(|request| {
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
        match request.target() {
            "/truncated" => Reply::raw(half).close(),
            "/reset" => Reply::raw(half).wait(Duration::from_millis(50)).reset(),
            "/closed" => Reply::raw("HTTP/1.1 200 OK\r\n\r\nall").close(),
            "/silent" => Reply::silence(),
            "/nothing" => Reply::default().close(),
            "/garbage" => Reply::raw("220 mail\r\n\r\n"),
            "/early" => Reply::raw("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
            _ => Reply::status(404, ""),
        }
    });
    for (path, status, end, body) in [
        ("/truncated", 200, End::Truncated, "half"),
        ("/reset", 200, End::Reset, "half"),
        ("/closed", 200, End::Complete, "all"),
        ("/nothing", 0, End::Closed, ""),
        ("/garbage", 0, End::Malformed, ""),
        ("/else", 404, End::Complete, ""),
    ] {
        let response = get(origin.address(), path);
        assert_eq!((response.end, response.text().as_str()), (end, body), "{path}");
        assert_eq!(response.status(), status, "{path}");
    }
    let early = get(origin.address(), "/early");
    assert_eq!((early.status(), early.informational[0].fields.value("link")), (204, Some("x")));
    let mut patient = Client::connect(origin.address()).patience(Duration::from_millis(100));
    assert_eq!(patient.exchange("GET /silent HTTP/1.1\r\n\r\n").end, End::TimedOut);
}

#[test]
fn a_dropped_origin_resets_and_refuses() {
    let origin = Origin::raw(|mut peer| peer.until_closed());
    let address = origin.address();
    let mut client = Client::connect(address);
    wait_until("accepted", Duration::from_secs(2), || origin.connections() == 1);
    drop(origin);
    assert!(matches!(client.read_to_end().1, End::Reset | End::Closed));
    assert!(Client::try_connect(address).is_err());
    let again = Origin::http_on(address, |_| Reply::ok("back"));
    assert_eq!(get(again.address(), "/").text(), "back");
}

#[test]
fn a_load_counts_every_outcome() {
    let origin = Origin::http(|request| match request.nth % 4 {
        0 | 1 => Reply::ok("right"),
        2 => Reply::ok("wrong"),
        _ => Reply::status(503, "").close(),
    });
    let mut load = Load::get("/", 3, Duration::from_secs(5)).requests_each(8);
    load.expected_body = Some(b"right".to_vec());
    let outcomes = load.run(origin.address());
    assert_eq!((outcomes.total(), outcomes.ok(), outcomes.wrong_body), (24, 18, 6), "{outcomes:?}");
    assert_eq!((outcomes.failed(), outcomes.statuses[&503]), (12, 6), "{outcomes:?}");
    let nobody = { Origin::named("gone").address() };
    assert_eq!(Load::get("/", 1, Duration::from_secs(1)).requests_each(2).run(nobody).refused, 2);
}

#[test]
fn a_rate_is_kept() {
    let origin = Origin::named("a");
    let outcomes = Load::get("/", 4, Duration::from_millis(500)).rate(200).run(origin.address());
    assert!((80..=104).contains(&outcomes.ok()), "{outcomes:?}");
}

#[test]
fn a_process_ends_with_its_handle() {
    let folder = sota_testkit::temp_dir();
    let mut command = Command::new("sh");
    command.args(["-c", "echo started; exec sleep 60"]);
    let mut process = Process::spawn(command, &folder.path().join("log"));
    process.wait_for_log("started", Duration::from_secs(5));
    assert!(process.rss_kib() > 0 && process.open_files() >= 3);
    process.terminate();
    assert_eq!(process.wait(Duration::from_secs(5)), None, "ended by a signal");

    let mut command = Command::new("sh");
    command.args(["-c", "exit 3"]);
    assert_eq!(Process::spawn(command, &folder.path().join("log2")).wait(Duration::from_secs(5)), Some(3));
}

#[test]
fn the_allocator_counts_its_own_thread_only() {
    let other = thread::spawn(|| (0..1000).map(|n| vec![0_u8; n + 1]).collect::<Vec<_>>());
    let (kept, taken) = sota_testkit::alloc::count(|| {
        let first = vec![1_u8; 100];
        let second = Box::new(2_u64);
        (first, second)
    });
    assert_eq!((taken.allocations, taken.bytes), (2, 108));
    drop((kept, other.join().unwrap()));
    assert!(sota_testkit::alloc::total().allocations >= 1002);
}

#[test]
fn waiting_scripts_end_with_their_origin() {
    let origin = Origin::http(|_| Reply::default().wait(Duration::from_secs(60)));
    let mut client = Client::connect(origin.address());
    client.send("GET / HTTP/1.1\r\n\r\n").unwrap();
    wait_until("asked", Duration::from_secs(2), || origin.requests() == 1);
    let started = Instant::now();
    drop(origin);
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn envoy_is_started_and_asked() {
    let Some(binary) = EnvoyProcess::binary() else {
        sota_testkit::skip!("no Envoy in the virtual environment of the tree");
    };
    let origin = Origin::named("behind envoy");
    let config = format!(
        r#"
static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: front
          cluster: origin
  clusters:
  - name: origin
    type: STATIC
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}
"#,
        origin.port()
    );
    let envoy = EnvoyProcess::start(&binary, &config);
    assert_eq!(get(envoy.listener("front"), "/").text(), "behind envoy");
    envoy.wait_stat("tcp.front.downstream_cx_total", 1, Duration::from_secs(5));
    assert!(envoy.rss_kib() > envoy.rss_anon_kib() && envoy.cpu_time() > Duration::ZERO);
    assert_eq!(envoy.admin("/nonsense").status(), 404);
    let mut envoy = envoy;
    envoy.terminate();
    assert_eq!(envoy.wait(Duration::from_secs(10)), Some(0));
}
