//! How certificates of peers are checked.

use crate::{
    translate::{context::Cx, data_source::data_source, extension::message_name, matcher::string_matcher},
    well_known::decode_base64,
};
use sota_config::{
    Node,
    tls::{SanKind, SanMatcher, TrustDomain, ValidationContext},
};

const SPIFFE: &str = "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// `CertificateValidationContext`.
pub(super) fn validation_context(cx: &mut Cx<'_>, node: &Node) -> Option<ValidationContext> {
    let mut san_matchers = cx.each(node, "match_typed_subject_alt_names", san_matcher);
    // The older field does not say which kind it means: all of those that there were.
    for matcher in cx.each(node, "match_subject_alt_names", string_matcher) {
        let kinds = [SanKind::Dns, SanKind::Uri, SanKind::Email, SanKind::Ip];
        san_matchers.extend(kinds.map(|kind| SanMatcher { kind, matcher: matcher.clone() }));
    }
    Some(ValidationContext {
        trusted_ca: cx.optional(node, "trusted_ca", data_source),
        system_roots: node.has("system_root_certs"),
        watched_directory: node.get("watched_directory").map(|directory| directory.str("path").into()),
        spki_hashes: cx.each(node, "verify_certificate_spki", |cx, item| {
            let hash = decode_base64(item.as_str()?).and_then(|bytes| bytes.try_into().ok());
            told(cx, item, hash, "a SHA-256 in base64")
        }),
        certificate_hashes: cx.each(node, "verify_certificate_hash", |cx, item| {
            let hash = decode_hex(item.as_str()?);
            told(cx, item, hash, "a SHA-256 in hexadecimal")
        }),
        san_matchers,
        crl: cx.optional(node, "crl", data_source),
        only_leaf_crl: node.bool("only_verify_leaf_cert_crl"),
        allow_expired: node.bool("allow_expired_certificate"),
        accept_untrusted: node.str("trust_chain_verification") == "ACCEPT_UNTRUSTED",
        max_depth: node.u32("max_verify_depth"),
        spiffe: cx.optional(node, "custom_validator_config", custom_validator),
    })
}

fn told<T>(cx: &mut Cx<'_>, node: &Node, value: Option<T>, wanted: &str) -> Option<T> {
    if value.is_none() {
        cx.error(node.mark, format!("this must be {wanted}"));
    }
    value
}

/// 64 digits, or 32 pairs with colons between.
fn decode_hex(text: &str) -> Option<[u8; 32]> {
    let digits: String = if text.len() == 95 { text.split(':').collect() } else { text.to_owned() };
    if digits.len() != 64 || !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let pair = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..64).step_by(2).map(pair).collect::<Option<Vec<u8>>>()?.try_into().ok()
}

fn san_matcher(cx: &mut Cx<'_>, node: &Node) -> Option<SanMatcher> {
    let kind = match node.str("san_type") {
        "EMAIL" => SanKind::Email,
        "DNS" => SanKind::Dns,
        "URI" => SanKind::Uri,
        "IP_ADDRESS" => SanKind::Ip,
        _ => return None,
    };
    Some(SanMatcher { kind, matcher: cx.optional(node, "matcher", string_matcher)? })
}

/// `custom_validator_config`: SPIFFE's.
fn custom_validator(cx: &mut Cx<'_>, node: &Node) -> Option<Vec<TrustDomain>> {
    if message_name(node) != Some(SPIFFE) {
        if !cx.is_refused() {
            cx.error(node.mark, format!("the validator must be configured by {SPIFFE}"));
        }
        return None;
    }
    cx.optional(node, "typed_config", |cx, node| {
        let domains = cx.each(node, "trust_domains", |cx, node| {
            Some(TrustDomain {
                name: node.str("name").to_owned(),
                bundle: cx.optional(node, "trust_bundle", data_source)?,
            })
        });
        if domains.is_empty() && !cx.is_refused() {
            cx.field_error(node, "trust_domains", "there must be one at least");
        }
        for (at, domain) in domains.iter().enumerate() {
            if domains.iter().take(at).any(|other| other.name == domain.name) {
                let name = domain.name.escape_debug();
                cx.field_error(node, "trust_domains", format!("the trust domain \"{name}\" stands there twice"));
            }
        }
        Some(domains)
    })
}
