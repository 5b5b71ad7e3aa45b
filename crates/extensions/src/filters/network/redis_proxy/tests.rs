use super::*;
use crate::testing::{building, config};

const MESSAGE: &str = "envoy.extensions.filters.network.redis_proxy.v3.RedisProxy";

fn read(yaml: &str) -> Result<Config, String> {
    building(|cx| Config::read(&config(MESSAGE, yaml), cx)).map_err(|error| error.to_string())
}

#[test]
fn commands_are_found_in_any_case() {
    assert!(commands::COMMANDS.is_sorted(), "binary search needs them so");
    let find = |name: &str| commands::find(name.as_bytes()).map(|command| (command.name, command.kind));
    assert_eq!(find("GET"), Some(("get", commands::Kind::Key)));
    assert_eq!(find("GeoRadiusByMember_RO"), Some(("georadiusbymember_ro", commands::Kind::Key)));
    assert_eq!(find("unlink"), Some(("unlink", commands::Kind::Sum)));
    assert_eq!((find(""), find("getx"), find(&"x".repeat(100))), (None, None, None));
}

#[test]
fn a_configuration_is_read() {
    let config = read(
        "{stat_prefix: r, settings: {op_timeout: 1.5s, enable_hashtagging: true}, prefix_routes: {catch_all_route: \
         {cluster: a}}, downstream_auth_passwords: [{inline_string: one}, {inline_string: \"\"}], latency_in_micros: true}",
    )
    .unwrap();
    assert_eq!((config.op_timeout.as_millis(), config.hash_tags, config.latency_in_micros), (1500, true, true));
    assert!(config.needs_auth() && config.accepts(b"one"));
    assert!(!config.accepts(b"") && !config.accepts(b"on") && !config.accepts(b"onf"));
}

#[test]
fn mistakes_are_told() {
    let base = "stat_prefix: r, settings: {op_timeout: 1s}";
    for (routes, error) in [
        ("", "here.prefix_routes: a route or a catch_all_route is needed"),
        (
            ", prefix_routes: {routes: [{prefix: a, cluster: one}, {prefix: a, cluster: two}]}",
            "here.prefix_routes.routes: prefix \"a\" exists twice",
        ),
    ] {
        let found = read(&format!("{{{base}{routes}}}")).err().unwrap();
        assert!(found.contains(error), "{found}");
    }
}
