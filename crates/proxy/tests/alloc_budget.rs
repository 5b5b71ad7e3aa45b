//! What a request on kept connections may allocate, and how large the futures of connections are.
#![allow(unreachable_pub, dead_code, reason = "the fixture is shared with another test")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "http/fixture.rs"]
mod fixture;

use fixture::{Lines, Setup};
use sota_plugin::info::{ConnectionInfo, PeerAddress};
use sota_proxy::{
    context::WorkerContext,
    downstream::Downstream,
    drain::DrainSignal,
    local::Local,
    socket::{Io, Socket},
};
use sota_testkit::{Client, Origin, Reply, alloc, assert_future_size};
use std::{net::Ipv4Addr, rc::Rc};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// Requests before counting begins, and counted ones.
const WARM: usize = 50;
const COUNTED: usize = 200;

/// Allocations and octets of one request, in the mean, on the worker's thread.
fn per_request(setup: &Setup, request: &'static str) -> (f64, f64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    let (warm, warmed) = tokio::sync::oneshot::channel();
    let (finish, finished) = tokio::sync::oneshot::channel();
    let (go, gone) = std::sync::mpsc::channel();
    let drain = DrainSignal::default();
    let client = runtime.block_on(async {
        let local = Local::new(0, Default::default(), sota_plugin::stats::Registry::new().shard());
        let context = WorkerContext::new(&local);
        let manager = fixture::build(setup, Lines::default(), &context);
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::thread::spawn(move || {
            let mut client = Client::connect(address);
            let run = |client: &mut Client, count| {
                for _ in 0..count {
                    assert_eq!(client.exchange(request).status(), 200);
                }
            };
            run(&mut client, WARM);
            warm.send(()).unwrap();
            gone.recv().unwrap();
            run(&mut client, COUNTED);
            finish.send(()).unwrap();
        });
        let (stream, peer) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let own = stream.local_addr().unwrap();
        let info = Rc::new(ConnectionInfo::new(0, PeerAddress::from(peer), PeerAddress::from(own)));
        let socket = Socket::new(Io::Tcp(stream));
        let downstream = Downstream { socket, info, drain: drain.watch(), buffer_limit: 1 << 20 };
        let future = manager.serve(downstream);
        assert_future_size("a downstream connection", &future, 600..=925);
        local.spawn(true, future);
        warmed.await.unwrap();
        client
    });
    let (ended, taken) = alloc::count(|| {
        go.send(()).unwrap();
        runtime.block_on(finished)
    });
    ended.unwrap();
    client.join().unwrap();
    let mean = |sum: u64| sum as f64 / COUNTED as f64;
    (mean(taken.allocations), mean(taken.bytes))
}

#[test]
fn a_get_allocates_little() {
    let origin = Origin::http(|_| Reply::ok(vec![b'x'; 1024]));
    let mut setup = Setup::to(origin.address());
    setup.model.access_log.clear();
    let (allocations, bytes) = per_request(&setup, "GET /a HTTP/1.1\r\nHost: x\r\nUser-Agent: test\r\n\r\n");
    println!("GET: {allocations} allocations, {bytes} octets");
    assert!((1.0..=5.1).contains(&allocations), "{allocations} allocations");
    assert!(bytes <= 4096.0, "{bytes} octets");
}

#[test]
fn so_does_a_post() {
    let origin = Origin::http(|_| Reply::ok(vec![b'x'; 1024]));
    let mut setup = Setup::to(origin.address());
    setup.model.access_log.clear();
    let request = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789";
    let (allocations, bytes) = per_request(&setup, request);
    println!("POST: {allocations} allocations, {bytes} octets");
    assert!((1.0..=5.1).contains(&allocations), "{allocations} allocations");
    assert!(bytes <= 4096.0, "{bytes} octets");
}
