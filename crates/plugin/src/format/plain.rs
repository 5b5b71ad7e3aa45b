//! What the operators without arguments print.

use super::{
    FormatCx,
    operator::{Part, Plain, Side},
    render::{number, text},
};
use crate::{
    http::Headers,
    info::{CertificateInfo, PeerAddress, TlsInfo, UpstreamAttempt},
};
use std::{
    io::Write,
    net::SocketAddr,
    time::{Duration, Instant},
};

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

impl Peer<'_> {
    pub(super) fn socket(self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => address.socket_address(),
            Self::Socket(socket) => Some(socket),
        }
    }

    pub(super) fn write(self, part: Part, out: &mut Vec<u8>) -> bool {
        match (part, self.socket(), self) {
            (Part::All, Some(socket), _) => write!(out, "{socket}").is_ok(),
            (Part::WithoutPort, Some(socket), _) => write!(out, "{}", socket.ip()).is_ok(),
            (Part::Port, Some(socket), _) => number(socket.port().into(), out),
            (Part::All | Part::WithoutPort, None, Self::Address(address)) => write!(out, "{address}").is_ok(),
            _ => false,
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
    Some(Peer::Address(cx.info.connection.direct_remote()))
}

fn local<'a>(cx: &FormatCx<'a>) -> Option<Peer<'a>> {
    Some(Peer::Address(&cx.info.connection.local))
}

fn direct_local<'a>(cx: &FormatCx<'a>) -> Option<Peer<'a>> {
    Some(Peer::Address(cx.info.connection.direct_local()))
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

impl Side {
    fn of<'a>(self, cx: &FormatCx<'a>) -> Option<&'a TlsInfo> {
        match self {
            Self::Downstream => cx.info.connection.tls.get().map(|tls| &**tls),
            Self::Upstream => cx.info.upstream.tls.as_deref(),
        }
    }
}

pub(super) fn peer<'a>(cx: &FormatCx<'a>, side: Side) -> Option<&'a CertificateInfo> {
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

fn size(size: Option<usize>) -> u64 {
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)
}
