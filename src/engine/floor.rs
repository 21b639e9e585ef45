//! The floor: the oldest version that may be activated, because what is older is known to be dangerous.
//!
//! | versions | order |
//! |---|---|
//! | `2.4.0`, `2.10.0` | by number, part for part; what is missing counts as 0 |
//! | `2.4.0-rc1`, `2.4.0` | what follows a `-` makes it older: it came before |
//! | `v2.4.0` | as `2.4.0` |
//! | `main`, none | no order: it cannot be shown to be above the floor |

use std::cmp::Ordering;

use crate::model::ids::Version;

/// Tells whether a release with this version is at or above the floor.
#[must_use]
pub fn is_above(version: Option<&Version>, floor: &Version) -> bool {
    match (version.and_then(|version| Parsed::of(version.as_str())), Parsed::of(floor.as_str())) {
        (Some(version), Some(floor)) => version.cmp(&floor).is_ge(),
        (None, _) | (_, None) => false,
    }
}

/// Tells whether a text can be a floor: it begins with a number.
#[must_use]
pub fn is_floor(floor: &Version) -> bool {
    Parsed::of(floor.as_str()).is_some()
}

/// A version as numbers, and whether it came before the one of these numbers.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    numbers: Vec<u64>,
    is_before: bool,
}

impl Parsed {
    fn of(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        // What follows a `+` names a build of the same version.
        let text = text.split('+').next().unwrap_or(text);
        let (release, is_before) = match text.split_once(['-', '~']) {
            Some((release, _)) => (release, true),
            None => (text, false),
        };
        let numbers = release.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u64>>>()?;
        Some(Self { numbers, is_before })
    }

    fn cmp(&self, other: &Self) -> Ordering {
        let parts = self.numbers.len().max(other.numbers.len());
        let padded = |parsed: &Self| {
            let mut numbers = parsed.numbers.clone();
            numbers.resize(parts, 0);
            numbers
        };
        padded(self).cmp(&padded(other)).then(other.is_before.cmp(&self.is_before))
    }
}
