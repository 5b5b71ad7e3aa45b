//! What the cookies of sessions hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sota_extensions::fuzzing::fuzz_session_cookie(data));
