//! HTTP filters as a user configures them, in the native dialect and over real sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Client, Origin, ProxyProcess, Reply, get, request};

const BINARY: &str = env!("CARGO_BIN_EXE_sota-mesh");

/// A proxy with these filters before an origin, and these fields in its only route.
fn proxy(origin: &Origin, filters: &str, route: &str) -> ProxyProcess {
    let config = format!(
        "listeners:\n- name: front\n  address: 127.0.0.1:0\n  http:\n    routes:\n    - {{prefix: /, cluster: app{route}}}\n    \
         filters:\n{filters}\nclusters:\n- name: app\n  endpoints: [127.0.0.1:{}]\n",
        origin.port()
    );
    ProxyProcess::start_with(BINARY, &config, &["-t", "sota", "--concurrency", "2"])
}

fn stat(proxy: &ProxyProcess, name: &str) -> Option<u64> {
    let stats = proxy.admin("/stats").text();
    stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok())
}

#[test]
fn faults_on_request() {
    let origin = Origin::named("up");
    let filters = "    - {name: fault, config: {abort: {header_abort: {}, percentage: {numerator: 100}}}}";
    let proxy = proxy(&origin, filters, "");
    let address = proxy.listener("front");
    assert_eq!(get(address, "/").text(), "up");
    let response = request(address, "GET / HTTP/1.1\r\nhost: a\r\nx-envoy-fault-abort-request: 418\r\n\r\n");
    assert_eq!((response.status(), response.text().as_str()), (418, "fault filter abort"));
    assert_eq!(stat(&proxy, "http.front.fault.aborts_injected"), Some(1));
    assert_eq!(origin.requests(), 1);
}

/// One bucket for all workers.
#[test]
fn a_limit_holds_for_the_process() {
    let origin = Origin::named("up");
    let filters = "    - name: local_ratelimit\n      config:\n        stat_prefix: limit\n        filter_enabled: \
                   {default_value: {numerator: 100}}\n        filter_enforced: {default_value: {numerator: 100}}\n        \
                   token_bucket: {max_tokens: 100, fill_interval: 3600s}\n        descriptors:\n        - entries: \
                   [{key: user, value: me}]\n          token_bucket: {max_tokens: 5, fill_interval: 3600s}";
    let route = ", rate_limits: [{actions: [{request_headers: {header_name: x-user, descriptor_key: user}}]}]";
    let proxy = proxy(&origin, filters, route);
    let address = proxy.listener("front");
    let count = |user: &str, times: usize| {
        let send = |_: &usize| {
            let text = format!("GET / HTTP/1.1\r\nhost: a\r\nx-user: {user}\r\n\r\n");
            Client::connect(address).exchange(text).status() == 200
        };
        (0..times).filter(send).count()
    };
    assert_eq!((count("me", 10), count("you", 10)), (5, 10));
    assert_eq!(count("you", 100), 85, "what the bucket for all has left");
    assert_eq!(stat(&proxy, "limit.http_local_rate_limit.enforced"), Some(20));
}

#[test]
fn responses_are_compressed_and_requests_decompressed() {
    let origin = Origin::http(|request| {
        let body = if request.body.is_empty() { b"hello ".repeat(50) } else { request.body.clone() };
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n");
        Reply::raw(head).send(body)
    });
    let library = |part: &str| {
        format!(
            "{{name: z, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.compression.gzip.{part}.v3.Gzip}}}}"
        )
    };
    let filters = format!(
        "    - {{name: compressor, config: {{compressor_library: {}}}}}\n    - {{name: decompressor, config: \
         {{decompressor_library: {}}}}}",
        library("compressor"),
        library("decompressor")
    );
    let proxy = proxy(&origin, &filters, "");
    let address = proxy.listener("front");
    assert_eq!(get(address, "/").text().len(), 300);
    let small = request(address, "GET / HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n");
    assert_eq!((small.header("content-encoding"), small.header("vary")), (Some("gzip"), Some("Accept-Encoding")));
    assert!(small.body.len() < 100 && small.body.starts_with(&[0x1f, 0x8b]));
    // The same body on its way up, where it is decompressed.
    let head = |length: usize| {
        format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-encoding: gzip\r\ncontent-length: {length}\r\n\r\n").into_bytes()
    };
    let response = request(address, [head(small.body.len()), small.body.clone()].concat());
    assert_eq!(response.text(), "hello ".repeat(50));
    let response = request(address, [head(20), b"this is no gzip body".to_vec()].concat());
    assert_eq!(response.status(), 400);
    assert_eq!(stat(&proxy, "http.front.decompressor.z.gzip.request.failed"), Some(1));
}

#[test]
fn a_browser_calls_grpc() {
    let origin = Origin::http(|request| {
        assert_eq!(request.header("content-type"), Some("application/grpc"));
        let mut frame = b"7\r\n".to_vec();
        frame.extend_from_slice(b"\0\0\0\0\x02hi\r\n0\r\ngrpc-status: 0\r\n\r\n");
        Reply::raw("HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n")
            .send(frame)
    });
    let proxy = proxy(&origin, "    - grpc_web", "");
    let call = "POST /a.S/M HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc-web+proto\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0";
    let response = request(proxy.listener("front"), call);
    assert_eq!(response.header("content-type"), Some("application/grpc-web+proto"));
    assert!(response.body.starts_with(b"\0\0\0\0\x02hi"), "{:?}", response.body);
}
