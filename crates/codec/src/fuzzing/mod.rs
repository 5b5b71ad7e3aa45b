//! What the fuzz targets call: one function for each kind of input, which panics when an invariant does not hold.
//! The ordinary tests replay every seed and past finding of `fuzz/corpus/<target>/` through the same functions.
//!
//! The invariants: bytes mean the same however they are split; what is accepted and written again reads as the same
//! message; what is written has neither bare line ends nor NUL.

mod http2;

pub use http2::{fuzz_hpack, fuzz_http2};

use crate::{
    client_hello, http_inspect,
    http1::{
        BodyDecoder, BodyEvent, BodyLength, DecodeOptions, HeadEncoding, HeadProgress, Http1Error, RequestContext,
        RequestInfo, RequestOutcome, ResponseInfo, ResponseOutcome, decode_request, decode_response, encode_chunk,
        encode_request_head, encode_response_head, encode_trailers, remove_hop_by_hop,
    },
    proxy_protocol::{self, Addresses, Command, Parsed, Version, encode_v1, encode_v2},
};
pub use crate::{resp::fuzzing::fuzz_resp, zmtp::fuzzing::fuzz_zmtp};
use sota_config::http::{HeaderKeyFormat, UnderscoreAction};
use sota_plugin::http::{HeaderId, Headers, RequestHead, ResponseHead};

/// Target `http1_request`: a stream of requests, bodies and all.
pub fn fuzz_http1_request(data: &[u8]) {
    for options in [DecodeOptions::default(), lenient()] {
        let whole = requests(data, data.len(), &options);
        assert_eq!(whole, requests(data, 1, &options), "octet by octet");
        assert_eq!(whole, requests(data, 7, &options), "by sevens");
    }
}

/// Target `http1_response`: the first octet says what is answered (1 HEAD, 2 CONNECT, 4 an upgrade), the rest is a
/// stream of responses.
pub fn fuzz_http1_response(data: &[u8]) {
    let Some((flags, data)) = data.split_first() else { return };
    let context = RequestContext { is_head: flags & 1 != 0, is_connect: flags & 2 != 0, wants_upgrade: flags & 4 != 0 };
    for options in [DecodeOptions::default(), lenient()] {
        let whole = responses(data, data.len(), context, &options);
        assert_eq!(whole, responses(data, 1, context, &options), "octet by octet");
        assert_eq!(whole, responses(data, 7, context, &options), "by sevens");
    }
}

/// Target `chunked`: a chunked body and what follows it.
pub fn fuzz_chunked(data: &[u8]) {
    let options = DecodeOptions::default();
    let whole = chunked(data, data.len(), &options);
    assert_eq!(whole, chunked(data, 1, &options), "octet by octet");
    assert_eq!(whole, chunked(data, 5, &options), "by fives");
    if let Body { end: End::Complete(_), data, trailers, .. } = whole {
        let mut out = Vec::new();
        encode_chunk(&data, &mut out);
        encode_trailers(&trailers, HeaderKeyFormat::Preserve, &mut out);
        let again = chunked(&out, 3, &options);
        assert_eq!((again.data, again.trailers, again.end), (data, trailers, End::Complete(out.len())));
    }
}

/// Target `client_hello`: the first bytes of a TLS connection.
pub fn fuzz_client_hello(data: &[u8]) {
    use client_hello::Inspection::{NeedMore, TooLarge};
    for limit in [client_hello::DEFAULT_MAX_BYTES, 600] {
        let whole = client_hello::inspect(data, limit);
        for prefix in prefixes(data) {
            let early = client_hello::inspect(prefix, limit);
            // Too little was seen to decide, or what was decided stays so.
            assert!(matches!(early, NeedMore | TooLarge) || early == whole, "{early:?} became {whole:?}");
        }
    }
}

/// Target `proxy_protocol`: the first bytes of a connection behind a proxy.
pub fn fuzz_proxy_protocol(data: &[u8]) {
    let whole = proxy_protocol::parse(data);
    for prefix in prefixes(data) {
        match proxy_protocol::parse(prefix) {
            Ok(Parsed::NeedMore(needed)) => assert!(needed > prefix.len()),
            early => assert_eq!(early, whole, "{prefix:?}"),
        }
    }
    let Ok(Parsed::Header(length, header)) = whole else { return };
    assert!(length <= data.len());
    let mut out = Vec::new();
    match (&header.command, header.version) {
        (command, Version::V2) => assert_eq!(encode_v2(command, &header.tlvs, &mut out), Ok(())),
        (Command::Proxy(Addresses::Ip { source, destination, .. }), Version::V1) => {
            encode_v1(Some((*source, *destination)), &mut out);
        }
        (_, Version::V1) => encode_v1(None, &mut out),
    }
    assert_eq!(proxy_protocol::parse(&out), Ok(Parsed::Header(out.len(), header)));
}

/// Target `http_inspect`: the first bytes of a connection.
pub fn fuzz_http_inspect(data: &[u8]) {
    use http_inspect::Inspection::{NeedMore, TooLarge};
    let whole = http_inspect::inspect(data);
    for prefix in prefixes(data) {
        let early = http_inspect::inspect(prefix);
        assert!(matches!(early, NeedMore | TooLarge) || early == whole, "{early:?} became {whole:?}");
    }
}

fn lenient() -> DecodeOptions {
    DecodeOptions {
        max_head_bytes: 300,
        max_fields: 12,
        allow_absolute_form: true,
        allow_chunked_length: true,
        allow_custom_methods: true,
        underscores: UnderscoreAction::DropHeader,
    }
}

/// Beginnings of `data`, not more than some hundred of them.
fn prefixes(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let step = data.len() / 200 + 1;
    (0..data.len()).step_by(step).filter_map(|end| data.get(..end))
}

/// How a stream or body ended.
#[derive(Debug, PartialEq)]
enum End {
    /// Complete, at this octet.
    Complete(usize),
    /// More was expected.
    Incomplete,
    /// Refused. Which of two faults is noticed first may depend on the split.
    Refused,
}

#[derive(Debug, PartialEq)]
struct Body {
    data: Vec<u8>,
    trailers: Headers,
    end: End,
}

/// Bytes that arrive in pieces; what was not consumed is given again with the next piece.
struct Feed<'a> {
    data: &'a [u8],
    piece: usize,
    start: usize,
    end: usize,
}

impl<'a> Feed<'a> {
    fn new(data: &'a [u8], piece: usize) -> Self {
        let piece = piece.max(1);
        Self { data, piece, start: 0, end: piece.min(data.len()) }
    }

    fn bytes(&self) -> &'a [u8] {
        self.data.get(self.start..self.end).unwrap_or_default()
    }

    fn consume(&mut self, octets: usize) {
        assert!(octets <= self.end - self.start, "more consumed than there was");
        self.start += octets;
    }

    /// `false` at the end of the data.
    fn more(&mut self) -> bool {
        let before = self.end;
        self.end = (self.end + self.piece).min(self.data.len());
        self.end != before
    }
}

fn body(feed: &mut Feed<'_>, length: BodyLength, options: &DecodeOptions) -> Body {
    let mut decoder = BodyDecoder::new(length, options);
    let mut body = Body { data: Vec::new(), trailers: Headers::new(), end: End::Incomplete };
    loop {
        match decoder.decode(feed.bytes()) {
            Err(_) => {
                body.end = End::Refused;
                return body;
            }
            Ok((consumed, event)) => {
                feed.consume(consumed);
                match event {
                    BodyEvent::Data(data) => body.data.extend_from_slice(data),
                    BodyEvent::Trailers(trailers) => body.trailers = *trailers,
                    BodyEvent::End => {
                        assert!(decoder.is_complete() && decoder.finish().is_ok());
                        body.end = End::Complete(feed.start);
                        return body;
                    }
                    BodyEvent::NeedMore => {
                        assert!(feed.bytes().is_empty(), "a remainder was left");
                        if !feed.more() {
                            if decoder.finish().is_ok() {
                                body.end = End::Complete(feed.start);
                            }
                            return body;
                        }
                    }
                }
            }
        }
    }
}

fn chunked(data: &[u8], piece: usize, options: &DecodeOptions) -> Body {
    body(&mut Feed::new(data, piece), BodyLength::Chunked, options)
}

fn requests(data: &[u8], piece: usize, options: &DecodeOptions) -> (Vec<(RequestInfo, RequestHead, Body)>, End) {
    let mut feed = Feed::new(data, piece);
    let mut messages = Vec::new();
    loop {
        let mut head = RequestHead::default();
        let mut progress = HeadProgress::default();
        let info = loop {
            match decode_request(feed.bytes(), options, &mut progress, &mut head) {
                Err(_) => return (messages, End::Refused),
                Ok(RequestOutcome::Head(info)) => break info,
                Ok(RequestOutcome::Http2Preface) => return (messages, End::Complete(feed.start)),
                Ok(RequestOutcome::NeedMore) if feed.more() => {}
                Ok(RequestOutcome::NeedMore) => {
                    // A long head is not parsed at every octet: what is wrong with it may show only now.
                    let now = decode_request(feed.bytes(), options, &mut HeadProgress::default(), &mut head);
                    return (messages, if now.is_err() { End::Refused } else { End::Incomplete });
                }
            }
        };
        feed.consume(info.consumed);
        check_request_round_trip(&info, &head, options);
        let body = body(&mut feed, info.body, options);
        let complete = matches!(body.end, End::Complete(_));
        messages.push((info, head, body));
        if !complete {
            return (messages, End::Incomplete);
        }
        if !info.keep_alive {
            return (messages, End::Complete(feed.start));
        }
    }
}

fn responses(
    data: &[u8],
    piece: usize,
    context: RequestContext,
    options: &DecodeOptions,
) -> (Vec<(ResponseInfo, ResponseHead, Body)>, End) {
    let mut feed = Feed::new(data, piece);
    let mut messages = Vec::new();
    loop {
        let mut head = ResponseHead::default();
        let mut progress = HeadProgress::default();
        let info = loop {
            match decode_response(feed.bytes(), options, context, &mut progress, &mut head) {
                Err(_) => return (messages, End::Refused),
                Ok(ResponseOutcome::Head(info)) => break info,
                Ok(ResponseOutcome::NeedMore) if feed.more() => {}
                Ok(ResponseOutcome::NeedMore) => {
                    let now = decode_response(feed.bytes(), options, context, &mut HeadProgress::default(), &mut head);
                    return (messages, if now.is_err() { End::Refused } else { End::Incomplete });
                }
            }
        };
        feed.consume(info.consumed);
        check_response_round_trip(&info, &head, context, options);
        let body = body(&mut feed, info.body, options);
        let complete = matches!(body.end, End::Complete(_));
        messages.push((info, head, body));
        if !complete {
            return (messages, End::Incomplete);
        }
        if !info.keep_alive {
            return (messages, End::Complete(feed.start));
        }
    }
}

/// The limits of the first reading do not bind the second: names and lengths are spelled out there.
fn unlimited(options: &DecodeOptions) -> DecodeOptions {
    DecodeOptions { max_head_bytes: 1 << 20, max_fields: 10_000, ..options.clone() }
}

fn check_request_round_trip(info: &RequestInfo, head: &RequestHead, options: &DecodeOptions) {
    let mut sent = head.clone();
    if remove_hop_by_hop(&mut sent.headers, info.wants_upgrade).is_err() {
        return;
    }
    for names in [HeaderKeyFormat::Preserve, HeaderKeyFormat::ProperCase] {
        let encoding = HeadEncoding {
            protocol: sent.protocol,
            names,
            absolute_form: info.is_absolute_form,
            ..HeadEncoding::new(info.body)
        };
        let mut out = Vec::new();
        encode_request_head(&sent, &encoding, &mut out);
        check_lines(&out);
        let mut again = RequestHead::default();
        let outcome = decode_request(&out, &unlimited(options), &mut HeadProgress::default(), &mut again);
        let Ok(RequestOutcome::Head(read)) = outcome else { return assert_eq!(outcome, Ok(RequestOutcome::NeedMore)) };
        assert_eq!(read.consumed, out.len());
        assert_eq!(octets(read.body), octets(info.body));
        assert_eq!(read.wants_upgrade, info.wants_upgrade);
        assert_eq!(without_framing(&mut again.headers, info.wants_upgrade), Ok(()));
        let mut expected = sent.clone();
        expected.headers.remove(HeaderId::ContentLength);
        // HTTP/1.1 wants the field even if there is no authority.
        if expected.authority().is_empty() {
            expected.note_empty_host();
        }
        assert_eq!(again, expected);
    }
}

fn check_response_round_trip(
    info: &ResponseInfo,
    head: &ResponseHead,
    context: RequestContext,
    options: &DecodeOptions,
) {
    let mut sent = head.clone();
    let upgrade = info.body == BodyLength::Tunnel;
    if remove_hop_by_hop(&mut sent.headers, upgrade).is_err() {
        return;
    }
    let encoding = HeadEncoding { protocol: sent.protocol, ..HeadEncoding::new(info.body) };
    let mut out = Vec::new();
    encode_response_head(&sent, &encoding, context.is_head, &mut out);
    check_lines(&out);
    let mut again = ResponseHead::default();
    let outcome = decode_response(&out, &unlimited(options), context, &mut HeadProgress::default(), &mut again);
    let Ok(ResponseOutcome::Head(read)) = outcome else { return assert_eq!(outcome, Ok(ResponseOutcome::NeedMore)) };
    assert_eq!((read.consumed, octets(read.body)), (out.len(), octets(info.body)));
    assert_eq!(without_framing(&mut again.headers, upgrade), Ok(()));
    sent.headers.remove(HeaderId::ContentLength);
    assert_eq!(again, sent);
}

/// No body and a body of length 0 are the same on the wire.
fn octets(body: BodyLength) -> BodyLength {
    if body == BodyLength::Empty { BodyLength::Length(0) } else { body }
}

fn without_framing(headers: &mut Headers, upgrade: bool) -> Result<(), Http1Error> {
    remove_hop_by_hop(headers, upgrade)?;
    headers.remove(HeaderId::ContentLength);
    Ok(())
}

/// Every line of a head ends in CR LF, and neither stands anywhere else.
fn check_lines(out: &[u8]) {
    assert!(out.ends_with(b"\r\n\r\n"));
    assert!(!out.contains(&0));
    let ends = out.windows(2).filter(|pair| pair == b"\r\n").count();
    assert_eq!(out.iter().filter(|c| **c == b'\n').count(), ends);
    assert_eq!(out.iter().filter(|c| **c == b'\r').count(), ends);
}
