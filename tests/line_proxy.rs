//! `simple_line` with routes: lines go to hosts that answer them, whoever those are; here it is `simple_line` itself.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sota_testkit::{Client, Origin, ProxyProcess, free_port};

fn listener(name: &str, port: u16, fields: &str) -> String {
    format!(
        "  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: simple_line
        typed_config: {{\"@type\": type.sota.com/sota.filters.network.simple, {fields}}}
"
    )
}

fn cluster(name: &str, port: u16) -> String {
    format!(
        "  - {{name: {name}, connect_timeout: 1s, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: \
         [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}\n"
    )
}

fn start(fields: &str, silent: u16) -> ProxyProcess {
    let port = free_port();
    let routes = "routes: [{match: [{name: to, exact: nobody}], cluster: nobody}, {match: [{name: to, exact: silent}], \
                  cluster: silent}, {match: [{name: to, prefix: ''}], cluster: lines}]";
    let config = format!(
        "static_resources:\n  listeners:\n{}{}  clusters:\n{}{}{}",
        listener("lines", port, ""),
        listener("main", 0, &format!("stat_prefix: x, timeout: 400ms, {fields} {routes}")),
        cluster("lines", port),
        cluster("nobody", free_port()),
        cluster("silent", silent)
    );
    ProxyProcess::start_with(env!("CARGO_BIN_EXE_sota-mesh"), &config, &["--concurrency", "1"])
}

fn ask(client: &mut Client, line: &str) -> String {
    client.send(format!("{line}\n")).unwrap();
    read_line(client)
}

fn read_line(client: &mut Client) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let (octet, end) = client.read_exactly(1);
        assert_eq!(octet.len(), 1, "{end:?} after {:?}", String::from_utf8_lossy(&line));
        line.extend(octet);
    }
    String::from_utf8(line).unwrap().trim_end().to_owned()
}

#[test]
fn lines_go_where_their_values_say() {
    let silent = Origin::raw(|mut peer| while peer.read_some(100).is_ok_and(|bytes| !bytes.is_empty()) {});
    let proxy = start("", silent.port());
    let mut client = Client::connect(proxy.listener("main"));
    let answer = r#"receive:url.Values{"a":[]string{"1"}, "to":[]string{"x"}}"#;
    for _ in 0..3 {
        assert_eq!(ask(&mut client, "a=1&to=x"), answer);
    }
    // Two at once have a connection each, and are answered in their order.
    client.send("to=silent\r\na=1&to=x\r\nb=1\r\nto=nobody\r\n").unwrap();
    assert_eq!(read_line(&mut client), "no answer: the host did not answer in time");
    assert_eq!(read_line(&mut client), answer);
    assert_eq!(read_line(&mut client), "no answer: no route fits the request");
    let told = read_line(&mut client);
    assert!(told.starts_with("no answer: "), "{told}");
    let stat = |name: &str| proxy.stat(&format!("simple_line.x.{name}"));
    assert_eq!((stat("downstream_rq_total"), stat("rq_success"), stat("rq_unanswered")), (7, 4, 3));
    assert_eq!((stat("rq_timeout"), stat("rq_no_route"), stat("downstream_rq_active")), (1, 1, 0));
    assert_eq!(proxy.stat("cluster.lines.upstream_cx_total"), 1, "the pool keeps it");
    assert_eq!(proxy.stat("cluster.silent.upstream_rq_timeout"), 1);
}

#[test]
fn a_line_that_is_too_long_is_told_after_what_came_before() {
    let proxy = start("max_line_bytes: 10,", free_port());
    let mut client = Client::connect(proxy.listener("main"));
    client.send("to=x\r\nto=12345678\r\nto=x\r\n").unwrap();
    assert_eq!(read_line(&mut client), r#"receive:url.Values{"to":[]string{"x"}}"#);
    let (rest, _) = client.read_exactly(100);
    assert_eq!(rest, b"line too long");
    assert_eq!(proxy.stat("simple_line.x.downstream_cx_protocol_error"), 1);
}
