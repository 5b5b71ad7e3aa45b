//! `example.shelf`: a protocol of requests and answers. A shelf keeps texts: `put KEY TEXT` and `get KEY` are answered
//! with `ok TEXT`, `no REASON` (the request is wrong) or `bad REASON` (the shelf is).

use bytes::{Bytes, BytesMut};
use sota_plugin::{
    Extension,
    filter::NetworkFilterConfig,
    protocol::{CallError, Malformed, Order, Protocol, Status, proxy},
};
use std::borrow::Cow;

/// The extension, which the binary adds to its registry.
pub static EXTENSION: Extension<dyn NetworkFilterConfig> = Extension {
    name: "example.shelf",
    short_name: "shelf",
    type_urls: &["example.Shelf"],
    build: |config, cx| proxy::build(Shelf, config, cx),
    build_route: None,
    route_type_urls: &[],
};

/// Octets of a line, its end included.
const LONGEST: usize = 4096;

#[derive(Clone, Copy)]
struct Shelf;

impl Protocol for Shelf {
    type Request = Bytes;
    type Response = Bytes;
    type State = ();

    const NAME: &'static str = "shelf";
    const ORDER: Order = Order::InOrder;

    fn decode_request(&self, (): &mut (), buffer: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        let Some(line) = take_line(buffer)? else { return Ok(None) };
        match words(&line) {
            [b"get", _, b""] | [b"put", _, _] | [b"ping", ..] => Ok(Some(line)),
            _ => Err(Malformed("get or put is expected".into())),
        }
    }

    fn encode_request(&self, (): &mut (), request: &Bytes, _id: u64, out: &mut Vec<u8>) {
        put_line(request, out);
    }

    fn decode_response(&self, (): &mut (), buffer: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        take_line(buffer)
    }

    fn encode_response(&self, (): &mut (), response: &Bytes, _id: u64, out: &mut Vec<u8>) {
        put_line(response, out);
    }

    fn heartbeat(&self) -> Option<Bytes> {
        Some(Bytes::from_static(b"ping"))
    }

    fn answer_heartbeat(&self, request: &Bytes) -> Option<Bytes> {
        request.starts_with(b"ping").then_some(Bytes::from_static(b"ok"))
    }

    fn status(&self, response: &Bytes) -> Status {
        match words(response) {
            [b"ok", ..] => Status::Ok,
            [b"no", ..] => Status::Rejected,
            _ => Status::Failed,
        }
    }

    fn failure(&self, _request: &Bytes, error: &CallError) -> Bytes {
        format!("bad {error}").into()
    }

    fn metadata<'a>(&self, request: &'a Bytes, name: &str) -> Option<Cow<'a, [u8]>> {
        let [verb, key, _] = words(request);
        match name {
            "verb" => Some(verb.into()),
            "key" => Some(key.into()),
            _ => None,
        }
    }

    fn is_idempotent(&self, request: &Bytes) -> bool {
        request.starts_with(b"get")
    }
}

/// A line without its end; an error when it is too long, for nobody would hold it.
fn take_line(buffer: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let end = memchr::memchr(b'\n', buffer);
    if end.unwrap_or(buffer.len()) >= LONGEST {
        return Err(Malformed("the line is too long".into()));
    }
    let Some(end) = end else { return Ok(None) };
    let mut line = buffer.split_to(end + 1);
    line.truncate(end);
    Ok(Some(line.freeze()))
}

fn put_line(line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(line);
    out.push(b'\n');
}

/// The first word, the second and the rest; empty where there is none.
fn words(line: &[u8]) -> [&[u8]; 3] {
    let mut parts = line.splitn(3, |octet| *octet == b' ');
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}
