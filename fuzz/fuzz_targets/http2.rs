//! What the other end of an HTTP/2 connection sends, in either role.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_codec::fuzzing::fuzz_http2(data));
