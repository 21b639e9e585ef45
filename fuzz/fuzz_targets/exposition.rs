//! Fuzzes a page of metrics.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rollback_tests::parsers::exposition(bytes);
});
