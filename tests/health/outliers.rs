//! Outlier detection.

use super::{BINARY, LIMIT, answers, config, flags, wait_flags, wait_healthy};
use sota_testkit::{Origin, ProxyProcess, Reply, get, wait_until};
use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

/// An origin that answers with this status.
fn origin(name: &'static str, status: u16) -> (Origin, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(status));
    let shared = Arc::clone(&status);
    (Origin::http(move |_| Reply::status(shared.load(Ordering::SeqCst), name)), status)
}

#[test]
fn failures_in_a_row_eject_and_time_brings_back() {
    let ((a, _), (b, status)) = (origin("a", 200), origin("b", 500));
    let log = sota_testkit::temp_dir();
    let path = log.path().join("outliers");
    let manager = format!("cluster_manager: {{outlier_detection: {{event_log_path: {}}}}}", path.display());
    let detection =
        "outlier_detection: {consecutive_5xx: 3, interval: 0.05s, base_ejection_time: 0.6s, max_ejection_percent: 50}";
    let proxy = ProxyProcess::start(BINARY, &config(&manager, detection, &[a.address(), b.address()]));
    assert_eq!(answers(&proxy, 6), ["a", "a", "a", "b", "b", "b"]);
    wait_flags(&proxy, b.address(), "/failed_outlier_check");
    wait_healthy(&proxy, 1);
    status.store(200, Ordering::SeqCst);
    assert_eq!(answers(&proxy, 4), ["a"; 4]);
    let count = |name: &str| proxy.stat(&format!("cluster.web.outlier_detection.ejections_{name}"));
    for name in ["active", "enforced_total", "enforced_consecutive_5xx", "detected_consecutive_5xx", "consecutive_5xx"]
    {
        assert_eq!(count(name), 1, "{name}");
    }
    assert_eq!(count("overflow"), 0);
    wait_flags(&proxy, b.address(), "healthy");
    wait_healthy(&proxy, 2);
    assert_eq!(answers(&proxy, 4), ["a", "a", "b", "b"]);
    proxy.wait_stat("cluster.web.outlier_detection.ejections_active", 0, LIMIT);
    let mut lines = String::new();
    wait_until("both events are written", LIMIT, || {
        lines = fs::read_to_string(&path).unwrap();
        lines.lines().count() == 2
    });
    let lines: Vec<_> = lines.lines().collect();
    assert!(lines[0].starts_with("{\"type\":\"CONSECUTIVE_5XX\",\"timestamp\":\""), "{}", lines[0]);
    let end = format!(
        "\"cluster_name\":\"web\",\"upstream_url\":\"{}\",\"action\":\"EJECT\",\"num_ejections\":1,\"enforced\":true,\
         \"eject_consecutive_event\":{{}}}}",
        b.address()
    );
    assert!(lines[0].ends_with(&end), "{}", lines[0]);
    assert!(lines[1].contains("\"action\":\"UNEJECT\",\"num_ejections\":1"), "{}", lines[1]);
}

#[test]
fn no_more_hosts_are_ejected_than_may_be() {
    let hosts = [origin("a", 503).0, origin("b", 503).0, origin("c", 200).0];
    let addresses: Vec<_> = hosts.iter().map(Origin::address).collect();
    let detection =
        "outlier_detection: {consecutive_5xx: 2, max_ejection_percent: 40, enforcing_consecutive_gateway_failure: 0}";
    let proxy = ProxyProcess::start_with(BINARY, &config("", detection, &addresses), &["--concurrency", "1"]);
    answers(&proxy, 6);
    proxy.wait_stat("cluster.web.outlier_detection.ejections_overflow", 1, LIMIT);
    assert_eq!(proxy.stat("cluster.web.outlier_detection.ejections_active"), 1);
    let ejected = addresses.iter().filter(|host| flags(&proxy, **host) == "/failed_outlier_check").count();
    assert_eq!(ejected, 1);
}

#[test]
fn failures_to_connect_count_apart_where_that_is_wanted() {
    let (a, _) = origin("a", 200);
    let gone = SocketAddr::from(([127, 0, 0, 1], sota_testkit::free_port()));
    let detection = "outlier_detection: {split_external_local_origin_errors: true, consecutive_local_origin_failure: 3, \
                     consecutive_5xx: 1, max_ejection_percent: 100}";
    let proxy = ProxyProcess::start(BINARY, &config("", detection, &[a.address(), gone]));
    let main = proxy.listener("main");
    let statuses: Vec<_> = (0..6).map(|_| get(main, "/").status()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 3, "{statuses:?}");
    wait_flags(&proxy, gone, "/failed_outlier_check");
    wait_healthy(&proxy, 1);
    let count = |name: &str| proxy.stat(&format!("cluster.web.outlier_detection.ejections_{name}"));
    assert_eq!((count("enforced_consecutive_local_origin_failure"), count("enforced_consecutive_5xx")), (1, 0));
    assert_eq!(answers(&proxy, 4), ["a"; 4]);
}

#[test]
fn rates_are_compared_at_the_end_of_an_interval() {
    let hosts = [origin("a", 200).0, origin("b", 200).0, origin("c", 500).0];
    let addresses: Vec<_> = hosts.iter().map(Origin::address).collect();
    let detection = "outlier_detection: {interval: 1s, enforcing_consecutive_5xx: 0, max_ejection_percent: 100, \
                     success_rate_minimum_hosts: 3, success_rate_request_volume: 5, success_rate_stdev_factor: 1000, \
                     failure_percentage_minimum_hosts: 3, failure_percentage_request_volume: 5, \
                     failure_percentage_threshold: 50, enforcing_failure_percentage: 0}";
    let proxy = ProxyProcess::start(BINARY, &config("", detection, &addresses));
    wait_until("the third is ejected", LIMIT, || {
        answers(&proxy, 30);
        flags(&proxy, addresses[2]) == "/failed_outlier_check"
    });
    wait_healthy(&proxy, 2);
    let count = |name: &str| proxy.stat(&format!("cluster.web.outlier_detection.ejections_{name}"));
    assert!(count("enforced_success_rate") == 1 && count("detected_failure_percentage") >= 1);
    assert!(count("detected_consecutive_5xx") >= 1 && count("enforced_consecutive_5xx") == 0);
    assert_eq!(answers(&proxy, 4), ["a", "a", "b", "b"]);
}

#[test]
fn a_check_that_succeeds_ends_an_ejection() {
    let (a, _) = origin("a", 200);
    let status = Arc::new(AtomicU16::new(500));
    let shared = Arc::clone(&status);
    let b = Origin::http(move |request| match request.target() {
        "/hc" => Reply::status(200, ""),
        _ => Reply::status(shared.load(Ordering::SeqCst), "b"),
    });
    let fields = "outlier_detection: {consecutive_5xx: 2, base_ejection_time: 300s, max_ejection_percent: 100}\n    \
                  health_checks: [{timeout: 1s, interval: 0.2s, no_traffic_interval: 0.2s, unhealthy_threshold: 1, \
                  healthy_threshold: 1, http_health_check: {path: /hc}}]";
    let proxy = ProxyProcess::start(BINARY, &config("", fields, &[a.address(), b.address()]));
    answers(&proxy, 4);
    proxy.wait_stat("cluster.web.outlier_detection.ejections_enforced_total", 1, LIMIT);
    status.store(200, Ordering::SeqCst);
    wait_flags(&proxy, b.address(), "healthy");
    wait_healthy(&proxy, 2);
    assert_eq!(answers(&proxy, 2), ["a", "b"]);
}
