//! The access logs of a listener, a connection manager or a TCP proxy: each with its filter and its logger.

pub use sota_plugin::access_log::{AccessLogs, WorkerAccessLogs};
