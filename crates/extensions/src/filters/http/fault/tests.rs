use super::*;
use crate::testing::{FakeWorker, Route, Stream, building, config, request};
use sota_plugin::http::Method;
use std::task::{Context, Poll, Waker};

const MESSAGE: &str = EXTENSION.type_urls[0];

/// A filter's factory on a worker, with what the filter says.
struct Harness {
    worker: FakeWorker,
    factory: Box<dyn HttpFilterFactory>,
}

impl Harness {
    fn new(yaml: &str) -> Self {
        let worker = FakeWorker::default();
        let factory = building(|cx| build(&config(MESSAGE, yaml), cx)).unwrap().for_worker(&worker.cx());
        Self { worker, factory }
    }

    /// What becomes of a request; waiting is carried out.
    fn send(&self, fields: &[(&str, &str)], route: Option<Route>) -> (String, String) {
        let mut stream = Stream::new(&self.worker, request(Method::Get, "/", fields), route);
        let mut filter = self.factory.new_filter(&stream.info).unwrap();
        let story = self.finish(stream.on_request(|head, cx| filter.on_request_headers(head, true, cx)));
        (story, stream.info.response_flags.to_string())
    }

    fn finish(&self, status: FilterStatus<RequestHead>) -> String {
        match status {
            FilterStatus::Continue => "passes".to_owned(),
            FilterStatus::Reply(reply) => describe(&reply),
            FilterStatus::Wait(mut future) => {
                let mut cx = Context::from_waker(Waker::noop());
                assert!(future.as_mut().poll(&mut cx).is_pending());
                assert_eq!(self.active(), 1);
                self.worker.sleep_ends();
                let waited = format!("waits {} ms, ", self.worker.slept().last().unwrap().as_millis());
                match future.as_mut().poll(&mut cx) {
                    Poll::Ready(Resume::Continue) => waited + "passes",
                    Poll::Ready(Resume::Reply(reply)) => waited + &describe(&reply),
                    _ => unreachable!("the wait is over, and nothing is edited"),
                }
            }
            FilterStatus::StopIteration => unreachable!("nothing is held"),
        }
    }

    fn active(&self) -> i64 {
        self.worker.cx().stats().child("http.test.fault.").shared_gauge("active_faults").value()
    }

    fn counters(&self) -> Vec<(String, u64)> {
        let name = |name: &str| name.strip_prefix("http.test.fault.").unwrap().to_owned();
        self.worker.counters().into_iter().map(|(full, value)| (name(&full), value)).collect()
    }
}

fn describe(reply: &LocalReply) -> String {
    let grpc = reply.grpc_status.map(|status| format!(" grpc {status}")).unwrap_or_default();
    let flag = reply.flag.unwrap().short();
    format!("{}{grpc} {flag} {} {:?}", reply.status.as_str(), reply.details, reply.body)
}

const ABORTED: &str = "503 FI fault_filter_abort b\"fault filter abort\"";

#[test]
fn aborts() {
    let harness = Harness::new("abort: {http_status: 503, percentage: {numerator: 100}}");
    assert_eq!(harness.send(&[], None).0, ABORTED);
    assert_eq!((harness.counters(), harness.active()), (vec![("aborts_injected".to_owned(), 1)], 0));
    let harness = Harness::new(
        "abort: {grpc_status: 14, response_body: away, percentage: {numerator: 100, denominator: HUNDRED}}",
    );
    assert_eq!(harness.send(&[], None).0, "200 grpc 14 FI fault_filter_abort b\"away\"");
    let never = Harness::new("abort: {http_status: 503}");
    assert_eq!((never.send(&[], None).0, never.counters()), ("passes".to_owned(), vec![]));
}

#[test]
fn delays_with_and_without_an_abort() {
    let harness = Harness::new("delay: {fixed_delay: 0.25s, percentage: {numerator: 100}}");
    assert_eq!(harness.send(&[], None), ("waits 250 ms, passes".to_owned(), "DI".to_owned()));
    let both = "delay: {fixed_delay: 1s, percentage: {numerator: 100}}\nabort: {http_status: 503, percentage: {numerator: 100}}";
    let harness = Harness::new(both);
    assert_eq!(harness.send(&[], None).0, format!("waits 1000 ms, {ABORTED}"));
    let expected = [("aborts_injected", 1), ("delays_injected", 1)].map(|(name, value)| (name.to_owned(), value));
    assert_eq!((harness.counters(), harness.active()), (expected.to_vec(), 0));
}

#[test]
fn requests_say_what_they_want() {
    let harness = Harness::new(
        "delay: {header_delay: {}, percentage: {numerator: 100}}\nabort: {header_abort: {}, percentage: {numerator: 100}}",
    );
    let send = |fields: &[(&str, &str)]| harness.send(fields, None).0;
    let (abort, grpc) = ("x-envoy-fault-abort-request", "x-envoy-fault-abort-grpc-request");
    let delay = "x-envoy-fault-delay-request";
    assert_eq!(send(&[]), "passes");
    assert_eq!(send(&[(abort, "503")]), ABORTED);
    assert_eq!(send(&[(abort, "503"), (abort, "404")]), ABORTED);
    assert_eq!(send(&[(abort, "199"), (delay, "x")]), "passes");
    assert_eq!(send(&[(grpc, "5")]), "200 grpc 5 FI fault_filter_abort b\"fault filter abort\"");
    assert_eq!(send(&[(abort, "503"), ("x-envoy-fault-abort-request-percentage", "0")]), "passes");
    assert_eq!(send(&[(delay, "30")]), "waits 30 ms, passes");
    assert_eq!(send(&[(delay, "30"), ("x-envoy-fault-delay-request-percentage", "0")]), "passes");
    assert_eq!(send(&[(delay, "0")]), "passes");
}

#[test]
fn only_the_requests_that_are_meant() {
    let abort = "abort: {http_status: 503, percentage: {numerator: 100}}";
    let harness = Harness::new(&format!("{abort}\nheaders: [{{name: x-a}}]"));
    assert_eq!((harness.send(&[], None).0.as_str(), &*harness.send(&[("x-a", "")], None).0), ("passes", ABORTED));
    let harness = Harness::new(&format!("{abort}\ndownstream_nodes: [known]"));
    let node = "x-envoy-downstream-service-node";
    assert_eq!(harness.send(&[], None).0, "passes");
    assert_eq!(harness.send(&[(node, "other")], None).0, "passes");
    assert_eq!(harness.send(&[(node, "known")], None).0, ABORTED);
    let harness = Harness::new(&format!("{abort}\nupstream_cluster: c"));
    assert_eq!(harness.send(&[], None).0, "passes");
    assert_eq!(harness.send(&[], Some(Route { cluster: "d".into(), ..Route::default() })).0, "passes");
    assert_eq!(harness.send(&[], Some(Route { cluster: "c".into(), ..Route::default() })).0, ABORTED);
    // A route's own configuration takes the place of the filter's.
    let own = building(|cx| build_route(&config(MESSAGE, "delay: {fixed_delay: 1s}"), cx)).unwrap();
    let route = Route { configs: vec![own], cluster: "c".into(), ..Route::default() };
    assert_eq!(harness.send(&[], Some(route)).0, "passes");
}

#[test]
fn services_are_counted_up_to_a_limit() {
    let harness = Harness::new("abort: {http_status: 503, percentage: {numerator: 100}}");
    for number in 0..MAX_CLUSTERS + 2 {
        harness.send(&[("x-envoy-downstream-service-cluster", &format!("s{number}"))], None);
    }
    let find = |name: &str| harness.counters().into_iter().find(|(found, _)| found == name).map(|(_, value)| value);
    assert_eq!(find("s0.aborts_injected"), Some(1));
    assert_eq!((find("s100.aborts_injected"), find("_overflow.aborts_injected")), (None, Some(2)));
    assert_eq!(find("aborts_injected"), Some(102));
}

#[test]
fn no_more_than_so_many_at_a_time() {
    let harness = Harness::new("max_active_faults: 1\ndelay: {fixed_delay: 1s, percentage: {numerator: 100}}");
    let mut stream = Stream::new(&harness.worker, request(Method::Get, "/", &[]), None);
    let mut filter = harness.factory.new_filter(&stream.info).unwrap();
    let waiting = stream.on_request(|head, cx| filter.on_request_headers(head, true, cx));
    assert!(matches!(waiting, FilterStatus::Wait(_)));
    assert_eq!(harness.send(&[], None).0, "passes");
    drop((waiting, filter));
    assert_eq!(harness.active(), 0, "a stream that ends early is no longer counted");
    assert_eq!(harness.send(&[], None).0, "waits 1000 ms, passes");
    assert!(harness.counters().contains(&("faults_overflow".to_owned(), 1)));
}

#[test]
fn slow_responses() {
    let harness = Harness::new("response_rate_limit: {fixed_limit: {limit_kbps: 1}, percentage: {numerator: 100}}");
    let mut stream = Stream::new(&harness.worker, request(Method::Get, "/", &[]), None);
    let mut filter = harness.factory.new_filter(&stream.info).unwrap();
    assert!(matches!(stream.on_request(|head, cx| filter.on_request_headers(head, true, cx)), FilterStatus::Continue));
    assert_eq!(harness.active(), 1);
    // What comes in 50 ms is there at once.
    let mut data = Bytes::from(vec![b'x'; 1000]);
    let status = stream.on_response(|cx| filter.on_response_data(&mut data, true, cx));
    assert!(matches!(status, DataStatus::Continue) && (51..100).contains(&data.len()));
    let mut rest = stream.effects.rest.take().unwrap();
    assert_eq!(rest.len() + data.len(), 1000);
    let status = stream.on_response(|cx| filter.on_response_data(&mut rest, true, cx));
    assert!(matches!(status, DataStatus::Wait(_) | DataStatus::Continue));
    assert_eq!(harness.counters(), [("response_rl_injected".to_owned(), 1)]);
    drop(filter);
    assert_eq!(harness.active(), 0);
}
