//! What Envoy 1.40 answers to the same.

use super::LocalReplies;
use crate::test_context::{factory, stream_info};
use sota_config::{
    Node, Value,
    access_log::{AccessLogFilter, Comparison, ComparisonOp, Format, FormatString},
    http::{LocalReplyConfig, LocalReplyMapper},
    route::{HeaderMutations, HeaderValueOption},
};
use sota_plugin::{
    Registry,
    filter::LocalReply,
    http::{Method, RequestHead, StatusCode},
    info::ResponseFlag,
};
use std::sync::Arc;

fn text(format: &str, content_type: Option<&str>) -> FormatString {
    let content_type = content_type.map(str::to_owned);
    FormatString { format: Format::Text(format.into()), omit_empty_values: false, content_type }
}

/// 403 becomes 409 in JSON; everything else is wrapped in HTML.
fn config() -> LocalReplyConfig {
    let is_403 = Comparison { op: ComparisonOp::Eq, value: 403, runtime_key: None };
    let fields = [("a", "%LOCAL_REPLY_BODY%"), ("b", "%RESPONSE_CODE%")];
    let json = Value::Map(fields.into_iter().map(|(key, value)| (key.into(), Node::string(value))).collect());
    LocalReplyConfig {
        mappers: vec![LocalReplyMapper {
            filter: AccessLogFilter::StatusCode(is_403),
            status_code: Some(409),
            body: Some(b"mapped".to_vec()),
            body_format: Some(FormatString {
                format: Format::Json(Arc::new(Node::new(json))),
                omit_empty_values: false,
                content_type: None,
            }),
            headers: HeaderMutations {
                add: vec![HeaderValueOption {
                    name: "x-m".into(),
                    value: "%RESPONSE_CODE% %REQ(:PATH)%".into(),
                    append_action: Default::default(),
                    keep_empty_value: false,
                }],
                remove: Vec::new(),
            },
        }],
        body_format: Some(text("<%LOCAL_REPLY_BODY%|%RESPONSE_CODE%|%RESPONSE_CODE_DETAILS%>", Some("text/html"))),
    }
}

fn answer(config: &LocalReplyConfig, reply: &LocalReply, method: Method, grpc: bool) -> String {
    let replies = factory(&Registry::default(), |cx| LocalReplies::build(config, cx)).unwrap();
    let request = RequestHead::new(method, "a", "/d").unwrap();
    let mut info = stream_info();
    info.is_grpc = grpc;
    let response = replies.prepare(reply, Some(&request), None, &mut info);
    assert_eq!(info.response_code_details.as_deref(), Some(&*reply.details));
    assert_eq!(info.response_flags.has(ResponseFlag::NoRouteFound), reply.flag.is_some());
    let mut lines = Vec::new();
    response.head.headers.write_lines(&mut lines);
    let fields = String::from_utf8(lines).unwrap().replace("\r\n", " | ");
    format!("{} | {fields}{}", response.head.status, String::from_utf8_lossy(&response.body))
}

#[test]
fn plain() {
    let plain = LocalReplyConfig::default();
    let reply = |body: &'static str| LocalReply::new(StatusCode::FORBIDDEN, body, "why");
    let no = reply("100% no~\nä");
    let head = "403 | content-length: 11 | content-type: text/plain | ";
    assert_eq!(answer(&plain, &no, Method::Get, false), format!("{head}100% no~\nä"));
    assert_eq!(answer(&plain, &no, Method::Head, false), head);
    assert_eq!(answer(&plain, &reply(""), Method::Get, false), "403 | ");
    let grpc = "200 | content-type: application/grpc | grpc-status: 7 | ";
    assert_eq!(answer(&plain, &no, Method::Post, true), format!("{grpc}grpc-message: 100%25 no%7E%0A%C3%A4 | "));
    assert_eq!(answer(&plain, &reply(""), Method::Post, true), grpc);
    let explicit = LocalReply { grpc_status: Some(3), ..reply("") };
    assert!(answer(&plain, &explicit, Method::Post, true).contains("grpc-status: 3"));
    let mut typed = reply("{}").flag(ResponseFlag::NoRouteFound);
    typed.headers.append_sanitized("content-type", "application/json");
    let expected = "403 | content-type: application/json | content-length: 2 | {}";
    assert_eq!(answer(&plain, &typed, Method::Get, false), expected);
}

#[test]
fn mapped_and_formatted() {
    let reply = |code, body: &'static str| LocalReply::new(StatusCode::from_u16(code).unwrap(), body, "why");
    let json = "409 | x-m: 403 /d | content-length: 23 | content-type: application/json | ";
    let body = "{\"a\":\"mapped\",\"b\":409}";
    assert_eq!(answer(&config(), &reply(403, "no"), Method::Get, false), format!("{json}{body}\n"));
    assert_eq!(answer(&config(), &reply(403, "no"), Method::Head, false), json);
    assert_eq!(
        answer(&config(), &reply(403, "no"), Method::Post, true),
        format!("200 | x-m: 403 /d | content-type: application/grpc | grpc-status: 2 | grpc-message: {body} | ")
    );
    assert_eq!(
        answer(&config(), &reply(404, ""), Method::Get, false),
        "404 | content-length: 10 | content-type: text/html | <|404|why>"
    );
    assert_eq!(
        answer(&config(), &reply(404, "b"), Method::Post, true),
        "200 | content-type: application/grpc | grpc-status: 12 | grpc-message: <b|404|why> | "
    );
    // A format replaces the content type of what it changes.
    let mut typed = reply(404, "{}");
    typed.headers.append_sanitized("content-type", "application/json");
    let expected = "404 | content-type: text/html | content-length: 12 | <{}|404|why>";
    assert_eq!(answer(&config(), &typed, Method::Get, false), expected);
}

#[test]
fn errors_say_where() {
    let mut broken = config();
    broken.mappers[0].status_code = Some(1);
    broken.body_format = Some(text("%NONSENSE%", None));
    let errors = factory(&Registry::default(), |cx| LocalReplies::build(&broken, cx)).unwrap_err();
    let paths: Vec<_> = errors.0.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["t.local_reply_config.mappers[0].status_code", "t.local_reply_config.body_format"]);
}
