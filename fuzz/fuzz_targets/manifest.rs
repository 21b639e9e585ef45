//! Fuzzes a manifest in the state directory.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rollback_tests::parsers::manifest(bytes);
});
