//! Files that are no configuration, dialects by name and by keys, and options of loading. Nothing here may panic.

mod common;

use common::{Registry, errors, errors_in, good, good_in, options, without_sources};
use sota_config::{ConfigError, ConfigErrors, Mark, Node, Value, dialect::Dialect};
use sota_envoy::{CheckOptions, LoadOptions, check, encode, load, parse_text, render};
use std::fmt::Write;

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

fn only(mut found: Vec<String>) -> String {
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

#[test]
fn what_is_no_text() {
    for (bytes, reason) in [
        (&b""[..], "0:0: there is no configuration: the text is empty"),
        (b"\n# nothing\n", "0:0: there is no configuration: the text is empty"),
        (b"\x7fELF\x02\x01", "1:1: this is no text: control character 0x7f (protobuf files end in .pb)"),
        (b"admin: \xff\n", "1:8: this is not UTF-8 text; save the file as UTF-8"),
        (b"\xff\xfea\0", "0:0: the file is UTF-16; save it as UTF-8"),
        (b"[1, 2]", "1:1: a map of fields is expected here, not a list or a single value"),
    ] {
        assert_eq!(only(errors_in(None, bytes)), reason, "{bytes:?}");
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    assert_eq!(good("\u{feff}static_resources: {}\n").dialect, "envoy");
}

#[test]
fn a_file_of_100_mb_is_refused_at_once() {
    let bytes = vec![b' '; 100 * 1024 * 1024];
    let text = only(errors_in(None, &bytes));
    assert!(text.contains("the file is larger than 67108864 bytes"), "{text}");
    let registry = Registry::default();
    assert!(load(&bytes, "x.pb", &options(&registry)).is_err());
}

#[test]
fn an_alias_bomb_does_not_go_off() {
    let mut text = String::from("node: &a0 {metadata: {x: 1}}\n");
    for level in 1..30 {
        let _ = writeln!(text, "x{level}: &a{level} [*a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}]", level - 1);
    }
    assert!(only(errors(&text)).contains("alias"), "{:?}", errors(&text));
}

#[test]
fn nesting_has_an_end() {
    for text in [
        format!("node: {{metadata: {}1{}}}", "{a: ".repeat(10_000), "}".repeat(10_000)),
        format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)),
        (0..2_000).fold(String::new(), |mut text, level| {
            let _ = writeln!(text, "{}a:", " ".repeat(level));
            text
        }),
    ] {
        assert!(only(errors(&text)).contains("deep"), "{}", errors(&text)[0]);
    }
}

#[test]
fn an_any_in_an_any_has_an_end() {
    // Each level is an Any that holds an Any.
    let open = r#"{"@type": "type.googleapis.com/google.protobuf.Any", "value": "#;
    let inner = r#"{"@type": "type.googleapis.com/google.protobuf.Empty"}"#;
    let config = format!("{}{inner}{}", open.repeat(100), "}".repeat(100));
    let text = format!(
        r#"{{"static_resources": {{"listeners": [{{"name": "l", "address": {{"pipe": {{"path": "/x"}}}},
        "filter_chains": [{{"filters": [{{"name": "f", "typed_config": {config}}}]}}]}}]}}}}"#
    );
    assert!(errors(&text).iter().any(|e| e.contains("nested more than 100 deep")), "{:?}", errors(&text));
}

#[test]
fn no_cut_of_a_configuration_panics() {
    let registry = Registry::default();
    for name in ["simple.yaml", "simple.sota.yaml"] {
        let text = std::fs::read_to_string(common::repository("conf").join(name)).expect("a configuration");
        for at in (0..text.len()).step_by(13).filter(|at| text.is_char_boundary(*at)) {
            let (before, after) = text.split_at(at);
            for cut in
                [before.to_owned(), after.to_owned(), format!("{before}: - {after}"), format!("{before}\n{after}")]
            {
                for dialect in [None, Some("envoy"), Some("sota")] {
                    if let Err(found) = load(cut.as_bytes(), "x", &LoadOptions { dialect, ..options(&registry) }) {
                        assert!(found.is_fatal());
                        assert!(!render(&found, "x", cut.as_bytes()).is_empty());
                    }
                }
            }
        }
    }
}

#[test]
fn dialects_are_told_by_keys() {
    for (text, dialect) in [
        ("static_resources: {}", "envoy"),
        ("{\"staticResources\": {}}", "envoy"),
        ("node: {id: x, cluster: web}", "envoy"),
        ("admin: {}", "envoy"),
        ("listeners: []", "sota"),
        ("stats_flush_interval: 5s", "sota"),
    ] {
        assert_eq!(good(text).dialect, dialect, "{text}");
    }
    assert_eq!(good_in(Some("sota"), "static_resources: {}").dialect, "sota");
    assert!(only(errors_in(Some("envoy"), b"listeners: []")).contains("unknown field \"listeners\""));
}

#[test]
fn an_unknown_dialect_is_told_with_the_known_ones() {
    let text = only(errors_in(Some("nginx"), b"listeners: []"));
    assert_eq!(text, "0:0: unknown dialect \"nginx\"; known are envoy, sota");
    let text = only(errors_in(Some(""), b"listeners: []"));
    assert_eq!(text, "0:0: unknown dialect \"\"; known are envoy, sota");
}

/// `forward: {PORT: CLUSTER-ADDRESS}`: a TCP proxy for each entry.
struct Forwards;

impl Dialect for Forwards {
    fn name(&self) -> &str {
        "forwards"
    }

    fn translate(&self, document: &Node) -> Result<Node, ConfigErrors> {
        if !document.has("forward") {
            return Err(ConfigError::new("", document.mark, "the field \"forward\" is required").into());
        }
        let at = |mark: Mark, value: Value| Node { value, mark };
        let map = |mark, entries: Vec<(&str, Node)>| {
            at(mark, Value::Map(entries.into_iter().map(|(key, node)| (key.into(), node)).collect()))
        };
        let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
        for (port, target) in document.entries("forward") {
            let mark = target.mark;
            let text = |text: String| at(mark, Value::String(text.into()));
            listeners.push(map(
                mark,
                vec![("address", text(format!("127.0.0.1:{port}"))), ("tcp", text(format!("to_{port}")))],
            ));
            let endpoints = at(mark, Value::List(vec![target.clone()]));
            clusters.push(map(mark, vec![("name", text(format!("to_{port}"))), ("endpoints", endpoints)]));
        }
        let list = |items| Node::new(Value::List(items));
        Ok(map(document.mark, vec![("listeners", list(listeners)), ("clusters", list(clusters))]))
    }
}

#[test]
fn an_extension_brings_a_dialect() {
    let registry = Registry { dialects: vec![Box::new(Forwards)] };
    let options = LoadOptions { dialect: Some("forwards"), ..options(&registry) };
    let loaded = load(b"forward: {\"81\": \"10.0.0.1:80\"}", "x.yaml", &options).expect("a configuration");
    assert_eq!(loaded.dialect, "forwards");
    assert_eq!(loaded.bootstrap.listeners[0].addresses[0].to_string(), "127.0.0.1:81");
    assert_eq!(loaded.bootstrap.clusters[0].name, "to_81");

    let found = load(b"forward:\n  '81': nowhere\n", "x.yaml", &options).expect_err("no address");
    assert_eq!(found.0[0].mark, Mark { line: 2, column: 3 });
    assert_eq!(load(b"a: b", "x", &options).expect_err("no forward").0[0].reason, "the field \"forward\" is required");

    let unknown = LoadOptions { dialect: Some("x"), ..options };
    let found = load(b"a: b", "x", &unknown).expect_err("no such dialect");
    assert_eq!(found.0[0].reason, "unknown dialect \"x\"; known are envoy, sota, forwards");
    assert!(load(b"a", "x.pb", &options).expect_err("no bytes").0[0].reason.contains("of the Envoy dialect"));
}

#[test]
fn protobuf_bytes_give_the_same_model() {
    let text = std::fs::read(common::repository("conf/simple.yaml")).expect("a configuration");
    let registry = Registry::default();
    let check_options = CheckOptions {
        static_config: true,
        allow_unknown_fields: false,
        allow_unsupported: false,
        relaxed: false,
        claims: &|_| false,
    };
    let (node, _) = check(&parse_text(&text).expect("YAML"), BOOTSTRAP, &check_options);
    let bytes = encode(&node, BOOTSTRAP).expect("a checked document");
    let wire = load(&bytes, "x.pb", &options(&registry)).expect("protobuf");
    let yaml = load(&text, "x.yaml", &options(&registry)).expect("YAML");
    assert!(without_sources(wire.bootstrap) == without_sources(yaml.bootstrap));
    for at in 0..bytes.len() {
        let _ = load(&bytes[..at], "x.pb", &options(&registry));
    }
    assert!(load(b"", "x.pb", &options(&registry)).is_err());
    assert!(load(b"x", "x.pb_text", &options(&registry)).is_err());
}

#[test]
fn what_is_missing_on_this_host_is_an_error_only_if_strict() {
    let text = b"listeners:\n- address: 127.0.0.1:80\n  tcp: nowhere\n";
    let registry = Registry::default();
    let loaded = load(text, "x", &options(&registry)).expect("a warning");
    assert_eq!(loaded.warnings.0.len(), 1);
    let strict = LoadOptions { strict: true, ..options(&registry) };
    let found = load(text, "x", &strict).expect_err("an error");
    assert_eq!(found.0[0].to_string(), "listeners[0].tcp: unknown cluster \"nowhere\"; connections will be closed");
}

#[test]
fn what_is_unsupported_can_be_allowed_but_not_where_it_is_about_security() {
    let registry = Registry::default();
    let lenient = LoadOptions { allow_unsupported: true, ..options(&registry) };
    let text =
        b"static_resources: {clusters: [{name: a, health_checks: []}, {name: b, use_tcp_for_dns_lookups: true}]}\n";
    assert!(load(text, "x", &options(&registry)).is_err());
    let loaded = load(text, "x", &lenient).expect("warnings");
    assert_eq!(loaded.warnings.0.len(), 1, "{:?}", loaded.warnings);
    let text = b"static_resources: {clusters: [{name: a, transport_socket: {name: tls}}]}\n";
    assert!(load(text, "x", &lenient).is_err());
    let text = b"static_resources: {clusters: [{name: a, cluster_type: {name: envoy.cluster.dns}}]}\n";
    assert!(load(text, "x", &lenient).is_err());
}

#[test]
fn unknown_fields_can_be_allowed() {
    let registry = Registry::default();
    let lenient = LoadOptions { allow_unknown_static_fields: true, ..options(&registry) };
    for text in [&b"static_resources: {x: 1}"[..], b"listeners: []\nx: 1\n"] {
        assert!(load(text, "x", &options(&registry)).is_err());
        assert_eq!(load(text, "x", &lenient).expect("a warning").warnings.0.len(), 1);
    }
}

#[test]
fn findings_are_shown_with_their_lines() {
    let text = "listeners:\n- address: 127.0.0.1:80\n  tpc: a\n";
    let registry = Registry::default();
    let found = load(text.as_bytes(), "x.yaml", &options(&registry)).expect_err("an error");
    assert_eq!(
        render(&ConfigErrors(found.0.into_iter().filter(|e| e.mark.line == 3).collect()), "x.yaml", text.as_bytes()),
        "x.yaml:3:3: listeners[0]: unknown field \"tpc\"; did you mean \"tcp\"?\n   3 |   tpc: a\n     |   ^\n"
    );
}
