//! Requests and responses that are in order: framing both ways, persistence, pipelining.

use crate::fixture::{Setup, direct, route};
use sota_config::http::HttpFilterKind;
use sota_testkit::{Client, End, Origin, Reply, get};
use std::time::Duration;

#[test]
fn get_and_post_pass_and_connections_are_kept() {
    let origin = Origin::http(|request| Reply::ok(format!("{} {}", request.method(), request.body.len())));
    let proxy = Setup::to(origin.address()).start();
    let mut client = Client::connect(proxy.address);
    for _ in 0..3 {
        let response = client.exchange("GET /a?b HTTP/1.1\r\nHost: x\r\nX-Case: kept\r\n\r\n");
        assert_eq!((response.status(), response.text().as_str(), response.end), (200, "GET 0", End::Complete));
        assert_eq!(response.header("server"), Some("envoy"));
        assert!(response.header("date").is_some() && response.header("x-envoy-upstream-service-time").is_some());
        let response = client.exchange("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(response.text(), "POST 5");
    }
    let seen = origin.last();
    assert_eq!((seen.target(), seen.header("host"), &seen.body[..]), ("/a", Some("x"), &b"hello"[..]));
    assert!(seen.header("x-request-id").is_some() && seen.header("x-forwarded-proto") == Some("http"));
    assert_eq!((origin.connections(), origin.requests()), (1, 6));
    assert_eq!(proxy.logged(6), "200 - via_upstream 5/6");
    assert_eq!(proxy.stat("http.test.downstream_rq_2xx"), 6);
    assert_eq!(proxy.stat("http.test.downstream_rq_active"), 0);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_200"), 6);
    drop(client);
    proxy.wait_for("http.test.downstream_cx_active", 0);
    assert_eq!(proxy.stat("http.test.downstream_cx_destroy_remote"), 1);
}

#[test]
fn chunks_and_trailers_pass_both_ways() {
    let origin = Origin::http(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n")
            .wait(Duration::from_millis(20))
            .send("5\r\ndefgh\r\n0\r\nx-sum: 8\r\n\r\n")
    });
    let proxy = Setup::to(origin.address()).start();
    let mut client = Client::connect(proxy.address);
    let request =
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nx-t: 1\r\n\r\n";
    for _ in 0..2 {
        let response = client.exchange(request);
        assert_eq!((response.text().as_str(), response.end), ("abcdefgh", End::Complete));
        assert_eq!(response.trailers.value("x-sum"), Some("8"));
    }
    let seen = origin.last();
    assert_eq!((&seen.body[..], seen.trailers.value("x-t")), (&b"abc"[..], Some("1")));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn any_split_of_a_request_arrives_the_same() {
    let origin = Origin::http(|request| Reply::ok(&request.body));
    let proxy = Setup::to(origin.address()).start();
    let request = b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    for cut in 1..request.len() {
        let mut client = Client::connect(proxy.address);
        client.send(&request[..cut]).unwrap();
        std::thread::sleep(Duration::from_micros(300));
        client.send(&request[cut..]).unwrap();
        assert_eq!(client.read_response(false).text(), "abcde", "cut at {cut}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::http(|request| Reply::ok(request.target()).wait(Duration::from_millis(5)));
    let proxy = Setup::to(origin.address()).start();
    let mut client = Client::connect(proxy.address);
    let one = |n| format!("GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n");
    let post = "POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    client.send(format!("{}{}{post}{}", one(1), one(2), one(3))).unwrap();
    for expected in ["/1", "/2", "/p", "/3"] {
        assert_eq!(client.read_response(false).text(), expected);
    }
}

#[test]
fn large_bodies_pass_both_ways_at_once() {
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    // An echo that answers while it reads.
    let origin = Origin::raw(|mut peer| {
        let head = peer.read_head().unwrap().unwrap();
        let length: usize = head.fields.value("content-length").unwrap().parse().unwrap();
        peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes()).unwrap();
        let mut left = length;
        while left > 0 {
            let block = peer.read_some(64 * 1024).unwrap();
            assert!(!block.is_empty(), "the request ended early");
            left -= block.len();
            peer.send(&block).unwrap();
        }
    });
    let proxy = Setup::to(origin.address()).start();
    let mut client = Client::connect(proxy.address);
    let mut request = format!("PATCH / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(&body);
    let mut sender = Client::over(client.stream().try_clone().unwrap()).unwrap();
    let sending = std::thread::spawn(move || sender.send(&request));
    let response = client.read_response(false);
    sending.join().unwrap().unwrap();
    assert!(response.body == body, "{} octets came back", response.body.len());
    assert_eq!(proxy.logged(1), "200 - via_upstream 5000000/5000000");
}

#[test]
fn a_slow_reader_holds_the_origin_up() {
    let origin = Origin::http(|_| {
        Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 64 << 20)).send(vec![b'x'; 64 << 20])
    });
    let proxy = Setup::to(origin.address()).start();
    let mut client = Client::connect(proxy.address);
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let taken = proxy.stat("cluster.origin.upstream_cx_rx_bytes_total");
    assert!(taken < 32 << 20, "{taken} octets were read for a client that reads nothing");
    let stat = |name: &str| proxy.stat(&format!("cluster.origin.upstream_flow_control_{name}_reading_total"));
    assert_eq!((stat("paused"), stat("resumed")), (1, 0));
    let response = client.read_response(false);
    assert!(stat("paused") == stat("resumed"), "{} {}", stat("paused"), stat("resumed"));
    assert_eq!((response.body.len(), response.end), (64 << 20, End::Complete));
}

#[test]
fn a_slow_origin_holds_the_sender_up() {
    const SIZE: usize = 32 << 20;
    let origin = Origin::raw(|mut peer| {
        let head = peer.read_head().unwrap().unwrap();
        peer.wait(Duration::from_millis(300));
        let (body, _) = peer.read_body(&head).unwrap();
        peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: {}\r\n\r\n", body.len()).as_bytes()).unwrap();
    });
    let proxy = Setup::to(origin.address()).start();
    let mut client = Client::connect(proxy.address);
    let mut request = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\n\r\n").into_bytes();
    request.resize(request.len() + SIZE, b'x');
    assert_eq!(client.exchange(request).header("x"), Some("33554432"));
    let stat = |name: &str| proxy.stat(&format!("cluster.origin.upstream_flow_control_{name}_total"));
    assert!(stat("backed_up") > 0 && stat("backed_up") == stat("drained"), "{} {}", stat("backed_up"), stat("drained"));
}

#[test]
fn head_has_no_body_and_keeps_its_length() {
    let origin = Origin::http(|_| Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n"));
    let proxy = Setup::to(origin.address()).start();
    let mut client = Client::connect(proxy.address);
    for _ in 0..2 {
        let response = client.exchange("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!((response.header("content-length"), response.end), (Some("12345"), End::Complete));
    }
}

#[test]
fn expect_is_answered_by_us() {
    let origin = Origin::http(|request| Reply::ok(format!("{:?} {}", request.header("expect"), request.body.len())));
    let proxy = Setup::to(origin.address()).start();
    let mut client = Client::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").unwrap();
    let (interim, _) = client.read_exactly(25);
    assert_eq!(interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("ab").unwrap();
    assert_eq!(client.read_response(false).text(), "None 2");
}

#[test]
fn expect_and_informational_responses_pass_if_configured() {
    let origin = Origin::raw(|mut peer| {
        let head = peer.read_head().unwrap().unwrap();
        assert_eq!(head.fields.value("expect"), Some("100-continue"));
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let (body, _) = peer.read_body(&head).unwrap();
        peer.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").unwrap();
        peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{}", body.len()).as_bytes()).unwrap();
        peer.until_closed();
    });
    let proxy = Setup::to(origin.address()).edit(|model| model.proxy_100_continue = true).start();
    let mut client = Client::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").unwrap();
    let (interim, _) = client.read_exactly(25);
    assert_eq!(interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("ab").unwrap();
    let response = client.read_response(false);
    assert_eq!((response.informational.len(), response.text().as_str()), (1, "2"));
    assert_eq!(response.informational[0].fields.value("link"), Some("</a>"));
}

#[test]
fn informational_responses_are_dropped_by_default() {
    let origin = Origin::http(|_| {
        Reply::raw("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    });
    let proxy = Setup::to(origin.address()).start();
    let response = get(proxy.address, "/");
    assert_eq!((response.informational.len(), response.text().as_str()), (0, "ok"));
}

#[test]
fn http_10_is_refused_or_answered_in_kind() {
    let origin =
        Origin::http(|_| Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"));
    let proxy = Setup::to(origin.address()).start();
    let response = Client::connect(proxy.address).exchange("GET / HTTP/1.0\r\nHost: x\r\n\r\n");
    assert_eq!((response.status(), response.header("connection")), (426, Some("close")));
    assert_eq!(proxy.logged(1), "426 - low_version 0/0");
    let proxy = Setup::to(origin.address())
        .edit(|model| {
            model.http1.accept_http_10 = true;
            model.http1.default_host_for_http_10 = "default.example".to_owned();
        })
        .start();
    let mut client = Client::connect(proxy.address);
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
    let (all, end) = client.read_to_end();
    let text = String::from_utf8(all).unwrap();
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with("\r\n\r\nabc"), "{text}");
    assert!(text.contains("connection: close\r\n") && !text.contains("chunked"), "{text}");
    assert_eq!((end, origin.last().header("host")), (End::Closed, Some("default.example")));
}

#[test]
fn direct_responses_and_their_bodies() {
    let proxy = Setup::with_routes(vec![direct("/direct", 418, "teapot\n"), route("/", "nowhere")]).start();
    let mut client = Client::connect(proxy.address);
    for _ in 0..2 {
        let response = client.exchange("GET /direct HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!((response.status(), response.text().as_str()), (418, "teapot\n"));
        assert_eq!(response.header("content-type"), Some("text/plain"));
    }
    let response = client.exchange("HEAD /direct HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((response.header("content-length"), response.body.len()), (Some("7"), 0));
    let post = "POST /direct HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    let response = client.exchange(post);
    assert_eq!(response.status(), 418);
    assert_eq!(proxy.logged(4), "418 - direct_response 0/7");
    assert_eq!(proxy.stat("http.test.rq_direct_response"), 4);
}

#[test]
fn hop_by_hop_fields_do_not_pass() {
    let origin = Origin::http(|_| {
        Reply::raw(
            "HTTP/1.1 200 OK\r\nconnection: keep-alive, x-mine\r\nkeep-alive: 5\r\nx-mine: 1\r\ncontent-length: 0\r\n\r\n",
        )
    });
    let proxy = Setup::to(origin.address()).start();
    let mut client = Client::connect(proxy.address);
    let response = client.exchange(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, x-own\r\nKeep-Alive: 5\r\nX-Own: 1\r\nTE: gzip\r\nUpgrade: h2c\r\n\r\n",
    );
    for name in ["connection", "keep-alive", "x-mine"] {
        assert_eq!(response.header(name), None, "{name}");
    }
    let seen = origin.last();
    for name in ["connection", "keep-alive", "x-own", "te", "upgrade"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

#[test]
fn routes_count_for_themselves_and_logs_are_written_at_each_moment() {
    let origin = Origin::http(|_| {
        Reply::default().wait(Duration::from_millis(120)).send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    });
    let mut counted = route("/", "origin");
    counted.stat_prefix = "counted".to_owned();
    let proxy = Setup::with_routes(vec![counted])
        .cluster("origin", &[origin.address()])
        .edit(|model| {
            model.flush_access_log_on_new_request = true;
            model.access_log_flush_interval = Some(Duration::from_millis(70));
            let HttpFilterKind::Router(router) = &mut model.http_filters[0].kind else { panic!("no router") };
            router.upstream_log = model.access_log.clone();
            router.suppress_envoy_headers = true;
        })
        .start();
    let response = get(proxy.address, "/");
    assert_eq!(response.header("x-envoy-upstream-service-time"), None);
    assert_eq!(origin.last().header("x-envoy-expected-rq-timeout-ms"), None);
    let ended = |lines: &[String]| lines.iter().filter(|line| line.starts_with("200")).count() == 2;
    sota_testkit::wait_until("the attempt and the end", Duration::from_secs(5), || ended(&proxy.log()));
    let lines = proxy.log();
    let (before, after) = lines.split_at(lines.len() - 2);
    assert!(
        before.len() >= 2 && before.iter().all(|line| line == "0 - - 0/0"),
        "the start and each interval: {lines:?}"
    );
    assert_eq!(after, ["200 - via_upstream 0/0"; 2], "the attempt, the end");
    for stat in ["total", "200", "2xx", "completed"] {
        assert_eq!(proxy.stat(&format!("vhost.all.route.counted.upstream_rq_{stat}")), 1, "{stat}");
    }
}
