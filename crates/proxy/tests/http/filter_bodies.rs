//! What filters may do with bodies beyond letting them pass: let go a part, change a head that is held, put trailers
//! into the body.

use crate::fixture::Setup;
use bytes::Bytes;
use sota_plugin::{
    Extension,
    cx::StreamCx,
    filter::{DataStatus, FilterStatus, HttpFilter, HttpFilterConfig, Resume, per_stream},
    http::{Headers, RequestHead, ResponseHead, StatusCode},
    info::StreamInfo,
};
use sota_testkit::{End, Origin, Reply, request};
use std::{sync::Arc, time::Duration};

const fn extension<F: HttpFilter + Default + 'static>(name: &'static str) -> Extension<dyn HttpFilterConfig> {
    Extension {
        name,
        short_name: name,
        type_urls: &[],
        build: |_, _| Ok(per_stream((), |_: &Arc<()>, _: &StreamInfo| Some(F::default()))),
        build_route: None,
        route_type_urls: &[],
    }
}

/// Lets three octets go at a time, in both directions; every other time it waits first.
#[derive(Default)]
struct Slow {
    calls: u32,
}

static SLOW: Extension<dyn HttpFilterConfig> = extension::<Slow>("slow");

impl Slow {
    fn pass(&mut self, data: &mut Bytes, cx: &mut StreamCx<'_>) -> DataStatus {
        self.calls += 1;
        if self.calls.is_multiple_of(2) || data.is_empty() {
            let rest = data.split_off(3.min(data.len()));
            cx.keep_rest(rest);
            return DataStatus::Continue;
        }
        let sleep = cx.worker.sleep(Duration::from_millis(1));
        DataStatus::Wait(Box::pin(async move {
            sleep.await;
            Resume::edit(|data: &mut Bytes, cx| cx.keep_rest(data.split_off(2.min(data.len()))))
        }))
    }
}

impl HttpFilter for Slow {
    fn on_request_data(&mut self, data: &mut Bytes, _: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        self.pass(data, cx)
    }

    fn on_response_data(&mut self, data: &mut Bytes, _: bool, cx: &mut StreamCx<'_>) -> DataStatus {
        self.pass(data, cx)
    }
}

/// Holds a response until its trailers are there, and says in its head how it ended; `x-into-body` puts them into the
/// body instead.
#[derive(Default)]
struct Tell {
    into_body: bool,
}

static TELL: Extension<dyn HttpFilterConfig> = extension::<Tell>("tell");

impl HttpFilter for Tell {
    fn on_request_headers(
        &mut self,
        head: &mut RequestHead,
        _: bool,
        _: &mut StreamCx<'_>,
    ) -> FilterStatus<RequestHead> {
        self.into_body = head.headers.contains("x-into-body");
        FilterStatus::Continue
    }

    fn on_response_headers(
        &mut self,
        _: &mut ResponseHead,
        _: bool,
        _: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        if self.into_body { FilterStatus::Continue } else { FilterStatus::StopIteration }
    }

    fn on_response_data(&mut self, _: &mut Bytes, end: bool, _: &mut StreamCx<'_>) -> DataStatus {
        if self.into_body || end { DataStatus::Continue } else { DataStatus::Buffer }
    }

    fn on_response_trailers(&mut self, trailers: &mut Headers, cx: &mut StreamCx<'_>) -> FilterStatus<Headers> {
        let result = trailers.get("x-result").unwrap_or_default().to_vec();
        if self.into_body {
            cx.buffered.extend_from_slice(&result);
            trailers.clear();
            return FilterStatus::Continue;
        }
        let len = cx.buffered.len();
        cx.edit_response_head(move |head| {
            head.status = StatusCode::ACCEPTED;
            head.headers.set_sanitized("x-result", result);
            head.headers.set_sanitized("content-length", len.to_string());
        });
        FilterStatus::Continue
    }
}

fn with_trailers() -> Origin {
    Origin::http(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let chunk = format!("{:x}\r\n{body}\r\n", body.len());
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        Reply::raw(head).send(chunk).wait(Duration::from_millis(5)).send("0\r\nx-result: fine\r\n\r\n")
    })
}

fn post(body: &str, fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}content-length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn bodies_pass_bit_by_bit_and_arrive_whole() {
    let origin = with_trailers();
    let body = "0123456789abcdefghijklmnopqrstuvwxyz";
    for filters in 1..=3 {
        let mut setup = Setup::to(origin.address());
        for _ in 0..filters {
            setup = setup.filter(&SLOW);
        }
        let proxy = setup.edit_cluster(|cluster| cluster.http1.enable_trailers = true).start();
        let response = request(proxy.address, post(body, ""));
        assert_eq!((response.text().as_str(), response.end), (body, End::Complete), "{filters} filters");
    }
}

#[test]
fn a_held_head_learns_from_the_trailers() {
    let origin = with_trailers();
    let proxy = Setup::to(origin.address())
        .filter(&TELL)
        .filter(&SLOW)
        .edit_cluster(|cluster| cluster.http1.enable_trailers = true)
        .start();
    let response = request(proxy.address, post("hello", ""));
    assert_eq!((response.status(), response.header("x-result")), (202, Some("fine")));
    assert_eq!((response.text().as_str(), response.header("content-length")), ("hello", Some("5")));
}

#[test]
fn trailers_become_a_part_of_the_body() {
    let origin = with_trailers();
    let proxy = Setup::to(origin.address())
        .filter(&SLOW)
        .filter(&TELL)
        .edit_cluster(|cluster| cluster.http1.enable_trailers = true)
        .start();
    let response = request(proxy.address, post("hello ", "x-into-body: 1\r\n"));
    assert_eq!((response.text().as_str(), response.end), ("hello fine", End::Complete));
    assert!(response.trailers.0.is_empty());
}
