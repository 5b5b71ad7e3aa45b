//! Compressed bodies.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_extensions::fuzzing::fuzz_decompress(data));
