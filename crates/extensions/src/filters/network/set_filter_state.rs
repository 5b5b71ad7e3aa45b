//! `envoy.filters.network.set_filter_state`: leaves text of a connection for later filters, matchers and logs, and for the
//! TCP proxy, whose cluster it may choose.

use crate::filter_state::{TCP_PROXY_CLUSTER, ValueToSet};
use sota_config::{ConfigError, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    access_log::LogKind,
    filter::{ConnectionCx, NetworkFilter, NetworkFilterConfig, NetworkStatus, per_connection},
    format::FormatCx,
    info::StreamInfo,
};
use std::{rc::Rc, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn NetworkFilterConfig> = Extension {
    name: "envoy.filters.network.set_filter_state",
    short_name: "set_filter_state",
    type_urls: &["envoy.extensions.filters.network.set_filter_state.v3.Config"],
    build,
    build_route: None,
    route_type_urls: &[],
};

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn NetworkFilterConfig>, ConfigError> {
    let values = match config {
        TypedConfig::Value { node, .. } => {
            let read = |field| ValueToSet::read_all(node, field, &[TCP_PROXY_CLUSTER], cx);
            Values {
                on_new_connection: read("on_new_connection")?,
                after_handshake: read("on_downstream_tls_handshake")?,
            }
        }
        _ => Values::default(),
    };
    Ok(per_connection(values, |values| SetFilterState(Arc::clone(values))))
}

#[derive(Default)]
struct Values {
    on_new_connection: Box<[ValueToSet]>,
    /// Only where there is TLS.
    after_handshake: Box<[ValueToSet]>,
}

struct SetFilterState(Arc<Values>);

impl NetworkFilter for SetFilterState {
    fn on_new_connection(&mut self, cx: &mut ConnectionCx<'_>) -> NetworkStatus {
        let info = StreamInfo::new(Rc::clone(cx.info), 0, None);
        // Filters come behind the handshake here.
        let after_handshake = cx.info.tls.get().map_or(&[][..], |_| &self.0.after_handshake);
        for value in self.0.on_new_connection.iter().chain(after_handshake) {
            // Each may print what those before it have left.
            if let Some(made) = value.make(&FormatCx::new(&info, LogKind::NotSet)) {
                cx.info.filter_state.borrow_mut().set(&value.key, made);
            }
        }
        NetworkStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, building, config, connection};
    use sota_plugin::{filter::NetworkFilterInstance, info::ConnectionInfo};

    fn value(key: &str, kind: &str, format: &str) -> String {
        format!(
            "{{object_key: {key}, factory_key: {kind}, format_string: {{text_format_source: {{inline_string: \"{format}\"}}}}}}"
        )
    }

    fn run(values: &[String]) -> Rc<ConnectionInfo> {
        let worker = FakeWorker::default();
        let yaml = format!("{{on_new_connection: [{}]}}", values.join(", "));
        let factory =
            building(|cx| build(&config(EXTENSION.type_urls[0], &yaml), cx)).unwrap().for_worker(&worker.cx());
        let mut info = connection();
        info.server_name = Some("a.example".into());
        let info = Rc::new(info);
        let NetworkFilterInstance::Filter(mut filter) = factory.new_filter(&info) else { unreachable!() };
        let worker = worker.cx();
        let status = filter.on_new_connection(&mut ConnectionCx { info: &info, worker: &worker });
        assert_eq!(status, NetworkStatus::Continue);
        info
    }

    #[test]
    fn text_of_the_connection() {
        let info = run(&[
            value("name", "envoy.string", "%REQUESTED_SERVER_NAME%"),
            value("again", "envoy.hashable_string", "<%FILTER_STATE(name:PLAIN)%>"),
            value(TCP_PROXY_CLUSTER, TCP_PROXY_CLUSTER, "tls-%REQUESTED_SERVER_NAME%"),
        ]);
        let state = info.filter_state.borrow();
        assert_eq!(state.text("name").as_deref(), Some("a.example"));
        assert_eq!(state.text("again").as_deref(), Some("<a.example>"));
        assert!(state.find("again").unwrap().hash().is_some() && state.find("name").unwrap().hash().is_none());
        assert_eq!(state.text(TCP_PROXY_CLUSTER).as_deref(), Some("tls-a.example"));
    }

    #[test]
    fn objects_that_nobody_reads_are_refused() {
        for (key, kind) in [("x", "envoy.network.upstream_server_name"), ("x", TCP_PROXY_CLUSTER)] {
            let yaml = format!("{{on_new_connection: [{}]}}", value(key, kind, "t"));
            let error = building(|cx| build(&config(EXTENSION.type_urls[0], &yaml), cx).err()).unwrap();
            assert_eq!(error.path, "here.on_new_connection[0].factory_key", "{error}");
        }
    }
}
