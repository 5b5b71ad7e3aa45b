//! Sends spans to a collector, in batches and away from requests: a task of the worker's encodes and sends what has gathered. A
//! collector that is slow or gone costs a counter; the queue is bounded, and what does not fit is dropped and counted.

use super::{otlp, span::Span, zipkin};
use crate::{
    collector::{self, Outcome},
    context::WorkerContext,
    local::Local,
    upstream::Clusters,
};
use sota_config::tracing::{Collector, Provider};
use sota_plugin::{runtime::Runtime, stat_group, stats::Group};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::sync::Notify;

stat_group! {
    /// `tracing.opentelemetry.` and `tracing.zipkin.`
    pub(crate) struct ExporterStats {
        /// Spans that were given to the collector, or could not be.
        spans_sent: counter,
        /// Spans for which there was no room.
        spans_dropped: counter,
        /// Batches that went since their time had come.
        timer_flushed: counter,
        /// Batches that the collector took.
        reports_sent: counter,
        /// Batches that the collector refused.
        reports_dropped: counter,
        /// Batches that did not reach the collector.
        reports_failed: counter,
        /// Batches for which there was no such cluster.
        reports_skipped_no_cluster: counter,
    }
}

/// What is sent, how and where: shared by all workers.
pub(super) struct ExporterConfig {
    pub(super) provider: Arc<Provider>,
    pub(super) resource: Vec<(String, String)>,
    pub(super) endpoint: zipkin::Endpoint,
    pub(super) runtime: Arc<Runtime>,
}

impl ExporterConfig {
    fn collector(&self) -> Option<&Collector> {
        match &*self.provider {
            Provider::OpenTelemetry(otel) => otel.collector.as_ref(),
            Provider::Zipkin(zipkin) => Some(&zipkin.collector),
        }
    }

    /// Spans that wait at most.
    fn capacity(&self) -> usize {
        match &*self.provider {
            Provider::OpenTelemetry(otel) => otel.max_cache_size as usize,
            Provider::Zipkin(_) => 1024,
        }
    }

    /// The stats' prefix, and how many spans make a batch that does not wait.
    fn defaults(&self) -> (&'static str, u64) {
        match &*self.provider {
            Provider::OpenTelemetry(_) => ("tracing.opentelemetry.", 512),
            Provider::Zipkin(_) => ("tracing.zipkin.", 5),
        }
    }

    fn setting(&self, name: &str, default: u64) -> u64 {
        let prefix = self.defaults().0;
        self.runtime.integer(&[prefix, name].concat(), default)
    }

    fn encode(&self, spans: &[Span]) -> (Vec<u8>, &'static str) {
        match &*self.provider {
            Provider::OpenTelemetry(_) => (otlp::encode(&self.resource, spans), "application/x-protobuf"),
            Provider::Zipkin(config) if config.is_proto => {
                (zipkin::encode_proto(&self.endpoint, spans), "application/x-protobuf")
            }
            Provider::Zipkin(_) => (zipkin::encode_json(&self.endpoint, spans), "application/json"),
        }
    }
}

/// A worker's exporter.
pub(super) struct Exporter {
    config: Arc<ExporterConfig>,
    local: Rc<Local>,
    clusters: Rc<Clusters>,
    queue: RefCell<Vec<Span>>,
    is_running: Cell<bool>,
    is_full: Notify,
    stats: Group<ExporterStats>,
}

impl Exporter {
    /// `None` where spans go nowhere.
    pub(super) fn new(config: &Arc<ExporterConfig>, context: &WorkerContext) -> Option<Rc<Self>> {
        config.collector()?;
        Some(Rc::new(Self {
            stats: context.cx.stats().child(config.defaults().0).group(),
            config: Arc::clone(config),
            local: Rc::clone(&context.local),
            clusters: Rc::clone(&context.clusters),
            queue: RefCell::default(),
            is_running: Cell::default(),
            is_full: Notify::new(),
        }))
    }

    /// Takes a span, if there is room.
    pub(super) fn push(self: &Rc<Self>, span: Span) {
        let mut queue = self.queue.borrow_mut();
        if queue.len() >= self.config.capacity() {
            return self.stats.spans_dropped.inc();
        }
        queue.push(span);
        if !self.is_running.replace(true) {
            let exporter = Rc::clone(self);
            self.local.spawn(false, async move { exporter.run().await });
        }
        if queue.len() as u64 >= self.config.setting("min_flush_spans", self.config.defaults().1) {
            self.is_full.notify_one();
        }
    }

    /// Sends batches until an interval passes without a span.
    async fn run(&self) {
        loop {
            let interval = Duration::from_millis(self.config.setting("flush_interval_ms", 5000).max(1));
            tokio::select! {
                () = self.local.sleep(interval) => self.stats.timer_flushed.inc(),
                () = self.is_full.notified() => {}
            }
            let spans = self.queue.take();
            if spans.is_empty() {
                self.is_running.set(false);
                return;
            }
            match self.send(&spans).await {
                Outcome::Taken => self.stats.reports_sent.inc(),
                Outcome::Refused => self.stats.reports_dropped.inc(),
                Outcome::Failed => self.stats.reports_failed.inc(),
                Outcome::NoCluster => self.stats.reports_skipped_no_cluster.inc(),
            }
            self.stats.spans_sent.add(spans.len() as u64);
        }
    }

    async fn send(&self, spans: &[Span]) -> Outcome {
        let Some(collector) = self.config.collector() else { return Outcome::NoCluster };
        let (body, content_type) = self.config.encode(spans);
        collector::send(&self.clusters, collector, otlp::METHOD, content_type, body.into()).await
    }
}
