//! The access logs of a listener, a connection manager or a TCP proxy: each with its filter and its logger.

use sota_config::{ConfigErrors, access_log::AccessLog};
use sota_plugin::{
    FactoryContext,
    access_log::{AccessLogger, AccessLoggerConfig, LogEntry},
    cx::WorkerCx,
    matcher::AccessLogFilter,
};
use std::sync::Arc;

/// A log behind its filter, if it has one.
type Filtered<Logger> = (Option<Arc<AccessLogFilter>>, Logger);

/// Access logs, built and shared by all workers.
#[derive(Default)]
pub struct AccessLogs(Vec<Filtered<Arc<dyn AccessLoggerConfig>>>);

impl AccessLogs {
    /// Builds every log, with every error there is.
    pub fn build(models: &[AccessLog], cx: &FactoryContext<'_>) -> Result<Arc<Self>, ConfigErrors> {
        let mut errors = Vec::new();
        let mut logs = Vec::with_capacity(models.len());
        for model in models {
            let cx = cx.at(&model.logger);
            let filter = model.filter.as_ref().map(|filter| AccessLogFilter::build(filter, cx.runtime)).transpose();
            let logger = cx.registry.access_loggers.resolve(&model.logger);
            match (filter, logger.and_then(|extension| (extension.build)(&model.logger.config, &cx))) {
                (Ok(filter), Ok(logger)) => logs.push((filter.map(Arc::new), logger)),
                (filter, logger) => {
                    errors.extend(filter.err().map(|error| cx.place(error)));
                    errors.extend(logger.err());
                }
            }
        }
        if errors.is_empty() { Ok(Arc::new(Self(logs))) } else { Err(ConfigErrors(errors)) }
    }

    /// The worker's part.
    pub fn for_worker(&self, cx: &WorkerCx) -> WorkerAccessLogs {
        WorkerAccessLogs(self.0.iter().map(|(filter, logger)| (filter.clone(), logger.for_worker(cx))).collect())
    }
}

/// Access logs of one worker.
pub struct WorkerAccessLogs(Vec<Filtered<Box<dyn AccessLogger>>>);

impl WorkerAccessLogs {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes an entry to every log whose filter lets it through.
    pub fn log(&self, entry: &LogEntry<'_>) {
        for (filter, logger) in &self.0 {
            if filter.as_ref().is_none_or(|filter| filter.matches(entry)) {
                logger.log(entry);
            }
        }
    }
}
