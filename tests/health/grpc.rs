//! Health checks over HTTP/2: `grpc.health.v1`, and requests.

use super::{BINARY, LIMIT, config, flags, wait_flags};
use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use sota_testkit::{ProxyProcess, wait_until};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

/// Requests and their bodies.
type Asked = Arc<Mutex<Vec<(Request<()>, Vec<u8>)>>>;

/// A server of the health service that answers with a status of its own and remembers what it was asked.
struct HealthServer {
    address: SocketAddr,
    status: Arc<AtomicU8>,
    asked: Asked,
    connections: Arc<AtomicUsize>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl HealthServer {
    fn start() -> Self {
        let (status, asked, connections) =
            (Arc::new(AtomicU8::new(1)), Asked::default(), Arc::<AtomicUsize>::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let shared = (Arc::clone(&status), Arc::clone(&asked), Arc::clone(&connections));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let serve = async {
                    while let Ok((socket, _)) = listener.accept().await {
                        let (status, asked, connections) = shared.clone();
                        connections.fetch_add(1, Ordering::SeqCst);
                        tokio::spawn(async move {
                            let Ok(mut server) = h2::server::handshake(socket).await else { return };
                            while let Some(Ok((request, respond))) = server.accept().await {
                                let (status, asked) = (Arc::clone(&status), Arc::clone(&asked));
                                tokio::spawn(answer(request, respond, status, asked));
                            }
                        });
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, status, asked, connections, stop: Some(stop) }
    }
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    status: Arc<AtomicU8>,
    asked: Asked,
) {
    let (parts, mut body) = request.into_parts();
    let mut octets = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        octets.extend_from_slice(&data);
    }
    let is_grpc = parts.headers.get("content-type").is_some_and(|kind| kind == "application/grpc");
    asked.lock().unwrap().push((Request::from_parts(parts, ()), octets));
    let status = status.load(Ordering::SeqCst);
    if !is_grpc {
        let code = if status == 1 { 204 } else { 500 };
        let _ = respond.send_response(Response::builder().status(code).body(()).unwrap(), true);
        return;
    }
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    let mut trailers = HeaderMap::new();
    if status < 10 {
        let _ = stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
    } else {
        trailers.insert("grpc-status", HeaderValue::from_static("12"));
    }
    let _ = stream.send_trailers(trailers);
}

const GRPC: &str = "health_checks: [{timeout: 2s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 1, \
                    healthy_threshold: 1, grpc_health_check: {service_name: a.Service, authority: check.example, \
                    initial_metadata: [{header: {key: x-mine, value: mine}}]}}]\n    http2_protocol_options: {}";

#[test]
fn the_health_service_is_asked_about_one_service() {
    let host = HealthServer::start();
    let proxy = ProxyProcess::start(BINARY, &config("", GRPC, &[host.address]));
    assert_eq!(flags(&proxy, host.address), "healthy");
    let (request, body) = host.asked.lock().unwrap()[0].clone();
    assert_eq!(request.uri(), "http://check.example/grpc.health.v1.Health/Check");
    assert!(request.headers()["te"] == "trailers" && request.headers()["x-mine"] == "mine");
    assert_eq!(body, b"\x00\x00\x00\x00\x0b\x0a\x09a.Service");
    // NOT_SERVING; then that there is no such service.
    for bad in [2, 12] {
        host.status.store(bad, Ordering::SeqCst);
        wait_flags(&proxy, host.address, "/failed_active_hc");
        host.status.store(1, Ordering::SeqCst);
        wait_flags(&proxy, host.address, "healthy");
    }
    assert_eq!(host.connections.load(Ordering::SeqCst), 1, "all checks share a connection");
    assert_eq!(proxy.stat("cluster.web.health_check.network_failure"), 0);
}

#[test]
fn requests_over_http2_have_bodies_and_statuses_too() {
    let host = HealthServer::start();
    let checks = "health_checks: [{timeout: 2s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 1, \
                  healthy_threshold: 1, reuse_connection: false, http_health_check: {path: /hc, method: POST, \
                  codec_client_type: HTTP2, send: {text: \"6869\"}, expected_statuses: [{start: 200, end: 300}]}}]";
    let proxy = ProxyProcess::start(BINARY, &config("", checks, &[host.address]));
    assert_eq!(flags(&proxy, host.address), "healthy");
    let (request, body) = host.asked.lock().unwrap()[0].clone();
    assert_eq!((request.method().as_str(), request.uri().path(), &*body), ("POST", "/hc", &b"hi"[..]));
    wait_until("each check has its connection", LIMIT, || host.connections.load(Ordering::SeqCst) >= 3);
    host.status.store(2, Ordering::SeqCst);
    wait_flags(&proxy, host.address, "/failed_active_hc");
}
