use super::*;
use crate::testing::{FakeWorker, Route, Stream, building, config, lines, request, unchecked};
use sota_config::Value;
use sota_plugin::{http::Method, rate_limit::RouteRateLimits};

const MESSAGE: &str = EXTENSION.type_urls[0];
const ALWAYS: &str =
    "filter_enabled: {default_value: {numerator: 100}}\nfilter_enforced: {default_value: {numerator: 100}}";
const ONE: &str = "token_bucket: {max_tokens: 1, fill_interval: 3600s}";

struct Harness {
    worker: FakeWorker,
    factory: Box<dyn HttpFilterFactory>,
}

impl Harness {
    fn new(yaml: &str) -> Self {
        let worker = FakeWorker::default();
        let yaml = format!("stat_prefix: s\n{yaml}");
        let factory = building(|cx| build(&config(MESSAGE, &yaml), cx)).unwrap().for_worker(&worker.cx());
        Self { worker, factory }
    }

    /// The request as it passes, or the reply; then the fields that the response gets.
    fn send(&self, path: &str, route: Option<Route>) -> (String, Vec<String>, Vec<String>) {
        let mut stream = Stream::new(&self.worker, request(Method::Get, path, &[]), route);
        let mut filter = self.factory.new_filter(&stream.info).unwrap();
        let (story, fields) = match stream.on_request(|head, cx| filter.on_request_headers(head, true, cx)) {
            FilterStatus::Continue => ("passes".to_owned(), lines(&stream.request.headers)),
            FilterStatus::Reply(reply) => {
                let grpc = reply.grpc_status.map(|status| format!(" grpc {status}")).unwrap_or_default();
                assert_eq!((&*reply.details, reply.flag), (DETAILS, Some(ResponseFlag::RateLimited)));
                (format!("{}{grpc}", reply.status.as_str()), lines(&reply.headers))
            }
            _ => unreachable!("the filter neither holds nor waits"),
        };
        let mut head = ResponseHead::default();
        stream.on_response(|cx| filter.on_response_headers(&mut head, true, cx));
        (story, fields, lines(&head.headers))
    }

    fn stories(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.send("/", None).0).collect()
    }

    fn counters(&self) -> Vec<(String, u64)> {
        let name = |name: &str| name.strip_prefix("s.http_local_rate_limit.").unwrap().to_owned();
        self.worker.counters().into_iter().map(|(full, value)| (name(&full), value)).collect()
    }
}

fn counts(counts: &[(&str, u64)]) -> Vec<(String, u64)> {
    counts.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

#[test]
fn more_than_the_bucket_holds() {
    let harness = Harness::new(&format!("{ALWAYS}\n{ONE}"));
    assert_eq!(harness.stories(3), ["passes", "429", "429"]);
    assert_eq!(harness.counters(), counts(&[("enabled", 3), ("enforced", 2), ("ok", 1), ("rate_limited", 2)]));
    let harness = Harness::new(ONE);
    assert_eq!((harness.stories(2), harness.counters()), (vec!["passes".to_owned(); 2], vec![]), "off by default");
}

#[test]
fn counted_but_not_enforced() {
    let yaml = format!(
        "filter_enabled: {{default_value: {{numerator: 100}}}}\n{ONE}\n\
         request_headers_to_add_when_not_enforced: [{{header: {{key: x-over, value: '%REQ(:path)%'}}}}]"
    );
    let harness = Harness::new(&yaml);
    assert_eq!(harness.send("/a", None).1, [""; 0]);
    assert_eq!(harness.send("/a", None), ("passes".to_owned(), vec!["x-over: /a".to_owned()], vec![]));
    assert_eq!(harness.counters(), counts(&[("enabled", 2), ("ok", 1), ("rate_limited", 1)]));
}

#[test]
fn what_the_client_is_told() {
    let yaml = format!(
        "{ALWAYS}\n{ONE}\nstatus: {{code: ServiceUnavailable}}\nrate_limited_as_resource_exhausted: true\n\
         enable_x_ratelimit_headers: DRAFT_VERSION_03\nresponse_headers_to_add: [{{header: {{key: x-a, value: b}}}}]"
    );
    let harness = Harness::new(&yaml);
    let shown = |remaining, reset: &str| {
        vec![
            "x-ratelimit-limit: 1".to_owned(),
            format!("x-ratelimit-remaining: {remaining}"),
            format!("x-ratelimit-reset: {reset}"),
        ]
    };
    let (story, _, response) = harness.send("/", None);
    assert_eq!((story.as_str(), &response[..2]), ("passes", &shown(0, "")[..2]));
    let (story, reply, response) = harness.send("/", None);
    assert_eq!((story.as_str(), reply, &response[..2]), ("503 grpc 8", vec!["x-a: b".to_owned()], &shown(0, "")[..2]));
    let told = Harness::new(&format!(
        "{ALWAYS}\nenable_retry_after_header: true\ntoken_bucket: {{max_tokens: 1, fill_interval: 0.1s}}"
    ));
    told.send("/", None);
    assert_eq!(told.send("/", None).1, ["retry-after: 1"]);
}

#[test]
fn by_route_and_by_connection() {
    let harness = Harness::new("");
    let own = building(|cx| build_route(&config(MESSAGE, &format!("stat_prefix: r\n{ALWAYS}\n{ONE}")), cx)).unwrap();
    let route = || Some(Route { configs: vec![own.clone()], ..Route::default() });
    assert_eq!((harness.send("/", route()).0, harness.send("/", route()).0), ("passes".to_owned(), "429".to_owned()));
    assert_eq!(harness.send("/", None).0, "passes");
    let error = building(|cx| build_route(&unchecked("{stat_prefix: r}"), cx)).unwrap_err();
    assert!(error.reason.contains("token bucket must be set"));

    let harness = Harness::new(&format!("{ALWAYS}\n{ONE}\nlocal_rate_limit_per_downstream_connection: true"));
    assert_eq!(harness.stories(2), ["passes", "passes"], "each stream of a test has a connection of its own");
    let mut stream = Stream::new(&harness.worker, request(Method::Get, "/", &[]), None);
    for expected in [true, false] {
        let mut filter = harness.factory.new_filter(&stream.info).unwrap();
        let status = stream.on_request(|head, cx| filter.on_request_headers(head, true, cx));
        assert_eq!(matches!(status, FilterStatus::Continue), expected);
    }
}

fn map(entries: Vec<(&str, Node)>) -> Node {
    Node::new(Value::Map(entries.into_iter().map(|(key, node)| (key.into(), node)).collect()))
}

fn generic_key(value: &str) -> RateLimits {
    let action = map(vec![("generic_key", map(vec![("descriptor_value", Node::string(value))]))]);
    RateLimits::read(&[map(vec![("actions", Node::new(Value::List(vec![action])))])]).unwrap()
}

#[test]
fn descriptors_of_routes_and_virtual_hosts() {
    let descriptor = |value| {
        format!(
            "- {{entries: [{{key: generic_key, value: {value}}}], token_bucket: {{max_tokens: 1, fill_interval: 3600s}}}}"
        )
    };
    let route = |own: Option<&str>, include| {
        let limits = RouteRateLimits {
            route: own.map(generic_key).unwrap_or_default().into(),
            virtual_host: generic_key("host").into(),
            include_virtual_host: include,
        };
        Some(Route { rate_limits: Some(limits), ..Route::default() })
    };
    for (mode, include, own, expected) in [
        ("OVERRIDE", false, Some("route"), "429"),
        ("OVERRIDE", false, Some("other"), "passes"),
        ("OVERRIDE", false, None, "429"),
        ("INCLUDE", false, Some("other"), "429"),
        ("IGNORE", false, None, "passes"),
        ("IGNORE", true, Some("other"), "429"),
    ] {
        let yaml = format!(
            "{ALWAYS}\ntoken_bucket: {{max_tokens: 100, fill_interval: 3600s}}\nvh_rate_limits: {mode}\ndescriptors:\n{}\n{}",
            descriptor("route"),
            descriptor("host")
        );
        let harness = Harness::new(&yaml);
        assert_eq!(harness.send("/", route(own, include)).0, "passes");
        assert_eq!(harness.send("/", route(own, include)).0, expected, "{mode} {include} {own:?}");
    }
    let yaml = format!(
        "{ALWAYS}\n{ONE}\ndescriptors:\n{}\nrate_limits: [{{actions: [{{generic_key: {{descriptor_value: own}}}}]}}]\n\
         always_consume_default_token_bucket: false",
        descriptor("own")
    );
    assert_eq!(Harness::new(&yaml).stories(2), ["passes", "429"]);
}

#[test]
fn errors_have_a_place() {
    let error = |yaml: &str| {
        let yaml = format!("stat_prefix: s\n{yaml}");
        building(|cx| build(&config(MESSAGE, &yaml), cx).err()).unwrap().to_string()
    };
    assert_eq!(
        error("token_bucket: {max_tokens: 1, fill_interval: 0.01s}"),
        "here.token_bucket.fill_interval: the interval must not be below 50 ms"
    );
    let twice = "{entries: [{key: a, value: b}], token_bucket: {max_tokens: 1, fill_interval: 1s}}";
    assert_eq!(error(&format!("descriptors: [{twice}, {twice}]")), "here.descriptors[1]: duplicate descriptor");
    let bad = "rate_limits: [{actions: [{generic_key: {descriptor_value: '%NO%'}}]}]";
    assert!(error(bad).starts_with("here.rate_limits[0].actions[0].generic_key.descriptor_value: "));
}
