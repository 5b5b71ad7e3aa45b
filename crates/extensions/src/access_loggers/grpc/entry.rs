//! Entries as protobuf (`envoy.data.accesslog.v3`).

use sota_codec::protobuf::Message;
use sota_config::{Node, Value};
use sota_plugin::{
    access_log::{LogEntry, LogKind},
    http::{HeaderId, Headers, Method, Protocol},
    info::{CertificateInfo, PeerAddress, ResponseFlag, StreamInfo, TlsInfo},
};
use std::time::{Duration, Instant, SystemTime};

/// What entries say beside what they always do. Names of fields are in lower case.
pub(super) struct EntryWriter {
    pub(super) request_headers: Vec<String>,
    pub(super) response_headers: Vec<String>,
    pub(super) response_trailers: Vec<String>,
    pub(super) filter_state: Vec<String>,
}

impl EntryWriter {
    /// An `HTTPAccessLogEntry`.
    pub(super) fn http(&self, entry: &LogEntry<'_>) -> Vec<u8> {
        let info = entry.info;
        let mut out = Message::new();
        out.message(1, |out| self.common(out, entry));
        out.uint(2, protocol(info.protocol));
        out.message(3, |out| self.request(out, entry));
        out.message(4, |out| self.response(out, entry));
        out.into_bytes()
    }

    /// A `TCPAccessLogEntry`.
    pub(super) fn tcp(&self, entry: &LogEntry<'_>) -> Vec<u8> {
        let mut out = Message::new();
        out.message(1, |out| self.common(out, entry));
        out.message(2, |out| {
            out.uint(1, entry.info.bytes_received).uint(2, entry.info.bytes_sent);
        });
        out.into_bytes()
    }

    /// An `AccessLogCommon`.
    fn common(&self, out: &mut Message, entry: &LogEntry<'_>) {
        let info = entry.info;
        let (connection, upstream, timing) = (&*info.connection, &info.upstream, &info.timing);
        out.message(2, |out| address(out, info.remote()));
        out.message(3, |out| address(out, &connection.local));
        if let Some(tls) = connection.tls.get() {
            out.message(4, |out| tls_properties(out, tls));
        }
        out.message(5, |out| timestamp(out, info.start_time));
        let mut since = |field: u32, at: Option<Instant>| {
            if let Some(at) = at {
                out.message(field, |out| duration(out, timing.since_start(at)));
            }
        };
        since(6, timing.request_end);
        since(7, timing.upstream_first_tx);
        since(8, timing.upstream_last_tx);
        since(9, timing.upstream_first_rx);
        since(10, timing.upstream_last_rx);
        since(11, timing.downstream_first_tx);
        since(12, timing.downstream_last_tx);
        if let Some(host) = &upstream.address {
            out.message(13, |out| address(out, host));
        }
        if let Some(local) = upstream.local {
            out.message(14, |out| address(out, &PeerAddress::Ip(local)));
        }
        out.string(15, upstream.cluster.as_deref().unwrap_or_default());
        if !info.response_flags.is_empty() {
            out.message(16, |out| flags(out, info));
        }
        if !info.metadata.is_empty() {
            out.message(17, |out| {
                for (namespace, tree) in info.metadata.iter() {
                    pair(out, 1, namespace, |out| structure(out, tree));
                }
            });
        }
        out.string(18, upstream.transport_failure_reason.as_deref().unwrap_or_default());
        out.string(19, info.route.as_ref().map_or("", |route| route.name()));
        out.message(20, |out| address(out, connection.direct_remote()));
        for name in &self.filter_state {
            let connection_state = connection.filter_state.borrow();
            let text = info.filter_state.text(name).or_else(|| connection_state.text(name));
            if let Some(text) = text {
                // An `Any` with a `StringValue`.
                pair(out, 21, name, |out| {
                    out.string(1, "type.googleapis.com/google.protobuf.StringValue").message(2, |out| {
                        out.string(1, &text);
                    });
                });
            }
        }
        out.message(23, |out| duration(out, info.duration()));
        out.uint(24, upstream.attempts.into());
        out.string(25, connection.termination_details.borrow().as_deref().unwrap_or_default());
        out.string(26, info.request_id.as_deref().unwrap_or_default());
        let goes_on = matches!(
            entry.kind,
            LogKind::DownstreamStart
                | LogKind::DownstreamPeriodic
                | LogKind::TcpPeriodic
                | LogKind::TcpUpstreamConnected
        );
        out.uint(27, goes_on.into());
        out.string(28, connection.transport_failure_reason.get().map_or("", |reason| reason));
        out.uint(29, info.downstream_wire_bytes_sent).uint(30, info.downstream_wire_bytes_received);
        out.uint(31, upstream.wire_bytes_sent).uint(32, upstream.wire_bytes_received);
        out.uint(33, kind(entry.kind));
    }

    /// `HTTPRequestProperties`.
    fn request(&self, out: &mut Message, entry: &LogEntry<'_>) {
        let Some(head) = entry.request else { return };
        let text = |id: HeaderId| head.headers.get(id).map(String::from_utf8_lossy).unwrap_or_default();
        out.uint(1, method(&head.method));
        out.string(2, head.scheme.as_str());
        out.string(3, &String::from_utf8_lossy(head.authority()));
        out.string(5, &String::from_utf8_lossy(head.path()));
        out.string(6, &text(HeaderId::UserAgent)).string(7, &text(HeaderId::Referer));
        out.string(8, &text(HeaderId::XForwardedFor)).string(9, &text(HeaderId::XRequestId));
        out.string(10, &text(HeaderId::XEnvoyOriginalPath));
        out.uint(11, head.byte_size() as u64).uint(12, entry.info.bytes_received);
        for name in &self.request_headers {
            if let Some(value) = head.get(name.as_bytes()) {
                text_pair(out, 13, name, value);
            }
        }
        out.uint(14, entry.info.upstream.header_bytes_sent).uint(15, entry.info.downstream_header_bytes_received);
    }

    /// `HTTPResponseProperties`.
    fn response(&self, out: &mut Message, entry: &LogEntry<'_>) {
        let info = entry.info;
        if let Some(status) = info.response_code {
            out.message(1, |out| {
                out.uint(1, status.as_u16().into());
            });
        }
        if let Some(head) = entry.response {
            out.uint(2, head.byte_size() as u64);
            fields(out, 4, &head.headers, &self.response_headers);
        }
        out.uint(3, info.bytes_sent);
        if let Some(trailers) = entry.response_trailers {
            fields(out, 5, trailers, &self.response_trailers);
        }
        out.string(6, info.response_code_details.as_deref().unwrap_or_default());
        out.uint(7, info.upstream.header_bytes_received).uint(8, info.downstream_header_bytes_sent);
    }
}

fn fields(out: &mut Message, field: u32, headers: &Headers, names: &[String]) {
    for name in names {
        if let Some(value) = headers.get_joined(name.as_str()) {
            text_pair(out, field, name, &value);
        }
    }
}

/// An entry of a map of texts.
fn text_pair(out: &mut Message, field: u32, name: &str, value: &[u8]) {
    out.message(field, |out| {
        out.string(1, name).string(2, &String::from_utf8_lossy(value));
    });
}

/// An entry of a map of messages.
fn pair(out: &mut Message, field: u32, name: &str, value: impl FnOnce(&mut Message)) {
    out.message(field, |out| {
        out.string(1, name).message(2, value);
    });
}

/// A `google.protobuf.Duration`.
fn duration(out: &mut Message, time: Duration) {
    out.uint(1, time.as_secs()).uint(2, time.subsec_nanos().into());
}

/// A `google.protobuf.Timestamp`.
fn timestamp(out: &mut Message, time: SystemTime) {
    duration(out, time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
}

/// An `envoy.config.core.v3.Address`.
fn address(out: &mut Message, address: &PeerAddress) {
    match address {
        PeerAddress::Ip(address) => {
            out.message(1, |out| {
                out.string(2, &address.ip().to_string()).uint(3, address.port().into());
            });
        }
        PeerAddress::Pipe(path) => {
            out.message(2, |out| {
                out.string(1, &path.to_string_lossy());
            });
        }
    }
}

fn tls_properties(out: &mut Message, tls: &TlsInfo) {
    let version = match tls.version {
        "TLSv1.2" => 3,
        "TLSv1.3" => 4,
        _ => 0,
    };
    out.uint(1, version);
    if let Some(suite) = cipher_suite(tls.cipher) {
        out.message(2, |out| {
            out.uint(1, suite);
        });
    }
    out.string(3, &tls.server_name);
    if let Some(local) = &tls.local {
        out.message(4, |out| certificate(out, local));
    }
    if let Some(peer) = tls.peer_certificate() {
        out.message(5, |out| certificate(out, peer));
    }
}

/// The registered number of a cipher suite, by OpenSSL's name.
fn cipher_suite(name: &str) -> Option<u64> {
    Some(match name {
        "TLS_AES_128_GCM_SHA256" => 0x1301,
        "TLS_AES_256_GCM_SHA384" => 0x1302,
        "TLS_CHACHA20_POLY1305_SHA256" => 0x1303,
        "ECDHE-ECDSA-AES128-GCM-SHA256" => 0xc02b,
        "ECDHE-ECDSA-AES256-GCM-SHA384" => 0xc02c,
        "ECDHE-RSA-AES128-GCM-SHA256" => 0xc02f,
        "ECDHE-RSA-AES256-GCM-SHA384" => 0xc030,
        "ECDHE-RSA-CHACHA20-POLY1305" => 0xcca8,
        "ECDHE-ECDSA-CHACHA20-POLY1305" => 0xcca9,
        _ => return None,
    })
}

/// `CertificateProperties`.
fn certificate(out: &mut Message, certificate: &CertificateInfo) {
    for name in &certificate.uri_sans {
        out.message(1, |out| {
            out.string(1, name);
        });
    }
    for name in &certificate.dns_sans {
        out.message(1, |out| {
            out.string(2, name);
        });
    }
    out.string(2, &certificate.subject).string(3, &certificate.issuer);
}

/// `ResponseFlags`.
fn flags(out: &mut Message, info: &StreamInfo) {
    use ResponseFlag as F;
    const FIELDS: [(F, u32); 26] = [
        (F::FailedLocalHealthCheck, 1),
        (F::NoHealthyUpstream, 2),
        (F::UpstreamRequestTimeout, 3),
        (F::LocalReset, 4),
        (F::UpstreamRemoteReset, 5),
        (F::UpstreamConnectionFailure, 6),
        (F::UpstreamConnectionTermination, 7),
        (F::UpstreamOverflow, 8),
        (F::NoRouteFound, 9),
        (F::DelayInjected, 10),
        (F::FaultInjected, 11),
        (F::RateLimited, 12),
        (F::RateLimitServiceError, 14),
        (F::DownstreamConnectionTermination, 15),
        (F::UpstreamRetryLimitExceeded, 16),
        (F::StreamIdleTimeout, 17),
        (F::InvalidEnvoyRequestHeaders, 18),
        (F::DownstreamProtocolError, 19),
        (F::UpstreamMaxStreamDurationReached, 20),
        (F::ResponseFromCacheFilter, 21),
        (F::NoFilterConfigFound, 22),
        (F::DurationTimeout, 23),
        (F::UpstreamProtocolError, 24),
        (F::NoClusterFound, 25),
        (F::DnsResolutionFailed, 27),
        (F::DownstreamRemoteReset, 28),
    ];
    for (flag, field) in FIELDS {
        out.uint(field, info.response_flags.has(flag).into());
    }
    if info.response_flags.has(F::UnauthorizedExternalService) {
        // The reason of an external service.
        out.message(13, |out| {
            out.uint(1, 1);
        });
    }
}

fn protocol(protocol: Option<Protocol>) -> u64 {
    match protocol {
        None => 0,
        Some(Protocol::Http10) => 1,
        Some(Protocol::Http11) => 2,
        Some(Protocol::Http2) => 3,
    }
}

/// `RequestMethod`.
fn method(method: &Method) -> u64 {
    match method.as_str() {
        "GET" => 1,
        "HEAD" => 2,
        "POST" => 3,
        "PUT" => 4,
        "DELETE" => 5,
        "CONNECT" => 6,
        "OPTIONS" => 7,
        "TRACE" => 8,
        "PATCH" => 9,
        _ => 0,
    }
}

/// `AccessLogType`.
const fn kind(kind: LogKind) -> u64 {
    match kind {
        LogKind::NotSet => 0,
        LogKind::TcpUpstreamConnected => 1,
        LogKind::TcpPeriodic => 2,
        LogKind::TcpConnectionEnd => 3,
        LogKind::DownstreamStart => 4,
        LogKind::DownstreamPeriodic => 5,
        LogKind::DownstreamEnd => 6,
        LogKind::UpstreamEnd => 9,
    }
}

/// A `google.protobuf.Struct`.
fn structure(out: &mut Message, tree: &Node) {
    for (key, value) in tree.pairs() {
        pair(out, 1, key, |out| self::value(out, value));
    }
}

/// A `google.protobuf.Value`.
fn value(out: &mut Message, node: &Node) {
    match &node.value {
        Value::Map(_) => {
            out.message(5, |out| structure(out, node));
        }
        Value::List(items) => {
            out.message(6, |out| {
                for item in items {
                    out.message(1, |out| value(out, item));
                }
            });
        }
        _ => {
            if let Some(flag) = node.as_bool() {
                out.always_uint(4, flag.into());
            } else if let Some(text) = node.as_str() {
                out.always_bytes(3, text.as_bytes());
            } else if let Some(number) = node.as_f64() {
                out.double(2, number);
            } else {
                out.always_uint(1, 0);
            }
        }
    }
}
