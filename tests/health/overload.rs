//! Less for hosts and proxies that have too much: filters that refuse connections and requests.

use super::{BINARY, LIMIT, config};
use sota_testkit::{Client, Origin, ProxyProcess, Reply, get, wait_until};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// The configuration with this network filter before the connection manager.
fn behind(filter: &str, origin: SocketAddr) -> String {
    let manager = "    - filters:\n";
    let text = config("", "", &[origin]).replace(manager, &format!("{manager}      - {filter}\n"));
    assert!(text.contains(filter));
    text
}

/// Whether a request is answered.
fn answers(client: &mut Client) -> bool {
    client.send(GET).is_ok() && client.read_response(false).head.start.get(1).is_some_and(|status| status == "200")
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once_or_later() {
    let a = Origin::named("a");
    for (delay, least) in [("", Duration::ZERO), (", delay: 0.5s", Duration::from_millis(400))] {
        let filter = format!(
            "{{name: limit, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit, stat_prefix: two, \
             max_connections: 2{delay}}}}}"
        );
        let proxy = ProxyProcess::start(BINARY, &behind(&filter, a.address()));
        let main = proxy.listener("main");
        let mut open = [Client::connect(main), Client::connect(main)];
        assert!(open.iter_mut().all(answers));
        let began = Instant::now();
        let mut more = Client::connect(main);
        let (octets, _) = more.read_to_end();
        assert!(octets.is_empty() && began.elapsed() >= least, "{:?}", began.elapsed());
        assert_eq!(proxy.stat("connection_limit.two.limited_connections"), 1);
        proxy.wait_stat("connection_limit.two.active_connections", 2, LIMIT);
        drop(open);
        proxy.wait_stat("connection_limit.two.active_connections", 0, LIMIT);
        assert!(answers(&mut Client::connect(main)));
    }
}

#[test]
fn connections_that_come_too_fast_are_closed() {
    let a = Origin::named("a");
    let filter = "{name: limit, typed_config: {\"@type\": \
                  type.googleapis.com/envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit, stat_prefix: slow, \
                  token_bucket: {max_tokens: 2, fill_interval: 3600s}}}";
    let proxy = ProxyProcess::start(BINARY, &behind(filter, a.address()));
    let main = proxy.listener("main");
    assert!(answers(&mut Client::connect(main)) && answers(&mut Client::connect(main)));
    let (octets, _) = Client::connect(main).read_to_end();
    assert!(octets.is_empty());
    assert_eq!(proxy.stat("local_rate_limit.slow.rate_limited"), 1);
}

#[test]
fn requests_are_refused_while_too_many_fail() {
    let status = Arc::new(AtomicU16::new(200));
    let shared = Arc::clone(&status);
    let a = Origin::http(move |_| Reply::status(shared.load(Ordering::SeqCst), ""));
    let filter = "http_filters: [{name: admission, typed_config: {\"@type\": \
                  type.googleapis.com/envoy.extensions.filters.http.admission_control.v3.AdmissionControl, \
                  success_criteria: {}, sampling_window: 2s}}, ";
    let text = config("", "", &[a.address()]).replace("http_filters: [", filter);
    let proxy = ProxyProcess::start_with(BINARY, &text, &["--concurrency", "1"]);
    let main = proxy.listener("main");
    let count = |name: &str| proxy.stat(&format!("http.http.admission_control.{name}"));
    for _ in 0..20 {
        assert_eq!(get(main, "/").status(), 200);
    }
    assert_eq!((count("rq_success"), count("rq_rejected")), (20, 0));
    status.store(500, Ordering::SeqCst);
    wait_until("some are refused", LIMIT, || get(main, "/").status() == 503);
    assert!(count("rq_rejected") >= 1 && count("rq_failure") >= 1);
    // The window passes, and with it what was bad.
    status.store(200, Ordering::SeqCst);
    wait_until("all are let in again", LIMIT, || (0..30).all(|_| get(main, "/").status() == 200));
}
