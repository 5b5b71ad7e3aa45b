//! Tags, selection and buckets of stats (`envoy.config.metrics.v3.StatsConfig`).

use super::{
    context::Cx,
    matcher::{regex_text, string_matcher},
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
        TagValue::Regex(regex_text(cx, node, "regex")?)
    };
    Some(TagSpecifier { name: node.str("tag_name").to_owned(), value })
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
