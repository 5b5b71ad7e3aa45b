//! Tracing: which requests are traced, what other hops are told of it, and the spans that are reported.
//!
//! A connection manager without `tracing` pays nothing. With it, a request gets its place in a trace (`StreamInfo::trace`) before
//! its filters run; the router tells the upstream; at the end of a sampled one its facts are copied into a span, which the
//! [`exporter`] encodes and sends later, in a batch.

mod exporter;
pub(crate) mod otlp;
mod propagation;
mod span;
mod tags;
mod zipkin;

use crate::{context::WorkerContext, http::machine_address::machine_address};
use exporter::{Exporter, ExporterConfig};
use propagation::{Found, Incoming, Outgoing};
use sota_config::{
    ConfigError, Mark,
    bootstrap::NodeInfo,
    matcher::FractionalPercent as Share,
    tracing::{Decorator, OpenTelemetry, Provider, RouteTracing, Sampler, Tracing, Zipkin},
};
use sota_plugin::{
    FactoryContext,
    access_log::LogEntry,
    access_log::LogKind,
    format::Format,
    http::{HeaderId, Headers, RequestHead},
    info::{StreamInfo, TraceInfo},
    matcher::FractionalPercent,
};
use span::{Kind, Span};
use std::{rc::Rc, sync::Arc, time::SystemTime};
use tags::Tags;

/// Tracing of a connection manager, shared by all threads.
pub struct TraceConfig {
    model: Tracing,
    client: FractionalPercent,
    random: FractionalPercent,
    overall: FractionalPercent,
    sampler: Option<CompiledSampler>,
    tags: Tags,
    operation: Option<Format>,
    upstream_operation: Option<Format>,
    exporter: Option<Arc<ExporterConfig>>,
    node_id: Box<str>,
    zone: Box<str>,
}

enum CompiledSampler {
    AlwaysOn,
    ParentBased(Box<Self>),
    TraceIdRatio(FractionalPercent),
}

/// What a route says of traces, compiled.
#[derive(Debug)]
pub struct RouteTrace {
    client: Option<FractionalPercent>,
    random: Option<FractionalPercent>,
    overall: Option<FractionalPercent>,
    tags: Tags,
    operation: Option<Format>,
    upstream_operation: Option<Format>,
    decorator: Option<Decorator>,
}

/// A format, unless the text is empty.
fn format(text: &str, field: &str) -> Result<Option<Format>, ConfigError> {
    match text {
        "" => Ok(None),
        text => Format::text(text, true).map(Some).map_err(|error| error.at(field, Mark::NONE)),
    }
}

impl TraceConfig {
    /// Fails for formats and names of fields that are wrong.
    pub fn build(model: &Tracing, cx: &FactoryContext<'_>) -> Result<Arc<Self>, ConfigError> {
        let share = |config: &Share| FractionalPercent::build(config, cx.runtime);
        let provider = model.provider.as_ref();
        let sampler = provider.and_then(|provider| match &**provider {
            Provider::OpenTelemetry(otel) => otel.sampler.as_ref(),
            Provider::Zipkin(_) => None,
        });
        Ok(Arc::new(Self {
            client: share(&model.client_sampling),
            random: share(&model.random_sampling),
            overall: share(&model.overall_sampling),
            sampler: sampler.map(|sampler| CompiledSampler::build(sampler, &share)),
            tags: Tags::build(&model.custom_tags)?,
            operation: format(&model.operation, "operation")?,
            upstream_operation: format(&model.upstream_operation, "upstream_operation")?,
            exporter: provider.map(|provider| {
                Arc::new(ExporterConfig {
                    resource: resource(provider),
                    endpoint: endpoint(cx.node),
                    provider: Arc::clone(provider),
                    runtime: Arc::clone(cx.runtime),
                })
            }),
            node_id: cx.node.id.as_str().into(),
            zone: cx.node.node.as_ref().map_or("", |node| node.field("locality").str("zone")).into(),
            model: model.clone(),
        }))
    }
}

fn endpoint(node: &NodeInfo) -> zipkin::Endpoint {
    zipkin::Endpoint { service: node.cluster.as_str().into(), address: machine_address() }
}

fn resource(provider: &Provider) -> Vec<(String, String)> {
    let Provider::OpenTelemetry(OpenTelemetry { service_name, resource, .. }) = provider else { return Vec::new() };
    let mut all = vec![("service.name".to_owned(), service_name.clone())];
    all.extend(resource.iter().cloned());
    for (key, value) in [
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.name", "sota-mesh"),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ] {
        all.push((key.to_owned(), value.to_owned()));
    }
    all
}

impl CompiledSampler {
    fn build(model: &Sampler, share: &impl Fn(&Share) -> FractionalPercent) -> Self {
        match model {
            Sampler::AlwaysOn => Self::AlwaysOn,
            Sampler::ParentBased(root) => Self::ParentBased(Box::new(Self::build(root, share))),
            Sampler::TraceIdRatio(config) => Self::TraceIdRatio(share(config)),
        }
    }

    fn decides(&self, parent: Option<bool>, trace_id: u128) -> bool {
        match self {
            Self::AlwaysOn => true,
            Self::ParentBased(root) => parent.unwrap_or_else(|| root.decides(None, trace_id)),
            // Compat: the first eight octets, the least significant one first.
            Self::TraceIdRatio(share) => share.sample(((trace_id >> 64) as u64).swap_bytes()),
        }
    }
}

impl RouteTrace {
    /// Fails for formats and names of fields that are wrong.
    pub(crate) fn build(model: &RouteTracing, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let share = |config: &Option<Share>| config.as_ref().map(|config| FractionalPercent::build(config, cx.runtime));
        Ok(Self {
            client: share(&model.client_sampling),
            random: share(&model.random_sampling),
            overall: share(&model.overall_sampling),
            tags: Tags::build(&model.custom_tags)?,
            operation: format(&model.operation, "tracing.operation")?,
            upstream_operation: format(&model.upstream_operation, "tracing.upstream_operation")?,
            decorator: model.decorator.clone(),
        })
    }
}

/// The digit of a request id (a UUID) in which is packed why its request is traced.
const REASON_AT: usize = 14;
const NOT_TRACED: u8 = b'4';
const SAMPLED: u8 = b'9';
const FORCED_BY_SERVICE: u8 = b'a';
const FORCED_BY_CLIENT: u8 = b'b';

/// Takes the reason out of a request id that came from outside, where it means nothing.
pub(crate) fn forget_reason(head: &mut RequestHead) {
    set_reason(head, NOT_TRACED);
}

/// The request's id as a number below 10,000, by which requests are sampled alike on all hops.
fn number_of_id(id: &[u8]) -> Option<u64> {
    let id = id.get(..8).filter(|_| id.len() == 36)?;
    u64::from_str_radix(std::str::from_utf8(id).ok()?, 16).ok()
}

fn reason(head: &RequestHead) -> Option<u8> {
    let id = head.headers.get(HeaderId::XRequestId)?;
    Some(match *id.get(REASON_AT).filter(|_| id.len() == 36)? {
        reason @ (SAMPLED | FORCED_BY_SERVICE | FORCED_BY_CLIENT) => reason,
        _ => NOT_TRACED,
    })
}

fn set_reason(head: &mut RequestHead, reason: u8) {
    let Some(id) = head.headers.get(HeaderId::XRequestId).filter(|id| id.len() == 36) else { return };
    let mut id = id.to_vec();
    if let Some(digit) = id.get_mut(REASON_AT) {
        *digit = reason;
    }
    head.headers.set_sanitized(HeaderId::XRequestId, id);
}

/// Tracing on one worker.
pub struct Tracer {
    config: Arc<TraceConfig>,
    exporter: Option<Rc<Exporter>>,
}

/// The span of an attempt that runs.
#[derive(Debug, Clone, Copy)]
pub struct AttemptSpan {
    span_id: u64,
    start: SystemTime,
}

impl Tracer {
    /// The worker's part.
    pub fn new(config: &Arc<TraceConfig>, context: &WorkerContext) -> Rc<Self> {
        let exporter = config.exporter.as_ref().and_then(|config| Exporter::new(config, context));
        Rc::new(Self { config: Arc::clone(config), exporter })
    }

    /// A request begins: decides whether it is traced, gives it its place in a trace, and marks its id.
    pub fn begin(&self, head: &mut RequestHead, info: &mut StreamInfo, route: Option<&RouteTrace>) {
        info.is_traced = self.decide(head, route);
        info.request_id = head.headers.get_str(HeaderId::XRequestId).map(Into::into);
        let Some(exporter) = &self.config.exporter else { return };
        let trace = match &*exporter.provider {
            Provider::OpenTelemetry(_) => self.open_telemetry(head, info.is_traced),
            Provider::Zipkin(zipkin) => zipkin_span(zipkin, head, info.is_traced, self.is_client(info)),
        };
        let Some(mut trace) = trace else { return };
        trace.operation = self.name(head, info, route);
        if info.connection.is_outbound() {
            if let Some(decorator) = route.and_then(|route| route.decorator.as_ref()).filter(|of| of.propagate) {
                head.headers.set_sanitized(HeaderId::XEnvoyDecoratorOperation, decorator.operation.as_str());
            }
        } else if let Some(operation) = head.headers.get_str(HeaderId::XEnvoyDecoratorOperation).map(Box::<str>::from) {
            head.headers.remove(HeaderId::XEnvoyDecoratorOperation);
            if !operation.is_empty() {
                trace.operation = operation;
            }
        } else {
            let decorator = route.and_then(|route| route.decorator.as_ref()).filter(|of| of.propagate);
            trace.decorated = decorator.map(|decorator| decorator.operation.as_str().into());
        }
        info.trace = Some(Box::new(trace));
    }

    fn decide(&self, head: &mut RequestHead, route: Option<&RouteTrace>) -> bool {
        let config = &*self.config;
        let Some(mut decided) = reason(head) else { return false };
        let number = head.headers.get(HeaderId::XRequestId).and_then(number_of_id).unwrap_or_default();
        let of = |own: fn(&RouteTrace) -> Option<&FractionalPercent>| route.and_then(own);
        let before = decided;
        if decided == NOT_TRACED {
            let client = of(|route| route.client.as_ref()).unwrap_or(&config.client);
            let random = of(|route| route.random.as_ref()).unwrap_or(&config.random);
            if head.headers.contains(HeaderId::XClientTraceId) && client.sample(fastrand::u64(..)) {
                decided = FORCED_BY_CLIENT;
            } else if head.headers.contains(HeaderId::XEnvoyForceTrace) {
                decided = FORCED_BY_SERVICE;
            } else if random.sample(number) {
                decided = SAMPLED;
            }
        }
        let overall = of(|route| route.overall.as_ref()).unwrap_or(&config.overall);
        if decided != NOT_TRACED && !overall.sample(number) {
            decided = NOT_TRACED;
        }
        if decided != before {
            set_reason(head, decided);
        }
        decided != NOT_TRACED
    }

    fn open_telemetry(&self, head: &RequestHead, is_traced: bool) -> Option<TraceInfo> {
        let parent = match propagation::read_w3c(&head.headers) {
            Found::Malformed => return None,
            Found::Trace(parent) => Some(parent),
            Found::Nothing | Found::Decision(_) => None,
        };
        let trace_id = parent.as_ref().map_or_else(random_trace, |parent| parent.trace_id);
        let told = parent.as_ref().and_then(|parent| parent.is_sampled);
        let is_sampled = match &self.config.sampler {
            Some(sampler) => sampler.decides(told, trace_id),
            None => told.unwrap_or(is_traced),
        };
        Some(TraceInfo {
            trace_id,
            span_id: random_id(),
            parent_id: parent.as_ref().map(|parent| parent.span_id),
            is_sampled,
            is_64bit: false,
            is_shared: false,
            state: parent.map(|parent| parent.state).unwrap_or_default(),
            operation: Box::default(),
            decorated: None,
        })
    }

    /// Whether attempts have spans of their own.
    pub fn splits(&self) -> bool {
        let by_provider = match self.config.model.provider.as_deref() {
            Some(Provider::Zipkin(zipkin)) => zipkin.split_spans_for_request,
            _ => false,
        };
        self.config.model.spawn_upstream_span || by_provider
    }

    /// The span of a stream is that of a client: it leaves this machine's service, and attempts have no spans.
    fn is_client(&self, info: &StreamInfo) -> bool {
        info.connection.is_outbound() && !self.splits()
    }

    fn name(&self, head: &RequestHead, info: &StreamInfo, route: Option<&RouteTrace>) -> Box<str> {
        if let Some(decorator) = route.and_then(|route| route.decorator.as_ref()) {
            return decorator.operation.as_str().into();
        }
        let format = route.and_then(|route| route.operation.as_ref()).or(self.config.operation.as_ref());
        if let Some(format) = format {
            return formatted(format, &LogEntry { request: Some(head), ..LogEntry::new(info, LogKind::NotSet) });
        }
        match info.connection.is_outbound() {
            true => format!("egress {}", String::from_utf8_lossy(head.authority())).into(),
            false => "ingress".into(),
        }
    }

    /// The response is about to leave: operations are told or taken over (`x-envoy-decorator-operation`).
    pub fn respond(&self, headers: &mut Headers, info: &mut StreamInfo) {
        let Some(trace) = &mut info.trace else { return };
        if !info.connection.is_outbound() {
            if let Some(operation) = &trace.decorated {
                headers.set_sanitized(HeaderId::XEnvoyDecoratorOperation, &**operation);
            }
        } else if let Some(operation) = headers.get_str(HeaderId::XEnvoyDecoratorOperation).map(Box::<str>::from) {
            headers.remove(HeaderId::XEnvoyDecoratorOperation);
            if !operation.is_empty() {
                trace.operation = operation;
            }
        }
    }

    /// A request goes out: tells the host of the trace, and begins the attempt's span where it has one.
    pub fn inject(&self, headers: &mut Headers, info: &StreamInfo) -> Option<AttemptSpan> {
        let trace = info.trace.as_ref()?;
        let attempt = self.splits().then(|| AttemptSpan { span_id: random_id(), start: SystemTime::now() });
        if !self.config.model.no_context_propagation {
            let (span_id, parent_id) = match attempt {
                Some(attempt) => (attempt.span_id, Some(trace.span_id)),
                None => (trace.span_id, trace.parent_id),
            };
            let outgoing = Outgoing { trace, span_id, parent_id };
            match self.config.model.provider.as_deref() {
                Some(Provider::OpenTelemetry(_)) => propagation::write_w3c(outgoing, headers),
                Some(Provider::Zipkin(zipkin)) => {
                    propagation::write_b3(outgoing, headers);
                    if zipkin.with_w3c {
                        propagation::write_w3c(outgoing, headers);
                    }
                }
                None => {}
            }
        }
        attempt
    }

    /// A stream has ended. `route`: what its route adds.
    pub fn finish(&self, entry: &LogEntry<'_>, route: Option<&RouteTrace>) {
        let info = entry.info;
        let Some((exporter, trace)) = self.exporter.as_ref().zip(info.trace.as_ref()) else { return };
        if !trace.is_sampled || info.is_health_check {
            return;
        }
        let kind = if self.is_client(info) { Kind::Client } else { Kind::Server };
        let ids = (trace.span_id, trace.parent_id);
        let mut span = new_span(trace, ids, trace.operation.clone(), kind, info.start_time);
        span.is_shared = trace.is_shared;
        span.tag("node_id", &*self.config.node_id);
        span.tag("zone", &*self.config.zone);
        tags::downstream(&mut span, entry, self.config.model.max_path_tag_length as usize);
        tags::common(&mut span, entry);
        if self.config.model.verbose {
            tags::events(&mut span, info);
        }
        self.config.tags.apply(&mut span, entry);
        if let Some(route) = route {
            route.tags.apply(&mut span, entry);
        }
        exporter.push(span);
    }

    /// An attempt has ended.
    pub fn finish_attempt(&self, attempt: AttemptSpan, entry: &LogEntry<'_>, route: Option<&RouteTrace>) {
        let info = entry.info;
        let Some((exporter, trace)) = self.exporter.as_ref().zip(info.trace.as_ref()) else { return };
        if !trace.is_sampled {
            return;
        }
        let format = route.and_then(|route| route.upstream_operation.as_ref());
        let name = match format.or(self.config.upstream_operation.as_ref()) {
            Some(format) => formatted(format, entry),
            None => {
                let upstream = &info.upstream;
                let cluster = upstream.cluster_alias.as_deref().or(upstream.cluster.as_deref());
                format!("router {} egress", cluster.unwrap_or_default()).into()
            }
        };
        let ids = (attempt.span_id, Some(trace.span_id));
        let mut span = new_span(trace, ids, name, Kind::Client, attempt.start);
        tags::upstream(&mut span, info);
        tags::common(&mut span, entry);
        if info.upstream.attempts > 1 {
            span.tag("retry.count", (info.upstream.attempts - 1).to_string());
        }
        exporter.push(span);
    }
}

fn new_span(
    trace: &TraceInfo,
    (span_id, parent_id): (u64, Option<u64>),
    name: Box<str>,
    kind: Kind,
    start: SystemTime,
) -> Span {
    Span {
        trace_id: trace.trace_id,
        span_id,
        parent_id,
        is_64bit: trace.is_64bit,
        is_shared: false,
        state: trace.state.clone(),
        name,
        kind,
        start,
        end: SystemTime::now(),
        is_error: false,
        tags: Vec::with_capacity(24),
        events: Vec::new(),
    }
}

fn formatted(format: &Format, entry: &LogEntry<'_>) -> Box<str> {
    let mut text = Vec::new();
    format.write(entry, &mut text);
    String::from_utf8_lossy(&text).into()
}

/// The place of a request in a trace of Zipkin's; `None` where what it says cannot be understood.
fn zipkin_span(config: &Zipkin, head: &RequestHead, is_traced: bool, is_client: bool) -> Option<TraceInfo> {
    let found = match propagation::read_b3(&head.headers) {
        Found::Nothing if config.with_w3c => propagation::read_w3c(&head.headers),
        found => found,
    };
    let none = TraceInfo {
        trace_id: 0,
        span_id: 0,
        parent_id: None,
        is_sampled: is_traced,
        is_64bit: !config.trace_id_128bit,
        is_shared: false,
        state: Box::default(),
        operation: Box::default(),
        decorated: None,
    };
    let root = |is_sampled| {
        let span_id = random_id();
        let high = if config.trace_id_128bit { u128::from(random_id()) << 64 } else { 0 };
        TraceInfo { trace_id: high | u128::from(span_id), span_id, is_sampled, ..none.clone() }
    };
    Some(match found {
        Found::Malformed => return None,
        Found::Nothing => root(is_traced),
        Found::Decision(is_sampled) => root(is_sampled),
        Found::Trace(Incoming { trace_id, span_id, parent_id, is_sampled, is_64bit, state }) => {
            let is_shared = config.shared_span_context && !is_client;
            TraceInfo {
                trace_id,
                span_id: if is_shared { span_id } else { random_id() },
                parent_id: if is_shared { parent_id } else { Some(span_id) },
                is_sampled: is_sampled.unwrap_or(is_traced),
                is_64bit,
                is_shared,
                state,
                ..none
            }
        }
    })
}

/// Not 0, which is no id.
fn random_id() -> u64 {
    fastrand::u64(1..)
}

fn random_trace() -> u128 {
    u128::from(random_id()) << 64 | u128::from(fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sota_plugin::{http::Method, runtime::Runtime};

    fn share(numerator: u32) -> FractionalPercent {
        FractionalPercent::build(&Share { numerator, denominator: 100, runtime_key: None }, &Arc::<Runtime>::default())
    }

    #[test]
    fn samplers() {
        let half = CompiledSampler::TraceIdRatio(share(50));
        assert!(half.decides(None, 0x31_u128 << 120) && !half.decides(None, 0x32_u128 << 120));
        let parent = CompiledSampler::ParentBased(Box::new(CompiledSampler::AlwaysOn));
        assert!(parent.decides(None, 1) && !parent.decides(Some(false), 1));
        assert!(CompiledSampler::AlwaysOn.decides(Some(false), 1));
    }

    #[test]
    fn reasons_are_packed_into_the_id() {
        let mut head = RequestHead::new(Method::Get, "h", "/").unwrap();
        assert_eq!(reason(&head), None);
        let id = "01234567-89ab-4def-8123-456789abcdef";
        head.headers.set_sanitized(HeaderId::XRequestId, id);
        assert_eq!(reason(&head), Some(NOT_TRACED));
        set_reason(&mut head, SAMPLED);
        assert_eq!(head.headers.get_str(HeaderId::XRequestId), Some(&*id.replace("-4def", "-9def")));
        assert_eq!(reason(&head), Some(SAMPLED));
        assert_eq!(number_of_id(id.as_bytes()), Some(0x0123_4567));
        head.headers.set_sanitized(HeaderId::XRequestId, "short");
        set_reason(&mut head, SAMPLED);
        assert_eq!((reason(&head), head.headers.get_str(HeaderId::XRequestId)), (None, Some("short")));
    }
}
