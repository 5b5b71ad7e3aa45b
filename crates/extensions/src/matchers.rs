//! Matchers and shares of requests, read from the checked configuration of filters. Each is built at once; an error
//! stands at `path`, which counts from the filter's own configuration.

use sota_config::{
    ConfigError, Node,
    address::CidrRange,
    matcher::{FilterStateMatcher as FilterStateConfig, FilterStatePattern, FractionalPercent as FractionConfig},
};
use sota_plugin::{
    FactoryContext,
    matcher::{FilterStateMatcher, FractionalPercent, HeaderMatcher, MetadataMatcher, StringMatcher, read},
    runtime::Runtime,
};
use std::{net::IpAddr, sync::Arc};

/// `envoy.type.matcher.v3.StringMatcher`
pub(crate) fn string(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<StringMatcher, ConfigError> {
    StringMatcher::build(&read::string_matcher(node)).map_err(|error| cx.error(path, node.mark, error.reason))
}

/// A list of `envoy.type.matcher.v3.StringMatcher` in a field.
pub(crate) fn strings(node: &Node, key: &str, cx: &FactoryContext<'_>) -> Result<Vec<StringMatcher>, ConfigError> {
    let items = node.list(key).iter().enumerate();
    items.map(|(at, item)| string(item, &format!("{key}[{at}]"), cx)).collect()
}

/// A list of `envoy.config.route.v3.HeaderMatcher` in a field.
pub(crate) fn headers(node: &Node, key: &str, cx: &FactoryContext<'_>) -> Result<Vec<HeaderMatcher>, ConfigError> {
    let items = node.list(key).iter().enumerate();
    items
        .map(|(at, item)| {
            HeaderMatcher::build(&read::header_matcher(item))
                .map_err(|error| cx.error(&format!("{key}[{at}]"), item.mark, error.reason))
        })
        .collect()
}

/// `envoy.config.route.v3.HeaderMatcher`
pub(crate) fn header(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<HeaderMatcher, ConfigError> {
    HeaderMatcher::build(&read::header_matcher(node)).map_err(|error| cx.error(path, node.mark, error.reason))
}

/// `envoy.type.matcher.v3.MetadataMatcher`
pub(crate) fn metadata(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<MetadataMatcher, ConfigError> {
    let error = |reason: String| cx.error(path, node.mark, reason);
    let config = read::metadata_matcher(node).ok_or_else(|| error("\"value\" says nothing".to_owned()))?;
    MetadataMatcher::build(&config).map_err(|e| error(e.reason))
}

/// `envoy.type.matcher.v3.FilterStateMatcher`
pub(crate) fn filter_state(
    node: &Node,
    path: &str,
    cx: &FactoryContext<'_>,
) -> Result<FilterStateMatcher, ConfigError> {
    let pattern = match node.get("address_match") {
        Some(address) => FilterStatePattern::Address {
            ranges: ranges(address, "ranges", &format!("{path}.address_match"), cx)?,
            invert: address.bool("invert_match"),
        },
        None => FilterStatePattern::String(read::string_matcher(node.field("string_match"))),
    };
    FilterStateMatcher::build(&FilterStateConfig { key: node.str("key").to_owned(), pattern })
        .map_err(|error| cx.error(path, node.mark, error.reason))
}

/// `envoy.config.core.v3.CidrRange`, or that of xDS.
pub(crate) fn range(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<CidrRange, ConfigError> {
    let text = node.str("address_prefix");
    let ip = text.parse::<IpAddr>();
    let ip = ip.map_err(|_| cx.error(path, node.mark, format!("malformed IP address \"{}\"", text.escape_debug())))?;
    let length = node.u32("prefix_len").unwrap_or(0);
    let range = u8::try_from(length).ok().and_then(|length| CidrRange::new(ip, length).ok());
    range.map(|range| range.trunc()).ok_or_else(|| {
        let most = if ip.is_ipv4() { 32 } else { 128 };
        cx.error(path, node.mark, format!("a prefix of {ip} has at most {most} bits, not {length}"))
    })
}

/// A list of them in a field.
pub(crate) fn ranges(
    node: &Node,
    key: &str,
    path: &str,
    cx: &FactoryContext<'_>,
) -> Result<Vec<CidrRange>, ConfigError> {
    let items = node.list(key).iter().enumerate();
    items.map(|(at, item)| range(item, &format!("{path}.{key}[{at}]"), cx)).collect()
}

/// `envoy.config.core.v3.RuntimeFractionalPercent` in a field; `None` when it is absent.
pub(crate) fn fraction(node: &Node, key: &str, cx: &FactoryContext<'_>) -> Option<FractionalPercent> {
    let node = node.get(key)?;
    let runtime_key = node.get("runtime_key").and_then(Node::as_str);
    Some(percent(node.field("default_value"), runtime_key, cx))
}

/// `envoy.type.v3.FractionalPercent`, which a runtime key may override.
pub(crate) fn percent(node: &Node, runtime_key: Option<&str>, cx: &FactoryContext<'_>) -> FractionalPercent {
    let config = FractionConfig {
        numerator: node.u32("numerator").unwrap_or(0),
        denominator: match node.str("denominator") {
            "TEN_THOUSAND" => 10_000,
            "MILLION" => 1_000_000,
            _ => 100,
        },
        runtime_key: runtime_key.map(str::to_owned),
    };
    FractionalPercent::build(&config, cx.runtime)
}

/// `envoy.config.core.v3.RuntimeFeatureFlag` in a field; on where it is absent.
pub(crate) fn switch(node: &Node, key: &str, cx: &FactoryContext<'_>) -> Switch {
    let node = node.field(key);
    let key = Some(node.str("runtime_key")).filter(|key| !key.is_empty());
    Switch {
        default: node.bool_or("default_value", true),
        runtime: key.map(|key| (key.into(), Arc::clone(cx.runtime))),
    }
}

/// A switch that a runtime key may turn.
#[derive(Debug, Clone)]
pub(crate) struct Switch {
    default: bool,
    runtime: Option<(Box<str>, Arc<Runtime>)>,
}

impl Switch {
    pub(crate) fn is_on(&self) -> bool {
        match &self.runtime {
            Some((key, runtime)) => runtime.enabled(key, self.default),
            None => self.default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{building, config, request, unchecked};
    use sota_config::TypedConfig;
    use sota_plugin::http::Method;

    fn node(config: TypedConfig) -> Arc<Node> {
        match config {
            TypedConfig::Value { node, .. } => node,
            _ => unreachable!("tests make trees"),
        }
    }

    #[test]
    fn every_kind_of_string() {
        for (yaml, good, bad) in [
            ("{exact: Ab}", "Ab", "ab"),
            ("{exact: Ab, ignore_case: true}", "aB", "a"),
            ("{prefix: a}", "ab", "ba"),
            ("{suffix: a}", "ba", "ab"),
            ("{contains: a}", "bab", "bb"),
            ("{safe_regex: {regex: 'a+'}}", "aa", "ab"),
        ] {
            let node = node(config("envoy.type.matcher.v3.StringMatcher", yaml));
            let matcher = building(|cx| string(&node, "m", cx)).unwrap();
            assert!(matcher.matches(good.as_bytes()) && !matcher.matches(bad.as_bytes()), "{yaml}");
        }
    }

    #[test]
    fn every_kind_of_header() {
        const MESSAGE: &str = "envoy.extensions.filters.http.health_check.v3.HealthCheck";
        for (matcher, good, bad) in [
            ("exact_match: v", "v", "vv"),
            ("prefix_match: v", "vv", "wv"),
            ("suffix_match: v", "wv", "vw"),
            ("contains_match: v", "wvw", "ww"),
            ("safe_regex_match: {regex: 'v+'}", "vvv", "w"),
            ("string_match: {exact: V, ignore_case: true}", "v", "vv"),
            ("range_match: {start: 1, end: 10}", "9", "10"),
            ("string_match: {exact: v}, invert_match: true", "w", "v"),
        ] {
            let yaml = format!("{{pass_through_mode: false, headers: [{{name: X-A, {matcher}}}]}}");
            let matchers = building(|cx| headers(&node(config(MESSAGE, &yaml)), "headers", cx)).unwrap();
            let matches = |value| matchers[0].matches(&request(Method::Get, "/", &[("x-a", value)]));
            assert!(matches(good) && !matches(bad), "{matcher}");
        }
        let yaml = "{pass_through_mode: false, headers: [{name: x-a}, {name: x-b, present_match: false}]}";
        let matchers = building(|cx| headers(&node(config(MESSAGE, yaml)), "headers", cx)).unwrap();
        let head = request(Method::Get, "/", &[("x-a", "")]);
        assert!(matchers.iter().all(|matcher| matcher.matches(&head)));
    }

    #[test]
    fn errors_have_a_place() {
        let bad = node(unchecked("{list: [{exact: a}, {safe_regex: {regex: '('}}], headers: [{name: 'a b'}]}"));
        let error = building(|cx| strings(&bad, "list", cx)).unwrap_err();
        assert_eq!((error.path.as_str(), error.mark.line), ("here.list[1]", 1));
        let error = building(|cx| headers(&bad, "headers", cx)).unwrap_err();
        assert_eq!(error.to_string(), "here.headers[0]: header name \"a b\": not a valid field name");
    }
}
