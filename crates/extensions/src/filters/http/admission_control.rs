//! `envoy.filters.http.admission_control`: refuses a part of the requests while too many fail, so that hosts in trouble
//! have less to do. Each worker decides by what it has seen itself.

use crate::matchers::{self, Switch};
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, LocalReply},
    http::{GrpcStatus, HeaderId, Headers, RequestHead, ResponseHead, StatusCode},
    info::StreamInfo,
    runtime::Runtime,
    stat_group,
    stats::Group,
};
use std::{
    cell::RefCell,
    collections::VecDeque,
    ops::Range,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.admission_control",
    short_name: "admission_control",
    type_urls: &["envoy.extensions.filters.http.admission_control.v3.AdmissionControl"],
    build,
    build_route: None,
    route_type_urls: &[],
};

const DETAILS: &str = "denied_by_admission_control";
const DEFAULT_WINDOW: Duration = Duration::from_secs(30);
const DEFAULT_THRESHOLD: f64 = 95.0;
const DEFAULT_MOST: f64 = 80.0;
/// Requests of so long are counted together.
const SLICE: Duration = Duration::from_secs(1);
/// gRPC statuses that say nothing against a host.
const GRPC_SUCCESSES: [i64; 11] = [0, 1, 2, 3, 5, 6, 7, 9, 11, 12, 16];

stat_group! {
    /// `http.<stat_prefix>.admission_control.`
    struct Stats {
        /// Requests that were refused.
        rq_rejected: counter,
        /// Requests that succeeded.
        rq_success: counter,
        /// Requests that failed.
        rq_failure: counter,
    }
}

/// `envoy.extensions.filters.http.admission_control.v3.AdmissionControl`
struct Settings {
    enabled: Switch,
    window: Duration,
    /// From 1.
    aggression: f64,
    /// In percent.
    threshold: Number,
    rps_threshold: Number,
    /// In percent.
    most: Number,
    http_successes: Vec<Range<u16>>,
    grpc_successes: Vec<i64>,
    stat_prefix: String,
}

/// A number that a runtime key may replace.
struct Number {
    default: f64,
    runtime: Option<(Box<str>, Arc<Runtime>)>,
}

impl Number {
    fn new(node: &Node, default: f64, cx: &FactoryContext<'_>) -> Self {
        let key = Some(node.str("runtime_key")).filter(|key| !key.is_empty());
        Self { default, runtime: key.map(|key| (key.into(), Arc::clone(cx.runtime))) }
    }

    fn value(&self) -> f64 {
        let replaced = self.runtime.as_ref().and_then(|(key, runtime)| runtime.get(key)?.trim().parse().ok());
        replaced.unwrap_or(self.default)
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let TypedConfig::Value { node, .. } = config else {
        return Err(cx.error("", cx.mark, "the filter needs a configuration with \"success_criteria\""));
    };
    let percent = |key: &str, default: f64| {
        let node = node.field(key);
        Number::new(node, node.get("default_value").map_or(default, |percent| percent.f64("value").unwrap_or(0.0)), cx)
    };
    let threshold = percent("sr_threshold", DEFAULT_THRESHOLD);
    if threshold.default < 1.0 {
        let mark = node.field("sr_threshold").mark;
        return Err(cx.error("sr_threshold", mark, "a threshold below 1 % would let nothing be refused"));
    }
    let criteria = node.field("success_criteria");
    Ok(Arc::new(Config(Arc::new(Settings {
        enabled: matchers::switch(node, "enabled", cx),
        window: node.duration("sampling_window").filter(|window| *window >= SLICE).unwrap_or(DEFAULT_WINDOW),
        aggression: node.field("aggression").f64("default_value").unwrap_or(1.0).max(1.0),
        threshold,
        rps_threshold: Number::new(
            node.field("rps_threshold"),
            node.field("rps_threshold").f64("default_value").unwrap_or(0.0),
            cx,
        ),
        most: percent("max_rejection_probability", DEFAULT_MOST),
        http_successes: http_successes(criteria, cx)?,
        grpc_successes: match criteria.get("grpc_criteria") {
            Some(grpc) => {
                let codes = grpc.list("grpc_success_status").iter();
                codes.filter_map(Node::as_i64).collect()
            }
            None => GRPC_SUCCESSES.to_vec(),
        },
        stat_prefix: cx.stat_prefix.to_owned(),
    }))))
}

fn http_successes(criteria: &Node, cx: &FactoryContext<'_>) -> Result<Vec<Range<u16>>, ConfigError> {
    let Some(http) = criteria.get("http_criteria") else { return Ok(std::iter::once(100..500).collect()) };
    let ranges = http.list("http_success_status").iter().enumerate();
    ranges
        .map(|(at, range)| {
            let bound = |key: &str| range.field(key).as_i64().and_then(|bound| u16::try_from(bound).ok()).unwrap_or(0);
            let range_of = bound("start")..bound("end");
            if range_of.is_empty() || range_of.start < 100 || range_of.end > 600 {
                let path = format!("success_criteria.http_criteria.http_success_status[{at}]");
                return Err(cx.error(&path, range.mark, "a range of statuses from 100 to below 600 is needed here"));
            }
            Ok(range_of)
        })
        .collect()
}

struct Config(Arc<Settings>);

impl HttpFilterConfig for Config {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        let stats = cx.stats().child(&format!("{}admission_control.", self.0.stat_prefix)).group();
        Box::new(Factory(Rc::new(Worker { settings: Arc::clone(&self.0), history: RefCell::default(), stats })))
    }
}

struct Factory(Rc<Worker>);

/// What a worker has seen.
struct Worker {
    settings: Arc<Settings>,
    history: RefCell<History>,
    stats: Group<Stats>,
}

/// Requests of the last time, in slices.
#[derive(Default)]
struct History {
    slices: VecDeque<(Instant, Counts)>,
    all: Counts,
}

#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    requests: u64,
    successes: u64,
}

impl History {
    /// Forgets what is older than the window.
    fn trim(&mut self, now: Instant, window: Duration) {
        while let Some((_, old)) =
            self.slices.pop_front_if(|(began, _)| now.saturating_duration_since(*began) >= window)
        {
            self.all.requests -= old.requests;
            self.all.successes -= old.successes;
        }
    }

    fn record(&mut self, succeeded: bool, now: Instant, window: Duration) {
        self.trim(now, window);
        if self.slices.back().is_none_or(|(began, _)| now.saturating_duration_since(*began) >= SLICE) {
            self.slices.push_back((now, Counts::default()));
        }
        let slice = self.slices.back_mut().map(|(_, counts)| counts);
        for counts in slice.into_iter().chain([&mut self.all]) {
            counts.requests += 1;
            counts.successes += u64::from(succeeded);
        }
    }

    /// Requests a second.
    fn rate(&self, now: Instant) -> f64 {
        let Some((oldest, _)) = self.slices.front() else { return 0.0 };
        self.all.requests as f64 / now.saturating_duration_since(*oldest).max(SLICE).as_secs() as f64
    }
}

impl Settings {
    /// How probable it is that a request is refused.
    fn probability(&self, counts: Counts) -> f64 {
        let (requests, successes) = (counts.requests as f64, counts.successes as f64);
        let excess = requests - successes / (self.threshold.value() / 100.0);
        let probability = (excess / (requests + 1.0)).max(0.0);
        probability.powf(1.0 / self.aggression).min(self.most.value() / 100.0)
    }
}

impl Worker {
    fn refuses(&self, now: Instant) -> bool {
        let settings = &self.settings;
        let mut history = self.history.borrow_mut();
        history.trim(now, settings.window);
        history.rate(now) >= settings.rps_threshold.value() && fastrand::f64() < settings.probability(history.all)
    }

    fn record(&self, succeeded: bool) {
        self.history.borrow_mut().record(succeeded, Instant::now(), self.settings.window);
        if succeeded { &self.stats.rq_success } else { &self.stats.rq_failure }.inc();
    }
}

impl HttpFilterFactory for Factory {
    fn new_filter(&self, info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        let is_on = self.0.settings.enabled.is_on() && !info.is_health_check;
        is_on.then(|| Box::new(Filter { worker: Rc::clone(&self.0), is_open: false }) as Box<dyn HttpFilter>)
    }
}

struct Filter {
    worker: Rc<Worker>,
    /// The request was let in, and nobody knows yet how it went.
    is_open: bool,
}

impl Filter {
    fn settle(&mut self, succeeded: bool) {
        if std::mem::take(&mut self.is_open) {
            self.worker.record(succeeded);
        }
    }

    fn settle_grpc(&mut self, fields: &Headers) {
        let status = GrpcStatus::in_fields(fields);
        self.settle(status.is_some_and(|status| self.worker.settings.grpc_successes.contains(&status.0)));
    }
}

impl HttpFilter for Filter {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_request_headers(
        &mut self,
        _head: &mut RequestHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        if cx.info.is_health_check {
            return FilterStatus::Continue;
        }
        if self.worker.refuses(Instant::now()) {
            self.worker.stats.rq_rejected.inc();
            return FilterStatus::reply(LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "", DETAILS));
        }
        self.is_open = true;
        FilterStatus::Continue
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        end_stream: bool,
        _cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        let kind = head.headers.get(HeaderId::ContentType).unwrap_or_default();
        let is_grpc = kind.starts_with(b"application/grpc") && head.status == StatusCode::OK;
        if GrpcStatus::in_fields(&head.headers).is_some() && (end_stream || is_grpc) {
            self.settle_grpc(&head.headers);
        } else if !is_grpc {
            let status = head.status.as_u16();
            self.settle(self.worker.settings.http_successes.iter().any(|range| range.contains(&status)));
        }
        FilterStatus::Continue
    }

    fn on_response_trailers(&mut self, trailers: &mut Headers, _cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        self.settle_grpc(trailers);
        FilterStatus::Continue
    }

    fn on_stream_complete(&mut self, _cx: &mut StreamCx<'_>) {
        // Without an answer it has failed.
        self.settle(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Stream, building, config, request, unchecked};
    use sota_plugin::http::Method;

    const TYPE: &str = EXTENSION.type_urls[0];

    /// Sends requests that are answered with this status; how many were refused, and what was counted.
    fn send(yaml: &str, status: u16, grpc: Option<&str>, requests: usize) -> (usize, Vec<(String, u64)>) {
        let worker = FakeWorker::default();
        let built = building(|cx| build(&config(TYPE, yaml), cx)).unwrap();
        let factory = built.for_worker(&worker.cx());
        let mut refused = 0;
        for _ in 0..requests {
            let mut stream = Stream::new(&worker, request(Method::Get, "/", &[]), None);
            let Some(mut filter) = factory.new_filter(&stream.info) else { continue };
            if let FilterStatus::Reply(reply) = stream.on_request(|head, cx| filter.on_request_headers(head, true, cx))
            {
                assert_eq!((reply.status, &*reply.details), (StatusCode::SERVICE_UNAVAILABLE, DETAILS));
                refused += 1;
                continue;
            }
            let mut head = ResponseHead::new(StatusCode::from_u16(status).unwrap());
            if let Some(code) = grpc {
                head.headers.set_sanitized(HeaderId::ContentType, "application/grpc");
                let mut trailers = Headers::default();
                trailers.set_sanitized(HeaderId::GrpcStatus, code);
                stream.on_request(|_, cx| {
                    filter.on_response_headers(&mut head, false, cx);
                    filter.on_response_trailers(&mut trailers, cx);
                });
            } else if status != 100 {
                stream.on_request(|_, cx| filter.on_response_headers(&mut head, true, cx));
            }
            stream.on_request(|_, cx| filter.on_stream_complete(cx));
        }
        (refused, worker.counters())
    }

    fn counted<'a>(counters: &'a [(String, u64)], name: &str) -> u64 {
        let found = |(full, _): &&'a (String, u64)| full.ends_with(name);
        counters.iter().find(found).map_or(0, |(_, count)| *count)
    }

    #[test]
    fn success_is_let_through_and_failure_is_not() {
        let (refused, counters) = send("{success_criteria: {}}", 200, None, 200);
        assert_eq!((refused, counted(&counters, "rq_success"), counted(&counters, "rq_failure")), (0, 200, 0));
        // 80 % of them at most, in the end.
        let (refused, counters) = send("{success_criteria: {}}", 503, None, 1000);
        assert!((650..=850).contains(&refused), "{refused}");
        assert_eq!(counted(&counters, "rq_rejected"), refused as u64);
        assert_eq!(counted(&counters, "rq_failure"), 1000 - refused as u64);
        // No answer at all.
        let (refused, _) = send("{success_criteria: {}}", 100, None, 100);
        assert!(refused > 20, "{refused}");
    }

    #[test]
    fn what_success_is_may_be_said() {
        let yaml = "{success_criteria: {http_criteria: {http_success_status: [{start: 200, end: 300}]}}}";
        assert!(send(yaml, 404, None, 100).0 > 20);
        assert_eq!(send("{success_criteria: {}}", 404, None, 100).0, 0);
        assert_eq!(send("{success_criteria: {}}", 200, Some("5"), 100).0, 0);
        assert!(send("{success_criteria: {}}", 200, Some("14"), 100).0 > 20);
        let yaml = "{success_criteria: {grpc_criteria: {grpc_success_status: [0]}}}";
        assert!(send(yaml, 200, Some("5"), 100).0 > 20);
    }

    #[test]
    fn little_traffic_and_a_switch_let_everything_through() {
        let yaml = "{success_criteria: {}, rps_threshold: {default_value: 100000, runtime_key: k}}";
        assert_eq!(send(yaml, 503, None, 200).0, 0);
        let yaml = "{success_criteria: {}, enabled: {default_value: false, runtime_key: k}}";
        assert_eq!(send(yaml, 503, None, 200).0, 0);
        let yaml = "{success_criteria: {}, max_rejection_probability: {default_value: {value: 0}, runtime_key: k}}";
        assert_eq!(send(yaml, 503, None, 200).0, 0);
    }

    #[test]
    fn the_window_moves() {
        let (mut history, window) = (History::default(), Duration::from_secs(3));
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        history.record(false, at(0), window);
        history.record(true, at(0), window);
        history.record(true, at(2), window);
        assert_eq!(history.all, Counts { requests: 3, successes: 2 });
        history.trim(at(3), window);
        assert_eq!(history.all, Counts { requests: 1, successes: 1 });
        history.trim(at(9), window);
        assert_eq!((history.all, history.slices.len()), (Counts::default(), 0));
    }

    #[test]
    fn ranges_and_thresholds_have_limits() {
        let error = |yaml| building(|cx| build(&unchecked(yaml), cx).err()).unwrap().to_string();
        assert!(
            error("{success_criteria: {http_criteria: {http_success_status: [{start: 1, end: 2}]}}}").contains("100")
        );
        assert!(error("{sr_threshold: {default_value: {value: 0.5}}}").contains("below 1 %"));
    }
}
