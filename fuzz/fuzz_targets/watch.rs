//! See `viproute::fuzzing::watch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| viproute::fuzzing::watch(data));
