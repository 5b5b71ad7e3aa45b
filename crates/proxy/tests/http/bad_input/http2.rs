//! HTTP/2 from clients and from origins: the message is a list of fields, behind an empty line the data, and behind a line
//! `%trailers` trailers.

use super::{PATIENCE, Row, logged, refused, run, show};
use crate::{
    fixture::{Proxy, Setup},
    http2_attacks::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, Raw, SETTINGS, block, frame},
};
use sota_codec::http2::ErrorCode;
use sota_config::cluster::UpstreamProtocol;
use sota_testkit::{Client, End, Origin, Reply};

/// The frames of a message on stream 1.
fn frames(row: &Row) -> Vec<u8> {
    let text = String::from_utf8(row.message.clone()).unwrap();
    let (text, trailers) = match text.split_once("%trailers\r\n") {
        Some((text, trailers)) => (text, Some(trailers)),
        None => (&*text, None),
    };
    let (head, data) = text.split_once("\r\n\r\n").unwrap_or_else(|| (text.trim_end_matches("\r\n"), ""));
    let data = data.trim_end_matches("\r\n");
    let is_open = row.rule.contains("without an end");
    let last = |is_last: bool| if is_last && !is_open { END_STREAM } else { 0 };
    let mut out = Vec::new();
    // Of informational responses there may be several heads, each behind a line of its own.
    let heads: Vec<_> = head.split("\r\n%head\r\n").collect();
    for (number, head) in heads.iter().enumerate() {
        let is_last = number + 1 == heads.len() && data.is_empty() && trailers.is_none();
        out.extend(frame(HEADERS, END_HEADERS | last(is_last), 1, &block(&fields(head))));
    }
    if !data.is_empty() {
        out.extend(frame(DATA, last(trailers.is_none()), 1, data.as_bytes()));
    }
    if let Some(trailers) = trailers {
        out.extend(frame(HEADERS, END_HEADERS | last(true), 1, &block(&fields(trailers.trim_end_matches("\r\n")))));
    }
    out
}

/// `name: value` lines. A name may begin with a colon.
fn fields(text: &str) -> Vec<(&str, &str)> {
    let lines = text.split("\r\n").filter(|line| !line.is_empty());
    let field = |line: &'_ str| line.get(1..).and_then(|rest| rest.find(':')).map(|at| at + 1).expect("a colon");
    lines
        .map(|line| line.split_at(field(line)))
        .map(|(name, value)| (name, value.strip_prefix(": ").unwrap_or_else(|| &value[1..])))
        .collect()
}

#[test]
fn requests_of_http2() {
    run("requests_http2.txt", 50, |row| {
        let origin = Origin::http(|_| Reply::ok("fine"));
        let proxy = Setup::to(origin.address()).edit(|model| model.stream_error_on_invalid_http_message = true).start();
        let mut client = Raw::connect(&proxy);
        client.send(&frames(row));
        let canary = [(":method", "GET"), (":scheme", "http"), (":authority", "canary"), (":path", "/canary")];
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(&canary)));
        let (mut outcome, mut followed) = (None, false);
        while outcome.is_none() || !followed {
            let (kind, stream, payload) =
                client.read_frame().unwrap_or_else(|| panic!("{}: the connection ended", row.rule));
            match (kind, stream) {
                (HEADERS, 1) => outcome = Some(None),
                (RST_STREAM, 1) if outcome.is_none() => {
                    outcome = Some(Some(u32::from_be_bytes(payload.try_into().unwrap())));
                }
                (HEADERS, 3) => followed = true,
                (GOAWAY, _) => panic!("{}: GOAWAY {payload:?}", row.rule),
                _ => {}
            }
        }
        judge(row, &proxy, &origin, outcome.flatten())
    });
}

fn judge(row: &Row, proxy: &Proxy, origin: &Origin, reset: Option<u32>) -> String {
    sota_testkit::wait_until("both lines", PATIENCE, || proxy.log().len() >= 2);
    let lines = proxy.log();
    let canary = lines.iter().position(|line| line == "200 - via_upstream 0/4").expect("the request that follows");
    let first = lines.iter().enumerate().find(|(at, _)| *at != canary).expect("a line").1;
    let line = first.rsplit_once(' ').expect("octets").0;
    let own: Vec<_> = origin.seen().into_iter().filter(|request| request.target() != "/canary").collect();
    if let Some(code) = reset {
        assert!(own.is_empty(), "{}: {own:?}", row.rule);
        return format!("reset {} {}", ErrorCode(code).name(), line.split_once(' ').expect("a status").1);
    }
    if line.ends_with("via_upstream") {
        assert_eq!(own.len(), 1, "{}: {own:?}", row.rule);
        let bytes = [&own[0].head.raw[..], &own[0].body].concat();
        return format!("forwarded{}{}", show(&bytes), trailers(&own[0].trailers.0));
    }
    assert!(own.is_empty(), "{}: {own:?}", row.rule);
    line.to_owned()
}

fn trailers(fields: &[(String, String)]) -> String {
    fields.iter().map(|(name, value)| format!("\n| %trailer {name}: {value}")).collect()
}

#[test]
fn responses_of_http2() {
    run("responses_http2.txt", 30, |row| {
        let answer = frames(row);
        let origin = Origin::raw(move |mut peer| {
            let mut seen = Vec::new();
            let _ = peer.send(&frame(SETTINGS, 0, 0, b""));
            // The request is there behind the preface when a frame of headers is.
            while let Ok(data) = peer.read_some(10_000)
                && !data.is_empty()
            {
                seen.extend_from_slice(&data);
                if seen.windows(5).any(|head| matches!(head, [HEADERS, 5, 0, 0, 0])) {
                    let _ = peer.send(&answer);
                    seen.clear();
                }
            }
        });
        let proxy = Setup::to(origin.address())
            .edit_cluster(|cluster| cluster.protocol = UpstreamProtocol::Http2)
            .edit(|model| model.stream_idle_timeout = Some(std::time::Duration::from_millis(300)))
            .start();
        let method = if row.rule.contains("HEAD") { "HEAD" } else { "GET" };
        let mut client = Client::connect(proxy.address).patience(PATIENCE);
        client.send(format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n")).unwrap();
        let response = client.read_response(method == "HEAD");
        let line = logged(&proxy);
        if line.contains("after_response_started") || response.end != End::Complete {
            return format!("cut {}", line.split_once(' ').expect("a status").1);
        }
        if !line.ends_with("via_upstream") {
            return refused(&proxy, response.status(), &row.rule);
        }
        let all = response.informational.iter().chain([&response.head]).map(|head| &head.raw[..]);
        let whole = [all.collect::<Vec<_>>().concat(), response.body].concat();
        format!("forwarded{}{}", show(&whole), trailers(&response.trailers.0))
    });
}
