//! Active health checks.

use super::{BINARY, LIMIT, answers, config, flags, wait_flags, wait_healthy};
use sota_testkit::{Client, Origin, ProxyProcess, Reply, get, wait_until};
use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

/// What all checks here have in common.
const QUICK: &str =
    "timeout: 2s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 2, healthy_threshold: 2";

/// An origin that answers checks on `/hc` with a status, and everything else with its name.
fn origin(name: &'static str, status: &Arc<AtomicU16>) -> Origin {
    let status = Arc::clone(status);
    Origin::http(move |request| match request.target() {
        "/hc" => Reply::status(status.load(Ordering::SeqCst), ""),
        _ => Reply::ok(name),
    })
}

#[test]
fn hosts_come_and_go_by_what_they_answer() {
    let (good, changing) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(503)));
    let (a, b) = (origin("a", &good), origin("b", &changing));
    let log = sota_testkit::temp_dir();
    let path = log.path().join("events");
    let checks = format!(
        "health_checks: [{{{QUICK}, event_log_path: {}, http_health_check: {{path: /hc, retriable_statuses: [{{start: 429, end: 430}}], \
         request_headers_to_add: [{{header: {{key: x-of, value: \"%UPSTREAM_HOST%\"}}}}]}}}}]",
        path.display()
    );
    let proxy = ProxyProcess::start(BINARY, &config("", &checks, &[a.address(), b.address()]));
    // The process is ready when every host was checked once.
    assert_eq!(
        (flags(&proxy, a.address()), flags(&proxy, b.address())),
        ("healthy".into(), "/failed_active_hc".into())
    );
    assert_eq!(answers(&proxy, 6), ["a"; 6]);
    let seen = a.seen().into_iter().find(|request| request.target() == "/hc").unwrap();
    assert_eq!((seen.method(), seen.header("host"), seen.header("user-agent")), ("GET", Some("web"), Some("Envoy/HC")));
    assert_eq!(seen.header("x-of"), Some(&*a.address().to_string()));
    assert!(proxy.stat("cluster.web.health_check.attempt") >= 2);
    assert_eq!(proxy.stat("cluster.web.health_check.network_failure"), 0);

    changing.store(200, Ordering::SeqCst);
    wait_flags(&proxy, b.address(), "healthy");
    wait_healthy(&proxy, 2);
    assert_eq!(answers(&proxy, 6), ["a", "a", "a", "b", "b", "b"]);
    proxy.wait_stat("cluster.web.health_check.healthy", 2, LIMIT);
    assert_eq!(proxy.stat("cluster.web.membership_healthy"), 2);

    // One that is retriable is counted, others are believed at once.
    changing.store(429, Ordering::SeqCst);
    wait_flags(&proxy, b.address(), "/failed_active_hc");
    wait_healthy(&proxy, 1);
    assert_eq!(answers(&proxy, 4), ["a"; 4]);
    let mut events = String::new();
    wait_until("events are written", LIMIT, || {
        events = fs::read_to_string(&path).unwrap();
        events.matches("eject_unhealthy_event").count() == 1
    });
    assert!(events.contains("\"add_healthy_event\":{\"first_check\":true}"), "{events}");
    assert!(
        events.contains(
            "\"health_check_failure_event\":{\"failure_type\":\"ACTIVE\",\"first_check\":true,\"http_status_code\":503}"
        ),
        "{events}"
    );
    assert!(
        events.contains("\"eject_unhealthy_event\":{\"failure_type\":\"ACTIVE\",\"http_status_code\":429}"),
        "{events}"
    );
    // One connection for all checks, beside those of requests.
    assert!(b.connections() <= 4, "{}", b.connections());
}

#[test]
fn a_host_that_hangs_or_is_gone_fails_after_the_threshold() {
    let good = Arc::new(AtomicU16::new(200));
    let a = origin("a", &good);
    let hangs = Origin::http(|_| Reply::silence());
    let gone = SocketAddr::from(([127, 0, 0, 1], sota_testkit::free_port()));
    let checks = "health_checks: [{timeout: 0.1s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 1, \
                  healthy_threshold: 1, http_health_check: {path: /hc}}]\n    \
                  common_lb_config: {healthy_panic_threshold: {value: 0}}";
    let proxy = ProxyProcess::start(BINARY, &config("", checks, &[hangs.address(), gone, a.address()]));
    wait_flags(&proxy, hangs.address(), "/failed_active_hc/active_hc_timeout");
    assert_eq!(flags(&proxy, gone), "/failed_active_hc");
    assert_eq!(answers(&proxy, 3), ["a"; 3]);
    assert!(proxy.stat("cluster.web.health_check.network_failure") >= 2);
    let json = proxy.admin("/clusters?format=json").text();
    assert!(json.contains("\"active_hc_timeout\": true"), "{json}");

    // Nobody is left and there is no panic: no host.
    good.store(500, Ordering::SeqCst);
    wait_flags(&proxy, a.address(), "/failed_active_hc");
    wait_healthy(&proxy, 0);
    assert_eq!(get(proxy.listener("main"), "/").status(), 503);
}

#[test]
fn panic_uses_hosts_that_fail_and_new_ones_may_be_left_out_of_it() {
    let (good, bad) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(500)));
    let hosts = [origin("a", &good), origin("b", &bad), origin("c", &bad)];
    let addresses: Vec<_> = hosts.iter().map(Origin::address).collect();
    let checks = format!("health_checks: [{{{QUICK}, http_health_check: {{path: /hc}}}}]");
    let proxy = ProxyProcess::start(BINARY, &config("", &checks, &addresses));
    assert_eq!(answers(&proxy, 6), ["a", "a", "b", "b", "c", "c"], "a third is healthy, which is panic");
    assert_eq!(proxy.stat("cluster.web.lb_healthy_panic"), 6);
    bad.store(200, Ordering::SeqCst);
    wait_flags(&proxy, addresses[2], "healthy");
    wait_flags(&proxy, addresses[1], "healthy");
    wait_healthy(&proxy, 3);
    assert_eq!(answers(&proxy, 3), ["a", "b", "c"]);
    assert_eq!(proxy.stat("cluster.web.lb_healthy_panic"), 6);
}

#[test]
fn degraded_hosts_are_used_when_others_are_not_enough() {
    let degraded = Origin::http(|request| match request.target() {
        "/hc" => Reply::raw("HTTP/1.1 200 OK\r\nx-envoy-degraded: \r\ncontent-length: 0\r\n\r\n"),
        _ => Reply::ok("degraded"),
    });
    let good = Arc::new(AtomicU16::new(200));
    let a = origin("a", &good);
    let checks = format!("health_checks: [{{{QUICK}, http_health_check: {{path: /hc}}}}]");
    let proxy = ProxyProcess::start(BINARY, &config("", &checks, &[degraded.address(), a.address()]));
    wait_flags(&proxy, degraded.address(), "/degraded_active_hc");
    assert_eq!(proxy.stat("cluster.web.membership_degraded"), 1);
    // Half of the hosts are healthy: 70 of 100 requests go to them.
    let answers = answers(&proxy, 200);
    let of_degraded = answers.iter().filter(|name| *name == "degraded").count();
    assert!((30..90).contains(&of_degraded), "{of_degraded}");
    good.store(500, Ordering::SeqCst);
    wait_flags(&proxy, a.address(), "/failed_active_hc");
    wait_healthy(&proxy, 0);
    assert_eq!(super::answers(&proxy, 3), ["degraded"; 3]);
}

#[test]
fn an_answer_that_says_so_takes_a_host_out_at_once() {
    let leaving = Origin::http(|request| match request.target() {
        "/hc" => Reply::status(200, ""),
        _ => Reply::raw(
            "HTTP/1.1 200 OK\r\nx-envoy-immediate-health-check-fail: true\r\ncontent-length: 7\r\n\r\nleaving",
        ),
    });
    let a = origin("a", &Arc::new(AtomicU16::new(200)));
    // So that no check brings it back meanwhile.
    let checks = "health_checks: [{timeout: 1s, interval: 600s, no_traffic_interval: 600s, unhealthy_threshold: 1, \
                  healthy_threshold: 1, http_health_check: {path: /hc}}]";
    let proxy = ProxyProcess::start(BINARY, &config("", checks, &[leaving.address(), a.address()]));
    assert_eq!(answers(&proxy, 2), ["a", "leaving"]);
    wait_flags(&proxy, leaving.address(), "/failed_active_hc/excluded_via_immediate_hc_fail");
    wait_healthy(&proxy, 1);
    assert_eq!(answers(&proxy, 4), ["a"; 4]);
    assert_eq!(proxy.stat("cluster.web.health_check.passive_failure"), 1);
    assert_eq!(proxy.stat("cluster.web.membership_excluded"), 1);
}

#[test]
fn octets_over_tcp_are_compared_with_what_is_expected() {
    let answer = Arc::new(Mutex::new("..PO..NG.."));
    let of_peer = Arc::clone(&answer);
    let host = Origin::raw(move |mut peer| {
        loop {
            match peer.read_some(4) {
                Ok(octets) if octets.is_empty() => return,
                Err(_) => return,
                Ok(_) => {
                    let answer = *of_peer.lock().unwrap();
                    if peer.send(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            }
        }
    });
    // PING; PO and NG.
    let checks = "health_checks: [{timeout: 0.2s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 1, \
                  healthy_threshold: 1, tcp_health_check: {send: {text: \"50494E47\"}, \
                  receive: [{text: \"504F\"}, {text: \"4e47\"}]}}]";
    let proxy = ProxyProcess::start(BINARY, &config("", checks, &[host.address()]));
    assert_eq!(flags(&proxy, host.address()), "healthy");
    wait_until("checks go on", LIMIT, || proxy.stat("cluster.web.health_check.success") >= 5);
    assert_eq!(host.connections(), 1, "one connection serves all checks");
    *answer.lock().unwrap() = "NGPO";
    wait_flags(&proxy, host.address(), "/failed_active_hc/active_hc_timeout");
    *answer.lock().unwrap() = "PONG";
    wait_flags(&proxy, host.address(), "healthy");
}

#[test]
fn a_connection_is_enough_where_nothing_is_expected_and_endpoints_choose_where() {
    let traffic = Origin::named("traffic");
    let checked = Origin::raw(|mut peer| peer.until_closed());
    let checks = "health_checks: [{timeout: 1s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 1, \
                  healthy_threshold: 1, tcp_health_check: {}}]";
    let text = config("", checks, &[traffic.address()])
        .replace("}}}}]}]}", &format!("}}}}, health_check_config: {{port_value: {}}}}}}}]}}]}}", checked.port()));
    assert!(text.contains("health_check_config"), "{text}");
    let proxy = ProxyProcess::start(BINARY, &text);
    assert_eq!(flags(&proxy, traffic.address()), "healthy");
    assert_eq!(answers(&proxy, 1), ["traffic"]);
    assert!(checked.connections() >= 1);
    drop(checked);
    wait_flags(&proxy, traffic.address(), "/failed_active_hc");
}

#[test]
fn intervals_without_traffic_are_longer() {
    let good = Arc::new(AtomicU16::new(200));
    let a = origin("a", &good);
    let checks = "health_checks: [{timeout: 1s, interval: 0.05s, no_traffic_interval: 600s, unhealthy_threshold: 1, \
                  healthy_threshold: 1, http_health_check: {path: /hc}}]";
    let proxy = ProxyProcess::start(BINARY, &config("", checks, &[a.address()]));
    assert_eq!(answers(&proxy, 1), ["a"]);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(proxy.stat("cluster.web.health_check.attempt"), 1, "the interval began before the first request");
}

#[test]
fn a_host_that_discovery_drops_stays_until_it_fails() {
    let (good, leaving) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
    let (a, b) = (origin("a", &good), origin("b", &leaving));
    let folder = sota_testkit::temp_dir();
    let (clusters, endpoints) = (folder.path().join("cds.yaml"), folder.path().join("eds.yaml"));
    let write_endpoints = |hosts: &[&Origin]| {
        let host = |host: &&Origin| {
            format!(
                "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}",
                host.port()
            )
        };
        let hosts: Vec<_> = hosts.iter().map(host).collect();
        let text = format!(
            "resources:\n- {{\"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, cluster_name: web, \
             endpoints: [{{lb_endpoints: [{}]}}]}}\n",
            hosts.join(", ")
        );
        let next = endpoints.with_extension("next");
        fs::write(&next, text).unwrap();
        fs::rename(&next, &endpoints).unwrap();
    };
    write_endpoints(&[&a, &b]);
    let cluster = format!(
        "resources:\n- {{\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: web, type: EDS, \
         eds_cluster_config: {{eds_config: {{resource_api_version: V3, path_config_source: {{path: {}}}}}}}, \
         common_lb_config: {{healthy_panic_threshold: {{value: 0}}}}, \
         health_checks: [{{{QUICK}, http_health_check: {{path: /hc}}}}]}}\n",
        endpoints.display()
    );
    fs::write(&clusters, cluster).unwrap();
    let text = config("", "", &[]);
    let listeners = text.split("  clusters:\n").next().unwrap();
    let listeners = listeners.replace("virtual_hosts:", "validate_clusters: false\n            virtual_hosts:");
    let text = format!(
        "dynamic_resources: {{cds_config: {{resource_api_version: V3, path_config_source: {{path: {}}}}}}}\n{listeners}",
        clusters.display()
    );
    let proxy = ProxyProcess::start(BINARY, &text);
    // The cluster was not served before its hosts were checked.
    assert_eq!(answers(&proxy, 4), ["a", "a", "b", "b"]);
    write_endpoints(&[&a]);
    wait_flags(&proxy, b.address(), "/pending_dynamic_removal");
    assert_eq!(answers(&proxy, 4), ["a", "a", "b", "b"]);
    leaving.store(500, Ordering::SeqCst);
    wait_flags(&proxy, b.address(), "absent");
    assert_eq!(answers(&proxy, 2), ["a"; 2]);
    // One that comes is not used before it was checked, and good at once then.
    leaving.store(200, Ordering::SeqCst);
    write_endpoints(&[&a, &b]);
    wait_flags(&proxy, b.address(), "healthy");
    wait_healthy(&proxy, 2);
    assert_eq!(answers(&proxy, 2), ["a", "b"]);
}

#[test]
fn connections_of_tcp_proxies_end_with_the_health_of_their_host() {
    let status = Arc::new(AtomicU16::new(200));
    let checked = origin("checked", &status);
    let host = Origin::raw(|mut peer| {
        while let Ok(octets) = peer.read_some(64) {
            if octets.is_empty() || peer.send(&octets).is_err() {
                return;
            }
        }
    });
    let text = format!(
        "static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: web
  clusters:
  - name: web
    type: STATIC
    close_connections_on_host_health_failure: true
    health_checks: [{{{QUICK}, http_health_check: {{path: /hc}}}}]
    load_assignment: {{cluster_name: web, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: \
         {{address: 127.0.0.1, port_value: {}}}}}, health_check_config: {{port_value: {}}}}}}}]}}]}}
",
        host.port(),
        checked.port()
    );
    let proxy = ProxyProcess::start(BINARY, &text);
    let mut client = Client::connect(proxy.listener("main"));
    client.send("ping").unwrap();
    assert_eq!(client.read_exactly(4).0, b"ping");
    status.store(500, Ordering::SeqCst);
    let (rest, _) = client.read_to_end();
    assert!(rest.is_empty());
    assert_eq!(flags(&proxy, host.address()), "/failed_active_hc");
}
