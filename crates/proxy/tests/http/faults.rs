//! Requests that are refused, and upstreams that fail.

use crate::fixture::{Setup, action, route, route_to};
use sota_config::{http::CodecType, retry::RetryPolicy, route::RouteActionKind};
use sota_testkit::{Client, End, Origin, Reply, free_port, get, request};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

fn ok_origin() -> Origin {
    Origin::http(|request| Reply::ok(&request.body))
}

#[test]
fn ambiguous_requests_die_here() {
    let origin = ok_origin();
    let proxy = Setup::to(origin.address()).start();
    let post = |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
    let rows = [
        (post("Content-Length: 4\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), 400),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), 501),
        (post("Transfer-Encoding: xchunked", "0\r\n\r\n"), 501),
        (post("Transfer-Encoding: chunked, identity", "0\r\n\r\n"), 501),
        (post("Transfer-Encoding : chunked", "0\r\n\r\n"), 400),
        (post("Content-Length: +2", "ab"), 400),
        (post("Content-Length: 2, 2", "ab"), 400),
        (post("Content-Length: 2\r\nContent-Length: 3", "abc"), 400),
        (post("Content-Length: 18446744073709551616", "ab"), 400),
        (post("X: a\rb\r\nContent-Length: 0", ""), 400),
        (post("X: a\r\n b\r\nContent-Length: 0", ""), 400),
        (post("X: a\0b\r\nContent-Length: 0", ""), 400),
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n".to_owned(), 426),
        ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("\x16\x03\x01\x02\x00".to_owned(), 400),
    ];
    for (bytes, status) in &rows {
        let mut client = Client::connect(proxy.address);
        let response = client.exchange(bytes);
        assert_eq!((response.status(), response.header("connection")), (*status, Some("close")), "{bytes:?}");
        assert_eq!(client.read_to_end().1, End::Closed, "{bytes:?}");
    }
    assert_eq!(origin.received_bytes(), 0, "something went upstream");
    proxy.wait_for("http.test.downstream_cx_active", 0);
    assert!(proxy.stat("http.test.downstream_cx_protocol_error") >= rows.len() as i64 - 2);
    assert!(proxy.log().iter().any(|line| line.starts_with("400 DPE http1.codec_error")), "{:?}", proxy.log());
}

#[test]
fn a_broken_body_never_ends_cleanly_upstream() {
    let origin = ok_origin();
    let proxy = Setup::to(origin.address()).start();
    for body in
        ["zz\r\nab\r\n", "2\r\nabX\r\n", "0x2\r\nab\r\n", "2\nab\r\n0\r\n\r\n", "10000000000000000\r\n", "-1\r\n"]
    {
        let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let response = request(proxy.address, &bytes);
        assert_eq!(response.status(), 400, "{body:?}");
    }
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
    assert!(origin.seen().is_empty(), "a request was taken for whole");
}

#[test]
fn heads_have_limits() {
    let origin = ok_origin();
    let proxy = Setup::to(origin.address())
        .edit(|model| {
            model.max_request_headers_kb = 2;
            model.common.max_headers_count = 20;
        })
        .start();
    let with = |fields: String| request(proxy.address, format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    assert_eq!(with(format!("x: {}\r\n", "y".repeat(1500))).status(), 200);
    assert_eq!(with(format!("x: {}\r\n", "y".repeat(3000))).status(), 431);
    assert_eq!(proxy.logged(2), "431 DPE http1.headers_too_large 0/31");
    assert_eq!(with("x: y\r\n".repeat(25)).status(), 431);
    assert_eq!(proxy.logged(3), "431 DPE http1.too_many_headers 0/31");
}

#[test]
fn http2_is_refused_in_its_own_words() {
    let origin = ok_origin();
    let proxy = Setup::to(origin.address()).edit(|model| model.codec_type = CodecType::Http1).start();
    let mut client = Client::connect(proxy.address);
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let (answer, end) = client.read_to_end();
    assert_eq!((answer.len(), answer[12], answer[25], end), (26, 7, 0xd, End::Closed));
    assert_eq!(proxy.stat("http.test.downstream_cx_http2_refused"), 1);
}

#[test]
fn upgrades_and_connect_are_refused() {
    let origin = ok_origin();
    let proxy = Setup::to(origin.address()).start();
    let upgrade =
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nGET /evil HTTP/1.1\r\n\r\n";
    let mut client = Client::connect(proxy.address);
    let response = client.exchange(upgrade);
    assert_eq!((response.status(), response.header("connection")), (403, Some("close")));
    assert_eq!(client.read_to_end().1, End::Closed);
    assert_eq!(proxy.logged(1), "403 - upgrade_failed 0/0");
    let response = request(proxy.address, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n");
    assert_eq!(response.status(), 404);
    assert_eq!(proxy.logged(2), "404 NR route_not_found 0/0");
    assert_eq!(origin.received_bytes(), 0);
}

#[test]
fn nowhere_to_go() {
    let refused = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let origin = ok_origin();
    let proxy = Setup::with_routes(vec![
        route("/missing", "nowhere"),
        route("/empty", "empty"),
        route("/refused", "refused"),
        route("/full", "full"),
    ])
    .cluster("empty", &[])
    .cluster("refused", &[refused])
    .cluster("full", &[origin.address()])
    .edit_cluster(|cluster| {
        cluster.circuit_breakers[0].max_requests = 0;
        cluster.circuit_breakers[0].max_pending_requests = 0;
    })
    .start();
    let mut client = Client::connect(proxy.address);
    let mut get = |path: &str| client.exchange(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let response = get("/missing");
    assert_eq!((response.status(), response.text().as_str()), (503, ""));
    let response = get("/empty");
    assert_eq!((response.status(), response.text().as_str()), (503, "no healthy upstream"));
    let start = Instant::now();
    let response = get("/refused");
    assert!(start.elapsed() < Duration::from_millis(500));
    assert_eq!(response.status(), 503);
    assert!(response.text().contains("remote connection failure"), "{}", response.text());
    let response = get("/full");
    assert_eq!((response.status(), response.header("x-envoy-overloaded")), (503, Some("true")));
    assert_eq!(get("/other").status(), 404);
    proxy.logged(5);
    let words: Vec<_> = proxy.log().iter().map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(words[0], "503 NC cluster_not_found");
    assert_eq!(words[1], "503 UH no_healthy_upstream");
    assert_eq!(
        words[2],
        "503 UF upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
    );
    assert_eq!(words[3], "503 UO upstream_reset_before_response_started{overflow}");
    assert_eq!(words[4], "404 NR route_not_found");
    for (stat, value) in [
        ("http.test.no_cluster", 1),
        ("http.test.no_route", 1),
        ("cluster.refused.upstream_rq_503", 1),
        ("cluster.full.upstream_rq_pending_overflow", 1),
        ("cluster.empty.upstream_cx_none_healthy", 1),
        ("http.test.downstream_rq_5xx", 4),
    ] {
        assert_eq!(proxy.stat(stat), value, "{stat}");
    }
}

#[test]
fn bad_answers_are_502_or_503() {
    let origin = Origin::http(|request| match request.target() {
        "/garbage" => Reply::raw("garbage\r\n\r\n").close(),
        "/lengths" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nhalfs").close(),
        "/both" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        "/split" => Reply::raw("HTTP/1.1 200 OK\r\nx: a\rset-cookie: b\r\ncontent-length: 0\r\n\r\n"),
        "/switch" => Reply::raw("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"),
        "/flood" => Reply::raw("HTTP/1.1 102 Processing\r\n\r\n".repeat(100)),
        "/close" => Reply::default().close(),
        "/reset" => Reply::default().reset(),
        _ => Reply::ok("fine"),
    });
    let proxy = Setup::to(origin.address()).start();
    for (count, (path, status, log)) in [
        ("/garbage", 502, "502 UPE upstream_reset_before_response_started{protocol_error}"),
        ("/lengths", 502, "502 UPE upstream_reset_before_response_started{protocol_error}"),
        ("/both", 502, "502 UPE upstream_reset_before_response_started{protocol_error}"),
        ("/split", 502, "502 UPE upstream_reset_before_response_started{protocol_error}"),
        ("/switch", 502, "502 UPE upstream_reset_before_response_started{protocol_error}"),
        ("/flood", 502, "502 UPE upstream_reset_before_response_started{protocol_error}"),
        ("/close", 503, "503 UC upstream_reset_before_response_started{connection_termination}"),
        ("/reset", 503, "503 UC upstream_reset_before_response_started{connection_termination}"),
        ("/fine", 200, "200 - via_upstream"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(get(proxy.address, path).status(), status, "{path}");
        let line = proxy.logged(count + 1);
        assert!(line.starts_with(log), "{path}: {line}");
    }
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_protocol_error"), 6);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_active"), 0);
}

#[test]
fn a_truncated_response_is_seen_to_be_truncated() {
    let origin = Origin::http(|request| match request.target() {
        "/length" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").close(),
        "/chunks" => Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").close(),
        "/bad" => Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n"),
        _ => Reply::raw("HTTP/1.1 200 OK\r\n\r\nuntil close").close(),
    });
    let proxy = Setup::to(origin.address()).edit(|model| model.http1.accept_http_10 = true).start();
    for (path, log) in [
        ("/length", "200 UPE upstream_reset_after_response_started{protocol_error} 0/4"),
        ("/chunks", "200 UPE upstream_reset_after_response_started{protocol_error} 0/4"),
        ("/bad", "200 UPE upstream_reset_after_response_started{protocol_error} 0/4"),
    ] {
        let before = proxy.log().len();
        let response = get(proxy.address, path);
        assert_eq!((response.text().as_str(), response.end), ("half", End::Truncated), "{path}");
        assert_eq!(proxy.logged(before + 1), log);
    }
    let response = get(proxy.address, "/");
    assert_eq!((response.text().as_str(), response.end), ("until close", End::Complete));
    // Where the end of the connection would look like the end of the body it must not be an orderly one.
    let mut client = Client::connect(proxy.address);
    client.send("GET /chunks HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(client.read_to_end().1, End::Reset);
}

#[test]
fn a_connection_with_something_unasked_is_not_used_again() {
    let origin = Origin::http(|request| match request.target() {
        "/extra" => Reply::raw(
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nextra",
        ),
        "/204" => Reply::raw("HTTP/1.1 204 No Content\r\n\r\nbody"),
        "/later" => {
            Reply::ok("ok").wait(Duration::from_millis(30)).send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        }
        _ => Reply::ok("right"),
    });
    let proxy = Setup::to(origin.address()).start();
    let mut client = Client::connect(proxy.address);
    for path in ["/extra", "/204", "/later"] {
        client.exchange(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        std::thread::sleep(Duration::from_millis(80));
        let response = client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((response.status(), response.text().as_str()), (200, "right"), "after {path}");
    }
}

/// Closes each connection after it has read the second request on it, without an answer.
fn forgetful() -> Origin {
    Origin::raw(|mut peer| {
        for nth in 0.. {
            let Ok(Some(head)) = peer.read_head() else { return };
            let Ok(_) = peer.read_body(&head) else { return };
            if nth == 1 || peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                return;
            }
        }
    })
}

#[test]
fn a_kept_connection_that_is_closed_unanswered_costs_idempotent_requests_nothing() {
    let origin = forgetful();
    let proxy = Setup::to(origin.address()).start();
    let mut client = Client::connect(proxy.address);
    for n in 0..6 {
        let put = format!("PUT /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        let get = format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.exchange(if n % 2 == 0 { put } else { get }).status(), 200, "request {n}");
    }
    // Each of the later requests reaches a connection that forgets it, and then a new one.
    assert_eq!((origin.connections(), origin.requests()), (6, 11));
    let origin = forgetful();
    let proxy = Setup::to(origin.address()).start();
    let mut client = Client::connect(proxy.address);
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(client.exchange(post).status(), 200);
    assert_eq!(client.exchange(post).status(), 503, "a POST may have been seen");
    assert!(proxy.logged(2).starts_with("503 UC "));
}

fn retry(on: &str, tries: u32) -> RetryPolicy {
    RetryPolicy {
        retry_on: vec![on.to_owned()],
        num_retries: tries,
        base_interval: Duration::from_millis(2),
        max_interval: Duration::from_millis(4),
        ..RetryPolicy::default()
    }
}

fn retrying(policy: RetryPolicy, origins: &[SocketAddr]) -> Setup {
    let action = sota_config::route::RouteAction { retry_policy: Some(policy), ..action("origin") };
    Setup::with_routes(vec![route_to("/", RouteActionKind::Forward(Box::new(action)))]).cluster("origin", origins)
}

#[test]
fn retries_send_the_body_again() {
    let count = AtomicUsize::new(0);
    let origin = Origin::http(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::status(503, "no"),
        1 => Reply::default().reset(),
        _ => Reply::ok(&request.body),
    });
    let proxy = retrying(retry("5xx", 3), &[origin.address()]).start();
    let mut client = Client::connect(proxy.address);
    let response = client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!((response.status(), response.text().as_str()), (200, "hello"));
    assert_eq!(origin.requests(), 3);
    assert_eq!(proxy.logged(1), "200 - via_upstream 5/5");
    for (stat, value) in [("retry", 2), ("retry_success", 1), ("total", 3), ("active", 0)] {
        assert_eq!(proxy.stat(&format!("cluster.origin.upstream_rq_{stat}")), value, "{stat}");
    }
}

#[test]
fn retries_are_counted_and_limited() {
    let origin = Origin::http(|_| Reply::status(503, "no"));
    let proxy = retrying(retry("5xx", 2), &[origin.address()]).start();
    let response = get(proxy.address, "/");
    assert_eq!((response.status(), response.text().as_str()), (503, "no"));
    assert_eq!(origin.requests(), 3);
    assert_eq!(proxy.logged(1), "503 URX via_upstream 0/2");
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry_limit_exceeded"), 1);
    let proxy = retrying(retry("5xx", 2), &[origin.address()])
        .edit_cluster(|cluster| cluster.circuit_breakers[0].max_retries = 0)
        .start();
    assert_eq!(get(proxy.address, "/").status(), 503);
    assert_eq!(proxy.logged(1), "503 UO via_upstream 0/2");
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry_overflow"), 1);
}

#[test]
fn a_refused_host_is_passed_over_by_a_retry() {
    let origin = ok_origin();
    let refused = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let proxy = retrying(retry("connect-failure", 2), &[refused, origin.address()]).start();
    let mut client = Client::connect(proxy.address);
    for _ in 0..6 {
        assert_eq!(client.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    }
}

#[test]
fn a_body_too_large_to_keep_passes_without_a_retry() {
    let origin = Origin::http(|_| Reply::status(503, "no"));
    let mut setup = retrying(retry("5xx", 3), &[origin.address()]);
    setup.buffer_limit = 20_000;
    let proxy = setup.start();
    let mut client = Client::connect(proxy.address);
    let body = "x".repeat(100_000);
    let response = client.exchange(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{body}"));
    assert_eq!((response.status(), origin.requests()), (503, 1));
    assert_eq!(proxy.stat("cluster.origin.retry_or_shadow_abandoned"), 1);
    assert_eq!(origin.last().body.len(), 100_000);
}

#[test]
fn clients_that_go_leave_nothing_behind() {
    let origin = Origin::http(|_| Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nx").until_closed());
    let proxy = Setup::to(origin.address()).start();
    for n in 0..60 {
        let mut client = Client::connect(proxy.address);
        let whole = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let part = ["POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", whole, "GET / HT", whole][n % 4];
        client.send(part).unwrap();
        if n % 4 == 1 {
            client.read_exactly(20);
        }
        if n % 8 < 4 { client.reset() } else { drop(client) }
    }
    for stat in
        ["http.test.downstream_cx_active", "http.test.downstream_rq_active", "cluster.origin.upstream_rq_active"]
    {
        proxy.wait_for(stat, 0);
    }
    assert!(proxy.log().iter().all(|line| line.contains(" DC downstream_remote_disconnect ")), "{:?}", proxy.log());
}

#[test]
fn an_early_answer_ends_the_request() {
    let origin = Origin::raw(|mut peer| {
        peer.read_head().unwrap();
        peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig").unwrap();
        peer.wait(Duration::from_millis(50));
    });
    let proxy = Setup::to(origin.address()).start();
    let mut client = Client::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\nabc").unwrap();
    let response = client.read_response(false);
    assert_eq!(
        (response.status(), response.text().as_str(), response.header("connection")),
        (413, "big", Some("close"))
    );
}
