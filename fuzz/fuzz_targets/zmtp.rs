//! What a ZeroMQ peer sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_codec::fuzzing::fuzz_zmtp(data));
