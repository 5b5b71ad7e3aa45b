//! `envoy.filters.http.grpc_stats`: counts gRPC calls and their messages, by method where that is wanted.

use super::grpc::{
    self,
    calls::{self, Call, Calls},
    frames::Frames,
};
use bytes::Bytes;
use sota_config::{ConfigError, Node, TypedConfig, Value};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{DataStatus, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory},
    http::{Headers, RequestHead, ResponseHead},
    info::{FilterStateValue, StreamInfo},
};
use std::{any::Any, cell::Cell, collections::HashSet, rc::Rc, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.grpc_stats",
    short_name: "grpc_stats",
    type_urls: &["envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"],
    build,
    build_route: None,
    route_type_urls: &[],
};

fn build(config: &TypedConfig, _cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let none = Node::map();
    let node = match config {
        TypedConfig::Value { node, .. } => node,
        _ => &none,
    };
    let services = node.field("individual_method_stats_allowlist").list("services").iter();
    let methods = services.flat_map(|service| {
        let name = service.str("name");
        service.strings("method_names").into_iter().map(move |method| format!("{name}.{method}"))
    });
    Ok(Arc::new(Config(Arc::new(Settings {
        emit_filter_state: node.bool("emit_filter_state"),
        all_methods: node.bool("stats_for_all_methods"),
        methods: methods.collect(),
        times_upstream: node.bool("enable_upstream_stats"),
        replaces_dots: node.bool("replace_dots_in_grpc_service_name"),
    }))))
}

struct Config(Arc<Settings>);

/// `envoy.extensions.filters.http.grpc_stats.v3.FilterConfig`
struct Settings {
    emit_filter_state: bool,
    all_methods: bool,
    /// Those that have counters of their own, as `service.method`.
    methods: HashSet<String>,
    times_upstream: bool,
    replaces_dots: bool,
}

impl HttpFilterConfig for Config {
    fn for_worker(&self, _cx: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        Box::new(Factory { settings: Arc::clone(&self.0), calls: Rc::default() })
    }
}

struct Factory {
    settings: Arc<Settings>,
    calls: Rc<Calls>,
}

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _info: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        Some(Box::new(Filter {
            settings: Arc::clone(&self.settings),
            calls: Rc::clone(&self.calls),
            is_grpc: false,
            is_grpc_response: false,
            call: None,
            request: Frames::default(),
            response: Frames::default(),
            counts: None,
        }))
    }
}

struct Filter {
    settings: Arc<Settings>,
    calls: Rc<Calls>,
    is_grpc: bool,
    is_grpc_response: bool,
    call: Option<Rc<Call>>,
    request: Frames,
    response: Frames,
    counts: Option<Rc<MessageCounts>>,
}

/// `envoy.extensions.filters.http.grpc_stats.v3.FilterObject`
#[derive(Default)]
struct MessageCounts {
    request: Cell<u64>,
    response: Cell<u64>,
}

impl FilterStateValue for MessageCounts {
    fn to_text(&self) -> Option<String> {
        Some(format!("{},{}", self.request.get(), self.response.get()))
    }

    fn to_node(&self) -> Option<Node> {
        // As protobuf's JSON has whole numbers of 64 bits, and without those that are 0.
        let entries = [("requestMessageCount", &self.request), ("responseMessageCount", &self.response)];
        let entries = entries.into_iter().filter(|(_, count)| count.get() > 0);
        let entries = entries.map(|(name, count)| (name.into(), Node::string(count.get().to_string())));
        Some(Node::new(Value::Map(entries.collect())))
    }

    fn field(&self, name: &str) -> Option<String> {
        match name {
            "request_message_count" => Some(self.request.get().to_string()),
            "response_message_count" => Some(self.response.get().to_string()),
            _ => None,
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Filter {
    fn find_call(&self, head: &RequestHead, cx: &StreamCx<'_>) -> Option<Rc<Call>> {
        let (service, method) = calls::names(head)?;
        let name = if self.settings.all_methods && self.settings.replaces_dots {
            Some(format!("{}.{method}", service.replace('.', "_")))
        } else {
            let name = format!("{service}.{method}");
            (self.settings.all_methods || self.settings.methods.contains(&name)).then_some(name)
        };
        self.calls.find("grpc", name.as_deref(), cx.info, cx.worker)
    }

    fn note_messages(&mut self, cx: &mut StreamCx<'_>) {
        if !self.settings.emit_filter_state {
            return;
        }
        let counts = self.counts.get_or_insert_with(|| {
            let counts = Rc::new(MessageCounts::default());
            cx.info.filter_state.set(EXTENSION.name, Rc::clone(&counts) as _);
            counts
        });
        counts.request.set(self.request.count());
        counts.response.set(self.response.count());
    }

    fn record_time(&self, cx: &StreamCx<'_>) {
        let timing = &cx.info.timing;
        if let (true, Some(call), Some(sent), Some(received)) =
            (self.settings.times_upstream, &self.call, timing.upstream_last_tx, timing.upstream_last_rx)
        {
            call.record_time(received.saturating_duration_since(sent));
        }
    }
}

impl HttpFilter for Filter {
    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        self.is_grpc = head.is_grpc();
        if self.is_grpc {
            self.call = self.find_call(head, cx);
        }
        FilterStatus::Continue
    }

    fn on_request_data(&mut self, data: &mut Bytes, _end_stream: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        if self.is_grpc {
            let begun = self.request.inspect(data);
            if begun > 0 {
                self.note_messages(cx);
                if let Some(call) = &self.call {
                    call.add("request_message_count", begun);
                }
            }
        }
        DataStatus::Continue
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        self.is_grpc_response = grpc::is_response(head, end_stream);
        if let Some(call) = &self.call {
            call.count_status(&head.headers);
            if end_stream {
                self.record_time(cx);
            }
        }
        FilterStatus::Continue
    }

    fn on_response_data(&mut self, data: &mut Bytes, _end_stream: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        if self.is_grpc_response {
            let begun = self.response.inspect(data);
            if begun > 0 {
                self.note_messages(cx);
                if let Some(call) = &self.call {
                    call.add("response_message_count", begun);
                }
            }
        }
        DataStatus::Continue
    }

    fn on_response_trailers(&mut self, trailers: &mut Headers, cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        if let Some(call) = &self.call {
            call.count_status(trailers);
            self.record_time(cx);
        }
        FilterStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        filters::http::grpc::frames,
        testing::{FakeWorker, Stream, building, config, request},
    };
    use sota_plugin::http::{Method, StatusCode};

    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    /// A call of two messages to cluster `c:1`, answered by one message and this status: the counters and the messages as
    /// logs print them.
    fn call(yaml: &str, path: &str, status: &str) -> (Vec<String>, Option<String>) {
        let worker = FakeWorker::default();
        let config = config(EXTENSION.type_urls[0], yaml);
        let factory = building(|cx| build(&config, cx)).unwrap().for_worker(&worker.cx());
        let mut stream = Stream::new(&worker, request(Method::Post, path, &[GRPC]), None);
        stream.info.upstream.cluster = Some("c:1".into());
        let mut filter = factory.new_filter(&stream.info).unwrap();
        stream.on_request(|head, cx| filter.on_request_headers(head, false, cx));
        let two = [&frames::head(0, 1)[..], b"a", &frames::head(0, 0)].concat();
        stream.on_request(|_, cx| filter.on_request_data(&mut two.into(), true, cx));
        let mut head = ResponseHead::new(StatusCode::OK).with("content-type", "application/grpc+proto");
        stream.on_response(|cx| filter.on_response_headers(&mut head, false, cx));
        let mut data = Bytes::copy_from_slice(&frames::head(0, 0));
        stream.on_response(|cx| filter.on_response_data(&mut data, false, cx));
        let mut trailers: Headers = [("grpc-status", status)].into_iter().collect();
        stream.on_response(|cx| filter.on_response_trailers(&mut trailers, cx));
        let counters = worker.counters().into_iter().map(|(name, value)| format!("{name} {value}")).collect();
        (counters, stream.info.filter_state.text(EXTENSION.name))
    }

    fn counted(prefix: &str, status: &str, outcome: &str) -> Vec<String> {
        let mut expected = vec![
            format!("{status} 1"),
            format!("{outcome} 1"),
            "total 1".to_owned(),
            "request_message_count 2".to_owned(),
        ];
        expected.push("response_message_count 1".to_owned());
        let mut expected: Vec<_> =
            expected.into_iter().map(|line| format!("cluster.c_1.grpc.{prefix}{line}")).collect();
        expected.sort();
        expected
    }

    #[test]
    fn calls_are_counted_by_method_where_that_is_wanted() {
        let (counters, state) = call("{}", "/a.S/M", "0");
        assert_eq!((counters, state), (counted("", "0", "success"), None));
        let all = "stats_for_all_methods: true";
        assert_eq!(call(all, "/a.S/M", "5").0, counted("a.S.M.", "5", "failure"));
        let dots = "stats_for_all_methods: true\nreplace_dots_in_grpc_service_name: true";
        assert_eq!(call(dots, "/a.S/M", "0").0, counted("a_S.M.", "0", "success"));
        let some = "individual_method_stats_allowlist: {services: [{name: a.S, method_names: [M]}]}";
        assert_eq!(call(some, "/a.S/M", "0").0, counted("a.S.M.", "0", "success"));
        assert_eq!(call(some, "/a.S/Other", "0").0, counted("", "0", "success"));
        assert_eq!(call(all, "/no-method", "0").0, [""; 0]);
        assert_eq!(call("{}", "/a.S/M", "what?").0, counted("", "_overflow", "failure"));
    }

    #[test]
    fn logs_may_print_the_messages() {
        assert_eq!(call("emit_filter_state: true", "/a.S/M", "0").1.as_deref(), Some("2,1"));
        let counts = MessageCounts::default();
        counts.response.set(3);
        let node = counts.to_node().unwrap();
        assert_eq!((node.str("requestMessageCount"), node.str("responseMessageCount")), ("", "3"));
        assert_eq!((counts.field("response_message_count").as_deref(), counts.field("other")), (Some("3"), None));
    }
}
