//! A virtual host of 10,000 routes: how long a look-up takes, how much memory the table has, and that the order counts.
//!
//! The figures of `docs/performance.md` are what this prints:
//! `cargo test --release -p sota-proxy --test route_lookup -- --nocapture`
#![allow(unreachable_pub, dead_code, reason = "the fixture is shared with another test")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "http/fixture.rs"]
mod fixture;

use sota_config::{
    Mark,
    bootstrap::NodeInfo,
    route::{PathMatcher, Route, RouteConfiguration, RouteMatch, VirtualHost},
};
use sota_plugin::{
    FactoryContext, Registry,
    access_log::{LogFile, LogOpener},
    http::{Method, RequestHead},
    info::{ConnectionInfo, PeerAddress, RouteInfo, StreamInfo},
    runtime::Runtime,
};
use sota_proxy::router::{RouteTable, Routes};
use sota_testkit::alloc;
use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

const ROUTES: usize = 10_000;
/// What one table may take, in octets, and a look-up in it.
const MOST_MEMORY: u64 = 10_000_000;
const MOST_TIME: Duration = Duration::from_micros(if cfg!(debug_assertions) { 20 } else { 2 });

/// There are no logs here.
struct NoLogs;

impl LogOpener for NoLogs {
    fn open(&self, _path: &str) -> io::Result<Arc<dyn LogFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Exact paths and prefixes in turn, as many services have them: `/team-7/service-123/v1/items` and what is below it.
fn route(number: usize) -> Route {
    let text = format!("/team-{}/service-{number}/v1/items", number % 50);
    let path = if number.is_multiple_of(2) { PathMatcher::Exact(text) } else { PathMatcher::Prefix(text + "/") };
    named(&format!("route-{number}"), path)
}

fn named(name: &str, path: PathMatcher) -> Route {
    Route { name: name.into(), matcher: RouteMatch::path(path), ..fixture::route("/", name) }
}

fn model() -> Arc<RouteConfiguration> {
    let mut routes: Vec<_> = (0..ROUTES - 2).map(route).collect();
    // One in the middle that takes what later ones would, and one for the rest.
    routes.insert(ROUTES / 2, named("shadow", PathMatcher::Prefix("/team-1/service-9901/".into())));
    routes.push(named("rest", PathMatcher::Prefix("/".into())));
    Arc::new(RouteConfiguration {
        name: "large".into(),
        virtual_hosts: vec![VirtualHost {
            name: "all".into(),
            domains: vec!["*".into()],
            routes: routes.into_iter().map(Arc::new).collect(),
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    })
}

fn build(model: &Arc<RouteConfiguration>) -> Arc<RouteTable> {
    let registry = Registry::default();
    let logs: Arc<dyn LogOpener> = Arc::new(NoLogs);
    let runtime = Arc::new(Runtime::default());
    let node = NodeInfo::default();
    let cx = FactoryContext {
        registry: &registry,
        logs: &logs,
        runtime: &runtime,
        node: &node,
        secrets: &Arc::default(),
        clusters: None,
        stat_prefix: "",
        path: "",
        mark: Mark::NONE,
    };
    RouteTable::build(model, &cx).unwrap()
}

fn stream() -> StreamInfo {
    let end = PeerAddress::from(SocketAddr::from(([127, 0, 0, 1], 80)));
    StreamInfo::new(Rc::new(ConnectionInfo::new(1, end.clone(), end)), 1, None)
}

fn get(path: &str) -> RequestHead {
    RequestHead::new(Method::Get, "a.example", path).unwrap()
}

#[test]
fn first_match_counts_and_memory_is_bounded() {
    let model = model();
    let (table, held) = alloc::held(|| build(&model));
    println!("{ROUTES} routes: {held} octets");
    assert!(held <= MOST_MEMORY, "{held}");
    let routes = Routes::for_worker(&table);
    let info = stream();
    for (path, expected) in [
        ("/team-0/service-0/v1/items", "route-0"),
        ("/team-0/service-0/v1/items/", "rest"),
        ("/team-1/service-1/v1/items/7?x", "route-1"),
        ("/team-1/service-1/v1/items", "rest"),
        ("/team-1/service-9901/v1/items/7", "shadow"),
        ("/team-47/service-9997/v1/items/7", "route-9997"),
        ("/", "rest"),
    ] {
        assert_eq!(routes.route(&get(path), &info, 0).unwrap().name(), expected, "{path}");
    }
}

#[test]
fn time_of_a_look_up() {
    let routes = Routes::for_worker(&build(&model()));
    let info = stream();
    let heads: Vec<_> = (0..ROUTES)
        .step_by(7)
        .map(|number| get(&format!("/team-{}/service-{number}/v1/items/7", number % 50)))
        .collect();
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        for head in &heads {
            assert!(routes.route(head, &info, 0).is_some());
        }
        best = best.min(start.elapsed() / u32::try_from(heads.len()).unwrap());
    }
    println!("{ROUTES} routes: {best:?} for a look-up");
    assert!(best <= MOST_TIME, "{best:?}");
}
