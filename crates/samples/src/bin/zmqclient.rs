//! `zmqclient HOST:PORT`: a ZeroMQ REQ socket that says `Hello 0` to `Hello 9` and prints what it gets back, as the
//! original demo client did with libzmq. Here it is the codec of the proxy with a blocking socket.

use sota_codec::zmtp::{Assembler, Connection, Event, Message, Options, SocketType};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// How often it asks.
const REQUESTS: usize = 10;
/// ZeroMQ sockets connect when there is somebody; but a demo that hangs explains nothing.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// For the handshake; somebody else may listen there.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        println!("please input ip:port");
        return ExitCode::from(2);
    };
    match ask(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask(address: &str) -> io::Result<()> {
    let mut socket = ReqSocket::connect(address)?;
    for number in 0..REQUESTS {
        let question = format!("Hello {number}");
        // Go's Println puts a blank between its arguments, and the original's texts end with one.
        println!("Sending  {question}");
        let answer = socket.request(question.as_bytes())?;
        println!("Received  {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

/// A REQ socket with one peer.
struct ReqSocket {
    stream: TcpStream,
    connection: Connection,
    assembler: Assembler,
    input: Vec<u8>,
    out: Vec<u8>,
}

impl ReqSocket {
    fn connect(address: &str) -> io::Result<Self> {
        let deadline = Instant::now() + CONNECT_PATIENCE;
        let mut has_told = false;
        let stream = loop {
            match TcpStream::connect(address) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline || error.kind() == io::ErrorKind::InvalidInput => {
                    return Err(error);
                }
                Err(error) => {
                    if !has_told {
                        eprintln!("{address}: {error}; trying again for {} s", CONNECT_PATIENCE.as_secs());
                        has_told = true;
                    }
                    thread::sleep(Duration::from_millis(100));
                }
            }
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HANDSHAKE_PATIENCE))?;
        let mut out = Vec::new();
        let options = Options { socket_type: SocketType::Req, ..Options::default() };
        let connection = Connection::new(Arc::new(options), &mut out);
        Ok(Self { stream, connection, assembler: Assembler::default(), input: Vec::new(), out })
    }

    /// Sends a request of one frame behind REQ's empty one; the frames of the answer, joined.
    fn request(&mut self, body: &[u8]) -> io::Result<Vec<u8>> {
        if !self.connection.is_ready() {
            while !self.connection.is_ready() {
                self.next().map_err(|error| {
                    let reason = match error.kind() {
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no word in time".to_owned(),
                        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
                        _ => error.to_string(),
                    };
                    io::Error::other(format!("no ZeroMQ handshake: {reason}"))
                })?;
            }
            self.stream.set_read_timeout(Some(PATIENCE))?;
        }
        self.connection.send_frames([&b""[..], body], &mut self.out).map_err(io::Error::other)?;
        loop {
            if let Some(answer) = self.next()? {
                return Ok(answer.frames().skip(1).collect::<Vec<_>>().concat());
            }
        }
    }

    /// Sends what is to be sent and takes what comes, up to the next message or the end of the handshake.
    fn next(&mut self) -> io::Result<Option<Message>> {
        loop {
            let (taken, event) = self.connection.recv(&self.input, &mut self.out).map_err(io::Error::other)?;
            let (mut message, mut is_ready, mut is_used_up) = (None, false, false);
            match event {
                Event::Frame(frame) => message = self.assembler.push(&frame),
                Event::Ready(_) => is_ready = true,
                Event::NeedMore => is_used_up = true,
                _ => {}
            }
            self.input.drain(..taken);
            if message.is_some() || is_ready {
                return Ok(message);
            }
            if is_used_up {
                self.stream.write_all(&self.out)?;
                self.out.clear();
                let mut buffer = [0; 4096];
                let read = self.stream.read(&mut buffer)?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.input.extend_from_slice(buffer.get(..read).unwrap_or_default());
            }
        }
    }
}
