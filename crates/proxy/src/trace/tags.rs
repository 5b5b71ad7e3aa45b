//! What spans say: Envoy's tags, and those that the configuration adds.

use super::span::Span;
use sota_config::{
    ConfigError, Mark,
    tracing::{CustomTag, TagValue},
};
use sota_plugin::{
    access_log::LogEntry,
    format::Format,
    http::{GrpcStatus, HeaderId, HeaderName, RequestHead},
    info::StreamInfo,
};
use std::time::Instant;

/// Configured tags, compiled.
#[derive(Debug, Default)]
pub(super) struct Tags(Vec<(Box<str>, Source)>);

#[derive(Debug)]
enum Source {
    Constant(Box<str>),
    Header(HeaderName, Box<str>),
    Format(Format, Box<str>),
}

impl Tags {
    pub(super) fn build(tags: &[CustomTag]) -> Result<Self, ConfigError> {
        let place = |number: usize| format!("custom_tags[{number}]");
        let mut built = Vec::with_capacity(tags.len());
        for (number, tag) in tags.iter().enumerate() {
            let source = match &tag.value {
                TagValue::Constant(text) => Source::Constant(text.as_str().into()),
                TagValue::RequestHeader(name, default) => {
                    let read = HeaderName::parse(name.as_bytes());
                    let name = read.map_err(|_| {
                        ConfigError::new(place(number), Mark::NONE, format!("{name:?} is no name of a field"))
                    })?;
                    Source::Header(name, default.as_str().into())
                }
                TagValue::Format(text, default) => {
                    let format = Format::text(text, true).map_err(|error| error.at(&place(number), Mark::NONE))?;
                    Source::Format(format, default.as_str().into())
                }
            };
            built.push((tag.tag.as_str().into(), source));
        }
        Ok(Self(built))
    }

    /// Adds the tags that have a value.
    pub(super) fn apply(&self, span: &mut Span, entry: &LogEntry<'_>) {
        for (name, source) in &self.0 {
            let value: Box<str> = match source {
                Source::Constant(text) => text.clone(),
                Source::Header(header, default) => {
                    let found = entry.request.and_then(|head| head.get(header));
                    found.map_or_else(|| default.clone(), |value| String::from_utf8_lossy(value).into())
                }
                Source::Format(format, default) => match super::formatted(format, entry) {
                    text if text.is_empty() => default.clone(),
                    text => text,
                },
            };
            if !value.is_empty() {
                span.tag(name.to_string(), value);
            }
        }
    }
}

/// A field of the request as text; `-` where it is missing.
fn or_dash(head: &RequestHead, id: HeaderId) -> Box<str> {
    text(head, id).unwrap_or_else(|| "-".into())
}

fn text(head: &RequestHead, id: HeaderId) -> Option<Box<str>> {
    head.headers.get(id).map(|value| String::from_utf8_lossy(value).into())
}

/// Of the request as the client sent it.
pub(super) fn downstream(span: &mut Span, entry: &LogEntry<'_>, longest_path: usize) {
    let info = entry.info;
    if let Some(head) = entry.request {
        if let Some(id) = text(head, HeaderId::XRequestId) {
            span.tag("guid:x-request-id", id);
        }
        span.tag("http.url", url(head, longest_path));
        span.tag("http.method", head.method.as_str());
        span.tag("downstream_cluster", or_dash(head, HeaderId::XEnvoyDownstreamServiceCluster));
        span.tag("user_agent", or_dash(head, HeaderId::UserAgent));
        if let Some(protocol) = info.protocol {
            span.tag("http.protocol", protocol.as_str());
        }
        let peer = info.connection.direct_remote();
        span.tag("peer.address", peer.ip().map_or_else(|| peer.to_string(), |ip| ip.to_string()));
        if let Some(id) = text(head, HeaderId::XClientTraceId) {
            span.tag("guid:x-client-trace-id", id);
        }
        if info.is_grpc {
            let path = head.path_only();
            span.tag("grpc.path", String::from_utf8_lossy(path));
            span.tag("grpc.authority", String::from_utf8_lossy(head.authority()));
            if let Some(kind) = text(head, HeaderId::ContentType) {
                span.tag("grpc.content_type", kind);
            }
            if let Some(timeout) = text(head, HeaderId::GrpcTimeout) {
                span.tag("grpc.timeout", timeout);
            }
        }
    }
    span.tag("request_size", info.bytes_received.to_string());
    span.tag("response_size", info.bytes_sent.to_string());
}

/// Of an attempt.
pub(super) fn upstream(span: &mut Span, info: &StreamInfo) {
    if let Some(protocol) = info.upstream.protocol {
        span.tag("http.protocol", protocol.as_str());
    }
    if let Some(address) = &info.upstream.address {
        span.tag("upstream_address", address.to_string());
        span.tag("peer.address", address.to_string());
    }
}

/// Of both.
pub(super) fn common(span: &mut Span, entry: &LogEntry<'_>) {
    let info = entry.info;
    span.tag("component", "proxy");
    if let Some(cluster) = &info.upstream.cluster {
        span.tag("upstream_cluster", &**cluster);
        span.tag("upstream_cluster.name", &**info.upstream.cluster_alias.as_ref().unwrap_or(cluster));
    }
    span.tag("http.status_code", info.response_code.map_or_else(|| "0".to_owned(), |code| code.as_u16().to_string()));
    span.tag("response_flags", info.response_flags.to_string());
    if let Some(cause) = &info.cause {
        span.tag("sota.cause", cause.clone());
    }
    span.is_error = info.response_code.is_none_or(|code| code.is_server_error());
    if info.is_grpc && entry.response.is_some() {
        let status = GrpcStatus::of(entry.response_trailers, entry.response, info.response_code);
        let fields = [entry.response_trailers, entry.response.map(|head| &head.headers)];
        let message = fields.into_iter().flatten().find_map(|fields| fields.get(HeaderId::GrpcMessage));
        if let Some(status) = status {
            span.tag("grpc.status_code", status.0.to_string());
            // Compat: what the server, not the client, is to blame for.
            span.is_error |= matches!(status.0, 1 | 2 | 4 | 8 | 10 | 11 | 13 | 14 | 15);
        }
        if let Some(message) = message {
            span.tag("grpc.message", String::from_utf8_lossy(message));
        }
    }
    if span.is_error {
        span.tag("error", "true");
    }
}

/// When the first and the last octets came and went.
pub(super) fn events(span: &mut Span, info: &StreamInfo) {
    let timing = &info.timing;
    let all: [(&str, Option<Instant>); 6] = [
        ("first_upstream_tx_byte_sent", timing.upstream_first_tx),
        ("last_upstream_tx_byte_sent", timing.upstream_last_tx),
        ("first_upstream_rx_byte_received", timing.upstream_first_rx),
        ("last_upstream_rx_byte_received", timing.upstream_last_rx),
        ("first_downstream_tx_byte_sent", timing.downstream_first_tx),
        ("last_downstream_tx_byte_sent", timing.downstream_last_tx),
    ];
    let known = all.into_iter().filter_map(|(name, at)| Some((name, info.start_time + timing.since_start(at?))));
    span.events.extend(known);
}

/// The URL that the client asked for, its path cut to so many octets.
fn url(head: &RequestHead, longest_path: usize) -> String {
    let path = head.headers.get(HeaderId::XEnvoyOriginalPath).unwrap_or_else(|| head.path());
    let path = path.get(..longest_path).unwrap_or(path);
    let (host, path) = (String::from_utf8_lossy(head.authority()), String::from_utf8_lossy(path));
    format!("{}://{host}{path}", head.scheme.as_str())
}
