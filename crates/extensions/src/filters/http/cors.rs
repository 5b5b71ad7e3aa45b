//! `envoy.filters.http.cors`: answers preflight requests and tells browsers which origins may read a response (the
//! CORS protocol of the Fetch standard). Routes have the policy; without one the filter does nothing.

use crate::matchers;
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, LocalReply},
    http::{HeaderId, Headers, Method, RequestHead, ResponseHead, StatusCode},
    info::StreamInfo,
    matcher::{FractionalPercent, StringMatcher},
    stat_group,
    stats::Group,
};
use std::{any::Any, borrow::Cow, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.cors",
    short_name: "cors",
    type_urls: &["envoy.extensions.filters.http.cors.v3.Cors"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["envoy.extensions.filters.http.cors.v3.CorsPolicy"],
};

stat_group! {
    /// `http.<stat_prefix>.cors.`
    struct Stats {
        /// Requests from an origin that is allowed.
        origin_valid: counter,
        /// Requests from an origin that is not.
        origin_invalid: counter,
    }
}

fn build(_config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    Ok(Arc::new(Cors { stat_prefix: format!("{}cors.", cx.stat_prefix) }))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    Ok(Arc::new(match config {
        TypedConfig::Value { node, .. } => Policy::read(node, cx)?,
        _ => Policy::default(),
    }))
}

/// `envoy.extensions.filters.http.cors.v3.CorsPolicy`. What a level leaves empty the next more general one says.
#[derive(Debug, Default)]
struct Policy {
    allow_origins: Vec<StringMatcher>,
    allow_methods: String,
    allow_headers: String,
    expose_headers: String,
    max_age: String,
    allow_credentials: Option<bool>,
    allow_private_network_access: Option<bool>,
    forward_not_matching_preflights: Option<bool>,
    /// `None`: always.
    enabled: Option<FractionalPercent>,
    /// `None`: never.
    shadow_enabled: Option<FractionalPercent>,
}

impl Policy {
    fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let bool = |key: &str| node.field(key).as_bool();
        Ok(Self {
            allow_origins: matchers::strings(node, "allow_origin_string_match", cx)?,
            allow_methods: node.str("allow_methods").into(),
            allow_headers: node.str("allow_headers").into(),
            expose_headers: node.str("expose_headers").into(),
            max_age: node.str("max_age").into(),
            allow_credentials: bool("allow_credentials"),
            allow_private_network_access: bool("allow_private_network_access"),
            forward_not_matching_preflights: bool("forward_not_matching_preflights"),
            enabled: matchers::fraction(node, "filter_enabled", cx),
            shadow_enabled: matchers::fraction(node, "shadow_enabled", cx),
        })
    }
}

/// The policies of a route's levels, the most specific one first.
struct Policies<'a>(Vec<&'a Policy>);

impl<'a> Policies<'a> {
    fn allow(&self, origin: &[u8]) -> bool {
        let origins = self.0.iter().map(|policy| &policy.allow_origins).find(|origins| !origins.is_empty());
        // Compat: a matcher that takes an asterisk takes everything.
        origins.is_some_and(|all| all.iter().any(|allowed| allowed.matches(b"*") || allowed.matches(origin)))
    }

    fn text(&self, field: fn(&Policy) -> &String) -> &'a str {
        self.0.iter().map(|policy| field(policy).as_str()).find(|text| !text.is_empty()).unwrap_or("")
    }

    fn switch(&self, field: fn(&Policy) -> Option<bool>) -> Option<bool> {
        self.0.iter().find_map(|policy| field(policy))
    }
}

struct Cors {
    stat_prefix: String,
}

impl HttpFilterConfig for Cors {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        Box::new(Factory { stats: cx.stats().child(&self.stat_prefix).group() })
    }
}

struct Factory {
    stats: Group<Stats>,
}

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        // Not declined without a policy: another filter may have the route chosen anew.
        Some(Box::new(Filter { stats: self.stats.clone(), grant: None }))
    }
}

struct Filter {
    stats: Group<Stats>,
    grant: Option<Box<Grant>>,
}

/// What the response says to an origin that is allowed.
struct Grant {
    origin: Vec<u8>,
    allow_credentials: bool,
    expose_headers: String,
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
        let Some(origin) = value(head, HeaderId::Origin) else { return FilterStatus::Continue };
        if cx.route().is_none_or(|route| !route.is_forwarding()) {
            return FilterStatus::Continue;
        }
        let mut policies = Policies(cx.route_configs().collect());
        policies.0.reverse();
        let Some(policy) = policies.0.first() else { return FilterStatus::Continue };
        let sampled = |share: &FractionalPercent| share.sample(fastrand::u64(..));
        let enabled = policy.enabled.as_ref().is_none_or(sampled);
        if !enabled && !policy.shadow_enabled.as_ref().is_some_and(sampled) {
            return FilterStatus::Continue;
        }
        let is_allowed = policies.allow(&origin);
        if is_allowed { &self.stats.origin_valid } else { &self.stats.origin_invalid }.inc();
        if !enabled {
            return FilterStatus::Continue;
        }
        if is_allowed {
            self.grant = Some(Box::new(Grant {
                origin: origin.to_vec(),
                allow_credentials: policies.switch(|policy| policy.allow_credentials).unwrap_or(false),
                expose_headers: policies.text(|policy| &policy.expose_headers).to_owned(),
            }));
        }
        if head.method != Method::Options {
            return FilterStatus::Continue;
        }
        let Some(wanted) = value(head, HeaderId::AccessControlRequestMethod) else { return FilterStatus::Continue };
        if !is_allowed && policies.switch(|policy| policy.forward_not_matching_preflights).unwrap_or(true) {
            return FilterStatus::Continue;
        }
        let mut reply = LocalReply::new(StatusCode::OK, "", "cors_response").verbatim();
        preflight(&policies, is_allowed.then_some(&*origin), &wanted, head, &mut reply.headers);
        FilterStatus::reply(reply)
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        _end_stream: bool,
        _cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        if let Some(grant) = &self.grant {
            head.headers.set_sanitized(HeaderId::AccessControlAllowOrigin, &grant.origin);
            if grant.allow_credentials {
                head.headers.set_sanitized(HeaderId::AccessControlAllowCredentials, "true");
            }
            if !grant.expose_headers.is_empty() {
                head.headers.set_sanitized(HeaderId::AccessControlExposeHeaders, &grant.expose_headers);
            }
        }
        FilterStatus::Continue
    }
}

/// The fields of the answer to a preflight request. `origin`: only when it is allowed.
fn preflight(
    policies: &Policies<'_>,
    origin: Option<&[u8]>,
    method: &[u8],
    request: &RequestHead,
    headers: &mut Headers,
) {
    if let Some(origin) = origin {
        headers.set_sanitized(HeaderId::AccessControlAllowOrigin, origin);
    }
    if policies.switch(|policy| policy.allow_credentials) == Some(true) {
        headers.set_sanitized(HeaderId::AccessControlAllowCredentials, "true");
    }
    match policies.text(|policy| &policy.allow_methods) {
        "" => {}
        "*" => headers.set_sanitized(HeaderId::AccessControlAllowMethods, method),
        methods => headers.set_sanitized(HeaderId::AccessControlAllowMethods, methods),
    }
    match policies.text(|policy| &policy.allow_headers) {
        "" => {}
        // Compat: an empty field when the request asks for none.
        "*" => {
            let wanted = request.headers.get_joined(HeaderId::AccessControlRequestHeaders).unwrap_or_default();
            headers.set_sanitized(HeaderId::AccessControlAllowHeaders, wanted);
        }
        allowed => headers.set_sanitized(HeaderId::AccessControlAllowHeaders, allowed),
    }
    let max_age = policies.text(|policy| &policy.max_age);
    if !max_age.is_empty() {
        headers.set_sanitized(HeaderId::AccessControlMaxAge, max_age);
    }
    let asks_for_private = value(request, HeaderId::AccessControlRequestPrivateNetwork).as_deref() == Some(b"true");
    if asks_for_private && policies.switch(|policy| policy.allow_private_network_access) == Some(true) {
        headers.set_sanitized(HeaderId::AccessControlAllowPrivateNetwork, "true");
    }
}

/// The value of a field of the request, unless it is empty.
fn value(head: &RequestHead, id: HeaderId) -> Option<Cow<'_, [u8]>> {
    head.headers.get_joined(id).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Route, Stream, building, config, lines, request};

    const GOOD: (&str, &str) = ("origin", "http://good.example");
    const BAD: (&str, &str) = ("origin", "http://bad.example");
    const WANTED: (&str, &str) = ("access-control-request-method", "PUT");

    /// A virtual host's policy.
    const FULL: &str = "
allow_origin_string_match: [{exact: 'http://good.example'}, {safe_regex: {regex: 'http://.*\\.good\\.example'}}]
allow_methods: GET, PUT
allow_headers: x-a, x-b
expose_headers: x-c
max_age: '600'
allow_credentials: true
";

    /// The fields of the answer to a preflight request, if it is answered; those that the filter gives a response; the
    /// counters.
    type Outcome = (Option<Vec<String>>, Vec<String>, Vec<(String, u64)>);

    /// What a request gets under these policies, from the most general level to the most specific.
    fn exchange(levels: &[&str], method: Method, fields: &[(&str, &str)]) -> Outcome {
        let configs = levels.iter().map(|yaml| {
            let config = config(EXTENSION.route_type_urls[0], yaml);
            building(|cx| build_route(&config, cx)).unwrap()
        });
        on(Route { configs: configs.collect(), ..Route::default() }, method, fields)
    }

    fn on(route: Route, method: Method, fields: &[(&str, &str)]) -> Outcome {
        let worker = FakeWorker::default();
        let factory = building(|cx| build(&TypedConfig::Empty, cx)).unwrap().for_worker(&worker.cx());
        let mut stream = Stream::new(&worker, request(method, "/", fields), Some(route));
        let mut filter = factory.new_filter(&stream.info).unwrap();
        let reply = match stream.on_request(|head, cx| filter.on_request_headers(head, true, cx)) {
            FilterStatus::Continue => None,
            FilterStatus::Reply(reply) => {
                let expected = (StatusCode::OK, "cors_response", true);
                assert_eq!((reply.status, &*reply.details, reply.verbatim), expected);
                assert!(reply.body.is_empty());
                Some(lines(&reply.headers))
            }
            _ => unreachable!("the filter neither stops nor waits"),
        };
        let mut response = ResponseHead::default();
        stream.on_response(|cx| filter.on_response_headers(&mut response, true, cx));
        (reply, lines(&response.headers), worker.counters())
    }

    fn counted(name: &str) -> Vec<(String, u64)> {
        vec![(format!("http.test.cors.{name}"), 1)]
    }

    #[test]
    fn simple_requests() {
        let granted = [
            "access-control-allow-origin: http://good.example",
            "access-control-allow-credentials: true",
            "access-control-expose-headers: x-c",
        ];
        let (reply, response, counters) = exchange(&[FULL], Method::Get, &[GOOD]);
        assert_eq!((reply, response, counters), (None, granted.map(str::to_owned).to_vec(), counted("origin_valid")));
        let (_, response, _) = exchange(&[FULL], Method::Get, &[("origin", "http://x.good.example")]);
        assert_eq!(response[0], "access-control-allow-origin: http://x.good.example");
        assert_eq!(exchange(&[FULL], Method::Get, &[BAD]), (None, vec![], counted("origin_invalid")));
        for fields in [&[][..], &[("origin", "")]] {
            assert_eq!(exchange(&[FULL], Method::Get, fields), (None, vec![], vec![]));
        }
        assert_eq!(exchange(&[], Method::Get, &[GOOD]), (None, vec![], vec![]));
    }

    #[test]
    fn preflight_requests() {
        let allowed = [
            "access-control-allow-origin: http://good.example",
            "access-control-allow-credentials: true",
            "access-control-allow-methods: GET, PUT",
            "access-control-allow-headers: x-a, x-b",
            "access-control-max-age: 600",
        ];
        let (reply, _, counters) = exchange(&[FULL], Method::Options, &[GOOD, WANTED]);
        assert_eq!((reply.unwrap(), counters), (allowed.map(str::to_owned).to_vec(), counted("origin_valid")));
        // Not a preflight request without the method, and forwarded when the origin is not allowed.
        assert_eq!(exchange(&[FULL], Method::Options, &[GOOD]).0, None);
        assert_eq!(exchange(&[FULL], Method::Options, &[BAD, WANTED]), (None, vec![], counted("origin_invalid")));
        let strict = format!("{FULL}forward_not_matching_preflights: false");
        let (reply, response, _) = exchange(&[&strict], Method::Options, &[BAD, WANTED]);
        assert_eq!((reply.unwrap(), response), (allowed[1..].iter().map(|line| (*line).to_owned()).collect(), vec![]));
    }

    #[test]
    fn asterisks_and_private_networks() {
        let policy = "{allow_origin_string_match: [{exact: '*'}], allow_methods: '*', allow_headers: '*', allow_private_network_access: true}";
        let private = ("access-control-request-private-network", "true");
        let (a, b) = (("access-control-request-headers", "a"), ("access-control-request-headers", "b"));
        let (reply, ..) = exchange(&[policy], Method::Options, &[BAD, WANTED, private, a, b]);
        let expected = [
            "access-control-allow-origin: http://bad.example",
            "access-control-allow-methods: PUT",
            "access-control-allow-headers: a,b",
            "access-control-allow-private-network: true",
        ];
        assert_eq!(reply.unwrap(), expected);
        let (reply, ..) = exchange(&[policy], Method::Options, &[BAD, WANTED]);
        assert_eq!(reply.unwrap()[2..], ["access-control-allow-headers: "]);
        let (reply, ..) = exchange(&[FULL], Method::Options, &[GOOD, WANTED, private]);
        assert!(!reply.unwrap().iter().any(|line| line.contains("private")));
    }

    #[test]
    fn levels_complete_each_other() {
        let route =
            "{allow_origin_string_match: [{prefix: 'http://any'}], allow_methods: DELETE, allow_credentials: false}";
        let (reply, ..) = exchange(&[FULL, route], Method::Options, &[("origin", "http://any.example"), WANTED]);
        let expected = [
            "access-control-allow-origin: http://any.example",
            "access-control-allow-methods: DELETE",
            "access-control-allow-headers: x-a, x-b",
            "access-control-max-age: 600",
        ];
        assert_eq!(reply.unwrap(), expected);
        assert_eq!(exchange(&[FULL, route], Method::Get, &[GOOD]).2, counted("origin_invalid"));
    }

    #[test]
    fn switched_off_and_in_the_shadow() {
        let off = "{allow_origin_string_match: [{exact: '*'}], filter_enabled: {default_value: {numerator: 0}}";
        let shadow = format!("{off}, shadow_enabled: {{default_value: {{numerator: 100}}}}}}");
        let off = format!("{off}}}");
        assert_eq!(exchange(&[&off], Method::Get, &[GOOD]), (None, vec![], vec![]));
        assert_eq!(exchange(&[&shadow], Method::Options, &[GOOD, WANTED]), (None, vec![], counted("origin_valid")));
        // The most specific level alone says whether.
        let (reply, ..) = exchange(&[&shadow, "{allow_methods: GET}"], Method::Options, &[GOOD, WANTED]);
        assert_eq!(reply.unwrap().len(), 2);
    }

    #[test]
    fn routes_that_answer_themselves_are_left_alone() {
        let policy = building(|cx| build_route(&config(EXTENSION.route_type_urls[0], FULL), cx)).unwrap();
        let route = Route { configs: vec![policy], is_direct: true, ..Route::default() };
        assert_eq!(on(route, Method::Options, &[GOOD, WANTED]), (None, vec![], vec![]));
    }
}
