//! Generic matchers (`xds.type.matcher.v3.Matcher`).

use super::{
    address::cidr_range,
    context::Cx,
    extension::message_name,
    matcher::{Pseudo, header_name_text, metadata_path, string_matcher},
};
use sota_config::{
    Node,
    match_tree::{InputMatcher, MatchInput, MatchKind, MatchTree, OnMatch, Predicate},
};

/// Translates the action of a leaf: a `TypedExtensionConfig`.
type Leaf<'a, A> = &'a mut dyn FnMut(&mut Cx<'_>, &Node) -> Option<A>;

const INPUTS: &str = "envoy.extensions.matching.common_inputs.network.v3.";
const IP_MATCHER: &str = "envoy.extensions.matching.input_matchers.ip.v3.Ip";

/// A matcher. `None` when a part of it could not be read, which was told.
pub(super) fn match_tree<A>(cx: &mut Cx<'_>, node: &Node, leaf: Leaf<'_, A>) -> Option<MatchTree<A>> {
    let kind = match node.get("matcher_list") {
        Some(list) => cx.with("matcher_list", |cx| matcher_list(cx, list, leaf)),
        None => match node.get("matcher_tree") {
            Some(tree) => cx.with("matcher_tree", |cx| matcher_map(cx, tree, leaf)),
            None => {
                cx.error(node.mark, "one of matcher_list and matcher_tree is required");
                None
            }
        },
    };
    let on_no_match = match node.has("on_no_match") {
        true => Some(Box::new(cx.optional(node, "on_no_match", |cx, node| on_match(cx, node, leaf))?)),
        false => None,
    };
    Some(MatchTree { kind: kind?, on_no_match })
}

fn matcher_list<A>(cx: &mut Cx<'_>, node: &Node, leaf: Leaf<'_, A>) -> Option<MatchKind<A>> {
    let entries = cx.each(node, "matchers", |cx, node| {
        let predicate = cx.optional(node, "predicate", predicate);
        let next = cx.optional(node, "on_match", |cx, node| on_match(cx, node, leaf));
        Some((predicate?, next?))
    });
    whole(entries, node.list("matchers").len()).map(MatchKind::List)
}

fn matcher_map<A>(cx: &mut Cx<'_>, node: &Node, leaf: Leaf<'_, A>) -> Option<MatchKind<A>> {
    let input = cx.optional(node, "input", input);
    let (key, is_prefix) = match node.has("prefix_match_map") {
        true => ("prefix_match_map", true),
        false => ("exact_match_map", false),
    };
    let Some(map) = node.get(key) else {
        if !cx.is_refused() {
            cx.error(node.mark, "one of exact_match_map and prefix_match_map is required");
        }
        return None;
    };
    let entries =
        cx.with(key, |cx| cx.entries(map, "map", |cx, key, node| Some((key.to_owned(), on_match(cx, node, leaf)?))));
    let entries = whole(entries, map.entries("map").len())?;
    Some(MatchKind::Map { input: input?, is_prefix, entries })
}

fn on_match<A>(cx: &mut Cx<'_>, node: &Node, leaf: Leaf<'_, A>) -> Option<OnMatch<A>> {
    if node.has("matcher") {
        let inner = cx.optional(node, "matcher", |cx, node| match_tree(cx, node, leaf));
        return inner.map(|tree| OnMatch::Matcher(Box::new(tree)));
    }
    if !node.has("action") {
        cx.error(node.mark, "one of matcher and action is required");
    }
    cx.optional(node, "action", |cx, node| leaf(cx, node)).map(OnMatch::Action)
}

fn predicate(cx: &mut Cx<'_>, node: &Node) -> Option<Predicate> {
    if node.has("single_predicate") {
        return cx.optional(node, "single_predicate", single_predicate);
    }
    if node.has("not_matcher") {
        return cx.optional(node, "not_matcher", predicate).map(|inner| Predicate::Not(Box::new(inner)));
    }
    let mut list = |key: &str| {
        cx.optional(node, key, |cx, node| whole(cx.each(node, "predicate", predicate), node.list("predicate").len()))
    };
    if node.has("or_matcher") { list("or_matcher").map(Predicate::Or) } else { list("and_matcher").map(Predicate::And) }
}

fn single_predicate(cx: &mut Cx<'_>, node: &Node) -> Option<Predicate> {
    let input = cx.optional(node, "input", input);
    let matcher = match node.get("custom_match") {
        Some(custom) => cx.with("custom_match", |cx| custom_match(cx, custom)),
        None => cx.optional(node, "value_match", string_matcher).map(InputMatcher::String),
    };
    Some(Predicate::Single(input?, matcher?))
}

fn custom_match(cx: &mut Cx<'_>, node: &Node) -> Option<InputMatcher> {
    if message_name(node) != Some(IP_MATCHER) {
        if !cx.is_refused() {
            cx.error(node.mark, format!("the only custom matcher is {IP_MATCHER}"));
        }
        return None;
    }
    let config = node.field("typed_config");
    let ranges = cx.with("typed_config", |cx| cx.each(config, "cidr_ranges", cidr_range));
    whole(ranges, config.list("cidr_ranges").len()).map(InputMatcher::Ip)
}

fn input(cx: &mut Cx<'_>, node: &Node) -> Option<MatchInput> {
    let config = node.field("typed_config");
    let message = message_name(node).unwrap_or_default();
    let known = match message {
        "envoy.type.matcher.v3.HttpRequestHeaderMatchInput" => {
            let text = config.str("header_name");
            let name = cx.with("typed_config.header_name", |cx| {
                header_name_text(cx, text, config.field("header_name").mark, Pseudo::Allowed)
            });
            Some(MatchInput::RequestHeader(name?))
        }
        "envoy.type.matcher.v3.HttpRequestQueryParamMatchInput" => {
            Some(MatchInput::QueryParameter(config.str("query_param").to_owned()))
        }
        _ => message.strip_prefix(INPUTS).and_then(|name| connection_input(name, config)),
    };
    if known.is_none() && !cx.is_refused() {
        cx.error(node.mark, format!("the input \"{message}\" is not supported here"));
    }
    known
}

fn connection_input(name: &str, config: &Node) -> Option<MatchInput> {
    Some(match name {
        "DestinationIPInput" => MatchInput::DestinationIp,
        "DestinationPortInput" => MatchInput::DestinationPort,
        "SourceIPInput" => MatchInput::SourceIp,
        "SourcePortInput" => MatchInput::SourcePort,
        "DirectSourceIPInput" => MatchInput::DirectSourceIp,
        "SourceTypeInput" => MatchInput::SourceType,
        "ServerNameInput" => MatchInput::ServerName,
        "FilterStateInput" => MatchInput::FilterState(config.str("key").to_owned()),
        "DynamicMetadataInput" => MatchInput::DynamicMetadata(config.str("filter").to_owned(), metadata_path(config)),
        _ => return None,
    })
}

/// The list, when none of its items was left out.
fn whole<T>(list: Vec<T>, count: usize) -> Option<Vec<T>> {
    (list.len() == count).then_some(list)
}
