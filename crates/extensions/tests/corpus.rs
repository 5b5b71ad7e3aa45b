//! Replays every seed and past finding of the fuzz targets, as they are and in simple mutations.

use sota_extensions::fuzzing;
use std::{fs, path::Path};

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut seeds = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a readable folder").path();
        let seed = fs::read(&path).expect("a readable seed");
        println!("{}", path.display());
        run(&seed);
        mutations(&seed, run);
        seeds += 1;
    }
    assert!(seeds >= 4, "only {seeds} seeds in {}", folder.display());
}

/// Cuts, removals, doublings and replacements at a few places.
fn mutations(seed: &[u8], run: fn(&[u8])) {
    for at in (0..seed.len()).step_by(seed.len() / 5 + 1) {
        let (before, after) = seed.split_at(at);
        run(before);
        run(&[before, &after[1..]].concat());
        run(&[before, &after[..1], after].concat());
        for octet in [0, b'\n', b' ', b':', b'-', b'"', b'{', 0xff] {
            run(&[before, &[octet], &after[1..]].concat());
        }
    }
}

#[test]
fn decompress() {
    replay("decompress", fuzzing::fuzz_decompress);
}

#[test]
fn grpc_web() {
    replay("grpc_web", fuzzing::fuzz_grpc_web);
}

#[test]
fn session_cookie() {
    replay("session_cookie", fuzzing::fuzz_session_cookie);
}

#[test]
fn rate_limit() {
    replay("rate_limit", fuzzing::fuzz_rate_limit);
}

#[test]
fn peer_metadata() {
    replay("peer_metadata", fuzzing::fuzz_peer_metadata);
}
