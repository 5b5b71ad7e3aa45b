//! `envoy.access_loggers.open_telemetry`: entries go to a collector of OpenTelemetry as log records (OTLP).

use super::delivery::{Delivery, Queue};
use sota_codec::protobuf::Message;
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    access_log::{AccessLogger, AccessLoggerConfig, LogEntry},
    cx::WorkerCx,
    format::Format,
    grpc::GrpcService,
    info::StreamInfo,
};
use std::{rc::Rc, sync::Arc, time::SystemTime};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn AccessLoggerConfig> = Extension {
    name: "envoy.access_loggers.open_telemetry",
    short_name: "open_telemetry",
    type_urls: &["envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig"],
    build,
    build_route: None,
    route_type_urls: &[],
};

const METHOD: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
/// Values are not nested deeper than this.
const MOST_NESTED: u32 = 32;

struct Config {
    record: Arc<Record>,
    delivery: Arc<Delivery>,
}

/// What a log record says.
struct Record {
    body: Option<Template>,
    attributes: Vec<(String, Template)>,
}

/// An `AnyValue` whose texts are formats.
enum Template {
    Text(Format),
    /// The bytes of one without operators.
    Constant(Vec<u8>),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn AccessLoggerConfig>, ConfigError> {
    let TypedConfig::Value { node, .. } = config else {
        return Err(cx.error("", cx.mark, "the access log needs a configuration with a \"grpc_service\""));
    };
    // The older form has the service and the name in `common_config`.
    let common = node.field("common_config");
    let here = format!("{}.common_config", cx.path);
    let service = match common.has("grpc_service") {
        true => GrpcService::read(common, "grpc_service", &FactoryContext { path: &here, ..*cx })?,
        false => GrpcService::read(node, "grpc_service", cx)?,
    };
    let log_name = if node.str("log_name").is_empty() { common.str("log_name") } else { node.str("log_name") };
    let (buffer, interval) = Delivery::limits(if node.has("common_config") { common } else { node });
    let attributes =
        |field: &str| pairs(node.field(field), MOST_NESTED).map_err(|error| cx.place(error.at(field, node.mark)));
    let body = match node.get("body") {
        Some(body) => Some(Template::read(body, MOST_NESTED).map_err(|error| cx.place(error.at("body", body.mark)))?),
        None => None,
    };
    let resource = resource(node, log_name, &attributes("resource_attributes")?, cx);
    let wrap = move |entries: &[u8], _: bool| {
        let mut message = Message::new();
        message.message(1, |out| {
            out.always_bytes(1, &resource).bytes(2, entries);
        });
        message.into_bytes()
    };
    Ok(Arc::new(Config {
        record: Arc::new(Record { body, attributes: attributes("attributes")? }),
        delivery: Arc::new(Delivery {
            service,
            method: METHOD,
            is_stream: false,
            buffer,
            interval,
            stat_prefix: match node.str("stat_prefix") {
                "" => "access_logs.open_telemetry_access_log.".to_owned(),
                prefix => format!("access_logs.open_telemetry_access_log.{prefix}."),
            },
            field: 2,
            wrap: Box::new(wrap),
        }),
    }))
}

/// The `Resource`: who we are, unless that is not wanted, and what is configured.
fn resource(node: &Node, log_name: &str, configured: &[(String, Template)], cx: &FactoryContext<'_>) -> Vec<u8> {
    let mut out = Message::new();
    if !node.bool("disable_builtin_labels") {
        let [_, zone, _] = cx.node.locality();
        for (name, value) in [
            ("log_name", log_name),
            ("zone_name", &zone),
            ("cluster_name", &cx.node.cluster),
            ("node_name", &cx.node.id),
        ] {
            text_attribute(&mut out, 1, name, value.as_bytes());
        }
    }
    for (name, template) in configured {
        attribute(&mut out, 1, name, |out| template.write(None, out));
    }
    out.into_bytes()
}

fn attribute(out: &mut Message, field: u32, name: &str, value: impl FnOnce(&mut Message)) {
    out.message(field, |out| {
        out.string(1, name).message(2, value);
    });
}

fn text_attribute(out: &mut Message, field: u32, name: &str, value: &[u8]) {
    attribute(out, field, name, |out| {
        out.always_bytes(1, value);
    });
}

/// A `KeyValueList`.
fn pairs(list: &Node, depth: u32) -> Result<Vec<(String, Template)>, ConfigError> {
    let read = |(number, pair): (usize, &Node)| {
        let place = |error: ConfigError| error.at(&format!("values[{number}].value"), pair.mark);
        Ok((pair.str("key").to_owned(), Template::read(pair.field("value"), depth).map_err(place)?))
    };
    list.list("values").iter().enumerate().map(read).collect()
}

impl Template {
    fn read(value: &Node, depth: u32) -> Result<Self, ConfigError> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(ConfigError::new("", value.mark, format!("values are nested more than {MOST_NESTED} deep")));
        };
        let constant = |write: &dyn Fn(&mut Message)| {
            let mut out = Message::new();
            write(&mut out);
            Self::Constant(out.into_bytes())
        };
        Ok(match value.pairs() {
            [] => Self::Constant(Vec::new()),
            [(kind, inner), ..] => match &**kind {
                "string_value" => {
                    let format = Format::text(inner.as_str().unwrap_or_default(), false);
                    Self::Text(format.map_err(|error| error.at("string_value", inner.mark))?)
                }
                "bool_value" => constant(&|out| {
                    out.always_uint(2, inner.as_bool().unwrap_or_default().into());
                }),
                "int_value" => constant(&|out| {
                    out.always_uint(3, inner.as_i64().unwrap_or_default().cast_unsigned());
                }),
                "double_value" => constant(&|out| {
                    out.double(4, inner.as_f64().unwrap_or_default());
                }),
                "array_value" => {
                    let items = inner.list("values").iter();
                    Self::List(items.map(|item| Self::read(item, depth)).collect::<Result<_, _>>()?)
                }
                "kvlist_value" => Self::Map(pairs(inner, depth)?),
                "bytes_value" => constant(&|out| {
                    out.always_bytes(7, inner.as_bytes().unwrap_or_default());
                }),
                other => return Err(ConfigError::new(other, inner.mark, "values of this kind are not there")),
            },
        })
    }

    /// An `AnyValue`; without an entry, operators say nothing.
    fn write(&self, entry: Option<&LogEntry<'_>>, out: &mut Message) {
        match self {
            Self::Text(format) => {
                let mut text = Vec::new();
                match entry {
                    Some(entry) => format.write(entry, &mut text),
                    None => text.extend_from_slice(format.as_constant().unwrap_or_default()),
                }
                // Whatever came from outside, a text is UTF-8.
                out.always_bytes(1, String::from_utf8_lossy(&text).as_bytes());
            }
            Self::Constant(bytes) => {
                out.raw(bytes);
            }
            Self::List(items) => {
                out.message(5, |out| {
                    for item in items {
                        out.message(1, |out| item.write(entry, out));
                    }
                });
            }
            Self::Map(pairs) => {
                out.message(6, |out| {
                    for (name, value) in pairs {
                        attribute(out, 1, name, |out| value.write(entry, out));
                    }
                });
            }
        }
    }
}

impl Record {
    /// A `LogRecord`.
    fn write(&self, entry: &LogEntry<'_>) -> Vec<u8> {
        let info: &StreamInfo = entry.info;
        let mut out = Message::new();
        out.fixed64(1, nanos(info.start_time));
        if let Some(body) = &self.body {
            out.message(5, |out| body.write(Some(entry), out));
        }
        for (name, value) in &self.attributes {
            attribute(&mut out, 6, name, |out| value.write(Some(entry), out));
        }
        if let Some(trace) = &info.trace {
            out.bytes(9, &trace.trace_id.to_be_bytes()).bytes(10, &trace.span_id.to_be_bytes());
        }
        out.into_bytes()
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl AccessLoggerConfig for Config {
    fn for_worker(&self, cx: &WorkerCx) -> Box<dyn AccessLogger> {
        Box::new(Logger { record: Arc::clone(&self.record), queue: Queue::new(&self.delivery, cx), worker: cx.clone() })
    }
}

struct Logger {
    record: Arc<Record>,
    queue: Rc<Queue>,
    worker: WorkerCx,
}

impl AccessLogger for Logger {
    fn log(&self, entry: &LogEntry<'_>) {
        self.queue.push(&self.worker, &self.record.write(entry));
    }
}
