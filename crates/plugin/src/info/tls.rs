//! Facts about the TLS of a connection.

use base64::{Engine, engine::general_purpose::STANDARD};
use std::{cell::OnceCell, sync::Arc, time::SystemTime};

/// What was agreed on, and who the two sides are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TlsInfo {
    /// The version in Envoy's words: `TLSv1.3`.
    pub version: &'static str,
    /// The cipher by its OpenSSL name.
    pub cipher: &'static str,
    /// The group of the key exchange; empty for a resumed session of TLS 1.2.
    pub group: &'static str,
    /// The server name that was sent; empty when none was.
    pub server_name: Box<str>,
    /// The application protocol that was agreed on; empty when none was.
    pub alpn: Box<str>,
    /// Whether a session was resumed.
    pub is_resumed: bool,
    /// The peer's certificate, and behind it those of authorities that the peer sent.
    pub peer: Vec<Arc<CertificateInfo>>,
    /// The certificate of this side.
    pub local: Option<Arc<CertificateInfo>>,
    /// What `x-forwarded-client-cert` says of the connection, made with its first request.
    pub forwarded: OnceCell<Box<str>>,
}

impl TlsInfo {
    /// The peer's own certificate.
    pub fn peer_certificate(&self) -> Option<&CertificateInfo> {
        self.peer.first().map(|certificate| &**certificate)
    }
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateInfo {
    /// It, in DER.
    pub der: Box<[u8]>,
    /// Its subject as RFC 2253 writes it.
    pub subject: Box<str>,
    /// Its issuer.
    pub issuer: Box<str>,
    /// The serial number in lower-case hexadecimal.
    pub serial: Box<str>,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: Box<str>,
    /// SHA-1 in lower-case hexadecimal.
    pub sha1: Box<str>,
    /// URIs.
    pub uri_sans: Vec<Box<str>>,
    /// Host names.
    pub dns_sans: Vec<Box<str>>,
    /// IP addresses, as text.
    pub ip_sans: Vec<Box<str>>,
    /// Mail addresses.
    pub email_sans: Vec<Box<str>>,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

/// Characters in a line of PEM.
const PEM_LINE: usize = 64;

impl CertificateInfo {
    /// The certificate in PEM, with what cannot stand in a header field encoded as in a URL.
    pub fn url_encoded_pem(&self) -> String {
        let mut text = "-----BEGIN%20CERTIFICATE-----%0A".to_owned();
        for (at, c) in STANDARD.encode(&self.der).chars().enumerate() {
            if at > 0 && at % PEM_LINE == 0 {
                text.push_str("%0A");
            }
            match c {
                '+' => text.push_str("%2B"),
                '/' => text.push_str("%2F"),
                '=' => text.push_str("%3D"),
                c => text.push(c),
            }
        }
        text.push_str("%0A-----END%20CERTIFICATE-----%0A");
        text
    }
}
