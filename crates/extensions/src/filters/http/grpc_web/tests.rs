use super::*;
use crate::testing::{FakeWorker, Stream, building, lines, request};
use sota_plugin::http::Method;

/// A call with its filter.
struct Exchange {
    stream: Stream,
    filter: Box<dyn HttpFilter>,
    factory: Box<dyn HttpFilterFactory>,
}

impl Exchange {
    fn new(content_type: &str, accept: &str) -> Self {
        let worker = FakeWorker::default();
        let factory = building(|cx| build(&TypedConfig::Empty, cx)).unwrap().for_worker(&worker.cx());
        let fields = [("content-type", content_type), ("accept", accept), ("content-length", "9")];
        let mut stream = Stream::new(&worker, request(Method::Post, "/a.S/M", &fields), None);
        stream.info.upstream.cluster = Some("c".into());
        let mut filter = factory.new_filter(&stream.info).unwrap();
        stream.on_request(|head, cx| filter.on_request_headers(head, false, cx));
        Self { stream, filter, factory }
    }

    fn send(&mut self, data: &'static [u8], end: bool) -> Result<Bytes, String> {
        let mut data = Bytes::from_static(data);
        match self.stream.on_request(|_, cx| self.filter.on_request_data(&mut data, end, cx)) {
            DataStatus::Continue => Ok(data),
            DataStatus::Reply(reply) => Err(format!("{} {}", reply.status.as_str(), reply.details)),
            _ => unreachable!("nothing is held"),
        }
    }

    /// The head of the response; `None` when it is held.
    fn head(&mut self, head: &mut ResponseHead, end: bool) -> Option<Vec<String>> {
        match self.stream.on_response(|cx| self.filter.on_response_headers(head, end, cx)) {
            FilterStatus::Continue => Some(lines(&head.headers)),
            FilterStatus::StopIteration => None,
            _ => unreachable!("nothing is answered"),
        }
    }

    fn data(&mut self, data: &[u8], end: bool) -> Bytes {
        let mut data = Bytes::copy_from_slice(data);
        match self.stream.on_response(|cx| self.filter.on_response_data(&mut data, end, cx)) {
            DataStatus::Continue => data,
            DataStatus::Buffer => {
                self.stream.buffered.extend_from_slice(&data);
                Bytes::new()
            }
            _ => unreachable!("nothing is answered"),
        }
    }

    /// What takes the place of trailers.
    fn trailers(&mut self) -> Vec<u8> {
        let mut trailers: Headers = [("grpc-status", "0"), ("x-a", "b")].into_iter().collect();
        self.stream.on_response(|cx| self.filter.on_response_trailers(&mut trailers, cx));
        assert!(trailers.is_empty());
        self.stream.buffered.split().to_vec()
    }
}

fn grpc_response() -> ResponseHead {
    ResponseHead::new(StatusCode::OK).with("content-type", "application/grpc").with("content-length", "1")
}

const FRAME: &[u8] = b"\0\0\0\0\x02hi";
const LAST: &[u8] = b"\x80\0\0\0\x16grpc-status:0\r\nx-a:b\r\n";

#[test]
fn binary_calls() {
    let mut exchange = Exchange::new("application/grpc-web+proto", "*/*");
    let expected = ["content-type: application/grpc", "accept: */*", "te: trailers", "grpc-accept-encoding: identity"];
    assert_eq!(lines(&exchange.stream.request.headers), expected);
    assert_eq!(exchange.send(FRAME, true).unwrap(), FRAME);
    let head = exchange.head(&mut grpc_response(), false).unwrap();
    assert_eq!(head, ["content-type: application/grpc-web+proto"]);
    assert_eq!(exchange.data(FRAME, false), FRAME);
    assert_eq!(exchange.trailers(), LAST);
    let counters: Vec<_> = exchange.stream.worker.counters().into_iter().map(|(name, _)| name).collect();
    let expected = ["0", "success", "total"].map(|name| format!("cluster.c.grpc-web.a.S.M.{name}"));
    assert_eq!(counters, expected);
    drop(exchange.factory);
}

#[test]
fn calls_as_text() {
    let mut exchange = Exchange::new("application/grpc-web-text", "application/grpc-web-text");
    assert_eq!(exchange.send(b"AAAAAAJ", false).unwrap(), "\0\0\0");
    assert_eq!(exchange.send(b"oaQ==", true).unwrap(), "\0\x02hi");
    let head = exchange.head(&mut grpc_response(), false).unwrap();
    assert_eq!(head, ["content-type: application/grpc-web-text+proto"]);
    assert_eq!(exchange.data(FRAME, false), STANDARD.encode(FRAME));
    let last = String::from_utf8(exchange.trailers()).unwrap();
    assert!(STANDARD.decode(last).unwrap().starts_with(b"\x80\0\0\0"));
    for (data, details) in
        [(&b"AAA"[..], "grpc_base_64_decode_failed_bad_size"), (b"****", "grpc_base_64_decode_failed")]
    {
        let mut exchange = Exchange::new("application/grpc-web-text+proto", "");
        assert_eq!(exchange.send(data, true), Err(format!("400 {details}")));
    }
}

#[test]
fn responses_that_are_no_grpc() {
    let mut exchange = Exchange::new("application/grpc-web", "");
    let mut head = ResponseHead::new(StatusCode::NOT_FOUND).with("content-type", "text/plain");
    assert_eq!(exchange.head(&mut head, false), None);
    assert_eq!(exchange.data(b"not ", false), "");
    assert_eq!(exchange.data(b"here%", true), "");
    (exchange.stream.effects.response_edit.take().unwrap())(&mut head);
    let expected = [
        "content-type: application/grpc-web+proto",
        "grpc-message: not here%25",
        "grpc-status: 12",
        "content-length: 0",
    ];
    assert_eq!(lines(&head.headers), expected);
    // A long text is cut, and no more of it than that is kept.
    let mut exchange = Exchange::new("application/grpc-web", "");
    exchange.head(&mut ResponseHead::new(StatusCode::BAD_GATEWAY), false);
    for _ in 0..4 {
        exchange.data(&[b'x'; MAX_MESSAGE], false);
    }
    assert_eq!(exchange.stream.buffered.len(), MAX_MESSAGE);
    // Those without a body and those of gRPC-Web pass.
    let mut exchange = Exchange::new("application/grpc-web", "");
    assert!(exchange.head(&mut ResponseHead::new(StatusCode::NOT_FOUND), true).is_some());
    let mut web = ResponseHead::new(StatusCode::OK).with("content-type", "application/grpc-web; charset=x");
    assert!(exchange.head(&mut web, false).is_some());
}

#[test]
fn other_requests_pass() {
    let mut exchange = Exchange::new("application/grpc", "");
    assert_eq!(lines(&exchange.stream.request.headers)[0], "content-type: application/grpc");
    let mut head = ResponseHead::new(StatusCode::OK).with("content-type", "text/plain");
    assert_eq!(exchange.head(&mut head, false).unwrap(), ["content-type: text/plain"]);
    assert_eq!(exchange.data(FRAME, true), FRAME);
}
