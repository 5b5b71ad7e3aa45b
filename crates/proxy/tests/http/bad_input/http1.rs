//! HTTP/1 from clients and from origins.

use super::{PATIENCE, Row, logged, refused, run, show};
use crate::fixture::{Proxy, Setup};
use sota_testkit::{Client, End, Origin, Reply, wait_until};
use std::sync::atomic::{AtomicUsize, Ordering};

const CANARY: &[u8] = b"GET /canary HTTP/1.1\r\nhost: canary\r\n\r\n";

#[test]
fn requests_of_http1() {
    run("requests_http1.txt", 110, |row| {
        let origin = Origin::http(|_| Reply::ok("fine"));
        let proxy = Setup::to(origin.address()).start();
        let mut client = Client::connect(proxy.address).patience(PATIENCE);
        client.send(&row.message).unwrap();
        if row.is_alone() {
            client.close_write();
            let (answer, _) = client.read_to_end();
            return alone(row, &proxy, &origin, &answer);
        }
        let _ = client.send(CANARY);
        let is_head = row.message.starts_with(b"HEAD");
        let response = client.read_response(is_head);
        if response.status() >= 400 {
            if response.header("connection") != Some("close") {
                // It was understood, and nobody has a route for it.
                assert_eq!(client.read_response(false).status(), 200, "{}", row.rule);
                assert_eq!((origin.seen().len(), origin.last().target()), (1, "/canary"), "{}", row.rule);
                return refused(&proxy, response.status(), &row.rule);
            }
            client.close_write();
            let (more, end) = client.read_to_end();
            assert_eq!((more.len(), end), (0, End::Closed), "{}: {:?}", row.rule, show(&more));
            assert!(origin.seen().is_empty(), "{}: a request went upstream: {:?}", row.rule, origin.seen());
            return refused(&proxy, response.status(), &row.rule);
        }
        assert_eq!((response.status(), response.end), (200, End::Complete), "{}", row.rule);
        if response.header("connection") == Some("close") {
            client.close_write();
            assert_eq!(client.read_to_end().0, b"", "{}", row.rule);
        } else {
            assert_eq!(client.read_response(false).status(), 200, "{}", row.rule);
        }
        forwarded(row, &proxy, &origin)
    });
}

/// What went upstream, and behind it nothing but the request that followed.
fn forwarded(row: &Row, proxy: &Proxy, origin: &Origin) -> String {
    assert_eq!(logged(proxy), "200 - via_upstream", "{}", row.rule);
    let seen = origin.seen();
    assert!(seen.len() <= 2 && seen.iter().skip(1).all(|request| request.target() == "/canary"), "{}", row.rule);
    let mut bytes = origin.recorded().concat();
    let canary = b"GET /canary HTTP/1.1\r\nhost: canary\r\n";
    if let Some(at) = bytes.windows(canary.len()).position(|window| window == canary) {
        assert_eq!(seen.len(), 2, "{}: the request behind it became a part of it", row.rule);
        bytes.truncate(at);
    } else {
        assert_eq!(seen.len(), 1, "{}", row.rule);
    }
    format!("forwarded{}", show(&bytes))
}

/// A message that does not end.
fn alone(row: &Row, proxy: &Proxy, origin: &Origin, answer: &[u8]) -> String {
    assert!(origin.seen().is_empty(), "{}: half a request became a whole one: {:?}", row.rule, origin.seen());
    if let Some(status) = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()) {
        return refused(proxy, status, &row.rule);
    }
    assert!(answer.is_empty(), "{}: {:?}", row.rule, show(answer));
    let line = logged(proxy);
    format!("cut {}", line.split_once(' ').expect("a status").1)
}

#[test]
fn responses_of_http1() {
    run("responses_http1.txt", 60, |row| {
        let (message, number) = (row.message.clone(), AtomicUsize::new(0));
        let stays = row.rule.ends_with(" (alone)");
        let origin = Origin::raw(move |mut peer| {
            let Ok(Some(_)) = peer.read_head() else { return };
            if number.fetch_add(1, Ordering::SeqCst) > 0 {
                let _ = peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfresh");
                return peer.until_closed();
            }
            let _ = peer.send(&message);
            if stays {
                peer.until_closed();
            }
        });
        let proxy = Setup::to(origin.address()).start();
        let method = if row.rule.contains("HEAD") { "HEAD" } else { "GET" };
        let mut client = Client::connect(proxy.address).patience(PATIENCE);
        client.send(format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n")).unwrap();
        let response = client.read_response(method == "HEAD");
        // Whatever came of it: the next request gets its own answer.
        let next = Client::connect(proxy.address).exchange("GET /next HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!((next.status(), next.text().as_str()), (200, "fresh"), "{}", row.rule);
        let line = log_of_first(&proxy);
        if line.contains("upstream_reset_after_response_started") {
            assert!(response.end != End::Complete, "{}: it looks whole", row.rule);
            return format!("cut {}", line.split_once(' ').expect("a status").1);
        }
        assert_eq!(response.end, End::Complete, "{}", row.rule);
        if !line.ends_with("via_upstream") {
            assert_eq!(line.split(' ').next(), Some(response.status().to_string().as_str()), "{}", row.rule);
            return line;
        }
        let all = response.informational.iter().chain([&response.head]).map(|head| &head.raw[..]);
        let whole = [all.collect::<Vec<_>>().concat(), response.body].concat();
        format!("forwarded{}", show(&whole))
    });
}

/// The line of the first of two streams, in whichever order they ended.
fn log_of_first(proxy: &Proxy) -> String {
    wait_until("both lines", PATIENCE, || proxy.log().len() >= 2);
    let lines = proxy.log();
    let is_next = |line: &&String| line.as_str() == "200 - via_upstream 0/5";
    let at = lines.iter().position(|line| is_next(&line)).expect("the answer to the second");
    let line = &lines[usize::from(at == 0)];
    line.rsplit_once(' ').expect("octets").0.to_owned()
}
