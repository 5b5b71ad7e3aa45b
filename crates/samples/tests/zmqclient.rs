//! The demo client against a socket that returns what it gets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_codec::zmtp::{Connection, Event, Options, SocketType};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;

/// A ROUTER that sends every frame back.
fn echo(mut stream: TcpStream) {
    let mut out = Vec::new();
    let options = Options { socket_type: SocketType::Router, ..Options::default() };
    let mut connection = Connection::new(Arc::new(options), &mut out);
    let mut buffer = [0; 1024];
    loop {
        stream.write_all(&out).unwrap();
        out.clear();
        let read = stream.read(&mut buffer).unwrap();
        if read == 0 {
            return;
        }
        let (mut at, mut frames) = (0, Vec::new());
        loop {
            let (taken, event) = connection.recv(&buffer[at..read], &mut out).unwrap();
            at += taken;
            match event {
                Event::NeedMore => break,
                Event::Frame(frame) => {
                    assert!(frame.is_first() && frame.is_last());
                    frames.push((frame.payload.to_vec(), frame.more));
                }
                _ => {}
            }
        }
        for (payload, more) in frames {
            connection.send_frame(&payload, more, &mut out).unwrap();
        }
    }
}

#[test]
fn says_hello_ten_times() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || echo(listener.accept().unwrap().0));
    let done = Command::new(env!("CARGO_BIN_EXE_zmqclient")).arg(address.to_string()).output().unwrap();
    let lines: Vec<String> =
        (0..10).flat_map(|n| [format!("Sending  Hello {n}"), format!("Received  Hello {n}")]).collect();
    assert_eq!(String::from_utf8(done.stdout).unwrap().lines().collect::<Vec<_>>(), lines);
    assert!(done.status.success());
    server.join().unwrap();
}

#[test]
fn says_why_there_is_no_conversation() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let ask = || Command::new(env!("CARGO_BIN_EXE_zmqclient")).arg(&address).output().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 mail.example\r\n").unwrap();
        // Until the client goes.
        while stream.read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
    });
    let done = ask();
    let told = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && told.contains("no ZeroMQ handshake: "), "{told}");
    server.join().unwrap();
    let done = ask();
    let told = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && told.contains("refused") && told.contains("trying again for 10 s"), "{told}");
}

#[test]
fn wants_an_address() {
    let done = Command::new(env!("CARGO_BIN_EXE_zmqclient")).output().unwrap();
    assert_eq!((done.status.code(), &*done.stdout), (Some(2), &b"please input ip:port\n"[..]));
}
