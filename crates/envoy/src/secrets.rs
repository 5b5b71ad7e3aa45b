//! Files with secrets: a `DiscoveryResponse`, as a control plane would send it.

use crate::{
    check::{CheckOptions, check},
    parse_text,
    translate::{TranslateOptions, translate_secret},
};
use sota_config::{ConfigErrors, secret::Secret};

const RESPONSE: &str = "envoy.service.discovery.v3.DiscoveryResponse";

/// The secrets of a file in YAML or JSON. What they name (files, environment variables) must be there.
pub fn read_secrets(bytes: &[u8]) -> Result<Vec<Secret>, ConfigErrors> {
    let document = parse_text(bytes)?;
    let claims = |_: &str| false;
    let options = CheckOptions {
        static_config: false,
        allow_unknown_fields: false,
        allow_unsupported: false,
        relaxed: false,
        claims: &claims,
    };
    let (node, findings) = check(&document, RESPONSE, &options);
    if findings.is_fatal() {
        return Err(findings);
    }
    let options = TranslateOptions::default();
    node.list("resources")
        .iter()
        .map(|resource| translate_secret(resource, &options).map(|(secret, _)| secret))
        .collect()
}
