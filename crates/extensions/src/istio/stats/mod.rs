//! `istio.stats`: Istio's standard metrics, of requests and of TCP connections.
//!
//! Each combination of labels has handles of its own, which a worker finds by the values of the labels; only the first
//! of a combination makes names.

mod labels;

use labels::{Fate, Labels, METRICS, Metric, Overrides, Subject};
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{
        Bodies, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, NetworkFilter, NetworkFilterConfig,
        NetworkFilterFactory, NetworkFilterInstance,
    },
    http::{GrpcStatus, Headers, RequestHead, ResponseHead},
    info::{ConnectionInfo, StreamInfo, UpstreamInfo},
    stats::{Counter, Gauge, Histogram, LABELLED, Scope, Unit, push_label},
};
use std::{cell::RefCell, collections::HashMap, fmt::Write, rc::Rc, sync::Arc};

/// The HTTP filter.
pub(crate) static HTTP: Extension<dyn HttpFilterConfig> = Extension {
    name: "istio.stats",
    short_name: "istio_stats",
    type_urls: &["stats.PluginConfig"],
    build: build_http,
    build_route: None,
    route_type_urls: &[],
};

/// The network filter.
pub(crate) static NETWORK: Extension<dyn NetworkFilterConfig> = Extension {
    name: "istio.stats",
    short_name: "istio_stats",
    type_urls: &["stats.PluginConfig"],
    build: build_network,
    build_route: None,
    route_type_urls: &[],
};

/// Names of metrics with labels that the process makes; what is beyond is counted together.
const MAX_NAMES: u32 = 50_000;
/// Combinations of labels whose handles a worker keeps.
const MAX_KEPT: usize = 10_000;
/// What `grpc_stats` leaves on a stream.
const MESSAGE_COUNTS: &str = "envoy.filters.http.grpc_stats";

/// `stats.PluginConfig`
struct Config {
    overrides: Overrides,
    labels: Labels,
    /// `istio_build` with its labels.
    build: String,
}

fn read(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<Config>, ConfigError> {
    let none = Node::map();
    let node = match config {
        TypedConfig::Value { node, .. } => node,
        _ => &none,
    };
    let mut build = "istio_build".to_owned();
    push_label(&mut build, "component", "proxy");
    let node_message = cx.node.node.as_deref().unwrap_or(&none);
    let version = node_message.field("metadata").str("ISTIO_VERSION");
    push_label(&mut build, "tag", if version.is_empty() { "unknown" } else { version });
    Ok(Arc::new(Config { overrides: Overrides::read(node, cx)?, labels: Labels::read(node, cx), build }))
}

fn build_http(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    Ok(Arc::new(Shared(read(config, cx)?)))
}

fn build_network(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError> {
    Ok(Arc::new(Shared(read(config, cx)?)))
}

struct Shared(Arc<Config>);

impl HttpFilterConfig for Shared {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        Box::new(Factory(Recorder::new(&self.0, cx)))
    }
}

impl NetworkFilterConfig for Shared {
    fn is_terminal(&self) -> bool {
        false
    }

    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn NetworkFilterFactory> {
        Box::new(Factory(Recorder::new(&self.0, cx)))
    }
}

/// A worker's handles.
struct Recorder {
    config: Arc<Config>,
    scope: Scope,
    known: RefCell<HashMap<Box<str>, Rc<Handles>>>,
    /// Values of labels, each with an octet behind it that no value has.
    key: RefCell<String>,
    _build: Gauge,
}

/// What is counted under one combination of labels; made when it is first needed.
#[derive(Default)]
struct Handles {
    counters: [std::cell::OnceCell<Option<Counter>>; METRICS],
    histograms: [std::cell::OnceCell<Option<Histogram>>; METRICS],
}

/// An octet that stands in no value.
const BEHIND: char = '\0';

impl Recorder {
    fn new(config: &Arc<Config>, cx: &WorkerCx) -> Rc<Self> {
        let scope = cx.stats().child(LABELLED);
        let build = scope.gauge_dyn(&config.build);
        // Each worker has a part of the sum.
        build.set(i64::from(cx.id() == 0));
        let scope = scope.capped(MAX_NAMES);
        let (config, known) = (Arc::clone(config), RefCell::default());
        Rc::new(Self { config, scope, known, key: RefCell::default(), _build: build })
    }

    /// Counts under the labels of `subject`.
    fn record(&self, subject: &Subject<'_>, count: impl FnOnce(&dyn Fn(Metric, u64))) {
        let mut key = self.key.borrow_mut();
        key.clear();
        let mut push = |value: &str| {
            key.push_str(value);
            key.push(BEHIND);
        };
        self.config.labels.each(subject, &mut |_, value| push(value));
        self.config.overrides.values(subject).iter().for_each(|value| push(value));
        let handles = self.handles(&key);
        count(&|metric, amount| {
            if metric.is_distribution() {
                let handle = handles.histograms[metric as usize].get_or_init(|| {
                    let name = self.name(metric, subject)?;
                    Some(self.scope.histogram_dyn(&name, metric.unit()))
                });
                handle.iter().for_each(|handle| handle.record(amount));
            } else {
                let handle = handles.counters[metric as usize]
                    .get_or_init(|| Some(self.scope.counter_dyn(&self.name(metric, subject)?)));
                handle.iter().for_each(|handle| handle.add(amount));
            }
        });
    }

    fn handles(&self, key: &str) -> Rc<Handles> {
        let mut known = self.known.borrow_mut();
        if let Some(handles) = known.get(key) {
            return Rc::clone(handles);
        }
        if known.len() >= MAX_KEPT {
            known.clear();
        }
        let handles = Rc::<Handles>::default();
        known.insert(key.into(), Rc::clone(&handles));
        handles
    }

    /// The metric's name with its labels; `None`: it is dropped.
    fn name(&self, metric: Metric, subject: &Subject<'_>) -> Option<String> {
        let overrides = &self.config.overrides;
        if overrides.is_dropped(metric) {
            return None;
        }
        let mut name = format!("istio_{}", metric.name());
        let values = overrides.values(subject);
        let value = |number: usize| values.get(number).map_or("", String::as_str);
        self.config.labels.each(subject, &mut |label, own| match overrides.of_label(metric, label) {
            Fate::Kept => push_label(&mut name, label, own),
            Fate::Dimension(number) => push_label(&mut name, label, value(number)),
            Fate::Removed => {}
        });
        for (label, number) in overrides.added(metric) {
            push_label(&mut name, label, value(number));
        }
        Some(name)
    }
}

struct Factory(Rc<Recorder>);

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        Some(Box::new(RequestFilter { recorder: Rc::clone(&self.0), grpc_status: None }))
    }
}

impl NetworkFilterFactory for Factory {
    fn new_filter(&self, connection: &Rc<ConnectionInfo>) -> NetworkFilterInstance {
        // Wanted at the end.
        connection.upstream.borrow_mut().get_or_insert_default();
        NetworkFilterInstance::Filter(Box::new(ConnectionFilter {
            recorder: Rc::clone(&self.0),
            connection: Rc::clone(connection),
        }))
    }
}

struct RequestFilter {
    recorder: Rc<Recorder>,
    grpc_status: Option<GrpcStatus>,
}

impl HttpFilter for RequestFilter {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        _end_stream: bool,
        _cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        self.grpc_status = GrpcStatus::in_fields(&head.headers);
        FilterStatus::Continue
    }

    fn on_response_trailers(&mut self, trailers: &mut Headers, _cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        self.grpc_status = GrpcStatus::in_fields(trailers).or(self.grpc_status);
        FilterStatus::Continue
    }

    fn on_stream_complete(&mut self, cx: &mut StreamCx<'_>) {
        let info = &*cx.info;
        let is_grpc = cx.request.map_or(info.is_grpc, RequestHead::is_grpc);
        let status = self.grpc_status.or_else(|| info.response_code.map(GrpcStatus::from_http)).filter(|_| is_grpc);
        let mut flags = String::new();
        if !info.response_flags.is_empty() {
            // Writing into a string does not fail.
            let _ = write!(flags, "{}", info.response_flags);
        }
        let subject = Subject {
            connection: &info.connection,
            upstream: &info.upstream,
            peers: Some(&info.filter_state),
            request: cx.request,
            route_name: info.route.as_ref().map_or("", |route| route.name()),
            protocol: if is_grpc { "grpc" } else { "http" },
            response: Some((info.response_code, status)),
            flags: if flags.is_empty() { "-" } else { &flags },
        };
        let messages = |field| {
            let counts = info.filter_state.find(MESSAGE_COUNTS)?;
            counts.field(field)?.parse::<u64>().ok()
        };
        self.recorder.record(&subject, |count| {
            count(Metric::RequestsTotal, 1);
            count(Metric::RequestDuration, u64::try_from(info.duration().as_millis()).unwrap_or(u64::MAX));
            count(Metric::RequestBytes, info.downstream_wire_bytes_received);
            count(Metric::ResponseBytes, info.downstream_wire_bytes_sent);
            if is_grpc {
                for (metric, field) in [
                    (Metric::RequestMessages, "request_message_count"),
                    (Metric::ResponseMessages, "response_message_count"),
                ] {
                    if let Some(number) = messages(field) {
                        count(metric, number);
                    }
                }
            }
        });
    }
}

/// Counts a TCP connection when it ends: not before is known who its peer is.
struct ConnectionFilter {
    recorder: Rc<Recorder>,
    connection: Rc<ConnectionInfo>,
}

impl NetworkFilter for ConnectionFilter {}

impl Drop for ConnectionFilter {
    fn drop(&mut self) {
        let connection = &*self.connection;
        let Some(summary) = connection.summary.borrow().as_deref().copied() else {
            // HTTP behind it counts its requests.
            return;
        };
        let none = UpstreamInfo::default();
        let upstream = connection.upstream.borrow();
        let flags = summary.response_flags.to_string();
        let subject = Subject {
            connection,
            upstream: upstream.as_deref().unwrap_or(&none),
            peers: None,
            request: None,
            route_name: "",
            protocol: "tcp",
            response: None,
            flags: &flags,
        };
        self.recorder.record(&subject, |count| {
            count(Metric::ConnectionsOpened, 1);
            count(Metric::SentBytes, summary.bytes_sent);
            count(Metric::ReceivedBytes, summary.bytes_received);
            count(Metric::ConnectionsClosed, 1);
        });
    }
}

impl Metric {
    fn unit(self) -> Unit {
        match self {
            Self::RequestDuration => Unit::Milliseconds,
            _ => Unit::Bytes,
        }
    }
}

#[cfg(test)]
mod tests;
