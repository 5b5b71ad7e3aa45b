//! What a Redis client or server sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_codec::fuzzing::fuzz_resp(data));
