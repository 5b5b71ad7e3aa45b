//! Whether the certificate of a peer is good: who vouches for it, which names it has, which it is.

use super::certificate::{certificates, info, revocation_lists, sha256, spki_hash};
use rustls::{
    CertificateError, DistinguishedName, OtherError,
    pki_types::{CertificateDer, TrustAnchor, UnixTime},
};
use sota_config::{
    matcher::StringPattern,
    secret::DataSource,
    tls::{SanKind, SanMatcher, ValidationContext},
};
use sota_plugin::{info::CertificateInfo, matcher::StringMatcher};
use std::{
    fmt, fs,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy, anchor_from_trusted_cert,
};

/// Envoy's default of `max_verify_depth`.
const DEFAULT_DEPTH: u32 = 100;
/// Where systems keep the certificates of the authorities that they trust: Debian, Red Hat, SUSE, Alpine.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why a certificate is not good.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Failure {
    /// Nobody that is trusted vouches for it, or its time is over, or it was revoked.
    Chain(CertificateError),
    /// More authorities than allowed vouch for each other.
    Depth,
    /// It has none of the names; these it has.
    Names(Vec<Box<str>>),
    /// It is none of those that are expected.
    Hash,
}

impl std::error::Error for Failure {}

/// In Envoy's words.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("verify cert failed: ")?;
        match self {
            Self::Names(names) => write!(f, "SAN matcher, certificate SANs are [{}]", names.join(", ")),
            Self::Hash => f.write_str("cert hash and spki"),
            Self::Depth => f.write_str("X509_verify_cert: certificate verification error: certificate chain too long"),
            Self::Chain(error) => {
                let reason = match error {
                    CertificateError::UnknownIssuer => "unable to get local issuer certificate",
                    CertificateError::Expired => "certificate has expired",
                    CertificateError::NotValidYet => "certificate is not yet valid",
                    CertificateError::Revoked => "certificate revoked",
                    CertificateError::UnknownRevocationStatus => "unable to get certificate CRL",
                    CertificateError::ExpiredRevocationList => "CRL has expired",
                    CertificateError::BadSignature => "certificate signature failure",
                    CertificateError::InvalidPurpose => "unsupported certificate purpose",
                    CertificateError::BadEncoding => "the certificate cannot be read",
                    _ => "invalid certificate",
                };
                write!(f, "X509_verify_cert: certificate verification error at depth 0: {reason}")
            }
        }
    }
}

/// For the library, which sends the alert that belongs to it.
impl From<Failure> for rustls::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Chain(error) => Self::InvalidCertificate(error),
            other => Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(other)))),
        }
    }
}

/// Authorities that are trusted.
#[derive(Debug, Default)]
struct Authorities {
    anchors: Vec<TrustAnchor<'static>>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    fn read(pem: &[u8]) -> Result<Self, String> {
        let mut authorities = Self::default();
        for certificate in certificates(pem)? {
            let anchor = anchor_from_trusted_cert(&certificate)
                .map_err(|error| format!("the certificate of an authority cannot be used: {error}"))?;
            authorities.anchors.push(anchor.to_owned());
            authorities.certificates.push(certificate);
        }
        Ok(authorities)
    }
}

/// Checks certificates of peers.
#[derive(Debug)]
pub(super) struct Validator {
    /// None: nobody is asked who vouches for it.
    authorities: Option<Authorities>,
    /// The authorities of each trust domain of SPIFFE.
    domains: Option<Vec<(String, Authorities)>>,
    revoked: Vec<CertRevocationList<'static>>,
    names: Vec<NameMatcher>,
    rules: ValidationContext,
    /// Authorities, for the client to choose a certificate by.
    pub(super) hints: Vec<DistinguishedName>,
}

#[derive(Debug)]
enum NameMatcher {
    /// A host name, for which a wildcard may stand.
    Dns(String),
    Any(SanKind, StringMatcher),
}

impl Validator {
    /// Reads what the rules name.
    pub(super) fn read(rules: &ValidationContext) -> Result<Self, String> {
        let read = |source: &DataSource| source.read().and_then(|pem| Authorities::read(&pem));
        let authorities = match &rules.trusted_ca {
            Some(source) => Some(read(source).map_err(|reason| format!("trusted_ca: {reason}"))?),
            None if rules.system_roots => Some(system_roots()?),
            None => None,
        };
        let domains = rules.spiffe.as_ref().map(|domains| {
            let one = |domain: &sota_config::tls::TrustDomain| {
                let authorities = read(&domain.bundle)
                    .map_err(|reason| format!("trust_bundle of \"{}\": {reason}", domain.name.escape_debug()))?;
                Ok::<_, String>((domain.name.clone(), authorities))
            };
            domains.iter().map(one).collect::<Result<Vec<_>, _>>()
        });
        let domains = domains.transpose()?;
        let revoked = match &rules.crl {
            Some(source) => {
                source.read().and_then(|pem| revocation_lists(&pem)).map_err(|reason| format!("crl: {reason}"))?
            }
            None => Vec::new(),
        };
        let names = rules.san_matchers.iter().map(NameMatcher::build).collect::<Result<_, _>>()?;
        let of_domains = domains.iter().flatten().map(|(_, authorities)| authorities);
        let hints = authorities.iter().chain(of_domains).flat_map(|authorities| &authorities.anchors);
        let hints = hints.map(|anchor| DistinguishedName::in_sequence(anchor.subject.as_ref())).collect();
        Ok(Self { authorities, domains, revoked, names, rules: rules.clone(), hints })
    }

    /// Whether a certificate is asked for at all.
    pub(super) fn wants_certificate(&self) -> bool {
        self.proves() || self.rules.accept_untrusted
    }

    /// Whether a certificate that passes is known to be good.
    pub(super) fn proves(&self) -> bool {
        self.authorities.is_some()
            || self.domains.is_some()
            || !self.names.is_empty()
            || !self.rules.certificate_hashes.is_empty()
            || !self.rules.spki_hashes.is_empty()
    }

    /// Whether a certificate that is not good is accepted all the same.
    pub(super) fn accepts_untrusted(&self) -> bool {
        self.rules.accept_untrusted
    }

    /// Checks a certificate for this usage. `host`: a name that it must have.
    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        usage: KeyUsage,
        host: Option<&str>,
        now: UnixTime,
    ) -> Result<(), Failure> {
        let info = info(leaf).ok_or(Failure::Chain(CertificateError::BadEncoding))?;
        if let Some(domains) = &self.domains {
            let authorities = trust_domain(&info)
                .and_then(|domain| domains.iter().find(|(name, _)| name == domain))
                .map(|(_, authorities)| authorities)
                .ok_or(Failure::Chain(CertificateError::UnknownIssuer))?;
            self.check_chain(authorities, leaf, &info, others, usage, now)?;
        } else if let Some(authorities) = &self.authorities {
            self.check_chain(authorities, leaf, &info, others, usage, now)?;
        }
        let has_name = match host {
            Some(host) if host.parse::<IpAddr>().is_ok() => info.ip_sans.iter().any(|address| **address == *host),
            Some(host) => info.dns_sans.iter().any(|name| is_host(host, name)),
            None => self.names.is_empty() || self.names.iter().any(|matcher| matcher.matches(&info)),
        };
        if !has_name {
            return Err(Failure::Names(all_names(&info)));
        }
        let rules = &self.rules;
        let is_expected = (rules.certificate_hashes.is_empty() && rules.spki_hashes.is_empty())
            || rules.certificate_hashes.contains(&sha256(leaf))
            || (!rules.spki_hashes.is_empty() && spki_hash(leaf).is_some_and(|hash| rules.spki_hashes.contains(&hash)));
        if is_expected { Ok(()) } else { Err(Failure::Hash) }
    }

    fn check_chain(
        &self,
        authorities: &Authorities,
        leaf: &CertificateDer<'_>,
        info: &CertificateInfo,
        others: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), Failure> {
        // Compat: a certificate that is trusted itself needs nobody who vouches for it.
        if authorities.certificates.contains(leaf) {
            return match is_in_time(info, now) {
                _ if self.rules.allow_expired => Ok(()),
                None => Ok(()),
                Some(error) => Err(Failure::Chain(error)),
            };
        }
        let result = self.check_path(authorities, leaf, others, usage, now);
        let is_time = matches!(&result, Err(Failure::Chain(CertificateError::Expired | CertificateError::NotValidYet)));
        if !self.rules.allow_expired || !is_time {
            return result;
        }
        // When all of them were valid at once, if ever: just after the last of them became so.
        let infos = others.iter().filter_map(|other| super::certificate::info(other));
        let begins = infos.map(|other| other.not_before).fold(info.not_before, SystemTime::max);
        let then = begins.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.check_path(authorities, leaf, others, usage, UnixTime::since_unix_epoch(then))
    }

    fn check_path(
        &self,
        authorities: &Authorities,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), Failure> {
        let certificate = EndEntityCert::try_from(leaf).map_err(chain_failure)?;
        let revoked: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&revoked).ok().map(|options| {
            let depth = match self.rules.only_leaf_crl {
                true => RevocationCheckDepth::EndEntity,
                false => RevocationCheckDepth::Chain,
            };
            let expiration = match self.rules.allow_expired {
                true => ExpirationPolicy::Ignore,
                false => ExpirationPolicy::Enforce,
            };
            options
                .with_depth(depth)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(expiration)
                .build()
        });
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let path = certificate
            .verify_for_usage(algorithms, &authorities.anchors, others, now, usage, revocation, None)
            .map_err(chain_failure)?;
        let depth = path.intermediate_certificates().count();
        let most = self.rules.max_depth.unwrap_or(DEFAULT_DEPTH);
        if u32::try_from(depth).is_ok_and(|depth| depth <= most) { Ok(()) } else { Err(Failure::Depth) }
    }
}

impl NameMatcher {
    fn build(config: &SanMatcher) -> Result<Self, String> {
        match (&config.kind, &config.matcher.pattern) {
            (SanKind::Dns, StringPattern::Exact(name)) if !config.matcher.ignore_case => Ok(Self::Dns(name.clone())),
            (kind, _) => {
                let matcher = StringMatcher::build(&config.matcher).map_err(|error| error.to_string())?;
                Ok(Self::Any(*kind, matcher))
            }
        }
    }

    fn matches(&self, info: &CertificateInfo) -> bool {
        let (kind, matcher) = match self {
            Self::Dns(host) => return info.dns_sans.iter().any(|name| is_host(host, name)),
            Self::Any(kind, matcher) => (kind, matcher),
        };
        let names = match kind {
            SanKind::Dns => &info.dns_sans,
            SanKind::Uri => &info.uri_sans,
            SanKind::Email => &info.email_sans,
            SanKind::Ip => &info.ip_sans,
        };
        names.iter().any(|name| matcher.matches(name.as_bytes()))
    }
}

/// Whether a host has a name; a `*` that begins it stands for one label.
fn is_host(host: &str, name: &str) -> bool {
    if host.eq_ignore_ascii_case(name) {
        return true;
    }
    let rest = host.split_once('.').map(|(first, rest)| (!first.is_empty()).then_some(rest));
    match (name.strip_prefix("*."), rest.flatten()) {
        (Some(suffix), Some(rest)) => !suffix.is_empty() && rest.eq_ignore_ascii_case(suffix),
        _ => false,
    }
}

/// The trust domain of the one URI that a certificate of SPIFFE has.
fn trust_domain(info: &CertificateInfo) -> Option<&str> {
    let [uri] = &*info.uri_sans else { return None };
    let rest = uri.strip_prefix("spiffe://")?;
    Some(rest.split('/').next().unwrap_or(rest)).filter(|domain| !domain.is_empty())
}

fn all_names(info: &CertificateInfo) -> Vec<Box<str>> {
    [&info.dns_sans, &info.uri_sans, &info.email_sans, &info.ip_sans].into_iter().flatten().cloned().collect()
}

fn is_in_time(info: &CertificateInfo, now: UnixTime) -> Option<CertificateError> {
    let now = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(now.as_secs()))?;
    if now < info.not_before {
        return Some(CertificateError::NotValidYet);
    }
    (now > info.not_after).then_some(CertificateError::Expired)
}

fn chain_failure(error: webpki::Error) -> Failure {
    use webpki::Error as E;
    Failure::Chain(match error {
        E::CertExpired { .. } | E::InvalidCertValidity => CertificateError::Expired,
        E::CertNotValidYet { .. } => CertificateError::NotValidYet,
        E::CertRevoked => CertificateError::Revoked,
        E::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        E::CrlExpired { .. } => CertificateError::ExpiredRevocationList,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}

fn system_roots() -> Result<Authorities, String> {
    let pem = SYSTEM_ROOTS.iter().find_map(|path| fs::read(path).ok());
    Authorities::read(&pem.ok_or_else(|| format!("the system has no certificates: {}", SYSTEM_ROOTS.join(", ")))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        for (host, name, is_same) in [
            ("a.test", "a.test", true),
            ("A.test", "a.TEST", true),
            ("a.test", "*.test", true),
            ("a.b.test", "*.test", false),
            ("a.b.test", "*.b.test", true),
            (".test", "*.test", false),
            ("test", "*.test", false),
            ("a.test", "*", false),
            ("a.test", "*.", false),
            ("a.test", "a*.test", false),
        ] {
            assert_eq!(is_host(host, name), is_same, "{host} {name}");
        }
    }
}
