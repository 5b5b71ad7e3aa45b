//! TLS on connections of clients and to hosts, as a whole process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Authority, Certificate, Origin, ProxyProcess, Reply, Subject, TlsClient, exchange, wait_until};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(10);
const DOWNSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// Writes a certificate and its key, and gives the source that names them.
fn write(folder: &Path, name: &str, certificate: &Certificate) -> String {
    let (chain, key) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
    fs::write(&chain, &certificate.chain).unwrap();
    fs::write(&key, &certificate.key).unwrap();
    format!("{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}", chain.display(), key.display())
}

fn ca(folder: &Path, name: &str, authority: &Authority) -> String {
    let path = folder.join(format!("{name}.ca"));
    fs::write(&path, authority.pem()).unwrap();
    format!("{{filename: {}}}", path.display())
}

/// A listener `name` with this context, whose routes go to `cluster`.
fn listener(name: &str, context: &str, cluster: &str) -> String {
    format!(
        "  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    stat_prefix: {name}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config: {{\"@type\": {DOWNSTREAM}, {context}}}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          use_remote_address: true
          route_config:
            virtual_hosts:
            - {{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"
    )
}

fn cluster(name: &str, host: SocketAddr, context: Option<&str>) -> String {
    let transport = context.map_or_else(String::new, |context| {
        format!(
            "    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config: {{\"@type\": {UPSTREAM}, {context}}}\n"
        )
    });
    format!(
        "  - name: {name}
    type: STATIC
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]
{transport}",
        host.ip(),
        host.port()
    )
}

fn start(listeners: &[String], clusters: &[String]) -> ProxyProcess {
    let config = format!("static_resources:\n  listeners:\n{}  clusters:\n{}", listeners.concat(), clusters.concat());
    ProxyProcess::start(env!("CARGO_BIN_EXE_sota-mesh"), &config)
}

fn origin() -> Origin {
    Origin::http(|_| Reply::ok("hello"))
}

#[test]
fn certificates_follow_the_server_name_and_alpn_never_fails() {
    let (folder, authority, origin) = (sota_testkit::temp_dir(), Authority::new("root"), origin());
    let one = write(folder.path(), "one", &authority.issue(&Subject::host("one.test")));
    let wild = write(folder.path(), "wild", &authority.issue(&Subject::host("*.wild.test")));
    let context = format!("common_tls_context: {{alpn_protocols: [h2, http/1.1], tls_certificates: [{one}, {wild}]}}");
    let proxy = start(&[listener("in", &context, "out")], &[cluster("out", origin.address(), None)]);
    let address = proxy.listener("in");
    for name in ["one.test", "a.wild.test", "ONE.test"] {
        let client = TlsClient { trusts: authority.pem(), server_name: name, ..TlsClient::default() };
        let answer = client.get(address, "/").unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");
    }
    assert_eq!(origin.last().header("x-forwarded-proto"), Some("https"));
    // No certificate has this name: the client gets the first, and refuses it.
    let client = TlsClient { trusts: authority.pem(), server_name: "two.test", ..TlsClient::default() };
    let refused = client.get(address, "/").unwrap_err().to_string();
    assert!(refused.contains("not valid for name"), "{refused}");
    for (offered, agreed) in [
        (&["http/1.1"][..], Some("http/1.1")),
        (&["h2", "http/1.1"], Some("h2")),
        (&["istio", "other"], None),
        (&[], None),
    ] {
        let client =
            TlsClient { trusts: authority.pem(), server_name: "one.test", alpn: offered, ..TlsClient::default() };
        let connection = client.connect(address).unwrap();
        assert_eq!(connection.conn.alpn_protocol(), agreed.map(str::as_bytes), "{offered:?}");
    }
    assert_eq!(proxy.stat("listener.in.ssl.versions.TLSv1.3"), proxy.stat("listener.in.ssl.handshake"));
    assert_eq!(proxy.stat("listener.in.ssl.no_certificate"), proxy.stat("listener.in.ssl.handshake"));
}

#[test]
fn client_certificates_are_checked() {
    let (folder, origin) = (sota_testkit::temp_dir(), origin());
    let (authority, stranger) = (Authority::new("root"), Authority::new("stranger"));
    let server = write(folder.path(), "server", &authority.issue(&Subject::host("server.test")));
    let ca = ca(folder.path(), "root", &authority);
    let strict = format!(
        "require_client_certificate: true, common_tls_context: {{tls_certificates: [{server}], validation_context: \
         {{trusted_ca: {ca}, match_typed_subject_alt_names: [{{san_type: URI, matcher: {{prefix: \
         'spiffe://cluster.local/'}}}}]}}}}"
    );
    let optional =
        format!("common_tls_context: {{tls_certificates: [{server}], validation_context: {{trusted_ca: {ca}}}}}");
    let proxy = start(
        &[listener("strict", &strict, "out"), listener("optional", &optional, "out")],
        &[cluster("out", origin.address(), None)],
    );
    let good = Subject::workload("spiffe://cluster.local/ns/a/sa/b");
    let cases = [
        ("good", Some(authority.issue(&good)), true, true),
        ("none", None, false, true),
        ("other name", Some(authority.issue(&Subject::workload("spiffe://other/ns/a/sa/b"))), false, true),
        ("no uri", Some(authority.issue(&Subject::host("a.test"))), false, true),
        ("stranger", Some(stranger.issue(&good)), false, false),
        ("expired", Some(authority.issue(&Subject { is_expired: true, ..good.clone() })), false, false),
    ];
    for (what, certificate, strict, optional) in &cases {
        for (name, passes) in [("strict", *strict), ("optional", *optional)] {
            let client = TlsClient {
                trusts: authority.pem(),
                server_name: "server.test",
                certificate: certificate.as_ref(),
                ..TlsClient::default()
            };
            let answer = client.get(proxy.listener(name), "/");
            assert_eq!(answer.is_ok_and(|answer| answer.contains("200 OK")), passes, "{what} at {name}");
        }
    }
    for (counter, count) in [
        ("strict.ssl.handshake", 1),
        ("strict.ssl.fail_verify_no_cert", 1),
        ("strict.ssl.fail_verify_san", 2),
        ("strict.ssl.fail_verify_error", 2),
        ("strict.ssl.connection_error", 5),
        ("optional.ssl.fail_verify_error", 2),
        ("optional.ssl.no_certificate", 1),
    ] {
        assert_eq!(proxy.stat(&format!("listener.{counter}")), count, "{counter}");
    }
}

#[test]
fn two_proxies_speak_mutual_tls() {
    let (folder, authority, origin) = (sota_testkit::temp_dir(), Authority::new("root"), origin());
    let ca = ca(folder.path(), "root", &authority);
    let server = write(folder.path(), "server", &authority.issue(&Subject::host("server.test")));
    let client =
        write(folder.path(), "client", &authority.issue(&Subject::workload("spiffe://cluster.local/ns/a/sa/b")));
    let validation = format!("validation_context: {{trusted_ca: {ca}}}");
    let inner =
        format!("require_client_certificate: true, common_tls_context: {{tls_certificates: [{server}], {validation}}}");
    let inbound = start(&[listener("in", &inner, "app")], &[cluster("app", origin.address(), None)]);
    let outer = format!("common_tls_context: {{tls_certificates: [{server}]}}");
    let to = inbound.listener("in");
    let upstream = |sni: &str, san: &str| {
        format!(
            "sni: {sni}, common_tls_context: {{tls_params: {{tls_maximum_protocol_version: TLSv1_3}}, \
             tls_certificates: [{client}], validation_context: {{trusted_ca: {ca}, match_typed_subject_alt_names: \
             [{{san_type: DNS, matcher: {{exact: {san}}}}}]}}}}"
        )
    };
    let outbound = start(
        &[listener("good", &outer, "good"), listener("bad", &outer, "bad"), listener("naked", &outer, "naked")],
        &[
            cluster("good", to, Some(&upstream("server.test", "server.test"))),
            cluster("bad", to, Some(&upstream("server.test", "other.test"))),
            cluster("naked", to, Some("sni: server.test")),
        ],
    );
    let client = TlsClient { trusts: authority.pem(), server_name: "server.test", ..TlsClient::default() };
    for _ in 0..3 {
        let answer = client.get(outbound.listener("good"), "/").unwrap();
        assert!(answer.contains("200 OK") && answer.ends_with("hello"), "{answer}");
    }
    let (made, shaken) = (outbound.stat("cluster.good.upstream_cx_total"), outbound.stat("cluster.good.ssl.handshake"));
    assert!(made == shaken && made < 3, "connections are kept: {made}, {shaken}");
    let answer = client.get(outbound.listener("bad"), "/").unwrap();
    assert!(answer.contains(" 503 "), "{answer}");
    assert_eq!(outbound.stat("cluster.bad.ssl.fail_verify_san"), 1);
    let answer = client.get(outbound.listener("naked"), "/").unwrap();
    assert!(answer.contains(" 503 "), "a server that wants a certificate gets none: {answer}");
    assert_eq!(origin.requests(), 3);
}

/// Certificates are replaced while clients connect and exchange, and nobody notices but by the certificate.
#[test]
fn rotation_under_load_loses_nothing() {
    let (folder, authority, origin) = (sota_testkit::temp_dir(), Authority::new("root"), origin());
    let sds = folder.path().join("sds.yaml");
    let publish = |name: &str| {
        let certificate = authority.issue(&Subject {
            common_name: name.to_owned(),
            dns: vec!["server.test".to_owned()],
            ..Subject::default()
        });
        let indent = |text: &str| text.replace('\n', "\n      ");
        let text = format!(
            "resources:\n- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: own\n  \
             tls_certificate:\n    certificate_chain:\n     inline_string: |\n      {}\n    private_key:\n     \
             inline_string: |\n      {}\n",
            indent(&certificate.chain),
            indent(&certificate.key)
        );
        let new = folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &sds).unwrap();
    };
    publish("first");
    let context = format!(
        "common_tls_context: {{tls_certificate_sds_secret_configs: [{{name: own, sds_config: {{path_config_source: \
         {{path: {}}}}}}}]}}",
        sds.display()
    );
    let proxy = start(&[listener("in", &context, "out")], &[cluster("out", origin.address(), None)]);
    let address = proxy.listener("in");
    let client = TlsClient { trusts: authority.pem(), server_name: "server.test", ..TlsClient::default() };
    let shown = || {
        let connection = client.connect(address).unwrap();
        connection.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let first = shown();
    let mut kept = client.connect(address).unwrap();
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get(address, "/").unwrap();
                    assert!(answer.contains("200 OK"), "{answer}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        publish("second");
        wait_until("the new certificate", LIMIT, || shown() != first);
        // A secret that cannot be read changes nothing.
        let second = shown();
        fs::write(&sds, "resources: [{\"@type\": nonsense}]").unwrap();
        thread::sleep(Duration::from_millis(1200));
        assert_eq!(shown(), second);
        publish("third");
        wait_until("the third certificate", LIMIT, || shown() != second);
        stop.store(true, Ordering::Relaxed);
    });
    assert!(served.load(Ordering::Relaxed) > 10);
    let answer = exchange(&mut kept, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    assert!(answer.contains("200 OK"), "a connection from before goes on: {answer}");
    assert!(!proxy.log().contains("PRIVATE KEY") && !proxy.admin("/config_dump").text().contains("PRIVATE KEY"));
}

#[test]
fn sessions_are_resumed_unless_they_may_not() {
    let (folder, authority, origin) = (sota_testkit::temp_dir(), Authority::new("root"), origin());
    let own = write(folder.path(), "own", &authority.issue(&Subject::host("server.test")));
    let with = format!("common_tls_context: {{tls_certificates: [{own}]}}");
    let without =
        format!("disable_stateless_session_resumption: true, disable_stateful_session_resumption: true, {with}");
    let proxy = start(
        &[listener("with", &with, "out"), listener("without", &without, "out")],
        &[cluster("out", origin.address(), None)],
    );
    let client = TlsClient { trusts: authority.pem(), server_name: "server.test", ..TlsClient::default() };
    for (name, resumed) in [("with", 2), ("without", 0)] {
        let config = client.config();
        for _ in 0..3 {
            let mut connection = client.connect_with(&config, proxy.listener(name)).unwrap();
            let answer = exchange(&mut connection, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
            assert!(answer.contains("200 OK"));
        }
        assert_eq!(proxy.stat(&format!("listener.{name}.ssl.session_reused")), resumed, "{name}");
    }
}

/// What is no handshake, or half of one, ends its connection and nothing else.
#[test]
fn bad_handshakes_harm_nobody() {
    let (folder, authority, origin) = (sota_testkit::temp_dir(), Authority::new("root"), origin());
    let own = write(folder.path(), "own", &authority.issue(&Subject::host("server.test")));
    let context = format!("common_tls_context: {{tls_certificates: [{own}]}}");
    let mut limited = listener("in", &context, "out");
    // The log of the listener has the connection's facts as well, which the handshake adds to.
    limited.push_str(
        "    access_log: [{name: envoy.access_loggers.file, typed_config: {\"@type\": \
                      type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: ",
    );
    let log = folder.path().join("log");
    limited.push_str(&format!(
        "{}, log_format: {{text_format_source: {{inline_string: \"%DOWNSTREAM_TLS_VERSION% \
         %DOWNSTREAM_TRANSPORT_FAILURE_REASON%\\n\"}}}}}}}}]\n",
        log.display()
    ));
    limited = limited
        .replace("    - transport_socket:", "    - transport_socket_connect_timeout: 1s\n      transport_socket:");
    let proxy = start(&[limited], &[cluster("out", origin.address(), None)]);
    let address = proxy.listener("in");
    // A hello that says that 64 KiB follow, in records of 16 KiB.
    let mut large = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    large.resize(5 + 0x4000, 0);
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
        &[22, 3, 1, 0, 5, 1, 0, 0, 1, 0],
        &[22, 3, 1, 0xff, 0xff, 1],
        &[21, 3, 1, 0, 2, 2, 40],
        &large.repeat(8),
        &[0; 100],
    ] {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let _ = socket.write_all(bytes);
        let mut answer = Vec::new();
        // An alert at most, and the end.
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    }
    let silent = TcpStream::connect(address).unwrap();
    silent.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!((&silent).read(&mut [0; 1]).unwrap_or(0), 0, "a handshake that never begins ends in time");
    assert!(proxy.stat("listener.in.downstream_cx_transport_socket_connect_timeout") >= 1);
    assert!(proxy.stat("listener.in.ssl.connection_error") >= 4);
    let client = TlsClient { trusts: authority.pem(), server_name: "server.test", ..TlsClient::default() };
    assert!(client.get(address, "/").unwrap().contains("200 OK"));
    let logged =
        |line: &str| fs::read_to_string(&log).is_ok_and(|log| log.lines().any(|found| found.starts_with(line)));
    wait_until("the log", LIMIT, || logged("TLSv1.3 -") && logged("- TLS_error:|"));
    wait_until("every connection ended", LIMIT, || proxy.stat("listener.in.downstream_cx_active") == 0);
}

/// Those behind us learn who the client is; what a client says of itself is not believed.
#[test]
fn client_certificates_are_told_to_hosts_and_logs() {
    let (folder, authority, origin) = (sota_testkit::temp_dir(), Authority::new("root"), origin());
    let ca = ca(folder.path(), "root", &authority);
    let own =
        Subject { uris: vec!["spiffe://cluster.local/ns/b/sa/server".to_owned()], ..Subject::host("server.test") };
    let server = write(folder.path(), "server", &authority.issue(&own));
    let context =
        format!("common_tls_context: {{tls_certificates: [{server}], validation_context: {{trusted_ca: {ca}}}}}");
    let log = folder.path().join("log");
    let with = |name: &str, more: &str| {
        let written = format!("use_remote_address: true\n          {more}");
        listener(name, &context, "out").replace("use_remote_address: true", &written)
    };
    let set = format!(
        "forward_client_cert_details: SANITIZE_SET
          set_current_client_cert_details: {{subject: true, uri: true, dns: true}}
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {}
              log_format: {{text_format_source: {{inline_string: \"%DOWNSTREAM_TLS_VERSION%|%DOWNSTREAM_TLS_CIPHER%|%DOWNSTREAM_PEER_URI_SAN%|%DOWNSTREAM_PEER_SUBJECT%|%DOWNSTREAM_PEER_ISSUER%|%DOWNSTREAM_LOCAL_DNS_SAN%|%DOWNSTREAM_PEER_CERT_V_END(%Y)%\\n\"}}}}",
        log.display()
    );
    let modes = ["SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "ALWAYS_FORWARD_ONLY"];
    let mut listeners: Vec<_> =
        modes.iter().map(|mode| with(mode, &format!("forward_client_cert_details: {mode}"))).collect();
    listeners.push(with("set", &set));
    let proxy = start(&listeners, &[cluster("out", origin.address(), None)]);
    let certificate = authority.issue(&Subject {
        dns: vec!["client.test".to_owned()],
        ..Subject::workload("spiffe://cluster.local/ns/a/sa/b")
    });
    let seen = |name: &str, certificate: Option<&Certificate>| {
        let client =
            TlsClient { trusts: authority.pem(), server_name: "server.test", certificate, ..TlsClient::default() };
        let mut connection = client.connect(proxy.listener(name)).unwrap();
        let request = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: By=liar\r\nconnection: close\r\n\r\n";
        assert!(exchange(&mut connection, request).unwrap().contains("200 OK"), "{name}");
        origin.last().header("x-forwarded-client-cert").map(str::to_owned)
    };
    let liar = Some("By=liar".to_owned());
    for (mode, without) in [("SANITIZE", None), ("FORWARD_ONLY", None), ("APPEND_FORWARD", None), ("set", None)] {
        assert_eq!(seen(mode, None), without, "{mode}");
    }
    assert_eq!(seen("ALWAYS_FORWARD_ONLY", None), liar);
    assert_eq!(seen("ALWAYS_FORWARD_ONLY", Some(&certificate)), liar);
    assert_eq!(seen("FORWARD_ONLY", Some(&certificate)), liar);
    assert_eq!(seen("SANITIZE", Some(&certificate)), None);
    let appended = seen("APPEND_FORWARD", Some(&certificate)).unwrap();
    assert!(appended.starts_with("By=liar,By=spiffe://cluster.local/ns/b/sa/server;Hash="), "{appended}");
    let set = seen("set", Some(&certificate)).unwrap();
    let (by, rest) = set.split_once(";Hash=").unwrap();
    let (hash, rest) = rest.split_once(';').unwrap();
    assert_eq!(by, "By=spiffe://cluster.local/ns/b/sa/server");
    assert!(hash.len() == 64 && hash.bytes().all(|c| c.is_ascii_hexdigit()), "{hash}");
    assert_eq!(rest, "Subject=\"CN=workload\";URI=spiffe://cluster.local/ns/a/sa/b;DNS=client.test");
    let line = "TLSv1.3|TLS_AES_256_GCM_SHA384|spiffe://cluster.local/ns/a/sa/b|CN=workload|CN=root|server.test|4096";
    wait_until("the log", LIMIT, || fs::read_to_string(&log).is_ok_and(|log| log.lines().any(|found| found == line)));
}

/// Hosts of one cluster may have different transports, by their metadata.
#[test]
fn transports_follow_the_metadata_of_hosts() {
    let (folder, authority, origin) = (sota_testkit::temp_dir(), Authority::new("root"), origin());
    let ca = ca(folder.path(), "root", &authority);
    let own = write(folder.path(), "own", &authority.issue(&Subject::host("server.test")));
    let context = format!("common_tls_context: {{tls_certificates: [{own}]}}");
    let inner = start(&[listener("in", &context, "out")], &[cluster("out", origin.address(), None)]);
    let upstream = format!(
        "sni: server.test, auto_sni_san_validation: true, common_tls_context: {{validation_context: {{trusted_ca: {ca}}}}}"
    );
    let matches = format!(
        "    transport_socket_matches:
    - name: secured
      match: {{tlsMode: istio}}
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config: {{\"@type\": {UPSTREAM}, {upstream}}}
    - name: plain
      match: {{}}
      transport_socket: {{name: envoy.transport_sockets.raw_buffer}}
"
    );
    let secured = cluster("secured", inner.listener("in"), None).replace(
        "[{endpoint: ",
        "[{metadata: {filter_metadata: {envoy.transport_socket_match: {tlsMode: istio}}}, endpoint: ",
    );
    let plain = cluster("plain", origin.address(), None);
    let outer = start(
        &[listener("secured", &context, "secured"), listener("plain", &context, "plain")],
        &[secured + &matches, plain + &matches],
    );
    let client = TlsClient { trusts: authority.pem(), server_name: "server.test", ..TlsClient::default() };
    for name in ["secured", "plain"] {
        assert!(client.get(outer.listener(name), "/").unwrap().contains("200 OK"), "{name}");
    }
    assert_eq!((outer.stat("cluster.secured.ssl.handshake"), outer.stat("cluster.plain.ssl.handshake")), (1, 0));
    assert!(outer.admin("/certs").text().contains("\"dns\": \"server.test\""));
}

#[test]
fn a_cluster_speaks_what_tls_agrees_on() {
    let (folder, authority, origin) = (sota_testkit::temp_dir(), Authority::new("root"), origin());
    let server = write(folder.path(), "server", &authority.issue(&Subject::host("server.test")));
    let ca = ca(folder.path(), "root", &authority);
    // What the hosts would speak, and what comes of it.
    let hosts = [("both", "[h2, http/1.1]", true), ("old", "[http/1.1]", false), ("silent", "[]", false)];
    let inner = start(
        &hosts.map(|(name, protocols, _)| {
            let context = format!("common_tls_context: {{alpn_protocols: {protocols}, tls_certificates: [{server}]}}");
            listener(name, &context, "out")
        }),
        &[cluster("out", origin.address(), None)],
    );
    let clusters = hosts.map(|(name, ..)| {
        let context = format!("sni: server.test, common_tls_context: {{validation_context: {{trusted_ca: {ca}}}}}");
        cluster(name, inner.listener(name), Some(&context))
            + "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        auto_config: {http2_protocol_options: {max_concurrent_streams: 10}}\n"
    });
    let context = format!("common_tls_context: {{tls_certificates: [{server}]}}");
    let outer = start(&hosts.map(|(name, ..)| listener(name, &context, name)), &clusters);
    let client = TlsClient { trusts: authority.pem(), server_name: "server.test", ..TlsClient::default() };
    for (name, _, is_http2) in hosts {
        for _ in 0..3 {
            let answer = client.get(outer.listener(name), "/").unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{name}: {answer}");
        }
        let stat = |stat: &str| outer.stat(&format!("cluster.{name}.{stat}"));
        let (all, made) =
            (stat("upstream_cx_total"), [stat("upstream_cx_http1_total"), stat("upstream_cx_http2_total")]);
        assert!((1..=2).contains(&all), "{name}: requests of a worker share one, side by side or in turn: {all}");
        assert_eq!(made, if is_http2 { [0, all] } else { [all, 0] }, "{name}");
        assert_eq!(inner.stat(&format!("http.{name}.downstream_rq_http2_total")), 3 * u64::from(is_http2), "{name}");
    }
    // Many at once: places on one connection, or connections of their own.
    thread::scope(|scope| {
        for (name, ..) in hosts {
            for _ in 0..8 {
                scope.spawn(|| assert!(client.get(outer.listener(name), "/").unwrap().ends_with("hello")));
            }
        }
    });
    assert_eq!(outer.stat("cluster.both.upstream_cx_http1_total"), 0);
    assert_eq!(outer.stat("cluster.both.upstream_rq_active"), 0);
}
