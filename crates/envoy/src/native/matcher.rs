//! Matchers of headers, query parameters and cookies.

use super::lower::{Fields, Lower, Place, wrap};
use sota_config::Node;

const HEADER: &str = "envoy.config.route.v3.HeaderMatcher";
const QUERY_PARAMETER: &str = "envoy.config.route.v3.QueryParameterMatcher";
const COOKIE: &str = "envoy.config.route.v3.CookieMatcher";
/// Those of a string matcher, which may stand beside the name.
const SHORT_FORMS: [&str; 7] = ["exact", "prefix", "suffix", "contains", "regex", "ignore_case", "present"];

/// A header matcher.
pub(super) fn header(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Node {
    matcher(lower, node, place, HEADER)
}

/// A query parameter matcher.
pub(super) fn query_parameter(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Node {
    matcher(lower, node, place, QUERY_PARAMETER)
}

/// A cookie matcher.
pub(super) fn cookie(lower: &mut Lower<'_>, node: &Node, place: &Place) -> Node {
    matcher(lower, node, place, COOKIE)
}

fn matcher(lower: &mut Lower<'_>, node: &Node, place: &Place, message: &str) -> Node {
    let mut out = Fields::new(node);
    let mut string = Fields::new(node);
    for (key, value) in node.pairs() {
        let written = place.field(key).written;
        match &**key {
            "exact" | "prefix" | "suffix" | "contains" | "ignore_case" => {
                lower.at(&written, format!("{}.string_match.{key}", place.made));
                string.push(key, value.clone());
            }
            "regex" => {
                lower.at(&written, format!("{}.string_match.safe_regex", place.made));
                lower.at(&written, format!("{}.string_match.safe_regex.regex", place.made));
                string.push("safe_regex", wrap("regex", value.clone()));
            }
            "present" => {
                lower.at(&written, format!("{}.present_match", place.made));
                out.push("present_match", value.clone());
            }
            _ => {
                if let Some(name) = lower.known(key, value, message, &SHORT_FORMS, place) {
                    out.push(name, value.clone());
                }
            }
        }
    }
    if !string.is_empty() {
        lower.at(&place.written, format!("{}.string_match", place.made));
        out.push("string_match", string.build());
    }
    out.or(node)
}
