//! Fields that routes and local replies add and remove.

use super::{
    context::Cx,
    matcher::{Pseudo, header_name_text, string_matcher},
};
use sota_config::{
    Mark, Node,
    http::HeaderMutation,
    route::{AppendAction, HeaderMutations, HeaderValueOption},
};

/// The mutations that stand in two fields, such as `request_headers_to_add` and `request_headers_to_remove`.
pub(super) fn header_mutations(cx: &mut Cx<'_>, node: &Node, add: &str, remove: &str) -> HeaderMutations {
    HeaderMutations {
        add: cx.each(node, add, header_value_option),
        remove: cx.each(node, remove, |cx, item| {
            let name = item.as_str().filter(|name| !name.is_empty())?;
            name_of(cx, name, item.mark, "removed")
        }),
    }
}

/// `request_headers_to_add` and its three fellows: the mutations of requests, then of responses.
pub(super) fn both(cx: &mut Cx<'_>, node: &Node) -> (HeaderMutations, HeaderMutations) {
    (
        header_mutations(cx, node, "request_headers_to_add", "request_headers_to_remove"),
        header_mutations(cx, node, "response_headers_to_add", "response_headers_to_remove"),
    )
}

/// `envoy.config.common.mutation_rules.v3.HeaderMutation`.
pub(super) fn header_mutation(cx: &mut Cx<'_>, node: &Node) -> Option<HeaderMutation> {
    if node.has("remove_on_match") {
        let names =
            cx.with("remove_on_match", |cx| cx.optional(node.field("remove_on_match"), "key_matcher", string_matcher));
        return names.map(HeaderMutation::RemoveMatching);
    }
    let mut fields = HeaderMutations::default();
    if node.has("append") {
        fields.add.push(cx.optional(node, "append", header_value_option)?);
    } else {
        let mark = node.field("remove").mark;
        fields.remove.push(cx.with("remove", |cx| name_of(cx, node.str("remove"), mark, "removed"))?);
    }
    Some(HeaderMutation::Field(fields))
}

/// `envoy.config.core.v3.HeaderValueOption`.
fn header_value_option(cx: &mut Cx<'_>, node: &Node) -> Option<HeaderValueOption> {
    let header = node.field("header");
    let key = header.get("key")?;
    let text = key.as_str().filter(|text| !text.is_empty())?;
    let name = cx.with("header.key", |cx| name_of(cx, text, key.mark, "modified"))?;
    let action = node.str("append_action");
    let append_action = match (node.field("append").as_bool(), action) {
        (Some(_), "ADD_IF_ABSENT" | "OVERWRITE_IF_EXISTS_OR_ADD" | "OVERWRITE_IF_EXISTS") => {
            cx.field_error(node, "append", "\"append\" and \"append_action\" exclude each other; keep the latter");
            return None;
        }
        (Some(false), _) | (_, "OVERWRITE_IF_EXISTS_OR_ADD") => AppendAction::OverwriteIfExistsOrAdd,
        (_, "ADD_IF_ABSENT") => AppendAction::AddIfAbsent,
        (_, "OVERWRITE_IF_EXISTS") => AppendAction::OverwriteIfExists,
        _ => AppendAction::AppendIfExistsOrAdd,
    };
    Some(HeaderValueOption {
        name,
        value: header.str("value").to_owned(),
        append_action,
        keep_empty_value: node.bool("keep_empty_value"),
    })
}

/// A name that may be changed here: routing depends on the pseudo-headers and on `host`.
fn name_of(cx: &mut Cx<'_>, text: &str, mark: Mark, verb: &str) -> Option<String> {
    if text.starts_with(':') || text.eq_ignore_ascii_case("host") {
        cx.error(mark, format!(":-prefixed or host headers may not be {verb}"));
        return None;
    }
    header_name_text(cx, text, mark, Pseudo::Refused)
}
