//! Upgrades and CONNECT: over HTTP/1 and HTTP/2, and from the one to the other.

use crate::fixture::{Proxy, Setup, action, direct, route, route_to};
use bytes::Bytes;
use h2::{RecvStream, SendStream, ext::Protocol};
use http::{Method, Request};
use sota_config::{
    cluster::Cluster,
    http::Http2Options,
    route::{PathMatcher, Route, RouteActionKind, RouteMatch},
    tls::UpstreamProxyProtocol,
    upgrade::{ConnectConfig, RouteUpgrade, UpgradeConfig},
};
use sota_plugin::{
    Extension,
    cx::StreamCx,
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, LocalReply, per_stream},
    http::{RequestHead, StatusCode},
    info::StreamInfo,
};
use sota_testkit::{Client, End, Origin, Reply, wait_until};
use std::{net::SocketAddr, sync::Arc, time::Duration};

const HANDSHAKE: &str = "GET /chat?x HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, x-hop\r\nx-hop: 1\r\n\
                         upgrade: WebSocket\r\nsec-websocket-version: 13\r\n\r\n";

fn upgrade(upgrade_type: &str, enabled: bool) -> UpgradeConfig {
    UpgradeConfig { upgrade_type: upgrade_type.to_owned(), enabled, filters: Vec::new() }
}

fn route_upgrade(upgrade_type: &str, enabled: bool, connect: Option<ConnectConfig>) -> RouteUpgrade {
    RouteUpgrade { upgrade_type: upgrade_type.to_owned(), enabled, connect }
}

/// One origin behind a connection manager that allows these upgrades.
fn setup(origin: SocketAddr, upgrades: &[&str]) -> Setup {
    let upgrades: Vec<_> = upgrades.iter().map(|name| upgrade(name, true)).collect();
    Setup::to(origin).edit(|model| {
        model.upgrades = upgrades;
        model.http2 = Http2Options { allow_connect: true, ..Http2Options::default() };
    })
}

/// A route for CONNECT to the cluster `origin`.
fn connect_route(connect: Option<ConnectConfig>) -> Route {
    let mut action = action("origin");
    action.upgrades = vec![route_upgrade("CONNECT", true, connect)];
    let route = route_to("/", RouteActionKind::Forward(Box::new(action)));
    Route { matcher: RouteMatch::path(PathMatcher::Connect), ..route }
}

fn speaks_http2(cluster: &mut Cluster) {
    cluster.protocol = sota_config::cluster::UpstreamProtocol::Http2;
}

/// An origin that agrees to whatever it is asked, and sends everything back until the other side ends: then it says
/// `bye` and ends, too.
fn switching() -> Origin {
    Origin::raw(|mut peer| {
        let Ok(Some(head)) = peer.read_head() else { return };
        let answer: &[u8] = match head.start[0] == "CONNECT" {
            true => b"HTTP/1.1 200 OK\r\nx-a: 1\r\n\r\n",
            false => b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nx-a: 1\r\n\r\n",
        };
        peer.send(answer).unwrap();
        while let Ok(data) = peer.read_some(1000)
            && !data.is_empty()
        {
            peer.send(&data).unwrap();
        }
        let _ = peer.send(b"bye");
    })
}

fn read_head(client: &mut Client) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let (byte, end) = client.read_exactly(1);
        assert_eq!(byte.len(), 1, "{end:?} behind {}", String::from_utf8_lossy(&head));
        head.extend_from_slice(&byte);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn a_websocket_passes_over_http1() {
    let origin = switching();
    let proxy = setup(origin.address(), &["websocket"]).start();
    let mut client = Client::connect(proxy.address);
    client.send(HANDSHAKE).unwrap();
    let head = read_head(&mut client);
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    for field in ["upgrade: websocket\r\n", "connection: upgrade\r\n", "x-a: 1\r\n", "server: envoy\r\n"] {
        assert!(head.contains(field), "{field:?} in {head}");
    }
    assert!(!head.contains("close") && !head.contains("content-length") && !head.contains("transfer-encoding"));
    client.send(b"\x81\x00GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(client.read_exactly(20).0, b"\x81\x00GET / HTTP/1.1\r\n\r\n");
    proxy.wait_for("http.test.downstream_cx_upgrades_active", 1);
    let sent = String::from_utf8_lossy(&origin.recorded()[0]).into_owned();
    assert!(sent.contains("connection: upgrade\r\n") && sent.contains("upgrade: WebSocket\r\n"), "{sent}");
    assert!(!sent.contains("x-hop") && !sent.contains("content-length"), "{sent}");
    // Each direction ends by itself.
    client.close_write();
    assert_eq!(client.read_to_end(), (b"bye".to_vec(), End::Closed));
    assert_eq!(proxy.logged(1), "101 - via_upstream 20/23");
    proxy.wait_for("http.test.downstream_cx_upgrades_active", 0);
    proxy.wait_for("http.test.downstream_cx_active", 0);
    proxy.wait_for("cluster.origin.upstream_cx_active", 0);
    assert_eq!(proxy.stat("http.test.downstream_cx_upgrades_total"), 1);
}

#[test]
fn nothing_passes_before_the_upstream_agrees() {
    // CVE-2026-2833: what is sent behind the head early belongs to nobody until there is a 101.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::raw(move |mut peer| {
        let _ = peer.read_head();
        let _ = wait.lock().unwrap().recv();
        let _ = peer.send(b"HTTP/1.1 101 S\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
        peer.read_to_end();
    });
    let proxy = setup(origin.address(), &["websocket"]).start();
    let mut client = Client::connect(proxy.address);
    client.send([HANDSHAKE, "early"].concat()).unwrap();
    wait_until("the request", Duration::from_secs(5), || origin.received_bytes() > 0);
    std::thread::sleep(Duration::from_millis(100));
    assert!(origin.recorded()[0].ends_with(b"\r\n\r\n"), "only the head has gone out");
    go.send(()).unwrap();
    read_head(&mut client);
    wait_until("the early octets", Duration::from_secs(5), || origin.recorded()[0].ends_with(b"early"));
}

#[test]
fn a_refused_upgrade_is_an_answer_and_the_end() {
    let origin = Origin::http(|_| Reply::status(426, "no"));
    let proxy = setup(origin.address(), &["websocket"]).start();
    let mut client = Client::connect(proxy.address);
    client.send([HANDSHAKE, "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"].concat()).unwrap();
    let response = client.read_response(false);
    assert_eq!((response.status(), response.text().as_str()), (426, "no"));
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(client.read_to_end().0, b"");
    assert_eq!(origin.requests(), 1);
}

#[test]
fn upgrades_are_refused_unless_allowed() {
    let origin = switching();
    let cases: [(&[UpgradeConfig], Vec<RouteUpgrade>, u16); 7] = [
        (&[], vec![], 403),
        (&[upgrade("websocket", false)], vec![], 403),
        (&[upgrade("spdy/3.1", true)], vec![], 403),
        (&[upgrade("WEBSOCKET", true)], vec![], 101),
        (&[upgrade("websocket", true)], vec![route_upgrade("WebSocket", false, None)], 403),
        (&[upgrade("websocket", false)], vec![route_upgrade("websocket", true, None)], 101),
        (&[], vec![route_upgrade("websocket", true, None)], 101),
    ];
    for (manager, by_route, status) in cases {
        let mut action = action("origin");
        action.upgrades.clone_from(&by_route);
        let routes = vec![route_to("/", RouteActionKind::Forward(Box::new(action)))];
        let proxy = Setup::with_routes(routes)
            .cluster("origin", &[origin.address()])
            .edit(|model| model.upgrades = manager.to_vec())
            .start();
        let mut client = Client::connect(proxy.address);
        client.send(HANDSHAKE).unwrap();
        let head = read_head(&mut client);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{manager:?} {by_route:?}: {head}");
        if status == 403 {
            assert_eq!(proxy.logged(1), "403 - upgrade_failed 0/0");
            assert_eq!(proxy.stat("http.test.downstream_rq_ws_on_non_ws_route"), 1);
        }
    }
}

#[test]
fn an_upgrade_with_a_body_is_a_request_like_any_other() {
    let origin = Origin::http(|request| Reply::ok(&request.body));
    let proxy = setup(origin.address(), &["websocket"]).start();
    for body in ["content-length: 3\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"] {
        let head = HANDSHAKE.trim_end_matches("\r\n").replacen("GET", "POST", 1);
        let response = Client::connect(proxy.address).exchange(format!("{head}\r\n{body}"));
        assert_eq!((response.status(), response.text().as_str()), (200, "abc"));
        let seen = origin.last();
        assert_eq!((seen.header("upgrade"), seen.header("connection")), (None, None));
    }
    assert_eq!(proxy.stat("http.test.downstream_cx_upgrades_total"), 0);
}

/// Answers every request.
static DENY: Extension<dyn HttpFilterConfig> = Extension {
    name: "test.deny",
    short_name: "deny",
    type_urls: &[],
    build: |_, _| Ok(per_stream((), |_: &Arc<()>, _: &StreamInfo| Some(Deny))),
    build_route: None,
    route_type_urls: &[],
};

struct Deny;

impl HttpFilter for Deny {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_request_headers(&mut self, _: &mut RequestHead, _: bool, _: &mut StreamCx<'_>) -> FilterStatus<RequestHead> {
        FilterStatus::Reply(Box::new(LocalReply::new(StatusCode::FORBIDDEN, "", "denied")))
    }
}

#[test]
fn upgrades_have_filters_of_their_own() {
    let origin = switching();
    let proxy = setup(origin.address(), &["websocket"])
        .filter(&DENY)
        .edit(|model| {
            let router = model.http_filters.last().unwrap().clone();
            model.upgrades[0].filters = vec![router];
        })
        .start();
    let response = Client::connect(proxy.address).exchange("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(response.status(), 403);
    let mut client = Client::connect(proxy.address);
    client.send(HANDSHAKE).unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 101 "));
}

#[test]
fn connect_is_forwarded_over_http1() {
    let origin = switching();
    let proxy = Setup::with_routes(vec![connect_route(None)]).cluster("origin", &[origin.address()]).start();
    let mut client = Client::connect(proxy.address);
    client.send("CONNECT db.example:5432 HTTP/1.1\r\nhost: db.example:5432\r\n\r\n").unwrap();
    let head = read_head(&mut client);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("transfer-encoding"), "{head}");
    client.send("ping").unwrap();
    assert_eq!(client.read_exactly(4).0, b"ping");
    let sent = String::from_utf8(origin.recorded()[0].clone()).unwrap();
    assert!(sent.starts_with("CONNECT db.example:5432 HTTP/1.1\r\nhost: db.example:5432\r\n"), "{sent}");
    client.close_write();
    assert_eq!(client.read_to_end().0, b"bye");
    assert_eq!(proxy.logged(1), "200 - via_upstream 4/7");
}

/// A plain TCP server: echo, and `bye` at the end.
fn tcp() -> Origin {
    Origin::raw(|mut peer| {
        while let Ok(data) = peer.read_some(1000)
            && !data.is_empty()
        {
            let _ = peer.send(&data);
        }
        let _ = peer.send(b"bye");
    })
}

#[test]
fn connect_ends_here_and_its_octets_go_on() {
    let origin = tcp();
    let connect = Some(ConnectConfig { allow_post: true, ..ConnectConfig::default() });
    let mut post = action("origin");
    post.upgrades = vec![route_upgrade("CONNECT", true, connect.clone())];
    let routes = vec![connect_route(connect), route_to("/", RouteActionKind::Forward(Box::new(post)))];
    let proxy = Setup::with_routes(routes).cluster("origin", &[origin.address()]).start();
    let mut client = Client::connect(proxy.address);
    client.send("CONNECT db:5432 HTTP/1.1\r\nhost: db:5432\r\n\r\nearly ").unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 200 OK\r\n"));
    client.send("late").unwrap();
    assert_eq!(client.read_exactly(10).0, b"early late");
    client.close_write();
    assert_eq!(client.read_to_end().0, b"bye");
    assert_eq!(origin.recorded(), [b"early late"]);
    assert_eq!(proxy.logged(1), "200 - via_upstream 10/13");

    let response = Client::connect(proxy.address).exchange("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab");
    assert_eq!((response.status(), response.text().as_str()), (200, "abbye"));
    assert_eq!(origin.recorded()[1], b"ab");
}

#[test]
fn the_host_of_a_tunnel_is_told_who_the_client_is() {
    let origin = tcp();
    let header = UpstreamProxyProtocol { is_v2: false, pass_through_tlvs: Some(Vec::new()), added_tlvs: Vec::new() };
    let connect = ConnectConfig { proxy_protocol: Some(Arc::new(header)), ..ConnectConfig::default() };
    let proxy = Setup::with_routes(vec![connect_route(Some(connect))]).cluster("origin", &[origin.address()]).start();
    let mut client = Client::connect(proxy.address);
    client.send("CONNECT db:5432 HTTP/1.1\r\nhost: db:5432\r\n\r\nword").unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 200 OK\r\n"));
    let ports = (client.local_address().port(), proxy.address.port());
    let told = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nword", ports.0, ports.1);
    assert_eq!(String::from_utf8(client.read_exactly(told.len()).0).unwrap(), told);
}

#[test]
fn a_tunnel_to_nobody_is_an_answer() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], sota_testkit::free_port()));
    let proxy =
        Setup::with_routes(vec![connect_route(Some(ConnectConfig::default()))]).cluster("origin", &[nobody]).start();
    let response = Client::connect(proxy.address).exchange("CONNECT db:1 HTTP/1.1\r\nhost: db:1\r\n\r\n");
    assert_eq!(response.status(), 503);
    assert!(proxy.logged(1).starts_with("503 UF "), "{}", proxy.logged(1));
}

#[test]
fn tunnels_end_when_nothing_moves_and_when_the_listener_drains() {
    let origin = switching();
    let proxy = setup(origin.address(), &["websocket"])
        .edit(|model| model.stream_idle_timeout = Some(Duration::from_millis(100)))
        .start();
    let mut client = Client::connect(proxy.address);
    client.send(HANDSHAKE).unwrap();
    read_head(&mut client);
    assert_eq!(client.read_to_end().0, b"");
    assert!(proxy.logged(1).starts_with("101 SI stream_idle_timeout"), "{}", proxy.logged(1));

    let proxy = setup(origin.address(), &["websocket"])
        .edit(|model| {
            model.common.max_connection_duration = Some(Duration::from_millis(100));
            model.drain_timeout = Duration::from_millis(50);
        })
        .start();
    let mut client = Client::connect(proxy.address);
    client.send(HANDSHAKE).unwrap();
    read_head(&mut client);
    assert_eq!(client.read_to_end().0, b"");
    assert!(proxy.logged(1).starts_with("101 DC max_connection_duration_reached"), "{}", proxy.logged(1));
}

/// An `h2` client on a connection.
fn with_h2<R>(proxy: &Proxy, test: impl AsyncFnOnce(h2::client::SendRequest<Bytes>) -> R) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let run = async {
            // The settings, which allow extended CONNECT, come first.
            while !client.is_extended_connect_protocol_enabled() {
                client = client.ready().await.unwrap();
                tokio::task::yield_now().await;
            }
            test(client).await
        };
        tokio::time::timeout(Duration::from_secs(20), run).await.expect("the test takes too long")
    })
}

fn extended_connect(uri: &str) -> Request<()> {
    let mut request = Request::builder().method(Method::CONNECT).uri(uri).body(()).unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request
}

async fn read(body: &mut RecvStream, octets: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < octets
        && let Some(data) = body.data().await
    {
        let data = data.unwrap();
        let _ = body.flow_control().release_capacity(data.len());
        all.extend_from_slice(&data);
    }
    all
}

/// Says something, hears it back, ends, and hears the end.
async fn converse(stream: &mut SendStream<Bytes>, body: &mut RecvStream) {
    stream.send_data("hello".into(), false).unwrap();
    assert_eq!(read(body, 5).await, b"hello");
    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(read(body, 100).await, b"bye");
}

#[test]
fn extended_connect_becomes_an_upgrade_of_http1() {
    let origin = switching();
    let proxy = setup(origin.address(), &["websocket"]).start();
    with_h2(&proxy, async |mut client| {
        let (response, mut stream) = client.send_request(extended_connect("http://a/chat?x"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!((response.status().as_u16(), response.headers()["x-a"].to_str().unwrap()), (200, "1"));
        assert!(!response.headers().contains_key("upgrade"));
        converse(&mut stream, &mut response.into_body()).await;
    });
    let sent = String::from_utf8_lossy(&origin.recorded()[0]).into_owned();
    assert!(sent.starts_with("GET /chat?x HTTP/1.1\r\nhost: a\r\n"), "{sent}");
    assert!(sent.contains("connection: upgrade\r\n") && sent.contains("upgrade: websocket\r\n"), "{sent}");
    assert_eq!(proxy.logged(1), "101 - via_upstream 5/8");
}

#[test]
fn success_without_101_is_no_consent_in_http2() {
    let origin = Origin::http(|_| Reply::ok("page"));
    let proxy = setup(origin.address(), &["websocket"]).start();
    with_h2(&proxy, async |mut client| {
        let (response, _stream) = client.send_request(extended_connect("http://a/"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 502);
    });
    assert_eq!(proxy.logged(1), "502 UPE upgrade_not_accepted 0/0");
}

#[test]
fn connect_over_http2_ends_here() {
    let origin = tcp();
    let proxy = Setup::with_routes(vec![connect_route(Some(ConnectConfig::default()))])
        .cluster("origin", &[origin.address()])
        .edit(|model| model.http2.allow_connect = true)
        .start();
    with_h2(&proxy, async |mut client| {
        let request = Request::builder().method(Method::CONNECT).uri("db:5432").body(()).unwrap();
        let (response, mut stream) = client.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        converse(&mut stream, &mut response.into_body()).await;
    });
    assert_eq!(proxy.logged(1), "200 - via_upstream 5/8");
}

/// Our own proxy as an HTTP/2 origin that takes extended CONNECT, in front of `switching`.
fn second(origin: &Origin) -> Proxy {
    let mut connect = connect_route(None);
    if let RouteActionKind::Forward(action) = &mut connect.action {
        action.upgrades.push(route_upgrade("websocket", true, None));
    }
    let mut any = connect.clone();
    any.matcher = RouteMatch::path(PathMatcher::Prefix("/".to_owned()));
    Setup::with_routes(vec![connect, any])
        .cluster("origin", &[origin.address()])
        .edit(|model| model.http2.allow_connect = true)
        .start()
}

#[test]
fn an_upgrade_of_http1_becomes_extended_connect() {
    let origin = switching();
    let behind = second(&origin);
    let proxy = setup(behind.address, &["websocket"]).edit_cluster(speaks_http2).start();
    for _ in 0..2 {
        let mut client = Client::connect(proxy.address);
        client.send(HANDSHAKE).unwrap();
        let head = read_head(&mut client);
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: WebSocket\r\n"), "{head}");
        client.send("hello").unwrap();
        assert_eq!(client.read_exactly(5).0, b"hello");
        client.close_write();
        assert_eq!(client.read_to_end(), (b"bye".to_vec(), End::Closed));
    }
    assert_eq!(proxy.stat("cluster.origin.upstream_cx_http2_total"), 1);
    assert_eq!(proxy.logged(2), "101 - via_upstream 5/8");
}

#[test]
fn tunnels_pass_from_http2_to_http2() {
    let origin = switching();
    let behind = second(&origin);
    let mut connect = connect_route(None);
    if let RouteActionKind::Forward(action) = &mut connect.action {
        action.upgrades.push(route_upgrade("websocket", true, None));
    }
    let mut any = connect.clone();
    any.matcher = RouteMatch::path(PathMatcher::Prefix("/".to_owned()));
    let proxy = Setup::with_routes(vec![connect, any])
        .cluster("origin", &[behind.address])
        .edit_cluster(speaks_http2)
        .edit(|model| model.http2.allow_connect = true)
        .start();
    with_h2(&proxy, async |mut client| {
        let connect = Request::builder().method(Method::CONNECT).uri("db:5432").body(()).unwrap();
        for request in [extended_connect("http://a/"), connect] {
            let (response, mut stream) = client.send_request(request, false).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            converse(&mut stream, &mut response.into_body()).await;
        }
    });
}

#[test]
fn an_upgrade_to_an_http2_origin_that_takes_none_is_refused() {
    let origin = crate::h2_origin::Origin::start();
    let proxy = setup(origin.address, &["websocket"]).edit_cluster(speaks_http2).start();
    let mut client = Client::connect(proxy.address);
    client.send(HANDSHAKE).unwrap();
    assert_eq!(client.read_response(false).status(), 502);
    assert!(proxy.logged(1).starts_with("502 UPE upstream_reset_before_response_started{protocol_error}"));
}

#[test]
fn other_routes_and_direct_responses_are_as_before() {
    let origin = switching();
    let proxy = Setup::with_routes(vec![direct("/d", 200, "here"), route("/", "origin")])
        .cluster("origin", &[origin.address()])
        .edit(|model| model.upgrades = vec![upgrade("websocket", true)])
        .start();
    let request = HANDSHAKE.replacen("/chat", "/d", 1);
    let response = Client::connect(proxy.address).exchange(request);
    assert_eq!((response.status(), response.text().as_str()), (200, "here"));
    assert_eq!(response.header("connection"), Some("close"));
}
