//! What each operator prints.

use super::{
    FormatCx, json,
    operator::{
        GrpcForm, HeaderChoice, HeaderSource, MetadataSource, Operator, Part, Plain, StateForm, TimePoint, TimeSource,
        mask,
    },
    plain::peer,
};
use crate::{
    http::{AsHeaderName, GrpcStatus, HeaderId, HeaderName},
    matcher::query_parameters,
};
use sota_config::{Node, Value};
use std::{
    io::Write,
    time::{Instant, SystemTime},
};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text, raw.
    Text,
    /// A whole number.
    Number,
    /// JSON.
    Json,
}

impl Operator {
    /// Appends the value; `None` and nothing appended when there is none. A text is cut to its longest length.
    pub(super) fn write(&self, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<Kind> {
        let start = out.len();
        let kind = self.write_whole(cx, out);
        match kind {
            // Some writers notice only on their way that there is nothing.
            None => out.truncate(start),
            Some(Kind::Text) => self.cut(start, out),
            Some(Kind::Json | Kind::Number) => {}
        }
        kind
    }

    /// Like [`Self::write`], for a place within a text: there JSON is cut too.
    pub(super) fn write_within(&self, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let kind = self.write(cx, out);
        if kind == Some(Kind::Json) {
            self.cut(start, out);
        }
        kind.is_some()
    }

    fn cut(&self, start: usize, out: &mut Vec<u8>) {
        if let Some(max_length) = self.max_length() {
            out.truncate(start.saturating_add(max_length));
        }
    }

    fn max_length(&self) -> Option<usize> {
        match self {
            Self::Header(_, HeaderChoice { max_length, .. })
            | Self::Metadata(_, _, max_length)
            | Self::FilterState(_, _, max_length)
            | Self::Path { max_length, .. }
            | Self::Query { max_length, .. }
            | Self::QueryParameter(_, max_length)
            | Self::Coalesce(_, max_length) => *max_length,
            _ => None,
        }
    }

    fn write_whole(&self, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<Kind> {
        match self {
            Self::Plain(plain) => plain.write(cx, out),
            Self::Header(source, names) => {
                out.extend_from_slice(names.find(*source, cx)?);
                Some(Kind::Text)
            }
            Self::Masked(address, bits) => {
                let ip = address(cx)?.socket()?.ip();
                write!(out, "{}/{bits}", mask(ip, *bits)?).ok()?;
                Some(Kind::Text)
            }
            Self::Time(source, format) => {
                let time = match source {
                    TimeSource::Start => cx.info.start_time,
                    TimeSource::Now => SystemTime::now(),
                    TimeSource::CertificateBegin(side) => peer(cx, *side)?.not_before,
                    TimeSource::CertificateEnd(side) => peer(cx, *side)?.not_after,
                };
                format.write(time, out);
                Some(Kind::Text)
            }
            Self::Between(start, end, unit) => {
                let time = end.of(cx)?.checked_duration_since(start.of(cx)?)?;
                let units = time.as_nanos() / u128::from(*unit);
                number(u64::try_from(units).unwrap_or(u64::MAX), out);
                Some(Kind::Number)
            }
            Self::Metadata(source, path, _) => metadata(*source, path, cx, out),
            Self::FilterState(key, form, _) => filter_state(key, form, cx, out),
            Self::Constant(value) => text(Some(value), out).then_some(Kind::Text),
            Self::DetailsWithSpaces => text(cx.info.response_code_details.as_deref(), out).then_some(Kind::Text),
            Self::GrpcStatus(form) => grpc_status(*form, cx, out),
            Self::Path { query, original, current, .. } => {
                let head = cx.request?;
                let rewritten =
                    head.headers.get(HeaderId::XEnvoyOriginalPath).filter(|path| *original && !path.is_empty());
                let path = rewritten.or_else(|| Some(head.path()).filter(|path| *current && !path.is_empty()))?;
                let end = if *query { None } else { memchr::memchr(b'?', path) };
                out.extend_from_slice(end.and_then(|end| path.get(..end)).unwrap_or(path));
                Some(Kind::Text)
            }
            Self::Query { decode, .. } => {
                let query = cx.request?.query()?;
                if *decode {
                    decode_visible_into(query, out);
                } else {
                    out.extend_from_slice(query);
                }
                Some(Kind::Text)
            }
            Self::QueryParameter(name, _) => query_parameter(name.as_bytes(), cx, out),
            Self::Coalesce(operators, _) => operators.iter().find_map(|operator| operator.write(cx, out)),
        }
    }
}

impl Plain {
    fn write(self, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<Kind> {
        match self {
            Self::Number(value) => {
                number(value(cx), out);
                Some(Kind::Number)
            }
            Self::Duration(value) => {
                number(u64::try_from(value(cx)?.as_millis()).unwrap_or(u64::MAX), out);
                Some(Kind::Number)
            }
            Self::Text(write) => write(cx, out).then_some(Kind::Text),
            Self::Address(address, part) => {
                let is_there = address(cx)?.write(part, out);
                is_there.then_some(if matches!(part, Part::Port) { Kind::Number } else { Kind::Text })
            }
            Self::Absent => None,
        }
    }
}

impl HeaderChoice {
    fn find<'a>(&self, source: HeaderSource, cx: &FormatCx<'a>) -> Option<&'a [u8]> {
        let get = |name: &HeaderName| match source {
            HeaderSource::Request => cx.request?.get(name),
            HeaderSource::RequestWithoutQuery => cx.request?.get(name)?.split(|c| *c == b'?').next(),
            HeaderSource::Response => cx.response?.get(name),
            HeaderSource::ResponseTrailers => cx.response_trailers?.get(name.as_name()),
        };
        self.main.as_ref().and_then(get).or_else(|| self.alternative.as_ref().and_then(get))
    }
}

impl TimePoint {
    fn of(self, cx: &FormatCx<'_>) -> Option<Instant> {
        let timing = &cx.info.timing;
        match self {
            Self::ConnectionStart => Some(cx.info.connection.start),
            Self::Start => Some(timing.start),
            Self::RequestEnd => timing.request_end,
            Self::UpstreamConnectStart => timing.upstream_connect_start,
            Self::UpstreamConnectEnd => timing.upstream_connect_complete,
            Self::UpstreamFirstTx => timing.upstream_first_tx,
            Self::UpstreamLastTx => timing.upstream_last_tx,
            Self::UpstreamFirstRx => timing.upstream_first_rx,
            Self::UpstreamLastRx => timing.upstream_last_rx,
            Self::DownstreamFirstTx => timing.downstream_first_tx,
            Self::DownstreamLastTx => timing.downstream_last_tx,
            Self::Absent => None,
        }
    }
}

fn grpc_status(form: GrpcForm, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<Kind> {
    if !cx.request?.is_grpc() {
        return None;
    }
    let status = GrpcStatus::of(cx.response_trailers, cx.response, cx.info.response_code)?;
    let name = match form {
        GrpcForm::CamelCase => status.camel_case(),
        GrpcForm::SnakeCase => status.snake_case(),
        GrpcForm::Number => None,
    };
    if !text(name, out) {
        write!(out, "{}", status.0).ok()?;
    }
    Some(if matches!(form, GrpcForm::Number) { Kind::Number } else { Kind::Text })
}

fn query_parameter(name: &[u8], cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<Kind> {
    let start = out.len();
    let mut parameters = query_parameters(cx.request?.query()?);
    let (_, value) = parameters.find(|(key, _)| {
        // Names are compared decoded; the buffer is at hand.
        out.truncate(start);
        decode_into(key, out);
        out.get(start..) == Some(name)
    })?;
    out.truncate(start);
    decode_into(value, out);
    Some(Kind::Text)
}

/// With `%XX` decoded; what is no escape stays.
fn decode_into(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some((c, behind)) = rest.split_first() {
        let hex = |at: usize| behind.get(at).and_then(|c| char::from(*c).to_digit(16));
        match (c, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = behind.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*c);
                rest = behind;
            }
        }
    }
}

/// `%QUERY_PARAMS(DECODED)%`: only what can stand in a query is decoded.
///
/// Compat: a percent sign before what is no hexadecimal number is dropped, unless the query ends there.
fn decode_visible_into(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some((c, behind)) = rest.split_first() {
        rest = behind;
        let &[high, low, ..] = behind else {
            out.push(*c);
            continue;
        };
        if *c != b'%' {
            out.push(*c);
            continue;
        }
        let digits = (char::from(high).to_digit(16), char::from(low).to_digit(16));
        if let (Some(first), Some(second)) = digits {
            let decoded = (first * 16 + second) as u8;
            if decoded.is_ascii_graphic() && !b"\"<>\\^{|}".contains(&decoded) {
                out.push(decoded);
            } else {
                out.extend_from_slice(&[b'%', high, low]);
            }
            rest = behind.get(2..).unwrap_or_default();
        }
    }
}

fn metadata(source: MetadataSource, path: &[Box<str>], cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<Kind> {
    let (namespace, keys) = path.split_first()?;
    let upstream = &cx.info.upstream;
    let tree = match source {
        MetadataSource::Dynamic => cx.info.metadata.get(namespace),
        MetadataSource::Cluster => by_namespace(upstream.cluster_metadata.as_deref(), namespace),
        MetadataSource::UpstreamHost => by_namespace(upstream.host_metadata.as_deref(), namespace),
        MetadataSource::Route => {
            let route = cx.info.route.as_deref()?;
            by_namespace(route.metadata().map(|metadata| &**metadata), namespace)
        }
        MetadataSource::VirtualHost => {
            let route = cx.info.route.as_deref()?;
            by_namespace(route.virtual_host_metadata().map(|metadata| &**metadata), namespace)
        }
        MetadataSource::Absent => None,
    };
    write_tree(keys.iter().try_fold(tree?, |node, key| node.get(key))?, out)
}

/// A namespace of configured metadata, be it the message `envoy.config.core.v3.Metadata` or its `filter_metadata`.
fn by_namespace<'a>(metadata: Option<&'a Node>, namespace: &str) -> Option<&'a Node> {
    let metadata = metadata?;
    metadata.get("filter_metadata").unwrap_or(metadata).get(namespace)
}

/// Text is written as it is, anything else as JSON.
fn write_tree(node: &Node, out: &mut Vec<u8>) -> Option<Kind> {
    match &node.value {
        Value::Null => None,
        Value::String(value) => text(Some(value), out).then_some(Kind::Text),
        _ => {
            json::write_node(node, out);
            Some(Kind::Json)
        }
    }
}

fn filter_state(key: &str, form: &StateForm, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<Kind> {
    let connection = cx.info.connection.filter_state.borrow();
    let value = cx.info.filter_state.find(key).or_else(|| connection.find(key))?;
    match form {
        StateForm::Plain => text(value.to_text().as_deref(), out).then_some(Kind::Text),
        StateForm::Field(field) => text(value.field(field).as_deref(), out).then_some(Kind::Text),
        StateForm::Typed => {
            json::write_node(&value.to_node()?, out);
            Some(Kind::Json)
        }
    }
}

pub(super) fn text(text: Option<&str>, out: &mut Vec<u8>) -> bool {
    let Some(text) = text else { return false };
    out.extend_from_slice(text.as_bytes());
    true
}

pub(super) fn number(number: u64, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    true
}
