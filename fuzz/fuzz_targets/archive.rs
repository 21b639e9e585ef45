//! Fuzzes archives that are to be pushed.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rollback_tests::parsers::archive(bytes);
});
