//! Secrets: those of a document, and references to others.

use super::validation::validation_context;
use crate::translate::{config_source::config_source, context::Cx, data_source::data_source};
use sota_config::{
    Node,
    config_source::SourceKind,
    secret::{Secret, SecretKind, SecretRef, SecretSource, TlsCertificate},
};

/// `Secret`.
pub(in crate::translate) fn secret(cx: &mut Cx<'_>, node: &Node) -> Option<Secret> {
    let certificate = cx.optional(node, "tls_certificate", tls_certificate).map(SecretKind::Certificate);
    let kind = certificate
        .or_else(|| cx.optional(node, "validation_context", validation_context).map(SecretKind::Validation))
        .or_else(|| {
            let keys = cx.optional(node, "session_ticket_keys", |cx, node| Some(cx.each(node, "keys", data_source)));
            keys.map(SecretKind::TicketKeys)
        });
    if kind.is_none() && !cx.is_refused() {
        cx.error(node.mark, "the secret says nothing");
    }
    Some(Secret { name: node.str("name").to_owned(), kind: kind? })
}

/// `TlsCertificate`.
pub(super) fn tls_certificate(cx: &mut Cx<'_>, node: &Node) -> Option<TlsCertificate> {
    for key in ["certificate_chain", "private_key"] {
        if !node.has(key) && !cx.is_refused() {
            cx.field_error(node, key, "it is missing");
        }
    }
    Some(TlsCertificate {
        chain: cx.optional(node, "certificate_chain", data_source)?,
        key: cx.optional(node, "private_key", data_source)?,
        watched_directory: node.get("watched_directory").map(|directory| directory.str("path").into()),
    })
}

/// `SdsSecretConfig`.
pub(super) fn secret_ref(cx: &mut Cx<'_>, node: &Node) -> Option<SecretRef> {
    let name = node.str("name").to_owned();
    if !node.has("sds_config") {
        return Some(SecretRef { name, source: SecretSource::Named });
    }
    let mut source = cx.optional(node, "sds_config", config_source)?;
    let source = match source.kind {
        SourceKind::File(file) => SecretSource::File(file.path),
        SourceKind::Ads | SourceKind::Grpc(_) if name.is_empty() => {
            cx.field_error(node, "name", "a control plane is asked for a secret by its name");
            return None;
        }
        kind => {
            source.kind = kind;
            SecretSource::Discovered(source)
        }
    };
    Some(SecretRef { name, source })
}
