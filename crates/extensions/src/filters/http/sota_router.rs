//! `sota.filters.http.router`: a demonstration that writes a line to the log for each request and does nothing else.

use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::StreamCx,
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, per_stream},
    http::RequestHead,
};
use std::sync::Arc;

/// The extension. It has no type: it is found by its name.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "sota.filters.http.router",
    short_name: "sota_router",
    type_urls: &[],
    build,
    build_route: None,
    route_type_urls: &[],
};

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    if let TypedConfig::Value { node, .. } = config
        && let Some((name, value)) = node.pairs().first()
    {
        return Err(cx.error("", value.mark, format!("unknown field \"{name}\": this filter has no configuration")));
    }
    Ok(per_stream((), |_, _| Some(SotaRouter)))
}

struct SotaRouter;

impl HttpFilter for SotaRouter {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_request_headers(
        &mut self,
        _head: &mut RequestHead,
        _end_stream: bool,
        _cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        tracing::info!(target: "filter", "call sota router filter");
        FilterStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Stream, building, request, unchecked};
    use sota_plugin::http::Method;
    use std::sync::Mutex;
    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span,
    };

    /// What is logged: component and text of each line.
    #[derive(Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut line = Line(format!("{}:", event.metadata().target()));
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
            self.0.push_str(&format!(" {value:?}"));
        }
    }

    #[test]
    fn logs_and_continues() {
        let worker = FakeWorker::default();
        let config = building(|cx| build(&TypedConfig::Empty, cx)).unwrap();
        let mut stream = Stream::new(&worker, request(Method::Get, "/", &[("x-a", "1")]), None);
        let mut filter = config.for_worker(&worker.cx()).new_filter(&stream.info).unwrap();
        let lines = Lines::default();
        let logged = Arc::clone(&lines.0);
        let status = tracing::subscriber::with_default(lines, || {
            stream.on_request(|head, cx| filter.on_request_headers(head, true, cx))
        });
        assert!(matches!(status, FilterStatus::Continue));
        assert_eq!(*logged.lock().unwrap(), ["filter: call sota router filter"]);
        assert_eq!(stream.request, request(Method::Get, "/", &[("x-a", "1")]));
    }

    #[test]
    fn has_no_configuration() {
        assert!(building(|cx| build(&unchecked("{}"), cx)).is_ok());
        let error = building(|cx| build(&unchecked("{a: 1}"), cx).err()).unwrap();
        assert_eq!(error.reason, "unknown field \"a\": this filter has no configuration");
    }
}
