//! Matchers as they stand in a checked message of Envoy's.

use sota_config::{
    Node,
    matcher::{
        HeaderCondition, HeaderMatcher, MetadataMatcher, QueryParameterMatcher, StringMatcher, StringPattern,
        ValueMatcher,
    },
};

/// `envoy.type.matcher.v3.StringMatcher`
pub fn string_matcher(node: &Node) -> StringMatcher {
    let text = |key: &str| node.get(key).and_then(Node::as_str).map(str::to_owned);
    let pattern = text("exact")
        .map(StringPattern::Exact)
        .or_else(|| text("prefix").map(StringPattern::Prefix))
        .or_else(|| text("suffix").map(StringPattern::Suffix))
        .or_else(|| text("contains").map(StringPattern::Contains))
        .unwrap_or_else(|| StringPattern::Regex(node.field("safe_regex").str("regex").to_owned()));
    StringMatcher { pattern, ignore_case: node.bool("ignore_case") }
}

/// `envoy.config.route.v3.HeaderMatcher`
pub fn header_matcher(node: &Node) -> HeaderMatcher {
    let text = |key: &str| node.get(key).and_then(Node::as_str).map(str::to_owned);
    let pattern = text("exact_match")
        .map(StringPattern::Exact)
        .or_else(|| text("prefix_match").map(StringPattern::Prefix))
        .or_else(|| text("suffix_match").map(StringPattern::Suffix))
        .or_else(|| text("contains_match").map(StringPattern::Contains))
        .or_else(|| node.get("safe_regex_match").map(|regex| StringPattern::Regex(regex.str("regex").to_owned())));
    let condition = if let Some(pattern) = pattern {
        HeaderCondition::String(StringMatcher { pattern, ignore_case: false })
    } else if let Some(matcher) = node.get("string_match") {
        HeaderCondition::String(string_matcher(matcher))
    } else if let Some(range) = node.get("range_match") {
        let bound = |key: &str| range.field(key).as_i64().unwrap_or(0);
        HeaderCondition::Range(bound("start")..bound("end"))
    } else {
        HeaderCondition::Present(node.bool_or("present_match", true))
    };
    HeaderMatcher {
        name: node.str("name").to_ascii_lowercase(),
        condition,
        invert: node.bool("invert_match"),
        treat_missing_as_empty: node.bool("treat_missing_header_as_empty"),
    }
}

/// `envoy.config.route.v3.QueryParameterMatcher`
pub fn query_parameter_matcher(node: &Node) -> QueryParameterMatcher {
    QueryParameterMatcher { name: node.str("name").to_owned(), value: node.get("string_match").map(string_matcher) }
}

/// `envoy.type.matcher.v3.MetadataMatcher`; `None` when it does not say what the value must be.
pub fn metadata_matcher(node: &Node) -> Option<MetadataMatcher> {
    Some(MetadataMatcher {
        namespace: node.str("filter").to_owned(),
        path: node.list("path").iter().map(|segment| segment.str("key").to_owned()).collect(),
        value: value_matcher(node.field("value"))?,
        invert: node.bool("invert"),
    })
}

/// `envoy.type.matcher.v3.ValueMatcher`
fn value_matcher(node: &Node) -> Option<ValueMatcher> {
    let (kind, inner) = node.pairs().iter().find(|(_, inner)| !inner.is_null())?;
    Some(match &**kind {
        "null_match" => ValueMatcher::Null,
        "double_match" => match inner.get("range") {
            Some(range) => ValueMatcher::Range(range.f64("start").unwrap_or(0.0)..range.f64("end").unwrap_or(0.0)),
            None => ValueMatcher::Number(inner.f64("exact").unwrap_or(0.0)),
        },
        "string_match" => ValueMatcher::String(string_matcher(inner)),
        "bool_match" => ValueMatcher::Bool(inner.as_bool().unwrap_or(false)),
        "present_match" => ValueMatcher::Present(inner.as_bool().unwrap_or(false)),
        "list_match" => ValueMatcher::OneOf(Box::new(value_matcher(inner.field("one_of"))?)),
        "or_match" => {
            let matchers = inner.list("value_matchers").iter().map(value_matcher);
            ValueMatcher::Or(matchers.collect::<Option<_>>()?)
        }
        _ => return None,
    })
}
