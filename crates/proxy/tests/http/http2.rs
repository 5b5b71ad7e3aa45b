//! HTTP/2 from the client, HTTP/1 to the origin: the `h2` crate is the client.

use crate::fixture::{Proxy, Setup, direct, route};
use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Method, Request, Response, Version};
use sota_config::http::CodecType;
use sota_testkit::{Client, Origin, Reply, get};
use std::{future::poll_fn, time::Duration};

/// Runs a client over one connection. What the connection ended with is given to `test` by the second argument.
fn with_client<R>(proxy: &Proxy, test: impl AsyncFnOnce(SendRequest<Bytes>, Ended) -> R) -> R {
    with_window(proxy, 1 << 20, test)
}

type Ended = tokio::sync::oneshot::Receiver<Result<(), h2::Error>>;

/// The same with a window of a stream of so many octets.
fn with_window<R>(proxy: &Proxy, window: u32, test: impl AsyncFnOnce(SendRequest<Bytes>, Ended) -> R) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(window)
            .initial_connection_window_size(1 << 20)
            .handshake(socket)
            .await
            .unwrap();
        let (tell, ended) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let _ = tell.send(connection.await);
        });
        let test = test(sender.ready().await.unwrap(), ended);
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test takes too long")
    })
}

fn request(method: Method, path: &str) -> Request<()> {
    let uri = format!("http://example.com{path}");
    Request::builder().method(method).version(Version::HTTP_2).uri(uri).body(()).unwrap()
}

fn send(client: &mut SendRequest<Bytes>, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
    client.send_request(request, end).unwrap()
}

async fn read(response: &mut Response<RecvStream>) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let (stream, mut body) = (response.body_mut(), Vec::new());
    while let Some(data) = stream.data().await {
        let data = data?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len())?;
    }
    Ok((body, stream.trailers().await?))
}

async fn exchange(client: &mut SendRequest<Bytes>, request: Request<()>) -> (Response<RecvStream>, String) {
    let mut response = send(client, request, true).0.await.unwrap();
    let (body, _) = read(&mut response).await.unwrap();
    (response, String::from_utf8(body).unwrap())
}

/// Sends all of a body as windows allow.
async fn upload(stream: &mut SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let some =
            poll_fn(|cx| stream.poll_capacity(cx)).await.ok_or_else(|| h2::Error::from(Reason::STREAM_CLOSED))??;
        stream.send_data(body.split_to(some.min(body.len())), false)?;
    }
    Ok(())
}

fn echo() -> Origin {
    Origin::http(|request| Reply::ok(&request.body))
}

#[test]
fn requests_of_every_form_arrive_and_are_answered() {
    let origin = Origin::http(|request| match request.target() {
        "/none" => Reply::raw("HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n"),
        "/same" => Reply::raw("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"),
        "/chunked" => Reply::raw(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\n\r\n\
             3\r\nabc\r\n0\r\nx-sum: 3\r\n\r\n",
        ),
        "/head" if request.method() == "HEAD" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        _ => Reply::ok(format!("{} {}", request.method(), request.body.len())),
    });
    let proxy = Setup::to(origin.address()).start();
    with_client(&proxy, async |mut client, _| {
        let mut get = request(Method::GET, "/a?b");
        for crumb in ["a=1", "b=2"] {
            get.headers_mut().append("cookie", crumb.parse().unwrap());
        }
        get.headers_mut().append("te", "trailers".parse().unwrap());
        let (response, body) = exchange(&mut client, get).await;
        assert_eq!((response.status().as_u16(), body.as_str(), response.version()), (200, "GET 0", Version::HTTP_2));
        assert_eq!(response.headers()["server"], "envoy");
        assert!(!response.headers().contains_key("connection"));
        let seen = origin.last();
        assert_eq!(
            (seen.target(), seen.header("host"), seen.header("cookie")),
            ("/a?b", Some("example.com"), Some("a=1; b=2"))
        );
        assert_eq!((seen.header("x-forwarded-proto"), seen.header("te")), (Some("http"), Some("trailers")));
        assert_eq!(proxy.logged(1), "200 - via_upstream 0/5");

        let (response, mut body) = send(&mut client, request(Method::POST, "/post"), false);
        upload(&mut body, Bytes::from(vec![b'x'; 200_000])).await.unwrap();
        body.send_trailers(HeaderMap::from_iter([("x-t".parse().unwrap(), "1".parse().unwrap())])).unwrap();
        assert_eq!(read(&mut response.await.unwrap()).await.unwrap().0, b"POST 200000");
        let seen = origin.last();
        assert_eq!((seen.header("transfer-encoding"), seen.trailers.value("x-t")), (Some("chunked"), Some("1")));

        let mut response = send(&mut client, request(Method::GET, "/chunked"), true).0.await.unwrap();
        let (body, trailers) = read(&mut response).await.unwrap();
        assert_eq!((&body[..], trailers.unwrap()["x-sum"].to_str().unwrap()), (&b"abc"[..], "3"));
        assert!(
            !["transfer-encoding", "connection", "x-hop"].iter().any(|name| response.headers().contains_key(*name))
        );

        for (method, path, status, length) in [
            (Method::HEAD, "/head", 200, Some("5")),
            (Method::GET, "/none", 204, None),
            (Method::GET, "/same", 304, Some("5")),
        ] {
            let (response, body) = exchange(&mut client, request(method, path)).await;
            assert_eq!((response.status().as_u16(), body.len()), (status, 0), "{path}");
            let found = response.headers().get("content-length").map(|value| value.to_str().unwrap());
            assert_eq!(found, length, "{path}");
        }
    });
    assert_eq!(
        (proxy.stat("http.test.downstream_rq_http2_total"), proxy.stat("http.test.downstream_cx_http2_total")),
        (6, 1)
    );
    assert_eq!((proxy.stat("http.test.downstream_rq_http1_total"), proxy.stat("http2.trailers")), (0, 1));
    for gauge in ["http.test.downstream_cx_http2_active", "http.test.downstream_rq_active", "http2.streams_active"] {
        proxy.wait_for(gauge, 0);
    }
    assert_eq!(proxy.stat("http2.tx_reset"), 0);
}

#[test]
fn streams_do_not_wait_for_each_other() {
    let origin = Origin::http(|request| match request.target() {
        "/slow" => {
            Reply::raw("").wait(Duration::from_millis(300)).send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow")
        }
        _ => Reply::ok(vec![b'x'; 50_000]),
    });
    let proxy = Setup::to(origin.address()).start();
    with_client(&proxy, async |mut client, _| {
        let slow = send(&mut client, request(Method::GET, "/slow"), true).0;
        // All of them share the connection's window, so each is read as it comes.
        let fast: Vec<_> = (0..80)
            .map(|_| send(&mut client, request(Method::GET, "/fast"), true).0)
            .map(|response| tokio::spawn(async move { read(&mut response.await.unwrap()).await.unwrap().0.len() }))
            .collect();
        for response in fast {
            assert_eq!(response.await.unwrap(), 50_000);
        }
        assert_eq!(proxy.stat("http.test.downstream_rq_active"), 1);
        assert_eq!(read(&mut slow.await.unwrap()).await.unwrap().0, b"slow");
    });
}

#[test]
fn a_slow_reader_holds_nobody_up_and_is_not_read_ahead_for() {
    let origin = Origin::http(|request| match request.target() {
        "/large" => Reply::ok(vec![b'x'; 64 << 20]),
        _ => Reply::ok("small"),
    });
    let proxy = Setup::to(origin.address()).edit(|model| model.stream_idle_timeout = None).start();
    with_window(&proxy, 65_535, async |mut client, _| {
        let mut large = send(&mut client, request(Method::GET, "/large"), true).0.await.unwrap();
        for _ in 0..10 {
            assert_eq!(exchange(&mut client, request(Method::GET, "/small")).await.1, "small");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // What we read of the origin: no more than the window, what waits to be written, and one read.
        let read_ahead = proxy.stat("cluster.origin.upstream_cx_rx_bytes_total");
        assert!(read_ahead < 65_535 + 300_000, "{read_ahead}");
        assert_eq!(read(&mut large).await.unwrap().0.len(), 64 << 20);
    });
}

#[test]
fn an_upload_waits_for_the_origin() {
    let origin = Origin::raw(|mut peer| {
        let _ = peer.read_head();
        peer.wait(Duration::from_millis(400));
        let mut seen = 0;
        while seen < 8 << 20 {
            seen += peer.read_some(1).unwrap().len();
            let rest = peer.read_some(1 << 20).map_or(0, |some| some.len());
            seen += rest;
            if rest == 0 {
                break;
            }
        }
        let _ = peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    });
    let proxy = Setup::to(origin.address()).edit(|model| model.http2.initial_stream_window = 65_535).start();
    with_client(&proxy, async |mut client, _| {
        let mut post = request(Method::POST, "/");
        post.headers_mut().append("content-length", (8 << 20).into());
        let (response, mut body) = send(&mut client, post, false);
        upload(&mut body, Bytes::from(vec![b'x'; 8 << 20])).await.unwrap();
        body.send_data(Bytes::new(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
    assert_eq!(proxy.logged(1), "200 - via_upstream 8388608/0");
}

#[test]
fn a_stream_that_the_client_gives_up_is_given_up_upstream() {
    let origin = Origin::http(|_| Reply::silence().until_closed());
    let proxy = Setup::to(origin.address()).start();
    with_client(&proxy, async |mut client, _| {
        let (response, mut body) = send(&mut client, request(Method::POST, "/"), false);
        body.send_data(Bytes::from_static(b"abc"), false).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        proxy.wait_for("cluster.origin.upstream_rq_active", 1);
        body.send_reset(Reason::CANCEL);
        drop(response);
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    });
    assert_eq!(proxy.logged(1), "0 DR http2.remote_reset 3/0");
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
    assert_eq!((proxy.stat("http.test.downstream_rq_rx_reset"), proxy.stat("http2.rx_reset")), (1, 1));
}

#[test]
fn a_connection_that_the_client_closes_takes_its_streams_along() {
    let origin = Origin::http(|_| Reply::silence().until_closed());
    let proxy = Setup::to(origin.address()).start();
    with_client(&proxy, async |mut client, _| {
        let _open: Vec<_> = (0..5).map(|_| send(&mut client, request(Method::GET, "/"), true)).collect();
        tokio::time::sleep(Duration::from_millis(30)).await;
        proxy.wait_for("cluster.origin.upstream_rq_active", 5);
    });
    proxy.logged(5);
    assert!(proxy.log().iter().all(|line| line == "0 DC downstream_remote_disconnect 0/0"), "{:?}", proxy.log());
    proxy.wait_for("http.test.downstream_cx_destroy_remote_active_rq", 1);
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
}

#[test]
fn a_response_that_breaks_off_resets_its_stream_alone() {
    let origin = Origin::http(|request| match request.target() {
        "/broken" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").close(),
        _ => Reply::ok("fine"),
    });
    let proxy = Setup::to(origin.address()).start();
    with_client(&proxy, async |mut client, _| {
        let mut response = send(&mut client, request(Method::GET, "/broken"), true).0.await.unwrap();
        let error = read(&mut response).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        assert_eq!(exchange(&mut client, request(Method::GET, "/")).await.1, "fine");
    });
    assert_eq!(proxy.stat("http.test.downstream_rq_tx_reset"), 1);
}

#[test]
fn local_replies_and_an_early_answer() {
    let origin = echo();
    let proxy = Setup::with_routes(vec![route("/origin", "origin"), direct("/direct", 200, "hello")])
        .cluster("origin", &[origin.address()])
        .start();
    with_client(&proxy, async |mut client, _| {
        let (response, body) = exchange(&mut client, request(Method::GET, "/nowhere")).await;
        assert_eq!((response.status().as_u16(), body.len()), (404, 0));
        assert_eq!(proxy.logged(1), "404 NR route_not_found 0/0");
        let (response, mut upload) = send(&mut client, request(Method::POST, "/direct"), false);
        assert_eq!(read(&mut response.await.unwrap()).await.unwrap().0, b"hello");
        // The rest of the request is not wanted, and that is no error.
        let reason = poll_fn(|cx| upload.poll_reset(cx)).await.unwrap();
        assert_eq!(reason, Reason::NO_ERROR);
        let mut expecting = request(Method::POST, "/origin");
        expecting.headers_mut().append("expect", "100-continue".parse().unwrap());
        let (mut response, mut body) = send(&mut client, expecting, false);
        let informational = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(informational.status(), 100);
        body.send_data(Bytes::from_static(b"now"), true).unwrap();
        assert_eq!(read(&mut response.await.unwrap()).await.unwrap().0, b"now");
        assert_eq!(origin.last().header("expect"), None);
    });
}

#[test]
fn timeouts_are_of_one_stream() {
    let origin = Origin::http(|request| match request.target() {
        "/silent" => Reply::silence().until_closed(),
        _ => Reply::ok("fine"),
    });
    let proxy =
        Setup::to(origin.address()).edit(|model| model.stream_idle_timeout = Some(Duration::from_millis(150))).start();
    with_client(&proxy, async |mut client, _| {
        let silent = send(&mut client, request(Method::GET, "/silent"), true).0;
        let (unfinished, _body) = send(&mut client, request(Method::POST, "/"), false);
        for _ in 0..5 {
            assert_eq!(exchange(&mut client, request(Method::GET, "/")).await.1, "fine");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(silent.await.unwrap().status(), 504);
        assert_eq!(unfinished.await.unwrap().status(), 408);
    });
    let log = proxy.log();
    assert!(log.contains(&"504 SI stream_idle_timeout 0/14".to_owned()), "{log:?}");
    assert_eq!(proxy.stat("http.test.downstream_rq_idle_timeout"), 2);
}

/// Waits for the end of the connection and says whether it was orderly.
async fn orderly(ended: Ended) -> bool {
    ended.await.unwrap().is_ok()
}

#[test]
fn a_drain_says_goaway_and_lets_streams_end() {
    let origin = Origin::http(|_| {
        Reply::raw("").wait(Duration::from_millis(300)).send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone")
    });
    let proxy = Setup::to(origin.address()).edit(|model| model.drain_timeout = Duration::from_millis(100)).start();
    with_client(&proxy, async |mut client, ended| {
        let running: Vec<_> = (0..10).map(|_| send(&mut client, request(Method::GET, "/"), true).0).collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        proxy.drain();
        for response in running {
            assert_eq!(read(&mut response.await.unwrap()).await.unwrap().0, b"done");
        }
        assert!(orderly(ended).await);
        assert!(client.send_request(request(Method::GET, "/"), true).is_err());
    });
    proxy.wait_for("http.test.downstream_cx_active", 0);
    assert_eq!((proxy.stat("http2.goaway_graceful_sent"), proxy.stat("http2.goaway_sent")), (1, 1));
    assert_eq!(proxy.stat("http.test.downstream_cx_drain_close"), 1);
}

#[test]
fn age_number_of_requests_and_idleness_end_a_connection_in_order() {
    type Edit = fn(&mut sota_config::http::HttpConnectionManager);
    let cases: [(Edit, &str); 3] = [
        (|model| model.common.idle_timeout = Some(Duration::from_millis(50)), "downstream_cx_idle_timeout"),
        (
            |model| model.common.max_connection_duration = Some(Duration::from_millis(50)),
            "downstream_cx_max_duration_reached",
        ),
        (|model| model.common.max_requests_per_connection = Some(1), "downstream_cx_max_requests_reached"),
    ];
    let origin = echo();
    for (edit, counter) in cases {
        let proxy = Setup::to(origin.address())
            .edit(|model| model.drain_timeout = Duration::from_millis(50))
            .edit(edit)
            .start();
        with_client(&proxy, async |mut client, ended| {
            assert_eq!(exchange(&mut client, request(Method::GET, "/")).await.0.status(), 200);
            assert!(orderly(ended).await, "{counter}");
        });
        assert_eq!(proxy.stat(&format!("http.test.{counter}")), 1);
        assert_eq!(proxy.stat("http2.goaway_graceful_sent"), 1, "{counter}");
        proxy.wait_for("http.test.downstream_cx_http2_active", 0);
    }
}

#[test]
fn no_more_streams_at_once_than_configured() {
    let origin = Origin::http(|_| {
        Reply::raw("").wait(Duration::from_millis(30)).send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    });
    let proxy = Setup::to(origin.address()).edit(|model| model.http2.max_concurrent_streams = 3).start();
    with_client(&proxy, async |mut client, _| {
        // Behind an answer the settings have arrived.
        exchange(&mut client, request(Method::GET, "/")).await;
        let all: Vec<_> = (0..12)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move {
                    let mut client = client.ready().await.unwrap();
                    send(&mut client, request(Method::GET, "/"), true).0.await.unwrap().status()
                })
            })
            .collect();
        for response in all {
            assert_eq!(response.await.unwrap(), 200);
        }
    });
    assert!(origin.connections() <= 3, "{}", origin.connections());
}

#[test]
fn the_configured_protocol_is_spoken() {
    let origin = echo();
    let only_http2 = Setup::to(origin.address()).edit(|model| model.codec_type = CodecType::Http2).start();
    let mut client = Client::connect(only_http2.address);
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let (answer, _) = client.read_to_end();
    assert!(answer.windows(9).any(|part| part[3] == 7), "there was no GOAWAY");
    only_http2.wait_for("http.test.downstream_cx_protocol_error", 1);
    with_client(&only_http2, async |mut client, _| {
        assert_eq!(exchange(&mut client, request(Method::GET, "/")).await.0.status(), 200);
    });
    // Octet by octet, either protocol is recognised.
    let auto = Setup::to(origin.address()).start();
    let mut client = Client::connect(auto.address);
    for octet in b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" {
        client.send([*octet]).unwrap();
    }
    assert_eq!(client.read_response(false).status(), 200);
    let mut client = Client::connect(auto.address);
    for octet in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        client.send([*octet]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    auto.wait_for("http.test.downstream_cx_http2_active", 1);
    assert_eq!(auto.stat("http.test.downstream_cx_http1_total"), 1);
    assert_eq!(get(auto.address, "/").status(), 200);
}
