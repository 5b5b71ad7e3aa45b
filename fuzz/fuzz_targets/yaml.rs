//! A configuration document as YAML or JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_envoy::fuzzing::fuzz_yaml(data));
