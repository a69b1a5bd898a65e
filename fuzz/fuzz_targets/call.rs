//! See `viproute::fuzzing::call`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| viproute::fuzzing::call(data));
