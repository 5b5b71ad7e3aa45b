//! Changes to requests before anything is decided by them (`envoy.http.early_header_mutation.header_mutation`).

use super::{context::Cx, extension::message_name, header_mutations::header_mutation};
use sota_config::{Node, http::HeaderMutation};

const HEADER_MUTATION: &str = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation";

/// `early_header_mutation_extensions` of a connection manager, one after the other.
pub(super) fn early_header_mutations(cx: &mut Cx<'_>, node: &Node) -> Vec<HeaderMutation> {
    let extensions = cx.each(node, "early_header_mutation_extensions", |cx, node| {
        if message_name(node) != Some(HEADER_MUTATION) {
            if !cx.is_refused() {
                cx.error(node.mark, format!("the only early header mutation is {HEADER_MUTATION}"));
            }
            return None;
        }
        let config = node.field("typed_config");
        Some(cx.with("typed_config", |cx| cx.each(config, "mutations", header_mutation)))
    });
    extensions.into_iter().flatten().collect()
}
