//! A document checked against the message table.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_envoy::fuzzing::fuzz_check(data));
