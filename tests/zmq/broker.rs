//! With routes: messages go to clusters.

use super::{Mesh, cluster, config, listener, mesh, need_pyzmq, run, start};
use sota_testkit::free_port;
use std::process::Command;

const ROUTES: &str = "routes: [{cluster: workers}],";
const REPLIES: &str = "routes: [{cluster: workers}], reply_timeout: 500ms, on_failure: reply, worker_wait: 1s,";

#[test]
fn requests_are_shared_among_workers() {
    need_pyzmq!();
    mesh(1, ROUTES, 3, "requests");
    mesh(2, ROUTES, 2, "many_clients");
}

#[test]
fn a_handshake_says_that_a_worker_is_well() {
    need_pyzmq!();
    mesh(1, "routes: [{cluster: workers}], upstream: {health_check: {interval: 200ms}},", 2, "health_check");
}

#[test]
fn a_cluster_that_there_is_not_is_told_of() {
    let text = config(&listener("zmq", "127.0.0.1", "routes: [{cluster: nobody}],"), "");
    let file = sota_testkit::temp_dir();
    let path = file.path().join("zmq.yaml");
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sota-mesh"));
    let checked = command.args(["validate", "-c"]).arg(path).output().unwrap();
    let told = String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert!(!checked.status.success() && told.contains("there is no cluster \"nobody\""), "{told}");
}

#[test]
fn router_workers_answer_as_they_like() {
    need_pyzmq!();
    mesh(1, ROUTES, 1, "router_workers");
}

#[test]
fn routes_by_frames() {
    need_pyzmq!();
    let ports = [free_port(), free_port(), free_port()];
    let clusters: String =
        ["a", "special", "rest"].iter().zip(&ports).map(|(name, port)| cluster(name, &[*port])).collect();
    let fields = "on_failure: reply, routes: [{match: {prefix: 'a.'}, cluster: a}, {match: {frame: 1, exact: special}, \
                  cluster: special}, {match: {socket_types: [REQ]}, cluster: rest}],";
    run(&start(1, &config(&listener("zmq", "127.0.0.1", fields), &clusters)), "routes", &ports, &[]);
}

#[test]
fn a_request_without_an_answer_gets_one_of_ours() {
    need_pyzmq!();
    mesh(1, REPLIES, 1, "reply_timeout");
    mesh(1, "routes: [{cluster: workers}], reply_timeout: 300ms,", 1, "failure_closes");
}

#[test]
fn a_worker_that_comes_back_gets_what_waits() {
    need_pyzmq!();
    mesh(1, ROUTES, 1, "worker_restarts");
}

#[test]
fn a_worker_that_stays_away_leaves_nobody_waiting() {
    need_pyzmq!();
    mesh(1, "routes: [{cluster: workers}], on_failure: reply, worker_wait: 1s,", 1, "orphans");
}

#[test]
fn a_message_that_is_not_whole_is_never_seen() {
    need_pyzmq!();
    mesh(1, ROUTES, 1, "broken_midway");
}

#[test]
fn requests_of_a_client_are_capped() {
    need_pyzmq!();
    mesh(1, "routes: [{cluster: workers}], max_in_flight: 5,", 1, "in_flight_cap");
}

#[test]
fn a_proxy_behind_a_proxy() {
    need_pyzmq!();
    let inner = Mesh::start(1, ROUTES, 1);
    let port = inner.proxy.listener("zmq").port();
    let outer = start(1, &config(&listener("zmq", "127.0.0.1", ROUTES), &cluster("workers", &[port])));
    run(&outer, "chain", &inner.workers, &[]);
}

#[test]
fn an_old_libzmq_as_worker() {
    need_pyzmq!();
    mesh(1, ROUTES, 1, "raw_2_0_worker");
}

#[test]
fn subscribers_get_what_they_want() {
    need_pyzmq!();
    mesh(1, ROUTES, 1, "pubsub");
    mesh(1, ROUTES, 1, "one_subscription_upstream");
    mesh(1, ROUTES, 1, "raw_subscriptions");
}

#[test]
fn publishers_are_told_again() {
    need_pyzmq!();
    mesh(1, ROUTES, 2, "replay");
}

#[test]
fn slow_subscribers_miss_something() {
    need_pyzmq!();
    mesh(1, "routes: [{cluster: workers}], high_watermark: {messages: 100},", 1, "slow_subscriber");
}

#[test]
fn publishers_reach_subscribers_on_every_worker() {
    need_pyzmq!();
    let fields = "routes: [{match: {socket_types: [PUB, XPUB]}, cluster: workers}],";
    mesh(1, fields, 1, "publishers");
    mesh(2, fields, 1, "publishers");
}

#[test]
fn work_is_spread_and_not_lost() {
    need_pyzmq!();
    mesh(1, ROUTES, 3, "pipeline");
    mesh(1, ROUTES, 3, "worker_dies_midway");
    mesh(1, ROUTES, 1, "late_worker");
    mesh(2, ROUTES, 2, "pullers");
}

#[test]
fn full_workers_stop_the_source() {
    need_pyzmq!();
    mesh(1, "routes: [{cluster: workers}], high_watermark: {messages: 10, bytes: 100000},", 1, "back_pressure");
}

#[test]
fn pairs_have_each_other() {
    need_pyzmq!();
    mesh(1, ROUTES, 1, "pairs");
    mesh(1, ROUTES, 1, "reps_in_front");
}

#[test]
fn one_listener_for_every_type() {
    need_pyzmq!();
    mesh(1, "routes: [{cluster: workers}], face_wait: 200ms,", 1, "all_faces");
}
