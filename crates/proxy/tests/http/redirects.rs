//! Redirects of the upstream that the proxy follows itself.

use crate::fixture::{Setup, action, route_to};
use bytes::Bytes;
use sota_config::{
    retry::InternalRedirectPolicy,
    route::{RouteAction, RouteActionKind},
};
use sota_plugin::{
    Extension,
    cx::StreamCx,
    filter::{DataStatus, FilterStatus, HttpFilter, HttpFilterConfig, per_stream},
    http::{Headers, RequestHead},
    info::StreamInfo,
};
use sota_testkit::{Client, Origin, Reply, get, request};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// Adds to the head, the data and the trailers of every request.
struct Marks;

static MARKS: Extension<dyn HttpFilterConfig> = Extension {
    name: "marks",
    short_name: "marks",
    type_urls: &[],
    build: |_, _| Ok(per_stream((), |_: &Arc<()>, _: &StreamInfo| Some(Marks))),
    build_route: None,
    route_type_urls: &[],
};

impl HttpFilter for Marks {
    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        _: bool,
        _: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        head.headers.append_sanitized("x-mark", "m");
        FilterStatus::Continue
    }

    fn on_request_data(&mut self, data: &mut Bytes, _: bool, _: &mut StreamCx<'_>) -> DataStatus {
        *data = data.to_ascii_uppercase().into();
        DataStatus::Continue
    }

    fn on_request_trailers(&mut self, trailers: &mut Headers, _: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        trailers.append_sanitized("x-mark", "t");
        FilterStatus::Continue
    }

    fn on_stream_complete(&mut self, cx: &mut StreamCx<'_>) {
        cx.worker.stats().counter("marks.completed").inc();
    }
}

pub fn follows() -> InternalRedirectPolicy {
    InternalRedirectPolicy {
        max_redirects: 1,
        statuses: vec![302, 303, 307],
        predicates: Vec::new(),
        allow_cross_scheme: false,
        response_headers_to_copy: Vec::new(),
    }
}

fn to(origin: SocketAddr, edit: impl FnOnce(&mut RouteAction)) -> Setup {
    let mut action = RouteAction { internal_redirects: Some(follows()), ..action("origin") };
    edit(&mut action);
    Setup::with_routes(vec![route_to("/", RouteActionKind::Forward(Box::new(action)))]).cluster("origin", &[origin])
}

/// Redirects everything but `/there`, and answers there with what came.
fn redirecting(status: u16, rest: &'static str) -> Origin {
    Origin::http(move |request| match request.target() {
        "/there" => Reply::ok(&request.body),
        _ => Reply::raw(format!("HTTP/1.1 {status} Elsewhere\r\nlocation: http://b/there\r\n{rest}")),
    })
}

fn chunked(body: &str) -> String {
    let head = "POST /here HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    format!("{head}{:x}\r\n{body}\r\n0\r\nx-last: 1\r\n\r\n", body.len())
}

#[test]
fn filters_see_every_request_once() {
    let origin = redirecting(307, "content-length: 0\r\n\r\n");
    let proxy = to(origin.address(), |_| {}).filter(&MARKS).start();
    let body = "x".repeat(200_000);
    let response = request(proxy.address, chunked(&body));
    assert_eq!((response.status(), response.body.len()), (200, body.len()));
    let [first, second] = &origin.seen()[..] else { panic!("{}", origin.requests()) };
    assert_eq!((first.target(), second.target()), ("/here", "/there"));
    for (request, marks) in [(first, 1), (second, 2)] {
        assert!(request.body.len() == body.len() && request.body.iter().all(|octet| *octet == b'X'));
        assert_eq!(request.head.fields.values("x-mark").count(), marks);
        assert_eq!((request.trailers.value("x-last"), request.trailers.values("x-mark").count()), (Some("1"), marks));
    }
    assert_eq!(second.header("x-envoy-original-url"), Some("http://a/here"));
    assert_eq!(proxy.logged(1), "307 - internal_redirect 200000/0");
    assert_eq!(proxy.logged(2), "200 - via_upstream 200000/200000");
    proxy.wait_for("marks.completed", 2);
    assert_eq!(proxy.stat("cluster.origin.upstream_internal_redirect_succeeded_total"), 1);
}

#[test]
fn a_small_body_of_a_redirect_costs_no_connection() {
    let origin = redirecting(302, "content-length: 5\r\n\r\nmoved");
    let proxy = to(origin.address(), |_| {}).start();
    let mut client = Client::connect(proxy.address);
    for _ in 0..3 {
        assert_eq!(client.exchange("GET /here HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    }
    assert_eq!((origin.requests(), origin.connections()), (6, 1));
    // One that does not end does.
    let origin = redirecting(302, "content-length: 5\r\n\r\nmo");
    let proxy = to(origin.address(), |_| {}).start();
    assert_eq!(get(proxy.address, "/here").status(), 200);
    assert_eq!((origin.requests(), origin.connections()), (2, 2));
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
}

#[test]
fn what_cannot_be_sent_again_is_not_followed() {
    let origin = redirecting(307, "content-length: 0\r\n\r\n");
    let proxy = to(origin.address(), |_| {}).start();
    // More than the buffer limit of 1 MiB.
    let body = "x".repeat(3 << 20);
    let post = format!("POST /here HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let response = request(proxy.address, post);
    assert_eq!((response.status(), response.header("location")), (307, Some("http://b/there")));
    assert_eq!(proxy.stat("cluster.origin.upstream_internal_redirect_failed_total"), 1);
    assert_eq!(proxy.stat("cluster.origin.retry_or_shadow_abandoned"), 1);
    // A request that is not whole yet.
    let early = Origin::raw(|mut peer| {
        let _ = peer.read_head();
        let _ = peer.send(b"HTTP/1.1 307 Elsewhere\r\nlocation: http://b/there\r\ncontent-length: 0\r\n\r\n");
        peer.until_closed();
    });
    let proxy = to(early.address(), |_| {}).start();
    let mut client = Client::connect(proxy.address);
    client.send("POST /here HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").unwrap();
    assert_eq!(client.read_response(false).status(), 307);
    assert_eq!(early.connections(), 1);
}

#[test]
fn a_client_that_goes_ends_the_second_request_too() {
    let origin = Origin::http(|request| match request.target() {
        "/there" => Reply::silence(),
        _ => Reply::raw("HTTP/1.1 302 Elsewhere\r\nlocation: http://b/there\r\ncontent-length: 0\r\n\r\n"),
    });
    let proxy = to(origin.address(), |_| {}).start();
    let mut client = Client::connect(proxy.address);
    client.send("GET /here HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    sota_testkit::wait_until("the second request", Duration::from_secs(5), || origin.requests() == 2);
    client.reset();
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
    proxy.wait_for("http.test.downstream_rq_active", 0);
    assert!(proxy.logged(2).starts_with("0 DC"), "{}", proxy.logged(2));
}

#[test]
fn the_second_request_has_a_timeout_of_its_own() {
    let origin = Origin::http(|request| match request.target() {
        "/there" => Reply::silence(),
        _ => Reply::default()
            .wait(Duration::from_millis(200))
            .send("HTTP/1.1 302 Elsewhere\r\nlocation: http://b/there\r\ncontent-length: 0\r\n\r\n"),
    });
    let proxy = to(origin.address(), |action| action.timeout = Some(Duration::from_millis(400))).start();
    let begun = std::time::Instant::now();
    assert_eq!(get(proxy.address, "/here").status(), 504);
    assert!(begun.elapsed() >= Duration::from_millis(600), "{:?}", begun.elapsed());
    assert_eq!(proxy.logged(2), "504 UT response_timeout 0/24");
}
