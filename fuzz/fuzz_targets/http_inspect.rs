//! The first bytes of a connection, looked at for HTTP.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_codec::fuzzing::fuzz_http_inspect(data));
