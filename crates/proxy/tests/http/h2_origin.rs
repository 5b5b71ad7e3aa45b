//! An HTTP/2 origin on a thread of its own, made of the `h2` crate.

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

/// A request that has arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub head: Request<()>,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// Which connection it came on, from 0.
    pub connection: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).map(|value| value.to_str().unwrap())
    }
}

/// Options of the origin.
#[derive(Clone)]
pub struct Options {
    pub max_concurrent_streams: u32,
    pub window: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_concurrent_streams: 100, window: 65_535 }
    }
}

/// What requests to a path get:
///
/// - `/echo`: their body and trailers, part by part;
/// - `/grpc/N`: a response without body whose head has `grpc-status: N`;
/// - `/call/N`: a message and trailers with `grpc-status: N`;
/// - `/reset/NAME` (`refused`, `cancel`, `internal`): RST_STREAM, the first time (`/reset-always/NAME`: each time);
/// - `/silence`: nothing;
/// - `/slow`: an answer after 100 ms;
/// - `/hints`: 103 first;
/// - `/large`: a megabyte;
/// - `/leave`: GOAWAY behind this answer;
/// - anything else: 200 and the path.
pub struct Origin {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Origin {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, connections) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<Mutex<usize>>::default());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (all, count) = (Arc::clone(&seen), Arc::clone(&connections));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let accept = async {
                    loop {
                        let (socket, _) = listener.accept().await.unwrap();
                        socket.set_nodelay(true).unwrap();
                        let number = {
                            let mut count = count.lock().unwrap();
                            *count += 1;
                            *count - 1
                        };
                        tokio::spawn(serve(socket, options.clone(), Arc::clone(&all), number));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, seen, connections, stop: Some(stop), thread: Some(thread) }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("no request has arrived")
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(socket: tokio::net::TcpStream, options: Options, seen: Arc<Mutex<Vec<Seen>>>, number: usize) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(options.max_concurrent_streams).initial_window_size(options.window);
    // What we send before we know of a reset would otherwise end the connection.
    builder.max_concurrent_reset_streams(1000);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        if request.uri().path() == "/leave" {
            connection.graceful_shutdown();
        }
        tokio::spawn(answer(request, respond, Arc::clone(&seen), number));
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    seen: Arc<Mutex<Vec<Seen>>>,
    connection: usize,
) -> Option<()> {
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let head = Request::from_parts(parts, ());
    let note = |body: Vec<u8>, trailers: Option<HeaderMap>| {
        let mut all = seen.lock().unwrap();
        all.push(Seen { head: head.clone(), body, trailers, connection });
        all.iter().filter(|seen| seen.head.uri().path() == path).count()
    };
    let reset = |name: &str| match name {
        "refused" => Reason::REFUSED_STREAM,
        "cancel" => Reason::CANCEL,
        _ => Reason::INTERNAL_ERROR,
    };
    if path == "/echo" {
        let mut send = respond.send_response(Response::new(()), false).ok()?;
        let mut all = Vec::new();
        while let Some(Ok(data)) = body.data().await {
            all.extend_from_slice(&data);
            let _ = body.flow_control().release_capacity(data.len());
            // Empty frames that end nothing would be a flood.
            if !data.is_empty() {
                send.reserve_capacity(data.len());
                send.send_data(data, false).ok()?;
            }
        }
        let trailers = body.trailers().await.ok().flatten();
        note(all, trailers.clone());
        return match trailers {
            Some(trailers) => send.send_trailers(trailers).ok(),
            None => send.send_data(Bytes::new(), true).ok(),
        };
    }
    let mut all = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        all.extend_from_slice(&data);
        let _ = body.flow_control().release_capacity(data.len());
    }
    let trailers = body.trailers().await.ok().flatten();
    let count = note(all, trailers);
    let ok = |builder: http::response::Builder| builder.body(()).unwrap();
    match path.split('/').collect::<Vec<_>>().as_slice() {
        [_, "reset", name] if count == 1 => respond.send_reset(reset(name)),
        [_, "reset-always", name] => respond.send_reset(reset(name)),
        [_, "silence"] => {
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        }
        [_, "grpc", status] => {
            let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", *status);
            respond.send_response(ok(head), true).ok()?;
        }
        [_, "call", status] => {
            let head = Response::builder().header("content-type", "application/grpc");
            let mut send = respond.send_response(ok(head), false).ok()?;
            send.send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), false).ok()?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.parse().unwrap());
            send.send_trailers(trailers).ok()?;
        }
        [_, "large"] => {
            let mut send = respond.send_response(Response::new(()), false).ok()?;
            send.send_data(Bytes::from(vec![b'x'; 1_000_000]), true).ok()?;
        }
        [_, "short"] => {
            let head = Response::builder().header("content-length", "10");
            let mut send = respond.send_response(ok(head), false).ok()?;
            send.send_data(Bytes::from_static(b"abc"), true).ok()?;
        }
        [_, "empty"] => {
            respond.send_response(ok(Response::builder().status(204)), true).ok()?;
        }
        rest => {
            if rest == ["", "slow"] {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if rest == ["", "hints"] {
                respond.send_informational(ok(Response::builder().status(103).header("link", "</a>"))).ok()?;
            }
            let mut builder = Response::builder().header("x-protocol", "h2");
            for cookie in ["a=1", "b=2"] {
                builder = builder.header("set-cookie", cookie);
            }
            if head.method() == http::Method::HEAD {
                respond.send_response(ok(builder.header("content-length", "5")), true).ok()?;
                return Some(());
            }
            let mut send = respond.send_response(ok(builder), false).ok()?;
            send.send_data(Bytes::from(path.clone()), true).ok()?;
        }
    }
    Some(())
}
