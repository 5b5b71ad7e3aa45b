//! An HTTP/1.1 client that sends exactly what it is told and keeps exactly what it gets.

use crate::message::{BodyError, Buffered, Fields, Head, framing};
use socket2::SockRef;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a client waits for the next byte unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// One connection to a server.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    buffered: Buffered,
}

/// How a connection or a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At its announced length or last chunk; the connection is still there.
    Complete,
    /// By an orderly close; for a response without a length that is its proper end.
    Closed,
    /// Closed before the announced end.
    Truncated,
    /// Connection reset.
    Reset,
    /// No byte within the client's patience.
    TimedOut,
    /// Not HTTP.
    Malformed,
}

/// A response, as much of it as arrived.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status line and fields of the final response.
    pub head: Head,
    /// Heads of the informational responses before it.
    pub informational: Vec<Head>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Fields,
    /// How it ended.
    pub end: End,
}

impl Response {
    /// The status code; 0 if there is none.
    pub fn status(&self) -> u16 {
        self.head.start[1].parse().unwrap_or(0)
    }

    /// The first value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.fields.value(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    /// Connects.
    #[track_caller]
    pub fn connect(to: impl ToSocketAddrs) -> Self {
        match Self::try_connect(to) {
            Ok(client) => client,
            Err(error) => panic!("connect: {error}"),
        }
    }

    /// Connects, if somebody accepts.
    pub fn try_connect(to: impl ToSocketAddrs) -> io::Result<Self> {
        let address = to.to_socket_addrs()?.next().ok_or(io::ErrorKind::InvalidInput)?;
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        Self::over(stream)
    }

    /// Takes a connection that is there already, for example from a chosen source address.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffered: Buffered::default() })
    }

    /// Waits this long for each byte from now on.
    pub fn patience(self, time: Duration) -> Self {
        let _ = self.stream.set_read_timeout(Some(time));
        self
    }

    /// The socket itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The client's own address.
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Sends bytes; an error says that the server no longer takes them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Closes the sending half.
    pub fn close_write(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Sends a request and reads its response.
    pub fn exchange(&mut self, request: impl AsRef<[u8]>) -> Response {
        let bytes = request.as_ref();
        // A server may refuse before it has read all; its answer is what counts.
        let _ = self.send(bytes);
        self.read_response(bytes.starts_with(b"HEAD "))
    }

    /// Reads the next response, informational ones before it included; `to_head`: it answers a HEAD request.
    pub fn read_response(&mut self, to_head: bool) -> Response {
        let mut response = Response {
            head: Head::default(),
            informational: Vec::new(),
            body: Vec::new(),
            trailers: Fields::default(),
            end: End::Complete,
        };
        loop {
            match self.buffered.read_head(&mut self.stream) {
                Ok(Some(head)) => response.head = head,
                Ok(None) => {
                    response.end = End::Closed;
                    return response;
                }
                Err(error) => {
                    response.end = end_of(&error);
                    return response;
                }
            }
            if !response.head.start[0].starts_with("HTTP/1.") {
                response.end = End::Malformed;
                return response;
            }
            // 101 is final: what follows is another protocol.
            if !matches!(response.status(), 100 | 102..=199) {
                break;
            }
            response.informational.push(std::mem::take(&mut response.head));
        }
        let framing = framing(&response.head.fields, Some(response.status()), to_head);
        match self.buffered.read_body(&mut self.stream, framing, &mut response.body) {
            Ok(trailers) => response.trailers = trailers,
            Err(BodyError::Cut(error)) => response.end = end_of(&error),
            Err(BodyError::Malformed) => response.end = End::Malformed,
        }
        response
    }

    /// Reads until `n` bytes are there or the stream ends.
    pub fn read_exactly(&mut self, n: usize) -> (Vec<u8>, End) {
        let mut all = std::mem::take(&mut self.buffered.bytes);
        let mut block = [0; 16 * 1024];
        while all.len() < n {
            let room = block.len().min(n - all.len());
            match self.stream.read(block.get_mut(..room).unwrap_or_default()) {
                Ok(0) => return (all, End::Closed),
                Ok(n) => all.extend_from_slice(block.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (all, end_of(&error)),
            }
        }
        self.buffered.bytes = all.split_off(n);
        (all, End::Complete)
    }

    /// Reads all there is until the connection ends or the patience does.
    pub fn read_to_end(&mut self) -> (Vec<u8>, End) {
        self.read_exactly(usize::MAX)
    }
}

fn end_of(error: &io::Error) -> End {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => End::TimedOut,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => End::Reset,
        io::ErrorKind::UnexpectedEof => End::Truncated,
        _ => End::Malformed,
    }
}

/// GET on a connection of its own.
#[track_caller]
pub fn get(to: impl ToSocketAddrs, path: &str) -> Response {
    request(to, format!("GET {path} HTTP/1.1\r\nhost: test.example\r\nconnection: close\r\n\r\n"))
}

/// One request, exactly these bytes, on a connection of its own.
#[track_caller]
pub fn request(to: impl ToSocketAddrs, bytes: impl AsRef<[u8]>) -> Response {
    Client::connect(to).exchange(bytes)
}
