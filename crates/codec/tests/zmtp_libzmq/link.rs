//! A connection with a real socket, and the Python process at its other end.

use sota_codec::zmtp::{Assembler, Connection, Credentials, Event, Message, Options, ZmtpError};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// An event that outlives its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Ready,
    Message(Vec<Vec<u8>>),
    Subscribe(Vec<u8>),
    Cancel(Vec<u8>),
    Ping(Duration),
    Pong(Vec<u8>),
    Refused(Vec<u8>),
    Failed(ZmtpError),
    Closed,
}

pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) out: Vec<u8>,
    stream: TcpStream,
    input: Vec<u8>,
    at: usize,
    assembler: Assembler,
    /// What to say to user names and passwords.
    pub(crate) allows: fn(&[u8], &[u8]) -> bool,
}

impl Link {
    pub(crate) fn new(stream: TcpStream, options: Options) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut out = Vec::new();
        let connection = Connection::new(Arc::new(options), &mut out);
        let (input, assembler) = (Vec::new(), Assembler::default());
        Self { connection, out, stream, input, at: 0, assembler, allows: |_, _| true }
    }

    pub(crate) fn send(&mut self, message: &[Vec<u8>]) {
        let message: Message = message.iter().map(|frame| &frame[..]).collect();
        self.connection.send_message(&message, &mut self.out).unwrap();
    }

    /// Sends at once.
    pub(crate) fn send_frames(&mut self, frames: &[&[u8]]) {
        self.connection.send_frames(frames.iter().copied(), &mut self.out).unwrap();
        self.flush();
    }

    fn flush(&mut self) {
        // A peer that is gone is seen when reading.
        let _ = self.stream.write_all(&self.out);
        self.out.clear();
    }

    #[track_caller]
    pub(crate) fn await_ready(&mut self) {
        assert_eq!(self.next(), Told::Ready);
        assert!(self.connection.is_ready());
    }

    /// What comes last, when the peer has ended the connection.
    pub(crate) fn drain(&mut self) -> Told {
        loop {
            let told = self.next();
            if matches!(told, Told::Closed | Told::Failed(_)) {
                return told;
            }
        }
    }

    /// The next event; reads only what is needed for it, and writes before it reads.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Told {
        loop {
            let (taken, event) = match self.connection.recv(&self.input[self.at..], &mut self.out) {
                Ok(found) => found,
                Err(error) => {
                    self.flush();
                    return Told::Failed(error);
                }
            };
            self.at += taken;
            match event {
                Event::NeedMore => {
                    self.input.clear();
                    self.at = 0;
                    self.flush();
                    if !self.read() {
                        assert!(!self.assembler.is_within());
                        return Told::Closed;
                    }
                }
                Event::Authenticate(Credentials::Plain { username, password }) => {
                    let allowed = (self.allows)(username, password);
                    self.judge(allowed);
                }
                Event::Authenticate(Credentials::Curve(_)) => self.judge(true),
                Event::Frame(frame) => {
                    if let Some(message) = self.assembler.push(&frame) {
                        return Told::Message(message.frames().map(<[u8]>::to_vec).collect());
                    }
                }
                Event::Ready(_) => return Told::Ready,
                Event::Subscribe(topic) => return Told::Subscribe(topic.to_vec()),
                Event::Cancel(topic) => return Told::Cancel(topic.to_vec()),
                Event::Ping { answered, ttl } => {
                    assert!(answered);
                    return Told::Ping(ttl);
                }
                Event::Pong(context) => return Told::Pong(context.to_vec()),
                Event::Refused(reason) => return Told::Refused(reason.to_vec()),
                Event::Blocked | Event::Command(_) => panic!("{event:?}"),
            }
        }
    }

    fn judge(&mut self, allowed: bool) {
        if allowed {
            self.connection.allow(&mut self.out).unwrap();
        } else {
            self.connection.deny(b"400", &mut self.out).unwrap();
        }
    }

    /// Reads something; `false` at the end.
    #[track_caller]
    fn read(&mut self) -> bool {
        let mut buffer = vec![0; 64 << 10];
        match self.stream.read(&mut buffer) {
            Ok(size) => {
                self.input.extend_from_slice(&buffer[..size]);
                size > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}: {:?}", self.connection),
        }
    }
}

/// libzmq in a process of its own, which is killed when the handle goes.
pub(crate) struct Python {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Python {
    /// `None` without pyzmq.
    pub(crate) fn start(direction: &str, port: u16, scenarios: &[String]) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("../../.venv/bin/python");
        let has_zmq = Command::new(&python).args(["-c", "import zmq; assert zmq.has('curve')"]).output();
        if !has_zmq.is_ok_and(|done| done.status.success()) {
            return None;
        }
        let mut child = Command::new(python)
            .arg(root.join("tests/zmtp_libzmq/peer.py"))
            .args([direction, &port.to_string()])
            .args(scenarios)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Some(Self { child, out })
    }

    /// The next connection to us. Fails when the process has ended.
    #[track_caller]
    pub(crate) fn accept(&mut self, listener: &TcpListener) -> TcpStream {
        listener.set_nonblocking(true).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    return stream;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            assert!(self.child.try_wait().unwrap().is_none(), "the Python side has ended");
            assert!(Instant::now() < deadline, "nobody connects");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next port that it binds.
    #[track_caller]
    pub(crate) fn port(&mut self) -> u16 {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim().parse().unwrap_or_else(|_| panic!("no port but {line:?}"))
    }

    #[track_caller]
    pub(crate) fn connect(&mut self) -> TcpStream {
        let port = self.port();
        self.connect_to(port)
    }

    #[track_caller]
    pub(crate) fn connect_to(&mut self, port: u16) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap()
    }

    /// It ends by itself, and content.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
