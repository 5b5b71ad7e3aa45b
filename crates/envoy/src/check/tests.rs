use super::{CheckOptions, check};
use crate::{encode, parse_text};
use bytes::Bytes;
use sota_config::{ConfigError, ConfigErrors, Node, Severity, Value};

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// A static file, nothing allowed, no extension but those of `type.example.com`.
const STRICT: CheckOptions<'static> = CheckOptions {
    static_config: true,
    allow_unknown_fields: false,
    allow_unsupported: false,
    relaxed: false,
    claims: &|url| url.starts_with("type.example.com/"),
};
const DYNAMIC: CheckOptions<'static> = CheckOptions { static_config: false, ..STRICT };
const LENIENT: CheckOptions<'static> = CheckOptions { allow_unsupported: true, ..STRICT };

fn run(message: &str, text: &str, options: &CheckOptions<'_>) -> (Node, ConfigErrors) {
    let node = parse_text(text.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{text}"));
    check(&node, message, options)
}

fn good(message: &str, text: &str) -> Node {
    let (node, errors) = run(message, text, &STRICT);
    assert_eq!(errors.0, [], "{text}");
    node
}

/// The findings as `line:column: path: reason`.
fn findings(message: &str, text: &str, options: &CheckOptions<'_>) -> Vec<String> {
    let show = |e: &ConfigError| format!("{}:{}: {e}", e.mark.line, e.mark.column);
    run(message, text, options).1.0.iter().map(show).collect()
}

fn one(message: &str, text: &str) -> String {
    let mut found = findings(message, text, &STRICT);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

/// `name: c` and what a cluster needs beside it.
fn cluster(rest: &str) -> String {
    format!("name: c\n{rest}")
}

#[test]
fn the_issue_s_example() {
    let text = format!(
        "static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: 8888}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": {HCM}
          codec_type: AUTO
          route_config: {{}}
          stat_prefx: ingress
"
    );
    assert_eq!(
        findings(BOOTSTRAP, &text, &STRICT),
        [
            "8:9: static_resources.listeners[0].filter_chains[0].filters[0].typed_config: the field \"stat_prefix\" is required",
            "12:11: static_resources.listeners[0].filter_chains[0].filters[0].typed_config: unknown field \"stat_prefx\"; did you mean \"stat_prefix\"?",
        ]
    );
}

#[test]
fn both_spellings_become_one_in_declaration_order() {
    let snake = good(CLUSTER, "connect_timeout: 0.25s\nname: c\nlb_policy: RANDOM\n");
    let camel = good(CLUSTER, "{\"lbPolicy\": 3, \"connectTimeout\": \"0.250s\", \"name\": \"c\"}");
    assert_eq!(snake, camel);
    let keys: Vec<_> = snake.pairs().iter().map(|(key, _)| &**key).collect();
    assert_eq!(keys, ["name", "connect_timeout", "lb_policy"]);
    assert_eq!(snake.field("connect_timeout").value, Value::Duration { seconds: 0, nanos: 250_000_000 });
    assert_eq!(snake.str("lb_policy"), "RANDOM");
}

#[test]
fn a_field_in_both_spellings_is_given_twice() {
    assert_eq!(
        one(CLUSTER, "name: c\nlb_policy: RANDOM\nlbPolicy: RANDOM\n"),
        "3:1: the field \"lb_policy\" is given twice, here as \"lbPolicy\""
    );
}

#[test]
fn null_is_absence() {
    assert_eq!(good(CLUSTER, "name: c\nlb_policy: null\nload_assignment:\n"), good(CLUSTER, "name: c\n"));
}

#[test]
fn values_of_the_wrong_type_are_told() {
    for (rest, reason) in [
        ("alt_stat_name: yes", "2:1: alt_stat_name: expected text, got the boolean true; put it in quotes"),
        ("alt_stat_name: 5", "2:1: alt_stat_name: expected text, got the number 5; put it in quotes"),
        (
            "ignore_health_on_host_removal: \"true\"",
            "2:1: ignore_health_on_host_removal: expected true or false, got the text \"true\"",
        ),
        (
            "per_connection_buffer_limit_bytes: -1",
            "2:1: per_connection_buffer_limit_bytes: expected a whole number from 0 to 4294967295, got the number -1",
        ),
        (
            "per_connection_buffer_limit_bytes: 1.5",
            "2:1: per_connection_buffer_limit_bytes: expected a whole number, got the text \"1.5\"",
        ),
        (
            "connect_timeout: 5",
            "2:1: connect_timeout: expected a duration in seconds such as \"0.25s\", got the number 5",
        ),
        (
            "connect_timeout: 5m",
            "2:1: connect_timeout: expected a duration in seconds such as \"0.25s\", got the text \"5m\"",
        ),
        ("load_assignment: [x]", "2:1: load_assignment: expected the fields of ClusterLoadAssignment, got a list"),
        ("lb_policy: RANDON", "2:1: lb_policy: unknown value \"RANDON\"; did you mean \"RANDOM\"?"),
        (
            "lb_policy: 77",
            "2:1: lb_policy: expected one of ROUND_ROBIN, LEAST_REQUEST, RING_HASH, RANDOM, MAGLEV, CLUSTER_PROVIDED, LOAD_BALANCING_POLICY_CONFIG, got the number 77",
        ),
    ] {
        // What was refused as a value is not told again as missing.
        assert_eq!(findings(CLUSTER, &cluster(rest), &STRICT), [reason], "{rest}");
    }
    assert_eq!(
        one(LISTENER, "address: {pipe: {path: /x}}\nfilter_chains: {a: 1}\n"),
        "2:1: filter_chains: expected a list, got a map"
    );
}

#[test]
fn numbers_may_be_text_and_text_may_be_large_numbers() {
    let node = good(CLUSTER, &cluster("alt_stat_name: 5000000000\nper_connection_buffer_limit_bytes: \"32768\"\n"));
    assert_eq!(node.str("alt_stat_name"), "5000000000");
    assert_eq!(node.u32("per_connection_buffer_limit_bytes"), Some(32_768));
    let node = good(CLUSTER, "{\"name\": \"c\", \"perConnectionBufferLimitBytes\": 32768.0}");
    assert_eq!(node.u32("per_connection_buffer_limit_bytes"), Some(32_768));
}

#[test]
fn every_finding_is_reported_in_document_order() {
    let found = findings(CLUSTER, "lb_polcy: 1\nname: ''\nconnect_timeout: x\nhealth_checks: [{}]\n", &STRICT);
    let lines: Vec<_> = found.iter().map(|f| f.split(':').next().unwrap_or("")).collect();
    assert!(found.len() >= 4, "{found:#?}");
    assert!(lines.is_sorted(), "{found:#?}");
}

#[test]
fn unknown_fields_are_warnings_in_dynamic_resources() {
    for (options, severity) in [
        (STRICT, Severity::Error),
        (DYNAMIC, Severity::Warning),
        (CheckOptions { allow_unknown_fields: true, ..STRICT }, Severity::Warning),
        (LENIENT, Severity::Error),
    ] {
        let (_, errors) = run(CLUSTER, &cluster("nonsense_field: 1"), &options);
        assert_eq!(errors.0.iter().map(|e| e.severity).collect::<Vec<_>>(), [severity]);
        assert_eq!(errors.0[0].reason, "unknown field \"nonsense_field\" of Cluster");
    }
}

#[test]
fn unsupported_fields_are_refused_by_name() {
    let text = cluster("use_tcp_for_dns_lookups: true");
    assert_eq!(
        one(CLUSTER, &text),
        "2:1: the field \"use_tcp_for_dns_lookups\" is not supported: write typed_dns_resolver_config"
    );
    assert_eq!(run(CLUSTER, &text, &DYNAMIC).1.0[0].severity, Severity::Error);
    assert_eq!(run(CLUSTER, &text, &LENIENT).1.0[0].severity, Severity::Warning);
}

#[test]
fn security_is_refused_whatever_is_allowed() {
    let text = cluster("transport_socket_matcher: {}");
    let (_, errors) = run(CLUSTER, &text, &LENIENT);
    assert!(errors.is_fatal(), "{errors}");
    assert!(errors.to_string().contains("is not supported"));
    let (_, errors) = run("xds.type.matcher.v3.Matcher.OnMatch", "keep_matching: true\n", &LENIENT);
    let expected = "\"keep_matching\" is not supported: the search ends at its first match";
    assert!(errors.to_string().contains(expected), "{errors}");
    assert!(errors.is_fatal());
}

#[test]
fn unsupported_values_are_refused_by_name() {
    assert_eq!(
        one(CLUSTER, &cluster("lb_subset_config: {metadata_fallback_policy: FALLBACK_LIST}")),
        "2:20: lb_subset_config.metadata_fallback_policy: the value \"FALLBACK_LIST\" is not supported: a route has one \
         set of metadata"
    );
}

#[test]
fn inert_and_default_fields_are_accepted() {
    good(CLUSTER, &cluster("common_lb_config: {update_merge_window: 1s}"));
    // The default of an unsupported field says the same as its absence.
    good(CLUSTER, &cluster("wait_for_warm_on_init: null\nuse_tcp_for_dns_lookups: false"));
    // What stands in an inert field must still be right.
    assert_eq!(one(CLUSTER, &cluster("common_lb_config: {update_merge_window: 1x}")).split(": ").next(), Some("2:20"));
}

#[test]
fn oneofs() {
    assert_eq!(
        one(LISTENER, "address: {pipe: {path: /x}, socket_address: {address: a, port_value: 1}}"),
        "1:29: address: \"pipe\" and \"socket_address\" exclude each other; keep one of them"
    );
    assert_eq!(
        one(LISTENER, "address: {}"),
        "1:1: address: one of these fields is required: \"socket_address\", \"pipe\""
    );
}

#[test]
fn rules_are_enforced() {
    for (message, text, reason) in [
        (
            LISTENER,
            "address: {socket_address: {address: a, port_value: 65536}}",
            "1:40: address.socket_address.port_value: must be at most 65535, got 65536",
        ),
        (
            LISTENER,
            "address: {socket_address: {port_value: 1}}",
            "1:11: address.socket_address: the field \"address\" is required",
        ),
        (CLUSTER, "name: ''", "1:1: name: must not be empty"),
        (CLUSTER, "lb_policy: RANDOM", "1:1: the field \"name\" is required"),
        (CLUSTER, "name: c\nconnect_timeout: -1s", "2:1: connect_timeout: must be more than 0s, got -1s"),
        (
            CLUSTER,
            "name: c\nleast_request_lb_config: {choice_count: 1}",
            "2:27: least_request_lb_config.choice_count: must be at least 2, got 1",
        ),
        ("envoy.config.core.v3.HeaderValue", "key: 'a\n  b'\nvalue: x", ""),
        (
            "envoy.config.core.v3.HeaderValue",
            "{\"key\": \"a\\nb\"}",
            "1:2: key: \"a\\nb\" cannot be the name of a header field",
        ),
        ("envoy.config.route.v3.VirtualHost", "name: v\ndomains: []", "2:1: domains: needs at least 1 item, has 0"),
        ("envoy.config.route.v3.VirtualHost", "name: v", "0:0: domains: needs at least 1 item, has 0"),
        ("envoy.config.route.v3.DirectResponseAction", "status: 199", "1:1: status: must be at least 200, got 199"),
        ("envoy.config.route.v3.DirectResponseAction", "status: 600", "1:1: status: must be less than 600, got 600"),
    ] {
        let found = findings(message, text, &STRICT);
        let expected: &[&str] = if reason.is_empty() { &[] } else { &[reason] };
        // The root of a document stands at its first key.
        let found: Vec<_> = found.iter().map(|f| f.replacen("1:1: domains", "0:0: domains", 1)).collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn an_any_is_resolved_wherever_its_type_stands() {
    let text = |inner: &str| format!("name: f\ntyped_config:\n{inner}");
    let first = good(
        "envoy.config.listener.v3.Filter",
        &text(&format!("  '@type': {HCM}\n  stat_prefix: x\n  codecType: 1\n  route_config: {{}}\n")),
    );
    let last = good(
        "envoy.config.listener.v3.Filter",
        &text(&format!("  route_config: {{}}\n  codec_type: HTTP1\n  stat_prefix: x\n  '@type': {HCM}\n")),
    );
    assert_eq!(first, last);
    let keys: Vec<_> = first.entries("typed_config").iter().map(|(key, _)| &**key).collect();
    assert_eq!(keys, ["@type", "codec_type", "stat_prefix", "route_config"]);
}

#[test]
fn unknown_types_name_the_nearest() {
    let filter = "envoy.config.listener.v3.Filter";
    let text = |url: &str| format!("name: f\ntyped_config: {{'@type': {url}, a: 1}}\n");
    assert_eq!(
        one(filter, &text(&format!("{HCM}s"))),
        format!("2:16: typed_config: unknown type \"{HCM}s\"; did you mean \"{HCM}\"?")
    );
    assert_eq!(
        one(filter, &text("nothing")),
        "2:16: typed_config: \"nothing\" is no type URL; it begins with \"type.googleapis.com/\""
    );
    assert_eq!(
        one(filter, "name: f\ntyped_config: {a: 1}\n"),
        "2:1: typed_config: \"@type\" is missing; it names the type of this configuration"
    );
    // Unknown types are errors even where unsupported fields are allowed.
    assert!(run(filter, &text("type.googleapis.com/x.Y"), &LENIENT).1.is_fatal());
}

#[test]
fn a_claimed_type_stays_as_it_is() {
    let text = "name: f\ntyped_config: {b: 0.5, '@type': type.example.com/x.Y, a: {c: yes}}\n";
    let node = good("envoy.config.listener.v3.Filter", text);
    assert_eq!(node.field("typed_config"), parse_text(text.as_bytes()).expect("YAML").field("typed_config"));
}

#[test]
fn types_that_the_support_table_does_not_list_are_refused() {
    let filter = "envoy.config.listener.v3.Filter";
    let url = "type.googleapis.com/envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy";
    let text = format!("name: f\ntyped_config: {{'@type': {url}, stat_prefix: x}}\n");
    assert_eq!(one(filter, &text), format!("2:16: typed_config: the type \"{url}\" is not supported"));
    assert!(run(filter, &text, &LENIENT).1.is_fatal(), "a filter must not be left out in silence");
    // An extension that claims it reads it itself, with names and types checked.
    let claimed = CheckOptions { claims: &|claimed| claimed == url, ..STRICT };
    assert_eq!(findings(filter, &text, &claimed), [""; 0]);
    assert_eq!(findings(filter, &text.replace("stat_prefix: x", "stat_prefix: 1"), &claimed).len(), 1);
}

#[test]
fn an_optional_filter_of_unknown_type_is_no_error() {
    let http_filter = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter";
    for url in ["type.googleapis.com/x.Y", "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"] {
        let text = format!("name: f\nis_optional: true\ntyped_config: {{'@type': {url}}}\n");
        good(http_filter, &text);
        assert!(run(http_filter, &text.replace("true", "false"), &STRICT).1.is_fatal());
    }
}

#[test]
fn a_filter_that_decides_who_gets_in_is_never_left_out() {
    let filter = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter";
    for name in
        ["basic_auth.v3.BasicAuth", "jwt_authn.v3.JwtAuthentication", "ext_authz.v3.ExtAuthz", "oauth2.v3.OAuth2"]
    {
        let url = format!("type.googleapis.com/envoy.extensions.filters.http.{name}");
        let text = format!("name: f\nis_optional: true\ntyped_config: {{'@type': {url}}}\n");
        let (_, errors) = run(filter, &text, &LENIENT);
        assert!(errors.to_string().contains(&format!("the type \"{url}\" is not supported")), "{errors}");
        assert!(errors.is_fatal());
    }
}

#[test]
fn well_known_types_in_an_any_have_a_value() {
    let config = "envoy.config.core.v3.TypedExtensionConfig";
    let text =
        |value: &str| format!("name: x\ntyped_config: {{'@type': type.googleapis.com/google.protobuf.{value}}}\n");
    let node = good(config, &text("StringValue, value: a"));
    assert_eq!(node.field("typed_config").str("value"), "a");
    let node = good(config, &text("Duration, value: 1s"));
    assert_eq!(node.field("typed_config").field("value").value, Value::Duration { seconds: 1, nanos: 0 });
    good(config, &text("Empty"));
    assert!(one(config, &text("Duration")).contains("\"value\" is missing"));
    assert!(one(config, &text("Duration, value: 1s, other: 2")).contains("unknown field \"other\""));
}

#[test]
fn a_typed_struct_is_read_as_the_type_it_names() {
    let config = "envoy.config.core.v3.TypedExtensionConfig";
    let text = |inner: &str| {
        format!(
            "name: x\ntyped_config:\n  '@type': type.googleapis.com/xds.type.v3.TypedStruct\n  type_url: type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer\n  value: {inner}\n"
        )
    };
    let node = good(config, &text("{maxRequestBytes: 5}"));
    assert_eq!(node.field("typed_config").field("value").u32("max_request_bytes"), Some(5));
    assert!(
        one(config, &text("{max_request_byte: 5, maxRequestBytes: 5}")).contains("typed_config.value: unknown field")
    );
    assert!(
        one(config, &text("{maxRequestBytes: 5}").replace("buffer.v3.Buffer", "x.Nothing"))
            .contains("typed_config.type_url: unknown type")
    );
}

#[test]
fn messages_nested_too_deep_are_an_error() {
    let nest = |depth: usize| {
        let open = "{'@type': type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig, name: x, typed_config: ";
        format!(
            "name: x\ntyped_config: {}{{'@type': type.googleapis.com/google.protobuf.Empty}}{}",
            open.repeat(depth),
            "}".repeat(depth)
        )
    };
    let config = "envoy.config.core.v3.TypedExtensionConfig";
    good(config, &nest(40));
    assert!(one(config, &nest(100)).ends_with("messages are nested more than 100 deep"));
}

#[test]
fn maps_are_sorted_and_their_keys_checked() {
    let assignment = "envoy.config.bootstrap.v3.Bootstrap";
    let node = good(assignment, "node: {dynamic_parameters: {b: {params: {y: '1', x: '2'}}, a: {}}}");
    let entries = node.field("node").entries("dynamic_parameters");
    assert_eq!(entries.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(entries[1].1.entries("params")[0].0.as_ref(), "x");
    assert_eq!(
        one(assignment, "node: {dynamic_parameters: {b: {params: {x: 2}}}}"),
        "1:42: node.dynamic_parameters[\"b\"].params[\"x\"]: expected text, got the number 2; put it in quotes"
    );
}

#[test]
fn structs_are_plain_trees() {
    let node = good(BOOTSTRAP, "node: {metadata: {b: [1, null, {c: yes}], a: 0.5}}");
    let metadata = node.field("node").field("metadata");
    assert_eq!(metadata.pairs()[0].0.as_ref(), "a");
    assert_eq!(metadata.str("a"), "0.5");
    assert_eq!(metadata.list("b")[1].value, Value::Null);
    assert_eq!(metadata.list("b")[2].as_bool(), None);
    assert!(metadata.list("b")[2].bool("c"));
    assert_eq!(one(BOOTSTRAP, "node: {metadata: [1]}"), "1:8: node.metadata: expected a map, got a list");
}

#[test]
fn bytes_come_as_base64() {
    let source = "envoy.config.core.v3.DataSource";
    assert_eq!(
        good(source, "inline_bytes: AAH/").field("inline_bytes").value,
        Value::Bytes(Bytes::from_static(&[0, 1, 255]))
    );
    assert!(one(source, "inline_bytes: '*'").contains("expected base64 text"));
}

#[test]
fn wrappers_are_plain_and_present_even_as_default() {
    let node = good(LISTENER, "address: {pipe: {path: /x}}\nbind_to_port: false\n");
    assert_eq!(node.field("bind_to_port").value, Value::Bool(false));
    let bytes = encode(&node, LISTENER).expect("fits");
    assert!(bytes.ends_with(&[0]), "an empty wrapper stands on the wire: {bytes:?}");
}

#[test]
fn deprecated_fields_are_told_in_static_files() {
    let text = cluster("dns_refresh_rate: 5s");
    let (_, errors) = run(CLUSTER, &text, &STRICT);
    assert!(!errors.is_fatal());
    assert_eq!(errors.to_string(), "the field \"dns_refresh_rate\" is deprecated");
    assert_eq!(run(CLUSTER, &text, &DYNAMIC).1.0, []);
}

#[test]
fn an_unknown_message_is_an_error() {
    assert!(check(&Node::map(), "no.such.Message", &STRICT).1.is_fatal());
}
