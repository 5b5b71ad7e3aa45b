//! `sota-mesh explain` and `/explain`: what they say, and that the proxy then does it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Origin, Process, ProxyProcess, request, temp_dir};
use std::{fs, process::Command, time::Duration};

const BINARY: &str = env!("CARGO_BIN_EXE_sota-mesh");
const LIMIT: Duration = Duration::from_secs(20);

/// Two chains, two virtual hosts, routes of each kind. `PORT` is the listener's, `ONE` and `TWO` those of two origins.
const CONFIG: &str = r#"
static_resources:
  listeners:
  - name: edge
    address: {socket_address: {address: 127.0.0.1, port_value: PORT}}
    listener_filters:
    - name: envoy.filters.listener.tls_inspector
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}
    filter_chains:
    - name: encrypted
      filter_chain_match: {transport_protocol: tls, server_names: ["*.example"]}
      filters:
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: passed
    - name: plain
      filter_chain_match: {transport_protocol: raw_buffer}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          normalize_path: true
          use_remote_address: true
          route_config:
            name: table
            virtual_hosts:
            - name: api
              domains: [api.example, "api.example:*"]
              retry_policy: {retry_on: 5xx, num_retries: 2}
              routes:
              - name: beta
                match: {prefix: /users, headers: [{name: x-env, string_match: {exact: beta}}]}
                route: {cluster: beta}
              - name: one
                match: {prefix: /users, query_parameters: [{name: id, present_match: true}]}
                route: {cluster: users, timeout: 3s, prefix_rewrite: /v1/users, hash_policy: [{query_parameter: {name: id}}]}
                typed_per_filter_config:
                  envoy.filters.http.cors: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}
              - name: all
                match: {prefix: /users}
                route: {weighted_clusters: {clusters: [{name: users, weight: 90}, {name: missing, weight: 10}]}}
              - {name: old, match: {path: /old}, redirect: {path_redirect: /users}}
            - name: other
              domains: ["*.example"]
              routes: [{match: {prefix: /}, direct_response: {status: 200}}]
          http_filters:
          - name: envoy.filters.http.cors
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: users
    lb_policy: RING_HASH
    load_assignment:
      cluster_name: users
      endpoints:
      - locality: {region: eu, zone: a}
        lb_endpoints:
        - {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ONE}}}}
        - {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: TWO}}}, load_balancing_weight: 3}
        - {endpoint: {address: {socket_address: {address: 10.0.0.3, port_value: 80}}}, health_status: UNHEALTHY}
  - {name: beta, type: STRICT_DNS, load_assignment: {cluster_name: beta, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: beta.internal, port_value: 80}}}}]}]}}
  - {name: passed, load_assignment: {cluster_name: passed, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.9, port_value: 443}}}}]}]}}
  - {name: missing, load_assignment: {cluster_name: missing}}
"#;

fn config(port: u16, one: u16, two: u16) -> String {
    [("PORT", port), ("ONE", one), ("TWO", two)]
        .iter()
        .fold(CONFIG.to_owned(), |text, (name, port)| text.replace(name, &port.to_string()))
}

/// Runs `explain`; exit code and output.
#[track_caller]
fn explain(arguments: &[&str]) -> (Option<i32>, String) {
    let folder = temp_dir();
    let file = folder.path().join("x.yaml");
    fs::write(&file, config(8080, 81, 82)).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["explain", "-c", file.to_str().unwrap()]).args(arguments);
    let mut process = Process::spawn(command, &folder.path().join("log"));
    (process.wait(LIMIT), process.log())
}

/// The explanation has these lines, in this order, other lines between them.
#[track_caller]
fn says(arguments: &[&str], lines: &[&str]) {
    let (code, text) = explain(arguments);
    assert_eq!(code, Some(0), "{text}");
    let mut rest = text.lines();
    for line in lines {
        assert!(rest.any(|found| found == *line), "no line `{line}` there in\n{text}");
    }
}

#[test]
fn each_step_with_its_reason() {
    says(
        &["--url", "http://api.example:8080/a/../users?id=42"],
        &[
            "GET http://api.example:8080/a/../users?id=42 from 192.0.2.1:40000 (assumed; --source says another)",
            "listener       ✓ edge (127.0.0.1:8080)",
            "filter chain   ✗ encrypted: server name: it wants *.example; the connection has none",
            "               ✓ plain",
            "head           path /a/../users?id=42 becomes /users?id=42",
            "virtual host   ✓ api",
            "               ✗ other: api.example:8080 is not among its domains: *.example",
            "route          ✗ beta (prefix /users, header x-env): header x-env is missing; it must be \"beta\"",
            "               ✓ one (prefix /users, query parameter id)",
            "filters        ✗ envoy.filters.http.cors  switched off by the route",
            "sent           GET /v1/users?id=42",
            "timeouts       route: 3s",
            "retries        on: 5xx",
            "cluster        ✓ users",
            "hash           6de6f5d076d742b9",
        ],
    );
}

#[test]
fn other_ends() {
    says(
        &["--url", "http://api.example:8080/none"],
        &["=>             no route takes it: the connection manager answers 404 (route_not_found)"],
    );
    says(
        &["--url", "http://nobody:8080/"],
        &["virtual host   ✗ api: nobody:8080 is not among its domains: api.example, api.example:*"],
    );
    says(
        &["--url", "http://api.example:8080/old"],
        &["=>             the route answers 301 to http://api.example:8080/users (direct_response)"],
    );
    says(
        &["--url", "http://api.example:8080/users", "--random", "95"],
        &[
            "               ✓ missing, 10.0 % of the requests",
            "=>             cluster missing has no host that may be used (UH)",
        ],
    );
    says(
        &["--url", "http://api.example:8080/users", "-H", "x-env: beta", "-X", "POST"],
        &[
            "sent           POST /users",
            "=>             the request goes to a host of cluster beta, whose names are resolved when the proxy runs",
        ],
    );
    says(
        &["--url", "https://api.example:8080/"],
        &[
            "               ✗ plain: server name: another chain is more specific",
            "=>             the connection is proxied to 10.0.0.9:443 of cluster passed",
        ],
    );
    says(
        &["--url", "https://other:8080/"],
        &[
            "               ✗ plain: transport: it wants raw_buffer; the connection has tls",
            "=>             no filter chain takes this connection: it is closed (no_filter_chain_match)",
        ],
    );
    says(&["--url", "http://a:1/"], &["=>             no listener takes this connection"]);
    says(
        &["--url", "http://api.example:1/old", "--listener", "edge", "--source", "10.0.0.1"],
        &["GET http://api.example:1/old from 10.0.0.1:40000", "listener       ✓ edge (127.0.0.1:8080)"],
    );
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let (code, text) = explain(&["--url", "nothing"]);
    assert_eq!((code, text.contains("is no URL")), (Some(1), true), "{text}");
    let (code, text) = explain(&["--url", "http://a/", "-H", "x"]);
    assert_eq!((code, text.contains("write NAME: VALUE")), (Some(1), true), "{text}");
}

#[test]
fn json_for_programs() {
    let (code, text) = explain(&["--url", "http://api.example:8080/old", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    for line in [
        r#"      "reason": "server name: it wants *.example; the connection has none""#,
        r#"  "outcome": "the route answers 301 to http://api.example:8080/users (direct_response)""#,
    ] {
        assert!(text.lines().any(|found| found == line), "no line `{line}` in\n{text}");
    }
}

#[test]
fn a_running_proxy_does_what_it_says() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let proxy = ProxyProcess::start(BINARY, &config(0, one.port(), two.port()));
    let front = proxy.listener("edge");
    let mut chosen = [0, 0];
    for id in 0..20 {
        let query = format!("/explain?url=http://api.example:{}/users%3Fid={id}", front.port());
        let explained = proxy.admin(&query);
        assert_eq!(explained.status(), 200, "{}", explained.text());
        let text = explained.text();
        let answer = request(front, format!("GET /users?id={id} HTTP/1.1\r\nhost: api.example\r\n\r\n")).text();
        let (number, port) = if answer == "one" { (0, one.port()) } else { (1, two.port()) };
        assert!(text.contains(&format!("the request goes to 127.0.0.1:{port} of cluster users")), "{answer}\n{text}");
        chosen[number] += 1;
    }
    assert!(chosen.iter().all(|count| *count > 0), "{chosen:?}");
    assert_eq!(proxy.stat("http.edge.downstream_rq_total"), 20, "explaining counts nothing");
    assert_eq!(proxy.stat("cluster.users.upstream_rq_total"), 20);
    let refused = proxy.admin("/explain");
    assert_eq!((refused.status(), refused.text().starts_with("usage: /explain?url=URL")), (400, true));
    let json = proxy.admin(&format!("/explain?format=json&url=http://nobody:{}/", front.port()));
    assert!(json.text().contains("answers 404 (route_not_found)"), "{}", json.text());
}
