use super::*;
use crate::testing::{building, config, connection, request};
use sota_config::TypedConfig;
use sota_plugin::{
    http::{Method, Protocol},
    info::{CertificateInfo, PeerCertificate, TlsInfo},
};
use std::{net::SocketAddr, rc::Rc, time::SystemTime};

const FILTER: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";

fn engine(yaml: &str) -> Result<Engine, ConfigError> {
    let TypedConfig::Value { node, .. } = config(FILTER, yaml) else { unreachable!() };
    let options = Options { level: Level::Http, is_shadow: false, counts_policies: false };
    building(|cx| Engine::read(&node, ("rules", "matcher"), &options, cx)).map(Option::unwrap)
}

fn certificate() -> CertificateInfo {
    let name = |text: &str| vec![text.into()];
    CertificateInfo {
        der: Box::default(),
        subject: "CN=client".into(),
        issuer: Box::default(),
        serial: Box::default(),
        sha256: Box::default(),
        sha1: Box::default(),
        uri_sans: name("spiffe://cluster.local/ns/a/sa/b"),
        dns_sans: name("client.example"),
        ip_sans: Vec::new(),
        email_sans: name("a@client.example"),
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH,
    }
}

/// A connection from 10.0.0.2, by 10.0.0.3, to 10.0.0.1:80, on behalf of 10.0.0.4.
fn stream() -> StreamInfo {
    let address = |last, port| SocketAddr::from(([10, 0, 0, last], port)).into();
    let mut connection = connection();
    connection.local = address(1, 80);
    connection.remote = address(3, 1);
    connection.restore_remote(address(2, 1));
    connection.server_name = Some("server.example".into());
    let tls = TlsInfo { peer: vec![Arc::new(certificate())], ..TlsInfo::default() };
    let _ = connection.tls.set(Box::new(tls));
    connection.peer_certificate.set(PeerCertificate::Validated);
    let mut info = StreamInfo::new(Rc::new(connection), 1, Some(Protocol::Http11));
    info.remote = Some(address(4, 1));
    info.metadata.set("jwt", "iss", Node::string("me"));
    info.metadata.set("jwt", "aud", Node::new(Value::List(vec![Node::string("x"), Node::string("you")])));
    info.filter_state.set("peer", Rc::new("spiffe://p".to_owned()));
    info
}

fn rules(permission: &str, principal: &str) -> String {
    format!("rules: {{policies: {{p: {{permissions: [{{{permission}}}], principals: [{{{principal}}}]}}}}}}")
}

fn allows(yaml: &str, target: &str, fields: &[(&str, &str)], info: &StreamInfo) -> bool {
    let head = request(Method::Get, target, fields);
    let engine = engine(yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
    engine.decide(&Subject { connection: &info.connection, request: Some((&head, info)) }).is_allowed
}

#[test]
fn every_permission() {
    let info = stream();
    let template = "uri_template: {name: t, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.path.match.\
                    uri_template.v3.UriTemplateMatchConfig, path_template: \"";
    for (permission, expected) in [
        ("any: true".to_owned(), true),
        ("and_rules: {rules: [{any: true}, {destination_port: 80}]}".to_owned(), true),
        ("and_rules: {rules: [{any: true}, {destination_port: 81}]}".to_owned(), false),
        ("or_rules: {rules: [{destination_port: 81}, {destination_port: 80}]}".to_owned(), true),
        ("or_rules: {rules: [{destination_port: 81}]}".to_owned(), false),
        ("not_rule: {destination_port: 81}".to_owned(), true),
        ("not_rule: {any: true}".to_owned(), false),
        ("header: {name: x-a, string_match: {exact: v}}".to_owned(), true),
        ("header: {name: ':method', string_match: {exact: POST}}".to_owned(), false),
        ("url_path: {path: {exact: /a/b}}".to_owned(), true),
        ("url_path: {path: {suffix: q}}".to_owned(), false),
        ("destination_ip: {address_prefix: 10.0.0.1, prefix_len: 32}".to_owned(), true),
        ("destination_ip: {address_prefix: '::', prefix_len: 0}".to_owned(), false),
        ("destination_port_range: {start: 80, end: 81}".to_owned(), true),
        ("destination_port_range: {start: 79, end: 80}".to_owned(), false),
        ("requested_server_name: {suffix: .example}".to_owned(), true),
        ("requested_server_name: {exact: ''}".to_owned(), false),
        ("metadata: {filter: jwt, path: [{key: iss}], value: {string_match: {exact: me}}}".to_owned(), true),
        (
            "metadata: {filter: jwt, path: [{key: aud}], value: {list_match: {one_of: {string_match: {exact: you}}}}}"
                .to_owned(),
            true,
        ),
        (
            "sourced_metadata: {metadata_matcher: {filter: jwt, path: [{key: iss}], value: {present_match: true}}}"
                .to_owned(),
            true,
        ),
        (
            "sourced_metadata: {metadata_source: ROUTE, metadata_matcher: {filter: jwt, path: [{key: iss}], value: \
             {present_match: true}, invert: true}}"
                .to_owned(),
            false,
        ),
        (format!("{template}/a/{{x}}\"}}}}"), true),
        (format!("{template}/a\"}}}}"), false),
    ] {
        let found = allows(&rules(&permission, "any: true"), "/a/b?q", &[("x-a", "v")], &info);
        assert_eq!(found, expected, "{permission}");
    }
}

#[test]
fn every_principal() {
    let info = stream();
    let mtls = "custom: {name: m, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.rbac.principals.\
                mtls_authenticated.v3.Config, ";
    let range = |last: u8| format!("{{address_prefix: 10.0.0.{last}, prefix_len: 32}}");
    let cases = [
        ("authenticated: {}".to_owned(), true),
        ("authenticated: {principal_name: {exact: 'spiffe://cluster.local/ns/a/sa/b'}}".to_owned(), true),
        ("authenticated: {principal_name: {exact: client.example}}".to_owned(), true),
        ("authenticated: {principal_name: {exact: CN=client}}".to_owned(), true),
        ("authenticated: {principal_name: {safe_regex: {regex: '.*/ns/b/.*'}}}".to_owned(), false),
        ("filter_state: {key: peer, string_match: {prefix: 'spiffe://'}}".to_owned(), true),
        ("filter_state: {key: none, string_match: {contains: x}}".to_owned(), false),
        (format!("source_ip: {}", range(2)), true),
        (format!("direct_remote_ip: {}", range(3)), true),
        (format!("remote_ip: {}", range(4)), true),
        (format!("remote_ip: {}", range(3)), false),
        ("and_ids: {ids: [{any: true}, {not_id: {any: true}}]}".to_owned(), false),
        ("or_ids: {ids: [{not_id: {any: true}}, {url_path: {path: {prefix: /}}}]}".to_owned(), true),
        (format!("{mtls}any_validated_client_certificate: true}}}}"), true),
        (format!("{mtls}san_matcher: {{san_type: URI, matcher: {{prefix: spiffe}}}}}}}}"), true),
        (format!("{mtls}san_matcher: {{san_type: DNS, matcher: {{prefix: spiffe}}}}}}}}"), false),
        (format!("{mtls}san_matcher: {{san_type: EMAIL, matcher: {{prefix: a}}}}}}}}"), true),
    ];
    for (principal, expected) in &cases {
        assert_eq!(allows(&rules("any: true", principal), "/", &[], &info), *expected, "{principal}");
    }
    // Without TLS nobody is authenticated, whatever the certificate would have to say.
    let plain = crate::testing::stream();
    for (principal, _) in cases.iter().filter(|(text, _)| text.contains("uthenticated")) {
        assert!(!allows(&rules("any: true", principal), "/", &[], &plain), "{principal}");
    }
    // One that was shown and not checked is no proof.
    info.connection.peer_certificate.set(PeerCertificate::Presented);
    assert!(!allows(&rules("any: true", &cases[13].0), "/", &[], &info));
}

#[test]
fn actions_and_the_order_of_policies() {
    let info = stream();
    let decide = |action: &str, path: &str| {
        let yaml = format!(
            "rules: {{action: {action}, policies: {{z: {{permissions: [{{any: true}}], principals: [{{url_path: {{path: \
             {{prefix: /a}}}}}}]}}, b c: {{permissions: [{{url_path: {{path: {{prefix: /a/b}}}}}}], principals: [{{any: \
             true}}]}}}}}}"
        );
        let (engine, head) = (engine(&yaml).unwrap(), request(Method::Get, path, &[]));
        let verdict = engine.decide(&Subject { connection: &info.connection, request: Some((&head, &info)) });
        let mut metadata = Metadata::default();
        verdict.note_log(&mut metadata);
        let hint = metadata.path(LOG_NAMESPACE, [LOG_KEY]).and_then(Node::as_bool);
        (verdict.is_allowed, verdict.details(), hint)
    };
    let details = |name: &str| format!("rbac_access_denied_matched_policy[{name}]");
    assert_eq!(decide("ALLOW", "/a/b"), (true, details("b_c"), None));
    assert_eq!(decide("ALLOW", "/a"), (true, details("z"), None));
    assert_eq!(decide("ALLOW", "/b"), (false, details("none"), None));
    assert_eq!(decide("DENY", "/a/b"), (false, details("b_c"), None));
    assert_eq!(decide("DENY", "/b"), (true, details("none"), None));
    assert_eq!(decide("LOG", "/a"), (true, details("z"), Some(true)));
    assert_eq!(decide("LOG", "/b"), (true, details("none"), Some(false)));
}

#[test]
fn a_matcher_denies_what_it_has_no_leaf_for() {
    let info = stream();
    let input = |name: &str| {
        format!(
            "{{name: i, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.matching.common_inputs.{name}}}}}"
        )
    };
    let action = |name: &str, action: &str| {
        format!(
            "{{action: {{name: a, typed_config: {{\"@type\": type.googleapis.com/envoy.config.rbac.v3.Action, name: \
             {name}, action: {action}}}}}}}"
        )
    };
    let decide = |matcher: &str, fields: &[(&str, &str)]| {
        let (engine, head) = (engine(matcher).unwrap(), request(Method::Get, "/", fields));
        let verdict = engine.decide(&Subject { connection: &info.connection, request: Some((&head, &info)) });
        (verdict.is_allowed, verdict.policy.map(|policy| policy.name.to_string()), verdict.log)
    };
    let by_header = format!(
        "matcher: {{matcher_tree: {{input: {{name: i, typed_config: {{\"@type\": type.googleapis.com/envoy.type.matcher.v3.\
         HttpRequestHeaderMatchInput, header_name: x-who}}}}, exact_match_map: {{map: {{me: {}, you: {}, log: {}}}}}}}}}",
        action("mine", "ALLOW"),
        action("yours", "DENY"),
        action("logged", "LOG")
    );
    assert_eq!(decide(&by_header, &[("x-who", "me")]), (true, Some("mine".into()), Some(false)));
    assert_eq!(decide(&by_header, &[("x-who", "you")]), (false, Some("yours".into()), Some(false)));
    assert_eq!(decide(&by_header, &[("x-who", "log")]), (true, Some("logged".into()), Some(true)));
    assert_eq!(decide(&by_header, &[("x-who", "me"), ("x-who", "you")]), (false, None, None));
    assert_eq!(decide(&by_header, &[]), (false, None, None));
    for (name, value) in [
        ("network.v3.DestinationIPInput", "10.0.0.1"),
        ("network.v3.DestinationPortInput", "80"),
        ("network.v3.SourceIPInput", "10.0.0.4"),
        ("network.v3.SourcePortInput", "1"),
        ("network.v3.DirectSourceIPInput", "10.0.0.3"),
        ("network.v3.ServerNameInput", "server.example"),
        ("ssl.v3.UriSanInput", "spiffe://cluster.local/ns/a/sa/b"),
        ("ssl.v3.DnsSanInput", "client.example"),
        ("ssl.v3.SubjectInput", "CN=client"),
    ] {
        let list = format!(
            "matcher: {{matcher_list: {{matchers: [{{predicate: {{single_predicate: {{input: {}, value_match: {{exact: \
             {value:?}}}}}}}, on_match: {}}}]}}}}",
            input(name),
            action("a", "ALLOW")
        );
        assert_eq!(decide(&list, &[]), (true, Some("a".into()), None), "{name}");
    }
    let by_range = format!(
        "matcher: {{matcher_list: {{matchers: [{{predicate: {{single_predicate: {{input: {}, custom_match: {{name: ip, \
         typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.matching.input_matchers.ip.v3.Ip, stat_prefix: s, \
         cidr_ranges: [{{address_prefix: 10.0.0.0, prefix_len: 29}}]}}}}}}}}, on_match: {}}}]}}}}",
        input("network.v3.SourceIPInput"),
        action("near", "ALLOW")
    );
    assert_eq!(decide(&by_range, &[]), (true, Some("near".into()), None));
}

/// Nobody gets in by writing a path or a field another way. The path is matched as it stands: the connection manager
/// has normalised it, if it is told to.
#[test]
fn other_ways_to_write_the_same() {
    let info = stream();
    let deny = |permission: &str| rules(permission, "any: true").replace("rules: {", "rules: {action: DENY, ");
    let admin = deny("url_path: {path: {prefix: /admin}}");
    for target in ["/admin", "/admin?x", "/admin#x", "/admin/x"] {
        assert!(!allows(&admin, target, &[], &info), "{target}");
    }
    let cased = deny("url_path: {path: {prefix: /admin, ignore_case: true}}");
    assert!(!allows(&cased, "/ADMIN", &[], &info));
    // One value of a repeated field is enough, wherever it stands.
    let header = deny("header: {name: X-Role, string_match: {exact: root}}");
    for fields in [[("x-role", "root"), ("x-role", "user")], [("x-role", "user"), ("x-role", "root")]] {
        assert!(!allows(&header, "/", &fields, &info), "{fields:?}");
    }
}

#[test]
fn what_is_refused() {
    for (permission, reason) in [
        ("destination_port_range: {start: 2, end: 2}", "2 to 2 is no range of ports"),
        (
            "destination_ip: {address_prefix: 10.0.0.0, prefix_len: 33}",
            "a prefix of 10.0.0.0 has at most 32 bits, not 33",
        ),
        ("destination_ip: {address_prefix: x, prefix_len: 3}", "malformed IP address \"x\""),
        ("url_path: {path: {safe_regex: {regex: '('}}}", "unclosed group"),
    ] {
        let error = engine(&rules(permission, "any: true")).unwrap_err().to_string();
        assert!(error.contains("here.rules.policies[\"p\"].permissions[0]"), "{error}");
        assert!(error.contains(reason), "{error}");
    }
}
