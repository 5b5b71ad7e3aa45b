//! The command line as a user meets it: exit codes, what `validate` says about bad files, a start that fails.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Process, free_port, temp_dir};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long any of these commands may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A configuration with one listener that echoes.
fn echo(port: u16) -> String {
    format!(
        "static_resources:
  listeners:
  - name: echoing
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.echo
"
    )
}

/// Runs the binary to its end; exit code, and stdout and stderr together.
#[track_caller]
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let folder = temp_dir();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sota-mesh"));
    command.args(arguments);
    let mut process = Process::spawn(command, &folder.path().join("log"));
    (process.wait(LIMIT), process.log())
}

/// `validate` of a file with these bytes.
#[track_caller]
fn validate(bytes: impl AsRef<[u8]>, more: &[&str]) -> (Option<i32>, String) {
    let folder = temp_dir();
    let file = folder.path().join("x.yaml");
    fs::write(&file, bytes).unwrap();
    run(&[&["validate", "-c", file.to_str().unwrap()], more].concat())
}

/// The file is refused with exit code 1, and the reason has `reason` in it.
#[track_caller]
fn refused(bytes: impl AsRef<[u8]>, reason: &str) {
    let (code, text) = validate(bytes, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(reason), "{reason:?} is missing in:\n{text}");
    assert!(!text.contains("panicked"), "{text}");
}

fn conf(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)).unwrap()
}

#[test]
fn help_and_version_are_no_errors() {
    let (code, text) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for word in ["start", "validate", "support"] {
        assert!(text.contains(word), "{text}");
    }
    let (code, text) = run(&["--version"]);
    assert_eq!((code, text.trim()), (Some(0), concat!("sota-mesh ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn bad_usage_ends_with_2() {
    for arguments in [
        &[][..],
        &["bogus"],
        &["start"],
        &["validate"],
        &["start", "-c", "x.yaml", "--concurrency", "0"],
        &["start", "-c", "x.yaml", "--concurrency", "many"],
        &["start", "-c", "x.yaml", "--log-level", "loud"],
        &["start", "-c", "x.yaml", "--component-log-level", "nothing:debug"],
        &["start", "-c", "x.yaml", "--log-format", "xml"],
    ] {
        let (code, text) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(!text.is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_files_of_the_quick_start_are_valid() {
    for name in ["simple.yaml", "simple.sota.yaml", "line.yaml", "line.sota.yaml"] {
        let (code, text) = validate(conf(name), &[]);
        assert_eq!(code, Some(0), "{name}: {text}");
        assert!(text.contains("OK"), "{text}");
    }
    for dialect in ["envoy", "sota"] {
        assert_eq!(validate(conf("simple.yaml"), &["-t", dialect]).0, Some(0));
    }
}

#[test]
fn validate_opens_no_socket() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let (code, text) = validate(echo(port), &[]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_port_in_use_names_listener_and_address() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
    let address = taken.local_addr().unwrap();
    let folder = temp_dir();
    let file = folder.path().join("x.yaml");
    fs::write(&file, echo(address.port())).unwrap();
    let (code, text) = run(&["start", "-c", file.to_str().unwrap(), "--concurrency", "2"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("\"echoing\"") && text.contains(&address.to_string()), "{text}");
}

#[test]
fn an_error_shows_line_and_column() {
    let (code, text) = validate(conf("simple.yaml").replace("stat_prefix", "stat_prefx"), &[]);
    assert_eq!(code, Some(1), "{text}");
    let at = "x.yaml:16:11: static_resources.listeners[0].filter_chains[0].filters[0].typed_config: ";
    assert!(text.contains(&format!("{at}unknown field \"stat_prefx\"; did you mean \"stat_prefix\"?")), "{text}");
    assert!(text.contains("  16 |           stat_prefx: ingress_http\n     |           ^"), "{text}");
}

#[test]
fn all_errors_are_reported_at_once() {
    let text = echo(0).replace("filter_chains", "filter_chain").replace("port_value: 0", "port_value: 70000");
    let (code, text) = validate(text, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("filter_chain") && text.contains("port_value"), "{text}");
}

#[test]
fn errors_of_extensions_are_reported_beside_those_of_the_document() {
    let listener = |name: &str, filter: &str| {
        format!(
            "  - {name}\n    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n    filter_chains: [{{filters: [{filter}]}}]\n"
        )
    };
    let line = |field: &str| {
        format!("{{name: a, typed_config: {{\"@type\": type.sota.com/sota.filters.network.simple, {field}}}}}")
    };
    let redis = "{name: a, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy, \
                 stat_prefix: x, settings: {op_timeout: 1s}, prefix_routes: {catch_all_route: {cluster: broken}}}}";
    let file = [
        "static_resources:\n  listeners:\n",
        &listener("{name: zero", "{name: no.such.filter}").replacen("{name", "name", 1),
        &listener("name: one", &line("max_line_bytes: 0")),
        &listener("name: two\n    stat_prefx: x", &line("max_line_byts: 5")),
        &listener("name: three", redis),
        "  clusters:\n  - {name: broken, connect_timeout: -1s}\n",
    ]
    .concat();
    let (code, text) = validate(file, &[]);
    assert_eq!(code, Some(1), "{text}");
    for reason in [
        "no.such.filter",
        "static_resources.listeners[1].filter_chains[0].filters[0].typed_config.max_line_bytes: a number of octets",
        "static_resources.listeners[2]: unknown field \"stat_prefx\"",
        "static_resources.listeners[2].filter_chains[0].filters[0].typed_config: unknown field \"max_line_byts\"",
        "static_resources.clusters[0].connect_timeout",
    ] {
        assert!(text.contains(reason), "{reason:?} is missing in:\n{text}");
    }
    assert!(!text.contains("no cluster"), "{text}");
    let lines: Vec<u32> =
        text.lines().filter_map(|line| line.split("x.yaml:").nth(1)?.split(':').next()?.parse().ok()).collect();
    assert!(lines.is_sorted() && lines.len() >= 5, "{text}");
}

#[test]
fn what_only_building_finds_has_a_place_too() {
    let config = echo(0)
        + r#"  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              request_headers_to_add:
              - header: {key: fine, value: fine}
              - header: {key: wrong, value: "%NOPE%"}
              - header:
                  key: worse
                  value: "%REQ(%"
              routes:
              - match: {prefix: /}
                direct_response: {status: 200}
                response_headers_to_add: [{header: {key: bad, value: "%"}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#;
    let (code, text) = validate(&config, &[]);
    assert_eq!(code, Some(1), "{text}");
    let host = "static_resources.listeners[1].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0]";
    for (place, path, header) in [
        ("22:38", "request_headers_to_add[1]", "wrong"),
        ("25:19", "request_headers_to_add[2]", "worse"),
        ("29:63", "routes[0].response_headers_to_add[0]", "bad"),
    ] {
        let expected = format!("x.yaml:{place}: {host}.{path}.header.value: value of header {header}: ");
        assert!(text.contains(&expected), "{expected:?} is missing in:\n{text}");
    }
}

#[test]
fn unknown_fields_can_be_let_through() {
    let text = echo(0).replace("  - name: echoing", "  - name: echoing\n    colour: red");
    refused(&text, "unknown field \"colour\"");
    let (code, text) = validate(&text, &["--allow-unknown-static-fields"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("colour"), "{text}");
}

#[test]
fn an_unknown_extension_is_refused_by_name() {
    refused(echo(0).replace("network.echo", "network.ecko"), "envoy.filters.network.ecko");
}

#[test]
fn an_unknown_dialect_is_refused_by_name() {
    let (code, text) = validate(echo(0), &["-t", "nope"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("\"nope\"") && text.contains("envoy") && text.contains("sota"), "{text}");
}

#[test]
fn a_file_that_is_not_there_is_refused_by_name() {
    for command in ["validate", "start"] {
        let (code, text) = run(&[command, "-c", "/nonexistent/x.yaml"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("/nonexistent/x.yaml"), "{text}");
    }
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    refused("", "empty");
    refused(b"\x00\x01\x02\xff\xfe binary", "");
    refused(b"static_resources: \"\xc3\x28\"\n", "");
    let utf16: Vec<u8> = std::iter::once(0xfeff_u16).chain(echo(0).encode_utf16()).flat_map(u16::to_le_bytes).collect();
    refused(utf16, "UTF-16");
    refused("static_resources:\n\tlisteners: []\n", "tabs");
    refused(format!("{}---\n{}", echo(0), echo(0)), "second document");
    refused("static_resources:\n  listeners: []\n  listeners: []\n", "given twice");
    refused("[1, 2", "");
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let (code, text) = validate(format!("\u{feff}{}", echo(0)), &[]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn nesting_and_aliases_are_bounded() {
    let deep = 10_000;
    refused(format!("static_resources: {}{}\n", "[".repeat(deep), "]".repeat(deep)), "nested more than");
    refused(format!("{}1{}", "{\"a\":".repeat(deep), "}".repeat(deep)), "nested more than");
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..12 {
        let inner = vec![format!("*a{}", i - 1); 9].join(",");
        bomb.push_str(&format!("a{i}: &a{i} [{inner}]\n"));
    }
    refused(format!("{bomb}static_resources: {{listeners: *a11}}\n"), "aliases expand");
}

#[test]
fn support_lists_every_field_in_three_formats() {
    let (code, text) = run(&["support"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("envoy.config.listener.v3.Listener\n"), "{text}");
    let (code, markdown) = run(&["support", "--format", "markdown"]);
    assert_eq!(code, Some(0));
    assert!(markdown.contains("\n## envoy.config.listener.v3.Listener\n"), "{markdown}");
    let (code, json) = run(&["support", "--format", "json"]);
    assert_eq!(code, Some(0));
    assert!(json.trim_start().starts_with(['{', '[']), "{json}");
}

#[test]
fn validate_writes_no_access_log_and_warns_of_a_missing_folder() {
    let folder = temp_dir();
    let (log, config) = (folder.path().join("access.log"), folder.path().join("c.yaml"));
    let write = |path: &Path| {
        let text = format!(
            "listeners:\n- address: 127.0.0.1:0\n  http:\n    access_log: [{}]\n    routes:\n    - {{prefix: /, cluster: web}}\n\
             clusters:\n- name: web\n  endpoints: [127.0.0.1:1]\n",
            path.display()
        );
        fs::write(&config, text).unwrap();
    };
    let validate = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sota-mesh"))
            .args(["validate", "-c"])
            .arg(&config)
            .args(more)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    write(&log);
    assert_eq!(validate(&["--strict"]).0, Some(0), "{}", validate(&["--strict"]).1);
    assert!(!log.exists());
    write(&folder.path().join("nowhere/access.log"));
    let (code, text) = validate(&[]);
    assert!(code == Some(0) && text.contains("warning: the folder of the access log"), "{text}");
    assert_eq!(validate(&["--strict"]).0, Some(1));
}

#[test]
fn a_file_that_a_configuration_names_may_be_missing_where_it_is_only_checked() {
    let http = |manager: &str, body: &str| {
        format!(
            "    - name: envoy.filters.network.http_connection_manager
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: a
        {manager}
        route_config: {{virtual_hosts: [{{name: a, domains: [\"*\"], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {body}}}}}]}}]}}
        http_filters: [{{name: envoy.filters.http.router}}]
"
        )
    };
    let absent = "{filename: /nowhere/at/all}";
    let present = "{inline_string: here}";
    let logger = "{name: stdout, typed_config: {\"@type\": \
                  type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog, \
                  log_format: {text_format_source: {filename: /nowhere/at/all}}}}";
    let answer = "    - name: envoy.filters.network.direct_response
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config
        response: {filename: /nowhere/at/all}
";
    let local_reply = format!(
        "local_reply_config: {{mappers: [{{filter: {{response_flag_filter: {{flags: [NR]}}}}, body: {absent}}}]}}"
    );
    for (filter, place) in [
        (http("", absent), "x.yaml:12:136: "),
        (http("", "{environment_variable: SOTA_NOT_SET}"), "x.yaml:12:136: "),
        (http(&local_reply, present), "x.yaml:11:"),
        (http(&format!("access_log: [{logger}]"), present), "x.yaml: "),
        (answer.to_owned(), "x.yaml: "),
    ] {
        let config =
            echo(0).replace("      - name: envoy.filters.network.echo\n", &filter.replace("\n    ", "\n      "));
        let config = config.replace("filters:\n    - name", "filters:\n      - name");
        let (code, text) = validate(&config, &[]);
        assert!(code == Some(0) && text.contains(place) && text.contains("warning: "), "{place}: {code:?} {text}");
        assert_eq!(validate(&config, &["--strict"]).0, Some(1), "{config}");
        let folder = temp_dir();
        let file = folder.path().join("x.yaml");
        fs::write(&file, &config).unwrap();
        let (code, text) = run(&["start", "-c", file.to_str().unwrap(), "--concurrency", "1"]);
        assert!(code == Some(1) && (text.contains("/nowhere/at/all") || text.contains("SOTA_NOT_SET")), "{text}");
    }
}

#[test]
fn a_file_of_100_megabytes_is_refused() {
    let folder = temp_dir();
    for (name, line) in
        [("x.yaml", &b"# a comment that goes on and on and on and on and on and on\n"[..]), ("x.pb", &[0; 64])]
    {
        let file = folder.path().join(name);
        fs::write(&file, line.repeat((100 << 20) / line.len())).unwrap();
        for command in ["validate", "start"] {
            let (code, text) = run(&[command, "-c", file.to_str().unwrap()]);
            assert_eq!(code, Some(1), "{text}");
            assert!(
                text.contains(name) && text.contains("larger than 67108864 bytes") && !text.contains("panicked"),
                "{text}"
            );
        }
        fs::remove_file(&file).unwrap();
    }
}
