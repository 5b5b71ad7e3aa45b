//! Which route takes a request, and what is decided before and beside that.

use crate::fixture::{Setup, action, direct, route, route_to};
use sota_config::http::{HttpConnectionManager as Model, RouteSource};
use sota_config::{
    access_log::{Format, FormatString},
    http::{HeaderMutation, OriginalIpDetection},
    matcher::{CookieMatcher, HeaderCondition, HeaderMatcher, StringMatcher, StringPattern},
    route::{
        AppendAction, ClusterSpecifier, DirectResponse, HeaderMutations, HeaderValueOption, PathMatcher, PathRewrite,
        Route, RouteAction, RouteActionKind, RouteConfiguration, RouteMatch, TlsRequirement, VirtualCluster,
        VirtualHost,
    },
};
use sota_testkit::{Client, Origin, Reply, get, request};
use std::sync::Arc;

/// Changes the one virtual host.
fn edit_host(model: &mut Model, edit: impl FnOnce(&mut VirtualHost)) {
    let RouteSource::Inline(table) = &model.routes else { return };
    let mut table = RouteConfiguration::clone(table);
    edit(&mut table.virtual_hosts[0]);
    model.routes = RouteSource::Inline(Arc::new(table));
}

fn exact(text: &str) -> StringMatcher {
    StringMatcher { pattern: StringPattern::Exact(text.into()), ignore_case: false }
}

fn header(name: &str, value: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.into(),
        condition: HeaderCondition::String(exact(value)),
        invert: false,
        treat_missing_as_empty: false,
    }
}

/// A direct response where this matches.
fn answer(matcher: RouteMatch, body: &str) -> Route {
    Route { matcher, ..direct("/", 200, body) }
}

fn prefix(text: &str) -> RouteMatch {
    RouteMatch::path(PathMatcher::Prefix(text.into()))
}

fn add(name: &str, value: &str) -> HeaderMutations {
    let (name, value) = (name.to_owned(), value.to_owned());
    let append_action = AppendAction::OverwriteIfExistsOrAdd;
    HeaderMutations {
        add: vec![HeaderValueOption { name, value, append_action, keep_empty_value: false }],
        remove: Vec::new(),
    }
}

#[test]
fn grpc_cookies_templates_and_connect() {
    let cookie = CookieMatcher { name: "user".into(), value: exact("me"), invert: false };
    let proxy = Setup::with_routes(vec![
        answer(RouteMatch { grpc: true, ..prefix("/") }, "grpc"),
        answer(RouteMatch { cookies: vec![cookie], ..prefix("/") }, "cookie"),
        answer(RouteMatch::path(PathMatcher::Template("/t/{a}/{b=**}".into())), "template"),
        answer(RouteMatch::path(PathMatcher::Connect), "connect"),
        answer(prefix("/"), "rest"),
    ])
    .start();
    let body = |text: &str| request(proxy.address, text).text();
    assert_eq!(body("GET / HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\n\r\n"), "");
    assert_eq!(body("GET / HTTP/1.1\r\nhost: a\r\ncookie: x=y; user=me\r\n\r\n"), "cookie");
    assert_eq!(body("GET /t/1/2/3 HTTP/1.1\r\nhost: a\r\ncookie: user=you\r\n\r\n"), "template");
    assert_eq!(body("GET /t/1 HTTP/1.1\r\nhost: a\r\n\r\n"), "rest");
    let grpc = request(proxy.address, "GET / HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\n\r\n");
    assert_eq!(grpc.header("grpc-message"), Some("grpc"));
    // A route takes it, but nothing here opens a tunnel.
    let tunnel = request(proxy.address, "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n");
    assert_eq!((tunnel.status(), tunnel.header("connection")), (403, Some("close")));
}

#[test]
fn a_host_that_requires_tls_redirects() {
    let origin = Origin::http(|_| Reply::ok("ok"));
    let require = |requirement| {
        let setup = Setup::to(origin.address());
        setup.edit(|model| edit_host(model, |host| host.require_tls = requirement)).start()
    };
    let all = require(TlsRequirement::All);
    let response = request(all.address, "GET /p?q HTTP/1.1\r\nhost: a.example:80\r\n\r\n");
    assert_eq!((response.status(), response.header("location")), (301, Some("https://a.example:80/p?q")));
    let encrypted = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-proto: https\r\n\r\n";
    assert_eq!(request(all.address, encrypted).text(), "ok");
    assert_eq!(get(require(TlsRequirement::ExternalOnly).address, "/").status(), 301);
    assert_eq!(get(require(TlsRequirement::None).address, "/").status(), 200);
    assert_eq!(origin.requests(), 2);
}

#[test]
fn virtual_clusters_count() {
    let origin = Origin::http(|_| Reply::ok("ok"));
    let posts = VirtualCluster { name: "posts".into(), headers: vec![header(":method", "POST")] };
    let setup = Setup::to(origin.address());
    let proxy = setup.edit(|model| edit_host(model, |host| host.virtual_clusters = vec![posts])).start();
    get(proxy.address, "/");
    get(proxy.address, "/");
    request(proxy.address, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    proxy.wait_for("vhost.all.vcluster.posts.upstream_rq_total", 1);
    proxy.wait_for("vhost.all.vcluster.posts.upstream_rq_2xx", 1);
    proxy.wait_for("vhost.all.vcluster.other.upstream_rq_total", 2);
}

#[test]
fn names_from_requests_leave_nothing_behind() {
    let by_header = RouteAction { cluster: ClusterSpecifier::ClusterHeader("x-cluster".into()), ..action("") };
    let proxy = Setup::with_routes(vec![route_to("/", RouteActionKind::Forward(Box::new(by_header)))]).start();
    let mut client = Client::connect(proxy.address);
    let mut send = |number: u32| {
        let text = format!("GET /{number} HTTP/1.1\r\nhost: h{number}\r\nx-cluster: c{number}\r\n\r\n");
        assert_eq!(client.exchange(&text).status(), 503);
    };
    send(0);
    let before = proxy.stat_names().len();
    for number in 1..500 {
        send(number);
    }
    proxy.wait_for("http.test.no_cluster", 500);
    assert_eq!(proxy.stat_names().len(), before);
}

#[test]
fn the_client_is_who_its_field_says() {
    let origin = Origin::http(|_| Reply::ok("ok"));
    let detection = OriginalIpDetection::Header { name: "x-ip".into(), is_trusted: false, reject_status: Some(401) };
    let proxy = Setup::to(origin.address())
        .edit(|model| {
            model.original_ip_detection = vec![detection];
            edit_host(model, |host| host.request_headers = add("x-client", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"));
        })
        .start();
    assert_eq!(get(proxy.address, "/").status(), 401);
    proxy.wait_for("http.test.downstream_rq_rejected_via_ip_detection", 1);
    assert_eq!(request(proxy.address, "GET / HTTP/1.1\r\nhost: a\r\nx-ip: 1.2.3.4\r\n\r\n").status(), 200);
    assert_eq!(origin.last().header("x-client"), Some("1.2.3.4"));
}

#[test]
fn early_changes_decide_the_route() {
    let early = [HeaderMutation::Field(add("x-route", "%REQ(x-choose)%"))];
    let chosen = RouteMatch { headers: vec![header("x-route", "b")], ..prefix("/") };
    let proxy = Setup::with_routes(vec![answer(chosen, "b"), direct("/", 200, "rest")])
        .edit(|model| model.early_header_mutations = early.to_vec())
        .start();
    assert_eq!(request(proxy.address, "GET / HTTP/1.1\r\nhost: a\r\nx-choose: b\r\n\r\n").text(), "b");
    assert_eq!(request(proxy.address, "GET / HTTP/1.1\r\nhost: a\r\nx-route: b\r\n\r\n").text(), "b");
    assert_eq!(get(proxy.address, "/").text(), "rest");
}

#[test]
fn bodies_and_paths_are_made_by_formats() {
    let origin = Origin::http(|_| Reply::ok("ok"));
    let format = |text: &str| {
        Some(FormatString { format: Format::Text(text.into()), omit_empty_values: false, content_type: None })
    };
    let direct = |status, body_format| DirectResponse { status, body: None, body_format };
    let rewrite = RouteAction { path_rewrite: Some(PathRewrite::Format("/%REQ(x-a)%".into())), ..action("origin") };
    let proxy = Setup::with_routes(vec![
        route_to("/body", RouteActionKind::DirectResponse(direct(418, format("%PROTOCOL% %REQ(:PATH)%")))),
        route_to("/none", RouteActionKind::DirectResponse(direct(204, None))),
        route_to("/path", RouteActionKind::Forward(Box::new(rewrite))),
        route("/", "origin"),
    ])
    .cluster("origin", &[origin.address()])
    .edit(|model| model.local_reply.body_format = format("[%LOCAL_REPLY_BODY%]"))
    .start();
    assert_eq!(get(proxy.address, "/body?x").text(), "[HTTP/1.1 /body?x]");
    let mut client = Client::connect(proxy.address);
    // A status without a body has none, and the connection goes on.
    for _ in 0..2 {
        let response = client.exchange("GET /none HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!((response.status(), response.header("content-length"), response.text().len()), (204, None, 0));
    }
    client.exchange("GET /path?q HTTP/1.1\r\nhost: a\r\nx-a: new\r\n\r\n");
    assert_eq!(origin.last().target(), "/new?q");
    // What cannot stand in a request line leaves the path as it is.
    client.exchange("GET /path?q HTTP/1.1\r\nhost: a\r\nx-a: a b\r\n\r\n");
    assert_eq!(origin.last().target(), "/path?q");
}
