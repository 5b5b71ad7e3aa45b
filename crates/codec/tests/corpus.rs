//! Replays every seed and past finding of the fuzz targets, as they are and in simple mutations.

use sota_codec::fuzzing;
use sota_testkit::replay_corpus;

/// So many places of a seed are changed.
const PLACES: usize = 64;

#[test]
fn http1_request() {
    replay_corpus("http1_request", PLACES, fuzzing::fuzz_http1_request);
}

#[test]
fn http1_response() {
    replay_corpus("http1_response", PLACES, fuzzing::fuzz_http1_response);
}

#[test]
fn chunked() {
    replay_corpus("chunked", PLACES, fuzzing::fuzz_chunked);
}

#[test]
fn client_hello() {
    replay_corpus("client_hello", PLACES, fuzzing::fuzz_client_hello);
}

#[test]
fn proxy_protocol() {
    replay_corpus("proxy_protocol", PLACES, fuzzing::fuzz_proxy_protocol);
}

#[test]
fn http_inspect() {
    replay_corpus("http_inspect", PLACES, fuzzing::fuzz_http_inspect);
}

#[test]
fn hpack() {
    replay_corpus("hpack", PLACES, fuzzing::fuzz_hpack);
}

#[test]
fn http2() {
    replay_corpus("http2", PLACES, fuzzing::fuzz_http2);
}

#[test]
fn zmtp() {
    replay_corpus("zmtp", PLACES, fuzzing::fuzz_zmtp);
}

#[test]
fn resp() {
    replay_corpus("resp", PLACES, fuzzing::fuzz_resp);
}
