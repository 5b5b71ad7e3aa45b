//! The admin interface of the whole process.

use sota_testkit::{Client, Origin, ProxyProcess, get, request, wait_until};
use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

const BINARY: &str = env!("CARGO_BIN_EXE_sota-mesh");

/// A listener `front` before an origin, with an admin layer of runtime values.
fn config(origin: &Origin) -> String {
    format!(
        r#"
layered_runtime: {{layers: [{{name: static, static_layer: {{a: 1}}}}, {{name: admin, admin_layer: {{}}}}]}}
static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: origin}}}}]}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: origin
    load_assignment:
      cluster_name: origin
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]
"#,
        origin.port()
    )
}

#[test]
fn paths_methods_and_formats() {
    let origin = Origin::named("one");
    let proxy = ProxyProcess::start(BINARY, &config(&origin));
    assert_eq!(get(proxy.listener("front"), "/").status(), 200);
    // What the admin interface answers cannot be had from a listener: the origin is asked.
    assert_eq!(get(proxy.listener("front"), "/server_info").text(), "one");
    for path in ["/../../etc/passwd", "/%2e%2e/etc/passwd", "/stats/../../etc/passwd", "//ready", "/ready/"] {
        assert_eq!(proxy.admin(path).status(), 404, "{path}");
    }

    let unknown = proxy.admin("/nonsense");
    assert_eq!(unknown.status(), 404);
    assert!(unknown.text().starts_with("invalid path. admin commands are:\n"), "{}", unknown.text());
    for path in
        ["/quitquitquit", "/reset_counters", "/healthcheck/fail", "/drain_listeners", "/logging", "/reopen_logs"]
    {
        let refused = proxy.admin(path);
        assert_eq!(
            (refused.status(), refused.text().as_str()),
            (405, "Method GET not allowed, POST required."),
            "{path}"
        );
    }
    for path in ["/", "/help", "/memory", "/runtime", "/server_info", "/clusters?format=json", "/listeners?format=json"]
    {
        let answer = proxy.admin(path);
        assert_eq!((answer.status(), answer.header("cache-control")), (200, Some("no-cache, max-age=0")), "{path}");
    }
    let clusters = proxy.admin("/clusters").text();
    assert!(clusters.contains(&format!("origin::127.0.0.1:{}::rq_success::2\n", origin.port())), "{clusters}");
    let filtered = proxy.admin("/stats?filter=^http\\.front\\.downstream_rq_2xx$").text();
    assert_eq!(filtered, "http.front.downstream_rq_2xx: 2\n");
    assert_eq!(proxy.admin("/stats?filter=(").status(), 400);
    let prometheus = proxy.admin("/stats/prometheus?filter=^cluster\\.origin\\.membership_total$").text();
    assert!(prometheus.contains("envoy_cluster_membership_total{envoy_cluster_name=\"origin\"} 1\n"), "{prometheus}");
    let dump = proxy.admin("/config_dump").text();
    for part in [
        "BootstrapConfigDump",
        "ClustersConfigDump",
        "ListenersConfigDump",
        "\"name\": \"origin\"",
        "\"name\": \"front\"",
    ] {
        assert!(dump.contains(part), "{part} is missing in:\n{dump}");
    }
    assert_eq!(proxy.admin("/clusters?filter=(").text(), "Invalid re2 regex");
}

#[test]
fn commands_that_change_something() {
    let origin = Origin::named("one");
    let proxy = ProxyProcess::start(BINARY, &config(&origin));
    assert_eq!(get(proxy.listener("front"), "/").status(), 200);
    assert_eq!(proxy.stat("http.front.downstream_rq_2xx"), 1);
    let listener = "listener.127.0.0.1_0";
    let by_listener = proxy.stat(&format!("{listener}.http.front.downstream_rq_2xx"));
    assert_eq!((by_listener, proxy.stat(&format!("{listener}.downstream_cx_total"))), (1, 1));
    assert_eq!((proxy.stat("runtime.num_layers"), proxy.stat("runtime.num_keys")), (2, 1));
    assert!(proxy.stat("http.admin.downstream_rq_2xx") > 0 && proxy.stat("http.admin.downstream_cx_active") > 0);
    assert_eq!(proxy.admin_post("/reset_counters").text(), "OK\n");
    assert_eq!(proxy.stat("http.front.downstream_rq_2xx"), 0);

    assert_eq!(proxy.admin_post("/healthcheck/fail").status(), 200);
    let ready = proxy.admin("/ready");
    assert_eq!((ready.status(), ready.text().as_str()), (503, "DRAINING\n"));
    assert_eq!(proxy.admin_post("/healthcheck/ok").status(), 200);
    assert_eq!(proxy.admin("/ready").text(), "LIVE\n");

    assert_eq!(proxy.admin_post("/runtime_modify?a=2").text(), "OK\n");
    assert!(proxy.admin("/runtime").text().contains("\"final_value\": \"2\""));
    assert_eq!(proxy.admin_post("/runtime_modify").status(), 400);
    assert_eq!((proxy.stat("runtime.admin_overrides_active"), proxy.stat("runtime.num_keys")), (1, 1));
    assert_eq!(proxy.admin_post("/runtime_modify?b=1").text(), "OK\n");
    assert_eq!((proxy.stat("runtime.admin_overrides_active"), proxy.stat("runtime.num_keys")), (2, 2));

    assert_eq!(proxy.admin_post("/logging?http=debug").status(), 200);
    assert!(proxy.admin_post("/logging").text().contains("  http: debug\n"));
    assert_eq!(proxy.admin_post("/logging?level=loud").status(), 400);
    assert_eq!(proxy.admin_post("/logging?nobody=info").status(), 400);

    let front = proxy.listener("front");
    for parameters in ["skip_exit", "skip_exit&graceful", "graceful", "inboundonly"] {
        assert_eq!(proxy.admin_post(&format!("/drain_listeners?{parameters}")).text(), "OK\n");
    }
    let draining = request(front, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(
        (draining.status(), draining.header("connection")),
        (200, Some("close")),
        "accepted after the drain began"
    );
    assert_eq!(proxy.admin_post("/drain_listeners").text(), "OK\n");
    wait_until("a drained listener refuses", Duration::from_secs(5), || Client::try_connect(front).is_err());
}

#[test]
fn a_slow_reader_and_bad_requests_hold_up_nobody() {
    let origin = Origin::named("one");
    let mut proxy = ProxyProcess::start(BINARY, &config(&origin));
    let mut slow: Vec<_> = (0..20).map(|_| TcpStream::connect(proxy.admin_address()).unwrap()).collect();
    for stream in &mut slow {
        // Asked again and again without ever reading: the answers fill the socket, and the next is not made.
        stream.write_all("GET /stats HTTP/1.1\r\nhost: a\r\n\r\n".repeat(50).as_bytes()).unwrap();
    }
    let asked = Instant::now();
    assert_eq!(proxy.admin("/ready").text(), "LIVE\n");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    for bad in [
        "GET /\r\n\r\n",
        "\u{16}\u{3}\u{1}\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "POST /runtime_modify HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
    ] {
        assert_eq!(request(proxy.admin_address(), bad).status(), 400, "{bad:?}");
    }
    assert_eq!(get(proxy.listener("front"), "/").status(), 200);
    assert_eq!(proxy.admin_post("/quitquitquit").text(), "OK\n");
    assert_eq!(proxy.wait(Duration::from_secs(10)), Some(0));
}

#[test]
fn parts_of_the_configuration() {
    let origin = Origin::named("one");
    let proxy = ProxyProcess::start(
        BINARY,
        &config(&origin).replace("virtual_hosts:", "name: routes\n            virtual_hosts:"),
    );
    let dump = |query: &str| {
        let answer = proxy.admin(&format!("/config_dump?{query}"));
        (answer.status(), answer.text())
    };
    let head = "{\n \"configs\": [\n  {\n   \"@type\": \"type.googleapis.com/envoy.admin.v3.";
    let (_, all) = dump("mask=static_clusters");
    assert!(
        all.starts_with(&format!(
            "{head}ClustersConfigDump\",\n   \"static_clusters\": [\n    {{\n     \"cluster\": {{\n"
        )) && all.ends_with("    }\n   ]\n  }\n ]\n}\n")
            && !all.contains("ListenersConfigDump"),
        "{all}"
    );
    let (_, names) = dump("resource=static_clusters&mask=cluster.name");
    let name = "   \"cluster\": {\n    \"@type\": \"type.googleapis.com/envoy.config.cluster.v3.Cluster\",\n    \"name\": \"origin\"\n   }";
    assert_eq!(names, format!("{head}ClustersConfigDump.StaticCluster\",\n{name}\n  }}\n ]\n}}\n"));
    let (_, routes) = dump("resource=static_route_configs&mask=route_config.virtual_hosts");
    assert!(routes.contains("\"prefix\": \"/\"") && !routes.contains("\"name\": \"routes\""), "{routes}");
    let (_, node) = dump("mask=bootstrap.layered_runtime,bootstrap.admin");
    assert!(node.contains("\"static_layer\"") && !node.contains("static_resources"), "{node}");
    let (_, hosts) = dump("include_eds&resource=static_endpoint_configs");
    assert!(hosts.contains(&format!("\"port_value\": {}\n", origin.port())), "{hosts}");
    assert_eq!(dump("resource=dynamic_listeners"), (200, "{}\n".to_owned()));
    assert_eq!(dump("resource=static_clusters&name_regex=ori"), (200, "{}\n".to_owned()));
    assert!(dump("name_regex=.*").1.contains("\"name\": \"origin\""));
    let (_, fronts) = dump("name_regex=front&resource=static_listeners");
    assert!(fronts.contains("\"name\": \"front\""), "{fronts}");
    for (query, status, text) in [
        ("resource=bootstrap", 400, "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field"),
        ("resource=nonsense", 404, "nonsense not found in config dump"),
        ("mask=nonsense", 400, "FieldMask nonsense could not be successfully applied to any configs."),
        ("mask=static_clusters.cluster", 400, "FieldMask static_clusters.cluster could not be successfully applied"),
        ("mask=bootstrap.nonsense", 400, "FieldMask bootstrap.nonsense could not be"),
        ("resource=static_clusters&mask=cluster", 400, "FieldMask cluster could not be successfully used."),
        ("resource=static_clusters&mask=cluster.nonsense", 400, "FieldMask cluster.nonsense could not be"),
        ("resource=static_endpoint_configs", 404, "static_endpoint_configs not found in config dump"),
        ("name_regex=(", 400, "INVALID_ARGUMENT: Error while parsing name_regex from (: "),
    ] {
        let (code, answer) = dump(query);
        assert!(code == status && answer.starts_with(text), "{query}: {code} {answer}");
    }
}

#[test]
fn levels_of_the_log_change_all_at_once_or_not_at_all() {
    let origin = Origin::named("one");
    let proxy = ProxyProcess::start(BINARY, &config(&origin));
    for (query, reason) in [
        ("paths=http:debug,nobody:info", "unknown logger name"),
        ("paths=http:debug,upstream", "empty logger name or empty logger level"),
        ("paths=http:debug,upstream:loud", "unknown logger level"),
        ("group=http:debug", "group parameter requires fine-grain logging to be enabled"),
        ("http=debug&upstream=debug", "invalid number of parameters"),
    ] {
        let answer = proxy.admin_post(&format!("/logging?{query}"));
        assert!(answer.text().starts_with(&format!("error: {reason}\n\nusage: ")), "{query}: {}", answer.text());
        assert!(answer.status() == 400 && answer.text().contains("  http: info\n"), "{query}: {}", answer.text());
    }
    let levels = proxy.admin_post("/logging?paths=http:debug,upstream:trace").text();
    assert!(levels.contains("  http: debug\n") && levels.contains("  upstream: trace\n"), "{levels}");
    assert!(proxy.admin_post("/logging?level=error").text().contains("  http: error\n"));
}

#[test]
fn memory_at_the_start_is_small() {
    let origin = Origin::named("one");
    let proxy = ProxyProcess::start_with(BINARY, &config(&origin), &["--concurrency", "1"]);
    // The allocator's own reserve would be 6 MB.
    assert!(proxy.rss_anon_kib() < 5 * 1024, "{} KiB", proxy.rss_anon_kib());
}

#[test]
fn a_cluster_keeps_more_stats_where_it_is_asked_to() {
    let origin = Origin::named("one");
    let tracked =
        "    track_cluster_stats: {timeout_budgets: true, request_response_sizes: true, per_endpoint_stats: true}\n";
    let name = "  - name: origin\n";
    let config = config(&origin).replacen(name, &format!("{name}{tracked}"), 1);
    assert!(config.contains("track_cluster_stats"), "{config}");
    let proxy = ProxyProcess::start(BINARY, &config);
    for _ in 0..2 {
        assert_eq!(get(proxy.listener("front"), "/").status(), 200);
    }
    let endpoint = format!("cluster.origin.endpoint.127.0.0.1_{}", origin.port());
    assert_eq!(proxy.stat(&format!("{endpoint}.rq_total")), 2);
    assert_eq!(proxy.stat(&format!("{endpoint}.rq_success")), 2);
    assert_eq!(proxy.stat(&format!("{endpoint}.healthy")), 1);
    let text = proxy.admin("/stats/prometheus?filter=endpoint").text();
    let labels = format!("{{envoy_cluster_name=\"origin\",envoy_endpoint_address=\"127.0.0.1:{}\"}}", origin.port());
    assert!(text.contains(&format!("envoy_cluster_endpoint_rq_total{labels} 2\n")), "{text}");
    let text = proxy.admin("/stats/prometheus?filter=cluster.origin.upstream_r").text();
    for name in
        ["rq_headers_size", "rq_body_size", "rs_headers_count", "rs_body_size", "rq_timeout_budget_percent_used"]
    {
        assert!(text.contains(&format!("envoy_cluster_upstream_{name}_count{{")), "{name}: {text}");
    }
}

#[test]
fn runtime_values_come_from_a_folder_and_change_with_its_link() {
    let origin = Origin::named("one");
    let root = sota_testkit::temp_dir();
    let link = root.path().join("current");
    let turn = |name: &str, percent: &str| {
        let values = root.path().join(name).join("values/routing");
        std::fs::create_dir_all(&values).unwrap();
        std::fs::write(values.join("share"), percent).unwrap();
        std::os::unix::fs::symlink(root.path().join(name), root.path().join("next")).unwrap();
        std::fs::rename(root.path().join("next"), &link).unwrap();
    };
    turn("first", "# nobody\n0\n");
    let layers = format!(
        "layered_runtime:\n  layers:\n  - {{name: fixed, static_layer: {{routing.share: 50}}}}\n  - {{name: disk, disk_layer: \
         {{symlink_root: {}, subdirectory: values}}}}\n  - {{name: admin, admin_layer: {{}}}}\n",
        link.display()
    );
    let mut config = config(&origin);
    let (start, end) = (config.find("layered_runtime:").unwrap(), config.find("static_resources:").unwrap());
    config.replace_range(start..end, &layers);
    let whole = "{match: {prefix: /}, route: {cluster: origin}}";
    let part = format!(
        "{{match: {{prefix: /, runtime_fraction: {{default_value: {{numerator: 100}}, runtime_key: routing.share}}}}, \
         direct_response: {{status: 204}}}}, {whole}"
    );
    let config = config.replace(whole, &part);
    let proxy = ProxyProcess::start(BINARY, &config);
    let status = || get(proxy.listener("front"), "/").status();
    assert_eq!(status(), 200);
    let shown = proxy.admin("/runtime").text();
    assert!(shown.contains("\"routing.share\"") && shown.contains("\"disk\""), "{shown}");
    turn("second", "100");
    wait_until("the folder is read again", Duration::from_secs(20), || status() == 204);
    assert_eq!((proxy.stat("runtime.load_error"), proxy.stat("runtime.num_layers")), (0, 3));
    // The layer above goes before.
    assert_eq!(proxy.admin_post("/runtime_modify?routing.share=0").status(), 200);
    assert_eq!(status(), 200);
    // What cannot be read changes nothing.
    std::fs::write(root.path().join("first/values/broken"), b"\xff").unwrap();
    turn("first", "0");
    wait_until("told", Duration::from_secs(20), || proxy.stat("runtime.load_error") == 1);
    assert!(proxy.admin("/runtime").text().contains("\"100\""), "the values before");
}
