//! Fuzzes names and identifiers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rollback_tests::parsers::name(bytes);
});
