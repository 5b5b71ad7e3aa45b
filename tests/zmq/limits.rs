//! What a peer may do, and what becomes of it when it does more.

use super::{Mesh, need_pyzmq};

/// Limits that are reached quickly.
const SMALL: &str = "handshake_timeout: 700ms, refuse_reserved_identity: true, limits: {max_frame_bytes: 1000, \
                     max_message_bytes: 2000, max_frames_per_message: 10, max_topic_bytes: 100, max_subscriptions: 5},";

fn each(names: &[&str], fields: &str, workers: usize) {
    for name in names {
        let mesh = Mesh::start(1, fields, workers);
        mesh.run("limit", &[name]);
    }
}

#[test]
fn sizes_and_numbers() {
    need_pyzmq!();
    each(&["frame", "huge_length", "message", "frames", "command", "metadata", "properties"], SMALL, 0);
    each(&["topic", "subscriptions"], &format!("{SMALL} routes: [{{cluster: workers}}],"), 1);
}

#[test]
fn time() {
    need_pyzmq!();
    each(&["slow_handshake", "silent"], SMALL, 0);
    each(&["does_not_read"], "write_timeout: 1s,", 0);
    each(&["ping_flood"], "", 0);
}

#[test]
fn grammar() {
    need_pyzmq!();
    let names = ["reserved_flags", "command_of_2_0", "command_with_more", "empty_command", "ping_context"];
    each(&names, SMALL, 0);
    each(&["identity", "reserved_identity"], SMALL, 0);
    each(&["downgrade"], "min_version: '3.0',", 0);
}

#[test]
fn half_open_connections_of_one_address() {
    need_pyzmq!();
    each(&["half_open"], "max_handshakes_per_address: 2,", 0);
}

#[test]
fn other_protocols_are_named_in_the_log() {
    need_pyzmq!();
    for (name, told) in [("http", "looks like HTTP"), ("tls", "looks like TLS")] {
        let mesh = Mesh::start(1, SMALL, 0);
        mesh.run("limit", &[name]);
        let log = mesh.proxy.log();
        assert!(log.contains("not ZMTP") && log.contains(told), "{log}");
    }
}
