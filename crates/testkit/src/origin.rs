//! An origin server that does what a test scripts, byte by byte if need be.

use crate::message::{Buffered, Fields, Head, framing};
use socket2::SockRef;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that are kept of what each connection sent; the rest is counted only.
const RECORDED_BYTES: usize = 1 << 20;

/// A TCP server on a thread of its own, one more for each connection. Dropping it closes the listener and every
/// connection with a reset, as a killed process would.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    connections: AtomicU64,
    requests: AtomicU64,
    received: AtomicU64,
    /// Responses whose bytes could not be written, as the proxy had gone away.
    aborted: AtomicU64,
    open: Mutex<HashMap<u64, TcpStream>>,
    recorded: Mutex<Vec<Vec<u8>>>,
    seen: Mutex<Vec<Request>>,
}

/// One request as an origin received it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Start line and fields.
    pub head: Head,
    /// The whole body, chunks joined.
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Fields,
    /// Number of the connection it came on, from 0.
    pub connection: u64,
    /// Number of the request on its connection, from 0.
    pub nth: u64,
}

impl Request {
    /// The method.
    pub fn method(&self) -> &str {
        &self.head.start[0]
    }

    /// The target of the request line.
    pub fn target(&self) -> &str {
        &self.head.start[1]
    }

    /// The first value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.fields.value(name)
    }
}

/// What an origin does about one request: steps in order. After the last one the connection is kept for the next
/// request, unless a step ended it.
#[derive(Clone, Debug, Default)]
pub struct Reply(Vec<Step>);

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    Wait(Duration),
    UntilClosed,
    Close,
    Reset,
}

impl Reply {
    /// No answer at all; the connection stays open until the other side closes it.
    pub fn silence() -> Self {
        Self::default().until_closed()
    }

    /// 200 with a length.
    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::status(200, body)
    }

    /// Any status with a length.
    pub fn status(status: u16, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes = format!("HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        Self::raw(bytes)
    }

    /// Exactly these bytes.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::default().send(bytes)
    }

    /// Then these bytes.
    pub fn send(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.push(Step::Send(bytes.into()));
        self
    }

    /// Then nothing for a while.
    pub fn wait(mut self, time: Duration) -> Self {
        self.0.push(Step::Wait(time));
        self
    }

    /// Then nothing until the other side closes.
    pub fn until_closed(mut self) -> Self {
        self.0.push(Step::UntilClosed);
        self
    }

    /// Then an orderly close.
    pub fn close(mut self) -> Self {
        self.0.push(Step::Close);
        self
    }

    /// Then a reset (RST).
    pub fn reset(mut self) -> Self {
        self.0.push(Step::Reset);
        self
    }
}

/// One accepted connection, for scripts below the level of requests.
pub struct Peer {
    stream: TcpStream,
    buffered: Buffered,
    shared: Arc<Shared>,
    /// Number of this connection, from 0.
    pub number: u64,
}

impl Peer {
    /// Reads a request head; `None` when the other side closed instead.
    pub fn read_head(&mut self) -> io::Result<Option<Head>> {
        let mut recording = Recording { stream: &self.stream, shared: &self.shared, number: self.number };
        let head = self.buffered.read_head(&mut recording)?;
        if head.is_some() {
            self.shared.requests.fetch_add(1, Ordering::SeqCst);
        }
        Ok(head)
    }

    /// Reads the body that `head` announces, and its trailers.
    pub fn read_body(&mut self, head: &Head) -> io::Result<(Vec<u8>, Fields)> {
        let mut body = Vec::new();
        let mut recording = Recording { stream: &self.stream, shared: &self.shared, number: self.number };
        let framing = framing(&head.fields, None, false);
        let trailers = self
            .buffered
            .read_body(&mut recording, framing, &mut body)
            .map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok((body, trailers))
    }

    /// Reads up to `n` bytes; empty at the end of the stream.
    pub fn read_some(&mut self, n: usize) -> io::Result<Vec<u8>> {
        if self.buffered.bytes.is_empty() {
            let mut block = vec![0; n];
            let mut recording = Recording { stream: &self.stream, shared: &self.shared, number: self.number };
            let read = recording.read(&mut block)?;
            block.truncate(read);
            return Ok(block);
        }
        let here = n.min(self.buffered.bytes.len());
        Ok(self.buffered.bytes.drain(..here).collect())
    }

    /// Reads until the other side closes its half or resets.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(block) = self.read_some(64 * 1024) {
            if block.is_empty() {
                break;
            }
            all.extend_from_slice(&block);
        }
        all
    }

    /// Writes all of it.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).inspect_err(|_| {
            self.shared.aborted.fetch_add(1, Ordering::SeqCst);
        })
    }

    /// Closes the sending half.
    pub fn close_write(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Until the other side closes or the origin ends; what arrives is dropped.
    pub fn until_closed(&mut self) {
        let mut block = [0; 4096];
        while matches!(self.stream.read(&mut block), Ok(n) if n > 0) {}
    }

    /// Waits, but not beyond the end of the origin.
    pub fn wait(&self, time: Duration) {
        let deadline = std::time::Instant::now() + time;
        while let Some(left) = deadline.checked_duration_since(std::time::Instant::now()) {
            if self.shared.ended.load(Ordering::SeqCst) {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    fn perform(mut self, reply: &Reply) -> Option<Self> {
        for step in &reply.0 {
            match step {
                Step::Send(bytes) => self.send(bytes).ok()?,
                Step::Wait(time) => self.wait(*time),
                Step::UntilClosed => {
                    self.until_closed();
                    return None;
                }
                Step::Close => return None,
                Step::Reset => {
                    self.reset();
                    return None;
                }
            }
        }
        Some(self)
    }
}

/// Counts and keeps what is read.
struct Recording<'a> {
    stream: &'a TcpStream,
    shared: &'a Shared,
    number: u64,
}

impl Read for Recording<'_> {
    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(block)?;
        self.shared.received.fetch_add(n as u64, Ordering::SeqCst);
        let mut recorded = lock(&self.shared.recorded);
        if let Some(kept) = recorded.get_mut(self.number as usize) {
            let room = RECORDED_BYTES.saturating_sub(kept.len());
            kept.extend_from_slice(block.get(..n.min(room)).unwrap_or_default());
        }
        Ok(n)
    }
}

impl Origin {
    /// A server of raw connections on a port of its own: `script` runs once for each, on its own thread.
    pub fn raw(script: impl Fn(Peer) + Send + Sync + 'static) -> Self {
        Self::raw_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), script)
    }

    /// [`Origin::raw`] on an address that is given, for example to come back after an outage.
    pub fn raw_on(address: SocketAddr, script: impl Fn(Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let script = Arc::new(script);
        let for_thread = Arc::clone(&shared);
        let accepting = thread::spawn(move || accept(&listener, &for_thread, &script));
        Self { address, shared, accepting: Some(accepting) }
    }

    /// An HTTP/1.1 server: `answer` is asked for each request, after its body was read.
    pub fn http(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::http_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), answer)
    }

    /// [`Origin::http`] on an address that is given.
    pub fn http_on(address: SocketAddr, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::raw_on(address, move |peer| serve_http(peer, &answer))
    }

    /// An HTTP/1.1 server that answers every request with 200 and its own name.
    pub fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self::http(move |_| Reply::ok(&name))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port where it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that neither side has ended.
    pub fn open_connections(&self) -> usize {
        lock(&self.shared.open).len()
    }

    /// Request heads read so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Bytes received so far, over all connections.
    pub fn received_bytes(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    /// Writes that failed because the other side had gone.
    pub fn failed_writes(&self) -> u64 {
        self.shared.aborted.load(Ordering::SeqCst)
    }

    /// What each connection sent, in the order of their acceptance, at most 1 MiB of each.
    pub fn recorded(&self) -> Vec<Vec<u8>> {
        lock(&self.shared.recorded).clone()
    }

    /// The whole requests that an HTTP origin has read.
    pub fn seen(&self) -> Vec<Request> {
        lock(&self.shared.seen).clone()
    }

    /// The request that came last.
    #[track_caller]
    pub fn last(&self) -> Request {
        lock(&self.shared.seen).last().cloned().unwrap_or_else(|| panic!("the origin got no request"))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for stream in lock(&self.shared.open).values() {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the accepting thread, which then closes the listener.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept<S: Fn(Peer) + Send + Sync + 'static>(listener: &TcpListener, shared: &Arc<Shared>, script: &Arc<S>) {
    for stream in listener.incoming() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let _ = stream.set_nodelay(true);
        let Ok(second) = stream.try_clone() else { continue };
        // Counted last: whoever sees the count may end the origin, which closes what is open.
        let number = shared.connections.load(Ordering::SeqCst);
        lock(&shared.open).insert(number, second);
        lock(&shared.recorded).push(Vec::new());
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let peer = Peer { stream, buffered: Buffered::default(), shared: Arc::clone(shared), number };
        let (shared, script) = (Arc::clone(shared), Arc::clone(script));
        thread::spawn(move || {
            script(peer);
            // The second handle must go too, or the connection would stay open.
            lock(&shared.open).remove(&number);
        });
    }
}

fn serve_http(mut peer: Peer, answer: &impl Fn(&Request) -> Reply) {
    for nth in 0.. {
        let Ok(Some(head)) = peer.read_head() else { return };
        if head.fields.has_token("expect", "100-continue") && peer.send(b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
            return;
        }
        let Ok((body, trailers)) = peer.read_body(&head) else { return };
        let request = Request { head, body, trailers, connection: peer.number, nth };
        lock(&peer.shared.seen).push(request.clone());
        match peer.perform(&answer(&request)) {
            Some(kept) => peer = kept,
            None => return,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A script that panicked has failed its test already; the counters stay readable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
