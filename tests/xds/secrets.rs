//! Secrets that a control plane brings: over streams of their own and over ADS.

use crate::{LIMIT, bootstrap, listener, plane::Plane, routes, start};
use sota_testkit::{Authority, Certificate, Subject, TlsClient, wait_until};
use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

const DOWNSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const ADS: &str = "{ads: {}, initial_fetch_timeout: 0s}";

fn own(name: &str, certificate: &Certificate) -> String {
    let (chain, key) = (&certificate.chain, &certificate.key);
    format!(
        "{{name: {name}, tls_certificate: {{certificate_chain: {{inline_string: {chain:?}}}, private_key: \
         {{inline_string: {key:?}}}}}}}"
    )
}

fn root(name: &str, authority: &Authority) -> String {
    format!("{{name: {name}, validation_context: {{trusted_ca: {{inline_string: {:?}}}}}}}", authority.pem())
}

/// A listener that answers by itself over TLS.
fn secure(name: &str, context: &str) -> String {
    let answering = routes("inline", "none").replace("route: {cluster: none}", "direct_response: {status: 200}");
    let socket = format!(
        "transport_socket: {{name: envoy.transport_sockets.tls, typed_config: {{\"@type\": {DOWNSTREAM}, {context}}}}}"
    );
    let plain = listener(name, name, &format!("route_config: {answering}"));
    plain.replace("filter_chains: [{", &format!("filter_chains: [{{{socket}, "))
}

/// Of the agent's secrets.
fn cluster_at(name: &str, path: &Path) -> String {
    format!(
        "  - name: {name}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: {}}}}}}}}}]}}]
",
        path.display()
    )
}

/// The certificate that the server shows.
fn shown(client: &TlsClient<'_>, address: SocketAddr) -> Vec<u8> {
    let connection = client.connect(address).unwrap();
    connection.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn each_secret_has_a_stream_and_rotates_without_a_lost_request() {
    let folder = sota_testkit::temp_dir();
    let path = folder.path().join("sds.sock");
    let authority = Authority::new("root");
    let server = || authority.issue(&Subject::host("server.test"));
    let mut plane = Plane::at_path(&path);
    let source = "{api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: \
                  {cluster_name: agent}}]}, initial_fetch_timeout: 0s}";
    let context = format!(
        "require_client_certificate: true, common_tls_context: {{tls_certificate_sds_secret_configs: [{{name: default, \
         sds_config: {source}}}], combined_validation_context: {{default_validation_context: \
         {{match_typed_subject_alt_names: [{{san_type: URI, matcher: {{prefix: 'spiffe://mesh/'}}}}]}}, \
         validation_context_sds_secret_config: {{name: ROOTCA, sds_config: {source}}}}}}}"
    );
    let config = format!(
        "node: {{id: proxy-1, cluster: tests}}\nstatic_resources:\n  listeners:\n  - {}\n  clusters:\n{}",
        secure("in", &context),
        cluster_at("agent", &path)
    );
    let starting = start(config);
    let mut names = Vec::new();
    for _ in 0..2 {
        let asked = plane.asks("Secret");
        assert_eq!(asked.path, "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets");
        assert_eq!(asked.request.field("node").str("id"), "proxy-1");
        names.extend(asked.request.strings("resource_names"));
    }
    names.sort_unstable();
    assert_eq!(names, ["ROOTCA", "default"], "a stream is for one secret");
    plane.world("Secret", "1", &[&root("ROOTCA", &authority)]);
    plane.world("Secret", "1", &[&own("default", &server())]);
    let proxy = starting.join().unwrap();
    let address = proxy.listener("in");
    let good = authority.issue(&Subject::workload("spiffe://mesh/a"));
    let other = authority.issue(&Subject::workload("spiffe://other/a"));
    let client = |certificate| TlsClient {
        trusts: authority.pem(),
        server_name: "server.test",
        certificate: Some(certificate),
        ..TlsClient::default()
    };
    assert!(client(&good).get(address, "/").unwrap().starts_with("HTTP/1.1 200"));
    assert!(client(&other).get(address, "/").is_err(), "names of the configuration count beside the secret");

    // New certificates while requests come on new connections.
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let answer = client(&good).get(address, "/").expect("a request was lost");
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        for version in 2..6 {
            let before = shown(&client(&good), address);
            plane.world("Secret", &version.to_string(), &[&own("default", &server())]);
            wait_until("the new certificate", LIMIT, || shown(&client(&good), address) != before);
        }
        let before = done.load(Ordering::Relaxed);
        wait_until("requests after the rotation", LIMIT, || done.load(Ordering::Relaxed) > before + 5);
        stop.store(true, Ordering::Relaxed);
    });

    // What cannot be used is refused, and the old certificate stays.
    let before = shown(&client(&good), address);
    plane.forget();
    let bad = Certificate { key: server().key, ..server() };
    plane.world("Secret", "9", &[&own("default", &bad)]);
    let refusal = loop {
        let answer = plane.answers("Secret");
        if !answer.refusal().is_empty() {
            break answer;
        }
    };
    assert_eq!(refusal.request.strings("resource_names"), ["default"]);
    assert_eq!(refusal.request.str("version_info"), "5");
    assert!(refusal.refusal().contains("secret default: the private key is not that"), "{}", refusal.refusal());
    assert_eq!(shown(&client(&good), address), before);
    assert_eq!(proxy.stat("sds.default.update_rejected"), 1);
    assert_eq!(proxy.stat("sds.default.update_success"), 5);

    // Lost streams begin again with what is in force.
    plane.forget();
    plane.hang_up();
    for _ in 0..2 {
        let again = plane.asks("Secret");
        assert!(again.request.has("node") && !again.request.str("version_info").is_empty());
    }
    assert_eq!(shown(&client(&good), address), before);
}

#[test]
fn clusters_and_listeners_wait_for_secrets_over_ads() {
    let authority = Authority::new("root");
    let mut plane = Plane::start();
    let starting = start(bootstrap(plane.address, "DELTA_GRPC", "0s", ""));
    let ca = |name: &str, source: &str| {
        format!(
            "{{name: {name}, type: STATIC, load_assignment: {{cluster_name: {name}}}, transport_socket: {{name: tls, \
             typed_config: {{\"@type\": {UPSTREAM}, common_tls_context: {{validation_context_sds_secret_config: \
             {{name: ca-{name}, sds_config: {source}}}}}}}}}}}"
        )
    };
    plane.asks("Cluster");
    let impatient = "{ads: {}, initial_fetch_timeout: 0.2s}";
    plane.delta("Cluster", "1", &[("a", &ca("a", ADS)), ("b", &ca("b", impatient))], &[]);
    assert_eq!(plane.asks("Secret").request.strings("resource_names_subscribe"), ["ca-a", "ca-b"]);
    // Listeners are not asked for before each cluster has its secret, or has waited long enough.
    assert!(plane.is_quiet(Duration::from_millis(600)));
    plane.delta("Secret", "1", &[("ca-a", &root("ca-a", &authority))], &[]);
    assert_eq!(plane.answers("Secret").refusal(), "");
    plane.asks("Listener");
    let context =
        format!("common_tls_context: {{tls_certificate_sds_secret_configs: [{{name: own, sds_config: {ADS}}}]}}");
    plane.delta("Listener", "1", &[("l", &secure("l", &context))], &[]);
    assert_eq!(plane.asks("Secret").request.strings("resource_names_subscribe"), ["own"]);
    assert!(plane.is_quiet(Duration::from_millis(200)));
    let certificate = authority.issue(&Subject::host("server.test"));
    plane.delta("Secret", "2", &[("own", &own("own", &certificate))], &[]);
    let proxy = starting.join().unwrap();
    let client = TlsClient { trusts: authority.pem(), server_name: "server.test", ..TlsClient::default() };
    assert!(client.get(proxy.listener("l"), "/").unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(proxy.stat("sds.ca-b.init_fetch_timeout"), 1);

    // A secret of another kind than is wanted; then the cluster goes, and with it its secret.
    plane.answers("Secret");
    plane.delta("Secret", "3", &[("own", &root("own", &authority))], &[]);
    assert!(plane.answers("Secret").refusal().contains("secret own: the secret has no certificate"));
    plane.delta("Cluster", "2", &[], &["a"]);
    assert_eq!(plane.asks("Secret").request.strings("resource_names_unsubscribe"), ["ca-a"]);
    assert!(client.get(proxy.listener("l"), "/").unwrap().starts_with("HTTP/1.1 200"));
}
