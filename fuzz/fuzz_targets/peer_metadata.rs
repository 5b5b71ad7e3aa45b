//! The metadata that sidecars send to each other.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_extensions::fuzzing::fuzz_peer_metadata(data));
