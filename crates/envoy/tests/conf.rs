//! The configurations of the quick start and their native twins, and the example of the README.

mod common;

use common::{good, good_in, repository, without_sources};
use sota_config::{
    TypedConfig,
    address::Address,
    http::{HttpFilterKind, RouteSource},
    listener::NetworkFilterKind,
};
use std::fs;

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn each_pair_gives_the_same_model() {
    for name in ["simple", "line", "zmq"] {
        let envoy = good(&read(&format!("conf/{name}.yaml")));
        let native = good(&read(&format!("conf/{name}.sota.yaml")));
        assert_eq!((envoy.dialect.as_str(), native.dialect.as_str()), ("envoy", "sota"));
        let (envoy_model, native_model) = (without_sources(envoy.bootstrap), without_sources(native.bootstrap));
        assert!(envoy_model == native_model, "{name}: {envoy_model:#?}\n{native_model:#?}");
        assert_eq!((envoy.warnings.0, native.warnings.0), (vec![], vec![]), "{name}");
    }
}

#[test]
fn the_original_s_files_work_under_both_dialects() {
    for name in ["simple", "line", "zmq"] {
        let text = read(&format!("conf/{name}.yaml"));
        let envoy = good_in(Some("envoy"), &text);
        let native = good_in(Some("sota"), &text);
        assert_eq!(native.dialect, "sota");
        assert_eq!(without_sources(envoy.bootstrap), without_sources(native.bootstrap), "{name}");
    }
}

#[test]
fn the_quick_start_is_what_it_says() {
    let bootstrap = good(&read("conf/simple.yaml")).bootstrap;
    let listener = &bootstrap.listeners[0];
    assert_eq!(listener.addresses[0].to_string(), "0.0.0.0:8888");
    assert_eq!(listener.listener_filters[0].config.name, "envoy.filters.listener.http_inspector");
    let NetworkFilterKind::HttpConnectionManager(manager) = &listener.filter_chains[0].filters[0].kind else {
        panic!("{listener:#?}");
    };
    assert_eq!((manager.stat_prefix.as_str(), manager.use_remote_address), ("ingress_http", true));
    let RouteSource::Inline(routes) = &manager.routes else { panic!("{manager:#?}") };
    assert_eq!(routes.virtual_hosts[0].routes.len(), 3);
    assert!(matches!(manager.http_filters.last().map(|f| &f.kind), Some(HttpFilterKind::Router(_))));
    let endpoints = &bootstrap.clusters[0].load_assignment.localities[0].endpoints;
    let addresses: Vec<_> = endpoints.iter().map(|e| e.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:8889", "127.0.0.1:8890"]);
}

#[test]
fn the_line_protocol_keeps_its_configuration() {
    let bootstrap = good(&read("conf/line.yaml")).bootstrap;
    let filter = &bootstrap.listeners[0].filter_chains[0].filters[0];
    let NetworkFilterKind::Extension(extension) = &filter.kind else { panic!("{filter:#?}") };
    let TypedConfig::Value { type_url, node } = &extension.config else { panic!("{extension:#?}") };
    assert_eq!(type_url.as_deref(), Some("type.sota.com/sota.filters.network.simple"));
    assert_eq!(node.str("protocol"), "raw");
    assert_eq!(extension.path, "static_resources.listeners[0].filter_chains[0].filters[0].typed_config");
    assert_eq!((extension.mark.line, extension.mark.column), (10, 9));
}

#[test]
fn a_filter_that_nobody_knows_is_left_for_the_build() {
    let bootstrap = good(&read("conf/zmq.yaml")).bootstrap;
    let NetworkFilterKind::Extension(extension) = &bootstrap.listeners[0].filter_chains[0].filters[0].kind else {
        panic!("{bootstrap:#?}");
    };
    assert_eq!((extension.name.as_str(), &extension.config), ("sota.filters.network.zmq", &TypedConfig::Empty));
}

#[test]
fn the_example_of_the_readme_works() {
    let readme = read("README.md");
    let (_, rest) = readme.split_once("<!-- native-example: begin -->").expect("the example");
    let text = rest.split_once("```yaml\n").and_then(|(_, rest)| rest.split_once("```")).expect("its code").0;
    assert_eq!(text.lines().count(), 8);
    let loaded = good(text);
    assert_eq!(loaded.dialect, "sota");
    assert_eq!(loaded.warnings.0, []);
    let bootstrap = loaded.bootstrap;
    assert_eq!(bootstrap.listeners[0].name, "0.0.0.0:8080");
    let endpoints = &bootstrap.clusters[0].load_assignment.localities[0].endpoints;
    assert!(endpoints.iter().all(|e| matches!(e.address, Address::Ip { .. })));
    assert_eq!(endpoints.len(), 2);
}
