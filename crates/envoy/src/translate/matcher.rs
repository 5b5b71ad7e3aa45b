//! Matchers of strings, headers, query parameters, cookies, metadata and filter state; shares of requests.

use super::{address::cidr_range, context::Cx};
use regex::RegexBuilder;
use sota_config::{
    Mark, Node,
    matcher::{
        CookieMatcher, FilterStateMatcher, FilterStatePattern, FractionalPercent, HeaderCondition, HeaderMatcher,
        MAX_REGEX_PROGRAM_BYTES, MetadataMatcher, QueryParameterMatcher, StringMatcher, StringPattern, ValueMatcher,
    },
};

/// `envoy.type.matcher.v3.StringMatcher`.
pub(super) fn string_matcher(cx: &mut Cx<'_>, node: &Node) -> Option<StringMatcher> {
    let text = |key: &str| node.get(key).and_then(Node::as_str).map(str::to_owned);
    let ignore_case = node.bool("ignore_case");
    let pattern = if let Some(text) = text("exact") {
        StringPattern::Exact(text)
    } else if let Some(text) = text("prefix") {
        StringPattern::Prefix(text)
    } else if let Some(text) = text("suffix") {
        StringPattern::Suffix(text)
    } else if let Some(text) = text("contains") {
        StringPattern::Contains(text)
    } else {
        if ignore_case {
            cx.field_warning(node, "ignore_case", "it has no effect on a regular expression; write (?i) into it");
        }
        StringPattern::Regex(cx.optional(node, "safe_regex", regex)?)
    };
    Some(StringMatcher { ignore_case: ignore_case && !matches!(pattern, StringPattern::Regex(_)), pattern })
}

/// `envoy.type.matcher.v3.RegexMatcher`: its expression, when it compiles.
pub(super) fn regex(cx: &mut Cx<'_>, node: &Node) -> Option<String> {
    let text = node.get("regex")?.as_str()?;
    compile(text).map_err(|reason| cx.field_error(node, "regex", reason)).ok().map(|_| text.to_owned())
}

/// The expression, compiled as the matchers will do it.
pub(super) fn compile(text: &str) -> Result<regex::Regex, String> {
    RegexBuilder::new(text).size_limit(MAX_REGEX_PROGRAM_BYTES).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => {
            format!("the regular expression is too large: compiled it exceeds {limit} bytes")
        }
        error => {
            // The crate draws a picture of several lines; the last one says what is wrong.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or("").trim().trim_start_matches("error: ").to_owned();
            format!("the regular expression is invalid: {reason}")
        }
    })
}

/// `envoy.type.matcher.v3.RegexMatchAndSubstitute`: expression and substitution.
pub(super) fn regex_rewrite(cx: &mut Cx<'_>, node: &Node) -> Option<(String, String)> {
    let pattern = cx.optional(node, "pattern", regex)?;
    let substitution = node.str("substitution").to_owned();
    let groups = compile(&pattern).map_or(0, |regex| regex.captures_len().saturating_sub(1));
    let mut characters = substitution.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            continue;
        }
        match characters.next() {
            Some('\\') => {}
            Some(digit) if digit.is_ascii_digit() => {
                let number = digit.to_digit(10).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
                if number > groups {
                    // Compat: Envoy loads it, and the rewrite then leaves the path as it is.
                    let reason = format!("\"\\{digit}\" names no group: the expression has {groups}");
                    cx.field_warning(node, "substitution", reason);
                }
            }
            _ => {
                let reason = "after a backslash stands the number of a group or another backslash";
                cx.field_warning(node, "substitution", reason);
            }
        }
    }
    Some((pattern, substitution))
}

/// `envoy.config.route.v3.HeaderMatcher`.
pub(super) fn header_matcher(cx: &mut Cx<'_>, node: &Node) -> Option<HeaderMatcher> {
    let name = header_name(cx, node, "name", Pseudo::Allowed)?;
    let text = |key: &str| node.get(key).and_then(Node::as_str).map(str::to_owned);
    let string = |pattern| HeaderCondition::String(StringMatcher { pattern, ignore_case: false });
    let condition = if let Some(text) = text("exact_match") {
        string(StringPattern::Exact(text))
    } else if let Some(text) = text("prefix_match") {
        string(StringPattern::Prefix(text))
    } else if let Some(text) = text("suffix_match") {
        string(StringPattern::Suffix(text))
    } else if let Some(text) = text("contains_match") {
        string(StringPattern::Contains(text))
    } else if node.has("safe_regex_match") {
        string(StringPattern::Regex(cx.optional(node, "safe_regex_match", regex)?))
    } else if node.has("string_match") {
        HeaderCondition::String(cx.optional(node, "string_match", string_matcher)?)
    } else if let Some(range) = node.get("range_match") {
        let bound = |key: &str| range.field(key).as_i64().unwrap_or(0);
        if bound("start") >= bound("end") {
            cx.field_warning(node, "range_match", "the range is empty: \"end\" is not above \"start\"");
        }
        HeaderCondition::Range(bound("start")..bound("end"))
    } else {
        // Envoy: without any condition the field has to be there.
        HeaderCondition::Present(node.bool_or("present_match", true))
    };
    Some(HeaderMatcher {
        name,
        condition,
        invert: node.bool("invert_match"),
        treat_missing_as_empty: node.bool("treat_missing_header_as_empty"),
    })
}

/// `envoy.config.route.v3.QueryParameterMatcher`.
pub(super) fn query_parameter_matcher(cx: &mut Cx<'_>, node: &Node) -> Option<QueryParameterMatcher> {
    let value = match node.has("string_match") {
        true => Some(cx.optional(node, "string_match", string_matcher)?),
        false => None,
    };
    Some(QueryParameterMatcher { name: node.str("name").to_owned(), value })
}

/// `envoy.config.route.v3.CookieMatcher`.
pub(super) fn cookie_matcher(cx: &mut Cx<'_>, node: &Node) -> Option<CookieMatcher> {
    let value = cx.optional(node, "string_match", string_matcher)?;
    Some(CookieMatcher { name: node.str("name").to_owned(), value, invert: node.bool("invert_match") })
}

/// `envoy.type.matcher.v3.MetadataMatcher`.
pub(super) fn metadata_matcher(cx: &mut Cx<'_>, node: &Node) -> Option<MetadataMatcher> {
    Some(MetadataMatcher {
        namespace: node.str("filter").to_owned(),
        path: metadata_path(node),
        value: cx.optional(node, "value", value_matcher)?,
        invert: node.bool("invert"),
    })
}

/// The keys of a `path` of segments.
pub(super) fn metadata_path(node: &Node) -> Vec<String> {
    node.list("path").iter().map(|segment| segment.str("key").to_owned()).collect()
}

/// `envoy.type.matcher.v3.ValueMatcher`.
fn value_matcher(cx: &mut Cx<'_>, node: &Node) -> Option<ValueMatcher> {
    let (kind, inner) = node.pairs().iter().find(|(_, inner)| !inner.is_null())?;
    cx.with(kind, |cx| {
        Some(match &**kind {
            "null_match" => ValueMatcher::Null,
            "double_match" => match inner.get("range") {
                Some(range) => ValueMatcher::Range(range.f64("start").unwrap_or(0.0)..range.f64("end").unwrap_or(0.0)),
                None => ValueMatcher::Number(inner.f64("exact").unwrap_or(0.0)),
            },
            "string_match" => ValueMatcher::String(string_matcher(cx, inner)?),
            "bool_match" => ValueMatcher::Bool(inner.as_bool().unwrap_or(false)),
            "present_match" => ValueMatcher::Present(inner.as_bool().unwrap_or(false)),
            "list_match" => ValueMatcher::OneOf(Box::new(cx.optional(inner, "one_of", value_matcher)?)),
            "or_match" => {
                let matchers = cx.each(inner, "value_matchers", value_matcher);
                if matchers.len() != inner.list("value_matchers").len() {
                    return None;
                }
                ValueMatcher::Or(matchers)
            }
            _ => return None,
        })
    })
}

/// `envoy.type.matcher.v3.FilterStateMatcher`.
pub(super) fn filter_state_matcher(cx: &mut Cx<'_>, node: &Node) -> Option<FilterStateMatcher> {
    let pattern = match node.get("address_match") {
        Some(address) => {
            let ranges = cx.with("address_match", |cx| cx.each(address, "ranges", cidr_range));
            if ranges.len() != address.list("ranges").len() {
                return None;
            }
            FilterStatePattern::Address { ranges, invert: address.bool("invert_match") }
        }
        None => FilterStatePattern::String(cx.optional(node, "string_match", string_matcher)?),
    };
    Some(FilterStateMatcher { key: node.str("key").to_owned(), pattern })
}

/// Whether a header name may be one of HTTP/2's pseudo-headers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pseudo {
    Allowed,
    Refused,
}

/// A field that is a header name, in lower case.
pub(super) fn header_name(cx: &mut Cx<'_>, node: &Node, key: &str, pseudo: Pseudo) -> Option<String> {
    let field = node.get(key)?;
    let text = field.as_str().filter(|text| !text.is_empty())?;
    cx.with(key, |cx| header_name_text(cx, text, field.mark, pseudo))
}

/// A header name at the current path, in lower case (RFC 9110 §5.1: a token).
pub(super) fn header_name_text(cx: &mut Cx<'_>, text: &str, mark: Mark, pseudo: Pseudo) -> Option<String> {
    let token = match pseudo {
        Pseudo::Allowed => text.strip_prefix(':').unwrap_or(text),
        Pseudo::Refused => text,
    };
    let is_token =
        !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if !is_token {
        cx.error(mark, format!("\"{}\" is no header name", text.escape_debug()));
        return None;
    }
    Some(text.to_ascii_lowercase())
}

/// `envoy.config.core.v3.RuntimeFractionalPercent`.
pub(super) fn runtime_fraction(cx: &mut Cx<'_>, node: &Node) -> FractionalPercent {
    let value = node.field("default_value");
    let runtime_key = Some(node.str("runtime_key")).filter(|key| !key.is_empty()).map(str::to_owned);
    let percent = cx.with("default_value", |cx| fractional_percent(cx, value));
    FractionalPercent { runtime_key, ..percent }
}

/// `envoy.type.v3.FractionalPercent`.
pub(super) fn fractional_percent(cx: &mut Cx<'_>, node: &Node) -> FractionalPercent {
    let denominator = match node.str("denominator") {
        "TEN_THOUSAND" => 10_000,
        "MILLION" => 1_000_000,
        _ => 100,
    };
    let numerator = node.u32("numerator").unwrap_or(0);
    if numerator > denominator {
        // Compat: Envoy loads it and takes every request.
        let reason = format!("{numerator} of {denominator} is more than all of them; all are taken");
        cx.field_warning(node, "numerator", reason);
    }
    FractionalPercent { numerator: numerator.min(denominator), denominator, runtime_key: None }
}
