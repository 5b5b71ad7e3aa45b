//! What Envoy 1.40 makes of the same requests.

use super::ForwardedRules;
use crate::test_context::{stream_from, stream_info};
use sota_config::http::InternalAddressConfig;
use sota_plugin::{
    http::{HeaderName, Method, Protocol, RequestHead, Scheme},
    info::StreamInfo,
};

/// Neither `use_remote_address` nor anything else.
fn plain() -> ForwardedRules {
    ForwardedRules {
        use_remote_address: false,
        trusted_hops: 0,
        skip_append: false,
        detections: Box::default(),
        internal: InternalAddressConfig::default(),
        map_ipv4: false,
        append_port: false,
        scheme: None,
        user_agent: None,
        via: "".into(),
        generate_request_id: false,
        preserve_external_request_id: false,
        pack_trace_reason: true,
        client_certificate: super::ClientCertificate { mode: Default::default(), details: Default::default() },
        local_address: [192, 0, 2, 2].into(),
    }
}

fn remote() -> ForwardedRules {
    ForwardedRules { use_remote_address: true, ..plain() }
}

fn apply(rules: &ForwardedRules, fields: &[(&str, &str)], info: &mut StreamInfo) -> RequestHead {
    let mut head = RequestHead::new(Method::Get, "a", "/").unwrap();
    head.headers = fields.iter().copied().collect();
    rules.apply(&mut head, info, false, &[HeaderName::from_static("x-int")]).unwrap();
    head
}

/// The fields as lines, without those that every request has.
fn lines(head: &RequestHead) -> String {
    let field = |(name, value): (&[u8], &[u8])| {
        let text = format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        Some(text).filter(|text| text != "x-forwarded-proto: http")
    };
    head.headers.iter().filter_map(field).collect::<Vec<_>>().join(" | ")
}

/// `x-forwarded-for` of the client, then for each rule: the client that is believed and the field that goes on.
#[test]
fn chains_of_proxies() {
    let chains: &[(&[&str], &str)] = &[
        (&[], ""),
        (&["10.1.2.3"], "10.1.2.3"),
        (&["8.8.8.8"], "8.8.8.8"),
        (&["8.8.8.8, 10.0.0.1"], "8.8.8.8, 10.0.0.1"),
        (&["1.1.1.1, 8.8.8.8,9.9.9.9"], "1.1.1.1, 8.8.8.8,9.9.9.9"),
        (&["8.8.8.8", "9.9.9.9"], "8.8.8.8,9.9.9.9"),
        (&["2001:db8::1"], "2001:db8::1"),
        (&["[2001:db8::1]:80"], "[2001:db8::1]:80"),
        (&["8.8.8.8:1234"], "8.8.8.8:1234"),
        (&["nonsense"], "nonsense"),
        (&[""], ""),
        (&["fe80::1%lo"], "fe80::1%lo"),
        (&["8.8.8.8,"], "8.8.8.8,"),
    ];
    let own = "127.0.0.1";
    let clients: &[(ForwardedRules, [&str; 13])] = &[
        (
            plain(),
            [own, "10.1.2.3", "8.8.8.8", "10.0.0.1", "9.9.9.9", "9.9.9.9", "2001:db8::1", own, own, own, own, own, own],
        ),
        (
            ForwardedRules { trusted_hops: 1, ..plain() },
            [own, own, own, "8.8.8.8", "8.8.8.8", "8.8.8.8", own, own, own, own, own, own, "8.8.8.8"],
        ),
        (remote(), [own; 13]),
        (
            ForwardedRules { trusted_hops: 1, ..remote() },
            [own, "10.1.2.3", "8.8.8.8", "10.0.0.1", "9.9.9.9", "9.9.9.9", "2001:db8::1", own, own, own, own, own, own],
        ),
    ];
    for (rules, expected) in clients {
        for ((fields, joined), client) in chains.iter().zip(expected) {
            let fields: Vec<_> = fields.iter().map(|value| ("x-forwarded-for", *value)).collect();
            let mut info = stream_info();
            let head = apply(rules, &fields, &mut info);
            let context = format!("{fields:?} {} {}", rules.use_remote_address, rules.trusted_hops);
            assert_eq!(info.remote().ip().unwrap().to_string(), *client, "{context}");
            let own = if joined.is_empty() { "192.0.2.2".to_owned() } else { format!("{joined},192.0.2.2") };
            let forwarded = if rules.use_remote_address { own } else { (*joined).to_owned() };
            let sent = head.headers.get_str("x-forwarded-for").unwrap_or_default();
            assert_eq!(sent, forwarded, "{context}");
            let external = head.headers.get_str("x-envoy-external-address");
            assert_eq!(external, rules.use_remote_address.then_some(*client), "{context}");
            assert!(!info.is_internal && !head.headers.contains("x-envoy-internal"));
        }
    }
}

#[test]
fn the_peer_is_appended_as_it_is() {
    for (ip, map_ipv4, skip_append, shown) in [
        ("203.0.113.9", false, false, "203.0.113.9"),
        ("203.0.113.9", true, false, "::ffff:203.0.113.9"),
        ("2001:db8::9", true, false, "2001:db8::9"),
        ("::1", false, false, "192.0.2.2"),
        ("203.0.113.9", false, true, ""),
    ] {
        let rules = ForwardedRules { map_ipv4, skip_append, ..remote() };
        let head = apply(&rules, &[], &mut stream_from(ip.parse().unwrap()));
        assert_eq!(head.headers.get_str("x-forwarded-for").unwrap_or_default(), shown);
        assert_eq!(head.headers.get_str("x-envoy-external-address"), Some(ip));
    }
}

/// What a client says of itself in `x-envoy-*`, and what is left of it.
#[test]
fn internal_fields() {
    let fields: Vec<_> = [
        "internal",
        "external-address",
        "original-path",
        "original-host",
        "downstream-service-cluster",
        "downstream-service-node",
        "expected-rq-timeout-ms",
        "attempt-count",
        "decorator-operation",
        "upstream-alt-stat-name",
        "upstream-rq-timeout-ms",
        "upstream-rq-per-try-timeout-ms",
        "upstream-rq-timeout-alt-response",
        "max-retries",
        "retry-on",
        "retry-grpc-on",
        "retriable-status-codes",
        "retriable-header-names",
        "hedge-on-per-try-timeout",
        "ip-tags",
        "force-trace",
        "original-url",
        "is-timeout-retry",
        "peer-metadata",
        "unknown",
    ]
    .iter()
    .map(|name| format!("x-envoy-{name}"))
    .chain(["x-int".to_owned()])
    .collect();
    let fields: Vec<_> = fields.iter().map(|name| (name.as_str(), "1")).collect();
    let kept = |rules: &ForwardedRules| {
        let mut info = stream_info();
        let head = apply(rules, &fields, &mut info);
        let names = head.headers.iter().filter_map(|(name, value)| {
            let name = std::str::from_utf8(name).unwrap();
            Some(name.strip_prefix("x-envoy-").unwrap_or(name)).filter(|_| value == b"1")
        });
        (names.collect::<Vec<_>>().join(" "), info.is_internal)
    };
    let always = "attempt-count is-timeout-retry peer-metadata unknown";
    // External, but maybe not at the edge.
    let expected = "external-address original-path original-host downstream-service-cluster downstream-service-node \
                    attempt-count decorator-operation is-timeout-retry peer-metadata unknown";
    assert_eq!(kept(&plain()), (expected.into(), false));
    // At the edge: the address is ours.
    let (edge, internal) = kept(&remote());
    assert_eq!((edge.as_str(), internal), (always, false));
    let internal_ranges =
        InternalAddressConfig { unix_sockets: false, cidr_ranges: vec!["127.0.0.0/8".parse().unwrap()] };
    let trusting = ForwardedRules { internal: internal_ranges, ..remote() };
    let (internal_kept, internal) = kept(&trusting);
    assert_eq!((internal_kept.split(' ').count(), internal), (fields.len() - 1, true));
    // More than one address: whoever is in front is not known to be internal.
    let mut info = stream_info();
    let head = apply(&trusting, &[("x-forwarded-for", "10.0.0.1"), ("x-int", "1")], &mut info);
    let expected = "x-forwarded-for: 10.0.0.1,192.0.2.2 | x-envoy-external-address: 127.0.0.1";
    assert_eq!((lines(&head).as_str(), info.is_internal), (expected, false));
    let head = apply(&trusting, &[("x-int", "1")], &mut info);
    assert_eq!(lines(&head), "x-int: 1 | x-forwarded-for: 192.0.2.2 | x-envoy-internal: true");
}

#[test]
fn internal_by_the_list_itself() {
    let ranges = InternalAddressConfig { unix_sockets: false, cidr_ranges: vec!["10.0.0.0/8".parse().unwrap()] };
    let rules = ForwardedRules { internal: ranges, ..plain() };
    for (value, internal) in [("10.0.0.1", true), ("8.8.8.8, 10.0.0.1", false), ("8.8.8.8", false), ("", false)] {
        let mut info = stream_info();
        apply(&rules, &[("x-forwarded-for", value)], &mut info);
        assert_eq!(info.is_internal, internal, "{value}");
    }
}

#[test]
fn scheme_and_port() {
    let proto = |rules: &ForwardedRules, given: Option<&str>, tls| {
        let mut head = RequestHead::new(Method::Get, "a", "/").unwrap();
        if let Some(given) = given {
            head.headers.append_sanitized("x-forwarded-proto", given);
        }
        rules.apply(&mut head, &mut stream_info(), tls, &[]).unwrap();
        (head.headers.get_str("x-forwarded-proto").unwrap().to_owned(), head.scheme)
    };
    let hops = ForwardedRules { trusted_hops: 1, ..remote() };
    let forced = ForwardedRules { scheme: Some(Scheme::Https), ..plain() };
    for (rules, given, tls, expected, scheme) in [
        (plain(), None, false, "http", Scheme::Http),
        (plain(), None, true, "https", Scheme::Https),
        (plain(), Some("https"), false, "https", Scheme::Https),
        (plain(), Some("gopher"), false, "gopher", Scheme::Http),
        (remote(), Some("https"), false, "http", Scheme::Http),
        (hops.clone(), Some("https"), false, "https", Scheme::Https),
        (hops, None, true, "https", Scheme::Https),
        (forced, Some("http"), false, "https", Scheme::Https),
    ] {
        assert_eq!(proto(&rules, given, tls), (expected.into(), scheme), "{given:?}");
    }
    for (protocol, named, expected) in [
        (Protocol::Http11, Scheme::Https, Scheme::Https),
        (Protocol::Http2, Scheme::Https, Scheme::Https),
        (Protocol::Http2, Scheme::Http, Scheme::Http),
    ] {
        let mut head = RequestHead::new(Method::Get, "a", "/").unwrap();
        (head.protocol, head.scheme) = (protocol, named);
        plain().apply(&mut head, &mut stream_info(), expected == Scheme::Http, &[]).unwrap();
        assert_eq!(head.scheme, expected);
    }
    let port = |rules: ForwardedRules, given: &[(&str, &str)]| {
        let rules = ForwardedRules { append_port: true, ..rules };
        apply(&rules, given, &mut stream_info()).headers.get_str("x-forwarded-port").unwrap().to_owned()
    };
    let given: &[_] = &[("x-forwarded-port", "1")];
    assert_eq!((port(plain(), &[]), port(plain(), given)), ("2000".into(), "1".into()));
    assert_eq!(port(remote(), given), "2000");
    assert_eq!(port(ForwardedRules { trusted_hops: 2, ..remote() }, given), "1");
}

#[test]
fn user_agent_via_and_request_id() {
    let rules = ForwardedRules { user_agent: Some(("mycluster".into(), "me".into())), via: "mesh".into(), ..plain() };
    let sent = |fields: &[(&str, &str)]| lines(&apply(&rules, fields, &mut stream_info()));
    let rest = "x-envoy-downstream-service-node: me | via: mesh";
    let cluster = "x-envoy-downstream-service-cluster: mycluster";
    assert_eq!(sent(&[]), format!("{cluster} | user-agent: mycluster | {rest}"));
    assert_eq!(sent(&[("user-agent", "curl")]), format!("user-agent: curl | {cluster} | {rest}"));
    assert_eq!(sent(&[("via", "1.1 x"), ("user-agent", "c")]).split(" | ").next(), Some("via: 1.1 x, mesh"));

    let id = |rules: ForwardedRules, given: &[(&str, &str)]| {
        let mut info = stream_info();
        let head = apply(&ForwardedRules { generate_request_id: true, ..rules }, given, &mut info);
        let id = head.headers.get_str("x-request-id").unwrap().to_owned();
        assert_eq!(info.request_id.as_deref(), Some(&*id));
        id
    };
    let mine: &[_] = &[("x-request-id", "mine")];
    assert_eq!((id(plain(), mine), id(plain(), &[]).len()), ("mine".into(), 36));
    assert_eq!(id(remote(), mine).len(), 36);
    assert_eq!(id(ForwardedRules { preserve_external_request_id: true, ..remote() }, mine), "mine");
    let mut info = stream_info();
    apply(&plain(), &[], &mut info);
    assert_eq!(info.request_id, None);
}

#[test]
fn a_bad_referer_goes_no_further() {
    let sent = |fields: &[(&str, &str)]| lines(&apply(&plain(), fields, &mut stream_info()));
    assert_eq!(sent(&[("referer", "http://a/b")]), "referer: http://a/b");
    assert_eq!(sent(&[("referer", "http://a/#f")]), "");
    assert_eq!(sent(&[("referer", "/a"), ("referer", "/a")]), "");
}
