//! See `viproute::fuzzing::link`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| viproute::fuzzing::link(data));
