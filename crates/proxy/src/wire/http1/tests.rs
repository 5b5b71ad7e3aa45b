//! Both roles over real sockets.

use super::*;
use crate::{
    buffer::SMALL,
    local::tests::on_worker,
    socket::{Io, Socket},
    wire::{Part, ResponseEvent, WriteError},
};
use sota_codec::http1::{DecodeOptions, Http1Error};
use sota_config::http::HeaderKeyFormat;
use sota_plugin::http::{Method, RequestHead, ResponseHead, StatusCode};
use std::{
    future::poll_fn,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    task::{Context, Poll, Waker},
};

fn pair() -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Socket::new(Io::Unix(tokio::net::UnixStream::from_std(ours).unwrap())), theirs)
}

fn server_options() -> ServerOptions {
    ServerOptions { decode: DecodeOptions::default(), names: HeaderKeyFormat::Preserve, trailers: true }
}

fn client_options() -> ClientOptions {
    ClientOptions {
        decode: DecodeOptions::default(),
        names: HeaderKeyFormat::Preserve,
        trailers: true,
        absolute_form: false,
    }
}

/// Reads a whole request: target, body, trailers.
async fn read_request(stream: &ServerStream<'_>) -> Result<(String, Vec<u8>, Option<String>), String> {
    let mut head = RequestHead::default();
    poll_fn(|cx| stream.poll_head(cx, &mut head)).await.map_err(|error| format!("{error:?}"))?;
    let (mut body, mut trailers) = (Vec::new(), None);
    loop {
        match poll_fn(|cx| stream.poll_part(cx)).await.map_err(|error| format!("{error:?}"))? {
            Part::Data(n) => stream.with_data(|data| {
                assert_eq!(data.len(), n);
                // Not all at once, so that what stays is told again.
                let taken = n.div_ceil(2);
                body.extend_from_slice(&data[..taken]);
                (taken, ())
            }),
            Part::Trailers(fields) => trailers = Some(format!("{fields:?}")),
            Part::End => break,
        }
    }
    assert!(stream.is_request_complete());
    let target = String::from_utf8_lossy(head.path()).into_owned();
    Ok((target, body, trailers))
}

#[test]
fn any_split_of_requests_reads_the_same() {
    let bytes: &[u8] = b"POST /1 HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello\
        \r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n\
        POST /3 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n";
    on_worker(|local| async move {
        for piece in (1..40).chain([bytes.len()]) {
            let (socket, mut client) = pair();
            let options = server_options();
            let local = local.clone();
            let writer = async {
                for part in bytes.chunks(piece) {
                    client.write_all(part).unwrap();
                    if piece == 7 {
                        local.sleep(std::time::Duration::from_millis(1)).await;
                    } else {
                        tokio::task::yield_now().await;
                    }
                }
            };
            let reader = async {
                let mut seen = Vec::new();
                for _ in 0..3 {
                    seen.push(read_request(&ServerStream::new(&socket, &options, 1 << 20)).await.unwrap());
                }
                seen
            };
            let ((), seen) = tokio::join!(writer, reader);
            assert_eq!(seen[0], ("/1".to_owned(), b"hello".to_vec(), None), "pieces of {piece}");
            assert_eq!(seen[1], ("/2".to_owned(), Vec::new(), None));
            assert_eq!((&seen[2].0[..], &seen[2].1[..]), ("/3", &b"abcde"[..]));
            assert!(seen[2].2.as_ref().is_some_and(|trailers| trailers.contains("x-sum")), "{:?}", seen[2].2);
            assert_eq!(socket.buffered(), 0);
        }
    });
}

#[test]
fn a_head_may_be_large_but_not_too_large() {
    on_worker(|_| async move {
        for (size, fits) in [(30_000, true), (59_000, true), (70_000, false)] {
            let (socket, mut client) = pair();
            let options = server_options();
            let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(size));
            let thread = std::thread::spawn(move || {
                let _ = client.write_all(head.as_bytes());
                client
            });
            let result = read_request(&ServerStream::new(&socket, &options, 1 << 20)).await;
            assert_eq!(result.is_ok(), fits, "{size}: {result:?}");
            if !fits {
                assert!(result.unwrap_err().contains(&format!("{:?}", Http1Error::HeadTooLarge)));
            }
            thread.join().unwrap();
        }
    });
}

#[test]
fn an_end_within_a_message_is_not_its_end() {
    on_worker(|_| async move {
        for bytes in [
            &b"GET / HT"[..],
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhel",
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        ] {
            let (socket, mut client) = pair();
            client.write_all(bytes).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let options = server_options();
            let error = read_request(&ServerStream::new(&socket, &options, 1 << 20)).await.unwrap_err();
            assert!(error.contains("Truncated") || error == "Closed", "{error}");
        }
    });
}

#[test]
fn a_closed_client_is_noticed_and_reading_ahead_is_bounded() {
    on_worker(|_| async move {
        let (socket, mut client) = pair();
        let options = server_options();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let stream = ServerStream::new(&socket, &options, 1 << 20);
        read_request(&stream).await.unwrap();
        client.write_all(&vec![b'x'; 3 * SMALL]).unwrap();
        tokio::task::yield_now().await;
        let cx = &mut Context::from_waker(Waker::noop());
        poll_fn(|cx| {
            let _ = stream.poll_closed(cx);
            if socket.buffered() == SMALL { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert!(stream.poll_closed(cx).is_pending());
        drop(client);
        // What was read ahead is taken, and then the end is seen.
        while poll_fn(|cx| Poll::Ready(stream.poll_closed(cx))).await.is_pending() {
            socket.with_input(|input| (input.len(), ()));
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn responses_are_framed_for_their_client() {
    type Row = (&'static str, &'static [(&'static str, &'static str)], bool, &'static [&'static [u8]], &'static str);
    let rows: &[Row] = &[
        (
            "GET / HTTP/1.1\r\nhost: a",
            &[("content-length", "3")],
            false,
            &[b"abc"],
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
        ),
        (
            "GET / HTTP/1.1\r\nhost: a",
            &[],
            false,
            &[b"abc", b"de"],
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        ),
        ("GET / HTTP/1.1\r\nhost: a", &[], true, &[], "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: close",
            &[],
            true,
            &[],
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "HEAD / HTTP/1.1\r\nhost: a",
            &[("content-length", "3")],
            false,
            &[],
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n",
        ),
        ("GET / HTTP/1.0\r\nhost: a", &[], false, &[b"abc"], "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nabc"),
        (
            "GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive",
            &[("content-length", "1")],
            false,
            &[b"a"],
            "HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\na",
        ),
    ];
    on_worker(|_| async move {
        for (request, fields, end_stream, body, expected) in rows {
            let (socket, mut client) = pair();
            let options = server_options();
            client.write_all(format!("{request}\r\n\r\n").as_bytes()).unwrap();
            let stream = ServerStream::new(&socket, &options, 1 << 20);
            read_request(&stream).await.unwrap();
            let mut head =
                ResponseHead { headers: fields.iter().copied().collect(), ..ResponseHead::new(StatusCode::OK) };
            let close = stream.send_head(&mut head, *end_stream, false);
            for data in *body {
                poll_fn(|cx| stream.poll_data(cx, data)).await.unwrap();
            }
            stream.end(None).unwrap();
            poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
            assert_eq!(close, expected.contains("connection: close"));
            assert_eq!(stream.may_persist(), !close);
            drop(stream);
            drop(socket);
            let mut written = String::new();
            client.read_to_string(&mut written).unwrap();
            assert_eq!(written, *expected);
        }
    });
}

#[test]
fn a_body_that_is_not_as_long_as_announced_is_an_error() {
    on_worker(|_| async move {
        let (socket, mut client) = pair();
        let options = server_options();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let stream = ServerStream::new(&socket, &options, 1 << 20);
        read_request(&stream).await.unwrap();
        let headers = [("content-length", "3")].into_iter().collect();
        stream.send_head(&mut ResponseHead { headers, ..ResponseHead::new(StatusCode::OK) }, false, false);
        assert!(matches!(poll_fn(|cx| stream.poll_data(cx, b"abcd")).await, Err(WriteError::Length)));
        assert!(matches!(stream.end(None), Err(WriteError::Length)));
    });
}

/// Sends a GET on a fresh connection whose other side has this script, and reads the response.
async fn fetch(script: &'static [u8], method: Method) -> (Result<(u16, Vec<u8>, usize), String>, bool) {
    let (socket, mut origin) = pair();
    let options = client_options();
    let head = RequestHead::new(method, "a", "/x").unwrap();
    let mut stream = ClientStream::begin(&socket, &head, (true, false), &options, 1 << 20);
    assert!(stream.is_unsent(&socket));
    poll_fn(|cx| stream.poll_flush(cx, &socket)).await.unwrap();
    let mut request = vec![0; 1024];
    let n = origin.read(&mut request).unwrap();
    assert!(request[..n].ends_with(b" /x HTTP/1.1\r\nhost: a\r\n\r\n"));
    origin.write_all(script).unwrap();
    let closes = !script.ends_with(b"+");
    if closes {
        origin.shutdown(Shutdown::Write).unwrap();
    }
    let mut response = ResponseHead::default();
    let mut informational = 0;
    let result = async {
        loop {
            match poll_fn(|cx| stream.poll_head(cx, &socket, &options, &mut response)).await {
                Ok(ResponseEvent::Informational) => informational += 1,
                Ok(ResponseEvent::Head { .. }) => break,
                Err(error) => return Err(format!("{error:?}")),
            }
        }
        let mut body = Vec::new();
        loop {
            match poll_fn(|cx| stream.poll_part(cx, &socket, &options)).await {
                Ok(Part::Data(_)) => body.extend_from_slice(&stream.take_data(&socket)),
                Ok(Part::Trailers(_)) => {}
                Ok(Part::End) => return Ok((response.status.as_u16(), body, informational)),
                Err(error) => return Err(format!("{error:?}")),
            }
        }
    }
    .await;
    (result, stream.may_reuse(&socket))
}

#[test]
fn responses_are_read_and_connections_judged() {
    on_worker(|_| async move {
        let ok = |status, body: &[u8], informational| Ok((status, body.to_vec(), informational));
        // A script that ends in + leaves the connection open (the + is then unasked data).
        let (result, reuse) = fetch(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", Method::Get).await;
        assert_eq!(result, ok(200, b"abc", 0));
        assert!(reuse, "the close has not been read yet");
        let (result, reuse) = fetch(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc+", Method::Get).await;
        assert_eq!((result, reuse), (ok(200, b"abc", 0), false), "unasked data");
        let chunked =
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        assert_eq!(fetch(chunked, Method::Get).await.0, ok(200, b"a", 1));
        assert_eq!(fetch(b"HTTP/1.1 200 OK\r\n\r\nabc", Method::Get).await, (ok(200, b"abc", 0), false));
        let (result, reuse) =
            fetch(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", Method::Get).await;
        assert_eq!((result, reuse), (ok(200, b"", 0), false));
        assert_eq!(fetch(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", Method::Head).await.0, ok(200, b"", 0));
        assert_eq!(fetch(b"", Method::Get).await.0, Err("Closed { unanswered: true, failed: false }".to_owned()));
        assert_eq!(
            fetch(b"HTTP/1.1 20", Method::Get).await.0,
            Err("Closed { unanswered: false, failed: false }".to_owned())
        );
        for (script, error) in [
            (&b"garbage\r\n\r\n"[..], "StatusLine"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n", "ContentLength"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n", "LengthAndEncoding"),
            (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "UnexpectedSwitch"),
            (b"HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 0\r\n\r\n", "Character"),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "Chunk"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc", "Truncated"),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "Truncated"),
        ] {
            assert_eq!(fetch(script, Method::Get).await.0, Err(format!("Malformed({error})")), "{script:?}");
        }
    });
}

#[test]
fn informational_responses_are_bounded() {
    on_worker(|_| async move {
        let flood: &'static [u8] = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(40).leak();
        assert_eq!(fetch(flood, Method::Get).await.0, Err("Malformed(StatusLine)".to_owned()));
    });
}

#[test]
fn large_data_is_written_from_where_it_lies_and_waits_for_its_reader() {
    on_worker(|_| async move {
        let (socket, mut peer) = pair();
        let mut writer = Writer::default();
        writer.head(sota_codec::http1::BodyLength::Chunked, |out| out.extend_from_slice(b"HEAD\r\n"));
        let data = vec![b'x'; 3 << 20];
        let mut polls = 0;
        let write = poll_fn(|cx| {
            polls += 1;
            writer.poll_data(cx, &socket, &data)
        });
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            all
        });
        write.await.unwrap();
        assert!(polls > 1, "three MiB do not fit into the socket");
        assert_eq!(writer.waiting(), 0);
        writer.end(None, HeaderKeyFormat::Preserve).unwrap();
        poll_fn(|cx| writer.poll_flush(cx, &socket)).await.unwrap();
        drop(socket);
        let all = reader.join().unwrap();
        let expected = [b"HEAD\r\n300000\r\n", &data[..], b"\r\n0\r\n\r\n"].concat();
        assert!(all == expected, "{} octets instead of {}", all.len(), expected.len());
    });
}
