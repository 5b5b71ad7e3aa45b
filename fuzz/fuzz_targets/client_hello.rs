//! The first bytes of a TLS connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_codec::fuzzing::fuzz_client_hello(data));
