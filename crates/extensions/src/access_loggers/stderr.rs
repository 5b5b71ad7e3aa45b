//! `envoy.access_loggers.stderr`: writes a line for each entry to stderr.

use super::{format, writer::Writer};
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{Extension, FactoryContext, access_log::AccessLoggerConfig};
use std::sync::Arc;

/// The extension.
pub(crate) static EXTENSION: Extension<dyn AccessLoggerConfig> = Extension {
    name: "envoy.access_loggers.stderr",
    short_name: "stderr",
    type_urls: &["envoy.extensions.access_loggers.stream.v3.StderrAccessLog"],
    build,
    build_route: None,
    route_type_urls: &[],
};

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn AccessLoggerConfig>, ConfigError> {
    let format = match config {
        TypedConfig::Value { node, .. } => format::log_format(node, cx)?,
        _ => format::log_format(&Node::map(), cx)?,
    };
    Writer::open("/dev/stderr", format, cx).map_err(|error| cx.place(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Logs, config, factory_cx, stream};
    use sota_plugin::access_log::{LogEntry, LogKind};

    #[test]
    fn lines_go_to_stderr() {
        let logs = Arc::new(Logs::default());
        for config in
            [TypedConfig::Empty, config(EXTENSION.type_urls[0], r#"{"log_format": {"text_format": "%PROTOCOL%\n"}}"#)]
        {
            let logger = factory_cx(&logs, |cx| build(&config, cx)).unwrap().for_worker(&FakeWorker::default().cx());
            logger.log(&LogEntry::new(&stream(), LogKind::DownstreamEnd));
        }
        let [default, own] = &*logs.written("/dev/stderr") else { panic!("two pieces") };
        assert!(default.starts_with('[') && default.ends_with("\"-\"\n"), "{default}");
        assert_eq!(own, "HTTP/1.1\n");
    }
}
