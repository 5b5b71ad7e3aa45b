//! TLS on connections of clients and to hosts (`envoy.extensions.transport_sockets.tls.v3`).

use crate::{
    matcher::StringMatcher,
    node::Node,
    secret::{DataSource, SecretRef, TlsCertificate},
};
use std::{path::PathBuf, time::Duration};

/// `DownstreamTlsContext`: the server's side.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DownstreamTls {
    /// What both sides have.
    pub common: CommonTls,
    /// A client without a certificate is refused.
    pub require_client_certificate: bool,
    /// A client that names no server is refused.
    pub require_sni: bool,
    /// Keys that protect tickets; without any they are made at random and live as long as the process.
    pub session_ticket_keys: Option<TicketKeySource>,
    /// No tickets.
    pub disable_stateless_resumption: bool,
    /// No sessions kept in memory.
    pub disable_stateful_resumption: bool,
    /// How long a session may be resumed; default 2 hours.
    pub session_timeout: Option<Duration>,
    /// For a name that no certificate has: look for one whose key the client can verify instead of taking the first.
    pub full_scan_certs_on_sni_mismatch: bool,
    /// The client's order of ciphers counts.
    pub prefer_client_ciphers: bool,
}

/// Where keys of session tickets are from.
#[derive(Debug, Clone, PartialEq)]
pub enum TicketKeySource {
    /// The document: each is 80 octets; the first one encrypts.
    Inline(Vec<DataSource>),
    /// A secret.
    Secret(SecretRef),
}

/// `UpstreamTlsContext`: the client's side.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpstreamTls {
    /// What both sides have.
    pub common: CommonTls,
    /// The server name to send; empty: none.
    pub sni: String,
    /// Send the host's name instead, where it has one.
    pub auto_host_sni: bool,
    /// The certificate must have the name that was sent.
    pub auto_sni_san_validation: bool,
    /// The certificate must have the host that the request names, address or name (`auto_san_validation` of the
    /// cluster's HTTP options).
    pub checks_request_name: bool,
    /// Sessions kept for resumption; default 1, 0 keeps none.
    pub max_session_keys: Option<u32>,
}

/// `CommonTlsContext`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CommonTls {
    /// Versions, ciphers and curves.
    pub params: TlsParams,
    /// Certificates of this side.
    pub certificates: Vec<CertificateSource>,
    /// How the peer's certificate is checked: what the document says, and what a secret adds to it.
    pub validation: Option<ValidationContext>,
    /// The secret with (the rest of) the validation context.
    pub validation_secret: Option<SecretRef>,
    /// Application protocols, the preferred one first.
    pub alpn_protocols: Vec<String>,
    /// Where secrets of sessions are written, for debugging.
    pub key_log: Option<KeyLog>,
}

/// Where a certificate is from.
#[derive(Debug, Clone, PartialEq)]
pub enum CertificateSource {
    /// The document.
    Inline(TlsCertificate),
    /// A secret.
    Secret(SecretRef),
}

/// `TlsKeyLog`.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyLog {
    /// The file that lines are appended to.
    pub path: PathBuf,
}

/// `TlsParameters`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TlsParams {
    /// The lowest version; `None`: 1.2.
    pub min_version: Option<TlsVersion>,
    /// The highest version; `None`: 1.3 for servers and 1.2 for clients, as in Envoy.
    pub max_version: Option<TlsVersion>,
    /// Ciphers for 1.2 by their OpenSSL names; empty: the defaults. Those of 1.3 cannot be chosen, as in Envoy.
    pub cipher_suites: Vec<String>,
    /// Groups for the key exchange; empty: the defaults.
    pub ecdh_curves: Vec<String>,
}

/// A version of TLS. Others do not exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2.
    V1_2,
    /// 1.3.
    V1_3,
}

/// `CertificateValidationContext`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ValidationContext {
    /// Certificates of authorities that are trusted, in PEM.
    pub trusted_ca: Option<DataSource>,
    /// Trust the system's authorities.
    pub system_roots: bool,
    /// Files are read again when something in this directory is renamed.
    pub watched_directory: Option<PathBuf>,
    /// SHA-256 of public keys, one of which the certificate must have.
    pub spki_hashes: Vec<[u8; 32]>,
    /// SHA-256 of certificates, one of which it must be.
    pub certificate_hashes: Vec<[u8; 32]>,
    /// Names, one of which the certificate must have.
    pub san_matchers: Vec<SanMatcher>,
    /// Certificates that were revoked, in PEM.
    pub crl: Option<DataSource>,
    /// Only the peer's own certificate is looked up in it.
    pub only_leaf_crl: bool,
    /// A certificate whose time is over is good as well.
    pub allow_expired: bool,
    /// A certificate that nobody vouches for is accepted (and known as such).
    pub accept_untrusted: bool,
    /// How many authorities may stand between the peer's certificate and a trusted one; default 100.
    pub max_depth: Option<u32>,
    /// The authorities of each trust domain of SPIFFE; they take the place of `trusted_ca`.
    pub spiffe: Option<Vec<TrustDomain>>,
}

impl ValidationContext {
    /// This one with what `other` adds, as messages are merged: what it sets replaces, lists are joined.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        let either = |a: &Option<DataSource>, b: &Option<DataSource>| b.as_ref().or(a.as_ref()).cloned();
        Self {
            trusted_ca: either(&self.trusted_ca, &other.trusted_ca),
            system_roots: self.system_roots || other.system_roots,
            watched_directory: other.watched_directory.as_ref().or(self.watched_directory.as_ref()).cloned(),
            spki_hashes: [&*self.spki_hashes, &*other.spki_hashes].concat(),
            certificate_hashes: [&*self.certificate_hashes, &*other.certificate_hashes].concat(),
            san_matchers: [&*self.san_matchers, &*other.san_matchers].concat(),
            crl: either(&self.crl, &other.crl),
            only_leaf_crl: self.only_leaf_crl || other.only_leaf_crl,
            allow_expired: self.allow_expired || other.allow_expired,
            accept_untrusted: self.accept_untrusted || other.accept_untrusted,
            max_depth: other.max_depth.or(self.max_depth),
            spiffe: other.spiffe.as_ref().or(self.spiffe.as_ref()).cloned(),
        }
    }
}

/// A trust domain of SPIFFE with its authorities.
#[derive(Debug, Clone, PartialEq)]
pub struct TrustDomain {
    /// Its name, as in `spiffe://NAME/…`.
    pub name: String,
    /// Its authorities, in PEM.
    pub bundle: DataSource,
}

/// `SubjectAltNameMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct SanMatcher {
    /// Which names it looks at.
    pub kind: SanKind,
    /// What one of them must be.
    pub matcher: StringMatcher,
}

/// Kinds of subject alternative names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    /// A mail address.
    Email,
    /// A host name; a wildcard in the certificate stands for one label.
    Dns,
    /// A URI.
    Uri,
    /// An IP address.
    Ip,
}

/// `TransportSocketMatch`: the transport of the hosts whose metadata has all of these values.
#[derive(Debug, Clone, PartialEq)]
pub struct TransportMatch {
    /// Its name, for stats.
    pub name: String,
    /// Values of `envoy.transport_socket_match`; none of them: every host.
    pub criteria: Vec<(String, Node)>,
    /// The transport; `None` is plain TCP.
    pub transport: Option<std::sync::Arc<UpstreamTls>>,
    /// What is said before it.
    pub proxy_protocol: Option<std::sync::Arc<UpstreamProxyProtocol>>,
}

/// `envoy.config.core.v3.ProxyProtocolConfig` of the transport socket `upstream_proxy_protocol`: connections begin with a
/// PROXY header that tells who the client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamProxyProtocol {
    /// Version 2 instead of 1.
    pub is_v2: bool,
    /// Which of the client's type-length-values are passed on; `None`: all, without any field of that: none. Version 2 only.
    pub pass_through_tlvs: Option<Vec<u8>>,
    /// Further ones: type and value. Version 2 only.
    pub added_tlvs: Vec<(u8, Box<[u8]>)>,
}
