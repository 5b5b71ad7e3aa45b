//! Certificates and keys: from PEM to what the library uses, and what a certificate says.

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use sota_config::secret::DataSource;
use sota_plugin::info::CertificateInfo;
use std::{
    fmt::Write as _,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    oid_registry::Oid,
    prelude::FromDer,
    x509::{AttributeTypeAndValue, X509Name},
};

/// A certificate of this side, with its key.
#[derive(Debug)]
pub(super) struct OwnCertificate {
    /// For the library.
    pub(super) key: Arc<CertifiedKey>,
    /// What it says.
    pub(super) info: Arc<CertificateInfo>,
    /// Names that clients may ask for: its host names, or else its common name.
    pub(super) names: Vec<String>,
}

impl OwnCertificate {
    /// Reads a certificate and its key, which must fit. Nothing of the key is in an error.
    pub(super) fn read(chain: &DataSource, key: &DataSource) -> Result<Self, String> {
        let chain = certificates(&chain.read()?)?;
        let key = PrivateKeyDer::from_pem_slice(&key.read()?)
            .map_err(|_| "there is no private key in PEM (PKCS #8, PKCS #1 or SEC 1, not encrypted)".to_owned())?;
        let key = any_supported_type(&key).map_err(|_| "the private key is of no supported kind".to_owned())?;
        let leaf = chain.first().ok_or("there is no certificate in PEM")?;
        let (info, common_name) = describe(leaf).ok_or("the certificate cannot be read")?;
        let mut names: Vec<String> = info.dns_sans.iter().map(|name| name.to_ascii_lowercase()).collect();
        if names.is_empty() {
            names.extend(common_name.map(|name| name.to_ascii_lowercase()));
        }
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|_| "the private key is not that of the certificate".to_owned())?;
        Ok(Self { key: Arc::new(key), info: Arc::new(info), names })
    }
}

/// All certificates of a PEM text; one at least.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("there is no certificate in PEM".to_owned()),
        Err(error) => Err(format!("the certificates cannot be read: {error}")),
    }
}

/// All revocation lists of a PEM text.
pub(super) fn revocation_lists(pem: &[u8]) -> Result<Vec<webpki::CertRevocationList<'static>>, String> {
    let mut lists = Vec::new();
    for list in CertificateRevocationListDer::pem_slice_iter(pem) {
        let list = list.map_err(|error| format!("the revocation list cannot be read: {error}"))?;
        let list = webpki::OwnedCertRevocationList::from_der(&list)
            .map_err(|error| format!("the revocation list cannot be read: {error}"))?;
        lists.push(list.into());
    }
    Ok(lists)
}

/// What a certificate says.
pub(super) fn info(certificate: &CertificateDer<'_>) -> Option<Arc<CertificateInfo>> {
    describe(certificate).map(|(info, _)| Arc::new(info))
}

fn describe(der: &CertificateDer<'_>) -> Option<(CertificateInfo, Option<String>)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut info = CertificateInfo {
        der: der.as_ref().into(),
        subject: name(certificate.subject()).into(),
        issuer: name(certificate.issuer()).into(),
        serial: serial(certificate.raw_serial()).into(),
        sha256: hash(&SHA256, der).into(),
        sha1: hash(&SHA1_FOR_LEGACY_USE_ONLY, der).into(),
        uri_sans: Vec::new(),
        dns_sans: Vec::new(),
        ip_sans: Vec::new(),
        email_sans: Vec::new(),
        not_before: time(certificate.validity().not_before.timestamp()),
        not_after: time(certificate.validity().not_after.timestamp()),
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => info.uri_sans.push((*uri).into()),
            GeneralName::DNSName(name) => info.dns_sans.push((*name).into()),
            GeneralName::RFC822Name(mail) => info.email_sans.push((*mail).into()),
            GeneralName::IPAddress(octets) => info.ip_sans.extend(address(octets).map(|ip| ip.to_string().into())),
            _ => {}
        }
    }
    let common_name = certificate.subject().iter_common_name().last().and_then(|name| name.as_str().ok());
    let common_name = common_name.map(str::to_owned);
    Some((info, common_name))
}

/// The SHA-256 of a certificate's public key, with its algorithm.
pub(super) fn spki_hash(der: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    sha256(certificate.public_key().raw).into()
}

/// SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn hash(algorithm: &'static Algorithm, bytes: &[u8]) -> String {
    hex(digest(algorithm, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// As OpenSSL prints the number: without zeros before it.
fn serial(octets: &[u8]) -> String {
    let zeros = octets.iter().take_while(|octet| **octet == 0).count();
    match octets.get(zeros..) {
        Some(rest) if !rest.is_empty() => hex(rest),
        _ => "00".to_owned(),
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

fn time(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moved = match seconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(distance),
        _ => SystemTime::UNIX_EPOCH.checked_sub(distance),
    };
    moved.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A name as RFC 2253 writes it: the last part first.
fn name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> =
        name.iter().map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type();
    let mut text = short_name(oid).map_or_else(|| oid.to_id_string(), str::to_owned);
    text.push('=');
    let value =
        attribute.as_str().map_or_else(|_| String::from_utf8_lossy(attribute.as_slice()).into_owned(), str::to_owned);
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        let is_edge = (at == 0 && matches!(c, ' ' | '#')) || (at == last && c == ' ');
        if is_edge || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

fn short_name(oid: &Oid<'_>) -> Option<&'static str> {
    Some(match oid.to_id_string().as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.42" => "GN",
        "1.2.840.113549.1.9.1" => "emailAddress",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        _ => return None,
    })
}
