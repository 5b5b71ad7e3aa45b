//! `istio.alpn`: what is offered as application protocols on connections to hosts, by the protocol that is spoken there.
//! The other sidecar tells by it that its peer is one of the mesh.

use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::StreamCx,
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, per_stream},
    http::RequestHead,
    info::ApplicationProtocols,
};
use std::sync::Arc;

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "istio.alpn",
    short_name: "istio_alpn",
    type_urls: &["istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"],
    build,
    build_route: None,
    route_type_urls: &[],
};

fn build(config: &TypedConfig, _: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let mut protocols = ApplicationProtocols::default();
    if let TypedConfig::Value { node, .. } = config {
        for item in node.list("alpn_override") {
            let list = match item.str("upstream_protocol") {
                "HTTP2" => &mut protocols.http2,
                "HTTP11" => &mut protocols.http11,
                _ => &mut protocols.http10,
            };
            *list = item.strings("alpn_override").into();
        }
    }
    Ok(per_stream(Arc::new(protocols), |protocols, _| Some(Filter(Arc::clone(protocols)))))
}

struct Filter(Arc<ApplicationProtocols>);

impl HttpFilter for Filter {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_request_headers(
        &mut self,
        _head: &mut RequestHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        let upstream = &mut cx.info.upstream;
        let metadata = upstream.cluster_metadata.as_deref();
        let value = metadata.map(|metadata| metadata.field("filter_metadata").field("istio").field("alpn_override"));
        if value.and_then(Node::as_str) != Some("false") {
            upstream.application_protocols = Some(Arc::clone(&self.0));
        }
        FilterStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Stream, building, config, request};
    use sota_plugin::http::Method;

    const CONFIG: &str = "alpn_override: [{alpn_override: [istio-http/1.0]}, {upstream_protocol: HTTP11, alpn_override: \
                          [istio-http/1.1, istio]}, {upstream_protocol: HTTP2, alpn_override: [istio-h2]}]";

    #[test]
    fn unless_the_cluster_does_not_want_it() {
        let worker = FakeWorker::default();
        let built = building(|cx| build(&config(EXTENSION.type_urls[0], CONFIG), cx)).unwrap();
        let factory = built.for_worker(&worker.cx());
        let protocols = |metadata: Option<&str>| {
            let mut stream = Stream::new(&worker, request(Method::Get, "/", &[]), None);
            stream.info.upstream.cluster_metadata = metadata.map(|text| {
                let TypedConfig::Value { node, .. } = config("envoy.config.core.v3.Metadata", text) else { panic!() };
                node
            });
            let mut filter = factory.new_filter(&stream.info).unwrap();
            stream.on_request(|head, cx| filter.on_request_headers(head, true, cx));
            stream.info.upstream.application_protocols
        };
        let wanted = protocols(None).unwrap();
        assert_eq!(
            (&*wanted.http10, &*wanted.http11, &*wanted.http2),
            (
                &["istio-http/1.0".to_owned()][..],
                &["istio-http/1.1".to_owned(), "istio".to_owned()][..],
                &["istio-h2".to_owned()][..]
            )
        );
        assert!(protocols(Some("filter_metadata: {istio: {alpn_override: 'false'}}")).is_none());
        assert!(protocols(Some("filter_metadata: {istio: {alpn_override: 'true'}}")).is_some());
    }
}
