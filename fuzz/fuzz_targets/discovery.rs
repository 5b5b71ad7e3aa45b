//! A configuration document as protobuf bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_envoy::fuzzing::fuzz_discovery(data));
