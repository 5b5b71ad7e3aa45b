//! Network filters as a whole process: those that choose the cluster of a TCP proxy.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Authority, Client, Origin, ProxyProcess, Reply, Subject, TlsClient, get};
use std::{
    fs,
    io::{Read, Write},
};

fn start(listeners: &str, clusters: &[(&str, &Origin)]) -> ProxyProcess {
    let cluster = |(name, origin): &(&str, &Origin)| {
        format!(
            "  - name: {name}\n    type: STATIC\n    load_assignment:\n      cluster_name: {name}\n      \
             endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]\n",
            origin.address().ip(),
            origin.address().port()
        )
    };
    let clusters: String = clusters.iter().map(cluster).collect();
    let config = format!("static_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}");
    ProxyProcess::start(env!("CARGO_BIN_EXE_sota-mesh"), &config)
}

/// A listener whose TCP proxy goes to `first`, unless this filter says otherwise.
fn listener(name: &str, filter: &str, more: &str) -> String {
    format!(
        "  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - {filter}
      - name: envoy.filters.network.tcp_proxy
        typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: {name}, cluster: first}}
{more}"
    )
}

#[test]
fn filter_state_chooses_the_cluster() {
    let (first, second) = (Origin::http(|_| Reply::ok("first")), Origin::http(|_| Reply::ok("second")));
    let set = |cluster: &str| {
        format!(
            "{{name: envoy.filters.network.set_filter_state, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config, on_new_connection: \
             [{{object_key: envoy.tcp_proxy.cluster, format_string: {{text_format_source: {{inline_string: '{cluster}'}}}}, skip_if_empty: true}}]}}}}"
        )
    };
    let listeners =
        [listener("chosen", &set("second"), ""), listener("empty", &set(""), ""), listener("gone", &set("no"), "")];
    let proxy = start(&listeners.concat(), &[("first", &first), ("second", &second)]);
    assert_eq!(get(proxy.listener("chosen"), "/").text(), "second");
    assert_eq!(get(proxy.listener("empty"), "/").text(), "first");
    let (answer, _) = Client::connect(proxy.listener("gone")).read_to_end();
    assert!(answer.is_empty(), "it fails closed");
    assert_eq!(proxy.stat("tcp.gone.downstream_cx_no_route"), 1);
}

#[test]
fn the_server_name_and_the_handshake_choose_the_cluster() {
    let (first, second) = (Origin::http(|_| Reply::ok("first")), Origin::http(|_| Reply::ok("second")));
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let server = authority.issue(&Subject::host("second"));
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let tls = format!(
        "      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}]
    listener_filters:
    - name: envoy.filters.listener.tls_inspector
      typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}
",
        write("crt", &server.chain),
        write("key", &server.key),
    );
    let filter = "{name: envoy.filters.network.sni_cluster, typed_config: {\"@type\": \
                  type.googleapis.com/envoy.extensions.filters.network.sni_cluster.v3.SniCluster}}";
    // What is only set behind a handshake is not set where there is none.
    let secured = "{name: envoy.filters.network.set_filter_state, typed_config: {\"@type\": \
                   type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config, \
                   on_downstream_tls_handshake: [{object_key: envoy.tcp_proxy.cluster, format_string: \
                   {text_format_source: {inline_string: '%REQUESTED_SERVER_NAME%'}}}]}}";
    let listeners =
        [listener("named", filter, &tls), listener("secured", secured, &tls), listener("plain", secured, "")];
    let proxy = start(&listeners.concat(), &[("first", &first), ("second", &second)]);
    let client = TlsClient { trusts: authority.pem(), server_name: "second", ..TlsClient::default() };
    for name in ["named", "secured"] {
        let mut connection = client.connect(proxy.listener(name)).unwrap();
        connection.write_all(b"GET / HTTP/1.1\r\nhost: second\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"second") {
            let mut octet = [0];
            connection.read_exact(&mut octet).unwrap();
            answer.extend(octet);
        }
    }
    assert_eq!(get(proxy.listener("plain"), "/").text(), "first");
}
