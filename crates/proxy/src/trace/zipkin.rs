//! Spans as Zipkin takes them: JSON of its second version, and `zipkin.proto3.ListOfSpans`.

use super::span::{Kind, Span, nanos};
use sota_codec::protobuf::Message;
use std::net::IpAddr;

/// The endpoint that all spans are reported for.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// The service's name.
    pub(super) service: Box<str>,
    /// This machine.
    pub(super) address: IpAddr,
}

fn micros(time: std::time::SystemTime) -> u64 {
    nanos(time) / 1000
}

fn duration(span: &Span) -> u64 {
    // Zipkin wants at least one.
    (micros(span.end).saturating_sub(micros(span.start))).max(1)
}

fn trace_id(span: &Span) -> String {
    match span.is_64bit && span.trace_id <= u128::from(u64::MAX) {
        true => format!("{:016x}", span.trace_id),
        false => format!("{:032x}", span.trace_id),
    }
}

/// The list as JSON.
pub(super) fn encode_json(endpoint: &Endpoint, spans: &[Span]) -> Vec<u8> {
    let mut out = Vec::with_capacity(spans.len() * 512);
    out.push(b'[');
    for (number, span) in spans.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        json_span(endpoint, span, &mut out);
    }
    out.push(b']');
    out
}

fn json_span(endpoint: &Endpoint, span: &Span, out: &mut Vec<u8>) {
    let mut first = true;
    out.push(b'{');
    let mut key = |out: &mut Vec<u8>, name: &str| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        push_string(out, name);
        out.push(b':');
    };
    key(out, "traceId");
    push_string(out, &trace_id(span));
    key(out, "id");
    push_string(out, &format!("{:016x}", span.span_id));
    if let Some(parent) = span.parent_id {
        key(out, "parentId");
        push_string(out, &format!("{parent:016x}"));
    }
    key(out, "name");
    push_string(out, &span.name);
    key(out, "kind");
    push_string(out, if span.kind == Kind::Server { "SERVER" } else { "CLIENT" });
    key(out, "timestamp");
    out.extend_from_slice(micros(span.start).to_string().as_bytes());
    key(out, "duration");
    out.extend_from_slice(duration(span).to_string().as_bytes());
    if span.is_shared {
        key(out, "shared");
        out.extend_from_slice(b"true");
    }
    key(out, "localEndpoint");
    out.extend_from_slice(b"{\"serviceName\":");
    push_string(out, &endpoint.service);
    out.extend_from_slice(if endpoint.address.is_ipv4() { b",\"ipv4\":" } else { b",\"ipv6\":" });
    push_string(out, &endpoint.address.to_string());
    out.push(b'}');
    if !span.events.is_empty() {
        key(out, "annotations");
        for (number, (name, at)) in span.events.iter().enumerate() {
            out.push(if number == 0 { b'[' } else { b',' });
            out.extend_from_slice(format!("{{\"timestamp\":{},\"value\":", micros(*at)).as_bytes());
            push_string(out, name);
            out.push(b'}');
        }
        out.push(b']');
    }
    key(out, "tags");
    out.push(b'{');
    for (number, (name, value)) in span.tags.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        push_string(out, name);
        out.push(b':');
        push_string(out, value);
    }
    out.extend_from_slice(b"}}");
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
            c if c < ' ' || c == '\x7f' => out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes()),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// The list as protobuf.
pub(super) fn encode_proto(endpoint: &Endpoint, spans: &[Span]) -> Vec<u8> {
    let mut list = Message::new();
    for span in spans {
        list.message(1, |out| proto_span(endpoint, span, out));
    }
    list.into_bytes()
}

fn proto_span(endpoint: &Endpoint, span: &Span, out: &mut Message) {
    match u64::try_from(span.trace_id) {
        Ok(id) if span.is_64bit => out.bytes(1, &id.to_be_bytes()),
        _ => out.bytes(1, &span.trace_id.to_be_bytes()),
    };
    if let Some(parent) = span.parent_id {
        out.bytes(2, &parent.to_be_bytes());
    }
    out.bytes(3, &span.span_id.to_be_bytes());
    out.uint(4, if span.kind == Kind::Client { 1 } else { 2 });
    out.string(5, &span.name).fixed64(6, micros(span.start)).uint(7, duration(span));
    out.message(8, |out| {
        out.string(1, &endpoint.service);
        match endpoint.address {
            IpAddr::V4(ip) => out.bytes(2, &ip.octets()),
            IpAddr::V6(ip) => out.bytes(3, &ip.octets()),
        };
    });
    for (name, at) in &span.events {
        out.message(10, |out| {
            out.fixed64(1, micros(*at)).string(2, name);
        });
    }
    for (name, value) in &span.tags {
        out.message(11, |out| {
            out.string(1, name).string(2, value);
        });
    }
    out.uint(13, u64::from(span.is_shared));
}
