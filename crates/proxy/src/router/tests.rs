//! Tests of routing as a whole; what Envoy 1.40 answers to the same is written down here.

use super::{
    RouteTable, Routes, not_found,
    timeouts::{Reading, Timeouts, stream_duration},
};
use crate::test_context::{factory, stream_info};
use sota_config::{
    ConfigErrors, ExtensionConfig, Mark, TypedConfig,
    matcher::{HeaderCondition, HeaderMatcher, QueryParameterMatcher, StringMatcher, StringPattern},
    retry::{GrpcTimeout, RetryPolicy},
    route::{
        AppendAction, ClusterSpecifier, DirectResponse, HeaderMutations, HeaderValueOption, HostRewrite, PathMatcher,
        PathRewrite, PerFilterConfig, RedirectAction, Route, RouteAction, RouteActionKind, RouteConfiguration,
        RouteMatch, RoutingPriority, VirtualHost, WeightedCluster, WeightedClusters,
    },
    secret::DataSource,
};
use sota_plugin::{
    Extension, Registry,
    filter::HttpFilterConfig,
    http::{HeaderId, Method, RequestHead, ResponseHead, StatusCode},
    info::{ResponseFlag, RouteInfo},
};
use std::{rc::Rc, sync::Arc, time::Duration};

fn matching(path: PathMatcher) -> RouteMatch {
    RouteMatch::path(path)
}

fn exact(path: &str) -> RouteMatch {
    matching(PathMatcher::Exact(path.into()))
}

fn prefix(path: &str) -> RouteMatch {
    matching(PathMatcher::Prefix(path.into()))
}

fn regex(pattern: &str) -> RouteMatch {
    matching(PathMatcher::Regex(pattern.into()))
}

fn separated(path: &str) -> RouteMatch {
    matching(PathMatcher::PathSeparatedPrefix(path.into()))
}

fn route(matcher: RouteMatch, action: RouteActionKind) -> Route {
    Route {
        name: String::new(),
        matcher,
        action,
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        typed_per_filter_config: Vec::new(),
        metadata: None,
        stat_prefix: String::new(),
        request_body_buffer_limit: None,
        tracing: None,
    }
}

fn action() -> RouteAction {
    RouteAction {
        cluster: ClusterSpecifier::Cluster("origin".into()),
        cluster_not_found_response_code: 503,
        path_rewrite: None,
        host_rewrite: None,
        append_x_forwarded_host: false,
        timeout: Some(Duration::from_secs(15)),
        idle_timeout: None,
        max_stream_duration: None,
        grpc_timeout: Default::default(),
        retry_policy: None,
        hash_policy: Vec::new(),
        metadata_match: Vec::new(),
        hedge_on_per_try_timeout: None,
        mirrors: Vec::new(),
        internal_redirects: None,
        priority: RoutingPriority::Default,
        rate_limits: Vec::new(),
        include_vh_rate_limits: false,
        upgrades: Vec::new(),
    }
}

fn several(clusters: Vec<WeightedCluster>) -> ClusterSpecifier {
    ClusterSpecifier::Weighted(WeightedClusters {
        clusters,
        runtime_key_prefix: None,
        header_name: None,
        use_hash_policy: false,
    })
}

fn forward(action: RouteAction) -> RouteActionKind {
    RouteActionKind::Forward(Box::new(action))
}

/// A route by its name.
fn named(name: &str, matcher: RouteMatch) -> Route {
    Route { name: name.into(), ..route(matcher, forward(action())) }
}

fn host(domains: &[&str], routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: domains.concat(),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        routes: routes.into_iter().map(Arc::new).collect(),
        ..VirtualHost::default()
    }
}

fn table(virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration {
        name: "local".into(),
        virtual_hosts,
        max_direct_response_body_size_bytes: 4096,
        ..RouteConfiguration::default()
    }
}

fn try_build(model: RouteConfiguration, registry: &Registry) -> Result<Rc<Routes>, ConfigErrors> {
    factory(registry, |cx| RouteTable::build(&Arc::new(model), cx)).map(|table| Routes::for_worker(&table))
}

fn build(model: RouteConfiguration) -> Rc<Routes> {
    try_build(model, &Registry::default()).unwrap()
}

/// A table of one virtual host for all.
fn routes(routes: Vec<Route>) -> Rc<Routes> {
    build(table(vec![host(&["*"], routes)]))
}

fn get(path: &str) -> RequestHead {
    RequestHead::new(Method::Get, "a.example", path).unwrap()
}

fn with(path: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut head = get(path);
    head.headers = fields.iter().copied().collect();
    head
}

fn name_of(routes: &Routes, head: &RequestHead) -> Option<String> {
    routes.route(head, &stream_info(), 0).map(|route| route.name().to_owned())
}

#[test]
fn first_match_counts() {
    let value = |pattern| HeaderCondition::String(StringMatcher { pattern, ignore_case: false });
    let header = |name: &str, condition| {
        let matcher = HeaderMatcher { name: name.into(), condition, invert: false, treat_missing_as_empty: false };
        RouteMatch { headers: vec![matcher], ..prefix("/h") }
    };
    let query = |name: &str, text: Option<&str>| {
        let value = text.map(|text| StringMatcher { pattern: StringPattern::Exact(text.into()), ignore_case: false });
        RouteMatch { query_parameters: vec![QueryParameterMatcher { name: name.into(), value }], ..prefix("/q") }
    };
    let routes = routes(vec![
        named("exact", exact("/exact")),
        named("no-case", RouteMatch { case_sensitive: false, ..exact("/NoCase") }),
        named("separated", separated("/sep")),
        named("regex", regex("/re/[0-9]+")),
        named("method", header(":method", value(StringPattern::Exact("DELETE".into())))),
        named("header", header("x-a", value(StringPattern::Prefix("on".into())))),
        named("query", query("a", Some("1"))),
        named("query-present", query("b", None)),
        named("no-case-prefix", RouteMatch { case_sensitive: false, ..prefix("/PRE/fix") }),
        named("prefix", prefix("/pre")),
        named("shadowed", exact("/prefix")),
    ]);
    for (path, expected) in [
        ("/exact", Some("exact")),
        ("/exact?x=/other", Some("exact")),
        ("/exact/", None),
        ("/Exact", None),
        ("/nOcASE", Some("no-case")),
        ("/sep", Some("separated")),
        ("/sep/x", Some("separated")),
        ("/sep?x", Some("separated")),
        ("/separate", None),
        ("/re/42?x", Some("regex")),
        ("/re/42/x", None),
        ("/h", None),
        ("/q?b=2&a=1", Some("query")),
        ("/q?a=2&a=1", None),
        ("/q?b", Some("query-present")),
        ("/q?a=%31", None),
        ("/pre/FIX/x", Some("no-case-prefix")),
        ("/prefix", Some("prefix")),
        ("/nothing", None),
        ("/?/exact", None),
    ] {
        assert_eq!(name_of(&routes, &get(path)).as_deref(), expected, "{path}");
    }
    let delete = RequestHead::new(Method::Delete, "a", "/h").unwrap();
    assert_eq!(name_of(&routes, &delete).as_deref(), Some("method"));
    assert_eq!(name_of(&routes, &with("/h", &[("x-a", "once")])).as_deref(), Some("header"));
    let connect = RequestHead::new(Method::Connect, "a:1", "").unwrap();
    assert_eq!(name_of(&routes, &connect), None);
    assert_eq!((not_found().status, not_found().flag), (StatusCode::NOT_FOUND, Some(ResponseFlag::NoRouteFound)));
}

#[test]
fn hosts_before_routes_and_what_a_route_says() {
    let routes = build(table(vec![
        host(&["exact.example"], vec![named("only", exact("/only"))]),
        host(&["*"], vec![named("any", prefix("/"))]),
    ]));
    let route = |authority: &str, path: &str| {
        routes.route(&RequestHead::new(Method::Get, authority, path).unwrap(), &stream_info(), 0)
    };
    let only = route("EXACT.example", "/only").unwrap();
    let said = (only.name(), only.virtual_host(), only.route_configuration(), &**only.cluster());
    assert_eq!(said, ("only", "exact.example", "local", "origin"));
    // No other virtual host is asked.
    assert!(route("exact.example", "/").is_none());
    assert_eq!(route("other", "/").unwrap().name(), "any");
    assert!(Rc::ptr_eq(&only, &route("exact.example", "/only").unwrap()), "a worker keeps its routes");
    let clusters: Vec<_> = routes.table().clusters().map(|reference| (reference.cluster, reference.route)).collect();
    assert_eq!(clusters, [("origin", "only"), ("origin", "any")]);
}

#[test]
fn many_routes_keep_their_order() {
    let mut all: Vec<_> = (0..1000).map(|n| named(&format!("r{n}"), prefix(&format!("/service-{n}/")))).collect();
    all.insert(500, named("early", regex("/service-7[0-9]{2}/.*")));
    let routes = routes(all);
    for (path, expected) in [
        ("/service-3/x", Some("r3")),
        ("/service-999/", Some("r999")),
        ("/service-710/", Some("early")),
        ("/service-3", None),
    ] {
        assert_eq!(name_of(&routes, &get(path)).as_deref(), expected, "{path}");
    }
}

#[test]
fn paths_and_hosts_are_rewritten_as_envoy_does() {
    let path = |matcher, rewrite| route(matcher, forward(RouteAction { path_rewrite: Some(rewrite), ..action() }));
    let prefix_rewrite = |text: &str| PathRewrite::Prefix(text.into());
    let regex_rewrite = |pattern: &str, substitution: &str| PathRewrite::Regex {
        pattern: pattern.into(),
        substitution: substitution.into(),
    };
    let host = |at: &str, rewrite, append_x_forwarded_host| {
        let action = RouteAction { host_rewrite: Some(rewrite), append_x_forwarded_host, ..action() };
        route(prefix(at), forward(action))
    };
    let from_path = HostRewrite::PathRegex { pattern: "^/from-path/(.+)$".into(), substitution: "\\1.example".into() };
    let routes = routes(vec![
        path(prefix("/prefix/"), prefix_rewrite("/")),
        path(prefix("/prefix"), prefix_rewrite("/new")),
        path(exact("/exact"), prefix_rewrite("/other")),
        path(separated("/sep"), prefix_rewrite("/s2")),
        path(prefix("/regex"), regex_rewrite("^/regex/([^/]+)/(.*)$", "/\\2/\\1")),
        path(regex("/all/.*"), regex_rewrite("l+", "L")),
        path(RouteMatch { case_sensitive: false, ..prefix("/Ci") }, prefix_rewrite("/ci2")),
        host("/host", HostRewrite::Literal("new.example".into()), false),
        host("/from-header", HostRewrite::Header("x-host".into()), false),
        host("/from-path", from_path, false),
        host("/append", HostRewrite::Literal("new.example".into()), true),
        host("/auto", HostRewrite::Auto, true),
    ]);
    let send = |mut head: RequestHead| {
        let route = routes.route(&head, &stream_info(), 0).unwrap();
        route.finalize_request(&mut head, &stream_info(), true);
        let mut lines = Vec::new();
        head.headers.write_lines(&mut lines);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let fields = text(&lines).replace("\r\n", " ").trim().replace("x-envoy-original-", "").replace(": ", "=");
        (text(head.path()), text(head.authority()), fields)
    };
    for (from, to) in [
        ("/prefix/a/b?x=1", "/a/b?x=1"),
        ("/prefix", "/new"),
        ("/prefixes?x", "/newes?x"),
        ("/exact?x", "/other?x"),
        ("/sep/a", "/s2/a"),
        ("/regex/a/b/c?x=/regex/1/2", "/b/c/a?x=/regex/1/2"),
        ("/regex", "/regex"),
        ("/all/llama", "/aL/Lama"),
        ("/cI/some?q", "/ci2/some?q"),
    ] {
        assert_eq!(send(get(from)), (to.into(), "a.example".into(), format!("path={from}")), "{from}");
    }
    for (head, authority, fields) in [
        (get("/host"), "new.example", "host=a.example"),
        (with("/from-header", &[("x-host", "h")]), "h", "x-host=h host=a.example"),
        (get("/from-header"), "a.example", ""),
        (get("/from-path/b?x"), "b.example", "host=a.example"),
        (get("/append"), "new.example", "host=a.example x-forwarded-host=a.example"),
        (with("/append", &[("x-forwarded-host", "z")]), "new.example", "x-forwarded-host=z,a.example host=a.example"),
        (
            with("/append", &[("x-forwarded-host", "a.example")]),
            "new.example",
            "x-forwarded-host=a.example host=a.example",
        ),
        (get("/auto"), "a.example", ""),
    ] {
        let path = String::from_utf8(head.path().to_vec()).unwrap();
        assert_eq!(send(head), (path, authority.into(), fields.into()));
    }
    let mut head = get("/auto");
    let auto = routes.route(&head, &stream_info(), 0).unwrap();
    auto.rewrite_host(&mut head, "", true);
    assert_eq!(head.authority(), b"a.example");
    auto.rewrite_host(&mut head, "endpoint.example", false);
    assert_eq!((head.authority(), head.headers.len()), (&b"endpoint.example"[..], 1));
}

#[test]
fn redirects_as_envoy_answers() {
    let redirect = |matcher, action: RedirectAction| {
        let response_code = if action.response_code == 0 { 301 } else { action.response_code };
        route(matcher, RouteActionKind::Redirect(RedirectAction { response_code, ..action }))
    };
    let text = |text: &str| Some(text.to_owned());
    let none = RedirectAction::default;
    let regex_rewrite = Some(PathRewrite::Regex { pattern: "^/regex/([a-z]+)".into(), substitution: "/\\1/re".into() });
    let routes = routes(vec![
        redirect(exact("/host"), RedirectAction { host: text("new.example"), ..none() }),
        redirect(exact("/path"), RedirectAction { path: text("/new"), ..none() }),
        redirect(exact("/path-with-query"), RedirectAction { path: text("/new?y=2"), strip_query: true, ..none() }),
        redirect(
            prefix("/prefix"),
            RedirectAction { path_rewrite: Some(PathRewrite::Prefix("/p2".into())), response_code: 302, ..none() },
        ),
        redirect(prefix("/regex"), RedirectAction { path_rewrite: regex_rewrite, response_code: 303, ..none() }),
        redirect(exact("/https"), RedirectAction { https: true, ..none() }),
        redirect(exact("/scheme"), RedirectAction { scheme: text("ftp"), response_code: 307, ..none() }),
        redirect(exact("/port"), RedirectAction { port: Some(8443), https: true, response_code: 308, ..none() }),
        redirect(exact("/strip"), RedirectAction { host: text("new.example"), strip_query: true, ..none() }),
        redirect(exact("/port-only"), RedirectAction { port: Some(81), ..none() }),
    ]);
    for (authority, path, proto, status, location) in [
        ("a.example:8080", "/host?x=1", "http", 301, "http://new.example/host?x=1"),
        ("a.example", "/path?x=1", "http", 301, "http://a.example/new?x=1"),
        ("a.example", "/path-with-query?x=1", "http", 301, "http://a.example/new?y=2"),
        ("a.example", "/prefix/more?x=1", "http", 302, "http://a.example/p2/more?x=1"),
        ("a.example", "/regex/abc/def?x=1", "http", 303, "http://a.example/abc/re/def?x=1"),
        ("a.example", "/https", "http", 301, "https://a.example/https"),
        ("a.example:80", "/https", "http", 301, "https://a.example/https"),
        ("a.example:8080", "/https", "http", 301, "https://a.example:8080/https"),
        ("a.example:443", "/scheme", "https", 307, "ftp://a.example/scheme"),
        ("a.example", "/scheme", "http", 307, "ftp://a.example/scheme"),
        ("a.example:8080", "/port", "http", 308, "https://a.example:8443/port"),
        ("[::1]:8080", "/port-only", "http", 301, "http://[::1]:81/port-only"),
        ("a.example", "/strip?x=1", "http", 301, "http://new.example/strip"),
        ("a.example", "/https", "https", 301, "https://a.example/https"),
    ] {
        let mut head = RequestHead::new(Method::Get, authority, path).unwrap();
        head.headers.set_sanitized(HeaderId::XForwardedProto, proto);
        let reply = routes.route(&head, &stream_info(), 0).unwrap().reply(&mut head, &stream_info(), true).unwrap();
        let sent = (reply.status.as_u16(), reply.headers.get_str("location"), &*reply.details);
        assert_eq!(sent, (status, Some(location), "direct_response"), "{authority}{path}");
        assert!(reply.body.is_empty() && reply.flag.is_none());
        // As a route that forwards, the redirect rewrites the path for the log.
        let rewritten = path.starts_with("/prefix") || path.starts_with("/regex");
        assert_eq!(head.headers.contains(HeaderId::XEnvoyOriginalPath), rewritten, "{path}");
    }
}

#[test]
fn direct_responses_have_a_body_from_anywhere_up_to_the_limit() {
    let direct = |path: &str, body| {
        route(exact(path), RouteActionKind::DirectResponse(DirectResponse { status: 418, body, body_format: None }))
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from a file").unwrap();
    let inline = |len: usize| Some(DataSource::Inline(vec![b'x'; len]));
    let working = routes(vec![
        direct("/none", None),
        direct("/limit", inline(4096)),
        direct("/file", Some(DataSource::File(file.path().into()))),
        direct("/env", Some(DataSource::Environment("CARGO_PKG_NAME".into()))),
    ]);
    for (path, len) in [("/none", 0), ("/limit", 4096), ("/file", 11), ("/env", 10)] {
        let route = working.route(&get(path), &stream_info(), 0).unwrap();
        let reply = route.reply(&mut get(path), &stream_info(), true).unwrap();
        assert_eq!((reply.status.as_u16(), reply.body.len(), &*reply.details), (418, len, "direct_response"), "{path}");
        assert!(route.forward().is_none());
    }
    let broken = table(vec![host(
        &["*"],
        vec![
            direct("/large", inline(4097)),
            direct("/file", Some(DataSource::File("/nonexistent".into()))),
            direct("/env", Some(DataSource::Environment("SOTA_NO_SUCH_VARIABLE".into()))),
        ],
    )]);
    let errors = try_build(broken, &Registry::default()).unwrap_err().to_string();
    let lines: Vec<_> = errors.lines().collect();
    assert!(
        lines[0].starts_with("t.virtual_hosts[0].routes[0].direct_response.body: the body has 4097 bytes"),
        "{errors}"
    );
    assert!(lines[1].contains("routes[1].direct_response.body: cannot read \"/nonexistent\": "), "{errors}");
    assert!(lines[2].ends_with("the environment variable \"SOTA_NO_SUCH_VARIABLE\" is not set"), "{errors}");
}

fn adds(value: &str) -> HeaderMutations {
    let option = HeaderValueOption {
        name: "x-o".into(),
        value: value.into(),
        append_action: AppendAction::AppendIfExistsOrAdd,
        keep_empty_value: false,
    };
    HeaderMutations { add: vec![option], remove: vec![format!("x-{value}")] }
}

#[test]
fn fields_change_at_each_level_in_envoys_order() {
    let weighted = WeightedCluster {
        name: "w".into(),
        cluster_header: None,
        weight: 1,
        request_headers: adds("cluster"),
        response_headers: adds("cluster"),
        typed_per_filter_config: Vec::new(),
        host_rewrite: Some("w.example".into()),
        metadata_match: Vec::new(),
    };
    let action = RouteAction { cluster: several(vec![weighted]), ..action() };
    let route = Route {
        request_headers: adds("route"),
        response_headers: adds("route"),
        ..route(prefix("/"), forward(action))
    };
    let host =
        VirtualHost { request_headers: adds("vhost"), response_headers: adds("vhost"), ..host(&["*"], vec![route]) };
    for (most_specific_header_mutations_wins, expected) in
        [(false, "cluster,route,vhost,table"), (true, "cluster,table,vhost,route")]
    {
        let routes = build(RouteConfiguration {
            request_headers: adds("table"),
            response_headers: adds("table"),
            most_specific_header_mutations_wins,
            ..table(vec![host.clone()])
        });
        let gone = [("x-cluster", "1"), ("x-route", "1"), ("x-vhost", "1"), ("x-table", "1")];
        let mut request = with("/", &gone);
        let route = routes.route(&request, &stream_info(), 7).unwrap();
        route.finalize_request(&mut request, &stream_info(), true);
        assert_eq!(request.headers.get_joined("x-o").as_deref(), Some(expected.as_bytes()));
        // The weighted cluster's host leaves no trace of the old one.
        assert_eq!((request.authority(), request.headers.len()), (&b"w.example"[..], 4));
        let mut response = ResponseHead::new(StatusCode::OK);
        response.headers = gone.into_iter().collect();
        route.finalize_response(&mut response, Some(&request), &stream_info());
        assert_eq!(response.headers.get_joined("x-o").as_deref(), Some(expected.as_bytes()));
        assert_eq!(response.headers.len(), 4);
    }
}

#[test]
fn clusters_by_weight_and_by_header() {
    let weighted = |name: &str, weight| WeightedCluster {
        name: name.into(),
        cluster_header: None,
        weight,
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        typed_per_filter_config: Vec::new(),
        host_rewrite: None,
        metadata_match: Vec::new(),
    };
    let shares = several(vec![weighted("a", 10), weighted("none", 0), weighted("b", 30)]);
    let by = |cluster| forward(RouteAction { cluster, ..action() });
    let routes = routes(vec![
        route(prefix("/weighted"), by(shares)),
        route(prefix("/header"), by(ClusterSpecifier::ClusterHeader("x-cluster".into()))),
    ]);
    let mut counts = [0; 2];
    for random in 0..400 {
        match &**routes.route(&get("/weighted"), &stream_info(), random).unwrap().cluster() {
            "a" => counts[0] += 1,
            "b" => counts[1] += 1,
            other => panic!("{other} has no weight"),
        }
    }
    assert_eq!(counts, [100, 300]);
    assert!(!routes.route(&get("/weighted"), &stream_info(), u64::MAX).unwrap().cluster().is_empty());
    let named = with("/header", &[("x-cluster", "one"), ("x-cluster", "two")]);
    assert_eq!(&**routes.route(&named, &stream_info(), 0).unwrap().cluster(), "one");
    assert_eq!(&**routes.route(&get("/header"), &stream_info(), 0).unwrap().cluster(), "");
    for weights in [vec![weighted("a", 0)], vec![weighted("a", u32::MAX), weighted("b", 1)]] {
        let route = route(prefix("/"), by(several(weights)));
        let errors = try_build(table(vec![host(&["*"], vec![route])]), &Registry::default()).unwrap_err();
        assert_eq!(errors.0[0].path, "t.virtual_hosts[0].routes[0].route.weighted_clusters");
    }
}

static TESTED: Extension<dyn HttpFilterConfig> = Extension {
    name: "test.tested",
    short_name: "tested",
    type_urls: &["test.Tested"],
    build: |_, cx| Err(cx.error("", Mark::NONE, "only for routes")),
    build_route: Some(|config, cx| match config {
        TypedConfig::Value { node, .. } => Ok(Arc::new(node.str("v").to_owned())),
        _ => Err(cx.error("v", Mark::NONE, "missing")),
    }),
    route_type_urls: &["test.TestedPerRoute"],
};

static PLAIN: Extension<dyn HttpFilterConfig> = Extension {
    name: "test.plain",
    short_name: "plain",
    type_urls: &["test.Plain"],
    build: |_, cx| Err(cx.error("", Mark::NONE, "only for routes")),
    build_route: None,
    route_type_urls: &[],
};

fn per_filter(filter: &str, type_url: &str, value: Option<&str>) -> PerFilterConfig {
    let node = |value: &str| {
        let entry = ("v".into(), sota_config::Node::string(value));
        Arc::new(sota_config::Node::new(sota_config::Value::Map(vec![entry])))
    };
    let config = value.map(|value| ExtensionConfig {
        name: filter.into(),
        config: TypedConfig::Value { type_url: Some(format!("type.googleapis.com/{type_url}")), node: node(value) },
        path: "here".into(),
        mark: Mark::NONE,
    });
    PerFilterConfig { filter: filter.into(), disabled: config.is_none(), config, is_optional: false }
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.http_filters.add(&TESTED).unwrap();
    registry.http_filters.add(&PLAIN).unwrap();
    registry
}

#[test]
fn filters_are_configured_at_each_level() {
    let at = |value| vec![per_filter("in-chain", "test.TestedPerRoute", Some(value))];
    let weighted = WeightedCluster {
        name: "w".into(),
        cluster_header: None,
        weight: 1,
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        typed_per_filter_config: at("cluster"),
        host_rewrite: None,
        metadata_match: Vec::new(),
    };
    let to_weighted = RouteAction { cluster: several(vec![weighted]), ..action() };
    let off = Route { typed_per_filter_config: vec![per_filter("in-chain", "", None)], ..named("off", exact("/off")) };
    let optional = PerFilterConfig { is_optional: true, ..per_filter("other", "test.Unknown", Some("x")) };
    let model = RouteConfiguration {
        typed_per_filter_config: at("table"),
        ..table(vec![VirtualHost {
            typed_per_filter_config: at("host").into_iter().chain([optional]).collect(),
            ..host(
                &["*"],
                vec![
                    off,
                    Route { typed_per_filter_config: at("route"), ..named("on", exact("/on")) },
                    Route { typed_per_filter_config: at("route"), ..route(exact("/w"), forward(to_weighted)) },
                    named("plain", prefix("/")),
                ],
            )
        }])
    };
    let routes = try_build(model, &registry()).unwrap();
    for (path, disabled, expected) in [
        ("/off", Some(true), &["table", "host"][..]),
        ("/on", Some(false), &["table", "host", "route"]),
        ("/w", Some(false), &["table", "host", "route", "cluster"]),
        ("/", Some(false), &["table", "host"]),
    ] {
        let route = routes.route(&get(path), &stream_info(), 0).unwrap();
        let text = |config: &(dyn std::any::Any + Send + Sync)| config.downcast_ref::<String>().cloned().unwrap();
        let all: Vec<_> = route.filter_configs("in-chain").map(text).collect();
        assert_eq!(
            (all, route.filter_disabled("in-chain")),
            (expected.iter().map(|s| (*s).into()).collect(), disabled)
        );
        assert_eq!(route.filter_config("in-chain").map(text).as_deref(), expected.last().copied());
        assert!(route.filter_config("other").is_none() && route.filter_disabled("other").is_none());
    }
    for (entry, reason) in [
        (per_filter("x", "test.Unknown", Some("")), "no HTTP filter takes a configuration of type"),
        (per_filter("x", "test.Plain", Some("")), "the filter test.plain takes no configuration from routes"),
    ] {
        let route = Route { typed_per_filter_config: vec![entry], ..named("r", prefix("/")) };
        let errors = try_build(table(vec![host(&["*"], vec![route])]), &registry()).unwrap_err();
        assert!(errors.0[0].path == "here" && errors.0[0].reason.starts_with(reason), "{errors}");
    }
}

#[test]
fn everything_wrong_is_told_at_once() {
    let model = RouteConfiguration {
        internal_only_headers: vec!["a b".into()],
        ..table(vec![
            host(&["a"], vec![named("bad", regex("("))]),
            host(
                &["A"],
                vec![route(
                    prefix("/"),
                    forward(RouteAction { path_rewrite: Some(PathRewrite::Prefix("/a b".into())), ..action() }),
                )],
            ),
        ])
    };
    let errors = try_build(model, &Registry::default()).unwrap_err();
    let paths: Vec<_> = errors.0.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "t.virtual_hosts[1].domains",
            "t.internal_only_headers",
            "t.virtual_hosts[0].routes[0].match.safe_regex",
            "t.virtual_hosts[1].routes[0].route.prefix_rewrite",
        ]
    );
}

#[test]
fn timeouts_of_route_and_request() {
    let policy =
        |per_try_timeout| RetryPolicy { retry_on: vec!["5xx".into()], per_try_timeout, ..RetryPolicy::default() };
    let secs = |n| Some(Duration::from_secs(n));
    let reading = |tells_upstream| Reading {
        tells_upstream,
        respects_expected: false,
        deadline_header: None,
        max_stream_duration: None,
    };
    let at = |path: &str, timeout, per_try: Option<Option<Duration>>, max_stream_duration: Option<Option<Duration>>| {
        let grpc_timeout = GrpcTimeout { is_by_stream: max_stream_duration.is_some(), ..GrpcTimeout::default() };
        let retry_policy = per_try.map(policy);
        let action = RouteAction { timeout, retry_policy, max_stream_duration, grpc_timeout, ..action() };
        route(exact(path), forward(action))
    };
    let mut vhost = host(
        &["*"],
        vec![
            at("/plain", secs(15), None, None),
            at("/none", None, None, None),
            at("/try", secs(3), Some(secs(1)), None),
            at("/long-try", secs(3), Some(secs(3)), None),
            at("/duration", secs(3), None, Some(secs(9))),
        ],
    );
    vhost.retry_policy = Some(policy(secs(2)));
    let routes = build(table(vec![vhost]));
    let millis = Duration::from_millis;
    let (total, each, long) = (
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-upstream-rq-per-try-timeout-ms",
        "x-envoy-upstream-stream-duration-ms",
    );
    for (path, fields, global, per_try, expected) in [
        ("/plain", &[][..], secs(15), secs(2), Some("2000")),
        ("/try", &[], secs(3), secs(1), Some("1000")),
        ("/long-try", &[], secs(3), None, Some("3000")),
        ("/none", &[(each, "0")], None, None, None),
        ("/none", &[], None, secs(2), Some("2000")),
        // With a largest duration the route has no timeout.
        ("/duration", &[(each, "0")], None, None, None),
        ("/plain", &[(total, "500"), (each, "100")], Some(millis(500)), Some(millis(100)), Some("100")),
        ("/plain", &[(total, "0"), (each, "0")], None, None, None),
        ("/plain", &[(total, "zz"), (each, "90000")], secs(15), None, Some("15000")),
        ("/try", &[(total, "500")], Some(millis(500)), None, Some("500")),
    ] {
        let mut head = with(path, fields);
        let route = routes.route(&head, &stream_info(), 0).unwrap();
        let timeouts = Timeouts::new(route.forward().unwrap(), &mut head, reading(true));
        let told = head.headers.get_str(HeaderId::XEnvoyExpectedRqTimeoutMs);
        assert_eq!((timeouts.global, timeouts.per_try, told), (global, per_try, expected), "{path} {fields:?}");
        assert_eq!(head.headers.len(), usize::from(expected.is_some()), "the fields are taken away");
    }
    let mut head = with("/try", &[(long, "70"), ("x-envoy-upstream-rq-timeout-alt-response", "1")]);
    let route = routes.route(&head, &stream_info(), 0).unwrap();
    let timeouts = Timeouts::new(route.forward().unwrap(), &mut head, reading(true));
    let said = (timeouts.max_stream_duration, timeouts.response_code, head.headers.len());
    assert_eq!(said, (Some(millis(70)), StatusCode::NO_CONTENT, 1));
    for (elapsed, expected) in [(500, "1000"), (2500, "500"), (9000, "1")] {
        timeouts.tell(&mut head, millis(elapsed));
        assert_eq!(head.headers.get_str(HeaderId::XEnvoyExpectedRqTimeoutMs), Some(expected));
    }
}

#[test]
fn timeouts_of_grpc_calls() {
    let secs = |n| Some(Duration::from_secs(n));
    let by = |grpc_timeout, max_stream_duration| RouteAction { grpc_timeout, max_stream_duration, ..action() };
    let capped = |max, offset| by(GrpcTimeout { max, offset, ..GrpcTimeout::default() }, None);
    let stream = |header_max, header_offset, longest| {
        by(GrpcTimeout { is_by_stream: true, header_max, header_offset, ..GrpcTimeout::default() }, longest)
    };
    for (action, asked, global, longest, told) in [
        (capped(secs(10), None), Some("3S"), secs(3), None, Some("3000m")),
        (capped(secs(10), None), Some("30S"), secs(10), None, Some("10000m")),
        (capped(secs(10), None), None, secs(10), None, Some("10000m")),
        (capped(secs(0), secs(1)), Some("3S"), secs(2), None, Some("2000m")),
        (capped(secs(0), secs(5)), Some("3S"), secs(3), None, Some("3000m")),
        (capped(secs(0), None), None, None, None, None),
        (action(), Some("3S"), secs(15), None, Some("3S")),
        (stream(secs(10), None, None), Some("3S"), None, secs(3), Some("3000m")),
        (stream(secs(10), secs(1), None), Some("30S"), None, secs(9), Some("9000m")),
        (stream(secs(0), secs(5), None), Some("3S"), None, secs(0), Some("0m")),
        (stream(secs(10), None, Some(secs(7))), None, None, secs(7), Some("7000m")),
        (stream(None, None, Some(secs(7))), Some("3S"), None, secs(7), Some("7000m")),
        (stream(None, None, Some(None)), Some("3S"), None, None, Some("3S")),
    ] {
        let shown = format!("{:?} {asked:?}", action.grpc_timeout);
        let routes = routes(vec![route(prefix("/"), forward(action))]);
        let mut head = with("/", &[("content-type", "application/grpc")]);
        if let Some(asked) = asked {
            head.headers.set("grpc-timeout", asked).unwrap();
        }
        let route = routes.route(&head, &stream_info(), 0).unwrap();
        let action = route.forward().unwrap();
        assert_eq!(stream_duration(action, &head, None), longest, "{shown}");
        let reading = Reading {
            tells_upstream: true,
            respects_expected: false,
            deadline_header: None,
            max_stream_duration: None,
        };
        let timeouts = Timeouts::new(action, &mut head, reading);
        assert_eq!((timeouts.global, head.headers.get_str("grpc-timeout")), (global, told), "{shown}");
    }
}

/// Routing, redirects and the upstream see one host and one path, whatever the client plays with.
#[test]
fn one_authority_for_all() {
    let routes = build(table(vec![host(&["a.example"], vec![named("a", prefix("/"))])]));
    let mut head = RequestHead::new(Method::Get, "A.example", "/x").unwrap();
    // A `host` field beside the authority is no field of a head.
    head.headers.append_sanitized("x-forwarded-host", "b.example");
    let route = routes.route(&head, &stream_info(), 0).unwrap();
    route.finalize_request(&mut head, &stream_info(), true);
    assert_eq!(head.authority(), b"A.example");
    assert!(routes.route(&RequestHead::new(Method::Get, "a.example@b", "/").unwrap(), &stream_info(), 0).is_none());
    assert!(routes.route(&RequestHead::new(Method::Get, "b.example", "/").unwrap(), &stream_info(), 0).is_none());
}
