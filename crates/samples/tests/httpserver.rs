//! The demo server as a process, spoken to over a socket.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_httpserver"))
            .arg("0")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().unwrap().parse().unwrap();
        Self { child, port }
    }

    /// Sends `request`, closes the sending half and returns all that comes back, without the date.
    fn exchange(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(request).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: ")).collect()
    }

    fn printed(mut self) -> String {
        self.child.kill().unwrap();
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        out
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{body}\n",
        body.len() + 1
    )
}

#[test]
fn requests_on_one_connection_are_answered_in_turn_and_printed() {
    let server = Server::start();
    let answer = server.exchange(
        b"GET / HTTP/1.1\r\nHost: a\r\nx-b: 2\r\nAccept: */*\r\nX-B: <1>\r\n\r\n\
          POST /any?q=1 HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nh\xffl\"o\
          PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
    );
    let lines = [
        r#"{"body":"","header":{"Accept":["*/*"],"X-B":["2","\u003c1\u003e"]}}"#,
        r#"{"body":"h\ufffdl\"o","header":{"Content-Length":["5"]}}"#,
        r#"{"body":"abc0123456789","header":{}}"#,
    ];
    assert_eq!(answer, lines.map(ok).concat());
    assert_eq!(server.printed(), lines.map(|line| format!("{line}\n")).concat());
}

#[test]
fn head_has_the_length_but_no_body() {
    let server = Server::start();
    assert_eq!(
        server.exchange(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Length: 24\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    );
}

#[test]
fn expect_is_answered_before_the_body() {
    let server = Server::start();
    let answer = server.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok");
    assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn old_versions_and_close_end_the_connection() {
    let server = Server::start();
    let answer = server.exchange(b"GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n");
    assert_eq!(answer.matches("200 OK").count(), 1);
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && !answer.contains("Connection:"), "{answer}");
    let kept = server.exchange(&b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".repeat(2));
    assert_eq!(kept.matches("Connection: keep-alive\r\n").count(), 2);
    let closed = server.exchange(&b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".repeat(2));
    assert_eq!(closed.matches("Connection: close\r\n").count(), 1);
}

#[test]
fn long_answers_are_chunked_as_go_does() {
    let server = Server::start();
    let mut request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n".to_vec();
    request.extend_from_slice(&[b'x'; 3000]);
    let answer = server.exchange(&request);
    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.ends_with("Transfer-Encoding: chunked") && !head.contains("Content-Length"), "{head}");
    assert!(answer.ends_with("\r\n0\r\n\r\n"));
}

#[test]
fn bad_requests_are_refused() {
    let server = Server::start();
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "400 Bad Request: missing required Host header"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 Bad Request: too many Host headers"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nbad name: x\r\n\r\n", "400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", "400 Bad Request"),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
            "501 Not Implemented: unsupported transfer encoding",
        ),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", "505 HTTP Version Not Supported: unsupported protocol version"),
        (b"nonsense\r\n\r\n", "400 Bad Request"),
    ] {
        let answer = server.exchange(request);
        assert!(answer.ends_with(&format!("\r\n\r\n{status}")), "{answer}");
        assert!(answer.contains("Connection: close\r\n"), "{answer}");
    }
}

#[test]
fn no_argument_asks_for_a_port() {
    let done = Command::new(env!("CARGO_BIN_EXE_httpserver")).output().unwrap();
    assert_eq!(String::from_utf8(done.stdout).unwrap(), "please input port\n");
    assert_eq!(done.status.code(), Some(2));
}
