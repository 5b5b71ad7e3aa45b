//! Who gets in, as a whole process: by certificates, by paths, by configuration of routes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Authority, Certificate, Origin, ProxyProcess, Reply, Subject, TlsClient, get};
use std::fs;

const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
const PER_ROUTE: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute";

/// A listener with these rules for connections and for requests; `/open` has no rules for requests.
fn listener(name: &str, transport: &str, network: &str, http: &str) -> String {
    format!(
        "  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.rbac
        typed_config: {{\"@type\": {NETWORK}, stat_prefix: {name}, {network}}}
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          normalize_path: true
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes:
              - match: {{prefix: /open}}
                route: {{cluster: out}}
                typed_per_filter_config: {{envoy.filters.http.rbac: {{\"@type\": {PER_ROUTE}}}}}
              - {{match: {{prefix: /}}, route: {{cluster: out}}}}
          http_filters:
          - name: envoy.filters.http.rbac
            typed_config: {{\"@type\": {HTTP}, {http}}}
          - name: envoy.filters.http.router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
{transport}"
    )
}

fn start(listeners: &[String], origin: &Origin) -> ProxyProcess {
    let config = format!(
        "static_resources:\n  listeners:\n{}  clusters:\n  - name: out\n    type: STATIC\n    load_assignment:\n      \
         cluster_name: out\n      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, \
         port_value: {}}}}}}}}}]}}]\n",
        listeners.concat(),
        origin.address().ip(),
        origin.address().port()
    );
    ProxyProcess::start(env!("CARGO_BIN_EXE_sota-mesh"), &config)
}

fn only(principal: &str) -> String {
    format!("rules: {{policies: {{p: {{permissions: [{{any: true}}], principals: [{{{principal}}}]}}}}}}")
}

#[test]
fn by_certificates() {
    let (folder, authority) = (sota_testkit::temp_dir(), Authority::new("root"));
    let origin = Origin::http(|_| Reply::ok("hello"));
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let server = authority.issue(&Subject::host("server.test"));
    let transport = format!(
        "      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}]
            validation_context: {{trusted_ca: {{filename: {}}}}}
",
        write("crt", &server.chain),
        write("key", &server.key),
        write("ca", authority.pem())
    );
    let shop = "authenticated: {principal_name: {safe_regex: {regex: 'spiffe://[^/]+/ns/shop/.*'}}}";
    let proxy = start(
        &[
            listener("network", &transport, &only(shop), &only("any: true")),
            listener("http", &transport, &only("any: true"), &only(shop)),
        ],
        &origin,
    );
    let of = |name: &str| authority.issue(&Subject::workload(&format!("spiffe://cluster.local/ns/{name}/sa/a")));
    let (shop, other) = (of("shop"), of("other"));
    let ask = |listener: &str, certificate: Option<&Certificate>, path: &str| {
        let client =
            TlsClient { trusts: authority.pem(), server_name: "server.test", certificate, ..TlsClient::default() };
        client.get(proxy.listener(listener), path).unwrap_or_default()
    };
    assert!(ask("network", Some(&shop), "/").contains("200 OK"));
    assert_eq!(ask("network", Some(&other), "/"), "", "the connection is closed without a word");
    assert_eq!(ask("network", None, "/open"), "");
    assert!(ask("http", Some(&shop), "/").contains("200 OK"));
    let refused = ask("http", Some(&other), "/");
    assert!(refused.contains(" 403 ") && refused.ends_with("RBAC: access denied"), "{refused}");
    assert!(ask("http", None, "/").contains(" 403 "));
    assert!(ask("http", None, "/open").contains("200 OK"), "the route has rules of its own: none");
    assert_eq!(origin.requests(), 3);
    for (stat, count) in [
        ("network.rbac.allowed", 1),
        ("network.rbac.denied", 2),
        ("http.http.rbac.allowed", 1),
        ("http.http.rbac.denied", 2),
    ] {
        assert_eq!(proxy.stat(stat), count, "{stat}");
    }
}

#[test]
fn what_was_written_another_way_is_refused_too() {
    let origin = Origin::http(|_| Reply::ok("hello"));
    let deny = "rules: {action: DENY, policies: {p: {permissions: [{url_path: {path: {prefix: /admin}}}], principals: \
                [{any: true}]}}}";
    let proxy = start(&[listener("in", "", &only("any: true"), deny)], &origin);
    for path in ["/admin", "/x/../admin", "/./admin", "/%61dmin", "/%2e/admin?q"] {
        let answer = get(proxy.listener("in"), path);
        assert_eq!(answer.status(), 403, "{path}");
    }
    assert_eq!(origin.requests(), 0);
    assert_eq!(get(proxy.listener("in"), "/x").status(), 200);
}
