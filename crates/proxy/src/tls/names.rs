//! Names of ciphers, groups and versions, as OpenSSL and Envoy write them.

use rustls::crypto::aws_lc_rs::{cipher_suite as suites, kx_group as groups};
use rustls::{CipherSuite, NamedGroup, ProtocolVersion, SupportedCipherSuite, crypto::SupportedKxGroup};

/// Ciphers of TLS 1.2.
pub(super) static CIPHERS: [(&str, SupportedCipherSuite); 6] = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES256-GCM-SHA384", suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Groups of the key exchange.
pub(super) static GROUPS: [(&str, &dyn SupportedKxGroup); 4] = [
    ("X25519", groups::X25519),
    ("P-256", groups::SECP256R1),
    ("P-384", groups::SECP384R1),
    ("X25519MLKEM768", groups::X25519MLKEM768),
];

/// The name of a cipher.
pub(super) fn cipher(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => CIPHERS.iter().find(|(_, known)| known.suite() == other).map_or("", |(name, _)| name),
    }
}

/// The name of a group.
pub(super) fn group(group: NamedGroup) -> &'static str {
    GROUPS.iter().find(|(_, known)| known.name() == group).map_or("", |(name, _)| name)
}

/// The name of a version.
pub(super) fn version(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "",
    }
}
