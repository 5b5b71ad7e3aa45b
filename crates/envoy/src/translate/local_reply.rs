//! Changes to local replies (`LocalReplyConfig`).

use super::{
    access_log::{filter, format_string},
    context::Cx,
    data_source, header_mutations,
};
use sota_config::{
    Node,
    http::{LocalReplyConfig, LocalReplyMapper},
};

/// `LocalReplyConfig`; a null node changes nothing.
pub(super) fn local_reply(cx: &mut Cx<'_>, node: &Node) -> LocalReplyConfig {
    LocalReplyConfig {
        mappers: cx.each(node, "mappers", mapper),
        body_format: cx.optional(node, "body_format", format_string),
    }
}

fn mapper(cx: &mut Cx<'_>, node: &Node) -> Option<LocalReplyMapper> {
    let mapper_filter = cx.optional(node, "filter", filter);
    let body = cx.optional(node, "body", data_source::contents);
    let body_format = cx.optional(node, "body_format_override", format_string);
    let headers = header_mutations::header_mutations(cx, node, "headers_to_add", "");
    Some(LocalReplyMapper {
        filter: mapper_filter?,
        status_code: node.u32("status_code").and_then(|code| u16::try_from(code).ok()),
        body,
        body_format,
        headers,
    })
}
