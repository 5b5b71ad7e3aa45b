//! What each operator prints.

use super::{
    FormatCx, json,
    operator::{
        GrpcForm, HeaderChoice, HeaderSource, MetadataSource, Operator, Part, Plain, Side, StateForm, TimePoint,
        TimeSource, mask,
    },
};
use crate::{
    http::{AsHeaderName, GrpcStatus, HeaderId, HeaderName, Headers},
    info::{CertificateInfo, PeerAddress, TlsInfo, UpstreamAttempt},
    matcher::query_parameters,
};
use sota_config::{Node, Value};
use std::{
    io::Write,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
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

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer<'a> {
    Address(&'a PeerAddress),
    Socket(SocketAddr),
}

/// Operators without arguments.
pub(super) static PLAIN: &[(&str, Plain)] = &[
    ("PROTOCOL", Plain::Text(|cx, out| text(cx.info.protocol.map(|protocol| protocol.as_str()), out))),
    (
        "UPSTREAM_PROTOCOL",
        Plain::Text(|cx, out| text(cx.info.upstream.protocol.map(|protocol| protocol.as_str()), out)),
    ),
    ("RESPONSE_CODE", Plain::Number(|cx| cx.info.response_code.map_or(0, |status| status.as_u16().into()))),
    ("RESPONSE_FLAGS", Plain::Text(|cx, out| write!(out, "{}", cx.info.response_flags).is_ok())),
    ("RESPONSE_FLAGS_LONG", Plain::Text(response_flags_long)),
    (
        "CONNECTION_TERMINATION_DETAILS",
        Plain::Text(|cx, out| text(cx.info.connection.termination_details.borrow().as_deref(), out)),
    ),
    ("SOTA_CAUSE", Plain::Text(|cx, out| text(cx.info.cause.as_deref(), out))),
    ("CUSTOM_FLAGS", Plain::Text(|_, _| true)),
    ("LOCAL_REPLY_BODY", Plain::Text(|cx, out| text(Some(cx.local_reply_body), out))),
    ("ACCESS_LOG_TYPE", Plain::Text(|cx, out| text(Some(cx.kind.as_str()), out))),
    (
        "ROUTE_NAME",
        Plain::Text(|cx, out| text(cx.info.route.as_deref().map(|route| route.name()).filter(is_some), out)),
    ),
    ("VIRTUAL_CLUSTER_NAME", Plain::Text(|cx, out| text(cx.info.virtual_cluster.as_deref(), out))),
    (
        "FILTER_CHAIN_NAME",
        Plain::Text(|cx, out| text(Some(&*cx.info.connection.filter_chain_name).filter(is_some), out)),
    ),
    ("REQUESTED_SERVER_NAME", Plain::Text(requested_server_name)),
    ("STREAM_ID", Plain::Text(|cx, out| text(cx.info.request_id.as_deref(), out))),
    ("UNIQUE_ID", Plain::Text(unique_id)),
    ("CONNECTION_ID", Plain::Number(|cx| cx.info.connection.id)),
    (
        "TRACE_ID",
        Plain::Text(|cx, out| text(cx.info.trace.as_ref().map(|trace| trace.trace_id_text()).as_deref(), out)),
    ),
    (
        "SPAN_ID",
        Plain::Text(|cx, out| {
            text(cx.info.trace.as_ref().map(|trace| format!("{:016x}", trace.span_id)).as_deref(), out)
        }),
    ),
    // Sizes.
    ("BYTES_RECEIVED", Plain::Number(|cx| cx.info.bytes_received)),
    ("BYTES_SENT", Plain::Number(|cx| cx.info.bytes_sent)),
    ("REQUEST_HEADERS_BYTES", Plain::Number(|cx| size(cx.request.map(|head| head.byte_size())))),
    ("RESPONSE_HEADERS_BYTES", Plain::Number(|cx| size(cx.response.map(|head| head.byte_size())))),
    ("RESPONSE_TRAILERS_BYTES", Plain::Number(|cx| size(cx.response_trailers.map(Headers::byte_size)))),
    ("DOWNSTREAM_WIRE_BYTES_RECEIVED", Plain::Number(|cx| cx.info.downstream_wire_bytes_received)),
    ("DOWNSTREAM_WIRE_BYTES_SENT", Plain::Number(|cx| cx.info.downstream_wire_bytes_sent)),
    ("DOWNSTREAM_HEADER_BYTES_RECEIVED", Plain::Number(|cx| cx.info.downstream_header_bytes_received)),
    ("DOWNSTREAM_HEADER_BYTES_SENT", Plain::Number(|cx| cx.info.downstream_header_bytes_sent)),
    ("UPSTREAM_WIRE_BYTES_RECEIVED", Plain::Number(|cx| cx.info.upstream.wire_bytes_received)),
    ("UPSTREAM_WIRE_BYTES_SENT", Plain::Number(|cx| cx.info.upstream.wire_bytes_sent)),
    ("UPSTREAM_HEADER_BYTES_RECEIVED", Plain::Number(|cx| cx.info.upstream.header_bytes_received)),
    ("UPSTREAM_HEADER_BYTES_SENT", Plain::Number(|cx| cx.info.upstream.header_bytes_sent)),
    // On HTTP/1 nothing is compressed.
    ("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED", Plain::Number(|cx| cx.info.downstream_header_bytes_received)),
    ("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", Plain::Number(|cx| cx.info.downstream_header_bytes_sent)),
    ("UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED", Plain::Number(|cx| cx.info.upstream.header_bytes_received)),
    ("UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", Plain::Number(|cx| cx.info.upstream.header_bytes_sent)),
    // QUIC only, in Envoy too.
    ("BYTES_RETRANSMITTED", Plain::Number(|_| 0)),
    ("PACKETS_RETRANSMITTED", Plain::Number(|_| 0)),
    ("ROUNDTRIP_DURATION", Plain::Absent),
    // Durations, in milliseconds.
    ("DURATION", Plain::Duration(|cx| Some(cx.info.duration()))),
    ("REQUEST_DURATION", Plain::Duration(|cx| since_start(cx, cx.info.timing.request_end))),
    ("REQUEST_TX_DURATION", Plain::Duration(|cx| since_start(cx, cx.info.timing.upstream_last_tx))),
    ("RESPONSE_DURATION", Plain::Duration(|cx| since_start(cx, cx.info.timing.upstream_first_rx))),
    (
        "RESPONSE_TX_DURATION",
        Plain::Duration(|cx| {
            let timing = &cx.info.timing;
            Some(timing.downstream_last_tx?.saturating_duration_since(timing.upstream_first_rx?))
        }),
    ),
    ("DOWNSTREAM_HANDSHAKE_DURATION", Plain::Absent),
    ("UPSTREAM_CONNECTION_POOL_READY_DURATION", Plain::Absent),
    ("DOWNSTREAM_CX_RTT", Plain::Absent),
    ("ROUTE_RESOLUTION_COUNT", Plain::Absent),
    ("ROUTE_RESOLUTION_TIME_US", Plain::Absent),
    // Downstream addresses.
    ("DOWNSTREAM_REMOTE_ADDRESS", Plain::Address(remote, Part::All)),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Plain::Address(remote, Part::WithoutPort)),
    ("DOWNSTREAM_REMOTE_PORT", Plain::Address(remote, Part::Port)),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Plain::Address(direct_remote, Part::All)),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Plain::Address(direct_remote, Part::WithoutPort)),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", Plain::Address(direct_remote, Part::Port)),
    ("DOWNSTREAM_LOCAL_ADDRESS", Plain::Address(local, Part::All)),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Plain::Address(local, Part::WithoutPort)),
    ("DOWNSTREAM_LOCAL_PORT", Plain::Address(local, Part::Port)),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS", Plain::Address(direct_local, Part::All)),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", Plain::Address(direct_local, Part::WithoutPort)),
    ("DOWNSTREAM_DIRECT_LOCAL_PORT", Plain::Address(direct_local, Part::Port)),
    // Only internal addresses have endpoint ids; others print an empty text.
    ("DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID", Plain::Text(|_, _| true)),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID", Plain::Text(|_, _| true)),
    ("UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID", Plain::Text(|cx, _| cx.info.upstream.address.is_some())),
    // Upstream.
    ("UPSTREAM_CLUSTER", Plain::Text(cluster)),
    ("UPSTREAM_CLUSTER_RAW", Plain::Text(|cx, out| text(cx.info.upstream.cluster.as_deref(), out))),
    ("UPSTREAM_HOST", Plain::Address(upstream, Part::All)),
    ("UPSTREAM_HOST_NAME", Plain::Text(|cx, out| host_name(cx, true, out))),
    ("UPSTREAM_HOST_NAME_WITHOUT_PORT", Plain::Text(|cx, out| host_name(cx, false, out))),
    ("UPSTREAM_REMOTE_ADDRESS", Plain::Address(upstream_remote, Part::All)),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Plain::Address(upstream_remote, Part::WithoutPort)),
    ("UPSTREAM_REMOTE_PORT", Plain::Address(upstream_remote, Part::Port)),
    ("UPSTREAM_LOCAL_ADDRESS", Plain::Address(upstream_local, Part::All)),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Plain::Address(upstream_local, Part::WithoutPort)),
    ("UPSTREAM_LOCAL_PORT", Plain::Address(upstream_local, Part::Port)),
    ("UPSTREAM_CONNECTION_ID", Plain::Number(|cx| cx.info.upstream.connection_id.unwrap_or(0))),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Plain::Number(|cx| cx.info.upstream.attempts.into())),
    (
        "UPSTREAM_HOSTS_ATTEMPTED",
        Plain::Text(|cx, out| attempted(cx, out, |attempt, out| attempt.peer().write(Part::All, out))),
    ),
    (
        "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT",
        Plain::Text(|cx, out| attempted(cx, out, |attempt, out| attempt.peer().write(Part::WithoutPort, out))),
    ),
    (
        "UPSTREAM_HOST_NAMES_ATTEMPTED",
        Plain::Text(|cx, out| attempted(cx, out, |attempt, out| attempt.name(true, out))),
    ),
    (
        "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT",
        Plain::Text(|cx, out| attempted(cx, out, |attempt, out| attempt.name(false, out))),
    ),
    (
        "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
        Plain::Text(|cx, out| {
            attempted(cx, out, |attempt, out| attempt.connection_id.is_some_and(|id| number(id, out)))
        }),
    ),
    (
        "UPSTREAM_TRANSPORT_FAILURE_REASON",
        Plain::Text(|cx, out| {
            let start = out.len();
            let is_there = text(cx.info.upstream.transport_failure_reason.as_deref().filter(is_some), out);
            underscores(out, start, |c| c == b' ');
            is_there
        }),
    ),
    (
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
        Plain::Text(|cx, out| {
            let start = out.len();
            let reason = cx.info.connection.transport_failure_reason.get();
            let is_there = text(reason.map(|reason| &**reason), out);
            underscores(out, start, |c| c == b' ');
            is_there
        }),
    ),
    ("DOWNSTREAM_DETECTED_CLOSE_TYPE", Plain::Absent),
    ("DOWNSTREAM_LOCAL_CLOSE_REASON", Plain::Absent),
    ("UPSTREAM_DETECTED_CLOSE_TYPE", Plain::Absent),
    ("UPSTREAM_LOCAL_CLOSE_REASON", Plain::Absent),
    // TLS.
    ("UPSTREAM_SERVER_NAME", Plain::Text(|cx, out| tls_text(cx, Side::Upstream, out, |tls| &tls.server_name))),
    ("TLS_JA3_FINGERPRINT", Plain::Absent),
    ("TLS_JA4_FINGERPRINT", Plain::Absent),
    ("DOWNSTREAM_TLS_CIPHER", Plain::Text(|cx, out| tls_text(cx, Side::Downstream, out, |tls| tls.cipher))),
    ("DOWNSTREAM_TLS_GROUP", Plain::Text(|cx, out| tls_text(cx, Side::Downstream, out, |tls| tls.group))),
    ("DOWNSTREAM_TLS_SESSION_ID", Plain::Absent),
    ("DOWNSTREAM_TLS_VERSION", Plain::Text(|cx, out| tls_text(cx, Side::Downstream, out, |tls| tls.version))),
    ("DOWNSTREAM_LOCAL_DNS_SAN", Plain::Text(|cx, out| local_names(cx, Side::Downstream, out, |own| &own.dns_sans))),
    (
        "DOWNSTREAM_LOCAL_EMAIL_SAN",
        Plain::Text(|cx, out| local_names(cx, Side::Downstream, out, |own| &own.email_sans)),
    ),
    ("DOWNSTREAM_LOCAL_IP_SAN", Plain::Text(|cx, out| local_names(cx, Side::Downstream, out, |own| &own.ip_sans))),
    ("DOWNSTREAM_LOCAL_OTHERNAME_SAN", Plain::Absent),
    (
        "DOWNSTREAM_LOCAL_SUBJECT",
        Plain::Text(|cx, out| {
            text(
                Side::Downstream.of(cx).and_then(|tls| tls.local.as_ref()).map(|own| &*own.subject).filter(is_some),
                out,
            )
        }),
    ),
    ("DOWNSTREAM_LOCAL_URI_SAN", Plain::Text(|cx, out| local_names(cx, Side::Downstream, out, |own| &own.uri_sans))),
    (
        "DOWNSTREAM_PEER_CERT",
        Plain::Text(|cx, out| text(peer(cx, Side::Downstream).map(CertificateInfo::url_encoded_pem).as_deref(), out)),
    ),
    (
        "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
        Plain::Text(|cx, out| chain(cx, Side::Downstream, out, |peer| &peer.sha1)),
    ),
    (
        "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
        Plain::Text(|cx, out| chain(cx, Side::Downstream, out, |peer| &peer.sha256)),
    ),
    ("DOWNSTREAM_PEER_CHAIN_SERIALS", Plain::Text(|cx, out| chain(cx, Side::Downstream, out, |peer| &peer.serial))),
    ("DOWNSTREAM_PEER_DNS_SAN", Plain::Text(|cx, out| peer_names(cx, Side::Downstream, out, |peer| &peer.dns_sans))),
    (
        "DOWNSTREAM_PEER_EMAIL_SAN",
        Plain::Text(|cx, out| peer_names(cx, Side::Downstream, out, |peer| &peer.email_sans)),
    ),
    ("DOWNSTREAM_PEER_FINGERPRINT_1", Plain::Text(|cx, out| peer_text(cx, Side::Downstream, out, |peer| &peer.sha1))),
    (
        "DOWNSTREAM_PEER_FINGERPRINT_256",
        Plain::Text(|cx, out| peer_text(cx, Side::Downstream, out, |peer| &peer.sha256)),
    ),
    ("DOWNSTREAM_PEER_IP_SAN", Plain::Text(|cx, out| peer_names(cx, Side::Downstream, out, |peer| &peer.ip_sans))),
    ("DOWNSTREAM_PEER_ISSUER", Plain::Text(|cx, out| peer_text(cx, Side::Downstream, out, |peer| &peer.issuer))),
    (
        "DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256",
        Plain::Text(|cx, out| issuer_text(cx, Side::Downstream, out, |issuer| &issuer.sha256)),
    ),
    (
        "DOWNSTREAM_PEER_ISSUER_SERIAL",
        Plain::Text(|cx, out| issuer_text(cx, Side::Downstream, out, |issuer| &issuer.serial)),
    ),
    ("DOWNSTREAM_PEER_OTHERNAME_SAN", Plain::Absent),
    ("DOWNSTREAM_PEER_SERIAL", Plain::Text(|cx, out| peer_text(cx, Side::Downstream, out, |peer| &peer.serial))),
    ("DOWNSTREAM_PEER_SUBJECT", Plain::Text(|cx, out| peer_text(cx, Side::Downstream, out, |peer| &peer.subject))),
    ("DOWNSTREAM_PEER_URI_SAN", Plain::Text(|cx, out| peer_names(cx, Side::Downstream, out, |peer| &peer.uri_sans))),
    ("UPSTREAM_LOCAL_DNS_SAN", Plain::Text(|cx, out| local_names(cx, Side::Upstream, out, |own| &own.dns_sans))),
    ("UPSTREAM_LOCAL_IP_SAN", Plain::Text(|cx, out| local_names(cx, Side::Upstream, out, |own| &own.ip_sans))),
    ("UPSTREAM_LOCAL_URI_SAN", Plain::Text(|cx, out| local_names(cx, Side::Upstream, out, |own| &own.uri_sans))),
    (
        "UPSTREAM_PEER_CERT",
        Plain::Text(|cx, out| text(peer(cx, Side::Upstream).map(CertificateInfo::url_encoded_pem).as_deref(), out)),
    ),
    ("UPSTREAM_PEER_DNS_SAN", Plain::Text(|cx, out| peer_names(cx, Side::Upstream, out, |peer| &peer.dns_sans))),
    ("UPSTREAM_PEER_IP_SAN", Plain::Text(|cx, out| peer_names(cx, Side::Upstream, out, |peer| &peer.ip_sans))),
    ("UPSTREAM_PEER_ISSUER", Plain::Text(|cx, out| peer_text(cx, Side::Upstream, out, |peer| &peer.issuer))),
    ("UPSTREAM_PEER_SUBJECT", Plain::Text(|cx, out| peer_text(cx, Side::Upstream, out, |peer| &peer.subject))),
    ("UPSTREAM_PEER_URI_SAN", Plain::Text(|cx, out| peer_names(cx, Side::Upstream, out, |peer| &peer.uri_sans))),
    ("UPSTREAM_TLS_CIPHER", Plain::Text(|cx, out| tls_text(cx, Side::Upstream, out, |tls| tls.cipher))),
    ("UPSTREAM_TLS_GROUP", Plain::Text(|cx, out| tls_text(cx, Side::Upstream, out, |tls| tls.group))),
    ("UPSTREAM_TLS_SESSION_ID", Plain::Absent),
    ("UPSTREAM_TLS_VERSION", Plain::Text(|cx, out| tls_text(cx, Side::Upstream, out, |tls| tls.version))),
];

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

impl Peer<'_> {
    fn socket(self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => address.socket_address(),
            Self::Socket(socket) => Some(socket),
        }
    }

    fn write(self, part: Part, out: &mut Vec<u8>) -> bool {
        match (part, self.socket(), self) {
            (Part::All, Some(socket), _) => write!(out, "{socket}").is_ok(),
            (Part::WithoutPort, Some(socket), _) => write!(out, "{}", socket.ip()).is_ok(),
            (Part::Port, Some(socket), _) => number(socket.port().into(), out),
            (Part::All | Part::WithoutPort, None, Self::Address(address)) => write!(out, "{address}").is_ok(),
            _ => false,
        }
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

/// One attempt, the last one too.
struct Attempt<'a> {
    address: &'a PeerAddress,
    hostname: Option<&'a str>,
    connection_id: Option<u64>,
}

impl<'a> Attempt<'a> {
    fn last(cx: &FormatCx<'a>) -> Option<Self> {
        let upstream = &cx.info.upstream;
        Some(Self {
            address: upstream.address.as_ref()?,
            hostname: upstream.hostname.as_deref(),
            connection_id: upstream.connection_id,
        })
    }

    fn earlier(attempt: &'a UpstreamAttempt) -> Self {
        Self { address: &attempt.address, hostname: attempt.hostname.as_deref(), connection_id: attempt.connection_id }
    }

    fn peer(&self) -> Peer<'a> {
        Peer::Address(self.address)
    }

    /// The host's name, or its address when it has none.
    fn name(&self, port: bool, out: &mut Vec<u8>) -> bool {
        let Some(name) = self.hostname.filter(is_some) else {
            return self.peer().write(if port { Part::All } else { Part::WithoutPort }, out);
        };
        let host = name.rsplit_once(':').filter(|(_, digits)| !port && digits.bytes().all(|c| c.is_ascii_digit()));
        text(Some(host.map_or(name, |(host, _)| host)), out)
    }
}

fn host_name(cx: &FormatCx<'_>, port: bool, out: &mut Vec<u8>) -> bool {
    Attempt::last(cx).is_some_and(|attempt| attempt.name(port, out))
}

/// Something of each attempt, with commas between.
fn attempted(cx: &FormatCx<'_>, out: &mut Vec<u8>, write: fn(&Attempt<'_>, &mut Vec<u8>) -> bool) -> bool {
    let start = out.len();
    for attempt in cx.info.upstream.earlier_attempts.iter().map(Attempt::earlier).chain(Attempt::last(cx)) {
        let before = out.len();
        if before > start {
            out.push(b',');
        }
        if !write(&attempt, out) {
            out.truncate(before);
        }
    }
    out.len() > start
}

fn remote<'a>(cx: &FormatCx<'a>) -> Option<Peer<'a>> {
    Some(Peer::Address(cx.info.remote()))
}

fn direct_remote<'a>(cx: &FormatCx<'a>) -> Option<Peer<'a>> {
    Some(Peer::Address(&cx.info.connection.direct_remote))
}

fn local<'a>(cx: &FormatCx<'a>) -> Option<Peer<'a>> {
    Some(Peer::Address(&cx.info.connection.local))
}

fn direct_local<'a>(cx: &FormatCx<'a>) -> Option<Peer<'a>> {
    Some(Peer::Address(&cx.info.connection.direct_local))
}

fn upstream<'a>(cx: &FormatCx<'a>) -> Option<Peer<'a>> {
    cx.info.upstream.address.as_ref().map(Peer::Address)
}

/// The other end of the connection, if there was one; the host may be known without.
fn upstream_remote<'a>(cx: &FormatCx<'a>) -> Option<Peer<'a>> {
    cx.info.upstream.connection_id.and_then(|_| upstream(cx))
}

/// The name that the cluster has in stats.
fn cluster(cx: &FormatCx<'_>, out: &mut Vec<u8>) -> bool {
    let upstream = &cx.info.upstream;
    text(upstream.cluster_alias.as_deref().or(upstream.cluster.as_deref()), out)
}

fn upstream_local<'a>(cx: &FormatCx<'a>) -> Option<Peer<'a>> {
    cx.info.upstream.local.map(Peer::Socket)
}

fn since_start(cx: &FormatCx<'_>, then: Option<Instant>) -> Option<Duration> {
    then.map(|then| cx.info.timing.since_start(then))
}

fn response_flags_long(cx: &FormatCx<'_>, out: &mut Vec<u8>) -> bool {
    for (index, flag) in cx.info.response_flags.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(flag.long().as_bytes());
    }
    // Compat: none is the text `-`, in JSON too.
    if cx.info.response_flags.is_empty() {
        out.push(b'-');
    }
    true
}

/// With white space made underscores, so that a field of a log line stays one.
pub(super) fn response_code_details(cx: &FormatCx<'_>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let is_there = text(cx.info.response_code_details.as_deref(), out);
    underscores(out, start, |c| c.is_ascii_whitespace() || c == 0x0b);
    is_there
}

fn requested_server_name(cx: &FormatCx<'_>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let is_there = text(cx.info.connection.server_name.as_deref().filter(is_some), out);
    underscores(out, start, |c| !c.is_ascii_alphanumeric() && c != b'.' && c != b'-');
    is_there
}

fn underscores(out: &mut [u8], start: usize, which: fn(u8) -> bool) {
    for c in out.get_mut(start..).unwrap_or_default() {
        if which(*c) {
            *c = b'_';
        }
    }
}

/// A random UUID (RFC 9562 §5.4).
fn unique_id(_: &FormatCx<'_>, out: &mut Vec<u8>) -> bool {
    let id = fastrand::u128(..) & !(0xf000 << 64) & !(0xc << 60) | 0x4000 << 64 | 0x8 << 60;
    let groups = [(96, 8), (80, 4), (64, 4), (48, 4), (0, 12)];
    groups.iter().enumerate().all(|(index, (shift, digits))| {
        let dash = if index > 0 { "-" } else { "" };
        let group = (id >> shift) & ((1 << (digits * 4)) - 1);
        write!(out, "{dash}{group:0width$x}", width = *digits as usize).is_ok()
    })
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

impl Side {
    fn of<'a>(self, cx: &FormatCx<'a>) -> Option<&'a TlsInfo> {
        match self {
            Self::Downstream => cx.info.connection.tls.get().map(|tls| &**tls),
            Self::Upstream => cx.info.upstream.tls.as_deref(),
        }
    }
}

fn peer<'a>(cx: &FormatCx<'a>, side: Side) -> Option<&'a CertificateInfo> {
    side.of(cx)?.peer_certificate()
}

fn tls_text(cx: &FormatCx<'_>, side: Side, out: &mut Vec<u8>, get: fn(&TlsInfo) -> &str) -> bool {
    text(side.of(cx).map(get).filter(is_some), out)
}

fn peer_text(cx: &FormatCx<'_>, side: Side, out: &mut Vec<u8>, get: fn(&CertificateInfo) -> &str) -> bool {
    text(peer(cx, side).map(get).filter(is_some), out)
}

/// Of the certificate that stands behind the peer's own in what it has sent.
fn issuer_text(cx: &FormatCx<'_>, side: Side, out: &mut Vec<u8>, get: fn(&CertificateInfo) -> &str) -> bool {
    let issuer = side.of(cx).and_then(|tls| tls.peer.get(1));
    text(issuer.map(|issuer| get(issuer)).filter(is_some), out)
}

/// Of all certificates that the peer has sent.
fn chain(cx: &FormatCx<'_>, side: Side, out: &mut Vec<u8>, get: fn(&CertificateInfo) -> &str) -> bool {
    let all = side.of(cx).map_or(&[][..], |tls| &tls.peer);
    listed(all.iter().map(|certificate| get(certificate)), out)
}

fn peer_names(cx: &FormatCx<'_>, side: Side, out: &mut Vec<u8>, get: fn(&CertificateInfo) -> &[Box<str>]) -> bool {
    listed(peer(cx, side).map_or(&[][..], get).iter().map(|name| &**name), out)
}

fn local_names(cx: &FormatCx<'_>, side: Side, out: &mut Vec<u8>, get: fn(&CertificateInfo) -> &[Box<str>]) -> bool {
    let own = side.of(cx).and_then(|tls| tls.local.as_deref());
    listed(own.map_or(&[][..], get).iter().map(|name| &**name), out)
}

/// With commas between; nothing when there are none.
fn listed<'a>(items: impl Iterator<Item = &'a str>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    for item in items {
        if out.len() > start {
            out.push(b',');
        }
        out.extend_from_slice(item.as_bytes());
    }
    out.len() > start
}

/// For filtering out empty text.
fn is_some(text: &&str) -> bool {
    !text.is_empty()
}

fn text(text: Option<&str>, out: &mut Vec<u8>) -> bool {
    let Some(text) = text else { return false };
    out.extend_from_slice(text.as_bytes());
    true
}

fn number(number: u64, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    true
}

fn size(size: Option<usize>) -> u64 {
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)
}
