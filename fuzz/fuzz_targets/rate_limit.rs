//! What a rate-limit service answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_extensions::fuzzing::fuzz_rate_limit(data));
