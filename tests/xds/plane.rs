//! A control plane that says what a test tells it to, over the `h2` crate.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sota_config::Node;
use sota_envoy::{CheckOptions, check, check_wire, encode, parse_text};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

const OPTIONS: CheckOptions<'static> = CheckOptions {
    static_config: false,
    allow_unknown_fields: true,
    allow_unsupported: true,
    relaxed: false,
    claims: &|_| true,
};
const DISCOVERY: &str = "envoy.service.discovery.v3";

/// What the proxy said.
pub struct Asked {
    /// The call.
    pub path: String,
    /// The request.
    pub request: Node,
}

impl Asked {
    /// The last part of the type.
    pub fn kind(&self) -> &str {
        self.request.str("type_url").rsplit('.').next().unwrap_or("")
    }

    /// Whether it answers a response.
    pub fn is_answer(&self) -> bool {
        self.request.has("response_nonce")
    }

    /// Why it refuses the response.
    pub fn refusal(&self) -> &str {
        self.request.field("error_detail").str("message")
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

impl Listener {
    async fn accept(&self) -> std::io::Result<Box<dyn Socket>> {
        Ok(match self {
            Self::Tcp(listener) => {
                let socket = listener.accept().await?.0;
                socket.set_nodelay(true)?;
                Box::new(socket)
            }
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

enum Say {
    Message(Bytes),
    Raw(Bytes),
    /// Ends the streams that are open.
    Hang,
}

/// The control plane. It stops with the value.
pub struct Plane {
    pub address: SocketAddr,
    asked: Receiver<Asked>,
    say: UnboundedSender<Say>,
    nonce: usize,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Plane {
    pub fn start() -> Self {
        Self::at(0)
    }

    /// On a port that was one's own before.
    pub fn at(port: u16) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        Self::serving(address, move || Listener::Tcp(TcpListener::from_std(listener).unwrap()))
    }

    /// On a Unix socket; its address is none.
    pub fn at_path(path: &Path) -> Self {
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = (Ipv4Addr::UNSPECIFIED, 0).into();
        Self::serving(address, move || Listener::Unix(UnixListener::from_std(listener).unwrap()))
    }

    fn serving(address: SocketAddr, listener: impl FnOnce() -> Listener + Send + 'static) -> Self {
        let (asked, receiver) = channel();
        let (say, said) = unbounded_channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener(), asked, said) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, asked: receiver, say, nonce: 0, stop: Some(stop), thread: Some(thread) }
    }

    /// The next request; it comes within ten seconds.
    #[track_caller]
    pub fn next(&self) -> Asked {
        self.asked.recv_timeout(Duration::from_secs(10)).expect("the proxy says nothing")
    }

    /// The next request of a kind that answers nothing; answers and other kinds are passed over.
    #[track_caller]
    pub fn asks(&self, kind: &str) -> Asked {
        loop {
            let asked = self.next();
            if asked.kind() == kind && !asked.is_answer() {
                return asked;
            }
        }
    }

    /// The next answer of a kind.
    #[track_caller]
    pub fn answers(&self, kind: &str) -> Asked {
        loop {
            let asked = self.next();
            if asked.kind() == kind && asked.is_answer() {
                return asked;
            }
        }
    }

    /// The next request of a kind, be it an answer or not: in the state of the world each has the last nonce.
    #[track_caller]
    pub fn says(&self, kind: &str) -> Asked {
        loop {
            let asked = self.next();
            if asked.kind() == kind {
                return asked;
            }
        }
    }

    /// Forgets what nobody has looked at so far.
    pub fn forget(&self) {
        while self.asked.try_recv().is_ok() {}
    }

    /// Whether nothing is said for this time.
    pub fn is_quiet(&self, time: Duration) -> bool {
        self.asked.recv_timeout(time).is_err()
    }

    /// Sends the state of the world of a kind: documents of resources, as YAML in one line each.
    pub fn world(&mut self, kind: &str, version: &str, resources: &[&str]) {
        self.nonce += 1;
        let list: Vec<_> = resources.iter().map(|text| any(kind, text)).collect();
        let text = format!(
            "{{version_info: \"{version}\", type_url: {}, nonce: n{}, resources: [{}]}}",
            url(kind),
            self.nonce,
            list.join(", ")
        );
        self.message("DiscoveryResponse", &text);
    }

    /// Sends changes: names and documents, and names that are no more.
    pub fn delta(&mut self, kind: &str, version: &str, resources: &[(&str, &str)], removed: &[&str]) {
        self.nonce += 1;
        let one = |(name, text): &(&str, &str)| {
            format!("{{name: \"{name}\", version: \"{version}\", resource: {}}}", any(kind, text))
        };
        let list: Vec<_> = resources.iter().map(one).collect();
        let text = format!(
            "{{type_url: {}, nonce: n{}, resources: [{}], removed_resources: [{}]}}",
            url(kind),
            self.nonce,
            list.join(", "),
            removed.join(", ")
        );
        self.message("DeltaDiscoveryResponse", &text);
    }

    fn message(&self, message: &str, text: &str) {
        let message = format!("{DISCOVERY}.{message}");
        let (node, errors) = check(&parse_text(text.as_bytes()).unwrap(), &message, &OPTIONS);
        assert!(!errors.is_fatal(), "{errors}\n{text}");
        let bytes = encode(&node, &message).unwrap();
        self.say.send(Say::Message(bytes.into())).unwrap();
    }

    /// Sends a gRPC message of these octets.
    pub fn garbage(&self, octets: &[u8]) {
        self.say.send(Say::Message(Bytes::copy_from_slice(octets))).unwrap();
    }

    /// Sends octets that are no gRPC message.
    pub fn raw(&self, octets: &[u8]) {
        self.say.send(Say::Raw(Bytes::copy_from_slice(octets))).unwrap();
    }

    /// Ends every stream.
    pub fn hang_up(&self) {
        self.say.send(Say::Hang).unwrap();
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn url(kind: &str) -> String {
    let package = match kind {
        "Cluster" => "cluster",
        "ClusterLoadAssignment" => "endpoint",
        "Listener" => "listener",
        "Secret" => return "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".to_owned(),
        "Runtime" => return "type.googleapis.com/envoy.service.runtime.v3.Runtime".to_owned(),
        _ => "route",
    };
    format!("type.googleapis.com/envoy.config.{package}.v3.{kind}")
}

fn any(kind: &str, text: &str) -> String {
    let inner = text.trim().strip_prefix('{').expect("a resource in one line");
    format!("{{\"@type\": {}, {inner}", url(kind))
}

async fn accept(listener: Listener, asked: Sender<Asked>, mut said: UnboundedReceiver<Say>) {
    let (streams, mut opened) = unbounded_channel::<h2::SendStream<Bytes>>();
    let mut open: Vec<h2::SendStream<Bytes>> = Vec::new();
    loop {
        tokio::select! {
            socket = listener.accept() => {
                let Ok(socket) = socket else { continue };
                tokio::spawn(serve(socket, asked.clone(), streams.clone()));
            }
            Some(stream) = opened.recv() => open.push(stream),
            say = said.recv() => {
                // A stream that was opened before is known before.
                while let Ok(stream) = opened.try_recv() {
                    open.push(stream);
                }
                match say {
                    Some(Say::Message(message)) => {
                        let mut frame = BytesMut::new();
                        frame.put_u8(0);
                        frame.put_u32(message.len() as u32);
                        frame.extend_from_slice(&message);
                        open.retain_mut(|stream| stream.send_data(frame.clone().freeze(), false).is_ok());
                    }
                    Some(Say::Raw(octets)) => open.retain_mut(|stream| stream.send_data(octets.clone(), false).is_ok()),
                    Some(Say::Hang) => open.drain(..).for_each(|mut stream| stream.send_reset(h2::Reason::CANCEL)),
                    None => return,
                }
            }
        }
    }
}

async fn serve(socket: Box<dyn Socket>, asked: Sender<Asked>, streams: UnboundedSender<h2::SendStream<Bytes>>) {
    let Ok(mut server) = h2::server::handshake(socket).await else { return };
    while let Some(Ok((request, mut respond))) = server.accept().await {
        let path = request.uri().path().to_owned();
        let response = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let Ok(stream) = respond.send_response(response, false) else { continue };
        streams.send(stream).unwrap();
        tokio::spawn(read(request.into_body(), path, asked.clone()));
    }
}

async fn read(mut body: h2::RecvStream, path: String, asked: Sender<Asked>) {
    let mut held = BytesMut::new();
    let message = if path.contains("/Delta") { "DeltaDiscoveryRequest" } else { "DiscoveryRequest" };
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        held.extend_from_slice(&data);
        while held.len() >= 5 {
            let length = u32::from_be_bytes([held[1], held[2], held[3], held[4]]) as usize;
            if held.len() < 5 + length {
                break;
            }
            held.advance(5);
            let (request, errors) = check_wire(&held.split_to(length), &format!("{DISCOVERY}.{message}"), &OPTIONS);
            assert!(!errors.is_fatal(), "{errors}");
            if asked.send(Asked { path: path.clone(), request }).is_err() {
                return;
            }
        }
    }
}
