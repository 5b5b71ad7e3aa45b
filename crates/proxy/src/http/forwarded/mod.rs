//! Who the client is, what is believed of it, and which fields it may not set: the connection manager's changes to
//! every request before it is routed.

mod client_certificate;
mod detection;

use super::{referer, request_id};
use crate::trace;
use client_certificate::ClientCertificate;
use detection::{Detected, Detection};
use sota_config::{
    address::CidrRange,
    bootstrap::NodeInfo,
    http::{HttpConnectionManager, InternalAddressConfig},
};
use sota_plugin::{
    http::{HeaderId, HeaderName, Protocol, RequestHead, Scheme, StatusCode},
    info::{PeerAddress, StreamInfo},
};
use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

/// The rules, as configured.
#[derive(Debug, Clone)]
pub struct ForwardedRules {
    use_remote_address: bool,
    trusted_hops: u32,
    skip_append: bool,
    detections: Box<[Detection]>,
    internal: InternalAddressConfig,
    map_ipv4: bool,
    append_port: bool,
    scheme: Option<Scheme>,
    /// Service cluster and node, with `add_user_agent`.
    user_agent: Option<(Box<str>, Box<str>)>,
    via: Box<str>,
    generate_request_id: bool,
    preserve_external_request_id: bool,
    pack_trace_reason: bool,
    local_address: IpAddr,
    client_certificate: ClientCertificate,
}

/// What a client that is not internal may not ask for.
const INTERNAL: [HeaderId; 13] = [
    HeaderId::XEnvoyRetriableStatusCodes,
    HeaderId::XEnvoyRetriableHeaderNames,
    HeaderId::XEnvoyRetryOn,
    HeaderId::XEnvoyRetryGrpcOn,
    HeaderId::XEnvoyMaxRetries,
    HeaderId::XEnvoyUpstreamAltStatName,
    HeaderId::XEnvoyUpstreamRqTimeoutMs,
    HeaderId::XEnvoyUpstreamRqPerTryTimeoutMs,
    HeaderId::XEnvoyUpstreamRqTimeoutAltResponse,
    HeaderId::XEnvoyExpectedRqTimeoutMs,
    HeaderId::XEnvoyForceTrace,
    HeaderId::XEnvoyIpTags,
    HeaderId::XEnvoyHedgeOnPerTryTimeout,
];

/// What a client at the edge of the mesh may not say.
const EDGE: [HeaderId; 5] = [
    HeaderId::XEnvoyDecoratorOperation,
    HeaderId::XEnvoyDownstreamServiceCluster,
    HeaderId::XEnvoyDownstreamServiceNode,
    HeaderId::XEnvoyOriginalHost,
    HeaderId::XEnvoyOriginalPath,
];

/// What a request was before a redirect that we followed ourselves. Nobody outside may say so.
pub(super) const ORIGINAL_URL: HeaderName = HeaderName::from_static("x-envoy-original-url");

impl ForwardedRules {
    /// As the connection manager is configured. `local_address`: this machine's, which stands for a client on it in
    /// `x-forwarded-for`.
    pub fn build(config: &HttpConnectionManager, node: &NodeInfo, local_address: IpAddr) -> Self {
        let user_agent = config.add_user_agent.then(|| (node.cluster.as_str().into(), node.id.as_str().into()));
        Self {
            use_remote_address: config.use_remote_address,
            trusted_hops: config.xff_num_trusted_hops,
            skip_append: config.skip_xff_append,
            detections: Detection::build_all(config),
            internal: config.internal_address_config.clone(),
            map_ipv4: config.represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            append_port: config.append_x_forwarded_port,
            scheme: config.scheme_override.as_deref().and_then(|scheme| Scheme::from_bytes(scheme.as_bytes())),
            user_agent,
            via: config.via.as_str().into(),
            generate_request_id: config.generate_request_id,
            preserve_external_request_id: config.preserve_external_request_id,
            pack_trace_reason: config.pack_trace_reason,
            local_address,
            client_certificate: ClientCertificate {
                mode: config.forward_client_cert,
                details: config.client_cert_details,
            },
        }
    }

    /// Changes the request, and notes the client's address, whether it is internal, and the request's id in `info`.
    /// `is_tls`: the client's connection is encrypted. `internal_only`: the route table's fields of that kind. Fails with
    /// the status of the answer when the client's address is not where it has to be.
    pub fn apply(
        &self,
        head: &mut RequestHead,
        info: &mut StreamInfo,
        is_tls: bool,
        internal_only: &[HeaderName],
    ) -> Result<(), StatusCode> {
        head.headers.remove(HeaderId::XEnvoyInternal);
        referer::sanitize(head);
        let (client, is_trusted) = self.client(head, info)?;
        self.scheme(head, info, is_tls);
        let is_internal = is_trusted && client.as_ref().is_some_and(|client| is_internal(&self.internal, client));
        let client = client.unwrap_or_else(|| info.connection.remote.clone());
        let is_edge = self.use_remote_address && !is_internal;
        self.internal_fields(head, is_internal, is_edge, internal_only);
        self.client_certificate.apply(head, &info.connection);
        if !self.via.is_empty() {
            let _ = head.headers.append_to(HeaderId::Via, ", ", self.via.as_bytes());
        }
        if is_edge && let Some(ip) = client.ip() {
            head.headers.set_sanitized(HeaderId::XEnvoyExternalAddress, IpText::new(ip).as_bytes());
        }
        if self.generate_request_id {
            request_id::set(head, is_edge && !self.preserve_external_request_id);
            if is_edge && self.preserve_external_request_id && self.pack_trace_reason {
                trace::forget_reason(head);
            }
        }
        info.request_id = head.headers.get_str(HeaderId::XRequestId).map(Into::into);
        info.is_internal = is_internal;
        info.remote = if client == info.connection.remote { None } else { Some(client) };
        Ok(())
    }

    /// The client as far as `x-forwarded-for` is trusted, and whether it may count as internal; appends the peer.
    fn client(&self, head: &mut RequestHead, info: &StreamInfo) -> Result<(Option<PeerAddress>, bool), StatusCode> {
        join_forwarded_for(head);
        let forwarded = head.headers.get(HeaderId::XForwardedFor);
        if !self.use_remote_address {
            if self.detections.is_empty() {
                return Ok(last_address(forwarded.unwrap_or_default(), self.trusted_hops));
            }
            return self.detect(head, info);
        }
        let is_first = forwarded.is_none();
        let named = self.trusted_hops.checked_sub(1);
        let named = named.and_then(|skip| last_address(forwarded.unwrap_or_default(), skip).0);
        if !self.skip_append {
            self.append_peer(head, info);
        }
        Ok((Some(named.unwrap_or_else(|| info.connection.remote.clone())), is_first))
    }

    /// The same by the configured detections.
    fn detect(&self, head: &mut RequestHead, info: &StreamInfo) -> Result<(Option<PeerAddress>, bool), StatusCode> {
        for detection in &self.detections {
            let Detected { address, is_trusted, append } = detection.find(head, info)?;
            if append {
                self.append_peer(head, info);
            }
            if address.is_some() {
                return Ok((address, is_trusted));
            }
        }
        Ok((None, false))
    }

    /// Appends the peer's address to `x-forwarded-for`.
    fn append_peer(&self, head: &mut RequestHead, info: &StreamInfo) {
        let Some(peer) = info.connection.remote.ip() else { return };
        let shown = match peer {
            _ if peer.is_loopback() => self.local_address,
            IpAddr::V4(ip) if self.map_ipv4 => IpAddr::V6(ip.to_ipv6_mapped()),
            other => other,
        };
        let _ = head.headers.append_to(HeaderId::XForwardedFor, ",", IpText::new(shown).as_bytes());
    }

    /// `x-forwarded-proto`, `x-forwarded-port` and the scheme.
    fn scheme(&self, head: &mut RequestHead, info: &StreamInfo, is_tls: bool) {
        let own = if is_tls { Scheme::Https } else { Scheme::Http };
        let untrusted = self.use_remote_address && self.trusted_hops == 0;
        if untrusted || !head.headers.contains(HeaderId::XForwardedProto) {
            head.headers.set_sanitized(HeaderId::XForwardedProto, own.as_str());
        }
        if self.append_port
            && (untrusted || !head.headers.contains(HeaderId::XForwardedPort))
            && let Some(port) = info.connection.local.port()
        {
            head.headers.set_sanitized(HeaderId::XForwardedPort, itoa::Buffer::new().format(port));
        }
        if let Some(scheme) = self.scheme {
            head.headers.set_sanitized(HeaderId::XForwardedProto, scheme.as_str());
        }
        // A scheme that the request itself names stays: that of HTTP/2 or of an absolute-form target. Of the latter,
        // `http` looks like none and makes a difference only where `x-forwarded-proto` says otherwise.
        let is_named = head.protocol == Protocol::Http2 || head.scheme == Scheme::Https;
        let forwarded = Scheme::from_bytes(head.headers.get(HeaderId::XForwardedProto).unwrap_or_default());
        if self.scheme.is_some() || !is_named {
            head.scheme = forwarded.unwrap_or(own);
        }
    }

    fn internal_fields(&self, head: &mut RequestHead, is_internal: bool, is_edge: bool, internal_only: &[HeaderName]) {
        if is_internal {
            head.headers.set_sanitized(HeaderId::XEnvoyInternal, "true");
        } else {
            if is_edge {
                for id in EDGE {
                    head.headers.remove(id);
                }
            }
            for id in INTERNAL {
                head.headers.remove(id);
            }
            head.headers.remove(&ORIGINAL_URL);
            for name in internal_only {
                head.headers.remove(name);
            }
        }
        if let Some((cluster, node)) = &self.user_agent {
            head.headers.set_sanitized(HeaderId::XEnvoyDownstreamServiceCluster, cluster.as_bytes());
            if head.headers.get(HeaderId::UserAgent).unwrap_or_default().is_empty() {
                head.headers.set_sanitized(HeaderId::UserAgent, cluster.as_bytes());
            }
            if !node.is_empty() {
                head.headers.set_sanitized(HeaderId::XEnvoyDownstreamServiceNode, node.as_bytes());
            }
        }
    }
}

/// Of several `x-forwarded-for` fields one is made, so that nobody reads another one than we did.
fn join_forwarded_for(head: &mut RequestHead) {
    let mut values = head.headers.get_all(HeaderId::XForwardedFor);
    if values.next().is_none() || values.next().is_none() {
        return;
    }
    drop(values);
    if let Some(joined) = head.headers.get_joined(HeaderId::XForwardedFor).map(std::borrow::Cow::into_owned) {
        head.headers.set_sanitized(HeaderId::XForwardedFor, joined);
    }
}

/// The last address of the list, after the last `skip` ones were left out; and whether it was the only one. `None` when
/// there is no such address, or no address stands there.
fn last_address(list: &[u8], skip: u32) -> (Option<PeerAddress>, bool) {
    if list.is_empty() {
        return (None, false);
    }
    let mut rest = list;
    for _ in 0..skip {
        match memchr::memrchr(b',', rest).and_then(|comma| rest.get(..comma)) {
            Some(before) => rest = before,
            None => return (None, false),
        }
    }
    let comma = memchr::memrchr(b',', rest);
    // Compat: a list that ends with a comma is taken as a whole, and so is no address.
    let last = comma.and_then(|comma| rest.get(comma + 1..)).filter(|last| !last.is_empty()).unwrap_or(rest);
    let address = std::str::from_utf8(last.trim_ascii()).ok().and_then(|text| text.parse::<IpAddr>().ok());
    let is_single = address.is_some() && comma.is_none() && skip == 0;
    (address.map(|ip| PeerAddress::Ip(SocketAddr::new(ip, 0))), is_single)
}

fn is_internal(config: &InternalAddressConfig, address: &PeerAddress) -> bool {
    match address.ip() {
        Some(ip) => config.cidr_ranges.iter().any(|range: &CidrRange| range.contains(&ip)),
        None => config.unix_sockets,
    }
}

/// An address as text, without an allocation.
struct IpText {
    text: smallvec::SmallVec<[u8; 48]>,
}

impl IpText {
    fn new(ip: IpAddr) -> Self {
        let mut text = Self { text: smallvec::SmallVec::new() };
        // Writing into memory does not fail.
        let _ = write!(text, "{ip}");
        text
    }

    fn as_bytes(&self) -> &[u8] {
        &self.text
    }
}

impl std::fmt::Write for IpText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.text.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
