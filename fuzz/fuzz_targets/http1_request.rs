//! A stream of HTTP/1 requests, bodies and all.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_codec::fuzzing::fuzz_http1_request(data));
