//! Fuzzes a file of `components.d`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rollback_tests::parsers::component_file(bytes);
});
