//! Access loggers: what they are given, and what they are made of.

use crate::{
    cx::WorkerCx,
    http::{Headers, RequestHead, ResponseHead},
    info::StreamInfo,
};
use sota_config::{ConfigError, secret::DataSource};

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
    fn open(&self, path: &str) -> Result<std::sync::Arc<dyn LogFile>, std::io::Error>;

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
    ConfigError::new("", sota_config::Mark::NONE, format!("unable to open file '{path}': {error}"))
}
