//! Fuzzes entries that are offered in a push.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rollback_tests::parsers::offer(bytes);
});
