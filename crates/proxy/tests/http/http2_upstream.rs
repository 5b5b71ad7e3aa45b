//! Clusters that are spoken to over HTTP/2.

use crate::{
    fixture::{Setup, action, route_to},
    h2_origin::{Options, Origin},
};
use sota_config::{
    cluster::{CircuitBreakerThresholds, Cluster, UpstreamProtocol},
    retry::RetryPolicy,
    route::{RouteAction, RouteActionKind},
};
use sota_testkit::{Client, End, get, request};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

fn http2(cluster: &mut Cluster) {
    cluster.protocol = UpstreamProtocol::Http2;
}

fn to(origin: &Origin) -> Setup {
    Setup::to(origin.address).edit_cluster(http2)
}

fn retrying(origin: &Origin, on: &str) -> Setup {
    let policy = RetryPolicy {
        retry_on: vec![on.to_owned()],
        base_interval: Duration::from_millis(1),
        max_interval: Duration::from_millis(2),
        ..RetryPolicy::default()
    };
    let action = RouteAction { retry_policy: Some(policy), ..action("origin") };
    Setup::with_routes(vec![route_to("/", RouteActionKind::Forward(Box::new(action)))])
        .cluster("origin", &[origin.address])
        .edit_cluster(http2)
}

/// Gets a path so many times at once.
fn at_once(proxy: SocketAddr, path: &str, count: usize) -> Vec<(u16, String)> {
    std::thread::scope(|threads| {
        let all: Vec<_> = (0..count)
            .map(|_| {
                threads.spawn(move || {
                    let response = get(proxy, path);
                    (response.status(), response.text())
                })
            })
            .collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn requests_are_translated() {
    let origin = Origin::start();
    let proxy = to(&origin).start();
    let response = request(
        proxy.address,
        "GET /a?b=c HTTP/1.1\r\nHost: web.example\r\nConnection: keep-alive, x-gone\r\nx-gone: 1\r\nKeep-Alive: 3\r\n\
         TE: trailers, gzip\r\nCookie: a=1; b=2\r\nX-Up: Yes\r\n\r\n",
    );
    assert_eq!((response.status(), response.text().as_str()), (200, "/a"));
    assert_eq!(response.head.fields.values("set-cookie").collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    let seen = origin.last();
    assert_eq!(seen.head.uri(), "http://web.example/a?b=c");
    assert_eq!((seen.header("x-up"), seen.header("cookie")), (Some("Yes"), Some("a=1; b=2")));
    for name in ["host", "connection", "keep-alive", "x-gone", "transfer-encoding", "upgrade"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert!(seen.header("te").is_none_or(|te| te == "trailers"), "{:?}", seen.header("te"));
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_http2_total"), 1);
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_http1_total"), 0);
    assert_eq!(proxy.logged(1), "200 - via_upstream 0/2");
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    let origin = Origin::with(Options { window: 20_000, ..Options::default() });
    let proxy = to(&origin).start();
    let body: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let mut bytes = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(&body);
    let response = request(proxy.address, &bytes);
    assert!(response.body == body);
    assert_eq!(origin.last().header("content-length"), Some("300000"));
    let chunked = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                   3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n";
    let response = request(proxy.address, chunked);
    assert_eq!((response.text().as_str(), response.trailers.value("x-sum")), ("abcde", Some("5")));
    let seen = origin.last();
    assert_eq!((seen.header("content-length"), seen.body.as_slice()), (None, &b"abcde"[..]));
    assert_eq!(seen.trailers.unwrap().get("x-sum").unwrap(), "5");
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
    proxy.wait_for("cluster.origin.http2.streams_active", 0);
}

#[test]
fn responses_without_a_body() {
    let origin = Origin::start();
    let proxy = to(&origin).start();
    let mut client = Client::connect(proxy.address);
    client.send("HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let response = client.read_response(true);
    assert_eq!((response.status(), response.header("content-length"), response.body.len()), (200, Some("5"), 0));
    // The connection goes on behind each.
    let response = client.exchange("GET /empty HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((response.status(), response.body.len()), (204, 0));
    client.send("GET /hints HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let response = client.read_response(false);
    assert_eq!((response.status(), response.text().as_str()), (200, "/hints"));
    // A body that is shorter than it says is no whole response.
    let response = client.exchange("GET /short HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(response.status() != 200 || response.end == End::Truncated, "{response:?}");
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
}

#[test]
fn requests_share_a_connection() {
    let origin = Origin::start();
    let proxy = to(&origin).start();
    assert_eq!(at_once(proxy.address, "/slow", 50), vec![(200, "/slow".to_owned()); 50]);
    // All that waited for the first connection, and those that came later, are on it.
    assert_eq!((origin.connections(), proxy.stat("cluster.origin.upstream_cx_active")), (1, 1));
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_total"), 50);
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_pending_active"), 0);
}

#[test]
fn no_more_streams_than_either_side_says() {
    for (ours, theirs) in [(2, 100), (100, 2)] {
        let origin = Origin::with(Options { max_concurrent_streams: theirs, ..Options::default() });
        let proxy = to(&origin).edit_cluster(|cluster| cluster.http2.max_concurrent_streams = ours).start();
        // The first brings the peer's settings.
        assert_eq!(get(proxy.address, "/first").status(), 200);
        let answers = at_once(proxy.address, "/slow", 8);
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        assert!((2..=4).contains(&origin.connections()), "{}", origin.connections());
        proxy.wait_for("cluster.origin.upstream_rq_pending_active", 0);
    }
}

#[test]
fn circuit_breakers_count_requests_and_connections() {
    let origin = Origin::start();
    let limits = CircuitBreakerThresholds { max_requests: 3, ..Default::default() };
    let proxy = to(&origin).edit_cluster(|cluster| cluster.circuit_breakers[0] = limits.clone()).start();
    let answers = at_once(proxy.address, "/slow", 8);
    assert_eq!(answers.iter().filter(|(status, _)| *status == 200).count(), 3, "{answers:?}");
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
    // One connection only, with room for one stream: the others wait.
    let origin = Origin::start();
    let limits = CircuitBreakerThresholds { max_connections: 1, ..Default::default() };
    let proxy = to(&origin)
        .edit_cluster(|cluster| {
            cluster.circuit_breakers[0] = limits.clone();
            cluster.http2.max_concurrent_streams = 1;
        })
        .start();
    let answers = at_once(proxy.address, "/slow", 3);
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn connections_end_after_their_requests_their_age_and_idleness() {
    let origin = Origin::start();
    let proxy = to(&origin).edit_cluster(|cluster| cluster.http.max_requests_per_connection = Some(2)).start();
    for _ in 0..5 {
        assert_eq!(get(proxy.address, "/x").status(), 200);
    }
    let on: Vec<_> = origin.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!((on, proxy.stat("cluster.origin.upstream_cx_max_requests")), (vec![0, 0, 1, 1, 2], 2));
    let proxy = to(&origin).edit_cluster(|cluster| cluster.http.idle_timeout = Some(Duration::from_millis(50))).start();
    assert_eq!(get(proxy.address, "/slow").status(), 200);
    proxy.wait_for("cluster.origin.upstream_cx_active", 0);
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_idle_timeout"), 1);
    let age = Some(Duration::from_millis(50));
    let proxy = to(&origin).edit_cluster(|cluster| cluster.http.max_connection_duration = age).start();
    // The age ends no request.
    assert_eq!(get(proxy.address, "/slow").status(), 200);
    proxy.wait_for("cluster.origin.upstream_cx_active", 0);
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_max_duration_reached"), 1);
}

#[test]
fn an_origin_that_leaves_is_left() {
    let origin = Origin::start();
    let proxy = to(&origin).start();
    assert_eq!(get(proxy.address, "/leave").status(), 200);
    proxy.wait_for("cluster.origin.upstream_cx_active", 0);
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_close_notify"), 1);
    assert_eq!(get(proxy.address, "/next").status(), 200);
    assert_eq!(origin.last().connection, 1);
}

#[test]
fn resets_are_told_and_tried_again() {
    let origin = Origin::start();
    let proxy = to(&origin).start();
    for (path, reason) in [("refused", "remote refused stream reset"), ("cancel", "remote reset")] {
        let response = get(proxy.address, &format!("/reset-always/{path}"));
        assert_eq!(response.status(), 503, "{path}");
        assert!(response.text().ends_with(&format!("reset reason: {reason}")), "{}", response.text());
    }
    assert!(
        proxy.log()[0].starts_with("503 UR upstream_reset_before_response_started{remote_refused_stream_reset} 0/"),
        "{:?}",
        proxy.log()
    );
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_rx_reset"), 2);
    assert_eq!(origin.connections(), 1, "a reset ends its stream alone");
    for (on, path, tries) in [
        ("refused-stream", "/reset/refused", 2),
        ("refused-stream", "/reset/cancel", 1),
        ("reset", "/reset/internal", 2),
        ("5xx", "/reset/cancel", 2),
        ("connect-failure", "/reset/refused", 1),
    ] {
        let origin = Origin::start();
        let proxy = retrying(&origin, on).start();
        let status = get(proxy.address, path).status();
        assert_eq!((status == 200, origin.seen().len()), (tries == 2, tries), "{on} {path}");
    }
}

#[test]
fn timeouts_end_the_stream_alone() {
    let origin = Origin::start();
    let mut quick = action("origin");
    quick.timeout = Some(Duration::from_millis(60));
    let proxy = Setup::with_routes(vec![route_to("/", RouteActionKind::Forward(Box::new(quick)))])
        .cluster("origin", &[origin.address])
        .edit_cluster(http2)
        .start();
    assert_eq!(get(proxy.address, "/silence").status(), 504);
    assert_eq!(get(proxy.address, "/next").status(), 200);
    assert_eq!((origin.connections(), proxy.stat("cluster.origin.http2.tx_reset")), (1, 1));
    // So does a client that goes away.
    let mut client = Client::connect(proxy.address);
    client.send("GET /silence HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    proxy.wait_for("cluster.origin.upstream_rq_active", 1);
    client.reset();
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
    proxy.wait_for("cluster.origin.http2.streams_active", 0);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_slow_client_does_not_make_us_hold_the_response() {
    let origin = Origin::start();
    let proxy = to(&origin).edit_cluster(|cluster| cluster.http2.initial_stream_window = 65_535).start();
    let mut slow = Client::connect(proxy.address);
    slow.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    // Another stream of the same connection goes on meanwhile.
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    assert_eq!(get(proxy.address, "/x").status(), 200);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(slow.read_response(false).body.len(), 1_000_000);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_connection_that_breaks_fails_its_streams() {
    let origin = Origin::start();
    let proxy = to(&origin).start();
    let address = proxy.address;
    let waiting: Vec<_> = (0..5).map(|_| std::thread::spawn(move || get(address, "/silence"))).collect();
    proxy.wait_for("cluster.origin.upstream_rq_active", 5);
    drop(origin);
    for waiting in waiting {
        let response = waiting.join().unwrap();
        assert_eq!(response.status(), 503);
        assert!(response.text().ends_with("reset reason: connection termination"), "{}", response.text());
    }
    proxy.wait_for("cluster.origin.upstream_cx_active", 0);
    assert!(proxy.logged(1).starts_with("503 UC "), "{}", proxy.logged(1));
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_destroy_remote_with_active_rq"), 1);
    // Nobody listens any more.
    let response = get(proxy.address, "/x");
    assert_eq!((response.status(), proxy.logged(6).starts_with("503 UF ")), (503, true));
}

#[test]
fn an_origin_that_speaks_something_else() {
    let origin = sota_testkit::Origin::raw(|mut peer| {
        let _ = peer.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        peer.until_closed();
    });
    let proxy = Setup::to(origin.address()).edit_cluster(http2).start();
    let response = get(proxy.address, "/x");
    assert_eq!(response.status(), 502, "{} {:?}", response.text(), proxy.log());
    assert!(proxy.logged(1).starts_with("502 UPE "), "{}", proxy.logged(1));
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_protocol_error"), 1);
}

#[test]
fn grpc_calls_are_counted_by_their_status() {
    let origin = Origin::start();
    let call = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\ncontent-type: application/grpc\r\nTE: trailers\r\nContent-Length: 0\r\n\r\n"
        )
    };
    let proxy = retrying(&origin, "unavailable").start();
    let response = request(proxy.address, call("/call/0"));
    assert_eq!((response.status(), response.trailers.value("grpc-status")), (200, Some("0")));
    assert_eq!(response.body, b"\0\0\0\0\x02hi");
    assert_eq!(origin.last().header("te"), Some("trailers"));
    // A status in the head is tried again, one in trailers comes too late for that.
    assert_eq!(request(proxy.address, call("/grpc/14")).header("grpc-status"), Some("14"));
    assert_eq!(request(proxy.address, call("/call/14")).trailers.value("grpc-status"), Some("14"));
    let paths: Vec<_> = origin.seen().iter().map(|seen| seen.head.uri().path().to_owned()).collect();
    assert_eq!(paths, ["/call/0", "/grpc/14", "/grpc/14", "/call/14"]);
}

#[test]
fn many_requests_over_few_connections_leave_nothing_behind() {
    let origin = Arc::new(Origin::with(Options { max_concurrent_streams: 7, ..Options::default() }));
    let proxy = to(&origin).start();
    // The first brings the peer's limit.
    assert_eq!(get(proxy.address, "/first").status(), 200);
    let address = proxy.address;
    std::thread::scope(|threads| {
        for worker in 0..8 {
            threads.spawn(move || {
                let mut client = Client::connect(address);
                for n in 0..40 {
                    let body = "x".repeat(n * 300);
                    let path = if n % 7 == worker % 7 { "/reset-always/cancel" } else { "/echo" };
                    let bytes =
                        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    let response = client.exchange(bytes);
                    if response.header("connection") == Some("close") {
                        // It was answered before it was whole.
                        client = Client::connect(address);
                    }
                    match path {
                        "/echo" => assert_eq!(response.body.len(), body.len(), "{:?}", response.head),
                        _ => assert_eq!(response.status(), 503),
                    }
                }
            });
        }
    });
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
    proxy.wait_for("cluster.origin.http2.streams_active", 0);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_total"), 321);
}
