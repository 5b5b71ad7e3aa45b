//! Formats as Envoy 1.40 prints them: expectations are lines that it logged for the same facts.

use super::*;
use crate::{
    access_log::LogKind,
    http::{Headers, Method, Protocol, RequestHead, ResponseHead, StatusCode},
    info::{ConnectionInfo, PeerAddress, ResponseFlag, RouteInfo, StreamInfo, UpstreamAttempt},
};
use proptest::prelude::*;
use std::{
    any::Any,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

#[derive(Debug)]
struct Route(Arc<Node>);

impl RouteInfo for Route {
    fn name(&self) -> &str {
        "up"
    }

    fn virtual_host(&self) -> &str {
        "vh"
    }

    fn route_configuration(&self) -> &str {
        "rc"
    }

    fn metadata(&self) -> Option<&Arc<Node>> {
        Some(&self.0)
    }

    fn filter_configs<'a>(&'a self, _: &'a str) -> Box<dyn Iterator<Item = &'a (dyn Any + Send + Sync)> + 'a> {
        Box::new(std::iter::empty())
    }

    fn filter_config(&self, _: &str) -> Option<&(dyn Any + Send + Sync)> {
        None
    }
}

fn map(entries: Vec<(&str, Value)>) -> Value {
    Value::Map(entries.into_iter().map(|(key, value)| (key.into(), Node::new(value))).collect())
}

fn string(text: &str) -> Value {
    Value::String(text.into())
}

fn list(items: Vec<Value>) -> Value {
    Value::List(items.into_iter().map(Node::new).collect())
}

fn address(ip: [u8; 4], port: u16) -> PeerAddress {
    PeerAddress::from(SocketAddr::from((ip, port)))
}

/// The facts of a request that went to an upstream, and its heads.
struct Facts {
    info: StreamInfo,
    request: RequestHead,
    response: ResponseHead,
    trailers: Headers,
}

impl Facts {
    fn cx(&self) -> FormatCx<'_> {
        FormatCx {
            request: Some(&self.request),
            response: Some(&self.response),
            response_trailers: Some(&self.trailers),
            ..FormatCx::new(&self.info, LogKind::DownstreamEnd)
        }
    }

    fn text(&self, text: &str) -> String {
        self.text_of(&Format::text(text, false).unwrap())
    }

    fn text_of(&self, format: &Format) -> String {
        let mut out = Vec::new();
        format.write(&self.cx(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

fn facts() -> Facts {
    let mut connection = ConnectionInfo::new(1, address([127, 0, 0, 1], 40000), address([127, 0, 0, 1], 8080));
    connection.server_name = Some("a_b.example/".into());
    let mut info = StreamInfo::new(Rc::new(connection), 7, Some(Protocol::Http11));
    info.start_time = UNIX_EPOCH + Duration::from_nanos(1_795_552_077_810_014_000);
    let start = info.timing.start;
    let at = |millis| Some(start + Duration::from_millis(millis));
    info.timing.request_end = at(1);
    info.timing.upstream_last_tx = at(2);
    info.timing.upstream_first_rx = at(5);
    info.timing.downstream_first_tx = at(6);
    info.timing.downstream_last_tx = at(8);
    info.timing.end = at(9);
    info.bytes_received = 3;
    info.bytes_sent = 100_000;
    info.response_code = Some(StatusCode::OK);
    info.response_code_details = Some("via upstream\twith space".into());
    info.request_id = Some("51a1156f-a4ed-401c-a2a5-f11ec2666893".into());
    let metadata = map(vec![
        ("s", string("str\"q")),
        ("n", string("1.5")),
        ("i", Value::Int(100_000)),
        ("b", Value::Bool(true)),
        ("o", map(vec![("z", Value::Int(1)), ("a", list(vec![Value::Int(1), string("x"), Value::Null]))])),
        ("nul", Value::Null),
    ]);
    let metadata = map(vec![("filter_metadata", map(vec![("ns", metadata)]))]);
    info.route = Some(Rc::new(Route(Arc::new(Node::new(metadata)))));
    info.upstream.cluster = Some("c".into());
    info.upstream.address = Some(address([127, 0, 0, 1], 44099));
    info.upstream.local = Some(SocketAddr::from(([127, 0, 0, 1], 55678)));
    info.upstream.connection_id = Some(2);
    info.upstream.protocol = Some(Protocol::Http11);
    info.upstream.attempts = 1;
    let mut request = RequestHead::new(Method::Get, "h:1", "/up?a=1&b=%20x").unwrap();
    request.headers.append("x-esc", b"\x80\"\\\xe9/\tz<>&'").unwrap();
    request.headers.append("x-rep", "1").unwrap();
    request.headers.append("x-rep", "2").unwrap();
    request.headers.append("x-request-id", "51a1156f-a4ed-401c-a2a5-f11ec2666893").unwrap();
    let response = ResponseHead::new(StatusCode::OK).with("x-envoy-upstream-service-time", "8").with("x-rep", "a");
    Facts { info, request, response, trailers: Headers::new() }
}

#[test]
fn default_format() {
    let expected = "[2026-11-24T20:27:57.810Z] \"GET /up?a=1&b=%20x HTTP/1.1\" 200 - 3 100000 9 8 \"-\" \"-\" \
                    \"51a1156f-a4ed-401c-a2a5-f11ec2666893\" \"h:1\" \"127.0.0.1:44099\"\n";
    assert_eq!(facts().text_of(&Format::default_access_log()), expected);
    let mut line = Vec::new();
    Format::default_access_log().write_log(&facts().cx(), &mut line);
    assert_eq!(line, expected.as_bytes());
}

#[test]
fn heads_and_paths() {
    let facts = facts();
    for (format, expected) in [
        ("%REQ(x-rep)%|%RESP(x-rep)%|%REQ(X-NO?:PATH):3%|%REQ(no)%|%TRAILER(x)%", "1|a|/up|-|-"),
        ("%REQ(?x-rep)%|%STREAM_INFO_REQ(:method)%|%REQUEST_HEADER(host)%|%RESP(:status)%", "1|GET|h:1|200"),
        ("%PATH%|%PATH(NQ)%|%PATH(WQ:ORIG)%|%PATH:2%", "/up?a=1&b=%20x|/up|-|/u"),
        ("%QUERY_PARAM(b)%|%QUERY_PARAM(zz)%|%QUERY_PARAM(a)%", " x|-|1"),
        ("%QUERY_PARAMS%|%QUERY_PARAMS(ORIG):4%", "a=1&b=%20x|a=1&"),
        ("%GRPC_STATUS%|%GRPC_STATUS(NUMBER)%", "-|-"),
        ("%REQUEST_HEADERS_BYTES%|%RESPONSE_TRAILERS_BYTES%", "129|0"),
    ] {
        assert_eq!(facts.text(format), expected, "{format}");
    }
}

#[test]
fn queries_decoded() {
    let mut facts = facts();
    for (path, expected) in [
        ("/q?a=%41&b=x%20y&a=2&c&=d&e=%zz&f=+%2B", "a=A&b=x%20y&a=2&c&=d&e=zz&f=++"),
        (
            "/q?a=%00&b=%0a&c=%26&e=%25&f=%7f&h=%2&i=%&l=%21%22%23%2f&m=%c3",
            "a=%00&b=%0a&c=&&e=%&f=%7f&h=2&i=&l=!%22#/&m=%c3",
        ),
        ("/q?%5C%3C%3E%5E%7B%7C%7D+%4", "%5C%3C%3E%5E%7B%7C%7D+%4"),
    ] {
        facts.request.set_path(path.as_bytes()).unwrap();
        assert_eq!(facts.text("%QUERY_PARAMS(DECODED)%"), expected);
    }
    facts.request.set_path(b"/q?%61=%41&a=2&e=%zz&f=+%2B").unwrap();
    assert_eq!(facts.text("%QUERY_PARAM(a)%|%QUERY_PARAM(e)%|%QUERY_PARAM(f)%"), "A|%zz|++");
    let without = "%REQ_WITHOUT_QUERY(:path)%|%REQ_WITHOUT_QUERY(x-none?:path):1%|%REQ_WITHOUT_QUERY(x-none)%";
    assert_eq!(facts.text(without), "/q|/|-");
}

#[test]
fn facts_about_streams() {
    let facts = facts();
    for (format, expected) in [
        ("%RESPONSE_CODE% %RESPONSE_CODE_DETAILS%", "200 via_upstream_with_space"),
        ("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "via upstream\twith space"),
        ("%RESPONSE_FLAGS%|%RESPONSE_FLAGS_LONG%|%CUSTOM_FLAGS%|%LOCAL_REPLY_BODY%", "-|-||"),
        ("%STREAM_ID%|%CONNECTION_ID%|%ACCESS_LOG_TYPE%", "51a1156f-a4ed-401c-a2a5-f11ec2666893|1|DownstreamEnd"),
        ("%ROUTE_NAME%|%VIRTUAL_CLUSTER_NAME%|%FILTER_CHAIN_NAME%|%REQUESTED_SERVER_NAME%", "up|-|-|a_b.example_"),
        ("%ENVIRONMENT(CARGO_PKG_NAME):4%|%ENVIRONMENT(THERE_IS_NO_SUCH)%|%HOSTNAME%|%TRACE_ID%", "sota|-|HOST|-"),
        ("%DURATION%|%REQUEST_DURATION%|%REQUEST_TX_DURATION%|%RESPONSE_DURATION%|%RESPONSE_TX_DURATION%", "9|1|2|5|3"),
        ("%COMMON_DURATION(DS_RX_BEG:DS_TX_END)%|%COMMON_DURATION(DS_TX_BEG:DS_TX_END:us)%", "8|2000"),
        (
            "%COMMON_DURATION(DS_TX_END:DS_RX_BEG)%|%COMMON_DURATION(US_CX_BEG:DS_TX_END)%|%COMMON_DURATION(x:y)%",
            "-|-|-",
        ),
        (
            "%BYTES_RETRANSMITTED%|%DOWNSTREAM_TLS_VERSION%|%DOWNSTREAM_PEER_CERT_V_START(%s)%|%XFCC_VALUE(uri)%",
            "0|-|-|-",
        ),
        ("%COALESCE({\"operators\":[{\"command\":\"REQ\",\"param\":\"no\"},\"PROTOCOL\"]}):4%", "HTTP"),
        ("%COALESCE({\"operators\":[{\"command\":\"REQ\",\"param\":\"no\"}]})%", "-"),
        ("%START_TIME(%s.%3f)%|%%|100%%", "1795552077.810|%|100%"),
    ] {
        let expected = expected.replace("HOST", std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
        assert_eq!(facts.text(format), expected, "{format}");
    }
    let id = facts.text("%UNIQUE_ID%");
    let shape: String = id.chars().map(|c| if c.is_ascii_hexdigit() { 'x' } else { c }).collect();
    assert_eq!(shape, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx");
    assert!(id.get(14..15) == Some("4") && id != facts.text("%UNIQUE_ID%"));
}

#[test]
fn addresses() {
    let mut facts = facts();
    facts.info.remote = Some(PeerAddress::from("[2001:db8::1:2]:5".parse::<SocketAddr>().unwrap()));
    for (format, expected) in [
        (
            "%DOWNSTREAM_REMOTE_ADDRESS%|%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%|%DOWNSTREAM_REMOTE_PORT%",
            "[2001:db8::1:2]:5|2001:db8::1:2|5",
        ),
        ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%|%DOWNSTREAM_LOCAL_PORT%", "127.0.0.1:40000|8080"),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(32)%|%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(200)%",
            "2001:db8::/32|-",
        ),
        (
            "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(24)%|%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(0)%",
            "127.0.0.0/24|0.0.0.0/0",
        ),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(x)%|%DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID%", "127.0.0.1|"),
        (
            "%UPSTREAM_HOST%|%UPSTREAM_CLUSTER%|%UPSTREAM_LOCAL_ADDRESS%|%UPSTREAM_REMOTE_PORT%",
            "127.0.0.1:44099|c|127.0.0.1:55678|44099",
        ),
        (
            "%UPSTREAM_HOST_NAME%|%UPSTREAM_HOST_NAME_WITHOUT_PORT%|%UPSTREAM_CONNECTION_ID%",
            "127.0.0.1:44099|127.0.0.1|2",
        ),
        ("%UPSTREAM_HOSTS_ATTEMPTED%|%UPSTREAM_CONNECTION_IDS_ATTEMPTED%", "127.0.0.1:44099|2"),
    ] {
        assert_eq!(facts.text(format), expected, "{format}");
    }
    facts.info.upstream.hostname = Some("b.example:80".into());
    facts.info.upstream.earlier_attempts.push(UpstreamAttempt {
        address: address([10, 0, 0, 1], 1),
        hostname: Some("a.example".into()),
        connection_id: None,
    });
    for (format, expected) in [
        (
            "%UPSTREAM_HOSTS_ATTEMPTED%|%UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT%",
            "10.0.0.1:1,127.0.0.1:44099|10.0.0.1,127.0.0.1",
        ),
        (
            "%UPSTREAM_HOST_NAMES_ATTEMPTED%|%UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT%",
            "a.example,b.example:80|a.example,b.example",
        ),
        ("%UPSTREAM_CONNECTION_IDS_ATTEMPTED%|%UPSTREAM_HOST_NAME_WITHOUT_PORT%", "2|b.example"),
    ] {
        assert_eq!(facts.text(format), expected, "{format}");
    }
    facts.info.remote = Some(PeerAddress::Pipe("/run/x.sock".into()));
    let format = "%DOWNSTREAM_REMOTE_ADDRESS%|%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%|%DOWNSTREAM_REMOTE_PORT%";
    assert_eq!(facts.text(format), "/run/x.sock|/run/x.sock|-");
}

/// Nothing is known: a TCP connection that found no upstream.
#[test]
fn without_heads_and_upstream() {
    let end = address([127, 0, 0, 1], 1);
    let mut info = StreamInfo::new(Rc::new(ConnectionInfo::new(1, end.clone(), end)), 1, None);
    info.response_flags.set(ResponseFlag::NoHealthyUpstream);
    info.response_flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
    let mut line = Vec::new();
    let format = "%PROTOCOL%|%RESPONSE_CODE%|%REQ(:path)%|%PATH%|%UPSTREAM_HOST%|%UPSTREAM_CONNECTION_ID%|\
                  %UPSTREAM_HOST_NAME%|%UPSTREAM_HOSTS_ATTEMPTED%|%RESPONSE_FLAGS%|%RESPONSE_FLAGS_LONG%|\
                  %UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID%|%REQUEST_HEADERS_BYTES%|%QUERY_PARAM(a)%";
    Format::text(format, false).unwrap().write(&FormatCx::new(&info, LogKind::TcpConnectionEnd), &mut line);
    let expected = "-|0|-|-|-|0|-|-|UH,URX|NoHealthyUpstream,UpstreamRetryLimitExceeded|-|0|-";
    assert_eq!(String::from_utf8(line).unwrap(), expected);
}

#[test]
fn metadata_and_state() {
    let mut facts = facts();
    let format = "%METADATA(ROUTE:ns)%|%METADATA(ROUTE:ns:s)%|%METADATA(ROUTE:ns:i)%|%METADATA(ROUTE:ns):9%|\
                  %METADATA(ROUTE)%|%METADATA(ROUTE:nope)%|%METADATA(CLUSTER:x)%|%METADATA(ROUTE:ns:nul)%|\
                  %METADATA(ROUTE:ns:b)%|%METADATA(ROUTE:ns:o:a)%|%METADATA(LISTENER:x)%";
    let expected = "{\"b\":true,\"i\":1e+05,\"n\":\"1.5\",\"nul\":null,\"o\":{\"a\":[1,\"x\",null],\"z\":1},\"s\":\"str\\\"q\"}|\
                    str\"q|1e+05|{\"b\":true|-|-|-|-|true|[1,\"x\",null]|-";
    assert_eq!(facts.text(format), expected);
    facts.info.metadata.set("f", "k", Node::string("v"));
    facts.info.upstream.cluster_metadata = Some(Arc::new(Node::new(map(vec![("x", map(vec![("y", Value::Int(3))]))]))));
    facts.info.filter_state.set("state", Rc::new("a \"text\"".to_owned()));
    for (format, expected) in [
        ("%DYNAMIC_METADATA(f:k)%|%METADATA(DYNAMIC:f)%|%DYNAMIC_METADATA(f:z)%", "v|{\"k\":\"v\"}|-"),
        ("%CLUSTER_METADATA(x:y)%|%UPSTREAM_METADATA(x:y)%", "3|-"),
        ("%FILTER_STATE(state)%|%FILTER_STATE(state:PLAIN):3%|%FILTER_STATE(no)%", "\"a \\\"text\\\"\"|a \"|-"),
        ("%FILTER_STATE(state:FIELD:x)%|%UPSTREAM_FILTER_STATE(state)%", "-|-"),
    ] {
        assert_eq!(facts.text(format), expected, "{format}");
    }
    let header = Format::header_value("%DYNAMIC_METADATA([\"f\",\"k\"])%%PER_REQUEST_STATE(state)%%REQ(no)%").unwrap();
    assert_eq!(facts.text_of(&header), "va \"text\"");
}

fn json(omit_empty_values: bool, entries: Vec<(&str, Value)>) -> Format {
    let format = FormatConfig::Json(Arc::new(Node::new(map(entries))));
    Format::build(&FormatString { format, omit_empty_values, content_type: None }).unwrap()
}

#[test]
fn json_documents() {
    let format = json(
        false,
        vec![
            ("z", string("%RESPONSE_CODE%")),
            ("a", string("%BYTES_SENT%")),
            ("m", string("%REQ(x-esc)%")),
            ("n", string("%REQ(no)%")),
            ("mixed", string("%REQ(no)%-%RESPONSE_CODE%")),
            ("lit", string("lü\"t\u{1}")),
            ("num", Value::Int(3)),
            ("f", Value::Float(1.5)),
            ("big", Value::Int(100_000)),
            ("neg", Value::Int(-5)),
            ("b", Value::Bool(true)),
            ("nul", Value::Null),
            ("lst", list(vec![string("%PROTOCOL%"), Value::Int(1), map(vec![("k", string("%REQ(no)%"))])])),
            ("o", map(vec![("y", string("%REQ(no)%")), ("x", string("%%"))])),
            ("e", map(vec![])),
            ("cmdonly", string("%%%PROTOCOL%")),
            ("es", string("")),
            ("ms", string("%METADATA(ROUTE:ns:s)%")),
            ("mi", string("%METADATA(ROUTE:ns:i)%")),
            ("mx", string("%METADATA(ROUTE:ns:o:z:q)%")),
            ("mtrunc", string("%METADATA(ROUTE:ns:s):2%")),
            ("mo", string("%METADATA(ROUTE:ns:o):5%")),
            ("port", string("%UPSTREAM_LOCAL_PORT%")),
            ("st", string("%START_TIME(%s)%")),
            ("flags", string("%RESPONSE_FLAGS%")),
            ("env", string("%ENVIRONMENT(THERE_IS_NO_SUCH)%")),
            ("cf", string("%CUSTOM_FLAGS%")),
            ("lrb", string("%LOCAL_REPLY_BODY%")),
        ],
    );
    let expected = "{\"a\":100000,\"b\":true,\"big\":1e+05,\"cf\":\"\",\"cmdonly\":\"%HTTP/1.1\",\"e\":{},\"env\":\"-\",\
                    \"es\":\"\",\"f\":1.5,\"flags\":\"-\",\"lit\":\"lü\\\"t\\u0001\",\"lrb\":\"\",\
                    \"lst\":[\"HTTP/1.1\",1,{\"k\":null}],\"m\":\"\\u0080\\u0022\\u005c\\u00e9/\\u0009z<>&'\",\
                    \"mi\":1e+05,\"mixed\":\"--200\",\"mo\":{\"a\":[1,\"x\",null],\"z\":1},\"ms\":\"str\\\"q\",\
                    \"mtrunc\":\"st\",\"mx\":null,\"n\":null,\"neg\":-5,\"nul\":null,\"num\":3,\
                    \"o\":{\"x\":\"%\",\"y\":null},\"port\":55678,\"st\":\"1795552077\",\"z\":200}";
    assert_eq!(facts().text_of(&format), expected);
    let mut line = Vec::new();
    format.write_log(&facts().cx(), &mut line);
    assert_eq!(line, format!("{expected}\n").into_bytes());
}

#[test]
fn empty_values_are_left_out() {
    let no = || string("%REQ(no)%");
    let format = json(
        true,
        vec![
            ("n", no()),
            ("mixed", string("%REQ(no)%-%RESPONSE_CODE%")),
            ("nul", Value::Null),
            ("lst", list(vec![no(), Value::Int(1), map(vec![("k", no())])])),
            ("o", map(vec![("y", no())])),
            ("m2", string("%REQ(no)%%REQ(no)%")),
            ("e", map(vec![])),
        ],
    );
    assert_eq!(facts().text_of(&format), "{\"lst\":[1],\"m2\":\"\",\"mixed\":\"-200\"}");
    assert_eq!(facts().text_of(&json(true, vec![("n", no())])), "{}");
    assert_eq!(facts().text_of(&json(false, vec![])), "{}");
    assert_eq!(facts().text_of(&Format::text("a%REQ(no)%b%UPSTREAM_HOST%c", true).unwrap()), "ab127.0.0.1:44099c");
}

#[test]
fn grpc_calls() {
    let mut facts = facts();
    facts.request.headers.append("content-type", "application/grpc").unwrap();
    let format = "%GRPC_STATUS%|%GRPC_STATUS(SNAKE_STRING)%|%GRPC_STATUS_NUMBER%";
    assert_eq!(facts.text(format), "Unknown|UNKNOWN|2");
    facts.trailers.append("grpc-status", "5").unwrap();
    assert_eq!(facts.text(format), "NotFound|NOT_FOUND|5");
    facts.trailers.set("grpc-status", "x").unwrap();
    assert_eq!(facts.text(format), "-1|-1|-1");
}

/// Nobody outside writes lines of a log.
#[test]
fn log_lines_stay_lines() {
    let mut facts = facts();
    facts.info.metadata.set("f", "k", Node::string("a\r\nb\u{1b}[2J\tc\u{7f}ü"));
    let format = Format::text("%DYNAMIC_METADATA(f:k)%\n", false).unwrap();
    let mut line = Vec::new();
    format.write_log(&facts.cx(), &mut line);
    assert_eq!(String::from_utf8(line).unwrap(), "a\\r\\nb\\x1b[2J\tc\\x7fü\n");
    assert_eq!(facts.text_of(&format), "a\r\nb\u{1b}[2J\tc\u{7f}ü\n");
}

#[test]
fn what_envoy_refuses() {
    for (format, reason) in [
        ("%REQ%", "REQ requires parameters"),
        ("%REQ()%", "REQ requires parameters"),
        ("%REQ(a?b?c)%", "more than 1 alternative header specified in \"a?b?c\""),
        ("%REQ(a b)%", "\"a b\": not a valid field name"),
        ("%RESPONSE_CODE(x)%", "RESPONSE_CODE does not take any parameters or length"),
        ("%PROTOCOL:3%", "PROTOCOL does not take any parameters or length"),
        ("%START_TIME(%n)%", "the time format contains a line feed"),
        ("%START_TIME:3%", "START_TIME does not allow length to be specified"),
        ("%CLUSTER_METADATA(a):3%", "CLUSTER_METADATA does not allow length to be specified"),
        ("%METADATA(FOO:a)%", "METADATA: \"FOO\" is not supported type of metadata"),
        ("%FILTER_STATE%", "FILTER_STATE needs a key"),
        ("%FILTER_STATE(a:FIELD)%", "FILTER_STATE: FIELD needs the field's name"),
        ("%FILTER_STATE(a:X)%", "FILTER_STATE supports PLAIN, TYPED and FIELD, not \"X\""),
        ("%COMMON_DURATION(a)%", "COMMON_DURATION takes START:END or START:END:UNIT, not \"a\""),
        ("%COMMON_DURATION(a:b:s)%", "COMMON_DURATION counts in ms, us or ns, not \"s\""),
        ("%GRPC_STATUS(x)%", "GRPC_STATUS takes CAMEL_STRING, SNAKE_STRING or NUMBER, not \"x\""),
        ("%PATH(XX)%", "PATH takes WQ or NQ first, not \"XX\""),
        ("%QUERY_PARAMS(x)%", "QUERY_PARAMS takes ORIG or DECODED, not \"x\""),
        ("%COALESCE({\"operators\":[]})%", "COALESCE: 'operators' must not be empty"),
        ("%COALESCE({\"operators\":[{\"command\":\"REQ\"}]})%", "COALESCE: operator 0: REQ requires parameters"),
        ("%RESPONS_CODE%", "unknown operator RESPONS_CODE; did you mean RESPONSE_CODE?"),
        ("%QQ%", "unknown operator QQ"),
        ("%CEL(request.path)%", "operator CEL is not supported"),
        ("a%", "\"a%\": no valid operator at position 1; a percent sign is written %%"),
        ("%foo%", "\"%foo%\": no valid operator at position 0; a percent sign is written %%"),
    ] {
        assert_eq!(Format::text(format, false).unwrap_err().reason, reason, "{format}");
    }
}

#[test]
fn json_errors_have_a_place() {
    let mark = Mark { line: 3, column: 9 };
    let bad = Node { value: string("%NO%"), mark };
    let list = Value::List(vec![Node::string("x"), bad]);
    let format = FormatConfig::Json(Arc::new(Node::new(map(vec![("a", map(vec![("b", list)]))]))));
    let error = Format::build(&FormatString { format, omit_empty_values: false, content_type: None }).unwrap_err();
    assert_eq!((error.path.as_str(), error.mark), ("a.b[1]", mark));
    let format = FormatConfig::Json(Arc::new(Node::new(Value::Int(1))));
    assert!(Format::build(&FormatString { format, omit_empty_values: false, content_type: None }).is_err());
}

proptest! {
    #[test]
    fn any_text_builds_or_fails(text in "[%A-Z_()a-z:?0-9{}\" ]{0,40}") {
        if let Ok(format) = Format::text(&text, false) {
            facts().text_of(&format);
        }
    }

    #[test]
    fn literals_come_out_as_they_are(text in "[^%]{0,20}") {
        prop_assert_eq!(facts().text(&text), text.clone());
        let format = Format::text(&text, false).unwrap();
        prop_assert_eq!(format.as_constant(), Some(text.as_bytes()));
    }

    #[test]
    fn documents_are_json(value in any::<String>(), header in "[ -~\u{80}-\u{ff}]{0,12}") {
        let mut facts = facts();
        facts.info.metadata.set("f", &value, Node::string(value.as_str()));
        facts.request.headers.set("x-a", &header).unwrap();
        let format = json(false, vec![
            ("m", string("%METADATA(DYNAMIC:f)%")), ("h", string("%REQ(x-a)%")), ("two", string("%REQ(x-a)%,%REQ(x-a)%")),
        ]);
        let document: serde_json::Value = serde_json::from_str(&facts.text_of(&format)).unwrap();
        prop_assert_eq!(document["m"][&value].as_str(), Some(value.as_str()));
        prop_assert_eq!(document["h"].as_str(), Some(header.as_str()));
    }
}
