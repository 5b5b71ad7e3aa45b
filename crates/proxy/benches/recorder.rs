//! What the flight recorder costs each request. Fails above 0.3 µs.
#![allow(clippy::unwrap_used, reason = "a measurement fails by panicking")]

use sota_plugin::{
    http::{Method, Protocol, RequestHead, StatusCode},
    info::{ConnectionInfo, PeerAddress, StreamInfo},
};
use sota_proxy::recorder::{Recorder, Wanted};
use std::{
    hint::black_box,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

const ROUNDS: u32 = 1_000_000;
const LIMIT: Duration = Duration::from_nanos(300);

fn main() {
    let address = PeerAddress::from(SocketAddr::from(([10, 0, 0, 3], 8080)));
    let connection = Rc::new(ConnectionInfo::new(0, address.clone(), address.clone()));
    let mut info = StreamInfo::new(connection, 0, Some(Protocol::Http11));
    let head = RequestHead::new(Method::Get, "shop.example.com", "/a/path/of/middle/length?and=a&query=b").unwrap();
    info.response_code = Some(StatusCode::OK);
    info.response_code_details = Some("via_upstream".into());
    info.upstream.cluster = Some("outbound|8080||shop.default.svc.cluster.local".into());
    info.upstream.address = Some(address);
    info.request_id = Some("01234567-89ab-4def-8123-456789abcdef".into());
    let now = Instant::now();
    info.timing.request_end = Some(now);
    info.timing.upstream_first_tx = Some(now);
    info.timing.upstream_first_rx = Some(now);
    info.timing.upstream_last_rx = Some(now);
    info.timing.end = Some(now);
    let recorder = Recorder::new(256);
    let best = (0..5).map(|_| {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            recorder.record(black_box(&info), Some(black_box(&head)));
        }
        start.elapsed() / ROUNDS
    });
    let best = best.min().unwrap();
    assert_eq!(recorder.read(&Wanted { limit: 1000, ..Wanted::default() }).len(), 256);
    println!("flight recorder: {} ns for each request", best.as_nanos());
    assert!(best < LIMIT, "above {} ns", LIMIT.as_nanos());
}
