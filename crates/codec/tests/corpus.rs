//! Replays every seed and past finding of the fuzz targets, as they are and in simple mutations.

use sota_codec::fuzzing;
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

/// Cuts, removals, doublings and replacements at up to 64 places.
fn mutations(seed: &[u8], run: fn(&[u8])) {
    for at in (0..seed.len()).step_by(seed.len() / 64 + 1) {
        let (before, after) = seed.split_at(at);
        run(before);
        run(after);
        run(&[before, &after[1..]].concat());
        run(&[before, &after[..1], after].concat());
        for octet in [0, b'\r', b'\n', b' ', b':', b'0', 0x7f, 0xff] {
            run(&[before, &[octet], &after[1..]].concat());
            run(&[before, &[octet], after].concat());
        }
    }
}

#[test]
fn http1_request() {
    replay("http1_request", fuzzing::fuzz_http1_request);
}

#[test]
fn http1_response() {
    replay("http1_response", fuzzing::fuzz_http1_response);
}

#[test]
fn chunked() {
    replay("chunked", fuzzing::fuzz_chunked);
}

#[test]
fn client_hello() {
    replay("client_hello", fuzzing::fuzz_client_hello);
}

#[test]
fn proxy_protocol() {
    replay("proxy_protocol", fuzzing::fuzz_proxy_protocol);
}

#[test]
fn http_inspect() {
    replay("http_inspect", fuzzing::fuzz_http_inspect);
}

#[test]
fn hpack() {
    replay("hpack", fuzzing::fuzz_hpack);
}

#[test]
fn http2() {
    replay("http2", fuzzing::fuzz_http2);
}

#[test]
fn zmtp() {
    replay("zmtp", fuzzing::fuzz_zmtp);
}

#[test]
fn resp() {
    replay("resp", fuzzing::fuzz_resp);
}
