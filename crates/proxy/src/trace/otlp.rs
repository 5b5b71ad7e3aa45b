//! Spans in OTLP (`opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest`).

use super::span::{Kind, Span, nanos};
use sota_codec::protobuf::Message;

/// The method that takes them.
pub(super) const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

const KIND_SERVER: u64 = 2;
const KIND_CLIENT: u64 = 3;
const STATUS_ERROR: u64 = 2;
/// `SPAN_FLAGS`: sampled.
const FLAGS: u32 = 1;

/// A request with these spans.
pub(super) fn encode(resource: &[(String, String)], spans: &[Span]) -> Vec<u8> {
    let mut request = Message::new();
    request.message(1, |out| {
        out.message(1, |out| {
            for (key, value) in resource {
                out.message(1, |out| attribute(out, key, value));
            }
        });
        out.message(2, |out| {
            out.message(1, |out| {
                out.string(1, "sota-mesh").string(2, env!("CARGO_PKG_VERSION"));
            });
            for span in spans {
                out.message(2, |out| encode_span(out, span));
            }
        });
    });
    request.into_bytes()
}

/// A `KeyValue` with a string.
pub(crate) fn attribute(out: &mut Message, key: &str, value: &str) {
    out.string(1, key).message(2, |out| {
        out.always_bytes(1, value.as_bytes());
    });
}

fn encode_span(out: &mut Message, span: &Span) {
    out.bytes(1, &span.trace_id.to_be_bytes()).bytes(2, &span.span_id.to_be_bytes()).string(3, &span.state);
    if let Some(parent) = span.parent_id {
        out.bytes(4, &parent.to_be_bytes());
    }
    let kind = match span.kind {
        Kind::Server => KIND_SERVER,
        Kind::Client => KIND_CLIENT,
    };
    out.string(5, &span.name).uint(6, kind).fixed64(7, nanos(span.start)).fixed64(8, nanos(span.end));
    for (key, value) in &span.tags {
        out.message(9, |out| attribute(out, key, value));
    }
    for (name, at) in &span.events {
        out.message(11, |out| {
            out.fixed64(1, nanos(*at)).string(2, name);
        });
    }
    if span.is_error {
        out.message(15, |out| {
            out.uint(3, STATUS_ERROR);
        });
    }
    out.fixed32(16, FLAGS);
}
