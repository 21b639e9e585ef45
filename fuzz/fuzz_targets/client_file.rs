//! Fuzzes the configuration file of `rbctl`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rollback_tests::parsers::client_file(bytes);
});
