//! Against the `h2` crate, in memory, in both roles: heads, bodies of random sizes both ways through small windows,
//! trailers, informational responses, resets, drain.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use sota_codec::http2::{Connection, ErrorCode, Event, HeadPool, Options, ResetCause, StreamId};
use sota_plugin::http::{Headers, Method, RequestHead, ResponseHead, StatusCode};
use std::{collections::BTreeMap, future::poll_fn, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};

/// A message body that goes out as windows allow.
#[derive(Default)]
struct Outgoing {
    body: Vec<u8>,
    sent: usize,
    complete: bool,
    done: bool,
}

/// One side on our codec: the loop that the module's documentation describes.
struct Side {
    connection: Connection,
    pool: HeadPool,
    reader: ReadHalf<DuplexStream>,
    writer: WriteHalf<DuplexStream>,
    outgoing: BTreeMap<StreamId, Outgoing>,
    trailers: Headers,
}

impl Side {
    fn new(connection: Connection, io: DuplexStream) -> Self {
        let trailers = [("x-checksum", "done")].into_iter().collect();
        let (reader, writer) = split(io);
        Self { connection, pool: HeadPool::new(), reader, writer, outgoing: BTreeMap::new(), trailers }
    }

    fn pump(&mut self, stream: StreamId) {
        let Some(out) = self.outgoing.get_mut(&stream).filter(|out| !out.done) else { return };
        // Gone if the peer has reset it.
        let Ok(sent) = self.connection.send_data(stream, &out.body[out.sent..], false) else { return };
        out.sent += sent;
        if out.complete && out.sent == out.body.len() {
            out.done = true;
            self.connection.send_trailers(stream, &self.trailers).unwrap();
        }
    }

    /// Flushes, reads once, hands out what came; `false` at the end of the connection.
    async fn turn(&mut self, mut on: impl FnMut(&mut Self, Event<'_>)) -> bool {
        while let Some(stream) = self.connection.next_sendable() {
            self.pump(stream);
        }
        let output = self.connection.output().to_vec();
        let mut buf = [0; 3000];
        let read = tokio::select! {
            biased;
            written = self.writer.write(&output), if !output.is_empty() => match written {
                Ok(written) => {
                    self.connection.written(written);
                    return true;
                }
                Err(_) => return false,
            },
            read = self.reader.read(&mut buf) => read.unwrap_or(0),
        };
        let mut input = &buf[..read];
        loop {
            // Events borrow the input only, so the connection is free between two of them.
            match self.connection.recv(&mut input, &mut self.pool) {
                Ok(Some(event)) => on(self, event),
                Ok(None) => return read > 0,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn options(window: u32) -> Arc<Options> {
    Arc::new(Options {
        initial_stream_window: window,
        initial_connection_window: window,
        max_output: 20_000,
        ..Options::default()
    })
}

fn body(seed: usize) -> Vec<u8> {
    let len = [0, 1, 100, 16_384, 16_385, 70_000, 200_000][seed % 7];
    (0..len).map(|n| (n * 31 + seed) as u8).collect()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), test).await.expect("in time") });
}

/// Sends a body with `h2`'s flow control.
async fn send_all(mut stream: h2::SendStream<Bytes>, body: Vec<u8>) {
    let mut rest = Bytes::from(body);
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let capacity = poll_fn(|cx| stream.poll_capacity(cx)).await.expect("open").unwrap();
        stream.send_data(rest.split_to(capacity.min(rest.len())), false).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", "done".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
}

async fn receive_all(mut stream: h2::RecvStream) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await.unwrap().expect("trailers");
    assert_eq!(trailers["x-checksum"], "done");
    body
}

/// Our server answers each request with its own body, trailers behind it.
async fn echo(mut side: Side) {
    let on = |side: &mut Side, event: Event<'_>| match event {
        Event::Request { stream, head, end_stream } => {
            assert_eq!((head.method.as_str(), head.authority()), ("POST", &b"example.com"[..]));
            assert_eq!(head.headers.get("x-number"), Some(head.path()));
            assert!(!end_stream);
            side.connection.send_response(stream, &ResponseHead::new(StatusCode::EARLY_HINTS), false).unwrap();
            let ok = ResponseHead::default().with("x-number", head.path()).with("server", "ours");
            side.connection.send_response(stream, &ok, false).unwrap();
            side.outgoing.insert(stream, Outgoing::default());
            side.pool.give_request(head);
        }
        Event::Data { stream, data, end_stream } => {
            let out = side.outgoing.get_mut(&stream).unwrap();
            out.body.extend_from_slice(data);
            out.complete = end_stream;
            side.connection.release(stream, data.len());
            side.pump(stream);
        }
        Event::Trailers { stream, trailers } => {
            assert_eq!(trailers.get("x-checksum"), Some(&b"done"[..]));
            side.outgoing.get_mut(&stream).unwrap().complete = true;
            side.pump(stream);
        }
        Event::Settings | Event::Pong { .. } | Event::GoAway { .. } | Event::Reset { .. } => {}
        Event::Response { .. } => unreachable!(),
    };
    while side.turn(on).await {}
    assert_eq!(side.connection.live_streams(), 0);
    assert!(side.outgoing.values().all(|out| out.done));
}

fn their_client_our_server(window: u32, their_window: u32) {
    run(async {
        let (ours, theirs) = duplex(5000);
        let server = tokio::spawn(echo(Side::new(Connection::server(options(window)), ours)));
        let (mut client, connection) = h2::client::Builder::new()
            .initial_window_size(their_window)
            .initial_connection_window_size(their_window)
            .header_table_size(if window == 65_535 { 4096 } else { 100 })
            .handshake::<_, Bytes>(theirs)
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let mut requests = Vec::new();
        for n in 0..21 {
            let request = Request::post(format!("http://example.com/{n}"))
                .header("x-number", format!("/{n}"))
                .header("cookie", "a=b")
                .header("cookie", "c=d")
                .body(())
                .unwrap();
            client = client.ready().await.unwrap();
            let (response, stream) = client.send_request(request, false).unwrap();
            requests.push(tokio::spawn(async move {
                let sent = tokio::spawn(send_all(stream, body(n)));
                let response = response.await.unwrap();
                assert_eq!(
                    (response.status().as_u16(), &response.headers()["server"]),
                    (200, &"ours".parse().unwrap())
                );
                assert_eq!(response.headers()["x-number"], format!("/{n}"));
                assert_eq!(receive_all(response.into_body()).await, body(n));
                sent.await.unwrap();
            }));
        }
        for request in requests {
            request.await.unwrap();
        }
        drop(client);
        connection.await.unwrap().unwrap();
        server.await.unwrap();
    });
}

#[test]
fn their_client_our_server_small_windows() {
    their_client_our_server(65_535, 65_535);
}

#[test]
fn their_client_our_server_large_windows() {
    their_client_our_server(1 << 20, 1 << 21);
}

async fn their_echo(io: DuplexStream, window: u32) {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(window)
        .initial_connection_window_size(window)
        .max_concurrent_streams(5)
        .handshake::<_, Bytes>(io)
        .await
        .unwrap();
    while let Some(accepted) = connection.accept().await {
        let Ok((request, mut respond)) = accepted else { break };
        tokio::spawn(async move {
            let number = request.headers()["x-number"].clone();
            assert_eq!(request.uri().path(), number.to_str().unwrap());
            let response = Response::builder().header("x-number", number).header("server", "theirs").body(()).unwrap();
            let stream = respond.send_response(response, false).unwrap();
            let body = receive_all(request.into_body()).await;
            send_all(stream, body).await;
        });
    }
}

fn our_client_their_server(window: u32, their_window: u32) {
    run(async {
        let (ours, theirs) = duplex(5000);
        let server = tokio::spawn(their_echo(theirs, their_window));
        let mut side = Side::new(Connection::client(options(window)), ours);
        let mut received: BTreeMap<StreamId, Vec<u8>> = BTreeMap::new();
        let (mut next, mut done) = (0, 0);
        while done < 21 {
            while side.connection.has_peer_settings() && side.connection.can_open() && next < 21 {
                let path = format!("/{next}");
                let mut head = RequestHead::new(Method::Post, "example.com", &path).unwrap();
                head.headers.append("x-number", &path).unwrap();
                let stream = side.connection.send_request(&head, false).unwrap();
                let out = Outgoing { body: body(next), complete: true, ..Outgoing::default() };
                side.outgoing.insert(stream, out);
                side.pump(stream);
                next += 1;
            }
            let on = |side: &mut Side, event: Event<'_>| match event {
                Event::Response { stream, head, end_stream: false } => {
                    assert_eq!(head.headers.get("server"), Some(&b"theirs"[..]));
                    assert_eq!(head.headers.get_str("x-number"), Some(&*format!("/{}", stream / 2)));
                    received.insert(stream, Vec::new());
                    side.pool.give_response(head);
                }
                Event::Data { stream, data, end_stream: false } => {
                    received.get_mut(&stream).unwrap().extend_from_slice(data);
                    side.connection.release(stream, data.len());
                }
                Event::Trailers { stream, trailers } => {
                    assert_eq!(trailers.get("x-checksum"), Some(&b"done"[..]));
                    assert_eq!(received.remove(&stream).unwrap(), body(stream as usize / 2));
                    done += 1;
                }
                Event::Settings | Event::Pong { .. } => {}
                other => panic!("{other:?}"),
            };
            assert!(side.turn(on).await);
        }
        assert_eq!(side.connection.live_streams(), 0);
        drop(side);
        server.await.unwrap();
    });
}

#[test]
fn our_client_their_server_small_windows() {
    our_client_their_server(65_535, 65_535);
}

#[test]
fn our_client_their_server_large_windows() {
    our_client_their_server(1 << 20, 1 << 18);
}

#[test]
fn resets_pings_and_drain() {
    run(async {
        let (ours, theirs) = duplex(5000);
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            let (_, mut first) = connection.accept().await.unwrap().unwrap();
            first.send_reset(h2::Reason::REFUSED_STREAM);
            let (_, mut second) = connection.accept().await.unwrap().unwrap();
            connection.graceful_shutdown();
            let served = tokio::spawn(async move {
                let reason = poll_fn(|cx| second.poll_reset(cx)).await.unwrap();
                assert_eq!(reason, h2::Reason::CANCEL);
            });
            while let Some(Ok(_)) = connection.accept().await {}
            served.await.unwrap();
        });
        let mut side = Side::new(Connection::client(options(65_535)), ours);
        let head = RequestHead::new(Method::Get, "example.com", "/").unwrap();
        assert_eq!(side.connection.send_request(&head, true), Ok(1));
        assert_eq!(side.connection.send_request(&head, true), Ok(3));
        side.connection.ping(*b"are you?");
        let mut seen = Vec::new();
        while !side.connection.is_drained() {
            let on = |side: &mut Side, event: Event<'_>| match event {
                Event::Settings => {}
                Event::Pong { payload } => assert_eq!(&payload, b"are you?"),
                Event::Reset { stream, cause } => {
                    assert_eq!(cause, ResetCause::Peer(ErrorCode::REFUSED_STREAM));
                    assert!(cause.is_refused());
                    seen.push(format!("refused {stream}"));
                }
                Event::GoAway { last_stream, code, .. } => {
                    assert_eq!(code, ErrorCode::NO_ERROR);
                    seen.push(format!("goaway {last_stream}"));
                    side.connection.reset(3, ErrorCode::CANCEL);
                }
                other => panic!("{other:?}"),
            };
            assert!(side.turn(on).await);
        }
        assert_eq!(seen, ["refused 1", "goaway 2147483647"]);
        drop(side);
        server.await.unwrap();
    });
}
