//! A configuration file in any dialect, through all of loading.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_envoy::fuzzing::fuzz_load(data));
