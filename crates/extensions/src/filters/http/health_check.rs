//! `envoy.filters.http.health_check`: answers health checks of this proxy, or lets them pass and remembers the answer.

use crate::matchers;
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{Bodies, DataStatus, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, LocalReply},
    http::{HeaderId, Headers, RequestHead, ResponseHead, StatusCode},
    info::{ResponseFlag, StreamInfo},
    matcher::HeaderMatcher,
    stat_group,
    stats::Group,
};
use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.health_check",
    short_name: "health_check",
    type_urls: &["envoy.extensions.filters.http.health_check.v3.HealthCheck"],
    build,
    build_route: None,
    route_type_urls: &[],
};

stat_group! {
    /// `http.<stat_prefix>.health_check.`
    struct Stats {
        /// Health checks that the filter answered itself.
        request_total: counter,
        /// Those of them that failed.
        failed: counter,
        /// Those of them that passed.
        ok: counter,
        /// Those of them that were answered as the upstream did last.
        cached_response: counter,
        /// Failed: a cluster does not exist.
        failed_cluster_not_found: counter,
        /// Failed: a cluster has no hosts.
        failed_cluster_empty: counter,
        /// Failed: too few hosts of a cluster are healthy.
        failed_cluster_unhealthy: counter,
        /// Answered as degraded.
        degraded: counter,
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let TypedConfig::Value { node, .. } = config else {
        return Err(cx.error("", cx.mark, "the health check filter needs a configuration with \"pass_through_mode\""));
    };
    Ok(Arc::new(Config { health_check: Arc::new(HealthCheck::read(node, cx)?), stat_prefix: cx.stat_prefix.into() }))
}

struct Config {
    health_check: Arc<HealthCheck>,
    stat_prefix: String,
}

/// `envoy.extensions.filters.http.health_check.v3.HealthCheck`
struct HealthCheck {
    /// All must match; without any every request is a health check.
    matchers: Vec<HeaderMatcher>,
    pass_through: bool,
    cache: Option<Cache>,
    /// By name, with the percentage of hosts that must be healthy.
    clusters: Vec<(String, usize)>,
    /// `node.cluster`, which answers say.
    local_cluster: String,
}

impl HealthCheck {
    fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let pass_through = node.bool("pass_through_mode");
        // Whole milliseconds, as Envoy counts them.
        let millis = node.duration("cache_time").unwrap_or_default().as_millis();
        let cache_time = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        if !pass_through && !cache_time.is_zero() {
            let mark = node.field("cache_time").mark;
            return Err(cx.error("cache_time", mark, "cache_time must not be set when pass_through_mode is off"));
        }
        let mut clusters = Vec::new();
        if !pass_through {
            for (name, percent) in node.entries("cluster_min_healthy_percentages") {
                // From 0 to 100, and Envoy leaves the fraction out.
                clusters.push((name.to_string(), percent.f64("value").unwrap_or(0.0) as usize));
            }
            clusters.sort();
        }
        Ok(Self {
            matchers: matchers::headers(node, "headers", cx)?,
            pass_through,
            cache: (!cache_time.is_zero()).then(|| Cache::new(cache_time)),
            clusters,
            local_cluster: cx.node.cluster.clone(),
        })
    }

    /// Status and details by the health of the configured clusters.
    fn check_clusters(&self, cx: &WorkerCx, stats: &Stats) -> (StatusCode, &'static str) {
        for (name, min_percent) in &self.clusters {
            let Some(health) = cx.cluster_health(name) else {
                stats.failed_cluster_not_found.inc();
                return (StatusCode::SERVICE_UNAVAILABLE, "health_check_failed_no_cluster_found");
            };
            if health.total == 0 && *min_percent > 0 {
                stats.failed_cluster_empty.inc();
                return (StatusCode::SERVICE_UNAVAILABLE, "health_check_failed_cluster_empty");
            }
            let usable = health.healthy.saturating_add(health.degraded);
            if usable.saturating_mul(100) < health.total.saturating_mul(*min_percent) {
                stats.failed_cluster_unhealthy.inc();
                return (StatusCode::SERVICE_UNAVAILABLE, "health_check_failed_cluster_unhealthy");
            }
        }
        let details = if self.clusters.is_empty() { "health_check_ok" } else { "health_check_ok_cluster_healthy" };
        (StatusCode::OK, details)
    }
}

/// The last answer of the upstream, for all workers. Time is cut into windows of the configured length from the
/// beginning on; an answer is used until its window ends, just as if a timer cleared it.
struct Cache {
    begun: Instant,
    window: Duration,
    /// From the top: the number of the window, from 1 (0: there is no answer); whether the answer was degraded; its
    /// status.
    last: AtomicU64,
}

const STATUS_BITS: u32 = 16;
const DEGRADED: u64 = 1 << STATUS_BITS;
const WINDOW_SHIFT: u32 = STATUS_BITS + 1;

impl Cache {
    fn new(window: Duration) -> Self {
        Self { begun: Instant::now(), window, last: AtomicU64::new(0) }
    }

    fn window_at(&self, now: Instant) -> u64 {
        let windows = now.saturating_duration_since(self.begun).as_nanos() / self.window.as_nanos().max(1);
        u64::try_from(windows).unwrap_or(u64::MAX).saturating_add(1).min(u64::MAX >> WINDOW_SHIFT)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.last.load(Relaxed) >> WINDOW_SHIFT == self.window_at(now)
    }

    fn set(&self, now: Instant, status: StatusCode, degraded: bool) {
        let degraded = if degraded { DEGRADED } else { 0 };
        self.last.store(self.window_at(now) << WINDOW_SHIFT | degraded | u64::from(status.as_u16()), Relaxed);
    }

    /// Status and whether it was degraded; 200 before the first answer.
    fn get(&self) -> (StatusCode, bool) {
        let last = self.last.load(Relaxed);
        let status = u16::try_from(last & (DEGRADED - 1)).ok().and_then(StatusCode::from_u16);
        (status.unwrap_or(StatusCode::OK), last & DEGRADED != 0)
    }
}

impl HttpFilterConfig for Config {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        let stats = cx.stats().child(&format!("{}health_check.", self.stat_prefix)).group();
        Box::new(Factory(Rc::new(Shared { health_check: Arc::clone(&self.health_check), stats })))
    }
}

/// The worker's part.
struct Shared {
    health_check: Arc<HealthCheck>,
    stats: Group<Stats>,
}

struct Factory(Rc<Shared>);

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        Some(Box::new(Filter { shared: Rc::clone(&self.0), is_health_check: false, is_held: false }))
    }
}

struct Filter {
    shared: Rc<Shared>,
    is_health_check: bool,
    /// The request is held until its end, for an answer.
    is_held: bool,
}

impl Filter {
    /// The answer to a health check that does not go to the upstream.
    fn answer(&self, cx: &StreamCx<'_>) -> LocalReply {
        let Shared { health_check, stats } = &*self.shared;
        stats.request_total.inc();
        let mut is_degraded = false;
        let (status, details) = if cx.worker.is_health_check_failing() {
            (StatusCode::SERVICE_UNAVAILABLE, "health_check_failed")
        } else if let Some(cache) = &health_check.cache {
            let (status, degraded) = cache.get();
            is_degraded = degraded;
            stats.cached_response.inc();
            (status, "health_check_cached")
        } else {
            health_check.check_clusters(cx.worker, stats)
        };
        let mut reply = LocalReply::new(status, "", details);
        if is_degraded {
            stats.degraded.inc();
            reply.headers.set_sanitized(HeaderId::XEnvoyDegraded, "");
        }
        if status.is_success() {
            stats.ok.inc();
            return reply;
        }
        stats.failed.inc();
        reply.flag(ResponseFlag::FailedLocalHealthCheck)
    }
}

impl HttpFilter for Filter {
    fn bodies(&self) -> Bodies {
        // Of a request that is held the data comes anyway; all others go past.
        Bodies::None
    }

    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        let health_check = &self.shared.health_check;
        if !health_check.matchers.iter().all(|matcher| matcher.matches(head)) {
            return FilterStatus::Continue;
        }
        self.is_health_check = true;
        cx.info.is_health_check = true;
        cx.info.is_traced = false;
        let passes = health_check.pass_through
            && !cx.worker.is_health_check_failing()
            && !health_check.cache.as_ref().is_some_and(|cache| cache.is_fresh(Instant::now()));
        if passes {
            FilterStatus::Continue
        } else if end_stream {
            FilterStatus::reply(self.answer(cx))
        } else {
            // Answered at the end of the request, so that the connection can go on.
            self.is_held = true;
            FilterStatus::StopIteration
        }
    }

    fn on_request_data(&mut self, data: &mut bytes::Bytes, end_stream: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        if !self.is_held {
            return DataStatus::Continue;
        }
        if end_stream {
            return DataStatus::Reply(Box::new(self.answer(cx)));
        }
        data.clear();
        DataStatus::Buffer
    }

    fn on_request_trailers(&mut self, _trailers: &mut Headers, cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        if self.is_held { FilterStatus::reply(self.answer(cx)) } else { FilterStatus::Continue }
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        if self.is_health_check {
            let health_check = &self.shared.health_check;
            if let Some(cache) = &health_check.cache {
                cache.set(Instant::now(), head.status, head.headers.contains(HeaderId::XEnvoyDegraded));
            }
            let name = HeaderId::XEnvoyUpstreamHealthcheckedCluster;
            head.headers.set_sanitized(name, &health_check.local_cluster);
        } else if cx.worker.is_health_check_failing() {
            head.headers.set_sanitized(HeaderId::XEnvoyImmediateHealthCheckFail, "true");
        }
        FilterStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Stream, building, config, lines, request, unchecked};
    use bytes::Bytes;
    use sota_plugin::{cx::ClusterHealth, http::Method};

    const CHECKS: &str = "headers: [{name: ':path', string_match: {exact: /healthz}}]";

    struct Harness {
        worker: FakeWorker,
        factory: Box<dyn HttpFilterFactory>,
    }

    impl Harness {
        fn new(fields: &str) -> Self {
            let worker = FakeWorker::default();
            let config = config(EXTENSION.type_urls[0], &format!("{{{CHECKS}, {fields}}}"));
            let factory = building(|cx| build(&config, cx)).unwrap().for_worker(&worker.cx());
            Self { worker, factory }
        }

        /// The answer to a request (status, details, flag; the filter's own fields, if the filter gives it), and the
        /// fields that it then adds to the response, which otherwise is this one.
        fn get(&self, path: &str, upstream: ResponseHead) -> (String, Vec<String>) {
            let mut stream = Stream::new(&self.worker, request(Method::Get, path, &[]), None);
            let mut filter = self.factory.new_filter(&stream.info).unwrap();
            let (story, mut head) = match stream.on_request(|head, cx| filter.on_request_headers(head, true, cx)) {
                FilterStatus::Continue => ("passes".to_owned(), upstream),
                FilterStatus::Reply(reply) => (
                    describe(&reply),
                    ResponseHead { status: reply.status, headers: reply.headers, ..ResponseHead::default() },
                ),
                _ => unreachable!("a request without a body is not held"),
            };
            assert_eq!(stream.info.is_health_check, path == "/healthz");
            stream.on_response(|cx| filter.on_response_headers(&mut head, true, cx));
            (story, lines(&head.headers))
        }

        fn story(&self) -> String {
            self.get("/healthz", ResponseHead::default()).0
        }

        fn counters(&self) -> Vec<(String, u64)> {
            let name = |name: &str| name.strip_prefix("http.test.health_check.").unwrap().to_owned();
            self.worker.counters().into_iter().map(|(full, value)| (name(&full), value)).collect()
        }
    }

    fn describe(reply: &LocalReply) -> String {
        let flag = reply.flag.map_or("-", ResponseFlag::short);
        format!("{} {} {flag}", reply.status.as_str(), reply.details)
    }

    fn counts(counts: &[(&str, u64)]) -> Vec<(String, u64)> {
        counts.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    const OURS: &str = "x-envoy-upstream-healthchecked-cluster: our-cluster";

    #[test]
    fn answers_itself() {
        let harness = Harness::new("pass_through_mode: false");
        let ok = ("200 health_check_ok -".to_owned(), vec![OURS.to_owned()]);
        assert_eq!(harness.get("/healthz", ResponseHead::default()), ok);
        assert_eq!(harness.get("/other", ResponseHead::default()), ("passes".to_owned(), vec![]));
        assert_eq!(harness.counters(), counts(&[("ok", 1), ("request_total", 1)]));
        harness.worker.fail_health_checks(true);
        assert_eq!(harness.story(), "503 health_check_failed LH");
        let told = "x-envoy-immediate-health-check-fail: true".to_owned();
        assert_eq!(harness.get("/other", ResponseHead::default()), ("passes".to_owned(), vec![told]));
        assert_eq!(harness.counters(), counts(&[("failed", 1), ("ok", 1), ("request_total", 2)]));
    }

    #[test]
    fn answers_at_the_end_of_the_request() {
        let harness = Harness::new("pass_through_mode: false");
        let held = || {
            let mut stream = Stream::new(&harness.worker, request(Method::Post, "/healthz", &[]), None);
            let mut filter = harness.factory.new_filter(&stream.info).unwrap();
            let status = stream.on_request(|head, cx| filter.on_request_headers(head, false, cx));
            assert!(matches!(status, FilterStatus::StopIteration));
            let mut data = Bytes::from_static(b"body");
            let status = stream.on_request(|_, cx| filter.on_request_data(&mut data, false, cx));
            assert!(matches!(status, DataStatus::Buffer) && data.is_empty(), "nothing is kept");
            (stream, filter)
        };
        let (mut stream, mut filter) = held();
        let status = stream.on_request(|_, cx| filter.on_request_data(&mut Bytes::new(), true, cx));
        let DataStatus::Reply(reply) = status else { panic!("an answer") };
        assert_eq!(describe(&reply), "200 health_check_ok -");
        let (mut stream, mut filter) = held();
        let status = stream.on_request(|_, cx| filter.on_request_trailers(&mut Headers::new(), cx));
        assert!(matches!(status, FilterStatus::Reply(_)));
        // Other requests keep their trailers.
        let mut stream = Stream::new(&harness.worker, request(Method::Post, "/other", &[]), None);
        let mut filter = harness.factory.new_filter(&stream.info).unwrap();
        stream.on_request(|head, cx| filter.on_request_headers(head, false, cx));
        let status = stream.on_request(|_, cx| filter.on_request_trailers(&mut Headers::new(), cx));
        assert!(matches!(status, FilterStatus::Continue));
    }

    #[test]
    fn clusters_must_be_healthy() {
        let harness = Harness::new(
            "pass_through_mode: false, cluster_min_healthy_percentages: {a: {value: 0}, b: {value: 50.9}}",
        );
        assert_eq!(harness.story(), "503 health_check_failed_no_cluster_found LH");
        harness.worker.set_cluster("a", ClusterHealth::default());
        harness.worker.set_cluster("b", ClusterHealth::default());
        assert_eq!(harness.story(), "503 health_check_failed_cluster_empty LH");
        harness.worker.set_cluster("b", ClusterHealth { total: 4, healthy: 1, degraded: 0 });
        assert_eq!(harness.story(), "503 health_check_failed_cluster_unhealthy LH");
        harness.worker.set_cluster("b", ClusterHealth { total: 4, healthy: 1, degraded: 1 });
        assert_eq!(harness.story(), "200 health_check_ok_cluster_healthy -");
        let expected = [
            ("failed", 3),
            ("failed_cluster_empty", 1),
            ("failed_cluster_not_found", 1),
            ("failed_cluster_unhealthy", 1),
            ("ok", 1),
            ("request_total", 4),
        ];
        assert_eq!(harness.counters(), counts(&expected));
    }

    #[test]
    fn the_upstream_answers_once_in_a_while() {
        let harness = Harness::new("pass_through_mode: true, cache_time: 3600s");
        let degraded = ResponseHead::new(StatusCode::ACCEPTED).with("x-envoy-degraded", "");
        let (story, fields) = harness.get("/healthz", degraded);
        assert_eq!((story.as_str(), fields[1].as_str()), ("passes", OURS));
        let (story, fields) = harness.get("/healthz", ResponseHead::default());
        assert_eq!(
            (story.as_str(), &*fields),
            ("202 health_check_cached -", &["x-envoy-degraded: ", OURS].map(str::to_owned)[..])
        );
        assert_eq!(
            harness.counters(),
            counts(&[("cached_response", 1), ("degraded", 1), ("ok", 1), ("request_total", 1)])
        );
        let uncached = Harness::new("pass_through_mode: true, cache_time: 0.0001s");
        assert_eq!((uncached.story(), uncached.story()), ("passes".to_owned(), "passes".to_owned()));
        uncached.worker.fail_health_checks(true);
        assert_eq!(uncached.story(), "503 health_check_failed LH");
    }

    #[test]
    fn an_answer_is_remembered_until_its_window_ends() {
        let cache = Cache::new(Duration::from_secs(2));
        let at = |millis| cache.begun + Duration::from_millis(millis);
        assert!(!cache.is_fresh(at(0)) && cache.get() == (StatusCode::OK, false));
        cache.set(at(1_500), StatusCode::SERVICE_UNAVAILABLE, true);
        assert!(cache.is_fresh(at(1_500)) && cache.is_fresh(at(1_999)) && !cache.is_fresh(at(2_000)));
        assert_eq!(cache.get(), (StatusCode::SERVICE_UNAVAILABLE, true));
        cache.set(at(2_500), StatusCode::OK, false);
        assert!(cache.is_fresh(at(3_999)) && !cache.is_fresh(at(1_999)));
        assert_eq!(cache.get(), (StatusCode::OK, false));
    }

    #[test]
    fn what_envoy_refuses() {
        let error = |yaml| building(|cx| build(&unchecked(yaml), cx).err()).unwrap().to_string();
        let duration = Node::new(sota_config::Value::Duration { seconds: 1, nanos: 0 });
        let node = Node::new(sota_config::Value::Map(vec![("cache_time".into(), duration)]));
        let config = TypedConfig::Value { type_url: None, node: Arc::new(node) };
        assert_eq!(
            building(|cx| build(&config, cx).err()).unwrap().to_string(),
            "here.cache_time: cache_time must not be set when pass_through_mode is off"
        );
        assert!(error("{headers: [{name: ''}]}").starts_with("here.headers[0]: "));
        assert!(building(|cx| build(&TypedConfig::Empty, cx).err()).unwrap().reason.contains("pass_through_mode"));
    }
}
