//! `envoy.filters.http.set_filter_state`: leaves text for later filters, matchers and logs.

use crate::filter_state::ValueToSet;
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    access_log::LogKind,
    cx::StreamCx,
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, per_stream},
    format::FormatCx,
    http::RequestHead,
    info::StreamInfo,
};
use std::{any::Any, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "envoy.filters.http.set_filter_state",
    short_name: "set_filter_state",
    type_urls: &["envoy.extensions.filters.http.set_filter_state.v3.Config"],
    build,
    build_route: Some(build_route),
    route_type_urls: &["envoy.extensions.filters.http.set_filter_state.v3.Config"],
};

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    Ok(per_stream(read(config, cx)?, |config, _| Some(Filter(Arc::clone(config)))))
}

fn build_route(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn Any + Send + Sync>, ConfigError> {
    Ok(Arc::new(read(config, cx)?))
}

fn read(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Config, ConfigError> {
    match config {
        TypedConfig::Value { node, .. } => Config::read(node, cx),
        _ => Ok(Config::default()),
    }
}

/// `envoy.extensions.filters.http.set_filter_state.v3.Config`
#[derive(Default)]
struct Config {
    values: Box<[ValueToSet]>,
    clear_route: bool,
}

impl Config {
    fn read(node: &Node, cx: &FactoryContext<'_>) -> Result<Self, ConfigError> {
        let values = ValueToSet::read_all(node, "on_request_headers", &[], cx)?;
        Ok(Self { values, clear_route: node.bool("clear_route_cache") })
    }

    fn apply(&self, head: &RequestHead, info: &mut StreamInfo) {
        for value in &self.values {
            let made = value.make(&FormatCx { request: Some(head), ..FormatCx::new(info, LogKind::NotSet) });
            if let Some(made) = made {
                info.filter_state.set(&value.key, made);
            }
        }
    }
}

struct Filter(Arc<Config>);

impl HttpFilter for Filter {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        self.0.apply(head, cx.info);
        let mut clear_route = self.0.clear_route;
        if let Some(route) = cx.route().cloned() {
            let levels = route.filter_configs(cx.filter_name).filter_map(|config| config.downcast_ref::<Config>());
            for level in levels {
                level.apply(head, cx.info);
                clear_route |= level.clear_route;
            }
        }
        if clear_route {
            cx.clear_route();
        }
        FilterStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Route, Stream, building, config, request};
    use sota_plugin::http::Method;

    const MESSAGE: &str = EXTENSION.type_urls[0];

    fn value(key: &str, format: &str, more: &str) -> String {
        format!(
            "{{object_key: {key}, factory_key: envoy.string, \
             format_string: {{text_format_source: {{inline_string: '{format}'}}}}{more}}}"
        )
    }

    fn run(values: &[String], route: Option<Route>) -> Stream {
        let worker = FakeWorker::default();
        let yaml = format!("{{on_request_headers: [{}], clear_route_cache: true}}", values.join(", "));
        let factory = building(|cx| build(&config(MESSAGE, &yaml), cx)).unwrap().for_worker(&worker.cx());
        let mut stream = Stream::new(&worker, request(Method::Get, "/p", &[("x-a", "A")]), route);
        let mut filter = factory.new_filter(&stream.info).unwrap();
        stream.on_request(|head, cx| filter.on_request_headers(head, true, cx));
        stream
    }

    #[test]
    fn text_of_the_request() {
        let values =
            [value("a", "%REQ(x-a)%!", ""), value("b", "%REQ(x-b)%", ""), value("c", "", ", skip_if_empty: true")];
        let stream = run(&values, None);
        let text = |name| stream.info.filter_state.text(name);
        assert_eq!((text("a").as_deref(), text("b").as_deref(), text("c")), (Some("A!"), Some("-"), None));
        assert!(stream.effects.clear_route);
    }

    #[test]
    fn levels_of_the_route_follow() {
        let level = |text| {
            let yaml = format!("{{on_request_headers: [{}]}}", value("a", text, ""));
            building(|cx| build_route(&config(MESSAGE, &yaml), cx)).unwrap()
        };
        let route = Route { configs: vec![level("host"), level("route")], ..Route::default() };
        let stream = run(&[value("a", "filter", "")], Some(route));
        assert_eq!(stream.info.filter_state.text("a").as_deref(), Some("route"));
    }

    #[test]
    fn objects_that_nobody_reads_are_refused() {
        let yaml = "{on_request_headers: [{object_key: envoy.tcp_proxy.cluster, format_string: {text_format_source: {inline_string: x}}}]}";
        let error = building(|cx| build(&config(MESSAGE, yaml), cx).err()).unwrap();
        assert_eq!(error.path, "here.on_request_headers[0].factory_key");
        assert!(error.reason.contains("\"envoy.tcp_proxy.cluster\""), "{error}");
    }
}
