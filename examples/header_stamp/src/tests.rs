use super::*;
use sota_config::{Mark, Node, Value, bootstrap::NodeInfo};
use sota_plugin::{
    LocalFuture, Registry,
    access_log::{LogFile, LogOpener},
    cx::{ClusterHealth, Effects, WorkerCx, WorkerServices},
    http::StatusCode,
    info::{ConnectionInfo, RouteInfo, StreamInfo},
    runtime::Runtime,
    stats,
    upstream::Cluster,
};
use std::{net::SocketAddr, rc::Rc, time::Duration};

struct NoLogs;

impl LogOpener for NoLogs {
    fn open(&self, _: &str) -> Result<Arc<dyn LogFile>, std::io::Error> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

fn building<R>(then: impl FnOnce(&FactoryContext<'_>) -> R) -> R {
    let logs: Arc<dyn LogOpener> = Arc::new(NoLogs);
    then(&FactoryContext {
        registry: &Registry::default(),
        logs: &logs,
        runtime: &Arc::new(Runtime::default()),
        node: &NodeInfo::default(),
        secrets: &Arc::default(),
        clusters: None,
        stat_prefix: "",
        path: "here",
        mark: Mark::NONE,
    })
}

fn config(fields: &[(&str, &str)]) -> TypedConfig {
    let fields = fields.iter().map(|(name, value)| ((*name).into(), Node::string(*value))).collect();
    TypedConfig::Value { type_url: None, node: Arc::new(Node::new(Value::Map(fields))) }
}

/// A worker of which the filter needs nothing.
struct NoServices;

impl WorkerServices for NoServices {
    fn sleep(&self, _: Duration) -> LocalFuture<()> {
        Box::pin(std::future::pending())
    }

    fn spawn(&self, _: LocalFuture<()>, _: bool) {}

    fn is_draining(&self) -> bool {
        false
    }

    fn is_health_check_failing(&self) -> bool {
        false
    }

    fn cluster_health(&self, _: &str) -> Option<ClusterHealth> {
        None
    }

    fn cluster(&self, _: &str, _: &WorkerCx) -> Option<Cluster> {
        None
    }

    fn next_stream_id(&self) -> u64 {
        0
    }
}

struct Route(Arc<dyn Any + Send + Sync>);

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Route")
    }
}

impl RouteInfo for Route {
    fn name(&self) -> &str {
        ""
    }

    fn virtual_host(&self) -> &str {
        ""
    }

    fn route_configuration(&self) -> &str {
        ""
    }

    fn metadata(&self) -> Option<&Arc<Node>> {
        None
    }

    fn filter_configs<'a>(&'a self, _: &'a str) -> Box<dyn Iterator<Item = &'a (dyn Any + Send + Sync)> + 'a> {
        Box::new(std::iter::once(&*self.0))
    }

    fn filter_config(&self, filter: &str) -> Option<&(dyn Any + Send + Sync)> {
        (filter == "stamp").then_some(&*self.0)
    }
}

/// The fields of a response that has passed the filter.
fn respond(filter: &TypedConfig, route: Option<&TypedConfig>) -> Vec<String> {
    let worker = WorkerCx::new(0, stats::Registry::new().shard(), Rc::new(NoServices));
    let end = SocketAddr::from(([127, 0, 0, 1], 80));
    let mut info = StreamInfo::new(Rc::new(ConnectionInfo::new(1, end.into(), end.into())), 1, None);
    info.route = route.map(|config| Rc::new(Route(building(|cx| build_route(config, cx)).unwrap())) as _);
    let factory = building(|cx| build(filter, cx)).unwrap().for_worker(&worker);
    let mut filter = factory.new_filter(&info).unwrap();
    let mut head = ResponseHead::new(StatusCode::OK).with("x-stamp", "upstream");
    let mut cx = StreamCx {
        info: &mut info,
        request: None,
        worker: &worker,
        buffered: &mut Default::default(),
        effects: &mut Effects::default(),
        filter_name: "stamp",
    };
    assert!(matches!(filter.on_response_headers(&mut head, true, &mut cx), FilterStatus::Continue));
    head.headers.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii())).collect()
}

#[test]
fn adds_its_field() {
    assert_eq!(respond(&config(&[("value", "v")]), None), ["x-stamp: upstream", "x-stamp: v"]);
    let named = config(&[("header", "X-Other"), ("value", "v")]);
    assert_eq!(respond(&named, None), ["x-stamp: upstream", "x-other: v"]);
}

#[test]
fn a_route_may_say_something_else() {
    let (filter, route) = (config(&[("value", "v")]), config(&[("value", "route")]));
    assert_eq!(respond(&filter, Some(&route)), ["x-stamp: upstream", "x-stamp: route"]);
}

#[test]
fn errors_name_the_field() {
    for (fields, error) in [
        (&[][..], "here: missing field `value`"),
        (&[("value", "v"), ("heade", "x")], "here: unknown field \"heade\"; did you mean \"header\"?"),
        (&[("value", "v"), ("header", "a b")], "here.header: \"a b\": not a valid field name"),
    ] {
        assert_eq!(building(|cx| build(&config(fields), cx).err()).unwrap().to_string(), error);
    }
}
