//! `envoy.access_loggers.http_grpc` and `envoy.access_loggers.tcp_grpc`: entries go to an access-log service
//! (`envoy.service.accesslog.v3.AccessLogService`), many in a message, on one stream for each worker.

mod entry;

use super::delivery::{Delivery, Queue};
use entry::EntryWriter;
use sota_codec::protobuf::Message;
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    access_log::{AccessLogger, AccessLoggerConfig, LogEntry},
    cx::WorkerCx,
    grpc::GrpcService,
};
use std::{rc::Rc, sync::Arc};

/// The extension for streams of HTTP.
pub(crate) static HTTP: Extension<dyn AccessLoggerConfig> = Extension {
    name: "envoy.access_loggers.http_grpc",
    short_name: "http_grpc",
    type_urls: &["envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"],
    build: |config, cx| build(config, cx, Kind::Http),
    build_route: None,
    route_type_urls: &[],
};

/// The extension for TCP connections.
pub(crate) static TCP: Extension<dyn AccessLoggerConfig> = Extension {
    name: "envoy.access_loggers.tcp_grpc",
    short_name: "tcp_grpc",
    type_urls: &["envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig"],
    build: |config, cx| build(config, cx, Kind::Tcp),
    build_route: None,
    route_type_urls: &[],
};

/// Entries of which kind; the numbers are those of the fields of `StreamAccessLogsMessage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http = 2,
    Tcp = 3,
}

const METHOD: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// What is configured (`CommonGrpcAccessLogConfig` and what stands around it).
struct Config {
    kind: Kind,
    writer: Arc<EntryWriter>,
    delivery: Arc<Delivery>,
}

fn build(
    config: &TypedConfig,
    cx: &FactoryContext<'_>,
    kind: Kind,
) -> Result<Arc<dyn AccessLoggerConfig>, ConfigError> {
    let TypedConfig::Value { node, .. } = config else {
        return Err(cx.error("", cx.mark, "the access log needs a configuration with a \"common_config\""));
    };
    let common = node.field("common_config");
    let here = format!("{}.common_config", cx.path);
    let service = GrpcService::read(common, "grpc_service", &FactoryContext { path: &here, ..*cx })?;
    let (buffer, interval) = Delivery::limits(common);
    let identifier = identifier(common.str("log_name"), cx);
    let wrap = move |entries: &[u8], is_first: bool| {
        let mut message = Message::new();
        message.bytes(1, if is_first { &identifier } else { &[] }).bytes(kind as u32, entries);
        message.into_bytes()
    };
    Ok(Arc::new(Config {
        kind,
        writer: Arc::new(EntryWriter {
            request_headers: names(node, "additional_request_headers_to_log"),
            response_headers: names(node, "additional_response_headers_to_log"),
            response_trailers: names(node, "additional_response_trailers_to_log"),
            filter_state: common.strings("filter_state_objects_to_log"),
        }),
        delivery: Arc::new(Delivery {
            service,
            method: METHOD,
            is_stream: true,
            buffer,
            interval,
            stat_prefix: "access_logs.grpc_access_log.".to_owned(),
            field: 1,
            wrap: Box::new(wrap),
        }),
    }))
}

fn names(node: &Node, field: &str) -> Vec<String> {
    node.strings(field).into_iter().map(|name| name.to_ascii_lowercase()).collect()
}

/// `StreamAccessLogsMessage.Identifier`: who we are, and the name of the log.
fn identifier(log_name: &str, cx: &FactoryContext<'_>) -> Vec<u8> {
    let mut out = Message::new();
    out.message(1, |out| {
        out.string(1, &cx.node.id).string(2, &cx.node.cluster);
        let [region, zone, sub_zone] = cx.node.locality();
        if [&region, &zone, &sub_zone].iter().any(|part| !part.is_empty()) {
            out.message(4, |out| {
                out.string(1, &region).string(2, &zone).string(3, &sub_zone);
            });
        }
        out.string(6, "sota-mesh");
    });
    out.string(2, log_name);
    out.into_bytes()
}

impl AccessLoggerConfig for Config {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn AccessLogger> {
        Box::new(Logger {
            kind: self.kind,
            writer: Arc::clone(&self.writer),
            queue: Queue::new(&self.delivery, cx),
            worker: cx.clone(),
        })
    }
}

struct Logger {
    kind: Kind,
    writer: Arc<EntryWriter>,
    queue: Rc<Queue>,
    worker: WorkerCx,
}

impl AccessLogger for Logger {
    fn log(&self, entry: &LogEntry<'_>) {
        let bytes = match self.kind {
            Kind::Http => self.writer.http(entry),
            Kind::Tcp => self.writer.tcp(entry),
        };
        self.queue.push(&self.worker, &bytes);
    }
}
