//! A control plane drives the process: over ADS in both kinds, with faults, and from files.
#![allow(unreachable_pub, reason = "the control plane is a module of this test")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cache;
mod plane;
mod runtimes;
mod secrets;

use plane::Plane;
use sota_testkit::{Client, Load, Origin, ProxyProcess, Reply, get, wait_until};
use std::{fs, net::SocketAddr, path::Path, thread::JoinHandle, time::Duration};

const BINARY: &str = env!("CARGO_BIN_EXE_sota-mesh");
const LIMIT: Duration = Duration::from_secs(10);

const ENDPOINTS: &str = "ClusterLoadAssignment";
const ROUTES: &str = "RouteConfiguration";

fn answering(text: &'static str) -> Origin {
    Origin::http(move |_| {
        Reply::default().send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()))
    })
}

/// A bootstrap with ADS; `timeout` is how long a first answer is waited for.
fn bootstrap(plane: SocketAddr, api: &str, timeout: &str, more: &str) -> String {
    format!(
        "node: {{id: proxy-1, cluster: tests, metadata: {{ROLE: front, N: 7}}, locality: {{zone: z1}}}}
dynamic_resources:
  ads_config:
    api_type: {api}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services:
    - envoy_grpc: {{cluster_name: plane}}
      initial_metadata: [{{key: X-Token, value: secret}}]
  cds_config: {{ads: {{}}, initial_fetch_timeout: {timeout}, resource_api_version: V3}}
  lds_config: {{ads: {{}}, initial_fetch_timeout: {timeout}, resource_api_version: V3}}
static_resources:
{more}
  clusters:
  - name: plane
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: plane
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]
",
        plane.port()
    )
}

/// Starts the proxy beside the test, which has to answer it meanwhile.
fn start(config: String) -> JoinHandle<ProxyProcess> {
    std::thread::spawn(move || ProxyProcess::start(BINARY, &config))
}

fn cluster(name: &str) -> String {
    format!("{{name: {name}, type: EDS, connect_timeout: 1s, eds_cluster_config: {{eds_config: {{ads: {{}}}}}}}}")
}

fn endpoints(name: &str, port: u16) -> String {
    format!(
        "{{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: \
         {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}"
    )
}

fn listener(name: &str, prefix: &str, routes: &str) -> String {
    format!(
        "{{name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: [{{filters: \
         [{{name: http, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.\
         http_connection_manager.v3.HttpConnectionManager, stat_prefix: {prefix}, {routes}, http_filters: [{{name: router, \
         typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]}}"
    )
}

fn with_rds(name: &str, prefix: &str, routes: &str) -> String {
    listener(name, prefix, &format!("rds: {{route_config_name: {routes}, config_source: {{ads: {{}}}}}}"))
}

fn routes(name: &str, cluster: &str) -> String {
    format!(
        "{{name: {name}, virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, \
         route: {{cluster: {cluster}}}}}]}}]}}"
    )
}

fn body(address: SocketAddr) -> String {
    get(address, "/").text()
}

#[test]
fn a_delta_brings_everything_in_order_and_changes_touch_what_they_name() {
    let (one, two) = (answering("one"), answering("two"));
    let mut plane = Plane::start();
    let starting = start(bootstrap(plane.address, "DELTA_GRPC", "0s", ""));

    let first = plane.asks("Cluster");
    assert_eq!(first.path, "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources");
    let node = first.request.field("node");
    assert_eq!((node.str("id"), node.str("cluster"), node.field("locality").str("zone")), ("proxy-1", "tests", "z1"));
    assert_eq!((node.field("metadata").str("ROLE"), node.field("metadata").f64("N")), ("front", Some(7.0)));
    plane.delta("Cluster", "1", &[("a", &cluster("a"))], &[]);
    let answer = plane.next();
    assert_eq!((answer.kind(), answer.request.str("response_nonce"), answer.refusal()), ("Cluster", "n1", ""));
    assert!(!answer.request.has("node"));
    let asked = plane.asks(ENDPOINTS);
    assert_eq!(asked.request.strings("resource_names_subscribe"), ["a"]);
    // Listeners are not asked for before each cluster has its endpoints.
    assert!(plane.is_quiet(Duration::from_millis(300)));
    plane.delta(ENDPOINTS, "1", &[("a", &endpoints("a", one.port()))], &[]);
    plane.asks("Listener");
    plane.delta("Listener", "1", &[("l", &with_rds("l", "web", "r"))], &[]);
    assert_eq!(plane.asks(ROUTES).request.strings("resource_names_subscribe"), ["r"]);
    plane.delta(ROUTES, "1", &[("r", &routes("r", "a"))], &[]);
    let proxy = starting.join().unwrap();
    let address = proxy.listener("l");
    assert_eq!(body(address), "one");

    // Equal resources change nothing: a kept connection goes on, and nothing is counted as modified.
    let mut kept = Client::connect(address);
    assert_eq!(kept.exchange("GET / HTTP/1.1\r\nhost: h\r\n\r\n").text(), "one");
    plane.forget();
    plane.delta("Cluster", "2", &[("a", &cluster("a"))], &[]);
    assert_eq!(plane.answers("Cluster").refusal(), "");
    plane.delta("Listener", "2", &[("l", &with_rds("l", "web", "r"))], &[]);
    assert_eq!(plane.answers("Listener").refusal(), "");
    assert_eq!(kept.exchange("GET / HTTP/1.1\r\nhost: h\r\n\r\n").text(), "one");
    assert_eq!(proxy.stat("listener_manager.listener_in_place_updated"), 0);
    assert_eq!(proxy.stat("cluster_manager.cluster_modified"), 0);

    // The good resource of an update applies; the bad one is named, and what it would replace stays.
    let bad = "{name: a, type: EDS, lb_policy: RING_HASH, ring_hash_lb_config: {minimum_ring_size: 9, maximum_ring_size: 3}, \
               eds_cluster_config: {eds_config: {ads: {}}}}";
    plane.delta("Cluster", "3", &[("a", bad), ("b", &cluster("b"))], &[]);
    let refusal = plane.answers("Cluster");
    assert!(refusal.refusal().contains("cluster(s) a:"), "{}", refusal.refusal());
    assert_eq!(plane.asks(ENDPOINTS).request.strings("resource_names_subscribe"), ["b"]);
    plane.delta(ENDPOINTS, "2", &[("b", &endpoints("b", two.port()))], &[]);
    plane.answers(ENDPOINTS);
    plane.delta(ROUTES, "2", &[("r", &routes("r", "b"))], &[]);
    plane.answers(ROUTES);
    wait_until("the new routes", LIMIT, || body(address) == "two");
    assert_eq!(kept.exchange("GET / HTTP/1.1\r\nhost: h\r\n\r\n").text(), "two");

    // Endpoints move; a cluster that goes is not asked for any more, and routes to it are 503.
    plane.delta(ENDPOINTS, "3", &[("b", &endpoints("b", one.port()))], &[]);
    plane.answers(ENDPOINTS);
    wait_until("the new endpoints", LIMIT, || body(address) == "one");
    plane.delta("Cluster", "4", &[], &["b"]);
    plane.answers("Cluster");
    assert_eq!(plane.asks(ENDPOINTS).request.strings("resource_names_unsubscribe"), ["b"]);
    wait_until("no cluster", LIMIT, || get(address, "/").status() == 503);

    // A new stream says what is there.
    plane.forget();
    plane.hang_up();
    let again = plane.asks("Cluster");
    assert!(again.request.has("node"));
    assert_eq!(again.request.field("initial_resource_versions").str("a"), "2");
    assert_eq!(proxy.stat("cluster_manager.cds.update_rejected"), 1);
    assert_eq!(proxy.stat("control_plane.connected_state"), 1);
}

#[test]
fn the_state_of_the_world_removes_what_it_leaves_out_but_not_endpoints() {
    let (one, two) = (answering("one"), answering("two"));
    let mut plane = Plane::start();
    let starting = start(bootstrap(plane.address, "GRPC", "0s", ""));
    let first = plane.asks("Cluster");
    assert_eq!(first.path, "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources");
    plane.world("Cluster", "c1", &[&cluster("a"), &cluster("b")]);
    let answer = plane.answers("Cluster");
    assert_eq!((answer.request.str("version_info"), answer.request.str("response_nonce")), ("c1", "n1"));
    assert_eq!(plane.asks(ENDPOINTS).request.strings("resource_names"), ["a", "b"]);
    plane.world(ENDPOINTS, "e1", &[&endpoints("a", one.port())]);
    assert_eq!(plane.answers(ENDPOINTS).request.strings("resource_names"), ["a", "b"]);
    // A part of the endpoints: those of the other cluster stay.
    plane.world(ENDPOINTS, "e2", &[&endpoints("b", two.port())]);
    plane.asks("Listener");
    let inline = |cluster| format!("route_config: {}", routes("inline", cluster));
    plane.world("Listener", "l1", &[&listener("first", "x", &inline("a")), &listener("second", "why", &inline("b"))]);
    let proxy = starting.join().unwrap();
    let (x, y) = (proxy.listener("first"), proxy.listener("second"));
    assert_eq!((body(x), body(y)), ("one".to_owned(), "two".to_owned()));
    // A refused version is not said to be in force.
    plane.forget();
    plane.world("Listener", "l2", &[&listener("first", "x", &inline("a")), "{name: second}"]);
    let refusal = plane.answers("Listener");
    assert_eq!(refusal.request.str("version_info"), "l1");
    assert!(refusal.refusal().contains("listener(s) second:"), "{}", refusal.refusal());
    assert_eq!(body(y), "two");
    plane.world("Listener", "l3", &[&listener("first", "x", &inline("a"))]);
    assert_eq!(plane.answers("Listener").request.str("version_info"), "l3");
    wait_until("no second listener", LIMIT, || Client::try_connect(y).is_err());
    plane.world("Cluster", "c2", &[&cluster("a")]);
    plane.answers("Cluster");
    assert_eq!(plane.says(ENDPOINTS).request.strings("resource_names"), ["a"]);
    assert_eq!(body(x), "one");
}

#[test]
fn a_control_plane_that_flaps_or_raves_harms_nothing() {
    let origin = answering("one");
    let mut plane = Plane::start();
    let fixed = "route_config: {virtual_hosts: [{name: all, domains: ['*'], routes: [{match: {prefix: /}, \
                 direct_response: {status: 200, body: {inline_string: fixed}}}]}]}";
    let more = format!("  listeners:\n  - {}", listener("fixed", "fixed", fixed));
    // Nobody answers the first time: the file is served, and the wait ends.
    let proxy = start(bootstrap(plane.address, "DELTA_GRPC", "0.3s", &more)).join().unwrap();
    assert_eq!(body(proxy.listener("fixed")), "fixed");
    assert_eq!(proxy.stat("cluster_manager.cds.init_fetch_timeout"), 1);
    plane.asks("Cluster");
    plane.delta("Cluster", "1", &[("a", &cluster("a"))], &[]);
    plane.asks(ENDPOINTS);
    plane.delta(ENDPOINTS, "1", &[("a", &endpoints("a", origin.port()))], &[]);
    plane.answers(ENDPOINTS);
    let inline = format!("route_config: {}", routes("inline", "a"));
    plane.delta("Listener", "1", &[("l", &listener("l", "l", &inline))], &[]);
    plane.answers("Listener");
    wait_until("the listener", LIMIT, || proxy.admin("/listeners").text().contains("l::"));
    let address = proxy.listener("l");

    let load = Load::get("/", 4, Duration::from_secs(8)).rate(200).start(address);
    for round in 0..4 {
        match round {
            0 => plane.garbage(&[0xff; 300]),
            1 => plane.raw(&[0, 0xff, 0xff, 0xff, 0xff]),
            2 => plane.raw(&[1, 0, 0, 0, 1, 7]),
            _ => plane.hang_up(),
        }
        // The stream begins again with what is there.
        let asked = plane.asks("Cluster");
        assert_eq!(asked.request.field("initial_resource_versions").str("a"), "1", "round {round}");
        plane.asks("Listener");
    }
    // A type that nobody asked for, and a resource of another type among clusters.
    plane.delta(ROUTES, "9", &[("r", &routes("r", "a"))], &[]);
    plane.delta("Cluster", "2", &[("a", &cluster("a")), ("half", "{name: half, type: EDS}")], &[]);
    assert!(plane.answers("Cluster").refusal().contains("half"));
    let port = plane.address.port();
    drop(plane);
    std::thread::sleep(Duration::from_millis(300));
    let outcomes = load.join();
    assert!(outcomes.ok() > 500, "{}", outcomes.ok());
    assert_eq!(outcomes.failed(), 0);
    let plane = Plane::at(port);
    plane.asks("Cluster");
    assert_eq!(body(address), "one");
    assert!(proxy.stat("cluster_manager.cds.update_failure") >= 4);
}

#[test]
fn files_are_read_again_when_they_are_renamed_over() {
    let (one, two) = (answering("one"), answering("two"));
    let folder = sota_testkit::temp_dir();
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, version: &str, kind: &str, package: &str, resource: &str| {
        let inner = resource.trim().strip_prefix('{').unwrap();
        let url = format!("type.googleapis.com/envoy.config.{package}.v3.{kind}");
        let text = format!("version_info: '{version}'\nresources:\n- {{\"@type\": {url}, {inner}\n");
        replace(&path(name), &text);
    };
    let from = |name: &str| format!("{{path_config_source: {{path: {}}}}}", path(name).display());
    let eds = format!("{{name: a, type: EDS, eds_cluster_config: {{eds_config: {}}}}}", from("eds.yaml"));
    let rds = format!("rds: {{route_config_name: r, config_source: {}}}", from("rds.yaml"));
    write("cds.yaml", "1", "Cluster", "cluster", &eds);
    write("eds.yaml", "1", ENDPOINTS, "endpoint", &endpoints("a", one.port()));
    write("lds.yaml", "1", "Listener", "listener", &listener("l", "web", &rds));
    write("rds.yaml", "1", ROUTES, "route", &routes("r", "a"));
    let config = format!(
        "node: {{id: i, cluster: c}}\ndynamic_resources: {{cds_config: {}, lds_config: {}}}\n",
        from("cds.yaml"),
        from("lds.yaml")
    );
    let proxy = ProxyProcess::start(BINARY, &config);
    let address = proxy.listener("l");
    assert_eq!(body(address), "one");
    write("eds.yaml", "2", ENDPOINTS, "endpoint", &endpoints("a", two.port()));
    wait_until("the new endpoints", LIMIT, || body(address) == "two");
    // A file that cannot be read changes nothing.
    replace(&path("rds.yaml"), "resources: [");
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(body(address), "two");
    write("rds.yaml", "3", ROUTES, "route", &routes("r", "nowhere"));
    wait_until("the new routes", LIMIT, || get(address, "/").status() == 503);
}

/// As a controller replaces a file: whole, or not at all.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}
