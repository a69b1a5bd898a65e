//! See `viproute::fuzzing::batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| viproute::fuzzing::batch(data));
