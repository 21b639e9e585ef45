//! The hash chain of the history: one pure function, and the layout that it hashes.

use jiff::Timestamp;
use rollback::model::digest::Digest;

/// Names the layout that [`digest`] hashes; another layout gets another name.
const RECORD_CONTEXT: &str = "rollback 2026-11 history record v1";

/// The digest before the first record.
pub(crate) const GENESIS: Digest = Digest::from_bytes([0; 32]);

/// Digests one record with its place: BLAKE3 in key-derivation mode over these parts, in this order.
///
/// 1. the digest of the record before it, 32 bytes, zeros for the first;
/// 2. the sequence number, 8 bytes, little endian;
/// 3. the length of the time as 8 bytes, little endian, and the time as [`time_text`] writes it;
/// 4. the length of the body as 8 bytes, little endian, and the record as JSON, byte for byte as it is stored.
///
/// Every part has a fixed length or is preceded by its length, so that no two different records have the same input.
#[must_use]
pub fn digest(previous: &Digest, sequence: u64, at: &str, body: &str) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(RECORD_CONTEXT);
    hasher.update(previous.as_bytes());
    hasher.update(&sequence.to_le_bytes());
    for text in [at, body] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

/// Writes a time as the history stores it: RFC 3339 in UTC with nine digits, so that texts sort as the times do.
#[must_use]
pub fn time_text(at: Timestamp) -> String {
    format!("{at:.9}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_record_changes_its_digest() {
        let base = digest(&GENESIS, 1, "a", "bc");
        for other in [
            digest(&Digest::of(b"x"), 1, "a", "bc"),
            digest(&GENESIS, 2, "a", "bc"),
            digest(&GENESIS, 1, "ab", "c"),
            digest(&GENESIS, 1, "", "abc"),
            digest(&GENESIS, 1, "a", "bd"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn times_have_nine_digits_and_come_back() {
        for nanos in [0, 1, 1_700_000_000_120_000_000_i128] {
            let at = Timestamp::from_nanosecond(nanos).expect("in range");
            assert_eq!(time_text(at).len(), "2026-01-01T00:00:00.000000000Z".len());
            assert_eq!(time_text(at).parse::<Timestamp>().expect("RFC 3339"), at);
        }
    }
}
