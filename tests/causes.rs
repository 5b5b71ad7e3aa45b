//! The cause of every failure: what the recorder, the access log and a response header say of requests that fail.
//!
//! One process has a listener for each case; each case names what its sentence must say.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Client, Origin, ProxyProcess, Reply, SynBlackHole, free_port, temp_dir, wait_until};
use std::{
    fmt::Write,
    time::{Duration, Instant},
};

const BINARY: &str = env!("CARGO_BIN_EXE_sota-mesh");
const LIMIT: Duration = Duration::from_secs(20);
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// One failure.
struct Case {
    name: &'static str,
    /// Further fields of the connection manager, in flow style.
    manager: &'static str,
    /// Filters before the router, with a comma behind each.
    filters: &'static str,
    /// The route's action.
    action: &'static str,
    /// Further fields of its cluster, in flow style, with a comma behind each.
    cluster: &'static str,
    /// The port of the cluster's host.
    port: u16,
    /// What the client does.
    client: fn(&mut Client),
    /// The flag.
    flag: &'static str,
    /// What the sentence says.
    says: &'static [&'static str],
}

impl Case {
    fn new(name: &'static str, port: u16, flag: &'static str, says: &'static [&'static str]) -> Self {
        let client = |client: &mut Client| client.send(GET).unwrap();
        Self { name, manager: "", filters: "", action: "", cluster: "", port, client, flag, says }
    }
}

fn config(cases: &[Case], log: &str) -> String {
    let mut listeners = String::new();
    let mut clusters = String::new();
    for case in cases {
        let Case { name, manager, filters, action, cluster, port, .. } = case;
        let action = match *action {
            "" => format!("route: {{cluster: {name}}}"),
            action => action.replace("CLUSTER", name),
        };
        let _ = writeln!(
            listeners,
            r#"  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          {manager}
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {log}
              log_format: {{text_format_source: {{inline_string: "{name}|%SOTA_CAUSE%\n"}}}}
          local_reply_config:
            mappers:
            - filter: {{status_code_filter: {{comparison: {{op: GE, value: {{default_value: 400, runtime_key: k}}}}}}}}
              headers_to_add: [{{header: {{key: x-cause, value: "%SOTA_CAUSE%"}}}}]
          route_config:
            name: routes
            virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, {action}}}]}}]
          http_filters: [{filters} {{name: envoy.filters.http.router}}]"#
        );
        let endpoints = match *port {
            0 => String::new(),
            port => format!(
                "lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]"
            ),
        };
        let _ = writeln!(
            clusters,
            "  - {{name: {name}, {cluster} load_assignment: {{cluster_name: {name}, endpoints: [{{{endpoints}}}]}}}}"
        );
    }
    format!("static_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}")
}

fn filter(name: &str, message: &str, fields: &str) -> &'static str {
    let kind = format!("type.googleapis.com/envoy.extensions.filters.http.{message}");
    let text = format!("{{name: envoy.filters.http.{name}, typed_config: {{\"@type\": {kind}, {fields}}}}},");
    Box::leak(text.into_boxed_str())
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn cases(ports: &Ports) -> Vec<Case> {
    let new = Case::new;
    let ok = ports.ok;
    vec![
        new(
            "refused",
            ports.closed,
            "UF",
            &["127.0.0.1:", "of cluster refused cannot be reached", "Connection refused"],
        ),
        Case {
            cluster: "connect_timeout: 0.2s,",
            ..new(
                "unreachable",
                ports.black_hole,
                "UF",
                &["did not accept a connection within 200 ms", "connect_timeout"],
            )
        },
        Case {
            cluster: "transport_socket: {name: envoy.transport_sockets.tls, typed_config: {\"@type\": \
                      type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}},",
            ..new("no_tls", ports.plain, "UF", &["do not agree on TLS", "transport_socket"])
        },
        new("no_hosts", 0, "UH", &["cluster no_hosts has no hosts", "endpoints"]),
        new("closes", ports.closes, "UC", &["closed the connection without an answer", "see its log"]),
        Case {
            client: |client| {
                assert_eq!(client.exchange(GET).status(), 200);
                // The host closes its connection when it sees the second request.
                client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx").unwrap();
            },
            ..new("stale", ports.stale, "UC", &["closed an idle reused connection after ", "idle_timeout"])
        },
        new("garbage", ports.garbage, "UPE", &["is no response that can be passed on", "malformed status line"]),
        Case {
            cluster: "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": \
                      type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: \
                      {http2_protocol_options: {}}}},",
            ..new("no_http2", ok, "UPE", &["whether the protocol of the cluster is the one that it speaks"])
        },
        new("truncated", ports.truncated, "UPE", &["in the middle of its response", "closed inside a message"]),
        new("half_head", ports.half_head, "UPE", &["is no response that can be passed on"]),
        Case {
            action: "route: {cluster: CLUSTER, timeout: 0.1s}",
            ..new("silent", ports.silent, "UT", &["did not answer within the timeout of the route (100 ms)"])
        },
        Case {
            action: "route: {cluster: CLUSTER, timeout: 0.3s}",
            ..new("dripping", ports.half_body, "UT", &["was not whole within the timeout of the route (300 ms)"])
        },
        Case {
            action: "route: {cluster: CLUSTER, timeout: 0.2s}",
            cluster: "connect_timeout: 5s,",
            ..new("connecting", ports.black_hole, "UT", &["there was no connection to", "(200 ms)", "connect_timeout"])
        },
        Case {
            action: "route: {cluster: CLUSTER, retry_policy: {retry_on: 5xx, num_retries: 0, per_try_timeout: 0.1s}}",
            ..new("slow_try", ports.silent, "URX,UT", &["per_try_timeout of the retry_policy (100 ms; attempt 1)"])
        },
        Case {
            action: "route: {cluster: CLUSTER, retry_policy: {retry_on: 5xx, num_retries: 0, per_try_idle_timeout: 0.1s}}",
            ..new("idle_try", ports.silent, "URX,UT", &["nothing came from", "per_try_idle_timeout", "100 ms"])
        },
        Case {
            action: "route: {cluster: CLUSTER, retry_policy: {retry_on: connect-failure, num_retries: 1}}",
            ..new("retried", ports.closed, "URX,UF", &["cannot be reached", "(attempt 2; num_retries"])
        },
        Case {
            cluster: "circuit_breakers: {thresholds: [{max_requests: 0}]},",
            ..new("busy", ok, "UO", &["circuit breaker of cluster busy is open", "max_requests is 0"])
        },
        Case {
            cluster: "circuit_breakers: {thresholds: [{max_pending_requests: 0}]},",
            ..new("queue", ok, "UO", &["max_pending_requests is 0", "circuit_breakers.thresholds"])
        },
        Case {
            action: "route: {cluster_header: x-cluster}",
            ..new("no_cluster", ok, "NC", &["names no cluster", "cluster_header"])
        },
        Case {
            action: "route: {cluster_header: x-cluster}",
            client: |client| client.send("GET / HTTP/1.1\r\nhost: a\r\nx-cluster: gone\r\n\r\n").unwrap(),
            ..new("gone_cluster", ok, "NC", &["names cluster \"gone\", which does not exist"])
        },
        Case {
            action: "name: r, route: {cluster: CLUSTER}",
            client: |client| client.send("GET /x?secret=1 HTTP/1.1\r\nhost: a\r\nx-a: b\r\n\r\n").unwrap(),
            ..new("no_route", ok, "NR", &["no route of route configuration routes matches host \"a\" and path \"/x\""])
        },
        Case {
            manager: "request_headers_timeout: 0.1s",
            client: |client| client.send("GET / HTTP/1.1\r\nho").unwrap(),
            ..new("slow_head", ok, "-", &["was not whole within request_headers_timeout (100 ms)"])
        },
        Case {
            manager: "request_timeout: 0.1s",
            client: |client| client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nab").unwrap(),
            ..new("slow_request", ports.silent, "-", &["was not whole within request_timeout (100 ms)"])
        },
        Case {
            manager: "stream_idle_timeout: 0.1s",
            ..new("idle", ports.silent, "SI", &["while the upstream was waited for", "100 ms", "stream_idle_timeout"])
        },
        Case {
            manager: "stream_idle_timeout: 0.1s",
            client: |client| client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nab").unwrap(),
            ..new("idle_client", ports.silent, "SI", &["the client sent nothing of its request for 100 ms"])
        },
        Case {
            manager: "common_http_protocol_options: {max_stream_duration: 0.2s}",
            ..new("long", ports.silent, "-", &["the stream lasted 2", "max_stream_duration"])
        },
        Case {
            client: |client| client.send("GET / HTTP/1.0\r\nhost: a\r\n\r\n").unwrap(),
            ..new("old", ok, "-", &["accept_http_10"])
        },
        Case {
            client: |client| client.send("GET / HTTP/1.1\r\n\r\n").unwrap(),
            ..new("no_host", ok, "-", &["the request has no host"])
        },
        Case {
            client: |client| client.send("\x16\x03\x01\x02\x00\r\n\r\n").unwrap(),
            ..new("nonsense", ok, "DPE", &["what is no HTTP/1", "TLS"])
        },
        Case {
            client: |client| {
                let post =
                    "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
                client.send(post).unwrap();
            },
            ..new("smuggling", ok, "DPE", &["both content-length and transfer-encoding", "allow_chunked_length"])
        },
        Case {
            client: |client| {
                client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n").unwrap();
            },
            ..new("encoding", ok, "DPE", &["another transfer-encoding than one chunked"])
        },
        Case {
            client: |client| client.send("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").unwrap(),
            ..new("two_hosts", ok, "DPE", &["the host of the request is malformed"])
        },
        Case {
            client: |client| client.send("GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n").unwrap(),
            ..new("control", ok, "DPE", &["control character"])
        },
        Case {
            manager: "max_request_headers_kb: 1",
            client: |client| {
                let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(2000));
                client.send(head).unwrap();
            },
            ..new("large_head", ok, "DPE", &["max_request_headers_kb"])
        },
        Case {
            manager: "common_http_protocol_options: {max_headers_count: 2}",
            client: |client| client.send("GET / HTTP/1.1\r\nhost: a\r\na: 1\r\nb: 1\r\nc: 1\r\nd: 1\r\n\r\n").unwrap(),
            ..new("many_fields", ok, "DPE", &["max_headers_count"])
        },
        Case {
            manager: "common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}",
            client: |client| client.send("GET / HTTP/1.1\r\nhost: a\r\na_b: 1\r\n\r\n").unwrap(),
            ..new("underscore", ok, "DPE", &["headers_with_underscores_action"])
        },
        Case {
            manager: "path_with_escaped_slashes_action: REJECT_REQUEST",
            client: |client| client.send("GET /a%2fb HTTP/1.1\r\nhost: a\r\n\r\n").unwrap(),
            ..new("slashes", ok, "-", &["path_with_escaped_slashes_action"])
        },
        Case {
            client: |client| {
                client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").unwrap();
            },
            ..new("upgrade", ok, "-", &["upgrade_configs"])
        },
        Case {
            client: |client| {
                client.send(GET).unwrap();
                std::thread::sleep(Duration::from_millis(50));
                client.close_write();
            },
            ..new("impatient", ports.silent, "DC", &["the client closed its connection before the response was whole"])
        },
        Case {
            filters: filter("buffer", "buffer.v3.Buffer", "max_request_bytes: 4"),
            client: |client| client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n123456789").unwrap(),
            ..new("large_body", ok, "-", &["max_request_bytes"])
        },
        Case {
            filters: filter("fault", "fault.v3.HTTPFault", "abort: {http_status: 503, percentage: {numerator: 100}}"),
            ..new("fault", ok, "FI", &["the fault filter aborted the request"])
        },
        Case {
            filters: filter(
                "local_ratelimit",
                "local_ratelimit.v3.LocalRateLimit",
                "stat_prefix: s, token_bucket: {max_tokens: 1, fill_interval: 1000s}, filter_enabled: {default_value: \
                 {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}",
            ),
            client: |client| {
                assert_eq!(client.exchange(GET).status(), 200);
                client.send(GET).unwrap();
            },
            ..new("limited", ok, "RL", &["token bucket", "max_tokens"])
        },
        Case {
            filters: filter("csrf", "csrf.v3.CsrfPolicy", "filter_enabled: {default_value: {numerator: 100}}"),
            client: |client| {
                client.send("POST / HTTP/1.1\r\nhost: a\r\norigin: http://b\r\ncontent-length: 0\r\n\r\n").unwrap();
            },
            ..new("origin", ok, "-", &["additional_origins of the csrf filter"])
        },
    ]
}

/// Where hosts are that behave in one way.
struct Ports {
    ok: u16,
    closed: u16,
    black_hole: u16,
    closes: u16,
    plain: u16,
    stale: u16,
    garbage: u16,
    truncated: u16,
    half_head: u16,
    half_body: u16,
    silent: u16,
}

/// The sentences that the recorder has of the last request, with its flags.
fn last(proxy: &ProxyProcess, after: &mut u64, name: &str) -> (String, String) {
    let started = Instant::now();
    loop {
        let answer = proxy.admin("/requests?format=json&failed&limit=1").text();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let request = &answer["requests"][0];
        if let Some(id) = request["stream_id"].as_u64()
            && id > *after
        {
            *after = id;
            let flags: Vec<_> =
                request["flags"].as_array().unwrap().iter().map(|flag| flag.as_str().unwrap()).collect();
            let flags = if flags.is_empty() { "-".to_owned() } else { flags.join(",") };
            return (request["cause"].as_str().unwrap_or_default().to_owned(), flags);
        }
        assert!(started.elapsed() < LIMIT, "{name}: no failure was recorded");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_failure_says_its_cause() {
    let ok = Origin::named("ok");
    let closes = Origin::raw(|mut peer| {
        let _ = peer.read_head();
    });
    let plain = Origin::raw(|mut peer| {
        let _ = peer.read_some(5);
        let _ = peer.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        peer.until_closed();
    });
    let stale = Origin::raw(|mut peer| {
        let _ = peer.read_head();
        let _ = peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let _ = peer.read_head();
    });
    let garbage = Origin::http(|_| Reply::raw("what? no\r\n\r\n").close());
    let truncated = Origin::http(|_| Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").close());
    let half_head = Origin::http(|_| Reply::raw("HTTP/1.1 200 OK\r\ncontent-le").close());
    let half_body = Origin::http(|_| Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").until_closed());
    let silent = Origin::http(|_| Reply::silence().until_closed());
    let black_hole = SynBlackHole::new();
    let ports = Ports {
        ok: ok.port(),
        closed: free_port(),
        black_hole: black_hole.address().port(),
        closes: closes.port(),
        plain: plain.port(),
        stale: stale.port(),
        garbage: garbage.port(),
        truncated: truncated.port(),
        half_head: half_head.port(),
        half_body: half_body.port(),
        silent: silent.port(),
    };
    let cases = cases(&ports);
    assert!(cases.len() >= 40);
    let folder = temp_dir();
    let log = folder.path().join("log");
    let text = config(&cases, log.to_str().unwrap());
    // The route of this case wants a field that its request does not have.
    let text = text.replace(
        "{match: {prefix: /}, name: r,",
        "{match: {prefix: /, headers: [{name: x-no, present_match: true}]}, name: r,",
    );
    let proxy = ProxyProcess::start_with(BINARY, &text, &["--concurrency", "1"]);
    let mut after = 0;
    // The first stream of all has the number 0.
    sota_testkit::get(proxy.listener("busy"), "/");
    let mut wrong = Vec::new();
    for case in &cases {
        let mut client = Client::connect(proxy.listener(case.name));
        (case.client)(&mut client);
        let (cause, flags) = last(&proxy, &mut after, case.name);
        for part in case.says {
            if !cause.contains(part) {
                wrong.push(format!("{}: {part:?} is not in {cause:?}", case.name));
            }
        }
        if flags != case.flag {
            wrong.push(format!("{}: flags {flags}, not {}: {cause}", case.name, case.flag));
        }
        let written = |text: &str| text.lines().any(|line| line == format!("{}|{cause}", case.name));
        wait_until("the access log", LIMIT, || std::fs::read_to_string(&log).is_ok_and(|text| written(&text)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // The header that the configuration asks for, and nothing of a failure where there was none.
    let refused = sota_testkit::get(proxy.listener("refused"), "/");
    assert!(refused.header("x-cause").is_some_and(|cause| cause.contains("cannot be reached")), "{refused:?}");
    let origin = sota_testkit::get(proxy.listener("underscore"), "/");
    assert_eq!((origin.status(), origin.header("x-cause")), (200, None));
    wait_until("the access log", LIMIT, || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.lines().any(|line| line == "underscore|-"))
    });
}

#[test]
fn the_recorder_finds_requests() {
    let ok = Origin::http(|request| match request.target() {
        "/slow" => {
            Reply::default().wait(Duration::from_millis(160)).send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        }
        _ => Reply::ok(""),
    });
    let case = |name, port| Case::new(name, port, "", &[]);
    let folder = temp_dir();
    let log = folder.path().join("log");
    let text = config(&[case("good", ok.port()), case("bad", free_port())], log.to_str().unwrap());
    let proxy = ProxyProcess::start_with(BINARY, &text, &["--concurrency", "2", "--recent-requests", "20"]);
    for n in 0..50 {
        assert_eq!(sota_testkit::get(proxy.listener("good"), &format!("/{n}?token=hush")).status(), 200);
    }
    let slow = sota_testkit::request(
        proxy.listener("good"),
        "GET /slow HTTP/1.1\r\nhost: a\r\nauthorization: hush\r\nconnection: close\r\n\r\n",
    );
    assert_eq!(slow.status(), 200);
    assert_eq!(sota_testkit::get(proxy.listener("bad"), "/%1b[31m?x=hush").status(), 503);

    let found = |query: &str| {
        let answer = proxy.admin(&format!("/requests?format=json{query}")).text();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer["requests"].as_array().unwrap().clone()
    };
    wait_until("the requests are recorded", LIMIT, || found("&failed").len() == 1 && found("&path=/slow").len() == 1);
    let all = found("&limit=1000");
    assert!(all.len() <= 40, "{} of two workers", all.len());
    let slow = &found("&slow=150ms")[0];
    assert_eq!((slow["path"].as_str(), slow["status"].as_u64()), (Some("/slow"), Some(200)), "{slow}");
    let phase = |name: &str| slow["phases_us"][name].as_u64().unwrap();
    assert!(phase("request_received") <= phase("upstream_sent"), "{slow}");
    assert!(phase("response_begun") >= phase("upstream_sent") + 140_000, "{slow}");
    assert!(phase("response_received") <= slow["duration_us"].as_u64().unwrap(), "{slow}");
    let bad = found("&flag=UF&cluster=bad&status=5xx");
    assert_eq!((bad.len(), bad[0]["cluster"].as_str()), (1, Some("bad")));
    assert!(found("&flag=UF&cluster=good").is_empty());
    let text = proxy.admin("/requests?limit=1000").text();
    assert!(!text.contains("hush") && !text.contains('\x1b'), "{text}");
    assert!(text.contains("\n    upstream 127.0.0.1:"), "{text}");
    assert!(!format!("{all:?}").contains("hush"));
    for query in ["flag=XX", "slow=fast", "color=red", "format=xml", "limit=-1"] {
        assert_eq!(proxy.admin(&format!("/requests?{query}")).status(), 400, "{query}");
    }
}
