//! Ages, sizes and durations as people read them.

use jiff::Timestamp;
use rollback::model::host::ObservedRelease;
use rollback::model::release::Integrity;

/// Says how long ago something was: `12s`, `5m`, `3h`, `9d`.
#[must_use]
pub fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Says a size in binary units: `512 B`, `1.5 MiB`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "one digit after the point is all that is shown")]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Says a duration of microseconds: `340 µs`, `4.6 ms`, `2.10 s`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "two digits after the point are all that is shown")]
pub fn duration(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1_000.0),
        _ => format!("{:.2} s", micros as f64 / 1_000_000.0),
    }
}

/// Says the standing of a release in a few words, the worst first.
#[must_use]
pub fn standing(release: &ObservedRelease) -> String {
    let mut words = Vec::new();
    match &release.integrity {
        Integrity::Intact { .. } => {}
        Integrity::Damaged { .. } => words.push("DAMAGED"),
        Integrity::Unknown { .. } => words.push("UNKNOWN"),
    }
    if release.quarantine.is_some() {
        words.push("quarantined");
    }
    words.push(if release.good_since.is_some() { "good" } else { "never verified" });
    if release.pinned {
        words.push("pinned");
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(size(512), "512 B");
        assert_eq!(size(1_572_864), "1.5 MiB");
        assert_eq!(duration(340), "340 µs");
        assert_eq!(duration(4_600), "4.6 ms");
        assert_eq!(duration(2_100_000), "2.10 s");
        let now = Timestamp::from_second(1_000_000).expect("in range");
        let ago = |seconds: i64| Timestamp::from_second(1_000_000 - seconds).expect("in range");
        assert_eq!(age(ago(59), now), "59s");
        assert_eq!(age(ago(3_599), now), "59m");
        assert_eq!(age(ago(400_000), now), "4d");
    }
}
