//! A stream of HTTP/1 responses; the first octet says to what.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_codec::fuzzing::fuzz_http1_response(data));
