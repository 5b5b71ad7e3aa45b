//! `envoy.filters.http.header_to_metadata`: copies fields and cookies into dynamic metadata.

use crate::{cookie, lazy_stats::LazyStats};
use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use sota_config::{ConfigError, Node, TypedConfig, Value};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory},
    http::{HeaderName, Headers, RequestHead, ResponseHead},
    info::StreamInfo,
    matcher::RegexSubstitution,
    stat_group,
};
use std::{any::Any, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.header_to_metadata",
    short_name: "header_to_metadata",
    type_urls: &["envoy.extensions.filters.http.header_to_metadata.v3.Config"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["envoy.extensions.filters.http.header_to_metadata.v3.Config"],
};

/// Longer values are left out.
const MAX_VALUE_LEN: usize = 8 * 1024;

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

stat_group! {
    /// `http_filter_name.<stat_prefix>.`, only with a `stat_prefix`.
    struct Stats {
        /// Rules applied to requests.
        request_rules_processed: shared_counter,
        /// Rules applied to responses.
        response_rules_processed: shared_counter,
        /// Values added from requests.
        request_metadata_added: shared_counter,
        /// Values added from responses.
        response_metadata_added: shared_counter,
        /// Requests without the field of a rule that has a value for that.
        request_header_not_found: shared_counter,
        /// Responses without the field of a rule that has a value for that.
        response_header_not_found: shared_counter,
        /// Values that are no base64.
        base64_decode_failed: shared_counter,
        /// Values that are too long.
        header_value_too_long: shared_counter,
        /// Values that a substitution left empty.
        regex_substitution_failed: shared_counter,
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let none = Node::map();
    let node = match config {
        TypedConfig::Value { node, .. } => node,
        _ => &none,
    };
    Ok(Arc::new(Config(Arc::new(Rules::read(node, cx)?))))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    match config {
        TypedConfig::Value { node, .. } if node.has("request_rules") || node.has("response_rules") => {
            Ok(Arc::new(Rules::read(node, cx)?))
        }
        _ => Err(cx.error("", cx.mark, "either request_rules or response_rules are needed here")),
    }
}

struct Config(Arc<Rules>);

/// `envoy.extensions.filters.http.header_to_metadata.v3.Config`
struct Rules {
    request: Vec<Rule>,
    response: Vec<Rule>,
    stats: Option<LazyStats<Stats>>,
}

struct Rule {
    source: Source,
    present: Option<Target>,
    missing: Option<Target>,
}

enum Source {
    Header { name: HeaderName, remove: bool },
    Cookie(String),
}

/// Where a value goes.
struct Target {
    namespace: String,
    key: String,
    /// Instead of the field's value.
    value: Option<String>,
    rewrite: Option<RegexSubstitution>,
    is_number: bool,
    is_base64: bool,
}

impl Rules {
    fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let rules = |key: &str| -> Result<Vec<_>, ConfigError> {
            let items = node.list(key).iter().enumerate();
            items.map(|(at, item)| Rule::read(item, &format!("{key}[{at}]"), cx)).collect()
        };
        let prefix = Some(node.str("stat_prefix")).filter(|prefix| !prefix.is_empty());
        Ok(Self {
            request: rules("request_rules")?,
            response: rules("response_rules")?,
            stats: prefix.map(|prefix| LazyStats::new(format!("http_filter_name.{prefix}."))),
        })
    }
}

impl Rule {
    fn read(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let fail = |reason: &str| Err(cx.error(path, node.mark, reason));
        let source = match (node.str("header"), node.str("cookie")) {
            ("", "") => return fail("one of header and cookie is needed here"),
            ("", _) if node.bool("remove") => return fail("a cookie cannot be removed"),
            ("", cookie) => Source::Cookie(cookie.to_owned()),
            (header, "") => Source::Header {
                name: HeaderName::parse_any(header.as_bytes()).map_err(|error| {
                    cx.error(&format!("{path}.header"), node.field("header").mark, error.to_string())
                })?,
                remove: node.bool("remove"),
            },
            _ => return fail("only one of header and cookie may stand here"),
        };
        let target = |key: &str| -> Result<Option<Target>, ConfigError> {
            node.get(key).map(|target| Target::read(target, &format!("{path}.{key}"), cx)).transpose()
        };
        let (present, missing) = (target("on_header_present")?, target("on_header_missing")?);
        if present.is_none() && missing.is_none() {
            return fail("one of on_header_present and on_header_missing is needed here");
        }
        if missing.as_ref().is_some_and(|target| target.value.is_none()) {
            return fail("on_header_missing needs a value");
        }
        Ok(Self { source, present, missing })
    }
}

impl Target {
    fn read(node: &Node, path: &str, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let value = Some(node.str("value")).filter(|value| !value.is_empty()).map(str::to_owned);
        let rewrite = node.get("regex_value_rewrite").map(|rewrite| {
            RegexSubstitution::build(rewrite.field("pattern").str("regex"), rewrite.str("substitution"))
                .map_err(|error| cx.error(&format!("{path}.regex_value_rewrite"), rewrite.mark, error.reason))
        });
        let rewrite = rewrite.transpose()?;
        if value.is_some() && rewrite.is_some() {
            return Err(cx.error(path, node.mark, "only one of value and regex_value_rewrite may stand here"));
        }
        let namespace = match node.str("metadata_namespace") {
            "" => EXTENSION.name,
            namespace => namespace,
        };
        Ok(Self {
            namespace: namespace.to_owned(),
            key: node.str("key").to_owned(),
            value,
            rewrite,
            is_number: node.str("type") == "NUMBER",
            is_base64: node.str("encode") == "BASE64",
        })
    }

    /// What goes into the metadata for a field's value.
    fn node(&self, given: Vec<u8>, stats: Option<&Stats>) -> Option<Node> {
        let count = |counter: fn(&Stats) -> &sota_plugin::stats::SharedCounterCell| {
            if let Some(stats) = stats {
                counter(stats).inc();
            }
        };
        let mut value = match (&self.value, &self.rewrite) {
            (Some(value), _) => value.clone().into_bytes(),
            (None, Some(rewrite)) => {
                let was_empty = given.is_empty();
                let value = rewrite.replace_all(&given).unwrap_or(given);
                if value.is_empty() && !was_empty {
                    count(|stats| &stats.regex_substitution_failed);
                }
                value
            }
            (None, None) => given,
        };
        if value.is_empty() {
            return None;
        }
        if value.len() >= MAX_VALUE_LEN {
            count(|stats| &stats.header_value_too_long);
            return None;
        }
        if self.is_base64 {
            value = BASE64.decode(&value).unwrap_or_default();
            if value.is_empty() {
                count(|stats| &stats.base64_decode_failed);
                return None;
            }
        }
        let text = String::from_utf8_lossy(&value);
        if self.is_number {
            return text.trim().parse().ok().map(|number| Node::new(Value::Float(number)));
        }
        Some(Node::string(&*text))
    }
}

/// The fields that a rule looks at.
trait Message {
    fn joined(&self, name: &HeaderName) -> Option<Vec<u8>>;
    fn headers(&mut self) -> &mut Headers;
}

impl Message for RequestHead {
    fn joined(&self, name: &HeaderName) -> Option<Vec<u8>> {
        self.get_joined(name).map(|value| value.into_owned())
    }

    fn headers(&mut self) -> &mut Headers {
        &mut self.headers
    }
}

impl Message for ResponseHead {
    fn joined(&self, name: &HeaderName) -> Option<Vec<u8>> {
        self.get_joined(name).map(|value| value.into_owned())
    }

    fn headers(&mut self) -> &mut Headers {
        &mut self.headers
    }
}

fn apply(rules: &[Rule], message: &mut impl Message, is_response: bool, info: &mut StreamInfo, stats: Option<&Stats>) {
    for rule in rules {
        if let Some(stats) = stats {
            if is_response { &stats.response_rules_processed } else { &stats.request_rules_processed }.inc();
        }
        let value = match &rule.source {
            Source::Header { name, remove } => {
                let value = message.joined(name);
                if *remove {
                    message.headers().remove(name);
                }
                value
            }
            Source::Cookie(name) => cookie::find(message.headers(), name).filter(|value| !value.is_empty()),
        };
        let target = if value.is_some() { &rule.present } else { &rule.missing };
        let Some(target) = target else { continue };
        if let (Some(stats), None) = (stats, &value) {
            if is_response { &stats.response_header_not_found } else { &stats.request_header_not_found }.inc();
        }
        if let Some(node) = target.node(value.unwrap_or_default(), stats) {
            info.metadata.set(&target.namespace, &target.key, node);
            if let Some(stats) = stats {
                if is_response { &stats.response_metadata_added } else { &stats.request_metadata_added }.inc();
            }
        }
    }
}

impl HttpFilterConfig for Config {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        if let Some(stats) = &self.0.stats {
            stats.get(cx);
        }
        Box::new(Factory(Arc::clone(&self.0)))
    }
}

struct Factory(Arc<Rules>);

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        Some(Box::new(Filter(Arc::clone(&self.0))))
    }
}

struct Filter(Arc<Rules>);

impl Filter {
    /// The rules of the route, otherwise the filter's.
    fn with_rules(&self, cx: &mut StreamCx<'_>, f: impl FnOnce(&Rules, &mut StreamInfo, Option<&Stats>)) {
        let route = cx.route().cloned();
        let own = route.as_ref().and_then(|route| route.filter_config(cx.filter_name)?.downcast_ref());
        let rules = own.unwrap_or(&*self.0);
        f(rules, cx.info, rules.stats.as_ref().map(|stats| &**stats.get(cx.worker)));
    }
}

impl HttpFilter for Filter {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        self.with_rules(cx, |rules, info, stats| apply(&rules.request, head, false, info, stats));
        FilterStatus::Continue
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        self.with_rules(cx, |rules, info, stats| apply(&rules.response, head, true, info, stats));
        FilterStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Route, Stream, building, config, lines, request};
    use sota_plugin::http::Method;

    const MESSAGE: &str = EXTENSION.type_urls[0];

    fn run(yaml: &str, fields: &[(&str, &str)], route: Option<Route>) -> (Stream, Vec<(String, u64)>) {
        let worker = FakeWorker::default();
        let factory = building(|cx| build(&config(MESSAGE, yaml), cx)).unwrap().for_worker(&worker.cx());
        let mut stream = Stream::new(&worker, request(Method::Get, "/p", fields), route);
        let mut filter = factory.new_filter(&stream.info).unwrap();
        stream.on_request(|head, cx| filter.on_request_headers(head, true, cx));
        let mut head = ResponseHead::default().with("x-r", "7");
        stream.on_response(|cx| filter.on_response_headers(&mut head, true, cx));
        let counters = worker.counters();
        (stream, counters)
    }

    /// The value at the key `k`, as it would be printed.
    fn value(rule: &str, fields: &[(&str, &str)]) -> Option<Node> {
        let (stream, _) = run(&format!("request_rules: [{rule}]"), fields, None);
        stream.info.metadata.path(EXTENSION.name, ["k"]).cloned()
    }

    #[test]
    fn every_kind_of_value() {
        let rule = |more: &str| format!("{{header: x-a, on_header_present: {{key: k{more}}}}}");
        let text = |text: &str| Some(Node::string(text));
        assert_eq!(value(&rule(""), &[("x-a", "1"), ("x-a", "2")]), text("1,2"));
        assert_eq!(value(&rule(""), &[("x-a", "")]), None);
        assert_eq!(value(&rule(""), &[]), None);
        assert_eq!(value(&rule(", value: fixed"), &[("x-a", "1")]), text("fixed"));
        assert_eq!(value(&rule(", type: NUMBER"), &[("x-a", "1.5")]), Some(Node::new(Value::Float(1.5))));
        assert_eq!(value(&rule(", type: NUMBER"), &[("x-a", "one")]), None);
        assert_eq!(value(&rule(", encode: BASE64"), &[("x-a", "aGk")]), text("hi"));
        assert_eq!(value(&rule(", encode: BASE64"), &[("x-a", "!")]), None);
        let rewrite = ", regex_value_rewrite: {pattern: {regex: '^/(a+)/.*'}, substitution: '\\1'}";
        assert_eq!(value(&rule(rewrite), &[("x-a", "/aa/b")]), text("aa"));
        assert_eq!(value(&rule(rewrite), &[("x-a", "other")]), text("other"));
        assert_eq!(value(&rule(""), &[("x-a", &"x".repeat(MAX_VALUE_LEN))]), None);
        let missing = "{header: x-a, on_header_missing: {key: k, value: none}}";
        assert_eq!((value(missing, &[]), value(missing, &[("x-a", "")])), (text("none"), None));
        let cookie = "{cookie: c, on_header_present: {key: k}}";
        assert_eq!(value(cookie, &[("cookie", "a=1; c=2")]), text("2"));
        assert_eq!(value("{header: ':path', on_header_present: {key: k}}", &[]), text("/p"));
    }

    #[test]
    fn fields_are_removed_and_responses_are_seen() {
        let yaml = "
stat_prefix: s
request_rules: [{header: x-a, on_header_present: {metadata_namespace: ns, key: k}, remove: true}, {header: x-b, on_header_present: {key: k}}]
response_rules: [{header: x-r, on_header_present: {key: r, type: NUMBER}}]";
        let (stream, counters) = run(yaml, &[("x-a", "1"), ("x-c", "2")], None);
        assert_eq!(lines(&stream.request.headers), ["x-c: 2"]);
        assert_eq!(stream.info.metadata.path("ns", ["k"]), Some(&Node::string("1")));
        assert_eq!(stream.info.metadata.path(EXTENSION.name, ["r"]).and_then(Node::as_f64), Some(7.0));
        let value = |name: &str| {
            counters
                .iter()
                .find(|(full, _)| full == &format!("http_filter_name.s.{name}"))
                .map_or(0, |(_, value)| *value)
        };
        assert_eq!((value("request_rules_processed"), value("request_header_not_found")), (2, 0));
        assert_eq!((value("request_metadata_added"), value("response_metadata_added")), (1, 1));
    }

    #[test]
    fn a_route_has_rules_of_its_own() {
        let own = "request_rules: [{header: x-a, on_header_present: {key: own}}]";
        let own = building(|cx| build_route(&config(MESSAGE, own), cx)).unwrap();
        let route = Route { configs: vec![own], ..Route::default() };
        let filter = "request_rules: [{header: x-a, on_header_present: {key: filter}}]";
        let (stream, _) = run(filter, &[("x-a", "1")], Some(route));
        let has = |key| stream.info.metadata.path(EXTENSION.name, [key]).is_some();
        assert!(has("own") && !has("filter"));
    }

    #[test]
    fn what_envoy_refuses() {
        for (rule, reason) in [
            ("{on_header_present: {key: k}}", "one of header and cookie"),
            ("{header: a, cookie: b, on_header_present: {key: k}}", "only one of header and cookie"),
            ("{header: a}", "one of on_header_present"),
            ("{header: a, on_header_missing: {key: k}}", "needs a value"),
            ("{cookie: a, on_header_present: {key: k}, remove: true}", "cannot be removed"),
            (
                "{header: a, on_header_present: {key: k, value: v, regex_value_rewrite: {pattern: {regex: a}}}}",
                "only one of value",
            ),
        ] {
            let yaml = format!("request_rules: [{rule}]");
            let error = building(|cx| build(&config(MESSAGE, &yaml), cx).err()).unwrap();
            assert!(error.reason.contains(reason) && error.path.starts_with("here.request_rules[0]"), "{error}");
        }
    }
}
