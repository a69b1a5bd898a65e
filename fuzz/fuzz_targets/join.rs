//! See `viproute::fuzzing::join`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| viproute::fuzzing::join(data));
