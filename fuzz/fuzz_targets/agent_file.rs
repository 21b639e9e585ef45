//! Fuzzes `agent.toml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rollback_tests::parsers::agent_file(bytes);
});
