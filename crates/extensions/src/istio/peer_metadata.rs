//! `istio.metadata_exchange` as an HTTP filter: sidecars say in fields of requests and responses who they are.

use super::workload::Workload;
use sota_config::{ConfigError, Node, TypedConfig};
use sota_plugin::{
    Extension, FactoryContext,
    cx::{StreamCx, WorkerCx},
    filter::{Bodies, FilterStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory},
    http::{Headers, RequestHead, ResponseHead},
    info::{FilterState, StreamInfo, UpstreamInfo},
};
use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

/// The extension.
pub(crate) static EXTENSION: Extension<dyn HttpFilterConfig> = Extension {
    name: "istio.metadata_exchange",
    short_name: "istio_peer_metadata",
    type_urls: &["io.istio.http.peer_metadata.Config"],
    build,
    build_route: None,
    route_type_urls: &[],
};

/// The state that says who the client is.
pub(super) const DOWNSTREAM_PEER: &str = "downstream_peer";
/// The state that says who the host is.
pub(super) const UPSTREAM_PEER: &str = "upstream_peer";
const FIELD: &str = "x-envoy-peer-metadata";
const ID_FIELD: &str = "x-envoy-peer-metadata-id";
/// Peers whose metadata a worker remembers, read.
const MAX_PEERS: usize = 500;

/// `io.istio.http.peer_metadata.Config`
struct Config {
    discovers_downstream: bool,
    discovers_upstream: bool,
    tells_downstream: Option<Propagation>,
    tells_upstream: Option<Propagation>,
    additional_labels: Vec<String>,
    /// What is told of this proxy.
    id: String,
    value: String,
}

/// `io.istio.http.peer_metadata.Config.IstioHeaders`
#[derive(Debug, Clone, Copy)]
struct Propagation {
    skip_external_clusters: bool,
}

fn build(config: &TypedConfig, cx: &FactoryContext<'_>) -> Result<Arc<dyn HttpFilterConfig>, ConfigError> {
    let none = Node::map();
    let node = match config {
        TypedConfig::Value { node, .. } => node,
        _ => &none,
    };
    let discovers = |key: &str| node.list(key).iter().any(|method| method.has("istio_headers"));
    let propagation = |key: &str| {
        let method = node.list(key).iter().find_map(|method| method.get("istio_headers"))?;
        Some(Propagation { skip_external_clusters: method.bool("skip_external_clusters") })
    };
    let additional_labels = node.strings("additional_labels");
    Ok(Arc::new(Shared(Arc::new(Config {
        discovers_downstream: discovers("downstream_discovery"),
        discovers_upstream: discovers("upstream_discovery"),
        tells_downstream: propagation("downstream_propagation"),
        tells_upstream: propagation("upstream_propagation"),
        id: cx.node.id.clone(),
        value: Workload::own(cx.node, &additional_labels).to_field(),
        additional_labels,
    }))))
}

struct Shared(Arc<Config>);

impl HttpFilterConfig for Shared {
    fn for_worker(&self, _: &WorkerCx) -> Box<dyn HttpFilterFactory> {
        Box::new(Factory { config: Arc::clone(&self.0), peers: Rc::default() })
    }
}

/// Fields of peers, with what they say.
type Peers = Rc<RefCell<HashMap<Box<[u8]>, Rc<Workload>>>>;

struct Factory {
    config: Arc<Config>,
    peers: Peers,
}

impl HttpFilterFactory for Factory {
    fn new_filter(&self, _: &StreamInfo) -> Option<Box<dyn HttpFilter>> {
        let (config, peers) = (Arc::clone(&self.config), Rc::clone(&self.peers));
        Some(Box::new(Filter { config, peers, has_field: false, has_id: false }))
    }
}

struct Filter {
    config: Arc<Config>,
    peers: Peers,
    /// The client has said who it is, and so may be told the same.
    has_field: bool,
    has_id: bool,
}

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
        if self.config.discovers_downstream {
            (self.has_field, self.has_id) = (head.headers.contains(FIELD), head.headers.contains(ID_FIELD));
            self.discover(&mut head.headers, DOWNSTREAM_PEER, &mut cx.info.filter_state);
        }
        if let Some(propagation) = self.config.tells_upstream
            && !propagation.skips(&cx.info.upstream)
        {
            head.headers.set_sanitized(ID_FIELD, &self.config.id);
            head.headers.set_sanitized(FIELD, &self.config.value);
        }
        FilterStatus::Continue
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        _end_stream: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        if self.config.discovers_upstream {
            self.discover(&mut head.headers, UPSTREAM_PEER, &mut cx.info.filter_state);
        }
        if let Some(propagation) = self.config.tells_downstream
            && !propagation.skips(&cx.info.upstream)
        {
            if self.has_id {
                head.headers.set_sanitized(ID_FIELD, &self.config.id);
            }
            if self.has_field {
                head.headers.set_sanitized(FIELD, &self.config.value);
            }
        }
        FilterStatus::Continue
    }
}

impl Filter {
    /// Reads what the peer says and takes it out. The first who has said it counts.
    fn discover(&self, headers: &mut Headers, key: &str, state: &mut FilterState) {
        if let Some(field) = headers.get(FIELD).filter(|field| !field.is_empty())
            && state.find(key).is_none()
            && let Some(peer) = self.peer(field)
        {
            state.set(&format!("{key}_obj"), Rc::clone(&peer) as _);
            state.set(key, peer);
        }
        headers.remove(ID_FIELD);
        headers.remove(FIELD);
    }

    fn peer(&self, field: &[u8]) -> Option<Rc<Workload>> {
        let mut peers = self.peers.borrow_mut();
        if let Some(known) = peers.get(field) {
            return Some(Rc::clone(known));
        }
        let read = Rc::new(Workload::from_field(field, &self.config.additional_labels)?);
        if peers.len() >= MAX_PEERS {
            peers.clear();
        }
        peers.insert(field.into(), Rc::clone(&read));
        Some(read)
    }
}

impl Propagation {
    /// Whether the host is outside of the mesh, or does not want to be told.
    fn skips(self, upstream: &UpstreamInfo) -> bool {
        let metadata = upstream.cluster_metadata.as_deref();
        let is_set =
            |key: &str| metadata.is_some_and(|metadata| metadata.field("filter_metadata").field("istio").bool(key));
        let is_external = || upstream.cluster.as_deref() == Some("PassthroughCluster") || is_set("external");
        self.skip_external_clusters && is_external() || is_set("disable_mx")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeWorker, Stream, building, config, lines, request};
    use sota_plugin::http::{Method, StatusCode};

    const INBOUND: &str = "{downstream_discovery: [{istio_headers: {}}, {workload_discovery: {}}], downstream_propagation: \
                           [{istio_headers: {}}]}";
    const OUTBOUND: &str = "{upstream_discovery: [{istio_headers: {}}], upstream_propagation: [{istio_headers: \
                            {skip_external_clusters: true}}]}";

    fn filter(worker: &FakeWorker, yaml: &str) -> (Box<dyn HttpFilter>, String) {
        let built = building(|cx| build(&config(EXTENSION.type_urls[0], yaml), cx)).unwrap();
        let own = building(|cx| Workload::own(cx.node, &[]).to_field());
        (built.for_worker(&worker.cx()).new_filter(&crate::testing::stream()).unwrap(), own)
    }

    fn peer() -> Workload {
        Workload { workload: "sleep".into(), namespace: "default".into(), ..Workload::default() }
    }

    #[test]
    fn a_server_reads_takes_out_and_answers() {
        let worker = FakeWorker::default();
        let (mut filter, own) = filter(&worker, INBOUND);
        let field = peer().to_field();
        let head = request(Method::Get, "/", &[(FIELD, &field), (ID_FIELD, "id"), ("x-a", "1")]);
        let mut stream = Stream::new(&worker, head, None);
        stream.on_request(|head, cx| filter.on_request_headers(head, true, cx));
        assert_eq!(lines(&stream.request.headers), ["x-a: 1"]);
        assert_eq!(stream.info.filter_state.get::<Workload>(DOWNSTREAM_PEER), Some(&peer()));
        let mut response = ResponseHead::new(StatusCode::OK);
        stream.on_response(|cx| filter.on_response_headers(&mut response, true, cx));
        assert_eq!(response.get(FIELD), Some(own.as_bytes()));
        assert!(response.headers.contains(ID_FIELD));
    }

    #[test]
    fn whoever_says_nothing_is_told_nothing() {
        let worker = FakeWorker::default();
        let (mut filter, _) = filter(&worker, INBOUND);
        let mut stream = Stream::new(&worker, request(Method::Get, "/", &[(FIELD, "?")]), None);
        stream.on_request(|head, cx| filter.on_request_headers(head, true, cx));
        assert!(stream.request.headers.is_empty() && stream.info.filter_state.find(DOWNSTREAM_PEER).is_none());
        let (mut filter, _) = self::filter(&worker, INBOUND);
        let mut stream = Stream::new(&worker, request(Method::Get, "/", &[]), None);
        stream.on_request(|head, cx| filter.on_request_headers(head, true, cx));
        let mut response = ResponseHead::new(StatusCode::OK);
        stream.on_response(|cx| filter.on_response_headers(&mut response, true, cx));
        assert!(response.headers.is_empty());
    }

    #[test]
    fn a_client_tells_hosts_of_the_mesh_alone() {
        let worker = FakeWorker::default();
        let told = |cluster: &str, metadata: &str| {
            let (mut filter, own) = filter(&worker, OUTBOUND);
            let mut stream = Stream::new(&worker, request(Method::Get, "/", &[]), None);
            stream.info.upstream.cluster = Some(cluster.into());
            let TypedConfig::Value { node, .. } = config("envoy.config.core.v3.Metadata", metadata) else { panic!() };
            stream.info.upstream.cluster_metadata = Some(node);
            stream.on_request(|head, cx| filter.on_request_headers(head, true, cx));
            let is_told = stream.request.headers.get(FIELD) == Some(own.as_bytes());
            let mut response = ResponseHead::new(StatusCode::OK).with(FIELD, peer().to_field());
            stream.on_response(|cx| filter.on_response_headers(&mut response, true, cx));
            assert!(response.headers.is_empty());
            assert_eq!(stream.info.filter_state.get::<Workload>(UPSTREAM_PEER), Some(&peer()));
            is_told
        };
        assert!(told("outbound|80||a", "{}"));
        assert!(!told("PassthroughCluster", "{}"));
        assert!(!told("a", "filter_metadata: {istio: {external: true}}"));
        assert!(!told("a", "filter_metadata: {istio: {disable_mx: true}}"));
    }
}
