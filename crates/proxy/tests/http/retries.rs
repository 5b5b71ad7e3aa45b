//! Retries beyond the plain ones: hedging, choice of hosts, pauses that the upstream asks for, what is told to it.

use crate::fixture::{Setup, action, route_to};
use sota_config::{
    cluster::{CircuitBreakerThresholds, RetryBudget},
    retry::{RateLimitedBackOff, ResetHeader, RetryHostPredicate, RetryPolicy},
    route::{RouteAction, RouteActionKind},
};
use sota_testkit::{Client, End, Origin, Reply, get, request};
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

const MS: fn(u64) -> Duration = Duration::from_millis;

fn policy(on: &str, retries: u32) -> RetryPolicy {
    RetryPolicy {
        retry_on: vec![on.to_owned()],
        num_retries: retries,
        base_interval: MS(1),
        max_interval: MS(2),
        ..RetryPolicy::default()
    }
}

fn to(origins: &[SocketAddr], policy: RetryPolicy, edit: impl FnOnce(&mut RouteAction)) -> Setup {
    let mut action = RouteAction { retry_policy: Some(policy), ..action("origin") };
    edit(&mut action);
    Setup::with_routes(vec![route_to("/", RouteActionKind::Forward(Box::new(action)))]).cluster("origin", origins)
}

/// Answers the first requests like this, and the others with 200.
fn then_ok(first: usize, reply: impl Fn() -> Reply + Send + Sync + 'static) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::http(move |_| if count.fetch_add(1, Ordering::SeqCst) < first { reply() } else { Reply::ok("ok") })
}

fn hedging(per_try: u64, retries: u32) -> RetryPolicy {
    RetryPolicy { per_try_timeout: Some(MS(per_try)), ..policy("5xx", retries) }
}

#[test]
fn a_slow_attempt_goes_on_beside_another() {
    let late = || Reply::default().wait(MS(150)).send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate");
    // The second is silent: the first, though late, answers.
    let count = AtomicUsize::new(0);
    let origin =
        Origin::http(move |_| if count.fetch_add(1, Ordering::SeqCst) == 0 { late() } else { Reply::silence() });
    let hedges = |action: &mut RouteAction| action.hedge_on_per_try_timeout = Some(true);
    let proxy = to(&[origin.address()], hedging(60, 1), hedges).start();
    assert_eq!(get(proxy.address, "/").text(), "late");
    assert_eq!(origin.requests(), 2);
    // The second takes too long as well, and there is no third.
    assert_eq!(proxy.logged(1), "200 URX via_upstream 0/4");
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_per_try_timeout"), 0);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry"), 1);
    // The second is fast: it answers at once, and the first is dropped.
    let origin = then_ok(1, late);
    let proxy = to(&[origin.address()], hedging(40, 1), hedges).start();
    let start = Instant::now();
    let body = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(request(proxy.address, body).text(), "ok");
    assert!(start.elapsed() < MS(140), "{:?}", start.elapsed());
    assert!(origin.seen().iter().all(|seen| seen.body == b"abc"));
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
}

#[test]
fn a_bad_answer_does_not_count_while_another_may_come() {
    let count = AtomicUsize::new(0);
    let origin = Origin::http(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::default().wait(MS(120)).send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood"),
        _ => Reply::status(503, "bad"),
    });
    let hedges = |action: &mut RouteAction| action.hedge_on_per_try_timeout = Some(true);
    let proxy = to(&[origin.address()], hedging(40, 1), hedges).start();
    assert_eq!(get(proxy.address, "/").text(), "good");
    // Nothing good at all: the last answer that there is.
    let origin = then_ok(9, || Reply::default().wait(MS(60)).send("HTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nbad"));
    let proxy = to(&[origin.address()], hedging(40, 2), hedges).start();
    assert_eq!(get(proxy.address, "/").status(), 503);
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
    // And the route's timeout ends all of them.
    let origin = Origin::http(|_| Reply::silence());
    let proxy = to(&[origin.address()], hedging(30, 5), |action| {
        hedges(action);
        action.timeout = Some(MS(150));
    });
    let proxy = proxy.start();
    assert_eq!(get(proxy.address, "/").status(), 504);
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
    assert!(proxy.stat("cluster.origin.upstream_rq_timeout") >= 2);
}

#[test]
fn an_attempt_on_which_nothing_moves_is_given_up() {
    let origin = Origin::http(|request| match request.target() {
        "/slow" => {
            Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na").wait(MS(60)).send("b").wait(MS(60)).send("c")
        }
        "/stops" => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na").until_closed(),
        _ => Reply::silence(),
    });
    let idle = RetryPolicy { per_try_idle_timeout: Some(MS(100)), ..policy("5xx", 1) };
    let proxy = to(&[origin.address()], idle, |_| {}).start();
    assert_eq!(get(proxy.address, "/slow").text(), "abc");
    assert_eq!(get(proxy.address, "/silence").status(), 504);
    assert_eq!(proxy.logged(2), "504 URX,UT upstream_per_try_idle_timeout 0/24");
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_per_try_idle_timeout"), 2);
    let response = get(proxy.address, "/stops");
    assert_eq!((response.text().as_str(), response.end), ("a", End::Truncated));
    assert_eq!(proxy.logged(3), "200 UT upstream_per_try_idle_timeout 0/1");
}

#[test]
fn another_attempt_goes_to_another_host() {
    let (bad, good) = (Origin::http(|_| Reply::status(503, "bad")), Origin::http(|_| Reply::ok("good")));
    let avoiding = RetryPolicy {
        host_predicates: vec![RetryHostPredicate::PreviousHosts],
        host_selection_max_attempts: 5,
        ..policy("5xx", 1)
    };
    // One of two choices between them is the other one, so without the predicate some would fail.
    let proxy = to(&[bad.address(), good.address()], avoiding, |_| {})
        .edit_cluster(|cluster| cluster.lb_policy = sota_config::load_balancer::LbPolicy::Random)
        .start();
    let failed = (0..64).filter(|_| get(proxy.address, "/").status() != 200).count();
    // Five choices that all hit the bad host: one in 32 of those that began there.
    assert!(failed <= 8, "{failed}");
    assert!(proxy.stat("cluster.origin.retry.upstream_rq_503") >= 10);
}

#[test]
fn the_upstream_says_when_to_come_back() {
    let origin = then_ok(1, || Reply::raw("HTTP/1.1 429 No\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"));
    let limited = RetryPolicy {
        retriable_status_codes: vec![429],
        rate_limited_back_off: Some(RateLimitedBackOff {
            reset_headers: vec![ResetHeader { name: "retry-after".to_owned(), is_timestamp: false }],
            max_interval: Duration::from_secs(5),
        }),
        ..policy("retriable-status-codes", 1)
    };
    let proxy = to(&[origin.address()], limited, |_| {}).start();
    let start = Instant::now();
    assert_eq!(get(proxy.address, "/").text(), "ok");
    assert!((1000..2500).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry_backoff_ratelimited"), 1);
    assert_eq!(proxy.stat("cluster.origin.upstream_rq_retry_backoff_exponential"), 0);
}

#[test]
fn a_budget_limits_retries() {
    let origin = Origin::http(|_| Reply::status(503, "bad"));
    let proxy = to(&[origin.address()], policy("5xx", 3), |_| {})
        .edit_cluster(|cluster| {
            let retry_budget = Some(RetryBudget { percent: 0.0, min_concurrency: 0 });
            cluster.circuit_breakers[0] = CircuitBreakerThresholds { retry_budget, ..Default::default() };
        })
        .start();
    // No retry: the answer is the upstream's own.
    assert_eq!(get(proxy.address, "/").text(), "bad");
    assert_eq!((origin.requests(), proxy.stat("cluster.origin.upstream_rq_retry_overflow")), (1, 1));
    assert_eq!(proxy.logged(1), "503 UO via_upstream 0/3");
}

/// Envoy answers 507 to such a request while it pauses; here the upstream's own answer counts.
#[test]
fn a_body_that_is_too_large_to_keep_is_sent_once() {
    let count = AtomicUsize::new(0);
    let origin = Origin::raw(move |mut peer| {
        while let Ok(Some(head)) = peer.read_head() {
            // The first refuses at once and does not read the body.
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                let _ = peer.send(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                return;
            }
            let Ok((body, _)) = peer.read_body(&head) else { return };
            let text = body.len().to_string();
            let _ = peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()).as_bytes());
        }
    });
    let mut pausing = policy("5xx", 1);
    (pausing.base_interval, pausing.max_interval) = (MS(200), MS(200));
    let mut setup = to(&[origin.address()], pausing, |_| {});
    setup.buffer_limit = 64 * 1024;
    let proxy = setup.start();
    let mut client = Client::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").unwrap();
    client.send("begin").unwrap();
    proxy.wait_for("cluster.origin.upstream_rq_retry", 1);
    let _ = client.send(vec![b'x'; 1_000_000 - 5]);
    assert_eq!(client.read_response(false).text(), "1000000");
    assert_eq!(proxy.stat("cluster.origin.retry_or_shadow_abandoned"), 1);
}

#[test]
fn hosts_are_told_how_long_the_request_may_take() {
    let origin = then_ok(2, || Reply::status(503, "").wait(MS(0)));
    let deadline = |cluster: &mut sota_config::cluster::Cluster| cluster.deadline_header = Some("x-left-ms".to_owned());
    let mut pausing = policy("5xx", 5);
    (pausing.base_interval, pausing.max_interval) = (MS(30), MS(30));
    let proxy =
        to(&[origin.address()], pausing, |action| action.timeout = Some(MS(2000))).edit_cluster(deadline).start();
    assert_eq!(get(proxy.address, "/").text(), "ok");
    let told = |origin: &Origin| -> Vec<u64> {
        origin.seen().iter().map(|seen| seen.header("x-left-ms").unwrap().parse().unwrap()).collect()
    };
    let all = told(&origin);
    assert!(all.len() == 3 && all[0] <= 2000 && all[0] > 1500, "{all:?}");
    assert!(all[0] >= all[1] && all[1] >= all[2], "less with each: {all:?}");
    // What the proxy before has said counts where it is shorter, and is passed on.
    let origin = Origin::http(|_| Reply::silence());
    let proxy =
        to(&[origin.address()], policy("5xx", 0), |action| action.timeout = None).edit_cluster(deadline).start();
    let start = Instant::now();
    let response = request(proxy.address, "GET / HTTP/1.1\r\nHost: a\r\nx-left-ms: 120\r\n\r\n");
    assert_eq!(response.status(), 504);
    assert!((115..1000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert!(origin.last().header("x-left-ms").unwrap().parse::<u64>().unwrap() <= 120);
    // Nothing limits the request: nothing is told.
    let origin = then_ok(0, Reply::default);
    let proxy =
        to(&[origin.address()], policy("5xx", 0), |action| action.timeout = None).edit_cluster(deadline).start();
    get(proxy.address, "/");
    assert_eq!(origin.last().header("x-left-ms"), None);
}

#[test]
fn grpc_calls_are_tried_again_and_counted_by_their_own_status() {
    let status = |status: u32| {
        let fields = "content-type: application/grpc\r\ncontent-length: 0";
        Reply::raw(format!("HTTP/1.1 200 OK\r\n{fields}\r\ngrpc-status: {status}\r\n\r\n"))
    };
    let call = "POST /s/m HTTP/1.1\r\nHost: a\r\ncontent-type: application/grpc\r\nContent-Length: 0\r\n\r\n";
    for (on, code, tries) in [
        ("cancelled", 1, 2),
        ("deadline-exceeded", 4, 2),
        ("internal", 13, 2),
        ("resource-exhausted", 8, 2),
        ("unavailable", 14, 2),
        ("unavailable", 13, 1),
    ] {
        let origin = then_ok(1, move || status(code));
        let proxy = to(&[origin.address()], policy(on, 1), |_| {}).start();
        assert_eq!(request(proxy.address, call).status(), 200, "{on}");
        assert_eq!(origin.requests(), tries, "{on}");
    }
}

#[test]
fn copies_go_to_other_clusters() {
    use sota_config::retry::{MirrorCluster, MirrorPolicy};
    let (origin, shadow) =
        (Origin::http(|request| Reply::ok(&request.body)), Origin::http(|_| Reply::status(500, "x")));
    let mirror = |cluster, fraction: Option<u32>, keep_host| MirrorPolicy {
        cluster,
        fraction: fraction.map(|numerator| sota_config::matcher::FractionalPercent {
            numerator,
            denominator: 100,
            runtime_key: None,
        }),
        keep_host,
        host: String::new(),
    };
    let mirrors = vec![
        mirror(MirrorCluster::Name("shadow".to_owned()), None, false),
        mirror(MirrorCluster::Name("shadow".to_owned()), Some(0), false),
        mirror(MirrorCluster::Header("x-copy".to_owned()), None, true),
        mirror(MirrorCluster::Name("nowhere".to_owned()), None, false),
    ];
    let action = RouteAction { mirrors, ..action("origin") };
    let proxy = Setup::with_routes(vec![route_to("/", RouteActionKind::Forward(Box::new(action)))])
        .cluster("origin", &[origin.address()])
        .cluster("shadow", &[shadow.address()])
        .start();
    let body = "x".repeat(100_000);
    let post = format!("POST /p HTTP/1.1\r\nHost: a:80\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let response = request(proxy.address, &post);
    assert_eq!((response.status(), response.body.len()), (200, body.len()));
    sota_testkit::wait_until("the copy", Duration::from_secs(5), || shadow.seen().len() == 1);
    let copy = shadow.last();
    assert_eq!((copy.header("host"), copy.header("x-envoy-internal")), (Some("a-shadow:80"), Some("true")));
    assert!(copy.body == body.as_bytes() && copy.target() == "/p");
    // Two of them, and the answer does not wait.
    let two = "GET /g HTTP/1.1\r\nHost: a\r\nx-copy: shadow\r\n\r\n";
    assert_eq!(request(proxy.address, two).status(), 200);
    sota_testkit::wait_until("both copies", Duration::from_secs(5), || shadow.seen().len() == 3);
    let mut hosts: Vec<_> = shadow.seen()[1..].iter().map(|seen| seen.header("host").unwrap().to_owned()).collect();
    hosts.sort();
    assert_eq!(hosts, ["a", "a-shadow"]);
    proxy.wait_for("cluster.shadow.upstream_rq_500", 3);
    proxy.wait_for("cluster.shadow.upstream_rq_active", 0);
    // A client that goes away in the middle takes its copy along.
    let mut client = Client::connect(proxy.address);
    client.send("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").unwrap();
    proxy.wait_for("cluster.shadow.upstream_rq_active", 1);
    client.reset();
    proxy.wait_for("cluster.shadow.upstream_rq_active", 0);
    proxy.wait_for("cluster.origin.upstream_rq_active", 0);
}
