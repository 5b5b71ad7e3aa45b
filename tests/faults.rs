//! Faults that the whole process survives: bodies that nobody reads, clients that go, a frozen process, names that move.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{
    Client, DnsAnswer, DnsServer, Load, Origin, ProxyProcess, Reply, allow_open_files, free_port, get, wait_until,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

const BINARY: &str = env!("CARGO_BIN_EXE_sota-mesh");
const LIMIT: Duration = Duration::from_secs(20);
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
/// SIGSTOP and SIGCONT as Linux numbers them.
const STOP: i32 = 19;
const CONTINUE: i32 = 18;

/// A listener `main` before a cluster `origin`; `manager` are more fields of the connection manager.
fn config(manager: &str, cluster: &str) -> String {
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
          {manager}
          route_config:
            virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, route: {{cluster: origin}}}}]}}]
          http_filters: [{{name: envoy.filters.http.router}}]
  clusters:
  - name: origin
    circuit_breakers: {{thresholds: [{{max_connections: 5000, max_pending_requests: 5000, max_requests: 5000}}]}}
    {cluster}
"
    )
}

/// The fields of a cluster with this one endpoint.
fn endpoint(host: &str, port: u16) -> String {
    format!(
        "load_assignment: {{cluster_name: origin, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: \
         {{address: {host}, port_value: {port}}}}}}}}}]}}]}}"
    )
}

#[test]
fn bodies_that_nobody_reads_are_not_kept() {
    const CLIENTS: u64 = 8;
    let origin = Origin::raw(|mut peer| {
        let _ = peer.read_head();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1_u64 << 30);
        let mut is_open = peer.send(head.as_bytes()).is_ok();
        while is_open {
            is_open = peer.send(&[b'x'; 64 * 1024]).is_ok();
        }
    });
    let proxy = ProxyProcess::start(BINARY, &config("", &endpoint("127.0.0.1", origin.port())));
    let address = proxy.listener("main");
    let before = proxy.rss_anon_kib();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(address)).collect();
    clients.iter_mut().for_each(|client| client.send(GET).unwrap());
    let received = || proxy.stat("cluster.origin.upstream_cx_rx_bytes_total");
    let mut last = 0;
    wait_until("nothing moves any more", LIMIT, || {
        std::thread::sleep(Duration::from_millis(200));
        let now = received();
        std::mem::replace(&mut last, now) == now && now > 0
    });
    let grown = proxy.rss_anon_kib().saturating_sub(before);
    // Twice the buffer limit of a connection, which is 1 MiB.
    assert!(grown < CLIENTS * 2 * 1024, "{grown} KiB for {CLIENTS} clients");
    assert!(clients.iter_mut().all(|client| client.read_exactly(1 << 20).0.len() == 1 << 20), "they go on");
    drop(clients);
    proxy.wait_stat("http.http.downstream_cx_active", 0, LIMIT);
    proxy.wait_stat("cluster.origin.upstream_rq_active", 0, LIMIT);
}

#[test]
fn clients_that_go_leave_nothing_behind() {
    let origin = Origin::http(|_| Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nx").until_closed());
    let proxy = ProxyProcess::start(BINARY, &config("", &endpoint("127.0.0.1", origin.port())));
    let address = proxy.listener("main");
    let go = |rounds: usize| {
        for round in 0..rounds {
            let mut client = Client::connect(address);
            let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc";
            client.send(["", "GET / HT", GET, post][round % 4]).unwrap();
            if round % 8 == 2 {
                client.read_exactly(20);
            }
            if round % 3 == 0 { client.reset() } else { drop(client) }
        }
        for gauge in [
            "http.http.downstream_cx_active",
            "http.http.downstream_rq_active",
            "cluster.origin.upstream_rq_active",
            "cluster.origin.upstream_rq_pending_active",
        ] {
            proxy.wait_stat(gauge, 0, LIMIT);
        }
    };
    go(200);
    let (anonymous, files) = (proxy.rss_anon_kib(), proxy.open_files());
    go(10_000);
    // Some connections to the origin that were made for clients who went wait in the pool.
    proxy.wait_settled(anonymous, files + 8, LIMIT);
    assert_eq!(proxy.stat("server.panics"), 0);
}

#[test]
fn idle_connections_cost_little_and_end() {
    let count = (allow_open_files(12_000) - 500).min(10_000);
    let manager = "common_http_protocol_options: {idle_timeout: 20s}";
    let origin = Origin::named("one");
    let proxy = ProxyProcess::start(BINARY, &config(manager, &endpoint("127.0.0.1", origin.port())));
    let address = proxy.listener("main");
    assert_eq!(get(address, "/").status(), 200);
    let (files, anonymous) = (proxy.open_files(), proxy.rss_anon_kib());
    let connect = || {
        let mut client = Client::connect(address);
        assert_eq!(client.exchange(GET).status(), 200);
        client
    };
    let clients: Vec<Client> = (0..count).map(|_| connect()).collect();
    let count = count as u64;
    assert_eq!(proxy.stat("http.http.downstream_cx_active"), count);
    let grown = proxy.rss_anon_kib().saturating_sub(anonymous);
    let each = grown * 1024 / count;
    println!("{each} octets for each of {count} connections");
    assert!(each < 8 * 1024, "{each} octets for each connection");
    proxy.wait_stat("http.http.downstream_cx_idle_timeout", count, 2 * LIMIT);
    proxy.wait_stat("http.http.downstream_cx_active", 0, LIMIT);
    drop(clients);
    // The allocator keeps some of it for the next ones; files: the connections to the origin.
    proxy.wait_settled(anonymous + grown / 2, files + 2, LIMIT);
}

#[test]
fn all_that_run_finish_after_the_signal() {
    let count = (allow_open_files(12_000) / 2 - 100).min(1000);
    let origin = Origin::http(|_| {
        Reply::default().wait(Duration::from_secs(4)).send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow")
    });
    let arguments = ["--concurrency", "2", "--drain-delay-s", "0"];
    let cluster = endpoint("127.0.0.1", origin.port());
    let mut proxy = ProxyProcess::start_with(BINARY, &config("", &cluster), &arguments);
    let address = proxy.listener("main");
    let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(address)).collect();
    clients.iter_mut().for_each(|client| client.send(GET).unwrap());
    proxy.wait_stat("cluster.origin.upstream_rq_active", count as u64, LIMIT);
    proxy.terminate();
    for client in &mut clients {
        let response = client.read_response(false);
        assert_eq!((response.status(), response.text().as_str()), (200, "slow"));
    }
    assert_eq!(proxy.wait(LIMIT), Some(0));
}

#[test]
fn a_frozen_process_goes_on_where_it_was() {
    let origin = Origin::http(|request| {
        let wait = if request.target() == "/slow" { 1 } else { 0 };
        Reply::default().wait(Duration::from_secs(wait)).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    });
    let proxy = ProxyProcess::start(BINARY, &config("", &endpoint("127.0.0.1", origin.port())));
    let address = proxy.listener("main");
    let mut kept: Vec<Client> = (0..8).map(|_| Client::connect(address)).collect();
    assert!(kept.iter_mut().all(|client| client.exchange(GET).status() == 200));
    let mut running = Client::connect(address);
    running.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    proxy.wait_stat("cluster.origin.upstream_rq_active", 1, LIMIT);
    proxy.signal(STOP);
    std::thread::sleep(Duration::from_secs(2));
    proxy.signal(CONTINUE);
    assert_eq!(running.read_response(false).status(), 200);
    assert!(kept.iter_mut().all(|client| client.exchange(GET).status() == 200));
    assert_eq!((proxy.stat("cluster.origin.upstream_rq_timeout"), proxy.stat("server.panics")), (0, 0));
}

#[test]
fn refused_everywhere_is_told_at_once_and_costs_nothing() {
    let proxy = ProxyProcess::start(BINARY, &config("", &endpoint("127.0.0.1", free_port())));
    let mut client = Client::connect(proxy.listener("main"));
    let fastest = (0..20)
        .map(|_| {
            let asked = Instant::now();
            assert_eq!(client.exchange(GET).status(), 503);
            asked.elapsed()
        })
        .min();
    assert!(fastest.is_some_and(|time| time < Duration::from_millis(50)), "{fastest:?}");
    let before = proxy.cpu_time();
    std::thread::sleep(Duration::from_secs(1));
    let spent = proxy.cpu_time() - before;
    assert!(spent < Duration::from_millis(100), "{spent:?} in a second without requests");
}

#[test]
fn a_name_that_moves_under_load_costs_no_request() {
    let (one, two) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
    let first = Origin::named("same");
    let second = Origin::http_on(SocketAddr::from((two, first.port())), |_| Reply::ok("same"));
    let names = DnsServer::start(DnsAnswer::v4(&[one], 0));
    let cluster = format!(
        "type: STRICT_DNS
    dns_refresh_rate: 0.1s
    dns_lookup_family: V4_ONLY
    typed_dns_resolver_config:
      name: envoy.network.dns_resolver.cares
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
        resolvers: [{{socket_address: {{address: 127.0.0.1, port_value: {}}}}}]
        dns_resolver_options: {{no_default_search_domain: true}}
    {}",
        names.address().port(),
        endpoint("moving.test", first.port())
    );
    let proxy = ProxyProcess::start(BINARY, &config("", &cluster));
    let running = Load::get("/", 4, LIMIT).rate(200).start(proxy.listener("main"));
    for round in 0..6 {
        let (address, origin) = if round % 2 == 0 { (two, &second) } else { (one, &first) };
        let before = origin.requests();
        names.set(DnsAnswer::v4(&[address], 0));
        wait_until("requests go to the new address", LIMIT, || origin.requests() > before + 5);
        names.set([DnsAnswer::NxDomain, DnsAnswer::ServFail, DnsAnswer::Silence][round % 3].clone());
        std::thread::sleep(Duration::from_millis(200));
    }
    let outcomes = running.stop();
    assert_eq!(outcomes.ok(), outcomes.total(), "{outcomes:?}");
    assert!(outcomes.ok() > 100, "{outcomes:?}");
}
