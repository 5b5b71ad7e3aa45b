//! Transport sockets: plain TCP, or TLS (`envoy.extensions.transport_sockets.tls.v3`).

mod secret;
mod validation;

pub(super) use secret::secret;

use super::{context::Cx, data_source::data_source, extension::message_name};
use secret::{secret_ref, tls_certificate};
use sota_config::{
    Node,
    tls::{
        CertificateSource, CommonTls, DownstreamTls, KeyLog, TicketKeySource, TlsParams, TlsVersion, TransportMatch,
        UpstreamProxyProtocol, UpstreamTls,
    },
};
use std::sync::Arc;
use validation::validation_context;

const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const DOWNSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const PROXY_PROTOCOL: &str = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";

/// The ciphers that TLS 1.2 has here, by their OpenSSL names. The message table of the data plane has the same.
const CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
];
const CURVES: [&str; 4] = ["X25519", "P-256", "P-384", "X25519MLKEM768"];

/// The `transport_socket` of a filter chain; `None` is plain TCP.
pub(super) fn downstream(cx: &mut Cx<'_>, node: &Node) -> Option<Arc<DownstreamTls>> {
    transport_socket(cx, node, DOWNSTREAM, |cx, node| Arc::new(downstream_tls(cx, node)))
}

/// The transport of hosts: TLS or else plain TCP, and what is said before it.
pub(super) type UpstreamTransport = (Option<Arc<UpstreamTls>>, Option<Arc<UpstreamProxyProtocol>>);

/// The `transport_socket` of a cluster.
pub(super) fn upstream(cx: &mut Cx<'_>, node: &Node) -> UpstreamTransport {
    let socket = node.field("transport_socket");
    if message_name(socket) != Some(PROXY_PROTOCOL) {
        return (upstream_inside(cx, node), None);
    }
    let mut transport = None;
    let proxy_protocol = cx.with("transport_socket", |cx| {
        cx.optional(socket, "typed_config", |cx, node| {
            transport = upstream_inside(cx, node);
            Some(Arc::new(upstream_proxy_protocol(cx, node.field("config"))))
        })
    });
    (transport, proxy_protocol)
}

fn upstream_inside(cx: &mut Cx<'_>, node: &Node) -> Option<Arc<UpstreamTls>> {
    transport_socket(cx, node, UPSTREAM, |cx, node| Arc::new(upstream_tls(cx, node)))
}

/// `envoy.config.core.v3.ProxyProtocolConfig`.
pub(super) fn upstream_proxy_protocol(cx: &mut Cx<'_>, node: &Node) -> UpstreamProxyProtocol {
    let is_v2 = node.str("version") == "V2";
    let octet = |number: Option<u32>| number.and_then(|number| u8::try_from(number).ok());
    let pass_through_tlvs = match node.get("pass_through_tlvs") {
        None => Some(Vec::new()),
        Some(pass) if pass.str("match_type") == "INCLUDE" => {
            let types = pass.list("tlv_type").iter();
            Some(types.filter_map(|kind| octet(u32::try_from(kind.as_u64()?).ok())).collect())
        }
        Some(_) => None,
    };
    let added_tlvs = cx.each(node, "added_tlvs", |cx, entry| {
        let Some(kind) = octet(entry.u32("type")) else {
            cx.field_error(entry, "type", "a number from 0 to 255 is expected here");
            return None;
        };
        Some((kind, entry.get("value").and_then(Node::as_bytes).unwrap_or_default().into()))
    });
    if !is_v2 && (!added_tlvs.is_empty() || node.has("pass_through_tlvs")) {
        cx.field_error(node, "version", "version 1 has no type-length-values: write V2");
    }
    UpstreamProxyProtocol { is_v2, pass_through_tlvs, added_tlvs }
}

/// `TransportSocketMatch`.
pub(super) fn transport_match(cx: &mut Cx<'_>, node: &Node) -> Option<TransportMatch> {
    let criteria = node.field("match").pairs().iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
    let (transport, proxy_protocol) = upstream(cx, node);
    Some(TransportMatch { name: node.str("name").to_owned(), criteria, transport, proxy_protocol })
}

/// Anything else than plain TCP and TLS is told: it would silently send in the clear what must not be.
fn transport_socket<T>(
    cx: &mut Cx<'_>,
    node: &Node,
    wanted: &str,
    read: impl FnOnce(&mut Cx<'_>, &Node) -> T,
) -> Option<T> {
    let socket = node.get("transport_socket")?;
    cx.with("transport_socket", |cx| match message_name(socket) {
        Some(RAW_BUFFER) => None,
        Some(found) if found == wanted => {
            let findings = cx.findings();
            let made = cx.optional(socket, "typed_config", |cx, node| Some(read(cx, node)));
            // With certificates that this host lacks nothing can be built, and with this option nothing is served.
            made.filter(|_| !cx.options.elsewhere || cx.findings() == findings)
        }
        None if matches!(socket.str("name"), "envoy.transport_sockets.raw_buffer" | "raw_buffer") => None,
        _ if cx.is_refused() => None,
        Some(DOWNSTREAM | UPSTREAM) => {
            cx.error(socket.mark, format!("a configuration of the type {wanted} belongs here"));
            None
        }
        _ => {
            let name = socket.str("name").escape_debug();
            cx.error(socket.mark, format!("the transport socket \"{name}\" is not supported"));
            None
        }
    })
}

fn downstream_tls(cx: &mut Cx<'_>, node: &Node) -> DownstreamTls {
    let common = cx.optional(node, "common_tls_context", |cx, node| Some(common(cx, node, true))).unwrap_or_default();
    if common.certificates.is_empty() && !cx.is_refused() {
        cx.field_error(node, "common_tls_context", "no certificates are given: a server needs one");
    }
    let inline = cx.optional(node, "session_ticket_keys", |cx, node| {
        Some(TicketKeySource::Inline(cx.each(node, "keys", data_source)))
    });
    let named = cx.optional(node, "session_ticket_keys_sds_secret_config", secret_ref).map(TicketKeySource::Secret);
    DownstreamTls {
        common,
        require_client_certificate: node.bool("require_client_certificate"),
        require_sni: node.bool("require_sni"),
        session_ticket_keys: inline.or(named),
        disable_stateless_resumption: node.bool("disable_stateless_session_resumption"),
        disable_stateful_resumption: node.bool("disable_stateful_session_resumption"),
        session_timeout: cx.duration(node, "session_timeout"),
        full_scan_certs_on_sni_mismatch: node.bool("full_scan_certs_on_sni_mismatch"),
        prefer_client_ciphers: node.bool("prefer_client_ciphers"),
    }
}

fn upstream_tls(cx: &mut Cx<'_>, node: &Node) -> UpstreamTls {
    let common = cx.optional(node, "common_tls_context", |cx, node| Some(common(cx, node, false))).unwrap_or_default();
    let has_ca = common.validation_secret.is_some()
        || common.validation.as_ref().is_some_and(|v| v.trusted_ca.is_some() || v.system_roots || v.spiffe.is_some());
    let auto_sni_san_validation = node.bool("auto_sni_san_validation");
    if auto_sni_san_validation && !has_ca {
        cx.field_error(node, "auto_sni_san_validation", "it needs a trusted_ca");
    }
    if common.certificates.len() > 1 {
        cx.field_error(node, "common_tls_context", "a client has one certificate at most");
    }
    UpstreamTls {
        common,
        sni: node.str("sni").to_owned(),
        auto_host_sni: node.bool("auto_host_sni"),
        auto_sni_san_validation,
        checks_request_name: false,
        max_session_keys: node.u32("max_session_keys"),
    }
}

fn common(cx: &mut Cx<'_>, node: &Node, is_server: bool) -> CommonTls {
    let inline = cx.each(node, "tls_certificates", tls_certificate);
    let mut certificates: Vec<_> = inline.into_iter().map(CertificateSource::Inline).collect();
    let secrets = cx.each(node, "tls_certificate_sds_secret_configs", secret_ref);
    certificates.extend(secrets.into_iter().map(CertificateSource::Secret));
    let mut validation = cx.optional(node, "validation_context", validation_context);
    let mut validation_secret = cx.optional(node, "validation_context_sds_secret_config", secret_ref);
    cx.optional(node, "combined_validation_context", |cx, node| -> Option<()> {
        validation = cx.optional(node, "default_validation_context", validation_context);
        validation_secret = cx.optional(node, "validation_context_sds_secret_config", secret_ref);
        None
    });
    if validation_secret.is_none()
        && let Some(context) = &validation
    {
        let has_ca = context.trusted_ca.is_some() || context.system_roots || context.spiffe.is_some();
        if !has_ca && !context.san_matchers.is_empty() && !context.accept_untrusted && !cx.is_refused() {
            let reason = "names without a trusted_ca prove nothing: anybody can write them into a certificate";
            cx.field_error(node, "validation_context", reason);
        }
        if !has_ca && context.allow_expired && !cx.is_refused() {
            cx.field_error(node, "validation_context", "allow_expired_certificate needs a trusted_ca");
        }
    }
    let alpn_protocols = node.strings("alpn_protocols");
    if alpn_protocols.iter().any(|protocol| protocol.is_empty() || protocol.len() > 255) {
        cx.field_error(node, "alpn_protocols", "a protocol has from 1 to 255 octets");
    }
    CommonTls {
        params: cx.optional(node, "tls_params", |cx, node| Some(params(cx, node, is_server))).unwrap_or_default(),
        certificates,
        validation,
        validation_secret,
        alpn_protocols,
        key_log: cx.optional(node, "key_log", |_, node| Some(KeyLog { path: node.str("path").into() })),
    }
}

fn params(cx: &mut Cx<'_>, node: &Node, is_server: bool) -> TlsParams {
    let version = |key: &str| match node.str(key) {
        "TLSv1_2" => Some(TlsVersion::V1_2),
        "TLSv1_3" => Some(TlsVersion::V1_3),
        _ => None,
    };
    let (min_version, max_version) = (version("tls_minimum_protocol_version"), version("tls_maximum_protocol_version"));
    let default_max = if is_server { TlsVersion::V1_3 } else { TlsVersion::V1_2 };
    if min_version.unwrap_or(TlsVersion::V1_2) > max_version.unwrap_or(default_max) && !cx.is_refused() {
        cx.field_error(node, "tls_maximum_protocol_version", "it is lower than tls_minimum_protocol_version");
    }
    TlsParams {
        min_version,
        max_version,
        cipher_suites: known(cx, node, "cipher_suites", &CIPHERS),
        ecdh_curves: known(cx, node, "ecdh_curves", &CURVES),
    }
}

/// The names of a list that are known here. Others are left out with a warning, as long as some remain: that allows less
/// than was asked for, never more. `[a|b]` names ciphers of equal rank; an order of equals does no harm.
fn known(cx: &mut Cx<'_>, node: &Node, key: &str, names: &[&str]) -> Vec<String> {
    let asked: Vec<String> = node
        .strings(key)
        .iter()
        .flat_map(|item| {
            item.trim_start_matches('[').trim_end_matches(']').split('|').map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    let (found, lacking): (Vec<_>, Vec<_>) = asked.into_iter().partition(|name| names.contains(&name.as_str()));
    if !lacking.is_empty() {
        let lacking = lacking.join(", ");
        let lacking = lacking.escape_debug();
        if found.is_empty() {
            cx.field_error(node, key, format!("none of these is supported: {lacking}; there are {}", names.join(", ")));
        } else {
            cx.field_warning(node, key, format!("not supported and left out: {lacking}"));
        }
    }
    found
}
