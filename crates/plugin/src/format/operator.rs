//! The operators and their arguments.

use super::{FormatCx, plain::Peer, time::TimeFormat};
use crate::http::HeaderName;
use std::{net::IpAddr, time::Duration};

/// An operator with its arguments, ready to print.
#[derive(Debug, Clone)]
pub(super) enum Operator {
    /// A value that only depends on the moment.
    Plain(Plain),
    Header(HeaderSource, HeaderChoice),
    /// An address without port, masked to so many bits.
    Masked(AddressOf, u8),
    Time(TimeSource, TimeFormat),
    /// Between two points, in units of so many nanoseconds.
    Between(TimePoint, TimePoint, u32),
    Metadata(MetadataSource, Box<[Box<str>]>, Option<usize>),
    FilterState(Box<str>, StateForm, Option<usize>),
    /// Known since the format was built.
    Constant(Box<str>),
    DetailsWithSpaces,
    GrpcStatus(GrpcForm),
    Path {
        query: bool,
        original: bool,
        current: bool,
        max_length: Option<usize>,
    },
    Query {
        decode: bool,
        max_length: Option<usize>,
    },
    QueryParameter(Box<str>, Option<usize>),
    /// The first that has a value.
    Coalesce(Box<[Self]>, Option<usize>),
}

/// Finds an address among the facts.
pub(super) type AddressOf = for<'a> fn(&FormatCx<'a>) -> Option<Peer<'a>>;

/// What has no arguments.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plain {
    Number(fn(&FormatCx<'_>) -> u64),
    Duration(fn(&FormatCx<'_>) -> Option<Duration>),
    /// Appends text, or says that there is none.
    Text(fn(&FormatCx<'_>, &mut Vec<u8>) -> bool),
    Address(AddressOf, Part),
    /// A fact that this proxy does not have (yet): prints as absent.
    Absent,
}

/// Which part of an address.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    All,
    WithoutPort,
    Port,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum HeaderSource {
    Request,
    /// Up to the first `?` of the value.
    RequestWithoutQuery,
    Response,
    ResponseTrailers,
}

/// A field, or another where it is missing.
#[derive(Debug, Clone)]
pub(super) struct HeaderChoice {
    pub(super) main: Option<HeaderName>,
    pub(super) alternative: Option<HeaderName>,
    pub(super) max_length: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum TimeSource {
    Start,
    Now,
    /// The peer's certificate is valid from then.
    CertificateBegin(Side),
    /// It is valid until then.
    CertificateEnd(Side),
}

/// Which connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Downstream,
    Upstream,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum TimePoint {
    ConnectionStart,
    Start,
    RequestEnd,
    UpstreamConnectStart,
    UpstreamConnectEnd,
    UpstreamFirstTx,
    UpstreamLastTx,
    UpstreamFirstRx,
    UpstreamLastRx,
    DownstreamFirstTx,
    DownstreamLastTx,
    /// A point that filters may set elsewhere and that nobody sets here, or one that is not measured.
    Absent,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum MetadataSource {
    Dynamic,
    Cluster,
    Route,
    VirtualHost,
    UpstreamHost,
    /// Of listeners and filter chains: not kept.
    Absent,
}

#[derive(Debug, Clone)]
pub(super) enum StateForm {
    Plain,
    Typed,
    Field(Box<str>),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum GrpcForm {
    CamelCase,
    SnakeCase,
    Number,
}

/// What stands behind an operator's name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arguments<'a> {
    /// Between the parentheses; empty when there are none.
    pub(super) text: &'a str,
    /// Behind the colon.
    pub(super) max_length: Option<usize>,
}

/// Which arguments an operator takes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Takes {
    Nothing,
    Optional,
    OptionalWithLength,
    Required,
    RequiredWithLength,
}

/// Operators with arguments.
const WITH_ARGUMENTS: &[(&str, Takes)] = &[
    ("REQ", Takes::RequiredWithLength),
    ("REQ_WITHOUT_QUERY", Takes::RequiredWithLength),
    ("REQUEST_HEADER", Takes::RequiredWithLength),
    ("STREAM_INFO_REQ", Takes::RequiredWithLength),
    ("RESP", Takes::RequiredWithLength),
    ("RESPONSE_HEADER", Takes::RequiredWithLength),
    ("TRAILER", Takes::RequiredWithLength),
    ("RESPONSE_TRAILER", Takes::RequiredWithLength),
    ("START_TIME", Takes::Optional),
    ("START_TIME_LOCAL", Takes::Optional),
    ("EMIT_TIME", Takes::Optional),
    ("EMIT_TIME_LOCAL", Takes::Optional),
    ("DOWNSTREAM_PEER_CERT_V_START", Takes::Optional),
    ("DOWNSTREAM_PEER_CERT_V_END", Takes::Optional),
    ("UPSTREAM_PEER_CERT_V_START", Takes::Optional),
    ("UPSTREAM_PEER_CERT_V_END", Takes::Optional),
    ("COMMON_DURATION", Takes::Required),
    ("DYNAMIC_METADATA", Takes::RequiredWithLength),
    ("CLUSTER_METADATA", Takes::Required),
    ("UPSTREAM_METADATA", Takes::Required),
    ("METADATA", Takes::RequiredWithLength),
    ("FILTER_STATE", Takes::OptionalWithLength),
    ("UPSTREAM_FILTER_STATE", Takes::OptionalWithLength),
    ("ENVIRONMENT", Takes::RequiredWithLength),
    ("RESPONSE_CODE_DETAILS", Takes::Optional),
    ("GRPC_STATUS", Takes::Optional),
    ("GRPC_STATUS_NUMBER", Takes::Nothing),
    ("HOSTNAME", Takes::Nothing),
    ("PATH", Takes::OptionalWithLength),
    ("QUERY_PARAM", Takes::RequiredWithLength),
    ("QUERY_PARAMS", Takes::OptionalWithLength),
    ("COALESCE", Takes::RequiredWithLength),
    ("XFCC_VALUE", Takes::RequiredWithLength),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Takes::Optional),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", Takes::Optional),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Takes::Optional),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Takes::Optional),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Takes::Optional),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Takes::Optional),
];

/// Operators of Envoy whose meaning cannot be printed here: refused, but not as unknown.
const UNSUPPORTED: &[&str] = &["CEL", "DYNAMIC_MODULE", "FILE_CONTENT", "SECRET"];

impl Operator {
    /// Fails for an operator that does not exist, for arguments that it does not take and for those that are wrong.
    pub(super) fn build(name: &str, arguments: &Arguments<'_>) -> Result<Self, String> {
        let plain = super::plain::PLAIN.iter().find(|(known, _)| *known == name).map(|(_, plain)| *plain);
        let takes = WITH_ARGUMENTS.iter().find(|(known, _)| *known == name).map(|(_, takes)| *takes);
        let takes = match (plain, takes) {
            (_, Some(takes)) => takes,
            (Some(_), None) => Takes::Nothing,
            (None, None) => return Err(unknown(name)),
        };
        takes.check(name, arguments)?;
        match plain {
            Some(Plain::Address(address, Part::WithoutPort)) if !arguments.text.is_empty() => Ok(arguments
                .text
                .parse()
                .map_or(Self::Plain(Plain::Address(address, Part::WithoutPort)), |bits| Self::Masked(address, bits))),
            Some(plain) => Ok(Self::Plain(plain)),
            None => Self::with_arguments(name, arguments),
        }
    }

    fn with_arguments(name: &str, arguments: &Arguments<'_>) -> Result<Self, String> {
        let (text, max_length) = (arguments.text, arguments.max_length);
        let header = |source| Ok(Self::Header(source, HeaderChoice::build(text, max_length)?));
        let time = |source, local| Ok(Self::Time(source, TimeFormat::build(text, local)?));
        let metadata = |source, text: &str| Ok(Self::Metadata(source, path(text), max_length));
        match name {
            "REQ" | "REQUEST_HEADER" | "STREAM_INFO_REQ" => header(HeaderSource::Request),
            "REQ_WITHOUT_QUERY" => header(HeaderSource::RequestWithoutQuery),
            "RESP" | "RESPONSE_HEADER" => header(HeaderSource::Response),
            "TRAILER" | "RESPONSE_TRAILER" => header(HeaderSource::ResponseTrailers),
            "START_TIME" => time(TimeSource::Start, false),
            "START_TIME_LOCAL" => time(TimeSource::Start, true),
            "EMIT_TIME" => time(TimeSource::Now, false),
            "EMIT_TIME_LOCAL" => time(TimeSource::Now, true),
            "DOWNSTREAM_PEER_CERT_V_START" => time(TimeSource::CertificateBegin(Side::Downstream), false),
            "DOWNSTREAM_PEER_CERT_V_END" => time(TimeSource::CertificateEnd(Side::Downstream), false),
            "UPSTREAM_PEER_CERT_V_START" => time(TimeSource::CertificateBegin(Side::Upstream), false),
            "UPSTREAM_PEER_CERT_V_END" => time(TimeSource::CertificateEnd(Side::Upstream), false),
            "COMMON_DURATION" => between(text),
            "DYNAMIC_METADATA" => metadata(MetadataSource::Dynamic, text),
            "CLUSTER_METADATA" => metadata(MetadataSource::Cluster, text),
            "UPSTREAM_METADATA" => metadata(MetadataSource::UpstreamHost, text),
            "METADATA" => {
                let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
                let source = match kind {
                    "DYNAMIC" => MetadataSource::Dynamic,
                    "CLUSTER" => MetadataSource::Cluster,
                    "ROUTE" => MetadataSource::Route,
                    "UPSTREAM_HOST" => MetadataSource::UpstreamHost,
                    "VIRTUAL_HOST" => MetadataSource::VirtualHost,
                    "LISTENER" | "LISTENER_FILTER_CHAIN" => MetadataSource::Absent,
                    _ => return Err(format!("METADATA: {kind:?} is not supported type of metadata")),
                };
                metadata(source, rest)
            }
            "FILTER_STATE" => filter_state(text, max_length),
            // Checked alike; nothing here puts state on upstream connections.
            "UPSTREAM_FILTER_STATE" => filter_state(text, max_length).map(|_| Self::Plain(Plain::Absent)),
            "ENVIRONMENT" => {
                let value = std::env::var(text).unwrap_or_else(|_| "-".to_owned());
                Ok(Self::Constant(truncate(&value, max_length).into()))
            }
            "RESPONSE_CODE_DETAILS" if text == "ALLOW_WHITESPACES" => Ok(Self::DetailsWithSpaces),
            "RESPONSE_CODE_DETAILS" => Ok(Self::Plain(Plain::Text(super::plain::response_code_details))),
            "GRPC_STATUS" => Ok(Self::GrpcStatus(match text {
                "" | "CAMEL_STRING" => GrpcForm::CamelCase,
                "SNAKE_STRING" => GrpcForm::SnakeCase,
                "NUMBER" => GrpcForm::Number,
                _ => return Err(format!("GRPC_STATUS takes CAMEL_STRING, SNAKE_STRING or NUMBER, not {text:?}")),
            })),
            "GRPC_STATUS_NUMBER" => Ok(Self::GrpcStatus(GrpcForm::Number)),
            "HOSTNAME" => Ok(host_name().map_or(Self::Plain(Plain::Absent), |name| Self::Constant(name.into()))),
            "PATH" => path_operator(text, max_length),
            "QUERY_PARAM" => Ok(Self::QueryParameter(text.into(), max_length)),
            "QUERY_PARAMS" => match text {
                "" | "ORIG" => Ok(Self::Query { decode: false, max_length }),
                "DECODED" => Ok(Self::Query { decode: true, max_length }),
                _ => Err(format!("QUERY_PARAMS takes ORIG or DECODED, not {text:?}")),
            },
            "COALESCE" => coalesce(text, max_length),
            "XFCC_VALUE" => match text {
                "by" | "hash" | "cert" | "chain" | "subject" | "uri" | "dns" => Ok(Self::Plain(Plain::Absent)),
                _ => Err(format!("XFCC_VALUE does not know {text:?}")),
            },
            _ => Err(unknown(name)),
        }
    }
}

impl Takes {
    fn check(self, name: &str, arguments: &Arguments<'_>) -> Result<(), String> {
        let has_text = !arguments.text.is_empty();
        if self == Self::Nothing && (has_text || arguments.max_length.is_some()) {
            return Err(format!("{name} does not take any parameters or length"));
        }
        if matches!(self, Self::Required | Self::RequiredWithLength) && !has_text {
            return Err(format!("{name} requires parameters"));
        }
        if !matches!(self, Self::OptionalWithLength | Self::RequiredWithLength) && arguments.max_length.is_some() {
            return Err(format!("{name} does not allow length to be specified"));
        }
        Ok(())
    }
}

impl HeaderChoice {
    fn build(text: &str, max_length: Option<usize>) -> Result<Self, String> {
        let mut names = text.split('?').map(|name| match name {
            "" => Ok(None),
            _ => HeaderName::parse_any(name.as_bytes()).map(Some).map_err(|reason| format!("{name:?}: {reason}")),
        });
        let main = names.next().transpose()?.flatten();
        let alternative = names.next().transpose()?.flatten();
        match names.next() {
            None => Ok(Self { main, alternative, max_length }),
            Some(_) => Err(format!("more than 1 alternative header specified in {text:?}")),
        }
    }
}

/// Namespace and keys.
fn path(text: &str) -> Box<[Box<str>]> {
    text.split(':').map(Into::into).collect()
}

fn filter_state(text: &str, max_length: Option<usize>) -> Result<Operator, String> {
    let mut parts = text.splitn(3, ':');
    let (key, form, field) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    if key.is_empty() {
        return Err("FILTER_STATE needs a key".to_owned());
    }
    let form = match (form, field) {
        ("" | "TYPED", "") => StateForm::Typed,
        ("PLAIN", "") => StateForm::Plain,
        ("FIELD", "") => return Err("FILTER_STATE: FIELD needs the field's name".to_owned()),
        ("FIELD", field) => StateForm::Field(field.into()),
        ("" | "TYPED" | "PLAIN", _) => return Err("FILTER_STATE: only FIELD takes the name of a field".to_owned()),
        _ => return Err(format!("FILTER_STATE supports PLAIN, TYPED and FIELD, not {form:?}")),
    };
    Ok(Operator::FilterState(key.into(), form, max_length))
}

fn between(text: &str) -> Result<Operator, String> {
    let parts: Vec<_> = text.split(':').collect();
    let (start, end, unit) = match *parts.as_slice() {
        [start, end] => (start, end, "ms"),
        [start, end, unit] => (start, end, unit),
        _ => return Err(format!("COMMON_DURATION takes START:END or START:END:UNIT, not {text:?}")),
    };
    let nanos = match unit {
        "ms" => 1_000_000,
        "us" => 1_000,
        "ns" => 1,
        _ => return Err(format!("COMMON_DURATION counts in ms, us or ns, not {unit:?}")),
    };
    let point = |name| match name {
        "DS_CX_BEG" => TimePoint::ConnectionStart,
        "DS_RX_BEG" => TimePoint::Start,
        "DS_RX_END" => TimePoint::RequestEnd,
        "US_CX_BEG" => TimePoint::UpstreamConnectStart,
        "US_CX_END" => TimePoint::UpstreamConnectEnd,
        "US_TX_BEG" => TimePoint::UpstreamFirstTx,
        "US_TX_END" => TimePoint::UpstreamLastTx,
        "US_RX_BEG" => TimePoint::UpstreamFirstRx,
        "US_RX_END" => TimePoint::UpstreamLastRx,
        "DS_TX_BEG" => TimePoint::DownstreamFirstTx,
        "DS_TX_END" => TimePoint::DownstreamLastTx,
        // Any other name is a point that a filter may have set.
        _ => TimePoint::Absent,
    };
    Ok(Operator::Between(point(start), point(end), nanos))
}

fn path_operator(text: &str, max_length: Option<usize>) -> Result<Operator, String> {
    let (query, which) = text.split_once(':').unwrap_or((text, ""));
    let query = match query {
        "" | "WQ" => true,
        "NQ" => false,
        _ => return Err(format!("PATH takes WQ or NQ first, not {query:?}")),
    };
    let (original, current) = match which {
        "" | "ORIG_OR_PATH" => (true, true),
        "ORIG" => (true, false),
        "PATH" => (false, true),
        _ => return Err(format!("PATH takes ORIG, PATH or ORIG_OR_PATH, not {which:?}")),
    };
    Ok(Operator::Path { query, original, current, max_length })
}

/// `{"operators": ["PROTOCOL", {"command": "REQ", "param": "x", "max_length": 3}]}`.
fn coalesce(text: &str, max_length: Option<usize>) -> Result<Operator, String> {
    use serde_json::Value;
    let config: Value = serde_json::from_str(text).map_err(|e| format!("COALESCE: {e}"))?;
    let items = config.get("operators").and_then(Value::as_array);
    let items = items.ok_or("COALESCE: the configuration must contain an 'operators' list")?;
    if items.is_empty() {
        return Err("COALESCE: 'operators' must not be empty".to_owned());
    }
    let operator = |(index, item): (usize, &Value)| {
        let field = |name: &str| item.get(name).and_then(Value::as_str);
        let name = item.as_str().or_else(|| field("command"));
        let name = name.ok_or_else(|| format!("COALESCE: operator {index} has no 'command'"))?;
        if name == "COALESCE" {
            return Err("COALESCE: operators cannot be nested".to_owned());
        }
        let max_length = item.get("max_length").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        Operator::build(name, &Arguments { text: field("param").unwrap_or(""), max_length })
            .map_err(|reason| format!("COALESCE: operator {index}: {reason}"))
    };
    Ok(Operator::Coalesce(items.iter().enumerate().map(operator).collect::<Result<_, _>>()?, max_length))
}

/// At most so many octets, ending with a whole character.
fn truncate(text: &str, max_length: Option<usize>) -> &str {
    let mut end = max_length.unwrap_or(text.len()).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or(text)
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim_end().to_owned()).filter(|name| !name.is_empty())
}

fn unknown(name: &str) -> String {
    if UNSUPPORTED.contains(&name) {
        return format!("operator {name} is not supported");
    }
    let known = super::plain::PLAIN.iter().map(|(known, _)| *known);
    let known = known.chain(WITH_ARGUMENTS.iter().map(|(known, _)| *known));
    let nearest = known.map(|known| (distance(known, name), known)).min();
    match nearest {
        Some((distance, nearest)) if distance <= name.len().div_ceil(3) => {
            format!("unknown operator {name}; did you mean {nearest}?")
        }
        _ => format!("unknown operator {name}"),
    }
}

/// How many letters have to be added, removed or replaced (Levenshtein).
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let replaced = diagonal + usize::from(x != y);
            diagonal = *slot;
            left = replaced.min(left + 1).min(*slot + 1);
            *slot = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// The address with all but the first `bits` bits zero.
pub(super) fn mask(address: IpAddr, bits: u8) -> Option<IpAddr> {
    sota_config::address::CidrRange::new(address, bits).ok().map(|range| range.network())
}
