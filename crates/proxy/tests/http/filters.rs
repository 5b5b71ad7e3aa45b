//! What filters may do, each point of their contract.

use crate::fixture::{Setup, direct, http_filter, route};
use bytes::Bytes;
use sota_plugin::{
    Extension,
    cx::StreamCx,
    filter::{Bodies, DataStatus, FilterStatus, HttpFilter, HttpFilterConfig, LocalReply, Resume, per_stream},
    http::{Headers, RequestHead, ResponseHead, StatusCode},
    info::StreamInfo,
};
use sota_testkit::{Client, Origin, Reply, get, request};
use std::{sync::Arc, time::Duration};

/// Makes an extension of a filter type.
macro_rules! filter {
    ($static:ident, $name:literal, $filter:ty) => {
        static $static: Extension<dyn HttpFilterConfig> = Extension {
            name: $name,
            short_name: $name,
            type_urls: &[],
            build: |_, _| Ok(per_stream((), |_: &Arc<()>, _: &StreamInfo| Some(<$filter>::default()))),
            build_route: None,
            route_type_urls: &[],
        };
    };
}

fn echo() -> Origin {
    Origin::http(|request| {
        let fields: Vec<_> = request.head.fields.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let trailers: Vec<_> = request.trailers.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let body = String::from_utf8_lossy(&request.body);
        Reply::ok(format!("{} [{}] {body} [{}]", request.target(), fields.join(","), trailers.join(",")))
    })
}

fn post(body: &str) -> String {
    let chunks: String =
        body.as_bytes().chunks(3).map(|c| format!("{:x}\r\n{}\r\n", c.len(), String::from_utf8_lossy(c))).collect();
    format!("POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
}

/// Adds its mark to both heads, in order, and counts its end.
#[derive(Default)]
struct Mark<const N: char>;

impl<const N: char> HttpFilter for Mark<N> {
    fn bodies(&self) -> Bodies {
        Bodies::None
    }

    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        _: bool,
        _: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        head.headers.append_sanitized("x-mark", N.to_string());
        FilterStatus::Continue
    }

    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        _: bool,
        _: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        head.headers.append_sanitized("x-mark", N.to_string());
        FilterStatus::Continue
    }

    fn on_stream_complete(&mut self, cx: &mut StreamCx<'_>) {
        cx.worker.stats().counter("test.completed").inc();
    }
}

filter!(MARK_A, "mark_a", Mark<'a'>);
filter!(MARK_B, "mark_b", Mark<'b'>);
filter!(MARK_C, "mark_c", Mark<'c'>);

fn marks(fields: &sota_testkit::Fields) -> String {
    fields.values("x-mark").collect()
}

#[test]
fn filters_run_in_order_and_in_reverse_and_always_end() {
    let origin = echo();
    let proxy = Setup::to(origin.address()).filter(&MARK_A).filter(&MARK_B).filter(&MARK_C).start();
    let response = get(proxy.address, "/");
    assert_eq!(marks(&response.head.fields), "cba");
    assert_eq!(marks(&origin.last().head.fields), "abc");
    // A request that cannot be read passes the filters of responses too.
    assert_eq!(marks(&request(proxy.address, "GET / HTTP/1.1\r\n\r\n").head.fields), "cba");
    let mut client = Client::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    client.reset();
    proxy.wait_for("test.completed", 9);
}

/// Does what the request's `x-do` says.
#[derive(Default)]
struct Does {
    what: String,
    seen: usize,
}

impl HttpFilter for Does {
    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        end: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        self.what = head.headers.get_str("x-do").unwrap_or_default().to_owned();
        let worker = cx.worker.clone();
        match &*self.what {
            "reply" => FilterStatus::reply(LocalReply::new(StatusCode::FORBIDDEN, "no", "test_denied")),
            "hold" | "replace" | "reply-in-data" | "pause" => FilterStatus::StopIteration,
            "wait" => FilterStatus::wait(async move {
                worker.sleep(Duration::from_millis(30)).await;
                Resume::edit(|head: &mut RequestHead, _: &mut StreamCx<'_>| {
                    head.headers.set_sanitized("x-waited", "yes");
                })
            }),
            "wait-reply" => FilterStatus::wait(async move {
                worker.sleep(Duration::from_millis(10)).await;
                Resume::Reply(Box::new(LocalReply::new(StatusCode::UNAUTHORIZED, "who", "test_unknown")))
            }),
            "wait-forever" => FilterStatus::wait(std::future::pending()),
            "trailers" if end => {
                cx.add_trailers().set_sanitized("x-added", "1");
                FilterStatus::Continue
            }
            "body" if end => {
                cx.buffered.extend_from_slice(b"made here");
                FilterStatus::Continue
            }
            "reroute" => {
                head.set_path(b"/other").unwrap();
                cx.clear_route();
                FilterStatus::Continue
            }
            _ => FilterStatus::Continue,
        }
    }

    fn on_request_data(&mut self, data: &mut Bytes, end: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        self.seen += data.len();
        let worker = cx.worker.clone();
        match &*self.what {
            "hold" if !end => DataStatus::Buffer,
            "replace" if !end => DataStatus::Buffer,
            "replace" => {
                assert_eq!(cx.buffered.len() + data.len(), self.seen);
                cx.buffered.clear();
                *data = Bytes::from_static(b"something longer than what came");
                DataStatus::Continue
            }
            "pause" => DataStatus::Pause,
            "reply-in-data" => DataStatus::Reply(Box::new(LocalReply::new(StatusCode::CONFLICT, "", "test_data"))),
            "trailers" => {
                if end {
                    cx.add_trailers().set_sanitized("x-added", self.seen.to_string());
                }
                DataStatus::Continue
            }
            "upper" => {
                *data = data.to_ascii_uppercase().into();
                DataStatus::Continue
            }
            "wait-data" => DataStatus::Wait(Box::pin(async move {
                worker.sleep(Duration::from_millis(1)).await;
                Resume::edit(|data: &mut Bytes, _: &mut StreamCx<'_>| *data = data.to_ascii_uppercase().into())
            })),
            _ => DataStatus::Continue,
        }
    }

    fn on_request_trailers(&mut self, trailers: &mut Headers, _: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        trailers.append_sanitized("x-through", self.what.as_str());
        FilterStatus::Continue
    }
}

filter!(DOES, "does", Does);

#[track_caller]
fn does(address: std::net::SocketAddr, what: &str, body: Option<&str>) -> sota_testkit::Response {
    let bytes = body.map_or_else(|| "GET /p HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), post);
    request(address, bytes.replacen("Host: a", &format!("Host: a\r\nx-do: {what}"), 1))
}

#[test]
fn a_filter_answers_itself() {
    let origin = echo();
    let proxy = Setup::to(origin.address()).filter(&MARK_A).filter(&DOES).filter(&MARK_B).start();
    let response = does(proxy.address, "reply", None);
    assert_eq!((response.status(), response.text().as_str()), (403, "no"));
    // No filter had seen a response, so all do.
    assert_eq!(marks(&response.head.fields), "ba");
    assert_eq!(proxy.logged(1), "403 - test_denied 0/2");
    assert_eq!(does(proxy.address, "reply-in-data", Some("abc")).status(), 409);
    assert_eq!(does(proxy.address, "wait-reply", Some("abc")).status(), 401);
    assert_eq!(origin.received_bytes(), 0);
    proxy.wait_for("test.completed", 6);
}

#[test]
fn a_head_is_held_for_its_body_and_gets_its_length() {
    let origin = echo();
    let proxy = Setup::to(origin.address()).filter(&DOES).filter(&MARK_B).start();
    assert!(does(proxy.address, "hold", Some("abcdefgh")).text().ends_with(" abcdefgh []"));
    let seen = origin.last();
    assert_eq!((seen.header("content-length"), seen.header("transfer-encoding")), (Some("8"), None));
    assert_eq!(marks(&seen.head.fields), "b");
    assert!(does(proxy.address, "replace", Some("abcdefgh")).text().ends_with(" something longer than what came []"));
    assert_eq!(origin.last().header("content-length"), Some("31"));
}

#[test]
fn what_is_held_is_bounded() {
    let origin = echo();
    let mut setup = Setup::to(origin.address()).filter(&DOES);
    setup.buffer_limit = 1000;
    setup.model.stream_idle_timeout = Some(Duration::from_millis(200));
    let proxy = setup.start();
    let response = does(proxy.address, "hold", Some(&"x".repeat(2000)));
    assert_eq!((response.status(), response.text().as_str()), (413, "Payload Too Large"));
    assert!(proxy.logged(1).starts_with("413 - request_payload_too_large "));
    assert_eq!(proxy.stat("http.test.downstream_rq_too_large"), 1);
    // Paused: nothing is read any more, and in the end the stream times out.
    let response = does(proxy.address, "pause", Some(&"x".repeat(2000)));
    assert_eq!(response.status(), 408);
    assert_eq!(origin.received_bytes(), 0);
}

#[test]
fn waits_are_waited_for() {
    let origin = echo();
    let proxy = Setup::to(origin.address()).filter(&DOES).filter(&MARK_B).start();
    assert!(does(proxy.address, "wait", Some("abcdef")).text().ends_with(" abcdef []"));
    assert_eq!(origin.last().header("x-waited"), Some("yes"));
    assert!(does(proxy.address, "wait", None).text().contains("x-waited=yes"));
    assert!(does(proxy.address, "wait-data", Some("abcdef")).text().ends_with(" ABCDEF []"));
    assert!(does(proxy.address, "upper", Some("abcdef")).text().ends_with(" ABCDEF []"));
}

#[test]
fn a_client_that_goes_ends_a_wait() {
    let origin = echo();
    let proxy = Setup::to(origin.address()).filter(&DOES).filter(&MARK_A).start();
    let mut client = Client::connect(proxy.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nx-do: wait-forever\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(30));
    drop(client);
    proxy.wait_for("test.completed", 1);
    proxy.wait_for("http.test.downstream_rq_active", 0);
}

#[test]
fn trailers_and_bodies_are_added() {
    let origin = echo();
    let proxy = Setup::to(origin.address()).filter(&DOES).filter(&MARK_B).start();
    assert!(does(proxy.address, "trailers", Some("abcdef")).text().ends_with(" abcdef [x-added=6]"));
    assert!(does(proxy.address, "trailers", None).text().ends_with("  [x-added=1]"));
    assert!(does(proxy.address, "body", None).text().ends_with(" made here []"));
    assert_eq!(origin.last().header("content-length"), Some("9"));
    let with_trailers =
        "POST / HTTP/1.1\r\nHost: a\r\nx-do: hold\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n";
    assert!(request(proxy.address, with_trailers).text().ends_with(" abc [x-t=1,x-through=hold]"));
}

#[test]
fn a_cleared_route_is_chosen_anew() {
    let origin = echo();
    let routes = vec![direct("/p", 418, "first"), route("/other", "origin")];
    let proxy = Setup::with_routes(routes).cluster("origin", &[origin.address()]).filter(&DOES).start();
    assert_eq!(does(proxy.address, "nothing", None).status(), 418);
    assert!(does(proxy.address, "reroute", None).text().starts_with("/other "));
}

/// Does what the origin's `x-do` says to the response.
#[derive(Default)]
struct Answers {
    what: String,
}

impl HttpFilter for Answers {
    fn on_response_headers(
        &mut self,
        head: &mut ResponseHead,
        _: bool,
        cx: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        self.what = head.headers.get_str("x-do").unwrap_or_default().to_owned();
        let worker = cx.worker.clone();
        match &*self.what {
            "reply" => FilterStatus::reply(LocalReply::new(StatusCode::BAD_GATEWAY, "bad", "test_bad")),
            "hold" | "reply-in-data" => FilterStatus::StopIteration,
            "wait" => FilterStatus::wait(async move {
                worker.sleep(Duration::from_millis(20)).await;
                Resume::edit(|head: &mut ResponseHead, _: &mut StreamCx<'_>| head.status = StatusCode::ACCEPTED)
            }),
            _ => FilterStatus::Continue,
        }
    }

    fn on_response_data(&mut self, data: &mut Bytes, end: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        match &*self.what {
            "hold" if !end => DataStatus::Buffer,
            "hold" => {
                let all = [&cx.buffered[..], data, b"!"].concat();
                cx.buffered.clear();
                *data = all.into();
                DataStatus::Continue
            }
            "reply-in-data" | "late-reply" => {
                DataStatus::Reply(Box::new(LocalReply::new(StatusCode::BAD_GATEWAY, "bad", "test_bad")))
            }
            "trailers" if end => {
                cx.add_trailers().set_sanitized("x-added", "1");
                DataStatus::Continue
            }
            _ => DataStatus::Continue,
        }
    }
}

filter!(ANSWERS, "answers", Answers);

fn answering() -> Origin {
    Origin::http(|request| {
        let what = request.target().trim_start_matches('/');
        let head = format!("HTTP/1.1 200 OK\r\nx-do: {what}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
        Reply::raw(head).wait(Duration::from_millis(20)).send("3\r\ndef\r\n0\r\n\r\n")
    })
}

#[test]
fn responses_are_held_changed_and_replaced() {
    let origin = answering();
    let proxy = Setup::to(origin.address()).filter(&MARK_A).filter(&ANSWERS).filter(&MARK_B).start();
    let response = get(proxy.address, "/hold");
    assert_eq!((response.text().as_str(), response.header("content-length")), ("abcdef!", Some("7")));
    assert_eq!(marks(&response.head.fields), "ba");
    assert_eq!(get(proxy.address, "/wait").status(), 202);
    let response = get(proxy.address, "/trailers");
    assert_eq!((response.text().as_str(), response.trailers.value("x-added")), ("abcdef", Some("1")));
    for path in ["/reply", "/reply-in-data"] {
        let response = get(proxy.address, path);
        assert_eq!((response.status(), response.text().as_str()), (502, "bad"), "{path}");
        // The reply passes those filters that have not seen the response.
        assert_eq!(marks(&response.head.fields), "a", "{path}");
    }
    assert!(proxy.logged(5).starts_with("502 - test_bad 0/3"), "{:?}", proxy.log());
    let response = get(proxy.address, "/late-reply");
    assert_eq!((response.status(), response.end), (200, sota_testkit::End::Truncated));
    assert_eq!(proxy.logged(6), "200 - test_bad 0/0");
    proxy.wait_for("test.completed", 12);
}

#[test]
fn a_held_response_is_bounded() {
    let origin = Origin::http(|_| {
        let head = "HTTP/1.1 200 OK\r\nx-do: hold\r\ncontent-length: 5000\r\n\r\n";
        Reply::raw(head).send(vec![b'x'; 3000]).wait(Duration::from_millis(20)).send(vec![b'x'; 2000])
    });
    let mut setup = Setup::to(origin.address()).filter(&ANSWERS);
    setup.buffer_limit = 1000;
    let proxy = setup.start();
    assert_eq!(get(proxy.address, "/").status(), 500);
    assert!(proxy.logged(1).starts_with("500 - response_payload_too_large "));
    assert_eq!(proxy.stat("http.test.rs_too_large"), 1);
}

#[test]
fn disabled_and_optional_filters_are_left_out() {
    let origin = echo();
    let mut setup = Setup::to(origin.address()).filter(&MARK_A).filter(&MARK_B);
    setup.model.http_filters[0].disabled = true;
    let mut unknown = http_filter("nobody.knows");
    unknown.is_optional = true;
    setup.model.http_filters.insert(0, unknown);
    let proxy = setup.start();
    assert_eq!(marks(&get(proxy.address, "/").head.fields), "b");
}
