//! The first bytes of a connection behind a proxy.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_codec::fuzzing::fuzz_proxy_protocol(data));
