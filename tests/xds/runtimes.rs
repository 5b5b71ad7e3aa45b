//! Layers of runtime values that a control plane brings (RTDS).

use crate::{LIMIT, bootstrap, plane::Plane, start};
use sota_testkit::{get, wait_until};
use std::time::Duration;

const LAYERS: &str = "layered_runtime:
  layers:
  - {name: fixed, static_layer: {share.plain: 0}}
  - {name: brought, rtds_layer: {name: values, rtds_config: {ads: {}, initial_fetch_timeout: TIMEOUT}}}
";

/// A listener that answers 204 to the share of requests that the runtime key `share.plain` says, and 200 to the others.
fn listener() -> String {
    let fraction = "runtime_fraction: {default_value: {numerator: 0}, runtime_key: share.plain}";
    let routes = format!(
        "route_config: {{virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /, {fraction}}}, \
         direct_response: {{status: 204}}}}, {{match: {{prefix: /}}, direct_response: {{status: 200}}}}]}}]}}"
    );
    crate::listener("in", "in", &routes)
}

fn config(plane: &Plane, api: &str, timeout: &str) -> String {
    let listeners = format!("  listeners:\n  - {}\n", listener());
    bootstrap(plane.address, api, "0s", &listeners) + &LAYERS.replace("TIMEOUT", timeout)
}

#[test]
fn values_come_first_and_change_while_the_process_runs() {
    for api in ["GRPC", "DELTA_GRPC"] {
        let is_delta = api == "DELTA_GRPC";
        let mut plane = Plane::start();
        let starting = start(config(&plane, api, "0s"));
        let first = plane.next();
        assert_eq!(first.kind(), "Runtime", "before everything else");
        assert_eq!(
            first.request.strings(if is_delta { "resource_names_subscribe" } else { "resource_names" }),
            ["values"]
        );
        assert!(plane.is_quiet(Duration::from_millis(200)), "clusters wait for them");
        let send = |plane: &mut Plane, version: &str, layer: &str| {
            let resource = format!("{{name: values, layer: {layer}}}");
            match is_delta {
                true => plane.delta("Runtime", version, &[("values", &resource)], &[]),
                false => plane.world("Runtime", version, &[&resource]),
            }
        };
        send(&mut plane, "1", "{share: {plain: 100}}");
        assert_eq!(plane.answers("Runtime").refusal(), "");
        plane.asks("Cluster");
        let empty = |plane: &mut Plane, kind: &str| match is_delta {
            true => plane.delta(kind, "1", &[], &[]),
            false => plane.world(kind, "1", &[]),
        };
        empty(&mut plane, "Cluster");
        plane.asks("Listener");
        empty(&mut plane, "Listener");
        let proxy = starting.join().unwrap();
        let status = || get(proxy.listener("in"), "/").status();
        assert_eq!(status(), 204);
        let shown = proxy.admin("/runtime").text();
        assert!(shown.contains("\"brought\"") && shown.contains("\"share.plain\""), "{shown}");

        send(&mut plane, "2", "{share.plain: {numerator: 0, denominator: HUNDRED}}");
        wait_until("the new value", LIMIT, || status() == 200);
        // A name that stands there twice is refused.
        plane.forget();
        let again = "{name: values, layer: {share.plain: {numerator: 0, denominator: HUNDRED}}}";
        match is_delta {
            true => plane.delta("Runtime", "3", &[("values", again), ("values", again)], &[]),
            false => plane.world("Runtime", "3", &[again, again]),
        }
        assert_ne!(plane.answers("Runtime").refusal(), "");
        assert_eq!((status(), proxy.stat("runtime.update_rejected")), (200, 1));
        send(&mut plane, "4", "{share.plain: 100}");
        wait_until("the value after it", LIMIT, || status() == 204);
        if is_delta {
            plane.delta("Runtime", "5", &[], &["values"]);
            wait_until("the layer below", LIMIT, || status() == 200);
        }
        assert!(proxy.stat("runtime.update_success") >= 3);
    }
}

#[test]
fn values_that_do_not_come_hold_nothing_up() {
    let mut plane = Plane::start();
    let starting = start(config(&plane, "GRPC", "0.3s"));
    assert_eq!(plane.next().kind(), "Runtime");
    plane.asks("Cluster");
    plane.world("Cluster", "1", &[]);
    plane.asks("Listener");
    plane.world("Listener", "1", &[]);
    let proxy = starting.join().unwrap();
    assert_eq!(get(proxy.listener("in"), "/").status(), 200);
    assert_eq!(proxy.stat("runtime.init_fetch_timeout"), 1);
}
