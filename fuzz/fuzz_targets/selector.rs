//! Fuzzes a selector of metrics.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rollback_tests::parsers::selector(bytes);
});
