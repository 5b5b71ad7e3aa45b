//! `envoy.access_loggers.file`: writes a line for each entry to a file.

use super::writer::Writer;
use crate::format;
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{Extension, FactoryContext, access_log::AccessLoggerConfig, format::Format};
use std::sync::Arc;

/// The extension.
pub(crate) static EXTENSION: Extension<dyn AccessLoggerConfig> = Extension {
    name: "envoy.access_loggers.file",
    short_name: "file",
    type_urls: &["envoy.extensions.access_loggers.file.v3.FileAccessLog"],
    build,
    build_route: None,
    route_type_urls: &[],
};

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn AccessLoggerConfig>, ConfigError> {
    let TypedConfig::Value { node, .. } = config else {
        return Err(cx.error("", cx.mark, "the file access log needs a configuration with a \"path\""));
    };
    let path = node.str("path");
    if path.is_empty() {
        return Err(cx.error("path", node.mark, "the path of an access log must not be empty"));
    }
    let format = read_format(node, cx)?;
    Writer::open(path, format, cx).map_err(|error| cx.place(error.at("path", node.field("path").mark)))
}

/// The format of one of the fields that can have it; the other three are deprecated.
fn read_format(node: &Node, cx: &FactoryContext<'_>) -> Result<Format, ConfigError> {
    if node.has("json_format") {
        return format::json(node, "json_format", "json_format", false, cx);
    }
    if node.has("typed_json_format") {
        return format::json(node, "typed_json_format", "typed_json_format", false, cx);
    }
    // Compat: an empty text is the default.
    if !node.str("format").is_empty() {
        return format::text(node, "format", "format", false, cx);
    }
    format::log_format(node, cx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Logs, config, factory_cx, stream, unchecked};
    use sota_plugin::{
        access_log::{LogEntry, LogKind},
        http::{Method, RequestHead, StatusCode},
    };
    use std::time::{Duration, UNIX_EPOCH};

    const FILE: &str = "envoy.extensions.access_loggers.file.v3.FileAccessLog";

    /// What a logger of this configuration writes about `GET /p?q` with status 200.
    fn line(json: &str) -> String {
        let (logs, worker) = (Arc::new(Logs::default()), FakeWorker::default());
        let logger = factory_cx(&logs, |cx| build(&config(FILE, json), cx)).unwrap().for_worker(&worker.cx());
        let mut request = RequestHead::new(Method::Get, "h", "/p?q").unwrap();
        request.headers.append("user-agent", "a b").unwrap();
        let mut info = stream();
        info.response_code = Some(StatusCode::OK);
        info.start_time = UNIX_EPOCH + Duration::from_millis(1_000_007);
        info.timing.end = Some(info.timing.start);
        logger.log(&LogEntry { request: Some(&request), ..LogEntry::new(&info, LogKind::DownstreamEnd) });
        drop(logger);
        logs.written("/x").concat()
    }

    #[test]
    fn every_way_to_write_a_format() {
        let default =
            "[1970-01-01T00:16:40.007Z] \"GET /p?q HTTP/1.1\" 200 - 0 0 0 - \"-\" \"a b\" \"-\" \"h\" \"-\"\n";
        for (json, expected) in [
            (r#"{"path": "/x"}"#, default),
            (r#"{"path": "/x", "format": ""}"#, default),
            (r#"{"path": "/x", "format": "%RESPONSE_CODE%|%REQ(:path)%\n"}"#, "200|/p?q\n"),
            (
                r#"{"path": "/x", "json_format": {"n": 1, "code": "%RESPONSE_CODE%", "none": "%REQ(x)%", "mix": "a%RESPONSE_CODE%"}}"#,
                "{\"code\":200,\"mix\":\"a200\",\"n\":1,\"none\":null}\n",
            ),
            (r#"{"path": "/x", "typed_json_format": {"a": {"b": "%REQ(:METHOD)%"}}}"#, "{\"a\":{\"b\":\"GET\"}}\n"),
            (r#"{"path": "/x", "log_format": {"text_format": "t %REQ(x)%\n"}}"#, "t -\n"),
            (
                r#"{"path": "/x", "log_format": {"text_format_source": {"inline_string": "s %REQ(x)%\n"}, "omit_empty_values": true}}"#,
                "s \n",
            ),
            (
                r#"{"path": "/x", "log_format": {"json_format": {"a": "%REQ(x)%", "b": "%REQ(:path)%"}, "omit_empty_values": true}}"#,
                "{\"b\":\"/p?q\"}\n",
            ),
        ] {
            assert_eq!(line(json), expected, "{json}");
        }
    }

    #[test]
    fn errors_say_which_field() {
        let logs = Arc::new(Logs::default());
        let error = |config: TypedConfig| {
            let error = factory_cx(&logs, |cx| build(&config, cx).err()).unwrap();
            (error.path, error.reason)
        };
        for (json, path, reason) in [
            ("{}", "here.path", "the path of an access log must not be empty"),
            (r#"{"path": "/refused/x"}"#, "here.path", "unable to open file '/refused/x': permission denied"),
            (r#"{"path": "/x", "format": "%NOPE%"}"#, "here.format", "unknown operator NOPE"),
            (
                r#"{"path": "/x", "log_format": {"text_format": "%NOPE%"}}"#,
                "here.log_format.text_format",
                "unknown operator NOPE",
            ),
            (
                r#"{"path": "/x", "log_format": {"json_format": {"a": ["x", "%NOPE%"]}}}"#,
                "here.log_format.json_format.a[1]",
                "unknown operator NOPE",
            ),
            (
                r#"{"path": "/x", "log_format": {"text_format_source": {"filename": "/nowhere/x"}}}"#,
                "here.log_format.text_format_source.filename",
                "cannot read \"/nowhere/x\": No such file or directory (os error 2)",
            ),
        ] {
            assert_eq!(error(unchecked(json)), (path.to_owned(), reason.to_owned()), "{json}");
        }
        let missing = "the file access log needs a configuration with a \"path\"";
        assert_eq!(error(TypedConfig::Empty), ("here".to_owned(), missing.to_owned()));
    }
}
