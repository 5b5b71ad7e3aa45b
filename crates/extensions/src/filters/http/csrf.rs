//! `envoy.filters.http.csrf`: refuses requests that change something and come from a page of another origin.

use crate::matchers;
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, LocalReply},
    http::{HeaderId, Method, RequestHead, StatusCode},
    info::StreamInfo,
    matcher::{FractionalPercent, StringMatcher},
    stat_group,
    stats::Group,
};
use std::{any::Any, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.csrf",
    short_name: "csrf",
    type_urls: &["envoy.extensions.filters.http.csrf.v3.CsrfPolicy"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["envoy.extensions.filters.http.csrf.v3.CsrfPolicy"],
};

stat_group! {
    /// `http.<stat_prefix>.csrf.`
    struct Stats {
        /// Requests that do not say where they come from.
        missing_source_origin: counter,
        /// Requests from another origin.
        request_invalid: counter,
        /// Requests from the origin itself or an allowed one.
        request_valid: counter,
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    Ok(Arc::new(Csrf { policy: Arc::new(read(config, cx)?), stat_prefix: format!("{}csrf.", cx.stat_prefix) }))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    Ok(Arc::new(read(config, cx)?))
}

fn read(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Policy, ConfigError> {
    match config {
        TypedConfig::Value { node, .. } => Policy::read(node, cx),
        _ => Err(cx.error("", cx.mark, "the CSRF filter needs a configuration with \"filter_enabled\"")),
    }
}

/// `envoy.extensions.filters.http.csrf.v3.CsrfPolicy`
struct Policy {
    /// `None` is never.
    enabled: Option<FractionalPercent>,
    /// Only counted. `None` is never.
    shadow: Option<FractionalPercent>,
    additional_origins: Vec<StringMatcher>,
}

impl Policy {
    fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            enabled: matchers::fraction(node, "filter_enabled", cx),
            shadow: matchers::fraction(node, "shadow_enabled", cx),
            additional_origins: matchers::strings(node, "additional_origins", cx)?,
        })
    }

    fn allows(&self, source: &[u8], head: &RequestHead) -> bool {
        source == head.authority() || self.additional_origins.iter().any(|known| known.matches(source))
    }
}

struct Csrf {
    policy: Arc<Policy>,
    stat_prefix: String,
}

impl HttpFilterConfig for Csrf {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        Box::new(Factory { policy: Arc::clone(&self.policy), stats: cx.stats().child(&self.stat_prefix).group() })
    }
}

struct Factory {
    policy: Arc<Policy>,
    stats: Group<Stats>,
}

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        Some(Box::new(Filter { policy: Arc::clone(&self.policy), stats: self.stats.clone() }))
    }
}

struct Filter {
    policy: Arc<Policy>,
    stats: Group<Stats>,
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
        if !changes_something(&head.method) {
            return FilterStatus::Continue;
        }
        let policy: &Policy = cx.route_config().unwrap_or(&self.policy);
        let samples = |share: &Option<FractionalPercent>| share.as_ref().is_some_and(|s| s.sample(fastrand::u64(..)));
        let enabled = samples(&policy.enabled);
        if !enabled && !samples(&policy.shadow) {
            return FilterStatus::Continue;
        }
        let source = source(head);
        if source.is_empty() {
            self.stats.missing_source_origin.inc();
        } else if policy.allows(source, head) {
            self.stats.request_valid.inc();
            return FilterStatus::Continue;
        } else {
            self.stats.request_invalid.inc();
        }
        if !enabled {
            return FilterStatus::Continue;
        }
        FilterStatus::reply(LocalReply::new(StatusCode::FORBIDDEN, "Invalid origin", "csrf_origin_mismatch"))
    }
}

fn changes_something(method: &Method) -> bool {
    matches!(method, Method::Post | Method::Put | Method::Delete | Method::Patch)
}

/// Host and port of the page that the request comes from: `origin`, otherwise `referer`. Empty for an origin that is no
/// URL (`null`).
fn source(head: &RequestHead) -> &[u8] {
    let value = |id| head.headers.get(id).map(host_and_port).filter(|value| !value.is_empty());
    value(HeaderId::Origin).or_else(|| value(HeaderId::Referer)).unwrap_or_default()
}

/// Host and port of an absolute URL.
fn host_and_port(value: &[u8]) -> &[u8] {
    let Some(scheme) = value.windows(3).position(|part| part == b"://") else { return b"" };
    let rest = value.get(scheme + 3..).unwrap_or_default();
    let end = rest.iter().position(|c| matches!(c, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let authority = rest.get(..end).unwrap_or_default();
    let user = authority.iter().rposition(|c| *c == b'@').map_or(0, |at| at + 1);
    authority.get(user..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Route, Stream, building, config, request};

    const MESSAGE: &str = EXTENSION.type_urls[0];
    const ON: &str = "filter_enabled: {default_value: {numerator: 100}}";
    const SHADOW: &str =
        "filter_enabled: {default_value: {numerator: 0}}\nshadow_enabled: {default_value: {numerator: 100}}";

    /// Whether the request passes, and what it counts as. Its host is `h`.
    fn send(yaml: &str, method: Method, fields: &[(&str, &str)], route: Option<Route>) -> (bool, Vec<String>) {
        let worker = FakeWorker::default();
        let factory = building(|cx| build(&config(MESSAGE, yaml), cx)).unwrap().for_worker(&worker.cx());
        let mut stream = Stream::new(&worker, request(method, "/", fields), route);
        let mut filter = factory.new_filter(&stream.info).unwrap();
        let passes = match stream.on_request(|head, cx| filter.on_request_headers(head, true, cx)) {
            FilterStatus::Continue => true,
            FilterStatus::Reply(reply) => {
                assert_eq!((reply.status, &*reply.details), (StatusCode::FORBIDDEN, "csrf_origin_mismatch"));
                false
            }
            _ => unreachable!("the filter neither holds nor waits"),
        };
        let name = |name: String| name.strip_prefix("http.test.csrf.").unwrap().to_owned();
        (passes, worker.counters().into_iter().map(|(full, _)| name(full)).collect())
    }

    #[test]
    fn only_the_same_origin_may_change_something() {
        let same = [("origin", "https://h")];
        let other = [("origin", "http://evil.example:80")];
        assert_eq!(send(ON, Method::Post, &same, None), (true, vec!["request_valid".to_owned()]));
        assert_eq!(send(ON, Method::Post, &other, None), (false, vec!["request_invalid".to_owned()]));
        assert_eq!(send(ON, Method::Get, &other, None), (true, vec![]));
        let missing = vec!["missing_source_origin".to_owned()];
        assert_eq!(send(ON, Method::Delete, &[], None), (false, missing.clone()));
        let referer = [("origin", ""), ("referer", "http://user@h/page?x")];
        assert!(send(ON, Method::Put, &referer, None).0);
        assert_eq!(send(ON, Method::Patch, &[("origin", "null")], None), (false, missing.clone()));
        assert_eq!(send(SHADOW, Method::Post, &[], None), (true, missing));
    }

    #[test]
    fn other_origins_may_be_allowed_by_the_route_too() {
        let yaml = format!("{ON}\nadditional_origins: [{{suffix: .example}}]");
        assert!(send(&yaml, Method::Post, &[("origin", "http://a.example")], None).0);
        assert!(!send(&yaml, Method::Post, &[("origin", "http://a.example:80")], None).0);
        let own = building(|cx| build_route(&config(MESSAGE, SHADOW), cx)).unwrap();
        let route = Route { configs: vec![own], ..Route::default() };
        assert!(send(ON, Method::Post, &[("origin", "http://evil")], Some(route)).0);
    }
}
