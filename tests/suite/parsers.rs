//! Parsers of outside input, fed with arbitrary bytes and with seeds that were tampered with: what CI can of `fuzz/`.

#![expect(clippy::disallowed_methods, reason = "this suite reads the seeds")]

use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use rollback_tests::parsers::TARGETS;

/// Inputs per target and kind: all targets together stay within seconds in a debug build.
const CASES: u32 = 512;
/// Longest arbitrary input; longer ones find nothing that a mutated seed does not.
const BYTES_MAX: usize = 512;
/// Most changes to one seed: few enough that much of it stays valid.
const CHANGES_MAX: usize = 8;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").join("fuzz")
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = fuzz().join("seeds").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| std::fs::read(entry.expect("a readable entry").path()).expect("a readable seed")).collect()
}

/// One change to an input.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, Index),
    Repeat(Index, Index),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = |index: &Index| index.index(bytes.len() + 1);
        match self {
            Self::Set(index, byte) if !bytes.is_empty() => {
                let at = index.index(bytes.len());
                bytes[at] = *byte;
            }
            Self::Set(_, byte) => bytes.push(*byte),
            Self::Insert(index, new) => {
                let at = at(index);
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Remove(one, other) => {
                let (one, other) = (at(one), at(other));
                bytes.drain(one.min(other)..one.max(other));
            }
            Self::Repeat(one, other) => {
                let (one, other) = (at(one), at(other));
                bytes.extend_from_within(one.min(other)..one.max(other));
            }
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    // Bytes that mean something in TOML, JSON and URIs come often; any other comes too.
    let telling = prop::sample::select(b"\"'\\\n\0 .,:;=/?&%#{}[]-_0129eEaz\xff\x7f".as_slice());
    let byte = prop_oneof![telling, any::<u8>()].boxed();
    let change = prop_oneof![
        (any::<Index>(), byte.clone()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), vec(byte, 1..16)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Change::Remove(one, other)),
        (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Change::Repeat(one, other)),
    ];
    vec(change, 1..=CHANGES_MAX)
}

fn runner() -> TestRunner {
    TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() })
}

#[test]
fn every_seed_is_accepted() {
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seed");
        for seed in seeds {
            assert!(target(&seed), "{name} does not accept {:?}", String::from_utf8_lossy(&seed));
        }
    }
}

#[test]
fn arbitrary_bytes_are_answered() {
    for (name, target) in TARGETS {
        let bytes = vec(any::<u8>(), 0..BYTES_MAX);
        let outcome = runner().run(&bytes, |bytes| {
            target(&bytes);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn tampered_seeds_are_answered() {
    for (name, target) in TARGETS {
        let cases = (prop::sample::select(seeds(name)), changes());
        let outcome = runner().run(&cases, |(mut bytes, changes)| {
            changes.iter().for_each(|change| change.apply(&mut bytes));
            target(&bytes);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn every_target_is_a_fuzz_target_and_the_other_way_round() {
    let folder = fuzz().join("fuzz_targets");
    let entries = std::fs::read_dir(&folder).expect("the fuzz targets");
    let mut files: Vec<String> = entries
        .map(|entry| entry.expect("a readable entry").path())
        .map(|path| path.file_stem().and_then(|stem| stem.to_str()).expect("a name in UTF-8").to_owned())
        .collect();
    let mut names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    files.sort();
    names.sort_unstable();
    assert_eq!(files, names);
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).expect("the manifest of fuzz/");
    for name in names {
        let text = std::fs::read_to_string(folder.join(format!("{name}.rs"))).expect("a target");
        assert!(text.contains(&format!("parsers::{name}(bytes)")), "{name}.rs does not call its parser");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml does not name {name}");
    }
}
