//! Timeouts, and how connections end.

use crate::fixture::{Setup, action, route, route_to};
use sota_config::{retry::RetryPolicy, route::RouteActionKind};
use sota_testkit::{Client, End, Origin, Reply, get};
use std::time::{Duration, Instant};

const MS: fn(u64) -> Duration = Duration::from_millis;

fn silent() -> Origin {
    Origin::http(|request| match request.target() {
        "/half" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").until_closed(),
        "/slow" => {
            Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na").wait(MS(120)).send("b").wait(MS(120)).send("c")
        }
        "/late" => Reply::default().wait(MS(150)).send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate"),
        "/ok" => Reply::ok("ok"),
        _ => Reply::silence(),
    })
}

fn timed(origin: &Origin, timeout: Option<Duration>, per_try: Option<Duration>, retries: u32) -> Setup {
    let retry_policy = per_try.map(|per_try| RetryPolicy {
        retry_on: vec!["5xx".to_owned()],
        num_retries: retries,
        per_try_timeout: Some(per_try),
        base_interval: MS(2),
        max_interval: MS(4),
        ..RetryPolicy::default()
    });
    let action = sota_config::route::RouteAction { timeout, retry_policy, ..action("origin") };
    Setup::with_routes(vec![route_to("/", RouteActionKind::Forward(Box::new(action)))])
        .cluster("origin", &[origin.address()])
}

#[test]
fn the_route_has_a_timeout() {
    let origin = silent();
    let proxy = timed(&origin, Some(MS(100)), None, 0).start();
    let mut client = Client::connect(proxy.address);
    let start = Instant::now();
    let response = client.exchange("GET /silence HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((response.status(), response.text().as_str()), (504, "upstream request timeout"));
    assert!(start.elapsed() >= MS(100) && start.elapsed() < MS(1000), "{:?}", start.elapsed());
    assert_eq!(proxy.logged(1), "504 UT response_timeout 0/24");
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_timeout"), 1);
    // The client's connection goes on.
    assert_eq!(client.exchange("GET /ok HTTP/1.1\r\nHost: a\r\n\r\n").text(), "ok");
    let response = get(proxy.address, "/half");
    assert_eq!((response.text().as_str(), response.end), ("half", End::Truncated));
    assert_eq!(proxy.logged(3), "200 UT response_timeout 0/4");
    let asked = "GET /late HTTP/1.1\r\nHost: a\r\nx-envoy-internal: true\r\n\r\n";
    assert_eq!(Client::connect(proxy.address).exchange(asked).status(), 504);
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
}

#[test]
fn each_try_has_a_timeout_and_tries_are_bounded() {
    let origin = silent();
    let proxy = timed(&origin, Some(MS(2000)), Some(MS(50)), 2).start();
    let start = Instant::now();
    let response = get(proxy.address, "/silence");
    assert_eq!(response.status(), 504);
    assert!(start.elapsed() >= MS(150) && start.elapsed() < MS(1500), "{:?}", start.elapsed());
    assert_eq!(origin.requests(), 3);
    assert_eq!(proxy.logged(1), "504 URX,UT upstream_per_try_timeout 0/24");
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_per_try_timeout"), 3);
    // All tries together have no longer than the route says.
    let proxy = timed(&origin, Some(MS(120)), Some(MS(50)), 100).start();
    assert_eq!(get(proxy.address, "/silence").status(), 504);
    assert!(proxy.logged(1).starts_with("504 UT response_timeout"));
}

#[test]
fn nothing_moves_for_too_long() {
    let origin = silent();
    let proxy = timed(&origin, None, None, 0).edit(|model| model.stream_idle_timeout = Some(MS(200))).start();
    let response = get(proxy.address, "/silence");
    assert_eq!((response.status(), response.text().as_str()), (504, "stream timeout"));
    assert_eq!(proxy.logged(1), "504 SI stream_idle_timeout 0/14");
    // A client that sends no more of its body.
    let mut client = Client::connect(proxy.address);
    let response = client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!((response.status(), response.header("connection")), (408, Some("close")));
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
    // One that sends no more of its head.
    let mut client = Client::connect(proxy.address);
    assert_eq!(client.exchange("GET / HT").status(), 408);
    assert_eq!(proxy.stat("http.test.downstream_rq_idle_timeout"), 3);
    // An answer that comes in pieces moves often enough; one that stops does not.
    assert_eq!(get(proxy.address, "/slow").text(), "abc");
    let response = get(proxy.address, "/half");
    assert_eq!((response.text().as_str(), response.end), ("half", End::Truncated));
}

#[test]
fn a_route_overrides_the_idle_timeout() {
    let origin = silent();
    let mut none = action("origin");
    (none.timeout, none.idle_timeout) = (None, Some(None));
    let mut short = action("origin");
    (short.timeout, short.idle_timeout) = (None, Some(Some(MS(50))));
    let forward = |action| RouteActionKind::Forward(Box::new(action));
    let proxy = Setup::with_routes(vec![route_to("/late", forward(none)), route_to("/", forward(short))])
        .cluster("origin", &[origin.address()])
        .edit(|model| model.stream_idle_timeout = Some(MS(100)))
        .start();
    assert_eq!(get(proxy.address, "/late").text(), "late");
    let start = Instant::now();
    assert_eq!(get(proxy.address, "/silence").status(), 504);
    assert!(start.elapsed() < MS(95), "{:?}", start.elapsed());
}

#[test]
fn head_request_and_stream_have_timeouts() {
    let origin = silent();
    let proxy = timed(&origin, None, None, 0).edit(|model| model.request_headers_timeout = Some(MS(80))).start();
    let mut client = Client::connect(proxy.address);
    let response = client.exchange("GET / HTTP/1.1\r\nHost: a\r\nx");
    assert_eq!((response.status(), response.text().as_str()), (408, "request header timeout"));
    assert_eq!(proxy.logged(1), "408 - request_header_timeout 0/22");
    assert_eq!(proxy.stat("http.test.downstream_rq_header_timeout"), 1);
    assert_eq!(get(proxy.address, "/late").text(), "late", "the response may take its time");

    let proxy = timed(&origin, None, None, 0).edit(|model| model.request_timeout = Some(MS(80))).start();
    let mut client = Client::connect(proxy.address);
    let response = client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!((response.status(), response.text().as_str()), (408, "request timeout"));
    assert!(proxy.logged(1).starts_with("408 - request_overall_timeout "));
    assert_eq!(get(proxy.address, "/late").text(), "late");

    let proxy = timed(&origin, None, None, 0).edit(|model| model.common.max_stream_duration = Some(MS(80))).start();
    assert_eq!(get(proxy.address, "/late").status(), 504);
    assert!(proxy.logged(1).starts_with("504 - max_duration_timeout "));
    assert_eq!(proxy.stat("http.test.downstream_rq_max_duration_reached"), 1);
}

#[test]
fn idle_and_old_connections_end() {
    let origin = silent();
    let proxy = Setup::to(origin.address())
        .edit(|model| {
            model.common.idle_timeout = Some(MS(60));
            model.drain_timeout = MS(60);
        })
        .start();
    let mut client = Client::connect(proxy.address);
    assert_eq!(client.exchange("GET /late HTTP/1.1\r\nHost: a\r\n\r\n").text(), "late");
    let start = Instant::now();
    assert_eq!(client.read_to_end().1, End::Closed);
    assert!(start.elapsed() >= MS(100) && start.elapsed() < MS(1000), "{:?}", start.elapsed());
    let mut unused = Client::connect(proxy.address);
    assert_eq!(unused.read_to_end().1, End::Closed);
    assert_eq!(proxy.stat("http.test.downstream_cx_idle_timeout"), 2);

    let proxy = Setup::to(origin.address()).edit(|model| model.common.max_connection_duration = Some(MS(60))).start();
    let mut client = Client::connect(proxy.address);
    let request = "GET /late HTTP/1.1\r\nHost: a\r\n\r\n";
    let response = client.exchange(request);
    assert_eq!((response.text().as_str(), response.header("connection")), ("late", Some("close")));
    assert_eq!(proxy.stat("http.test.downstream_cx_max_duration_reached"), 1);
}

#[test]
fn a_connection_has_so_many_requests() {
    let origin = silent();
    let proxy = Setup::to(origin.address()).edit(|model| model.common.max_requests_per_connection = Some(2)).start();
    let mut client = Client::connect(proxy.address);
    let request = "GET /ok HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(client.exchange(request).header("connection"), None);
    assert_eq!(client.exchange(request).header("connection"), Some("close"));
    assert_eq!(client.read_to_end().1, End::Closed);
    assert_eq!(proxy.stat("http.test.downstream_cx_max_requests_reached"), 1);
}

#[test]
fn draining_ends_idle_connections_and_lets_requests_finish() {
    let origin = silent();
    let proxy = Setup::to(origin.address()).start();
    let mut busy = Client::connect(proxy.address);
    let mut idle = Client::connect(proxy.address);
    assert_eq!(idle.exchange("GET /ok HTTP/1.1\r\nHost: a\r\n\r\n").text(), "ok");
    busy.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    std::thread::sleep(MS(30));
    proxy.drain();
    assert_eq!(idle.read_to_end().1, End::Closed);
    let response = busy.read_response(false);
    assert_eq!((response.text().as_str(), response.header("connection")), ("late", Some("close")));
    assert_eq!(busy.read_to_end().1, End::Closed);
    assert_eq!(proxy.stat("http.test.downstream_cx_drain_close"), 2);
}

#[test]
fn a_draining_process_says_so() {
    let origin = silent();
    let proxy = Setup::with_routes(vec![route("/", "origin")]).cluster("origin", &[origin.address()]).start();
    proxy.process.set_draining(true);
    assert_eq!(
        Client::connect(proxy.address).exchange("GET /ok HTTP/1.1\r\nHost: a\r\n\r\n").header("connection"),
        Some("close")
    );
}

#[test]
fn an_error_arrives_although_the_client_still_sends() {
    let origin = silent();
    let proxy = Setup::to(origin.address()).edit(|model| model.max_request_headers_kb = 1).start();
    let mut client = Client::connect(proxy.address);
    // Much more than is ever read: closing at once would reset the connection before the answer is read.
    let mut sender = Client::over(client.stream().try_clone().unwrap()).unwrap();
    let sending = std::thread::spawn(move || {
        let _ = sender.send(format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}", "y".repeat(300_000)));
    });
    let response = client.read_response(false);
    assert_eq!((response.status(), response.end), (431, End::Complete));
    sending.join().unwrap();
    assert_eq!(client.read_to_end().1, End::Closed);
}

#[test]
fn a_client_that_never_closes_is_closed() {
    let origin = silent();
    let proxy = Setup::to(origin.address()).edit(|model| model.delayed_close_timeout = Some(MS(60))).start();
    let mut client = Client::connect(proxy.address);
    assert_eq!(client.exchange("GET / HTTP/9\r\n\r\n").status(), 400);
    proxy.wait_for("http.test.downstream_cx_delayed_close_timeout", 1);
    proxy.wait_for("http.test.downstream_cx_active", 0);
}
