//! Tags, selection and buckets of stats (`envoy.config.metrics.v3.StatsConfig`).

use super::{
    context::Cx,
    matcher::{compile, string_matcher},
};
use sota_config::{
    Node,
    bootstrap::{HistogramBuckets, StatsConfig, StatsMatcher, TagSpecifier, TagValue},
};

/// `StatsConfig`.
pub(super) fn stats_config(cx: &mut Cx<'_>, node: &Node) -> StatsConfig {
    StatsConfig {
        tags: cx.each(node, "stats_tags", tag),
        use_all_default_tags: node.field("use_all_default_tags").as_bool(),
        matcher: cx.optional(node, "stats_matcher", |cx, node| Some(stats_matcher(cx, node))).unwrap_or_default(),
        histogram_buckets: cx.each(node, "histogram_bucket_settings", buckets),
    }
}

fn tag(cx: &mut Cx<'_>, node: &Node) -> Option<TagSpecifier> {
    let value = if let Some(fixed) = node.get("fixed_value") {
        TagValue::Fixed(fixed.as_str()?.to_owned())
    } else if node.str("regex").is_empty() {
        // Whether Envoy has an expression of its own for this name is known where the stats are built.
        TagValue::Default
    } else {
        let text = without_lookahead(node.str("regex"));
        if let Err(reason) = compile(&text) {
            cx.field_error(node, "regex", reason);
            return None;
        }
        TagValue::Regex(text)
    };
    Some(TagSpecifier { name: node.str("tag_name").to_owned(), value })
}

/// Envoy reads these expressions with an engine that can look ahead, and one of its own does, which control planes copy
/// into their bootstraps: `(?=\.).*?\.`. What looks ahead for the character that also follows the gap is the gap
/// itself with that character before it, or nothing: `(?:\..*?)??\.` takes the same texts in the same order. Other
/// look-ahead is left to be refused.
fn without_lookahead(text: &str) -> String {
    const LOOK: &str = "(?=";
    const GAP: &str = ").*?";
    let Some((before, rest)) = text.split_once(LOOK) else { return text.to_owned() };
    let Some((character, after)) = rest.split_once(GAP) else { return text.to_owned() };
    let is_one = match character.as_bytes() {
        [b'\\', escaped] => escaped.is_ascii_punctuation(),
        [plain] => plain.is_ascii_alphanumeric() || *plain == b'_',
        _ => false,
    };
    if !is_one || !after.starts_with(character) {
        return text.to_owned();
    }
    format!("{before}(?:{character}.*?)??{}", without_lookahead(after))
}

fn stats_matcher(cx: &mut Cx<'_>, node: &Node) -> StatsMatcher {
    if node.bool("reject_all") {
        return StatsMatcher::None;
    }
    let mut patterns = |key: &str| cx.with(key, |cx| cx.each(node.field(key), "patterns", string_matcher));
    if node.has("inclusion_list") {
        StatsMatcher::Include(patterns("inclusion_list"))
    } else if node.has("exclusion_list") {
        StatsMatcher::Exclude(patterns("exclusion_list"))
    } else {
        StatsMatcher::All
    }
}

fn buckets(cx: &mut Cx<'_>, node: &Node) -> Option<HistogramBuckets> {
    let mut buckets: Vec<f64> = node.list("buckets").iter().filter_map(Node::as_f64).collect();
    buckets.sort_by(f64::total_cmp);
    Some(HistogramBuckets { matcher: cx.optional(node, "match", string_matcher)?, buckets })
}

#[cfg(test)]
mod tests {
    use super::without_lookahead;
    use crate::translate::matcher::compile;

    /// The expression of Istio's and Kuma's bootstraps.
    const LISTENER: &str = r"^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)";

    #[test]
    fn envoy_s_own_look_ahead_is_read() {
        let regex = compile(&without_lookahead(LISTENER)).expect("an expression");
        for (text, prefix) in [
            ("listener.0.0.0.0_80.http.10.0.0.1_8080.downstream_rq_2xx", None),
            ("listener.http.10.0.0.1_8080.downstream_rq_2xx", Some("10.0.0.1_8080.")),
            ("listener.a.http.b.c", Some("b.")),
            ("listenerx.http.b.c", None),
            ("listener_http.http.b.c", None),
        ] {
            let found = regex.captures(text).and_then(|captures| captures.get(1)).map(|group| group.as_str());
            match prefix {
                Some(prefix) => assert_eq!(found, Some(prefix), "{text}"),
                None if text.starts_with("listener.") => assert!(found.is_some(), "{text}"),
                None => assert_eq!(found, None, "{text}"),
            }
        }
    }

    #[test]
    fn other_look_ahead_stays() {
        for text in ["a(?=b)c", "a(?!b).*?b", r"(?=\.).*?x", r"(?=\w).*?\w", "a", "(?=ab).*?ab"] {
            assert_eq!(without_lookahead(text), text);
            assert!(text == "a" || compile(text).is_err());
        }
    }
}
