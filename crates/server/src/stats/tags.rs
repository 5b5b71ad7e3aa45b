//! Tags: parts of a name that Prometheus wants as labels.
//!
//! `cluster.web.upstream_rq_503` becomes `cluster.upstream_rq` with `envoy.response_code` 503 and `envoy.cluster_name` web. Every
//! rule looks at the whole name and says which part it takes; all those parts are taken out at the end, so the order of rules is
//! only that of the tags: fixed ones, rules for any name, rules for names with a certain first token.

use super::{StatsError, default_tags};
use regex::Regex;
use sota_config::bootstrap::{StatsConfig, TagSpecifier, TagValue};
use sota_plugin::stats::LABELLED;
use std::{borrow::Cow, ops::Range};

/// The tags of `stats_config` and Envoy's own.
#[derive(Debug)]
pub(super) struct TagExtractor {
    fixed: Vec<(String, String)>,
    rules: Vec<Rule>,
}

/// Tags with their values.
pub(crate) type Tags<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// A name without its tags, and the tags.
#[derive(Debug, PartialEq)]
pub(super) struct Tagged<'a> {
    pub(super) name: String,
    pub(super) tags: Tags<'a>,
}

#[derive(Debug)]
struct Rule {
    tag: Cow<'static, str>,
    /// The first token of names that this rule is for; any name without it.
    first: Option<Cow<'static, str>>,
    find: Find,
}

#[derive(Debug, Clone)]
pub(super) enum Find {
    /// Tokens between dots: `*` is any one, `**` any number of them, `$` the value, and others are themselves.
    Tokens(&'static str),
    /// Where tokens don't do.
    Function(fn(&str) -> Option<Found>),
    /// From the configuration.
    Regex(Regex),
}

/// What a rule found in a name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    /// What is taken out of the name.
    pub(super) remove: Range<usize>,
    /// What the tag's value is.
    pub(super) value: Range<usize>,
}

/// One of Envoy's own tags.
pub(super) struct DefaultTag {
    pub(super) tag: &'static str,
    pub(super) first: Option<&'static str>,
    pub(super) find: Find,
}

impl TagExtractor {
    pub(super) fn new(config: &StatsConfig) -> Result<Self, StatsError> {
        let mut rules = Vec::new();
        let mut fixed = Vec::new();
        let defaults = default_tags::all();
        if config.use_all_default_tags != Some(false) {
            rules.extend(defaults.iter().map(Rule::from));
        }
        for TagSpecifier { name, value } in &config.tags {
            match value {
                TagValue::Fixed(value) => fixed.push((name.clone(), value.clone())),
                TagValue::Regex(regex) => rules.push(Rule {
                    tag: name.clone().into(),
                    first: first_token(regex).map(|first| first.to_owned().into()),
                    find: Find::Regex(super::compile(regex)?),
                }),
                TagValue::Default => {
                    let known = defaults.iter().filter(|default| default.tag == name).map(Rule::from);
                    let before = rules.len();
                    rules.extend(known);
                    if rules.len() == before {
                        return Err(StatsError::UnknownTag(name.clone()));
                    }
                }
            }
        }
        rules.sort_by_key(|rule| rule.first.is_some());
        Ok(Self { fixed, rules })
    }

    /// Takes the tags out of a name. Of tags with the same name the first one counts.
    pub(super) fn extract<'a>(&'a self, name: &'a str) -> Tagged<'a> {
        let mut tags: Vec<_> =
            self.fixed.iter().map(|(tag, value)| (tag.as_str(), Cow::Borrowed(value.as_str()))).collect();
        if let Some((metric, labels)) = sota_plugin::stats::labels(name) {
            tags.extend(labels.into_iter().map(|(tag, value)| (tag, Cow::Borrowed(value))));
            return Tagged { name: format!("{LABELLED}{metric}"), tags };
        }
        let mut removed: Vec<Range<usize>> = Vec::new();
        let first = name.split_once('.').map(|(first, _)| first);
        for rule in &self.rules {
            if rule.first.is_some() && rule.first.as_deref() != first || tags.iter().any(|(tag, _)| *tag == rule.tag) {
                continue;
            }
            if let Some(found) = rule.find.find(name) {
                let value = name.get(found.value).unwrap_or_default();
                let is_address = rule.tag == default_tags::ENDPOINT_ADDRESS;
                tags.push((&rule.tag, if is_address { default_tags::with_colons(value) } else { value.into() }));
                removed.push(found.remove);
            }
        }
        Tagged { name: without(name, removed), tags }
    }
}

impl From<&DefaultTag> for Rule {
    fn from(default: &DefaultTag) -> Self {
        Self { tag: default.tag.into(), first: default.first.map(Cow::Borrowed), find: default.find.clone() }
    }
}

impl Find {
    fn find(&self, name: &str) -> Option<Found> {
        match self {
            Self::Tokens(pattern) => find_tokens(pattern, name),
            Self::Function(find) => find(name),
            Self::Regex(regex) => {
                let groups = regex.captures(name)?;
                // The first group is taken out, the second is the value; without a second the first is.
                let end = name.len()..name.len();
                let group = |n| groups.get(n).map_or_else(|| end.clone(), |group| group.range());
                Some(Found { remove: group(1), value: if groups.len() > 2 { group(2) } else { group(1) } })
            }
        }
    }
}

/// The token that a regular expression such as `^cluster\.` begins with.
fn first_token(regex: &str) -> Option<&str> {
    let rest = regex.strip_prefix('^')?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    let (token, rest) = rest.split_at_checked(end)?;
    (!token.is_empty() && (rest.starts_with(r"\.") || rest == "$")).then_some(token)
}

fn find_tokens(pattern: &str, name: &str) -> Option<Found> {
    let value = match_tokens(Some(pattern), Some(name), name)??;
    // With the dot behind it, or the one before it if it is the last.
    let remove = match name.get(value.end..) {
        Some(rest) if rest.starts_with('.') => value.start..value.end + 1,
        _ => value.start.saturating_sub(1)..value.end,
    };
    Some(Found { remove, value })
}

/// Whether `rest` matches, and where the value is. `None` stands for no more tokens.
fn match_tokens(pattern: Option<&str>, rest: Option<&str>, name: &str) -> Option<Option<Range<usize>>> {
    let Some(pattern) = pattern else { return rest.is_none().then_some(None) };
    let (wanted, patterns) = split_token(pattern);
    if wanted == "**" {
        if patterns.is_none() {
            return Some(None);
        }
        let mut rest = rest;
        loop {
            if let Some(found) = match_tokens(patterns, rest, name) {
                return Some(found);
            }
            rest = split_token(rest?).1;
        }
    }
    let start = name.len() - rest?.len();
    let (token, rest) = split_token(rest?);
    match wanted {
        "$" => match_tokens(patterns, rest, name).map(|_| Some(start..start + token.len())),
        "*" => match_tokens(patterns, rest, name),
        wanted => (wanted == token).then(|| match_tokens(patterns, rest, name))?,
    }
}

fn split_token(text: &str) -> (&str, Option<&str>) {
    text.split_once('.').map_or((text, None), |(token, rest)| (token, Some(rest)))
}

fn without(name: &str, mut removed: Vec<Range<usize>>) -> String {
    removed.sort_unstable_by_key(|range| range.start);
    let mut kept = String::with_capacity(name.len());
    let mut position = 0;
    for range in removed {
        kept.push_str(name.get(position..range.start).unwrap_or_default());
        position = position.max(range.end);
    }
    kept.push_str(name.get(position..).unwrap_or_default());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str, value: TagValue) -> TagSpecifier {
        TagSpecifier { name: name.into(), value }
    }

    fn extractor(tags: Vec<TagSpecifier>, use_all_default_tags: Option<bool>) -> TagExtractor {
        TagExtractor::new(&StatsConfig { tags, use_all_default_tags, ..Default::default() }).unwrap()
    }

    #[test]
    fn default_tags_are_taken_out() {
        let extractor = extractor(Vec::new(), None);
        /// Name, what is left of it, tags.
        type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);
        let cases: &[Case] = &[
            ("server.live", "server.live", &[]),
            ("cluster.web.membership_total", "cluster.membership_total", &[("envoy.cluster_name", "web")]),
            (
                "cluster.web.external.upstream_rq_503",
                "cluster.external.upstream_rq",
                &[("envoy.response_code", "503"), ("envoy.cluster_name", "web")],
            ),
            (
                "cluster.web.upstream_rq_5xx",
                "cluster.upstream_rq_xx",
                &[("envoy.response_code_class", "5"), ("envoy.cluster_name", "web")],
            ),
            (
                "cluster.web.grpc.shop.Cart.Add.total",
                "cluster.grpc.Add.total",
                &[
                    ("envoy.grpc_bridge_method", "Cart"),
                    ("envoy.grpc_bridge_service", "shop"),
                    ("envoy.cluster_name", "web"),
                ],
            ),
            ("http.in.g ress.rq", "http.g ress.rq", &[("envoy.http_conn_manager_prefix", "in")]),
            (
                "http.in.rds.r.one.config_reload",
                "http.rds.config_reload",
                &[("envoy.http_conn_manager_prefix", "in"), ("envoy.rds_route_config", "r.one")],
            ),
            (
                "http.in.user_agent.ios.total",
                "http.user_agent.total",
                &[("envoy.http_user_agent", "ios"), ("envoy.http_conn_manager_prefix", "in")],
            ),
            (
                "listener.127.0.0.1_80.worker_0.downstream_cx_total",
                "listener.worker_downstream_cx_total",
                &[("envoy.worker_id", "0"), ("envoy.listener_address", "127.0.0.1_80")],
            ),
            (
                "listener.[__1]_80.ssl.ciphers.AES-1",
                "listener.ssl.ciphers",
                &[("envoy.ssl_cipher", "AES-1"), ("envoy.listener_address", "[__1]_80")],
            ),
            (
                "listener.[__1]_80.ssl.versions.TLSv1.3",
                "listener.ssl.versions",
                &[("envoy.ssl_version", "TLSv1.3"), ("envoy.listener_address", "[__1]_80")],
            ),
            (
                "listener.named.http.in.rq",
                "listener.http.rq",
                &[("envoy.http_conn_manager_prefix", "in"), ("envoy.listener_address", "named")],
            ),
            ("listener.admin.http.admin.rq", "listener.admin.http.rq", &[("envoy.http_conn_manager_prefix", "admin")]),
            ("server.worker_12.watchdog_miss", "server.worker_watchdog_miss", &[("envoy.worker_id", "12")]),
            ("tcp.in.downstream_cx_total", "tcp.downstream_cx_total", &[("envoy.tcp_prefix", "in")]),
            (
                "vhost.v.vcluster.c.rq",
                "vhost.vcluster.rq",
                &[("envoy.virtual_cluster", "c"), ("envoy.virtual_host", "v")],
            ),
            (
                "limit.http_local_rate_limit.ok",
                "http_local_rate_limit.ok",
                &[("envoy.local_http_ratelimit_prefix", "limit")],
            ),
            (
                "http.in.rbac.one.policy.p.allowed",
                "http.rbac.policy.allowed",
                &[
                    ("envoy.rbac_policy_name", "p"),
                    ("envoy.rbac_http_prefix", "one"),
                    ("envoy.http_conn_manager_prefix", "in"),
                ],
            ),
            (
                "cluster.web.endpoint.10.0.0.1_80.rq_total",
                "cluster.endpoint.rq_total",
                &[("envoy.endpoint_address", "10.0.0.1:80"), ("envoy.cluster_name", "web")],
            ),
            (
                "cluster.web.endpoint.[__1]_80.rq_total",
                "cluster.endpoint.rq_total",
                &[("envoy.endpoint_address", "[::1]:80"), ("envoy.cluster_name", "web")],
            ),
            (
                "cluster.web.ssl.ciphers.AES-1",
                "cluster.ssl.ciphers",
                &[("envoy.ssl_cipher_suite", "AES-1"), ("envoy.cluster_name", "web")],
            ),
        ];
        for (name, extracted, tags) in cases {
            let mut found = extractor.extract(name);
            let mut expected = tags.to_vec();
            found.tags.sort_unstable();
            expected.sort_unstable();
            let found_tags: Vec<_> = found.tags.iter().map(|(tag, value)| (*tag, &**value)).collect();
            assert_eq!((found.name.as_str(), found_tags), (*extracted, expected), "{name}");
        }
    }

    #[test]
    fn tags_come_in_the_order_of_envoy() {
        let fixed = tag("zone", TagValue::Fixed("a".into()));
        let any = tag("shard", TagValue::Regex(r"(_s(\d))".into()));
        let cluster = tag("kind", TagValue::Regex(r"^cluster\.(\w)".into()));
        let extractor = extractor(vec![cluster, any, fixed], None);
        let tags = extractor.extract("cluster.web.total_s7_rq_200").tags;
        let tags: Vec<_> = tags.iter().map(|(tag, value)| (*tag, &**value)).collect();
        let expected = [
            ("zone", "a"),
            ("envoy.response_code", "200"),
            ("shard", "7"),
            ("envoy.cluster_name", "web"),
            ("kind", "w"),
        ];
        assert_eq!(tags, expected);
    }

    #[test]
    fn configured_tags_take_their_first_group_out() {
        let extractor = extractor(
            vec![
                tag("two", TagValue::Regex(r"(\.two_(\d+))".into())),
                tag("one", TagValue::Regex(r"(one)_".into())),
                tag("envoy.cluster_name", TagValue::Default),
            ],
            Some(false),
        );
        let tagged = extractor.extract("cluster.web.one_x.two_22_rq_200");
        assert_eq!(tagged.name, "cluster._x_rq_200");
        let tags: Vec<_> = tagged.tags.iter().map(|(tag, value)| (*tag, &**value)).collect();
        assert_eq!(tags, [("two", "22"), ("one", "one"), ("envoy.cluster_name", "web")]);
        let unknown = StatsConfig { tags: vec![tag("what", TagValue::Default)], ..Default::default() };
        assert!(matches!(TagExtractor::new(&unknown), Err(StatsError::UnknownTag(name)) if name == "what"));
    }

    #[test]
    fn names_of_any_shape_are_taken() {
        let extractor = extractor(Vec::new(), None);
        for name in
            ["", ".", "..", "cluster.", "cluster..", "http.x.rds.", "listener.[", "listener.1.2.3.4_", "_rq_20é", "$"]
        {
            extractor.extract(name);
        }
        assert_eq!(extractor.extract("cluster.web").name, "cluster");
    }
}
