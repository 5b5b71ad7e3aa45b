//! How requests are spread over hosts that are new, or have several addresses.

use super::{BINARY, LIMIT, answers, config, wait_healthy};
use sota_testkit::{Origin, ProxyProcess, Reply, SynBlackHole, get, wait_until};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

/// A host that is well again gets its part little by little.
fn begins_slowly(policy: &str) {
    let status = Arc::new(AtomicU16::new(500));
    let shared = Arc::clone(&status);
    let a = Origin::named("a");
    let b = Origin::http(move |request| match request.target() {
        "/hc" => Reply::status(shared.load(Ordering::SeqCst), ""),
        _ => Reply::ok("b"),
    });
    let fields = format!(
        "{policy}: {{slow_start_config: {{slow_start_window: 3s}}}}\n    \
         common_lb_config: {{healthy_panic_threshold: {{value: 0}}}}\n    \
         health_checks: [{{timeout: 1s, interval: 0.1s, no_traffic_interval: 0.1s, unhealthy_threshold: 1, \
         healthy_threshold: 1, http_health_check: {{path: /hc}}}}]"
    );
    // The origin `a` answers checks too.
    let config = config("", &fields, &[a.address(), b.address()]);
    let proxy = ProxyProcess::start_with(BINARY, &config, &["--concurrency", "1"]);
    assert_eq!(answers(&proxy, 3), ["a"; 3]);
    // Nothing shows when the window of `a` is over.
    std::thread::sleep(Duration::from_secs(3));
    status.store(200, Ordering::SeqCst);
    wait_healthy(&proxy, 2);
    let of_b = |requests| answers(&proxy, requests).iter().filter(|name| *name == "b").count();
    let first = of_b(40);
    assert!((1..=12).contains(&first), "{first} of 40 at the beginning");
    wait_until("both have the same", LIMIT, || of_b(40) == 20);
}

#[test]
fn slow_start_with_round_robin() {
    begins_slowly("round_robin_lb_config");
}

#[test]
fn slow_start_with_least_request() {
    begins_slowly("lb_policy: LEAST_REQUEST\n    least_request_lb_config");
}

#[test]
fn another_address_of_a_host_is_tried_when_one_does_not_answer() {
    let hole = SynBlackHole::new();
    let a = Origin::named("a");
    let more = format!(
        "}}}}, additional_addresses: [{{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}]}}}}]}}]}}",
        a.port()
    );
    let text = config("", "", &[hole.address()]).replace("}}}}]}]}", &more);
    assert!(text.contains("additional_addresses"), "{text}");
    let proxy = ProxyProcess::start(BINARY, &text);
    let began = Instant::now();
    assert_eq!(get(proxy.listener("main"), "/").text(), "a");
    assert!(began.elapsed() < LIMIT / 2);
    assert_eq!(proxy.stat("cluster.web.upstream_cx_connect_fail"), 0);
}

#[test]
fn a_cluster_of_the_dns_extension_has_hosts() {
    let a = Origin::named("a");
    let custom = "cluster_type: {name: envoy.clusters.dns, typed_config: {\"@type\": \
                  type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster, dns_lookup_family: V4_ONLY}}";
    let text = config("", custom, &[a.address()]).replace("    type: STATIC\n", "");
    let proxy = ProxyProcess::start(BINARY, &text);
    assert_eq!(answers(&proxy, 1), ["a"]);
}
