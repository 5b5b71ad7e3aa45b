//! `envoy.filters.http.bandwidth_limit`: lets all bodies together pass no faster than so many KiB a second.

use super::slow_body::{FILL_INTERVAL, Meter, Pace, bucket};
use crate::{
    lazy_stats::LazyStats,
    matchers::{self, Switch},
};
use bytes::Bytes;
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{DataStatus, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory},
    http::{HeaderName, Headers, RequestHead, ResponseHead},
    info::StreamInfo,
    stat_group,
    stats::Unit,
};
use std::{
    any::Any,
    cell::Cell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.bandwidth_limit",
    short_name: "bandwidth_limit",
    type_urls: &["envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit"],
};

stat_group! {
    /// `<stat_prefix>.http_bandwidth_limit.`
    struct Stats {
        /// Requests whose bodies were limited.
        request_enabled: shared_counter,
        /// Responses whose bodies were limited.
        response_enabled: shared_counter,
        /// How often a body of a request had to wait.
        request_enforced: shared_counter,
        /// How often a body of a response had to wait.
        response_enforced: shared_counter,
        /// Bodies of requests that pass now.
        request_pending: shared_gauge,
        /// Bodies of responses that pass now.
        response_pending: shared_gauge,
        /// Octets that came.
        request_incoming_total_size: shared_counter,
        /// Octets that came.
        response_incoming_total_size: shared_counter,
        /// Octets that were let go.
        request_allowed_total_size: shared_counter,
        /// Octets that were let go.
        response_allowed_total_size: shared_counter,
    }
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let TypedConfig::Value { node, .. } = config else {
        return Err(cx.error("", cx.mark, "the bandwidth limit filter needs a configuration with \"stat_prefix\""));
    };
    Ok(Arc::new(Config(Arc::new(Settings::read(node, cx)?))))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    match config {
        TypedConfig::Value { node, .. } if node.has("limit_kbps") => {
            Ok(Arc::new(Shared(Arc::new(Settings::read(node, cx)?))))
        }
        _ => Err(cx.error("limit_kbps", cx.mark, "limit must be set for per route filter config")),
    }
}

struct Config(Arc<Settings>);

/// What a level of the route says.
struct Shared(Arc<Settings>);

/// `envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit`
struct Settings {
    requests: bool,
    responses: bool,
    pace: Pace,
    enabled: Switch,
    trailers: Option<Trailers>,
    stats: LazyStats<Stats>,
    prefix: String,
}

/// The trailers that tell how long it took, in milliseconds.
struct Trailers {
    request: HeaderName,
    request_filter: HeaderName,
    response: HeaderName,
    response_filter: HeaderName,
}

impl Settings {
    fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let mode = node.str("enable_mode");
        let limit = node.uint("limit_kbps");
        let interval = node.duration("fill_interval").unwrap_or(FILL_INTERVAL);
        let prefix = format!("{}.http_bandwidth_limit.", node.str("stat_prefix"));
        Ok(Self {
            requests: limit.is_some() && matches!(mode, "REQUEST" | "REQUEST_AND_RESPONSE"),
            responses: limit.is_some() && matches!(mode, "RESPONSE" | "REQUEST_AND_RESPONSE"),
            pace: Pace { bucket: Arc::new(bucket(limit.unwrap_or(0), interval)), interval },
            enabled: matchers::switch(node, "runtime_enabled", cx),
            trailers: match node.bool("enable_response_trailers") {
                true => Some(Trailers::read(node, cx)?),
                false => None,
            },
            stats: LazyStats::new(prefix.clone()),
            prefix,
        })
    }
}

impl Trailers {
    fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let prefix = node.field("response_trailer_prefix");
        let prefix_text = prefix.as_str().filter(|text| !text.is_empty()).map(|text| format!("{text}-"));
        let name = |name: &str| {
            HeaderName::parse(format!("{}{name}", prefix_text.as_deref().unwrap_or_default()).as_bytes())
                .map_err(|error| cx.error("response_trailer_prefix", prefix.mark, error.to_string()))
        };
        Ok(Self {
            request: name("bandwidth-request-delay-ms")?,
            request_filter: name("bandwidth-request-filter-delay-ms")?,
            response: name("bandwidth-response-delay-ms")?,
            response_filter: name("bandwidth-response-filter-delay-ms")?,
        })
    }
}

impl HttpFilterConfig for Config {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        self.0.stats.get(cx);
        Box::new(Factory(Arc::clone(&self.0)))
    }
}

struct Factory(Arc<Settings>);

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        Some(Box::new(Filter { settings: Arc::clone(&self.0), request: None, response: None }))
    }
}

struct Filter {
    settings: Arc<Settings>,
    request: Option<Rc<Transfer>>,
    response: Option<Rc<Transfer>>,
}

/// A body that passes.
struct Transfer {
    settings: Arc<Settings>,
    worker: WorkerCx,
    is_response: bool,
    /// Octets that came and wait.
    waiting: Cell<usize>,
    /// The first octet came, and the last one has not passed.
    begun: Cell<Option<Instant>>,
    /// How long it took, once it is over.
    took: Cell<Duration>,
    /// How much of that the limit has cost.
    waited: Cell<Duration>,
    /// What the trailers of the response tell of the request.
    request: Option<Rc<Self>>,
}

impl Transfer {
    fn new(settings: &Arc<Settings>, is_response: bool, request: Option<Rc<Self>>, cx: &StreamCx<'_>) -> Rc<Self> {
        let stats = settings.stats.get(cx.worker);
        if is_response { &stats.response_enabled } else { &stats.request_enabled }.inc();
        Rc::new(Self {
            settings: Arc::clone(settings),
            worker: cx.worker.clone(),
            is_response,
            waiting: Cell::default(),
            begun: Cell::default(),
            took: Cell::default(),
            waited: Cell::default(),
            request,
        })
    }

    fn pass(self: &Rc<Self>, data: &mut Bytes, end: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        let stats = self.settings.stats.get(&self.worker);
        if self.begun.get().is_none() {
            self.begun.set(Some(Instant::now()));
            if self.is_response { &stats.response_pending } else { &stats.request_pending }.inc();
        }
        let new = data.len().saturating_sub(self.waiting.replace(data.len())) as u64;
        let total =
            if self.is_response { &stats.response_incoming_total_size } else { &stats.request_incoming_total_size };
        total.add(new);
        let status = self.settings.pace.pass(data, end, self, cx);
        if matches!(status, DataStatus::Wait(_)) {
            if self.is_response { &stats.response_enforced } else { &stats.request_enforced }.inc();
        }
        status
    }

    /// The body is over, or the stream is.
    fn end(&self) {
        let Some(begun) = self.begun.take() else { return };
        self.took.set(begun.elapsed());
        let stats = self.settings.stats.get(&self.worker);
        if self.is_response { &stats.response_pending } else { &stats.request_pending }.dec();
        let name = if self.is_response { "response_transfer_duration" } else { "request_transfer_duration" };
        let millis = u64::try_from(self.took.get().as_millis()).unwrap_or(u64::MAX);
        self.worker.stats().child(&self.settings.prefix).histogram(name, Unit::Milliseconds).record(millis);
    }

    /// Tells in the trailers of the response how long it took.
    fn tell(&self, trailers: &mut Headers) {
        let Some(names) = &self.settings.trailers else { return };
        let request = self.request.as_deref();
        let of = |time: fn(&Self) -> &Cell<Duration>| request.map(|request| time(request).get()).unwrap_or_default();
        for (name, time) in [
            (&names.request, of(|transfer| &transfer.took)),
            (&names.request_filter, of(|transfer| &transfer.waited)),
            (&names.response, self.took.get()),
            (&names.response_filter, self.waited.get()),
        ] {
            if time.as_millis() > 0 {
                trailers.set_sanitized(name, time.as_millis().to_string());
            }
        }
    }
}

impl Meter for Transfer {
    fn passed(&self, octets: usize, rest: usize, is_last: bool, cx: &mut StreamCx<'_>) {
        self.waiting.set(rest);
        let stats = self.settings.stats.get(&self.worker);
        let total =
            if self.is_response { &stats.response_allowed_total_size } else { &stats.request_allowed_total_size };
        total.add(octets as u64);
        if is_last {
            self.end();
            if self.is_response && self.settings.trailers.is_some() {
                self.tell(cx.add_trailers());
            }
        }
    }

    fn waited(&self, time: Duration) {
        self.waited.set(self.waited.get() + time);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.end();
    }
}

impl HttpFilter for Filter {
    fn on_request_headers(
        &mut self,
        _head: &mut RequestHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        if let Some(Shared(settings)) = cx.route_config() {
            self.settings = Arc::clone(settings);
        }
        if self.settings.requests && self.settings.enabled.is_on() {
            self.request = Some(Transfer::new(&self.settings, false, None, cx));
        }
        FilterStatus::Continue
    }

    fn on_request_data(&mut self, data: &mut Bytes, end_stream: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        self.request.as_ref().map_or(DataStatus::Continue, |transfer| transfer.pass(data, end_stream, cx))
    }

    fn on_request_trailers(&mut self, _trailers: &mut Headers, _cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        if let Some(transfer) = &self.request {
            transfer.end();
        }
        FilterStatus::Continue
    }

    fn on_response_headers(
        &mut self,
        _head: &mut ResponseHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        if self.settings.responses && self.settings.enabled.is_on() {
            self.response = Some(Transfer::new(&self.settings, true, self.request.clone(), cx));
        }
        FilterStatus::Continue
    }

    fn on_response_data(&mut self, data: &mut Bytes, end_stream: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        self.response.as_ref().map_or(DataStatus::Continue, |transfer| transfer.pass(data, end_stream, cx))
    }

    fn on_response_trailers(&mut self, trailers: &mut Headers, _cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        if let Some(transfer) = &self.response {
            transfer.end();
            transfer.tell(trailers);
        }
        FilterStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Route, Stream, building, config, lines, request};
    use sota_plugin::filter::Resume;
    use sota_plugin::http::Method;
    use std::task::{Context, Poll, Waker};

    const MESSAGE: &str = EXTENSION.type_urls[0];

    struct Harness {
        stream: Stream,
        filter: Box<dyn HttpFilter>,
    }

    impl Harness {
        fn new(yaml: &str, route: Option<Route>) -> Self {
            let worker = FakeWorker::default();
            let yaml = format!("stat_prefix: s\n{yaml}");
            let factory = building(|cx| build(&config(MESSAGE, &yaml), cx)).unwrap().for_worker(&worker.cx());
            let mut stream = Stream::new(&worker, request(Method::Post, "/", &[]), route);
            let mut filter = factory.new_filter(&stream.info).unwrap();
            stream.on_request(|head, cx| filter.on_request_headers(head, false, cx));
            Self { stream, filter }
        }

        /// The pieces in which a response's body of so many octets passes, and how often it waited.
        fn respond(&mut self, octets: usize) -> (Vec<usize>, usize) {
            let filter = &mut self.filter;
            self.stream.on_response(|cx| filter.on_response_headers(&mut ResponseHead::default(), false, cx));
            let (mut pieces, mut waits) = (Vec::new(), 0);
            let mut data = Bytes::from(vec![b'x'; octets]);
            loop {
                match self.stream.on_response(|cx| filter.on_response_data(&mut data, true, cx)) {
                    DataStatus::Continue => {}
                    DataStatus::Wait(mut future) => {
                        waits += 1;
                        std::thread::sleep(Duration::from_millis(10));
                        self.stream.worker.sleep_ends();
                        let mut cx = Context::from_waker(Waker::noop());
                        let Poll::Ready(Resume::Edit(edit)) = future.as_mut().poll(&mut cx) else {
                            panic!("the wait is over")
                        };
                        assert!(self.stream.on_response(|cx| edit(&mut data, cx)).is_ok());
                    }
                    _ => unreachable!("nothing is buffered or answered"),
                }
                pieces.push(data.len());
                match self.stream.effects.rest.take() {
                    Some(rest) => data = rest,
                    None => return (pieces, waits),
                }
            }
        }

        fn counters(&self) -> Vec<(String, u64)> {
            let name = |name: &str| name.strip_prefix("s.http_bandwidth_limit.").unwrap().to_owned();
            self.stream.worker.counters().into_iter().map(|(full, value)| (name(&full), value)).collect()
        }
    }

    #[test]
    fn a_body_waits_for_tokens() {
        let yaml = "enable_mode: RESPONSE\nlimit_kbps: 20\nenable_response_trailers: true\nresponse_trailer_prefix: x";
        let mut harness = Harness::new(yaml, None);
        let (pieces, waits) = harness.respond(1_500);
        assert_eq!((pieces.iter().sum::<usize>(), waits > 0), (1_500, true), "{pieces:?}");
        assert!((1_024..1_100).contains(&pieces[0]), "what comes in 50 ms is there at first: {pieces:?}");
        let counters = harness.counters();
        let value = |name: &str| counters.iter().find(|(found, _)| found == name).map(|(_, value)| *value);
        assert_eq!((value("response_enabled"), value("request_enabled")), (Some(1), None));
        assert_eq!(value("response_incoming_total_size"), Some(1_500));
        assert_eq!(value("response_allowed_total_size"), Some(1_500));
        assert_eq!(value("response_enforced"), Some(waits as u64));
        let trailers = lines(&harness.stream.effects.trailers.take().unwrap());
        assert!(trailers.iter().any(|line| line.starts_with("x-bandwidth-response-filter-delay-ms: ")), "{trailers:?}");
    }

    #[test]
    fn off_unless_told_otherwise() {
        for yaml in ["limit_kbps: 1", "enable_mode: RESPONSE", "enable_mode: REQUEST\nlimit_kbps: 1"] {
            assert_eq!(Harness::new(yaml, None).respond(100_000), (vec![100_000], 0), "{yaml}");
        }
        let off = "enable_mode: RESPONSE\nlimit_kbps: 1\nruntime_enabled: {default_value: false, runtime_key: k}";
        assert_eq!(Harness::new(off, None).respond(100_000).1, 0);
        let own = "stat_prefix: r\nenable_mode: RESPONSE\nlimit_kbps: 100000";
        let own = building(|cx| build_route(&config(MESSAGE, own), cx)).unwrap();
        let route = Route { configs: vec![own], ..Route::default() };
        assert_eq!(Harness::new("enable_mode: RESPONSE\nlimit_kbps: 1", Some(route)).respond(100_000).1, 0);
        let error = building(|cx| build_route(&config(MESSAGE, "stat_prefix: r"), cx)).unwrap_err();
        assert!(error.reason.contains("limit must be set"));
    }
}
