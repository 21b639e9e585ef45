//! Fuzzes a saved plan.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rollback_tests::parsers::plan_file(bytes);
});
