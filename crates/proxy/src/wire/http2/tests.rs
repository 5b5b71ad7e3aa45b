//! Both roles over a socket, driven by tasks as they are in the proxy.

use super::*;
use crate::{
    local::{Local, tests::on_worker},
    socket::{Io, Socket},
    wire::{BodyError, Part, RequestStart, ResponseEvent, WriteError},
};
use sota_codec::http2::{self as codec, ErrorCode, ErrorKind, ResetCause};
use sota_config::http::Http2Keepalive;
use sota_plugin::{
    http::{Headers, Method, RequestHead, ResponseHead, StatusCode},
    stats::{Group, Registry},
};
use std::{
    cell::RefCell,
    future::poll_fn,
    io::{Read, Write},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

fn sockets() -> (Socket, std::os::unix::net::UnixStream) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    for socket in [&ours, &theirs] {
        socket.set_nonblocking(true).unwrap();
    }
    (Socket::new(Io::Unix(tokio::net::UnixStream::from_std(ours).unwrap())), theirs)
}

fn options(codec: codec::Options) -> Options {
    Options { codec: Arc::new(codec::Options { max_output: MAX_OUTPUT, ..codec }), keepalive: None }
}

fn stats() -> Group<Http2Stats> {
    Registry::new().shard().group()
}

/// Drives a connection in a task of its own; requests go to `serve`, other events into the list.
fn drive(
    local: &Rc<Local>,
    connection: &Rc<Connection>,
    socket: Socket,
    serve: impl Fn(ServerStream) + 'static,
) -> Told {
    let told = Told::default();
    let (connection, list) = (Rc::clone(connection), told.clone());
    local.spawn(false, async move {
        loop {
            match poll_fn(|cx| connection.poll_event(cx, &socket)).await {
                Event::Request(stream) => serve(stream),
                Event::Refused(fault) => list.borrow_mut().push(format!("{fault:?}")),
                Event::Settings => {}
                Event::GoAway(code) => list.borrow_mut().push(format!("{code:?}")),
                Event::Ended(end) => {
                    list.borrow_mut().push(end.to_string());
                    let _ = poll_fn(|cx| connection.poll_flush(cx, &socket)).await;
                    return;
                }
            }
        }
    });
    told
}

type Told = Rc<RefCell<Vec<String>>>;

/// A client and a server that are connected.
fn pair(
    local: &Rc<Local>,
    server: codec::Options,
    serve: impl Fn(ServerStream) + 'static,
) -> (Rc<Connection>, Rc<Connection>, Told, Told) {
    let (socket, peer) = sockets();
    let peer = Socket::new(Io::Unix(tokio::net::UnixStream::from_std(peer).unwrap()));
    let server = Connection::server(&options(server), &stats(), local);
    let client = Connection::client(&options(codec::Options::default()), &stats(), local);
    let (of_server, of_client) = (drive(local, &server, socket, serve), drive(local, &client, peer, |_| ()));
    (client, server, of_client, of_server)
}

fn post(path: &str) -> RequestHead {
    RequestHead::new(Method::Post, "example.com", path).unwrap()
}

/// Answers with the request's path, its body, and its trailers, part by part.
async fn echo(stream: ServerStream) -> Result<(), String> {
    let mut head = RequestHead::default();
    let RequestStart::Head(_) = poll_fn(|_| stream.poll_head(&mut head)).await.map_err(|e| e.to_string())? else {
        return Err("no head".into());
    };
    stream.send_informational(&ResponseHead::new(StatusCode::from_u16(103).unwrap()));
    let mut response = ResponseHead::new(StatusCode::OK);
    response.headers.append("x-path", head.path()).unwrap();
    stream.send_head(&response, false);
    let mut trailers: Option<Box<Headers>> = None;
    loop {
        match poll_fn(|cx| stream.poll_part(cx)).await.map_err(|e| e.to_string())? {
            Part::Data(n) => {
                let data = stream.take_data();
                assert_eq!(data.len(), n);
                poll_fn(|cx| stream.poll_data(cx, &data)).await.map_err(|e| e.to_string())?;
            }
            Part::Trailers(fields) => trailers = Some(fields),
            Part::End => break,
        }
    }
    stream.end(trailers.as_deref()).map_err(|e| e.to_string())
}

/// Sends and receives side by side, as a proxy does.
async fn exchange(stream: &ClientStream, body: &[u8], trailers: Option<Headers>) -> (u32, String, Vec<u8>, String) {
    let mut sent = pin!(async {
        for part in body.chunks(50_000) {
            poll_fn(|cx| stream.poll_data(cx, part)).await.unwrap();
        }
        stream.end(trailers.as_ref()).unwrap();
        std::future::pending::<()>().await;
    });
    let mut received = pin!(async {
        let (mut head, mut informational) = (ResponseHead::default(), 0);
        while poll_fn(|cx| stream.poll_head(cx, &mut head)).await.unwrap() == ResponseEvent::Informational {
            informational += 1;
        }
        let path = String::from_utf8_lossy(head.headers.get("x-path").unwrap()).into_owned();
        let (mut body, mut trailers) = (Vec::new(), String::new());
        loop {
            match poll_fn(|cx| stream.poll_part(cx)).await.unwrap() {
                Part::Data(_) => stream.with_data(|data| {
                    let used = data.len().div_ceil(2);
                    body.extend_from_slice(&data[..used]);
                    (used, ())
                }),
                Part::Trailers(fields) => trailers = format!("{fields:?}"),
                Part::End => return (informational, path, body, trailers),
            }
        }
    });
    poll_fn(|cx| {
        assert!(sent.as_mut().poll(cx).is_pending());
        received.as_mut().poll(cx)
    })
    .await
}

#[test]
fn many_streams_with_bodies_trailers_and_informational_responses() {
    on_worker(|local| async move {
        let spawner = Rc::clone(&local);
        let (client, server, of_client, _) = pair(&local, codec::Options::default(), move |stream| {
            spawner.spawn(false, async move { echo(stream).await.unwrap() });
        });
        let done = Rc::new(RefCell::new(0));
        for number in 0..50_usize {
            let (client, done) = (Rc::clone(&client), Rc::clone(&done));
            local.spawn(true, async move {
                let stream = ClientStream::begin(&client, &post(&format!("/{number}")), false).unwrap();
                let body: Vec<u8> = (0..number * 20_000).map(|n| (n % 253) as u8).collect();
                let trailers = Headers::from_iter([("x-sum", "1")]);
                let (informational, path, received, trailers) = exchange(&stream, &body, Some(trailers)).await;
                assert_eq!((informational, path), (1, format!("/{number}")));
                assert!(received == body, "{number}");
                assert!(trailers.contains("x-sum"), "{trailers}");
                assert!(stream.stream().octets_sent().1 > body.len() as u64);
                *done.borrow_mut() += 1;
            });
        }
        while local.active_tasks() > 0 {
            local.sleep(Duration::from_millis(2)).await;
        }
        local.sleep(Duration::from_millis(5)).await;
        assert_eq!(*done.borrow(), 50);
        assert_eq!((client.streams(), server.streams()), (0, 0));
        assert_eq!((client.stats.tx_reset.value(), server.stats.tx_reset.value()), (0, 0));
        assert!(of_client.borrow().is_empty(), "{of_client:?}");
        assert!(server.memory() < 8 * 1024, "{}", server.memory());
    });
}

#[test]
fn nothing_beyond_the_window_is_held_and_others_go_on() {
    on_worker(|local| async move {
        let held: Rc<RefCell<Vec<ServerStream>>> = Rc::default();
        let (spawner, list) = (Rc::clone(&local), Rc::clone(&held));
        let (client, _server, ..) = pair(
            &local,
            codec::Options { initial_stream_window: 65_535, ..codec::Options::default() },
            move |stream| {
                let mut head = RequestHead::default();
                assert!(stream.poll_head(&mut head).is_ready());
                match head.path() {
                    b"/slow" => list.borrow_mut().push(stream),
                    _ => spawner.spawn(false, async move {
                        poll_fn(|cx| stream.poll_closed(cx)).await;
                    }),
                }
            },
        );
        let slow = ClientStream::begin(&client, &post("/slow"), false).unwrap();
        let body = vec![b'x'; 1 << 20];
        let mut sending = pin!(poll_fn(|cx| slow.poll_data(cx, &body)));
        for _ in 0..20 {
            assert!(sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            local.sleep(Duration::from_millis(1)).await;
        }
        let held = held.borrow_mut().pop().unwrap();
        let (_, octets) = held.stream().octets_received();
        assert!(octets > 65_535 && octets < 66_535, "{octets}");
        let mut taken = 0;
        let mut both = pin!(async {
            while taken < body.len() {
                poll_fn(|cx| held.poll_part(cx)).await.unwrap();
                taken += held.take_data().len();
            }
        });
        poll_fn(|cx| {
            let _ = sending.as_mut().poll(cx).map(Result::unwrap);
            both.as_mut().poll(cx)
        })
        .await;
        assert_eq!(taken, 1 << 20);
    });
}

/// The writer of a chunk has said how long it is when the rest of it has to wait.
#[test]
fn data_that_was_told_of_does_not_grow_while_it_is_written() {
    on_worker(|local| async move {
        let held: Rc<RefCell<Vec<ServerStream>>> = Rc::default();
        let list = Rc::clone(&held);
        let (client, ..) = pair(&local, codec::Options::default(), move |stream| list.borrow_mut().push(stream));
        let stream = ClientStream::begin(&client, &post("/"), false).unwrap();
        while held.borrow().is_empty() {
            local.sleep(Duration::from_millis(1)).await;
        }
        let server = held.borrow_mut().remove(0);
        let mut parts = Vec::new();
        for part in [&b"hello"[..], b", you"] {
            let before = server.stream().octets_received().1;
            poll_fn(|cx| stream.poll_data(cx, part)).await.unwrap();
            while server.stream().octets_received().1 == before {
                local.sleep(Duration::from_millis(1)).await;
            }
            let Part::Data(told) = poll_fn(|cx| server.poll_part(cx)).await.unwrap() else { panic!("no data") };
            server.with_data(|data| (0, parts.push((told, data.to_vec()))));
        }
        assert_eq!(parts, [(5, b"hello".to_vec()), (5, b"hello".to_vec())]);
        assert_eq!(&server.take_data()[..], b"hello");
        assert!(matches!(poll_fn(|cx| server.poll_part(cx)).await.unwrap(), Part::Data(5)));
        assert_eq!(&server.take_data()[..], b", you");
    });
}

#[test]
fn resets_reach_the_other_side_with_their_code() {
    on_worker(|local| async move {
        let held: Rc<RefCell<Vec<ServerStream>>> = Rc::default();
        let list = Rc::clone(&held);
        let (client, server, ..) =
            pair(&local, codec::Options::default(), move |stream| list.borrow_mut().push(stream));
        let streams: Vec<_> = (0..2).map(|_| ClientStream::begin(&client, &post("/"), false).unwrap()).collect();
        while held.borrow().len() < 2 {
            local.sleep(Duration::from_millis(1)).await;
        }
        let [first, second] = <[_; 2]>::try_from(streams).ok().unwrap();
        let [for_first, for_second] = <[_; 2]>::try_from(held.take()).ok().unwrap();
        drop(first);
        poll_fn(|cx| for_first.poll_closed(cx)).await;
        let expected = StreamEnd::Reset(ResetCause::Peer(ErrorCode::CANCEL));
        assert_eq!(for_first.ended(), Some(expected));
        let error = poll_fn(|cx| for_first.poll_part(cx)).await.unwrap_err();
        assert!(matches!(error, BodyError::Stream(end) if end == expected), "{error}");
        let error = poll_fn(|cx| for_first.poll_data(cx, b"late")).await.unwrap_err();
        assert!(matches!(error, WriteError::Io(_)), "{error}");

        drop(for_first);

        // The response is whole before the request: the rest is not wanted.
        for_second.send_head(&ResponseHead::new(StatusCode::OK), false);
        poll_fn(|cx| for_second.poll_data(cx, b"enough")).await.unwrap();
        for_second.end(None).unwrap();
        drop(for_second);
        let mut head = ResponseHead::default();
        poll_fn(|cx| second.poll_head(cx, &mut head)).await.unwrap();
        let mut body = Vec::new();
        while let Part::Data(_) = poll_fn(|cx| second.poll_part(cx)).await.unwrap() {
            body.extend_from_slice(&second.take_data());
        }
        assert_eq!(body, b"enough");
        let end = poll_fn(|cx| second.stream().poll_ended(cx)).await;
        assert_eq!(end, StreamEnd::Reset(ResetCause::Peer(ErrorCode::NO_ERROR)));
        assert_eq!((server.streams(), server.stats.tx_reset.value()), (0, 1));
    });
}

#[test]
fn a_body_is_as_long_as_its_head_says() {
    on_worker(|local| async move {
        let (client, ..) = pair(&local, codec::Options::default(), |_| ());
        let mut head = post("/");
        head.headers.append("content-length", "3").unwrap();
        for (parts, ends) in [(&[&b"ab"[..], b"cd"][..], false), (&[b"ab"], false), (&[b"ab", b"c"], true)] {
            let stream = ClientStream::begin(&client, &head, false).unwrap();
            let mut result = Ok(());
            for part in parts {
                result = result.and(poll_fn(|cx| stream.poll_data(cx, part)).await);
            }
            let result = result.and_then(|()| stream.end(None));
            assert_eq!(result.is_ok(), ends, "{parts:?}");
            assert!(matches!(result, Ok(()) | Err(WriteError::Length)));
        }
    });
}

#[test]
fn a_broken_protocol_and_a_closed_connection_end_all_streams() {
    on_worker(|local| async move {
        for (bytes, expected) in [(&[0xff; 9][..], "frame larger"), (&[], "the peer has closed")] {
            let (socket, mut peer) = sockets();
            let client = Connection::client(&options(codec::Options::default()), &stats(), &local);
            let told = drive(&local, &client, socket, |_| ());
            let stream = ClientStream::begin(&client, &post("/"), true).unwrap();
            peer.write_all(bytes).unwrap();
            if bytes.is_empty() {
                peer.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let end = poll_fn(|cx| stream.stream().poll_ended(cx)).await;
            let StreamEnd::Connection(end) = end else { panic!("{end:?}") };
            assert!(end.to_string().starts_with(expected), "{end}");
            if let ConnectionEnd::Protocol(error) = end {
                assert_eq!((error.code, error.kind), (ErrorCode::FRAME_SIZE_ERROR, ErrorKind::Protocol));
                local.sleep(Duration::from_millis(5)).await;
                let mut written = Vec::new();
                let _ = peer.read_to_end(&mut written);
                assert!(written.windows(4).any(|part| part == [0, 0, 0, 6]), "GOAWAY was not written");
            }
            local.sleep(Duration::from_millis(2)).await;
            assert_eq!(*told.borrow(), [end.to_string()]);
            assert_eq!(client.open(&post("/"), true).err(), Some(codec::SendError::ConnectionClosed));
        }
    });
}

#[test]
fn pings_are_answered_or_end_the_connection() {
    on_worker(|local| async move {
        let keepalive = Http2Keepalive {
            interval: Some(Duration::from_millis(10)),
            timeout: Duration::from_millis(30),
            jitter: 15.0,
            idle_interval: None,
        };
        let with_pings = Options { keepalive: Some(keepalive), ..options(codec::Options::default()) };
        // A peer that answers.
        let (socket, peer) = sockets();
        let peer = Socket::new(Io::Unix(tokio::net::UnixStream::from_std(peer).unwrap()));
        let server = Connection::server(&with_pings, &stats(), &local);
        let client = Connection::client(&options(codec::Options::default()), &stats(), &local);
        let of_server = drive(&local, &server, socket, |_| ());
        let of_client = drive(&local, &client, peer, |_| ());
        local.sleep(Duration::from_millis(120)).await;
        assert!(of_server.borrow().is_empty(), "{of_server:?}");
        client.end(ConnectionEnd::Local);
        local.sleep(Duration::from_millis(5)).await;
        assert_eq!(*of_client.borrow(), [ConnectionEnd::Local.to_string()]);
        // One that does not.
        let (socket, mut peer) = sockets();
        let server = Connection::server(&with_pings, &stats(), &local);
        let of_server = drive(&local, &server, socket, |_| ());
        peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        local.sleep(Duration::from_millis(120)).await;
        assert_eq!(*of_server.borrow(), [ConnectionEnd::KeepaliveTimeout.to_string()]);
        assert_eq!(server.stats.keepalive_timeout.value(), 1);
        let mut written = Vec::new();
        assert!(peer.read_to_end(&mut written).is_ok() && written.windows(3).any(|part| part == [8, 6, 0]));
    });
}

#[test]
fn a_writer_is_woken_when_the_window_opens() {
    on_worker(|local| async move {
        let spawner = Rc::clone(&local);
        let (client, ..) = pair(&local, codec::Options::default(), move |stream| {
            spawner.spawn(false, async move { echo(stream).await.unwrap() });
        });
        let stream = ClientStream::begin(&client, &post("/"), false).unwrap();
        let body = vec![b'y'; 3 * MAX_OUTPUT];
        // The output is full before all of it is taken.
        let first = stream.poll_data(&mut Context::from_waker(Waker::noop()), &body);
        assert!(matches!(first, Poll::Pending));
        poll_fn(|cx| stream.poll_data(cx, &body)).await.unwrap();
        let (_, _, received, _) = exchange(&stream, &[], None).await;
        assert!(received == body);
    });
}
