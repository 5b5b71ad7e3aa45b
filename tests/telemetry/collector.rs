//! A gRPC service that takes every call, keeps the messages and answers as it is told: a collector of telemetry, for one.

use bytes::{Buf, Bytes, BytesMut};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

/// What came: the call's path and the message.
type Calls = Arc<Mutex<Vec<(String, Bytes)>>>;

/// What the one message of an answer is made of: the last message of the call.
type Answer = fn(&Bytes) -> Vec<u8>;

/// The collector. It stops with the value.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    calls: Calls,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        Self::answering(|_| Vec::new())
    }

    pub(crate) fn answering(answer: Answer) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Calls::default();
        let kept = Arc::clone(&calls);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, kept, answer) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, calls, stop: Some(stop), thread: Some(thread) }
    }

    /// The messages of calls whose path ends so, decoded.
    pub(crate) fn messages<M: prost::Message + Default>(&self, path: &str) -> Vec<M> {
        let calls = self.calls.lock().unwrap();
        let wanted = calls.iter().filter(|(called, _)| called.ends_with(path));
        wanted.map(|(_, message)| M::decode(message.clone()).unwrap()).collect()
    }

    /// Waits until the calls whose path ends so have brought what `find` looks for.
    pub(crate) fn wait<M: prost::Message + Default, T>(&self, path: &str, find: impl Fn(Vec<M>) -> Option<T>) -> T {
        let mut found = None;
        sota_testkit::wait_until(path, Duration::from_secs(20), || {
            found = find(self.messages(path));
            found.is_some()
        });
        found.unwrap()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, calls: Calls, answer: Answer) {
    while let Ok((stream, _)) = listener.accept().await {
        let calls = Arc::clone(&calls);
        tokio::spawn(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(take(request, respond, Arc::clone(&calls), answer));
            }
        });
    }
}

/// Takes the messages of a call as they come, and answers at its end.
async fn take(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    calls: Calls,
    answer: Answer,
) {
    let path = request.uri().path().to_owned();
    assert_eq!(request.headers()["content-type"], "application/grpc");
    let mut body = request.into_body();
    let (mut buffer, mut last) = (BytesMut::new(), Bytes::new());
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        buffer.extend_from_slice(&data);
        while let Some(length) = buffer.get(1..5).map(|octets| u32::from_be_bytes(octets.try_into().unwrap()) as usize)
            && buffer.len() >= 5 + length
        {
            buffer.advance(5);
            let message = buffer.split_to(length).freeze();
            last = message.clone();
            calls.lock().unwrap().push((path.clone(), message));
        }
    }
    let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    let body = answer(&last);
    let mut framed = vec![0];
    framed.extend_from_slice(&(body.len() as u32).to_be_bytes());
    framed.extend_from_slice(&body);
    let _ = stream.send_data(framed.into(), false);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let _ = stream.send_trailers(trailers);
}
