//! `envoy.access_loggers.stdout` and `envoy.access_loggers.stderr`: write a line for each entry to a stream of the process.

use super::writer::Writer;
use crate::format;
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{Extension, FactoryContext, access_log::AccessLoggerConfig};
use std::sync::Arc;

/// The extension for stdout.
pub(crate) static STDOUT: Extension<dyn AccessLoggerConfig> = Extension {
    name: "envoy.access_loggers.stdout",
    short_name: "stdout",
    type_urls: &["envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"],
    build: |config, cx| build("/dev/stdout", config, cx),
    build_route: None,
    route_type_urls: &[],
};

/// The extension for stderr.
pub(crate) static STDERR: Extension<dyn AccessLoggerConfig> = Extension {
    name: "envoy.access_loggers.stderr",
    short_name: "stderr",
    type_urls: &["envoy.extensions.access_loggers.stream.v3.StderrAccessLog"],
    build: |config, cx| build("/dev/stderr", config, cx),
    build_route: None,
    route_type_urls: &[],
};

fn build(
    path: &str,
    config: &TypedConfig,
    cx: &FactoryContext<'_>,
) -> Result<Arc<dyn AccessLoggerConfig>, ConfigError> {
    let format = match config {
        TypedConfig::Value { node, .. } => format::log_format(node, cx)?,
        _ => format::log_format(&Node::map(), cx)?,
    };
    Writer::open(path, format, cx).map_err(|error| cx.place(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Logs, config, factory_cx, stream};
    use sota_plugin::access_log::{LogEntry, LogKind};

    fn lines_go_to(path: &str, extension: &Extension<dyn AccessLoggerConfig>) {
        let logs = Arc::new(Logs::default());
        for config in
            [TypedConfig::Empty, config(extension.type_urls[0], r#"{"log_format": {"text_format": "%PROTOCOL%\n"}}"#)]
        {
            let logger = factory_cx(&logs, |cx| (extension.build)(&config, cx)).unwrap();
            logger.for_worker(&FakeWorker::default().cx()).log(&LogEntry::new(&stream(), LogKind::DownstreamEnd));
        }
        let [default, own] = &*logs.written(path) else { panic!("two pieces") };
        assert!(default.starts_with('[') && default.ends_with("\"-\"\n"), "{default}");
        assert_eq!(own, "HTTP/1.1\n");
    }

    #[test]
    fn lines_go_to_stdout() {
        lines_go_to("/dev/stdout", &STDOUT);
    }

    #[test]
    fn lines_go_to_stderr() {
        lines_go_to("/dev/stderr", &STDERR);
    }
}
