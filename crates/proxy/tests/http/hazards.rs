//! Peers that give up at the worst of moments: nothing panics (the fixture sees to that), nothing is left over, and no
//! request reaches an origin in another form than it was meant.

use crate::{
    fixture::{Proxy, Setup, action, route_to},
    redirects::follows,
};
use bytes::Bytes;
use sota_config::{
    retry::{MirrorCluster, MirrorPolicy, RetryPolicy},
    route::{RouteAction, RouteActionKind},
};
use sota_plugin::{
    Extension,
    cx::StreamCx,
    filter::{DataStatus, FilterStatus, HttpFilter, HttpFilterConfig, LocalReply, per_stream},
    http::{RequestHead, ResponseHead, StatusCode},
    info::StreamInfo,
};
use sota_testkit::{Client, End, Origin, Reply};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

const MS: fn(u64) -> Duration = Duration::from_millis;
const BODY: &str = "0123456789";

/// Answers, fails, redirects, hesitates, breaks off, in turn.
fn moody() -> Origin {
    let count = AtomicUsize::new(0);
    Origin::http(move |_| {
        let redirect = "HTTP/1.1 307 Elsewhere\r\nlocation: http://b/there\r\ncontent-length: 3\r\n\r\nxyz";
        match count.fetch_add(1, Ordering::SeqCst) % 7 {
            0 => Reply::status(503, "no"),
            1 => Reply::raw(redirect),
            2 => Reply::default().wait(MS(4)).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
            3 => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").reset(),
            4 => Reply::default().reset(),
            5 => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").wait(MS(3)).send("-other"),
            _ => Reply::ok("ok"),
        }
    })
}

fn with_everything(origin: &Origin, shadow: &Origin) -> Proxy {
    let retries = RetryPolicy {
        retry_on: vec!["5xx".to_owned(), "reset".to_owned()],
        num_retries: 3,
        per_try_timeout: Some(MS(3)),
        base_interval: MS(1),
        max_interval: MS(1),
        ..RetryPolicy::default()
    };
    let mirror = MirrorPolicy {
        cluster: MirrorCluster::Name("shadow".to_owned()),
        fraction: None,
        keep_host: true,
        host: String::new(),
        mutations: Vec::new(),
    };
    let everything = RouteAction {
        internal_redirects: Some(follows()),
        retry_policy: Some(retries),
        hedge_on_per_try_timeout: Some(true),
        mirrors: vec![mirror],
        ..action("origin")
    };
    Setup::with_routes(vec![route_to("/", RouteActionKind::Forward(Box::new(everything)))])
        .cluster("origin", &[origin.address()])
        .cluster("shadow", &[shadow.address()])
        .start()
}

#[test]
fn a_client_may_give_up_at_every_stage_of_everything_that_repeats_a_request() {
    let (origin, shadow) = (moody(), moody());
    let proxy = with_everything(&origin, &shadow);
    let whole = format!("POST /here HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
    let cut = whole.len() - BODY.len();
    for round in 0..12 {
        for stage in [cut / 2, cut, cut + 4, whole.len()] {
            for pause in [0, 1, 2, 4, 8] {
                let mut client = Client::connect(proxy.address);
                client.send(&whole[..stage]).unwrap();
                std::thread::sleep(MS(pause));
                // Every third one stays and sees the end.
                if stage == whole.len() && round % 3 == 0 {
                    client.read_response(false);
                } else {
                    client.reset();
                }
            }
        }
    }
    for gauge in [
        "http.test.downstream_rq_active",
        "http.test.downstream_cx_active",
        "cluster.origin.upstream_rq_active",
        "cluster.shadow.upstream_rq_active",
    ] {
        proxy.wait_for(gauge, 0);
    }
    for origin in [&origin, &shadow] {
        assert!(origin.requests() > 20, "{}", origin.requests());
        for request in origin.seen() {
            assert_eq!(String::from_utf8_lossy(&request.body), BODY, "{:?}", request.head);
        }
    }
    assert!(proxy.stat("cluster.origin.upstream_rq_retry") > 0);
    assert!(proxy.stat("cluster.origin.upstream_internal_redirect_succeeded_total") > 0);
}

/// Answers itself, at a place that is left to chance.
struct Denies(u8);

static DENIES: Extension<dyn HttpFilterConfig> = Extension {
    name: "denies",
    short_name: "denies",
    type_urls: &[],
    build: |_, _| Ok(per_stream((), |_: &Arc<()>, _: &StreamInfo| Some(Denies(fastrand::u8(..8))))),
    build_route: None,
    route_type_urls: &[],
};

fn denial() -> LocalReply {
    LocalReply::new(StatusCode::FORBIDDEN, "denied", "test_denied")
}

impl Denies {
    fn data(&self, at: u8) -> DataStatus {
        if self.0 == at { DataStatus::Reply(Box::new(denial())) } else { DataStatus::Continue }
    }
}

impl HttpFilter for Denies {
    fn on_request_headers(&mut self, _: &mut RequestHead, _: bool, _: &mut StreamCx<'_>) -> FilterStatus<RequestHead> {
        if self.0 == 0 { FilterStatus::reply(denial()) } else { FilterStatus::Continue }
    }

    fn on_request_data(&mut self, _: &mut Bytes, _: bool, _: &mut StreamCx<'_>) -> DataStatus {
        self.data(1)
    }

    fn on_response_headers(
        &mut self,
        _: &mut ResponseHead,
        _: bool,
        _: &mut StreamCx<'_>,
    ) -> FilterStatus<ResponseHead> {
        if self.0 == 2 { FilterStatus::reply(denial()) } else { FilterStatus::Continue }
    }

    fn on_response_data(&mut self, _: &mut Bytes, _: bool, _: &mut StreamCx<'_>) -> DataStatus {
        self.data(3)
    }
}

/// So many requests; the environment may ask for more.
fn requests() -> usize {
    std::env::var("SOTA_HAZARD_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1500)
}

#[test]
fn a_filter_may_deny_while_the_upstream_still_sends() {
    let count = AtomicUsize::new(0);
    let origin = Origin::http(move |_| {
        let half = Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf-");
        match count.fetch_add(1, Ordering::SeqCst) % 6 {
            0 => half.wait(MS(1)).send("other"),
            1 => half.wait(MS(1)).reset(),
            2 => half.close(),
            3 => Reply::default().wait(MS(1)).reset(),
            _ => Reply::ok("0123456789"),
        }
    });
    let proxy = Setup::to(origin.address()).filter(&DENIES).start();
    let each = requests() / 3;
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let address = proxy.address;
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                let mut seen = [0; 4];
                for number in 0..each {
                    let post = format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
                    let response = client.exchange(&post);
                    let place = match (response.end, response.status()) {
                        (End::Complete, 200) if [&b"0123456789"[..], b"half-other"].contains(&&response.body[..]) => 0,
                        (End::Complete, 403) if response.body == b"denied" => 1,
                        (End::Complete, 503) => 2,
                        // The response had begun.
                        (End::Truncated | End::Reset | End::Closed, 200 | 503 | 0) => 3,
                        other => panic!("{other:?}"),
                    };
                    seen[place] += 1;
                    if place == 3 || response.header("connection") == Some("close") {
                        client = Client::connect(address);
                    }
                }
                seen
            })
        })
        .collect();
    let seen = clients.into_iter().map(|client| client.join().unwrap()).fold([0; 4], |mut all, seen| {
        all.iter_mut().zip(seen).for_each(|(all, seen)| *all += seen);
        all
    });
    assert!(seen.iter().all(|seen| *seen > each / 20), "{seen:?}");
    proxy.wait_for("http.test.downstream_rq_active", 0);
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
}
