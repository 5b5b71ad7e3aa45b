//! Network filters: they see the bytes of a connection. The last one of a chain is terminal and owns it.

use crate::{LocalFuture, cx::WorkerCx, info::ConnectionInfo, stats::Scope};
use bytes::BytesMut;
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// A configured network filter, shared by all threads.
pub trait NetworkFilterConfig: Send + Sync {
    /// Whether it owns the connection, and so must be the last of its chain.
    fn is_terminal(&self) -> bool;

    /// The worker's part.
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn NetworkFilterFactory>;
}

/// Makes the filter of each connection.
pub trait NetworkFilterFactory {
    /// A filter for this connection; a terminal one exactly if the configuration says so.
    fn new_filter(&self, connection: &Rc<ConnectionInfo>) -> NetworkFilterInstance;
}

/// A filter of one connection.
pub enum NetworkFilterInstance {
    /// Looks at what passes.
    Filter(Box<dyn NetworkFilter>),
    /// Owns the connection.
    Terminal(Box<dyn TerminalNetworkFilter>),
}

/// Looks at the bytes that pass, both ways, and may change them.
pub trait NetworkFilter {
    /// The connection begins.
    fn on_new_connection(&mut self, _cx: &mut ConnectionCx<'_>) -> NetworkStatus {
        NetworkStatus::Continue
    }

    /// Bytes from the client. What is left in `data` goes on to the next filter.
    fn on_data(&mut self, _data: &mut BytesMut, _end_stream: bool, _cx: &mut ConnectionCx<'_>) -> NetworkStatus {
        NetworkStatus::Continue
    }

    /// Bytes to the client, from the filter behind. What is left in `data` goes on towards the client.
    fn on_write(&mut self, _data: &mut BytesMut, _end_stream: bool, _cx: &mut ConnectionCx<'_>) -> NetworkStatus {
        NetworkStatus::Continue
    }
}

/// What a network filter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkStatus {
    /// The next filter.
    Continue,
    /// Keep what there is until more comes; bounded by the connection's buffer limit.
    StopIteration,
    /// Close the connection.
    Close,
}

/// What a network filter may use.
pub struct ConnectionCx<'a> {
    /// The connection's facts.
    pub info: &'a Rc<ConnectionInfo>,
    /// The worker.
    pub worker: &'a WorkerCx,
}

/// A terminal network filter: a protocol as sequential code. `serve` runs until it is done with the connection, which
/// is then closed; what it has written is delivered first.
pub trait TerminalNetworkFilter {
    /// Serves the connection.
    fn serve(self: Box<Self>, connection: Connection) -> LocalFuture<()>;
}

/// For terminal filters that need nothing but their configuration: each connection gets a clone of it.
pub fn terminal<F>(filter: F) -> Arc<dyn NetworkFilterConfig>
where
    F: TerminalNetworkFilter + Clone + Send + Sync + 'static,
{
    Arc::new(Terminal(filter))
}

#[derive(Clone)]
struct Terminal<F>(F);

impl<F: TerminalNetworkFilter + Clone + Send + Sync + 'static> NetworkFilterConfig for Terminal<F> {
    fn is_terminal(&self) -> bool {
        true
    }

    fn for_worker(&self, _: &WorkerCx) -> Box<dyn NetworkFilterFactory> {
        Box::new(self.clone())
    }
}

impl<F: TerminalNetworkFilter + Clone + 'static> NetworkFilterFactory for Terminal<F> {
    fn new_filter(&self, _: &Rc<ConnectionInfo>) -> NetworkFilterInstance {
        NetworkFilterInstance::Terminal(Box::new(self.0.clone()))
    }
}

/// The transport below a [`Connection`]; the data plane implements it.
pub trait ConnectionIo {
    /// Reads up to `buf.len()` octets; 0: the peer has sent its last.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;
    /// Writes a part of `buf`.
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>>;
    /// Sends what is still held.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Half-close: says that nothing more will be written.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ready once the connection shall finish what runs and end. Never, unless the transport knows better.
    fn poll_draining(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// A connection as a dispatcher sees it: it reads and writes like a socket, and brings what every protocol needs.
///
/// Writing waits while the peer does not read. With an idle timeout, reading and writing fail with
/// [`io::ErrorKind::TimedOut`] when nothing has moved for that long.
pub struct Connection {
    io: Box<dyn ConnectionIo>,
    info: Rc<ConnectionInfo>,
    worker: WorkerCx,
    buffer: BytesMut,
    idle: Option<Idle>,
    limit: usize,
}

struct Idle {
    timeout: Duration,
    since: Instant,
    sleep: LocalFuture<()>,
}

/// Room that is made for each read.
const READ_SIZE: usize = 4096;

impl Connection {
    /// For the data plane: wraps a transport. `limit` is the connection's buffer limit in octets.
    pub fn new(io: Box<dyn ConnectionIo>, info: Rc<ConnectionInfo>, worker: WorkerCx, limit: usize) -> Self {
        Self { io, info, worker, buffer: BytesMut::new(), idle: None, limit }
    }

    /// The connection's facts.
    pub fn info(&self) -> &Rc<ConnectionInfo> {
        &self.info
    }

    /// The worker: time and tasks.
    pub fn worker(&self) -> &WorkerCx {
        &self.worker
    }

    /// The worker's stats, to make scopes of one's own.
    pub fn stats(&self) -> &Scope {
        self.worker.stats()
    }

    /// The most octets that may be held for this connection in each direction (`per_connection_buffer_limit_bytes`).
    pub fn buffer_limit(&self) -> usize {
        self.limit
    }

    /// Fail reads and writes when nothing has moved for this long; `None`: never.
    pub fn set_idle_timeout(&mut self, timeout: Option<Duration>) {
        self.idle = timeout.map(|timeout| Idle { timeout, since: Instant::now(), sleep: self.worker.sleep(timeout) });
    }

    /// Reads what has arrived, at most `buf.len()` octets; 0: the peer has sent its last.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read_buffered(cx, buf)).await
    }

    /// Reads a line without its end (`\n` or `\r\n`). The last line may lack it. `None`: the peer has sent its last.
    /// A line of over `max` octets is an error of the kind [`io::ErrorKind::InvalidData`]; no more than that is held.
    pub async fn read_line(&mut self, max: usize) -> io::Result<Option<Vec<u8>>> {
        let mut seen = 0;
        loop {
            if let Some(end) = memchr::memchr(b'\n', self.buffer.get(seen..).unwrap_or_default()) {
                let mut line = self.buffer.split_to(seen + end + 1);
                line.truncate(seen + end);
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                return if line.len() > max { Err(too_long()) } else { Ok(Some(line.to_vec())) };
            }
            seen = self.buffer.len();
            // The carriage return may be there already.
            if seen > max + 1 {
                return Err(too_long());
            }
            if poll_fn(|cx| self.poll_fill(cx)).await? == 0 {
                let line = self.buffer.split();
                return Ok(Some(line.to_vec()).filter(|line| !line.is_empty()));
            }
        }
    }

    /// Writes everything.
    pub async fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let written = poll_fn(|cx| self.poll_write_timed(cx, data)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            data = data.get(written..).unwrap_or_default();
        }
        poll_fn(|cx| self.io.poll_flush(cx)).await
    }

    /// Half-close: the peer reads an end behind what was written.
    pub async fn shutdown_write(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.io.poll_shutdown(cx)).await
    }

    /// Ready once the process, the listener or the filter chain is draining: finish what runs and close.
    pub async fn draining(&mut self) {
        poll_fn(|cx| self.io.poll_draining(cx)).await;
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let start = self.buffer.len();
        self.buffer.resize(start + READ_SIZE, 0);
        let result = match self.buffer.get_mut(start..) {
            Some(room) => poll_io(&mut *self.io, &mut self.idle, &self.worker, cx, |io, cx| io.poll_read(cx, room)),
            None => Poll::Ready(Ok(0)),
        };
        let read = if let Poll::Ready(Ok(n)) = &result { *n } else { 0 };
        self.buffer.truncate(start + read);
        result
    }

    fn poll_read_buffered(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.buffer.is_empty() {
            return poll_io(&mut *self.io, &mut self.idle, &self.worker, cx, |io, cx| io.poll_read(cx, buf));
        }
        let take = buf.len().min(self.buffer.len());
        let taken = self.buffer.split_to(take);
        if let Some(room) = buf.get_mut(..take) {
            room.copy_from_slice(&taken);
        }
        Poll::Ready(Ok(take))
    }

    fn poll_write_timed(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        poll_io(&mut *self.io, &mut self.idle, &self.worker, cx, |io, cx| io.poll_write(cx, data))
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "line too long")
}

/// Does I/O under the idle timeout. The timeout is lazy: it is only noted that something moved, and looked at when the
/// running sleep ends.
fn poll_io(
    io: &mut dyn ConnectionIo,
    idle: &mut Option<Idle>,
    worker: &WorkerCx,
    cx: &mut Context<'_>,
    act: impl FnOnce(&mut dyn ConnectionIo, &mut Context<'_>) -> Poll<io::Result<usize>>,
) -> Poll<io::Result<usize>> {
    let result = act(io, cx);
    let Some(idle) = idle else { return result };
    if result.is_ready() {
        idle.since = Instant::now();
        return result;
    }
    loop {
        ready!(idle.sleep.as_mut().poll(cx));
        let left = idle.timeout.saturating_sub(idle.since.elapsed());
        if left.is_zero() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        idle.sleep = worker.sleep(left);
    }
}

impl futures_io::AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_read_buffered(cx, buf)
    }
}

impl futures_io::AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_timed(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().io.poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().io.poll_shutdown(cx)
    }
}
