//! Access loggers: what they are given, and what they are made of.

use crate::{
    FactoryContext,
    cx::WorkerCx,
    http::{Headers, RequestHead, ResponseHead},
    info::StreamInfo,
    matcher::AccessLogFilter,
};
use sota_config::{ConfigError, ConfigErrors, Mark, Node, Severity, access_log::AccessLog, secret::DataSource};
use std::sync::Arc;

/// A configured logger, shared by all threads.
pub trait AccessLoggerConfig: Send + Sync {
    /// The worker's part of it.
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn AccessLogger>;
}

/// Writes entries. It is called at the end of each stream that its filter lets through, so it must not wait: what
/// cannot be taken at once is dropped and counted.
pub trait AccessLogger {
    /// Writes one entry.
    fn log(&self, entry: &LogEntry<'_>);
}

/// A stream that has ended (or, with `access_log_flush_interval`, goes on).
#[derive(Debug, Clone, Copy)]
pub struct LogEntry<'a> {
    /// Its facts.
    pub info: &'a StreamInfo,
    /// The request as it went upstream; `None` for TCP.
    pub request: Option<&'a RequestHead>,
    /// The response as it went downstream; `None` if there was none.
    pub response: Option<&'a ResponseHead>,
    /// Its trailers.
    pub response_trailers: Option<&'a Headers>,
    /// The text of a local reply (`%LOCAL_REPLY_BODY%`).
    pub local_reply_body: &'a str,
    /// Which moment this is (`%ACCESS_LOG_TYPE%`), such as `DownstreamEnd`.
    pub kind: LogKind,
}

impl<'a> LogEntry<'a> {
    /// An entry about a stream of which nothing but its facts is known.
    pub fn new(info: &'a StreamInfo, kind: LogKind) -> Self {
        Self { info, request: None, response: None, response_trailers: None, local_reply_body: "", kind }
    }
}

/// The moment of a log entry (`envoy.data.accesslog.v3.AccessLogType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogKind {
    /// Not said.
    #[default]
    NotSet,
    /// A TCP connection became upstream connected.
    TcpUpstreamConnected,
    /// A TCP connection goes on.
    TcpPeriodic,
    /// A TCP connection ended.
    TcpConnectionEnd,
    /// A stream began.
    DownstreamStart,
    /// A stream goes on.
    DownstreamPeriodic,
    /// A stream ended.
    DownstreamEnd,
    /// An upstream attempt ended.
    UpstreamEnd,
}

impl LogKind {
    /// As `%ACCESS_LOG_TYPE%` prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSet => "NotSet",
            Self::TcpUpstreamConnected => "TcpUpstreamConnected",
            Self::TcpPeriodic => "TcpPeriodic",
            Self::TcpConnectionEnd => "TcpConnectionEnd",
            Self::DownstreamStart => "DownstreamStart",
            Self::DownstreamPeriodic => "DownstreamPeriodic",
            Self::DownstreamEnd => "DownstreamEnd",
            Self::UpstreamEnd => "UpstreamEnd",
        }
    }
}

/// The files of this host: logs, which a thread of their own serves, so that a slow disk never holds up a worker; and
/// what is read while a configuration is built.
pub trait LogOpener: Send + Sync {
    /// Opens (or shares, when it is open already) the file for appending. `/dev/stdout` and `/dev/stderr` are
    /// unbuffered streams of the process. A path that cannot be written is an error of the configuration.
    fn open(&self, path: &str) -> Result<Arc<dyn LogFile>, std::io::Error>;

    /// The bytes of a data source, or why they cannot be had. Where a configuration is only checked, what is not there
    /// is noted and empty.
    fn read(&self, source: &DataSource) -> Result<Vec<u8>, String> {
        source.read()
    }
}

/// An open log.
pub trait LogFile: Send + Sync {
    /// Takes one or more whole lines, in order. Never waits: what does not fit into the queue is dropped and counted
    /// (`access_log_file.write_dropped`-style stats belong to the opener).
    fn write(&self, lines: &[u8]);
}

/// The text of an error about a log that cannot be opened.
pub fn open_error(path: &str, error: &std::io::Error) -> ConfigError {
    ConfigError::new("", Mark::NONE, format!("unable to open file '{path}': {error}"))
}

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

    /// Reads the field `access_log` of an extension's own message, a list as everywhere in Envoy's configuration, and
    /// builds what it says.
    pub fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Arc<Self>, ConfigError> {
        let Some(read) = cx.registry.read_access_log else {
            return Err(cx.error("access_log", node.mark, "this binary does not read access logs"));
        };
        let claims = |type_url: &str| cx.registry.access_loggers.claims(type_url);
        let mut models = Vec::new();
        for (place, item) in node.items().iter().enumerate() {
            let path = format!("{}.access_log[{place}]", cx.path);
            models.push(read(item, &claims).map_err(|errors| one_error(errors, item.mark).at(&path, item.mark))?);
        }
        Self::build(&models, cx).map_err(|errors| cx.place(one_error(errors, node.mark)))
    }

    /// The worker's part.
    pub fn for_worker(&self, cx: &WorkerCx) -> WorkerAccessLogs {
        WorkerAccessLogs(self.0.iter().map(|(filter, logger)| (filter.clone(), logger.for_worker(cx))).collect())
    }
}

/// The first error, which has the others in its words: an extension can tell but one.
fn one_error(errors: ConfigErrors, mark: Mark) -> ConfigError {
    let mut errors = errors.0.into_iter().filter(|error| error.severity == Severity::Error);
    let mut first = errors.next().unwrap_or_else(|| ConfigError::new("", mark, "no access log"));
    for other in errors {
        first.reason = format!("{}; and at {}: {}", first.reason, other.path, other.reason);
    }
    first
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
